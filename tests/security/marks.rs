//! Which task a process belongs to: a process with a forged mark is never signalled.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use rustix::process::Signal;
use serde_json::Value;

use super::{OTHER_USER, open_fifo, set_mode, world_for_all_users};
use crate::harness::{End, Fifo, Proc, World, is_root, possible, proc_is_hidden, stat_field, state};
use crate::standins::{Busy, bookend, change, gone, recover};

/// A long-running process with a mark, which reports on its pipe.
pub struct MarkedProcess {
    pub pid: i32,
    _out: Fifo,
    _process: Proc,
}

impl MarkedProcess {
    /// `specs` are further specs of `probe with`.
    pub fn start(world: &World, name: &str, id: &str, ledger: &str, specs: &[&str]) -> MarkedProcess {
        let mut out = open_fifo(world, name);
        let command = world.bare(["probe", "stay", &out.path()]).env("BOOKEND_TASK_ID", id);
        let specs = ["setsid"].iter().chain(specs).copied();
        let process = command.env("BOOKEND_LEDGER", ledger).with(specs).start();
        MarkedProcess { pid: out.pid("stay"), _out: out, _process: process }
    }

    pub fn is_running(&self) -> bool {
        state(self.pid) == Some('S')
    }
}

/// An id that is unique to this world: tests run in parallel and see each other's marks.
pub fn id_of(world: &World) -> String {
    world.name("").trim_end_matches('/').rsplit('/').next().expect("a name").to_owned()
}

/// A task in the ledger at `ledger` whose agent fails when the test writes to its pipe.
struct Failing {
    run: Proc,
    go: Fifo,
}

impl Failing {
    fn start(world: &World, name: &str, ledger: &str, id: &str) -> Failing {
        let (mut up, go) = (world.fifo(&format!("up-{name}")), world.fifo(&format!("go-{name}")));
        let script = format!("echo up $$ >{}; read x <{}; exit 1", up.path(), go.path());
        let run = world.run_sh(&script).options(["--id", id, "--ledger", ledger, "--grace", "5s"]).start();
        up.pid("up");
        Failing { run, go }
    }

    fn end(mut self) {
        self.go.write_line("now");
        self.run.wait().ended(End::Code(1));
    }
}

fn leftovers_in(world: &World, ledger: &str) -> Value {
    let text = world.sql_of(ledger, "SELECT leftovers FROM task_history").remove(0).text("leftovers");
    if text.is_empty() { Value::Null } else { serde_json::from_str(&text).expect("JSON") }
}

#[test]
fn another_users_process_with_the_mark_is_never_signalled() {
    let Some(world) = world_for_all_users("another_users_process_with_the_mark_is_never_signalled") else {
        return;
    };
    let (id, ledger) = (id_of(&world), world.name("l.db"));
    let task = Failing::start(&world, "one", &ledger, &id);
    let forged = MarkedProcess::start(&world, "forged", &id, &ledger, &[&format!("uid={OTHER_USER}")]);
    // If a program is not readable, the kernel shows its /proc files as owned by root.
    set_mode(&world, "bin/probe", 0o711);
    let masked = MarkedProcess::start(&world, "masked", &id, &ledger, &[&format!("uid={OTHER_USER}")]);
    let shown = fs::metadata(format!("/proc/{}/environ", masked.pid)).expect("its environment").uid();
    assert_eq!(shown, 0);
    let ours = MarkedProcess::start(&world, "ours", &id, &ledger, &[]);
    task.end();
    gone(&world, ours.pid);
    assert!(forged.is_running() && masked.is_running());
    let left = leftovers_in(&world, "l.db");
    assert_eq!((&left["found"], &left["pids"][0]), (&1.into(), &ours.pid.into()), "{left}");
    recover(&world, &["--ledger", &ledger]);
    let audit = bookend(&world, &["audit", "--ledger", &ledger]).ended(End::Code(0));
    assert!(audit.stdout.contains(" 0 findings"), "{audit:?}");
    assert!(forged.is_running() && masked.is_running());
}

#[test]
fn a_task_of_the_same_id_in_another_ledger_keeps_its_processes() {
    let Some(world) = World::of_bookend("a_task_of_the_same_id_in_another_ledger_keeps_its_processes") else {
        return;
    };
    let id = id_of(&world);
    let (ledger, other) = (world.name("l.db"), world.name("other.db"));
    let theirs = Failing::start(&world, "theirs", &other, &id);
    let task = Failing::start(&world, "ours", &ledger, &id);
    let daemon = MarkedProcess::start(&world, "daemon", &id, &other, &[]);
    let ours = MarkedProcess::start(&world, "marked", &id, &ledger, &[]);
    // The sweep at the end of a run.
    task.end();
    gone(&world, ours.pid);
    assert!(daemon.is_running());
    assert_eq!(leftovers_in(&world, "l.db")["found"], 1);

    // The sweep of a recovery, for an ended and for a lost task.
    let again = MarkedProcess::start(&world, "again", &id, &ledger, &[]);
    recover(&world, &["--ledger", &ledger]);
    gone(&world, again.pid);
    let revive = "DROP TRIGGER task_history_ends_once;
        UPDATE task_history SET status = 'running', finished_at = NULL, reason = NULL";
    rusqlite::Connection::open(&ledger).expect("the ledger").execute_batch(revive).expect("a lost task");
    let more = MarkedProcess::start(&world, "more", &id, &ledger, &[]);
    recover(&world, &["--ledger", &ledger]);
    gone(&world, more.pid);
    assert!(daemon.is_running());
    // The audit does not report them as orphans either.
    let audit = bookend(&world, &["audit", "--ledger", &ledger]).ended(End::Code(0));
    assert!(audit.stdout.contains(" 0 findings"), "{audit:?}");
    theirs.end();
    gone(&world, daemon.pid);
}

