//! The path of the ledger: the option, the variables and the default directory that choose it.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};

use super::error::{LedgerError, Result};
use crate::task::SYSTEM_LEDGER;

/// What chose the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenBy {
    /// `--system`, or `--ledger` with the path of that ledger.
    System,
    Option,
    Variable,
    StateDirectory,
    XdgStateHome,
    Default,
}

impl ChosenBy {
    pub fn as_str(self) -> &'static str {
        match self {
            ChosenBy::System => "--system",
            ChosenBy::Option => "--ledger",
            ChosenBy::Variable => "$BOOKEND_LEDGER",
            ChosenBy::StateDirectory => "$STATE_DIRECTORY",
            ChosenBy::XdgStateHome => "$XDG_STATE_HOME",
            ChosenBy::Default => "~/.local/state",
        }
    }

    /// Whether the directory of the ledger belongs to bookend alone.
    pub(super) fn owns_directory(self) -> bool {
        matches!(self, ChosenBy::XdgStateHome | ChosenBy::Default)
    }
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The absolute path of the ledger, and what chose it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub file: PathBuf,
    pub chosen_by: ChosenBy,
}

impl Location {
    /// The directory that holds the ledger.
    pub(super) fn directory(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new("/"))
    }

    /// The file that the option of another command names to open this ledger; `None`: it is the default one.
    pub fn option(&self) -> Option<&Path> {
        (self.chosen_by != ChosenBy::Default).then_some(&self.file)
    }

    /// Whether the caller's own settings chose it: neither an option of the command line nor systemd.
    pub fn is_own(&self) -> bool {
        matches!(self.chosen_by, ChosenBy::Variable | ChosenBy::XdgStateHome | ChosenBy::Default)
    }

    /// The private directory beside the ledger: `<file>.d`, for the live locks and the spool.
    pub fn private_dir(&self) -> PathBuf {
        with_suffix(&self.file, ".d")
    }
}

/// The database that an option names instead of a file: a URL.
pub fn database_url(option: &Path) -> Option<&str> {
    let text = option.to_str()?.trim();
    let begins = |scheme: &str| text.get(..scheme.len()).is_some_and(|s| s.eq_ignore_ascii_case(scheme));
    (begins("postgres://") || begins("postgresql://")).then_some(text)
}

/// Chooses the ledger: `--ledger`, `$BOOKEND_LEDGER`, `$STATE_DIRECTORY`, `$XDG_STATE_HOME`,
/// `~/.local/state`. An empty variable counts as unset. Creates nothing.
pub fn locate(explicit: Option<&Path>) -> Result<Location> {
    choose(explicit, |name| std::env::var_os(name), home)
}

fn choose(
    explicit: Option<&Path>,
    var: impl Fn(&str) -> Option<OsString>,
    home: impl Fn() -> Option<PathBuf>,
) -> Result<Location> {
    let set = |name: &str| var(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let (file, chosen_by) = if let Some(file) = explicit.filter(|p| !p.as_os_str().is_empty()) {
        let is_system = file == Path::new(SYSTEM_LEDGER);
        (file.to_owned(), if is_system { ChosenBy::System } else { ChosenBy::Option })
    } else if let Some(file) = set("BOOKEND_LEDGER") {
        (file, ChosenBy::Variable)
    } else if let Some(dir) = first_of_list(var("STATE_DIRECTORY")) {
        (dir.join("bookend.db"), ChosenBy::StateDirectory)
    } else if let Some(dir) = set("XDG_STATE_HOME").filter(|p| p.is_absolute()) {
        // XDG base directory specification: a relative path is invalid and must be ignored.
        (dir.join("bookend/bookend.db"), ChosenBy::XdgStateHome)
    } else {
        let home = set("HOME")
            .filter(|p| p.is_absolute())
            .or_else(home)
            .ok_or_else(|| LedgerError::NoHome { uid: geteuid().as_raw() })?;
        (home.join(".local/state/bookend/bookend.db"), ChosenBy::Default)
    };
    if database_url(&file).is_some() {
        return Err(LedgerError::NotAFile { chosen_by: chosen_by.as_str() });
    }
    let file = std::path::absolute(&file)
        .map_err(|e| LedgerError::io("making the ledger's path absolute:", &file, e))?;
    Ok(Location { file, chosen_by })
}

/// systemd.exec(5): several directories are separated by colons.
fn first_of_list(value: Option<OsString>) -> Option<PathBuf> {
    std::env::split_paths(&value?).find(|p| !p.as_os_str().is_empty())
}

fn home() -> Option<PathBuf> {
    let user = User::from_uid(geteuid()).ok().flatten()?;
    Some(user.dir).filter(|p| p.is_absolute())
}

/// The path with `suffix` put after its file name.
pub fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(explicit: Option<&str>, env: &[(&str, &str)]) -> (PathBuf, &'static str) {
        let at = choose(
            explicit.map(Path::new),
            |name| env.iter().find(|(n, _)| *n == name).map(|(_, v)| OsString::from(v)),
            || Some(PathBuf::from("/passwd/home")),
        )
        .unwrap();
        (at.file, at.chosen_by.as_str())
    }

    #[test]
    fn the_ledger_is_chosen_in_the_documented_order() {
        let mut env = vec![
            ("BOOKEND_LEDGER", "/b/l.db"),
            ("STATE_DIRECTORY", "/s1:/s2"),
            ("XDG_STATE_HOME", "/x"),
            ("HOME", "/h"),
        ];
        assert_eq!(chosen(Some("/e.db"), &env), ("/e.db".into(), "--ledger"));
        assert_eq!(chosen(Some(SYSTEM_LEDGER), &env), (SYSTEM_LEDGER.into(), "--system"));
        assert_eq!(chosen(None, &env), ("/b/l.db".into(), "$BOOKEND_LEDGER"));
        env.remove(0);
        assert_eq!(chosen(None, &env), ("/s1/bookend.db".into(), "$STATE_DIRECTORY"));
        env.remove(0);
        assert_eq!(chosen(None, &env), ("/x/bookend/bookend.db".into(), "$XDG_STATE_HOME"));
        env.remove(0);
        let at_home = "/h/.local/state/bookend/bookend.db".into();
        assert_eq!(chosen(None, &env), (at_home, "~/.local/state"));
    }

    #[test]
    fn a_url_is_no_file_however_it_is_written() {
        for url in ["postgres://a@db/x", "POSTGRESQL://a:b@db/x", " Postgres://a@db/x"] {
            assert_eq!(database_url(Path::new(url)), Some(url.trim()));
        }
        for file in ["postgres:/x", "./postgres://x", "/var/lib/postgres://x", "p"] {
            assert_eq!(database_url(Path::new(file)), None);
        }
    }

    #[test]
    fn empty_variables_are_unset_and_relative_ones_made_absolute() {
        let env =
            [("BOOKEND_LEDGER", ""), ("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "relative"), ("HOME", "")];
        let at_home = "/passwd/home/.local/state/bookend/bookend.db".into();
        assert_eq!(chosen(None, &env), (at_home, "~/.local/state"));
        let (file, _) = chosen(Some("here.db"), &[]);
        assert_eq!(file, std::env::current_dir().unwrap().join("here.db"));
    }
}
