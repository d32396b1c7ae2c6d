//! Many deaths beside one monitor: none is missed, each is settled in time, and an idle monitor costs
//! nothing.
//!
//! `just monitor` sets `BOOKEND_MONITOR`, the number of supervisors; then the times count too.
//! `BOOKEND_MONITOR_OF` is the path of the bookend to test.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Signal, pidfd_getfd, pidfd_open};

use crate::crash::fault::number;
use crate::harness::{
    Deadline, End, Fleet, Monitor, World, context_switches, eventually, memory, open_files, pause,
    percentile, print_line, state,
};

/// The time within which a death must be settled here, on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);
/// The limits on an idle machine, in milliseconds.
const NOTICED_P99: f64 = 50.0;
const DURABLE_P50: f64 = 100.0;
const DURABLE_P99: f64 = 250.0;
/// The 99th percentile of a hundred deaths is the slowest one: a single stall of the disk or of the virtual
/// machine decides it. `just bench` compares the figures with the limits themselves.
const STALLS: f64 = 2.0;
/// Anonymous memory after a recovery of a hundred tasks.
const MEMORY_KIB: u64 = 2048;
const DEATHS_A_SECOND: u32 = 8;

/// The number of supervisors, if it is set.
fn scale() -> Option<usize> {
    number("BOOKEND_MONITOR").map(|n| n as usize)
}

/// A world with the bookend to test, and time for many supervisors.
fn world(test: &str) -> Option<World> {
    let mut world = World::of_bookend(test)?;
    if let Some(program) = std::env::var_os("BOOKEND_MONITOR_OF") {
        world.install(program.as_ref());
    }
    world.limit = Duration::from_secs(300);
    world.renew_deadline();
    Some(world)
}

#[track_caller]
fn assert_settled(fleet: &mut Fleet<'_>) {
    let missed = fleet.settled(Deadline::within(PATIENCE));
    assert!(missed.is_empty(), "{} of {} were missed: {missed:?}", missed.len(), fleet.deaths.len());
}

/// Each death has one transition, by the monitor, and one report.
#[track_caller]
fn assert_settled_by_the_monitor(world: &World, monitor: &Monitor, deaths: usize) {
    let unreported = "SELECT id FROM task_history WHERE status = 'interrupted' AND hinted_at IS NULL";
    eventually(Deadline::within(PATIENCE), "all reports", || world.sql(unreported).is_empty());
    let query = "SELECT t.id FROM task_history AS t JOIN task_transition AS c ON c.task_id = t.id
         WHERE t.status = 'interrupted' AND t.reason = 'supervisor_lost' AND c.from_status = 'running'
         AND c.by_command = 'monitor'";
    assert_eq!(world.sql(query).len(), deaths);
    let all = world.sql("SELECT task_id FROM task_transition WHERE from_status = 'running'");
    assert_eq!(all.len(), deaths, "each ended once");
    let output = monitor.output();
    for row in all {
        let id = row.text("task_id");
        let reports = output.lines().filter(|l| l.starts_with(&format!("[recovery] task {id} "))).count();
        assert_eq!(reports, 1, "reports of {id} in {output}");
    }
}

/// Keeps all processors busy until it is dropped.
struct Load<'a>(&'a AtomicBool);

impl Drop for Load<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The kernel reports that a slot was closed before it releases the live lock of the same process.
#[test]
fn no_killed_supervisor_is_missed_under_load_or_without() {
    let Some(world) = world("no_killed_supervisor_is_missed_under_load_or_without") else { return };
    let deaths = scale().unwrap_or(100);
    let mut fleet = Fleet::new(&world);
    let monitor = Monitor::start(&world, &[]);
    let kill = |fleet: &mut Fleet<'_>| {
        for n in 1..=deaths / 2 {
            fleet.kill();
            // One by one, and several at once.
            if n % 16 > 12 {
                assert_settled(fleet);
            }
        }
        assert_settled(fleet);
    };
    fleet.grow(deaths / 2);
    kill(&mut fleet);
    fleet.grow(deaths / 2);
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _load = Load(&is_over);
        for _ in 0..2 * std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !is_over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        kill(&mut fleet);
    });
    assert_settled_by_the_monitor(&world, &monitor, deaths);
    monitor.stop().silent();
    let noticed: Vec<f64> = fleet.deaths.iter().filter_map(|d| d.noticed.map(milliseconds)).collect();
    print_line(&format!("0 of {deaths} deaths missed, noticed {}", spread(&noticed)));
}

