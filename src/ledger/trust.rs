//! Which users besides the caller can change the ledger: by owner, mode and access control list of its files
//! and of the directories above it.

use std::ffi::OsString;
use std::fs::{self, Metadata};
use std::io::{self, ErrorKind};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User, geteuid};
use rusqlite::Connection;

use super::error::{LedgerError, Result};
use super::file_check;
use super::location::{Location, with_suffix};
use crate::sys;

const GROUP_WRITES: u32 = 0o020;
const OTHERS_WRITE: u32 = 0o002;
const STICKY: u32 = 0o1000;
/// The extended attribute that holds an access control list: acl(5).
const ACL: &str = "system.posix_acl_access";
/// The kernel follows this many symbolic links in one path: path_resolution(7).
const MOST_LINKS: usize = 40;

/// Set to 1, true or yes, it allows directories above the ledger's own to be writable by others, as a
/// Kubernetes emptyDir volume is (0777). Those users can then replace the whole ledger.
pub const ALLOW_SHARED_DIR: &str = "BOOKEND_ALLOW_SHARED_DIR";

/// Why the rows of a ledger are not trusted: other users may have written them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    pub path: PathBuf,
    pub why: String,
    /// The command that fixes it, without the path. `None`: only the owner of the file can fix it.
    pub fix: Option<&'static str>,
}

/// Whether other users may write to the ledger or to SQLite's files beside it.
pub fn distrust(at: &Location) -> Option<Distrust> {
    ["", "-wal", "-shm", "-journal"].into_iter().find_map(|suffix| {
        let path = with_suffix(&at.file, suffix);
        let meta = fs::symlink_metadata(&path).ok()?;
        let shown = path.display();
        let (why, fix) = if meta.uid() != geteuid().as_raw() {
            (format!("{shown} belongs to {}, who may write to it", sys::user_name(meta.uid())), None)
        } else if has_acl(&path) {
            let why = format!("{shown} has an access control list (ACL), which may let others write to it");
            (why, Some("setfacl --remove-all"))
        } else {
            return shared(&path, &meta);
        };
        Some(Distrust { path, why, fix })
    })
}

/// Whether the mode of a file lets other users write to it.
pub fn shared(path: &Path, meta: &Metadata) -> Option<Distrust> {
    let mode = meta.mode() & 0o777;
    let fix = match (mode & GROUP_WRITES != 0, mode & OTHERS_WRITE != 0) {
        (true, true) => "chmod go-w",
        (true, false) => "chmod g-w",
        (false, true) => "chmod o-w",
        (false, false) => return None,
    };
    let why = format!("other users may write to {} (mode {mode:04o})", path.display());
    Some(Distrust { path: path.to_owned(), why, fix: Some(fix) })
}

/// Whether a file has an access control list. An unexpected error counts as yes.
fn has_acl(path: &Path) -> bool {
    use rustix::io::Errno;
    let mut none = [0u8; 0];
    !matches!(
        rustix::fs::lgetxattr(path, ACL, &mut none[..]),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT)
    )
}

/// Checks that only root and the caller can replace what is in `dir`: each directory on the path, also those
/// that symbolic links lead through, belongs to one of them, and others cannot write to it unless it is
/// sticky. Directories that do not exist yet are not checked.
///
/// [`ALLOW_SHARED_DIR`] allows the directories above `dir` to be writable by others, never `dir` itself.
pub fn check_ancestors(dir: &Path) -> Result<()> {
    check_ancestors_of(dir, allows_shared_parents())
}

fn check_ancestors_of(dir: &Path, shared_parents: bool) -> Result<()> {
    let check_parent = |path: &Path, meta: &Metadata, trusted: &[u32]| {
        let checked = check_directory(path, meta, trusted);
        checked.or_else(|e| match e {
            LedgerError::WorldWritable { .. } | LedgerError::GroupWritable { .. } if shared_parents => Ok(()),
            e => Err(e),
        })
    };
    let mut at = PathBuf::from("/");
    let top = attributes(&at)?;
    let trusted = [0, geteuid().as_raw(), top.uid()];
    check_parent(&at, &top, &trusted)?;
    let mut ahead = parts(dir);
    let mut links = 0;
    while let Some(part) = ahead.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(part);
        let meta = match fs::symlink_metadata(&next) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            other => other.map_err(|e| LedgerError::io("reading the attributes of", &next, e))?,
        };
        if !meta.is_symlink() {
            check_parent(&next, &meta, &trusted)?;
            at = next;
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            let error = io::Error::from_raw_os_error(libc::ELOOP);
            return Err(LedgerError::io("following", &next, error));
        }
        check_owner(&next, &meta, &trusted)?;
        let target = fs::read_link(&next).map_err(|e| LedgerError::io("following", &next, e))?;
        if target.is_absolute() {
            at = PathBuf::from("/");
        }
        ahead.extend(parts(&target));
    }
    if shared_parents { check_directory(&at, &attributes(&at)?, &trusted) } else { Ok(()) }
}

/// Whether the caller has set [`ALLOW_SHARED_DIR`].
fn allows_shared_parents() -> bool {
    std::env::var_os(ALLOW_SHARED_DIR)
        .is_some_and(|value| ["1", "true", "yes"].iter().any(|yes| value == *yes))
}

