//! Recovery finds, settles and reports each lost task once, and does not change running tasks.

use std::fs;

use rustix::process::Signal;

use crate::harness::{End, Proc, World, eventually, is_root, on_path, possible, state};
use crate::standins::{Busy, KEY, bookend, change, dispatch, gone, install, json, linked, recover};

/// The number of lines that contain `part`.
fn count(text: &str, part: &str) -> usize {
    text.lines().filter(|l| l.contains(part)).count()
}

#[test]
fn a_task_whose_processes_are_gone_is_interrupted_and_reported_once() {
    let Some(world) = World::of_bookend("a_task_whose_processes_are_gone_is_interrupted_and_reported_once")
    else {
        return;
    };
    Busy::sleep(&world, "one").kill_all();
    let report = recover(&world, &[]);
    assert_eq!(count(&report, "[recovery] task one interrupted (supervisor_lost)"), 1, "{report}");
    assert_eq!(
        count(&report, "[recovery] 1 task interrupted, 1 interrupted task reported in "),
        1,
        "{report}"
    );
    let row = world.row();
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
    assert_eq!(row.text("end_source"), "recovery");
    assert_eq!(
        (row.text("finished_at"), row.number("exit_code"), row.number("duration_ms")),
        (String::new(), None, None)
    );
    assert_eq!((row.real("cost_usd"), row.text("last_seen_at")), (None, row.text("started_at")));
    assert!(row.text("error").contains("had ended too"), "{row:?}");
    assert!(!row.text("cleanup_after").is_empty() && !row.text("hinted_at").is_empty());
    let moves = world.sql("SELECT * FROM task_transition ORDER BY at, n");
    let moves: Vec<String> =
        moves.iter().map(|m| format!("{} {}", m.text("to_status"), m.text("by_command"))).collect();
    assert_eq!(moves, ["running run", "interrupted recover"]);

    let again = recover(&world, &[]);
    assert_eq!(count(&again, "nothing to settle"), 1, "{again}");
    assert_eq!(world.row().text("hinted_at"), row.text("hinted_at"));
}

#[test]
fn an_agent_that_outlives_its_supervisor_is_ended() {
    let Some(world) = World::of_bookend("an_agent_that_outlives_its_supervisor_is_ended") else { return };
    let script = "trap '' TERM; echo ready $$ >$SAY; while :; do sleep 1000; done";
    let busy = Busy::start(&world, "say", |_| world.run_sh(script).options(["--id", "one"]));
    let agent = busy.agent;
    busy.kill_supervisor();
    assert_ne!(state(agent), None);
    let report = recover(&world, &["--grace", "0s"]);
    gone(&world, agent);
    let row = world.row();
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
    assert!(row.text("error").contains("was still running and was ended"), "{row:?}");
    assert!(row.json("leftovers")["ended"].as_i64() >= Some(1), "{row:?}");
    assert!(report.contains("was still running"), "{report}");
}

#[test]
fn a_running_task_and_its_session_are_unchanged() {
    let Some(world) = World::of_bookend("a_running_task_and_its_session_are_unchanged") else { return };
    install(&world);
    let busy = Busy::of(&world, "claude");
    let before = (world.row().text("status"), linked(&world));
    let report = json(&world, &["recover", "--json", "--ttl", "0s"]);
    assert_eq!((report["alive"].as_i64(), report["settled"].as_bool()), (Some(1), Some(true)), "{report}");
    assert_eq!((world.row().text("status"), linked(&world)), before);
    assert_ne!(state(busy.agent), None);
    busy.kill_all();
}

