//! Those that live all the time, each with an agent, or a reader of it, of another kind. They are measured
//! again and again: what grows here would grow for as long as an agent works.

use std::fs;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::process::{Child, ChildStdout, Stdio};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, channel};
use std::thread::Scope;
use std::time::Duration;

use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::Soak;
use super::runs::{ends_within, leaves};
use crate::crash::agents::{ON_FINISH, claude, cursor};
use crate::crash::fate::{bookend, tell};
use crate::harness::{eventually, memory, open_files, pause, ready, state};

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
    /// He has gone away.
    Gone,
}

struct Kind {
    name: &'static str,
    agent: Agent,
    how: &'static str,
    options: &'static [&'static str],
    reader: Reader,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Agent {
    Plain,
    Claude,
    Cursor,
}

const FOREVER: &str = "talk,1000000000";
const SILENT: &str = "hang";
const KINDS: [Kind; 12] = [
    Kind::of("claude, read in bursts", Agent::Claude, FOREVER, Reader::InBursts),
    Kind::of("claude, read too slowly", Agent::Claude, FOREVER, Reader::TooSlowly),
    Kind::of("claude, read as it comes", Agent::Claude, FOREVER, Reader::AsItComes),
    Kind::of("cursor, read as it comes", Agent::Cursor, FOREVER, Reader::AsItComes),
    Kind::of("bookend and claude below it", Agent::Plain, "nest,1000000000", Reader::AsItComes),
    Kind {
        options: &[
            "--key",
            "lasting",
            "--prepare",
            "true",
            "--on-finish",
            ON_FINISH,
            "--timeout",
            "1d",
            "--idle-timeout",
            "1h",
        ],
        ..Kind::of("claude, with key, hooks, time-outs", Agent::Claude, FOREVER, Reader::AsItComes)
    },
    Kind::of("claude, its reader gone", Agent::Claude, FOREVER, Reader::Gone),
    Kind::of("claude, long lines", Agent::Claude, "bulk,1000000000", Reader::AsItComes),
    Kind::of("claude, into a file", Agent::Claude, FOREVER, Reader::Nobody),
    Kind::of("not read along", Agent::Plain, FOREVER, Reader::AsItComes),
    Kind::of("silent", Agent::Plain, SILENT, Reader::Nobody),
    Kind::of("cursor, with signals", Agent::Cursor, FOREVER, Reader::AsItComes),
];
/// Told to one of them all the time; it means nothing to an agent without a terminal.
const SIGWINCH: i32 = 28;

impl Kind {
    const fn of(name: &'static str, agent: Agent, how: &'static str, reader: Reader) -> Kind {
        Kind { name, agent, how, options: &[], reader }
    }
}

/// One that lives all the time.
pub struct Life {
    pub name: &'static str,
    /// Its task; `None`: it is a reader of the ledger.
    pub id: Option<String>,
    pub pid: i32,
    pub samples: Vec<Sample>,
    /// What it had open at first.
    files: Vec<String>,
    /// `None`: it is another one's agent, and ends with it.
    own: Option<(Child, OwnedFd)>,
    reader: Option<Receiver<Heard>>,
    is_told: bool,
    ends_by: Option<i32>,
}

#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// How much of the time had passed.
    pub part: f64,
    pub anonymous_kib: u64,
    pub rss_kib: u64,
    pub files: usize,
}

/// What a reader has heard to the end.
#[derive(Debug, Default)]
struct Heard {
    lines: u64,
    /// The last of it.
    tail: Vec<u8>,
}

/// Starts `count` of them, and one who watches the list.
pub fn start<'scope, 'env>(
    soak: &'scope Soak,
    scope: &'scope Scope<'scope, 'env>,
    count: usize,
) -> Vec<Life> {
    let mut lives = Vec::new();
    for (n, kind) in KINDS.iter().cycle().take(count).enumerate() {
        let id = format!("lasting-{n:02}");
        let mut command = bookend(&soak.world);
        command.args(["run", "-q", "--id", &id]);
        let number = n.to_string();
        command.args(kind.options.iter().map(|o| if *o == "lasting" { &number } else { *o })).arg("--");
        match kind.agent {
            Agent::Plain => command.args(["agent", kind.how]),
            Agent::Claude => command.args(claude(kind.how)),
            Agent::Cursor => command.args(cursor(kind.how)),
        };
        command.stdout(if kind.reader == Reader::Nobody { Stdio::null() } else { Stdio::piped() });
        let mut child = command.stderr(Stdio::inherit()).spawn().expect("a run");
        soak.alive.fetch_add(1, Ordering::Relaxed);
        let reader = child.stdout.take().filter(|_| kind.reader != Reader::Gone);
        let reader = reader.map(|out| {
            let (tells, told) = channel();
            scope.spawn(move || tells.send(listen(soak, out, kind.reader)));
            told
        });
        let mut life = Life::new(kind.name, Some(id.clone()), child.id() as i32);
        let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd of our child");
        life.own = Some((child, handle));
        life.reader = reader;
        life.is_told = kind.name.ends_with("signals");
        life.ends_by = (kind.how == SILENT).then_some(15);
        lives.push(life);
        supervisor(soak, &id);
        if kind.how.starts_with("nest") {
            let inner = format!("{id}.in");
            let pid = supervisor(soak, &inner);
            lives.push(Life::new("the one below", Some(inner), pid));
        }
    }
    let mut command = bookend(&soak.world);
    let watch = command.args(["list", "--watch"]).stdout(Stdio::null()).stderr(Stdio::inherit());
    let child = watch.spawn().expect("a list");
    let mut life = Life::new("list --watch", None, child.id() as i32);
    let handle = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).expect("a pidfd of our child");
    life.own = Some((child, handle));
    life.ends_by = Some(2);
    lives.push(life);
    lives
}

