//! Hooks run at least once: whatever stops bookend meanwhile, the next recovery runs them again.

use std::fs;

use rustix::process::Signal;

use crate::harness::{End, World};
use crate::standins::{Busy, bookend, change, gone, json, recover};

/// A hook that says its pid and stays at its first attempt, and notes each later one.
fn stays_once(ready: &str, noted: &str) -> String {
    format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) echo ready $$ >{ready}; exec sleep 1000;; esac
         echo $BOOKEND_DELIVERY_ATTEMPT >>{noted}"
    )
}

#[test]
fn recover_runs_an_on_finish_command_that_a_stop_signal_ended() {
    let Some(world) = World::of_bookend("recover_runs_an_on_finish_command_that_a_stop_signal_ended") else {
        return;
    };
    for (n, signal) in [Signal::TERM, Signal::HUP, Signal::INT, Signal::QUIT].into_iter().enumerate() {
        let (mut ready, noted) = (world.fifo(&format!("ready{n}")), world.name(&format!("noted{n}")));
        let hook = stays_once(&ready.path(), &noted);
        let run = world.run(["true"]).options(["--id", &format!("t{n}"), "--on-finish", &hook]).start();
        let pid = ready.pid("ready");
        run.signal(signal);
        let output = run.wait().ended(End::Code(0));
        gone(&world, pid);
        assert!(!output.stderr.contains("time"), "{}", output.stderr);
        assert!(output.stderr.contains("bookend recover"), "{}", output.stderr);
        let row = world.rows().remove(n);
        assert_eq!((row.ending().as_str(), row.text("delivery_status").as_str()), ("success/", "pending"));
        let told = recover(&world, &[]);
        assert!(told.contains(&format!("--on-finish command of task t{n}: delivered")), "{told}");
        assert_eq!(fs::read_to_string(noted).expect("a line"), "2\n");
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
        "trap 'echo told >{}; exit 0' TERM; echo ready $$ >{}; sleep 1000 & wait",
        world.name("noted"),
        ready.path()
    );
    let run = world.run(["true"]).options(["--on-finish", &hook]).start();
    ready.pid("ready");
    run.signal(Signal::TERM);
    run.wait().ended(End::Code(0));
    assert_eq!(world.row().text("delivery_status"), "delivered");
    assert_eq!(fs::read_to_string(world.path("noted")).expect("a line"), "told\n");
}

#[test]
fn recover_runs_an_on_finish_command_that_a_stop_signal_prevented() {
    let Some(world) = World::of_bookend("recover_runs_an_on_finish_command_that_a_stop_signal_prevented")
    else {
        return;
    };
    let mut out = world.fifo("out");
    // What the agent leaves behind ignores SIGTERM, so the end of the run waits for its grace.
    let script = format!("probe daemon -- probe with setsid ignore=15 -- probe stay {}; exit 3", out.path());
    let hook = format!("echo told >>{}", world.name("noted"));
    let run = world.run_sh(&script).options(["--grace", "3s", "--on-finish", &hook]).start();
    out.pid("stay");
    let ended = || world.rows().first().is_some_and(|r| r.ending() == "failure/exit");
    crate::harness::eventually(world.deadline(), "the end in the ledger", ended);
    run.signal(Signal::TERM);
    run.wait().ended(End::Code(3));
    assert_eq!(world.row().text("delivery_status"), "pending");
    recover(&world, &[]);
    assert_eq!(fs::read_to_string(world.path("noted")).expect("a line"), "told\n");
}

#[test]
fn the_timeout_of_a_hook_ends_its_whole_process_group() {
    let Some(world) = World::of_bookend("the_timeout_of_a_hook_ends_its_whole_process_group") else { return };
    let mut ready = world.fifo("ready");
    // The leader ends by SIGTERM, its child ignores it.
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
    let told = bookend(&world, &["recover"]).ended(End::Code(0));
    assert!(told.stderr.contains("did not exit within 1s"), "{told:?}");
    assert_eq!(world.row().text("delivery_status"), "failed");
}

#[test]
fn a_hook_that_a_stop_signal_to_recover_ended_runs_again() {
    let Some(world) = World::of_bookend("a_hook_that_a_stop_signal_to_recover_ended_runs_again") else {
        return;
    };
    let (mut ready, noted) = (world.fifo("ready"), world.name("noted"));
    let hook = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in [12]) echo ready $$ >{}; exec sleep 1000;; esac; echo x >>{noted}",
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
    assert_eq!(fs::read_to_string(noted).expect("a line"), "x\n");
}

