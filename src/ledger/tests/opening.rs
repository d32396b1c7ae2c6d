//! Opening a ledger: concurrent creation, private modes, refusals, versions, readers.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, Uid, chown, geteuid};
use rusqlite::Connection;

use super::{World, ended, location, new_task, start};
use crate::ledger::{ChosenBy, FinishOutcome, Ledger, LedgerError, Location, ProgressUpdate};

use crate::task::{Ending, SessionTotals, TaskFilter, TaskId, Time, UsageCounts};

const CHILD_FILE: &str = "BOOKEND_TEST_CHILD_FILE";
const CHILD_ID: &str = "BOOKEND_TEST_CHILD_ID";
const NOBODY: u32 = 65534;

fn mode(path: impl AsRef<Path>) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// A process that runs one of the ignored tests of this file.
fn this_program(test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "--ignored", &format!("ledger::tests::opening::{test}")]).stdout(Stdio::null());
    command
}

fn run_one_task(file: &Path, id: &str) {
    let mut ledger = Ledger::open(&location(file)).unwrap().0;
    let slot = ledger.spool_slot(&TaskId::recorded(id)).unwrap();
    let _live = start(&mut ledger, &new_task(id, Some(id)));
    let finished = ledger.finish(&TaskId::recorded(id), &ended(Ending::Success), "run").unwrap();
    assert_eq!(finished, FinishOutcome::Done { invalidated: None });
    slot.free().release().unwrap();
}

