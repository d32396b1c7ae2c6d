//! Recovery finishes what the supervisor of an ended task could not: leftovers, delivery, report, session and
//! spool slot.

use std::fs;

use rustix::process::Signal;

use crate::harness::{End, Proc, World, eventually, stat_field, state};
use crate::standins::{
    Busy, KEY, bookend, change, dispatch, gone, in_its_grace, install, json, linked, recover,
};

fn lines_with(text: &str, part: &str) -> usize {
    text.lines().filter(|l| l.contains(part)).count()
}

#[test]
fn recovery_ends_leftovers_of_ended_tasks_if_their_option_says_so() {
    let Some(world) = World::of_bookend("recovery_ends_leftovers_of_ended_tasks_if_their_option_says_so")
    else {
        return;
    };
    let mut out = world.fifo("out");
    let script = format!("probe daemon -- probe with setsid -- probe stay {}; exit 3", out.path());
    let options = ["--id", "left-behind", "--leftovers", "leave"];
    world.run_sh(&script).options(options).run().ended(End::Code(3));
    let daemon = out.pid("stay");
    assert_eq!(lines_with(&recover(&world, &[]), "nothing to settle"), 1);
    assert!(state(daemon).is_some_and(|s| s != 'Z'), "--leftovers leave keeps it");

    // As if the supervisor had been killed before it could end the process.
    change(&world, "UPDATE task_history SET run_options = json_set(run_options, '$.leftovers', 'auto')");
    let report = recover(&world, &[]);
    assert_eq!(lines_with(&report, "task left-behind had ended; leftover processes ended: 1"), 1, "{report}");
    gone(&world, daemon);
    let row = world.row();
    assert_eq!((row.ending().as_str(), row.json("leftovers")["ended"].as_i64()), ("failure/exit", Some(1)));
    assert_eq!(lines_with(&recover(&world, &[]), "had ended"), 0);
}

#[test]
fn a_process_marked_before_the_task_started_is_not_its_leftover() {
    let Some(world) = World::of_bookend("a_process_marked_before_the_task_started_is_not_its_leftover")
    else {
        return;
    };
    let mut out = world.fifo("out");
    let older = world.bare(["probe", "stay", &out.path()]).env("BOOKEND_TASK_ID", "taken-twice");
    let older = older.env("BOOKEND_LEDGER", world.ledger()).start();
    let pid = out.pid("stay");
    // Start times have a resolution of one clock tick, so the agent must start in a later one.
    let start = stat_field(pid, 22).and_then(|start| start.parse::<u64>().ok());
    let start_of_a_new_process = || {
        let output = world.bare(["cut", "-d ", "-f22", "/proc/self/stat"]).run().stdout;
        output.trim().parse::<u64>().ok()
    };
    eventually(world.deadline(), "a later start", || start_of_a_new_process() > start);
    world.run_sh("exit 3").options(["--id", "taken-twice"]).run().ended(End::Code(3));
    let report = recover(&world, &[]);
    assert_eq!(lines_with(&report, "nothing to settle"), 1, "{report}");
    assert_eq!(lines_with(&report, "had ended"), 0, "{report}");
    assert!(state(pid).is_some_and(|s| s != 'Z'));
    drop(older);
}

#[test]
fn leftovers_belong_to_a_supervisor_that_is_still_running() {
    let Some(world) = World::of_bookend("leftovers_belong_to_a_supervisor_that_is_still_running") else {
        return;
    };
    let (run, daemon) = in_its_grace(&world, "in-its-grace");
    let report = recover(&world, &["--grace", "0s"]);
    assert_eq!(lines_with(&report, "nothing to settle"), 1, "{report}");
    assert!(state(daemon).is_some_and(|s| s != 'Z'), "its supervisor runs");
    run.signal(Signal::KILL);
    run.wait();
    let report = recover(&world, &["--grace", "0s"]);
    assert_eq!(lines_with(&report, "task in-its-grace had ended"), 1, "{report}");
    gone(&world, daemon);
}