#[test]
fn concurrent_recoveries_settle_and_report_each_task_once() {
    let Some(world) = World::of_bookend("concurrent_recoveries_settle_and_report_each_task_once") else {
        return;
    };
    let ids = ["a", "b", "c", "d", "e"];
    for id in ids {
        Busy::sleep(&world, id).kill_all();
    }
    let alive = Busy::sleep(&world, "alive");
    let command = format!("echo $BOOKEND_FINISHED_TASK >>{}", world.name("passed"));
    let recoveries: Vec<Proc> =
        (0..8).map(|_| world.bare(["bookend", "recover", "--on-interrupted", &command]).start()).collect();
    let report: String =
        recoveries.into_iter().map(|r| r.wait().ended(End::Code(0)).silent().stdout).collect();
    let passed = fs::read_to_string(world.path("passed")).expect("the ids");
    for id in ids {
        assert_eq!(count(&report, &format!("task {id} interrupted")), 1, "{report}");
        assert_eq!(passed.lines().filter(|l| *l == id).count(), 1, "{passed}");
    }
    let moves = world.sql("SELECT task_id FROM task_transition WHERE to_status = 'interrupted'");
    assert_eq!(moves.len(), ids.len());
    assert_eq!(world.sql("SELECT id FROM task_history WHERE status = 'running'").len(), 1);
    alive.kill_all();
}

#[test]
fn a_task_interrupted_by_a_restart_is_reported_and_passed_on_once() {
    let Some(world) = World::of_bookend("a_task_interrupted_by_a_restart_is_reported_and_passed_on_once")
    else {
        return;
    };
    let busy = Busy::sleep(&world, "one");
    busy.supervisor.signal(Signal::TERM);
    busy.supervisor.wait().ended(End::Signal(15));
    assert_eq!(world.row().ending(), "interrupted/signal");
    let command = format!("cat >>{}", world.name("passed"));
    let report = recover(&world, &["--on-interrupted", &command]);
    assert_eq!(count(&report, "task one interrupted (signal)"), 1, "{report}");
    assert!(report.contains("stopped by SIGTERM from pid"), "{report}");
    recover(&world, &["--on-interrupted", &command]);
    let passed = fs::read_to_string(world.path("passed")).expect("the row");
    let row: serde_json::Value = serde_json::from_str(&passed).expect("one row as JSON");
    assert_eq!((row["id"].as_str(), row["status"].as_str()), (Some("one"), Some("interrupted")));
    assert_eq!(row["user_argv"][0], "sh");
}

#[test]
fn a_failed_on_interrupted_command_is_retried() {
    let Some(world) = World::of_bookend("a_failed_on_interrupted_command_is_retried") else { return };
    Busy::sleep(&world, "one").kill_all();
    let failed = bookend(&world, &["recover", "--on-interrupted", "exit 3"]).ended(End::Code(1));
    assert!(failed.stdout.contains("failed with exit code 3"), "{failed:?}");
    let report = recover(&world, &["--on-interrupted", "true"]);
    assert_eq!(count(&report, "task one interrupted"), 1, "{report}");
    assert_eq!(count(&recover(&world, &["--on-interrupted", "exit 3"]), "nothing to settle"), 1);
}

#[test]
fn a_dry_run_reports_the_tasks_and_changes_nothing() {
    let Some(world) = World::of_bookend("a_dry_run") else { return };
    install(&world);
    Busy::of(&world, "claude").kill_all();
    let link = linked(&world);
    let dry = bookend(&world, &["recover", "--dry-run"]).ended(End::Code(1)).silent();
    assert_eq!(count(&dry.stdout, "would be interrupted (supervisor_lost)"), 1, "{dry:?}");
    assert_eq!(world.row().text("status"), "running");
    assert_eq!(linked(&world), link);
    assert_eq!(world.sql("SELECT * FROM task_transition").len(), 1);
    recover(&world, &[]);
    bookend(&world, &["recover", "--dry-run"]).ended(End::Code(0));
}

#[test]
fn recover_without_a_ledger_settles_nothing_and_creates_none() {
    let Some(world) = World::of_bookend("recover_without_a_ledger_settles_nothing_and_creates_none") else {
        return;
    };
    assert!(recover(&world, &[]).contains("nothing to settle"));
    assert!(recover(&world, &["--dry-run"]).contains("nothing to settle"));
    assert!(!world.ledger().exists());
}

