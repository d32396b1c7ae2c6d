//! What `src/ARCHITECTURE.md` names exists.

use std::collections::BTreeSet;

use super::source::{files_below, read, root, words};

/// The names of all tests, with and without the feature `failpoints`.
fn tests() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for file in files_below("src").into_iter().chain(files_below("tests")) {
        let mut lines = file.text.lines().map(str::trim);
        while let Some(line) = lines.next() {
            if line == "#[test]" {
                let mut names_of = lines.by_ref().filter_map(|l| l.strip_prefix("fn ")?.split('(').next());
                names.extend(names_of.next().map(str::to_owned));
            }
        }
    }
    names
}

/// The text below a heading of the architecture.
fn section(heading: &str) -> String {
    let architecture = read(&root().join("src/ARCHITECTURE.md"));
    let mut sections = architecture.split("\n# ");
    let found = sections.find(|s| s.strip_prefix(heading).is_some_and(|rest| rest.starts_with('\n')));
    found.unwrap_or_else(|| panic!("src/ARCHITECTURE.md has no section {heading}")).to_owned()
}

/// The paragraphs of the list of invariants: each is one of them.
fn invariants() -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for line in section("Invariants").lines() {
        match line.split_once(". ") {
            Some((number, rest)) if number.parse::<u32>().is_ok() => found.push(rest.to_owned()),
            _ if line.starts_with("   ") => found.last_mut().expect("a number before it").push_str(line),
            _ => {}
        }
    }
    found
}

#[test]
fn every_invariant_names_a_test_that_exists() {
    let tests = tests();
    let invariants = invariants();
    assert!(invariants.len() > 8, "{invariants:?}");
    for invariant in invariants {
        let words = invariant.split('`').skip(1).step_by(2);
        let named: Vec<&str> = words.filter(|w| w.len() > 20 && w.contains('_')).collect();
        assert!(!named.is_empty(), "no test guards this: {invariant}");
        for name in named {
            assert!(tests.contains(name), "src/ARCHITECTURE.md names the test {name}, which does not exist");
        }
    }
}

/// rustdoc checks the links. The functions that are private to the run have none.
#[test]
fn every_step_of_a_run_names_functions_that_exist() {
    let steps = section("Steps of a run");
    let steps: Vec<&str> = steps.split('`').skip(1).step_by(2).collect();
    let functions: Vec<(&str, &str)> = steps.iter().filter_map(|step| step.split_once("::")).collect();
    assert!(functions.len() > 12, "{functions:?}");
    let files = files_below("src");
    for (owner, function) in functions {
        let is_there = |word: &str| files.iter().any(|f| words(&f.code).any(|(_, w)| w == word));
        let is_defined = files.iter().any(|f| f.code.contains(&format!("fn {function}")));
        assert!(is_there(owner) && is_defined, "{owner}::{function} does not exist");
    }
}

#[test]
fn the_architecture_is_part_of_the_documentation() {
    assert!(read(&root().join("src/main.rs")).contains("#![doc = include_str!(\"ARCHITECTURE.md\")]"));
    let ci = read(&root().join(".ci/run"));
    assert!(ci.contains("rustdoc::broken_intra_doc_links"), ".ci/run denies links that lead nowhere");
}
