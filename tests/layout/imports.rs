//! Which file of the program imports which, and the layers in which `src/ARCHITECTURE.md` puts them.

use std::collections::{BTreeMap, BTreeSet};

use super::source::{SourceFile, program, read, root, words};

/// For each module, named like `ledger::open`, the modules that it names. `main` is the crate's root.
struct ImportGraph {
    imports: BTreeMap<String, BTreeSet<String>>,
}

impl ImportGraph {
    fn of(files: &[SourceFile]) -> ImportGraph {
        let modules: BTreeSet<String> = files.iter().map(|f| f.module().join("::")).collect();
        let imports = files.iter().map(|file| {
            let from = file.module();
            let code = as_seen_from_the_file(&file.code);
            let found = paths(&code).into_iter().filter_map(|path| resolve(&from, &path, &modules));
            let own = from.join("::");
            (shown(&own), found.filter(|to| *to != own).map(|to| shown(&to)).collect())
        });
        ImportGraph { imports: imports.collect() }
    }

    fn reachable(&self, from: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut open = vec![from];
        while let Some(module) = open.pop() {
            for to in &self.imports[module] {
                if reached.insert(to.as_str()) {
                    open.push(to);
                }
            }
        }
        reached
    }

    /// The groups of modules that import each other, directly or not.
    fn cycles(&self) -> Vec<Vec<&str>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.imports.keys().map(|module| (module.as_str(), self.reachable(module))).collect();
        let mut cycles: Vec<Vec<&str>> = Vec::new();
        for (module, reached) in &reach {
            let is_new = !cycles.iter().any(|c| c.contains(module));
            if is_new && reached.contains(module) {
                cycles.push(reached.iter().filter(|other| reach[*other].contains(module)).copied().collect());
            }
        }
        cycles
    }
}

fn shown(module: &str) -> String {
    if module.is_empty() { "main".to_owned() } else { module.to_owned() }
}

/// The code with the paths of its inline modules written as the file itself would write them.
fn as_seen_from_the_file(code: &str) -> String {
    let mut seen = String::with_capacity(code.len());
    let mut close = None;
    for line in code.lines() {
        let indent = &line[..line.len() - line.trim_start().len()];
        let is_inline = line.ends_with('{') && line.split_whitespace().rev().nth(2) == Some("mod");
        if is_inline && close.is_none() {
            close = Some(format!("{indent}}}"));
        } else if close.as_deref() == Some(line) {
            close = None;
        }
        let outer = |line: &str| {
            line.replace("super::super::", "\0").replace("super::", "self::").replace('\0', "super::")
        };
        seen.push_str(&if close.is_some() { outer(line) } else { line.to_owned() });
        seen.push('\n');
    }
    seen
}

/// Every path with at least two names, with the groups of `use` written out: `a::{b, c::d}` is two paths.
fn paths(code: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut from = 0;
    for (at, word) in words(code) {
        let follows_path = code[..at].ends_with("::") || code[..at].ends_with('.');
        if at >= from && !follows_path && code[at + word.len()..].starts_with("::") {
            let end = expand(&code[at..], Vec::new(), &mut found);
            from = at + end;
        }
    }
    found.retain(|path| path.len() > 1);
    found
}

/// Appends the paths that begin with `prefix` and continue in `code`. Returns how much of `code` they take.
fn expand(code: &str, mut prefix: Vec<String>, found: &mut Vec<Vec<String>>) -> usize {
    let mut at = 0;
    loop {
        let rest = &code[at..];
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
        at += name.len();
        if !name.is_empty() {
            prefix.push(name);
        }
        match code[at..].strip_prefix("::") {
            Some(rest) if rest.starts_with('{') => return at + 3 + expand_group(&rest[1..], &prefix, found),
            Some(rest) if rest.starts_with(|c: char| c.is_alphabetic() || c == '_') => at += 2,
            Some(rest) if rest.starts_with('*') => {
                prefix.push("*".to_owned());
                break;
            }
            _ => break,
        }
    }
    found.push(prefix);
    at
}

fn expand_group(code: &str, prefix: &[String], found: &mut Vec<Vec<String>>) -> usize {
    let mut at = 0;
    loop {
        let rest = &code[at..];
        match rest.chars().next() {
            None => return at,
            Some('}') => return at + 1,
            Some('*') => {
                found.push([prefix, &["*".to_owned()]].concat());
                at += 1;
            }
            Some(c) if c.is_alphabetic() || c == '_' => {
                at += expand(rest, prefix.to_vec(), found);
                // `as name` is not a path.
                at += code[at..].find([',', '}']).unwrap_or(code.len() - at);
            }
            Some(c) => at += c.len_utf8(),
        }
    }
}

/// The module of the program in which a path ends, as seen from the module `from`.
fn resolve(from: &[&str], path: &[String], modules: &BTreeSet<String>) -> Option<String> {
    let ups = path.iter().take_while(|name| *name == "super").count();
    let names: Vec<&str> = path.iter().map(String::as_str).collect();
    let mut full: Vec<&str> = match names[0] {
        "crate" => names[1..].to_vec(),
        "super" => [&from[..from.len().checked_sub(ups)?], &names[ups..]].concat(),
        "self" => [from, &names[1..]].concat(),
        child => {
            let child = [from, &[child]].concat().join("::");
            modules.contains(&child).then(|| [from, &names].concat())?
        }
    };
    while !full.is_empty() {
        if modules.contains(&full.join("::")) {
            return Some(full.join("::"));
        }
        full.pop();
    }
    Some(String::new())
}

