//! `bookend audit`: the cause of each finding. The audit changes nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::{End, Output, Proc, World, eventually, is_root, on_path, possible};

fn audit(world: &World, options: &[&str]) -> Output {
    world.bare(["bookend", "audit"].iter().chain(options).copied()).run()
}

fn report(world: &World, options: &[&str]) -> Value {
    let output = audit(world, &[&["--json"], options].concat());
    serde_json::from_str(&output.stdout).unwrap_or_else(|e| panic!("{e}: {output:?}"))
}

/// `code severity task` of each finding.
fn findings(world: &World, options: &[&str]) -> Vec<String> {
    let report = report(world, options);
    let word = |f: &Value, name: &str| f[name].as_str().unwrap_or("-").to_owned();
    let findings = report["findings"].as_array().expect("findings");
    findings
        .iter()
        .inspect(|f| assert_ne!(word(f, "fix"), "", "each finding names its fix: {f}"))
        .map(|f| format!("{} {} {}", word(f, "code"), word(f, "severity"), word(f, "task")))
        .collect()
}

fn succeed(world: &World, id: &str) {
    world.run(["true"]).options(["--id", id]).run().ended(End::Code(0));
}

/// Starts a run and waits until its agent runs.
fn start(world: &World, id: &str) -> Proc {
    let mut up = world.fifo(&format!("up-{id}"));
    let script = format!("echo up >{}; exec sleep 1000", up.path());
    let run = world.run_sh(&script).options(["--id", id, "--key", id]).start();
    up.line();
    run
}

/// Starts a run and kills its supervisor with SIGKILL.
fn lose(world: &World, id: &str) -> Proc {
    let mut run = start(world, id);
    run.signal(rustix::process::Signal::KILL);
    run.wait_here();
    run
}

#[test]
fn a_correct_or_missing_ledger_has_no_findings() {
    let Some(world) = World::of_bookend("a_correct_or_missing_ledger_has_no_findings") else {
        return;
    };
    let nothing = "Task audit: 0 findings · 0 errors · 0 warnings (showing 0)\n";
    assert_eq!(audit(&world, &["--fail-on", "warn"]).ended(End::Code(0)).silent().stdout, nothing);
    assert!(!world.ledger().exists());
    succeed(&world, "one");
    world.run(["false"]).options(["--id", "two", "--key", "k"]).run();
    let running = start(&world, "three");
    assert_eq!(audit(&world, &["--fail-on", "warn"]).ended(End::Code(0)).silent().stdout, nothing);
    drop(running);
}

#[test]
fn a_lost_task_is_one_error_even_with_other_inconsistencies() {
    let Some(world) = World::of_bookend("a_lost_task_is_one_error_even_with_other_inconsistencies") else {
        return;
    };
    lose(&world, "gone");
    world.write(
        "UPDATE task_history SET finished_at = '2000-01-01T00:00:00.000Z' WHERE id = 'gone';
         INSERT INTO claude_sdk_sessions (key, session_id, task_id) VALUES ('gone', 's', 'gone')",
    );
    assert_eq!(findings(&world, &[]), ["lost error gone"]);
    let output = audit(&world, &["--fail-on", "error"]).ended(End::Code(1));
    assert!(output.stdout.contains("fix: bookend recover"), "{output:?}");
    assert!(
        output.stdout.ends_with("Task audit: 1 finding · 1 error · 0 warnings (showing 1)\n"),
        "{output:?}"
    );
}

#[test]
fn a_reused_pid_is_not_taken_for_the_supervisor() {
    let Some(world) = World::of_bookend("a_reused_pid_is_not_taken_for_the_supervisor") else { return };
    lose(&world, "gone");
    world.write(&format!("UPDATE task_history SET supervisor_pid = {}", std::process::id()));
    assert_eq!(findings(&world, &[]), ["lost error gone"]);
}

#[test]
fn a_task_of_another_machine_is_unverifiable() {
    let Some(world) = World::of_bookend("a_task_of_another_machine_is_unverifiable") else { return };
    lose(&world, "elsewhere");
    world.write("UPDATE task_history SET host = 'another', boot_id = 'another'");
    assert_eq!(findings(&world, &[]), ["unverifiable warn elsewhere"]);
}

