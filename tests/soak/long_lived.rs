//! The supervisors that run for the whole soak, each with another kind of agent or reader. Their memory and
//! files are measured repeatedly: growth here would continue for as long as an agent works.

use std::fs::File;
use std::io::{Read, Seek};
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::thread::Scope;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Soak;
use super::runs::ends_within;
use crate::crash::agents::{ON_FINISH, claude, cursor};
use crate::crash::fault::{self, bookend, send_signal};
use crate::harness::{Deadline, forked, memory, open_files, pause, state};

/// How the output of the agent is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// Standard output is /dev/null.
    Unread,
    AsItComes,
    /// Reads nothing for a while, then everything.
    InBursts,
    /// Reads less than the agent prints.
    TooSlowly,
    /// The reader has closed the pipe.
    Gone,
}

struct Kind {
    name: &'static str,
    agent: Agent,
    how: &'static str,
    options: &'static [&'static str],
    reader: Reader,
    fills_kib: u64,
}

enum Agent {
    Plain,
    Claude,
    Cursor,
}

const PRINTS: &str = "talk,1000000000";
const NESTED: &str = "nest,1000000000";
const PRINTS_LONG_LINES: &str = "bulk,1000000000";
const SILENT: &str = "hang";

const KINDS: [Kind; 12] = [
    Kind::of("claude, read as it comes", Agent::Claude, PRINTS, Reader::AsItComes),
    Kind::of("cursor, read as it comes", Agent::Cursor, PRINTS, Reader::AsItComes),
    Kind::of("bookend that runs bookend and claude", Agent::Plain, NESTED, Reader::AsItComes),
    // `fills_kib`: the buffer for a slow reader.
    Kind { fills_kib: 1024, ..Kind::of("claude, read in bursts", Agent::Claude, PRINTS, Reader::InBursts) },
    Kind { fills_kib: 1024, ..Kind::of("claude, read too slowly", Agent::Claude, PRINTS, Reader::TooSlowly) },
    Kind::of("claude, reader gone", Agent::Claude, PRINTS, Reader::Gone),
    // `fills_kib`: a line that is being read, which all late samples may see.
    Kind {
        fills_kib: 512,
        ..Kind::of("claude, long lines", Agent::Claude, PRINTS_LONG_LINES, Reader::AsItComes)
    },
    Kind {
        options: &["--key", KEY, "--prepare", "true", "--on-finish", ON_FINISH, "--timeout", "1d"],
        ..Kind::of("claude, key, hooks, timeout", Agent::Claude, PRINTS, Reader::AsItComes)
    },
    Kind::of("claude, unread", Agent::Claude, PRINTS, Reader::Unread),
    Kind::of("not captured", Agent::Plain, PRINTS, Reader::AsItComes),
    Kind::of("silent", Agent::Plain, SILENT, Reader::Unread),
    Kind::of(SIGNALLED, Agent::Cursor, PRINTS, Reader::AsItComes),
];
/// A placeholder in options for the id of the task.
const KEY: &str = "lasting";
const SIGNALLED: &str = "cursor, signals";
/// A signal that an agent without a terminal ignores.
const SIGWINCH: i32 = 28;
/// The number of last bytes that a reader keeps.
const TAIL: usize = 512;
/// The time after which a process counts as hanging.
const EXIT_LIMIT: Duration = Duration::from_secs(60);

/// A process that runs for the whole soak.
#[derive(Default)]
pub struct Supervisor {
    pub name: &'static str,
    /// The id of its task; `None` for `list --watch`.
    pub id: Option<String>,
    pub pid: i32,
    /// The size of a buffer or cache that fills over time.
    pub fills_kib: u64,
    pub samples: Vec<Sample>,
    /// The files that were open at the first sample.
    files: Vec<String>,
    /// `None` for a supervisor that another one starts and that exits with it.
    child: Option<ChildProcess>,
}

#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// The elapsed part of the duration.
    pub part: f64,
    pub anonymous_kib: u64,
    pub rss_kib: u64,
    pub files: usize,
}

/// A child of the test.
struct ChildProcess {
    process: Child,
    handle: OwnedFd,
    errors: File,
    received: Option<Receiver<Received>>,
    /// The signal that ends it; `None` if it exits by itself when the soak is over.
    ends_by: Option<i32>,
}

