//! One task per key at a time, and its session is resumed only after a success.

use std::fs;

use rustix::process::Signal;

use crate::harness::{End, Fifo, Output, Proc, Row, World};

const CLAUDE: [&str; 3] = ["claude", "-p", "hi"];

/// A task that holds a key until `go` receives a line.
struct Holder {
    process: Proc,
    go: Fifo,
}

fn hold(world: &World, key: &str) -> Holder {
    let (mut up, go) = (world.fifo(&format!("up {key}")), world.fifo(&format!("go {key}")));
    let script = format!("echo up $$ >'{}'; read x <'{}'", up.path(), go.path());
    let process = world.run_sh(&script).options(["--key", key, "--id", "holder"]).own_group().start();
    up.pid("up");
    Holder { process, go }
}

fn task(world: &World, id: &str) -> Row {
    world.sql(&format!("SELECT * FROM task_history WHERE id = '{id}'")).remove(0)
}

/// The session of a key: its id and its last task.
fn linked(world: &World, key: &str) -> Option<(String, String)> {
    let rows = world.sql(&format!("SELECT * FROM claude_sdk_sessions WHERE key = '{key}'"));
    rows.first().map(|r| (r.text("session_id"), r.text("task_id")))
}

/// Runs claude under a key with these options.
fn claude(world: &World, key: &str, options: &[&str]) -> Output {
    let options = ["--key", key].into_iter().chain(options.iter().copied());
    world.run(CLAUDE).options(options).run()
}

fn last_argv(world: &World) -> String {
    world.argvs().pop().expect("an argv")
}

#[test]
fn a_second_run_under_a_key_exits_with_75_and_names_the_holder() {
    let Some(world) = World::of_bookend("a_second_run_under_a_key_exits_with_75_and_names_the_holder") else {
        return;
    };
    let mut holder = hold(&world, "k");
    let effect = world.name("effect");
    let second = world.run(["touch", &effect]).options(["--key", "k"]).run().ended(End::Code(75));
    let row = task(&world, "holder");
    let pid = holder.process.pid().to_string();
    for part in ["holder", &format!("pid {pid}"), &row.text("started_at"), "--wait", "--replace", "key k "] {
        assert!(second.stderr.contains(part), "{part:?} in {}", second.stderr);
    }
    assert_eq!(second.stdout, "");
    assert!(!world.path("effect").exists(), "the agent ran");
    assert_eq!(world.rows().len(), 1, "the refused run has no row");
    world.run(["true"]).options(["--key", "other"]).run().ended(End::Code(0)).silent();

    holder.go.write_line("on");
    holder.process.wait().ended(End::Code(0)).silent();
    assert_eq!(task(&world, "holder").ending(), "success/");
    world.run(["true"]).options(["--key", "k"]).run().ended(End::Code(0)).silent();
}

#[test]
fn a_waiting_run_starts_when_the_holder_has_ended() {
    let Some(world) = World::of_bookend("a_waiting_run_starts_when_the_holder_has_ended") else { return };
    let mut holder = hold(&world, "k");
    // The agent reads the status of its predecessor.
    let script = "bookend show holder --json >../seen";
    let waiting = world.run_sh(script).options(["--key", "k", "--wait"]).own_group().start();
    // A third run without --wait is refused.
    world.run(["true"]).options(["--key", "k"]).run().ended(End::Code(75));
    holder.go.write_line("on");
    holder.process.wait().ended(End::Code(0)).silent();
    waiting.wait().ended(End::Code(0)).silent();
    let seen = fs::read_to_string(world.path("seen")).expect("the output of show");
    let seen: serde_json::Value = serde_json::from_str(&seen).expect("JSON");
    assert_eq!(seen["task"]["status"], "success");
    assert_eq!(world.rows().len(), 2);
}

#[test]
fn a_waiting_run_can_be_stopped() {
    let Some(world) = World::of_bookend("a_waiting_run_can_be_stopped") else { return };
    let mut holder = hold(&world, "k");
    for signal in [Signal::INT, Signal::TERM] {
        let effect = world.name("effect");
        let waiting = world.run(["touch", &effect]).options(["--key", "k", "--wait"]).own_group().start();
        waiting.signal(signal);
        waiting.wait().ended(End::Signal(signal.as_raw()));
    }
    holder.go.write_line("on");
    holder.process.wait().ended(End::Code(0)).silent();
    assert!(!world.path("effect").exists(), "the agent ran");
    assert_eq!(world.rows().len(), 1);
}

