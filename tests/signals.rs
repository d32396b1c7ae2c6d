//! Every signal that can be caught reaches the agent exactly once, from any sender and for any target.

use rustix::process::Signal;

use crate::harness::{End, Fifo, Proc, Row, World, Wrapper, children, eventually, group, pending, state};

/// The signals that ask a run to stop, and how its task then ends.
pub const STOPS: [(i32, &str); 4] = [
    (15, "interrupted/signal"),
    (1, "interrupted/signal"),
    (2, "cancelled/operator"),
    (3, "cancelled/operator"),
];

/// Waits for the end of a run, asserts that its agent `touch effect` never ran, and returns the row.
pub fn stopped_before_its_agent_ran(world: &World, run: Proc, signal: i32, ending: &str) -> Row {
    run.wait().ended(End::Signal(signal));
    assert!(!world.path("effect").exists(), "the agent ran");
    let row = world.rows().pop().expect("a row");
    assert_eq!(row.ending(), ending);
    assert_eq!(row.number("stop_signal"), Some(signal.into()));
    row
}

/// All signals except SIGKILL and SIGSTOP, SIGCHLD (the supervisor's own) and SIGCONT (tested with stops).
fn catchable() -> impl Iterator<Item = i32> {
    (1..=64).filter(|s| ![9, 17, 18, 19].contains(s))
}

/// An agent that reports each signal, in its own process group.
struct CountingAgent {
    out: Fifo,
    process: Proc,
    agent: i32,
}

impl CountingAgent {
    fn start(world: &World) -> CountingAgent {
        let mut out = world.fifo("count");
        let process = world.run(["probe", "count", &out.path()]).own_group().start();
        let agent = out.pid("ready");
        CountingAgent { out, process, agent }
    }

    /// The number of the next signal, and its value.
    fn next(&mut self) -> (i32, i32) {
        let line = self.out.line();
        let mut words = line.split(' ').map(|w| w.parse().expect("a number"));
        (words.next().expect("a signal"), words.next().expect("a value"))
    }

    /// Asserts that no other signal is pending: the kernel delivers signal 64 after every other one.
    fn fence(&mut self, world: &World) {
        world.send(self.process.pid(), ["64:77"]);
        assert_eq!(self.next(), (64, 77), "no other signal was pending");
    }

    fn end(self, world: &World) {
        world.send(self.agent, ["64:1005"]);
        self.process.wait().ended(End::Code(5)).silent();
    }
}

#[test]
fn each_signal_to_the_supervisor_arrives_once() {
    let world = World::new();
    let mut agent = CountingAgent::start(&world);
    for signal in catchable() {
        world.send(agent.process.pid(), [signal]);
        assert_eq!(agent.next().0, signal);
    }
    agent.fence(&world);
    agent.end(&world);
}

#[test]
fn each_queued_signal_arrives_once_with_its_value() {
    let world = World::new();
    let mut agent = CountingAgent::start(&world);
    for signal in catchable() {
        world.send(agent.process.pid(), [format!("{signal}:{}", signal + 500)]);
        assert_eq!(agent.next(), (signal, signal + 500));
    }
    agent.fence(&world);
    agent.end(&world);
}

#[test]
fn real_time_signals_all_arrive_in_order() {
    let world = World::new();
    let mut agent = CountingAgent::start(&world);
    let sent: Vec<(i32, i32)> = (1..=100).map(|n| (40, n)).collect();
    world.send(agent.process.pid(), sent.iter().map(|(s, v)| format!("{s}:{v}")));
    let seen: Vec<(i32, i32)> = sent.iter().map(|_| agent.next()).collect();
    assert_eq!(seen, sent);
    agent.fence(&world);
    agent.end(&world);
}

#[test]
fn each_signal_to_the_whole_group_arrives_once() {
    let world = World::new();
    let mut agent = CountingAgent::start(&world);
    for signal in catchable() {
        world.send(-agent.process.pid(), [signal]);
        assert_eq!(agent.next().0, signal);
    }
    agent.fence(&world);
    agent.end(&world);
}

/// Real-time signals are queued, not merged, so a duplicate would be seen.
#[test]
fn real_time_signals_to_the_whole_group_arrive_once_each() {
    let world = World::new();
    let mut agent = CountingAgent::start(&world);
    for _ in 1..=20 {
        world.send(-agent.process.pid(), ["41"]);
        assert_eq!(agent.next().0, 41);
    }
    agent.fence(&world);
    agent.end(&world);
}