fn assert_all_succeeded(world: &World, n: usize) {
    let ledger = world.open();
    let done = TaskFilter::of(crate::task::Status::Success);
    assert_eq!(ledger.tasks(&done).unwrap().len(), n);
    let check: String = world.raw().query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn sixty_four_threads_create_the_ledger_at_once() {
    let world = World::new();
    std::thread::scope(|scope| {
        for n in 0..64 {
            let file = world.file();
            scope.spawn(move || run_one_task(&file, &format!("task-{n}")));
        }
    });
    assert_all_succeeded(&world, 64);
}

#[test]
fn sixty_four_processes_create_the_ledger_at_once() {
    let world = World::new();
    let children: Vec<_> = (0..64)
        .map(|n| {
            this_program("child_runs_one_task")
                .env(CHILD_FILE, world.file())
                .env(CHILD_ID, format!("task-{n}"))
                .spawn()
                .unwrap()
        })
        .collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    assert_all_succeeded(&world, 64);
}

#[test]
#[ignore = "a process of another test"]
fn child_runs_one_task() {
    if let (Some(file), Ok(id)) = (std::env::var_os(CHILD_FILE), std::env::var(CHILD_ID)) {
        run_one_task(Path::new(&file), &id);
    }
}

#[test]
fn every_created_file_is_private_whatever_the_umask() {
    for mask in ["0", "777"] {
        let world = World::new();
        let dir = world.dir.path().join("a/b");
        let file = dir.join("bookend.db");
        let status = this_program("child_creates_all_files")
            .env(CHILD_FILE, &file)
            .env(CHILD_ID, mask)
            .status()
            .unwrap();
        assert!(status.success());
        let private = dir.join("bookend.db.d");
        let spool = private.join("spool");
        for path in [&world.dir.path().join("a"), &dir, &private, &spool] {
            assert_eq!(mode(path), 0o700, "{}", path.display());
        }
        for path in [
            &file,
            &dir.join("bookend.db-wal"),
            &dir.join("bookend.db-shm"),
            &private.join("live"),
            &spool.join("t.json"),
        ] {
            assert_eq!(mode(path), 0o600, "{}", path.display());
        }
        assert_eq!(mode(spool.join(".u.slot")) & 0o077, 0);
    }
}

#[test]
#[ignore = "the process of another test, with its own umask"]
fn child_creates_all_files() {
    if let (Some(file), Ok(mask)) = (std::env::var_os(CHILD_FILE), std::env::var(CHILD_ID)) {
        umask(Mode::from_bits_truncate(u32::from_str_radix(&mask, 8).unwrap()));
        let mut ledger = Ledger::open(&location(Path::new(&file))).unwrap().0;
        let _live = start(&mut ledger, &new_task("t", None));
        let mut slot = ledger.spool_slot(&TaskId::recorded("t")).unwrap();
        slot.write(&ended(Ending::Success), "run").unwrap();
        drop(ledger.spool_slot(&TaskId::recorded("u")).unwrap());
    }
}

#[test]
fn wider_modes_of_existing_files_are_tightened() {
    let world = World::new();
    let dir = world.dir.path().join("bookend");
    let at = Location { file: dir.join("bookend.db"), chosen_by: ChosenBy::Default };
    let ledger = Ledger::open(&at).unwrap().0;
    drop(ledger.hold_live().unwrap());
    drop(ledger);
    let private = dir.join("bookend.db.d");
    let files = [
        dir.join("bookend.db"),
        dir.join("bookend.db-wal"),
        dir.join("bookend.db-shm"),
        private.join("live"),
    ];
    let dirs = [dir.clone(), private.clone(), private.join("spool")];
    files.iter().for_each(|f| chmod(f, 0o666));
    dirs.iter().for_each(|d| chmod(d, 0o755));
    let ledger = Ledger::open(&at).unwrap().0;
    drop(ledger.hold_live().unwrap());
    for file in &files {
        assert_eq!(mode(file), 0o600, "{}", file.display());
    }
    for dir in &dirs {
        assert_eq!(mode(dir), 0o700, "{}", dir.display());
    }
}

#[test]
fn a_directory_that_the_user_named_keeps_its_mode() {
    let world = World::new();
    chmod(world.dir.path(), 0o755);
    drop(world.open());
    assert_eq!(mode(world.dir.path()), 0o755);
    assert_eq!(mode(world.file()), 0o600);
}

#[test]
fn an_adopted_file_keeps_its_mode() {
    let world = World::new();
    drop(world.open());
    world.raw().execute("INSERT INTO bookend_setting VALUES ('adopted', '1')", []).unwrap();
    chmod(world.file(), 0o640);
    drop(world.open());
    assert_eq!(mode(world.file()), 0o640);
}

#[test]
fn a_world_writable_directory_is_refused_by_name_unless_sticky() {
    let world = World::new();
    chmod(world.dir.path(), 0o777);
    let refusal = Ledger::open(&world.at()).unwrap_err();
    assert!(matches!(refusal, LedgerError::WorldWritable { .. }));
    let message = refusal.to_string();
    assert!(message.contains(world.dir.path().to_str().unwrap()));
    assert!(refusal.hint().is_some_and(|hint| hint.contains("chmod o-w")));
    assert!(!world.file().exists());
    chmod(world.dir.path(), 0o1777);
    drop(world.open());
}

#[test]
fn a_file_of_another_user_is_refused_with_its_path() {
    if !geteuid().is_root() {
        eprintln!("skipped: only root can give a directory away");
        return;
    }
    let give = |path: &Path| {
        chown(path, Some(Uid::from_raw(NOBODY)), Some(Gid::from_raw(NOBODY))).unwrap();
    };
    let world = World::new();
    give(world.dir.path());
    let refusal = Ledger::open(&world.at()).unwrap_err();
    assert!(matches!(refusal, LedgerError::ForeignDirectory { owner: NOBODY, .. }));

    let world = World::new();
    drop(world.open());
    for path in [world.file(), world.at().private_dir()] {
        give(&path);
        let refusal = Ledger::open(&world.at()).unwrap_err();
        assert!(matches!(refusal, LedgerError::ForeignFile { owner: NOBODY, .. }));
        chown(&path, Some(geteuid()), None).unwrap();
    }
}

#[test]
fn a_symbolic_link_in_place_of_any_file_is_refused() {
    let world = World::new();
    drop(world.open());
    let private = world.at().private_dir();
    let aside = world.dir.path().join("aside");
    for path in [world.file(), private.clone(), private.join("spool")] {
        fs::rename(&path, &aside).unwrap();
        symlink(&aside, &path).unwrap();
        let refusal = Ledger::open(&world.at()).unwrap_err();
        assert!(matches!(refusal, LedgerError::Symlink { .. }), "{refusal}");
        fs::remove_file(&path).unwrap();
        fs::rename(&aside, &path).unwrap();
    }
    let log = world.dir.path().join("bookend.db-wal");
    fs::remove_file(&log).unwrap();
    symlink(world.file(), &log).unwrap();
    let refusal = Ledger::open(&world.at()).unwrap_err();
    assert!(matches!(refusal, LedgerError::Symlink { .. }));
}

#[test]
fn a_path_that_is_not_a_regular_file_is_refused() {
    let world = World::new();
    fs::create_dir(world.file()).unwrap();
    let refusal = Ledger::open(&world.at()).unwrap_err();
    assert!(matches!(refusal, LedgerError::IsDirectory { .. }));
    fs::remove_dir(world.file()).unwrap();
    nix::unistd::mkfifo(&world.file(), Mode::S_IRWXU).unwrap();
    for refusal in [Ledger::open(&world.at()).unwrap_err(), Ledger::open_read_only(&world.at()).unwrap_err()]
    {
        assert!(matches!(refusal, LedgerError::WrongType { .. }));
    }
}

#[test]
fn a_newer_ledger_is_refused_with_both_versions() {
    let world = World::new();
    drop(world.open());
    world.raw().execute("INSERT INTO bookend_migration VALUES (99, '')", []).unwrap();
    for refusal in [Ledger::open(&world.at()).unwrap_err(), Ledger::open_read_only(&world.at()).unwrap_err()]
    {
        assert!(matches!(refusal, LedgerError::Newer { ledger: 99, program: 5, .. }));
        let message = refusal.to_string();
        assert!(message.contains("version 99") && message.contains("up to 5"), "{message}");
    }
}

#[test]
fn a_file_of_another_program_is_refused_and_unchanged() {
    let world = World::new();
    world.raw().execute_batch("CREATE TABLE task_history (id TEXT)").unwrap();
    let before = fs::read(world.file()).unwrap();
    let refusal = Ledger::open(&world.at()).unwrap_err();
    assert!(matches!(refusal, LedgerError::NotALedger { .. }), "{refusal}");
    assert_eq!(fs::read(world.file()).unwrap(), before);

    fs::write(world.file(), "notes, not a database\n".repeat(40)).unwrap();
    let refusal = Ledger::open(&world.at()).unwrap_err();
    assert!(matches!(refusal, LedgerError::Database { .. }), "{refusal}");
}

#[test]
fn an_empty_file_becomes_a_ledger() {
    let world = World::new();
    fs::write(world.file(), "").unwrap();
    assert!(Ledger::open_read_only(&world.at()).unwrap().is_none());
    drop(world.open());
    assert!(Ledger::open_read_only(&world.at()).unwrap().is_some());
}

#[test]
fn the_log_of_a_deleted_ledger_is_not_used_by_a_new_one() {
    let world = World::new();
    run_one_task(&world.file(), "old");
    fs::remove_file(world.file()).unwrap();
    let ledger = world.open();
    assert!(ledger.tasks(&TaskFilter::default()).unwrap().is_empty());
    let kept = fs::read_dir(world.at().private_dir())
        .unwrap()
        .filter(|e| {
            let name = e.as_ref().unwrap().file_name();
            name.to_str().unwrap().starts_with("stray-wal.")
        })
        .count();
    assert_eq!(kept, 1);
}

#[test]
fn an_interrupted_creation_does_not_prevent_the_next_one() {
    let world = World::new();
    drop(world.open());
    let draft = world.at().private_dir().join("new.db");
    fs::remove_file(world.file()).unwrap();
    fs::write(&draft, "half a ledger").unwrap();
    fs::write(draft.with_extension("db-wal"), "and its log").unwrap();
    run_one_task(&world.file(), "t");
    assert!(!draft.exists());
}

#[test]
fn a_long_log_is_emptied_once_no_process_reads_an_older_state() {
    let world = World::new();
    let mut ledger = world.open();
    let _live = start(&mut ledger, &new_task("t", None));
    let mut progress = || {
        let seen = ProgressUpdate {
            session_totals: SessionTotals::default(),
            model: None,
            tool_in_flight: None,
            at: Time::now(),
        };
        ledger.progress(&TaskId::recorded("t"), &UsageCounts::default(), &seen).unwrap();
        fs::metadata(world.dir.path().join("bookend.db-wal")).unwrap().len()
    };
    let reader = world.raw();
    reader.execute_batch("BEGIN; SELECT * FROM task_history").unwrap();
    // Another program, which does not truncate the log.
    let writer = world.raw();
    let bulk = "CREATE TABLE bulk (x); INSERT INTO bulk VALUES (zeroblob(5000000))";
    writer.execute_batch(&format!("PRAGMA wal_autocheckpoint = 0; {bulk}")).unwrap();
    assert!(progress() > 5_000_000);
    reader.execute_batch("COMMIT").unwrap();
    assert_eq!(progress(), 0);
}

#[test]
fn a_ledger_is_durable_and_keeps_its_log() {
    let world = World::new();
    let ledger = world.open();
    let pragma = |name: &str| -> String {
        ledger
            .conn
            .pragma_query_value(None, name, |row| {
                row.get::<_, String>(0).or_else(|_| row.get::<_, i64>(0).map(|n| n.to_string()))
            })
            .unwrap()
    };
    assert_eq!(pragma("journal_mode"), "wal");
    assert_eq!(pragma("mmap_size"), "0");
    drop(ledger);
    run_one_task(&world.file(), "t");
    let log = world.dir.path().join("bookend.db-wal");
    assert!(fs::metadata(log).unwrap().len() > 0);
    assert!(world.dir.path().join("bookend.db-shm").exists());
}

#[test]
fn the_log_does_not_grow_with_lone_runs() {
    let world = World::new();
    for n in 0..100 {
        run_one_task(&world.file(), &format!("task-{n}"));
    }
    let log = fs::metadata(world.dir.path().join("bookend.db-wal")).unwrap();
    assert!(log.len() < 1024 * 1024, "{}", log.len());
    assert_all_succeeded(&world, 100);
}

#[test]
fn reading_creates_nothing() {
    let world = World::new();
    assert!(Ledger::open_read_only(&world.at()).unwrap().is_none());
    assert_eq!(fs::read_dir(world.dir.path()).unwrap().count(), 0);
    let nowhere = location(&world.dir.path().join("no/such/dir/l.db"));
    assert!(Ledger::open_read_only(&nowhere).unwrap().is_none());
}

#[test]
fn a_reader_sees_what_writers_commit_meanwhile() {
    let world = World::new();
    let mut writer = world.open();
    let reader = Ledger::open_read_only(&world.at()).unwrap().unwrap();
    let _live = start(&mut writer, &new_task("t", None));
    let claim = writer.claim().unwrap();
    assert_eq!(reader.tasks(&TaskFilter::default()).unwrap().len(), 1);
    drop(claim);
}

#[test]
fn a_reader_without_write_permission_sees_the_last_commit() {
    let world = World::new();
    run_one_task(&world.file(), "seen");
    chmod(world.dir.path(), 0o755);
    for name in ["bookend.db", "bookend.db-wal", "bookend.db-shm"] {
        chmod(world.dir.path().join(name), 0o644);
    }
    let mut child = this_program("child_reads");
    child.env(CHILD_FILE, world.file());
    if geteuid().is_root() {
        child.uid(NOBODY).gid(NOBODY);
    } else {
        chmod(world.dir.path(), 0o555);
        for name in ["bookend.db", "bookend.db-wal", "bookend.db-shm"] {
            chmod(world.dir.path().join(name), 0o444);
        }
    }
    match child.stdout(Stdio::piped()).output() {
        Ok(done) => {
            let message = String::from_utf8_lossy(&done.stdout).into_owned();
            assert!(done.status.success() && message.contains("1 passed"), "{message}");
        }
        Err(e) => eprintln!("skipped: another user cannot execute the test program: {e}"),
    }
    chmod(world.dir.path(), 0o700);
}

#[test]
#[ignore = "the reader of another test"]
fn child_reads() {
    if let Some(file) = std::env::var_os(CHILD_FILE) {
        assert!(fs::OpenOptions::new().write(true).open(&file).is_err());
        let ledger = Ledger::open_read_only(&location(Path::new(&file))).unwrap().unwrap();
        assert_eq!(ledger.tasks(&TaskFilter::default()).unwrap()[0].id, "seen");
    }
}

#[test]
fn an_older_ledger_is_not_migrated_by_a_reader() {
    let world = World::new();
    drop(world.open());
    world.raw().execute("DELETE FROM bookend_migration", []).unwrap();
    let refusal = Ledger::open_read_only(&world.at()).unwrap_err();
    assert!(matches!(refusal, LedgerError::Older { ledger: 0, program: 5, .. }));
}

#[test]
fn a_writer_waits_for_another_program_in_wal_mode() {
    let world = World::new();
    let mut ledger = world.open();
    let other = Connection::open(world.file()).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            std::thread::sleep(std::time::Duration::from_millis(300));
            other.execute_batch("COMMIT").unwrap();
        });
        drop(start(&mut ledger, &new_task("t", None)));
    });
}

#[test]
fn no_connection_trusts_the_schema_and_readers_disable_views() {
    use rusqlite::config::DbConfig::{
        SQLITE_DBCONFIG_DEFENSIVE, SQLITE_DBCONFIG_ENABLE_VIEW, SQLITE_DBCONFIG_TRUSTED_SCHEMA,
    };
    let world = World::new();
    let writer = world.open();
    let reader = Ledger::open_read_only(&world.at()).unwrap().unwrap();
    for ledger in [&writer, &reader] {
        assert!(ledger.conn.db_config(SQLITE_DBCONFIG_DEFENSIVE).unwrap());
        assert!(!ledger.conn.db_config(SQLITE_DBCONFIG_TRUSTED_SCHEMA).unwrap());
    }
    assert!(
        writer.conn.db_config(SQLITE_DBCONFIG_ENABLE_VIEW).unwrap(),
        "another program's triggers use them"
    );
    assert!(!reader.conn.db_config(SQLITE_DBCONFIG_ENABLE_VIEW).unwrap());
}
