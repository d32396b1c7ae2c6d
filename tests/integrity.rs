//! No end is lost silently, even if the disk is full or the ledger's files are deleted, replaced or truncated
//! during the run. bookend refuses a ledger with a second name.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use rusqlite::Connection;

use crate::harness::{End, Output, World, is_root, on_path, possible};
use crate::spool::{Tmpfs, Waiting, records};
use crate::standins::{bookend, recover};

fn state(world: &World) -> PathBuf {
    world.path("state/bookend")
}

fn spool(world: &World) -> PathBuf {
    state(world).join("bookend.db.d/spool")
}

fn beside(world: &World, suffix: &str) -> PathBuf {
    state(world).join(format!("bookend.db{suffix}"))
}

/// Copies the log into the file and keeps the frames of the log.
fn checkpoint(world: &World) {
    let ledger = Connection::open(world.ledger()).expect("the ledger");
    let copied = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(1)?, row.get::<_, i64>(2)?));
    let (all, copied) = ledger.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], copied).expect("a checkpoint");
    assert!(all > 0 && all == copied, "{copied} of {all} frames copied");
}

fn cut(path: &Path) {
    File::options().write(true).open(path).and_then(|f| f.set_len(0)).expect("a truncated file");
}

/// Damages the files during a run: the end is spooled and stderr contains `reason`.
fn end_after(world: &World, reason: &str, damage: impl FnOnce()) {
    let waiting = Waiting::start(world, |run| run);
    damage();
    let output = waiting.end(world);
    for part in [reason, "it waits in"] {
        assert!(output.stderr.contains(part), "{part:?} in {output:?}");
    }
    assert_eq!(records(&spool(world)), ["one.json"]);
}

/// The spooled record is merged into its row.
fn assert_merged(world: &World) {
    recover(world, &[]);
    let row = world.row();
    assert_eq!((row.ending().as_str(), row.number("exit_code")), ("failure/exit", Some(3)));
    assert_eq!(row.text("end_source"), "spool");
    assert!(records(&spool(world)).is_empty());
    assert_eq!(world.sql("PRAGMA integrity_check")[0].text("integrity_check"), "ok");
}

#[test]
fn an_end_is_kept_when_the_log_or_its_index_was_removed_or_truncated() {
    let remove = |path: &Path| fs::remove_file(path).expect("removed");
    for (suffix, reason) in [
        ("-wal", "its -wal was deleted"),
        ("-wal", "its -wal was truncated"),
        ("-shm", "its -shm was deleted"),
        ("-shm", "its -shm was truncated"),
    ] {
        let damage = if reason.ends_with("deleted") { remove } else { cut };
        let Some(world) =
            World::of_bookend("an_end_is_kept_when_the_log_or_its_index_was_removed_or_truncated")
        else {
            return;
        };
        end_after(&world, reason, || {
            checkpoint(&world);
            damage(&beside(&world, suffix));
        });
        assert_merged(&world);
    }
}

#[test]
fn an_end_is_kept_when_the_ledger_was_renamed_and_merged_when_it_is_renamed_back() {
    let Some(world) =
        World::of_bookend("an_end_is_kept_when_the_ledger_was_renamed_and_merged_when_it_is_renamed_back")
    else {
        return;
    };
    let away = state(&world).join("away.db");
    end_after(&world, "deleted, renamed or replaced", || {
        fs::rename(world.ledger(), &away).expect("renamed");
    });
    fs::rename(&away, world.ledger()).expect("renamed back");
    assert_merged(&world);
}

