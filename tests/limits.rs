//! Timeouts, the escalation, an agent that stays after its result, and no wakeups while nothing happens.

use crate::harness::{
    End, Fifo, Proc, Pty, World, children, eventually, on_path, possible, state, voluntary_switches,
};

fn stay(world: &World, options: &[&str], specs: &[&str]) -> (Proc, Fifo) {
    let (process, out, _) = stay_with_pid(world, options, specs);
    (process, out)
}

/// As [`stay`], with the agent's pid.
fn stay_with_pid(world: &World, options: &[&str], specs: &[&str]) -> (Proc, Fifo, i32) {
    let mut out = world.fifo("stay");
    let argv = ["probe", "stay", &out.path()];
    let process = world.run(argv).options(options.iter().copied()).with(specs).own_group().start();
    let agent = out.pid("stay");
    (process, out, agent)
}

#[test]
fn a_timeout_ends_the_agent_and_exits_with_124() {
    let Some(world) = World::of_bookend("a_timeout_ends_the_agent_and_exits_with_124") else {
        return;
    };
    let (process, mut out) = stay(&world, &["--timeout", "200ms"], &[]);
    let said = process.wait().ended(End::Code(124)).stderr;
    let warning = "bookend: warning: the run timed out after 200ms (--timeout): bookend stops the agent with \
                   SIGTERM\n";
    assert_eq!(said, warning);
    assert!(out.rest().is_empty(), "the agent exited");
    let row = world.row();
    assert_eq!(row.ending(), "cancelled/timeout");
    assert_eq!(row.number("term_signal"), Some(15), "SIGTERM came first");
    assert_eq!(row.number("stop_sender_pid"), None, "no process sent it");
}

#[test]
fn an_agent_that_ignores_sigterm_is_killed_after_the_grace() {
    let Some(world) = World::of_bookend("an_agent_that_ignores_sigterm_is_killed_after_the_grace") else {
        return;
    };
    let options = ["--timeout", "100ms", "--grace", "100ms"];
    let (process, _out) = stay(&world, &options, &["ignore=15"]);
    process.wait().ended(End::Code(124));
    assert_eq!(world.row().ending(), "cancelled/timeout");
    assert_eq!(world.row().number("term_signal"), Some(9));
}

#[test]
fn a_signal_is_escalated_to_sigterm_and_sigkill() {
    let Some(world) = World::of_bookend("a_signal_is_escalated_to_sigterm_and_sigkill") else {
        return;
    };
    let (process, _out) = stay(&world, &["--grace", "100ms"], &["ignore=15"]);
    world.send(process.pid(), [15]);
    // The caller ignores SIGTERM: bookend forwards it, but does not escalate it.
    world.send(process.pid(), [12]);
    process.wait().ended(End::Signal(12));

    let mut out = world.fifo("deaf");
    let script = format!("trap '' HUP TERM; exec probe stay {}", out.path());
    let process = world.run_sh(&script).options(["--grace", "100ms"]).own_group().start();
    out.pid("stay");
    world.send(process.pid(), [1]);
    process.wait().ended(End::Signal(9));
    let row = world.rows().pop().expect("a row");
    assert_eq!(row.ending(), "interrupted/signal");
    assert_eq!(row.number("stop_signal"), Some(1));
}

#[test]
fn an_idle_timeout_without_captured_output_is_a_usage_error() {
    let Some(world) = World::of_bookend("an_idle_timeout_without_captured_output_is_a_usage_error") else {
        return;
    };
    let effect = world.name("effect");
    let output = world.run(["touch", &effect]).options(["--idle-timeout", "1s"]).run();
    let output = output.ended(End::Code(2));
    assert!(output.stderr.contains("idle-timeout"), "{}", output.stderr);
    assert!(!world.path("effect").exists(), "the agent ran");
}

const INIT: &str = r#"{"type":"system","subtype":"init","session_id":"$id","model":"claude-x"}"#;
const RESULT: &str = concat!(
    r#"{"type":"result","subtype":"success","is_error":false,"result":"$text","num_turns":1,"#,
    r#""session_id":"$id","total_cost_usd":0.5,"usage":{"input_tokens":3,"output_tokens":4}}"#
);

/// A `claude` that runs `script`, in which `init` and `result` print those events.
fn claude(world: &World, script: &str) {
    let text = format!(
        "#!/bin/sh\nid=0197a6a0-0000-4000-8000-00000000abcd\n\
         init() {{ cat <<end\n{INIT}\nend\n}}\n\
         result() {{ text=$1; cat <<end\n{RESULT}\nend\n}}\n{script}\n"
    );
    world.program("claude", &text);
}

