//! The file of the ledger: untrusted paths are refused by name, new files are private, and runs may start at
//! the same time.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use rusqlite::Connection;

use crate::harness::{Cmd, End, STREAM, World, eventually, is_root, on_path, possible};

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("metadata").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a mode");
}

/// Runs a command whose ledger cannot be opened: no agent starts, and the error contains `parts`.
fn refused(world: &World, command: Cmd<'_>, parts: &[&str]) {
    let output = command.run().ended(End::Code(125));
    for part in parts {
        assert!(output.stderr.contains(part), "{part:?} in {}", output.stderr);
    }
    assert_eq!(output.stdout, "");
    assert!(!world.path("tmp/effect").exists(), "the agent ran");
}

/// `touch tmp/effect` with a ledger at this path in the world.
fn touch<'w>(world: &'w World, ledger: &str) -> Cmd<'w> {
    world.run(["touch", &world.name("tmp/effect")]).options(["--ledger", &world.name(ledger)])
}

#[test]
fn a_world_writable_directory_is_refused() {
    let Some(world) = World::of_bookend("a_world_writable_directory_is_refused") else { return };
    fs::create_dir(world.path("open")).expect("a directory");
    set_mode(&world.path("open"), 0o777);
    refused(&world, touch(&world, "open/l.db"), &[&world.name("open"), "all users", "--ledger"]);
    // In a sticky directory, such as /tmp, users cannot replace each other's files.
    set_mode(&world.path("open"), 0o1777);
    touch(&world, "open/l.db").run().ended(End::Code(0)).silent();

    let own = world.path("state/bookend");
    fs::create_dir(&own).expect("a directory");
    set_mode(&own, 0o777);
    fs::remove_file(world.path("tmp/effect")).expect("the effect");
    let command = world.run(["touch", &world.name("tmp/effect")]);
    refused(&world, command, &[&world.name("state/bookend"), "all users"]);
}

#[test]
fn a_ledger_of_another_user_is_refused() {
    let test = "a_ledger_of_another_user_is_refused";
    if !possible(test, is_root(), "root, to give a directory away") {
        return;
    }
    let Some(world) = World::of_bookend(test) else { return };
    let make = |name: &str| fs::create_dir(world.path(name)).expect("a directory");
    let give = |name: &str| chown(world.path(name), Some(65534), None).expect("another owner");
    make("theirs");
    give("theirs");
    refused(&world, touch(&world, "theirs/l.db"), &[&world.name("theirs"), "65534", "uid 0"]);

    make("ours");
    touch(&world, "ours/l.db").run().ended(End::Code(0));
    fs::remove_file(world.path("tmp/effect")).expect("the effect");
    give("ours/l.db");
    refused(&world, touch(&world, "ours/l.db"), &[&world.name("ours/l.db"), "65534"]);
    chown(world.path("ours/l.db"), Some(0), None).expect("the first owner");
    give("ours/l.db.d");
    refused(&world, touch(&world, "ours/l.db"), &[&world.name("ours/l.db.d"), "65534"]);
}

#[test]
fn symbolic_links_are_not_followed() {
    let Some(world) = World::of_bookend("symbolic_links_are_not_followed") else { return };
    touch(&world, "real.db").run().ended(End::Code(0)).silent();
    fs::remove_file(world.path("tmp/effect")).expect("the effect");
    for (link, to) in [("link.db", "real.db"), ("dangling.db", "nowhere.db")] {
        symlink(world.path(to), world.path(link)).expect("a link");
        refused(&world, touch(&world, link), &[&world.name(link), "symbolic link"]);
    }
    assert!(!world.path("nowhere.db").exists());
    assert_eq!(world.sql_of("real.db", "SELECT * FROM task_history").len(), 1);

    symlink(world.path("tmp"), world.path("other.db.d")).expect("a link");
    refused(&world, touch(&world, "other.db"), &[&world.name("other.db.d"), "symbolic link"]);
}

#[test]
fn a_file_that_is_not_a_ledger_is_refused_and_unchanged() {
    let Some(world) = World::of_bookend("a_file_that_is_not_a_ledger_is_refused_and_unchanged") else {
        return;
    };
    fs::create_dir(world.path("folder.db")).expect("a directory");
    refused(&world, touch(&world, "folder.db"), &[&world.name("folder.db"), "directory"]);

    world.fifo("pipe.db");
    refused(&world, touch(&world, "pipe.db"), &[&world.name("pipe.db"), "regular file"]);

    let text = "these are notes, not a database\n".repeat(200);
    fs::write(world.path("notes.db"), &text).expect("a file");
    refused(&world, touch(&world, "notes.db"), &[&world.name("notes.db"), "not an SQLite database"]);
    assert_eq!(fs::read_to_string(world.path("notes.db")).expect("the notes"), text);

    let other = Connection::open(world.path("other.db")).expect("a database");
    other.execute_batch("CREATE TABLE pets (name TEXT); INSERT INTO pets VALUES ('rex')").expect("a table");
    drop(other);
    refused(&world, touch(&world, "other.db"), &[&world.name("other.db"), "not a bookend ledger"]);
    let pets = world.sql_of("other.db", "SELECT * FROM sqlite_schema");
    assert_eq!(pets.len(), 1, "bookend has created no tables in it");

    fs::write(world.path("plain"), "x").expect("a file");
    refused(&world, touch(&world, "plain/l.db"), &[&world.name("plain")]);
}