#[test]
fn a_task_of_another_boot_is_rebooted_and_no_process_is_signalled() {
    let Some(world) = World::of_bookend("a_task_of_another_boot_is_rebooted_and_no_process_is_signalled")
    else {
        return;
    };
    let other = Busy::sleep(&world, "other");
    Busy::sleep(&world, "one").kill_all();
    change(
        &world,
        &format!(
            "UPDATE task_history
             SET boot_id = 'another', supervisor_pid = {}, agent_pid = {}, live_slot = live_slot + 1
             WHERE id = 'one'",
            other.supervisor.pid(),
            other.agent
        ),
    );
    let report = json(&world, &["recover", "--json"]);
    assert_eq!(report["interrupted"][0]["reason"], "rebooted", "{report}");
    assert_eq!(report["hints"][0]["task"]["reason"], "rebooted", "{report}");
    assert_ne!(state(other.agent), Some('Z'));
    assert_eq!(world.sql("SELECT * FROM task_history WHERE status = 'running'")[0].text("id"), "other");
    other.kill_all();
}

#[test]
fn oom_is_the_reason_only_for_a_kill_on_this_boot_since_the_task_started() {
    let test = "oom_is_the_reason_only_for_a_kill_on_this_boot_since_the_task_started";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("unshare"), "root and unshare, to mount other cgroup files") {
        return;
    }
    for (id, before, boot) in
        [("after-start", 1, "boot_id"), ("before-start", 2, "boot_id"), ("earlier-boot", 1, "'another'")]
    {
        Busy::sleep(&world, id).kill_all();
        change(
            &world,
            &format!(
                "UPDATE task_history SET cgroup = '/group', oom_kills_before = {before}, boot_id = {boot}
                 WHERE id = '{id}'"
            ),
        );
    }
    let script = "mount -t tmpfs none /sys/fs/cgroup && mkdir /sys/fs/cgroup/group &&
        echo 'oom_kill 2' >/sys/fs/cgroup/group/memory.events && exec bookend recover";
    world.bare(["unshare", "--mount", "sh", "-c", script]).run().ended(End::Code(0)).silent();
    let of = |id: &str| {
        let row = world.sql(&format!("SELECT * FROM task_history WHERE id = '{id}'")).remove(0);
        (row.text("reason"), row.number("oom_killed"))
    };
    assert_eq!(of("after-start"), ("oom".to_owned(), Some(1)));
    assert_eq!(of("before-start"), ("supervisor_lost".to_owned(), Some(0)));
    assert_eq!(
        of("earlier-boot"),
        ("rebooted".to_owned(), None),
        "the counter of the cgroup is from another boot"
    );
}

#[test]
fn a_task_of_another_host_keeps_its_key_until_it_expires() {
    let Some(world) = World::of_bookend("a_task_of_another_host_keeps_its_key_until_it_expires") else {
        return;
    };
    install(&world);
    Busy::of(&world, "claude").kill_all();
    change(&world, "UPDATE task_history SET boot_id = 'another', host = 'elsewhere'");
    let link = linked(&world);
    let kept = bookend(&world, &["recover"]).ended(End::Code(1)).silent();
    assert_eq!(count(&kept.stdout, "cannot be judged from here"), 1, "{kept:?}");
    assert_eq!((world.row().text("status").as_str(), linked(&world)), ("running", link));
    let refused = dispatch(&world, "claude").run().ended(End::Code(75));
    assert!(refused.stderr.contains("cannot be judged from here"), "{refused:?}");

    change(&world, "UPDATE task_history SET last_seen_at = '2020-01-01T00:00:00.000Z'");
    let report = recover(&world, &[]);
    assert_eq!(count(&report, "interrupted (ttl)"), 1, "{report}");
    assert_eq!(world.row().ending(), "interrupted/ttl");
    assert_eq!(linked(&world), None);
}

