//! What a run left in the git worktree that it ran in: branch, commits, files changed and uncommitted.
//!
//! Before the agent starts only its head is read, from a few small files. The rest is asked of git when the
//! task has ended.
//!
//! The agent can write the repository's settings, and it may have been confined where git is not: nothing
//! that they name is executed on bookend's behalf.

use std::ffi::{CString, OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tracing::debug;

use crate::error::Error;
use crate::hook::dev_null;
use crate::process::caller::Caller;
use crate::process::environment;
use crate::process::gate::{Gated, Launch};
use crate::process::identity;
use crate::regular;
use crate::run::{OPTION_VARIABLES, output_pipe};
use crate::supervise::{Helper, Supervisor};
use crate::task::Exit;

/// How long git may take at the end of a run.
const LIMIT: Duration = Duration::from_secs(2);
/// A longer list of packed refs is not read: the agent would have to wait for it.
const LONGEST_REFS: u64 = 4 << 20;

/// A longer file is no head, nor a way to one.
const LONGEST_HEAD: u64 = 64 << 10;

/// How git is kept from executing what a repository names: hooks, the monitor of the file system, filters
/// (but the operator's own), and whatever would fetch an object that is not there. Submodules are looked at
/// from outside. A git that does not know how to be told (before 2.31) is not asked at all.
macro_rules! with_care {
    ($script:literal) => {
        concat!(
            r#"
export LC_ALL=C GIT_OPTIONAL_LOCKS=0 GIT_TERMINAL_PROMPT=0 GIT_NO_LAZY_FETCH=1 GIT_ALLOW_PROTOCOL=none
n=${GIT_CONFIG_COUNT:-0}
set_to() {
  export "GIT_CONFIG_KEY_$n=$1" "GIT_CONFIG_VALUE_$n=$2"
  n=$((n + 1))
  export GIT_CONFIG_COUNT=$n
}
set_to core.hooksPath /dev/null
set_to core.fsmonitor false
filters=$(git config --show-scope --name-only --get-regexp '^filter[.]') || [ $? = 1 ] || exit 1
while IFS='	' read -r scope name; do
  case $scope in
    '' | system | global | command) ;;
    *) set_to "$name" '' ;;
  esac
done <<END
$filters
END
[ "$(git config core.fsmonitor)" = false ] || exit 1
"#,
            $script
        )
    };
}

/// `$1` is the commit before the run, or `none`. A name a line, the counts at the end: the end is kept.
const SCRIPT: &str = with_care!(
    r#"
[ "$(git rev-parse --is-inside-work-tree 2>/dev/null)" = true ] || exit 1
head=$(git rev-parse -q --verify HEAD) || head=none
if [ "$head" = "$1" ]; then
  :
elif [ "$1" = none ]; then
  git ls-tree -r --name-only "$head"
else
  git diff --no-ext-diff --no-textconv --ignore-submodules=dirty --name-only "$1" "$head"
fi | awk 'NR <= 15 { print "changed_file " substr($0, 1, 100) } END { print "changed " NR }'
git status --porcelain --untracked-files=normal --ignore-submodules=dirty |
  awk 'NR <= 15 { print "uncommitted_file " substr($0, 4, 100) } END { print "uncommitted " NR }'
if [ "$head" = "$1" ]; then
  commits=0
elif [ "$1" = none ]; then
  commits=$(git rev-list --count "$head")
else
  commits=$(git rev-list --count "$1..$head")
fi
echo "commits $commits"
branch=$(git symbolic-ref -q --short HEAD) && echo "branch $branch"
echo "head $head"
"#
);

const UNCOMMITTED: &str = with_care!(
    r#"
said=$(git status --porcelain --untracked-files=normal --ignore-submodules=dirty) || exit 1
printf '%s\n' "$said" | awk 'NF { n++ } END { print n + 0 }'
"#
);

/// The commit that a worktree stands at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Head {
    Commit(String),
    /// There is none yet.
    Unborn,
}