#[test]
fn an_agent_without_the_mark_is_ended_by_its_recorded_identity() {
    let Some(world) = World::of_bookend("an_agent_without_the_mark_is_ended_by_its_recorded_identity") else {
        return;
    };
    let script = "trap '' TERM; echo ready $$ >$SAY; exec env -u BOOKEND_TASK_ID sleep 1000";
    let busy = Busy::start(&world, "say", |_| world.run_sh(script).options(["--id", "one", "--key", KEY]));
    let agent = busy.agent;
    let mark = b"BOOKEND_TASK_ID=";
    let environ = || fs::read(format!("/proc/{agent}/environ")).unwrap_or_default();
    let is_marked = || environ().windows(mark.len()).any(|w| w == mark);
    eventually(world.deadline(), "an agent without the mark", || !is_marked());
    busy.kill_supervisor();
    let report = recover(&world, &["--grace", "0s"]);
    assert_eq!(lines_with(&report, "was still running and was ended"), 1, "{report}");
    gone(&world, agent);
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
}

/// A run whose first delivery does not end, and the pid of its hook.
fn delivering(world: &World) -> (Proc, i32) {
    let mut started = world.fifo("hook");
    let hook = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) echo ready $$ >{}; exec sleep 1000;; esac; echo x >>{}",
        started.path(),
        world.name("delivered")
    );
    let run = world.run_sh("exit 3").options(["--id", "one", "--on-finish", &hook]).start();
    let hook = started.pid("ready");
    (run, hook)
}

#[test]
fn an_end_is_delivered_from_a_copied_ledger_only_once_its_supervisor_is_gone() {
    let Some(world) =
        World::of_bookend("an_end_is_delivered_from_a_copied_ledger_only_once_its_supervisor_is_gone")
    else {
        return;
    };
    let (run, hook) = delivering(&world);
    // A copy has no live lock of the task, so the identity decides.
    world.bare(["cp", "-r", &world.name("state/bookend"), &world.name("copy")]).run().ended(End::Code(0));
    let copy = world.name("copy/bookend.db");
    let report = recover(&world, &["--ledger", &copy]);
    assert_eq!(lines_with(&report, "on-finish"), 0, "its supervisor runs: {report}");
    run.signal(Signal::KILL);
    run.wait();
    gone(&world, hook);
    let report = recover(&world, &["--ledger", &copy]);
    assert_eq!(lines_with(&report, "--on-finish command of task one: delivered"), 1, "{report}");
    assert_eq!(fs::read_to_string(world.path("delivered")).expect("a line"), "x\n");
}

#[test]
fn a_dry_run_names_the_end_that_would_be_delivered_once_its_supervisor_is_gone() {
    let Some(world) =
        World::of_bookend("a_dry_run_names_the_end_that_would_be_delivered_once_its_supervisor_is_gone")
    else {
        return;
    };
    let (run, hook) = delivering(&world);
    let would = || json(&world, &["recover", "--dry-run", "--json"])["deliveries"].clone();
    assert_eq!(would(), serde_json::json!([]), "its supervisor runs");
    run.signal(Signal::KILL);
    run.wait();
    gone(&world, hook);
    assert_eq!(would()[0]["id"], "one");
    let report = bookend(&world, &["recover", "--dry-run"]).ended(End::Code(0)).stdout;
    assert_eq!(lines_with(&report, "the --on-finish command of task one would be run"), 1, "{report}");
    assert!(!world.path("delivered").exists());
}

#[test]
fn a_report_does_not_mention_a_restored_session() {
    let Some(world) = World::of_bookend("a_report_does_not_mention_a_restored_session") else { return };
    install(&world);
    for (restored, name) in [(false, "say"), (true, "say again")] {
        let busy = Busy::start(&world, name, |_| dispatch(&world, "claude"));
        let (session, _) = linked(&world).expect("a session");
        busy.supervisor.signal(Signal::TERM);
        busy.supervisor.wait();
        if restored {
            bookend(&world, &["session", "restore", KEY]).ended(End::Code(0)).silent();
        }
        let report = recover(&world, &[]);
        assert_eq!(lines_with(&report, "interrupted (signal)"), 1, "{report}");
        let warning = lines_with(&report, &format!("session {session} invalidated"));
        assert_eq!(warning, usize::from(!restored), "{report}");
    }
}

