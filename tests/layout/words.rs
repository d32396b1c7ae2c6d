//! One term for each concept: the words and the documents that the project does not name.

use super::source::{SourceFile, paths_below, program, root};

/// Phrases of lower-case words. Those of identifiers are found too: `buryTheDead`, `bury_the_dead`.
const AVOIDED: &str = "
    mend, mends, mended, mending
    rung, rungs, ladder, ladders, climb, climbs, climbed
    house, houses, storey, storeys, story, trades, papers
    bury, buries, buried, the dead, fate, hunt, hunts, hunted, who is about, befall, befalls
    told of, tell of, tells of, without a word, so to speak, the way is cleared
    left over, left overs, out of use, withdraw, withdraws, withdrawn, withdrawal, set aside
    go on with, goes on with, going on with, as typed, kept until, nobody saw, end known by
    booted anew, is no terminal, he, him, his, himself
";

/// Lines that contain one of these are exempt: the names of fail points, which scripts outside of the
/// repository use.
const EXEMPT: [&str; 1] = ["\"sessions.withdrawn\""];

/// Names of types that say too little, each with a better one.
const VAGUE_TYPES: [&str; 16] = [
    "Dead", "Fate", "Found", "Hunt", "Ladder", "Leave", "Look", "Marked", "Picture", "Request", "Seat",
    "Sight", "Telling", "Told", "Way", "Whose",
];

/// Documents that are not in the repository. A comment gives the reason itself.
const FOREIGN_DOCUMENTS: [&str; 6] = ["DESIGN", "LAYOUT", "STYLE", "FACTS", "MONITOR", "FLEET"];

/// The text files of the project that are written by hand, but this one.
fn prose() -> Vec<(String, String)> {
    let is_ours = |name: &str| {
        let written =
            ["rs", "md", "sql", "service", "timer", "conf", "just", "toml", "html", "sh", "1", "catalog"];
        let generated = ["tests/fuzz/corpus/", "tests/samples/", "tests/layout/words.rs"];
        written.iter().any(|e| name.ends_with(&format!(".{e}")))
            && !generated.iter().any(|g| name.starts_with(g))
    };
    let paths = ["src", "tests", "contrib"].into_iter().flat_map(paths_below);
    let named =
        paths.map(|p| (p.strip_prefix(root()).expect("below the repository").display().to_string(), p));
    let mut files: Vec<_> = named.filter(|(name, _)| is_ours(name)).collect();
    files.extend([".justfile", ".ci/run", "Cargo.toml", "README.md"].map(|n| (n.to_owned(), root().join(n))));
    files.into_iter().map(|(name, path)| (name, std::fs::read_to_string(path).expect("a text"))).collect()
}

/// The words of a text in lower case, each with its line; `camelCase` and `snake_case` are two words each.
fn tokens(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for (line, text) in (1..).zip(text.lines()) {
        let mut word = String::new();
        for c in text.chars().chain([' ']) {
            let ends = !c.is_alphabetic() || (c.is_uppercase() && word.ends_with(char::is_lowercase));
            if ends && !word.is_empty() {
                found.push((line, std::mem::take(&mut word).to_lowercase()));
            }
            if c.is_alphabetic() {
                word.push(c);
            }
        }
    }
    found
}

/// The avoided phrases in a text, each with its line.
fn avoided_in(text: &str) -> Vec<(usize, String)> {
    let tokens = tokens(text);
    let phrases: Vec<Vec<&str>> = AVOIDED
        .split([',', '\n'])
        .map(|p| p.split_whitespace().collect())
        .filter(|p: &Vec<_>| !p.is_empty())
        .collect();
    let at = |n: usize| {
        let begins = |p: &&Vec<&str>| {
            p.len() <= tokens.len() - n && p.iter().zip(&tokens[n..]).all(|(w, (_, t))| w == t)
        };
        phrases.iter().find(begins).map(|p| (tokens[n].0, p.join(" ")))
    };
    (0..tokens.len()).filter_map(at).collect()
}

fn is_exempt(text: &str, line: usize) -> bool {
    text.lines().nth(line - 1).is_some_and(|l| EXEMPT.iter().any(|name| l.contains(name)))
}

#[test]
fn avoided_words_do_not_occur() {
    let mut wrong = Vec::new();
    for (name, text) in prose() {
        wrong.extend(
            avoided_in(&text)
                .into_iter()
                .filter(|(line, _)| !is_exempt(&text, *line))
                .map(|(line, phrase)| format!("{name}:{line}: {phrase}")),
        );
    }
    super::assert_none(&wrong);
}

#[test]
fn no_type_has_a_vague_name() {
    let mut wrong = Vec::new();
    for file in program() {
        let found = super::types::declarations(&file.code);
        let vague = found.into_iter().filter(|d| VAGUE_TYPES.contains(&d.name.as_str()));
        wrong.extend(vague.map(|d| format!("{}: {}", file.name, d.name)));
    }
    super::assert_none(&wrong);
}

#[test]
fn no_document_is_cited_that_is_not_in_the_project() {
    let mut wrong = Vec::new();
    // The title of a man page is a command in capitals, and its text is in the program.
    for (name, text) in prose().into_iter().filter(|(name, _)| !name.starts_with("contrib/man/")) {
        let words = super::source::words(&text).filter(|(_, word)| FOREIGN_DOCUMENTS.contains(word));
        wrong.extend(
            words.map(|(at, word)| format!("{name}:{}: {word}", 1 + text[..at].matches('\n').count())),
        );
    }
    super::assert_none(&wrong);
}

#[test]
fn avoided_words_are_found_across_lines_and_in_identifiers() {
    let text = "// it is told\n// of it\nfn bury_it() {}\nstruct TheDead; // household, mender\n";
    let found: Vec<_> = avoided_in(text);
    let expected = [(1, "told of"), (3, "bury"), (4, "the dead")].map(|(n, p)| (n, p.to_owned()));
    assert_eq!(found, expected);
    let file = SourceFile::new("src/a.rs", text.to_owned());
    assert_eq!(super::types::declarations(&file.code).len(), 1);
}
