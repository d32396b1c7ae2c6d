//! A ledger joins a fleet, leaves it or joins another one while a run is on its way to its claim: the
//! transaction of the claim decides. The test answers in place of the monitor.

use crate::fleet_key::{Hub, held, join, keyed, leave, member};
use crate::harness::{End, Fifo, Proc, World, eventually};

/// A task of this ledger that holds the key `k`, and ends when `go` receives a line.
struct LocalHolder {
    process: Proc,
    up: Fifo,
    go: Fifo,
}

impl LocalHolder {
    /// Starts it. It reports SIGTERM, and does not end by it.
    fn start(world: &World, id: &str) -> LocalHolder {
        let (mut up, go) = (world.fifo(&format!("up {id}")), world.fifo(&format!("go {id}")));
        let script = format!(
            "exec 5<>'{}' 6<>'{}'; trap 'echo asked >&6' TERM; echo up >&6; while ! read x <&5; do :; done",
            go.path(),
            up.path()
        );
        let holder = world.run(["bash", "-c", &script]).options(["--key", "k", "--grace", "60s"]);
        let process = holder.own_group().start();
        assert_eq!(up.line(), "up");
        LocalHolder { process, up, go }
    }

    fn end(mut self) {
        self.go.write_line("on");
        self.process.wait().ended(End::Code(0));
    }
}

fn waits_for(world: &World, run: &mut Proc, words: &str) {
    eventually(world.deadline(), words, || run.stderr_so_far().contains(words));
}

/// Whether the run has opened its ledger, and is before its claim.
fn has_opened(world: &World, run: &Proc) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{}/fd", run.pid())) else { return false };
    let live = world.path("state/bookend/bookend.db.d/live");
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target == live))
}

#[test]
fn a_run_that_waits_since_before_the_join_asks_the_fleet() {
    let Some(world) = World::of_bookend("a_run_that_waits_since_before_the_join_asks_the_fleet") else {
        return;
    };
    for id in ["wait", "replace"] {
        let mut holder = LocalHolder::start(&world, id);
        let run = keyed(&world, &[&format!("--{id}"), "--id", id]).start();
        match id {
            "replace" => assert_eq!(holder.up.line(), "asked"),
            _ => eventually(world.deadline(), "an opened ledger", || has_opened(&world, &run)),
        }
        let setting = join(&world, id);
        let hub = Hub::listen(&world);
        holder.end();
        let asked = hub.asked();
        assert_eq!((asked.fleet.as_str(), &asked.request["task"]), (setting.as_str(), &id.into()));
        assert!(!world.path("effect").exists(), "it ran without a grant");
        let _asked = asked.grant();
        run.wait().ended(End::Code(0));
        std::fs::remove_file(world.path("effect")).expect("the agent ran");
        leave(&world);
    }
}

#[test]
fn a_run_whose_ledger_joins_before_its_claim_asks_the_fleet() {
    let Some(world) = World::of_bookend("a_run_whose_ledger_joins_before_its_claim_asks_the_fleet") else {
        return;
    };
    world.run(["true"]).run().ended(End::Code(0)).silent();
    let hub = Hub::listen(&world);
    let other = rusqlite::Connection::open(world.ledger()).expect("the ledger");
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let run = keyed(&world, &[]).start();
    eventually(world.deadline(), "an opened ledger", || has_opened(&world, &run));
    let join = "INSERT INTO bookend_setting (name, value) VALUES ('fleet', 'f')";
    other.execute(join, []).expect("the setting");
    other.execute_batch("COMMIT").expect("the end of the lock");
    let asked = hub.asked();
    assert_eq!(asked.fleet, "f");
    assert_eq!(world.rows().len(), 1, "no row before the grant");
    let _asked = asked.grant();
    run.wait().ended(End::Code(0)).silent();
}

#[test]
fn a_grant_of_a_fleet_that_the_ledger_has_left_for_another_is_not_used() {
    let test = "a_grant_of_a_fleet_that_the_ledger_has_left_for_another_is_not_used";
    let Some(world) = member(test) else { return };
    let hub = Hub::listen(&world);
    let other = rusqlite::Connection::open(world.ledger()).expect("the ledger");
    other.execute_batch("BEGIN IMMEDIATE").expect("the write lock");
    let run = keyed(&world, &[]).start();
    let first = hub.asked().grant();
    let moved = "UPDATE bookend_setting SET value = 'another' WHERE name = 'fleet'";
    other.execute(moved, []).expect("the setting");
    other.execute_batch("COMMIT").expect("the end of the lock");
    let asked = hub.asked();
    assert_eq!((asked.fleet.as_str(), &asked.request["task"]), ("another", &first.request["task"]));
    assert!(!world.path("effect").exists(), "it ran without a grant");
    drop(first);
    let _asked = asked.grant();
    run.wait().ended(End::Code(0)).silent();
}

#[test]
fn a_run_that_waits_for_another_host_goes_on_by_its_ledger_when_that_leaves() {
    let test = "a_run_that_waits_for_another_host_goes_on_by_its_ledger_when_that_leaves";
    let Some(mut world) = member(test) else { return };
    // The monitor closes the connection when it notices that, or does not answer, or has ended before.
    for how in ["closed", "silent", "gone"] {
        world.renew_deadline();
        join(&world, how);
        let hub = Hub::listen(&world);
        let mut run = keyed(&world, &["--wait", "--id", how, "--fleet-timeout", "100ms"]).start();
        let mut asked = Some(hub.asked().answer(&held()));
        waits_for(&world, &mut run, "waiting for task t-far");
        let mut hub = Some(hub);
        if how == "gone" {
            drop((asked.take(), hub.take()));
            waits_for(&world, &mut run, "waiting for a monitor of the ledger");
        }
        leave(&world);
        if how == "closed" {
            drop(asked.take());
        }
        run.wait().ended(End::Code(0));
        std::fs::remove_file(world.path("effect")).expect("the agent ran");
    }
}

#[test]
fn a_run_whose_ledger_leaves_waits_for_the_tasks_of_its_ledger() {
    let Some(world) = member("a_run_whose_ledger_leaves_waits_for_the_tasks_of_its_ledger") else { return };
    let hub = Hub::listen(&world);
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let script = format!("echo up >'{}'; read x <'{}'", up.path(), go.path());
    let holder = world.run_sh(&script).options(["--key", "k", "--id", "holder"]).own_group().start();
    let _granted = hub.asked().grant();
    assert_eq!(up.line(), "up");
    let mut waiting = keyed(&world, &["--wait", "--id", "waiting", "--fleet-timeout", "100ms"]).start();
    let asked = hub.asked().answer(&held());
    drop((asked, hub));
    waits_for(&world, &mut waiting, "waiting for a monitor of the ledger");
    leave(&world);
    go.write_line("on");
    holder.wait().ended(End::Code(0));
    waiting.wait().ended(End::Code(0));
    let time = |id: &str, column: &str| {
        world.sql(&format!("SELECT {column} FROM task_history WHERE id = '{id}'"))[0].text(column)
    };
    assert!(time("holder", "finished_at") <= time("waiting", "started_at"), "they ran at once");
}