#[test]
fn a_copied_ledger_does_not_show_whether_a_task_runs() {
    let Some(world) = World::of_bookend("a_copied_ledger_does_not_show_whether_a_task_runs") else { return };
    let busy = Busy::sleep(&world, "one");
    let copied = world.bare(["cp", "-r", &world.name("state/bookend"), &world.name("copy")]).run();
    copied.ended(End::Code(0));
    let copy = world.name("copy/bookend.db");
    let report = json(&world, &["recover", "--json", "--ledger", &copy]);
    assert_eq!(report["unverifiable"][0]["id"], "one", "{report}");
    assert_eq!(report["settled"], false);
    assert_eq!(world.sql_of("copy/bookend.db", "SELECT * FROM task_history")[0].text("status"), "running");
    assert_ne!(state(busy.agent), None);
    busy.kill_all();
}

#[test]
fn an_undelivered_end_is_delivered_with_the_number_of_the_attempt() {
    let Some(world) = World::of_bookend("an_undelivered_end_is_delivered_with_the_number_of_the_attempt")
    else {
        return;
    };
    let (mut started, out) = (world.fifo("hook"), world.name("delivered"));
    // The first attempt does not end; the test kills its supervisor.
    let hook = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) echo ready $$ >{}; exec sleep 1000;; esac
         echo $BOOKEND_DELIVERY_ATTEMPT >>{out}; cat >>{out}",
        started.path()
    );
    let run = world.run_sh("exit 3").options(["--id", "one", "--on-finish", &hook]).start();
    let pid = started.pid("ready");
    assert_eq!(count(&recover(&world, &[]), "on-finish"), 0, "its supervisor runs");
    run.signal(Signal::KILL);
    run.wait();
    gone(&world, pid);
    assert_eq!(world.row().text("delivery_status"), "delivering");
    let report = recover(&world, &[]);
    assert_eq!(count(&report, "--on-finish command of task one: delivered"), 1, "{report}");
    let row = world.row();
    assert_eq!(
        (row.text("delivery_status").as_str(), row.number("delivery_attempts")),
        ("delivered", Some(2))
    );
    let text = fs::read_to_string(out).expect("the delivered text");
    let (attempt, json) = text.split_once('\n').expect("two lines");
    let delivered: serde_json::Value = serde_json::from_str(json).expect("the row");
    assert_eq!(
        (attempt, delivered["id"].as_str(), delivered["exit_code"].as_i64()),
        ("2", Some("one"), Some(3))
    );
    assert_eq!(count(&recover(&world, &[]), "nothing to settle"), 1);
}

#[test]
fn concurrent_recoveries_deliver_the_end_of_a_lost_task_once() {
    let Some(world) = World::of_bookend("concurrent_recoveries_deliver_the_end_of_a_lost_task_once") else {
        return;
    };
    let out = world.name("delivered");
    let script = "echo ready $$ >$SAY; exec sleep 1000";
    let hook = format!("echo $BOOKEND_FINISHED_TASK $(pwd) >>{out}");
    let busy =
        Busy::start(&world, "say", |_| world.run_sh(script).options(["--id", "one", "--on-finish", &hook]));
    busy.kill_all();
    let recoveries: Vec<Proc> = (0..6).map(|_| world.bare(["bookend", "recover"]).cwd("/").start()).collect();
    for recovery in recoveries {
        recovery.wait().ended(End::Code(0)).silent();
    }
    let home = fs::canonicalize(world.path("home")).expect("a directory");
    assert_eq!(fs::read_to_string(out).expect("a line"), format!("one {}\n", home.display()));
    assert_eq!(world.row().text("delivery_status"), "delivered");
}

#[test]
fn a_delivery_that_is_interrupted_three_times_has_failed() {
    let Some(world) = World::of_bookend("a_delivery_that_is_interrupted_three_times_has_failed") else {
        return;
    };
    let hook = format!("echo x >>{}", world.name("delivered"));
    world.run_sh("true").options(["--on-finish", &hook]).run().ended(End::Code(0));
    change(&world, "UPDATE task_history SET delivery_status = 'delivering', delivery_attempts = 3");
    let report = recover(&world, &[]);
    assert_eq!(count(&report, ": failed"), 1, "{report}");
    assert_eq!(world.row().text("delivery_status"), "failed");
    assert_eq!(fs::read_to_string(world.path("delivered")).expect("a line"), "x\n");
}

