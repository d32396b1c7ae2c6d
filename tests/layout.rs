//! The shape of the repository: its layers and imports, where `unsafe` code is, names, sizes and words.

mod architecture;
mod imports;
mod size;
mod source;
mod system_calls;
mod types;
mod words;

use std::fs;
use std::process::Command;

use source::{files_below, read, root};

/// Asserts that no file breaks a rule, or lists those that do.
#[track_caller]
fn assert_none(wrong: &[String]) {
    assert!(wrong.is_empty(), "{} findings:\n{}", wrong.len(), wrong.join("\n"));
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

#[test]
fn unsafe_code_is_only_in_sys_and_in_the_gate() {
    let may = |name: &str| name.starts_with("src/sys/") || name.starts_with("src/process/spawn/");
    for file in files_below("src") {
        let code = file.code_with_tests();
        let opens = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"];
        let is_word = |at: usize| !code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let found = opens.iter().any(|o| code.match_indices(o).any(|(at, _)| is_word(at)));
        assert!(may(&file.name) || !found, "{}: unsafe code belongs in src/sys", file.name);
    }
    let manifest = read(&root().join("Cargo.toml"));
    assert!(
        manifest.contains("\nundocumented_unsafe_blocks = \"deny\"\n"),
        "clippy asks for a SAFETY line at each unsafe block"
    );
}

#[test]
fn every_module_begins_by_saying_what_it_is_for() {
    for file in files_below("src").into_iter().chain(files_below("tests")) {
        assert!(file.text.starts_with("//! "), "{}: begins without `//! `", file.name);
    }
}

#[test]
fn no_line_is_wider_than_110_characters() {
    let mut wrong = Vec::new();
    for file in files_below("src").into_iter().chain(files_below("tests")) {
        let wide = (1..).zip(file.text.lines()).filter(|(_, line)| line.chars().count() > 110);
        wrong.extend(wide.map(|(number, _)| format!("{}:{number}", file.name)));
    }
    assert_none(&wrong);
}

#[test]
fn only_known_names_are_at_the_top_level() {
    let files = Command::new("git").args(["ls-tree", "--name-only", "HEAD"]).current_dir(root()).output();
    let Ok(files) = files else {
        return crate::harness::print_line("skipped only_known_names_are_at_the_top_level: needs git");
    };
    for name in String::from_utf8_lossy(&files.stdout).lines() {
        let known = ["Cargo.toml", "Cargo.lock", "LICENSE", "README.md", "contrib", "src", "tests"];
        assert!(name.starts_with('.') || known.contains(&name), "{name}: is not expected at the top level");
    }
}
