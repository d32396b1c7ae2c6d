//! The status and reason of a task: from the agent's exit, its result and the signals that stopped it.

use rustix::process::Signal;

use crate::harness::{End, Fifo, Proc, Row, STREAM, World};

const ID: &str = "0197a6a0-0000-4000-8000-00000000abcd";

fn last(world: &World) -> Row {
    world.rows().pop().expect("a row")
}

#[test]
fn the_exit_code_and_the_result_decide_the_status() {
    let Some(world) = World::of_bookend("the_exit_code_and_the_result_decide_the_status") else { return };
    for (script, end, ending) in [
        ("init $id; result $id 1", End::Code(0), "success/"),
        ("init $id; result $id 1; exit 3", End::Code(3), "failure/exit"),
        ("init $id; result $id 1; kill -9 $$", End::Signal(9), "failure/signal"),
        ("init $id; failed $id", End::Code(0), "failure/agent_error"),
        ("init $id; failed $id; exit 1", End::Code(1), "failure/agent_error"),
        ("init $id; failed $id; init $id; result $id 1", End::Code(0), "success/"),
        ("init $id; result $id 1; init $id; failed $id", End::Code(0), "failure/agent_error"),
        ("init $id; result $id 1; init $id; turn $id m 1 1", End::Code(0), "failure/no_result"),
        ("init $id", End::Code(0), "failure/no_result"),
        ("", End::Code(0), "failure/no_result"),
        ("init $id; exit 143", End::Code(143), "failure/exit"),
        ("init $id; kill -15 $$", End::Signal(15), "failure/signal"),
    ] {
        world.claude(script);
        world.run(STREAM).run().ended(end);
        let row = last(&world);
        assert_eq!(row.ending(), ending, "{script}");
        let error = if ending == "failure/agent_error" { "no luck" } else { "" };
        assert_eq!(row.text("error"), error, "{script}");
    }
}

/// A run whose agent waits.
struct WaitingRun {
    process: Proc,
    up: Fifo,
}

/// Starts a `claude` that runs `script`, in which `WAIT` reports the start and waits for a signal.
fn begin(world: &World, argv: &[&str], options: &[&str], script: &str) -> WaitingRun {
    let n = world.argvs().len();
    let mut up = world.fifo(&format!("up{n}"));
    let never = world.fifo(&format!("never{n}"));
    let up_path = up.path();
    let wait = format!("echo up $$ >{up_path}; while :; do read x <{}; done", never.path());
    world.claude(&format!("up() {{ echo up $$ >{up_path}; }}\n{}", script.replace("WAIT", &wait)));
    let process = world.run(argv.iter().copied()).options(options.iter().copied()).own_group().start();
    up.pid("up");
    WaitingRun { process, up }
}

const TEXT: [&str; 3] = ["claude", "-p", "hi"];

#[test]
fn a_stop_signal_to_the_supervisor_decides_the_status_for_any_exit_code() {
    let Some(world) =
        World::of_bookend("a_stop_signal_to_the_supervisor_decides_the_status_for_any_exit_code")
    else {
        return;
    };
    for (signal, name, ending) in [
        (Signal::TERM, "TERM", "interrupted/signal"),
        (Signal::HUP, "HUP", "interrupted/signal"),
        (Signal::INT, "INT", "cancelled/operator"),
        (Signal::QUIT, "QUIT", "cancelled/operator"),
    ] {
        for argv in [&STREAM[..], &TEXT] {
            for code in [0, 1, 143] {
                let begun = begin(&world, argv, &[], &format!("trap 'exit {code}' {name}; WAIT"));
                begun.process.signal(signal);
                begun.process.wait().ended(End::Code(code));
                let row = last(&world);
                assert_eq!(row.ending(), ending, "{name}, exit {code}, {argv:?}");
                assert_eq!(row.number("stop_signal"), Some(signal.as_raw().into()));
                assert_eq!(row.pid("stop_sender_pid"), std::process::id() as i32);
                let uid = rustix::process::geteuid().as_raw();
                assert_eq!(row.number("stop_sender_uid"), Some(uid.into()));
                assert_eq!(row.number("exit_code"), Some(code.into()));
            }
        }
    }
}

