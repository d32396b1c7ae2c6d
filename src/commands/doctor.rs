//! `bookend doctor`: checks how bookend is set up here.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::unistd::{User, geteuid};

use crate::agent;
use crate::commands::agents::refused as refused_agent;
use crate::commands::fleet;
use crate::commands::system;
use crate::error::Error;
use crate::exit::Exit;
use crate::exit::exit_code;
use crate::ledger::{self, ChosenBy, Ledger, Location};
use crate::process::procfs::identity;
use crate::recovery::liveness;
use crate::sys;
use crate::sys::stdout::print;
use crate::task::{TaskFilter, Verdict};
use crate::view::{self, Health, Point, Screen};

/// What `bookend doctor` was asked for.
#[derive(Debug)]
pub struct DoctorOptions {
    pub json: bool,
}

const RECOVERY_UNIT: &str = "bookend-recover.service";
const MONITOR_UNIT: &str = "bookend-monitor.service";

/// Prints a line for each check; exits with 1 if something does not work.
///
/// # Errors
/// When stdout cannot be written.
pub fn doctor(options: &DoctorOptions, ledger: Option<&Path>) -> Result<Exit, Error> {
    let mut points = vec![point(
        "bookend",
        Health::Fine,
        format!("{}, SQLite {}", env!("CARGO_PKG_VERSION"), ledger::SQLITE),
    )];
    points.extend(kernel());
    match ledger::locate(ledger) {
        Ok(at) => {
            points.extend(ledger_points(&at));
            points.extend(recovery_unit(&at));
            points.extend(monitor(&at));
            points.extend(fleet::points(&at));
        }
        Err(e) => points.push(point("ledger", Health::Bad, Error::from(e).in_line())),
    }
    points.extend(agents());
    print(&match options.json {
        true => view::points_json(&points),
        false => view::points(&points, Screen::of(&std::io::stdout())),
    })?;
    let bad = points.iter().any(|p| p.health == Health::Bad);
    Ok(Exit::Code(if bad { exit_code::NOTHING } else { 0 }))
}

fn point(name: &str, health: Health, text: String) -> Point {
    Point { name: name.to_owned(), health, text }
}

/// What the kernel and `/proc` let bookend see and do here.
fn kernel() -> Vec<Point> {
    let mut points = vec![processes()];
    if identity::boot_id().is_none() {
        points.push(point(
            "boot id",
            Health::Odd,
            "/proc hides /proc/sys/kernel/random/boot_id (subset=pid): a reboot cannot be told from a \
             supervisor that died; mount /proc without subset=pid"
                .to_owned(),
        ));
    }
    if !sys::pidfd_signals_work() {
        let text = format!(
            "{}: `cancel` and `recover` cannot signal any process but their own children",
            sys::NO_PIDFD_SIGNALS
        );
        points.push(point("signals", Health::Bad, text));
    }
    points
}

fn processes() -> Point {
    let me = std::process::id() as i32;
    let own = identity::of(me).ok().flatten();
    match (own.map(|i| identity::open(&i)), identity::stat(1)) {
        (Some(Ok(Some(_))), Ok(Some(_))) => point("kernel", Health::Fine, "/proc and pidfds work".to_owned()),
        (Some(Ok(Some(_))), _) => point(
            "kernel",
            Health::Odd,
            "/proc hides other users' processes (hidepid): from Linux 6.9 on, bookend identifies them by \
             their pidfds"
                .to_owned(),
        ),
        _ => point(
            "kernel",
            Health::Bad,
            "/proc or pidfd_open(2) does not work: mount /proc, use Linux 5.4 or newer".to_owned(),
        ),
    }
}

fn ledger_points(at: &Location) -> Vec<Point> {
    let path = at.file.display();
    let mut points = vec![point("ledger", Health::Fine, format!("{path}, chosen by {}", said(at.chosen_by)))];
    let opened = match Ledger::open_read_only(at) {
        Err(e) => {
            points.push(point("opening it", Health::Bad, Error::from(e).in_line()));
            return points;
        }
        Ok(None) => {
            points.push(point(
                "opening it",
                Health::Fine,
                "it does not exist yet; the first run creates it".to_owned(),
            ));
            points.extend(system_units(at));
            return points;
        }
        Ok(Some(ledger)) => ledger,
    };
    points.extend(tasks(&opened));
    if opened.tasks(&TaskFilter { limit: Some(1), ..TaskFilter::default() }).is_ok_and(|t| t.is_empty()) {
        points.extend(system_units(at));
    }
    points.extend(modes(at));
    points.push(match opened.spooled().map(|s| s.len()) {
        Ok(0) => point("spool", Health::Fine, "empty".to_owned()),
        Ok(n) => point(
            "spool",
            Health::Odd,
            format!("{n} records of ended tasks wait; run `{}` to merge them", recover(&opened)),
        ),
        Err(e) => point("spool", Health::Odd, Error::from(e).in_line()),
    });
    points
}

