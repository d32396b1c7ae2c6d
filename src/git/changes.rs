//! What git reports about a worktree: commits since another one, the files they change, uncommitted files.

use std::path::Path;

use super::ask::{Answer, Git, NoAnswer, Question};
use super::worktree::{Head, Position, Worktree};
use crate::error::Error;
use crate::helper::Attendant;

/// How many file names are stored, and how many characters of each.
const NAMES: usize = 15;
const LONGEST_NAME: usize = 100;

/// The empty tree, which git knows without an object: SHA-1 and SHA-256.
const EMPTY_TREES: [&str; 2] = [
    "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
];

/// The number of files, and the names of the first ones.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    pub count: u64,
    pub first: Vec<String>,
}

impl Names {
    fn add(&mut self, name: &[u8]) {
        self.count += 1;
        if self.first.len() < NAMES {
            self.first.push(String::from_utf8_lossy(name).chars().take(LONGEST_NAME).collect());
        }
    }

    fn of<'n>(names: impl IntoIterator<Item = &'n [u8]>) -> Names {
        let mut all = Names::default();
        names.into_iter().for_each(|name| all.add(name));
        all
    }
}

/// What was committed between two positions. The default: nothing is known.
#[derive(Debug, Default)]
pub(super) struct GitHistory {
    pub commits: Option<u64>,
    pub changed: Option<Names>,
    /// Git did not answer in time.
    pub hung: bool,
}

impl GitHistory {
    /// What is known without git.
    pub(super) fn unasked(before: &Position, now: &Position) -> GitHistory {
        match before.head.is_some() && before.head == now.head {
            true => GitHistory { commits: Some(0), changed: Some(Names::default()), hung: false },
            false => GitHistory::default(),
        }
    }

    /// Asks git only if HEAD has moved.
    pub(super) fn between(
        before: &Position,
        now: &Position,
        worktree: &Worktree,
        git: &mut Git<'_>,
        attendant: &mut dyn Attendant,
    ) -> Result<GitHistory, Error> {
        let (Some(head), Some(Head::Commit(now_at))) = (&before.head, &now.head) else {
            return Ok(GitHistory::unasked(before, now));
        };
        let (range, tree) = match head {
            Head::Commit(id) if id == now_at => return Ok(GitHistory::unasked(before, now)),
            Head::Commit(id) => (format!("{id}..{now_at}"), id.as_str()),
            Head::Unborn => (now_at.clone(), EMPTY_TREES[usize::from(now_at.len() > 40)]),
        };
        let count = ["rev-list", "--count", &range, "--"];
        let commits = plainly(git, &worktree.top, &count, attendant)?;
        let files = ["diff", "--no-ext-diff", "--no-textconv", "--no-renames", "--ignore-submodules=dirty"];
        let files = [&files[..], &["--name-only", "-z", tree, now_at, "--"]].concat();
        let changed = match commits {
            Err(NoAnswer::Hung) => Err(NoAnswer::Hung),
            _ => plainly(git, &worktree.top, &files, attendant)?,
        };
        Ok(GitHistory {
            hung: changed == Err(NoAnswer::Hung),
            commits: commits.ok().and_then(|said| String::from_utf8(said).ok()?.trim().parse().ok()),
            changed: changed.ok().map(|said| Names::of(fields(&said))),
        })
    }
}

/// The files of a worktree that differ from its HEAD.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub uncommitted: Names,
    /// Only the filter of such a file could show whether it has changed, and bookend does not run filters.
    pub unknown: Names,
}

impl Changes {
    /// The number of uncommitted files. If git listed only unknown ones, the number is unknown too.
    pub(super) fn known(&self) -> Option<u64> {
        (self.uncommitted.count > 0 || self.unknown.count == 0).then_some(self.uncommitted.count)
    }

    /// `None`: git did not answer.
    pub(super) fn of(
        worktree: &Worktree,
        filters: &Filters,
        git: &mut Git<'_>,
        attendant: &mut dyn Attendant,
    ) -> Result<Option<Changes>, Error> {
        let Filters(filters) = filters;
        let top = &worktree.top;
        let status = ["status", "--porcelain", "-z", "--no-ahead-behind", "--untracked-files=normal"];
        let status = [&status[..], &["--ignore-submodules=dirty"]].concat();
        let question = Question { args: &status, input: None, emptied: filters };
        let Ok(status) = git.ask(top, &question, attendant)? else { return Ok(None) };
        let (uncommitted, mut doubtful) = listed(&status, !filters.is_empty());
        let mut changes = Changes { uncommitted: Names::of(uncommitted), ..Changes::default() };
        if doubtful.is_empty() {
            return Ok(Some(changes));
        }
        doubtful.push(b"");
        let args = ["check-attr", "-z", "--stdin", "filter"];
        let input = doubtful.join(&0);
        let question = Question { args: &args, input: Some(&input), emptied: filters };
        let Ok(attributes) = git.ask(top, &question, attendant)? else { return Ok(None) };
        for (name, is_filtered) in filtered(&attributes) {
            match is_filtered {
                true => changes.unknown.add(name),
                false => changes.uncommitted.add(name),
            }
        }
        Ok(Some(changes))
    }
}

