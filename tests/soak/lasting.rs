//! Those that live all the time, each with an agent or a reader of another kind. They are measured again and
//! again: what grows here would grow for as long as an agent works.

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
use crate::crash::fault::{self, bookend, forked, tell};
use crate::harness::{memory, open_files, pause, state};

/// Who reads what the agent says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reader {
    /// It goes into a file.
    Nobody,
    AsItComes,
    /// Nothing for long, then all of it.
    InBursts,
    /// Less than what comes.
    TooSlowly,
    /// The process that reads has exited.
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

const TALKS: &str = "talk,1000000000";
const TALKS_BELOW: &str = "nest,1000000000";
const TALKS_BULK: &str = "bulk,1000000000";
const IS_SILENT: &str = "hang";

const KINDS: [Kind; 12] = [
    Kind::of("claude, read as it comes", Agent::Claude, TALKS, Reader::AsItComes),
    Kind::of("cursor, read as it comes", Agent::Cursor, TALKS, Reader::AsItComes),
    Kind::of("a bookend and claude below it", Agent::Plain, TALKS_BELOW, Reader::AsItComes),
    // What waits for the reader.
    Kind { fills_kib: 1024, ..Kind::of("claude, read in bursts", Agent::Claude, TALKS, Reader::InBursts) },
    Kind { fills_kib: 1024, ..Kind::of("claude, read too slowly", Agent::Claude, TALKS, Reader::TooSlowly) },
    Kind::of("claude, its reader gone", Agent::Claude, TALKS, Reader::Gone),
    Kind::of("claude, long lines", Agent::Claude, TALKS_BULK, Reader::AsItComes),
    Kind {
        options: &["--key", KEY, "--prepare", "true", "--on-finish", ON_FINISH, "--timeout", "1d"],
        ..Kind::of("claude, key, hooks, time-out", Agent::Claude, TALKS, Reader::AsItComes)
    },
    Kind::of("claude, into a file", Agent::Claude, TALKS, Reader::Nobody),
    Kind::of("not read along", Agent::Plain, TALKS, Reader::AsItComes),
    Kind::of("silent", Agent::Plain, IS_SILENT, Reader::Nobody),
    Kind::of(SIGNALLED, Agent::Cursor, TALKS, Reader::AsItComes),
];
/// In options: the task's own id.
const KEY: &str = "lasting";
const SIGNALLED: &str = "cursor, signals";
/// It means nothing to an agent without a terminal.
const SIGWINCH: i32 = 28;
/// Bytes that a reader remembers: the last lines.
const TAIL: usize = 512;
/// What takes longer than this does not end.
const PATIENCE: Duration = Duration::from_secs(60);

/// One that lives all the time.
#[derive(Default)]
pub struct Life {
    pub name: &'static str,
    /// Its task; `None`: it reads the ledger.
    pub id: Option<String>,
    pub pid: i32,
    /// It has a place that fills, up to so much.
    pub fills_kib: u64,
    pub samples: Vec<Sample>,
    /// What it had open at first.
    files: Vec<String>,
    /// `None`: it is below another one, and ends with it.
    own: Option<Own>,
}

#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// How much of the time had passed.
    pub part: f64,
    pub anonymous_kib: u64,
    pub rss_kib: u64,
    pub files: usize,
}

/// What we hold of a child of ours.
struct Own {
    child: Child,
    handle: OwnedFd,
    errors: File,
    heard: Option<Receiver<Heard>>,
    /// The signal that ends it; `None`: it ends by itself when all is over.
    ends_by: Option<i32>,
}

/// What a reader has heard to the end.
#[derive(Debug, Default)]
struct Heard {
    lines: u64,
    /// The last of it.
    tail: Vec<u8>,
}

/// Starts `count` of them, and one who watches the list.
pub fn start<'scope>(soak: &'scope Soak, scope: &'scope Scope<'scope, '_>, count: usize) -> Vec<Life> {
    let mut lives = Vec::new();
    for (n, kind) in KINDS.iter().cycle().take(count).enumerate() {
        let id = format!("lasting-{n:02}");
        let mut own = Own::start(kind.command(soak, &id));
        own.ends_by = (kind.how == IS_SILENT).then_some(15);
        soak.alive.fetch_add(1, Ordering::Relaxed);
        let out = own.child.stdout.take().filter(|_| kind.reader != Reader::Gone);
        own.heard = out.map(|out| {
            let (tells, told) = channel();
            scope.spawn(move || tells.send(listen(soak, out, kind.reader)));
            told
        });
        lives.push(Life::of(kind, &id, own));
        soak.eventually(&id, || supervisor(soak, &id).is_some());
        if kind.how == TALKS_BELOW {
            let below = format!("{id}.in");
            soak.eventually(&below, || supervisor(soak, &below).is_some());
            let pid = supervisor(soak, &below).expect("its row");
            lives.push(Life { name: "the bookend below it", id: Some(below), pid, ..Life::default() });
        }
    }
    let mut list = bookend(&soak.world);
    list.args(["list", "--watch"]).stdout(Stdio::null());
    let mut own = Own::start(list);
    own.ends_by = Some(2);
    let pid = own.child.id() as i32;
    // SQLite's cache of pages.
    lives.push(Life { name: "list --watch", pid, fills_kib: 2048, own: Some(own), ..Life::default() });
    lives
}

