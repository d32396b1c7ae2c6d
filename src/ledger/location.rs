//! Where the ledger lies, and that nobody else can read or replace it: choice, owners, types, modes.
//!
//! All of it goes by path: opening the ledger file here and closing it again would drop the locks that
//! SQLite holds on it in this process (<https://www.sqlite.org/howtocorrupt.html>, section 2.2).

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid};
use rustix::fs::{AtFlags, CWD, FileType, StatxAttributes, StatxFlags, statx};

use super::error::{LedgerError, Result};
use super::trust;

const OTHERS: u32 = 0o077;

/// What made the choice of a ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChosenBy {
    Option,
    Variable,
    StateDirectory,
    XdgStateHome,
    Default,
}

impl ChosenBy {
    pub fn as_str(self) -> &'static str {
        match self {
            ChosenBy::Option => "--ledger",
            ChosenBy::Variable => "$BOOKEND_LEDGER",
            ChosenBy::StateDirectory => "$STATE_DIRECTORY",
            ChosenBy::XdgStateHome => "$XDG_STATE_HOME",
            ChosenBy::Default => "~/.local/state",
        }
    }

    /// Whether the directory around the ledger is bookend's own, not one that the user shares with it.
    pub(super) fn owns_directory(self) -> bool {
        matches!(self, ChosenBy::XdgStateHome | ChosenBy::Default)
    }
}

impl fmt::Display for ChosenBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The ledger's path, absolute, and what named it.
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

    /// What to give as `--ledger` to another command so that it opens this ledger; `None`: nothing, since it
    /// is the default one.
    pub fn option(&self) -> Option<&Path> {
        (self.chosen_by != ChosenBy::Default).then_some(&self.file)
    }

    /// The private directory beside the ledger: `<file>.d`, for the live locks and the spool.
    pub fn private_dir(&self) -> PathBuf {
        with_suffix(&self.file, ".d")
    }
}

/// Chooses the ledger: `--ledger`, `$BOOKEND_LEDGER`, `$STATE_DIRECTORY`, `$XDG_STATE_HOME`,
/// `~/.local/state`. An empty variable counts as unset. Nothing is created.
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
        (file.to_owned(), ChosenBy::Option)
    } else if let Some(file) = set("BOOKEND_LEDGER") {
        (file, ChosenBy::Variable)
    } else if let Some(dir) = first_of_list(var("STATE_DIRECTORY")) {
        (dir.join("bookend.db"), ChosenBy::StateDirectory)
    } else if let Some(dir) = set("XDG_STATE_HOME").filter(|p| p.is_absolute()) {
        // The XDG base directory specification: a relative path is invalid and to be ignored.
        (dir.join("bookend/bookend.db"), ChosenBy::XdgStateHome)
    } else {
        let home = set("HOME")
            .filter(|p| p.is_absolute())
            .or_else(home)
            .ok_or_else(|| LedgerError::NoHome { uid: geteuid().as_raw() })?;
        (home.join(".local/state/bookend/bookend.db"), ChosenBy::Default)
    };
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

/// Makes the directories, and refuses those in which somebody else could tamper with the ledger.
pub fn prepare_directories(at: &Location) -> Result<()> {
    let dir = at.directory();
    trust::check_way(dir)?;
    let looking = |e| LedgerError::io("looking at the ledger's directory", dir, e);
    let meta = match fs::metadata(dir) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            make_private_dir(dir).map_err(|e| LedgerError::io("creating the ledger's directory", dir, e))?;
            // Another user may have made it first where the directory above is shared.
            trust::check_way(dir)?;
            fs::metadata(dir).map_err(looking)?
        }
        other => other.map_err(looking)?,
    };
    if at.chosen_by.owns_directory() && meta.mode() & OTHERS != 0 {
        chmod(dir, 0o700)?;
    }
    own_directory(&at.private_dir())?;
    own_directory(&at.private_dir().join("spool"))
}

/// Refuses a link where bookend keeps what is its alone, for those who only read.
pub fn check_beside(at: &Location) -> Result<()> {
    for suffix in ["-wal", "-shm"] {
        check_type(&with_suffix(&at.file, suffix))?;
    }
    let private = at.private_dir();
    for dir in [private.join("spool"), private] {
        if fs::symlink_metadata(&dir).is_ok_and(|m| m.is_symlink()) {
            return Err(LedgerError::Symlink { path: dir });
        }
    }
    Ok(())
}

/// A directory that is bookend's alone: made if it is missing, 0700, never a link, never somebody else's.
fn own_directory(dir: &Path) -> Result<()> {
    let meta = match fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            make_private_dir(dir).map_err(|e| LedgerError::io("creating the directory", dir, e))?;
            fs::symlink_metadata(dir).map_err(|e| LedgerError::io("looking at", dir, e))?
        }
        Err(e) => return Err(LedgerError::io("looking at", dir, e)),
    };
    if meta.is_symlink() {
        return Err(LedgerError::Symlink { path: dir.to_owned() });
    }
    if !meta.is_dir() {
        return Err(LedgerError::WrongType { path: dir.to_owned(), wanted: "a directory" });
    }
    check_owner(dir, &meta)?;
    if meta.mode() & 0o777 != 0o700 {
        chmod(dir, 0o700)?;
    }
    Ok(())
}

fn make_private_dir(dir: &Path) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(dir) {
        // The umask may have taken the owner's own bits.
        Ok(()) => fs::set_permissions(dir, Permissions::from_mode(0o700)),
        Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == ErrorKind::NotFound => match dir.parent() {
            // Where the parent is there and nothing can be made in it (/proc), this would go on for ever.
            Some(parent) if !parent.exists() => {
                make_private_dir(parent)?;
                make_private_dir(dir)
            }
            _ => Err(e),
        },
        Err(e) => Err(e),
    }
}