/// What a reader received until the end of the output.
#[derive(Debug, Default)]
struct Received {
    lines: u64,
    /// The last bytes.
    tail: Vec<u8>,
}

/// Starts `count` supervisors and one `list --watch`.
pub fn start<'scope>(soak: &'scope Soak, scope: &'scope Scope<'scope, '_>, count: usize) -> Vec<Supervisor> {
    let mut supervisors = Vec::new();
    for (n, kind) in KINDS.iter().cycle().take(count).enumerate() {
        let id = format!("lasting-{n:02}");
        let mut child = ChildProcess::start(kind.command(soak, &id));
        child.ends_by = (kind.how == SILENT).then_some(15);
        soak.alive.fetch_add(1, Ordering::Relaxed);
        let out = child.process.stdout.take().filter(|_| kind.reader != Reader::Gone);
        child.received = out.map(|out| {
            let (sender, receiver) = channel();
            scope.spawn(move || sender.send(read_output(soak, out, kind.reader)));
            receiver
        });
        supervisors.push(Supervisor::of(kind, &id, child));
        soak.eventually(&id, || supervisor_pid(soak, &id).is_some());
        if kind.how == NESTED {
            let inner = format!("{id}.in");
            soak.eventually(&inner, || supervisor_pid(soak, &inner).is_some());
            let pid = supervisor_pid(soak, &inner).expect("its row");
            supervisors.push(Supervisor {
                name: "the inner bookend",
                id: Some(inner),
                pid,
                ..Supervisor::default()
            });
        }
    }
    let mut list = bookend(&soak.world);
    list.args(["list", "--watch"]).stdout(Stdio::null());
    let mut child = ChildProcess::start(list);
    child.ends_by = Some(2);
    let pid = child.process.id() as i32;
    // `fills_kib`: SQLite's page cache.
    supervisors.push(Supervisor {
        name: "list --watch",
        pid,
        fills_kib: 2048,
        child: Some(child),
        ..Supervisor::default()
    });
    supervisors
}

/// The pid of a task's supervisor, once the row exists.
fn supervisor_pid(soak: &Soak, id: &str) -> Option<i32> {
    let query = format!("SELECT supervisor_pid FROM task_history WHERE id = '{id}'");
    let rows = if soak.world.ledger().exists() { soak.world.sql(&query) } else { Vec::new() };
    rows.first().map(|row| row.pid("supervisor_pid"))
}

impl Kind {
    const fn of(name: &'static str, agent: Agent, how: &'static str, reader: Reader) -> Kind {
        Kind { name, agent, how, options: &[], reader, fills_kib: 0 }
    }

    fn command(&self, soak: &Soak, id: &str) -> Command {
        let mut command = bookend(&soak.world);
        let options = self.options.iter().map(|o| if *o == KEY { id } else { *o });
        command.args(["run", "--id", id]).args(options).arg("--");
        match self.agent {
            Agent::Plain => command.args(["agent", self.how]),
            Agent::Claude => command.args(claude(self.how)),
            Agent::Cursor => command.args(cursor(self.how)),
        };
        command.stdout(if self.reader == Reader::Unread { Stdio::null() } else { Stdio::piped() });
        command
    }
}

impl ChildProcess {
    fn start(mut command: Command) -> ChildProcess {
        let errors = tempfile::tempfile().expect("a file for stderr");
        let process = command.stderr(errors.try_clone().expect("stderr")).spawn().expect("a bookend");
        let handle =
            pidfd_open(Pid::from_child(&process), PidfdFlags::empty()).expect("a pidfd of our child");
        ChildProcess { process, handle, errors, received: None, ends_by: None }
    }
}

impl Supervisor {
    fn of(kind: &Kind, id: &str, child: ChildProcess) -> Supervisor {
        Supervisor {
            name: kind.name,
            id: Some(id.to_owned()),
            pid: child.process.id() as i32,
            fills_kib: kind.fills_kib,
            child: Some(child),
            ..Supervisor::default()
        }
    }

    /// A process that is not a task, and that others start and end.
    pub fn watched(name: &'static str, pid: i32) -> Supervisor {
        // `fills_kib`: SQLite's page cache.
        Supervisor { name, pid, fills_kib: 256, ..Supervisor::default() }
    }

