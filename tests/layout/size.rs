//! Files and functions are short.

use super::source::{SourceFile, files_below, program};

const MOST_LINES_OF_A_FILE: usize = 500;
const MOST_LINES_OF_A_FUNCTION: usize = 100;

/// The functions of a formatted file, each with its name and its number of lines. rustfmt puts the closing
/// brace of a function below the first letter of its first line.
fn functions(code: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = code.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let Some(name) = function_name(line) else { continue };
        let indent = line.len() - line.trim_start().len();
        let last = lines[first..].iter().position(|l| {
            let is_level = l.len() - l.trim_start().len() == indent;
            is_level
                && (l.trim() == "}"
                    || l.ends_with('}') && l.trim_start() == line.trim_start()
                    || l.ends_with(';'))
        });
        found.push((name, last.unwrap_or(lines.len() - first - 1) + 1));
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let (before, after) = line.split_once("fn ")?;
    let is_prefix = |word: &str| {
        ["const", "unsafe", "extern", "async", "pub"].contains(&word)
            || word.starts_with("pub(")
            || word.ends_with(')')
    };
    let name = after.split(|c: char| !c.is_alphanumeric() && c != '_').next()?;
    (!name.is_empty() && before.split_whitespace().all(is_prefix)).then_some(name)
}

#[test]
fn no_function_of_the_program_is_longer_than_a_hundred_lines() {
    let mut wrong = Vec::new();
    for file in program() {
        let long = functions(&file.code).into_iter().filter(|(_, lines)| *lines > MOST_LINES_OF_A_FUNCTION);
        wrong.extend(long.map(|(name, lines)| format!("{}: {name}: {lines} lines", file.name)));
    }
    super::assert_none(&wrong);
}

#[test]
fn no_file_is_longer_than_five_hundred_lines() {
    let is_long = |file: &SourceFile| file.text.lines().count() > MOST_LINES_OF_A_FILE;
    let files = files_below("src").into_iter().chain(files_below("tests")).filter(is_long);
    let wrong: Vec<String> = files.map(|f| format!("{}: {} lines", f.name, f.text.lines().count())).collect();
    super::assert_none(&wrong);
}

#[test]
fn the_lines_of_a_function_are_counted() {
    let code = "pub(super) fn one() {}\nimpl A {\n    const fn three(&self) {\n        if x {}\n    }\n}\n\
                trait B {\n    fn none(&self);\n}\nfn four<T>(\n    x: T,\n) -> u8 {\n}\nlet f = a_fn (1);\n";
    let file = SourceFile::new("src/a.rs", code.to_owned());
    assert_eq!(functions(&file.code), [("one", 1), ("three", 3), ("none", 1), ("four", 4)]);
}