#[test]
fn an_end_is_kept_when_the_ledger_was_deleted_or_replaced() {
    let delete = |world: &World| {
        for suffix in ["", "-wal", "-shm"] {
            fs::remove_file(beside(world, suffix)).expect("removed");
        }
    };
    let replace = |world: &World| {
        delete(world);
        world.run(["true"]).options(["--id", "other"]).run().ended(End::Code(0));
    };
    for damage in [&delete as &dyn Fn(&World), &replace] {
        let Some(world) = World::of_bookend("an_end_is_kept_when_the_ledger_was_deleted_or_replaced") else {
            return;
        };
        end_after(&world, "while bookend had it open", || damage(&world));
        if !world.ledger().exists() {
            let report = bookend(&world, &["recover"]).ended(End::Code(1));
            for part in ["one.json", "missing"] {
                assert!(report.stdout.contains(part), "{part:?} in {report:?}");
            }
        }
        // The new ledger has no such row, so the record is kept and reported.
        let report = world.run(["true"]).options(["--id", "next"]).run().ended(End::Code(0));
        for part in ["one", "one.kept.json"] {
            assert!(report.stderr.contains(part), "{part:?} in {report:?}");
        }
        assert_eq!(records(&spool(&world)), ["one.kept.json"]);
    }
}

#[test]
fn an_end_that_cannot_be_written_is_printed_as_json_that_can_be_merged() {
    let Some(world) =
        World::of_bookend("an_end_that_cannot_be_written_is_printed_as_json_that_can_be_merged")
    else {
        return;
    };
    // `--log stderr`: the test writes nothing to the journal of this machine.
    let waiting = Waiting::start(&world, |run| run.options(["--log", "stderr"]));
    let away = world.path("away");
    fs::rename(state(&world), &away).expect("the state directory moved away");
    let output = waiting.end(&world).stderr;
    let (error, line) = output.trim_end().rsplit_once('\n').expect("an error and a line");
    let record: serde_json::Value = serde_json::from_str(line).expect("a line of JSON");
    assert_eq!((record["task"].as_str(), record["exit_code"].as_i64()), (Some("one"), Some(3)));
    let file = spool(&world).join("one.json");
    for part in ["the end of task one (failure) is not recorded", file.to_str().expect("UTF-8")] {
        assert!(error.contains(part), "{part:?} in {error}");
    }
    // As the message says.
    fs::rename(&away, state(&world)).expect("back");
    fs::write(&file, line).expect("the record");
    assert_merged(&world);
}

/// Commits a task that is only in the log, while the running one is in the file. A reader then needs the log.
fn commit_another(world: &World) {
    checkpoint(world);
    world.run(["true"]).run().ended(End::Code(0)).silent();
}

/// Overwrites the frames of the log, as a failing disk does.
fn damage_log(world: &World) {
    let path = beside(world, "-wal");
    let mut bytes = fs::read(&path).expect("the log");
    bytes[32..].fill(0x5a);
    fs::write(path, bytes).expect("a damaged log");
}

#[test]
fn a_damaged_log_beside_a_sound_ledger_gets_its_own_hint() {
    let Some(world) = World::of_bookend("a_damaged_log_beside_a_sound_ledger_gets_its_own_hint") else {
        return;
    };
    let waiting = Waiting::start(&world, |run| run);
    commit_another(&world);
    damage_log(&world);
    for command in [&["list"][..], &["recover"], &["run", "--", "true"]] {
        let output = bookend(&world, command).ended(End::Code(125)).stderr;
        assert!(output.contains("integrity_check: ok") && !output.contains("move it away"), "{output}");
    }
    waiting.end_in_spool(&world);
    assert_merged(&world);
}

#[test]
fn a_log_that_was_truncated_is_not_reported_as_a_failing_disk() {
    let Some(world) = World::of_bookend("a_log_that_was_truncated_is_not_reported_as_a_failing_disk") else {
        return;
    };
    let waiting = Waiting::start(&world, |run| run);
    commit_another(&world);
    cut(&beside(&world, "-wal"));
    let output = bookend(&world, &["list"]).ended(End::Code(125)).stderr;
    assert!(output.contains("-wal was truncated") && !output.contains("dmesg"), "{output}");
    waiting.end_in_spool(&world);
    assert_merged(&world);
}

