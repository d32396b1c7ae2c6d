//! What must hold after every fault, read from what the agents recorded, the ledgers of all hosts and the
//! database. See the invariants of the fleet in `src/ARCHITECTURE.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::harness::{Row, World};
use crate::postgres::Postgres;

/// The record to which every agent appends; see `tests/agents/work.rs`.
pub const RECORD: &str = "record";

/// What one task did, as its agent recorded it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Work {
    pub task: String,
    /// `-` without a key.
    pub key: String,
    pub host: String,
    /// The session that it resumed, or `-`.
    resumed: String,
    session: String,
    /// The first and the last moment at which it worked, in nanoseconds of a clock that all hosts share.
    began: u64,
    ended: u64,
}

impl Work {
    /// What all agents have recorded so far, by task.
    pub fn recorded(world: &World) -> BTreeMap<String, Work> {
        Work::parse(&fs::read_to_string(world.path(RECORD)).unwrap_or_default())
    }

    fn parse(text: &str) -> BTreeMap<String, Work> {
        let mut all: BTreeMap<String, Work> = BTreeMap::new();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let [task, key, host, resumed, session, time] = words[..] else { panic!("a line {line:?}") };
            let time = time.parse().expect("nanoseconds");
            let [task, key, host, resumed, session] = [task, key, host, resumed, session].map(str::to_owned);
            all.entry(task.clone()).and_modify(|work| work.ended = time).or_insert(Work {
                task,
                key,
                host,
                resumed,
                session,
                began: time,
                ended: time,
            });
        }
        all
    }
}

/// Two tasks that worked under one key at the same time.
#[derive(Debug, PartialEq, Eq)]
struct Overlap<'a>(&'a Work, &'a Work);

/// Each task beside the one that worked longest of those before it.
fn overlaps<'a>(works: impl Iterator<Item = &'a Work>) -> Vec<Overlap<'a>> {
    let mut by_key: BTreeMap<&str, Vec<&Work>> = BTreeMap::new();
    works.filter(|w| w.key != "-").for_each(|w| by_key.entry(&w.key).or_default().push(w));
    let mut found = Vec::new();
    for mut works in by_key.into_values() {
        works.sort_by_key(|w| w.began);
        let mut last: Option<&Work> = None;
        for work in works {
            if let Some(last) = last.filter(|last| work.began <= last.ended) {
                found.push(Overlap(last, work));
            }
            last = Some(last.filter(|last| last.ended > work.ended).unwrap_or(work));
        }
    }
    found
}

/// The ledger of a host, as a path below the directory of its world.
pub fn ledger_of(host: &str) -> String {
    format!("disks/{host}/state/bookend/bookend.db")
}

/// A ledger of one host, as SQLite has it.
pub struct HostLedger {
    pub host: String,
    tasks: Vec<Row>,
    transitions: Vec<Row>,
    /// How many tasks are not published.
    unpublished: usize,
}

impl HostLedger {
    pub fn read(world: &World, host: &str) -> HostLedger {
        let all = |sql: &str| world.sql_of(&ledger_of(host), sql);
        HostLedger {
            host: host.to_owned(),
            tasks: all("SELECT * FROM task_history"),
            transitions: all("SELECT * FROM task_transition WHERE to_status <> 'running'"),
            unpublished: all("SELECT task_id FROM fleet_dirty").len(),
        }
    }

    /// Why this host is not at rest.
    fn unrest(&self) -> Vec<String> {
        let running = self.tasks.iter().filter(|t| t.text("status") == "running");
        let mut found: Vec<String> =
            running.map(|t| format!("{} runs on {}", t.text("id"), self.host)).collect();
        if self.unpublished > 0 {
            found.push(format!("{} tasks of {} are not published", self.unpublished, self.host));
        }
        found
    }
}

