//! Reads a declaration from TOML. Every error names the file and the line, and what is allowed there.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::check::{Problem, check};
use super::error::DeclarationError;
use super::schema::Declaration;

/// Reads the declaration in the file `file`, whose name without `.toml` is `stem`.
///
/// # Errors
/// When it is not TOML, has an unknown key or a value that is not allowed, or contradicts itself.
pub fn parse(text: &str, file: &str, stem: &str) -> Result<Declaration, DeclarationError> {
    let invalid = |at: usize, problem: String| DeclarationError::Invalid {
        file: file.to_owned(),
        line: line_at(text, at),
        problem,
    };
    let declaration: Declaration = toml::from_str(text)
        .map_err(|e| invalid(e.span().map_or(0, |span| span.start), plain(e.message())))?;
    match check(&declaration, stem) {
        Ok(()) => Ok(declaration),
        Err(Problem { at, text: problem }) => Err(invalid(offset_of(text, &at), problem)),
    }
}

/// The line of a byte, counted from 1.
fn line_at(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|byte| *byte == b'\n').count() + 1
}

/// The byte at which the value at `path` begins, or the innermost table of the path that exists.
fn offset_of(text: &str, path: &[String]) -> usize {
    let Ok(document) = DeTable::parse(text) else { return 0 };
    let mut at = 0;
    let mut table = Some(document.get_ref());
    let mut array = None;
    for step in path {
        let found: Option<&Spanned<DeValue<'_>>> = match (table, array) {
            (Some(table), _) => table.iter().find(|(key, _)| key.get_ref() == step).map(|(key, value)| {
                at = key.span().start;
                value
            }),
            (_, Some(values)) => step.parse::<usize>().ok().and_then(|index| {
                let values: &toml::de::DeArray<'_> = values;
                values.get(index).inspect(|value| at = value.span().start)
            }),
            (None, None) => None,
        };
        let Some(value) = found else { break };
        table = value.get_ref().as_table();
        array = value.get_ref().as_array();
    }
    at
}

/// The message of the deserializer in the words of a declaration.
fn plain(message: &str) -> String {
    let message = message.lines().next().unwrap_or_default();
    let renamed = message
        .replacen("unknown field", "unknown key", 1)
        .replacen("missing field", "missing key", 1)
        .replacen("duplicate field", "duplicate key", 1)
        .replacen("unknown variant", "unknown value", 1);
    let Some((unknown, allowed)) = renamed.split_once(", expected ") else { return renamed };
    if !unknown.starts_with("unknown ") {
        return renamed;
    }
    let allowed = allowed.trim_start_matches("one of ").replace(" or ", ", ");
    format!("{unknown}; allowed are: {allowed}")
}
