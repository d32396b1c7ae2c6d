//! Many supervisors whose agents only wait, for tests of a monitor. Three moments of each death are recorded:
//! the kill, the agent's exit by the monitor's signal, and the commit of the row.

use std::collections::VecDeque;
use std::fs;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rusqlite::{Connection, OpenFlags};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::World;
use super::procfs::{forked, stat_field};
use super::wait::{AsFdRef, Deadline, eventually, ready};

/// An agent without a parent-death signal: nothing but the monitor ends it after its supervisor.
const AGENT: [&str; 5] = ["setpriv", "--pdeathsig", "clear", "sleep", "100000"];
/// How many supervisors start at once.
const STARTS: usize = 16;
/// The longest time between two looks at the ledger.
const LOOK: Duration = Duration::from_micros(250);

/// bookend in the world's environment, in a directory without a git worktree.
pub(super) fn command(world: &World, prefix: &[&str]) -> Command {
    let bookend = world.name("bin/bookend");
    let words: Vec<&str> = prefix.iter().copied().chain([bookend.as_str()]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]);
    command.env_clear().envs(world.environment()).current_dir("/").stdin(Stdio::null());
    command
}

/// Supervisors that run, and those that were killed.
pub struct Fleet<'w> {
    world: &'w World,
    started: usize,
    alive: VecDeque<Supervisor>,
    pub deaths: Vec<Death>,
    ledger: Option<ChangeReader>,
}

struct Supervisor {
    id: String,
    process: Child,
    agent: OwnedFd,
}

/// A killed supervisor.
pub struct Death {
    pub id: String,
    at: Instant,
    process: Child,
    agent: OwnedFd,
    /// From the kill until the agent had exited.
    pub noticed: Option<Duration>,
    /// From the kill until another process could read the final status. SQLite shows a commit to others only
    /// after it has synced the WAL.
    pub durable: Option<Duration>,
}

impl<'w> Fleet<'w> {
    pub fn new(world: &'w World) -> Fleet<'w> {
        Fleet { world, started: 0, alive: VecDeque::new(), deaths: Vec::new(), ledger: None }
    }

    pub fn alive(&self) -> usize {
        self.alive.len()
    }

    /// Starts supervisors until `count` run, each with an agent that executes.
    pub fn grow(&mut self, count: usize) {
        while self.alive.len() < count {
            let starts = STARTS.min(count - self.alive.len());
            let begun: Vec<(String, Child)> = (0..starts).map(|_| self.spawn()).collect();
            for (id, process) in begun {
                let agent = await_agent(&process);
                self.alive.push_back(Supervisor { id, process, agent });
            }
        }
    }

    fn spawn(&mut self) -> (String, Child) {
        self.started += 1;
        let id = format!("fleet-{:05}", self.started);
        let mut command = command(self.world, &[]);
        command.args(["run", "-q", "--id", &id, "--"]).args(AGENT);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        (id, command.spawn().expect("a supervisor"))
    }

    /// The process of the supervisor that is killed next, and the id of its task.
    pub fn next(&self) -> (&Child, &str) {
        let next = self.alive.front().expect("a supervisor");
        (&next.process, &next.id)
    }

    /// Kills the supervisor that was started first.
    pub fn kill(&mut self) {
        let Supervisor { id, mut process, agent } = self.alive.pop_front().expect("a supervisor");
        let at = Instant::now();
        process.kill().expect("a signal to our child");
        self.deaths.push(Death { id, at, process, agent, noticed: None, durable: None });
    }

    /// Kills `count` supervisors, `rate` a second, whether or not the earlier ones are settled.
    pub fn kill_steadily(&mut self, count: usize, rate: u32) {
        let began = Instant::now();
        for n in 0..count as u32 {
            while began.elapsed() < Duration::from_secs(1) * n / rate {
                self.look();
            }
            self.kill();
        }
    }

    /// How many deaths are not settled yet.
    pub fn pending(&self) -> usize {
        self.deaths.iter().filter(|d| d.durable.is_none()).count()
    }

    /// Waits until all deaths are settled, at most until the deadline, and returns the tasks that are not.
    pub fn settled(&mut self, deadline: Deadline) -> Vec<String> {
        while self.pending() > 0 && !deadline.passed() {
            self.look();
        }
        let pending = self.deaths.iter().filter(|d| d.durable.is_none());
        pending.map(|d| d.id.clone()).collect()
    }

    /// Records what has happened: at once when an agent exits, otherwise after [`LOOK`].
    pub fn look(&mut self) {
        let agents: Vec<&dyn AsFdRef> =
            self.deaths.iter().filter(|d| d.noticed.is_none()).map(|d| &d.agent as &dyn AsFdRef).collect();
        let has_exited = ready(&agents, LOOK);
        for (death, _) in self
            .deaths
            .iter_mut()
            .filter(|d| d.noticed.is_none())
            .zip(has_exited)
            .filter(|(_, exited)| *exited)
        {
            death.noticed = Some(death.at.elapsed());
        }
        let ledger = self.ledger.get_or_insert_with(|| ChangeReader::open(self.world));
        if !ledger.has_changed() {
            return;
        }
        for death in self.deaths.iter_mut().filter(|d| d.durable.is_none()) {
            if ledger.has_ended(&death.id) {
                death.durable = Some(death.at.elapsed());
                death.process.wait().expect("the status of our child");
            }
        }
    }
}

impl Drop for Fleet<'_> {
    fn drop(&mut self) {
        let alive = self.alive.iter_mut().map(|s| &mut s.process);
        let mut processes: Vec<&mut Child> =
            alive.chain(self.deaths.iter_mut().map(|d| &mut d.process)).collect();
        processes.iter_mut().for_each(|p| drop(p.kill()));
        processes.iter_mut().for_each(|p| drop(p.wait()));
    }
}