/// The rows of a query, each as an object.
pub fn rows_of(database: &Postgres, sql: &str) -> Vec<Value> {
    let text = database.psql(&format!("SELECT coalesce(jsonb_agg(r), '[]') FROM ({sql}) r"));
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A task in the database.
struct Published {
    status: String,
    end_source: String,
    cost: f64,
    is_late: bool,
}

/// All that is compared, read at one moment at which nothing runs.
pub struct Evidence {
    works: BTreeMap<String, Work>,
    ledgers: Vec<HostLedger>,
    published: BTreeMap<String, Published>,
    /// How many endings the database has of each task.
    endings: BTreeMap<String, usize>,
    claims: Vec<String>,
}

impl Evidence {
    pub fn read(world: &World, ledgers: Vec<HostLedger>, database: &Postgres) -> Evidence {
        let tasks = rows_of(
            database,
            "SELECT id, status, coalesce(end_source, '') AS end_source, coalesce(cost_usd, 0) AS cost, \
             late IS NOT NULL AS is_late FROM bookend.task_history",
        );
        let text = |row: &Value, name: &str| row[name].as_str().unwrap_or_default().to_owned();
        let published = tasks.iter().map(|row| {
            let task = Published {
                status: text(row, "status"),
                end_source: text(row, "end_source"),
                cost: row["cost"].as_f64().unwrap_or_default(),
                is_late: row["is_late"] == true,
            };
            (text(row, "id"), task)
        });
        let mut endings = BTreeMap::new();
        for row in
            rows_of(database, "SELECT task_id FROM bookend.task_transition WHERE to_status <> 'running'")
        {
            *endings.entry(text(&row, "task_id")).or_default() += 1;
        }
        let claims = rows_of(database, "SELECT key, task_id FROM bookend.claim");
        Evidence {
            works: Work::recorded(world),
            published: published.collect(),
            ledgers,
            endings,
            claims: claims.iter().map(|c| format!("{} by {}", text(c, "key"), text(c, "task_id"))).collect(),
        }
    }

    /// What has not come to rest yet. Empty: everything has ended and is published.
    pub fn unrest(&self) -> Vec<String> {
        let mut found: Vec<String> = self.ledgers.iter().flat_map(HostLedger::unrest).collect();
        let running = self.published.iter().filter(|(_, task)| task.status == "running");
        found.extend(running.map(|(id, _)| format!("{id} runs in the database")));
        found.extend(self.claims.iter().map(|claim| format!("still claimed: {claim}")));
        found
    }

    /// Every violation. `lost` are the hosts that were declared lost while they lived.
    pub fn violations(&self, lost: &[&str]) -> Vec<String> {
        let mut found = self.unrest();
        self.overlap(lost, &mut found);
        self.are_recorded(&mut found);
        self.end_once(&mut found);
        self.are_published(lost, &mut found);
        self.stay_on_their_host(&mut found);
        found
    }

    /// F1, and for hosts that were declared lost: what overlapped is shown as late.
    fn overlap(&self, lost: &[&str], found: &mut Vec<String>) {
        for Overlap(a, b) in overlaps(self.works.values()) {
            let is_late = |work: &Work| {
                lost.contains(&work.host.as_str())
                    && self.published.get(&work.task).is_some_and(|task| task.is_late)
            };
            if !is_late(a) && !is_late(b) {
                found.push(format!("F1: {a:?} and {b:?} overlap"));
            }
        }
    }

    /// F2: no agent worked without a row in the ledger of its host, and what succeeded has worked.
    fn are_recorded(&self, found: &mut Vec<String>) {
        let rows: BTreeMap<(&str, String), &Row> = self
            .ledgers
            .iter()
            .flat_map(|l| l.tasks.iter().map(|t| ((l.host.as_str(), t.text("id")), t)))
            .collect();
        for work in self.works.values() {
            if !rows.contains_key(&(work.host.as_str(), work.task.clone())) {
                found.push(format!("F2: {work:?} has no row on its host"));
            }
        }
        for ((host, id), _) in rows.iter().filter(|(_, row)| row.text("status") == "success") {
            if !self.works.contains_key(id) {
                found.push(format!("F2: {id} of {host} succeeded and never worked"));
            }
        }
    }

    /// F3: one ending of each task, in its ledger and in the database.
    fn end_once(&self, found: &mut Vec<String>) {
        for ledger in &self.ledgers {
            let mut endings: BTreeMap<String, usize> = BTreeMap::new();
            for row in &ledger.transitions {
                *endings.entry(row.text("task_id")).or_default() += 1;
            }
            for task in &ledger.tasks {
                let n = endings.get(&task.text("id")).copied().unwrap_or_default();
                if n != 1 {
                    found.push(format!("F3: {} has {n} endings on {}", task.text("id"), ledger.host));
                }
            }
        }
        for id in self.published.keys() {
            let n = self.endings.get(id).copied().unwrap_or_default();
            if n != 1 {
                found.push(format!("F3: {id} has {n} endings in the database"));
            }
        }
    }

    /// F4: only a person's word ends what lives. F6: the database has the tasks of all ledgers and no others,
    /// with the same status and cost.
    fn are_published(&self, lost: &[&str], found: &mut Vec<String>) {
        let mut unseen: BTreeSet<&str> = self.published.keys().map(String::as_str).collect();
        for (ledger, task) in self.ledgers.iter().flat_map(|l| l.tasks.iter().map(move |t| (l, t))) {
            let (id, status) = (task.text("id"), task.text("status"));
            let Some(published) = self.published.get(&id) else {
                found.push(format!("F6: {id} of {} is not in the database", ledger.host));
                continue;
            };
            unseen.remove(id.as_str());
            if published.is_late && !lost.contains(&ledger.host.as_str()) {
                found.push(format!("F4: {id} of {} was ended while it lived", ledger.host));
            }
            let cost = task.real("cost_usd").unwrap_or_default();
            if (cost - published.cost).abs() > 1e-9 {
                found.push(format!("F6: {id} cost {cost}, and {} in the database", published.cost));
            }
            // What the fleet ended keeps that ending; the one of its host is beside it.
            let agrees = status == published.status || published.is_late;
            if !agrees {
                let Published { status: other, end_source, .. } = published;
                found.push(format!("F6: {id} is {status}, and {other} ({end_source}) in the database"));
            }
        }
        found.extend(unseen.iter().map(|id| format!("F6: {id} is in no ledger")));
    }

    /// F7: a session is resumed only on the host that began it.
    fn stay_on_their_host(&self, found: &mut Vec<String>) {
        let mut began: BTreeMap<&str, &Work> = BTreeMap::new();
        let mut works: Vec<&Work> = self.works.values().collect();
        works.sort_by_key(|w| w.began);
        for work in works {
            let first = began.entry(&work.session).or_insert(work);
            let is_foreign = first.host != work.host
                || began.get(work.resumed.as_str()).is_some_and(|origin| origin.host != work.host);
            if is_foreign {
                found.push(format!("F7: {work:?} uses a session of another host"));
            }
        }
    }

    /// The totals of both sides, for the report of a test.
    pub fn totals(&self) -> String {
        let rows = || self.ledgers.iter().flat_map(|l| &l.tasks);
        let local: f64 = rows().filter_map(|t| t.real("cost_usd")).sum();
        let published: f64 = self.published.values().map(|t| t.cost).sum();
        let late = self.published.values().filter(|t| t.is_late).count();
        format!(
            "{} agents, {} rows with {local:.6} USD, {} published with {published:.6} USD, {late} late",
            self.works.len(),
            rows().count(),
            self.published.len()
        )
    }

    /// Whether two tasks worked under one key at the same time.
    pub fn has_overlaps(&self) -> bool {
        !overlaps(self.works.values()).is_empty()
    }

    /// The hosts on which tasks with a key have worked.
    pub fn hosts_that_worked(&self) -> BTreeSet<&str> {
        self.works.values().filter(|w| w.key != "-").map(|w| w.host.as_str()).collect()
    }
}

#[test]
fn an_overlap_is_found_also_behind_a_short_task() {
    let record = "a k h1 - s1 10\na k h1 - s1 50\nb k h2 - s2 20\nb k h2 - s2 30\nc k h1 - s3 40\n\
                  d k h2 - s4 51\n\
                  e other h2 - s5 25\nf - h1 - s6 25\nf - h1 - s6 60\ng - h2 - s7 30\n";
    let works = Work::parse(record);
    let pairs: Vec<(&str, &str)> =
        overlaps(works.values()).iter().map(|Overlap(a, b)| (a.task.as_str(), b.task.as_str())).collect();
    assert_eq!(pairs, [("a", "b"), ("a", "c")]);
}