#[test]
fn a_lock_that_outlives_its_slot_is_waited_for() {
    let Some(world) = world("a_lock_that_outlives_its_slot_is_waited_for") else { return };
    let mut fleet = Fleet::new(&world);
    fleet.grow(3);
    let monitor = Monitor::start(&world, &[]);
    let (process, id) = fleet.next();
    let (lock, held) = (duplicate_live_lock(process.id() as i32), id.to_owned());
    fleet.kill();
    // The monitor has read the first event before it settles the second death.
    fleet.kill();
    let deadline = Deadline::within(PATIENCE);
    while fleet.pending() > 1 && !deadline.passed() {
        fleet.look();
    }
    let pending: Vec<&str> =
        fleet.deaths.iter().filter(|d| d.durable.is_none()).map(|d| d.id.as_str()).collect();
    assert_eq!(pending, [held.as_str()], "a held lock proves a supervisor");
    drop(lock);
    assert_settled(&mut fleet);
    assert_settled_by_the_monitor(&world, &monitor, 2);
    monitor.stop().silent();
}

/// The descriptor with which a process holds a byte of the file `live`, as if another process had inherited
/// it.
fn duplicate_live_lock(pid: i32) -> OwnedFd {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its descriptors").flatten();
    let holds_lock = |fd: &i32| {
        let info = std::fs::read_to_string(format!("/proc/{pid}/fdinfo/{fd}")).unwrap_or_default();
        let target = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap_or_default();
        target.ends_with("live") && info.contains("OFDLCK")
    };
    let fd = fds.filter_map(|f| f.file_name().to_str()?.parse().ok()).find(holds_lock);
    let process = Pid::from_raw(pid).expect("a pid");
    let handle = pidfd_open(process, PidfdFlags::empty()).expect("a pidfd of our child");
    pidfd_getfd(handle, fd.expect("a held live lock"), PidfdGetfdFlags::empty()).expect("a duplicate")
}

/// The child that is to execute a hook has the descriptors of the monitor until it executes it or exits.
#[test]
fn the_next_monitor_waits_for_what_a_killed_one_has_just_forked() {
    let Some(world) = world("the_next_monitor_waits_for_what_a_killed_one_has_just_forked") else { return };
    let killed = Monitor::start(&world, &[]);
    let lock = duplicate_live_lock(killed.pid());
    killed.kill().ended(End::Signal(9));
    let next = Monitor::spawn(&world, &[], &[], &[]);
    let has_opened = || open_files(next.pid()).iter().any(|file| file.ends_with("/bookend.db"));
    eventually(world.deadline(), "the next monitor to open the ledger", || has_opened() || next.has_exited());
    let before = context_switches(next.pid());
    let has_tried = || context_switches(next.pid()) > before + 1;
    eventually(world.deadline(), "the next monitor to try again", || has_tried() || next.has_exited());
    drop(lock);
    assert!(next.is_ready(world.deadline()), "it ended: {}", next.errors());
    next.stop().silent();
}

#[test]
fn a_stopped_monitor_catches_up() {
    let Some(world) = world("a_stopped_monitor_catches_up") else { return };
    let deaths = scale().map_or(5, |n| n / 10);
    let mut fleet = Fleet::new(&world);
    fleet.grow(deaths + 1);
    let monitor = Monitor::start(&world, &[]);
    monitor.signal(Signal::STOP);
    eventually(world.deadline(), "the monitor stops", || state(monitor.pid()) == Some('T'));
    (0..deaths).for_each(|_| fleet.kill());
    if scale().is_some() {
        pause(Duration::from_secs(3));
    }
    fleet.look();
    assert_eq!(fleet.pending(), deaths);
    monitor.signal(Signal::CONT);
    assert_settled(&mut fleet);
    assert_settled_by_the_monitor(&world, &monitor, deaths);
    monitor.stop().silent();
}

