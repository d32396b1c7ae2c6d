//! `bookend cancel`: ends tasks from another terminal.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use rustix::process::Signal;

use crate::harness::{End, Output, Proc, World, is_root, on_path, possible};

fn cancel(world: &World, words: &[&str]) -> Output {
    world.bare(["bookend", "cancel"].iter().chain(words).copied()).run()
}

fn start(world: &World, options: &[&str], script: &str) -> Proc {
    start_after(world, options, "", script)
}

/// As [`start`], with commands that the agent runs first.
fn start_after(world: &World, options: &[&str], before: &str, script: &str) -> Proc {
    let mut up = world.fifo(&format!("up{}", options.join("")));
    let script = format!("{before} echo up >{}; {script}", up.path());
    let run = world.run_sh(&script).options(options.iter().copied()).start();
    up.line();
    run
}

#[test]
fn cancel_names_the_signalled_process_and_waits_for_the_end() {
    let Some(world) = World::of_bookend("cancel_names_the_signalled_process_and_waits_for_the_end") else {
        return;
    };
    let run = start(&world, &["--id", "long-name"], "exec sleep 1000");
    let output = cancel(&world, &["long"]).ended(End::Code(0)).silent();
    let row = world.row();
    assert_eq!(row.ending(), "cancelled/operator");
    let (supervisor, agent) = (row.pid("supervisor_pid"), row.pid("agent_pid"));
    let mut lines = output.stdout.lines();
    let line = format!("task long-name: sent SIGTERM to supervisor {supervisor} (agent {agent})");
    assert_eq!(lines.next(), Some(line.as_str()));
    let ended = lines.next().expect("a second line");
    assert!(ended.starts_with("task long-name: cancelled (operator) after "), "{ended}");
    run.wait().ended(End::Signal(libc::SIGTERM));
}

#[test]
fn cancel_accepts_a_key_or_all_tasks() {
    let Some(world) = World::of_bookend("cancel_accepts_a_key_or_all_tasks") else { return };
    let one = start(&world, &["--id", "one", "--key", "k"], "exec sleep 1000");
    let two = start(&world, &["--id", "two"], "exec sleep 1000");
    let three = start(&world, &["--id", "three"], "exec sleep 1000");
    cancel(&world, &["--key", "k"]).ended(End::Code(0));
    one.wait();
    cancel(&world, &["--key", "k"]).ended(End::Code(1));
    cancel(&world, &["--all"]).ended(End::Code(0));
    two.wait();
    three.wait();
    assert!(world.rows().iter().all(|r| r.ending() == "cancelled/operator"));
    cancel(&world, &[]).ended(End::Code(2));
    cancel(&world, &["--all", "one"]).ended(End::Code(2));
}

#[test]
fn cancel_all_succeeds_where_nothing_runs() {
    let Some(world) = World::of_bookend("cancel_all_succeeds_where_nothing_runs") else { return };
    // Before there is a ledger, and in one without running tasks. `stop` is the same command.
    for word in ["cancel", "stop"] {
        let output = world.bare(["bookend", word, "--all"]).run().ended(End::Code(0)).silent();
        assert_eq!(output.stdout, "no task is running\n");
        world.run(["true"]).run().ended(End::Code(0));
    }
    let refused = cancel(&world, &["--key", "k"]).ended(End::Code(1));
    assert!(refused.stderr.contains("no task is running under the key k"), "{refused:?}");
}

#[test]
fn cancel_continues_after_an_error_with_one_task() {
    let Some(world) = World::of_bookend("cancel_continues_after_an_error_with_one_task") else { return };
    world.run(["true"]).options(["--id", "ended"]).run();
    let run = start(&world, &["--id", "runs"], "exec sleep 1000");
    let output = cancel(&world, &["nonesuch", "ended", "runs"]).ended(End::Code(1));
    assert!(
        output.stderr.contains("no task nonesuch") && output.stderr.contains("it ended as success"),
        "{output:?}"
    );
    assert!(output.stdout.contains("task runs: cancelled"), "{output:?}");
    run.wait();
}