#[test]
fn replace_cancels_the_holder_and_runs() {
    let Some(world) = World::of_bookend("replace_cancels_the_holder_and_runs") else { return };
    let holder = hold(&world, "k");
    let replacing =
        world.run(["true"]).options(["--key", "k", "--replace", "--id", "new"]).own_group().start();
    let pid = replacing.pid();
    replacing.wait().ended(End::Code(0)).silent();
    holder.process.wait().ended(End::Signal(15));
    let former = task(&world, "holder");
    assert_eq!(former.ending(), "cancelled/operator");
    assert_eq!(former.pid("stop_sender_pid"), pid);
    let new = task(&world, "new");
    assert_eq!(new.ending(), "success/");
    assert_eq!((new.text("replaces"), former.text("replaces")), ("holder".to_owned(), String::new()));
    assert!(former.text("finished_at") <= new.text("started_at"), "the runs do not overlap");
}

#[test]
fn the_schema_refuses_two_running_tasks_under_a_key() {
    let Some(world) = World::of_bookend("the_schema_refuses_two_running_tasks_under_a_key") else { return };
    let mut holder = hold(&world, "k");
    let insert = |id: &str, key: &str| {
        world.change(&format!(
            "INSERT INTO task_history (id, key, agent, agent_type, status, started_at)
             VALUES ('{id}', '{key}', 'x', 'command', 'running', '2026-01-01T00:00:00.000Z')"
        ))
    };
    let refused = insert("second", "k").expect_err("a second running task");
    assert!(refused.to_string().contains("UNIQUE"), "{refused}");
    insert("elsewhere", "other").expect("another key");
    holder.go.write_line("on");
    holder.process.wait().ended(End::Code(0)).silent();
    insert("later", "k").expect("the key after its holder ended");
    let again = world.change("UPDATE task_history SET status = 'running' WHERE id = 'holder'");
    assert!(again.is_err(), "an ended task cannot run again");
}

#[test]
fn a_default_key_needs_both_repo_and_issue() {
    let Some(world) = World::of_bookend("a_default_key_needs_both_repo_and_issue") else { return };
    for (options, key) in [
        (&["--repo", "a/b", "--issue", "7"][..], "forgejo:true:a/b:7"),
        (&["--repo", "a/b", "--issue", "7", "--agent", "dev"], "forgejo:dev:a/b:7"),
        (&["--repo", "a/b", "--issue", "#7", "--forge", "github"], "github:true:a/b:7"),
        (&["--repo", "a/b"], ""),
        (&["--repo", "a/b", "--issue", "7", "--key", "mine"], "mine"),
        (&[], ""),
    ] {
        world.run(["true"]).options(options.iter().copied()).run().ended(End::Code(0)).silent();
        assert_eq!(world.rows().pop().expect("a row").text("key"), key, "{options:?}");
    }
    world.run(["true"]).options(["--issue", "7", "--agent", "dev"]).run().ended(End::Code(0));
    assert_eq!(world.rows().pop().expect("a row").text("key"), "");
}

#[test]
fn sixty_four_waiting_runs_under_one_key_run_one_at_a_time() {
    let Some(world) = World::of_bookend("sixty_four_waiting_runs_under_one_key_run_one_at_a_time") else {
        return;
    };
    // Only one process at a time can create the directory.
    let script = "mkdir ../live || exit 9; bookend list --status running --json >seen.$$; rmdir ../live";
    let all: Vec<_> =
        (0..64).map(|_| world.run_sh(script).options(["--key", "k", "--wait"]).start()).collect();
    for process in all {
        process.wait().ended(End::Code(0)).silent();
    }
    let rows = world.rows();
    assert_eq!(rows.iter().filter(|r| r.ending() == "success/").count(), 64);
    let mut alone = 0;
    for entry in fs::read_dir(world.path("home")).expect("home").flatten() {
        let text = fs::read_to_string(entry.path()).expect("a list");
        let listed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(listed["tasks"].as_array().map(Vec::len), Some(1), "{listed:#}");
        alone += 1;
    }
    assert_eq!(alone, 64);
}

