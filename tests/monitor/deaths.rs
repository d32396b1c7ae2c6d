//! A supervisor that is killed: its agent is ended, its row settled, its session invalidated, and the task
//! reported.

use std::fs;

use rustix::process::Signal;

use super::{count, until_ended, until_reported};
use crate::harness::{End, Monitor, World, context_switches, eventually, open_files, parsed, state};
use crate::standins::{Busy, KEY, dispatch, gone, in_its_grace, install, linked};

#[test]
fn a_killed_supervisor_is_settled_at_once_and_its_agent_ended() {
    let Some(world) = World::of_bookend("a_killed_supervisor_is_settled_at_once_and_its_agent_ended") else {
        return;
    };
    install(&world);
    let monitor = Monitor::start(&world, &[]);
    let busy = Busy::of(&world, "claude");
    let (agent, id) = (busy.agent, world.row().text("id"));
    assert!(linked(&world).is_some());
    busy.kill_supervisor();
    until_reported(&world, &id);
    let row = world.row();
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
    assert_eq!(row.text("end_source"), "recovery");
    assert!(matches!(state(agent), None | Some('Z')), "its agent was ended before the row");
    assert_eq!(linked(&world), None, "its session is invalidated");
    let moves = world.sql("SELECT to_status, by_command, by_pid FROM task_transition ORDER BY at, n");
    let by = moves.last().map(|m| (m.text("to_status"), m.text("by_command"), m.pid("by_pid")));
    assert_eq!(by, Some(("interrupted".to_owned(), "monitor".to_owned(), monitor.pid())));
    let spool = world.path("state/bookend/bookend.db.d/spool");
    assert_eq!(fs::read_dir(spool).expect("the spool").count(), 0, "the slot was removed");
    dispatch(&world, "claude").run().ended(End::Code(0));
    let output = monitor.stop().silent();
    let told = format!("[recovery] task {id} interrupted (supervisor_lost): key {KEY}; ");
    assert_eq!((count(&output.stdout, &told), output.stdout.lines().count()), (1, 1), "{output:?}");
}

#[test]
fn an_agent_that_ignores_sigterm_is_killed_after_the_grace_and_before_its_key_is_free() {
    let test = "an_agent_that_ignores_sigterm_is_killed_after_the_grace_and_before_its_key_is_free";
    let Some(world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &["--grace", "1s"]);
    let busy = Busy::stubborn(&world, "one");
    let agent = busy.agent;
    busy.kill_supervisor();
    until_ended(&world, "one", "interrupted/supervisor_lost");
    gone(&world, agent);
    assert!(world.row().text("error").contains("was still running and was ended"), "{:?}", world.row());
    monitor.stop();
}

#[test]
fn many_that_die_at_once_are_ended_side_by_side() {
    let Some(world) = World::of_bookend("many_that_die_at_once_are_ended_side_by_side") else { return };
    let monitor = Monitor::start(&world, &["--grace", "4s"]);
    let ids: Vec<String> = (0..8).map(|n| format!("task-{n}")).collect();
    let busy: Vec<Busy<'_>> = ids.iter().map(|id| Busy::stubborn(&world, id)).collect();
    // One after the other they would take longer than the test may.
    busy.into_iter().for_each(Busy::kill_supervisor);
    ids.iter().for_each(|id| until_reported(&world, id));
    let output = monitor.stop().silent();
    for id in &ids {
        assert_eq!(count(&output.stdout, &format!("[recovery] task {id} interrupted")), 1, "{output:?}");
    }
}

#[test]
fn a_run_that_is_lost_under_a_key_is_settled_once_by_the_next_run_or_the_monitor() {
    let test = "a_run_that_is_lost_under_a_key_is_settled_once_by_the_next_run_or_the_monitor";
    let Some(world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &[]);
    for n in 0..8 {
        let id = format!("lost-{n}");
        let script = "echo ready $$ >$SAY; exec sleep 1000";
        let busy = Busy::start(&world, &format!("say.{id}"), |_| {
            world.run_sh(script).options(["--id", &id, "--key", "k"])
        });
        busy.supervisor.signal(Signal::KILL);
        let next = world.run(["true"]).options(["--id", &format!("next-{n}"), "--key", "k", "--wait"]);
        next.run().ended(End::Code(0));
        busy.supervisor.wait();
        until_reported(&world, &id);
        let query =
            format!("SELECT 1 FROM task_transition WHERE task_id = '{id}' AND to_status != 'running'");
        assert_eq!(world.sql(&query).len(), 1, "it ended once");
    }
    let output = monitor.stop().silent();
    assert_eq!(count(&output.stdout, "interrupted (supervisor_lost)"), 8, "{output:?}");
}

