//! A ledger that others may write to: its rows alone never lead to a signal, and bookend can still act on
//! what the kernel confirms.

use std::fs;

use rustix::process::Signal;

use super::marks::{MarkedProcess, id_of};
use super::set_mode;
use crate::harness::{End, Fifo, Proc, World, eventually, is_root, possible, stat_field, state};
use crate::standins::{bookend, gone};

/// A running task in the ledger `l.db`, which its group may write to.
struct SharedLedger {
    world: World,
    id: String,
    run: Proc,
    agent: i32,
    _say: Fifo,
}

impl SharedLedger {
    fn start(test: &str) -> Option<SharedLedger> {
        let world = World::of_bookend(test)?;
        let id = id_of(&world);
        let mut say = world.fifo("say");
        let script = format!("echo ready $$ >{}; exec sleep 1000", say.path());
        let options = ["--id", &id, "--key", "k", "--ledger", &world.name("l.db")];
        let run = world.run_sh(&script).options(options).start();
        let agent = say.pid("ready");
        set_mode(&world, "l.db", 0o660);
        Some(SharedLedger { world, id, run, agent, _say: say })
    }

    fn forge(&self, sql: &str) {
        let ledger = rusqlite::Connection::open(self.world.path("l.db")).expect("the ledger");
        ledger.busy_timeout(std::time::Duration::from_secs(20)).expect("a timeout");
        ledger.execute_batch(sql).expect(sql);
    }

    fn bookend(&self, words: &[&str]) -> crate::harness::Output {
        bookend(&self.world, &[&["--ledger", &self.world.name("l.db")], words].concat())
    }

    fn is_running(&self) -> bool {
        state(self.agent) == Some('S')
    }

    fn supervisor(&self) -> String {
        format!(
            "supervisor_pid = {}, supervisor_start = {}",
            self.run.pid(),
            stat_field(self.run.pid(), 22).expect("a start")
        )
    }
}

#[test]
fn no_forged_row_makes_recover_end_a_live_agent() {
    let Some(shared) = SharedLedger::start("no_forged_row_makes_recover_end_a_live_agent") else { return };
    let forged = [
        "live_slot = live_slot + 1",
        "live_slot = live_slot + 1, supervisor_start = supervisor_start + 1, supervisor_pidfd = NULL",
        "live_slot = NULL, supervisor_pid = 2147483647, supervisor_pidfd = NULL, agent_start = 0",
        "status = 'failure', reason = 'exit', finished_at = started_at",
    ];
    for set in forged {
        shared
            .forge(&format!("DROP TRIGGER IF EXISTS task_history_ends_once; UPDATE task_history SET {set}"));
        for _ in 0..2 {
            let printed = shared.bookend(&["recover", "--grace", "10ms"]);
            assert!(shared.is_running(), "{set}: {printed:?}");
        }
        let again =
            shared.world.run(["true"]).options(["--key", "k", "--ledger", &shared.world.name("l.db")]);
        let printed = again.run();
        assert!(shared.is_running(), "{set}: {printed:?}");
        let audit = shared.bookend(&["audit"]).ended(End::Code(0));
        assert!(!audit.stdout.contains(&format!("kill {}", shared.agent)), "{set}: {audit:?}");
    }
}

#[test]
fn a_forged_row_stays_running_while_its_supervisor_runs() {
    let Some(shared) = SharedLedger::start("a_forged_row_stays_running_while_its_supervisor_runs") else {
        return;
    };
    shared.forge(
        "UPDATE task_history SET live_slot = live_slot + 1, supervisor_start = supervisor_start + 1,
            supervisor_pidfd = NULL",
    );
    let printed = shared.bookend(&["recover"]).ended(End::Code(1));
    let why =
        format!("one is running above its process {}: others may have written to the ledger", shared.agent);
    assert!(printed.stdout.contains(&why), "{printed:?}");
    let row = shared.world.sql_of("l.db", "SELECT status FROM task_history").remove(0);
    assert_eq!(row.text("status"), "running");
}

#[test]
fn recover_ends_leftovers_by_their_marks_in_a_shared_ledger() {
    let Some(shared) = SharedLedger::start("what_a_dead_task_left_is_ended_by_its_marks") else { return };
    let (id, ledger) = (shared.id.clone(), shared.world.name("l.db"));
    let daemon = MarkedProcess::start(&shared.world, "daemon", &id, &ledger, &[]);
    shared.run.signal(Signal::KILL);
    gone(&shared.world, shared.agent);
    let printed = shared.bookend(&["recover", "--grace", "5s"]).ended(End::Code(0));
    gone(&shared.world, daemon.pid);
    assert!(printed.stdout.contains("interrupted (supervisor_lost)"), "{printed:?}");
}

