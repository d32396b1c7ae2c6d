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
    if let Some(at) = DeTable::parse(text).ok().and_then(|document| list_for_table(document.get_ref())) {
        return Err(invalid(at, "invalid type: list; allowed is: a table".to_owned()));
    }
    match check(&declaration, stem) {
        Ok(()) => Ok(declaration),
        Err(Problem { at, text: problem }) => Err(invalid(offset_of(text, &at), problem)),
    }
}

/// Where a list stands for a table. The deserializer takes its elements for the keys, in their order.
fn list_for_table(document: &DeTable<'_>) -> Option<usize> {
    let session = value_of(document, "session").and_then(DeValue::as_table);
    let transcript = session.and_then(|s| value_of(s, "transcript")?.as_table());
    let steps = transcript.and_then(|t| value_of(t, "path")?.as_array());
    let events = value_of(document, "event").and_then(DeValue::as_array);
    let in_event = |event: &Spanned<DeValue<'_>>| {
        list_at(event).or_else(|| list_in(event.get_ref().as_table()?, &EVENT_TABLES))
    };
    let in_step = |step: &Spanned<DeValue<'_>>| step.get_ref().as_table()?.values().find_map(list_at);
    list_in(document, &TABLES)
        .or_else(|| list_in(session?, &SESSION_TABLES))
        .or_else(|| steps?.iter().find_map(in_step))
        .or_else(|| events?.iter().find_map(in_event))
}

fn value_of<'v, 't>(table: &'v DeTable<'t>, key: &str) -> Option<&'v DeValue<'t>> {
    table.iter().find(|(known, _)| known.get_ref() == key).map(|(_, value)| value.get_ref())
}

fn list_in(table: &DeTable<'_>, keys: &[&str]) -> Option<usize> {
    let is_listed = |key: &str| keys.contains(&key);
    table.iter().filter(|(key, _)| is_listed(key.get_ref())).find_map(|(_, value)| list_at(value))
}

fn list_at(value: &Spanned<DeValue<'_>>) -> Option<usize> {
    value.get_ref().is_array().then(|| value.span().start)
}

const TABLES: [&str; 9] =
    ["options", "print", "input", "no_conversation", "output", "session", "skills", "process", "exits"];
const SESSION_TABLES: [&str; 4] = ["assign", "resume", "given", "transcript"];
const EVENT_TABLES: [&str; 5] = ["each", "tool_opens", "tool_closes", "usage", "cost"];

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
    if message.starts_with("wanted exactly 1 element") {
        return "a step has one key; allowed are: `name`, `any`, `cwd`, `id`".to_owned();
    }
    let renamed = message
        .replacen("unknown field", "unknown key", 1)
        .replacen("missing field", "missing key", 1)
        .replacen("duplicate field", "duplicate key", 1)
        .replacen("unknown variant", "unknown value", 1)
        .replacen("invalid type: map", "invalid type: table", 1)
        .replacen("invalid type: sequence", "invalid type: list", 1)
        .replacen("wanted string or table", "invalid type, expected a text or a table", 1)
        .replacen(" as i128", "", 1);
    let Some((wrong, allowed)) = renamed.split_once(", expected ") else { return renamed };
    if wrong.starts_with("unknown ") {
        let allowed = allowed.trim_start_matches("one of ").replace(" or ", ", ");
        return format!("{wrong}; allowed are: {allowed}");
    }
    if wrong.starts_with("invalid ") {
        return format!("{wrong}; allowed is: {}", plain_type(allowed));
    }
    renamed
}

/// A type of the deserializer as the writer of a declaration knows it.
fn plain_type(name: &str) -> &str {
    match name {
        "a sequence" => "a list",
        "a map" => "a table",
        "a string" => "a text",
        "a boolean" => "`true`",
        "u8" => "a number from 0 to 255",
        "u32" => "a number from 0 to 4294967295",
        name if name.starts_with("struct ") => "a table",
        name => name,
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
            ("[print]\nwords = 'exec'", "5: invalid type: string \"exec\"; allowed is: a list"),
            ("[[event]]\nsession = 'a..b'", "5: `a..b` is not a path: write the keys of the event"),
            ("[[event]]\non = { type = 'a' }", "5: invalid type: string \"a\"; allowed is: a list"),
            ("[[event]]\non = []", "5: invalid type: list; allowed is: a table"),
            ("[exits]\nok = [300]", "5: invalid value: integer `300`; allowed is: a number from 0 to 255"),
            ("[[event]]\nturns = -1", "5: invalid value: integer `-1`; allowed is: a number from 0 to 42949"),
            ("print = 5", "4: invalid type: integer `5`; allowed is: a table"),
            ("event = [5]", "4: invalid type: integer `5`; allowed is: a table"),
            ("provider = 1.5", "4: invalid type: floating point `1.5`; allowed is: a text"),
            ("[print]\npiped = 'yes'", "5: invalid type: string \"yes\"; allowed is: `true`"),
            ("[process]\nsignal = 5", "5: invalid type; allowed is: a text or a table"),
            ("[session]", "4: missing key `resume`"),
            ("provider = 'a'\nprovider = 'b'", "5: duplicate key"),
            ("provider = ", "4: "),
        ] {
            let said = refused(lines);
            assert!(said.starts_with(&format!("/etc/x.toml:{error}")), "{lines}: {said}");
        }
    }

    #[test]
    fn a_list_is_not_taken_for_a_table() {
        let transcript = format!("{SESSION}[session.transcript]\nhome = '.x'\n");
        for (lines, line) in [
            ("options = []".to_owned(), 4),
            ("[[print]]".to_owned(), 4),
            ("\nprint = [['exec']]".to_owned(), 5),
            ("session = [[], ['--resume', true, 'front'], [], []]".to_owned(), 4),
            ("[session]\nresume = ['--resume', true, 'front']".to_owned(), 5),
            (format!("{transcript}path = [{{ id = ['first-8', 'a', 'b'] }}]"), 9),
            ("[[event]]\nresult = 'ok'\nusage = ['run', 'in', 'out', 'c', 'd', true]".to_owned(), 6),
            ("[[event]]\n[[event.cost]]".to_owned(), 5),
        ] {
            let said = refused(&lines);
            assert!(said.starts_with(&format!("/etc/x.toml:{line}: ")), "{lines}: {said}");
        }
    }

    #[test]
    fn a_contradiction_is_refused_with_its_line() {
        let given = |given: &str| format!("{SESSION}[session.given]\n{given}");
        for (lines, error) in [
            ("[options]\none = ['-a',\n 'b']".to_owned(), "6: `b` is not an option"),
            ("[options]\none = ['-model']".to_owned(), "5: `-model` is not an option; allowed is: `-x` or"),
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