/// Waits until the agent of a supervisor executes `sleep`, and returns a pidfd of it.
fn await_agent(supervisor: &Child) -> OwnedFd {
    let pid = supervisor.id() as i32;
    let mut agent = None;
    eventually(Deadline::new(), "the agent", || {
        let executes = |pid: &i32| {
            fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "sleep")
        };
        agent = forked(pid).into_iter().find(executes);
        agent.is_some()
    });
    let agent = agent.and_then(Pid::from_raw).expect("its agent");
    let handle = pidfd_open(agent, PidfdFlags::empty()).expect("a pidfd of the agent");
    assert_eq!(stat_field(agent.as_raw_nonzero().get(), 4), Some(pid.to_string()), "the agent's parent");
    handle
}

/// Reads the ledger whenever another process has changed it.
struct ChangeReader {
    connection: Connection,
    version: i64,
}

impl ChangeReader {
    fn open(world: &World) -> ChangeReader {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
        let connection = Connection::open_with_flags(world.ledger(), flags).expect("the ledger");
        connection.busy_timeout(Duration::from_secs(10)).expect("a busy timeout");
        ChangeReader { connection, version: -1 }
    }

    fn has_changed(&mut self) -> bool {
        let version = self.connection.prepare_cached("PRAGMA data_version");
        let version: i64 = version.and_then(|mut v| v.query_one([], |row| row.get(0))).expect("a version");
        std::mem::replace(&mut self.version, version) != version
    }

    fn has_ended(&self, id: &str) -> bool {
        let query = "SELECT status <> 'running' FROM task_history WHERE id = ?1";
        let statement = self.connection.prepare_cached(query);
        statement.and_then(|mut s| s.query_one([id], |row| row.get(0))).expect("the row of a death")
    }
}

/// The value below which `part` of the values are; `part` is between 0 and 1.
pub fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().checked_sub(1).expect("a value");
    sorted[((sorted.len() as f64 * part).ceil() as usize).saturating_sub(1).min(last)]
}