/// The caller's own ledger is empty, so the tasks may be those of the system units.
fn system_units(at: &Location) -> Option<Point> {
    let line = system::line(at);
    (!line.is_empty()).then(|| point("ledger", Health::Fine, line.trim_end().to_owned()))
}

fn said(by: ChosenBy) -> String {
    match by {
        ChosenBy::Default => "default (~/.local/state)".to_owned(),
        by => by.to_string(),
    }
}

fn recover(ledger: &Ledger) -> String {
    view::suggestion(ledger.option(), "recover")
}

fn tasks(ledger: &Ledger) -> Vec<Point> {
    let judged = || -> Result<(usize, usize), Error> {
        let mut running = ledger.running()?;
        let mut lost = 0;
        for task in &mut running {
            if matches!(liveness::verdict(ledger, task)?, Some(Verdict::Gone | Verdict::Recycled)) {
                lost += 1;
            }
        }
        Ok((running.len(), lost))
    };
    vec![match judged() {
        Ok((n, 0)) => point("opening it", Health::Fine, format!("it opens; {n} tasks run")),
        Ok((n, lost)) => {
            let text =
                format!("{lost} of {n} running tasks are lost; run `{}` to settle them", recover(ledger));
            point("opening it", Health::Odd, text)
        }
        Err(e) => point("opening it", Health::Bad, e.in_line()),
    }]
}

/// Who may read and replace what: all of it is to be the user's own, and nobody else's business.
fn modes(at: &Location) -> Vec<Point> {
    let private = at.private_dir();
    let places: [PathBuf; 4] =
        [at.file.clone(), private.clone(), private.join("live"), private.join("spool")];
    let me = geteuid().as_raw();
    let mut wrong = Vec::new();
    for path in places {
        let Ok(meta) = std::fs::symlink_metadata(&path) else { continue };
        let mode = meta.mode() & 0o777;
        if meta.uid() != me {
            wrong.push(format!("{} belongs to uid {}, not to you", path.display(), meta.uid()));
        } else if mode & 0o077 != 0 {
            let word = view::quoted(&path.to_string_lossy());
            wrong.push(format!("{} has mode {mode:04o}; run `chmod go= {word}`", path.display()));
        }
    }
    match wrong.is_empty() {
        true => vec![point("modes", Health::Fine, "readable by you alone".to_owned())],
        false => wrong.into_iter().map(|w| point("modes", Health::Odd, w)).collect(),
    }
}

/// Whether something settles the lost tasks of this ledger after a boot, and how it went the last time.
fn recovery_unit(at: &Location) -> Vec<Point> {
    let name = "recovery";
    let recover = view::suggestion(at.option(), "recover");
    if !systemd_runs() {
        let monitor = view::suggestion(at.option(), "monitor");
        let text = format!("systemd does not run here; call `{recover}` at boot, or start `{monitor}` there");
        return vec![point(name, Health::Odd, text)];
    }
    let Some(unit) = Unit::of(at, RECOVERY_UNIT) else {
        let text = format!("no {RECOVERY_UNIT} covers this ledger; call `{recover}` after a crash");
        return vec![point(name, Health::Odd, text)];
    };
    let or = |key: &str, without: &str| unit.property(key).unwrap_or_else(|| without.to_owned());
    let (state, last, result) =
        (or("UnitFileState", "unknown"), or("ExecMainExitTimestamp", "never"), or("Result", ""));
    let is_enabled = state == "enabled";
    let enable = match is_enabled {
        true => String::new(),
        false => format!("; to run it at boot: {}", unit.systemctl("enable bookend-recover")),
    };
    let health = if is_enabled && result == "success" { Health::Fine } else { Health::Odd };
    let text = format!("{RECOVERY_UNIT} is {state}; last run: {last} ({result}){enable}");
    let mut points = vec![point(name, health, text)];
    points.extend(unit.is_of_user().then(|| linger(is_enabled)).flatten());
    points
}