/// The head of the worktree around `cwd`. `None`: there is no worktree, or it cannot be told cheaply.
pub fn head(cwd: &Path) -> Option<Head> {
    let git = cwd.ancestors().find_map(git_dir)?;
    let head = read(&git.join("HEAD"), LONGEST_HEAD)?;
    let Some(name) = head.trim().strip_prefix("ref: ") else { return commit(head.trim()) };
    // A linked worktree shares its branches with the others.
    let common = match read(&git.join("commondir"), LONGEST_HEAD) {
        Some(path) => git.join(path.trim()),
        None => git,
    };
    if let Some(id) = read(&common.join(name), LONGEST_HEAD) {
        return commit(id.trim());
    }
    let packed = common.join("packed-refs");
    match fs::metadata(&packed) {
        Ok(meta) if meta.len() > LONGEST_REFS => None,
        Ok(_) => {
            let refs = read(&packed, LONGEST_REFS)?;
            let line = refs.lines().find_map(|l| l.strip_suffix(name)?.strip_suffix(' '));
            line.map_or(Some(Head::Unborn), commit)
        }
        // Another format of refs keeps no files to read.
        Err(_) if name.starts_with("refs/heads/") && !name.ends_with(".invalid") => Some(Head::Unborn),
        Err(_) => None,
    }
}

fn read(path: &Path, longest: u64) -> Option<String> {
    String::from_utf8(regular::read(path, 0, longest).ok()?).ok()
}

fn commit(id: &str) -> Option<Head> {
    let is_id = id.len() >= 40 && id.bytes().all(|b| b.is_ascii_hexdigit());
    is_id.then(|| Head::Commit(id.to_owned()))
}

/// The directory of the repository whose worktree begins at `dir`.
fn git_dir(dir: &Path) -> Option<PathBuf> {
    let dot = dir.join(".git");
    let meta = fs::metadata(&dot).ok()?;
    let git = match meta.is_dir() {
        true => dot,
        false => dir.join(read(&dot, LONGEST_HEAD)?.trim().strip_prefix("gitdir: ")?),
    };
    git.join("HEAD").exists().then_some(git)
}

/// Asks git what has become of the worktree, and records it. For a short while only, and never an error: it
/// is not the task's.
///
/// # Errors
/// When the kernel has no memory left to watch with.
pub fn record(run: &mut Supervisor<'_>, cwd: &Path, before: &Head, caller: &Caller) -> Result<(), Error> {
    let (mut child, output) = match start(run, cwd, before, caller) {
        Ok(started) => started,
        Err(e) => {
            debug!("asking git: {e}");
            return Ok(());
        }
    };
    child.open();
    run.helper = Some(Helper::new(child, Some(output)));
    let in_time = run.await_helper(Some(LIMIT))?;
    let Some(helper) = run.helper.take() else { return Ok(()) };
    if !in_time {
        // It leads a group of its own, and is not reaped: the number means it and what it started.
        end_group(helper.child.pid);
        debug!("git did not answer in time");
        return Ok(());
    }
    if helper.ended != Some(Exit::Code(0)) {
        return Ok(());
    }
    let Some(artifact) = artifact(before, &String::from_utf8_lossy(&helper.tail)) else { return Ok(()) };
    let id = run.task.id.clone();
    if let Err(e) = run.ledger.add_artifact(&id, &artifact) {
        debug!("recording what was left in the worktree: {e}");
    }
    Ok(())
}

fn start(
    run: &Supervisor<'_>,
    cwd: &Path,
    before: &Head,
    caller: &Caller,
) -> std::io::Result<(Gated, std::os::fd::OwnedFd)> {
    let before = match before {
        Head::Commit(id) => id.as_str(),
        Head::Unborn => "none",
    };
    let path = search_path();
    let add = [(environment::FINISHED, OsStr::new(&run.task.id)), ("PATH", path.as_os_str())];
    let but: Vec<&str> = OPTION_VARIABLES.iter().copied().chain(["PATH"]).collect();
    let env: Vec<CString> = environment::inherited(&but, &add);
    let (output, theirs) = output_pipe()?;
    let launch = Launch::new(&["/bin/sh", "-c", SCRIPT, "sh", before], env)?
        .cwd(Some(cwd.as_os_str()))?
        .own_group()
        .stdio(0, dev_null()?)
        .stdio(1, theirs)
        .stdio(2, dev_null()?);
    Ok((Gated::start(launch, caller)?, output))
}

/// Where git is looked for: a place of `PATH` that is relative would be one in the agent's directory.
fn search_path() -> OsString {
    let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/bin:/bin".into());
    std::env::join_paths(std::env::split_paths(&path).filter(|p| p.is_absolute())).unwrap_or_default()
}

/// Kills a child that leads a process group of its own, with all that is in it: a git that waits for a named
/// pipe in the worktree would wait for ever.
fn end_group(leader: i32) {
    use rustix::process::{Pid, Signal, kill_process_group};
    let of_its_own = nix::unistd::Pid::from_raw(leader);
    // Its first deed is to lead one; a number above 1 that is no group ends nobody.
    if leader > 1 && nix::unistd::getpgid(Some(of_its_own)) == Ok(of_its_own) {
        let _ = Pid::from_raw(leader).map(|group| kill_process_group(group, Signal::KILL));
    }
}

