//! Hooks run at least once: if bookend is stopped during a hook, the next recovery runs the hook again.

use std::fs;

use rustix::process::Signal;

use crate::harness::{End, STREAM, World};
use crate::standins::{Busy, bookend, change, gone, json, recover};

/// A hook that reports its pid and sleeps at its first attempt, and records each later attempt.
fn sleeps_at_first_attempt(ready: &str, record: &str) -> String {
    format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) echo ready $$ >{ready}; exec sleep 1000;; esac
         echo $BOOKEND_DELIVERY_ATTEMPT >>{record}"
    )
}

#[test]
fn recover_runs_an_on_finish_command_that_a_stop_signal_ended() {
    let Some(world) = World::of_bookend("recover_runs_an_on_finish_command_that_a_stop_signal_ended") else {
        return;
    };
    for (n, signal) in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT].into_iter().enumerate() {
        let (mut ready, record) = (world.fifo(&format!("ready{n}")), world.name(&format!("record{n}")));
        let hook = sleeps_at_first_attempt(&ready.path(), &record);
        let run = world.run(["true"]).options(["--id", &format!("t{n}"), "--on-finish", &hook]).start();
        let pid = ready.pid("ready");
        run.signal(signal);
        let output = run.wait().ended(End::Code(0));
        gone(&world, pid);
        assert!(!output.stderr.contains("time"), "{}", output.stderr);
        assert!(output.stderr.contains("bookend recover"), "{}", output.stderr);
        let row = world.rows().remove(n);
        assert_eq!((row.ending().as_str(), row.text("delivery_status").as_str()), ("success/", "pending"));
        let report = recover(&world, &[]);
        assert!(report.contains(&format!("--on-finish command of task t{n}: delivered")), "{report}");
        assert_eq!(fs::read_to_string(record).expect("a line"), "2\n");
    }
}

#[test]
fn a_stop_signal_reaches_every_process_of_a_hook() {
    let Some(world) = World::of_bookend("a_stop_signal_reaches_every_process_of_a_hook") else { return };
    let mut ready = world.fifo("ready");
    let hook = format!("(echo ready $(exec sh -c 'echo $PPID') >{}; exec sleep 1000) & wait", ready.path());
    let run = world.run(["true"]).options(["--on-finish", &hook]).start();
    let pid = ready.pid("ready");
    run.signal(Signal::TERM);
    run.wait().ended(End::Code(0));
    gone(&world, pid);
    assert_eq!(world.row().text("delivery_status"), "pending");
}

#[test]
fn a_hook_that_succeeds_despite_a_stop_signal_is_delivered() {
    let Some(world) = World::of_bookend("a_hook_that_succeeds_despite_a_stop_signal_is_delivered") else {
        return;
    };
    let mut ready = world.fifo("ready");
    let hook = format!(
        "trap 'echo report >{}; exit 0' TERM; echo ready $$ >{}; sleep 1000 & wait",
        world.name("record"),
        ready.path()
    );
    let run = world.run(["true"]).options(["--on-finish", &hook]).start();
    ready.pid("ready");
    run.signal(Signal::TERM);
    run.wait().ended(End::Code(0));
    assert_eq!(world.row().text("delivery_status"), "delivered");
    assert_eq!(fs::read_to_string(world.path("record")).expect("a line"), "report\n");
}

#[test]
fn recover_runs_an_on_finish_command_that_a_stop_signal_prevented() {
    let Some(world) = World::of_bookend("recover_runs_an_on_finish_command_that_a_stop_signal_prevented")
    else {
        return;
    };
    let mut out = world.fifo("out");
    // The leftover process ignores SIGTERM, so the run waits for the grace period.
    let script = format!("probe daemon -- probe with setsid ignore=15 -- probe stay {}; exit 3", out.path());
    let hook = format!("echo report >>{}", world.name("record"));
    let run = world.run_sh(&script).options(["--grace", "3s", "--on-finish", &hook]).start();
    out.pid("stay");
    let ended = || world.rows().first().is_some_and(|r| r.ending() == "failure/exit");
    crate::harness::eventually(world.deadline(), "the ending in the ledger", ended);
    run.signal(Signal::TERM);
    run.wait().ended(End::Code(3));
    assert_eq!(world.row().text("delivery_status"), "pending");
    recover(&world, &[]);
    assert_eq!(fs::read_to_string(world.path("record")).expect("a line"), "report\n");
}

