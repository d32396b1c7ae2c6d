//! Words for a shell: quoting, and commands of bookend that work when pasted.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::log::is_harmful;
use crate::task::SYSTEM_LEDGER;

/// A bookend command that works when pasted. `ledger`: its file, if it is not the default one.
pub fn suggestion(ledger: Option<&Path>, what: &str) -> String {
    let Some(file) = ledger else { return format!("bookend {what}") };
    if file == Path::new(SYSTEM_LEDGER) {
        return format!("bookend --system {what}");
    }
    let (command, rest) = what.split_once(' ').unwrap_or((what, ""));
    format!("bookend {command} --ledger {} {rest}", quoted_path(file)).trim_end().to_owned()
}

/// One word, quoted for a shell.
pub fn quoted(word: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "-_./:=@%+,".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A path, quoted for a shell. Bytes that are not UTF-8 and control characters are escaped in `$'…'`.
pub fn quoted_path(path: &Path) -> String {
    match path.to_str() {
        Some(text) if !text.contains(is_harmful) => quoted(text),
        _ => {
            let byte = |byte: &u8| match byte {
                b'\'' | b'\\' => format!("\\{}", char::from(*byte)),
                b' '..=b'~' => char::from(*byte).to_string(),
                other => format!("\\{other:03o}"),
            };
            let bytes: String = path.as_os_str().as_bytes().iter().map(byte).collect();
            format!("$'{bytes}'")
        }
    }
}

/// An operand, quoted for a shell, that is never parsed as an option.
pub fn operand(word: &str) -> String {
    let mark = if word.starts_with('-') { "-- " } else { "" };
    format!("{mark}{}", quoted(word))
}

/// A command line, quoted for a shell.
pub fn command_line(words: &[String]) -> String {
    words.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_suggestion_names_a_ledger_that_is_not_the_default_one() {
        let suggested = [None, Some("/a b/l.db"), Some(SYSTEM_LEDGER)]
            .map(|ledger| suggestion(ledger.map(Path::new), "session list"));
        assert_eq!(
            suggested,
            [
                "bookend session list",
                "bookend session --ledger '/a b/l.db' list",
                "bookend --system session list"
            ]
        );
    }

    #[test]
    fn a_path_of_any_bytes_is_one_word_of_the_shell() {
        for bytes in [&b"/plain"[..], b"/a b/it's", b"/new\nline\\", b"/\xff\xfe'x", "/ü\u{202e}f".as_bytes()]
        {
            let word = quoted_path(Path::new(OsStr::from_bytes(bytes)));
            assert!(!word.contains(is_harmful), "{word}");
            let printed = Command::new("bash").args(["-c", &format!("printf %s {word}")]).output().unwrap();
            assert_eq!(printed.stdout, bytes, "{word}");
        }
    }

    #[test]
    fn an_operand_is_one_word_and_not_an_option() {
        assert_eq!(["a1", "--all", "x; y"].map(operand), ["a1", "-- --all", "'x; y'"]);
    }

    #[test]
    fn a_command_line_can_be_pasted_into_a_shell() {
        let words = ["claude", "-p", "it's ü", ""].map(str::to_owned);
        assert_eq!(command_line(&words), r"claude -p 'it'\''s ü' ''");
    }
}