#[test]
fn each_lost_task_is_reported_once_by_the_monitor_or_a_recovery_beside_it() {
    let test = "each_lost_task_is_reported_once_by_the_monitor_or_a_recovery_beside_it";
    let Some(world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &[]);
    let ids: Vec<String> = (0..8).map(|n| format!("lost-{n}")).collect();
    let mut printed = String::new();
    for id in &ids {
        let busy = Busy::sleep(&world, id);
        busy.supervisor.signal(Signal::KILL);
        printed += &world.bare(["bookend", "recover"]).run().stdout;
        busy.supervisor.wait();
        until_reported(&world, id);
    }
    printed += &monitor.stop().stdout;
    for id in &ids {
        assert_eq!(count(&printed, &format!("[recovery] task {id} interrupted")), 1, "{printed}");
    }
}

#[test]
fn a_supervisor_killed_after_the_end_and_before_its_leftovers_leaves_no_process() {
    let test = "a_supervisor_killed_after_the_end_and_before_its_leftovers_leaves_no_process";
    let Some(world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &["--grace", "1s"]);
    let (run, daemon) = in_its_grace(&world, "in-its-grace");
    assert!(state(daemon).is_some_and(|s| s != 'Z'), "its supervisor ends it");
    run.signal(Signal::KILL);
    run.wait();
    gone(&world, daemon);
    let ended = || world.row().json("leftovers")["ended"].as_i64() >= Some(1);
    eventually(world.deadline(), "the leftovers in the row", ended);
    let output = monitor.stop();
    assert_eq!(
        count(&output.stdout, "task in-its-grace had ended; leftover processes ended"),
        1,
        "{output:?}"
    );
}

#[test]
fn a_slot_that_another_process_removes_hides_no_leftovers() {
    let test = "a_slot_that_another_process_removes_hides_no_leftovers";
    let Some(world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &["--grace", "1s"]);
    let (run, daemon) = in_its_grace(&world, "one");
    let slot = world.path("state/bookend/bookend.db.d/spool/.one.slot");
    // As when a recovery removes the slot while its dead supervisor still exits.
    fs::File::options().append(true).open(&slot).expect("the slot");
    let pid = monitor.pid();
    let mut last = context_switches(pid);
    eventually(world.deadline(), "a monitor that waits for the supervisor", || {
        let before = std::mem::replace(&mut last, context_switches(pid));
        before == last && state(pid) == Some('S') && open_files(pid).iter().any(|file| file.contains("pidfd"))
    });
    fs::remove_file(&slot).expect("removed");
    run.signal(Signal::KILL);
    run.wait();
    gone(&world, daemon);
    monitor.stop();
}

#[test]
fn a_task_that_was_stopped_cleanly_is_reported_when_its_supervisor_has_exited() {
    let test = "a_task_that_was_stopped_cleanly_is_reported_when_its_supervisor_has_exited";
    let Some(world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &["--json"]);
    let busy = Busy::sleep(&world, "one");
    world.run_sh("exit 3").options(["--id", "failed"]).run().ended(End::Code(3));
    busy.supervisor.signal(Signal::HUP);
    busy.supervisor.wait();
    until_reported(&world, "one");
    let output = monitor.stop().silent();
    let report: serde_json::Value = serde_json::from_str(&output.stdout).expect("one line of JSON");
    assert_eq!(output.stdout.lines().count(), 1, "{output:?}");
    assert_eq!(report["hints"][0]["task"]["id"], "one", "{report}");
    assert_eq!((report["interrupted"].as_array().map(Vec::len), &report["settled"]), (Some(0), &true.into()));
    assert_eq!(parsed(&world, &["recover", "--json"])["hints"], serde_json::json!([]));
}
