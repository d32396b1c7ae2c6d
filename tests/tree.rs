//! Agents whose first process does not pass signals on: a stop reaches all of their processes, once each.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{End, Fifo, Proc, World, marked, pause};
use crate::standins::bookend;

/// A launcher that ignores SIGTERM, SIGINT and SIGHUP, and exits with its child.
const PATIENT: &str = "trap : TERM INT HUP USR1
for program in $CHILDREN; do probe with default=2 -- $program & child=$!; done
while kill -0 $child 2>/dev/null; do wait $child; code=$?; done
exit $code";
/// A launcher that dies by the first signal, and its child goes on.
const FRAIL: &str = "probe with default=2 -- $CHILDREN & wait";
/// As [`FRAIL`], with another process in between.
const FRAIL_TWICE: &str = "probe with default=2 -- sh -c 'probe with default=2 -- $CHILDREN & wait' & wait";

/// The real agent: a tool in a session of its own, and an end that takes until the test allows it.
const REAL: &str = r#"#!/bin/sh
probe with setsid default=2 -- probe stay "$TOOL" &
trap 'echo stopping $$ >"$OUT"; read x <"$GO"; echo "{\"type\":\"last\"}"; exit 3' TERM INT HUP
echo up $$ >"$OUT"
while :; do wait; done
"#;

/// The launchers by name, with the option that makes bookend read their output.
const LAUNCHERS: [(&str, &str, &str); 3] =
    [("gemini", "stream-json", PATIENT), ("qwen", "stream-json", FRAIL_TWICE), ("copilot", "json", FRAIL)];

/// A run of a launcher and its real agent, with the tool started.
struct TreeRun {
    out: Fifo,
    go: Fifo,
    tool: Fifo,
    process: Proc,
}

impl TreeRun {
    fn start(world: &World, agent: &str, options: &[&str]) -> TreeRun {
        let (_, format, launcher) = LAUNCHERS.into_iter().find(|l| l.0 == agent).expect("a launcher");
        world.program(agent, &format!("#!/bin/sh\n{launcher}\n"));
        world.program("real", REAL);
        let n = if world.ledger().exists() { world.rows().len() } else { 0 };
        let fifo = |name: &str| world.fifo(&format!("{name}{n}"));
        let (mut out, go, mut tool) = (fifo("out"), fifo("go"), fifo("tool"));
        let process = world
            .run([agent, "-p", "hello", "--output-format", format])
            .options(["--grace", "1h"])
            .options(options.iter().copied())
            .env("CHILDREN", "real")
            .env("OUT", out.path())
            .env("GO", go.path())
            .env("TOOL", tool.path())
            .own_group()
            .start();
        out.pid("up");
        tool.pid("stay");
        TreeRun { out, go, tool, process }
    }

    /// Waits for the real agent to receive the stop, lets it end, and asserts that nothing is left.
    fn ends(mut self, world: &World, ending: &str) {
        self.out.pid("stopping");
        // Longer than bookend reads on after the end of another agent.
        pause(Duration::from_millis(1200));
        self.go.write_line("now");
        let output = self.process.wait();
        assert_eq!(output.stdout, "{\"type\":\"last\"}\n", "{}", output.stderr);
        assert!(!output.stderr.contains("stopped reading"), "{}", output.stderr);
        assert!(self.tool.rest().is_empty(), "the tool has ended");
        assert!(marked(world).is_empty(), "no process is left");
        assert_eq!(world.rows().pop().expect("a row").ending(), ending);
    }
}

#[test]
fn a_stop_reaches_the_real_agent_behind_any_launcher_and_its_last_output_is_read() {
    let Some(world) =
        World::of_bookend("a_stop_reaches_the_real_agent_behind_any_launcher_and_its_last_output_is_read")
    else {
        return;
    };
    for (agent, ..) in LAUNCHERS {
        for (signal, ending) in [(Signal::TERM, "interrupted/signal"), (Signal::INT, "cancelled/operator")] {
            let run = TreeRun::start(&world, agent, &[]);
            run.process.signal(signal);
            run.ends(&world, ending);
        }
    }
}

#[test]
fn timeouts_and_cancel_reach_all_processes_of_an_agent() {
    let Some(world) = World::of_bookend("timeouts_and_cancel_reach_all_processes_of_an_agent") else {
        return;
    };
    TreeRun::start(&world, "gemini", &["--timeout", "1s"]).ends(&world, "cancelled/timeout");
    TreeRun::start(&world, "qwen", &["--idle-timeout", "1s"]).ends(&world, "cancelled/idle_timeout");
    let run = TreeRun::start(&world, "copilot", &["--key", "k"]);
    bookend(&world, &["cancel", "--key", "k", "--wait", "0"]);
    run.ends(&world, "cancelled/operator");
}