#[test]
fn two_recover_commands_after_a_reboot_run_a_hook_once() {
    let Some(world) = World::of_bookend("two_recover_commands_after_a_reboot_run_a_hook_once") else {
        return;
    };
    let (mut ready, mut go) = (world.fifo("ready"), world.fifo("go"));
    let hook = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) exit 3;; esac; echo x >>{}; echo ready $$ >{}; read x <{}",
        world.name("noted"),
        ready.path(),
        go.path()
    );
    world.run(["true"]).options(["--on-finish", &hook]).run();
    // The device of the live file and the boot are others since.
    change(
        &world,
        "UPDATE task_history SET delivery_status = 'delivering', boot_id = 'before',
             live_dev = live_dev + 1, live_ino = live_ino + 1",
    );
    let first = world.bare(["bookend", "recover"]).start();
    ready.pid("ready");
    let second = world.bare(["bookend", "recover"]).start();
    let told = second.wait().ended(End::Code(0)).stdout;
    assert!(told.contains("nothing to settle"), "{told}");
    go.write_line("now");
    first.wait().ended(End::Code(0));
    assert_eq!(fs::read_to_string(world.path("noted")).expect("a line"), "x\n");
    assert_eq!(world.row().text("delivery_status"), "delivered");
}

#[test]
fn a_report_is_repeated_after_recover_was_killed() {
    let Some(world) = World::of_bookend("a_report_is_repeated_after_recover_was_killed") else { return };
    let (mut ready, noted) = (world.fifo("ready"), world.name("noted"));
    Busy::sleep(&world, "one").kill_all();
    let stays = format!("echo ready $$ >{}; exec sleep 1000", ready.path());
    let notes = format!("echo $BOOKEND_FINISHED_TASK >>{noted}");
    let recovery = world.bare(["bookend", "recover", "--on-interrupted", &stays]).start();
    ready.pid("ready");
    recovery.signal(Signal::KILL);
    recovery.wait();
    let told = recover(&world, &["--on-interrupted", &notes]);
    assert!(told.contains("task one interrupted"), "{told}");
    assert_eq!(fs::read_to_string(noted).expect("a line"), "one\n");
    assert!(recover(&world, &["--on-interrupted", &notes]).contains("nothing to settle"));
}

#[test]
fn an_on_interrupted_command_that_kills_recovery_is_started_three_times() {
    let Some(world) =
        World::of_bookend("an_on_interrupted_command_that_kills_recovery_is_started_three_times")
    else {
        return;
    };
    Busy::sleep(&world, "one").kill_all();
    let hook = format!("echo x >>{}; kill -9 $PPID", world.name("noted"));
    for _ in 0..3 {
        bookend(&world, &["recover", "--on-interrupted", &hook]).ended(End::Signal(9));
    }
    let told = bookend(&world, &["recover", "--on-interrupted", &hook]).ended(End::Code(1)).stdout;
    assert!(told.contains("was interrupted 3 times") && told.contains("not run again"), "{told}");
    assert_eq!(fs::read_to_string(world.path("noted")).expect("lines"), "x\nx\nx\n");
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
            let said = world.bare(["sh", "-c", &format!("bookend recover {json} {stdout}")]).run();
            let said = said.ended(End::Code(1));
            assert!(said.stderr.contains("1 interrupted task could not be printed"), "{said:?}");
            let told = recover(&world, &[]);
            assert!(told.contains(&format!("task {id}{json} interrupted")), "{told}");
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
        world.name("noted")
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
    assert_eq!(fs::read_to_string(world.path("noted")).expect("lines"), "one 2\ntwo 2\none 3\n");
}

