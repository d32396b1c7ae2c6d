//! The adapter for Cursor's CLI (`cursor-agent`, also `agent`), from its documentation and captured output of
//! 2026. Cursor accepts no id for a new chat, and starts a new chat when asked to resume an unknown one.

use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::adapter::{
    Adapter, AgentArgs, AgentNames, ObservedOutput, OutputMode, OutputReader, SessionPlan, SessionRequest,
};
use super::argv::{OptionTable, ParsedArgs, injected};
use super::home::{home, skills_above};
use super::output::event::OutputEvent;
use super::output::kept::{brief, hash};
use super::output::lines::{LineSplitter, ObjectSplitter, objects};
use crate::task::SessionId;

static OPTIONS: OptionTable = OptionTable {
    one: "
        --add-dir --api-key --endpoint --header --mode --model --name --output-format --plugin-dir
        --sandbox --workspace --worktree-base",
    maybe: "--resume --worktree",
    many: "",
    alias: &[
        ("-H", "--header"),
        ("-a", "--api-key"),
        ("-b", "--cloud"),
        ("-c", "--cloud"),
        ("-e", "--endpoint"),
        ("-f", "--force"),
        ("-h", "--help"),
        ("-n", "--name"),
        ("-p", "--print"),
        ("-v", "--version"),
        ("-w", "--worktree"),
        ("--background", "--cloud"),
    ],
};

/// Subcommands that hold no conversation.
const COMMANDS: &str = "
    about acp bedrock create-chat feedback generate-rule help install-shell-integration login logout
    mcp models plugin rule sandbox status uninstall-shell-integration update whoami worker
";

/// Options with which the process holds no conversation.
const ELSEWHERE: [&str; 4] = ["--cloud", "--help", "--list-models", "--version"];

/// The most open tool calls that are remembered.
const REMEMBERED: usize = 64;

static NAMES: AgentNames =
    AgentNames { programs: "cursor-agent", common: "agent", packages: "", by_version: false };

#[derive(Debug)]
pub struct CursorAdapter;

/// The index of the first option: after the subcommand `agent`, if there is one.
fn start(args: &[OsString]) -> usize {
    usize::from(args.first().is_some_and(|a| a == "agent"))
}

impl Adapter for CursorAdapter {
    fn names(&self) -> &'static AgentNames {
        &NAMES
    }

    fn agent_type(&self) -> &'static str {
        "cursor"
    }

    fn provider(&self) -> Option<&'static str> {
        Some("cursor")
    }

    fn tracks_sessions(&self) -> bool {
        true
    }

    fn can_assign(&self) -> bool {
        false
    }

    fn notices_closed_stdout(&self) -> bool {
        true
    }

    fn parse(&self, args: &[OsString], terminal: bool) -> AgentArgs {
        let words = ParsedArgs(OPTIONS.read(&args[start(args)..]));
        let session = session(&words);
        let print = words.has("--print") || !terminal;
        let mode = match words.text("--output-format").as_deref() {
            _ if !print || session == SessionRequest::NoConversation => OutputMode::Interactive,
            Some("json") => OutputMode::Json,
            Some("stream-json") => OutputMode::StreamJson,
            _ => OutputMode::Text,
        };
        AgentArgs {
            mode,
            session,
            model: words.text("--model"),
            extra_dirs: words.all("--workspace").flatten().map(PathBuf::from).collect(),
            conversing: false,
        }
    }

    fn argv(&self, args: &[OsString], plan: &SessionPlan) -> Vec<OsString> {
        let at = start(args);
        if session(&ParsedArgs(OPTIONS.read(&args[at..]))) == SessionRequest::NoConversation {
            return args.to_vec();
        }
        match plan {
            SessionPlan::AsGiven | SessionPlan::Assign(_) => args.to_vec(),
            SessionPlan::Resume(id) => injected(args, at, "--resume", id.as_str()),
        }
    }

    fn reader(&self, mode: OutputMode) -> Box<dyn OutputReader> {
        Box::new(CursorReader {
            lines: (mode != OutputMode::Json).then(LineSplitter::new),
            objects: ObjectSplitter::new(),
            tally: Tally::default(),
        })
    }

    fn transcript(&self, _: &Path, _: &SessionId) -> Option<PathBuf> {
        None
    }

    fn most_recent(&self, _: &Path) -> Option<SessionId> {
        None
    }

    fn skill_folders(&self, cwd: &Path, args: &AgentArgs) -> Vec<PathBuf> {
        const PLACES: [&str; 4] = [".agents/skills", ".cursor/skills", ".claude/skills", ".codex/skills"];
        let mut folders = skills_above(cwd, &PLACES);
        let extra = home().into_iter().chain(args.extra_dirs.iter().map(|d| cwd.join(d)));
        for dir in extra {
            folders.extend(PLACES.iter().map(|p| dir.join(p)));
        }
        folders
    }
}