const STREAM: [&str; 6] = ["claude", "-p", "--output-format", "stream-json", "--verbose", "do it"];

/// Runs a `claude` that does `first` and then prints nothing, until the idle timeout ends it. Returns the
/// fifo that it held open.
fn runs_into_idle_timeout_after(world: &World, first: &str) -> Fifo {
    let mut out = world.fifo("stay");
    claude(world, &format!("{first}exec probe stay {}", out.path()));
    let process = world.run(STREAM).options(["--idle-timeout", "300ms"]).own_group().start();
    out.pid("stay");
    process.wait().ended(End::Code(124));
    assert_eq!(world.row().ending(), "cancelled/idle_timeout");
    out
}

#[test]
fn an_idle_timeout_counts_from_the_last_output() {
    let Some(world) = World::of_bookend("an_idle_timeout_counts_from_the_last_output") else {
        return;
    };
    let mut out = runs_into_idle_timeout_after(&world, "init; ");
    assert!(out.rest().is_empty(), "the agent exited");
}

#[test]
fn an_idle_timeout_ends_an_agent_that_prints_nothing() {
    let Some(world) = World::of_bookend("an_idle_timeout_ends_an_agent_that_prints_nothing") else {
        return;
    };
    runs_into_idle_timeout_after(&world, "");
}

/// The run takes longer than the limit, but no pause between outputs does.
#[test]
fn each_output_restarts_the_idle_timeout() {
    let Some(world) = World::of_bookend("each_output_restarts_the_idle_timeout") else {
        return;
    };
    claude(&world, "init; sleep 1.6; init; sleep 1.6; result done");
    world.run(STREAM).options(["--idle-timeout", "3s"]).own_group().run().ended(End::Code(0)).silent();
    assert_eq!(world.row().ending(), "success/");
}

/// An interactive program may handle Ctrl-C itself, so bookend never escalates it.
#[test]
fn ctrl_c_starts_no_escalation_for_an_interactive_agent() {
    let Some(world) = World::of_bookend("ctrl_c_starts_no_escalation_for_an_interactive_agent") else {
        return;
    };
    let mut out = world.fifo("count");
    let argv = ["probe", "count", &out.path()];
    let process = world.run(argv).options(["--grace", "100ms"]).own_group().start();
    let agent = out.pid("ready");
    for signal in [2, 3] {
        world.send(-process.pid(), [signal]);
        assert!(out.line().starts_with(&format!("{signal} ")));
    }
    world.bare(["sleep", "0.3"]).run().ended(End::Code(0));
    world.send(process.pid(), ["64:77"]);
    let line = out.line();
    assert!(line.starts_with("64 77"), "no escalation: {line}");
    world.send(agent, ["64:1000"]);
    process.wait().ended(End::Code(0)).silent();
    assert_eq!(world.row().ending(), "success/", "the agent exited later with 0");
}

#[test]
fn an_agent_that_stays_after_its_result_is_ended_as_success() {
    let Some(world) = World::of_bookend("an_agent_that_stays_after_its_result_is_ended_as_success") else {
        return;
    };
    let mut out = world.fifo("stay");
    claude(&world, &format!("init; result done; exec probe stay {}", out.path()));
    let process = world.run(STREAM).options(["--grace", "200ms"]).own_group().start();
    out.pid("stay");
    let output = process.wait();
    assert!(output.stdout.contains("\"result\":\"done\""), "{}", output.stdout);
    assert!(out.rest().is_empty(), "the agent exited");
    let row = world.row();
    assert_eq!(row.ending(), "success/");
    assert_eq!(row.real("cost_usd"), Some(0.5));
}

#[test]
fn the_last_result_counts() {
    let Some(world) = World::of_bookend("the_last_result_counts") else {
        return;
    };
    let bad = RESULT.replace("\"is_error\":false", "\"is_error\":true").replace("$text", "no");
    claude(&world, &format!("init; result first; init; cat <<end\n{bad}\nend\nexit 1"));
    world.run(STREAM).run().ended(End::Code(1));
    assert_eq!(world.row().ending(), "failure/agent_error");

    claude(&world, &format!("init; cat <<end\n{bad}\nend\ninit; result second"));
    world.run(STREAM).run().ended(End::Code(0));
    assert_eq!(world.rows()[1].ending(), "success/");
}