#[test]
fn a_lost_supervisor_or_reused_pid_is_never_signalled() {
    let Some(world) = World::of_bookend("a_lost_supervisor_or_reused_pid_is_never_signalled") else { return };
    let mut run = start(&world, &["--id", "lost"], "exec sleep 1000");
    run.signal(Signal::KILL);
    run.wait_here();
    let output = cancel(&world, &["lost"]).ended(End::Code(1));
    assert!(output.stderr.contains("was killed") && output.stderr.contains("bookend recover"), "{output:?}");
    // Its pid now belongs to another process, which must not be signalled.
    let bystander = world.bare(["sleep", "1000"]).start();
    world.write(&format!("UPDATE task_history SET supervisor_pid = {}", bystander.pid()));
    cancel(&world, &["lost"]).ended(End::Code(1));
    bystander.signal(Signal::USR1);
    bystander.wait().ended(End::Signal(libc::SIGUSR1));
}

#[test]
fn cancel_escalates_for_an_agent_that_ignores_sigterm_and_can_bound_its_wait() {
    let test = "cancel_escalates_for_an_agent_that_ignores_sigterm_and_can_bound_its_wait";
    let Some(world) = World::of_bookend(test) else { return };
    let options = ["--id", "stubborn", "--grace", "200ms"];
    let run = start_after(&world, &options, "trap '' TERM;", "while :; do sleep 1000; done");
    let output = cancel(&world, &["stubborn", "--wait", "0"]).ended(End::Code(1));
    assert!(output.stdout.contains("task stubborn: still running"), "{output:?}");
    cancel(&world, &["stubborn"]);
    assert_eq!(world.row().ending(), "cancelled/operator");
    run.wait().ended(End::Signal(libc::SIGKILL));
}

#[test]
fn cancel_all_inside_a_run_skips_that_run() {
    let Some(world) = World::of_bookend("cancel_all_inside_a_run_skips_that_run") else { return };
    let other = start(&world, &["--id", "other"], "exec sleep 1000");
    let output = world.run_sh("bookend cancel --all").options(["--id", "self"]).run().ended(End::Code(0));
    assert!(output.stdout.contains("task self: skipped"), "{output:?}");
    other.wait();
    let endings: Vec<_> = world.rows().iter().map(|r| r.ending()).collect();
    assert_eq!(endings, ["cancelled/operator", "success/"]);
}

#[test]
fn cancelling_a_task_of_another_user_is_refused() {
    let test = "cancelling_a_task_of_another_user_is_refused";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("setpriv"), "root and setpriv") {
        return;
    }
    let run = start(&world, &["--id", "roots"], "exec sleep 1000");
    let open = [
        ("", 0o755),
        ("bin", 0o755),
        ("home", 0o755),
        ("state", 0o755),
        ("state/bookend", 0o755),
        ("state/bookend/bookend.db.d", 0o755),
        ("state/bookend/bookend.db", 0o644),
        ("state/bookend/bookend.db-wal", 0o644),
        ("state/bookend/bookend.db-shm", 0o644),
        ("state/bookend/bookend.db.d/live", 0o644),
    ];
    for (name, mode) in open {
        fs::set_permissions(world.path(name), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    // A child copies it: a fork in another test could inherit our descriptor, and executing would fail
    // (ETXTBSY).
    world.bare(["cp", env!("CARGO_BIN_EXE_bookend"), &world.name("copy")]).run().ended(End::Code(0));
    let program = world.name("copy");
    let words = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", &program, "cancel", "roots"];
    let output = world.bare(words).env("BOOKEND_LEDGER", world.ledger()).run().ended(End::Code(125));
    assert!(output.stderr.contains("belongs to uid 0, not to you (uid 65534)"), "{output:?}");
    assert_eq!(world.row().text("status"), "running");
    drop(run);
}