/// The stopped supervisor receives the three signals merged into one. They must not suppress a later signal
/// that is sent to the supervisor alone.
#[test]
fn merged_group_signals_do_not_suppress_a_later_signal() {
    let Some(world) = World::of_bookend("merged_group_signals_do_not_suppress_a_later_signal") else {
        return;
    };
    let mut agent = CountingAgent::start(&world);
    let supervisor = agent.process.pid();
    let helper = children(supervisor).into_iter().find(|c| *c != agent.agent).expect("the sentinel");
    world.send(supervisor, [19]);
    eventually(world.deadline(), "the supervisor to stop", || state(supervisor) == Some('T'));
    for _ in 0..3 {
        world.send(-supervisor, [10]);
        assert_eq!(agent.next().0, 10);
        let was_received = || pending(helper) == 0 && state(helper) == Some('S');
        eventually(world.deadline(), "the sentinel to receive the signal", was_received);
    }
    world.send(supervisor, [18]);
    assert_eq!(agent.next().0, 18);
    world.send(supervisor, [10]);
    assert_eq!(agent.next().0, 10);
    agent.fence(&world);
    agent.end(&world);
}

#[test]
fn each_signal_to_the_agent_itself_arrives_once() {
    let world = World::new();
    let mut agent = CountingAgent::start(&world);
    for signal in catchable() {
        world.send(agent.agent, [signal]);
        assert_eq!(agent.next().0, signal);
    }
    agent.fence(&world);
    agent.end(&world);
}

#[test]
fn an_agent_in_its_own_group_receives_signals_sent_to_the_callers_group() {
    let world = World::new();
    if world.wrapper != Wrapper::Bookend {
        return;
    }
    let mut out = world.fifo("count");
    let argv = ["probe", "with", "setpgid", "--", "probe", "count", &out.path()];
    let process = world.run(argv).own_group().start();
    let agent = out.pid("ready");
    let mut agent = CountingAgent { out, process, agent };
    for signal in catchable() {
        world.send(-agent.process.pid(), [signal]);
        assert_eq!(agent.next().0, signal);
    }
    agent.fence(&world);
    agent.end(&world);
}

#[test]
fn sigcont_arrives_once_from_any_target() {
    let world = World::new();
    let mut agent = CountingAgent::start(&world);
    let job = agent.process.pid();
    for to in [job, -job, agent.agent] {
        world.send(to, [libc::SIGCONT]);
        assert_eq!(agent.next().0, libc::SIGCONT);
        agent.fence(&world);
    }
    agent.end(&world);
}

/// The agent is the sender, so bookend does not forward the signal to it.
#[test]
fn signals_from_the_agent_to_its_parent_are_not_forwarded_back() {
    let Some(world) = World::of_bookend("signals_from_the_agent_to_its_parent_are_not_forwarded_back") else {
        return;
    };
    let mut out = world.fifo("count");
    let script = format!("kill -USR1 $PPID; kill -INT $PPID; exec probe count {}", out.path());
    let process = world.run_sh(&script).with(["mask=2,10"]).own_group().start();
    let agent = out.pid("ready");
    let mut agent = CountingAgent { out, process, agent };
    agent.fence(&world);
    agent.end(&world);
    assert_eq!(world.row().ending(), "failure/exit", "the signal is not recorded as a stop");
}

#[test]
fn bookend_dies_by_the_signal_that_it_forwarded() {
    let world = World::new();
    for signal in [1, 2, 3, 10, 15, 34] {
        let mut out = world.fifo(&format!("stay{signal}"));
        let agent = world.run(["probe", "stay", &out.path()]).own_group().start();
        out.pid("stay");
        world.send(agent.pid(), [signal]);
        agent.wait().ended(End::Signal(signal)).silent();
    }
}

/// The signal and the agent's exit are both pending when the supervisor continues: it reads the signal first.
#[test]
fn a_stop_signal_to_the_group_is_recorded_as_the_cause() {
    let Some(world) = World::of_bookend("a_stop_signal_to_the_group_is_recorded_as_the_cause") else {
        return;
    };
    for (signal, ending) in STOPS {
        let mut out = world.fifo(&format!("stay{signal}"));
        let process = world.run(["probe", "stay", &out.path()]).own_group().start();
        let agent = out.pid("stay");
        world.send(process.pid(), [19]);
        eventually(world.deadline(), "the supervisor to stop", || state(process.pid()) == Some('T'));
        world.send(-process.pid(), [signal]);
        eventually(world.deadline(), "the agent to exit", || state(agent) == Some('Z'));
        world.send(process.pid(), [18]);
        process.wait().ended(End::Signal(signal));
        assert_eq!(world.rows().pop().expect("a row").ending(), ending);
    }
}

/// `kill $!` in a script: sender and supervisor are in one group.
#[test]
fn a_script_can_signal_the_job_that_it_started() {
    let world = World::new();
    let mut out = world.fifo("stay");
    let script = format!("$W probe stay {} & read x; kill -USR1 $!; wait $!", out.path());
    let mut shell = world.bare(["sh", "-c", &script]).own_group().piped_input().start();
    out.pid("stay");
    shell.stdin = None;
    shell.wait().ended(End::Code(128 + 10));
}

