//! The adapter for other programs: it adds no arguments and reads no output.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::adapter::{
    Adapter, AgentArgs, AgentNames, ObservedOutput, OutputMode, OutputReader, ReportedFigures, SessionPlan,
    SessionRequest,
};
use crate::task::SessionId;

static NAMES: AgentNames = AgentNames {
    programs: Cow::Borrowed(""),
    common: Cow::Borrowed(""),
    packages: Cow::Borrowed(""),
    by_version: false,
};

#[derive(Debug)]
pub struct CommandAdapter;

#[derive(Debug, Default)]
struct NoOutputReader(ObservedOutput);

impl OutputReader for NoOutputReader {
    fn feed(&mut self, _: &[u8]) {}
    fn finish(&mut self) {}
    fn observed(&self) -> &ObservedOutput {
        &self.0
    }
}

impl Adapter for CommandAdapter {
    fn names(&self) -> &AgentNames {
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

    fn reports(&self) -> ReportedFigures {
        ReportedFigures { cost: false, tokens: false }
    }

    fn notices_closed_stdout(&self) -> bool {
        true
    }

    fn parse(&self, _: &[OsString], _: bool) -> AgentArgs {
        AgentArgs {
            mode: OutputMode::Interactive,
            session: SessionRequest::NoConversation,
            model: None,
            cwd: None,
            extra_dirs: Vec::new(),
            conversing: false,
        }
    }

    fn argv(&self, args: &[OsString], _: &SessionPlan) -> Vec<OsString> {
        args.to_vec()
    }

    fn reader(&self, _: OutputMode) -> Box<dyn OutputReader> {
        Box::new(NoOutputReader::default())
    }

    fn transcript(&self, _: &Path, _: &SessionId) -> Option<PathBuf> {
        None
    }

    fn most_recent(&self, _: &Path) -> Option<SessionId> {
        None
    }

    fn skill_folders(&self, _: &Path, _: &AgentArgs) -> Vec<PathBuf> {
        Vec::new()
    }
}
