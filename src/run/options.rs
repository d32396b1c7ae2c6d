//! The options of a run, and their form in the row, from which `redispatch` repeats the run.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use crate::process::leftovers::LeftoversPolicy;
use crate::sys;
use crate::task::{KeepSession, Key, OnTerm, Provider, Task, TaskId, Time};
use crate::view;

/// Default of `--backlog`: bytes of output that bookend buffers for a slow reader before the agent waits.
pub const BACKLOG: u64 = 1 << 30;
/// Default of `--fleet-timeout`: how long a run waits for an answer of the fleet. After a power failure, the
/// monitor registers only after 15 seconds.
pub const FLEET_TIMEOUT: Duration = Duration::from_secs(20);

/// The options and the command line of `bookend run`.
#[derive(Debug)]
pub struct RunOptions {
    pub id: Option<TaskId>,
    pub key: Option<Key>,
    pub repo: Option<String>,
    pub issue: Option<i64>,
    pub user: Option<String>,
    pub agent: Option<String>,
    pub agent_type: Option<String>,
    pub model: Option<String>,
    pub provider: Option<Provider>,
    pub cwd: Option<PathBuf>,
    pub prepare: Option<OsString>,
    pub forge: String,
    pub require_skill: Option<String>,
    pub timeout: Option<Duration>,
    pub idle_timeout: Option<Duration>,
    pub grace: Duration,
    pub when_busy: WhenBusy,
    pub fleet_timeout: Duration,
    pub budget: Option<CostBudget>,
    pub on_term: OnTerm,
    pub fresh: bool,
    pub allow_unsafe_resume: bool,
    pub keep_session: Vec<KeepSession>,
    pub leftovers: LeftoversPolicy,
    /// Exit with 0 only if the status is `success`.
    pub strict: bool,
    /// Bytes of output that bookend buffers for a slow reader before the agent waits.
    pub backlog: u64,
    pub on_finish: Option<OsString>,
    pub hook_timeout: Option<Duration>,
    pub retention: Duration,
    pub level: LevelFilter,
    pub argv: Vec<OsString>,
}

/// What the runs of a key may cost in a period before further runs are refused.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CostBudget {
    pub usd: f64,
    pub per: Duration,
}

impl CostBudget {
    /// The start of the period that ends now.
    pub fn since(&self) -> Time {
        Time::now().minus(SignedDuration::try_from(self.per).unwrap_or(SignedDuration::MAX))
    }

    /// The length of the period as one word, which `--since` reads.
    pub fn period(&self) -> String {
        let secs = self.per.as_secs();
        let units = [("d", 86_400, 2), ("h", 3_600, 1), ("m", 60, 1)];
        let fits = |(_, unit, least): &(_, u64, u64)| secs.is_multiple_of(*unit) && secs / unit >= *least;
        match units.iter().find(|unit| fits(unit)) {
            Some((name, unit, _)) => format!("{}{name}", secs / unit),
            None => format!("{secs}s"),
        }
    }
}

impl fmt::Display for CostBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} in {}", view::money(self.usd), self.period())
    }
}

/// What to do when a live task holds the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenBusy {
    Refuse,
    Wait,
    Replace,
}

/// The options of a run, as its row stores them. Text that is not UTF-8 is stored lossily.
#[derive(Debug, Serialize, Deserialize)]
pub struct StoredOptions {
    key: Option<Key>,
    repo: Option<String>,
    issue: Option<i64>,
    user: Option<String>,
    agent: Option<String>,
    pub agent_type: Option<String>,
    model: Option<String>,
    provider: Option<Provider>,
    cwd: Option<PathBuf>,
    prepare: Option<String>,
    forge: String,
    require_skill: Option<String>,
    timeout_ms: Option<u64>,
    idle_timeout_ms: Option<u64>,
    grace_ms: u64,
    /// `None`: the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fleet_timeout_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    budget: Option<CostBudget>,
    on_term_cancelled: bool,
    fresh: bool,
    #[serde(default)]
    keep_session: Vec<KeepSession>,
    leftovers: LeftoversPolicy,
    #[serde(default)]
    strict: bool,
    #[serde(default = "default_backlog")]
    backlog: u64,
    on_finish: Option<String>,
    #[serde(default)]
    hook_timeout_ms: Option<u64>,
    retention_s: u64,
    pub cwd_at_start: PathBuf,
    stdin_at_start: String,
    /// The output arrived while the agent worked.
    #[serde(default)]
    read_along: bool,
    /// The length of the user's command line in bytes, if the row stores only its beginning.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    argv_cut: Option<usize>,
}

