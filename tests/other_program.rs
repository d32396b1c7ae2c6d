//! A build without the client of PostgreSQL continues as the program that has it, `bookend-fleet`. A script
//! in the place of that program writes down how it was started.

use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;

use serde_json::{Value, json};

use crate::harness::{Cmd, End, Monitor, World};

/// The places of the program, from the directory of bookend.
const BESIDE: &str = "bin/bookend-fleet";
const PACKAGED: &str = "libexec/bookend/bookend-fleet";
/// A mask of SIGUSR1 and SIGTERM, an ignored SIGINT and SIGCHLD, and an empty variable.
const CALLER: [&str; 3] = ["mask=10,15", "ignore=2,17", "env=BOOKEND_SINCE="];

/// A world with a copy of bookend, whose ledger is in a fleet.
fn member(test: &str) -> Option<World> {
    let world = World::of_bookend(test)?;
    world.run(["true"]).run().ended(End::Code(0)).silent();
    join(&world);
    let program = world.path("bin/bookend");
    let built = fs::canonicalize(&program).expect("the program");
    fs::remove_file(&program).and_then(|()| fs::copy(built, &program)).expect("a copy");
    Some(world)
}

/// As `fleet join` does.
fn join(world: &World) {
    let node = "0199aaaa-0000-7000-8000-000000000001";
    let setting = json!({"url": "postgres://db/fleet", "node": node, "ledger": node, "joined_at": ""});
    world.write(&format!("INSERT INTO bookend_setting (name, value) VALUES ('fleet', '{setting}')"));
    File::create(world.path("state/bookend/bookend.db.d/spool/.fleet")).expect("the marker");
}

/// Installs the script, which reports to the file `report` and its words to `words`.
fn install(world: &World, place: &str) {
    let path = world.path(place);
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    let (words, report) = (world.name("words"), world.name("report"));
    let script = format!("#!/bin/sh\nprintf '%s\\n' $$ \"$@\" >'{words}'\nexec probe report '{report}'");
    fs::rename(world.program("script", &script), path).expect("the program");
}

fn of(world: &World) -> (Vec<String>, Value) {
    let words = fs::read_to_string(world.path("words")).expect("the other program was executed");
    let report = fs::read(world.path("report")).expect("its report");
    (words.lines().map(str::to_owned).collect(), serde_json::from_slice(&report).expect("JSON"))
}

fn environment(report: &Value) -> Vec<String> {
    let entries = report["environ"].as_array().expect("a list").iter();
    let text = |entry: &Value| {
        let hex = entry.as_str().expect("text").as_bytes();
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("hex"), 16).expect("hex");
        String::from_utf8(hex.chunks(2).map(byte).collect()).expect("UTF-8")
    };
    entries.map(text).collect()
}

/// Asserts that a command that is built from these words continued in the same process, with the words,
/// signals, descriptors and environment that the other program has if it is started directly.
#[track_caller]
fn continues<'w>(world: &'w World, place: &str, words: &[&str], command: impl Fn(&str) -> Cmd<'w>) -> Value {
    let started = |program: &str| {
        let process = command(program).start();
        let pid = process.pid();
        process.wait().ended(End::Code(0)).silent();
        let (seen, report) = of(world);
        assert_eq!(seen[0], pid.to_string(), "{words:?}: the same process");
        assert_eq!(seen[1..], *words);
        fs::remove_file(world.path("words")).expect("its words");
        let numbers: Vec<Value> =
            report["descriptors"].as_array().expect("a list").iter().map(|d| d["fd"].clone()).collect();
        let mut variables = environment(&report);
        variables.retain(|entry| !entry.starts_with("LISTEN_PID="));
        ((variables, report["status"].clone(), numbers), report)
    };
    let (direct, _) = started(&world.name(place));
    let (continued, report) = started("bookend");
    assert_eq!(continued, direct, "{words:?}");
    assert_eq!(report["status"]["SigBlk"], "0000000000004200");
    report
}