/// Whether a monitor settles the tasks of this ledger when they are lost. It is optional. `None`: the ledger
/// cannot be opened, which is another point.
fn monitor(at: &Location) -> Option<Point> {
    let ledger = Ledger::open_read_only(at).ok()?;
    let runs = match ledger.map_or(Ok(false), |ledger| ledger.has_monitor()) {
        Ok(runs) => runs,
        Err(e) => return Some(point("monitor", Health::Odd, Error::from(e).in_line())),
    };
    let unit = if systemd_runs() { Unit::of(at, MONITOR_UNIT) } else { None };
    let state = unit.as_ref().map(|u| format!(" ({MONITOR_UNIT} is {})", u.states())).unwrap_or_default();
    if runs {
        let text = format!("it runs{state}: lost tasks are settled at once");
        return Some(point("monitor", Health::Fine, text));
    }
    let is_enabled = unit.as_ref().and_then(|u| u.property("UnitFileState")).is_some_and(|s| s == "enabled");
    let start = match &unit {
        Some(unit) if is_enabled => unit.systemctl("start bookend-monitor"),
        Some(unit) => unit.systemctl("enable --now bookend-monitor"),
        None => view::suggestion(at.option(), "monitor"),
    };
    let follows = "a lost task waits for the next recovery or run under its key";
    let text = format!("it does not run{state}: {follows}; to start it: `{start}`");
    Some(point("monitor", if is_enabled { Health::Odd } else { Health::Absent }, text))
}

fn systemd_runs() -> bool {
    Path::new("/run/systemd/system").exists()
}

/// A unit of the manager that covers a ledger.
struct Unit {
    /// The option of systemctl.
    scope: &'static str,
    /// What `systemctl show` prints.
    properties: String,
}

impl Unit {
    /// `None`: it is not installed there.
    fn of(at: &Location, name: &str) -> Option<Unit> {
        let scopes = match at.chosen_by {
            _ if at.is_own() => &["--user"][..],
            ChosenBy::System => &["--system"],
            _ => &["--system", "--user"],
        };
        let shown = |scope: &&'static str| Some(Unit { scope, properties: properties(scope, name)? });
        scopes.iter().find_map(shown)
    }

    fn property(&self, key: &str) -> Option<String> {
        let line = self.properties.lines().find_map(|l| l.strip_prefix(key)?.strip_prefix('='));
        line.filter(|v| !v.is_empty()).map(str::to_owned)
    }

    /// As `enabled, active`.
    fn states(&self) -> String {
        let states = ["UnitFileState", "ActiveState"].into_iter().filter_map(|key| self.property(key));
        states.collect::<Vec<_>>().join(", ")
    }

    fn is_of_user(&self) -> bool {
        self.scope == "--user"
    }

    fn systemctl(&self, words: &str) -> String {
        format!("systemctl {}{words}", if self.is_of_user() { "--user " } else { "" })
    }
}

/// What `systemctl show` prints about the unit. `None`: it is not installed there.
fn properties(scope: &str, unit: &str) -> Option<String> {
    let shown = "--property=LoadState,UnitFileState,ActiveState,Result,ExecMainExitTimestamp";
    let out = Command::new("systemctl")
        .args([scope, "show", unit, shown])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    text.contains("LoadState=loaded").then_some(text)
}

/// Whether the user's units run without a login: logind keeps a file for each user that lingers.
fn linger(is_used: bool) -> Option<Point> {
    let user = User::from_uid(geteuid()).ok().flatten()?;
    let is_on = Path::new("/var/lib/systemd/linger").join(&user.name).exists();
    let off = format!(
        "off: your units stop at logout and do not start at boot; run `loginctl enable-linger {}`",
        view::quoted(&user.name)
    );
    Some(match (is_on, is_used) {
        (true, _) => point("lingering", Health::Fine, "on: your units start at boot".to_owned()),
        (false, true) => point("lingering", Health::Odd, off),
        (false, false) => point("lingering", Health::Absent, off),
    })
}

/// The known agents in PATH, the declarations that are refused, and in one line the agents that are absent.
fn agents() -> Vec<Point> {
    let (mut points, mut absent) = (Vec::new(), Vec::new());
    for known in agent::known_agents() {
        let adapter = match known.adapter {
            Ok(adapter) => adapter,
            Err(refused) => {
                points.push(point(&known.name, Health::Odd, refused_agent(refused).in_line()));
                continue;
            }
        };
        match adapter.names().programs.split(' ').find_map(|program| which::which(program).ok()) {
            Some(file) => points.push(point(&known.name, Health::Fine, file.display().to_string())),
            None => absent.push(known.name),
        }
    }
    if !absent.is_empty() {
        let text = format!("not in PATH: {}", absent.join(", "));
        points.push(point("agents", Health::Absent, text));
    }
    points
}
