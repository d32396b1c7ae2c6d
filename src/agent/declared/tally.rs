//! Adds up what the events of a declared agent say, by the rules of its declaration.

use std::collections::BTreeMap;

use serde_json::Value;

use super::schema::{CostRule, EventRule, ResultKind, ToolRule, UsageRule, UsageScope};
use super::value::{JsonPath, Scalar};
use crate::agent::adapter::{ObservedOutput, ReportCovers, RunResult};
use crate::agent::output::event::MOST_COST_USD;
use crate::agent::output::kept::{brief, error_text, hash};
use crate::task::TokenUsage;

/// The most open tool calls that are remembered.
pub(super) const REMEMBERED_CALLS: usize = 64;
/// The lowest number that is not accepted as a count: it would make every sum useless.
const TOO_MANY: f64 = 9e15;

#[derive(Debug)]
pub struct EventTally {
    rules: &'static [EventRule],
    pub observed: ObservedOutput,
    usage: TokenUsage,
    /// Open tool calls: the hash of the id, and the tool.
    calls: Vec<(u64, String)>,
    /// The text of an error that no result has reported yet.
    error: Option<String>,
    /// No later result replaces the one that is known.
    is_final: bool,
}

/// The result of one event.
type EventResult = Option<(ResultKind, bool)>;

impl EventTally {
    pub fn new(rules: &'static [EventRule]) -> EventTally {
        EventTally {
            rules,
            observed: ObservedOutput::default(),
            usage: TokenUsage::default(),
            calls: Vec::new(),
            error: None,
            is_final: false,
        }
    }

    /// Applies all rules to one event.
    pub fn event(&mut self, event: &Value) {
        let mut result = None;
        for rule in self.rules.iter().filter(|rule| matches(rule, event)) {
            match &rule.each {
                None => self.apply(rule, event, &mut result),
                Some(each) => elements(event, &each.within)
                    .filter(|element| has_values(&each.on, element))
                    .for_each(|element| self.apply(rule, element, &mut result)),
            }
        }
        if let Some((kind, is_final)) = result {
            self.result(kind, is_final);
        }
    }

    fn apply(&mut self, rule: &EventRule, at: &Value, result: &mut EventResult) {
        if let Some(id) = text(at, rule.session.as_ref()).and_then(|id| id.parse().ok()) {
            self.observed.session_id = Some(id);
        }
        if let Some(model) = text(at, rule.model.as_ref()) {
            self.observed.model = Some(brief(model).to_owned());
        }
        if rule.opens_turn.is_some() {
            self.observed.open_turn = self.observed.result.is_some();
        }
        self.turns(rule, at);
        if let Some(tool) = &rule.tool_opens {
            self.tool_opens(tool, at);
        }
        if let Some(id) = rule.tool_closes.as_ref().and_then(|tool| call_id(at, &tool.id)) {
            self.close(id);
            self.show_tool();
        }
        if let Some(usage) = &rule.usage {
            self.usage(usage, at);
        }
        if let Some(cost) = &rule.cost {
            self.cost(cost, at);
        }
        if let Some(error) = text(at, rule.error.as_ref()).filter(|text| !text.trim().is_empty()) {
            self.error = Some(error_text(error).to_owned());
        }
        if let Some(kind) = rule.result {
            *result = Some((kind, rule.sticky.is_some()));
        }
    }

    fn turns(&mut self, rule: &EventRule, at: &Value) {
        let turns = &mut self.observed.counts.turns;
        if let Some(more) = rule.turns {
            *turns = Some(turns.unwrap_or(0).saturating_add(more.into()));
        }
        *turns = count(at, rule.turns_so_far.as_ref()).or(*turns);
    }

    fn tool_opens(&mut self, tool: &ToolRule, at: &Value) {
        let Some(id) = call_id(at, &tool.id) else { return };
        self.close(id);
        if self.calls.len() < REMEMBERED_CALLS {
            self.calls.push((id, tool_name(tool, at).to_owned()));
        }
        self.show_tool();
    }

    fn close(&mut self, id: u64) {
        self.calls.retain(|(known, _)| *known != id);
    }

    fn show_tool(&mut self) {
        self.observed.tool_in_flight = self.calls.last().map(|(_, tool)| tool.clone());
    }

    fn usage(&mut self, rule: &UsageRule, at: &Value) {
        let cache_read = count(at, rule.cache_read.as_ref());
        let cached = cache_read.filter(|_| rule.input_includes_cache.is_some()).unwrap_or(0);
        let reported = TokenUsage {
            input: count(at, rule.input.as_ref()).map(|input| (input - cached).max(0)),
            output: count(at, rule.output.as_ref()),
            cache_read,
            cache_creation: count(at, rule.cache_write.as_ref()),
        };
        self.usage = match covers(rule.scope) {
            None => self.usage.plus(reported),
            Some(_) => self.usage.replaced_by(reported),
        };
        if reported != TokenUsage::default() {
            let counted = match self.observed.tokens_cover {
                ReportCovers::Run if self.totals_follow() => ReportCovers::RunOfSession,
                known => known,
            };
            self.observed.tokens_cover = covers(rule.scope).unwrap_or(counted);
        }
        self.usage.count_in(&mut self.observed.counts);
    }