#[test]
fn a_limit_on_the_size_of_files_is_named() {
    let Some(world) = World::of_bookend("a_limit_on_the_size_of_files_is_named") else { return };
    world.run(["true"]).run().ended(End::Code(0)).silent();
    let script = format!("ulimit -f 16; exec bookend run -- touch {}", world.name("tmp/effect"));
    let refused = world.bare(["sh", "-c", &script]).run().ended(End::Code(125));
    assert!(refused.stderr.contains("ulimit -f") && !refused.stderr.contains("dmesg"), "{refused:?}");
    assert!(!world.path("tmp/effect").exists(), "the agent ran");
}

#[test]
fn a_backup_contains_the_log_and_overwrites_nothing() {
    let Some(world) = World::of_bookend("a_backup_contains_the_log_and_overwrites_nothing") else { return };
    let none = bookend(&world, &["backup", "none.db"]).ended(End::Code(1));
    assert!(none.stderr.contains("no ledger yet"), "{none:?}");
    let waiting = Waiting::start(&world, |run| run);
    let rows = |name: &str| world.sql_of(name, "SELECT * FROM task_history").len();
    fs::copy(world.ledger(), world.path("copied.db")).expect("a copy of the file alone");
    assert_eq!(rows("copied.db"), 0, "the row is in the log alone");

    let script = "umask 0; exec bookend backup ../backup.db";
    let output = world.bare(["sh", "-c", script]).run().ended(End::Code(0)).silent();
    assert!(output.stdout.ends_with("/backup.db\n"), "{output:?}");
    let mode = fs::metadata(world.path("backup.db")).expect("the backup").permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    assert_eq!(rows("backup.db"), 1);
    assert_eq!(world.sql_of("backup.db", "PRAGMA integrity_check")[0].text("integrity_check"), "ok");

    let before = fs::read(world.path("backup.db")).expect("the backup");
    fs::write(world.path("stray.db-wal"), "a log").expect("a stray log");
    for (name, there) in [("backup.db", "backup.db"), ("stray.db", "stray.db-wal")] {
        let refused = bookend(&world, &["backup", &world.name(name)]).ended(End::Code(125));
        has_parts(&refused, &[&world.name(there), "exists", "does not exist yet"]);
    }
    assert_eq!(fs::read(world.path("backup.db")).expect("the backup"), before);
    assert!(!world.path("stray.db").exists());
    let nowhere = bookend(&world, &["backup", &world.name("missing/backup.db")]).ended(End::Code(125));
    has_parts(&nowhere, &["writing the backup", "hint: name a file in a directory that exists"]);
    assert_eq!(waiting.end(&world).stderr, "");
}

/// Creates files until the file system has no free inode.
fn use_up_inodes(dir: &Path) {
    let full = (0..).find_map(|n| File::create(dir.join(format!("file{n}"))).err()).expect("an error");
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
}

#[test]
fn a_task_without_space_for_its_record_does_not_run() {
    let test = "a_task_without_space_for_its_record_does_not_run";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("mount"), "root, to mount a small file system") {
        return;
    }
    let disk = Tmpfs::mount(&world, "disk", "4m,nr_inodes=40");
    let ledger = world.name("disk/bookend.db");
    let run = |id: &str| {
        let command = world.run(["touch", &world.name(&format!("tmp/{id}"))]).options(["--id", id]);
        command.env("BOOKEND_LEDGER", &ledger).run()
    };
    run("first").ended(End::Code(0)).silent();
    use_up_inodes(&disk.0);
    let refused = run("second").ended(End::Code(125));
    for part in ["disk/bookend.db.d/spool", "No space left", "free some"] {
        assert!(refused.stderr.contains(part), "{part:?} in {refused:?}");
    }
    assert!(!world.path("tmp/second").exists(), "the agent ran");
    let rows = world.sql_of("disk/bookend.db", "SELECT id FROM task_history");
    assert_eq!(rows.iter().map(|r| r.text("id")).collect::<Vec<_>>(), ["first"]);
}