/// Whether the ledger, or a file of its own beside it, may be used as it lies there. `None`: it is missing.
pub fn check_file(path: &Path) -> Result<Option<Metadata>> {
    let Some(meta) = check_type(path)? else {
        return Ok(None);
    };
    check_owner(path, &meta)?;
    Ok(Some(meta))
}

/// As [`check_file`], of one that has to be there.
pub fn check_own(path: &Path) -> Result<Metadata> {
    let missing = || LedgerError::io("looking at", path, io::Error::from_raw_os_error(libc::ENOENT));
    check_file(path)?.ok_or_else(missing)
}

/// That a path names a regular file itself, or nothing.
pub fn check_type(path: &Path) -> Result<Option<Metadata>> {
    let meta = match fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(LedgerError::io("looking at", path, e)),
    };
    check_regular(path, &meta)?;
    Ok(Some(meta))
}

/// That an opened file is a regular one of our own.
pub fn check_opened(path: &Path, meta: &Metadata) -> Result<()> {
    check_regular(path, meta)?;
    check_owner(path, meta)
}

fn check_regular(path: &Path, meta: &Metadata) -> Result<()> {
    let kind = meta.file_type();
    if kind.is_symlink() {
        Err(LedgerError::Symlink { path: path.to_owned() })
    } else if kind.is_dir() {
        Err(LedgerError::IsDirectory { path: path.to_owned() })
    } else if kind.is_fifo() || kind.is_socket() || !kind.is_file() {
        Err(LedgerError::WrongType { path: path.to_owned(), wanted: "a regular file" })
    } else {
        Ok(())
    }
}

fn check_owner(path: &Path, meta: &Metadata) -> Result<()> {
    let uid = geteuid().as_raw();
    if meta.uid() == uid {
        Ok(())
    } else {
        Err(LedgerError::ForeignFile { path: path.to_owned(), owner: meta.uid(), uid })
    }
}

/// What makes another name of the ledger likely. SQLite names the log after the path, so two names of one
/// file have two logs, and corrupt it: <https://www.sqlite.org/howtocorrupt.html>, section 2.5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OtherName {
    HardLink,
    /// The file alone is mounted there: `docker -v ledger.db:/x.db`.
    Mount,
}

impl OtherName {
    /// What was found of a file that is there. Where the kernel cannot say, nothing was.
    pub fn of(file: &Path) -> Option<OtherName> {
        let asked = StatxFlags::NLINK | StatxFlags::TYPE;
        let meta = statx(CWD, file, AtFlags::SYMLINK_NOFOLLOW, asked).ok()?;
        if !FileType::from_raw_mode(meta.stx_mode.into()).is_file() {
            // Opening says what it is.
            return None;
        }
        if meta.stx_attributes.contains(StatxAttributes::MOUNT_ROOT) {
            Some(OtherName::Mount)
        } else {
            (meta.stx_nlink > 1).then_some(OtherName::HardLink)
        }
    }

    /// What is wrong with the file.
    pub fn explain(self, file: &Path) -> String {
        let path = file.display();
        match self {
            OtherName::HardLink => {
                format!("{path} has more than one hard link, and writing to it under two names corrupts it")
            }
            OtherName::Mount => {
                format!("{path} is mounted as a single file, and writing to it under two names corrupts it")
            }
        }
    }

    /// The command that finds the other name.
    pub fn hint(self, file: &Path) -> String {
        let word = shell_word(file);
        match self {
            OtherName::HardLink => {
                let top = shell_word(file_system_of(file));
                format!("run `find {top} -xdev -samefile {word}` to find the other name, and remove it")
            }
            OtherName::Mount => {
                format!("run `findmnt -T {word}` to find the source, and mount its directory instead")
            }
        }
    }
}

/// Refuses a file that may have another name.
pub fn refuse_other_name(file: &Path) -> Result<()> {
    match OtherName::of(file) {
        Some(other) => Err(LedgerError::OtherName { path: file.to_owned(), other }),
        None => Ok(()),
    }
}

/// The highest directory above a file that is on the same file system: its hard links are below it.
fn file_system_of(file: &Path) -> &Path {
    let device = |path: &Path| fs::metadata(path).map(|m| m.dev()).ok();
    let own = device(file);
    let above = file.ancestors().skip(1);
    above.take_while(|dir| device(dir) == own).last().unwrap_or(Path::new("/"))
}

/// A path as one word of a shell.
pub(super) fn shell_word(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}

/// Takes from a file what others may do with it.
pub fn tighten(path: &Path, meta: &Metadata) -> Result<()> {
    if meta.mode() & OTHERS == 0 { Ok(()) } else { chmod(path, meta.mode() & 0o700) }
}

fn chmod(path: &Path, mode: u32) -> Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|e| LedgerError::io("making private", path, e))
}

/// Makes what was renamed or removed in a directory durable. fsync(2).
pub fn sync_directory(dir: &Path) -> io::Result<()> {
    fs::File::open(dir)?.sync_all()
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
    fn empty_variables_are_unset_and_relative_ones_made_absolute() {
        let env =
            [("BOOKEND_LEDGER", ""), ("STATE_DIRECTORY", ""), ("XDG_STATE_HOME", "relative"), ("HOME", "")];
        let at_home = "/passwd/home/.local/state/bookend/bookend.db".into();
        assert_eq!(chosen(None, &env), (at_home, "~/.local/state"));
        let (file, _) = chosen(Some("here.db"), &[]);
        assert_eq!(file, std::env::current_dir().unwrap().join("here.db"));
    }
}
