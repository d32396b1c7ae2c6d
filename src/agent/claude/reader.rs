//! Reads the session, model, tokens, cost, turns, tools and result from Claude Code's output while it runs.
//!
//! The tokens and turns of a `result` cover that result only and are summed over a run with several
//! (background tasks, streamed input). Its cost covers the run or the session, depending on the version.
//! Subagents count in the cost only.

use std::borrow::Cow;
use std::collections::VecDeque;

use memchr::memmem::Finder;

use crate::agent::adapter::{
    ApiFailure, ApiFailureKind, ObservedOutput, OutputMode, OutputReader, ReportCovers,
};
use crate::agent::output::event::{
    CountedUsage, EventMessage, EventTexts, InlineTexts, OutputEvent, RateLimit, ToolBlock,
};
use crate::agent::output::forms::{EventRead, FormCache};
use crate::agent::output::kept::{brief, hash};
use crate::agent::output::lines::{LineSplitter, ObjectSplitter, objects};
use crate::task::TokenUsage;

/// The number of latest messages whose counts may still grow.
const RECENT: usize = 16;
/// The most open tool calls, and the most background tasks, that are remembered.
const REMEMBERED: usize = 64;

/// The beginning of events, and of those that add no information if their session is known: what the agent
/// reads while no tool call is open, and the pieces of what it writes. They are the longest and most
/// frequent events. One in another form is read in full.
const EVENT: &[u8] = br#"{"type":""#;
const ECHO: &[u8] = br#"user","#;
const PIECE: [&[u8]; 2] =
    [br#"stream_event","event":{"type":"content_block_delta","index":"#, br#","delta":{"type":""#];
/// The beginning of system events, those that are read, and those of background tasks, which are read
/// unless other events list the tasks.
const SYSTEM: &[u8] = br#"system","subtype":""#;
const READ_SYSTEM: [&[u8]; 2] = [b"init\"", b"background_tasks_changed\""];
const OF_TASKS: &[u8] = b"task_";
/// The key of a type, and the types of parts of these events, which no event has.
const TYPE: &[u8] = b"\"type\"";
const PARTS: [&[u8]; 2] = [b":\"tool_result\"", b":\"text\""];

/// The last version observed to report the cost of the run, and the first to report the session's total.
const LAST_PER_RUN: [u32; 3] = [2, 1, 260];
const FIRST_TOTAL: [u32; 3] = [2, 1, 300];

#[derive(Debug)]
enum Splitter {
    Lines(LineSplitter),
    Objects(ObjectSplitter),
}

#[derive(Debug)]
pub struct ClaudeReader {
    splitter: Splitter,
    forms: FormCache,
    tally: Tally,
}

impl ClaudeReader {
    pub fn new(mode: OutputMode) -> ClaudeReader {
        ClaudeReader {
            splitter: match mode {
                OutputMode::Json => Splitter::Objects(ObjectSplitter::new()),
                OutputMode::StreamJson | OutputMode::Text | OutputMode::Interactive => {
                    Splitter::Lines(LineSplitter::new())
                }
            },
            forms: FormCache::new(),
            tally: Tally::default(),
        }
    }
}

impl OutputReader for ClaudeReader {
    fn feed(&mut self, bytes: &[u8]) {
        let ClaudeReader { splitter, forms, tally } = self;
        match splitter {
            Splitter::Lines(lines) => lines.push(bytes, |l| tally.line(l, forms)),
            Splitter::Objects(objects) => objects.push(bytes, |o| tally.line(o, forms)),
        }
    }

    fn finish(&mut self) {
        let ClaudeReader { splitter, forms, tally } = self;
        match splitter {
            Splitter::Lines(lines) => lines.finish(|l| tally.line(l, forms)),
            Splitter::Objects(objects) => objects.finish(|o| tally.line(o, forms)),
        }
    }

    fn observed(&self) -> &ObservedOutput {
        &self.tally.observed
    }
}

/// Everything that was read, and what is needed to count each message once.
#[derive(Debug, Default)]
struct Tally {
    observed: ObservedOutput,
    /// How events name the known session.
    known_session: Option<KnownSession>,
    /// The sum of all results.
    settled: TokenUsage,
    settled_turns: Option<i64>,
    /// Since the last result: finished messages, and in `recent` those that may still grow, by hashed id.
    over: TokenUsage,
    /// The sum of both.
    unsettled: TokenUsage,
    recent: VecDeque<(u64, TokenUsage)>,
    turns: i64,
    /// The message that is streaming, by the hash of its id.
    streaming: Option<u64>,
    /// Open tool calls: the hash of the id, and the tool.
    calls: Vec<(u64, String)>,
    tasks: Vec<u64>,
    /// Claude Code lists its background tasks, which is more reliable than counting their start and end.
    lists_tasks: bool,
    /// An init event has come, so the output has events for tool calls and tasks.
    began: bool,
    version: Option<[u32; 3]>,
    /// The usage limit in the last event that has one.
    rate_limit: RateLimit,
}

/// Patterns of events of the known session.
#[derive(Debug)]
struct KnownSession {
    named: Finder<'static>,
    types: Finder<'static>,
}

impl KnownSession {
    fn new(id: &str) -> KnownSession {
        KnownSession {
            named: Finder::new(&format!("\"session_id\":\"{id}\"")).into_owned(),
            types: Finder::new(TYPE),
        }
    }

    /// Whether `rest`, the text after the type of an event, names the session and contains no other event.
    fn is_named_in_one_event(&self, rest: &[u8]) -> bool {
        self.named.find(rest).is_some() && !self.has_another(rest)
    }

    /// Whether `rest` has the type of another event. Inside a string its quotes would be escaped.
    fn has_another(&self, mut rest: &[u8]) -> bool {
        while let Some(at) = self.types.find(rest) {
            rest = &rest[at + TYPE.len()..];
            if !PARTS.iter().any(|part| rest.starts_with(part)) {
                return true;
            }
        }
        false
    }
}

/// The text after the type of a streamed piece.
fn piece(kind: &[u8]) -> Option<&[u8]> {
    let rest = kind.strip_prefix(PIECE[0])?;
    let index = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    rest[index..].strip_prefix(PIECE[1])
}

impl Tally {
    fn line(&mut self, line: &[u8], forms: &mut FormCache) {
        if !self.adds_nothing(line) && !self.event(line, forms) {
            // The line has other text besides the event.
            objects(line, |o| {
                self.event(o, forms);
            });
        }
    }

    /// Takes one event; `false`: the text is not an event.
    fn event(&mut self, text: &[u8], forms: &mut FormCache) -> bool {
        match forms.read(text) {
            Ok(EventRead::Known(event, texts)) => self.take(event, &texts),
            Ok(EventRead::Full(event)) => {
                self.take(&*event, &InlineTexts);
                if event.is_result() {
                    self.result(&event);
                }
            }
            Err(_) => return false,
        }
        true
    }

    fn adds_nothing(&self, line: &[u8]) -> bool {
        let Some(kind) = line.strip_prefix(EVENT) else { return false };
        let rest = match kind.first() {
            Some(b'u') => kind.strip_prefix(ECHO).filter(|_| self.calls.is_empty()),
            Some(b's') => match kind.strip_prefix(SYSTEM) {
                Some(what) if what.starts_with(OF_TASKS) => Some(what).filter(|_| self.lists_tasks),
                Some(what) => Some(what).filter(|_| !READ_SYSTEM.iter().any(|t| what.starts_with(t))),
                None => piece(kind),
            },
            _ => None,
        };
        let known = self.known_session.as_ref();
        rest.zip(known).is_some_and(|(rest, known)| known.is_named_in_one_event(rest))
    }

    fn take<T>(&mut self, e: &OutputEvent<'_, T>, texts: &impl EventTexts<T>) {
        let Some(kind) = &e.kind else { return };
        if let Some(named) = &e.session_id
            && !self.observed.session_id.as_ref().is_some_and(|known| texts.is(named, known.as_str()))
        {
            self.session(&texts.text(named));
        }
        if texts.is(kind, "assistant") {
            self.assistant(e, texts);
        } else if texts.is(kind, "user") {
            self.answers(e.message.as_ref(), texts);
        } else if texts.is(kind, "stream_event") {
            self.streamed(e, texts);
        } else if texts.is(kind, "system") {
            self.system(e, texts);
        } else if let Some(limit) = e.rate_limit {
            self.rate_limit = limit;
        }
    }

    fn session(&mut self, id: &str) {
        if let Ok(session) = id.parse() {
            self.observed.session_id = Some(session);
            self.known_session = Some(KnownSession::new(id));
        }
    }

    fn system<T>(&mut self, e: &OutputEvent<'_, T>, texts: &impl EventTexts<T>) {
        match text(&e.subtype, texts).as_deref() {
            Some("init") => {
                self.began = true;
                self.version = text(&e.version, texts).as_deref().and_then(version).or(self.version);
                if let Some(model) = text(&e.model, texts) {
                    keep(&mut self.observed.model, &model);
                }
                self.observed.open_turn = self.observed.result.is_some();
            }
            Some("background_tasks_changed") => {
                if let Some(n) = e.tasks {
                    self.lists_tasks = true;
                    self.observed.background = n > 0;
                }
            }
            Some("task_started") if e.backgrounded == Some(true) && !self.lists_tasks => {
                let new = text(&e.task_id, texts).as_deref().map(hash).filter(|id| !self.tasks.contains(id));
                self.tasks.extend(new.filter(|_| self.tasks.len() < REMEMBERED));
                self.observed.background = !self.tasks.is_empty();
            }
            Some("task_notification") if !self.lists_tasks => {
                let ended = text(&e.task_id, texts).as_deref().map(hash);
                self.tasks.retain(|t| Some(*t) != ended);
                self.observed.background = !self.tasks.is_empty();
            }
            _ => {}
        }
    }

    fn assistant<T>(&mut self, e: &OutputEvent<'_, T>, texts: &impl EventTexts<T>) {
        let Some(m) = &e.message else { return };
        self.calls(&m.blocks, texts);
        if e.parent.is_some() {
            return;
        }
        self.observed.open_turn = self.observed.result.is_some();
        if self.observed.model.is_none()
            && let Some(model) = text(&m.model, texts).filter(|name| !name.starts_with('<'))
        {
            keep(&mut self.observed.model, &model);
        }
        if let Some(id) = text(&m.id, texts) {
            self.message(hash(&id), usage(&m.usage, texts).unwrap_or_default());
        }
    }

    fn streamed<T>(&mut self, e: &OutputEvent<'_, T>, texts: &impl EventTexts<T>) {
        let Some(s) = &e.stream else { return };
        if e.parent.is_some() {
            return;
        }
        match text(&s.kind, texts).as_deref() {
            Some("message_start") => {
                let Some(m) = &s.message else { return };
                self.streaming = text(&m.id, texts).as_deref().map(hash);
                if let Some(id) = self.streaming {
                    self.message(id, usage(&m.usage, texts).unwrap_or_default());
                }
            }
            Some("message_delta") => {
                let id = text(&e.message_id, texts).as_deref().map(hash).or(self.streaming);
                if let (Some(id), Some(usage)) = (id, usage(&s.usage, texts)) {
                    self.message(id, usage);
                }
            }
            _ => {}
        }
    }

    /// Counts a message that is new, or what is new of one that is known.
    fn message(&mut self, id: u64, usage: TokenUsage) {
        match self.recent.iter_mut().find(|(known, _)| *known == id) {
            Some((_, so_far)) => {
                let most = so_far.most(usage);
                if most == *so_far {
                    return;
                }
                *so_far = most;
                self.unsettled = self.recent.iter().fold(self.over, |sum, (_, u)| sum.plus(*u));
            }
            None => {
                if self.recent.len() == RECENT
                    && let Some((_, oldest)) = self.recent.pop_front()
                {
                    self.over = self.over.plus(oldest);
                }
                self.recent.push_back((id, usage));
                self.unsettled = self.unsettled.plus(usage);
                self.turns += 1;
            }
        }
        self.count();
    }

    fn calls<T>(&mut self, blocks: &[ToolBlock<T>], texts: &impl EventTexts<T>) {
        for block in blocks {
            if let ToolBlock::Call { id, name } = block
                && self.calls.len() < REMEMBERED
            {
                let id = hash(&texts.text(id));
                if !self.calls.iter().any(|(known, _)| *known == id) {
                    self.calls.push((id, brief(&texts.text(name)).to_owned()));
                }
            }
        }
        self.show_tool();
    }

    fn answers<T>(&mut self, message: Option<&EventMessage<T>>, texts: &impl EventTexts<T>) {
        for block in message.map_or(&[][..], |m| &m.blocks) {
            if let ToolBlock::Answer { id } = block {
                let id = hash(&texts.text(id));
                self.calls.retain(|(known, _)| *known != id);
            }
        }
        self.show_tool();
    }

    fn show_tool(&mut self) {
        match self.calls.last() {
            Some((_, tool)) => keep(&mut self.observed.tool_in_flight, tool),
            None => self.observed.tool_in_flight = None,
        }
    }

    fn result(&mut self, e: &OutputEvent<'_>) {
        self.observed.api_failure = self.api_failure(e);
        self.settled = self.settled.plus(usage(&e.usage, &InlineTexts).unwrap_or(self.unsettled));
        let turns = e.turns.or((self.turns > 0).then_some(self.turns));
        if let Some(n) = turns {
            self.settled_turns = Some(self.settled_turns.unwrap_or(0).saturating_add(n));
        }
        self.over = TokenUsage::default();
        self.unsettled = TokenUsage::default();
        self.recent.clear();
        self.turns = 0;
        self.streaming = None;
        self.calls.clear();
        self.show_tool();
        if e.cost.is_some() {
            self.observed.reported_cost_usd = e.cost;
            self.observed.counts.cost_usd = e.cost;
            self.observed.cost_covers = self.cost_covers(e);
        }
        if let (None, Some(model)) = (&self.observed.model, &e.costliest) {
            keep(&mut self.observed.model, model);
        }
        self.observed.result = Some(e.verdict());
        self.observed.results += 1;
        self.observed.open_turn = false;
        self.count();
    }

    fn cost_covers(&self, e: &OutputEvent<'_>) -> ReportCovers {
        let is_total = match self.version {
            Some(version) if version <= LAST_PER_RUN => false,
            Some(version) if version >= FIRST_TOTAL => true,
            // Without an init event the version is unknown. Only versions with the total print an index.
            _ => e.result_index.is_some(),
        };
        if is_total { ReportCovers::Session } else { ReportCovers::Run }
    }

    /// How the API ended the run, according to a result. Call it before the open tool calls are cleared.
    fn api_failure(&self, e: &OutputEvent<'_>) -> Option<ApiFailure> {
        let error = e.verdict().error?;
        let kind = api_failure_kind(e, &error, self.rate_limit.rejected)?;
        let of_limit = self.rate_limit.resets_at.filter(|_| self.rate_limit.rejected);
        // Without events, only a single turn shows that no tool was called.
        let sees_all = self.began || e.turns == Some(1);
        Some(ApiFailure {
            kind,
            resets_at: of_limit.or_else(|| printed_reset(&error)).filter(|_| kind != ApiFailureKind::Other),
            was_idle: sees_all && self.calls.is_empty() && !self.observed.background,
        })
    }

    fn count(&mut self) {
        let usage = self.settled.plus(self.unsettled);
        let counts = &mut self.observed.counts;
        usage.count_in(counts);
        counts.turns = match (self.settled_turns, self.turns) {
            (None, 0) => None,
            (settled, since) => Some(settled.unwrap_or(0).saturating_add(since)),
        };
    }
}

/// The kind of API failure in a result. A failed request has the subtype `success`; versions before 2.1
/// report it in the text only, without a status.
fn api_failure_kind(e: &OutputEvent<'_>, error: &str, limit_is_reached: bool) -> Option<ApiFailureKind> {
    if e.subtype.as_deref() != Some("success") {
        return None;
    }
    let is_limit =
        ["usage limit reached", "limit reached", "You've hit your"].iter().any(|t| error.contains(t));
    let refused = |code: &str| error.contains(&format!("API Error: {code}"));
    if is_limit || (limit_is_reached && e.api_status == Some(429)) {
        Some(ApiFailureKind::UsageLimit)
    } else if e.api_status == Some(429) || refused("429") || refused("Request rejected (429)") {
        Some(ApiFailureKind::TooManyRequests)
    } else {
        (e.api_status.is_some_and(|status| status >= 400) || refused("")).then_some(ApiFailureKind::Other)
    }
}

/// The Unix time, in seconds, in `Claude AI usage limit reached|1767225600`.
fn printed_reset(error: &str) -> Option<i64> {
    let (_, after) = error.split_once("limit reached|")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// Parses `2.1.330`; a suffix is ignored.
fn version(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split(['.', '-', '+', ' ']).map(str::parse);
    Some([parts.next()?.ok()?, parts.next()?.ok()?, parts.next()?.ok()?])
}

fn text<'s, T>(text: &'s Option<T>, texts: &'s impl EventTexts<T>) -> Option<Cow<'s, str>> {
    text.as_ref().map(|t| texts.text(t))
}

fn usage<T>(counted: &Option<CountedUsage<T>>, texts: &impl EventTexts<T>) -> Option<TokenUsage> {
    counted.as_ref().and_then(|c| texts.usage(c))
}

/// Sets a text, without allocating if it is unchanged.
fn keep(place: &mut Option<String>, word: &str) {
    let word = brief(word);
    if place.as_deref() != Some(word) {
        *place = Some(word.to_owned());
    }
}

#[cfg(test)]
mod tests;
