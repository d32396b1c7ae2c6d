//! A worktree and its HEAD, read from the files of the repository without starting git.

use std::fs;
use std::path::{Path, PathBuf};

use crate::sys::files;

/// Longer lists of packed refs are not read: the agent would have to wait.
const LONGEST_REFS: u64 = 4 << 20;
/// A longer file is neither a HEAD nor a path to a git directory.
const LONGEST_HEAD: u64 = 64 << 10;

/// The commit that HEAD of a worktree names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Head {
    Commit(String),
    /// The branch has no commit yet.
    Unborn,
}

impl Head {
    pub(super) fn id(&self) -> Option<&str> {
        match self {
            Head::Commit(id) => Some(id),
            Head::Unborn => None,
        }
    }
}

/// The branch and the commit of HEAD. The default: nothing is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Position {
    /// `None`: it is detached, or not known.
    pub(super) branch: Option<String>,
    /// `None`: not known.
    pub(super) head: Option<Head>,
}

/// A worktree and the directories of its repository.
#[derive(Debug)]
pub(super) struct Worktree {
    pub(super) top: PathBuf,
    pub(super) dir: PathBuf,
    /// A linked worktree shares its branches with the others.
    pub(super) common: Option<PathBuf>,
}

impl Worktree {
    /// The worktree that git finds from `cwd`, an absolute path without links: not beyond a mount point, and
    /// not around a bare repository.
    pub(super) fn around(cwd: &Path) -> Option<Worktree> {
        let (below, top, dir) =
            cwd.ancestors().enumerate().find_map(|(n, top)| Some((n, top, git_dir(top)?)))?;
        let is_bare = |dir: &Path| dir.join("HEAD").exists() && dir.join("objects").exists();
        if below > 0 && (device(cwd) != device(top) || cwd.ancestors().take(below).any(is_bare)) {
            return None;
        }
        let common = read(&dir.join("commondir"), LONGEST_HEAD).map(|path| dir.join(path.trim()));
        Some(Worktree { top: top.to_owned(), dir, common })
    }

    pub(super) fn position(&self) -> Position {
        let Some(head) = read(&self.dir.join("HEAD"), LONGEST_HEAD) else { return Position::default() };
        let Some(name) = head.trim().strip_prefix("ref: ") else {
            return Position { branch: None, head: commit(head.trim()) };
        };
        // With the reftable format there are no files to read; this name announces it.
        if name == "refs/heads/.invalid" {
            return Position::default();
        }
        let branch = name.strip_prefix("refs/heads/").unwrap_or(name).to_owned();
        Position { branch: Some(branch), head: self.tip(name) }
    }

    /// The commit of a branch, which has a file of its own or a line of the packed refs.
    fn tip(&self, name: &str) -> Option<Head> {
        let common = self.common.as_ref().unwrap_or(&self.dir);
        let loose = common.join(name);
        if let Some(id) = read(&loose, LONGEST_HEAD) {
            return commit(id.trim());
        }
        // A directory remains after a branch below this name was deleted.
        let is_unreadable = fs::metadata(&loose).is_ok_and(|meta| !meta.is_dir());
        if is_unreadable || !name.starts_with("refs/heads/") {
            return None;
        }
        let packed = common.join("packed-refs");
        if matches!(packed.symlink_metadata(), Err(e) if e.kind() == std::io::ErrorKind::NotFound) {
            return Some(Head::Unborn);
        }
        let refs = read(&packed, LONGEST_REFS)?;
        let line = refs.lines().find_map(|l| l.strip_suffix(name)?.strip_suffix(' '));
        line.map_or(Some(Head::Unborn), commit)
    }
}

fn read(path: &Path, longest: u64) -> Option<String> {
    String::from_utf8(files::read(path, 0, longest).ok()?).ok()
}

fn commit(id: &str) -> Option<Head> {
    let is_id = id.len() >= 40 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| Head::Commit(id.to_owned()))
}

/// The directory of the repository whose worktree begins at `top`.
fn git_dir(top: &Path) -> Option<PathBuf> {
    let dot = top.join(".git");
    let meta = fs::metadata(&dot).ok()?;
    let git = match meta.is_dir() {
        true => dot,
        false => top.join(read(&dot, LONGEST_HEAD)?.trim().strip_prefix("gitdir: ")?),
    };
    git.join("HEAD").exists().then_some(git)
}

fn device(path: &Path) -> Option<u64> {
    use std::os::unix::fs::MetadataExt;
    fs::metadata(path).ok().map(|meta| meta.dev())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef01234567";

    fn repository(refs: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in refs {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    fn at(refs: &[(&str, &str)], below: &str) -> Option<Position> {
        let dir = repository(refs);
        fs::create_dir_all(dir.path().join(below)).unwrap();
        Some(Worktree::around(&dir.path().join(below))?.position())
    }

    fn on(branch: &str) -> Option<Position> {
        Some(Position { branch: Some(branch.to_owned()), head: Some(Head::Commit(ID.to_owned())) })
    }

    const MAIN: (&str, &str) = (".git/HEAD", "ref: refs/heads/main\n");

    #[test]
    fn reads_a_head_that_is_loose_packed_detached_or_unborn() {
        let tip = format!("{ID}\n");
        assert_eq!(at(&[MAIN, (".git/refs/heads/main", &tip)], "a/b"), on("main"));
        let packed = format!("# pack-refs with: peeled\n{ID} refs/heads/not-main\n{ID} refs/heads/main\n");
        assert_eq!(at(&[MAIN, (".git/packed-refs", &packed)], "a/b"), on("main"));
        let detached = Position { branch: None, head: Some(Head::Commit(ID.to_owned())) };
        assert_eq!(at(&[(".git/HEAD", &tip)], "a/b"), Some(detached));
        let unborn = Position { branch: Some("main".to_owned()), head: Some(Head::Unborn) };
        assert_eq!(at(&[MAIN], "a/b"), Some(unborn));
    }

    #[test]
    fn a_head_that_cannot_be_read_is_unknown() {
        let reftable = (".git/HEAD", "ref: refs/heads/.invalid\n");
        assert_eq!(at(&[reftable], ""), Some(Position::default()));
        let unknown = Position { branch: Some("main".to_owned()), head: None };
        assert_eq!(at(&[MAIN, (".git/refs/heads/main", "ref: refs/heads/x\n")], ""), Some(unknown));
    }

    #[test]
    fn finds_no_worktree_around_a_bare_repository() {
        let refs = [MAIN, ("bare.git/HEAD", "ref: refs/heads/main\n"), ("bare.git/objects/x", "")];
        assert_eq!(at(&refs, "bare.git/hooks"), None);
        assert!(at(&refs, "other").is_some());
    }

    #[test]
    fn a_linked_worktree_shares_its_branches() {
        let tip = format!("{ID}\n");
        let refs = [
            ("main/.git/HEAD", "ref: refs/heads/main\n"),
            ("main/.git/refs/heads/side", tip.as_str()),
            ("main/.git/worktrees/side/HEAD", "ref: refs/heads/side\n"),
            ("main/.git/worktrees/side/commondir", "../..\n"),
            ("side/.git", "gitdir: ../main/.git/worktrees/side\n"),
        ];
        assert_eq!(at(&refs, "side"), on("side"));
    }
}
