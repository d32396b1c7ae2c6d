//! Finds Claude Code's transcripts, background jobs and plugins on disk.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::agent::home::{dashed, home};
use crate::sys::files;
use crate::task::{SessionId, Time};

/// The longest list of plugins that is read, in bytes: the agent's start waits for it.
const LONGEST_LIST: u64 = 16 << 20;
/// The longest state file of a job that is read, in bytes.
const LONGEST_STATE: u64 = 1 << 20;
/// Claude Code cuts longer folder names to this length, in characters, and appends a hash of the whole name.
const FOLDER_NAME: usize = 200;

/// Claude Code's configuration directory.
pub fn config_dir() -> Option<PathBuf> {
    let own = std::env::var_os("CLAUDE_CONFIG_DIR").filter(|d| !d.is_empty());
    own.map(PathBuf::from).or_else(|| home().map(|h| h.join(".claude")))
}

/// The transcript of `id`: in the project folder of `cwd`, or in any other project folder that has it, as
/// Claude Code looks there too.
pub fn transcript_in(projects: &Path, cwd: &Path, id: &SessionId) -> Option<PathBuf> {
    if !id.is_valid() {
        return None;
    }
    let file = format!("{id}.jsonl");
    let here = project_folders(projects, cwd);
    let everywhere = fs::read_dir(projects).into_iter().flatten().flatten().map(|e| e.path());
    let mut places = here.iter().cloned().chain(everywhere).map(|dir| dir.join(&file));
    places.find(|f| has_content(f)).or_else(|| here.first().map(|dir| dir.join(&file)))
}

/// The id of the conversation of `cwd` whose transcript was modified last.
pub fn most_recent_in(projects: &Path, cwd: &Path) -> Option<SessionId> {
    let folders = project_folders(projects, cwd).into_iter();
    let files = folders.filter_map(|d| fs::read_dir(d).ok()).flatten().flatten();
    let conversations = files.filter_map(|entry| {
        let path = entry.path();
        let id = path.file_stem()?.to_str()?;
        let counts = path.extension() == Some(OsStr::new("jsonl"))
            && uuid::Uuid::try_parse(id).is_ok()
            && has_content(&path);
        let changed = entry.metadata().and_then(|m| m.modified());
        counts.then(|| (changed.unwrap_or(SystemTime::UNIX_EPOCH), id.to_owned()))
    });
    conversations.max().map(|(_, id)| SessionId::recorded(id))
}

/// The id of the conversation of the only background job that was created in `cwd` since `since`.
pub fn backgrounded_in(jobs: &Path, cwd: &Path, since: Time) -> Option<SessionId> {
    let cwd = cwd.canonicalize().unwrap_or_else(|_| cwd.to_owned());
    let states = fs::read_dir(jobs).ok()?.flatten().filter_map(|job| {
        let state = files::read(&job.path().join("state.json"), 0, LONGEST_STATE).ok()?;
        serde_json::from_slice::<serde_json::Value>(&state).ok()
    });
    let is_ours = |state: &serde_json::Value| {
        state["cwd"].as_str().map(Path::new) == Some(&cwd)
            && state["createdAt"].as_str().and_then(|at| at.parse().ok()).is_some_and(|at: Time| at >= since)
    };
    let mut ours = states.filter(is_ours);
    let id = ours.next()?["sessionId"].as_str()?.parse().ok()?;
    ours.next().is_none().then_some(id)
}

/// The folders that may hold conversations of `cwd`.
fn project_folders(projects: &Path, cwd: &Path) -> Vec<PathBuf> {
    let name = dashed(&cwd.canonicalize().unwrap_or_else(|_| cwd.to_owned()));
    let Some(cut) = name.get(..FOLDER_NAME).filter(|_| name.len() > FOLDER_NAME) else {
        return vec![projects.join(name)];
    };
    let begins = |entry: &fs::DirEntry| {
        let name = entry.file_name();
        name.as_bytes().strip_prefix(cut.as_bytes()).is_some_and(|rest| rest.first() == Some(&b'-'))
    };
    let all = fs::read_dir(projects).into_iter().flatten().flatten();
    all.filter(begins).map(|e| e.path()).collect()
}

