//! The fault matrix: each part of a fleet × each fault, while two hosts start runs, with and without keys.
//!
//! The test runs a few cells. `BOOKEND_FLEET_FAULTS=all` runs all of them, `=PART/PARTS` a part of them, and
//! any other text those whose names contain it. `just fleet-faults` and `.ci/run` set it.

use std::cell::{Cell as Flag, RefCell};
use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::arena::{Arena, Dice, Kind, Load, UNREACHABLE, role_of, run_words};
use crate::harness::{World, pause, print_line};
use crate::hosts::{Cut, Ended, Network, can_make_hosts, send};
use crate::postgres::Postgres;

/// What runs go on before the fault, and after it.
const BEFORE: Duration = Duration::from_millis(800);
const AFTER: Duration = Duration::from_millis(2000);
/// The longest time of a run without a key on a host that is not stopped: it never waits for the database.
const LONGEST: Duration = Duration::from_secs(10);
/// The cells that run without the variable.
const FEW: [&str; 2] = ["monitor back", "database killed"];

/// What fails. If it is on a host, then on the first one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Part {
    Supervisor,
    Monitor,
    Host,
    Database,
    Network,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Fault {
    /// Until the runs are over.
    Killed,
    /// Until its host is unreachable, and continued while the runs go on.
    Stopped,
    /// From the others, until the runs are over.
    CutOff,
    /// Killed, and back while the runs go on, twice.
    Back,
}

const PARTS: [Part; 5] = [Part::Supervisor, Part::Monitor, Part::Host, Part::Database, Part::Network];
const FAULTS: [Fault; 4] = [Fault::Killed, Fault::Stopped, Fault::CutOff, Fault::Back];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Cell {
    Fault(Part, Fault),
    /// A process ends at a point of the protocol.
    #[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "only that feature has points"))]
    Point(&'static str, Victim),
}

/// Who passes a point.
#[cfg_attr(not(feature = "failpoints"), expect(dead_code, reason = "only that feature has points"))]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Run,
    Monitor,
}

impl Cell {
    fn all() -> Vec<Cell> {
        let faults = PARTS.iter().flat_map(|p| FAULTS.iter().map(|f| Cell::Fault(*p, *f)));
        faults.chain(points()).collect()
    }

    fn name(&self) -> String {
        let words = match self {
            Cell::Fault(part, Fault::CutOff) => format!("{part:?} cut off"),
            Cell::Fault(part, fault) => format!("{part:?} {fault:?}"),
            Cell::Point(point, victim) => format!("{victim:?} killed at {point}"),
        };
        words.to_lowercase()
    }

    /// The cells that the environment selects.
    fn selected() -> Vec<Cell> {
        let all = Cell::all();
        let wanted = std::env::var("BOOKEND_FLEET_FAULTS").unwrap_or_default();
        let part = wanted.split_once('/').map(|(part, parts)| [part, parts].map(str::parse::<usize>));
        match (wanted.as_str(), part) {
            ("", _) => all.into_iter().filter(|cell| FEW.contains(&cell.name().as_str())).collect(),
            ("all", _) => all,
            (_, Some([Ok(part), Ok(parts)])) => {
                let numbered = all.into_iter().enumerate();
                numbered.filter(|(n, _)| n % parts == part % parts).map(|(_, cell)| cell).collect()
            }
            _ => all.into_iter().filter(|cell| cell.name().contains(&wanted)).collect(),
        }
    }
}

#[cfg(feature = "failpoints")]
#[path = "../../src/failpoint/points.rs"]
#[allow(dead_code, reason = "the points of the fleet are some of all")]
mod points;

/// The points of the protocol, which exist only with the feature `failpoints`.
#[cfg(feature = "failpoints")]
fn points() -> Vec<Cell> {
    let victim = |point: &str| if point.starts_with("run.") { Victim::Run } else { Victim::Monitor };
    points::HUB.iter().map(|point| Cell::Point(point, victim(point))).collect()
}

#[cfg(not(feature = "failpoints"))]
fn points() -> Vec<Cell> {
    Vec::new()
}