#[test]
fn a_run_resumes_the_session_after_a_success() {
    let Some(world) = World::of_bookend("a_run_resumes_the_session_after_a_success") else { return };
    world.claude("exit 0");
    claude(&world, "k", &[]).ended(End::Code(0)).silent();
    let (session, task) = linked(&world, "k").expect("a session");
    assert_eq!((last_argv(&world), task), (format!("--session-id {session} -p hi"), world.row().text("id")));
    let stderr = claude(&world, "k", &["-v"]).ended(End::Code(0)).stderr;
    assert!(stderr.contains(&format!("resume={session}")), "{stderr}");
    assert_eq!(last_argv(&world), format!("--resume {session} -p hi"));
    let row = &world.rows()[1];
    assert_eq!((row.text("resumed_from"), row.text("session_id")), (session.clone(), session.clone()));
    assert_eq!(linked(&world, "k"), Some((session.clone(), row.text("id"))));
    let stderr = claude(&world, "other", &["-v"]).ended(End::Code(0)).stderr;
    assert!(stderr.contains("resume=<none>"), "{stderr}");
    assert!(!last_argv(&world).contains(&session), "another key has another session");
}

#[test]
fn a_run_starts_a_fresh_session_after_a_failure_and_warns() {
    let Some(world) = World::of_bookend("a_run_starts_a_fresh_session_after_a_failure_and_warns") else {
        return;
    };
    for (script, end) in [("exit 1", End::Code(1)), ("kill -9 $$", End::Signal(9))] {
        world.claude("exit 0");
        claude(&world, "k", &[]).ended(End::Code(0)).silent();
        let (session, _) = linked(&world, "k").expect("a session");
        world.claude(script);
        let stderr = claude(&world, "k", &[]).ended(end).stderr;
        let warning = "the next run under key k starts a fresh conversation (undo: `bookend session ";
        assert_eq!(
            (stderr.matches(warning).count(), stderr.lines().count()),
            (1, 1),
            "one warning: {stderr}"
        );
        assert_eq!(linked(&world, "k"), None, "a program that reads only the table cannot resume it");
        let invalidations =
            world.sql(&format!("SELECT * FROM session_invalidation WHERE session_id = '{session}'"));
        assert_eq!(invalidations.len(), 1);
        assert_eq!(
            (invalidations[0].text("key"), invalidations[0].text("restored_at")),
            ("k".into(), String::new())
        );
        assert_eq!(invalidations[0].text("task_id"), world.rows().pop().expect("a row").text("id"));

        world.claude("exit 0");
        claude(&world, "k", &[]).ended(End::Code(0)).silent();
        assert!(last_argv(&world).starts_with("--session-id "), "{}", last_argv(&world));
        assert!(!last_argv(&world).contains(&session));
        claude(&world, "k", &["--fresh"]).ended(End::Code(0));
    }
}

#[test]
fn a_session_whose_task_did_not_succeed_is_not_resumed_whichever_program_linked_it() {
    let Some(world) =
        World::of_bookend("a_session_whose_task_did_not_succeed_is_not_resumed_whichever_program_linked_it")
    else {
        return;
    };
    world.claude("exit 1");
    world.run(CLAUDE).options(["--id", "bad"]).run().ended(End::Code(1));
    let bad = world.row().text("session_id");
    let unknown = "0197a6a0-0000-4000-8000-00000000abcd";
    world.claude("exit 0");
    let links = [(bad.as_str(), "'bad'"), (unknown, "'no such task'"), (unknown, "NULL"), (unknown, "'bad'")];
    for (n, (session, task)) in links.into_iter().enumerate() {
        let key = format!("k{n}");
        world
            .change(&format!(
                "INSERT INTO claude_sdk_sessions (key, session_id, provider, task_id)
                 VALUES ('{key}', '{session}', 'anthropic', {task})"
            ))
            .expect("a link");
        fs::write(world.path(&format!("home/.claude/projects/all/{session}.jsonl")), "{}")
            .expect("a transcript");
        let stderr = claude(&world, &key, &[]).ended(End::Code(0)).stderr;
        assert!(stderr.contains(session) && stderr.lines().count() == 1, "{stderr}");
        assert_eq!(session == bad, stderr.contains("bad") && stderr.contains("failure"), "{stderr}");
        assert!(last_argv(&world).starts_with("--session-id ") && !last_argv(&world).contains(session));
        assert_ne!(linked(&world, &key).expect("its own session").0, session);
    }
    let quiet = "INSERT INTO claude_sdk_sessions (key, session_id) VALUES ('q', 'unknown')";
    world.change(quiet).expect("a link");
    claude(&world, "q", &["-q"]).ended(End::Code(0)).silent();
}