/// The pid of a task's supervisor, once there is a row.
fn supervisor(soak: &Soak, id: &str) -> Option<i32> {
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
        command.stdout(if self.reader == Reader::Nobody { Stdio::null() } else { Stdio::piped() });
        command
    }
}

impl Own {
    fn start(mut command: Command) -> Own {
        let errors = tempfile::tempfile().expect("a file for stderr");
        let child = command.stderr(errors.try_clone().expect("stderr")).spawn().expect("a bookend");
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd of our child");
        Own { child, handle, errors, heard: None, ends_by: None }
    }
}

impl Life {
    fn of(kind: &Kind, id: &str, own: Own) -> Life {
        Life {
            name: kind.name,
            id: Some(id.to_owned()),
            pid: own.child.id() as i32,
            fills_kib: kind.fills_kib,
            own: Some(own),
            ..Life::default()
        }
    }

    /// What was measured in a part of the time.
    pub fn between(&self, from: f64, to: f64) -> impl Iterator<Item = &Sample> {
        self.samples.iter().filter(move |s| (from..to).contains(&s.part))
    }

    /// Measures it once more.
    pub fn measure(&mut self, soak: &Soak) {
        let memory = memory(self.pid);
        let mut files = lasting_files(self.pid);
        if self.samples.is_empty() {
            self.files.clone_from(&files);
        }
        // What is open for a moment is no leak.
        for _ in 0..20 {
            if files == self.files {
                break;
            }
            pause(Duration::from_millis(5));
            files = lasting_files(self.pid);
        }
        let is_dead = |pid: &i32| state(*pid) == Some('Z');
        let mut zombies = forked(self.pid);
        zombies.retain(is_dead);
        if !zombies.is_empty() {
            pause(Duration::from_millis(500));
            zombies.retain(is_dead);
        }
        if soak.is_over() {
            return;
        }
        soak.unless(files == self.files, || {
            format!("{} had open {:?}, and now {files:?}", self.name, self.files)
        });
        soak.unless(zombies.is_empty(), || format!("{} does not reap {zombies:?}", self.name));
        match memory {
            None => soak.wrong(format!("{} is gone: pid {}", self.name, self.pid)),
            Some((anonymous_kib, rss_kib)) => {
                let files = open_files(self.pid).len();
                self.samples.push(Sample { part: soak.part(), anonymous_kib, rss_kib, files });
            }
        }
        if self.name == SIGNALLED
            && let Some(own) = &self.own
        {
            tell(&own.child, SIGWINCH);
        }
    }

    /// Waits for its end, now that it is over.
    pub fn end(&mut self, soak: &Soak) {
        let Some(mut own) = self.own.take() else { return };
        if let Some(signal) = own.ends_by {
            tell(&own.child, signal);
        }
        if !ends_within(&own.handle, PATIENCE) {
            soak.wrong(format!("{} does not end: pid {}", self.name, self.pid));
            own.child.kill().expect("a signal to our child");
        }
        let end = fault::end(own.child.wait().expect("its end"));
        if self.id.is_some() {
            soak.alive.fetch_sub(1, Ordering::Relaxed);
        }
        let due = own.ends_by.map_or("0".to_owned(), |signal| format!("signal {signal}"));
        soak.unless(end == due, || format!("{} left with {end}", self.name));
        let mut said = String::new();
        own.errors.rewind().and_then(|()| own.errors.read_to_string(&mut said)).expect("what it said");
        soak.unless(said.is_empty(), || format!("{} said {said:?}", self.name));
        if let Some(heard) = own.heard.take() {
            let heard = heard.recv().expect("what was heard");
            soak.unless(heard.is_whole(), || format!("{}: {heard:?}", self.name));
        }
    }
}

impl Heard {
    /// Whether as many lines came as the agent says that it said.
    fn is_whole(&self) -> bool {
        let tail = String::from_utf8_lossy(&self.tail);
        let talked = tail.lines().find_map(|l| l.strip_prefix("talked ")?.parse::<u64>().ok());
        // That line itself, and around all of it the first and the last of an agent that is read along.
        let more = if tail.ends_with("}\n") { 3 } else { 1 };
        talked.is_some_and(|n| n + more == self.lines)
    }
}

/// What is open above 2, but for what waits for a slow reader: that comes and goes.
fn lasting_files(pid: i32) -> Vec<String> {
    let mut files = open_files(pid);
    files.retain(|f| !(f.starts_with('/') && f.ends_with(" (deleted)")));
    files.sort();
    files
}

fn listen(soak: &Soak, mut out: ChildStdout, reader: Reader) -> Heard {
    let mut heard = Heard::default();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let most = match reader {
            Reader::TooSlowly if !soak.rests(Duration::from_millis(100)) => 4096,
            _ => chunk.len(),
        };
        let n = out.read(&mut chunk[..most]).expect("what is said");
        if reader == Reader::InBursts && n < most / 2 {
            soak.rests(Duration::from_secs(10).min(soak.length / 16));
        }
        if n == 0 {
            return heard;
        }
        heard.lines += chunk[..n].iter().filter(|b| **b == b'\n').count() as u64;
        heard.tail.extend_from_slice(&chunk[..n]);
        heard.tail.drain(..heard.tail.len().saturating_sub(TAIL));
    }
}
