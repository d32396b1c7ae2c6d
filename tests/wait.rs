//! `bookend wait` waits for the ends of tasks, and does not poll for them.

use std::fs;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::{End, Fifo, Output, Proc, World, eventually, pause, state, voluntary_switches};
use crate::spool::{Waiting, locked};
use crate::standins::{Busy, recover};

fn waiting(world: &World, words: &[&str]) -> Proc {
    world.bare(["bookend", "wait"].iter().chain(words).copied()).start()
}

fn wait(world: &World, words: &[&str]) -> Output {
    waiting(world, words).wait()
}

/// A task that exits with a code when the test writes to its pipe.
struct Held {
    run: Proc,
    go: Fifo,
}

impl Held {
    fn start(world: &World, id: &str, code: i32, options: &[&str]) -> Held {
        let (mut up, go) = (world.fifo(&format!("{id}.up")), world.fifo(&format!("{id}.go")));
        let script = format!("echo ready $$ >{}; read line <{}; exit {code}", up.path(), go.path());
        let run = world.run_sh(&script).options(["--id", id]).options(options.iter().copied()).start();
        up.pid("ready");
        Held { run, go }
    }

    fn end(mut self) -> Output {
        self.go.write_line("now");
        self.run.wait()
    }
}

/// Waits until the process sleeps.
pub fn asleep(world: &World, pid: i32) {
    let mut last = voluntary_switches(pid);
    eventually(world.deadline(), "a process that sleeps", || {
        let before = std::mem::replace(&mut last, voluntary_switches(pid));
        state(pid) == Some('S') && before == last
    });
}

#[test]
fn wait_returns_when_all_tasks_have_ended_and_fails_unless_all_succeeded() {
    let test = "wait_returns_when_all_tasks_have_ended_and_fails_unless_all_succeeded";
    let Some(world) = World::of_bookend(test) else { return };
    let (one, two) = (Held::start(&world, "one", 0, &[]), Held::start(&world, "two", 0, &[]));
    let both = waiting(&world, &["one", "two"]);
    asleep(&world, both.pid());
    one.end();
    two.end();
    let output = both.wait().ended(End::Code(0)).silent();
    let ends: Vec<&str> = output.stdout.lines().filter_map(|l| l.split(" after ").next()).collect();
    assert_eq!(ends, ["task one: success", "task two: success"]);
    let three = Held::start(&world, "three", 3, &[]);
    let failing = waiting(&world, &["three", "one"]);
    asleep(&world, failing.pid());
    three.end();
    let output = failing.wait().ended(End::Code(1)).silent();
    assert!(output.stdout.contains("task three: failure (exit 3) after "), "{output:?}");
    // They have ended: it returns at once.
    wait(&world, &["one"]).ended(End::Code(0));
    wait(&world, &["thr"]).ended(End::Code(1));
    assert_eq!(wait(&world, &["one", "two", "one"]).ended(End::Code(0)).stdout.lines().count(), 2);
    let unknown = wait(&world, &["one", "nonesuch"]).ended(End::Code(1));
    assert!(unknown.stderr.contains("no task nonesuch"), "{unknown:?}");
}

#[test]
fn wait_exits_with_124_on_a_timeout() {
    let Some(world) = World::of_bookend("wait_exits_with_124_on_a_timeout") else { return };
    let held = Held::start(&world, "long", 0, &[]);
    for timeout in ["0", "200ms"] {
        let output = wait(&world, &["long", "--timeout", timeout]).ended(End::Code(124)).silent();
        assert!(output.stdout.starts_with("task long: still running after 0."), "{output:?}");
    }
    held.end();
    wait(&world, &["long", "--timeout", "0"]).ended(End::Code(0));
}

