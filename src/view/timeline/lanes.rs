//! The lanes of a timeline: one per key, and one per agent for runs without a key.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};

use super::super::text::{count, duration, money};
use super::axis::TimeAxis;
use crate::task::{FleetTask, Key, RecordedTime, Status, Task, Time, Verdict};

/// How a run ended, as its bar shows it. Where bars collide, the greater one is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum BarOutcome {
    Success,
    Running,
    Cancelled,
    /// The task is `running`, but not its supervisor.
    Lost,
    /// The task is `running`, and its host does not answer.
    Unreachable,
    Interrupted,
    Failure,
}

impl BarOutcome {
    pub(super) const ALL: [BarOutcome; 7] = [
        BarOutcome::Success,
        BarOutcome::Failure,
        BarOutcome::Interrupted,
        BarOutcome::Cancelled,
        BarOutcome::Lost,
        BarOutcome::Unreachable,
        BarOutcome::Running,
    ];

    fn of(row: &FleetTask, verdict: Option<Verdict>) -> BarOutcome {
        match (row.task.status, verdict) {
            (Status::Running, _) if row.unreachable_since().is_some() => BarOutcome::Unreachable,
            (Status::Running, Some(Verdict::Alive) | None) => BarOutcome::Running,
            (Status::Running, _) => BarOutcome::Lost,
            (Status::Success, _) => BarOutcome::Success,
            (Status::Failure | Status::AbortedNoSkill, _) => BarOutcome::Failure,
            (Status::Cancelled, _) => BarOutcome::Cancelled,
            (Status::Interrupted, _) => BarOutcome::Interrupted,
        }
    }

    /// One cell wide. None has an emoji form, which would be wider.
    pub(super) fn symbol(self) -> char {
        match self {
            BarOutcome::Success => '✓',
            BarOutcome::Failure => '✗',
            BarOutcome::Interrupted => '!',
            BarOutcome::Cancelled => '⊘',
            BarOutcome::Lost => '?',
            BarOutcome::Unreachable => '~',
            BarOutcome::Running => '►',
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            BarOutcome::Success => "success",
            BarOutcome::Failure => "failure",
            BarOutcome::Interrupted => "interrupted",
            BarOutcome::Cancelled => "cancelled",
            BarOutcome::Lost => "lost",
            BarOutcome::Unreachable => "unreachable",
            BarOutcome::Running => "running",
        }
    }
}

/// A run on the axis, in milliseconds since 1970, cut to the shown period.
#[derive(Debug, Clone)]
pub struct LaneRun<'a> {
    pub task: &'a Task,
    /// `None`: the ledger is in no fleet.
    pub host: Option<&'a str>,
    pub unreachable_since: Option<&'a RecordedTime>,
    pub from: i64,
    pub to: i64,
    pub outcome: BarOutcome,
    /// If not, the bar ends when the task is last known to have run.
    pub is_end_known: bool,
    /// How long the whole run took, in milliseconds.
    pub ms: i64,
}

/// The runs of a lane or of the timeline: how many, how long, and what they cost as far as that is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct LaneTotal {
    pub runs: usize,
    pub ms: i64,
    pub cost_usd: Option<f64>,
}

impl LaneTotal {
    fn add(&mut self, run: &LaneRun<'_>) {
        self.runs += 1;
        self.ms = self.ms.saturating_add(run.ms);
        self.cost_usd = [self.cost_usd, run.task.cost_usd].into_iter().flatten().reduce(|a, b| a + b);
    }

    /// `3 runs`, time and cost; the cost is empty if none is known.
    pub(super) fn figures(&self) -> [String; 3] {
        let runs = count(i64::try_from(self.runs).unwrap_or(i64::MAX));
        let noun = if self.runs == 1 { "run" } else { "runs" };
        [format!("{runs} {noun}"), duration(self.ms), self.cost_usd.map_or_else(String::new, money)]
    }
}

/// The runs with one key, or those of one agent without a key.
#[derive(Debug, Clone, Default)]
pub struct Lane<'a> {
    pub key: Option<&'a str>,
    /// All different ones, oldest first.
    pub agents: Vec<&'a str>,
    /// The same of the hosts, in a fleet.
    pub hosts: Vec<&'a str>,
    /// Runs that overlap are on different lines.
    pub lines: Vec<Vec<LaneRun<'a>>>,
    pub total: LaneTotal,
    newest: i64,
}

/// What ran in a period.
#[derive(Debug)]
pub struct TaskLanes<'a> {
    /// The lane with the newest run first.
    pub lanes: Vec<Lane<'a>>,
    pub total: LaneTotal,
    pub(super) axis: TimeAxis,
}