#[test]
fn a_timeout_pauses_while_the_agent_is_stopped() {
    let test = "a_timeout_pauses_while_the_agent_is_stopped";
    if !possible(test, on_path("bash"), "bash") {
        return;
    }
    let Some(world) = World::of_bookend(test) else {
        return;
    };
    let mut pty = Pty::bash(&world);
    let mut out = world.fifo("stay");
    pty.line(&format!("bookend run --timeout 600ms -- probe stay {}", out.path()));
    let agent = out.pid("stay");
    pty.send("\x1a");
    assert_eq!(pty.prompt(), 148);
    pty.line("sleep 0.8");
    assert_eq!(pty.prompt(), 0);
    pty.line("fg");
    eventually(world.deadline(), "the agent to continue", || state(agent) == Some('S'));
    pty.send("\x03");
    assert_eq!(pty.prompt(), 130, "not 124, the code of a timeout");
}

#[test]
fn a_timeout_continues_when_the_agent_is_continued() {
    let test = "a_timeout_continues_when_the_agent_is_continued";
    if !possible(test, on_path("bash"), "bash") {
        return;
    }
    let Some(world) = World::of_bookend(test) else {
        return;
    };
    let mut pty = Pty::bash(&world);
    let mut out = world.fifo("stay");
    pty.line(&format!("bookend run --timeout 600ms -- probe stay {}", out.path()));
    out.pid("stay");
    pty.send("\x1a");
    assert_eq!(pty.prompt(), 148);
    pty.line("fg");
    assert_eq!(pty.prompt(), 124);
    assert!(out.rest().is_empty(), "the agent exited");
    assert_eq!(world.row().ending(), "cancelled/timeout");
}

/// A stopped process handles no signal but SIGKILL, so bookend continues it.
#[test]
fn a_stopped_agent_is_continued_by_the_escalation() {
    let Some(world) = World::of_bookend("a_stopped_agent_is_continued_by_the_escalation") else {
        return;
    };
    let (process, _out, agent) = stay_with_pid(&world, &["--grace", "300ms"], &[]);
    world.send(agent, [19]);
    eventually(world.deadline(), "the agent to stop", || state(agent) == Some('T'));
    world.send(process.pid(), [1]);
    process.wait().ended(End::Signal(1));
    assert_eq!(world.row().ending(), "interrupted/signal");
}

/// The reader of bookend's stdout has exited. bookend drains a captured claude instead of ending it.
#[test]
fn a_broken_pipe_of_bookend_sends_no_signal_to_the_agent() {
    let Some(world) = World::of_bookend("a_broken_pipe_of_bookend_sends_no_signal_to_the_agent") else {
        return;
    };
    let (mut out, mut go) = (world.fifo("count"), world.fifo("go"));
    let other = "0197a6a0-0000-4000-8000-00000000beef";
    let script = format!("init; read x <{}; id={other}; init; exec probe count {}", go.path(), out.path());
    claude(&world, &script);
    let mut process = world.run(STREAM).own_group().start();
    assert!(process.line().contains("init"));
    process.close_stdout();
    go.write_line("now");
    let agent = out.pid("ready");
    let is_read = || world.row().text("session_id") == other;
    eventually(world.deadline(), "the later output to be read", is_read);
    // The kernel would deliver a lower signal, such as SIGPIPE, before 64.
    world.send(process.pid(), ["64:77"]);
    let line = out.line();
    assert!(line.starts_with("64 77"), "{line}");
    world.send(agent, ["64:1000"]);
    process.wait().ended(End::Code(0));
    assert_eq!(world.row().ending(), "failure/no_result");
}

/// How often the processes of bookend wake up within 0.6 s.
fn wake_ups(world: &World, process: &Proc, agent: i32) -> u64 {
    let count = || {
        let helpers = children(process.pid()).into_iter().filter(|c| *c != agent);
        helpers.chain([process.pid()]).map(voluntary_switches).sum::<u64>()
    };
    let mut last = count();
    eventually(world.deadline(), "bookend to sleep", || {
        let before = std::mem::replace(&mut last, count());
        state(process.pid()) == Some('S') && before == last
    });
    let pause = |seconds: &str| world.bare(["sleep", seconds]).run().ended(End::Code(0));
    // bookend records partial usage within a second.
    pause("1.1");
    let before = count();
    pause("0.6");
    count() - before
}

#[test]
fn bookend_does_not_wake_up_while_the_agent_is_silent() {
    let Some(world) = World::of_bookend("bookend_does_not_wake_up_while_the_agent_is_silent") else {
        return;
    };
    let mut out = world.fifo("stay");
    let process = world.run(["probe", "stay", &out.path()]).own_group().start();
    let agent = out.pid("stay");
    assert_eq!(wake_ups(&world, &process, agent), 0);
}