#[test]
fn fresh_starts_a_new_session() {
    let Some(world) = World::of_bookend("fresh_starts_a_new_session") else { return };
    world.claude("exit 0");
    claude(&world, "k", &[]).ended(End::Code(0));
    let (session, _) = linked(&world, "k").expect("a session");
    claude(&world, "k", &["--fresh"]).ended(End::Code(0)).silent();
    assert!(last_argv(&world).starts_with("--session-id ") && !last_argv(&world).contains(&session));
    let (new, _) = linked(&world, "k").expect("a session");
    assert_ne!(new, session);
    claude(&world, "k", &[]).ended(End::Code(0)).silent();
    assert_eq!(last_argv(&world), format!("--resume {new} -p hi"));
}

#[test]
fn a_session_without_a_transcript_is_not_resumed() {
    let Some(world) = World::of_bookend("a_session_without_a_transcript_is_not_resumed") else { return };
    world.claude("exit 0");
    claude(&world, "k", &[]).ended(End::Code(0));
    let (session, _) = linked(&world, "k").expect("a session");
    fs::remove_file(world.path(&format!("home/.claude/projects/all/{session}.jsonl"))).expect("a transcript");
    let stderr = claude(&world, "k", &[]).ended(End::Code(0)).stderr;
    assert!(stderr.contains(&session) && stderr.contains("transcript"), "{stderr}");
    assert!(last_argv(&world).starts_with("--session-id ") && !last_argv(&world).contains(&session));
}

#[test]
fn a_run_that_never_executes_leaves_the_session_unchanged() {
    let Some(world) = World::of_bookend("a_run_that_never_executes_leaves_the_session_unchanged") else {
        return;
    };
    world.claude("exit 0");
    claude(&world, "k", &["--id", "good"]).ended(End::Code(0)).silent();
    let former = linked(&world, "k").expect("a session");
    assert_eq!(former.1, "good");
    fs::rename(world.path("bin/claude"), world.path("bin/away")).expect("claude is moved away");
    for (options, code) in [
        (&[][..], 127),
        (&["--prepare", "exit 1"], 125),
        (&["--cwd", "/no/such/folder"], 125),
        (&["--require-skill", "none"], 125),
        (&["--fresh"], 127),
    ] {
        // The caller's PATH may contain another claude.
        let run = world.run(CLAUDE).options(["--key", "k"]).options(options.iter().copied());
        run.env("PATH", world.name("bin")).run().ended(End::Code(code));
        assert_eq!(linked(&world, "k").as_ref(), Some(&former), "{options:?}");
        assert_eq!(
            world.rows().pop().expect("a row").text("session_id"),
            "",
            "{options:?}: the row names no session"
        );
    }
    let lost = world.sql("SELECT * FROM session_invalidation WHERE restored_at IS NULL");
    assert!(lost.is_empty(), "{lost:#?}");
    fs::rename(world.path("bin/away"), world.path("bin/claude")).expect("claude is moved back");
    claude(&world, "k", &[]).ended(End::Code(0)).silent();
    assert_eq!(last_argv(&world), format!("--resume {} -p hi", former.0));

    let first = "a key without a session";
    world.run(["claude", "-p"]).options(["--key", first, "--prepare", "exit 1"]).run().ended(End::Code(125));
    assert_eq!(linked(&world, first), None);
}