#[test]
fn the_invariants_of_the_fleet_hold_whatever_fails() {
    let test = "the_invariants_of_the_fleet_hold_whatever_fails";
    if !can_make_hosts(test) || Postgres::start(test).is_none() {
        return;
    }
    let began = Instant::now();
    let cells = Cell::selected();
    assert!(!cells.is_empty(), "BOOKEND_FLEET_FAULTS selects no cell of {:?}", names(&Cell::all()));
    print_line(&format!("fleet faults: {}", names(&cells).join(", ")));
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    // Most of the time of a cell is waiting.
    let at_once = 2 * std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let failure = run_cell(cell);
                    failed.lock().expect("the list").extend(failure);
                }
            });
        }
    });
    let failed = failed.into_inner().expect("the list");
    assert!(failed.is_empty(), "{} of {} cells:\n{}", failed.len(), cells.len(), failed.join("\n"));
    print_line(&format!("fleet faults: {} cells, 0 violations, in {:?}", cells.len(), began.elapsed()));
}

fn names(cells: &[Cell]) -> Vec<String> {
    cells.iter().map(Cell::name).collect()
}

/// What is wrong after the cell.
fn run_cell(cell: &Cell) -> Option<String> {
    let name = cell.name();
    let done = std::panic::catch_unwind(|| {
        let world = World::of_bookend(&name).expect("a world");
        let network = Network::new();
        let database = Postgres::with_schema_in(&name, Some(network.process())).expect("a server");
        let arena = Arena::new(&world, &network, database);
        let found = violations(&arena, cell);
        (!found.is_empty()).then(|| {
            let mut text = String::new();
            found.iter().for_each(|what| writeln!(text, "    {what}").expect("a string"));
            for member in &arena.members {
                let messages = member.messages();
                let last: Vec<&str> = messages.lines().rev().take(20).collect();
                writeln!(text, "    monitors of {}: {last:#?}", member.name).expect("a string");
            }
            text
        })
    });
    match done {
        Ok(failure) => failure.map(|text| format!("  {name}:\n{text}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("  {name}: panicked: {}", text.unwrap_or_default()))
        }
    }
}

fn violations(arena: &Arena, cell: &Cell) -> Vec<String> {
    let mut hasher = DefaultHasher::new();
    cell.name().hash(&mut hasher);
    let seed = hasher.finish();
    let (hits, after) = (Flag::new(0), RefCell::new(Vec::new()));
    let load = Load::around(
        arena,
        seed,
        || {
            pause(BEFORE);
            hits.set(inject(arena, cell, &mut Dice(seed)));
            pause(AFTER);
        },
        || {
            heal(arena, cell);
            after.borrow_mut().extend(keys_are_free(arena));
        },
    );
    let evidence = arena.rest();
    let mut found = after.into_inner();
    found.extend(load.violations(harmed(cell), LONGEST));
    found.extend(evidence.violations(&[]));
    if hits.get() == 0 {
        found.push("the fault has hit nothing".to_owned());
    }
    if evidence.hosts_that_worked().len() < 2 {
        found.push("one host has never worked under a key".to_owned());
    }
    print_line(&format!("{}: {} [{}]", cell.name(), evidence.totals(), load.summary()));
    found
}

/// The hosts whose runs the fault may end or stop.
fn harmed(cell: &Cell) -> &'static [&'static str] {
    match cell {
        Cell::Fault(Part::Supervisor | Part::Host, _) | Cell::Point(_, Victim::Run) => &["a"],
        _ => &[],
    }
}

/// Makes it fail, and for some faults puts it back. Returns how many things were hit.
fn inject(arena: &Arena, cell: &Cell, dice: &mut Dice) -> usize {
    match cell {
        Cell::Fault(Part::Supervisor, fault) => supervisors(arena, *fault),
        Cell::Fault(Part::Monitor, fault) => monitor(arena, *fault),
        Cell::Fault(Part::Host, fault) => host(arena, *fault),
        Cell::Fault(Part::Database, fault) => database(arena, *fault),
        Cell::Fault(Part::Network, fault) => network(arena, *fault),
        Cell::Point(point, victim) => point_of_protocol(arena, point, *victim, dice),
    }
}

fn supervisors(arena: &Arena, fault: Fault) -> usize {
    let [a, _] = &arena.members;
    let signal = |signal| {
        let found = a.host().bookends("run");
        found.iter().for_each(|pid| send(*pid, signal));
        found.len()
    };
    match fault {
        Fault::Killed => until_hit(|| signal(Signal::KILL)),
        Fault::Stopped => {
            let hits = until_hit(|| signal(Signal::STOP));
            pause(UNREACHABLE);
            signal(Signal::CONT);
            hits
        }
        // From the monitor: new runs do not find it.
        Fault::CutOff => {
            let socket = socket(arena);
            std::fs::rename(&socket, socket.with_extension("away")).expect("the socket of the monitor");
            1
        }
        Fault::Back => (0..8).map(|_| until_hit(|| signal(Signal::KILL))).sum(),
    }
}