#[test]
fn no_end_is_lost_on_a_disk_that_fills_and_empties() {
    let test = "no_end_is_lost_on_a_disk_that_fills_and_empties";
    let Some(mut world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("mount"), "root, to mount a small file system") {
        return;
    }
    let disk = Tmpfs::mount(&world, "disk", "2m");
    let ledger = world.name("disk/bookend.db");
    let filler = disk.0.join("filler");
    let (fill, ran) = (format!("cat /dev/zero >>{} 2>/dev/null", filler.display()), world.name("ran"));
    world.run(["true"]).env("BOOKEND_LEDGER", &ledger).run().ended(End::Code(0)).silent();
    // Free space for the row but not for the record of the end, and less, and more.
    for pages in (0..20).cycle().take(60) {
        world.bare(["sh", "-c", &fill]).run();
        let full = fs::metadata(&filler).expect("the filler").len();
        let filler = File::options().write(true).open(&filler).expect("the filler");
        filler.set_len(full - pages * 4096).expect("some free space");
        // The agent fills the rest of the disk.
        let script = format!("echo ran >>{ran}; {fill}; exit 3");
        let run = world.run_sh(&script).env("BOOKEND_LEDGER", &ledger).run();
        assert!(matches!(run.end, End::Code(3 | 125)), "{run:?}");
        filler.set_len(0).expect("free space");
    }
    world.renew_deadline();
    let _ = fs::remove_file(&filler);
    recover(&world, &["--ledger", &ledger]);
    let ran = fs::read_to_string(ran).expect("the marks").lines().count();
    assert!(ran > 0);
    let ended = world.sql_of("disk/bookend.db", "SELECT * FROM task_history WHERE exit_code = 3");
    assert_eq!(ended.len(), ran, "each agent that ran has an end");
    let lost = world.sql_of("disk/bookend.db", "SELECT * FROM task_history WHERE reason = 'supervisor_lost'");
    assert!(lost.is_empty(), "{lost:?}");
}

fn has_parts(output: &Output, parts: &[&str]) {
    for part in parts {
        assert!(output.stderr.contains(part), "{part:?} in {output:?}");
    }
}

/// The command in the parentheses of a message.
fn command_in(message: &str, program: &str) -> String {
    let from = message.find(&format!("`{program} ")).expect("a command") + 1;
    let command = &message[from..];
    command[..command.find('`').expect("its end")].to_owned()
}

#[test]
fn no_run_starts_with_a_hard_linked_ledger_and_no_end_is_lost() {
    let Some(world) = World::of_bookend("no_run_starts_with_a_hard_linked_ledger_and_no_end_is_lost") else {
        return;
    };
    let waiting = Waiting::start(&world, |run| run);
    let link = state(&world).join("it's a link.db");
    fs::hard_link(world.ledger(), &link).expect("a link");
    let refused = world.run(["touch", &world.name("tmp/effect")]).run().ended(End::Code(125));
    has_parts(&refused, &["more than one hard link", "find ", "-xdev -samefile"]);
    assert!(!world.path("tmp/effect").exists(), "the agent ran");
    // The other path differs only in its file name.
    let found = world.bare(["sh", "-c", &command_in(&refused.stderr, "find")]).run();
    assert!(found.stdout.contains("it's a link.db"), "{found:?}");

    assert_eq!(waiting.end(&world).stderr, "");
    assert_eq!(world.row().ending(), "failure/exit");
    for command in [&["recover"][..], &["list"], &["show", "one"], &["audit"]] {
        has_parts(&bookend(&world, command).ended(End::Code(0)), &["warning: ", "more than one hard link"]);
    }
    fs::remove_file(&link).expect("removed");
    world.run(["true"]).run().ended(End::Code(0)).silent();
    bookend(&world, &["list"]).ended(End::Code(0)).silent();
}