#[test]
fn on_term_cancelled_records_sigterm_as_a_cancellation() {
    let Some(world) = World::of_bookend("on_term_cancelled_records_sigterm_as_a_cancellation") else {
        return;
    };
    for signal in [Signal::TERM, Signal::HUP] {
        let begun = begin(&world, &TEXT, &["--on-term", "cancelled"], "WAIT");
        begun.process.signal(signal);
        begun.process.wait().ended(End::Signal(signal.as_raw()));
        assert_eq!(last(&world).ending(), "cancelled/operator");
    }
}

#[test]
fn a_stop_after_the_result_keeps_success_if_the_agent_exits_with_0() {
    let Some(world) = World::of_bookend("a_stop_after_the_result_keeps_success_if_the_agent_exits_with_0")
    else {
        return;
    };
    let success = format!("init {ID}; result {ID} 0.5");
    for (output, exit, ending) in [
        (success.as_str(), 0, "success/"),
        (success.as_str(), 143, "interrupted/signal"),
        ("init $id; failed $id", 1, "failure/agent_error"),
    ] {
        let begun =
            begin(&world, &STREAM, &[], &format!("trap 'exit {exit}' TERM; {output}; echo end; WAIT"));
        let mut process = begun.process;
        // The result was passed on, so it precedes the stop.
        process.wait_for_output(b"end\n");
        process.signal(Signal::TERM);
        process.wait().ended(End::Code(exit));
        assert_eq!(last(&world).ending(), ending);
    }
}

#[test]
fn a_result_printed_after_a_stop_signal_is_not_a_success() {
    let Some(world) = World::of_bookend("a_result_printed_after_a_stop_signal_is_not_a_success") else {
        return;
    };
    let script = format!("trap 'result {ID} 0.5; exit 0' INT TERM; init {ID}; WAIT");
    for (signal, ending) in [(Signal::INT, "cancelled/operator"), (Signal::TERM, "interrupted/signal")] {
        let begun = begin(&world, &STREAM, &[], &script);
        begun.process.signal(signal);
        begun.process.wait().ended(End::Code(0));
        let row = last(&world);
        assert_eq!(row.ending(), ending);
        assert_eq!(row.real("cost_usd"), Some(0.5), "the cost is recorded");
    }
}

/// A program may handle Ctrl-C and continue.
#[test]
fn a_sigint_that_the_agent_handled_is_not_the_cause_after_the_grace() {
    let Some(world) = World::of_bookend("a_sigint_that_the_agent_handled_is_not_the_cause_after_the_grace")
    else {
        return;
    };
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let script = "trap 'used=1; echo up $$ >../up' INT; echo up $$ >../up\n\
                  while [ -z \"$used\" ]; do read x <../go; done\n\
                  until read x <../go; do :; done; exit 0";
    world.stand_in("tool", script);
    for (grace, ending) in [("0s", "success/"), ("1h", "cancelled/operator")] {
        let process = world.run(["tool"]).options(["--grace", grace]).own_group().start();
        up.pid("up");
        process.signal(Signal::INT);
        up.pid("up");
        go.write_line("on");
        go.write_line("on");
        process.wait().ended(End::Code(0));
        let row = last(&world);
        assert_eq!((row.ending(), row.number("stop_signal")), (ending.into(), Some(2)), "{grace}");
    }
}

#[test]
fn an_ignored_sighup_is_not_recorded_as_a_cause() {
    let Some(world) = World::of_bookend("an_ignored_sighup_is_not_recorded_as_a_cause") else { return };
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    world.claude("init $id; echo up $$ >../up; read x <../go; result $id 0.5");
    let process = world.run(STREAM).with(["ignore=1"]).own_group().start();
    up.pid("up");
    process.signal(Signal::HUP);
    go.write_line("on");
    process.wait().ended(End::Code(0)).silent();
    let row = world.row();
    assert_eq!((row.ending(), row.number("stop_signal")), ("success/".into(), None));
}