/// Repeats what may find nothing to hit at a moment.
fn until_hit(mut hit: impl FnMut() -> usize) -> usize {
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        let hits = hit();
        if hits > 0 || Instant::now() > until {
            return hits;
        }
        pause(Duration::from_millis(5));
    }
}

fn socket(arena: &Arena) -> std::path::PathBuf {
    arena.members[0].host().disk().join("state/bookend/bookend.db.d/fleet.sock")
}

fn monitor(arena: &Arena, fault: Fault) -> usize {
    let [a, _] = &arena.members;
    let signal = |signal| until_hit(|| usize::from(a.signal_monitor(signal)));
    let role = role_of(&a.name);
    match fault {
        Fault::Killed => {
            a.is_watched.store(false, Ordering::Relaxed);
            signal(Signal::KILL)
        }
        Fault::Stopped => {
            let hits = signal(Signal::STOP);
            pause(UNREACHABLE);
            hits + usize::from(a.signal_monitor(Signal::CONT))
        }
        // From the database.
        Fault::CutOff => {
            let ended = arena.database.psql(&format!(
                "ALTER ROLE {role} NOLOGIN;
                 SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE usename = '{role}'"
            ));
            ended.parse().expect("a number")
        }
        Fault::Back => {
            let mut hits = 0;
            for _ in 0..4 {
                hits += signal(Signal::KILL);
                pause(Duration::from_millis(400));
            }
            hits
        }
    }
}

fn host(arena: &Arena, fault: Fault) -> usize {
    let [a, _] = &arena.members;
    match fault {
        Fault::Killed => a.change(|host| host.kill()),
        Fault::Stopped => {
            a.host().stop();
            pause(UNREACHABLE);
            a.host().resume();
        }
        Fault::CutOff => a.host().cut(Cut::Link),
        Fault::Back => {
            for _ in 0..2 {
                a.change(|host| host.reboot());
                pause(AFTER / 2);
            }
        }
    }
    1
}

fn database(arena: &Arena, fault: Fault) -> usize {
    match fault {
        Fault::Killed => arena.database.kill(),
        Fault::Stopped => {
            arena.database.suspend();
            pause(UNREACHABLE);
            arena.database.resume();
        }
        Fault::CutOff => arena.members.iter().for_each(|m| m.host().cut(Cut::Packets)),
        Fault::Back => {
            for _ in 0..2 {
                arena.database.kill();
                arena.database.start_again();
                pause(AFTER / 2);
            }
        }
    }
    1
}

fn network(arena: &Arena, fault: Fault) -> usize {
    let [a, _] = &arena.members;
    match fault {
        Fault::Killed => a.host().remove_link(),
        Fault::Stopped => {
            a.host().cut(Cut::Packets);
            pause(UNREACHABLE);
            a.host().join_network(Cut::Packets);
        }
        Fault::CutOff => a.host().cut(Cut::Packets),
        Fault::Back => {
            for _ in 0..2 {
                a.change(|host| host.renew_link());
                pause(AFTER / 2);
            }
        }
    }
    1
}

/// Ends processes of the first host at a point: its next monitor, or its next runs.
fn point_of_protocol(arena: &Arena, point: &str, victim: Victim, dice: &mut Dice) -> usize {
    let [a, _] = &arena.members;
    let fails = |nth: u64| format!("{point}#{nth}:kill");
    match victim {
        Victim::Monitor => {
            // The first time is at its start; a later one is while runs go on, or when it stops.
            for nth in [1, 1 + dice.roll(4)] {
                *a.fail_point.lock().expect("a fail point") = fails(nth);
                until_hit(|| usize::from(a.signal_monitor(Signal::KILL)));
                // A claim without a task is released.
                kill_run(arena, "own", "run.granted");
                order_cancel(arena);
                pause(AFTER);
                a.signal_monitor(Signal::TERM);
                pause(AFTER);
            }
            a.ended_at_point.load(Ordering::Relaxed)
        }
        Victim::Run => (0..4).map(|n| kill_run(arena, &format!("k{}", n % 3), point)).sum(),
    }
}

/// Orders that a run of the first host is cancelled, one under a key, as a run of the other one may be.
fn order_cancel(arena: &Arena) {
    until_hit(|| {
        let task = "SELECT t.id FROM bookend.task_history t JOIN bookend.node n ON n.id = t.node
                    WHERE n.host = 'a' AND t.status = 'running' AND t.key IS NOT NULL LIMIT 1";
        let order = format!("SELECT bookend.cancel(id)->>'state' FROM ({task}) t");
        usize::from(arena.database.psql(&order) == "ordered")
    });
}