impl TaskLanes<'_> {
    pub(super) fn runs(&self) -> impl Iterator<Item = &LaneRun<'_>> {
        self.lanes.iter().flat_map(|lane| lane.lines.iter().flatten())
    }

    /// The outcomes that occur, with their numbers.
    pub(super) fn outcomes(&self) -> Vec<(BarOutcome, usize)> {
        let of = |outcome| (outcome, self.runs().filter(|run| run.outcome == outcome).count());
        BarOutcome::ALL.into_iter().map(of).filter(|(_, runs)| *runs > 0).collect()
    }

    pub(super) fn has_unknown_ends(&self) -> bool {
        self.runs().any(|run| !run.is_end_known)
    }
}

/// The tasks that ran between `since` and `now`.
pub fn lanes<'a>(
    tasks: &'a [FleetTask],
    verdicts: &[Option<Verdict>],
    since: Time,
    now: Time,
) -> TaskLanes<'a> {
    let (since, now) = (since.unix_millis(), now.unix_millis());
    let mut runs: Vec<LaneRun<'a>> =
        tasks.iter().zip(verdicts).filter_map(|(task, verdict)| run(task, *verdict, since, now)).collect();
    runs.sort_by_key(|run| (run.from, run.to));
    let begin = runs.first().map_or(since, |run| run.from);
    let mut total = LaneTotal::default();
    let mut lanes: HashMap<_, Vec<LaneRun<'a>>> = HashMap::new();
    for run in runs {
        total.add(&run);
        let (key, agent) = (run.task.key.as_ref().map(Key::as_str), run.task.agent.as_deref());
        // A key is that of one task at a time in the whole fleet, and an agent works on many hosts.
        let place = (agent, run.host);
        lanes.entry((key, key.is_none().then_some(place))).or_default().push(run);
    }
    let mut lanes: Vec<Lane<'a>> = lanes.into_iter().map(|((key, _), runs)| lane(key, runs)).collect();
    lanes.sort_by(|a, b| (b.newest, a.key, &a.agents, &a.hosts).cmp(&(a.newest, b.key, &b.agents, &b.hosts)));
    TaskLanes { lanes, total, axis: TimeAxis { begin, end: now.max(begin + 1) } }
}

fn run(row: &FleetTask, verdict: Option<Verdict>, since: i64, now: i64) -> Option<LaneRun<'_>> {
    let task = &row.task;
    let at = |time: &RecordedTime| time.time().map(Time::unix_millis);
    let start = at(&task.started_at)?;
    let outcome = BarOutcome::of(row, verdict);
    let end = match outcome {
        BarOutcome::Running => Some(now),
        BarOutcome::Lost | BarOutcome::Unreachable => None,
        _ => task.finished_at.as_ref().and_then(at),
    };
    let to = end.or_else(|| task.last_seen_at.as_ref().and_then(at)).unwrap_or(start);
    let from = start.max(since);
    (to >= since).then(|| LaneRun {
        task,
        host: row.fleet.as_ref().and(task.host.as_deref()),
        unreachable_since: row.unreachable_since(),
        from,
        to: to.clamp(from, now.max(from)),
        outcome,
        is_end_known: end.is_some(),
        ms: task.duration_ms.unwrap_or(to - start).max(0),
    })
}

/// The lane of these runs, which are sorted by their start.
fn lane<'a>(key: Option<&'a str>, runs: Vec<LaneRun<'a>>) -> Lane<'a> {
    let mut lane = Lane { key, ..Lane::default() };
    let (mut seen, mut seen_hosts) = (BTreeSet::new(), BTreeSet::new());
    // The lines that are free when a run starts, and when the others will be.
    let (mut free, mut busy) = (BTreeSet::new(), BinaryHeap::new());
    for run in runs {
        lane.total.add(&run);
        let start = run.task.started_at.time().map_or(run.from, Time::unix_millis);
        lane.newest = if lane.lines.is_empty() { start } else { lane.newest.max(start) };
        lane.agents.extend(run.task.agent.as_deref().filter(|agent| seen.insert(*agent)));
        lane.hosts.extend(run.host.filter(|host| seen_hosts.insert(*host)));
        while busy.peek().is_some_and(|Reverse((end, _))| *end <= run.from) {
            free.extend(busy.pop().map(|Reverse((_, line))| line));
        }
        let line = free.pop_first().unwrap_or_else(|| {
            lane.lines.push(Vec::new());
            lane.lines.len() - 1
        });
        busy.push(Reverse((run.to, line)));
        lane.lines[line].push(run);
    }
    lane
}