#[test]
fn a_timeout_decides_the_status_even_if_the_agent_exits_with_0() {
    let Some(world) = World::of_bookend("a_timeout_decides_the_status_even_if_the_agent_exits_with_0") else {
        return;
    };
    for (argv, script) in [
        (&TEXT[..], "trap 'exit 0' TERM; WAIT"),
        (&STREAM, "trap 'init $id; result $id 1; exit 0' TERM; WAIT"),
    ] {
        let begun = begin(&world, argv, &["--timeout", "100ms"], script);
        begun.process.wait().ended(End::Code(124));
        let row = last(&world);
        assert_eq!((row.ending(), row.number("exit_code")), ("cancelled/timeout".into(), Some(0)));
        drop(begun.up);
    }
}

#[test]
fn strict_turns_exit_code_0_into_1_unless_the_row_is_success() {
    let Some(world) = World::of_bookend("strict_turns_exit_code_0_into_1_unless_the_row_is_success") else {
        return;
    };
    for (script, end, ending) in [
        ("init $id; result $id 1", End::Code(0), "success/"),
        ("init $id; failed $id", End::Code(1), "failure/agent_error"),
        ("init $id", End::Code(1), "failure/no_result"),
        ("init $id; failed $id; exit 7", End::Code(7), "failure/agent_error"),
        ("init $id; result $id 1; exit 3", End::Code(3), "failure/exit"),
        ("init $id; kill -15 $$", End::Signal(15), "failure/signal"),
    ] {
        world.claude(script);
        world.run(STREAM).options(["--strict"]).run().ended(end);
        assert_eq!(last(&world).ending(), ending, "{script}");
        world.run(STREAM).env("BOOKEND_STRICT", "1").run().ended(end);
    }
    world.run(["true"]).options(["--strict"]).run().ended(End::Code(0)).silent();
    let bounded = world.run(["sleep", "1000"]).options(["--strict", "--timeout", "10ms"]);
    bounded.run().ended(End::Code(124));
    world.run(["no such program"]).options(["--strict"]).run().ended(End::Code(127));
}

/// Claude Code exits with 0 on Ctrl-C.
#[test]
fn strict_exits_with_1_after_a_cancelled_run() {
    let Some(world) = World::of_bookend("strict_exits_with_1_after_a_cancelled_run") else { return };
    for (signal, name, ending) in
        [(Signal::INT, "INT", "cancelled/operator"), (Signal::TERM, "TERM", "interrupted/signal")]
    {
        for argv in [&STREAM[..], &TEXT] {
            let begun = begin(&world, argv, &["--strict"], &format!("trap 'exit 0' {name}; WAIT"));
            begun.process.signal(signal);
            begun.process.wait().ended(End::Code(1));
            assert_eq!(last(&world).ending(), ending, "{argv:?}");
        }
    }
}

#[test]
fn strict_is_repeated_by_redispatch() {
    let Some(world) = World::of_bookend("strict_is_repeated_by_redispatch") else { return };
    world.claude("init $id; failed $id");
    world.run(STREAM).options(["--strict", "--id", "one"]).run().ended(End::Code(1));
    let again = world.bare(["bookend", "redispatch", "one"]).run();
    assert_eq!(again.end, End::Code(1), "{again:?}");
}

/// A plain command may handle SIGINT itself, see
/// `a_sigint_that_the_agent_handled_is_not_the_cause_after_the_grace`.
#[test]
fn sigint_is_escalated_after_the_grace_for_an_agent_in_print_mode() {
    let Some(world) = World::of_bookend("sigint_is_escalated_after_the_grace_for_an_agent_in_print_mode")
    else {
        return;
    };
    let json = ["claude", "-p", "--output-format", "json", "hi"];
    let wrapped = ["nice", "claude", "-p", "hi"];
    for argv in [&TEXT[..], &json, &STREAM, &wrapped] {
        for (ignored, end) in [("INT", End::Signal(15)), ("INT TERM", End::Signal(9))] {
            let begun = begin(&world, argv, &["--grace", "100ms"], &format!("trap '' {ignored}; WAIT"));
            begun.process.signal(Signal::INT);
            begun.process.wait().ended(end);
            assert_eq!(last(&world).ending(), "cancelled/operator", "{argv:?}, {ignored}");
        }
    }
}