#[test]
fn cancel_signals_the_supervisor_that_the_kernel_confirms_and_no_process_from_a_row() {
    let Some(shared) = SharedLedger::start(
        "cancel_signals_the_supervisor_that_the_kernel_confirms_and_no_process_from_a_row",
    ) else {
        return;
    };
    let mut out = shared.world.fifo("bystander");
    let bystander = shared.world.bare(["probe", "count", &out.path()]).start();
    let pid = out.pid("ready");
    let start = stat_field(pid, 22).expect("a start");
    shared.forge(&format!(
        "UPDATE task_history SET live_slot = NULL, supervisor_pid = {pid}, supervisor_start = {start},
            supervisor_pidfd = NULL"
    ));
    let printed = shared.bookend(&["cancel", &shared.id]).ended(End::Code(1));
    assert!(
        printed.stderr.contains("it was not signalled: only the row says that it supervises the task"),
        "{printed:?}"
    );
    assert!(printed.stderr.contains(&format!("chmod g-w {}", shared.world.name("l.db"))), "{printed:?}");
    let replace = ["--key", "k", "--replace", "--ledger", &shared.world.name("l.db")];
    shared.world.run(["true"]).options(replace).run().ended(End::Code(75));
    shared.world.send(pid, ["64:1000"]);
    assert!(out.rest().is_empty(), "the bystander received only the final signal");
    bystander.wait().ended(End::Code(0));

    // Another task of the same user is not a substitute for the requested one.
    let mut say = shared.world.fifo("other");
    let script = format!("echo ready $$ >{}; exec sleep 1000", say.path());
    let other =
        shared.world.run_sh(&script).options(["--id", "other", "--ledger", &shared.world.name("l.db")]);
    let other = other.start();
    let agent = say.pid("ready");
    let start = stat_field(other.pid(), 22).expect("a start");
    let (supervisor, id) = (shared.supervisor(), &shared.id);
    shared.forge(&format!(
        "UPDATE task_history SET supervisor_pid = {}, supervisor_start = {start}, supervisor_pidfd = NULL
            WHERE id = '{id}'",
        other.pid()
    ));
    shared.bookend(&["cancel", id]).ended(End::Code(1));
    assert_eq!(state(agent), Some('S'));

    shared.forge(&format!("UPDATE task_history SET {supervisor} WHERE id = '{id}'"));
    shared.bookend(&["cancel", id]).ended(End::Code(0));
    gone(&shared.world, shared.agent);
    eventually(shared.world.deadline(), "the other task still runs", || state(agent) == Some('S'));
}

#[test]
fn a_forged_cgroup_path_ends_no_process() {
    let test = "a_forged_cgroup_path_ends_no_process";
    let Some(mut shared) = SharedLedger::start(test) else { return };
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"];
    let mount = mounts.into_iter().find(|m| fs::exists(format!("{m}/cgroup.procs")).is_ok_and(|e| e));
    let mount = mount.unwrap_or("/nowhere");
    let (slot, dir) = (7, format!("{mount}/bookend-test-{}", std::process::id()));
    let path = format!("{dir}/task-{}-{slot:016x}", shared.id);
    if !possible(test, is_root() && fs::create_dir_all(&path).is_ok(), "root and a cgroup to make others in")
    {
        return;
    }
    let mut out = shared.world.fifo("bystander");
    let bystander = shared.world.bare(["probe", "stay", &out.path()]).start();
    let pid = out.pid("stay");
    let moved = fs::write(format!("{path}/cgroup.procs"), pid.to_string());
    if possible(test, moved.is_ok(), "a cgroup that takes processes") {
        shared.run.signal(Signal::KILL);
        shared.run.wait_here();
        let inside = path.strip_prefix(mount).expect("the mount");
        shared.forge(&format!("UPDATE task_history SET cgroup = '{inside}', live_slot = {slot}"));
        shared.bookend(&["recover", "--grace", "10ms"]);
        assert_eq!(state(pid), Some('S'), "the process in the cgroup lives");
    }
    drop(bystander);
    gone(&shared.world, pid);
    for dir in [path, dir].iter().filter(|dir| fs::exists(dir).is_ok_and(|e| e)) {
        eventually(shared.world.deadline(), "the cgroup removed", || fs::remove_dir(dir).is_ok());
    }
}

#[test]
fn a_hook_runs_in_the_directory_of_its_run_even_if_the_row_names_another() {
    let Some(world) =
        World::of_bookend("a_hook_runs_in_the_directory_of_its_run_even_if_the_row_names_another")
    else {
        return;
    };
    let (mut say, mut go) = (world.fifo("say"), world.fifo("go"));
    let ledger = world.name("l.db");
    let script = format!("echo ready $$ >{}; read x <{}", say.path(), go.path());
    let options = ["--ledger", &ledger, "--on-finish", "pwd >$HOME/where"];
    let run = world.run_sh(&script).options(options).start();
    say.pid("ready");
    let forged = "UPDATE task_history SET on_finish = json_set(on_finish, '$.cwd', '/')";
    rusqlite::Connection::open(&ledger)
        .expect("the ledger")
        .execute_batch(forged)
        .expect("another directory");
    go.write_line("now");
    run.wait().ended(End::Code(0));
    let home = world.path("home").canonicalize().expect("the home");
    assert_eq!(
        fs::read_to_string(world.path("home/where")).expect("it ran").trim(),
        home.to_str().expect("UTF-8")
    );
}