#[test]
fn a_damaged_ledger_is_refused() {
    let Some(world) = World::of_bookend("a_damaged_ledger_is_refused") else { return };
    world.run(["true"]).run().ended(End::Code(0));
    world.change("PRAGMA wal_checkpoint(TRUNCATE)").expect("a checkpoint");
    let mut bytes = fs::read(world.ledger()).expect("the ledger");
    // All except the header, which holds the format and the number of pages.
    bytes[100..].fill(0xa5);
    fs::write(world.ledger(), &bytes).expect("the damage");
    let command = world.run(["touch", &world.name("tmp/effect")]);
    refused(&world, command, &[&world.ledger().display().to_string(), "malformed"]);
    assert!(fs::read(world.ledger()).expect("the ledger") == bytes, "the file is unchanged");
}

#[test]
fn a_newer_ledger_is_refused_with_both_versions() {
    let Some(world) = World::of_bookend("a_newer_ledger_is_refused_with_both_versions") else { return };
    world.run(["true"]).run().ended(End::Code(0));
    world.change("INSERT INTO bookend_migration VALUES (4711, 'later')").expect("a migration");
    let command = world.run(["touch", &world.name("tmp/effect")]);
    refused(&world, command, &[&world.ledger().display().to_string(), "4711", "versions up to"]);
}

#[test]
fn a_directory_that_cannot_be_written_to_is_refused() {
    let Some((world, specs)) = World::unprivileged("a_directory_that_cannot_be_written_to_is_refused") else {
        return;
    };
    let command = || world.run(["touch", &world.name("tmp/effect")]).with(&specs);
    set_mode(&world.path("state"), 0o555);
    refused(&world, command(), &[&world.name("state/bookend"), "ermission denied"]);
    set_mode(&world.path("state"), 0o755);

    command().run().ended(End::Code(0)).silent();
    fs::remove_file(world.path("tmp/effect")).expect("the effect");
    set_mode(&world.ledger(), 0o400);
    refused(&world, command(), &[&world.ledger().display().to_string()]);
    assert_eq!(world.rows().len(), 1);
}

fn assert_private(folder: &Path) {
    assert_eq!(mode(folder), 0o700, "{}", folder.display());
    for entry in fs::read_dir(folder).expect("a directory").flatten() {
        if entry.path().is_dir() {
            assert_private(&entry.path());
        } else if entry.path().extension().is_some_and(|e| e == "slot") {
            // An empty slot has the mode 0600 without the bits of the umask.
            assert_eq!(mode(&entry.path()) & !0o600, 0, "{}", entry.path().display());
        } else {
            assert_eq!(mode(&entry.path()), 0o600, "{}", entry.path().display());
        }
    }
}

#[test]
fn modes_are_private_whatever_the_umask() {
    for umask in ["000", "022", "777"] {
        let Some((world, mut specs)) = World::unprivileged("modes_are_private_whatever_the_umask") else {
            return;
        };
        specs.push(format!("umask={umask}"));
        let mut up = world.fifo("home/up");
        set_mode(&world.path("home/up"), 0o666);
        let process = world.run(["probe", "stay", &up.path()]).with(&specs).start();
        up.pid("stay");
        // During a run, the log, its index and the spool file exist too.
        assert_private(&world.path("state/bookend"));
        process.signal(rustix::process::Signal::TERM);
        process.wait().ended(End::Signal(15));
        assert_private(&world.path("state/bookend"));
    }
}

#[test]
fn wider_modes_are_made_private() {
    let Some(world) = World::of_bookend("wider_modes_are_made_private") else { return };
    let (mut up, mut end) = (world.fifo("up"), world.fifo("end"));
    let script = format!("echo up $$ >{}; read x <{}", up.path(), end.path());
    let holder = world.run_sh(&script).start();
    up.pid("up");
    let folder = world.path("state/bookend");
    for name in ["bookend.db", "bookend.db-wal", "bookend.db-shm", "bookend.db.d/live"] {
        set_mode(&folder.join(name), 0o666);
    }
    for name in ["bookend.db.d", "bookend.db.d/spool"] {
        set_mode(&folder.join(name), 0o755);
    }
    set_mode(&folder, 0o755);
    world.run(["true"]).run().ended(End::Code(0)).silent();
    assert_private(&folder);
    end.write_line("now");
    holder.wait().ended(End::Code(0)).silent();
}

