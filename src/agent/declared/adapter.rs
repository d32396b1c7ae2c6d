//! The adapter of an agent that a declaration describes.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::arguments::DeclaredArguments;
use super::reader::DeclaredReader;
use super::schema::Declaration;
use super::transcript::transcript;
use crate::agent::adapter::{
    Adapter, AgentArgs, AgentNames, OutputMode, OutputReader, ReportedFigures, SessionPlan, SessionRequest,
};
use crate::agent::argv::OptionTable;
use crate::agent::home::{home, skills_above};
use crate::task::{ExitMeaning, SessionId, SignalScope};

/// An agent with its declaration, which lives as long as bookend does.
#[derive(Debug)]
pub struct DeclaredAdapter {
    declaration: &'static Declaration,
    names: AgentNames,
    options: OptionTable,
}

impl DeclaredAdapter {
    pub fn new(declaration: Declaration) -> DeclaredAdapter {
        let declaration: &'static Declaration = Box::leak(Box::new(declaration));
        let Declaration { name, programs, common_programs, packages, options, .. } = declaration;
        let list = |words: &[String]| Cow::Owned(words.join(" "));
        DeclaredAdapter {
            names: AgentNames {
                programs: programs.as_ref().map_or(Cow::Borrowed(name), |programs| list(programs)),
                common: list(common_programs),
                packages: list(packages),
                by_version: false,
            },
            options: OptionTable {
                one: list(&options.one),
                maybe: list(&options.maybe),
                many: list(&options.many),
                many_needs_one: false,
                alias: &[],
            },
            declaration,
        }
    }

    fn read<'a>(&self, args: &'a [OsString]) -> DeclaredArguments<'a> {
        DeclaredArguments::read(self.declaration, &self.options, args)
    }
}

impl Adapter for DeclaredAdapter {
    fn names(&self) -> &AgentNames {
        &self.names
    }

    fn agent_type(&self) -> &'static str {
        &self.declaration.name
    }

    fn checked(&self) -> Option<&'static str> {
        self.declaration.checked.as_deref()
    }

    fn provider(&self) -> Option<&'static str> {
        self.declaration.provider.as_deref()
    }

    fn tracks_sessions(&self) -> bool {
        self.declaration.session.is_some()
    }

    fn can_assign(&self) -> bool {
        self.declaration.session.as_ref().is_some_and(|session| session.assign.is_some())
    }

    fn notices_closed_stdout(&self) -> bool {
        true
    }

    fn signals(&self) -> SignalScope {
        self.declaration.process.signal
    }

    fn parse(&self, args: &[OsString], terminal: bool) -> AgentArgs {
        let Declaration { options, skills, input, .. } = self.declaration;
        let line = self.read(args);
        AgentArgs {
            mode: line.mode(terminal),
            session: line.session(),
            model: line.text(&options.model),
            cwd: line.text(&options.cwd).map(PathBuf::from),
            extra_dirs: line.values(&skills.options).flatten().map(PathBuf::from).collect(),
            conversing: line.text(&input.options).is_some_and(|format| input.stream.contains(&format)),
        }
    }

    fn argv(&self, args: &[OsString], plan: &SessionPlan) -> Vec<OsString> {
        let Some(session) = &self.declaration.session else { return args.to_vec() };
        let (words, id) = match plan {
            SessionPlan::AsGiven => return args.to_vec(),
            SessionPlan::Assign(id) => (session.assign.as_ref(), id),
            SessionPlan::Resume(id) => (Some(&session.resume), id),
        };
        let line = self.read(args);
        match words {
            Some(words) if line.session() != SessionRequest::NoConversation => line.with(words, id, args),
            _ => args.to_vec(),
        }
    }

    fn resume_by_hand(&self, id: &SessionId) -> Vec<OsString> {
        self.declaration.session.as_ref().and_then(|session| session.resume.of(id)).unwrap_or_default()
    }

    fn kept_by_hand(&self, args: &[OsString]) -> Vec<OsString> {
        let options = &self.declaration.options;
        let model = self.read(args).text(&options.model).zip(options.model.last());
        model.map(|(model, option)| vec![option.into(), model.into()]).unwrap_or_default()
    }

    fn reports(&self) -> ReportedFigures {
        let events = &self.declaration.event;
        ReportedFigures {
            cost: events.iter().any(|event| event.cost.is_some()),
            tokens: events.iter().any(|event| event.usage.is_some()),
        }
    }

    fn json_option(&self) -> Option<String> {
        let output = &self.declaration.output;
        let json = output.options.last().zip(output.json.first());
        json.map(|(option, value)| format!("{option} {value}")).or_else(|| self.stream_option())
    }

    fn id_options(&self) -> Vec<&str> {
        let given = self.declaration.session.as_ref().map(|session| &session.given);
        given.into_iter().flat_map(|given| given.assign.iter().map(String::as_str)).collect()
    }

    fn stream_option(&self) -> Option<String> {
        let output = &self.declaration.output;
        let with_value = || {
            output
                .options
                .last()
                .zip(output.stream.first())
                .map(|(option, value)| format!("{option} {value}"))
        };
        output.stream_options.first().cloned().or_else(with_value)
    }

    fn exit_meaning(&self, code: u8) -> ExitMeaning {
        let exits = &self.declaration.exits;
        if exits.ok.contains(&code) {
            ExitMeaning::Ok
        } else if exits.error.contains(&code) {
            ExitMeaning::Error
        } else {
            ExitMeaning::Unknown
        }
    }

    fn reader(&self, mode: OutputMode) -> Box<dyn OutputReader> {
        Box::new(DeclaredReader::new(&self.declaration.event, mode))
    }

    fn transcript(&self, cwd: &Path, id: &SessionId) -> Option<PathBuf> {
        transcript(self.declaration.session.as_ref()?.transcript.as_ref()?, cwd, id)
    }

    fn most_recent(&self, _: &Path) -> Option<SessionId> {
        None
    }

    fn skill_folders(&self, cwd: &Path, args: &AgentArgs) -> Vec<PathBuf> {
        let skills = &self.declaration.skills;
        let above: Vec<&str> = skills.above.iter().map(String::as_str).collect();
        let mut folders = skills_above(cwd, &above);
        folders.extend(home().into_iter().flat_map(|home| skills.home.iter().map(move |f| home.join(f))));
        folders.extend(args.extra_dirs.iter().flat_map(|d| above.iter().map(move |f| cwd.join(d).join(f))));
        folders
    }
}

#[cfg(test)]
mod tests;
