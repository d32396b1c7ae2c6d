//! A session is resumed only if the last task that used it succeeded or an operator restored it, for every
//! provider and whichever program wrote the row.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{End, Output, Row, World, eventually};
use crate::standins::{Busy, KEY, bookend, change, dispatch, install, json, linked, recover};

/// A world with stand-in agents.
fn world(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    install(&world);
    Some(world)
}

/// Dispatches under the key with `-v`. Returns the output and the row.
fn run(world: &World, program: &str, does: &str, code: i32) -> (Output, Row) {
    let output = dispatch(world, program).options(["-v"]).env("DO", does).run().ended(End::Code(code));
    let row = world.rows().pop().expect("a row");
    (output, row)
}

fn resume_id(world: &World) -> Output {
    bookend(world, &["session", "resume-id", KEY])
}

fn session_of_a_lost_task(program: &str) {
    let Some(world) = world(&format!("the session of a lost task, {program}")) else { return };
    let busy = Busy::of(&world, program);
    // bookend links the session shortly after the agent reports it, not only at the end.
    eventually(world.deadline(), "the session's row", || linked(&world).is_some());
    let (session, task) = linked(&world).expect("the session's row");
    assert_eq!(task, world.row().text("id"));
    busy.kill_all();

    let report = recover(&world, &[]);
    let row = world.row();
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
    assert_eq!(report.matches("[recovery] task").count(), 1, "{report}");
    assert!(report.contains(&format!("session {session} invalidated")), "{report}");
    assert_eq!(linked(&world), None);

    let (output, second) = run(&world, program, "", 0);
    assert!(output.stderr.contains("resume=<none>"), "{output:?}");
    assert_eq!((second.ending().as_str(), second.text("resumed_from").as_str()), ("success/", ""));
    assert_ne!(second.text("session_id"), session);

    let (output, third) = run(&world, program, "", 0);
    assert!(output.stderr.contains(&format!("resume={}", second.text("session_id"))), "{output:?}");
    assert_eq!(third.text("resumed_from"), second.text("session_id"));
    assert_eq!(third.text("session_id"), second.text("session_id"));
}

#[test]
fn the_claude_session_of_a_lost_task_is_invalidated_and_the_next_run_is_fresh() {
    session_of_a_lost_task("claude");
}

#[test]
fn the_cursor_session_of_a_lost_task_is_invalidated_and_the_next_run_is_fresh() {
    session_of_a_lost_task("cursor-agent");
}

#[test]
fn only_a_success_keeps_the_session() {
    for program in ["claude", "cursor-agent"] {
        let Some(world) = world("only_a_success_keeps_the_session") else { return };
        let (_, first) = run(&world, program, "", 0);
        assert_eq!(linked(&world), Some((first.text("session_id"), first.text("id"))));

        let (failed, second) = run(&world, program, "fail", 1);
        assert_eq!(second.text("resumed_from"), first.text("session_id"));
        assert!(failed.stderr.contains("starts a fresh conversation"), "the failure is reported: {failed:?}");
        assert_eq!(linked(&world), None);
        let (_, third) = run(&world, program, "", 0);
        assert_eq!(third.text("resumed_from"), "");

        let busy = Busy::of(&world, program);
        assert_eq!(linked(&world).map(|l| l.0), Some(third.text("session_id")), "it is resumed");
        busy.supervisor.signal(Signal::INT);
        busy.supervisor.wait();
        assert_eq!(world.rows()[3].ending(), "cancelled/operator");
        assert_eq!(linked(&world), None);
    }
}

#[test]
fn a_session_whose_last_task_failed_is_not_resumed_whichever_program_linked_it() {
    let Some(world) = world("a_session_whose_last_task_failed_is_not_resumed_whichever_program_linked_it")
    else {
        return;
    };
    let (_, first) = run(&world, "claude", "fail", 1);
    // Another program links it again.
    let (session, task) = (first.text("session_id"), first.text("id"));
    change(
        &world,
        &format!(
            "INSERT INTO claude_sdk_sessions (key, session_id, provider, task_id)
             VALUES ('{KEY}', '{session}', 'anthropic', '{task}')"
        ),
    );
    let (output, second) = run(&world, "claude", "", 0);
    let warning_line = output.stderr.lines().find(|l| l.contains("warning:")).expect("a warning");
    for part in [session.as_str(), &task, "failure"] {
        assert!(warning_line.contains(part), "{part} in {warning_line}");
    }
    assert_eq!(second.text("resumed_from"), "");
}

