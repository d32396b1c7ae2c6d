//! The man pages and completions in `contrib/` are the ones that bookend generates.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::harness::{End, World, on_path, possible};

const FIX: &str = "run `just generated`";

/// The files of a directory, by name.
fn files(directory: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(directory).unwrap_or_else(|e| panic!("{}: {e}; {FIX}", directory.display()));
    let text = |e: fs::DirEntry| {
        let name = e.file_name().to_str().expect("UTF-8").to_owned();
        (name, fs::read_to_string(e.path()).expect("a text"))
    };
    entries.flatten().map(text).collect()
}

#[test]
fn the_man_pages_in_contrib_are_current() {
    let world = World::new();
    world.bare(["bookend", "man", "--dir", &world.name("man")]).run().ended(End::Code(0));
    let (kept, now) = (files(&contrib("man")), files(&world.path("man")));
    assert!(now.keys().eq(kept.keys()), "{:?}; {FIX}", now.keys());
    for (name, page) in &now {
        assert!(kept[name] == *page, "contrib/man/{name} is out of date: {FIX}");
    }
}

#[test]
fn the_completions_in_contrib_are_current() {
    let world = World::new();
    for (shell, name) in [("bash", "bookend.bash"), ("zsh", "_bookend"), ("fish", "bookend.fish")] {
        let now = world.bare(["bookend", "completions", shell]).run().ended(End::Code(0)).stdout;
        let kept = fs::read_to_string(contrib("completions").join(name)).unwrap_or_default();
        assert!(kept == now, "contrib/completions/{name} is out of date: {FIX}");
    }
}

#[test]
fn units_prints_every_unit_of_the_package_with_the_path_of_the_program() {
    let world = World::new();
    for (options, directory) in [(&[][..], "systemd"), (&["--user"], "systemd/user")] {
        let units = [&["bookend", "units"], options].concat();
        let dir = world.name(directory);
        world.bare([&units[..], &["--dir", &dir]].concat()).run().ended(End::Code(0));
        let written = files(Path::new(&dir));
        let kinds = [".service", ".timer", ".socket"];
        let is_unit = |name: &&String| kinds.iter().any(|kind| name.ends_with(kind));
        let entries = fs::read_dir(contrib(directory)).expect("the units").flatten();
        let kept: BTreeSet<String> = entries.map(|e| e.file_name().display().to_string()).collect();
        assert!(written.keys().eq(kept.iter().filter(is_unit)), "{directory}: {:?}", written.keys());
        let printed = world.bare(units).run().ended(End::Code(0)).stdout;
        for (name, unit) in &written {
            assert!(printed.contains(&format!("# {name}\n{unit}")), "{name} is printed as it is written");
            let commands: Vec<&str> = unit.lines().filter(|l| l.starts_with("ExecStart=")).collect();
            let own = |command: &&str| !command.contains("=/usr/bin/") && command.contains("/bookend ");
            assert!(commands.iter().all(own) && !unit.contains("\nDocumentation="), "{name}: {commands:?}");
        }
    }
}

fn contrib(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("contrib").join(name)
}

#[test]
fn the_man_pages_have_every_section_and_no_warning() {
    let pages = files(&contrib("man"));
    for (name, page) in &pages {
        for section in
            ["SYNOPSIS", "ENVIRONMENT", "\"EXIT STATUS\"", "FILES", "EXAMPLES\n.nf", "\"SEE ALSO\""]
        {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{name} has no section {section}");
        }
    }
    assert!(pages["bookend-run.1"].contains("[\\fB\\-\\-key\\fR\\fI KEY\\fR]"), "a synopsis shows values");
    let test = "the_man_pages_have_no_warning";
    if !possible(test, on_path("mandoc"), "mandoc") {
        return;
    }
    let world = World::new();
    let names = pages.keys().map(|name| contrib("man").join(name).display().to_string());
    let words = ["mandoc", "-Tlint", "-Wwarning"].map(str::to_owned).into_iter().chain(names);
    let output = world.bare(words).run();
    assert_eq!((output.end, output.stdout.as_str()), (End::Code(0), ""));
}