/// The rows of the table below `# Layers`, from the top down: the modules of each layer.
fn layers(architecture: &str) -> Vec<Vec<String>> {
    let architecture = format!("\n{architecture}");
    let section =
        architecture.split("\n# ").find(|s| s.starts_with("Layers\n")).expect("a section `# Layers`");
    let rows = section.lines().filter(|line| line.starts_with("| ") && line.contains('`'));
    let modules = |row: &str| {
        let cell = row.split('|').nth(2).expect("a second column").to_owned();
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    rows.map(modules).collect()
}

/// The entry of the table that a module belongs to, with its layer: the one that names most of its path.
fn entry<'l>(module: &str, layers: &'l [Vec<String>]) -> Option<(usize, &'l str)> {
    let entries = (0..).zip(layers).flat_map(|(n, names)| names.iter().map(move |name| (n, name.as_str())));
    let covers = |name: &str| module.strip_prefix(name).is_some_and(|r| r.is_empty() || r.starts_with("::"));
    entries.filter(|(_, name)| covers(name)).max_by_key(|(_, name)| name.len())
}

/// What is wrong between the graph and the table.
fn breaches(graph: &ImportGraph, layers: &[Vec<String>]) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for name in layers.iter().flatten() {
        if !seen.insert(name) {
            wrong.push(format!("{name} is in the table twice"));
        }
        if !graph.imports.keys().any(|module| entry(module, layers).is_some_and(|(_, n)| n == name)) {
            wrong.push(format!("{name} is in the table and in no file"));
        }
    }
    for (module, imported) in &graph.imports {
        let Some((layer, own)) = entry(module, layers) else {
            wrong.push(format!("{module} is in no layer"));
            continue;
        };
        for (below, other) in imported.iter().filter_map(|to| entry(to, layers)) {
            if other != own && below <= layer {
                wrong.push(format!("{module} imports {other}, which is not in a layer below it"));
            }
        }
    }
    wrong
}

#[test]
fn every_module_imports_only_from_its_own_entry_and_from_layers_below() {
    let layers = layers(&read(&root().join("src/ARCHITECTURE.md")));
    assert!(layers.len() > 3, "{layers:?}");
    let wrong = breaches(&ImportGraph::of(&program()), &layers);
    super::assert_none(&wrong);
}

#[test]
fn no_files_of_the_program_import_each_other_in_a_cycle() {
    let files = program();
    let graph = ImportGraph::of(&files);
    assert!(graph.imports["main"].len() > 3, "the graph is empty: {:?}", graph.imports["main"]);
    let cycles: Vec<String> = graph.cycles().iter().flatten().map(|module| (*module).to_owned()).collect();
    super::assert_none(&cycles);
}

fn graph_of(files: &[(&str, &str)]) -> ImportGraph {
    let files: Vec<_> = files.iter().map(|(name, text)| SourceFile::new(name, (*text).to_owned())).collect();
    ImportGraph::of(&files)
}

#[test]
fn every_way_of_naming_a_module_is_an_import() {
    let graph = graph_of(&[
        ("src/main.rs", "mod a; mod b; fn f() { a::g() }"),
        ("src/a/mod.rs", "mod c; use crate::{b, d::{self, e::X as Y, *}};\nuse c::Z;"),
        ("src/a/c.rs", "use super::super::b::X; fn f() -> crate::d::e::T { self::g() }"),
        (
            "src/b.rs",
            "use std::fmt; use super::*;\nmod inner {\n    use super::g;\n}\nfn f() { String::new() }",
        ),
        ("src/d/mod.rs", "mod e;\npub mod inner {\n    use super::f;\n}\n"),
        ("src/d/e.rs", "fn f() { super::g(); }"),
    ]);
    let imports = |module: &str| graph.imports[module].iter().map(String::as_str).collect::<Vec<_>>();
    assert_eq!(imports("main"), ["a"]);
    assert_eq!(imports("a"), ["a::c", "b", "d", "d::e"]);
    assert_eq!(imports("a::c"), ["b", "d::e"]);
    assert_eq!(imports("b"), ["main"]);
    assert_eq!(imports("d::e"), ["d"]);
    assert_eq!(graph.cycles(), [["a", "a::c", "b", "main"]]);
}

#[test]
fn an_import_upwards_or_sideways_is_a_breach() {
    let graph = graph_of(&[
        ("src/main.rs", "use crate::low::f; use crate::left::g;"),
        ("src/left/mod.rs", "use crate::right::f;"),
        ("src/left/part.rs", "use crate::left::g; use crate::low::f;"),
        ("src/right.rs", "use crate::low::f;"),
        ("src/low.rs", "use crate::main_item;"),
        ("src/stray.rs", ""),
    ]);
    let table = "# Layers\n\n| layer | modules |\n| --- | --- |\n| top | `main` |\n\
                 | parts | `left`, `right` |\n| ground | `low`, `gone` |\n\n# Next\n| a | `b` |\n";
    let wrong = breaches(&graph, &layers(&format!("# First\n{table}")));
    assert_eq!(wrong.len(), 4, "{wrong:?}");
    for (found, expected) in wrong.iter().zip(["gone", "left imports right", "low imports main", "stray"]) {
        assert!(found.contains(expected), "{wrong:?}");
    }
}