/// How many files of a worktree have changes that are not committed; `None`: it is none, or git does not tell
/// in time.
pub fn uncommitted(worktree: &Path) -> Option<usize> {
    let mut git = Command::new("/bin/sh")
        .args(["-c", UNCOMMITTED])
        .current_dir(worktree)
        .env("PATH", search_path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .ok()?;
    let handle = identity::stat(git.id() as i32).ok().flatten().map(|s| identity::open(&s.identity()));
    let in_time = match handle {
        Some(Ok(Some(handle))) => handle.wait(LIMIT).unwrap_or(false),
        // It has ended already, or there is no descriptor left to wait with.
        _ => identity::of(git.id() as i32).is_ok_and(|now| now.is_none()),
    };
    if !in_time {
        end_group(git.id() as i32);
        let _ = git.wait();
        return None;
    }
    let mut said = String::new();
    let read = git.stdout.take()?.read_to_string(&mut said);
    let done = git.wait().ok()?;
    said.trim().parse().ok().filter(|_| read.is_ok() && done.success())
}

/// What the script said, as an artifact. `None`: it did not come to its end.
fn artifact(before: &Head, said: &str) -> Option<Value> {
    let values = |name: &str| -> Vec<&str> {
        said.lines().filter_map(|l| l.strip_prefix(name)?.strip_prefix(' ')).collect()
    };
    let last = |name: &str| values(name).pop();
    let count = |name: &str| last(name)?.trim().parse::<u64>().ok();
    let commit = |id: &str| Some(id).filter(|id| *id != "none").map(str::to_owned);
    Some(json!({
        "kind": "git",
        "branch": last("branch"),
        "head_before": match before {
            Head::Commit(id) => Some(id),
            Head::Unborn => None,
        },
        "head": commit(last("head")?),
        "commits": count("commits")?,
        "changed": count("changed")?,
        "uncommitted": count("uncommitted")?,
        "changed_files": values("changed_file"),
        "uncommitted_files": values("uncommitted_file"),
    }))
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

    #[test]
    fn the_head_is_found_from_below_whether_loose_packed_or_none_yet() {
        let at = |refs: &[(&str, &str)]| {
            let dir = repository(refs);
            fs::create_dir_all(dir.path().join("a/b")).unwrap();
            head(&dir.path().join("a/b"))
        };
        let commit = Some(Head::Commit(ID.to_owned()));
        let main = (".git/HEAD", "ref: refs/heads/main\n");
        assert_eq!(at(&[main, (".git/refs/heads/main", &format!("{ID}\n"))]), commit);
        let packed = format!("# pack-refs with: peeled\n{ID} refs/heads/not-main\n{ID} refs/heads/main\n");
        assert_eq!(at(&[main, (".git/packed-refs", &packed)]), commit);
        assert_eq!(at(&[(".git/HEAD", &format!("{ID}\n"))]), commit);
        assert_eq!(at(&[main]), Some(Head::Unborn));
        assert_eq!(at(&[(".git/HEAD", "ref: refs/heads/.invalid\n")]), None);
    }

    #[test]
    fn a_linked_worktree_shares_its_branches() {
        let dir = repository(&[
            ("main/.git/HEAD", "ref: refs/heads/main\n"),
            ("main/.git/refs/heads/side", &format!("{ID}\n")),
            ("main/.git/worktrees/side/HEAD", "ref: refs/heads/side\n"),
            ("main/.git/worktrees/side/commondir", "../..\n"),
            ("side/.git", "gitdir: ../main/.git/worktrees/side\n"),
        ]);
        assert_eq!(head(&dir.path().join("side")), Some(Head::Commit(ID.to_owned())));
    }

    #[test]
    fn what_was_cut_off_is_no_artifact() {
        let said = "changed_file a\nchanged 1\nuncommitted 0\ncommits 2\nbranch main\nhead none\n";
        let whole = artifact(&Head::Unborn, said).unwrap();
        assert_eq!((&whole["commits"], &whole["branch"]), (&json!(2), &json!("main")));
        assert_eq!(whole["changed_files"], json!(["a"]));
        assert_eq!(artifact(&Head::Unborn, "changed 1\nuncommitted 0\ncommits 2\n"), None);
    }
}