    /// The samples in a part of the duration.
    pub fn between(&self, from: f64, to: f64) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |s| (from..to).contains(&s.part))
    }

    /// Takes one sample.
    pub fn measure(&mut self, soak: &Soak) {
        let memory = memory(self.pid);
        let mut files = stable_files(self.pid);
        if self.samples.is_empty() {
            self.files.clone_from(&files);
        }
        // A file that is open for a moment is not a leak.
        for _ in 0..20 {
            if files == self.files {
                break;
            }
            pause(Duration::from_millis(5));
            files = stable_files(self.pid);
        }
        let is_zombie = |pid: &i32| state(*pid) == Some('Z');
        let mut zombies = forked(self.pid);
        zombies.retain(is_zombie);
        // It reaps no child while it waits for the disk or for another writer of the ledger.
        let deadline = Deadline::within(Duration::from_secs(10));
        while !zombies.is_empty() && !deadline.passed() {
            pause(Duration::from_millis(20));
            zombies.retain(is_zombie);
        }
        if soak.is_over() {
            return;
        }
        soak.unless(files == self.files, || {
            format!("{} had open {:?}, and now {files:?}", self.name, self.files)
        });
        soak.unless(zombies.is_empty(), || format!("{} does not reap {zombies:?}", self.name));
        match memory {
            None => soak.report_violation(format!("{} exited: pid {}", self.name, self.pid)),
            Some((anonymous_kib, rss_kib)) => {
                let files = open_files(self.pid).len();
                self.samples.push(Sample { part: soak.part(), anonymous_kib, rss_kib, files });
            }
        }
        if self.name == SIGNALLED
            && let Some(child) = &self.child
        {
            send_signal(&child.process, SIGWINCH);
        }
    }

    /// Ends the process and waits for it, now that the soak is over.
    pub fn end(&mut self, soak: &Soak) {
        let Some(mut child) = self.child.take() else { return };
        if let Some(signal) = child.ends_by {
            send_signal(&child.process, signal);
        }
        if !ends_within(&child.handle, EXIT_LIMIT) {
            soak.report_violation(format!("{} does not end: pid {}", self.name, self.pid));
            child.process.kill().expect("a signal to our child");
        }
        let end = fault::describe_end(child.process.wait().expect("its end"));
        if self.id.is_some() {
            soak.alive.fetch_sub(1, Ordering::Relaxed);
        }
        let expected = child.ends_by.map_or("0".to_owned(), |signal| format!("signal {signal}"));
        soak.unless(end == expected, || format!("{} ended with {end}", self.name));
        let mut stderr = String::new();
        child.errors.rewind().and_then(|()| child.errors.read_to_string(&mut stderr)).expect("its stderr");
        soak.unless(stderr.is_empty(), || format!("{} printed {stderr:?}", self.name));
        if let Some(received) = child.received.take() {
            let received = received.recv().expect("the output");
            soak.unless(received.is_complete(), || format!("{}: {received:?}", self.name));
        }
    }
}

impl Received {
    /// Whether as many lines arrived as the agent reports.
    fn is_complete(&self) -> bool {
        let tail = String::from_utf8_lossy(&self.tail);
        let printed = tail.lines().find_map(|l| l.strip_prefix("talked ")?.parse::<u64>().ok());
        // The line `talked` itself, and the first and the last event if the output is captured.
        let others = if tail.ends_with("}\n") { 3 } else { 1 };
        printed.is_some_and(|n| n + others == self.lines)
    }
}

/// The open files above 2, without the buffers for slow readers, which are temporary.
fn stable_files(pid: i32) -> Vec<String> {
    let mut files = open_files(pid);
    files.retain(|f| !(f.starts_with('/') && f.ends_with(" (deleted)")));
    files.sort();
    files
}

fn read_output(soak: &Soak, mut out: ChildStdout, reader: Reader) -> Received {
    let mut received = Received::default();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let most = match reader {
            Reader::TooSlowly if !soak.sleep_or_end(Duration::from_millis(100)) => 4096,
            _ => chunk.len(),
        };
        let n = out.read(&mut chunk[..most]).expect("the output");
        if reader == Reader::InBursts && n < most / 2 {
            soak.sleep_or_end(Duration::from_secs(10).min(soak.length / 16));
        }
        if n == 0 {
            return received;
        }
        received.lines += chunk[..n].iter().filter(|b| **b == b'\n').count() as u64;
        received.tail.extend_from_slice(&chunk[..n]);
        received.tail.drain(..received.tail.len().saturating_sub(TAIL));
    }
}
