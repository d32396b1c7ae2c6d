//! Clock changes while bookend runs: backward, forward, to 1970 and beyond the year 9999.

use std::path::PathBuf;

use crate::harness::{Cmd, End, World, possible};
use crate::standins::{bookend, change, dispatch, install, json, linked};

/// The library with which faketime(1) sets the clock of a process. `None`, reported on stderr, if it is
/// missing.
pub fn faketime(test: &str) -> Option<PathBuf> {
    let dirs = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"];
    let libraries = dirs.map(|d| PathBuf::from(d).join("faketime/libfaketime.so.1"));
    let found = libraries.into_iter().find(|l| l.exists());
    let _ = possible(test, found.is_some(), "libfaketime (the package faketime)");
    found
}

/// Runs a command under a clock set to `at`: a Unix time, or an offset such as `+10y`.
fn at<'w>(command: Cmd<'w>, library: &std::path::Path, at: &str) -> Cmd<'w> {
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("FAKETIME_FMT", "%s")
        .env("FAKETIME", at)
}

/// The session of the newest task.
fn session(world: &World) -> String {
    world.rows().last().expect("a row").text("session_id")
}

#[test]
fn an_unsafe_session_is_refused_after_the_clock_was_set_back() {
    let Some(world) = World::of_bookend("an_unsafe_session_is_refused_after_the_clock_was_set_back") else {
        return;
    };
    install(&world);
    dispatch(&world, "claude").run().ended(End::Code(0));
    dispatch(&world, "claude").env("DO", "fail").run().ended(End::Code(1));
    let session = session(&world);
    // As if the clock had been set back by two minutes between the two.
    change(
        &world,
        "UPDATE task_history SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', started_at, '-120 seconds'),
             finished_at = strftime('%Y-%m-%dT%H:%M:%fZ', finished_at, '-120 seconds')
         WHERE status = 'failure';
         UPDATE session_invalidation SET at = strftime('%Y-%m-%dT%H:%M:%fZ', at, '-120 seconds')",
    );
    let resume = || {
        let argv =
            ["claude", "-p", "go", "--resume", &session, "--output-format", "stream-json", "--verbose"];
        world.run(argv)
    };
    let refused = resume().run().ended(End::Code(78));
    assert!(refused.stderr.contains("failure"), "{}", refused.stderr);
    // A later success makes the session usable again, whatever its time.
    resume().options(["--allow-unsafe-resume"]).run().ended(End::Code(0));
    change(
        &world,
        "UPDATE task_history SET started_at = '2001-01-01T00:00:00.000Z' WHERE id = (SELECT id FROM
        task_history ORDER BY rowid DESC LIMIT 1)",
    );
    resume().run().ended(End::Code(0));
}

#[test]
fn a_session_invalidated_by_the_operator_is_refused_for_every_run() {
    let Some(world) = World::of_bookend("a_session_invalidated_by_the_operator_is_refused_for_every_run")
    else {
        return;
    };
    install(&world);
    dispatch(&world, "claude").run().ended(End::Code(0));
    let session = session(&world);
    let key = crate::standins::KEY;
    bookend(&world, &["session", "invalidate", key]).ended(End::Code(0));
    let argv = ["claude", "-p", "go", "--resume", &session, "--output-format", "stream-json", "--verbose"];
    let refused = world.run(argv).run().ended(End::Code(78));
    assert!(refused.stderr.contains("(operator)"), "{}", refused.stderr);
    bookend(&world, &["session", "restore", key]).ended(End::Code(0));
    world.run(argv).run().ended(End::Code(0));
}

#[test]
fn a_session_invalidated_during_its_run_stays_invalid_whatever_the_clock_says() {
    let Some(world) =
        World::of_bookend("a_session_invalidated_during_its_run_stays_invalid_whatever_the_clock_says")
    else {
        return;
    };
    install(&world);
    let mut go = world.fifo("go");
    let run = dispatch(&world, "claude").env("GO", go.path()).start();
    crate::harness::eventually(world.deadline(), "the session of the run", || {
        world.ledger().exists() && linked(&world).is_some()
    });
    bookend(&world, &["session", "invalidate", crate::standins::KEY]).ended(End::Code(0));
    // As if the clock had been set back between the start and this.
    change(&world, "UPDATE session_invalidation SET at = '2001-01-01T00:00:00.000Z'");
    go.write_line("now");
    run.wait().ended(End::Code(0));
    assert_eq!(linked(&world), None);
}

