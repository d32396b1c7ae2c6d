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
    if unknown.starts_with("invalid ") {
        return format!("{unknown}; allowed is: {}", plain_type(allowed));
    }
    if !unknown.starts_with("unknown ") {
        return renamed;
    }
    let allowed = allowed.trim_start_matches("one of ").replace(" or ", ", ");
    format!("{unknown}; allowed are: {allowed}")
}

/// What serde calls a type, in the words of TOML.
fn plain_type(name: &str) -> &str {
    match name {
        "a sequence" => "an array",
        "a boolean" => "`true`",
        "u8" => "an integer from 0 to 255",
        "u32" => "an integer, 0 or more",
        "a map" => "a table",
        _ if name.starts_with("struct ") => "a table",
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A declaration with these lines behind the first three.
    fn refused(lines: &str) -> String {
        let text = format!("schema = 1\nname = \"x\"\n\n{lines}");
        parse(&text, "/etc/x.toml", "x").expect_err(lines).to_string()
    }

    const SESSION: &str = "[session.resume]\nword = '--resume'\nplace = 'front'\n";

    #[test]
    fn an_error_of_form_names_file_line_and_what_is_allowed() {
        for (lines, error) in [
            ("pront = 1", "4: unknown key `pront`; allowed are: `schema`, `name`, `checked`,"),
            (
                "[options]\n\nonce = []",
                "6: unknown key `once`; allowed are: `one`, `maybe`, `many`, `model`, `cwd`",
            ),
            ("[process]\nsignal = 'all'", "5: unknown value `all`; allowed are: `main`, `tree`"),
            ("[print]\noperand = false", "5: leave the key out instead of `false`"),
            ("[print]\nwords = 'exec'", "5: invalid type: string \"exec\"; allowed is: an array"),
            ("[[event]]\nsession = 'a..b'", "5: `a..b` is not a path: write the keys of the event"),
            ("[[event]]\non = { type = 'a' }", "5: invalid type: string \"a\"; allowed is: an array"),
            ("[exits]\nok = [300]", "5: invalid value: integer `300`; allowed is: an integer from 0 to 255"),
            ("options = 1", "4: invalid type: integer `1`; allowed is: a table"),
            ("[print]\npiped = 1", "5: invalid type: integer `1`; allowed is: `true`"),
            ("[session]", "4: missing key `resume`"),
            ("provider = 'a'\nprovider = 'b'", "5: duplicate key"),
            ("provider = ", "4: "),
        ] {
            let said = refused(lines);
            assert!(said.starts_with(&format!("/etc/x.toml:{error}")), "{lines}: {said}");
        }
    }

    #[test]
    fn a_contradiction_is_refused_with_its_line() {
        let given = |given: &str| format!("{SESSION}[session.given]\n{given}");
        for (lines, error) in [
            ("[options]\none = ['-a',\n 'b']".to_owned(), "6: `b` is not an option"),
            ("[options]\none = ['-a']\nmany = ['-a']".to_owned(), "6: `-a` is listed twice"),
            ("[options]\nmodel = ['-m']".to_owned(), "5: the value of `-m` is used"),
            ("[print]\nwords = ['-x']".to_owned(), "5: `-x` is not a word"),
            ("packages = ['a b']".to_owned(), "4: `a b` is not a word"),
            ("[output]\nstream = ['json']".to_owned(), "4: `json` and `stream` are values of `options`"),
            ("[output]\nstream_options = ['--json']".to_owned(), "4: no `event` has a `result`"),
            (SESSION.to_owned(), "5: `--resume` must be recognised"),
            (SESSION.replace("front", "after-word"), "6: there is no such place without `print.words`"),
            (given("resume = ['--resume']"), "8: the value of `--resume` is used"),
            ("[[event]]\nsticky = true".to_owned(), "5: only a `result` can be `sticky`"),
            ("[[event]]\nusage = { scope = 'run' }".to_owned(), "5: `usage` has no path"),
            ("[exits]\nok = [1]\nerror = [2, 1]".to_owned(), "6: the exit code 1 is also in `ok`"),
            ("[skills]\nhome = ['../x']".to_owned(), "5: `../x` is not a folder below"),
        ] {
            let said = refused(&lines);
            assert!(said.starts_with(&format!("/etc/x.toml:{error}")), "{lines}: {said}");
        }
    }

    #[test]
    fn a_transcript_has_one_id_and_single_names() {
        let session = format!(
            "[options]\none = ['--resume']\n{SESSION}[session.given]\nresume = ['--resume']\n\
             [session.transcript]\n"
        );
        for (lines, error) in [
            ("home = '/x'\npath = [{ id = {} }]", "12: `/x` is not a folder below"),
            ("home = '.x'\npath = [{ any = {} }]", "13: one step, and only one, must be `id`"),
            ("home = '.x'\npath = [{ name = 'a/b' }, { id = {} }]", "13: `a/b` is not one name"),
            (
                "home = '.x'\nvariable = 'A-B'\npath = [{ id = {} }]",
                "13: `A-B` is not the name of an environment",
            ),
            ("home = '.x'\npath = [{ cwd = 'plain' }]", "13: unknown value `plain`; allowed are: `dashed`"),
        ] {
            let said = refused(&format!("{session}{lines}"));
            assert!(said.starts_with(&format!("/etc/x.toml:{error}")), "{lines}: {said}");
        }
    }

    #[test]
    fn the_name_is_plain_and_that_of_the_file() {
        let named = |name: &str, stem: &str| {
            let text = format!("name = \"{name}\"\nschema = 1");
            parse(&text, "f", stem).map(|d| d.name).map_err(|e| e.to_string())
        };
        assert_eq!(named("my-agent.2", "my-agent.2"), Ok("my-agent.2".to_owned()));
        assert!(named("a", "b").is_err_and(|e| e.starts_with("f:1: the name `a` is not that of the file")));
        for name in ["command", "..", "-a", "a b", "a/b", ""] {
            assert!(named(name, name).is_err_and(|e| e.starts_with("f:1: ")), "{name}");
        }
        let newer = parse("name = 'a'\nschema = 2", "f", "a").expect_err("a newer one").to_string();
        assert_eq!(newer, "f:2: unknown schema 2; allowed is: 1");
    }
}