#[test]
fn the_timeout_of_a_hook_ends_its_whole_process_group() {
    let Some(world) = World::of_bookend("the_timeout_of_a_hook_ends_its_whole_process_group") else { return };
    let mut ready = world.fifo("ready");
    // SIGTERM ends the leader, and its child ignores it.
    let child = format!("trap \"\" TERM; echo ready $$ >{}; exec sleep 1000", ready.path());
    let hook = format!("sh -c '{child}' & wait");
    let options = ["--hook-timeout", "1s", "--on-finish", &hook];
    let output = world.run(["true"]).options(options).run().ended(End::Code(0));
    gone(&world, ready.pid("ready"));
    assert!(output.stderr.contains("did not exit within 1s (--hook-timeout)"), "{}", output.stderr);
    assert_eq!(world.row().text("delivery_status"), "failed");
}

#[test]
fn recovery_uses_the_hook_timeout_of_the_task() {
    let Some(world) = World::of_bookend("recovery_uses_the_hook_timeout_of_the_task") else { return };
    let mut ready = world.fifo("ready");
    let hook = format!("echo ready $$ >{}; exec sleep 1000", ready.path());
    let run = world.run(["true"]).env("BOOKEND_HOOK_TIMEOUT", "1s").options(["--on-finish", &hook]).start();
    ready.pid("ready");
    run.signal(Signal::KILL);
    run.wait();
    let report = bookend(&world, &["recover"]).ended(End::Code(0));
    assert!(report.stderr.contains("did not exit within 1s"), "{report:?}");
    assert_eq!(world.row().text("delivery_status"), "failed");
    let error = "did not exit within 1s (--hook-timeout) and was killed";
    assert_eq!(world.row().text("delivery_error"), error);
}

#[test]
fn a_hook_that_a_stop_signal_to_recover_ended_runs_again() {
    let Some(world) = World::of_bookend("a_hook_that_a_stop_signal_to_recover_ended_runs_again") else {
        return;
    };
    let (mut ready, record) = (world.fifo("ready"), world.name("record"));
    let hook = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in [12]) echo ready $$ >{}; exec sleep 1000;; esac
         echo x >>{record}",
        ready.path()
    );
    let run = world.run(["true"]).options(["--on-finish", &hook]).start();
    ready.pid("ready");
    run.signal(Signal::KILL);
    run.wait();
    let recovery = world.bare(["bookend", "recover"]).start();
    let pid = ready.pid("ready");
    recovery.signal(Signal::TERM);
    recovery.wait().ended(End::Signal(15));
    gone(&world, pid);
    assert_eq!(world.row().text("delivery_status"), "pending");
    recover(&world, &[]);
    assert_eq!(fs::read_to_string(record).expect("a line"), "x\n");
}

#[test]
fn two_recover_commands_after_a_reboot_run_a_hook_once() {
    let Some(world) = World::of_bookend("two_recover_commands_after_a_reboot_run_a_hook_once") else {
        return;
    };
    let (mut ready, mut go) = (world.fifo("ready"), world.fifo("go"));
    let hook = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) exit 3;; esac; echo x >>{}; echo ready $$ >{}; read x <{}",
        world.name("record"),
        ready.path(),
        go.path()
    );
    world.run(["true"]).options(["--on-finish", &hook]).run();
    // As after a reboot: the live file has another device and the boot id differs.
    change(
        &world,
        "UPDATE task_history SET delivery_status = 'delivering', boot_id = 'before',
             live_dev = live_dev + 1, live_ino = live_ino + 1",
    );
    let first = world.bare(["bookend", "recover"]).start();
    ready.pid("ready");
    let second = world.bare(["bookend", "recover"]).start();
    let report = second.wait().ended(End::Code(0)).stdout;
    assert!(report.contains("nothing to settle"), "{report}");
    go.write_line("now");
    first.wait().ended(End::Code(0));
    assert_eq!(fs::read_to_string(world.path("record")).expect("a line"), "x\n");
    assert_eq!(world.row().text("delivery_status"), "delivered");
}

