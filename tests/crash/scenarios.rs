//! What is going on when bookend dies: each scenario passes other points.

use std::os::unix::fs::PermissionsExt;

use super::agents::{ON_FINISH, cursor};
use crate::harness::{Cmd, End, World};

pub struct Scenario {
    pub name: &'static str,
    /// What has happened before.
    pub before: fn(&World),
    /// The command that dies.
    pub act: fn(&World) -> Cmd<'_>,
    /// A failure that the scenario is about; the others come on top.
    pub given: &'static str,
    /// It ends tasks of others.
    pub settles: bool,
}

pub const ALL: &[Scenario] = &[
    Scenario { name: "first", before: nothing, act: hooked, given: "", settles: false },
    Scenario { name: "resumed", before: well, act: session, given: "", settles: false },
    Scenario { name: "fails", before: well, act: failing, given: "", settles: false },
    Scenario { name: "times out", before: well, act: hanging, given: "", settles: false },
    Scenario { name: "not found", before: well, act: missing, given: "", settles: false },
    Scenario { name: "prepare fails", before: nothing, act: unprepared, given: "", settles: false },
    Scenario { name: "ledger refuses", before: well, act: hooked, given: "end.begun:io", settles: false },
    Scenario { name: "merges", before: spooled, act: session, given: "", settles: true },
    Scenario { name: "dead predecessor", before: orphaned, act: session, given: "", settles: true },
    Scenario { name: "recovers", before: ruins, act: recovering, given: "", settles: true },
];

const KEY: &str = "forgejo:dev:charles/claude-hooks:1104";

fn run<'w>(world: &'w World, argv: &[&str]) -> Cmd<'w> {
    world
        .run(argv.iter().copied())
        .options(["--key", KEY, "--grace", "200ms", "--leftovers", "end"])
        .with(["umask=0"])
}

fn nothing(_: &World) {}

fn well(world: &World) {
    session(world).run().ended(End::Code(0));
}

fn session(world: &World) -> Cmd<'_> {
    run(world, &cursor("ok"))
}

fn hooked(world: &World) -> Cmd<'_> {
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

fn unprepared(world: &World) -> Cmd<'_> {
    run(world, &["agent", "ok"]).options(["--prepare", "exit 3"])
}

/// A record that waits, and what is no record.
fn spooled(world: &World) {
    let refused = session(world).env("BOOKEND_FAILPOINT", "end.begun:io").run();
    refused.ended(End::Code(0));
    let broken = world.path("state/bookend/bookend.db.d/spool/broken.json");
    std::fs::write(&broken, "{").expect("a broken record");
    std::fs::set_permissions(&broken, std::fs::Permissions::from_mode(0o600)).expect("its mode");
}

/// A task whose supervisor died and whose agent goes on.
fn orphaned(world: &World) {
    dies(world, run(world, &cursor("stubborn")), "session.committed:kill");
}

fn dies(_: &World, command: Cmd<'_>, point: &str) {
    command.env("BOOKEND_FAILPOINT", point).run().ended(End::Signal(9));
}

/// All that a recovery may find.
fn ruins(world: &World) {
    orphaned(world);
    let under = |key: &str, argv: &[&str]| {
        world
            .run(argv.iter().copied())
            .options(["--key", key, "--grace", "200ms", "--on-finish", ON_FINISH])
            .with(["umask=0"])
    };
    dies(world, under("at its end", &cursor("ok")), "end.begun:kill");
    dies(world, under("undelivered", &["agent", "ok"]), "run.settled:kill");
    dies(world, under("half delivered", &["agent", "ok"]), "delivery.begun:kill");
    dies(world, under("behind the gate", &["agent", "ok"]), "claim.committed:kill");
    under("in the spool", &cursor("ok")).env("BOOKEND_FAILPOINT", "end.begun:io").run().ended(End::Code(0));
    // As the program writes it that was there before bookend.
    world.write("INSERT INTO claude_sdk_sessions (key, session_id) VALUES ('theirs', 'unknown')");
    dies(world, under("spooling", &cursor("ok")), "end.begun:io,spool.filled:kill");
}

fn recovering(world: &World) -> Cmd<'_> {
    world.bare(["bookend", "recover", "--grace", "200ms", "--on-interrupted", "true"]).with(["umask=0"])
}