fn plainly(
    git: &mut Git<'_>,
    top: &Path,
    args: &[&str],
    attendant: &mut dyn Attendant,
) -> Result<Answer, Error> {
    git.ask(top, &Question { args, input: None, emptied: &[] }, attendant)
}

fn fields(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|&b| b == 0).filter(|field| !field.is_empty())
}

/// The names of all filter settings. They are emptied whenever git reads files.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Filters(Vec<Vec<u8>>);

impl Filters {
    /// `Err`: ask git nothing more about the worktree. It has not answered, has ignored bookend's settings,
    /// or uses another directory.
    pub(super) fn of(
        worktree: &Worktree,
        git: &mut Git<'_>,
        attendant: &mut dyn Attendant,
    ) -> Result<Answer<Filters>, Error> {
        let settings = git.settings(&worktree.top, attendant)?;
        Ok(settings.and_then(|said| filters(&said, worktree).ok_or(NoAnswer::Refused)))
    }
}

fn filters(settings: &[u8], worktree: &Worktree) -> Option<Filters> {
    let mut filters = Vec::new();
    let mut has_ours = false;
    let mut all = fields(settings);
    while let (Some(scope), Some(setting)) = (all.next(), all.next()) {
        let (key, value) = match setting.iter().position(|&b| b == b'\n') {
            Some(at) => (&setting[..at], &setting[at + 1..]),
            None => (setting, &b""[..]),
        };
        match (scope, key) {
            (b"command", b"core.fsmonitor") => has_ours = value == b"false",
            // The shared settings do not describe a linked worktree.
            (b"local", b"core.worktree") if worktree.common.is_some() => {}
            (b"local" | b"worktree", b"core.worktree") if !is_at(value, worktree) => return None,
            _ if key.starts_with(b"filter.") => filters.push(key.to_owned()),
            _ => {}
        }
    }
    filters.sort_unstable();
    filters.dedup();
    has_ours.then_some(Filters(filters))
}

/// Whether `core.worktree`, which is relative to the git directory, names the worktree.
fn is_at(value: &[u8], worktree: &Worktree) -> bool {
    use std::os::unix::ffi::OsStrExt;
    let named = worktree.dir.join(std::ffi::OsStr::from_bytes(value));
    named.canonicalize().is_ok_and(|named| named == worktree.top)
}

/// The names in a status in porcelain format 1: files that differ for certain, and files whose content
/// differs, which a filter may explain.
fn listed(status: &[u8], has_filters: bool) -> (Vec<&[u8]>, Vec<&[u8]>) {
    let (mut certain, mut doubtful) = (Vec::new(), Vec::new());
    let mut all = fields(status);
    while let Some(entry) = all.next() {
        let (state, name) = (entry.get(..2).unwrap_or(entry), entry.get(3..).unwrap_or_default());
        // The old name of a renamed or copied file follows.
        if state.iter().any(|s| matches!(s, b'R' | b'C')) {
            all.next();
        }
        match state {
            b" M" if has_filters => doubtful.push(name),
            _ => certain.push(name),
        }
    }
    (certain, doubtful)
}

/// Names, and whether each has a filter, from `git check-attr -z`.
fn filtered(attributes: &[u8]) -> Vec<(&[u8], bool)> {
    let all: Vec<&[u8]> = attributes.split(|&b| b == 0).collect();
    let value = |v: &[u8]| !matches!(v, b"unspecified" | b"unset");
    all.chunks_exact(3).map(|entry| (entry[0], value(entry[2]))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worktree() -> Worktree {
        Worktree { top: "/x".into(), dir: "/x/.git".into(), common: None }
    }

    #[test]
    fn a_git_that_ignores_bookends_settings_is_not_used() {
        let of = |said: &[u8]| filters(said, &worktree());
        assert_eq!(of(b"command\0core.fsmonitor\nfalse\0"), Some(Filters(vec![])));
        assert_eq!(of(b"local\0core.fsmonitor\nfalse\0"), None);
        assert_eq!(of(b""), None);
        let said =
            b"global\0filter.a.clean\nx\0local\0filter.a\nb.required\0command\0core.fsmonitor\nfalse\0";
        assert_eq!(of(said), Some(Filters(vec![b"filter.a".to_vec(), b"filter.a.clean".to_vec()])));
        assert_eq!(of(b"local\0core.worktree\n/nowhere\0command\0core.fsmonitor\nfalse\0"), None);
    }

    #[test]
    fn only_content_of_the_worktree_is_in_doubt_where_there_are_filters() {
        let status = b"R  new\0old\0 M a\0MM b\0?? c\0";
        let (certain, doubtful) = listed(status, true);
        assert_eq!(certain, [&b"new"[..], b"b", b"c"]);
        assert_eq!(doubtful, [b"a"]);
        assert_eq!(listed(status, false).0.len(), 4);
        let said = filtered(b"a\0filter\0lfs\0b\0filter\0unspecified\0");
        assert_eq!(said, [(&b"a"[..], true), (b"b", false)]);
    }

    #[test]
    fn files_of_which_nothing_is_known_are_not_none() {
        let names = |count| Names { count, first: Vec::new() };
        let known = |uncommitted, unknown| {
            Changes { uncommitted: names(uncommitted), unknown: names(unknown) }.known()
        };
        assert_eq!([known(0, 0), known(0, 2), known(3, 2)], [Some(0), None, Some(3)]);
    }
}
