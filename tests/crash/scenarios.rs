//! The scenarios of the crash matrix. Each reaches different fail points.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::agents::{ON_FINISH, ON_INTERRUPTED, cursor};
use super::{is_quiet, monitor_options};
use crate::harness::{Cmd, Deadline, End, Monitor, Output, World, pause};

pub struct Scenario {
    pub name: &'static str,
    /// Prepares the ledger.
    pub before: fn(&World),
    /// What the fault is injected into.
    pub act: Act,
    /// A fault that is part of the scenario, in addition to the one that is tried.
    pub given: &'static str,
    /// Whether the command settles other tasks.
    pub settles: bool,
}

pub enum Act {
    Command(fn(&World) -> Cmd<'_>),
    /// A monitor, and what happens beside it.
    Monitor(fn(&World)),
}

/// How long a monitor may need after an error: what it cannot do, it tries again in a minute.
const MONITOR_LIMIT: Duration = Duration::from_secs(75);

impl Scenario {
    /// Performs it with these variables in the environment of the command or the monitor.
    pub fn perform(&self, world: &World, environment: &[(&str, &str)]) -> Output {
        match self.act {
            Act::Command(command) => {
                environment.iter().fold(command(world), |command, (n, v)| command.env(n, v)).run()
            }
            Act::Monitor(deaths) => {
                let monitor = Monitor::spawn(world, &[], environment, &monitor_options());
                if monitor.is_ready(world.deadline()) {
                    deaths(world);
                    let until = Deadline::within(MONITOR_LIMIT);
                    while !monitor.has_exited() && !is_quiet(world) && !until.passed() {
                        pause(Duration::from_millis(5));
                    }
                }
                monitor.end()
            }
        }
    }

    pub fn has_monitor(&self) -> bool {
        matches!(self.act, Act::Monitor(_))
    }
}

pub const ALL: &[Scenario] = &[
    Scenario { name: "first", before: nothing, act: Act::Command(with_hooks), given: "", settles: false },
    Scenario {
        name: "resumed",
        before: after_success,
        act: Act::Command(session),
        given: "",
        settles: false,
    },
    Scenario { name: "fails", before: after_success, act: Act::Command(failing), given: "", settles: false },
    Scenario {
        name: "times out",
        before: after_success,
        act: Act::Command(hanging),
        given: "",
        settles: false,
    },
    Scenario {
        name: "not found",
        before: after_success,
        act: Act::Command(missing),
        given: "",
        settles: false,
    },
    Scenario {
        name: "prepare fails",
        before: nothing,
        act: Act::Command(prepare_fails),
        given: "",
        settles: false,
    },
    Scenario {
        name: "ledger refuses",
        before: after_success,
        act: Act::Command(with_hooks),
        given: "end.begun:io",
        settles: false,
    },
    Scenario { name: "merges", before: spooled, act: Act::Command(session), given: "", settles: true },
    Scenario {
        name: "lost predecessor",
        before: orphaned,
        act: Act::Command(session),
        given: "",
        settles: true,
    },
    Scenario {
        name: "recovers",
        before: every_kind_of_loss,
        act: Act::Command(recovering),
        given: "",
        settles: true,
    },
    Scenario {
        name: "monitor starts",
        before: every_kind_of_loss,
        act: Act::Monitor(nothing),
        given: "",
        settles: true,
    },
    Scenario {
        name: "monitor watches",
        before: nothing,
        act: Act::Monitor(every_kind_of_loss),
        given: "",
        settles: false,
    },
];

const KEY: &str = "forgejo:dev:charles/claude-hooks:1104";

fn run<'w>(world: &'w World, argv: &[&str]) -> Cmd<'w> {
    world
        .run(argv.iter().copied())
        .options(["--key", KEY, "--grace", "200ms", "--leftovers", "end"])
        .with(["umask=0"])
}

fn nothing(_: &World) {}

fn after_success(world: &World) {
    session(world).run().ended(End::Code(0));
}

fn session(world: &World) -> Cmd<'_> {
    run(world, &cursor("ok"))
}

fn with_hooks(world: &World) -> Cmd<'_> {
    run(world, &["agent", "ok"]).options(["--prepare", "true", "--on-finish", ON_FINISH])
}

fn failing(world: &World) -> Cmd<'_> {
    run(world, &cursor("fail"))
}

fn hanging(world: &World) -> Cmd<'_> {
    run(world, &cursor("stubborn")).options(["--timeout", "100ms"])
}

fn missing(world: &World) -> Cmd<'_> {
    run(world, &["./cursor-agent", "ok"]).options(["--on-finish", ON_FINISH])
}

fn prepare_fails(world: &World) -> Cmd<'_> {
    run(world, &["agent", "ok"]).options(["--prepare", "exit 3"])
}

/// A record in the spool, and a broken one.
fn spooled(world: &World) {
    let refused = session(world).env("BOOKEND_FAILPOINT", "end.begun:io").run();
    refused.ended(End::Code(0));
    let broken = world.path("state/bookend/bookend.db.d/spool/broken.json");
    std::fs::write(&broken, "{").expect("a broken record");
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// A task whose supervisor was killed and whose agent still runs.
fn orphaned(world: &World) {
    run_and_kill(world, run(world, &cursor("stubborn")), "session.committed:kill");
}

fn run_and_kill(_: &World, command: Cmd<'_>, point: &str) {
    command.env("BOOKEND_FAILPOINT", point).run().ended(End::Signal(9));
}

/// Everything that a recovery may find.
fn every_kind_of_loss(world: &World) {
    orphaned(world);
    let under = |key: &str, argv: &[&str]| {
        world
            .run(argv.iter().copied())
            .options(["--key", key, "--grace", "200ms", "--on-finish", ON_FINISH])
            .with(["umask=0"])
    };
    run_and_kill(world, under("at its end", &cursor("ok")), "end.begun:kill");
    run_and_kill(world, under("undelivered", &["agent", "ok"]), "run.settled:kill");
    run_and_kill(world, under("half delivered", &["agent", "ok"]), "delivery.begun:kill");
    run_and_kill(world, under("behind the gate", &["agent", "ok"]), "claim.committed:kill");
    under("in the spool", &cursor("ok")).env("BOOKEND_FAILPOINT", "end.begun:io").run().ended(End::Code(0));
    // As a program that used the database before bookend writes it.
    world.write("INSERT INTO claude_sdk_sessions (key, session_id) VALUES ('theirs', 'unknown')");
    run_and_kill(world, under("spooling", &cursor("ok")), "end.begun:io,spool.filled:kill");
}

fn recovering(world: &World) -> Cmd<'_> {
    world
        .bare(["bookend", "recover", "--grace", "200ms", "--on-interrupted", ON_INTERRUPTED])
        .with(["umask=0"])
}