/// The backlog of a run from before this option.
fn default_backlog() -> u64 {
    BACKLOG
}

/// The bytes of JSON that a row stores of each of its two command lines.
const LONGEST_ARGV: usize = 128 << 10;
/// Room for the note at the end of a truncated command line.
const CUT_MARK: usize = 64;

/// The words of a command line as its row stores them, and its length in bytes if that is only the beginning.
pub fn kept_words<W: AsRef<OsStr>>(words: &[W]) -> (Vec<String>, Option<usize>) {
    let mut kept: Vec<String> =
        words.iter().map(|word| word.as_ref().to_string_lossy().into_owned()).collect();
    let bytes: usize = words.iter().map(|word| word.as_ref().len()).sum();
    // No character takes more than six bytes of JSON.
    let is_short = bytes * 6 + kept.len() * 3 <= LONGEST_ARGV;
    if is_short || kept.iter().map(|word| json_length(word)).sum::<usize>() <= LONGEST_ARGV {
        return (kept, None);
    }
    let mut room = LONGEST_ARGV - CUT_MARK;
    let cut = kept.iter().position(|word| match room.checked_sub(json_length(word)) {
        Some(left) => {
            room = left;
            false
        }
        None => true,
    });
    let Some(cut) = cut else { return (kept, None) };
    kept.truncate(cut + 1);
    let word = &mut kept[cut];
    let mut length = 0;
    let mut fits = |c: char| {
        length += json_length_of(c);
        length <= room
    };
    let end = word.chars().take_while(|c| fits(*c)).map(char::len_utf8).sum();
    word.truncate(end);
    word.push_str(&format!("… (cut, {bytes} bytes in all)"));
    (kept, Some(bytes))
}

/// The bytes of a word in a JSON array, with quotes and a comma.
fn json_length(word: &str) -> usize {
    word.chars().map(json_length_of).sum::<usize>() + 3
}

fn json_length_of(c: char) -> usize {
    match c {
        '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
        c if c < ' ' => 6,
        c => c.len_utf8(),
    }
}

/// The options of a run as JSON for its row. `argv_cut`: see [`kept_words`].
pub fn options_of(request: &RunOptions, cwd: PathBuf, read_along: bool, argv_cut: Option<usize>) -> String {
    let text = |o: &Option<OsString>| o.as_ref().map(|v| v.to_string_lossy().into_owned());
    let lossy = |p: &Path| PathBuf::from(p.to_string_lossy().into_owned());
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let options = StoredOptions {
        key: request.key.clone(),
        repo: request.repo.clone(),
        issue: request.issue,
        user: request.user.clone(),
        agent: request.agent.clone(),
        agent_type: request.agent_type.clone(),
        model: request.model.clone(),
        provider: request.provider.clone(),
        cwd: request.cwd.as_deref().map(lossy),
        prepare: text(&request.prepare),
        forge: request.forge.clone(),
        require_skill: request.require_skill.clone(),
        timeout_ms: request.timeout.map(ms),
        idle_timeout_ms: request.idle_timeout.map(ms),
        grace_ms: ms(request.grace),
        fleet_timeout_ms: (request.fleet_timeout != FLEET_TIMEOUT).then(|| ms(request.fleet_timeout)),
        budget: request.budget.clone(),
        on_term_cancelled: request.on_term == OnTerm::Cancelled,
        fresh: request.fresh,
        keep_session: request.keep_session.clone(),
        leftovers: request.leftovers,
        strict: request.strict,
        backlog: request.backlog,
        on_finish: text(&request.on_finish),
        hook_timeout_ms: request.hook_timeout.map(ms),
        retention_s: request.retention.as_secs(),
        cwd_at_start: lossy(&cwd),
        stdin_at_start: kind_of_stdin().to_owned(),
        read_along,
        argv_cut,
    };
    // Text and numbers only: there is nothing that JSON could not hold.
    serde_json::to_string(&options).unwrap_or_default()
}

