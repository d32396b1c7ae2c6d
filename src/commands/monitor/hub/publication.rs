//! Publication: sends each task that has changed to the fleet's database, in the order of the changes.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::claims::LocalKeys;
use super::error::HubError;
use super::node::HubNode;
use super::reconcile;
use super::registration::Registration;
use super::rows;
use super::rows_watch::RowsWatch;
use crate::error::chain;
use crate::failpoint;
use crate::ledger::{self, DirtyTask, Ledger, LedgerError, UnpublishedTask};
use crate::task::{Key, TaskId};

const PUBLISH: &str = "SELECT bookend.publish($1, $2, $3, $4)";

/// The most tasks of one call, and of several about how many bytes: a renewal waits for the call on a slow
/// network.
const BATCH: usize = 200;
const BATCH_BYTES: usize = 256 << 10;
/// How long changes are collected before they are sent.
const COLLECT: Duration = Duration::from_millis(20);
/// The time between two looks at the rows if nothing is reported.
const LOOK: Duration = Duration::from_secs(30);
/// The looks after the last change. A writer that was held up between its write to the log and the update of
/// the log's index commits after the report.
const LOOK_AGAIN: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(2)];
/// The time between two publications of a task that goes on running: its progress changes each second.
const PROGRESS: Duration = Duration::from_secs(10);
/// When a ledger that was locked is tried again.
const LOCKED: Duration = Duration::from_millis(50);
/// The time between two notes in the ledger of what was published: each waits for other writers.
const NOTE: Duration = Duration::from_millis(500);
/// What is noted at once.
const MOST_UNNOTED: usize = 2000;
/// How long a note waits for other writers. A request for a key waits meanwhile. Twice as long after each
/// failure.
const SHORTEST_PATIENCE: Duration = Duration::from_millis(10);
const LONGEST_PATIENCE: Duration = Duration::from_millis(250);

/// The publication of one registration.
pub struct Publication<'a> {
    node: &'a HubNode,
    registration: &'a Rc<Registration>,
    /// When tasks that run were published.
    running: HashMap<TaskId, Instant>,
    /// A task that another node has published was reported.
    is_foreign_reported: bool,
    /// When to note what was published, and how long to wait for other writers then.
    note_at: Instant,
    patience: Duration,
}

#[derive(Debug, Deserialize)]
struct PublishAnswer {
    rows: Vec<PublishedRow>,
}

#[derive(Debug, Deserialize)]
struct PublishedRow {
    rev: i64,
    result: PublishResult,
    message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum PublishResult {
    Ok,
    /// It was stored before.
    Older,
    /// It had ended there.
    Late,
    Foreign,
    Unreadable,
}

impl<'a> Publication<'a> {
    pub fn of(node: &'a HubNode, registration: &'a Rc<Registration>) -> Publication<'a> {
        Publication {
            node,
            registration,
            running: HashMap::new(),
            is_foreign_reported: false,
            note_at: Instant::now(),
            patience: SHORTEST_PATIENCE,
        }
    }

    /// Compares what runs, and publishes what was missed and each change from then on.
    pub async fn run(&mut self) -> HubError {
        let mut watch = RowsWatch::of(&self.node.ledger.borrow());
        let prepared = async {
            // The answer to an earlier registration may have been lost.
            let is_anew = self.node.claims.borrow().is_of_other_epoch(self.registration.epoch());
            if self.registration.was_lost || is_anew {
                self.stop_lost().await?;
            }
            self.replace_lost().await?;
            // A ledger that was restored is refused here, before it gets a key.
            self.publish_oldest().await?;
            reconcile::reconcile(self.node, self.registration).await
        };
        if let Err(e) = prepared.await {
            return e;
        }
        // A long history takes minutes: the keys of what runs, and those that runs ask for, come first.
        self.node.note_up(Rc::clone(self.registration));
        let mut again = LOOK_AGAIN.iter();
        loop {
            watch.take();
            let next = match self.publish_due().await {
                Ok(next) => next,
                Err(e) => return e,
            };
            self.node.note_caught_up(self.registration);
            if let Err(e) = self.note_due() {
                return e;
            }
            let sooner = again.next().copied().unwrap_or(LOOK).min(self.next_note());
            if watch.changed(next.min(sooner)).await {
                again = LOOK_AGAIN.iter();
            }
            sleep(COLLECT).await;
        }
    }

