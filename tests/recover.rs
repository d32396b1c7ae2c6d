//! Lost tasks are found, settled and reported once, and running tasks are left alone.

use std::fs;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::{End, Proc, World, eventually, is_root, on_path, possible, state};
use crate::standins::{Busy, KEY, bookend, change, dispatch, gone, install, json, linked, recover};

/// How often a line says this.
fn count(text: &str, what: &str) -> usize {
    text.lines().filter(|l| l.contains(what)).count()
}

#[test]
fn a_task_whose_processes_are_gone_is_interrupted_and_reported_once() {
    let Some(world) = World::of_bookend("a_task_whose_processes_are_gone") else { return };
    Busy::sleep(&world, "one").kill_all();
    let told = recover(&world, &[]);
    assert_eq!(count(&told, "[recovery] task one interrupted (supervisor_lost)"), 1, "{told}");
    assert_eq!(count(&told, "[recovery] 1 task interrupted, 1 interrupted task reported in "), 1, "{told}");
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
    let Some(world) = World::of_bookend("an_agent_that_outlives_its_supervisor") else { return };
    let script = "trap '' TERM; echo ready $$ >$SAY; while :; do sleep 1000; done";
    let busy = Busy::start(&world, "say", |_| world.run_sh(script).options(["--id", "one"]));
    let agent = busy.agent;
    busy.kill_supervisor();
    assert_ne!(state(agent), None);
    let told = recover(&world, &["--grace", "0s"]);
    gone(&world, agent);
    let row = world.row();
    assert_eq!(row.ending(), "interrupted/supervisor_lost");
    assert!(row.text("error").contains("was still running and was ended"), "{row:?}");
    assert!(row.json("leftovers")["ended"].as_i64() >= Some(1), "{row:?}");
    assert!(told.contains("was still running"), "{told}");
}

