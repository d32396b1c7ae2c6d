//! The commands that messages suggest: each names its ledger, unless that is the default one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::{End, World};

/// Commands that use no ledger.
const WITHOUT_LEDGER: [&str; 5] = ["agents", "help", "man", "completions", "units"];
/// Runs until it is stopped, and suggests what `recover` does.
const RESIDENT: &str = "monitor";
/// Words after a command's name that make it print something about these tasks. The other commands are
/// called with no word, with the id of a task and with one that does not exist.
const WORDS: &[(&str, &[&str])] = &[
    ("run", &["--id lost -- true", "--key failed -- claude -p x", "--key k -- true", "-- nosuch"]),
    ("artifact", &["add .", "add --task nosuch .", "add --task lost ."]),
    ("cancel", &["--all --wait 0", "--key k", "--key nosuch", "lost", "elsewhere", "success", "nosuch"]),
    ("redispatch", &["lost", "nosuch", "success"]),
    (
        "session",
        &[
            "list",
            "show k",
            "show nosuch",
            "resume-id k",
            "resume-id nosuch",
            "restore nosuch",
            "invalidate nosuch",
        ],
    ),
    ("wait", &["nosuch"]),
    ("prune", &["--dry-run"]),
    ("", &[""]),
    ("recover", &["--dry-run", "elsewhere", ""]),
    ("audit", &["", "--json"]),
    ("doctor", &["", "--json"]),
];

/// The names of all commands.
fn commands(world: &World) -> Vec<String> {
    let help = world.bare(["bookend", "-h"]).run().ended(End::Code(0)).stdout;
    let named = help.lines().filter_map(|line| line.strip_prefix("  ")?.split_once(' '));
    let is_name =
        |name: &str| !["", "bookend"].contains(&name) && name.chars().all(|c| c.is_ascii_lowercase());
    named.map(|(name, _)| name.to_owned()).filter(|name| is_name(name)).collect()
}

/// Tasks that most commands have something to say about.
fn tasks(world: &World) {
    world.program("claude", "#!/bin/sh\nexit 3\n");
    world.run(["claude", "-p", "x"]).options(["--id", "failed", "--key", "failed"]).run();
    world.run(["true"]).options(["--id", "success", "--on-finish", "exit 1"]).run().ended(End::Code(0));
    for (id, key) in [("elsewhere", "far"), ("lost", "k")] {
        world.run_sh("kill -9 $PPID").options(["--id", id, "--key", key]).run();
    }
    world.write("UPDATE task_history SET host = 'elsewhere', boot_id = 'another' WHERE id = 'elsewhere'");
    world.write("UPDATE task_history SET finished_at = NULL, end_source = 'wait' WHERE id = 'failed'");
}

/// The commands of bookend in a text: each from its name to the end of the line or the closing quote.
fn suggested<'t>(text: &'t str, names: &[String]) -> Vec<&'t str> {
    let lines = text.lines().filter(|line| !line.starts_with("usage: "));
    let after = lines.flat_map(|line| line.split("bookend ").skip(1));
    let commands = after.map(|rest| rest.split('`').next().unwrap_or_default());
    let is_command = |rest: &&str| {
        let first = rest.split([' ', ',', ';']).next().unwrap_or_default();
        names.iter().any(|name| name == first) && !WITHOUT_LEDGER.contains(&first)
    };
    // It names a database, and no ledger.
    let is_setup = |rest: &&str| rest.starts_with("fleet init");
    let commands = commands.filter(|rest| !rest.contains("--help") && !is_setup(rest));
    commands.filter(is_command).collect()
}

/// Calls every command, and returns the names of the commands that the messages suggest.
fn commands_suggested_in(world: &World, names: &[String]) -> BTreeSet<String> {
    // Bare `bookend` first, and last what changes the tasks that the others report.
    let order = |name: &&str| ["recover", "run"].iter().position(|last| last == name);
    let mut calls: Vec<&str> = [""].into_iter().chain(names.iter().map(String::as_str)).collect();
    calls.retain(|name| !WITHOUT_LEDGER.contains(name) && *name != RESIDENT);
    calls.sort_by_key(order);
    let place = format!("--ledger {}", world.ledger().display());
    let mut found = BTreeSet::new();
    for name in calls {
        let words = WORDS.iter().find(|(command, _)| *command == name).map(|(_, words)| *words);
        for words in words.unwrap_or(&["", "lost", "failed", "nosuch"]) {
            let argv = [name].into_iter().chain(words.split_whitespace()).filter(|word| !word.is_empty());
            let output = world.bare(["bookend"].into_iter().chain(argv)).cwd(world.path("tmp")).run();
            let text = format!("{}\n{}", output.stdout, output.stderr);
            for command in suggested(&text, names) {
                assert!(command.contains(&place), "bookend {name} {words}: bookend {command}\n{text}");
                found.insert(command.split(' ').next().unwrap_or_default().to_owned());
            }
        }
    }
    found
}

#[test]
fn every_command_that_a_message_suggests_names_its_ledger() {
    let test = "every_command_that_a_message_suggests_names_its_ledger";
    let (Some(empty), Some(used)) = (World::of_bookend(test), World::of_bookend(test)) else { return };
    let names = commands(&empty);
    assert!(names.len() > 15, "{names:?}");
    let mut found = commands_suggested_in(&empty, &names);
    tasks(&used);
    found.extend(commands_suggested_in(&used, &names));
    for expected in ["recover", "list", "show", "deliver", "session", "redispatch", "run", "doctor", "audit"]
    {
        assert!(found.contains(expected), "no message suggests bookend {expected}: {found:?}");
    }
}

/// The string literals of the program outside of its command line, whose examples and help name commands.
fn literals(directory: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(directory).expect("a directory of src").flatten() {
        let path = entry.path();
        let name = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).expect("a source").display().to_string();
        if ["src/cli", "src/exit.rs"].contains(&name.as_str()) || name.ends_with("/tests") {
            continue;
        }
        if path.is_dir() {
            literals(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let source = fs::read_to_string(&path).expect("a source");
            let code = source.split("#[cfg(test)]").next().expect("its beginning");
            let lines = code.lines().filter(|line| !line.trim_start().starts_with("//"));
            found.extend(lines.map(|line| (name.clone(), line.to_owned())));
        }
    }
}

#[test]
fn no_message_writes_a_command_without_asking_for_its_ledger() {
    let world = World::new();
    let names = commands(&world);
    let mut lines = Vec::new();
    literals(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut lines);
    assert!(lines.len() > 10_000, "{}", lines.len());
    lines.retain(|(_, line)| !suggested(line, &names).is_empty());
    assert_eq!(lines, Vec::new(), "use view::suggestion");
}