#[test]
fn a_report_is_repeated_after_recover_was_killed() {
    let Some(world) = World::of_bookend("a_report_is_repeated_after_recover_was_killed") else { return };
    let (mut ready, record) = (world.fifo("ready"), world.name("record"));
    Busy::sleep(&world, "one").kill_all();
    let stays = format!("echo ready $$ >{}; exec sleep 1000", ready.path());
    let recording = format!("echo $BOOKEND_FINISHED_TASK >>{record}");
    let recovery = world.bare(["bookend", "recover", "--on-interrupted", &stays]).start();
    ready.pid("ready");
    recovery.signal(Signal::KILL);
    recovery.wait();
    let report = recover(&world, &["--on-interrupted", &recording]);
    assert!(report.contains("task one interrupted"), "{report}");
    assert_eq!(fs::read_to_string(record).expect("a line"), "one\n");
    assert!(recover(&world, &["--on-interrupted", &recording]).contains("nothing to settle"));
}

#[test]
fn an_on_interrupted_command_that_kills_recovery_is_started_three_times() {
    let Some(world) =
        World::of_bookend("an_on_interrupted_command_that_kills_recovery_is_started_three_times")
    else {
        return;
    };
    Busy::sleep(&world, "one").kill_all();
    let hook = format!("echo x >>{}; kill -9 $PPID", world.name("record"));
    for _ in 0..3 {
        bookend(&world, &["recover", "--on-interrupted", &hook]).ended(End::Signal(9));
    }
    let report = bookend(&world, &["recover", "--on-interrupted", &hook]).ended(End::Code(1)).stdout;
    assert!(report.contains("was interrupted 3 times") && report.contains("not run again"), "{report}");
    assert_eq!(fs::read_to_string(world.path("record")).expect("lines"), "x\nx\nx\n");
    assert!(recover(&world, &["--on-interrupted", &hook]).contains("nothing to settle"));
}

#[test]
fn a_stop_signal_does_not_use_up_an_attempt_of_on_interrupted() {
    let Some(world) = World::of_bookend("a_stop_signal_does_not_use_up_an_attempt_of_on_interrupted") else {
        return;
    };
    Busy::sleep(&world, "one").kill_all();
    let hook = "kill $PPID; exec sleep 1000";
    for _ in 0..4 {
        bookend(&world, &["recover", "--on-interrupted", hook]).ended(End::Signal(15));
        assert_eq!(world.row().number("hint_attempts"), Some(0));
    }
    assert!(recover(&world, &["--on-interrupted", "true"]).contains("task one interrupted"));
}

#[test]
fn a_report_that_cannot_be_printed_is_printed_by_the_next_recover() {
    let Some(world) = World::of_bookend("a_report_that_cannot_be_printed_is_printed_by_the_next_recover")
    else {
        return;
    };
    for (id, stdout) in [("full", ">/dev/full"), ("closed", ">&-")] {
        for json in ["", "--json"] {
            Busy::sleep(&world, &format!("{id}{json}")).kill_all();
            let printed = world.bare(["sh", "-c", &format!("bookend recover {json} {stdout}")]).run();
            let printed = printed.ended(End::Code(1));
            assert!(printed.stderr.contains("1 interrupted task could not be printed"), "{printed:?}");
            let report = recover(&world, &[]);
            assert!(report.contains(&format!("task {id}{json} interrupted")), "{report}");
            assert!(recover(&world, &[]).contains("nothing to settle"));
        }
    }
}