#[test]
fn a_run_settles_the_lost_task_under_its_key_and_starts_fresh() {
    let Some(world) = World::of_bookend("a_run_settles_the_lost_task_under_its_key_and_starts_fresh") else {
        return;
    };
    install(&world);
    Busy::of(&world, "claude").kill_all();
    let (session, first) = linked(&world).expect("a session");
    let second = dispatch(&world, "claude").options(["-v"]).run().ended(End::Code(0));
    assert_eq!(count(&second.stderr, &format!("settled task {first}")), 1, "{second:?}");
    assert_eq!(count(&second.stderr, "resume=<none>"), 1, "{second:?}");
    let rows = world.rows();
    assert_eq!([rows[0].ending(), rows[1].ending()], ["interrupted/supervisor_lost", "success/"]);
    assert_ne!(rows[1].text("session_id"), session);
    assert_eq!(rows[1].text("resumed_from"), "");
    let report = recover(&world, &[]);
    assert_eq!(count(&report, &format!("task {first} interrupted")), 1, "{report}");
}

#[test]
fn a_run_settles_a_lost_task_that_holds_its_session_under_another_key() {
    let Some(world) = World::of_bookend("a_run_settles_a_lost_task_that_holds_its_session_under_another_key")
    else {
        return;
    };
    install(&world);
    dispatch(&world, "claude").run().ended(End::Code(0));
    let (session, _) = linked(&world).expect("a session");
    let other = |more: &[&'static str]| {
        let argv = ["claude", "-p", "go", "--output-format", "stream-json", "--verbose", "--resume"];
        let options = ["--key", "another"].into_iter().chain(more.iter().copied());
        world.run(argv.into_iter().chain([session.as_str()])).options(options)
    };
    let busy = Busy::start(&world, "other", |_| other(&[]));
    let refused = dispatch(&world, "claude").run().ended(End::Code(75));
    assert!(refused.stderr.contains(&format!("session {session} is in use by task")), "{refused:?}");
    busy.kill_all();
    let fresh = dispatch(&world, "claude").options(["-v"]).run().ended(End::Code(0));
    assert!(fresh.stderr.contains("settled task") && fresh.stderr.contains("resume=<none>"), "{fresh:?}");
    let endings: Vec<String> = world.rows().iter().map(|r| r.ending()).collect();
    assert_eq!(endings, ["success/", "interrupted/supervisor_lost", "success/"]);
}

#[test]
fn the_report_shows_what_the_task_was_doing() {
    let Some(world) = World::of_bookend("the_report_shows_what_the_task_was_doing") else { return };
    if !possible("the_report_shows_what_the_task_was_doing", on_path("git"), "git") {
        return;
    }
    install(&world);
    let git = |words: &[&str]| {
        let done = world.bare(["git", "-C", &world.name("home")].iter().chain(words).copied()).run();
        done.ended(End::Code(0));
    };
    git(&["init", "-q"]);
    let busy = Busy::of(&world, "claude");
    // The second change: the agent has made the first.
    fs::write(world.path("home/new.txt"), "x").expect("a change");
    // bookend records partial counts a moment after the output that contains them.
    eventually(world.deadline(), "the counts", || world.row().number("input_tokens") == Some(100));
    eventually(world.deadline(), "the tool", || world.row().text("tool_in_flight") == "Bash");
    busy.kill_all();
    let row = world.row();
    let report = recover(&world, &[]);
    let line = report.lines().find(|l| l.contains("interrupted")).expect("the hint");
    for part in [
        &format!("key {KEY}"),
        "agent claude",
        "tokens: 100 in",
        "in flight Bash",
        ": 2 uncommitted changes",
        &format!("session {} invalidated", row.text("session_id")),
        &format!(
            "to run it again: bookend redispatch --ledger {} {}",
            world.ledger().display(),
            row.text("id")
        ),
    ] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert_eq!(world.row().number("input_tokens"), Some(100), "the counts are kept");
    let shown = json(&world, &["show", &row.text("id"), "--json"]);
    assert_eq!(shown["task"]["tool_in_flight"], "Bash");
}

