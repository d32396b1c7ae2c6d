//! The house is in order: who may use whom, where `unsafe` may stand, what lies at the top level, and that no
//! test is forgotten.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn every_file_of_tests_is_a_module_of_the_one_binary() {
    let tests = root().join("tests");
    let main = read(&tests.join("main.rs"));
    for entry in fs::read_dir(&tests).expect("tests/").flatten() {
        let path = entry.path();
        let is_rust = path.extension().is_some_and(|e| e == "rs") || path.join("mod.rs").exists();
        let name = path.file_stem().and_then(|s| s.to_str()).expect("a name").to_owned();
        if is_rust && name != "main" {
            assert!(
                main.lines().any(|l| l == format!("mod {name};")),
                "tests/{name}: its tests never run; add `mod {name};` to tests/main.rs"
            );
        }
    }
}

/// The storeys of the house, from the bottom up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Storey {
    /// The words of a task; it rests on nothing.
    Words,
    Ground,
    /// The four that do not know each other.
    Trades,
    Commands,
    CommandLine,
    Main,
}

fn storey(module: &str) -> Storey {
    match module {
        "task" | "exit" => Storey::Words,
        "sys" | "error" | "log" | "clock" | "failpoint" => Storey::Ground,
        "agent" | "process" | "ledger" | "view" => Storey::Trades,
        "cli" => Storey::CommandLine,
        "main" => Storey::Main,
        _ => Storey::Commands,
    }
}

fn may_use(user: &str, used: &str) -> bool {
    match (storey(user), storey(used)) {
        _ if user == used => true,
        (Storey::Words, Storey::Words)
        | (Storey::Ground, Storey::Ground)
        | (Storey::Commands, Storey::Commands) => true,
        (above, below) => above > below,
    }
}

#[test]
fn modules_use_what_is_below_them_and_never_what_is_above_or_beside() {
    let mut wrong = Vec::new();
    for path in sources("src") {
        let user = module_of(&path);
        for used in used_modules(&code(&read(&path))) {
            if !may_use(&user, &used) {
                wrong.push(format!("{}: {user} may not use {used}", shown(&path)));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_rule_sees_every_way_of_naming_a_module() {
    let text =
        "use crate::task::Status;\nuse crate::{log, view::{self, Screen}};\nfn f() { crate::sys::now() }\n";
    assert_eq!(used_modules(text), ["task", "log", "view", "sys"]);
    assert!(may_use("commands", "run") && may_use("cli", "process") && may_use("ledger", "task"));
    assert!(!may_use("ledger", "process") && !may_use("run", "cli") && !may_use("task", "error"));
}

#[test]
fn unsafe_code_stands_in_two_files_only() {
    for path in sources("src") {
        let name = shown(&path);
        if name.starts_with("src/sys/") || name == "src/process/spawn/gate.rs" {
            continue;
        }
        let text = code(&read(&path));
        let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"];
        let is_word = |at: usize| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let found = opens.iter().any(|o| text.match_indices(o).any(|(at, _)| is_word(at)));
        assert!(!found, "{name}: unsafe code belongs in src/sys");
    }
    let manifest = read(&root().join("Cargo.toml"));
    assert!(
        manifest.contains("\nundocumented_unsafe_blocks = \"deny\"\n"),
        "clippy asks for a SAFETY line at each unsafe block"
    );
}

#[test]
fn every_module_begins_by_saying_what_it_is_for() {
    for path in sources("src").into_iter().chain(sources("tests")) {
        assert!(read(&path).starts_with("//! "), "{}: begins without `//! `", shown(&path));
    }
}

#[test]
fn no_line_is_wider_than_the_page() {
    for path in sources("src").into_iter().chain(sources("tests")) {
        for (number, line) in (1..).zip(read(&path).lines()) {
            assert!(line.chars().count() <= 110, "{}:{number}: wider than 110", shown(&path));
        }
    }
}

#[test]
fn only_what_belongs_there_lies_at_the_top_level() {
    let files = Command::new("git").args(["ls-tree", "--name-only", "HEAD"]).current_dir(root()).output();
    let Ok(files) = files else {
        return crate::harness::say("skipped only_what_belongs_there_lies_at_the_top_level: needs git");
    };
    for name in String::from_utf8_lossy(&files.stdout).lines() {
        let known = ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "contrib", "src", "tests"];
        assert!(name.starts_with('.') || known.contains(&name), "{name}: has no place at the top level");
    }
}

/// Every Rust file below a directory of the repository.
fn sources(below: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(below)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of sources").flatten() {
            let path = entry.path();
            // What cargo builds below tests/fuzz, if it is not told to do so elsewhere.
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no sources below {below}");
    found
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn shown(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).display().to_string()
}

/// `src/ledger/open.rs` belongs to `ledger`, `src/run.rs` is `run`.
fn module_of(path: &Path) -> String {
    let inside = path.strip_prefix(root().join("src")).expect("below src");
    let first = inside.iter().next().and_then(|n| n.to_str()).expect("a name");
    first.trim_end_matches(".rs").to_owned()
}

/// The text without its comments.
fn code(text: &str) -> String {
    text.lines().filter(|l| !l.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric() && c != '_')
}

/// The modules of ours that `text` names: `crate::x` and `crate::{x, y::z}`.
fn used_modules(text: &str) -> Vec<String> {
    let mut used = Vec::new();
    for rest in text.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => used.extend(first_words_of_group(group)),
            None => used.extend(words(rest).next().map(str::to_owned)),
        }
    }
    used.retain(|name| !name.is_empty());
    used
}

/// `a, b::{c, d}}` names `a` and `b`.
fn first_words_of_group(group: &str) -> Vec<String> {
    let mut depth = 0;
    let mut items = vec![String::new()];
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => items.push(String::new()),
            _ if depth == 0 => items.last_mut().expect("one at least").push(c),
            _ => {}
        }
    }
    items.iter().filter_map(|item| words(item.trim()).next().map(str::to_owned)).collect()
}