#[test]
fn deliver_runs_failed_hooks_and_repeats_delivered_ones_on_request() {
    let Some(world) = World::of_bookend("deliver_runs_failed_hooks_and_repeats_delivered_ones_on_request")
    else {
        return;
    };
    let hook = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) exit 3;; esac; cat >/dev/null
         echo $BOOKEND_FINISHED_TASK $BOOKEND_DELIVERY_ATTEMPT >>{}",
        world.name("record")
    );
    for id in ["one", "two"] {
        world.run(["true"]).options(["--id", id, "--on-finish", &hook]).run().ended(End::Code(0));
    }
    let findings = json(&world, &["audit", "--json", "--code", "delivery_failed"])["findings"].clone();
    let fix = findings[0]["fix"].as_str().expect("a fix");
    assert_eq!(fix, format!("bookend deliver --ledger {} one", world.ledger().display()));
    let done = world.bare(["sh", "-c", fix]).run().ended(End::Code(0));
    assert_eq!(done.stdout, "task one: delivered\n");
    assert_eq!(bookend(&world, &["deliver", "--failed"]).ended(End::Code(0)).stdout, "task two: delivered\n");
    assert_eq!(bookend(&world, &["deliver", "--failed"]).ended(End::Code(0)).stdout, "");
    let refused = bookend(&world, &["deliver", "one"]).ended(End::Code(2));
    assert!(
        refused.stderr.contains("delivered already") && refused.stderr.contains("--again"),
        "{refused:?}"
    );
    bookend(&world, &["deliver", "one", "--again"]).ended(End::Code(0));
    assert_eq!(fs::read_to_string(world.path("record")).expect("lines"), "one 2\ntwo 2\none 3\n");
}

#[test]
fn deliver_runs_pending_hooks_but_not_that_of_a_running_supervisor() {
    let Some(world) = World::of_bookend("deliver_runs_pending_hooks_but_not_that_of_a_running_supervisor")
    else {
        return;
    };
    let (mut ready, record) = (world.fifo("ready"), world.name("record"));
    let hook = sleeps_at_first_attempt(&ready.path(), &record);
    let run = world.run(["true"]).options(["--id", "one", "--on-finish", &hook]).start();
    let pid = ready.pid("ready");
    let busy = bookend(&world, &["deliver", "one"]).ended(End::Code(1));
    assert_eq!(busy.stdout, "task one: another process delivers it\n");
    run.signal(Signal::KILL);
    run.wait();
    gone(&world, pid);
    assert_eq!(bookend(&world, &["deliver"]).ended(End::Code(0)).stdout, "task one: delivered\n");
    assert_eq!(fs::read_to_string(record).expect("a line"), "2\n");
    world.run(["true"]).options(["--id", "plain"]).run();
    let refused = bookend(&world, &["deliver", "plain"]).ended(End::Code(2));
    assert!(refused.stderr.contains("without --on-finish"), "{refused:?}");
}

#[test]
fn settle_only_leaves_hooks_and_reports_to_the_next_recover() {
    let Some(world) = World::of_bookend("settle_only_leaves_hooks_and_reports_to_the_next_recover") else {
        return;
    };
    let hook = format!("echo x >>{}", world.name("record"));
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let options = ["--id", "one", "--on-finish", &hook];
    Busy::start(&world, "say", |_| world.run_sh(script).options(options)).kill_all();
    let report = recover(&world, &["--settle-only"]);
    assert!(report.contains("1 task interrupted") && !report.contains("task one interrupted"), "{report}");
    let row = world.row();
    assert_eq!(
        (row.text("status").as_str(), row.text("delivery_status").as_str()),
        ("interrupted", "pending")
    );
    assert!(!world.path("record").exists());
    assert!(recover(&world, &[]).contains("task one interrupted"));
    assert_eq!(fs::read_to_string(world.path("record")).expect("a line"), "x\n");
}

/// Recovery is killed between printing or handing on the report and the commit: the next one repeats it.
#[cfg(feature = "failpoints")]
#[test]
fn recover_repeats_a_report_if_it_was_killed_before_recording_it() {
    let Some(world) = World::of_bookend("recover_repeats_a_report_if_it_was_killed_before_recording_it")
    else {
        return;
    };
    let hook = format!("echo x >>{}", world.name("record"));
    for (id, point, options) in [
        ("printed", "recover.reported", &[][..]),
        ("handing", "recover.handing", &["--on-interrupted", &hook][..]),
        ("handed", "recover.handed", &["--on-interrupted", &hook][..]),
    ] {
        Busy::sleep(&world, id).kill_all();
        let words = ["bookend", "recover"].iter().chain(options).copied();
        let killed = world.bare(words).env("BOOKEND_FAILPOINT", format!("{point}:kill")).run();
        assert!(killed.ended(End::Signal(9)).stdout.contains(&format!("task {id} interrupted")));
        assert!(recover(&world, options).contains(&format!("task {id} interrupted")));
        assert!(recover(&world, options).contains("nothing to settle"));
    }
    assert_eq!(fs::read_to_string(world.path("record")).expect("lines"), "x\nx\nx\n");
}

