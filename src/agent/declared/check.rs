//! Checks what the shape of a declaration cannot: that its parts agree with each other.

use std::path::{Component, Path};

use super::files::is_name;
use super::schema::{
    Declaration, EventRule, ExitRules, GivenRules, PathStep, SessionRules, SessionWords, SkillRules,
    TranscriptRules, WordPlace,
};

/// The version of the shape.
const SCHEMA: u32 = 1;

/// What is wrong, and the keys and indexes that lead to it.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    pub at: Vec<String>,
    pub text: String,
}

type Checked = Result<(), Problem>;

/// `at`: the keys with dots between them.
fn wrong(at: &str, text: impl Into<String>) -> Checked {
    Err(Problem { at: at.split('.').map(str::to_owned).collect(), text: text.into() })
}

/// Checks the declaration in a file whose name without `.toml` is `stem`.
pub fn check(declaration: &Declaration, stem: &str) -> Checked {
    let Declaration { schema, name, exits, skills, .. } = declaration;
    if *schema != SCHEMA {
        return wrong("schema", format!("unknown schema {schema}; allowed is: {SCHEMA}"));
    }
    if !is_name(name) || name == "command" {
        return wrong(
            "name",
            format!(
                "`{name}` is not a name of an agent; allowed are at most 64 letters, digits, `-`, `_` and \
                 `.`, the first a letter or a digit, except `command`"
            ),
        );
    }
    if name != stem {
        return wrong("name", format!("the name `{name}` is not that of the file; allowed is: `{stem}`"));
    }
    check_lists(declaration)?;
    check_options(declaration)?;
    if let Some(session) = &declaration.session {
        check_session(declaration, session)?;
    }
    check_output(declaration)?;
    check_skills(skills)?;
    check_exits(exits)
}

/// A list with the keys that lead to it.
type KeyedList<'a> = (&'static str, &'a [String]);

/// The lists of options, and those of other words.
fn lists(declaration: &Declaration) -> (Vec<KeyedList<'_>>, Vec<KeyedList<'_>>) {
    let Declaration { options, print, input, no_conversation, output, skills, .. } = declaration;
    let mut of_options: Vec<KeyedList<'_>> = vec![
        ("options.one", &options.one),
        ("options.maybe", &options.maybe),
        ("options.many", &options.many),
        ("options.model", &options.model),
        ("options.cwd", &options.cwd),
        ("print.options", &print.options),
        ("print.interactive", &print.interactive),
        ("input.options", &input.options),
        ("no_conversation.options", &no_conversation.options),
        ("output.options", &output.options),
        ("output.stream_options", &output.stream_options),
        ("skills.options", &skills.options),
    ];
    let mut of_words: Vec<KeyedList<'_>> = vec![
        ("programs", declaration.programs.as_deref().unwrap_or_default()),
        ("common_programs", &declaration.common_programs),
        ("packages", &declaration.packages),
        ("optional_words", &declaration.optional_words),
        ("print.words", &print.words),
        ("no_conversation.words", &no_conversation.words),
    ];
    if let Some(SessionRules { given, .. }) = &declaration.session {
        let GivenRules { resume, continues, assign, fork, not_kept, other, .. } = given;
        of_options.extend([
            ("session.given.resume", resume.as_slice()),
            ("session.given.continue", continues),
            ("session.given.assign", assign),
            ("session.given.fork", fork),
            ("session.given.not_kept", not_kept),
            ("session.given.other", other),
        ]);
        of_words.extend([
            ("session.given.resume_words", given.resume_words.as_slice()),
            ("session.given.continue_words", &given.continue_words),
            ("session.given.fork_words", &given.fork_words),
            ("session.given.other_words", &given.other_words),
        ]);
    }
    (of_options, of_words)
}