    /// This host was declared lost, and others may have its keys: nothing that was granted before is used any
    /// longer, and what runs under a key is asked to end.
    async fn stop_lost(&self) -> Result<(), HubError> {
        let forgotten = self.node.claims.borrow_mut().forget_grants();
        // Each connection that was granted a key ends now. A run looks at its own while it has locked the
        // ledger, so that either it has its row before the hub gets the lock, or it asks again. The runtime
        // polls a limited number of tasks each time.
        for _ in 0..=forgotten {
            tokio::task::yield_now().await;
        }
        self.while_locked(|ledger| ledger.await_claims(LONGEST_PATIENCE)).await?;
        reconcile::stop_keyed_runs(&self.node.ledger.borrow())
    }

    /// Tries again while another process has locked the ledger.
    async fn while_locked(&self, work: impl Fn(&mut Ledger) -> ledger::Result<()>) -> Result<(), HubError> {
        loop {
            let done = work(&mut self.node.ledger.borrow_mut());
            match done {
                Err(e @ LedgerError::Busy { .. }) => debug!("{}", chain(&e)),
                done => return Ok(done?),
            }
            sleep(LOCKED).await;
        }
    }

    /// A database that was restored from a backup, or a standby that took over, may lack what the one before
    /// had acknowledged: everything is published again then.
    async fn replace_lost(&self) -> Result<(), HubError> {
        if self.registration.max_rev >= self.node.ledger.borrow().acknowledged()? {
            return Ok(());
        }
        warn!("the fleet's database has lost changes of this host: all tasks are published again");
        self.while_locked(|ledger| ledger.publish_again(LONGEST_PATIENCE)).await
    }

    /// Publishes all that has changed.
    pub async fn publish_all(&mut self) -> Result<(), HubError> {
        loop {
            let dirty = self.node.ledger.borrow().unpublished()?;
            if dirty.is_empty() {
                return Ok(());
            }
            self.publish(&dirty).await?;
        }
    }

    async fn publish_oldest(&mut self) -> Result<(), HubError> {
        let mut dirty = self.node.ledger.borrow().unpublished()?;
        dirty.truncate(BATCH);
        self.publish(&dirty).await
    }

    /// Publishes what has changed, but tasks that go on running not too often. Returns when to look again.
    async fn publish_due(&mut self) -> Result<Duration, HubError> {
        loop {
            let mut dirty = self.node.ledger.borrow().unpublished()?;
            let now = Instant::now();
            let wait = |d: &DirtyTask| {
                let last = self.running.get(&d.id).filter(|_| d.is_running)?;
                Some(PROGRESS.saturating_sub(now - *last)).filter(|wait| !wait.is_zero())
            };
            let next = dirty.iter().filter_map(wait).min();
            dirty.retain(|d| wait(d).is_none());
            if dirty.is_empty() {
                return Ok(next.unwrap_or(LOOK));
            }
            self.publish(&dirty).await?;
        }
    }

    async fn publish(&mut self, dirty: &[DirtyTask]) -> Result<(), HubError> {
        for batch in dirty.chunks(BATCH) {
            let tasks = self.node.ledger.borrow().publication(batch)?;
            self.node.ledger.borrow_mut().not_published(&gone(batch, &tasks));
            let ended = keys_of_ended(&tasks);
            let with_commands = self.registration.settings.publish_argv;
            let (mut entries, mut bytes) = (Vec::new(), 0);
            for task in &tasks {
                let entry = rows::entry(task, with_commands);
                let length = entry.to_string().len();
                if bytes + length > BATCH_BYTES && !entries.is_empty() {
                    self.send(std::mem::take(&mut entries), batch, &ended).await?;
                    bytes = 0;
                }
                bytes += length;
                entries.push(entry);
            }
            if !entries.is_empty() {
                self.send(entries, batch, &ended).await?;
            }
        }
        Ok(())
    }

    /// When the next note is due, if there is something to note.
    fn next_note(&self) -> Duration {
        match self.node.ledger.borrow().count_unnoted() {
            0 => LOOK,
            _ => self.note_at.saturating_duration_since(Instant::now()),
        }
    }