/// A run under this key that is killed at a point. Returns whether it was.
fn kill_run(arena: &Arena, key: &str, point: &str) -> usize {
    let mut command = arena.members[0].host().command(run_words(Kind::Waiting, key, 50));
    let child = command.env("BOOKEND_FAILPOINT", format!("{point}:kill")).spawn().expect("a run");
    usize::from(Ended::of(child).code.is_none())
}

/// Puts everything back.
fn heal(arena: &Arena, cell: &Cell) {
    let [a, b] = &arena.members;
    match cell {
        Cell::Fault(Part::Supervisor, Fault::CutOff) => {
            let socket = socket(arena);
            std::fs::rename(socket.with_extension("away"), socket).expect("the socket of the monitor");
        }
        Cell::Fault(Part::Monitor, Fault::Killed) => a.is_watched.store(true, Ordering::Relaxed),
        Cell::Fault(Part::Monitor, Fault::CutOff) => {
            arena.database.psql(&format!("ALTER ROLE {} LOGIN", role_of(&a.name)));
        }
        Cell::Fault(Part::Host, Fault::Killed) => a.change(|host| host.boot()),
        Cell::Fault(Part::Host, Fault::CutOff) => a.host().join_network(Cut::Link),
        Cell::Fault(Part::Database, Fault::Killed) => arena.database.start_again(),
        Cell::Fault(Part::Database, Fault::CutOff) => {
            [a, b].iter().for_each(|m| m.host().join_network(Cut::Packets));
        }
        Cell::Fault(Part::Network, Fault::Killed) => a.change(|host| host.make_link()),
        Cell::Fault(Part::Network, Fault::CutOff) => a.host().join_network(Cut::Packets),
        _ => {}
    }
}

/// After everything is back, every key can be had on every host.
fn keys_are_free(arena: &Arena) -> Vec<String> {
    let mut found = Vec::new();
    for member in &arena.members {
        for key in ["k0", "k1", "k2"] {
            let until = Instant::now() + Duration::from_secs(40);
            loop {
                member.watch_monitor();
                let ended = member.host().run(run_words(Kind::Waiting, key, 10));
                if ended.code == Some(0) {
                    break;
                }
                if Instant::now() > until {
                    found.push(format!("{key} cannot be had on {}: {ended:?}", member.name));
                    break;
                }
                pause(Duration::from_millis(50));
            }
        }
    }
    found
}

#[test]
fn the_oracle_finds_what_is_broken_on_purpose() {
    let test = "the_oracle_finds_what_is_broken_on_purpose";
    if !can_make_hosts(test) {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    let network = Network::new();
    let Some(database) = Postgres::with_schema_in(test, Some(network.process())) else { return };
    let arena = Arena::new(&world, &network, database);
    arena.database.psql(
        "CREATE OR REPLACE FUNCTION bookend.take(
             p_node uuid, p_registration bigint, p_key text, p_task text, p_slot bigint, p_wait boolean)
         RETURNS jsonb LANGUAGE sql SECURITY DEFINER AS
             $$ SELECT jsonb_build_object('state', 'granted', 'task', p_task, 'session_lost', false) $$",
    );
    Load::around(&arena, 1, || pause(BEFORE + AFTER), || {});
    arena.rest();
    arena.database.psql(
        "UPDATE bookend.task_history SET cost_usd = 7
             WHERE id = (SELECT min(id) FROM bookend.task_history);
         INSERT INTO bookend.task_transition (task_id, n, at, to_status)
             SELECT max(id), 99, now(), 'failure' FROM bookend.task_history;
         INSERT INTO bookend.claim (key, task_id, node, epoch)
             SELECT 'k', 'nobody', id, 1 FROM bookend.node LIMIT 1",
    );
    let found = arena.evidence().violations(&[]).join("\n");
    for part in ["F1: ", "F3: ", "F6: ", "still claimed: k by nobody"] {
        assert!(found.contains(part), "{part} is not in {found}");
    }
}

#[test]
fn every_cell_has_a_name_and_the_parts_hold_each_once() {
    let mut names = names(&Cell::all());
    assert!(FEW.iter().all(|few| names.iter().any(|name| name == few)), "{names:?}");
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), Cell::all().len());
}