#[test]
fn the_command_in_a_report_names_the_ledger() {
    let Some(world) = World::of_bookend("the_command_in_a_report_names_the_ledger") else { return };
    let ledger = world.name("of its own.db");
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let options = ["--id", "named", "--ledger", &ledger];
    Busy::start(&world, "say", |_| world.run_sh(script).options(options)).kill_all();
    let report = json(&world, &["recover", "--json", "--ledger", &ledger]);
    assert_eq!(report["ledger"].as_str(), Some(ledger.as_str()));
    let again = report["hints"][0]["redispatch"].as_str().expect("a command");
    assert!(again.contains(&format!(" --ledger '{ledger}'")), "{again}");

    Busy::sleep(&world, "unnamed").kill_all();
    let report = json(&world, &["recover", "--json"]);
    let again = report["hints"][0]["redispatch"].as_str().expect("a command");
    assert!(again.contains(&format!(" --ledger {} ", world.ledger().display())), "{again}");
}

#[test]
fn stray_spool_slots_are_removed_and_those_of_running_tasks_kept() {
    let Some(world) = World::of_bookend("stray_spool_slots_are_removed_and_those_of_running_tasks_kept")
    else {
        return;
    };
    world.run_sh("true").options(["--id", "ended"]).run().ended(End::Code(0));
    let busy = Busy::sleep(&world, "runs");
    let slot = |id: &str| world.path(&format!("state/bookend/bookend.db.d/spool/.{id}.slot"));
    assert!(slot("runs").exists());
    recover(&world, &[]);
    assert!(slot("runs").exists(), "recover finds no lost task and sweeps nothing");
    for id in ["ended", "never-committed"] {
        fs::write(slot(id), "").expect("a slot");
    }
    recover(&world, &[]);
    assert!(!slot("ended").exists() && !slot("never-committed").exists());
    assert!(slot("runs").exists(), "its supervisor may need it");
    busy.kill_all();
    recover(&world, &[]);
    assert!(!slot("runs").exists());
}

#[test]
fn a_run_gives_its_slot_back_however_it_ends() {
    let Some(world) = World::of_bookend("a_run_gives_its_slot_back_however_it_ends") else { return };
    let options: [&[&str]; 4] =
        [&[], &["--prepare", "exit 3"], &["--require-skill", "none"], &["--timeout", "1ms"]];
    for (options, agent) in options.into_iter().zip(["true", "true", "claude", "cat"]) {
        world.run([agent]).options(options.iter().copied()).piped_input().run();
    }
    world.run(["./nonesuch"]).run().ended(End::Code(127));
    let stopped = Busy::sleep(&world, "stopped").supervisor;
    stopped.signal(Signal::TERM);
    stopped.wait();
    let endings: Vec<_> = world.rows().iter().map(|row| row.text("status")).collect();
    assert_eq!(endings.len(), 6, "{endings:?}");
    let spool = world.path("state/bookend/bookend.db.d/spool");
    assert_eq!(fs::read_dir(spool).expect("the spool").count(), 0);
}

#[test]
fn a_slot_is_given_back_after_the_hook_and_no_recovery_takes_it_away_before() {
    let test = "a_slot_is_given_back_after_the_hook_and_no_recovery_takes_it_away_before";
    let Some(world) = World::of_bookend(test) else { return };
    let (mut up, mut go) = (world.fifo("hook.up"), world.fifo("hook.go"));
    let hook = format!("echo ready $$ >{}; read line <{}", up.path(), go.path());
    let slot = world.path("state/bookend/bookend.db.d/spool/.one.slot");
    let run = world.run_sh("true").options(["--id", "one", "--on-finish", &hook]).start();
    up.pid("ready");
    recover(&world, &[]);
    assert_eq!(fs::metadata(&slot).expect("the slot").len(), 0, "its space was given back with the end");
    go.write_line("now");
    run.wait().ended(End::Code(0));
    assert!(!slot.exists());
    // A supervisor that dies in its hook leaves it to the recovery that finishes the delivery.
    let run = world.run_sh("true").options(["--id", "two", "--on-finish", &hook]).start();
    let hook = up.pid("ready");
    run.signal(Signal::KILL);
    run.wait();
    // The second line is for the hook of the recovery.
    (0..2).for_each(|_| go.write_line("now"));
    eventually(world.deadline(), "the end of the hook", || state(hook).is_none_or(|s| s == 'Z'));
    let slot = world.path("state/bookend/bookend.db.d/spool/.two.slot");
    assert!(slot.exists());
    recover(&world, &[]);
    assert!(!slot.exists());
}
