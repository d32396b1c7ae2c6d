//! The adapter for everything else: nothing is put in, nothing is read.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::adapter::{Adapter, AgentNames, Asked, AskedSession, Mode, Observed, Plan, Reader};
use crate::task::SessionId;

static NAMES: AgentNames = AgentNames { programs: "", common: "", packages: "", by_version: false };

#[derive(Debug)]
pub struct CommandAdapter;

#[derive(Debug, Default)]
struct Deaf(Observed);

impl Reader for Deaf {
    fn feed(&mut self, _: &[u8]) {}
    fn finish(&mut self) {}
    fn observed(&self) -> &Observed {
        &self.0
    }
}

impl Adapter for CommandAdapter {
    fn names(&self) -> &'static AgentNames {
        &NAMES
    }

    fn agent_type(&self) -> &'static str {
        "command"
    }

    fn provider(&self) -> Option<&'static str> {
        None
    }

    fn tracks_sessions(&self) -> bool {
        false
    }

    fn can_assign(&self) -> bool {
        false
    }

    fn notices_closed_stdout(&self) -> bool {
        true
    }

    fn asked(&self, _: &[OsString], _: bool) -> Asked {
        Asked {
            mode: Mode::Interactive,
            session: AskedSession::NoConversation,
            model: None,
            extra_dirs: Vec::new(),
            conversing: false,
        }
    }

    fn argv(&self, args: &[OsString], _: &Plan) -> Vec<OsString> {
        args.to_vec()
    }

    fn reader(&self, _: Mode) -> Box<dyn Reader> {
        Box::new(Deaf::default())
    }

    fn transcript(&self, _: &Path, _: &SessionId) -> Option<PathBuf> {
        None
    }

    fn most_recent(&self, _: &Path) -> Option<SessionId> {
        None
    }

    fn skill_folders(&self, _: &Path, _: &Asked) -> Vec<PathBuf> {
        Vec::new()
    }
}