/// Options look like options, words do not, and both are single words.
fn check_lists(declaration: &Declaration) -> Checked {
    let (of_options, of_words) = lists(declaration);
    // `-abc` is read as `-a -b -c`.
    let is_option = |word: &str| {
        let is_formed = word.starts_with("--") || word.len() == 2;
        word.starts_with('-') && is_formed && !word.trim_matches('-').is_empty() && !word.contains('=')
    };
    let listed = |lists: Vec<KeyedList<'_>>, allowed: fn(&str, bool) -> bool, what: &str| {
        for (keys, list) in lists {
            for (index, word) in list.iter().enumerate() {
                let is_one_word = !word.is_empty() && !word.contains(char::is_whitespace);
                if !is_one_word || !allowed(word, is_option(word)) {
                    return wrong(&format!("{keys}.{index}"), format!("`{word}` is not {what}"));
                }
            }
        }
        Ok(())
    };
    listed(of_options, |_, is_option| is_option, "an option; allowed is: `-x` or `--name`")?;
    listed(
        of_words,
        |word, _| !word.starts_with('-'),
        "a word; allowed is: one word that does not begin with `-`",
    )
}

/// Every option has one way of taking a value, and those whose value is used take one.
fn check_options(declaration: &Declaration) -> Checked {
    let Declaration { options, output, input, skills, .. } = declaration;
    let ways = [("one", &options.one), ("maybe", &options.maybe), ("many", &options.many)];
    let all: Vec<(String, &String)> = ways
        .iter()
        .flat_map(|(way, list)| {
            list.iter().enumerate().map(move |(i, word)| (format!("options.{way}.{i}"), word))
        })
        .collect();
    for (index, (keys, word)) in all.iter().enumerate() {
        if all[..index].iter().any(|(_, earlier)| earlier == word) {
            return wrong(
                keys,
                format!("`{word}` is listed twice; allowed is: one of `one`, `maybe` and `many`"),
            );
        }
    }
    let takes = |word: &String| all.iter().any(|(_, listed)| *listed == word);
    let given = declaration.session.as_ref().map(|session| &session.given);
    let mut used: Vec<(&str, &[String])> = vec![
        ("options.model", &options.model),
        ("options.cwd", &options.cwd),
        ("output.options", &output.options),
        ("input.options", &input.options),
        ("skills.options", &skills.options),
    ];
    used.extend(given.map(|given| ("session.given.resume", given.resume.as_slice())));
    used.extend(given.map(|given| ("session.given.assign", given.assign.as_slice())));
    for (keys, list) in used {
        if let Some(index) = list.iter().position(|word| !takes(word)) {
            let word = &list[index];
            return wrong(
                &format!("{keys}.{index}"),
                format!("the value of `{word}` is used: list it in `one`, `maybe` or `many` of `options`"),
            );
        }
    }
    match output.stream_options.iter().position(takes) {
        Some(index) => wrong(
            &format!("output.stream_options.{index}"),
            format!("`{}` takes a value; list it in `output.options`", output.stream_options[index]),
        ),
        None => Ok(()),
    }
}

fn check_session(declaration: &Declaration, session: &SessionRules) -> Checked {
    let SessionRules { assign, resume, given, transcript } = session;
    let by_words = |word: &String| given.resume_words.contains(word);
    check_words(declaration, "session.resume", resume)?;
    if !given.resume.contains(&resume.word) && !by_words(&resume.word) {
        return wrong(
            "session.resume.word",
            format!(
                "`{}` must be recognised if the user gives it: list it in `session.given.resume` or \
                 `session.given.resume_words`",
                resume.word
            ),
        );
    }
    if let Some(assign) = assign {
        check_words(declaration, "session.assign", assign)?;
        if !given.assign.contains(&assign.word) {
            return wrong(
                "session.assign.word",
                format!(
                    "`{}` must be recognised if the user gives it: list it in `session.given.assign`",
                    assign.word
                ),
            );
        }
    }
    transcript.as_ref().map_or(Ok(()), check_transcript)
}