#[test]
fn silence_is_a_finding_only_for_captured_output() {
    let Some(world) = World::of_bookend("silence_is_a_finding_only_for_captured_output") else {
        return;
    };
    world.program("claude", "#!/bin/sh\necho up >\"$UP\"\nexec sleep 1000\n");
    let mut up = world.fifo("up");
    let words = ["claude", "-p", "x", "--output-format", "stream-json", "--verbose"];
    let captured = world.run(words).options(["--id", "captured"]).env("UP", up.path()).start();
    up.line();
    let plain = start(&world, "plain");
    world.write("UPDATE task_history SET last_seen_at = '2000-01-01T00:00:00.000Z'");
    assert_eq!(findings(&world, &[]), ["stale_running warn captured"]);
    assert_eq!(findings(&world, &["--stale-after", "1000000h"]), Vec::<String>::new());
    drop((captured, plain));
}

#[test]
fn a_process_that_outlived_its_task_is_found_by_its_mark() {
    let Some(world) = World::of_bookend("a_process_that_outlived_its_task_is_found_by_its_mark") else {
        return;
    };
    let mut pids = world.fifo("pids");
    let script = format!("setsid sh -c 'echo up $$ >{}; exec sleep 1000' >/dev/null 2>&1 &", pids.path());
    for (id, end) in [("good", ""), ("bad", " exit 3")] {
        let script = format!("{script}{end}");
        world.run_sh(&script).options(["--id", id, "--leftovers", "leave"]).run();
    }
    let (one, two) = (pids.pid("up"), pids.pid("up"));
    assert_eq!(findings(&world, &[]), ["orphan_process error bad", "orphan_process warn good"]);
    let text = audit(&world, &[]).stdout;
    assert!(text.contains(&format!("kill {one}\n")) && text.contains(&format!("kill {two}\n")), "{text}");
    world.send(one, [libc::SIGKILL]);
    world.send(two, [libc::SIGKILL]);
    eventually(world.deadline(), "the end of both", || findings(&world, &[]).is_empty());
}

#[test]
fn a_session_is_unsafe_unless_its_last_task_succeeded() {
    let Some(world) = World::of_bookend("a_session_is_unsafe_unless_its_last_task_succeeded") else { return };
    succeed(&world, "good");
    world.run(["false"]).options(["--id", "bad"]).run();
    let running = start(&world, "alive");
    world.write(
        "INSERT INTO claude_sdk_sessions (key, session_id, task_id) VALUES
         ('of good', 's1', 'good'), ('of bad', 's2', 'bad'), ('of none', 's3', 'nobody'),
         ('of alive', 's4', 'alive')",
    );
    assert_eq!(findings(&world, &[]), ["unsafe_session error bad", "unsafe_session error nobody"]);
    drop(running);
}

#[test]
fn failed_deliveries_inconsistent_times_and_unlimited_retention_are_warnings() {
    let test = "failed_deliveries_inconsistent_times_and_unlimited_retention_are_warnings";
    let Some(world) = World::of_bookend(test) else { return };
    world.run(["true"]).options(["--id", "hook", "--on-finish", "exit 3"]).run();
    for id in ["cut", "backwards", "endless", "kept", "foreign"] {
        succeed(&world, id);
    }
    world.write(
        "UPDATE task_history SET on_finish = '{}', delivery_status = 'pending' WHERE id = 'cut';
         UPDATE task_history SET finished_at = '2000-01-01T00:00:00.000Z' WHERE id = 'backwards';
         UPDATE task_history SET finished_at = NULL WHERE id = 'endless';
         UPDATE task_history SET cleanup_after = NULL WHERE id IN ('kept', 'backwards');
         UPDATE task_history SET cleanup_after = NULL, live_slot = NULL WHERE id = 'foreign'",
    );
    let mut found = findings(&world, &[]);
    found.sort();
    assert_eq!(
        found,
        [
            "delivery_failed warn cut",
            "delivery_failed warn hook",
            "inconsistent_timestamps warn backwards",
            "inconsistent_timestamps warn endless",
            "missing_cleanup warn kept",
        ]
    );
    world.bare(["bookend", "prune"]).run().ended(End::Code(0));
    assert!(
        !findings(&world, &[]).contains(&"missing_cleanup warn kept".to_owned()),
        "prune fixes the finding"
    );
}