#[test]
fn recovery_does_not_report_a_hook_delivered_meanwhile_as_failed() {
    let Some(world) = World::of_bookend("recovery_does_not_report_a_hook_delivered_meanwhile_as_failed")
    else {
        return;
    };
    let (mut ready, mut go) = (world.fifo("ready"), world.fifo("go"));
    let waits = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) exit 3;; esac; echo ready $$ >{}; read x <{}",
        ready.path(),
        go.path()
    );
    world.run(["true"]).options(["--id", "first", "--on-finish", &waits]).run();
    world.run(["true"]).options(["--id", "second", "--on-finish", "true"]).run();
    change(&world, "UPDATE task_history SET delivery_status = 'delivering'");
    change(&world, "UPDATE task_history SET delivery_attempts = 3 WHERE id = 'second'");
    let recovery = world.bare(["bookend", "recover"]).start();
    ready.pid("ready");
    bookend(&world, &["deliver", "second"]).ended(End::Code(0));
    go.write_line("now");
    let report = recovery.wait().ended(End::Code(0)).stdout;
    assert!(report.contains("task first: delivered") && !report.contains("second"), "{report}");
    let states: Vec<String> = world.rows().iter().map(|r| r.text("delivery_status")).collect();
    assert_eq!(states, ["delivered", "delivered"]);
}

#[test]
fn the_operator_can_release_a_hook_of_another_pid_namespace() {
    let Some(world) = World::of_bookend("the_operator_can_release_a_hook_of_another_pid_namespace") else {
        return;
    };
    let run = |id: &str| world.run(["true"]).options(["--id", id, "--on-finish", "true"]).run();
    // As after the restart of a container: the same boot, another device and another pid namespace.
    let restart = "UPDATE task_history SET delivery_status = 'delivering', live_dev = live_dev + 1,
                       pid_ns = pid_ns + 1 WHERE delivery_attempts = 1";
    run("young").ended(End::Code(0));
    change(&world, restart);
    let refused = bookend(&world, &["deliver", "young"]).ended(End::Code(1));
    assert!(refused.stdout.contains("cannot be judged from here"), "{refused:?}");
    let report = bookend(&world, &["recover"]).ended(End::Code(1)).stdout;
    let command = report.lines().find_map(|l| l.split("if it has ended: ").nth(1)).expect("a command");
    assert_eq!(world.row().text("delivery_status"), "delivering");
    world.bare(["sh", "-c", command]).run().ended(End::Code(0));
    assert_eq!(world.row().text("delivery_status"), "delivered");

    run("old").ended(End::Code(0));
    change(&world, restart);
    change(&world, "UPDATE task_history SET last_seen_at = '2001-01-01T00:00:00.000Z' WHERE id = 'old'");
    recover(&world, &[]);
    let states: Vec<String> = world.rows().iter().map(|r| r.text("delivery_status")).collect();
    assert_eq!(states, ["delivered", "delivered"]);
}

#[test]
fn the_suggested_command_for_an_ended_hook_names_the_ledger() {
    let Some(world) = World::of_bookend("the_suggested_command_for_an_ended_hook_names_the_ledger") else {
        return;
    };
    let (mut ready, record) = (world.fifo("ready"), world.name("record"));
    let (hook, ledger) = (sleeps_at_first_attempt(&ready.path(), &record), world.name("other/b.db"));
    let words = ["bookend", "run", "--ledger", &ledger, "--on-finish", &hook, "--", "true"];
    let run = world.bare(words).start();
    ready.pid("ready");
    run.signal(Signal::TERM);
    let output = run.wait().ended(End::Code(0));
    let command = output.stderr.split('`').nth(1).expect("a command");
    world.bare(["sh", "-c", command]).run().ended(End::Code(0));
    assert_eq!(fs::read_to_string(record).expect("a line"), "2\n");
}