#[test]
fn bookend_does_not_wake_up_while_a_captured_agent_is_silent() {
    let Some(world) = World::of_bookend("bookend_does_not_wake_up_while_a_captured_agent_is_silent") else {
        return;
    };
    let mut out = world.fifo("stay");
    claude(&world, &format!("init; exec probe stay {}", out.path()));
    let process = world.run(STREAM).own_group().start();
    let agent = out.pid("stay");
    assert_eq!(wake_ups(&world, &process, agent), 0);
}

/// bookend reads the output of leftover processes for at most ten seconds.
#[test]
fn a_leftover_process_that_writes_without_end_does_not_block_the_exit() {
    let Some(world) = World::of_bookend("a_leftover_process_that_writes_without_end_does_not_block_the_exit")
    else {
        return;
    };
    claude(&world, "init; for n in 1 2 3 4; do yes & done; sleep 0.1; result done");
    let script = "exec $W claude -p --output-format stream-json --verbose x >/dev/null 2>&1";
    let process = world.bare(["sh", "-c", script]).env("BOOKEND_LEFTOVERS", "end").own_group().start();
    process.wait().ended(End::Code(0));
    let took = world.row().number("duration_ms").expect("a duration");
    assert!(took < 20_000, "the limit is ten seconds: {took} ms");
}

/// A process that outlives the agent does not restart the idle timer.
#[test]
fn output_after_the_agents_exit_does_not_start_the_idle_timer() {
    let Some(world) = World::of_bookend("output_after_the_agents_exit_does_not_start_the_idle_timer") else {
        return;
    };
    let (mut after, mut begun, mut go) = (world.fifo("after"), world.fifo("begun"), world.fifo("go"));
    let late = format!(
        "(while kill -0 $$ 2>/dev/null; do :; done; echo x; echo after 1 >{}; exec probe stay {}) &",
        after.path(),
        world.fifo("stay").path()
    );
    claude(&world, &format!("init; result done; {late} exit 0"));
    let hook = format!("echo begun 1 >{}; read x <{}", begun.path(), go.path());
    let options = ["--idle-timeout", "1500ms", "--on-finish", &hook];
    let process = world.run(STREAM).options(options).own_group().start();
    after.pid("after");
    begun.pid("begun");
    // A time and not an event: the timer must not expire, and bookend must use no CPU time, in this period.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    let used: u64 = [14, 15]
        .map(|f| crate::harness::stat_field(process.pid(), f).and_then(|n| n.parse().ok()).unwrap_or(0u64))
        .iter()
        .sum();
    go.write_line("now");
    process.wait().ended(End::Code(0));
    assert!(used < 50, "bookend used {used} ticks of CPU time");
}

#[test]
fn very_long_limits_never_expire() {
    let Some(world) = World::of_bookend("very_long_limits_never_expire") else {
        return;
    };
    let ever = u64::MAX.to_string();
    let options = ["--timeout", &ever, "--grace", &ever];
    let (process, _out) = stay(&world, &options, &[]);
    world.send(process.pid(), [15]);
    process.wait().ended(End::Signal(15)).silent();
    assert_eq!(world.row().ending(), "interrupted/signal");
}

/// Another process holds the write lock of the ledger; output is passed on meanwhile.
#[test]
fn a_locked_ledger_does_not_delay_the_agents_output() {
    let Some(world) = World::of_bookend("a_locked_ledger_does_not_delay_the_agents_output") else {
        return;
    };
    let (mut go, more) = (world.fifo("go"), world.fifo("more"));
    let event = concat!(
        r#"{"type":"assistant","message":{"id":"m","model":"claude-x","content":[],"#,
        r#""usage":{"input_tokens":7,"output_tokens":8}},"session_id":"$id"}"#
    );
    let script = format!(
        "init; read x <{}; cat <<end\n{event}\nend\nsleep 0.2; echo more; read x <{}; result done",
        go.path(),
        more.path()
    );
    claude(&world, &script);
    let mut process = world.run(STREAM).options(["--ledger", &world.name("l.db")]).own_group().start();
    assert!(process.line().contains("init"));
    let other = rusqlite::Connection::open(world.path("l.db")).expect("the ledger");
    other.busy_timeout(std::time::Duration::from_secs(10)).expect("a timeout");
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    go.write_line("now");
    assert!(process.line().contains("assistant"));
    let asked = std::time::Instant::now();
    assert_eq!(process.line(), "more");
    assert!(asked.elapsed() < std::time::Duration::from_secs(5), "{:?}", asked.elapsed());
    let tokens = || world.sql_of("l.db", "SELECT input_tokens FROM task_history")[0].number("input_tokens");
    assert_eq!(tokens(), None);
    drop(other);
    eventually(world.deadline(), "the usage in the ledger", || tokens() == Some(7));
    let mut more = more;
    more.write_line("now");
    process.wait().ended(End::Code(0));
}