    /// Whether the agent reports the tokens of its session at some time.
    fn totals_follow(&self) -> bool {
        self.rules.iter().filter_map(|rule| rule.usage.as_ref()).any(|u| u.scope == UsageScope::Session)
    }

    fn cost(&mut self, rule: &CostRule, at: &Value) {
        let usd = rule.usd.get(at).and_then(Value::as_f64);
        let Some(usd) = usd.filter(|usd| (0.0..=MOST_COST_USD).contains(usd)) else { return };
        let before = self.observed.reported_cost_usd.filter(|_| rule.scope == UsageScope::Step);
        // A sum of decimal fractions, without the digits that only their binary form has.
        let total = ((before.unwrap_or(0.0) + usd) * 1e9).round() / 1e9;
        self.observed.reported_cost_usd = Some(total.min(MOST_COST_USD));
        self.observed.counts.cost_usd = self.observed.reported_cost_usd;
        self.observed.cost_covers = covers(rule.scope).unwrap_or(self.observed.cost_covers);
    }

    fn result(&mut self, kind: ResultKind, is_final: bool) {
        self.calls.clear();
        self.show_tool();
        let error = self.error.take();
        if !self.is_final {
            self.observed.result = Some(match kind {
                ResultKind::Ok => RunResult { error: None },
                ResultKind::Error => RunResult {
                    error: error.or_else(|| Some("the agent reported an error without a message".to_owned())),
                },
            });
        }
        self.is_final |= is_final;
        self.observed.results = self.observed.results.saturating_add(1);
        self.observed.open_turn = false;
    }
}

/// What a figure of this scope covers; `None`: a part of a run.
fn covers(scope: UsageScope) -> Option<ReportCovers> {
    match scope {
        UsageScope::Step => None,
        UsageScope::Run => Some(ReportCovers::Run),
        UsageScope::Session => Some(ReportCovers::Session),
    }
}

fn matches(rule: &EventRule, event: &Value) -> bool {
    let has = |path: &JsonPath| path.get(event).is_some_and(|value| !value.is_null());
    has_values(&rule.on, event)
        && !rule.unless.iter().any(|(path, values)| is_one_of(path.get(event), values))
        && rule.has.iter().all(has)
        && !rule.lacks.iter().any(has)
}

fn has_values(on: &BTreeMap<JsonPath, Vec<Scalar>>, event: &Value) -> bool {
    on.iter().all(|(path, values)| is_one_of(path.get(event), values))
}

fn is_one_of(value: Option<&Value>, values: &[Scalar]) -> bool {
    value.is_some_and(|value| values.iter().any(|known| known.is(value)))
}

/// The elements of the array, or the values of the object, at `path`.
fn elements<'v>(event: &'v Value, path: &JsonPath) -> Box<dyn Iterator<Item = &'v Value> + 'v> {
    match path.get(event) {
        Some(Value::Array(array)) => Box::new(array.iter()),
        Some(Value::Object(object)) => Box::new(object.values()),
        _ => Box::new(std::iter::empty()),
    }
}

fn text<'v>(at: &'v Value, path: Option<&JsonPath>) -> Option<&'v str> {
    path?.get(at)?.as_str()
}

/// A number of tokens or turns.
fn count(at: &Value, path: Option<&JsonPath>) -> Option<i64> {
    let number = path?.get(at)?.as_f64()?;
    (0.0..TOO_MANY).contains(&number).then_some(number as i64)
}

/// The hash of a call's id, which is a text or a number.
fn call_id(at: &Value, path: &JsonPath) -> Option<u64> {
    match path.get(at)? {
        Value::String(id) => Some(hash(id)),
        Value::Number(id) => Some(hash(&id.to_string())),
        _ => None,
    }
}

fn tool_name<'v>(tool: &ToolRule, at: &'v Value) -> &'v str {
    let suffix = tool.without.as_deref().unwrap_or("");
    let key = || {
        let object = tool.name_of_key.as_ref()?.get(at)?.as_object()?;
        object.keys().find_map(|key| key.strip_suffix(suffix))
    };
    let name = text(at, tool.name.as_ref()).map(|name| name.strip_suffix(suffix).unwrap_or(name));
    name.or_else(key).filter(|name| !name.is_empty()).map_or("a tool", brief)
}
