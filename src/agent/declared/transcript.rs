//! Finds the file or the folder of a conversation by the steps of a declaration.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use super::schema::{CwdForm, IdPart, PathStep, TranscriptRules};
use crate::agent::home::{dashed, home};
use crate::task::SessionId;

/// The most folders that are searched for one conversation.
const MOST_FOLDERS: usize = 10_000;

/// The conversation `id` of an agent that works in `cwd`. Without one, a path at which nothing is.
pub fn transcript(rules: &TranscriptRules, cwd: &Path, id: &SessionId) -> Option<PathBuf> {
    let set = rules.variable.as_ref().and_then(std::env::var_os).filter(|dir| !dir.is_empty());
    let base = set.map(PathBuf::from).or_else(|| home().map(|home| home.join(&rules.home)))?;
    transcript_in(base, rules, cwd, id)
}

fn transcript_in(base: PathBuf, rules: &TranscriptRules, cwd: &Path, id: &SessionId) -> Option<PathBuf> {
    if !id.is_valid() {
        return None;
    }
    let mut search = TranscriptSearch { cwd, id, left: MOST_FOLDERS };
    search.below(&base, &rules.path).or_else(|| Some(search.pattern(base, &rules.path)))
}

struct TranscriptSearch<'a> {
    cwd: &'a Path,
    id: &'a SessionId,
    /// How many folders may still be read.
    left: usize,
}

impl TranscriptSearch<'_> {
    fn below(&mut self, dir: &Path, steps: &[PathStep]) -> Option<PathBuf> {
        let Some((step, rest)) = steps.split_first() else { return dir.exists().then(|| dir.to_owned()) };
        match step {
            PathStep::Name(name) => self.below(&dir.join(name), rest),
            PathStep::Cwd(CwdForm::Dashed) => self.below(&dir.join(dashed(&real(self.cwd))), rest),
            PathStep::Id { begins: None, part: None, ends } => {
                self.below(&dir.join(format!("{}{}", self.id, ends.as_deref().unwrap_or_default())), rest)
            }
            PathStep::Any {} => self.entries(dir).iter().find_map(|entry| self.below(entry, rest)),
            PathStep::Id { .. } => {
                let entries = self.entries(dir);
                let named = entries.iter().filter(|e| e.file_name().is_some_and(|n| self.is_id(step, n)));
                named.cloned().collect::<Vec<_>>().iter().find_map(|entry| self.below(entry, rest))
            }
        }
    }

    /// The entries of a folder, the last names first: the newest, where names are dates.
    fn entries(&mut self, dir: &Path) -> Vec<PathBuf> {
        let Some(left) = self.left.checked_sub(1) else { return Vec::new() };
        self.left = left;
        let mut entries: Vec<PathBuf> =
            fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
        entries.sort_unstable_by(|a, b| b.cmp(a));
        entries
    }

    /// Whether a name is the one that `step` describes.
    fn is_id(&self, step: &PathStep, name: &OsStr) -> bool {
        let PathStep::Id { part, begins, ends } = step else { return false };
        let end = format!("{}{}", id_part(self.id, *part), ends.as_deref().unwrap_or_default());
        let front = name.to_str().and_then(|name| name.strip_suffix(&end));
        match begins {
            Some(begins) => front.is_some_and(|front| front.starts_with(begins)),
            None => front == Some(""),
        }
    }

    /// The path with `*` for what is not known.
    fn pattern(&self, base: PathBuf, steps: &[PathStep]) -> PathBuf {
        steps.iter().fold(base, |path, step| match step {
            PathStep::Name(name) => path.join(name),
            PathStep::Any {} => path.join("*"),
            PathStep::Cwd(CwdForm::Dashed) => path.join(dashed(&real(self.cwd))),
            PathStep::Id { part, begins, ends } => {
                let begins = begins.as_ref().map(|begins| format!("{begins}*")).unwrap_or_default();
                let id = id_part(self.id, *part);
                path.join(format!("{begins}{id}{}", ends.as_deref().unwrap_or_default()))
            }
        })
    }
}

fn real(cwd: &Path) -> PathBuf {
    cwd.canonicalize().unwrap_or_else(|_| cwd.to_owned())
}

/// The part of an id that a name contains.
fn id_part(id: &SessionId, part: Option<IdPart>) -> &str {
    match part {
        None => id.as_str(),
        Some(IdPart::First8) => id.as_str().get(..8).unwrap_or(id.as_str()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(path: &str) -> TranscriptRules {
        toml::from_str(&format!("home = '.x'\npath = {path}")).expect("rules")
    }

    #[test]
    fn a_conversation_is_found_by_its_steps() {
        let tmp = tempfile::tempdir().expect("a folder");
        let base = tmp.path().canonicalize().expect("a path");
        let id: SessionId = "01a22958-ee29-7402-973f-d1a60f4479a8".into();
        let whole = "01a22958-ee29-7402-973f-d1a60f4479a8";
        let dashed = format!("projects/{}/chats/{whole}.jsonl", dashed(&base));
        for (steps, path, missing) in [
            (
                "[{ name = 'sessions' }, { any = {} }, { any = {} },
                  { id = { begins = 'rollout-', ends = '.jsonl' } }]",
                format!("sessions/2026/11/rollout-2026-11-29T22-07-{whole}.jsonl"),
                format!("sessions/*/*/rollout-*{whole}.jsonl"),
            ),
            (
                "[{ name = 'tmp' }, { any = {} },
                  { id = { part = 'first-8', begins = 'session-', ends = '.jsonl' } }]",
                "tmp/w-1/session-2026-11-29-01a22958.jsonl".to_owned(),
                "tmp/*/session-*01a22958.jsonl".to_owned(),
            ),
            (
                "[{ name = 'projects' }, { cwd = 'dashed' }, { name = 'chats' },
                  { id = { ends = '.jsonl' } }]",
                dashed.clone(),
                dashed,
            ),
            ("[{ name = 'state' }, { id = {} }]", format!("state/{whole}"), format!("state/{whole}")),
        ] {
            let rules = rules(steps);
            let find = || transcript_in(base.clone(), &rules, &base, &id).expect("a path");
            assert_eq!(find(), base.join(&missing), "{steps}");
            let file = base.join(path);
            std::fs::create_dir_all(file.parent().expect("a folder")).expect("folders");
            for other in ["rollout-x-00000000-ee29-7402-973f-d1a60f4479a8.jsonl", "session-x-00000000.jsonl"]
            {
                std::fs::write(file.with_file_name(other), "{}").expect("a file");
            }
            assert_eq!(find(), base.join(missing), "names of others do not count: {steps}");
            std::fs::write(&file, "{}").expect("a file");
            assert_eq!(find(), file, "{steps}");
        }
        assert_eq!(transcript_in(base.clone(), &rules("[{ id = {} }]"), &base, &"../a".into()), None);
    }
}