#[test]
fn a_session_in_use_under_another_key_exits_with_75() {
    let Some(world) = World::of_bookend("a_session_in_use_under_another_key_exits_with_75") else { return };
    world.claude("exit 0");
    claude(&world, "a", &[]).ended(End::Code(0));
    let (session, _) = linked(&world, "a").expect("a session");
    let resume = ["claude", "-p", "hi", "--resume", &session];
    world.run(resume).options(["--key", "b"]).run().ended(End::Code(0)).silent();
    assert_eq!(linked(&world, "b").map(|l| l.0), Some(session.clone()), "two keys have the same session");

    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    world.claude("echo up $$ >../up; read x <../go; exit 0");
    let user = world.run(CLAUDE).options(["--key", "a", "--id", "user"]).start();
    up.pid("up");
    let count = world.argvs().len();
    let by_link = claude(&world, "b", &[]).ended(End::Code(75));
    let by_argv = world.run(resume).run().ended(End::Code(75));
    let allowed = world.run(resume).options(["--allow-unsafe-resume"]).run().ended(End::Code(75));
    for output in [by_link, by_argv, allowed] {
        assert!(output.stderr.contains(&session) && output.stderr.contains("user"), "{}", output.stderr);
    }
    assert_eq!((world.argvs().len(), world.rows().len()), (count, 3), "nothing was executed");
    go.write_line("on");
    user.wait().ended(End::Code(0)).silent();
}

#[test]
fn resuming_an_unsafe_session_exits_with_78() {
    let Some(world) = World::of_bookend("resuming_an_unsafe_session_exits_with_78") else { return };
    world.claude("exit 1");
    claude(&world, "k", &["--id", "bad"]).ended(End::Code(1));
    let session = world.row().text("session_id");
    world.claude("exit 0");
    let resume = ["claude", "-p", "hi", "--resume", &session];
    let count = world.argvs().len();
    for options in [&[][..], &["--key", "k"], &["--key", "other"]] {
        let refused = world.run(resume).options(options.iter().copied()).run().ended(End::Code(78));
        for part in [session.as_str(), "bad", "failure", "--allow-unsafe-resume"] {
            assert!(refused.stderr.contains(part), "{part:?} in {}", refused.stderr);
        }
    }
    assert_eq!((world.argvs().len(), world.rows().len()), (count, 1), "nothing was executed");
    // The same rule applies to the most recent session of the folder.
    let folder: String = fs::canonicalize(world.path("home"))
        .expect("home")
        .to_string_lossy()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let folder = world.path("home/.claude/projects").join(folder);
    fs::create_dir(&folder).expect("a project");
    fs::write(folder.join(format!("{session}.jsonl")), "{}").expect("a transcript");
    world.run(["claude", "-p", "hi", "--continue"]).run().ended(End::Code(78));

    world.run(resume).options(["--allow-unsafe-resume", "--key", "k"]).run().ended(End::Code(0));
    assert_eq!(last_argv(&world), format!("-p hi --resume {session}"));
    assert_eq!(
        linked(&world, "k").map(|l| l.0),
        Some(session.clone()),
        "the session is linked again after a success"
    );
    claude(&world, "k", &[]).ended(End::Code(0)).silent();
    assert_eq!(last_argv(&world), format!("--resume {session} -p hi"));
    // A session that the ledger does not know is resumed as the user asks.
    let own = "0197a6a0-0000-4000-8000-00000000eeee";
    world.run(["claude", "-p", "hi", "--resume", own]).run().ended(End::Code(0)).silent();
}

#[test]
fn a_killed_supervisor_frees_its_key_and_its_session_is_not_resumed() {
    let Some(world) = World::of_bookend("a_killed_supervisor_frees_its_key_and_its_session_is_not_resumed")
    else {
        return;
    };
    let (mut up, _go) = (world.fifo("up"), world.fifo("go"));
    world.claude("echo up $$ >../up; read x <../go");
    let lost = world.run(CLAUDE).options(["--key", "k", "--id", "lost"]).own_group().start();
    up.pid("up");
    let (session, _) = linked(&world, "k").expect("a session");
    lost.signal(Signal::KILL);
    lost.wait().ended(End::Signal(9));
    world.claude("exit 0");
    let stderr = claude(&world, "k", &["--grace", "1s"]).ended(End::Code(0)).stderr;
    assert!(stderr.contains("lost"), "{stderr}");
    let row = task(&world, "lost");
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
    assert_eq!((row.text("end_source"), row.text("finished_at")), ("recovery".into(), String::new()));
    assert!(last_argv(&world).starts_with("--session-id ") && !last_argv(&world).contains(&session));
    let moves = world.sql("SELECT * FROM task_transition WHERE task_id = 'lost' AND from_status = 'running'");
    assert_eq!(moves.len(), 1, "one transition");
}