#[test]
fn each_command_that_needs_the_database_continues_as_it_was_started() {
    let test = "each_command_that_needs_the_database_continues_as_it_was_started";
    let Some(world) = member(test) else { return };
    install(&world, PACKAGED);
    let all: &[&[&str]] = &[
        &["fleet", "status", "--json"],
        &["fleet", "init", "postgres://db/fleet"],
        &["list", "--key", "with space"],
        &["list", "--ledger", "postgres://db/fleet"],
        &["show", "x"],
        &["stats"],
        &["timeline"],
        &["audit"],
        &["doctor"],
        &["cancel", "--key", "k"],
        &["wait", "--key", "k"],
        &["monitor"],
    ];
    for words in all {
        let words = words.to_vec();
        let command = |program: &str| world.bare([&[program], words.as_slice()].concat()).with(CALLER);
        continues(&world, PACKAGED, &words, command);
    }
    assert_eq!(world.rows().len(), 1);
}

#[test]
fn the_monitor_passes_on_what_systemd_gave_it() {
    let Some(world) = member("the_monitor_passes_on_what_systemd_gave_it") else { return };
    install(&world, BESIDE);
    let listener = OwnedFd::from(UnixListener::bind(world.path("listening")).expect("a socket"));
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ exec \"$0\" monitor";
    let command = |program: &str| {
        let input = listener.try_clone().expect("a descriptor");
        let command = world.bare(["sh", "-c", script, program]).input(File::from(input)).with(CALLER);
        let command = command.env("LISTEN_FDS", "1").env("WATCHDOG_USEC", "300000000");
        command.env("NOTIFY_SOCKET", world.path("notify"))
    };
    let report = continues(&world, BESIDE, &["monitor"], command);
    let environment = environment(&report);
    for name in ["LISTEN_PID=", "LISTEN_FDS=1", "NOTIFY_SOCKET=/", "WATCHDOG_USEC=300000000"] {
        assert!(environment.iter().any(|entry| entry.starts_with(name)), "{name}: {environment:?}");
    }
    let descriptors = report["descriptors"].as_array().expect("a list");
    let third = descriptors.iter().find(|d| d["fd"] == 3).expect("the descriptor of systemd");
    assert!(third["target"].as_str().expect("text").starts_with("socket:"), "{third}");
}

#[test]
fn a_monitor_continues_when_its_ledger_joins_a_fleet() {
    let test = "a_monitor_continues_when_its_ledger_joins_a_fleet";
    let Some(world) = member(test) else { return };
    world.write("DELETE FROM bookend_setting WHERE name = 'fleet'");
    fs::remove_file(world.path("state/bookend/bookend.db.d/spool/.fleet")).expect("the marker");
    install(&world, PACKAGED);
    let monitor = Monitor::start(&world, &[]);
    join(&world);
    let pid = monitor.pid().to_string();
    let output = monitor.wait().ended(End::Code(0));
    assert_eq!((output.stdout.as_str(), output.stderr.as_str()), ("", ""));
    let (words, report) = of(&world);
    assert_eq!(words, [pid.as_str(), "monitor"]);
    assert_eq!(report["status"]["SigBlk"], "0000000000000000");
    assert!(environment(&report).iter().any(|entry| entry.starts_with("NOTIFY_SOCKET=/")));
}

#[test]
fn without_the_other_program_the_commands_say_so_and_show_their_own_rows() {
    let test = "without_the_other_program_the_commands_say_so_and_show_their_own_rows";
    let Some(world) = member(test) else { return };
    let lacks = |stderr: &str| stderr.contains("the program bookend-fleet, which has it, is not installed");
    let refused = world.bare(["bookend", "fleet", "status"]).run().ended(End::Code(125));
    assert!(lacks(&refused.stderr) && refused.stderr.contains("install the Debian package"), "{refused:?}");
    let listed = world.bare(["bookend", "list"]).run().ended(End::Code(0));
    assert!(lacks(&listed.stderr) && listed.stdout.contains("success"), "{listed:?}");
    // A program of that name that lacks it too does not execute itself.
    fs::copy(world.path("bin/bookend"), world.path(BESIDE)).expect("a copy");
    let refused = world.bare(["bookend", "fleet", "status"]).run().ended(End::Code(125));
    assert!(lacks(&refused.stderr), "{refused:?}");
}

#[test]
fn a_run_never_continues_as_the_other_program() {
    let Some(world) = member("a_run_never_continues_as_the_other_program") else { return };
    install(&world, BESIDE);
    world.run(["true"]).run().ended(End::Code(0)).silent();
    let refused = world.run(["true"]).options(["--key", "k"]).run().ended(End::Code(125));
    assert!(refused.stderr.contains("no monitor of the ledger"), "{refused:?}");
    assert!(!world.path("words").exists());
    assert_eq!(world.rows().len(), 2);
}
