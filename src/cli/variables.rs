//! The environment variables that set options. Empty ones count as unset; misspelt names cause a warning.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStringExt;

use clap::error::{ContextKind, ContextValue};

use crate::ledger;
use crate::process::spawn::environment;
use crate::process::spawn::environment::{FINISHED_FACTS, OPTION_VARIABLES};
use crate::sys;
use crate::view;

const PREFIX: &str = "BOOKEND_";

/// Variables that do not set an option of the command line.
const OTHERS: [&str; 6] = [
    environment::LEDGER,
    environment::MARK,
    environment::FINISHED,
    environment::ATTEMPT,
    environment::DETACHED,
    ledger::ALLOW_SHARED_DIR,
];

/// The variables whose names begin with `BOOKEND_`, with their values.
pub fn set() -> Vec<(String, OsString)> {
    let split = |entry: std::ffi::CString| {
        let entry = entry.into_bytes();
        let at = entry.iter().position(|b| *b == b'=')?;
        let name = String::from_utf8_lossy(&entry[..at]).into_owned();
        Some((name, OsString::from_vec(entry[at + 1..].to_vec())))
    };
    sys::environment_with(PREFIX.as_bytes()).into_iter().filter_map(split).collect()
}

/// Removes empty option variables from the environment: CI systems and unit files set a variable to the empty
/// string to leave it unset. Call it before a second thread starts.
pub fn forget_empty() {
    for (name, value) in set() {
        if value.is_empty() && OPTION_VARIABLES.contains(&name.as_str()) {
            sys::forget_variable(&name);
        }
    }
}

/// Warns about each unknown variable whose name resembles a known one.
pub fn warn_of_misspelt() {
    for (name, _) in set() {
        if let Some(meant) = meant(&name) {
            let name = view::one_line(&name);
            tracing::warn!("{name} in the environment has no effect: there is no such variable; use {meant}");
        }
    }
}

/// The known variable that a misspelt name resembles. `None`: the name is known, or resembles none.
fn meant(name: &str) -> Option<&'static str> {
    let known = || OPTION_VARIABLES.iter().chain(&OTHERS).chain(&FINISHED_FACTS).copied();
    if known().any(|k| k == name) {
        return None;
    }
    let given = name.strip_prefix(PREFIX)?;
    // Two edits, or one in a short name: other programs may use the prefix too.
    let max_edits = if given.len() > 5 { 2 } else { 1 };
    let near = known().filter_map(|k| Some((distance(given, k.strip_prefix(PREFIX)?), k)));
    near.filter(|(d, _)| *d <= max_edits).min_by_key(|(d, _)| *d).map(|(_, k)| k)
}

/// The Levenshtein distance in bytes.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let change = before + usize::from(x != y);
            before = row[j + 1];
            row[j + 1] = change.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// The number of `--verbose` that a value of BOOKEND_VERBOSE stands for.
pub fn verbosity(text: &str) -> Result<u8, String> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "y" | "on" | "t" => Ok(1),
        "false" | "no" | "n" | "off" | "f" => Ok(0),
        number => number.parse().map_err(|_| "use 1, true or yes, 2 for more, or 0, false or no".to_owned()),
    }
}

/// A hint for each invalid value that came from a variable instead of the command line.
pub fn blamed(message: &clap::Error, args: &[OsString], set: &[(String, OsString)]) -> Vec<String> {
    let named =
        [ContextKind::InvalidArg, ContextKind::PriorArg].into_iter().filter_map(|kind| message.get(kind));
    let options = named.flat_map(|value| match value {
        ContextValue::String(one) => vec![one.as_str()],
        ContextValue::Strings(many) => many.iter().map(String::as_str).collect(),
        _ => Vec::new(),
    });
    let variables = options.filter_map(|option| variable_of(option, args, set));
    let named = variables.map(|(name, value)| {
        let value = view::quoted(&value.to_string_lossy());
        format!("the value comes from the environment: {name}={}", view::one_line(&value))
    });
    named.collect()
}

/// The variable that set `option`, which clap names like `--issue <NUMBER>`.
fn variable_of<'s>(
    option: &str,
    args: &[OsString],
    set: &'s [(String, OsString)],
) -> Option<(&'s str, &'s OsStr)> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-';
    let long = option.split(|c| !is_name(c)).find_map(|word| word.strip_prefix("--"))?;
    let own = args.iter().take_while(|a| *a != "--");
    let given = |a: &OsString| {
        let a = a.to_string_lossy();
        a.strip_prefix("--").is_some_and(|a| a.split('=').next() == Some(long))
    };
    if own.into_iter().any(given) {
        return None;
    }
    let name = match long {
        "log" => "BOOKEND_LOG_TO".to_owned(),
        long => format!("{PREFIX}{}", long.to_ascii_uppercase().replace('-', "_")),
    };
    set.iter().find(|(n, _)| *n == name).map(|(n, v)| (n.as_str(), v.as_os_str()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_name_suggests_the_variable_that_was_meant() {
        for (given, right) in [
            ("BOOKEND_TIMOUT", Some("BOOKEND_TIMEOUT")),
            ("BOOKEND_TIME_OUT", Some("BOOKEND_TIMEOUT")),
            ("BOOKEND_KEYS", Some("BOOKEND_KEY")),
            ("BOOKEND_IDLETIMEOUT", Some("BOOKEND_IDLE_TIMEOUT")),
            ("BOOKEND_ON_FINISHED", Some("BOOKEND_ON_FINISH")),
            ("BOOKEND_KEY", None),
            ("BOOKEND_TASK_ID", None),
            ("BOOKEND_LEDGER", None),
            ("BOOKEND_TEST_ALL", None),
            ("BOOKEND_REAL_CLAUDE", None),
            ("BOOKEND_VALGRIND", None),
            ("BOOKEND_SOAK", None),
            ("BOOKEND_JUST", None),
            ("BOOKEND_DEB", None),
            ("BOOKEND_FAILPOINT", None),
            ("BOOKEND_DETACHED", None),
            ("BOOKEND_DETATCHED", Some("BOOKEND_DETACHED")),
            ("BOOKEND_ALLOW_SHARED_DIRS", Some("BOOKEND_ALLOW_SHARED_DIR")),
            ("BOOKEND_STRIKT", Some("BOOKEND_STRICT")),
            ("BOOKEND_PROJECT", None),
        ] {
            assert_eq!(meant(given), right, "{given}");
        }
    }

    #[test]
    fn verbosity_takes_a_number_or_a_word() {
        for (text, times) in [("1", 1), ("2", 2), ("0", 0), ("true", 1), ("YES", 1), ("no", 0), ("false", 0)]
        {
            assert_eq!(verbosity(text), Ok(times), "{text}");
        }
        assert!(verbosity("loud").is_err());
    }
}