#[test]
fn a_clock_beyond_the_year_9999_breaks_no_command() {
    let test = "a_clock_beyond_the_year_9999_breaks_no_command";
    let Some(world) = World::of_bookend(test) else { return };
    let Some(library) = faketime(test) else { return };
    // 12000-01-01, which the time format of the ledger cannot express.
    let far = "316516204800";
    at(world.run(["true"]).options(["--id", "far"]), &library, far).run().ended(End::Code(0)).silent();
    let row = world.row();
    assert_eq!(row.ending(), "success/");
    assert!(row.text("started_at").starts_with("9999-12-30"), "{}", row.text("started_at"));
    for words in [
        &["list"][..],
        &["show", "far"],
        &["audit"],
        &["timeline"],
        &["stats"],
        &["session", "list"],
        &["recover"],
        &["prune", "--dry-run"],
        &[],
    ] {
        let command = world.bare(["bookend"].iter().chain(words).copied());
        at(command, &library, far).run().ended(End::Code(0)).silent();
    }
}

#[test]
fn prune_keeps_recent_tasks_after_the_clock_was_set_forward() {
    let test = "prune_keeps_recent_tasks_after_the_clock_was_set_forward";
    let Some(world) = World::of_bookend(test) else { return };
    let Some(library) = faketime(test) else { return };
    world.run(["true"]).options(["--id", "short", "--retention", "1h"]).run().ended(End::Code(0));
    world.run(["true"]).options(["--id", "year"]).run().ended(End::Code(0));
    let prune = |words: &[&str]| {
        let words = ["bookend", "prune"].iter().chain(words).copied();
        let two_years_on = std::time::SystemTime::now() + std::time::Duration::from_secs(2 * 366 * 86_400);
        let since = two_years_on.duration_since(std::time::UNIX_EPOCH).expect("a time after 1970");
        at(world.bare(words), &library, &since.as_secs().to_string()).run().ended(End::Code(0));
    };
    prune(&["--retention", "30d"]);
    assert_eq!(world.rows().len(), 2);
    // prune trusts the clock up to a day after the newest row.
    prune(&[]);
    assert_eq!(world.row().text("id"), "year");
}

#[test]
fn prune_treats_a_task_of_1970_as_old_as_its_predecessor() {
    let Some(world) = World::of_bookend("prune_treats_a_task_of_1970_as_old_as_its_predecessor") else {
        return;
    };
    for id in ["before", "epoch", "epoch-too", "after"] {
        world.run(["true"]).options(["--id", id]).run().ended(End::Code(0));
    }
    let epoch = "1970-01-01T00:00:05.000Z";
    change(
        &world,
        &format!(
            "UPDATE task_history SET started_at = '{epoch}', finished_at = '{epoch}',
                 last_seen_at = '{epoch}', cleanup_after = '1971-01-01T00:00:05.000Z' WHERE id LIKE 'epoch%'"
        ),
    );
    for words in [&["prune", "--json"][..], &["prune", "--json", "--retention", "30d"]] {
        assert_eq!(json(&world, words)["removed"], 0);
    }
    // Once the task before them is old, they are old as well.
    let old = "2001-01-01T00:00:00.000Z";
    change(
        &world,
        &format!("UPDATE task_history SET started_at = '{old}', last_seen_at = '{old}' WHERE id = 'before'"),
    );
    assert_eq!(json(&world, &["prune", "--json", "--retention", "30d"])["removed"], 3);
    assert_eq!(world.row().text("id"), "after");
}

#[test]
fn prune_treats_first_tasks_of_1970_as_old_as_their_successor() {
    let Some(world) = World::of_bookend("prune_treats_first_tasks_of_1970_as_old_as_their_successor") else {
        return;
    };
    for id in ["epoch", "epoch-too", "after"] {
        world.run(["true"]).options(["--id", id]).run().ended(End::Code(0));
    }
    let date = |ids: &str, at: &str, cleanup: &str| {
        let sql = "UPDATE task_history SET started_at = '{at}', finished_at = '{at}', last_seen_at = '{at}',
                       cleanup_after = '{cleanup}' WHERE id LIKE '{ids}'";
        change(&world, &sql.replace("{at}", at).replace("{cleanup}", cleanup).replace("{ids}", ids));
    };
    date("epoch%", "1970-01-01T00:00:05.000Z", "1971-01-01T00:00:05.000Z");
    for words in [&["prune", "--json"][..], &["prune", "--json", "--retention", "30d"]] {
        assert_eq!(json(&world, words)["removed"], 0);
    }
    world.run(["true"]).options(["--id", "new"]).run().ended(End::Code(0));
    date("after", "2001-01-01T00:00:00.000Z", "2002-01-01T00:00:00.000Z");
    assert_eq!(json(&world, &["prune", "--json"])["removed"], 3);
    assert_eq!(world.row().text("id"), "new");
}