#[test]
fn a_mark_matches_every_path_of_its_ledger() {
    let Some(world) = World::of_bookend("a_mark_matches_every_path_of_its_ledger") else { return };
    let id = id_of(&world);
    fs::create_dir(world.path("real")).expect("a directory");
    symlink("real", world.path("link")).expect("a link");
    let task = Failing::start(&world, "one", &world.name("link/l.db"), &id);
    task.end();
    let names = ["real/l.db", "link/l.db", "link/../real/./l.db"].map(|n| world.name(n));
    for (n, named) in names.iter().enumerate() {
        for (m, by) in names.iter().enumerate() {
            let daemon = MarkedProcess::start(&world, &format!("{n}{m}"), &id, named, &[]);
            recover(&world, &["--ledger", by]);
            gone(&world, daemon.pid);
        }
    }
}

#[test]
fn processes_marked_with_a_moved_ledger_are_counted_and_not_signalled() {
    let Some(world) = World::of_bookend("processes_marked_with_a_moved_ledger_are_counted_and_not_signalled")
    else {
        return;
    };
    let mut out = world.fifo("out");
    let script = format!(
        "probe daemon -- probe with setsid -- probe stay {}; echo ready $$ >$SAY; exec sleep 1000",
        out.path()
    );
    let busy = Busy::start(&world, "say", |_| {
        world.run_sh(&script).options(["--id", &id_of(&world), "--ledger", &world.name("l.db")])
    });
    let daemon = out.pid("stay");
    busy.kill_all();
    for suffix in ["", "-wal", "-shm", ".d"] {
        let (from, to) = (format!("l.db{suffix}"), format!("moved.db{suffix}"));
        fs::rename(world.path(&from), world.path(&to)).expect("moved");
    }
    let moved = world.name("moved.db");
    let report = recover(&world, &["--ledger", &moved, "--grace", "1s"]);
    assert!(report.contains("interrupted (supervisor_lost)"), "{report}");
    let left = leftovers_in(&world, "moved.db");
    assert_eq!((&left["found"], &left["ended"]), (&1.into(), &0.into()), "{left}");
    assert_eq!(
        (&left["spared"][0]["pid"], &left["spared"][0]["why"]),
        (&daemon.into(), &"unknown_ledger".into())
    );
    let audit = bookend(&world, &["audit", "--ledger", &moved]).ended(End::Code(0)).stdout;
    assert!(audit.contains("orphan_process") && audit.contains(&format!("fix: kill {daemon}\n")), "{audit}");
    assert_eq!(state(daemon), Some('S'));
    // Moved back, the ledger is recognised again.
    for suffix in ["", "-wal", "-shm", ".d"] {
        let (from, to) = (format!("moved.db{suffix}"), format!("l.db{suffix}"));
        fs::rename(world.path(&from), world.path(&to)).expect("moved back");
    }
    recover(&world, &["--ledger", &world.name("l.db")]);
    gone(&world, daemon);
}

/// In another mount namespace the same path can be another file.
#[test]
fn a_ledger_path_is_resolved_in_the_mount_namespace_of_its_process() {
    let test = "a_ledger_path_is_resolved_in_the_mount_namespace_of_its_process";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && crate::harness::on_path("unshare"), "root and unshare") {
        return;
    }
    let (id, ledger) = (id_of(&world), world.name("place/l.db"));
    fs::create_dir(world.path("place")).expect("a directory");
    fs::create_dir(world.path("elsewhere")).expect("a directory");
    fs::write(world.path("elsewhere/l.db"), "another ledger").expect("a file");
    let task = Failing::start(&world, "one", &ledger, &id);
    let mut out = world.fifo("out");
    let script = format!(
        "mount --bind {} {} && exec probe with setsid env=BOOKEND_TASK_ID={id} env=BOOKEND_LEDGER={ledger} \
         -- probe stay {}",
        world.name("elsewhere"),
        world.name("place"),
        out.path()
    );
    let _elsewhere = world.bare(["unshare", "--mount", "sh", "-euc", &script]).start();
    let foreign = out.pid("stay");
    let ours = MarkedProcess::start(&world, "ours", &id, &ledger, &[]);
    task.end();
    gone(&world, ours.pid);
    assert_eq!(state(foreign), Some('S'));
    assert_eq!(leftovers_in(&world, "place/l.db")["found"], 1);
}

