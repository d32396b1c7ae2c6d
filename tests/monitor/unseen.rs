//! Deaths that the files of the ledger do not show, or show before the kernel releases the live lock.

use std::fs;

use rustix::process::Signal;

use super::{CutOff, count, until_delivered, until_reported};
use crate::harness::{
    End, Monitor, Notifications, Proc, World, children, eventually, is_root, on_path, possible, stat_field,
};
use crate::standins::{Busy, change};

#[test]
fn a_supervisor_in_another_pid_namespace_is_settled_at_once() {
    let test = "a_supervisor_in_another_pid_namespace_is_settled_at_once";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("unshare"), "root and unshare") {
        return;
    }
    let monitor = Monitor::start(&world, &[]);
    let (run, supervisor) = in_a_namespace(&world, "one");
    world.send(supervisor, [Signal::KILL.as_raw()]);
    run.wait();
    until_reported(&world, "one");
    assert_eq!(world.row().ending(), "interrupted/supervisor_lost");
    // Without its slot the files do not show its end, and no descriptor can be opened for it.
    let (run, supervisor) = in_a_namespace(&world, "two");
    remove_slot(&world, "two");
    world.send(supervisor, [Signal::KILL.as_raw()]);
    run.wait();
    until_reported(&world, "two");
    monitor.stop();
}

/// A run in a pid namespace of its own, and the pid of its supervisor outside.
fn in_a_namespace(world: &World, id: &str) -> (Proc, i32) {
    let mut say = world.fifo(&format!("say.{id}"));
    let script = format!("echo ready $$ >{}; exec sleep 1000", say.path());
    let outside = ["unshare", "--pid", "--fork", "--mount-proc", "bookend", "run", "--id", id];
    let run = world.bare(outside.into_iter().chain(["--", "sh", "-c", &script])).start();
    say.pid("ready");
    let supervisor = children(run.pid())[0];
    (run, supervisor)
}

fn remove_slot(world: &World, id: &str) {
    let slot = world.path("state/bookend/bookend.db.d/spool").join(format!(".{id}.slot"));
    fs::remove_file(slot).expect("a slot");
}

#[test]
fn a_supervisor_whose_slot_was_removed_is_watched_by_its_process() {
    let test = "a_supervisor_whose_slot_was_removed_is_watched_by_its_process";
    let Some(world) = World::of_bookend(test) else { return };
    let (before, after) = (Busy::sleep(&world, "before"), Busy::sleep(&world, "after"));
    remove_slot(&world, "before");
    let monitor = Monitor::start(&world, &[]);
    remove_slot(&world, "after");
    let pid = monitor.pid();
    for busy in [before, after] {
        let supervisor = busy.supervisor.pid();
        let is_watched = || open_pidfds(pid).contains(&supervisor);
        eventually(world.deadline(), "a pidfd of a supervisor", is_watched);
        busy.kill_supervisor();
    }
    until_reported(&world, "before");
    until_reported(&world, "after");
    monitor.stop();
}

#[test]
fn a_row_of_another_program_is_settled_when_its_process_ends() {
    let Some(world) = World::of_bookend("a_row_of_another_program_is_settled_when_its_process_ends") else {
        return;
    };
    world.run(["true"]).options(["--id", "ours"]).run().ended(End::Code(0));
    // As if it had been adopted.
    change(
        &world,
        r#"INSERT INTO bookend_setting VALUES ('adopted',
            '{"at":"2026-11-21T12:00:00.000Z","times":{},"prefixes":[]}')"#,
    );
    let monitor = Monitor::start(&world, &[]);
    let mut say = world.fifo("say");
    let theirs = world.bare(["sh", "-c", &format!("echo ready $$ >{}; exec sleep 1000", say.path())]).start();
    let pid = say.pid("ready");
    let start = stat_field(pid, 22).expect("its start");
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the boot id");
    change(
        &world,
        &format!(
            "INSERT INTO task_history (id, status, started_at, supervisor_pid, supervisor_start, boot_id)
             VALUES ('theirs', 'running', '2026-11-21T12:00:00.000Z', {pid}, {start}, '{}')",
            boot.trim()
        ),
    );
    let watched = format!("pid {pid}");
    let is_watched = || open_pidfds(monitor.pid()).contains(&pid);
    eventually(world.deadline(), &watched, is_watched);
    theirs.signal(Signal::KILL);
    theirs.wait();
    until_reported(&world, "theirs");
    monitor.stop();
}

/// The processes of which a process holds a pidfd.
fn open_pidfds(pid: i32) -> Vec<i32> {
    let Ok(fds) = fs::read_dir(format!("/proc/{pid}/fdinfo")) else { return Vec::new() };
    let infos = fds.flatten().filter_map(|fd| fs::read_to_string(fd.path()).ok());
    infos.filter_map(|info| info.lines().find_map(|l| l.strip_prefix("Pid:")?.trim().parse().ok())).collect()
}