#[test]
fn wait_accepts_a_key() {
    let Some(world) = World::of_bookend("wait_accepts_a_key") else { return };
    let missing = wait(&world, &["--key", "k"]).ended(End::Code(1));
    assert!(missing.stderr.contains("there is no ledger yet"), "{missing:?}");
    world.run(["false"]).options(["--key", "k", "--id", "first"]).run();
    wait(&world, &["--key", "k"]).ended(End::Code(1));
    let held = Held::start(&world, "second", 0, &["--key", "k"]);
    let process = waiting(&world, &["--key", "k"]);
    asleep(&world, process.pid());
    held.end();
    let output = process.wait().ended(End::Code(0));
    assert!(output.stdout.starts_with("task second: success"), "{output:?}");
    let missing = wait(&world, &["--key", "other"]).ended(End::Code(1));
    assert!(missing.stderr.contains("no task has the key other"), "{missing:?}");
    wait(&world, &["--key", "k", "first"]).ended(End::Code(2));
}

#[test]
fn wait_alone_waits_for_the_tasks_that_run_now() {
    let Some(world) = World::of_bookend("wait_alone_waits_for_the_tasks_that_run_now") else { return };
    assert_eq!(wait(&world, &[]).ended(End::Code(0)).silent().stdout, "no task is running\n");
    world.run(["false"]).options(["--id", "before"]).run();
    assert_eq!(wait(&world, &[]).ended(End::Code(0)).silent().stdout, "no task is running\n");
    let now = Held::start(&world, "now", 0, &[]);
    let process = waiting(&world, &[]);
    asleep(&world, process.pid());
    let later = Held::start(&world, "later", 0, &[]);
    now.end();
    let output = process.wait().ended(End::Code(0));
    assert!(!output.stdout.contains("later") && !output.stdout.contains("before"), "{output:?}");
    later.end();
}

#[test]
fn wait_returns_while_the_hook_of_the_task_still_runs() {
    let Some(world) = World::of_bookend("wait_returns_while_the_hook_of_the_task_still_runs") else { return };
    let (mut up, mut go) = (world.fifo("hook.up"), world.fifo("hook.go"));
    let hook = format!("echo ready $$ >{}; read line <{}", up.path(), go.path());
    let mut held = Held::start(&world, "one", 0, &["--on-finish", &hook]);
    let process = waiting(&world, &["one"]);
    asleep(&world, process.pid());
    held.go.write_line("now");
    up.pid("ready");
    process.wait().ended(End::Code(0));
    assert_eq!(world.row().text("delivery_status"), "delivering");
    go.write_line("now");
    held.run.wait();
}

#[test]
fn wait_returns_while_leftovers_of_the_task_are_ended() {
    let Some(world) = World::of_bookend("wait_returns_while_leftovers_of_the_task_are_ended") else { return };
    let (mut up, mut go) = (world.fifo("up"), world.fifo("go"));
    let leftover = format!("trap '' TERM; echo ready $$ >{}; exec sleep 1000", up.path());
    let script = format!("sh -c \"{}\" & read line <{}; exit 3", leftover.replace('$', "\\$"), go.path());
    let run = world.run_sh(&script).options(["--id", "one", "--leftovers", "end", "--grace", "1h"]).start();
    let stubborn = up.pid("ready");
    let process = waiting(&world, &["one"]);
    asleep(&world, process.pid());
    go.write_line("now");
    process.wait().ended(End::Code(1));
    assert_eq!(state(run.pid()), Some('S'), "the supervisor still ends the leftover");
    rustix::process::kill_process(rustix::process::Pid::from_raw(stubborn).expect("a pid"), Signal::KILL)
        .expect("killed");
    run.wait().ended(End::Code(3));
}

#[test]
fn a_killed_supervisor_ends_the_wait() {
    let Some(world) = World::of_bookend("a_killed_supervisor_ends_the_wait") else { return };
    let busy = Busy::sleep(&world, "lost");
    let process = waiting(&world, &["lost"]);
    asleep(&world, process.pid());
    busy.kill_all();
    for output in [process.wait(), wait(&world, &["lost"])] {
        let output = output.ended(End::Code(1)).silent();
        let expected = "task lost: its supervisor was killed; settle the task with: bookend recover";
        assert!(output.stdout.starts_with(expected), "{output:?}");
    }
    recover(&world, &[]);
    let output = wait(&world, &["lost"]).ended(End::Code(1));
    assert!(output.stdout.starts_with("task lost: interrupted"), "{output:?}");
}