fn session(words: &ParsedArgs) -> SessionRequest {
    match words.first_operand().and_then(OsStr::to_str) {
        Some("resume") => return SessionRequest::Continue,
        Some("ls") => return SessionRequest::ResumePicker,
        Some(c) if is_command(c) => return SessionRequest::NoConversation,
        _ => {}
    }
    if words.has("--resume") {
        return match words.text("--resume").as_deref() {
            // `--continue` is short for `--resume=-1`.
            Some("-1") => SessionRequest::Continue,
            Some(id) => SessionRequest::Resume(SessionId::recorded(id)),
            None => SessionRequest::ResumePicker,
        };
    }
    if words.has("--continue") {
        return SessionRequest::Continue;
    }
    if ELSEWHERE.iter().any(|o| words.has(o)) {
        return SessionRequest::NoConversation;
    }
    SessionRequest::Unspecified
}

#[derive(Debug)]
struct CursorReader {
    /// `None`: the output is one object.
    lines: Option<LineSplitter>,
    objects: ObjectSplitter,
    tally: Tally,
}

impl OutputReader for CursorReader {
    fn feed(&mut self, bytes: &[u8]) {
        let tally = &mut self.tally;
        match &mut self.lines {
            Some(lines) => lines.push(bytes, |l| tally.line(l)),
            None => self.objects.push(bytes, |o| tally.line(o)),
        }
    }

    fn finish(&mut self) {
        let tally = &mut self.tally;
        match &mut self.lines {
            Some(lines) => lines.finish(|l| tally.line(l)),
            None => self.objects.finish(|o| tally.line(o)),
        }
    }

    fn observed(&self) -> &ObservedOutput {
        &self.tally.observed
    }
}

#[derive(Debug, Default)]
struct Tally {
    observed: ObservedOutput,
    /// Open tool calls: the hash of the id, and the tool.
    calls: Vec<(u64, String)>,
}

impl Tally {
    fn line(&mut self, line: &[u8]) {
        match OutputEvent::read(line) {
            Ok(event) => self.event(event),
            // The line has other text besides the event.
            Err(_) => drop(objects(line, |o| OutputEvent::read(o).into_iter().for_each(|e| self.event(e)))),
        }
    }

    fn event(&mut self, e: OutputEvent<'_>) {
        if e.kind.is_none() {
            return;
        }
        if let Some(id) = e.session_id.as_deref()
            && self.observed.session_id.as_ref().is_none_or(|known| known.as_str() != id)
            && let Ok(id) = id.parse()
        {
            self.observed.session_id = Some(id);
        }
        match (e.kind.as_deref(), e.subtype.as_deref()) {
            (Some("system"), Some("init")) => {
                if let Some(model) = e.model {
                    self.observed.model = Some(brief(&model).to_owned());
                }
            }
            (Some("tool_call"), Some(step)) => self.tool(step, e.call_id, e.tool),
            (Some("result"), _) => self.result(&e),
            _ => {}
        }
    }

    fn tool(&mut self, step: &str, call: Option<Cow<'_, str>>, tool: Option<Cow<'_, str>>) {
        let Some(call) = call.as_deref().map(hash) else { return };
        self.calls.retain(|(known, _)| *known != call);
        if step == "started" && self.calls.len() < REMEMBERED {
            let tool = tool.as_deref().map_or("a tool", brief).to_owned();
            self.calls.push((call, tool));
        }
        self.observed.tool_in_flight = self.calls.last().map(|(_, tool)| tool.clone());
    }

    fn result(&mut self, e: &OutputEvent<'_>) {
        if let Some(usage) = e.usage.as_ref().map(|c| c.usage) {
            usage.count_in(&mut self.observed.counts);
        }
        self.calls.clear();
        self.observed.tool_in_flight = None;
        self.observed.result = Some(e.verdict());
        self.observed.results += 1;
    }
}