fn has_content(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|m| m.is_file() && m.len() > 0)
}

/// The skill folders of the plugins in Claude Code's list of installed plugins.
pub fn plugin_folders(config: &Path) -> Vec<PathBuf> {
    let list = config.join("plugins/installed_plugins.json");
    let list = files::read(&list, 0, LONGEST_LIST).unwrap_or_default();
    let list: serde_json::Value = serde_json::from_slice(&list).unwrap_or_default();
    let plugins = list["plugins"].as_object().into_iter().flat_map(|p| p.values());
    let installs = plugins.filter_map(|p| p.as_array()).flatten();
    let places = installs.filter_map(|i| i["installPath"].as_str());
    places.map(|p| Path::new(p).join("skills")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transcript_with_content_is_found_here_first_then_elsewhere() {
        let tmp = tempfile::tempdir().unwrap();
        let cwd = tmp.path().canonicalize().unwrap();
        let projects = cwd.join("projects");
        let here = projects.join(dashed(&cwd));
        let there = projects.join("-elsewhere");
        fs::create_dir_all(&here).unwrap();
        fs::create_dir_all(&there).unwrap();
        fs::write(here.join("a.jsonl"), "{}").unwrap();
        fs::write(here.join("b.jsonl"), "").unwrap();
        fs::write(there.join("b.jsonl"), "{}").unwrap();
        let find = |id: &str| transcript_in(&projects, &cwd, &id.into());
        assert_eq!(find("a"), Some(here.join("a.jsonl")));
        assert_eq!(find("b"), Some(there.join("b.jsonl")));
        assert_eq!(find("c"), Some(here.join("c.jsonl")));
        assert_eq!(find("../a"), None);
    }

    #[test]
    fn the_most_recent_conversation_is_the_one_modified_last() {
        let tmp = tempfile::tempdir().unwrap();
        let cwd = tmp.path().canonicalize().unwrap();
        let here = cwd.join(dashed(&cwd));
        assert_eq!(most_recent_in(&cwd, &cwd), None);
        fs::create_dir_all(&here).unwrap();
        let ids = ["0e6ae530-5ac4-4335-804a-690dc6d85ef4", "5541d2d0-fb59-4b6a-b22d-3430589b3083"];
        for (age, name, text) in [(9, ids[0], "{}"), (5, ids[1], "{}"), (1, "agent-1", "{}")] {
            let file = fs::File::create(here.join(format!("{name}.jsonl"))).unwrap();
            std::io::Write::write_all(&mut &file, text.as_bytes()).unwrap();
            let when = SystemTime::now() - std::time::Duration::from_secs(age);
            file.set_modified(when).unwrap();
        }
        assert_eq!(most_recent_in(&cwd, &cwd), Some(ids[1].into()));
    }

    #[test]
    fn a_cut_folder_name_is_found_by_its_beginning() {
        let tmp = tempfile::tempdir().unwrap();
        let cwd = tmp.path().canonicalize().unwrap().join("x".repeat(120)).join("y".repeat(120));
        let cut = dashed(&cwd)[..FOLDER_NAME].to_owned();
        let here = tmp.path().join(cut + "-k3j2");
        fs::create_dir_all(&here).unwrap();
        assert_eq!(project_folders(tmp.path(), &cwd), [here]);
    }

    #[test]
    fn the_skill_folders_of_plugins_are_found() {
        let tmp = tempfile::tempdir().unwrap();
        fs::create_dir(tmp.path().join("plugins")).unwrap();
        let list = r#"{"version":2,"plugins":{"p@m":[{"scope":"user","installPath":"/opt/p"}],"odd":1}}"#;
        fs::write(tmp.path().join("plugins/installed_plugins.json"), list).unwrap();
        assert_eq!(plugin_folders(tmp.path()), [Path::new("/opt/p/skills")]);
    }
}