/// The names in a path, the last one first. `..` stays: it refers to the directory that the path has reached.
fn parts(path: &Path) -> Vec<OsString> {
    let name = |c: Component<'_>| match c {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().rev().filter_map(name).collect()
}

fn attributes(path: &Path) -> Result<Metadata> {
    fs::symlink_metadata(path).map_err(|e| LedgerError::io("reading the attributes of", path, e))
}

fn check_owner(path: &Path, meta: &Metadata, trusted: &[u32]) -> Result<()> {
    if trusted.contains(&meta.uid()) {
        return Ok(());
    }
    let (path, uid) = (path.to_owned(), geteuid().as_raw());
    Err(LedgerError::ForeignDirectory { path, owner: meta.uid(), uid })
}

fn check_directory(path: &Path, meta: &Metadata, trusted: &[u32]) -> Result<()> {
    if !meta.is_dir() {
        return Err(LedgerError::WrongType { path: path.to_owned(), wanted: "a directory" });
    }
    check_owner(path, meta, trusted)?;
    let mode = meta.mode() & 0o7777;
    let path = || path.to_owned();
    if mode & STICKY != 0 {
        Ok(())
    } else if mode & OTHERS_WRITE != 0 {
        Err(LedgerError::WorldWritable { path: path(), mode })
    } else if mode & GROUP_WRITES != 0 && (has_acl(&path()) || !is_private_group(meta)) {
        Err(LedgerError::GroupWritable { path: path(), mode })
    } else {
        Ok(())
    }
}

/// Whether only the owner of a directory is in its group, as on most systems, where new directories are
/// writable by it: the group has the user's name and no members, and is the first group of no other user.
fn is_private_group(meta: &Metadata) -> bool {
    let user = User::from_uid(Uid::from_raw(meta.uid())).ok().flatten();
    let group = Group::from_gid(Gid::from_raw(meta.gid())).ok().flatten();
    user.zip(group).is_some_and(|(user, group)| {
        user.gid == group.gid && user.name == group.name && group.mem.is_empty() && is_only_user(&user)
    })
}

/// Whether the user's first group is that of no other user in /etc/passwd.
fn is_only_user(user: &User) -> bool {
    let gid = user.gid.to_string();
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let others = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
    !others.into_iter().any(|f| f.get(3) == Some(&gid.as_str()) && f.first() != Some(&user.name.as_str()))
}

/// Checks that the file that `conn` has open is the one that was checked before, belongs to the caller, and
/// is still at its path.
pub fn check_opened(conn: &Connection, file: &Path, before: &Metadata) -> Result<()> {
    let now = file_check::check_file(file)?;
    let is_same = now.is_some_and(|now| (now.dev(), now.ino()) == (before.dev(), before.ino()));
    if is_same && !sys::has_moved(conn) {
        return Ok(());
    }
    Err(LedgerError::Swapped { path: file.to_owned() })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn world() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().canonicalize().unwrap();
        (dir, path)
    }

    fn open(path: &Path, mode: u32) {
        fs::create_dir_all(path).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn every_directory_on_a_path_is_checked_including_links() {
        let (_dir, world) = world();
        open(&world.join("open/mine"), 0o700);
        open(&world.join("safe"), 0o700);
        open(&world.join("open"), 0o777);
        // From a private directory into a shared one, and back into a private one.
        symlink(world.join("open/back"), world.join("link")).unwrap();
        symlink("../safe", world.join("open/back")).unwrap();
        for path in ["open/mine", "open/new/deep", "link", "link/new", "safe/../open/mine"] {
            let refused = check_ancestors(&world.join(path));
            assert!(matches!(refused, Err(LedgerError::WorldWritable { .. })), "{path}: {refused:?}");
        }
        check_ancestors(&world.join("safe")).unwrap();
        open(&world.join("open"), 0o1777);
        check_ancestors(&world.join("link/new")).unwrap();
    }

    #[test]
    fn with_shared_parents_only_the_last_directory_has_to_be_private() {
        let (_dir, world) = world();
        open(&world.join("open/mine/below"), 0o700);
        open(&world.join("open/mine"), 0o700);
        open(&world.join("open"), 0o2777);
        symlink("open", world.join("link")).unwrap();
        for path in ["open/mine", "open/new", "link/mine", "open/mine/below", "open/mine/below/.."] {
            check_ancestors_of(&world.join(path), true).unwrap();
            check_ancestors_of(&world.join(path), false).unwrap_err();
        }
        for path in ["open", "link", "open/mine/.."] {
            let refused = check_ancestors_of(&world.join(path), true);
            assert!(matches!(refused, Err(LedgerError::WorldWritable { .. })), "{path}: {refused:?}");
        }
    }

    #[test]
    fn circular_links_are_refused() {
        let (_dir, world) = world();
        symlink("b", world.join("a")).unwrap();
        symlink("a", world.join("b")).unwrap();
        assert!(matches!(check_ancestors(&world.join("a/l")), Err(LedgerError::Io { .. })));
    }
}