/// The pid of a task's supervisor, once there is a row.
fn supervisor(soak: &Soak, id: &str) -> i32 {
    let query = format!("SELECT supervisor_pid FROM task_history WHERE id = '{id}'");
    let mut pid = None;
    eventually(soak.world.deadline(), "the supervisor of the one below", || {
        let rows = if soak.world.ledger().exists() { soak.world.sql(&query) } else { Vec::new() };
        pid = rows.first().map(|row| row.pid("supervisor_pid"));
        pid.is_some()
    });
    pid.expect("a pid")
}

impl Life {
    fn new(name: &'static str, id: Option<String>, pid: i32) -> Life {
        Life {
            name,
            id,
            pid,
            samples: Vec::new(),
            files: Vec::new(),
            own: None,
            reader: None,
            is_told: false,
            ends_by: None,
        }
    }

    /// Measures it once more.
    pub fn measure(&mut self, soak: &Soak) {
        let Some((anonymous_kib, rss_kib)) = memory(self.pid) else {
            return soak.wrong(format!("{} is gone: pid {}", self.name, self.pid));
        };
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
        if soak.is_over() {
            return;
        }
        soak.unless(files == self.files, || {
            format!("{} had open {:?}, and now {files:?}", self.name, self.files)
        });
        let zombies = zombies(self.pid);
        if !zombies.is_empty() {
            pause(Duration::from_millis(500));
            let still: Vec<i32> = zombies.into_iter().filter(|z| state(*z) == Some('Z')).collect();
            soak.unless(still.is_empty(), || format!("{} does not reap {still:?}", self.name));
        }
        self.samples.push(Sample {
            part: soak.part(),
            anonymous_kib,
            rss_kib,
            files: open_files(self.pid).len(),
        });
        if self.is_told {
            if let Some((child, _)) = &self.own {
                tell(child, SIGWINCH);
            }
        }
    }

    /// Waits for its end, now that it is over.
    pub fn end(&mut self, soak: &Soak) {
        let Some((mut child, handle)) = self.own.take() else { return };
        if let Some(signal) = self.ends_by {
            tell(&child, signal);
        }
        if !ends_within(&handle, Duration::from_secs(60)) {
            soak.wrong(format!("{} does not end: pid {}", self.name, self.pid));
            child.kill().expect("a signal to our child");
        }
        let end = match self.id {
            Some(_) => leaves(soak, &mut child),
            None => crate::crash::fate::end(child.wait().expect("its end")),
        };
        let due = self.ends_by.map_or("0".to_owned(), |s| format!("signal {s}"));
        soak.unless(end == due, || format!("{} left with {end}", self.name));
        let Some(heard) = self.reader.take().map(|r| r.recv().expect("a reader")) else { return };
        let tail = String::from_utf8_lossy(&heard.tail).into_owned();
        let talked = tail.lines().find_map(|l| l.strip_prefix("talked ")?.parse::<u64>().ok());
        // Around what is said again and again: that line, and the first and the last where there are any.
        let more = if tail.ends_with("}\n") { 3 } else { 1 };
        soak.unless(talked.is_some_and(|n| n + more == heard.lines), || {
            format!("{}: of {talked:?} lines {} were heard", self.name, heard.lines)
        });
    }
}

/// What is open above 2, but for what waits for a slow reader: that comes and goes.
fn lasting_files(pid: i32) -> Vec<String> {
    let mut files = open_files(pid);
    files.retain(|f| !(f.starts_with('/') && f.ends_with(" (deleted)")));
    files.sort();
    files
}

fn zombies(pid: i32) -> Vec<i32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().filter_map(|p| p.parse().ok()).filter(|p| state(*p) == Some('Z')).collect()
}

fn listen(soak: &Soak, mut out: ChildStdout, reader: Reader) -> Heard {
    let mut heard = Heard::default();
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let most = match reader {
            Reader::TooSlowly if !soak.rests(Duration::from_millis(100)) => 4096,
            Reader::InBursts if !ready(&[&out], Duration::from_millis(300))[0] && !soak.is_over() => {
                soak.rests(Duration::from_secs(10).min(soak.length / 16));
                continue;
            }
            _ => chunk.len(),
        };
        let n = out.read(&mut chunk[..most]).expect("what is said");
        if n == 0 {
            return heard;
        }
        heard.lines += chunk[..n].iter().filter(|b| **b == b'\n').count() as u64;
        heard.tail.extend_from_slice(&chunk[..n]);
        let end = heard.tail.len();
        heard.tail.drain(..end.saturating_sub(512));
    }
}