/// A shell command that prints the facts that a hook gets, `NAME=VALUE`, sorted.
const SHOW_FACTS: &str = "env | grep -a ^BOOKEND_FINISHED_ | grep -v _DURATION_MS= | cut -c18- | sort";

#[test]
fn a_hook_gets_what_is_known_about_the_task_in_its_environment() {
    let Some(world) = World::of_bookend("a_hook_gets_what_is_known_about_the_task_in_its_environment") else {
        return;
    };
    world.claude("init \"$id\"; result \"$id\" 0.25");
    let hook = format!("{SHOW_FACTS} >../facts; [ $BOOKEND_FINISHED_DURATION_MS -ge 0 ]");
    let options = ["--id", "one", "--repo", "a/b", "--issue", "7", "--agent", "dev", "--on-finish", &hook];
    world.run(STREAM).options(options).run().ended(End::Code(0));
    let row = world.row();
    assert_eq!(row.text("delivery_status"), "delivered");
    let facts = fs::read_to_string(world.path("facts")).expect("the facts");
    let session = row.text("session_id");
    let expected = format!(
        "AGENT=dev\nCOST_USD=0.25\nISSUE=7\nKEY=forgejo:dev:a/b:7\nREPO=a/b\nSESSION_ID={session}\n\
         STATUS=success\nTASK=one\n"
    );
    assert_eq!(facts, expected);

    // What is not known is unset, although a hook around this run has it.
    let outer = ["REASON", "KEY", "REPO", "ISSUE", "COST_USD", "SESSION_ID"];
    let run = world.run(["sh", "-c", "exit 3"]).options(["--id", "two", "--on-finish", &hook]);
    let run = outer.iter().fold(run, |run, name| run.env(format!("BOOKEND_FINISHED_{name}"), "outer"));
    run.run().ended(End::Code(3)).silent();
    let facts = fs::read_to_string(world.path("facts")).expect("the facts");
    assert_eq!(facts, "AGENT=sh\nREASON=exit\nSTATUS=failure\nTASK=two\n");
}

#[test]
fn a_run_that_a_hook_starts_takes_over_nothing_of_the_task() {
    let Some(world) = World::of_bookend("a_run_that_a_hook_starts_takes_over_nothing_of_the_task") else {
        return;
    };
    let hook = "bookend run --id inner -- sh -c 'env | grep -a ^BOOKEND_ | cut -d= -f1 | sort' >../agent";
    let options = ["--id", "outer", "--repo", "a/b", "--issue", "7", "--on-finish", hook];
    world.run(["true"]).options(options).run().ended(End::Code(0)).silent();
    let seen = fs::read_to_string(world.path("agent")).expect("what the inner agent sees");
    assert_eq!(seen, "BOOKEND_LEDGER\nBOOKEND_TASK_ID\n");
    let inner = world.rows().into_iter().find(|row| row.text("id") == "inner").expect("the inner run");
    assert_eq!(["key", "repo", "issue_number"].map(|name| inner.text(name)), ["", "", ""]);
}

#[test]
fn on_interrupted_gets_the_facts_of_a_lost_task() {
    let Some(world) = World::of_bookend("on_interrupted_gets_the_facts_of_a_lost_task") else { return };
    Busy::sleep(&world, "one").kill_all();
    recover(&world, &["--on-interrupted", &format!("{SHOW_FACTS} >../facts")]);
    let facts = fs::read_to_string(world.path("facts")).expect("the facts");
    assert!(facts.contains("REASON=supervisor_lost\nSTATUS=interrupted\nTASK=one\n"), "{facts}");
}

#[test]
fn a_fact_that_is_too_long_for_a_variable_is_unset() {
    let Some(world) = World::of_bookend("a_fact_that_is_too_long_for_a_variable_is_unset") else { return };
    let (long, hook) = ("r".repeat(100_000), format!("{SHOW_FACTS} >../facts"));
    world.run(["true"]).options(["--repo", &long, "--on-finish", &hook]).run().ended(End::Code(0));
    assert_eq!(world.row().text("delivery_status"), "delivered");
    let facts = fs::read_to_string(world.path("facts")).expect("the facts");
    assert!(!facts.contains("REPO="), "{} bytes", facts.len());
}
