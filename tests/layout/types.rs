//! Names of types: one that is used outside its file is declared once in the whole program.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{SourceFile, program, words};

pub struct TypeDeclaration {
    pub name: String,
    is_visible: bool,
}

/// The types that a file declares outside of functions' bodies and of unit tests.
pub fn declarations(code: &str) -> Vec<TypeDeclaration> {
    code.lines().filter_map(declaration).collect()
}

fn declaration(line: &str) -> Option<TypeDeclaration> {
    // A type below a trait or an implementation has the name that the trait gives it.
    if line.starts_with("    type ") {
        return None;
    }
    let line = line.trim_start();
    let (is_visible, rest) = match line.strip_prefix("pub") {
        Some(rest) if rest.starts_with('(') => (true, rest.split_once(')')?.1.trim_start()),
        Some(rest) if rest.starts_with(' ') => (true, rest.trim_start()),
        _ => (false, line),
    };
    let rest = rest.strip_prefix("unsafe ").unwrap_or(rest);
    let kinds = ["struct ", "enum ", "trait ", "union ", "type "];
    let name = kinds.iter().find_map(|kind| rest.strip_prefix(kind))?;
    let name: String = name.chars().take_while(|c| c.is_alphanumeric()).collect();
    Some(TypeDeclaration { name, is_visible })
}

/// Each visible name that a file without a declaration of it uses and that is declared more than once, with
/// the files that declare it.
fn repeated(files: &[SourceFile]) -> Vec<(String, Vec<&str>)> {
    let mut all: BTreeMap<String, (bool, Vec<&str>)> = BTreeMap::new();
    for file in files {
        for found in declarations(&file.code) {
            let entry = all.entry(found.name).or_default();
            entry.0 |= found.is_visible;
            entry.1.push(&file.name);
        }
    }
    let mut users: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for file in files {
        for (_, word) in words(&file.code) {
            users.entry(word).or_default().insert(&file.name);
        }
    }
    let is_shared = |name: &str, own: &[&str]| users[name].iter().any(|user| !own.contains(user));
    all.retain(|name, (visible, own)| *visible && own.len() > 1 && is_shared(name, own));
    all.into_iter().map(|(name, (_, files))| (name, files)).collect()
}

#[test]
fn a_type_that_other_files_use_has_a_name_of_its_own() {
    let files = program();
    let wrong: Vec<String> =
        repeated(&files).into_iter().map(|(name, files)| format!("{name}: {}", files.join(", "))).collect();
    super::assert_none(&wrong);
}

#[test]
fn private_types_may_repeat_and_shared_ones_may_not() {
    let file = |name: &str, text: &str| SourceFile::new(name, text.to_owned());
    let files = [
        file("src/a.rs", "struct Mine;\npub(super) enum Shared {}\npub struct Unused;\n"),
        file("src/b.rs", "struct Mine;\nstruct Shared<T>(T);\npub trait Alone {}\nstruct Unused;\n"),
        file("src/c.rs", "use a::Shared; use b::Alone;\n// pub struct Alone; Unused\n"),
    ];
    assert_eq!(repeated(&files), [("Shared".to_owned(), vec!["src/a.rs", "src/b.rs"])]);
}