#[test]
fn deliver_runs_pending_hooks_but_not_that_of_a_running_supervisor() {
    let Some(world) = World::of_bookend("deliver_runs_pending_hooks_but_not_that_of_a_running_supervisor")
    else {
        return;
    };
    let (mut ready, noted) = (world.fifo("ready"), world.name("noted"));
    let hook = stays_once(&ready.path(), &noted);
    let run = world.run(["true"]).options(["--id", "one", "--on-finish", &hook]).start();
    let pid = ready.pid("ready");
    let busy = bookend(&world, &["deliver", "one"]).ended(End::Code(1));
    assert_eq!(busy.stdout, "task one: another process delivers it\n");
    run.signal(Signal::KILL);
    run.wait();
    gone(&world, pid);
    assert_eq!(bookend(&world, &["deliver"]).ended(End::Code(0)).stdout, "task one: delivered\n");
    assert_eq!(fs::read_to_string(noted).expect("a line"), "2\n");
    world.run(["true"]).options(["--id", "plain"]).run();
    let refused = bookend(&world, &["deliver", "plain"]).ended(End::Code(2));
    assert!(refused.stderr.contains("without --on-finish"), "{refused:?}");
}

#[test]
fn settle_only_leaves_hooks_and_reports_to_the_next_recover() {
    let Some(world) = World::of_bookend("settle_only_leaves_hooks_and_reports_to_the_next_recover") else {
        return;
    };
    let hook = format!("echo x >>{}", world.name("noted"));
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let options = ["--id", "one", "--on-finish", &hook];
    Busy::start(&world, "say", |_| world.run_sh(script).options(options)).kill_all();
    let told = recover(&world, &["--settle-only"]);
    assert!(told.contains("1 task interrupted") && !told.contains("task one interrupted"), "{told}");
    let row = world.row();
    assert_eq!(
        (row.text("status").as_str(), row.text("delivery_status").as_str()),
        ("interrupted", "pending")
    );
    assert!(!world.path("noted").exists());
    assert!(recover(&world, &[]).contains("task one interrupted"));
    assert_eq!(fs::read_to_string(world.path("noted")).expect("a line"), "x\n");
}

/// Killed between what it prints or hands on and the commit that says so: the report is repeated.
#[cfg(feature = "failpoints")]
#[test]
fn recover_repeats_a_report_if_it_was_killed_before_recording_it() {
    let Some(world) = World::of_bookend("recover_repeats_a_report_if_it_was_killed_before_recording_it")
    else {
        return;
    };
    let hook = format!("echo x >>{}", world.name("noted"));
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
    assert_eq!(fs::read_to_string(world.path("noted")).expect("lines"), "x\nx\nx\n");
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
    let told = recovery.wait().ended(End::Code(0)).stdout;
    assert!(told.contains("task first: delivered") && !told.contains("second"), "{told}");
    let states: Vec<String> = world.rows().iter().map(|r| r.text("delivery_status")).collect();
    assert_eq!(states, ["delivered", "delivered"]);
}

#[test]
fn the_operator_can_release_a_hook_of_another_pid_namespace() {
    let Some(world) = World::of_bookend("the_operator_can_release_a_hook_of_another_pid_namespace") else {
        return;
    };
    let run = |id: &str| world.run(["true"]).options(["--id", id, "--on-finish", "true"]).run();
    // As a restarted container leaves it: the same boot, another device number and another pid namespace.
    let restart = "UPDATE task_history SET delivery_status = 'delivering', live_dev = live_dev + 1,
                       pid_ns = pid_ns + 1 WHERE delivery_attempts = 1";
    run("young").ended(End::Code(0));
    change(&world, restart);
    let refused = bookend(&world, &["deliver", "young"]).ended(End::Code(1));
    assert!(refused.stdout.contains("cannot be judged from here"), "{refused:?}");
    let told = bookend(&world, &["recover"]).ended(End::Code(1)).stdout;
    let command = told.lines().find_map(|l| l.split("if it has ended: ").nth(1)).expect("a command");
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
    let (mut ready, noted) = (world.fifo("ready"), world.name("noted"));
    let (hook, ledger) = (stays_once(&ready.path(), &noted), world.name("other/b.db"));
    let words = ["bookend", "run", "--ledger", &ledger, "--on-finish", &hook, "--", "true"];
    let run = world.bare(words).start();
    ready.pid("ready");
    run.signal(Signal::TERM);
    let output = run.wait().ended(End::Code(0));
    let command = output.stderr.split('`').nth(1).expect("a command");
    world.bare(["sh", "-c", command]).run().ended(End::Code(0));
    assert_eq!(fs::read_to_string(noted).expect("a line"), "2\n");
}