#[test]
fn sixty_four_concurrent_first_runs_create_one_ledger() {
    let Some(world) = World::of_bookend("sixty_four_concurrent_first_runs_create_one_ledger") else { return };
    let all: Vec<_> = (0..64).map(|n| world.run(["probe", "exit", &(n % 3).to_string()]).start()).collect();
    for (n, process) in all.into_iter().enumerate() {
        process.wait().ended(End::Code(n as i32 % 3)).silent();
    }
    let rows = world.rows();
    assert_eq!(rows.len(), 64);
    let successes = rows.iter().filter(|r| r.ending() == "success/").count();
    let failures = rows.iter().filter(|r| r.ending() == "failure/exit").count();
    assert_eq!((successes, failures), (22, 42));
    let check = world.sql("PRAGMA integrity_check");
    assert_eq!(check[0].text("integrity_check"), "ok");
    assert_eq!(world.sql("SELECT * FROM task_transition").len(), 128, "two transitions each");
    let waiting = fs::read_dir(world.path("state/bookend/bookend.db.d/spool")).expect("the spool").count();
    assert_eq!(waiting, 0, "the spool is empty");
}

/// The size of the ledger's log in bytes.
fn log(world: &World) -> u64 {
    fs::metadata(world.path("state/bookend/bookend.db-wal")).map_or(0, |m| m.len())
}

/// A read transaction of another program, open until the connection is dropped.
fn long_read(world: &World) -> Connection {
    let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
    let reader = Connection::open_with_flags(world.ledger(), flags).expect("the ledger");
    reader.execute_batch("BEGIN; SELECT count(*) FROM task_history").expect("a read");
    reader
}

#[test]
fn a_log_that_grew_during_a_long_read_shrinks_after_it() {
    let Some(world) = World::of_bookend("a_log_that_grew_during_a_long_read_shrinks_after_it") else {
        return;
    };
    let words = "x".repeat(100_000);
    let run = || drop(world.run(["true", &words, &words]).run().ended(End::Code(0)).silent());
    // Some logs stay as short as usual, some become so long that they are cut.
    for long in [2 << 20, 5 << 20] {
        run();
        let reader = long_read(&world);
        while log(&world) < long {
            run();
        }
        run();
        assert!(log(&world) > long, "the log grows during the read, and no writer waits");
        drop(reader);
        run();
        run();
        assert!(log(&world) <= 1 << 20, "{} bytes without a reader", log(&world));
    }
    assert_eq!(world.sql("PRAGMA integrity_check")[0].text("integrity_check"), "ok");
}

#[test]
fn progress_does_not_wait_for_the_disk() {
    let test = "progress_does_not_wait_for_the_disk";
    if !possible(test, on_path("strace"), "strace") {
        return;
    }
    // The syncs of a run: for its row at the start and at the end, and for its session.
    let syncs = |turns: &str| {
        let world = World::of_bookend(test)?;
        let mut go = world.fifo("go");
        world.stand_in("claude", &format!("init $id; {turns} read x <../go; result $id 1"));
        let trace = world.name("trace");
        let traced = ["strace", "-qq", "-e", "trace=fsync,fdatasync", "-o", &trace, "bookend", "run", "--"];
        let process = world.bare(traced.iter().chain(&STREAM)).start();
        let counted =
            || world.ledger().exists() && world.rows().iter().any(|r| r.text("input_tokens") == "7");
        eventually(world.deadline(), "the counts", || turns.is_empty() || counted());
        go.write_line("on");
        process.wait().ended(End::Code(0)).silent();
        Some(fs::read_to_string(trace).expect("the trace").lines().count())
    };
    let (silent, printing) = (syncs(""), syncs("turn $id m 7 9;"));
    assert!(silent.is_none_or(|n| n > 1), "{silent:?} syncs of a run");
    // Fewer if the counts are part of the session's commit.
    assert!(printing <= silent, "{printing:?} syncs with output, {silent:?} without");
}

#[test]
fn a_ledger_is_chosen_by_option_then_variable_then_state_directory() {
    let Some(world) = World::of_bookend("a_ledger_is_chosen_by_option_then_variable_then_state_directory")
    else {
        return;
    };
    fs::create_dir(world.path("service")).expect("a directory");
    let count = |name: &str| world.sql_of(name, "SELECT * FROM task_history").len();
    let run = |options: &[&str]| {
        let command = world.run(["true"]).options(options.iter().copied());
        command.env("STATE_DIRECTORY", world.path("service"))
    };
    run(&[]).run().ended(End::Code(0)).silent();
    assert_eq!(count("service/bookend.db"), 1);
    run(&[]).env("BOOKEND_LEDGER", world.path("named.db")).run().ended(End::Code(0)).silent();
    let option = ["--ledger", &world.name("option.db")];
    run(&option).env("BOOKEND_LEDGER", world.path("named.db")).run().ended(End::Code(0)).silent();
    assert_eq!([count("service/bookend.db"), count("named.db"), count("option.db")], [1, 1, 1]);
    assert!(!world.ledger().exists());
}
