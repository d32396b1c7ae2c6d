//! A machine that was suspended: the wall clock has advanced, CLOCK_MONOTONIC has not. And a monitor in
//! another time namespace than the supervisors.

use std::fs;
use std::time::Duration;

use crate::clocks::faketime;
use crate::crash::fault::number;
use crate::harness::{
    Deadline, Fleet, Monitor, World, context_switches, eventually, is_root, on_path, pause, possible, state,
};
use crate::standins::{Busy, change};

const PATIENCE: Duration = Duration::from_secs(20);

/// A monitor whose wall clock can be set forward. `None`: libfaketime is missing.
fn monitor_with_a_clock(test: &str, world: &World, options: &[&str]) -> Option<Monitor> {
    let library = faketime(test)?;
    fs::write(world.path("clock"), "+0\n").expect("the clock");
    let (library, clock) = (library.to_str().expect("UTF-8"), world.name("clock"));
    let environment = [
        ("LD_PRELOAD", library),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_NO_CACHE", "1"),
        ("FAKETIME_TIMESTAMP_FILE", &clock),
    ];
    Some(Monitor::start_with(world, &[], &environment, options))
}

/// As if the machine had been suspended for a day.
fn sleep_for_a_day(world: &World) {
    fs::write(world.path("clock.new"), "+1d\n").expect("the new clock");
    fs::rename(world.path("clock.new"), world.path("clock")).expect("the new clock in place of the old one");
}

#[track_caller]
fn kill_and_settle(fleet: &mut Fleet<'_>) {
    fleet.kill();
    let pending = fleet.settled(Deadline::within(PATIENCE));
    assert!(pending.is_empty(), "not settled: {pending:?}");
}

#[test]
fn a_grace_does_not_count_the_time_that_the_machine_slept() {
    let test = "a_grace_does_not_count_the_time_that_the_machine_slept";
    let Some(world) = World::of_bookend(test) else { return };
    let mut fleet = Fleet::new(&world);
    fleet.grow(2);
    let stubborn = Busy::stubborn(&world, "stubborn");
    let agent = stubborn.agent;
    let Some(monitor) = monitor_with_a_clock(test, &world, &["--grace", "1h"]) else { return };
    stubborn.kill_supervisor();
    // Read after the event of the stubborn task.
    kill_and_settle(&mut fleet);
    // The grace has begun when nothing more is due before its end.
    let mut switches = context_switches(monitor.pid());
    eventually(world.deadline(), "the monitor to wait for the end of the grace", || {
        pause(Duration::from_millis(500));
        std::mem::replace(&mut switches, context_switches(monitor.pid())) == switches
    });
    sleep_for_a_day(&world);
    // The monitor looks at all its tasks again.
    kill_and_settle(&mut fleet);
    assert!(state(agent).is_some_and(|s| s != 'Z'), "the agent was killed before its grace had passed");
    let rows = world.sql("SELECT status FROM task_history WHERE id = 'stubborn'");
    assert_eq!(rows[0].text("status"), "running");
    monitor.stop().silent();
    assert!(state(agent).is_some_and(|s| s != 'Z'), "a stopped monitor ends nothing");
}

#[test]
fn a_task_that_cannot_be_judged_expires_by_the_time_that_the_machine_slept() {
    let test = "a_task_that_cannot_be_judged_expires_by_the_time_that_the_machine_slept";
    // The monitor looks at such a task once a minute.
    if number("BOOKEND_MONITOR").is_none() {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    Busy::sleep(&world, "elsewhere").kill_all();
    change(&world, "UPDATE task_history SET live_ino = live_ino + 1");
    let Some(monitor) = monitor_with_a_clock(test, &world, &["--ttl", "1h"]) else { return };
    let ending = || world.row().ending();
    assert_eq!(ending(), "running/");
    sleep_for_a_day(&world);
    eventually(Deadline::within(Duration::from_secs(90)), "the task to expire", || ending() != "running/");
    assert_eq!(ending(), "interrupted/ttl");
    monitor.stop().silent();
}

#[test]
fn a_monitor_in_another_time_namespace_settles_deaths_and_spares_the_living() {
    const NAMESPACE: [&str; 6] = ["unshare", "--time", "--boottime", "1000000", "--monotonic", "1000000"];
    let test = "a_monitor_in_another_time_namespace_settles_deaths_and_spares_the_living";
    let Some(world) = World::of_bookend(test) else { return };
    let can_enter = || world.bare(NAMESPACE.iter().copied().chain(["true"])).run().stderr.is_empty();
    if !possible(test, is_root() && on_path("unshare") && can_enter(), "root and a time namespace") {
        return;
    }
    let mut fleet = Fleet::new(&world);
    fleet.grow(3);
    // A loss before its start, and one after it.
    fleet.kill();
    let monitor = Monitor::start_with(&world, &NAMESPACE, &[], &[]);
    kill_and_settle(&mut fleet);
    let left = world.sql("SELECT id FROM task_history WHERE status = 'running'");
    assert_eq!(left.len(), 1);
    assert!(left[0].text("id") == fleet.next().1, "{left:?}");
    assert!(fleet.deaths.iter().all(|death| death.noticed.is_some()), "the agents were ended");
    monitor.stop().silent();
}