#[test]
fn recovery_invalidates_exactly_the_unsafe_sessions() {
    let Some(world) = world("recovery_invalidates_exactly_the_unsafe_sessions") else { return };
    let (_, good) = run(&world, "claude", "", 0);
    let (session, task) = (good.text("session_id"), good.text("id"));
    let (_, bad) = {
        let bad = world.run(["claude", "-p", "go", "--output-format", "json"]).options(["--key", "bad"]);
        (bad.env("DO", "fail").run(), world.rows().pop().expect("a row"))
    };
    change(
        &world,
        &format!(
            "INSERT INTO claude_sdk_sessions (key, session_id, task_id) VALUES
                 ('no task', 's1', NULL), ('lost task', 's2', 'nobody'), ('bad', '{}', '{}'),
                 ('another session', 's3', '{task}')",
            bad.text("session_id"),
            bad.text("id")
        ),
    );
    let would = json(&world, &["recover", "--dry-run", "--json"])["sessions"].clone();
    let report = json(&world, &["recover", "--json"]);
    assert_eq!(would, report["sessions"]);
    let keys: Vec<&str> =
        report["sessions"].as_array().expect("sessions").iter().filter_map(|s| s["key"].as_str()).collect();
    assert_eq!(keys.len(), 4, "{report}");
    for key in ["no task", "lost task", "bad", "another session"] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    assert_eq!(linked(&world), Some((session.clone(), task.clone())));
    assert_eq!(world.sql("SELECT * FROM claude_sdk_sessions").len(), 1);

    // A link is checked again if its session changes or its task is deleted.
    change(&world, "UPDATE claude_sdk_sessions SET session_id = 'elsewhere'");
    assert_eq!(json(&world, &["recover", "--json"])["sessions"][0]["session_id"], "elsewhere");
    let (_, next) = run(&world, "claude", "", 0);
    change(&world, &format!("DELETE FROM task_history WHERE id = '{}'", next.text("id")));
    assert_eq!(json(&world, &["recover", "--json"])["sessions"][0]["key"], KEY);
}

#[test]
fn resume_id_prints_only_a_session_that_may_be_resumed_now() {
    let Some(world) = world("resume_id_prints_only_a_session_that_may_be_resumed_now") else { return };
    let none = resume_id(&world).ended(End::Code(1));
    assert_eq!(none.stdout, "");
    let (_, first) = run(&world, "claude", "", 0);
    assert_eq!(resume_id(&world).ended(End::Code(0)).silent().stdout, first.text("session_id") + "\n");

    let busy = Busy::of(&world, "claude");
    let held = resume_id(&world).ended(End::Code(1));
    assert!(held.stdout.is_empty() && held.stderr.contains("is running"), "{held:?}");
    busy.kill_all();
    let lost = resume_id(&world).ended(End::Code(1));
    assert!(lost.stderr.contains("bookend recover"), "{lost:?}");
    recover(&world, &[]);
    let gone = resume_id(&world).ended(End::Code(1));
    assert!(gone.stderr.contains("has no session"), "{gone:?}");
}

#[test]
fn resume_id_prints_nothing_while_a_task_runs_under_the_key() {
    let Some(world) = world("resume_id_prints_nothing_while_a_task_runs_under_the_key") else { return };
    run(&world, "claude", "", 0);
    resume_id(&world).ended(End::Code(0));
    // This program has no session, so the key still has that of the previous run.
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let busy = Busy::start(&world, "say", |_| world.run_sh(script).options(["--key", KEY]));
    let held = resume_id(&world).ended(End::Code(1));
    assert!(held.stdout.is_empty() && held.stderr.contains("is running"), "{held:?}");
    busy.supervisor.signal(Signal::TERM);
    busy.supervisor.wait();
    resume_id(&world).ended(End::Code(0));
}