#[test]
fn deaths_are_seen_without_inotify() {
    let test = "deaths_are_seen_without_inotify";
    let Some(world) = World::of_bookend(test) else { return };
    let limit = "echo 0 >/proc/sys/user/max_inotify_instances";
    let namespace = ["unshare", "--user", "--map-root-user", "sh", "-c"];
    let is_possible = || world.bare(namespace.into_iter().chain([limit])).run().end == End::Code(0);
    if !possible(test, on_path("unshare") && is_possible(), "a user namespace with a limit of its own") {
        return;
    }
    let (say, mut go, mut out) = (world.fifo("say"), world.fifo("go"), world.fifo("out"));
    let script = format!(
        "{limit}; exec 2>&1 >{out}; bookend monitor & monitor=$!
         read before <{go}; bookend run --id one -- sh -c 'echo ready $$ >{say}; exec sleep 1000' & run=$!
         read up <{say}; read now <{go}; kill -9 $run; read done <{go}
         kill $monitor; wait $monitor; echo $?",
        out = out.path(),
        go = go.path(),
        say = say.path()
    );
    let socket = Notifications::at(&world);
    let session = world.bare(namespace.into_iter().chain([&*script])).env("NOTIFY_SOCKET", socket.path());
    let session = session.start();
    let message = socket.until("READY=1");
    assert!(message.contains(" one by one, since inotify is not available"), "{message}");
    go.write_line("run");
    eventually(world.deadline(), "the task", || world.rows().len() == 1);
    go.write_line("kill");
    until_reported(&world, "one");
    go.write_line("stop");
    let told: Vec<String> = std::iter::repeat_with(|| out.line()).take_while(|l| l != "143").collect();
    assert!(told.iter().any(|l| l.starts_with("[recovery] task one interrupted")), "{told:?}");
    session.wait();
}

#[test]
fn a_hook_that_was_cut_off_is_run_again_without_inotify() {
    const LIMITED: [&str; 6] = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        "echo 0 >/proc/sys/user/max_inotify_instances && exec \"$0\" \"$@\"",
    ];
    let test = "a_hook_that_was_cut_off_is_run_again_without_inotify";
    let Some(world) = World::of_bookend(test) else { return };
    let is_possible = || world.bare(LIMITED.into_iter().chain(["true"])).run().end == End::Code(0);
    if !possible(test, on_path("unshare") && is_possible(), "a user namespace with a limit of its own") {
        return;
    }
    let monitor = Monitor::start_with(&world, &LIMITED, &[], &[]);
    // It ends before the monitor sees that it runs.
    CutOff::start(&world, "one").kill_supervisor().runs_again();
    until_delivered(&world);
    monitor.stop();
}

#[test]
fn events_that_were_lost_lead_to_a_full_recovery() {
    let test = "events_that_were_lost_lead_to_a_full_recovery";
    let Some(world) = World::of_bookend(test) else { return };
    let monitor = Monitor::start(&world, &[]);
    let busy = Busy::sleep(&world, "one");
    let finishing = CutOff::start(&world, "two");
    let limit = fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").expect("the limit");
    let limit: usize = limit.trim().parse().expect("a number");
    monitor.signal(Signal::STOP);
    // Two names in turn: the kernel joins an event with an equal one before it. Nothing is written: ext4
    // would wait for the disk at each end of a file that was truncated.
    let spool = world.path("state/bookend/bookend.db.d/spool");
    let slots = [".x.slot", ".y.slot"].map(|name| spool.join(name));
    for n in 0..=limit {
        drop(fs::OpenOptions::new().append(true).create(true).open(&slots[n % 2]).expect("a slot"));
    }
    busy.kill_supervisor();
    let delivery = finishing.kill_supervisor();
    monitor.signal(Signal::CONT);
    until_reported(&world, "one");
    delivery.runs_again();
    monitor.stop();
}

#[test]
fn a_task_that_cannot_be_judged_is_reported_once_and_expires() {
    let test = "a_task_that_cannot_be_judged_is_reported_once_and_expires";
    let Some(world) = World::of_bookend(test) else { return };
    Busy::sleep(&world, "far").kill_all();
    change(&world, "UPDATE task_history SET host = 'elsewhere', boot_id = 'another'");
    let monitor = Monitor::start(&world, &[]);
    // As if its slot were closed again, on another machine.
    let slot = world.path("state/bookend/bookend.db.d/spool/.far.slot");
    drop(fs::OpenOptions::new().write(true).open(slot).expect("its slot"));
    Busy::sleep(&world, "near").kill_all();
    until_reported(&world, "near");
    let output = monitor.stop();
    assert_eq!(count(&output.stdout, "task far cannot be judged from here"), 1, "{output:?}");
    let monitor = Monitor::start(&world, &["--ttl", "0"]);
    until_reported(&world, "far");
    assert_eq!(world.sql("SELECT reason FROM task_history WHERE id = 'far'")[0].text("reason"), "ttl");
    monitor.stop();
}