#[test]
fn a_nested_run_receives_sigterm_and_settles_its_own_row() {
    let Some(world) = World::of_bookend("a_nested_run_receives_sigterm_and_settles_its_own_row") else {
        return;
    };
    let inner = "bookend run --id inner -- sh -c 'echo ready $$ >$SAY; exec sleep 1000'; true";
    let busy = Busy::start(&world, "say", |_| world.run_sh(inner).options(["--id", "outer"]));
    busy.kill_supervisor();
    recover(&world, &[]);
    let ending = |id: &str| {
        let rows = world.sql(&format!("SELECT * FROM task_history WHERE id = '{id}'"));
        (rows[0].ending(), rows[0].text("end_source"))
    };
    assert_eq!(ending("outer"), ("interrupted/supervisor_lost".to_owned(), "recovery".to_owned()));
    eventually(world.deadline(), "the end of the inner task", || ending("inner").0 != "running/");
    assert_eq!(ending("inner"), ("interrupted/signal".to_owned(), "wait".to_owned()));
}

#[test]
fn recoveries_beside_starting_and_ending_runs_settle_no_running_task() {
    let Some(world) = World::of_bookend("recoveries_beside_starting_and_ending_runs_settle_no_running_task")
    else {
        return;
    };
    // Creates the ledger.
    world.run_sh("true").run().ended(End::Code(0));
    let runs: Vec<Proc> = (0..24).map(|n| world.run_sh(&format!("exit {}", n % 3)).start()).collect();
    let recoveries: Vec<Proc> = (0..12).map(|_| world.bare(["bookend", "recover"]).start()).collect();
    for run in runs {
        run.wait();
    }
    for recovery in recoveries {
        recovery.wait().ended(End::Code(0));
    }
    let rows = world.rows();
    assert_eq!(rows.len(), 25);
    for row in rows {
        assert!(["success", "failure"].contains(&row.text("status").as_str()), "{row:?}");
        assert_eq!(row.text("end_source"), "wait");
    }
}

#[test]
fn recover_scans_each_process_at_most_once_per_lost_task() {
    let test = "recover_scans_each_process_at_most_once_per_lost_task";
    if !possible(test, on_path("strace"), "strace") {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    let mut out = world.fifo("stay");
    let script = format!("probe stay {} & wait", out.path());
    let (runs, leftovers): (Vec<Proc>, Vec<i32>) =
        (0..20).map(|_| (world.run_sh(&script).start(), out.pid("stay"))).unzip();
    // Started after the agents, so it may belong to any of the tasks.
    let other = world.bare(["probe", "stay", &out.path()]).start();
    out.pid("stay");
    for process in runs {
        process.signal(Signal::KILL);
        process.wait().ended(End::Signal(9));
    }
    let trace = world.name("trace");
    let traced = ["strace", "-qq", "-e", "trace=openat", "-o", &trace, "bookend", "recover"];
    world.bare(traced).run().ended(End::Code(0));
    assert!(leftovers.iter().all(|pid| matches!(state(*pid), None | Some('Z'))), "{leftovers:?}");
    assert!(world.rows().iter().all(|row| row.ending() == "interrupted/supervisor_lost"));
    let path = format!("\"{}/environ\"", other.pid());
    let text = fs::read_to_string(trace).expect("the trace");
    let reads = text.lines().filter(|line| line.contains(&path)).count();
    assert!((1..=20).contains(&reads), "{reads} reads for 20 tasks");
}