    /// Notes in the ledger what was published, if it is time. Until then it is known only here, and a monitor
    /// that is killed publishes it again.
    fn note_due(&mut self) -> Result<(), HubError> {
        match self.node.ledger.borrow().count_unnoted() {
            0 => return Ok(()),
            1..MOST_UNNOTED if Instant::now() < self.note_at => return Ok(()),
            _ => {}
        }
        self.note().map(drop)
    }

    /// Notes all that was published, while other processes write to the ledger.
    pub async fn note_all(&mut self) -> Result<(), HubError> {
        while self.node.ledger.borrow().count_unnoted() > 0 && !self.note()? {
            sleep(LOCKED).await;
        }
        Ok(())
    }

    /// `false`: another process writes to the ledger.
    fn note(&mut self) -> Result<bool, HubError> {
        let noted = self.node.ledger.borrow_mut().note_published(self.patience);
        let is_noted = match noted {
            Err(e @ LedgerError::Busy { .. }) => {
                debug!("{}", chain(&e));
                false
            }
            noted => noted.map(|()| true)?,
        };
        self.patience = if is_noted { SHORTEST_PATIENCE } else { (self.patience * 2).min(LONGEST_PATIENCE) };
        self.note_at = Instant::now() + if is_noted { NOTE } else { LOCKED };
        Ok(is_noted)
    }

    /// Sends tasks, in one call. The keys of those that have `ended` are freed, unless a task here still
    /// holds them: the claim may still name the one before it.
    async fn send(
        &mut self,
        entries: Vec<Value>,
        batch: &[DirtyTask],
        ended: &HashSet<Key>,
    ) -> Result<(), HubError> {
        let held = self.held(ended)?;
        let kept = self.node.claims.borrow_mut().keys_to_keep(held);
        let kept: Vec<String> = kept.iter().map(Key::to_string).collect();
        let sent: Vec<i64> = entries.iter().filter_map(|entry| entry["rev"].as_i64()).collect();
        let arguments = [Value::Array(entries).into(), kept.into()];
        let answer: PublishAnswer = self.registration.call(PUBLISH, arguments).await?;
        if !answer.rows.iter().map(|row| row.rev).eq(sent.iter().copied()) {
            return Err(HubError::Unanswered);
        }
        for row in &answer.rows {
            if let Some(task) = batch.iter().find(|d| d.rev == row.rev) {
                self.conclude(task, row);
            }
        }
        failpoint::reached("hub.sent");
        self.node.ledger.borrow_mut().published(&sent);
        self.note_due()?;
        self.node.claims.borrow_mut().published();
        self.node.claims_changed.notify_one();
        Ok(())
    }

    fn held(&self, keys: &HashSet<Key>) -> Result<Vec<Key>, HubError> {
        let ledger = self.node.ledger.borrow();
        let mut held = Vec::new();
        for key in keys {
            held.extend(LocalKeys::holder(&*ledger, key)?.map(|_| key.clone()));
        }
        Ok(held)
    }

    fn conclude(&mut self, task: &DirtyTask, row: &PublishedRow) {
        match task.is_running {
            true => drop(self.running.insert(task.id.clone(), Instant::now())),
            false => drop(self.running.remove(&task.id)),
        }
        match row.result {
            PublishResult::Ok | PublishResult::Older => {}
            PublishResult::Late => {
                info!("the end of task {} is late: the fleet had ended the task before", task.id);
            }
            PublishResult::Foreign if self.is_foreign_reported => {}
            PublishResult::Foreign => {
                self.is_foreign_reported = true;
                warn!(
                    "task {} is not published: another node of the fleet, perhaps this ledger before it \
                     left, has published a task with this id; others like it are not reported",
                    task.id
                );
            }
            PublishResult::Unreadable => {
                let why = row.message.as_deref().unwrap_or_default();
                warn!("task {} is not published: PostgreSQL does not accept its row: {why}", task.id);
            }
        }
    }
}

fn keys_of_ended(tasks: &[UnpublishedTask]) -> HashSet<Key> {
    let ended = tasks.iter().map(|unpublished| &unpublished.task).filter(|task| task.status.is_terminal());
    ended.filter_map(|task| task.key.clone()).collect()
}

/// The changes of tasks that no longer exist.
fn gone(batch: &[DirtyTask], tasks: &[UnpublishedTask]) -> Vec<i64> {
    let exists = |d: &&DirtyTask| tasks.iter().any(|t| t.rev == d.rev);
    batch.iter().filter(|d| !exists(d)).map(|d| d.rev).collect()
}