#[test]
fn filters_hide_findings_but_not_from_the_summary_or_the_exit_code() {
    let test = "filters_hide_findings_but_not_from_the_summary_or_the_exit_code";
    let Some(world) = World::of_bookend(test) else { return };
    lose(&world, "gone");
    world.run(["true"]).options(["--id", "hook", "--on-finish", "exit 3"]).run();
    assert_eq!(findings(&world, &["--severity", "warn"]), ["delivery_failed warn hook"]);
    assert_eq!(findings(&world, &["--code", "lost"]), ["lost error gone"]);
    assert_eq!(findings(&world, &["--limit", "1"]), ["lost error gone"]);
    let report = report(&world, &["--code", "spooled"]);
    assert_eq!(
        report,
        serde_json::json!({
            "summary": {
                "total": 2, "errors": 1, "warnings": 1, "by_code": { "lost": 1, "delivery_failed": 1 }
            },
            "shown": 0,
            "findings": [],
        })
    );
    audit(&world, &["--code", "spooled", "--fail-on", "error"]).ended(End::Code(1));
    audit(&world, &["--fail-on", "fatal"]).ended(End::Code(2));
    audit(&world, &["--code", "nonesuch"]).ended(End::Code(2));
}

#[test]
fn a_spool_file_is_reported_and_left_in_place() {
    let Some(world) = World::of_bookend("a_spool_file_is_reported_and_left_in_place") else { return };
    succeed(&world, "one");
    let spool = world.path("state/bookend/bookend.db.d/spool");
    fs::write(spool.join("one.json"), "{}").expect("a record");
    assert_eq!(findings(&world, &[]), ["spooled warn -"]);
    assert!(spool.join("one.json").exists());
}

#[test]
fn audit_needs_no_write_permission() {
    let test = "audit_needs_no_write_permission";
    let Some(world) = World::of_bookend(test) else { return };
    if is_root() && !possible(test, on_path("setpriv"), "setpriv, when run by root") {
        return;
    }
    lose(&world, "gone");
    let all = [
        ("state/bookend/bookend.db", 0o444),
        ("state/bookend/bookend.db-wal", 0o444),
        ("state/bookend/bookend.db-shm", 0o444),
        ("state/bookend/bookend.db.d/live", 0o444),
        ("state/bookend/bookend.db.d/spool", 0o555),
        ("state/bookend/bookend.db.d", 0o555),
        ("state/bookend", 0o555),
        ("state", 0o755),
        ("bin", 0o755),
        ("", 0o755),
    ];
    for (name, mode) in all {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let before = if is_root() { &nobody[..] } else { &[] };
    // The program may be in a directory that other users cannot enter. A child copies it: a fork in another
    // test could inherit our descriptor, and executing would fail (ETXTBSY).
    world.bare(["cp", env!("CARGO_BIN_EXE_bookend"), &world.name("copy")]).run().ended(End::Code(0));
    let program = world.name("copy");
    let words = before.iter().copied().chain([program.as_str(), "audit", "--json", "--code", "lost"]);
    let output = world.bare(words).env("BOOKEND_LEDGER", world.ledger()).run().ended(End::Code(0));
    assert!(output.stdout.contains("\"task\": \"gone\""), "{output:?}");
    for (name, _) in all {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(0o755)).expect("a mode");
    }
}

#[test]
fn audit_works_beside_many_writers() {
    let Some(world) = World::of_bookend("audit_works_beside_many_writers") else { return };
    succeed(&world, "first");
    let writers: Vec<Proc> = (0..100).map(|_| world.run(["true"]).start()).collect();
    for _ in 0..5 {
        audit(&world, &["--fail-on", "error"]).ended(End::Code(0));
    }
    for writer in writers {
        writer.wait().ended(End::Code(0));
    }
    assert_eq!(findings(&world, &[]), Vec::<String>::new());
}