fn check_words(declaration: &Declaration, keys: &str, words: &SessionWords) -> Checked {
    if words.joined.is_some() && !words.word.starts_with('-') {
        return wrong(
            &format!("{keys}.joined"),
            format!("`{}` is not an option: an id can only follow it", words.word),
        );
    }
    if words.place != WordPlace::Front && declaration.print.words.is_empty() {
        return wrong(
            &format!("{keys}.place"),
            "there is no such place without `print.words`; allowed is: `front`",
        );
    }
    Ok(())
}

fn check_transcript(rules: &TranscriptRules) -> Checked {
    const KEYS: &str = "session.transcript";
    let is_variable = |name: &String| {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if let Some(variable) = rules.variable.as_ref().filter(|variable| !is_variable(variable)) {
        let text = format!(
            "`{variable}` is not the name of an environment variable; allowed are letters, digits and `_`"
        );
        return wrong(&format!("{KEYS}.variable"), text);
    }
    if !is_below(&rules.home) {
        return wrong(&format!("{KEYS}.home"), below(&rules.home));
    }
    for (index, step) in rules.path.iter().enumerate() {
        let keys = format!("{KEYS}.path.{index}");
        let (PathStep::Name(name) | PathStep::Id { ends: Some(name), .. }) = step else { continue };
        if name.contains('/') || name == ".." || name.is_empty() {
            return wrong(&keys, format!("`{name}` is not one name; write one step for each folder"));
        }
    }
    match rules.path.iter().filter(|step| matches!(step, PathStep::Id { .. })).count() {
        1 => Ok(()),
        _ => wrong(&format!("{KEYS}.path"), "one step, and only one, must be `id`"),
    }
}

/// Whether a path leads below the folder that it starts from.
fn is_below(path: &str) -> bool {
    let mut parts = Path::new(path).components().peekable();
    parts.peek().is_some() && parts.all(|part| matches!(part, Component::Normal(_)))
}

fn below(path: &str) -> String {
    format!("`{path}` is not a folder below another one; allowed is a relative path without `..`")
}

fn check_skills(skills: &SkillRules) -> Checked {
    for (keys, list) in [("skills.above", &skills.above), ("skills.home", &skills.home)] {
        if let Some(index) = list.iter().position(|path| !is_below(path)) {
            return wrong(&format!("{keys}.{index}"), below(&list[index]));
        }
    }
    Ok(())
}

fn check_exits(exits: &ExitRules) -> Checked {
    match exits.error.iter().position(|code| exits.ok.contains(code)) {
        Some(index) => wrong(
            &format!("exits.error.{index}"),
            format!("the exit code {} is also in `ok`", exits.error[index]),
        ),
        None => Ok(()),
    }
}

fn check_output(declaration: &Declaration) -> Checked {
    let Declaration { output, event: rules, .. } = declaration;
    if output.options.is_empty() && !(output.json.is_empty() && output.stream.is_empty()) {
        return wrong("output", "`json` and `stream` are values of `options`, which is missing");
    }
    let is_read = !(output.json.is_empty() && output.stream.is_empty() && output.stream_options.is_empty());
    if is_read && !rules.iter().any(|rule| rule.result.is_some()) {
        return wrong(
            "output",
            "no `event` has a `result`: every run with such an output would count as failed",
        );
    }
    rules.iter().enumerate().try_for_each(|(index, rule)| check_event(&format!("event.{index}"), rule))
}

fn check_event(keys: &str, rule: &EventRule) -> Checked {
    if let Some(usage) = &rule.usage
        && [&usage.input, &usage.output, &usage.cache_read, &usage.cache_write]
            .iter()
            .all(|path| path.is_none())
    {
        let text = "`usage` has no path; allowed are: `input`, `output`, `cache_read`, `cache_write`";
        return wrong(&format!("{keys}.usage"), text);
    }
    if rule.sticky.is_some() && rule.result.is_none() {
        return wrong(&format!("{keys}.sticky"), "only a `result` can be `sticky`");
    }
    match &rule.tool_opens {
        Some(tool) if tool.name.is_some() && tool.name_of_key.is_some() => {
            wrong(&format!("{keys}.tool_opens.name"), "allowed is one of `name` and `name_of_key`")
        }
        _ => Ok(()),
    }
}
