//! What `src/ARCHITECTURE.md` names exists.

use std::collections::BTreeSet;

use super::source::{files_below, read, root};

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

/// The paragraphs of the list of invariants: each is one of them.
fn invariants(architecture: &str) -> Vec<String> {
    let section = architecture.split("\n# ").find(|s| s.starts_with("Invariants\n")).expect("# Invariants");
    let mut found: Vec<String> = Vec::new();
    for line in section.lines() {
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
    let invariants = invariants(&read(&root().join("src/ARCHITECTURE.md")));
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

#[test]
fn the_architecture_is_part_of_the_documentation() {
    assert!(read(&root().join("src/main.rs")).contains("#![doc = include_str!(\"ARCHITECTURE.md\")]"));
    let ci = read(&root().join(".ci/run"));
    assert!(ci.contains("rustdoc::broken_intra_doc_links"), ".ci/run denies links that lead nowhere");
}