#[test]
fn no_run_starts_with_a_ledger_mounted_as_a_single_file() {
    let test = "no_run_starts_with_a_ledger_mounted_as_a_single_file";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("unshare"), "root and unshare, to mount a file") {
        return;
    }
    world.run(["true"]).run().ended(End::Code(0)).silent();
    let other = world.name("tmp/x.db");
    fs::write(&other, "").expect("a mount point");
    let inside = |command: &str| {
        let script = format!("mount --bind {} {other} && exec {command}", world.ledger().display());
        world.bare(["unshare", "--mount", "sh", "-c", &script]).run()
    };
    let refused = inside(&format!("bookend run --ledger {other} -- touch {}", world.name("tmp/effect")));
    assert_eq!(refused.end, End::Code(125), "{refused:?}");
    has_parts(&refused, &["mounted as a single file", "findmnt -T"]);
    assert!(!world.path("tmp/effect").exists(), "the agent ran");
    let listed = inside(&format!("bookend list --ledger {other}")).ended(End::Code(0));
    has_parts(&listed, &["warning: ", "mounted as a single file"]);
    // A bind mount of the directory is accepted: each file in it has one name.
    let script = format!("mount --bind {0} {0} && exec bookend run -- true", state(&world).display());
    world.bare(["unshare", "--mount", "sh", "-c", &script]).run().ended(End::Code(0)).silent();
}

#[test]
fn a_database_with_a_second_hard_link_is_not_adopted() {
    let Some(world) = World::of_bookend("a_database_with_a_second_hard_link_is_not_adopted") else { return };
    let (file, link) = (world.path("theirs.db"), world.path("link.db"));
    let theirs = Connection::open(&file).expect("a database");
    theirs
        .execute_batch("CREATE TABLE task_history (id TEXT PRIMARY KEY, status TEXT, started_at TEXT)")
        .expect("a table");
    drop(theirs);
    fs::hard_link(&file, &link).expect("a link");
    let before = fs::read(&file).expect("the database");
    let refused = bookend(&world, &["adopt", &world.name("theirs.db")]).ended(End::Code(125));
    has_parts(&refused, &["more than one hard link", "-samefile"]);
    assert_eq!(fs::read(&file).expect("the database"), before);
    fs::remove_file(&link).expect("removed");
    bookend(&world, &["adopt", &world.name("theirs.db")]).ended(End::Code(0));
}

/// A cgroup2 hierarchy that this process may add to.
fn cgroups() -> Option<PathBuf> {
    ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"]
        .map(PathBuf::from)
        .into_iter()
        .find(|mount| mount.join("cgroup.controllers").exists())
}

#[test]
fn a_claim_that_fails_leaves_no_cgroup_behind() {
    let test = "a_claim_that_fails_leaves_no_cgroup_behind";
    let Some(world) = World::of_bookend(test) else { return };
    let around = cgroups().map(|mount| mount.join(format!("bookend-test-{}", std::process::id())));
    let made = around.as_ref().is_some_and(|around| fs::create_dir(around).is_ok());
    if !possible(test, made, "root and cgroup2, to make a cgroup") {
        return;
    }
    let around = around.expect("a cgroup");
    let script = format!("echo $$ >{}/cgroup.procs && exec bookend run --id one -- true", around.display());
    let run = || world.bare(["sh", "-c", &script]).env("BOOKEND_DELEGATED", "1").run();
    let first = run();
    let second = run();
    let left: Vec<_> = fs::read_dir(&around).expect("the cgroup").flatten().map(|e| e.path()).collect();
    let left: Vec<_> = left.into_iter().filter(|p| p.is_dir()).collect();
    let names: Vec<_> = left.iter().map(|p| p.file_name().expect("a name").to_owned()).collect();
    for cgroup in left.iter().chain([&around]) {
        fs::remove_dir(cgroup).expect("an empty cgroup");
    }
    assert_eq!((first.end, second.end), (End::Code(0), End::Code(2)), "{first:?} {second:?}");
    assert!(second.stderr.contains("already has a task one"), "{second:?}");
    assert!(world.row().text("cgroup").contains("task-one-"), "it had a cgroup");
    assert_eq!(names, ["supervisor"]);
}
