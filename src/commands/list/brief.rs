//! The command of a task in a few words: the program and the beginning of the prompt.

use std::ffi::OsString;
use std::path::Path;

use crate::agent::{self, SessionPlace, UntrackedReason};
use crate::task::Task;

/// Characters of a command that are kept: more than a line of a terminal shows.
const KEPT: usize = 400;
/// The options before a prompt. Claude Code and Cursor take the prompt as an operand beside `-p`.
const BEFORE_PROMPT: [&str; 3] = ["-p", "--print", "--prompt"];

/// `claude fix the bug`. Without a recognisable prompt it is the whole command line.
pub fn command(task: &Task) -> String {
    let Some(argv) = task.user_argv.as_ref().or(task.argv.as_ref()) else { return String::new() };
    let words: Vec<OsString> = argv.iter().map(OsString::from).collect();
    let start = agent::recognise(&words, task.agent_type.as_deref()).ok().and_then(|agent| {
        let is_agent = !matches!(
            agent.place,
            SessionPlace::Untracked(UntrackedReason::NoAdapter(_) | UntrackedReason::Hidden(_))
        );
        (is_agent && (1..=argv.len()).contains(&agent.args_start)).then_some(agent.args_start)
    });
    match start.map(|at| (&argv[at - 1], &argv[at..])) {
        Some((program, args)) => match prompt(args) {
            Some(prompt) => first_words([base(program), prompt].into_iter()),
            None => words_of(program, args),
        },
        None => whole_command(task),
    }
}

/// The words of the command, without asking which of them is a prompt.
pub fn whole_command(task: &Task) -> String {
    let argv = task.user_argv.as_ref().or(task.argv.as_ref());
    argv.and_then(|argv| argv.split_first())
        .map_or_else(String::new, |(program, args)| words_of(program, args))
}

fn words_of(program: &str, args: &[String]) -> String {
    first_words(std::iter::once(base(program)).chain(args.iter().map(String::as_str)))
}

fn base(program: &str) -> &str {
    Path::new(program).file_name().and_then(|name| name.to_str()).unwrap_or(program)
}

/// The prompt among the arguments of an agent: the word after `-p`, or what follows `--`, or the last word
/// with a blank, which no option's value is likely to have.
fn prompt(args: &[String]) -> Option<&str> {
    let is_operand = |word: &&String| !word.starts_with('-') && !word.is_empty();
    let after = |at: usize| args.get(at + 1).filter(is_operand);
    let option = args.iter().position(|word| BEFORE_PROMPT.contains(&word.as_str()));
    let rest = args.iter().position(|word| word == "--");
    let texts = || args.iter().rev().find(|word| is_operand(word) && word.contains(char::is_whitespace));
    option.and_then(after).or_else(|| rest.and_then(|at| args.get(at + 1))).or_else(texts).map(String::as_str)
}

/// The words on one line, with each run of white space as one blank.
fn first_words<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let mut text = String::new();
    for word in words.flat_map(str::split_whitespace) {
        if !text.is_empty() {
            text.push(' ');
        }
        text.extend(word.chars().take(KEPT));
        if text.len() > KEPT {
            break;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prompt_is_told_from_options_and_their_values() {
        let prompt = |line: &[&str]| {
            let args: Vec<String> = line.iter().map(|w| (*w).to_owned()).collect();
            prompt(&args).map(str::to_owned)
        };
        for (args, expected) in [
            (&["-p", "fix the bug", "--output-format", "json"][..], Some("fix the bug")),
            (&["-p", "hi"], Some("hi")),
            (&["--output-format", "json", "-p", "fix it"], Some("fix it")),
            (&["fix the bug", "-p", "--verbose"], Some("fix the bug")),
            (&["-p", "--model", "opus", "fix the bug"], Some("fix the bug")),
            (&["--add-dir", "/a", "--", "-x is wrong"], Some("-x is wrong")),
            (&["exec", "--full-auto", "add a test"], Some("add a test")),
            (&["--resume", "id"], None),
            (&["-p"], None),
            (&[], None),
        ] {
            assert_eq!(prompt(args).as_deref(), expected, "{args:?}");
        }
    }

    #[test]
    fn white_space_is_one_blank_and_the_rest_is_left_out() {
        assert_eq!(first_words(["claude", "fix\n\n the\tbug "].into_iter()), "claude fix the bug");
        assert!(first_words(["x".repeat(1 << 20).as_str()].into_iter()).len() <= KEPT);
    }
}
