//! The Rust files of the repository, as text and as code without comments and literals.

use std::fs;
use std::path::{Path, PathBuf};

pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

pub fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A Rust file. Its code keeps the length and the lines of the text.
pub struct SourceFile {
    /// Relative to the repository, such as `src/ledger/open.rs`.
    pub name: String,
    pub text: String,
    pub code: String,
}

impl SourceFile {
    pub fn new(name: &str, text: String) -> SourceFile {
        let code = without_tests(&without_literals(&text));
        SourceFile { name: name.to_owned(), text, code }
    }

    /// Whether the file is compiled only for unit tests.
    pub fn is_test(&self) -> bool {
        self.name.split('/').any(|part| part == "tests" || part == "tests.rs")
    }

    /// The code with the modules of its unit tests.
    pub fn code_with_tests(&self) -> String {
        without_literals(&self.text)
    }

    /// The path of its module in the crate: `["ledger", "open"]`; empty for `src/main.rs`.
    pub fn module(&self) -> Vec<&str> {
        let inside = self.name.strip_prefix("src/").expect("below src").trim_end_matches(".rs");
        let mut parts: Vec<&str> = inside.split('/').collect();
        if parts.last() == Some(&"mod") || parts == ["main"] {
            parts.pop();
        }
        parts
    }
}

/// Every Rust file below a directory of the repository, sorted by name.
pub fn files_below(directory: &str) -> Vec<SourceFile> {
    let of = |path: PathBuf| {
        let name = path.strip_prefix(root()).expect("below the repository").display().to_string();
        SourceFile::new(&name, read(&path))
    };
    let paths = paths_below(directory).into_iter();
    let files: Vec<_> = paths.filter(|p| p.extension().is_some_and(|e| e == "rs")).map(of).collect();
    assert!(!files.is_empty(), "no Rust file below {directory}");
    files
}

/// The files of the program: all of `src` but its unit tests.
pub fn program() -> Vec<SourceFile> {
    files_below("src").into_iter().filter(|f| !f.is_test()).collect()
}

/// Every file below a directory of the repository, sorted.
pub fn paths_below(directory: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(directory)];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the repository").flatten() {
            let path = entry.path();
            // Cargo's own, below tests/fuzz.
            if path.is_dir() && !path.ends_with("target") {
                open.push(path);
            } else if path.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The text with blanks in the place of comments and of string and character literals.
fn without_literals(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = end_of_literal(bytes, at);
        if end > at {
            code.extend(bytes[at..end].iter().map(|b| if *b == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            code.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8(code).expect("only whole characters are replaced")
}

/// Where the comment or literal that begins at `at` ends; `at` itself if none begins there.
fn end_of_literal(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let find = |from: usize, needle: &[u8]| {
        let found = rest[from..].windows(needle.len()).position(|w| w == needle);
        at + found.map_or(rest.len(), |n| from + n + needle.len())
    };
    let follows_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => find(2, b"\n").max(at + 1) - usize::from(rest.contains(&b'\n')),
        [b'/', b'*', ..] => find(2, b"*/"),
        [b'r', b'"' | b'#', ..] if !follows_word || matches!(bytes[at - 1], b'b' | b'c') => {
            let hashes = rest[1..].iter().take_while(|b| **b == b'#').count();
            let is_raw = rest.get(1 + hashes) == Some(&b'"');
            let close = [&b"\""[..], &b"#".repeat(hashes)].concat();
            if is_raw { find(2 + hashes, &close) } else { at }
        }
        [b'"', ..] => at + end_of_quoted(rest, b'"'),
        [b'\'', b'\\', ..] => at + end_of_quoted(rest, b'\''),
        [b'\'', ..] => {
            // A lifetime has no quote after its first character.
            let width = rest[1..].iter().skip(1).take_while(|b| *b & 0xc0 == 0x80).count() + 1;
            if rest.get(1 + width) == Some(&b'\'') { at + width + 2 } else { at }
        }
        _ => at,
    }
}

fn end_of_quoted(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// The code without the modules of its unit tests, whose lines become empty.
fn without_tests(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut lines = code.lines().peekable();
    while let Some(line) = lines.next() {
        let indent = line.len() - line.trim_start().len();
        let opens = lines.peek().is_some_and(|l| l.trim_start().starts_with("mod ") && l.ends_with('{'));
        if line.trim() == "#[cfg(test)]" && opens {
            let close = format!("{}}}", " ".repeat(indent));
            kept.push('\n');
            for inside in lines.by_ref() {
                kept.push('\n');
                if inside == close {
                    break;
                }
            }
        } else {
            kept.push_str(line);
            kept.push('\n');
        }
    }
    kept
}

/// The words of a text, each with the place where it begins.
pub fn words(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    let mut at = 0;
    text.split(move |c: char| !is_part(c)).filter_map(move |word| {
        let start = at;
        // What separates words is counted by the length of the text, since it may be wider than a byte.
        at = start + word.len() + text[start + word.len()..].chars().next().map_or(0, char::len_utf8);
        (!word.is_empty()).then_some((start, word))
    })
}

#[test]
fn code_is_the_text_without_comments_literals_and_tests() {
    let text = concat!(
        "fn f<'a>(x: &'a str) { // unsafe {\n",
        "    g(\"use \\\" crate\", r#\"a \" crate\"#, 'u', '\\'', '\u{e9}', b\"x\"); /* mod */ h()\n",
        "}\n",
        "#[cfg(test)]\nmod tests {\n    use crate::x;\n}\nfn after() {}\n",
    );
    let file = SourceFile::new("src/a/mod.rs", text.to_owned());
    let names: Vec<&str> = words(&file.code).map(|(_, word)| word).collect();
    assert_eq!(names, ["fn", "f", "a", "x", "a", "str", "g", "b", "h", "fn", "after"]);
    assert_eq!(file.code.lines().count(), text.lines().count());
    assert_eq!(file.module(), ["a"]);
}