fn is_command(word: &str) -> bool {
    COMMANDS.split_whitespace().any(|c| c == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::outcome_of;
    use crate::task::{AgentOutcome, UsageCounts};
    use proptest::prelude::*;

    const STREAM: &[u8] =
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/cursor-stream-json.jsonl"));
    const OBJECT: &[u8] =
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/samples/cursor-json.json"));
    const CHAT: &str = "6ce4a1f2-0b3d-4c5e-9f60-718293a4b5c6";

    fn args(line: &str) -> Vec<OsString> {
        line.split_whitespace().map(OsString::from).collect()
    }

    fn read(mode: OutputMode, bytes: &[u8]) -> ObservedOutput {
        let mut reader = CursorAdapter.reader(mode);
        reader.feed(bytes);
        reader.finish();
        reader.observed().clone()
    }

    #[test]
    fn a_stream_is_read_to_its_result() {
        let o = read(OutputMode::StreamJson, STREAM);
        assert_eq!(o.session_id, Some(CHAT.into()));
        assert_eq!(o.model.as_deref(), Some("Composer 2"));
        assert_eq!(
            o.counts,
            UsageCounts {
                cost_usd: None,
                turns: None,
                input_tokens: Some(1523),
                output_tokens: Some(87),
                cache_read_tokens: Some(4096),
                cache_creation_tokens: Some(12),
            }
        );
        assert_eq!(o.tool_in_flight, None);
        assert_eq!(outcome_of(OutputMode::StreamJson, &o), AgentOutcome::Ok);
    }

    #[test]
    fn the_tool_in_flight_is_one_that_has_not_answered() {
        let lines: Vec<&[u8]> = STREAM.split_inclusive(|b| *b == b'\n').collect();
        let until = |n: usize| read(OutputMode::StreamJson, &lines[..n].concat());
        let tool = |n: usize| until(n).tool_in_flight;
        assert_eq!(tool(4), None);
        assert_eq!(tool(5).as_deref(), Some("read"));
        assert_eq!(tool(6).as_deref(), Some("shell"));
        assert_eq!(tool(7).as_deref(), Some("shell"));
        assert_eq!(tool(8), None);
        assert_eq!(outcome_of(OutputMode::StreamJson, &until(9)), AgentOutcome::Missing);
    }

    #[test]
    fn one_object_says_it_all() {
        let o = read(OutputMode::Json, OBJECT);
        assert_eq!(o.session_id, Some(CHAT.into()));
        assert_eq!((o.counts.input_tokens, o.counts.output_tokens), (Some(1523), Some(87)));
        assert_eq!(o.counts.cache_read_tokens, None);
        assert_eq!(outcome_of(OutputMode::Json, &o), AgentOutcome::Ok);
    }

    #[test]
    fn what_the_argv_says_is_seen() {
        use SessionRequest::{Continue, NoConversation, Resume, ResumePicker, Unspecified};
        for (line, session) in [
            ("-p hi --output-format json", Unspecified),
            ("--resume abc -p hi", Resume("abc".into())),
            ("--resume=abc", Resume("abc".into())),
            ("--resume", ResumePicker),
            ("ls", ResumePicker),
            ("--continue", Continue),
            ("--resume=-1", Continue),
            ("resume -p hi", Continue),
            ("-p -- --resume x", Unspecified),
            ("--model --resume hi", Unspecified),
            ("agent --resume abc", Resume("abc".into())),
            ("login", NoConversation),
            ("status", NoConversation),
            ("-c hi", NoConversation),
            ("--version", NoConversation),
        ] {
            assert_eq!(CursorAdapter.parse(&args(line), false).session, session, "{line}");
        }
        let parsed = CursorAdapter.parse(&args("-p --model gpt-5 --output-format=stream-json hi"), true);
        assert_eq!((parsed.mode, parsed.model.as_deref()), (OutputMode::StreamJson, Some("gpt-5")));
    }

    #[test]
    fn a_chat_is_resumed_where_one_is_held() {
        let resumed = |line: &str| CursorAdapter.argv(&args(line), &SessionPlan::Resume("ID".into()));
        assert_eq!(resumed("-p hi"), args("--resume ID -p hi"));
        assert_eq!(resumed("agent -p hi"), args("agent --resume ID -p hi"));
        assert_eq!(resumed("login"), args("login"));
        assert_eq!(CursorAdapter.argv(&args("-p"), &SessionPlan::Assign("ID".into())), args("-p"));
    }

    proptest! {
        #[test]
        fn the_users_words_stay_in_order(
            line in prop::collection::vec("(--?[a-z]{0,12}(=x)?|[a-z ]{0,6}|agent|ls)", 0..8),
        ) {
            let args: Vec<OsString> = line.iter().map(OsString::from).collect();
            let mut argv = CursorAdapter.argv(&args, &SessionPlan::Resume("a".into()));
            if argv.len() > args.len() {
                let at = start(&args);
                argv.drain(at..at + 2);
            }
            prop_assert_eq!(argv, args);
        }
    }
}