/// The command runs in a task with the same id in another ledger.
#[test]
fn cancel_all_skips_only_the_task_that_it_runs_in() {
    let Some(world) = World::of_bookend("cancel_all_skips_only_the_task_that_it_runs_in") else { return };
    let (ledger, other) = (world.name("l.db"), world.name("other.db"));
    let theirs = Failing::start(&world, "theirs", &other, "same");
    let printed = world.name("printed");
    let script =
        format!("bookend cancel --all >{printed}; bookend --ledger {other} cancel --all >>{printed}");
    world.run_sh(&script).options(["--id", "same", "--ledger", &ledger]).run().ended(End::Code(0));
    let printed = fs::read_to_string(printed).expect("what was printed");
    assert_eq!(printed.matches("skipped").count(), 1, "{printed}");
    assert_eq!(printed.matches("cancelled (operator)").count(), 1, "{printed}");
    theirs.run.wait().ended(End::Signal(15));
}

/// The supervisor holds its lock, so it runs, but the pid in its row is that of another process.
#[test]
fn a_reused_pid_is_not_signalled_although_the_task_runs() {
    let Some(world) = World::of_bookend("a_reused_pid_is_not_signalled_although_the_task_runs") else {
        return;
    };
    let busy = Busy::sleep(&world, "one");
    let (mut out, supervisor) = (world.fifo("bystander"), busy.supervisor.pid());
    let bystander = world.bare(["probe", "count", &out.path()]).start();
    let pid = out.pid("ready");
    change(&world, &format!("UPDATE task_history SET supervisor_pid = {pid}"));
    for command in [&["cancel", "one"][..], &["cancel", "--all"]] {
        let printed = bookend(&world, command).ended(End::Code(1));
        assert!(printed.stderr.contains(&format!("pid {pid} means another process")), "{printed:?}");
    }
    world.run(["true"]).options(["--id", "two", "--key", "k"]).run().ended(End::Code(0));
    world.send(pid, ["64:1000"]);
    assert!(out.rest().is_empty(), "the bystander received only the final signal");
    bystander.wait().ended(End::Code(0));
    assert!(state(supervisor).is_some_and(|s| s != 'Z'));
    busy.kill_all();
    // The task is lost now and its pids belong to another process: recovery does not signal it either.
    let mut out = world.fifo("another");
    let another = world.bare(["probe", "count", &out.path()]).start();
    let pid = out.pid("ready");
    change(
        &world,
        &format!("UPDATE task_history SET supervisor_pid = {pid}, agent_pid = {pid} WHERE id = 'one'"),
    );
    recover(&world, &[]);
    world.send(pid, ["64:1000"]);
    assert!(out.rest().is_empty(), "the bystander received only the final signal");
    another.wait().ended(End::Code(0));
}

/// Root uses the ledger of a user who has forged rows in it.
#[test]
fn root_does_not_cancel_a_process_of_another_user_than_the_owner() {
    let test = "root_does_not_cancel_a_process_of_another_user_than_the_owner";
    let Some((world, specs)) = World::unprivileged(test) else { return };
    if !possible(test, is_root(), "root") {
        return;
    }
    let mut say = open_fifo(&world, "say");
    let script = format!("echo ready $$ >{}; exec sleep 1000", say.path());
    let run = world.run_sh(&script).options(["--id", "one"]).with(&specs).start();
    say.pid("ready");
    let mut out = world.fifo("bystander");
    let bystander = world.bare(["probe", "count", &out.path()]).start();
    let pid = out.pid("ready");
    let start = stat_field(pid, 22).expect("a start");
    let row = world.row();
    let (owners, owners_start) =
        (row.pid("supervisor_pid"), row.number("supervisor_start").expect("a start"));
    change(
        &world,
        &format!(
            "UPDATE task_history SET live_slot = NULL, supervisor_pid = {pid}, supervisor_start = {start},
             supervisor_pidfd = NULL"
        ),
    );
    let printed = bookend(&world, &["cancel", "one"]).ended(End::Code(1));
    let why = if proc_is_hidden() { "cannot be judged from here" } else { "may not be signalled" };
    assert!(printed.stderr.contains(why), "{printed:?}");
    world.send(pid, ["64:1000"]);
    assert!(out.rest().is_empty(), "the bystander received only the final signal");
    bystander.wait().ended(End::Code(0));
    // Root may cancel a task of the owner.
    change(
        &world,
        &format!("UPDATE task_history SET supervisor_pid = {owners}, supervisor_start = {owners_start}"),
    );
    bookend(&world, &["cancel", "one"]).ended(End::Code(0));
    run.wait().ended(End::Signal(Signal::TERM.as_raw()));
}