/// The kind of stdin: a prompt that came through a pipe cannot be repeated.
fn kind_of_stdin() -> &'static str {
    use nix::sys::stat::{SFlag, fstat};
    let Ok(stat) = fstat(sys::stdio(0)) else { return "closed" };
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFIFO => "pipe",
        SFlag::S_IFSOCK => "socket",
        SFlag::S_IFREG => "file",
        SFlag::S_IFCHR => "device",
        _ => "other",
    }
}

impl StoredOptions {
    pub fn request(self, argv: Vec<String>, when_busy: WhenBusy, level: LevelFilter) -> RunOptions {
        RunOptions {
            id: None,
            key: self.key,
            repo: self.repo,
            issue: self.issue,
            user: self.user,
            agent: self.agent,
            agent_type: self.agent_type,
            model: self.model,
            provider: self.provider,
            cwd: self.cwd,
            prepare: self.prepare.map(OsString::from),
            forge: self.forge,
            require_skill: self.require_skill,
            timeout: self.timeout_ms.map(Duration::from_millis),
            idle_timeout: self.idle_timeout_ms.map(Duration::from_millis),
            grace: Duration::from_millis(self.grace_ms),
            when_busy,
            fleet_timeout: self.fleet_timeout_ms.map_or(FLEET_TIMEOUT, Duration::from_millis),
            budget: self.budget,
            on_term: if self.on_term_cancelled { OnTerm::Cancelled } else { OnTerm::Interrupted },
            fresh: self.fresh,
            keep_session: self.keep_session,
            // It was allowed for another session.
            allow_unsafe_resume: false,
            leftovers: self.leftovers,
            strict: self.strict,
            backlog: self.backlog,
            on_finish: self.on_finish.map(OsString::from),
            hook_timeout: self.hook_timeout_ms.map(Duration::from_millis),
            retention: Duration::from_secs(self.retention_s),
            level,
            argv: argv.into_iter().map(OsString::from).collect(),
        }
    }
}

/// What a row lacks to dispatch its task again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Lacks {
    /// What its stdin contained.
    Stdin,
    /// Its command line: another program wrote the row, or an older bookend.
    Command,
    /// Bytes: its command line is not UTF-8, and the row stores text.
    Bytes,
    /// The rest of a command line that is too long for a row.
    Rest,
}

/// What a row lacks to dispatch its task again; `None`: nothing.
pub fn lacks(task: &Task) -> Option<Lacks> {
    let Some((argv, options)) = kept(task) else { return Some(Lacks::Command) };
    if options.argv_cut.is_some() {
        return Some(Lacks::Rest);
    }
    let is_torn = |text: &str| text.contains(char::REPLACEMENT_CHARACTER);
    let paths = [options.cwd.as_deref(), Some(options.cwd_at_start.as_path())];
    let commands = [options.prepare.as_deref(), options.on_finish.as_deref()];
    if argv.iter().any(|w| is_torn(w))
        || paths.into_iter().flatten().any(|p| is_torn(&p.to_string_lossy()))
        || commands.into_iter().flatten().any(is_torn)
    {
        return Some(Lacks::Bytes);
    }
    match options.stdin_at_start.as_str() {
        // A terminal or /dev/null: the new run has its own.
        "device" | "closed" => None,
        _ => Some(Lacks::Stdin),
    }
}

pub fn kept(task: &Task) -> Option<(Vec<String>, StoredOptions)> {
    let argv = task.user_argv.clone().filter(|words| !words.is_empty())?;
    Some((argv, serde_json::from_value(task.run_options.clone()?).ok()?))
}