#[test]
fn recover_ends_a_launcher_its_agent_and_its_tool_after_a_killed_supervisor() {
    let Some(world) =
        World::of_bookend("recover_ends_a_launcher_its_agent_and_its_tool_after_a_killed_supervisor")
    else {
        return;
    };
    for (agent, ..) in LAUNCHERS {
        let mut run = TreeRun::start(&world, agent, &[]);
        run.process.signal(Signal::KILL);
        run.process.wait().ended(End::Signal(9));
        let recover = world.bare(["bookend", "recover", "--grace", "1h"]).start();
        run.out.pid("stopping");
        run.go.write_line("now");
        recover.wait().ended(End::Code(0));
        assert!(run.tool.rest().is_empty(), "the tool has ended");
        assert!(marked(&world).is_empty());
    }
}

/// A process that reports each signal.
struct CountingProcess {
    out: Fifo,
    pid: i32,
}

impl CountingProcess {
    /// Asserts that it receives these signals and no other: the kernel delivers signal 64 last.
    fn receives(&mut self, world: &World, signals: &[i32]) {
        let mut next = || self.out.line().split(' ').next().map(str::to_owned);
        for signal in signals {
            assert_eq!(next(), Some(signal.to_string()));
        }
        world.send(self.pid, ["64:77"]);
        assert_eq!(next().as_deref(), Some("64"), "no other signal was pending");
    }
}

/// Besides plain processes, one without the task's mark, the agent of a nested run, and one that is to be
/// spared, in this order.
const COUNTING: [(&str, &str); 5] = [
    ("session", "exec probe with setsid -- probe count"),
    ("group", "exec probe count"),
    ("unmarked", "exec env -i DIR=\"$HOME\" \"$PROBE\" with setsid -- \"$PROBE\" count"),
    ("nested", "exec bookend run --grace 1h -- probe count"),
    ("detached", "BOOKEND_DETACHED=1 exec probe with setsid -- probe count"),
];

#[test]
fn each_process_below_a_launcher_receives_a_stop_once_and_other_signals_not_at_all() {
    let Some(world) =
        World::of_bookend("each_process_below_a_launcher_receives_a_stop_once_and_other_signals_not_at_all")
    else {
        return;
    };
    world.program("gemini", &format!("#!/bin/sh\n{PATIENT}\n"));
    let mut outs: Vec<Fifo> = COUNTING.iter().map(|(name, _)| world.fifo(&format!("{name}.out"))).collect();
    for ((name, line), out) in COUNTING.iter().zip(&outs) {
        world.program(name, &format!("#!/bin/sh\n{line} '{}'\n", out.path()));
    }
    let process = world
        .run(["gemini", "-p", "hello", "-o", "stream-json"])
        .options(["--grace", "1h"])
        .env("CHILDREN", COUNTING.map(|(name, _)| name).join(" "))
        .env("PROBE", world.name("bin/probe"))
        .own_group()
        .start();
    let pids: Vec<i32> = outs.iter_mut().map(|out| out.pid("ready")).collect();
    let counting = outs.into_iter().zip(pids).map(|(out, pid)| CountingProcess { out, pid });
    let [mut session, mut group, mut unmarked, mut nested, mut detached] =
        <[CountingProcess; 5]>::try_from(counting.collect::<Vec<_>>()).ok().expect("five");
    world.send(process.pid(), [libc::SIGUSR1, libc::SIGTERM]);
    for process in [&mut session, &mut group, &mut unmarked, &mut nested] {
        process.receives(&world, &[libc::SIGTERM]);
    }
    // One receives it from bookend, the other from the kernel.
    world.send(-process.pid(), [libc::SIGINT]);
    for process in [&mut session, &mut group, &mut unmarked, &mut nested] {
        process.receives(&world, &[libc::SIGINT]);
    }
    detached.receives(&world, &[]);
    for process in [session, group, unmarked, nested, detached] {
        world.send(process.pid, ["64:1000"]);
    }
    process.wait().ended(End::Code(0));
    let endings: Vec<String> = world.rows().iter().map(|row| row.ending()).collect();
    assert_eq!(endings, ["interrupted/signal", "interrupted/signal"], "the run and the nested one");
}