/// `kill 0` in a script signals the script itself, so bookend does not forward the signal again.
#[test]
fn a_signal_from_the_agent_to_its_own_group_arrives_once() {
    let world = World::new();
    let script = "n=0; trap 'n=$((n+1))' USR1; kill -USR1 0; kill -USR1 0; \
                  n=0; kill -USR1 0; probe exit 0; probe exit 0; exit $n";
    world.run_sh(script).own_group().run().ended(End::Code(1));
}

#[test]
fn sighup_under_nohup_stays_ignored_and_is_not_recorded_as_a_cause() {
    let world = World::new();
    let mut out = world.fifo("stay");
    let agent = world.run(["probe", "stay", &out.path()]).with(["ignore=1"]).own_group().start();
    out.pid("stay");
    world.send(agent.pid(), ["1"]);
    world.send(-agent.pid(), ["1"]);
    world.send(agent.pid(), ["12"]);
    let supervised = agent.supervised();
    agent.wait().ended(End::Signal(12));
    if supervised && world.wrapper == Wrapper::Bookend {
        assert_eq!(world.row().ending(), "failure/signal");
    }
}

#[test]
fn a_signal_during_prepare_reaches_the_agent() {
    let Some(world) = World::of_bookend("a_signal_during_prepare_reaches_the_agent") else {
        return;
    };
    let (mut begun, mut go) = (world.fifo("begun"), world.fifo("go"));
    let mut out = world.fifo("count");
    let prepare = format!("echo begun 1 >{}; read x <{}", begun.path(), go.path());
    let process = world
        .run(["probe", "count", &out.path()])
        .options(["--prepare", &prepare])
        // The agent inherits the mask, so the signals stay pending until the probe reads them.
        .with(["mask=10,12,28,32,33,40,64"])
        .own_group()
        .start();
    begun.pid("begun");
    world.send(process.pid(), ["10", "12:5", "28", "32", "33", "40:1", "40:2"]);
    go.write_line("now");
    let agent = out.pid("ready");
    let seen: Vec<String> =
        (0..7).map(|_| out.line()).map(|l| l.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(seen, ["10 0", "12 5", "28 0", "32 0", "33 0", "40 1", "40 2"]);
    world.send(agent, ["64:1000"]);
    process.wait().ended(End::Code(0)).silent();
}

#[test]
fn a_stop_signal_before_exec_ends_the_task_without_running_the_agent() {
    let Some(world) = World::of_bookend("a_stop_signal_before_exec_ends_the_task_without_running_the_agent")
    else {
        return;
    };
    for (signal, ending) in STOPS {
        let mut begun = world.fifo(&format!("begun{signal}"));
        let go = world.fifo(&format!("go{signal}"));
        let prepare = format!("echo begun 1 >{}; read x <{}", begun.path(), go.path());
        let effect = world.name("effect");
        let process = world.run(["touch", &effect]).options(["--prepare", &prepare]).own_group().start();
        begun.pid("begun");
        world.send(process.pid(), [signal]);
        stopped_before_its_agent_ran(&world, process, signal, ending);
    }
}

#[test]
fn the_row_names_the_signal_and_its_sender() {
    let Some(world) = World::of_bookend("the_row_names_the_signal_and_its_sender") else {
        return;
    };
    for (n, (signal, ending)) in [
        (Signal::TERM, "interrupted/signal"),
        (Signal::HUP, "interrupted/signal"),
        (Signal::INT, "cancelled/operator"),
        (Signal::QUIT, "cancelled/operator"),
    ]
    .into_iter()
    .enumerate()
    {
        let mut out = world.fifo(&format!("stay{n}"));
        let agent = world.run(["probe", "stay", &out.path()]).own_group().start();
        out.pid("stay");
        agent.signal(signal);
        agent.wait().ended(End::Signal(signal.as_raw()));
        let row = &world.rows()[n];
        assert_eq!(row.ending(), ending);
        assert_eq!(row.number("stop_signal"), Some(signal.as_raw().into()));
        assert_eq!(row.number("term_signal"), Some(signal.as_raw().into()));
        assert_eq!(row.pid("stop_sender_pid"), std::process::id() as i32);
        let uid = rustix::process::geteuid().as_raw();
        assert_eq!(row.number("stop_sender_uid"), Some(uid.into()));
    }
}

#[test]
fn killing_the_supervisor_sends_sigterm_to_the_agent() {
    let Some(world) = World::of_bookend("killing_the_supervisor_sends_sigterm_to_the_agent") else {
        return;
    };
    let mut out = world.fifo("out");
    let script = format!(
        "trap 'echo term >{out}; exit' TERM; echo ready 1 >{out}; while :; do read x <{never}; done",
        out = out.path(),
        never = world.fifo("never").path()
    );
    let supervisor = world.run_sh(&script).own_group().start();
    out.pid("ready");
    supervisor.signal(Signal::KILL);
    assert_eq!(out.line(), "term");
    supervisor.wait().ended(End::Signal(9));
    assert_eq!(world.row().text("status"), "running", "the row stays running until recover");
}

/// No helper process of bookend outlives the supervisor.
#[test]
fn a_killed_supervisor_leaves_no_process_in_its_group() {
    let Some(world) = World::of_bookend("a_killed_supervisor_leaves_no_process_in_its_group") else {
        return;
    };
    let mut out = world.fifo("stay");
    let supervisor = world.run(["probe", "stay", &out.path()]).own_group().start();
    out.pid("stay");
    let job = supervisor.pid();
    supervisor.signal(Signal::KILL);
    supervisor.wait().ended(End::Signal(9));
    assert!(out.rest().is_empty(), "SIGTERM ended the agent");
    eventually(world.deadline(), "the group to become empty", || group(job).is_empty());
}

#[test]
fn an_agent_does_not_run_if_its_supervisor_is_killed_at_the_gate() {
    let Some(world) = World::of_bookend("an_agent_does_not_run_if_its_supervisor_is_killed_at_the_gate")
    else {
        return;
    };
    let (mut begun, mut go) = (world.fifo("begun"), world.fifo("go"));
    let prepare = format!("echo begun 1 >{}; read x <{}", begun.path(), go.path());
    let effect = world.name("effect");
    let supervisor = world.run(["touch", &effect]).options(["--prepare", &prepare]).own_group().start();
    begun.pid("begun");
    let job = supervisor.pid();
    supervisor.signal(Signal::KILL);
    supervisor.wait().ended(End::Signal(9));
    go.write_line("now");
    eventually(world.deadline(), "the group to become empty", || group(job).is_empty());
    assert!(!world.path("effect").exists(), "the agent ran");
}

#[test]
fn the_parent_death_signal_is_sent_only_when_the_supervisor_dies() {
    let Some(world) = World::of_bookend("the_parent_death_signal_is_sent_only_when_the_supervisor_dies")
    else {
        return;
    };
    // The caller exits and the supervisor stays: the agent receives no signal.
    let mut out = world.fifo("count");
    let script = format!("$W probe count {} & exit 0", out.path());
    world.bare(["sh", "-c", &script]).own_group().run().ended(End::Code(0));
    let agent = out.pid("ready");
    let supervisor: i32 =
        crate::harness::stat_field(agent, 4).and_then(|p| p.parse().ok()).expect("a parent");
    world.send(supervisor, ["64:5"]);
    assert!(out.line().starts_with("64 5"), "no SIGTERM preceded it");
    world.send(agent, ["64:1000"]);
    eventually(world.deadline(), "the agent to exit", || children(supervisor).is_empty());
}

/// An agent that handles SIGTSTP continues to run, and so does bookend.
#[test]
fn a_stop_signal_that_the_agent_handles_does_not_stop_bookend() {
    let world = World::new();
    let mut run = CountingAgent::start(&world);
    let job = run.process.pid();
    for signal in [20, 21, 22] {
        world.send(job, [signal]);
        assert_eq!(run.next().0, signal);
        world.send(job, ["64:7"]);
        assert_eq!(run.next(), (64, 7), "bookend still forwards");
    }
    world.send(run.agent, ["64:1003"]);
    run.process.wait().ended(End::Code(3)).silent();
}

#[test]
fn timeout_1_works_as_with_the_bare_command() {
    let world = World::new();
    let output = world.bare(["sh", "-c", "exec timeout 0.1 $W sleep 60"]).run();
    output.ended(End::Code(124)).silent();
}

#[test]
fn a_full_stderr_does_not_delay_the_row_or_signals() {
    let Some(world) = World::of_bookend("a_full_stderr_does_not_delay_the_row_or_signals") else { return };
    let mut up = world.fifo("up");
    let mut stderr = world.fifo("stderr");
    stderr.fill_up();
    let script = format!("echo ready $$ >{}; exec sleep 1000", up.path());
    let line = format!("exec bookend run -vv -- sh -c '{script}' 2>{}", stderr.path());
    let run = world.bare(["sh", "-c", &line]).start();
    up.pid("ready");
    assert_eq!(world.row().text("status"), "running");
    run.signal(Signal::TERM);
    run.wait().ended(End::Signal(15));
    assert_eq!(world.row().ending(), "interrupted/signal");
    drop(stderr);
}