#[test]
fn a_live_task_and_its_session_are_left_alone() {
    let Some(world) = World::of_bookend("a_live_task_and_its_session") else { return };
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
fn many_recoveries_at_once_settle_and_tell_each_task_once() {
    let Some(world) = World::of_bookend("many_recoveries_at_once") else { return };
    let ids = ["a", "b", "c", "d", "e"];
    for id in ids {
        Busy::sleep(&world, id).kill_all();
    }
    let alive = Busy::sleep(&world, "alive");
    let hand_on = format!("echo $BOOKEND_FINISHED_TASK >>{}", world.name("handed"));
    let recoveries: Vec<Proc> =
        (0..8).map(|_| world.bare(["bookend", "recover", "--on-interrupted", &hand_on]).start()).collect();
    let told: String = recoveries.into_iter().map(|r| r.wait().ended(End::Code(0)).silent().stdout).collect();
    let handed = fs::read_to_string(world.path("handed")).expect("what was handed on");
    for id in ids {
        assert_eq!(count(&told, &format!("task {id} interrupted")), 1, "{told}");
        assert_eq!(handed.lines().filter(|l| *l == id).count(), 1, "{handed}");
    }
    let moves = world.sql("SELECT task_id FROM task_transition WHERE to_status = 'interrupted'");
    assert_eq!(moves.len(), ids.len());
    assert_eq!(world.sql("SELECT id FROM task_history WHERE status = 'running'").len(), 1);
    alive.kill_all();
}

#[test]
fn a_task_that_ended_itself_on_a_clean_restart_is_reported_and_handed_on_once() {
    let Some(world) = World::of_bookend("a_task_that_ended_itself_on_a_clean_restart") else { return };
    let busy = Busy::sleep(&world, "one");
    busy.supervisor.signal(Signal::TERM);
    busy.supervisor.wait().ended(End::Signal(15));
    assert_eq!(world.row().ending(), "interrupted/signal");
    let hand_on = format!("cat >>{}", world.name("handed"));
    let told = recover(&world, &["--on-interrupted", &hand_on]);
    assert_eq!(count(&told, "task one interrupted (signal)"), 1, "{told}");
    assert!(told.contains("stopped by SIGTERM from pid"), "{told}");
    recover(&world, &["--on-interrupted", &hand_on]);
    let handed = fs::read_to_string(world.path("handed")).expect("the row");
    let row: serde_json::Value = serde_json::from_str(&handed).expect("one row as JSON");
    assert_eq!((row["id"].as_str(), row["status"].as_str()), (Some("one"), Some("interrupted")));
    assert_eq!(row["user_argv"][0], "sh");
}

#[test]
fn what_could_not_be_handed_on_is_tried_again() {
    let Some(world) = World::of_bookend("what_could_not_be_handed_on") else { return };
    Busy::sleep(&world, "one").kill_all();
    let failed = bookend(&world, &["recover", "--on-interrupted", "exit 3"]).ended(End::Code(1));
    assert!(failed.stdout.contains("failed with exit code 3"), "{failed:?}");
    let told = recover(&world, &["--on-interrupted", "true"]);
    assert_eq!(count(&told, "task one interrupted"), 1, "{told}");
    assert_eq!(count(&recover(&world, &["--on-interrupted", "exit 3"]), "nothing to settle"), 1);
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
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
fn where_there_is_no_ledger_there_is_nothing_to_settle_and_none_is_made() {
    let Some(world) = World::of_bookend("where_there_is_no_ledger") else { return };
    assert!(recover(&world, &[]).contains("nothing to settle"));
    assert!(recover(&world, &["--dry-run"]).contains("nothing to settle"));
    assert!(!world.ledger().exists());
}

#[test]
fn a_task_of_another_boot_is_rebooted_and_no_process_of_this_one_is_touched() {
    let Some(world) = World::of_bookend("a_task_of_another_boot") else { return };
    let stranger = Busy::sleep(&world, "stranger");
    Busy::sleep(&world, "one").kill_all();
    change(
        &world,
        &format!(
            "UPDATE task_history
             SET boot_id = 'another', supervisor_pid = {}, agent_pid = {}, live_slot = live_slot + 1
             WHERE id = 'one'",
            stranger.supervisor.pid(),
            stranger.agent
        ),
    );
    let report = json(&world, &["recover", "--json"]);
    assert_eq!(report["interrupted"][0]["reason"], "rebooted", "{report}");
    assert_eq!(report["hints"][0]["task"]["reason"], "rebooted", "{report}");
    assert_ne!(state(stranger.agent), Some('Z'));
    assert_eq!(world.sql("SELECT * FROM task_history WHERE status = 'running'")[0].text("id"), "stranger");
    stranger.kill_all();
}

#[test]
fn the_oom_killer_is_the_reason_only_where_it_struck_since_the_task_began_and_on_this_boot() {
    let test = "the_oom_killer_is_the_reason_only_where_it_struck_since_the_task_began";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("unshare"), "root and unshare, to show cgroups of its own") {
        return;
    }
    for (id, before, boot) in
        [("struck", 1, "boot_id"), ("struck-before", 2, "boot_id"), ("booted", 1, "'another'")]
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
    assert_eq!(of("struck"), ("oom".to_owned(), Some(1)));
    assert_eq!(of("struck-before"), ("supervisor_lost".to_owned(), Some(0)));
    assert_eq!(of("booted"), ("rebooted".to_owned(), None), "what its cgroup says now is not of its boot");
}

#[test]
fn a_task_of_another_host_is_kept_with_its_key_until_it_is_too_old() {
    let Some(world) = World::of_bookend("a_task_of_another_host") else { return };
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
    let told = recover(&world, &[]);
    assert_eq!(count(&told, "interrupted (ttl)"), 1, "{told}");
    assert_eq!(world.row().ending(), "interrupted/ttl");
    assert_eq!(linked(&world), None);
}

#[test]
fn a_copy_of_the_ledger_says_nothing_of_who_lives() {
    let Some(world) = World::of_bookend("a_copy_of_the_ledger") else { return };
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
fn an_end_that_was_not_delivered_is_delivered_with_the_number_of_the_attempt() {
    let Some(world) = World::of_bookend("an_end_that_was_not_delivered") else { return };
    let (mut said, out) = (world.fifo("hook"), world.name("delivered"));
    // The first attempt waits for ever: its supervisor is killed meanwhile.
    let hook = format!(
        "case $BOOKEND_DELIVERY_ATTEMPT in 1) echo ready $$ >{}; exec sleep 1000;; esac
         echo $BOOKEND_DELIVERY_ATTEMPT >>{out}; cat >>{out}",
        said.path()
    );
    let run = world.run_sh("exit 3").options(["--id", "one", "--on-finish", &hook]).start();
    let pid = said.pid("ready");
    assert_eq!(count(&recover(&world, &[]), "on-finish"), 0, "its supervisor lives");
    run.signal(Signal::KILL);
    run.wait();
    gone(&world, pid);
    assert_eq!(world.row().text("delivery_status"), "delivering");
    let told = recover(&world, &[]);
    assert_eq!(count(&told, "--on-finish command of task one: delivered"), 1, "{told}");
    let row = world.row();
    assert_eq!(
        (row.text("delivery_status").as_str(), row.number("delivery_attempts")),
        ("delivered", Some(2))
    );
    let text = fs::read_to_string(out).expect("what was delivered");
    let (attempt, json) = text.split_once('\n').expect("two lines");
    let delivered: serde_json::Value = serde_json::from_str(json).expect("the row");
    assert_eq!(
        (attempt, delivered["id"].as_str(), delivered["exit_code"].as_i64()),
        ("2", Some("one"), Some(3))
    );
    assert_eq!(count(&recover(&world, &[]), "nothing to settle"), 1);
}

#[test]
fn the_end_of_a_task_that_recovery_ended_is_delivered_once_by_many() {
    let Some(world) = World::of_bookend("the_end_of_a_task_that_recovery_ended") else { return };
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
fn a_delivery_that_is_cut_off_again_and_again_counts_as_failed() {
    let Some(world) = World::of_bookend("a_delivery_that_is_cut_off_again_and_again") else { return };
    let hook = format!("echo x >>{}", world.name("delivered"));
    world.run_sh("true").options(["--on-finish", &hook]).run().ended(End::Code(0));
    change(&world, "UPDATE task_history SET delivery_status = 'delivering', delivery_attempts = 3");
    let told = recover(&world, &[]);
    assert_eq!(count(&told, ": failed"), 1, "{told}");
    assert_eq!(world.row().text("delivery_status"), "failed");
    assert_eq!(fs::read_to_string(world.path("delivered")).expect("a line"), "x\n");
}

#[test]
fn a_run_settles_its_dead_predecessor_says_so_and_starts_fresh() {
    let Some(world) = World::of_bookend("a_run_settles_its_dead_predecessor") else { return };
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
    let told = recover(&world, &[]);
    assert_eq!(count(&told, &format!("task {first} interrupted")), 1, "{told}");
}

#[test]
fn a_session_held_by_a_dead_task_under_another_key_is_settled_by_the_run_that_wants_it() {
    let Some(world) = World::of_bookend("a_session_held_by_a_dead_task_under_another_key") else { return };
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
fn the_hint_tells_what_was_going_on() {
    let Some(world) = World::of_bookend("the_hint_tells_what_was_going_on") else { return };
    if !possible("the_hint_tells_what_was_going_on", on_path("git"), "git") {
        return;
    }
    install(&world);
    let git = |words: &[&str]| {
        let done = world.bare(["git", "-C", &world.name("home")].iter().chain(words).copied()).run();
        done.ended(End::Code(0));
    };
    git(&["init", "-q"]);
    let busy = Busy::of(&world, "claude");
    // Beside what the agent keeps there.
    fs::write(world.path("home/new.txt"), "x").expect("a change");
    // The partial counts come a moment after the output that told them.
    eventually(world.deadline(), "the counts", || world.row().number("input_tokens") == Some(100));
    eventually(world.deadline(), "the tool", || world.row().text("tool_in_flight") == "Bash");
    busy.kill_all();
    let row = world.row();
    let told = recover(&world, &[]);
    let line = told.lines().find(|l| l.contains("interrupted")).expect("the hint");
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
    assert_eq!(world.row().number("input_tokens"), Some(100), "what was counted stays");
    let shown = json(&world, &["show", &row.text("id"), "--json"]);
    assert_eq!(shown["task"]["tool_in_flight"], "Bash");
}

#[test]
fn a_nested_task_is_told_to_end_and_settles_its_own_row() {
    let Some(world) = World::of_bookend("a_nested_task") else { return };
    let inner = "bookend run --id inner -- sh -c 'echo ready $$ >$SAY; exec sleep 1000'; true";
    let busy = Busy::start(&world, "say", |_| world.run_sh(inner).options(["--id", "outer"]));
    busy.kill_supervisor();
    recover(&world, &[]);
    let ending = |id: &str| {
        let rows = world.sql(&format!("SELECT * FROM task_history WHERE id = '{id}'"));
        (rows[0].ending(), rows[0].text("end_source"))
    };
    assert_eq!(ending("outer"), ("interrupted/supervisor_lost".to_owned(), "recovery".to_owned()));
    eventually(world.deadline(), "the inner end", || ending("inner").0 != "running/");
    assert_eq!(ending("inner"), ("interrupted/signal".to_owned(), "wait".to_owned()));
}

#[test]
fn recoveries_beside_starting_and_ending_runs_never_mark_one_that_lives() {
    let Some(world) = World::of_bookend("recoveries_beside_starting_and_ending_runs") else { return };
    // So that there is a ledger.
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
fn a_task_is_dispatched_again_as_the_hint_says() {
    let Some(world) = World::of_bookend("a_task_is_dispatched_again") else { return };
    install(&world);
    let busy = Busy::start(&world, "say", |_| {
        dispatch(&world, "claude").options(["--user", "charles", "--retention", "1h"]).cwd(world.path("tmp"))
    });
    busy.kill_all();
    let report = json(&world, &["recover", "--json"]);
    let command = report["hints"][0]["redispatch"].as_str().expect("a command").to_owned();
    let again = world.bare(command.split(' ')).run().ended(End::Code(0)).silent();
    assert!(again.stdout.contains("\"result\":\"done\""), "{again:?}");
    let rows = world.rows();
    assert_eq!([rows[0].ending(), rows[1].ending()], ["interrupted/supervisor_lost", "success/"]);
    for column in ["key", "user", "user_argv", "run_options", "cwd", "retention_secs"] {
        assert_eq!(rows[0].text(column), rows[1].text(column), "{column}");
    }
    assert_eq!(rows[1].text("resumed_from"), "");
    assert_ne!(rows[1].text("session_id"), rows[0].text("session_id"));
}

#[test]
fn a_prompt_that_came_on_stdin_is_gone_and_has_to_be_given_anew() {
    let Some(world) = World::of_bookend("a_prompt_that_came_on_stdin") else { return };
    let script = "cat >$OUT; echo ready $$ >$SAY; exec sleep 1000";
    let out = world.name("prompt");
    let mut say = world.fifo("say");
    let mut run = world
        .run_sh(script)
        .options(["--id", "one"])
        .env("OUT", &out)
        .env("SAY", say.path())
        .piped_input()
        .start();
    run.stdin = None;
    let agent = say.pid("ready");
    Busy { world: &world, supervisor: run, agent }.kill_all();
    let told = recover(&world, &[]);
    assert!(told.contains("its stdin was not recorded"), "{told}");
    let refused = bookend(&world, &["redispatch", "one"]).ended(End::Code(125));
    assert!(refused.stderr.contains("--stdin one <PROMPT"), "{refused:?}");
    assert_eq!(world.rows().len(), 1);
    fs::write(world.path("new"), "the prompt").expect("a prompt");
    let prompt = fs::File::open(world.path("new")).expect("a prompt");
    let again = world
        .bare(["bookend", "redispatch", "one", "--stdin"])
        .env("OUT", &out)
        .env("SAY", say.path())
        .input(prompt);
    let again = again.start();
    let agent = say.pid("ready");
    assert_eq!(fs::read_to_string(Path::new(&out)).expect("the prompt"), "the prompt");
    Busy { world: &world, supervisor: again, agent }.kill_all();
}

#[test]
fn a_running_task_is_not_dispatched_again() {
    let Some(world) = World::of_bookend("a_running_task_is_not_dispatched_again") else { return };
    let busy = Busy::sleep(&world, "one");
    bookend(&world, &["redispatch", "one"]).ended(End::Code(75));
    assert_eq!(world.rows().len(), 1);
    busy.kill_all();
}

#[test]
fn many_dead_tasks_are_looked_for_as_often_as_one() {
    let test = "many_dead_tasks_are_looked_for_as_often_as_one";
    if !possible(test, on_path("strace"), "strace") {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    let mut out = world.fifo("stay");
    let script = format!("probe stay {} & wait", out.path());
    let (dead, left): (Vec<Proc>, Vec<i32>) =
        (0..20).map(|_| (world.run_sh(&script).start(), out.pid("stay"))).unzip();
    // Begun later, it might be anybody's.
    let stranger = world.bare(["probe", "stay", &out.path()]).start();
    out.pid("stay");
    for process in dead {
        process.signal(Signal::KILL);
        process.wait().ended(End::Signal(9));
    }
    let trace = world.name("trace");
    let traced = ["strace", "-qq", "-e", "trace=openat", "-o", &trace, "bookend", "recover"];
    world.bare(traced).run().ended(End::Code(0));
    assert!(left.iter().all(|pid| matches!(state(*pid), None | Some('Z'))), "{left:?}");
    assert!(world.rows().iter().all(|row| row.ending() == "interrupted/supervisor_lost"));
    let looked = format!("\"{}/environ\"", stranger.pid());
    let text = fs::read_to_string(trace).expect("the trace");
    let looks = text.lines().filter(|line| line.contains(&looked)).count();
    assert!((1..=20).contains(&looks), "{looks} looks for 20 tasks");
}