#[test]
fn a_restored_session_is_resumed_and_recovery_keeps_it() {
    let Some(world) = world("a_restored_session_is_resumed_and_recovery_keeps_it") else { return };
    let nothing = bookend(&world, &["session", "restore", KEY]).ended(End::Code(1));
    assert!(nothing.stdout.is_empty(), "{nothing:?}");
    let (_, first) = run(&world, "claude", "fail", 1);
    let session = first.text("session_id");
    bookend(&world, &["session", "restore", KEY]).ended(End::Code(0)).silent();
    recover(&world, &[]);
    assert_eq!(resume_id(&world).ended(End::Code(0)).stdout, session.clone() + "\n");
    let (_, second) = run(&world, "claude", "fail", 1);
    assert_eq!(second.text("resumed_from"), session);

    // A second failure counts again.
    assert_eq!(linked(&world), None);
    let (_, third) = run(&world, "claude", "", 0);
    assert_eq!(third.text("resumed_from"), "");
    let refused = bookend(&world, &["session", "restore", KEY]).ended(End::Code(1));
    assert!(refused.stderr.contains(&third.text("session_id")), "{refused:?}");
}

#[test]
fn a_session_that_an_operator_invalidated_is_not_resumed() {
    let Some(world) = world("a_session_that_an_operator_invalidated_is_not_resumed") else { return };
    let (_, first) = run(&world, "claude", "", 0);
    bookend(&world, &["session", "invalidate", KEY, "--reason", "poisoned"]).ended(End::Code(0)).silent();
    assert_eq!(linked(&world), None);
    bookend(&world, &["session", "invalidate", KEY]).ended(End::Code(1));
    let page = json(&world, &["session", "show", KEY, "--json"]);
    assert_eq!(page["session"], Value::Null);
    assert_eq!(page["invalidations"][0]["reason"], "poisoned", "{page}");
    let (_, second) = run(&world, "claude", "", 0);
    assert_eq!(second.text("resumed_from"), "");
    assert_ne!(second.text("session_id"), first.text("session_id"));
}

#[test]
fn session_list_shows_which_sessions_may_be_resumed() {
    let Some(world) = world("session_list_shows_which_sessions_may_be_resumed") else { return };
    let empty = bookend(&world, &["session", "list"]).ended(End::Code(0));
    assert!(empty.stdout.contains(&world.ledger().display().to_string()), "{empty:?}");
    assert!(!world.ledger().exists());
    run(&world, "claude", "", 0);
    change(&world, "INSERT INTO claude_sdk_sessions (key, session_id) VALUES ('other', 's1')");
    let listing = json(&world, &["session", "list", "--json"]);
    let states: Vec<(&str, &str)> = listing["sessions"]
        .as_array()
        .expect("sessions")
        .iter()
        .map(|s| (s["key"].as_str().expect("a key"), s["state"].as_str().expect("a state")))
        .collect();
    assert_eq!(states, [(KEY, "resumable"), ("other", "unsafe")]);
    let table = bookend(&world, &["session", "list"]).ended(End::Code(0)).stdout;
    assert!(table.contains("resumable") && table.contains("unsafe"), "{table}");
    let page = bookend(&world, &["session", "show", KEY]).ended(End::Code(0)).stdout;
    assert!(page.contains("resumable"), "{page}");
}

#[test]
fn an_agent_that_does_not_resume_causes_a_warning_and_a_lost_context() {
    let Some(world) = world("an_agent_that_does_not_resume_causes_a_warning_and_a_lost_context") else {
        return;
    };
    let (_, first) = run(&world, "cursor-agent", "", 0);
    assert_eq!(first.number("context_lost"), None);
    let forgot = dispatch(&world, "cursor-agent").env("FORGET", "1").run().ended(End::Code(0));
    assert!(forgot.stderr.contains("its context is lost"), "{forgot:?}");
    let second = world.rows().pop().expect("a row");
    assert_eq!(second.number("context_lost"), Some(1));
    assert_eq!(second.text("resumed_from"), first.text("session_id"));
    assert_ne!(second.text("session_id"), first.text("session_id"));
    let (_, third) = run(&world, "cursor-agent", "", 0);
    assert_eq!(third.text("resumed_from"), second.text("session_id"));
    assert_eq!(third.number("context_lost"), None);
}
