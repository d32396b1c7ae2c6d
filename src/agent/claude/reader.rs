//! Reads Claude Code's output: session, model, tokens, cost, turns, tools and the result, while it runs.
//!
//! Tokens and turns of a `result` are its own and are summed over a run that has several (background
//! tasks, input by stream); its cost is that of the run or of the session, by the version of Claude. Tokens
//! of subagents are in the cost only.

use std::borrow::Cow;
use std::collections::VecDeque;

use memchr::memmem::Finder;

use crate::agent::adapter::{
    ApiFailure, ApiFailureKind, CostCovers, ObservedOutput, OutputMode, OutputReader,
};
use crate::agent::output::event::{
    CountedUsage, EventMessage, EventTexts, InlineTexts, OutputEvent, RateLimit, TokenUsage, ToolBlock,
};
use crate::agent::output::forms::{EventRead, FormCache};
use crate::agent::output::kept::{brief, hash};
use crate::agent::output::lines::{LineSplitter, ObjectSplitter, objects};

/// Messages that may still be streaming at once; counts of older ones are final.
const RECENT: usize = 16;
/// Tools or tasks that are remembered at once.
const REMEMBERED: usize = 64;

/// How events begin, and how those go on that say nothing new, if their session is the known one: what the
/// agent reads, with no tool in flight, and what it is writing. They are the long ones and the many; written
/// in another way they are read in full.
const EVENT: &[u8] = br#"{"type":""#;
const ECHO: &[u8] = br#"user","#;
const PIECE: [&[u8]; 2] =
    [br#"stream_event","event":{"type":"content_block_delta","index":"#, br#","delta":{"type":""#];
/// How events of the system go on, and which of them say something; of tasks, unless they are listed too.
const SYSTEM: &[u8] = br#"system","subtype":""#;
const TELLING: [&[u8]; 2] = [b"init\"", b"background_tasks_changed\""];
const OF_TASKS: &[u8] = b"task_";
/// How a type is named, and the types that the parts of these events have, and no event has.
const TYPE: &[u8] = b"\"type\"";
const PARTS: [&[u8]; 2] = [b":\"tool_result\"", b":\"text\""];

/// The last version that was seen to report the cost of the run, and the first of the session's total.
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

/// All that was read, and what is needed to count no message twice.
#[derive(Debug, Default)]
struct Tally {
    observed: ObservedOutput,
    /// How an event names the session that we know.
    known_session: Option<KnownSession>,
    /// The sum of all results.
    settled: TokenUsage,
    settled_turns: Option<i64>,
    /// Since the last result: messages that are surely over, and those that may still grow, by the hash
    /// of their ids.
    over: TokenUsage,
    /// The sum of both.
    unsettled: TokenUsage,
    recent: VecDeque<(u64, TokenUsage)>,
    turns: i64,
    /// The message that streams.
    streaming: Option<u64>,
    /// Calls without an answer: the hash of the id, and the tool.
    calls: Vec<(u64, String)>,
    tasks: Vec<u64>,
    /// Claude lists its tasks by itself, which is surer than counting them.
    lists_tasks: bool,
    /// An init event has come, so that calls and tasks are seen.
    began: bool,
    version: Option<[u32; 3]>,
    /// What the last event about the usage limit said.
    rate_limit: RateLimit,
}

/// What an event of the session that we know looks like.
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

    /// Whether `rest`, which follows the type of an event, names the session and begins no other event.
    fn is_named_in_one_event(&self, rest: &[u8]) -> bool {
        self.named.find(rest).is_some() && !self.has_another(rest)
    }

    /// Whether there is the type of another event. In a string the quotes of this word would be escaped.
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

/// What follows the type of a piece of what the agent is writing.
fn piece(kind: &[u8]) -> Option<&[u8]> {
    let rest = kind.strip_prefix(PIECE[0])?;
    let index = rest.iter().take_while(|b| b.is_ascii_digit()).count();
    rest[index..].strip_prefix(PIECE[1])
}

impl Tally {
    fn line(&mut self, line: &[u8], forms: &mut FormCache) {
        if !self.says_nothing_new(line) && !self.event(line, forms) {
            // There is other text on the line.
            objects(line, |o| {
                self.event(o, forms);
            });
        }
    }

    /// Takes one event; `false`: it is none.
    fn event(&mut self, text: &[u8], forms: &mut FormCache) -> bool {
        match forms.read(text) {
            Ok(EventRead::Alike(event, texts)) => self.take(event, &texts),
            Ok(EventRead::New(event)) => {
                self.take(&*event, &InlineTexts);
                if event.is_result() {
                    self.result(&event);
                }
            }
            Err(_) => return false,
        }
        true
    }

    fn says_nothing_new(&self, line: &[u8]) -> bool {
        let Some(kind) = line.strip_prefix(EVENT) else { return false };
        let rest = match kind.first() {
            Some(b'u') => kind.strip_prefix(ECHO).filter(|_| self.calls.is_empty()),
            Some(b's') => match kind.strip_prefix(SYSTEM) {
                Some(what) if what.starts_with(OF_TASKS) => Some(what).filter(|_| self.lists_tasks),
                Some(what) => Some(what).filter(|_| !TELLING.iter().any(|t| what.starts_with(t))),
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

    fn cost_covers(&self, e: &OutputEvent<'_>) -> CostCovers {
        let is_total = match self.version {
            Some(version) if version <= LAST_PER_RUN => false,
            Some(version) if version >= FIRST_TOTAL => true,
            // A lone result names no version; only the versions with a total were seen to count results.
            _ => e.result_index.is_some(),
        };
        if is_total { CostCovers::Session } else { CostCovers::Run }
    }

    /// What a result says of the API, before the calls that it ends are forgotten.
    fn api_failure(&self, e: &OutputEvent<'_>) -> Option<ApiFailure> {
        let error = e.verdict().error?;
        let kind = api_failure_kind(e, &error, self.rate_limit.rejected)?;
        let of_limit = self.rate_limit.resets_at.filter(|_| self.rate_limit.rejected);
        // Without events, only a first turn shows that no tool was called before.
        let sees_all = self.began || e.turns == Some(1);
        Some(ApiFailure {
            kind,
            resets_at: of_limit.or_else(|| printed_reset(&error)).filter(|_| kind != ApiFailureKind::Other),
            left_nothing: sees_all && self.calls.is_empty() && !self.observed.background,
        })
    }

    fn count(&mut self) {
        let usage = self.settled.plus(self.unsettled);
        let counts = &mut self.observed.counts;
        counts.input_tokens = usage.input;
        counts.output_tokens = usage.output;
        counts.cache_read_tokens = usage.cache_read;
        counts.cache_creation_tokens = usage.cache_creation;
        counts.turns = match (self.settled_turns, self.turns) {
            (None, 0) => None,
            (settled, since) => Some(settled.unwrap_or(0).saturating_add(since)),
        };
    }
}

/// How the result says that the API ended the run: a failed request has the subtype `success`. Versions
/// before 2.1 give no status, but the text.
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

/// The Unix time in `Claude AI usage limit reached|1767225600`.
fn printed_reset(error: &str) -> Option<i64> {
    let (_, after) = error.split_once("limit reached|")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    digits.parse().ok()
}

/// `2.1.330`; what follows the numbers does not count.
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

/// Sets a word that seldom changes without allocating when it does not.
fn keep(place: &mut Option<String>, word: &str) {
    let word = brief(word);
    if place.as_deref() != Some(word) {
        *place = Some(word.to_owned());
    }
}

#[cfg(test)]
mod tests;