#[test]
fn an_end_that_waits_in_the_spool_ends_the_wait() {
    let Some(world) = World::of_bookend("an_end_that_waits_in_the_spool_ends_the_wait") else { return };
    let task = Waiting::start(&world, |run| run.env("BOOKEND_BUSY_TIMEOUT", "10ms"));
    let process = waiting(&world, &["one"]);
    asleep(&world, process.pid());
    let lock = locked(&world);
    task.end_in_spool(&world);
    for output in [process.wait(), wait(&world, &["one"])] {
        let output = output.ended(End::Code(1));
        let text = &output.stdout;
        assert!(text.starts_with("task one: failure") && text.contains("waits in the spool"), "{output:?}");
    }
    assert_eq!(world.row().text("status"), "running");
    drop(lock);
}

#[test]
fn wait_polls_only_where_it_cannot_watch_the_spool() {
    let Some(world) = World::of_bookend("wait_polls_only_where_it_cannot_watch_the_spool") else { return };
    let held = Held::start(&world, "one", 0, &[]);
    let process = waiting(&world, &["one"]);
    asleep(&world, process.pid());
    let before = voluntary_switches(process.pid());
    pause(Duration::from_millis(2500));
    assert_eq!(voluntary_switches(process.pid()), before, "it woke up without a cause");
    // Without the directory it looks each second: the supervisor exits only after its hook.
    let (spool, away) = (world.path("state/bookend/bookend.db.d/spool"), world.path("away"));
    fs::rename(&spool, &away).expect("renamed");
    let polling = waiting(&world, &["one"]);
    for process in [&process, &polling] {
        asleep(&world, process.pid());
        let before = voluntary_switches(process.pid());
        eventually(world.deadline(), "a look", || voluntary_switches(process.pid()) > before);
    }
    fs::rename(&away, &spool).expect("renamed back");
    held.end();
    process.wait().ended(End::Code(0));
    polling.wait().ended(End::Code(0));
}

#[test]
fn an_end_during_the_first_look_is_not_missed() {
    let Some(world) = World::of_bookend("an_end_during_the_first_look_is_not_missed") else { return };
    for n in 0..30 {
        let id = format!("t{n}");
        let held = Held::start(&world, &id, 0, &[]);
        let began = Instant::now();
        let process = waiting(&world, &[&id]);
        pause(Duration::from_millis(n % 10));
        held.end();
        process.wait().ended(End::Code(0));
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
}

#[test]
fn a_task_does_not_wait_for_itself_or_the_one_around_it() {
    let Some(world) = World::of_bookend("a_task_does_not_wait_for_itself_or_the_one_around_it") else {
        return;
    };
    let own = world.run_sh("bookend wait").options(["--id", "alone"]).run().ended(End::Code(0));
    assert_eq!(own.stdout, "no task is running\n");
    let nested = "bookend run --id inner -- sh -c 'bookend wait; bookend wait outer; echo $?'";
    let output = world.run_sh(nested).options(["--id", "outer"]).run().ended(End::Code(0));
    assert_eq!(output.stdout, "no task is running\n2\n");
    assert!(output.stderr.contains("task outer would wait for itself"), "{output:?}");
    let keyed = world.run_sh("bookend wait --key k").options(["--key", "k"]).run().ended(End::Code(2));
    assert!(keyed.stderr.contains("this command runs inside it"), "{keyed:?}");
}

#[test]
fn a_stop_signal_ends_the_wait_and_not_the_task() {
    let Some(world) = World::of_bookend("a_stop_signal_ends_the_wait_and_not_the_task") else { return };
    let held = Held::start(&world, "one", 0, &[]);
    let process = waiting(&world, &["one"]);
    asleep(&world, process.pid());
    process.signal(Signal::INT);
    process.wait().ended(End::Signal(libc::SIGINT));
    assert_eq!(world.row().text("status"), "running");
    held.end().ended(End::Code(0));
}