#[test]
fn a_monitor_beside_many_supervisors_is_fast_and_costs_nothing_while_they_live() {
    let test = "a_monitor_beside_many_supervisors_is_fast_and_costs_nothing_while_they_live";
    let Some(world) = world(test) else { return };
    let count = scale().unwrap_or(20);
    // One by one, steadily, and at once.
    let (single, steady, at_once) = if scale().is_some() { (200, 240, 100) } else { (5, 8, 6) };
    let idle = Duration::from_secs(if scale().is_some() { 60 } else { 1 });
    let mut fleet = Fleet::new(&world);
    fleet.grow(count);
    let monitor = Monitor::start(&world, &[]);
    let mut figures = Vec::new();
    for _ in 0..single {
        fleet.grow(count);
        fleet.kill();
        assert_settled(&mut fleet);
    }
    figures.push(figure_of(&fleet, "one by one", 0..single));
    fleet.grow(count);
    fleet.kill_steadily(steady, DEATHS_A_SECOND);
    assert_settled(&mut fleet);
    figures.push(figure_of(&fleet, "first third of steady deaths", single..single + steady / 3));
    let steadily = single + steady - steady / 3..single + steady;
    figures.push(figure_of(&fleet, "last third of steady deaths", steadily));
    (0..at_once).for_each(|_| fleet.kill());
    assert_settled(&mut fleet);
    figures.push(figure_of(&fleet, "at once", single + steady..single + steady + at_once));
    assert_settled_by_the_monitor(&world, &monitor, single + steady + at_once);
    let (switches, anonymous) = at_rest(&monitor, idle);
    for figure in &figures {
        print_line(&format!("{figure}"));
    }
    print_line(&format!(
        "{} supervisors live: {switches} context switches in {idle:?}, {anonymous} KiB anonymous memory",
        fleet.alive()
    ));
    assert_eq!(switches, 0, "an idle monitor woke up");
    if scale().is_some() {
        assert!(anonymous <= MEMORY_KIB, "{anonymous} KiB of anonymous memory");
        let [single, first, last, _] = &figures[..] else { unreachable!("four figures") };
        for figure in [single, first, last] {
            assert!(figure.is_within_limits(), "{figure}");
        }
        assert!(last.durable_p50() <= 2.0 * first.durable_p50() + 10.0, "a backlog grows: {first}, {last}");
    }
    monitor.stop().silent();
}

/// The context switches of an idle monitor, and its anonymous memory in KiB.
fn at_rest(monitor: &Monitor, time: Duration) -> (u64, u64) {
    let mut before = context_switches(monitor.pid());
    eventually(Deadline::within(PATIENCE), "the monitor to rest", || {
        pause(Duration::from_millis(200));
        std::mem::replace(&mut before, context_switches(monitor.pid())) == before
    });
    pause(time);
    let (anonymous, _) = memory(monitor.pid()).expect("the monitor's memory");
    (context_switches(monitor.pid()) - before, anonymous)
}

/// The times of some deaths, in milliseconds.
struct Figure {
    name: &'static str,
    noticed: Vec<f64>,
    durable: Vec<f64>,
}

fn figure_of(fleet: &Fleet<'_>, name: &'static str, deaths: std::ops::Range<usize>) -> Figure {
    let deaths = &fleet.deaths[deaths];
    let noticed = deaths.iter().filter_map(|d| d.noticed.map(milliseconds)).collect();
    let durable = deaths.iter().filter_map(|d| d.durable.map(milliseconds)).collect();
    Figure { name, noticed, durable }
}

impl Figure {
    fn durable_p50(&self) -> f64 {
        percentile(&self.durable, 0.5)
    }

    fn is_within_limits(&self) -> bool {
        percentile(&self.noticed, 0.99) < NOTICED_P99 * STALLS
            && self.durable_p50() < DURABLE_P50
            && percentile(&self.durable, 0.99) < DURABLE_P99 * STALLS
    }
}

impl std::fmt::Display for Figure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Figure { name, noticed, durable } = self;
        write!(f, "{} deaths {name}: noticed {}, durable {}", durable.len(), spread(noticed), spread(durable))
    }
}

fn spread(values: &[f64]) -> String {
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|part| percentile(values, part));
    format!("p50 {p50:.1} ms, p99 {p99:.1} ms, at most {most:.1} ms")
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
