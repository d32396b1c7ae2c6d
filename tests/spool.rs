//! If bookend cannot write an end to the ledger, it writes it to the spool, and the next writing command
//! merges it. The caller gets the agent's exit status in any case.

use std::fs;
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rusqlite::Connection;

use crate::harness::{Cmd, End, Fifo, Output, Proc, World, is_root, on_path, possible};
use crate::standins::{bookend, gone, json, recover};

/// A run whose agent exits with code 3 when the test writes to its pipe.
pub struct Waiting {
    run: Proc,
    go: Fifo,
    pid: i32,
}

impl Waiting {
    pub fn start<'w>(world: &'w World, more: impl FnOnce(Cmd<'w>) -> Cmd<'w>) -> Waiting {
        let (mut say, go) = (world.fifo("say"), world.fifo("go"));
        let script = format!("echo ready $$ >{}; read line <{}; exit 3", say.path(), go.path());
        let run = more(world.run_sh(&script).options(["--id", "one"])).start();
        let pid = say.pid("ready");
        Waiting { run, go, pid }
    }

    /// Ends the agent. Its end is spooled and the caller gets its exit code.
    pub fn end_in_spool(self, world: &World) {
        let output = self.end(world);
        assert!(output.stderr.contains("it waits in"), "{output:?}");
    }

    /// Ends the agent. The caller gets its exit code.
    pub fn end(mut self, world: &World) -> Output {
        self.go.write_line("now");
        let output = self.run.wait().ended(End::Code(3));
        gone(world, self.pid);
        output
    }
}

pub fn records(dir: &PathBuf) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(dir)
        .expect("the spool")
        .flatten()
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

pub fn locked(world: &World) -> Connection {
    let ledger = Connection::open(world.ledger()).expect("the ledger");
    ledger.busy_timeout(Duration::from_secs(10)).expect("a busy timeout");
    ledger.execute_batch("BEGIN IMMEDIATE").expect("the lock");
    ledger
}

#[test]
fn an_end_is_spooled_if_the_ledger_is_locked_and_merged_later() {
    let Some(world) = World::of_bookend("an_end_is_spooled_if_the_ledger_is_locked_and_merged_later") else {
        return;
    };
    let waiting = Waiting::start(&world, |run| run.env("BOOKEND_BUSY_TIMEOUT", "10ms"));
    let lock = locked(&world);
    waiting.end_in_spool(&world);
    assert_eq!(world.row().text("status"), "running");
    let spool = world.path("state/bookend/bookend.db.d/spool");
    assert_eq!(records(&spool), ["one.json"]);
    drop(lock);
    let report = recover(&world, &[]);
    assert!(report.contains("the end of task one (failure)"), "{report}");
    let row = world.row();
    assert_eq!((row.ending().as_str(), row.number("exit_code")), ("failure/exit", Some(3)));
    assert_eq!(row.text("end_source"), "spool");
    assert!(records(&spool).is_empty());
}

/// The commands that merge the spool, besides `recover`, which prints what it merged.
const WRITING_COMMANDS: [&[&str]; 5] = [
    &["run", "--", "true"],
    &["prune"],
    &["deliver"],
    &["artifact", "add", "--task", "one", "https://example.org"],
    &["session", "invalidate", "a-key"],
];

#[test]
fn each_writing_command_reports_a_merge_as_information() {
    for (n, command) in WRITING_COMMANDS.into_iter().enumerate() {
        let Some(world) = World::of_bookend(&format!("each_writing_command_{n}")) else { return };
        let waiting = Waiting::start(&world, |run| run.env("BOOKEND_BUSY_TIMEOUT", "10ms"));
        let lock = locked(&world);
        waiting.end_in_spool(&world);
        drop(lock);
        let next = world.bare([&["bookend"], command].concat()).env("BOOKEND_LOG", "info").run();
        let merged = "recorded the end of task one (failure) from the spool";
        assert_eq!(next.stderr.matches(merged).count(), 1, "{command:?}: {next:?}");
        assert_eq!(world.rows()[0].ending(), "failure/exit");
    }
}

#[test]
fn a_run_reports_a_merge_with_v_only() {
    for (options, times) in [(&["-v"][..], 1), (&[], 0)] {
        let Some(world) = World::of_bookend(&format!("a_run_reports_a_merge_{times}")) else { return };
        let waiting = Waiting::start(&world, |run| run.env("BOOKEND_BUSY_TIMEOUT", "10ms"));
        let lock = locked(&world);
        waiting.end_in_spool(&world);
        drop(lock);
        let next = world.run_sh("true").options(options.iter().copied()).run().ended(End::Code(0));
        assert_eq!(next.stderr.matches("recorded the end of task one").count(), times, "{next:?}");
        assert_eq!(world.rows()[0].ending(), "failure/exit");
    }
}

#[test]
fn each_writing_command_warns_about_a_record_that_it_moves_away() {
    let Some(world) = World::of_bookend("each_writing_command_warns_about_a_record_that_it_moves_away")
    else {
        return;
    };
    world.run_sh("true").options(["--id", "one"]).run().ended(End::Code(0));
    let spool = world.path("state/bookend/bookend.db.d/spool");
    for (n, command) in WRITING_COMMANDS.into_iter().enumerate() {
        fs::write(spool.join(format!("torn{n}.json")), "{\"version\":1,").expect("a torn record");
        let output = bookend(&world, command);
        assert!(output.stderr.contains("bookend: warning: a spooled record cannot be read"), "{output:?}");
        assert!(output.stderr.contains(&format!("torn{n}.kept.json")), "{output:?}");
        let again = bookend(&world, command);
        assert!(!again.stderr.contains("spooled record"), "it is reported once: {again:?}");
    }
}

#[test]
fn a_spooled_end_takes_precedence_over_recovery() {
    let Some(world) = World::of_bookend("a_spooled_end_takes_precedence_over_recovery") else { return };
    let waiting = Waiting::start(&world, |run| run.env("BOOKEND_BUSY_TIMEOUT", "10ms"));
    let lock = locked(&world);
    waiting.end_in_spool(&world);
    // The recovery cannot merge the record and finds the live lock free before the ledger is unlocked.
    let mut recovery = world.bare(["bookend", "recover"]).env("BOOKEND_BUSY_TIMEOUT", "1s").start();
    let line = recovery.line();
    assert!(line.contains("stays in the spool"), "{line}");
    drop(lock);
    let rest = recovery.wait();
    assert!(rest.stdout.contains("the end of task one (failure)"), "{rest:?}");
    let row = world.row();
    assert_eq!((row.ending(), row.text("end_source")), ("failure/exit".to_owned(), "spool".to_owned()));
    assert_eq!(world.sql("SELECT * FROM task_transition").len(), 2);
    assert!(records(&world.path("state/bookend/bookend.db.d/spool")).is_empty());
}

/// A small file system for one test.
pub struct Tmpfs(pub PathBuf);

impl Tmpfs {
    pub fn mount(world: &World, name: &str, size: &str) -> Tmpfs {
        let path = world.path(name);
        fs::create_dir(&path).expect("a directory");
        let options = format!("size={size},mode=700");
        let mounted =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path).status();
        assert!(mounted.is_ok_and(|s| s.success()), "mounting {}", path.display());
        Tmpfs(path)
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[test]
fn an_end_on_a_full_disk_is_written_to_its_reserved_slot() {
    let test = "an_end_on_a_full_disk_is_written_to_its_reserved_slot";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("mount"), "root, to mount a small file system") {
        return;
    }
    let disk = Tmpfs::mount(&world, "disk", "2m");
    let ledger = world.name("disk/bookend.db");
    let waiting = Waiting::start(&world, |run| run.env("BOOKEND_LEDGER", &ledger));
    let filler = disk.0.join("filler");
    // Fills the disk to the last page.
    let fill = || {
        let mut filler = fs::File::options().create(true).append(true).open(&filler).expect("the filler");
        let full = filler.write_all(&[0; 4 << 20]).expect_err("the disk is full");
        assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    };
    fill();
    waiting.end_in_spool(&world);
    // The record is smaller than its slot, and the rest of the slot is freed.
    fill();
    let spool = disk.0.join("bookend.db.d/spool");
    assert_eq!(records(&spool), ["one.json"]);

    let still_full = bookend(&world, &["recover", "--ledger", &ledger]);
    assert_eq!(still_full.end, End::Code(125), "{still_full:?}");
    assert!(still_full.stderr.contains("free some space there"), "{still_full:?}");
    fs::remove_file(&filler).expect("free space");
    recover(&world, &["--ledger", &ledger]);
    let row = &world.sql_of("disk/bookend.db", "SELECT * FROM task_history")[0];
    assert_eq!((row.ending().as_str(), row.text("end_source").as_str()), ("failure/exit", "spool"));
    assert!(records(&spool).is_empty());
}

#[test]
fn a_first_row_on_a_full_disk_executes_nothing() {
    let test = "a_first_row_on_a_full_disk_executes_nothing";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, is_root() && on_path("mount"), "root, to mount a small file system") {
        return;
    }
    let disk = Tmpfs::mount(&world, "disk", "1m");
    fs::write(disk.0.join("filler"), vec![0; 4 << 20]).expect_err("the disk is full");
    let ledger = world.name("disk/bookend.db");
    let refused = world.run_sh("echo ran").env("BOOKEND_LEDGER", &ledger).run().ended(End::Code(125));
    assert_eq!(refused.stdout, "");
    assert!(refused.stderr.contains(&world.name("disk")), "{refused:?}");
}

#[test]
fn an_end_without_a_readable_ledger_is_kept_and_each_command_gives_a_hint() {
    let Some(world) =
        World::of_bookend("an_end_without_a_readable_ledger_is_kept_and_each_command_gives_a_hint")
    else {
        return;
    };
    let waiting = Waiting::start(&world, |run| run);
    // Overwrites the whole file in place, as a failing disk does.
    let size = fs::metadata(world.ledger()).expect("the ledger").len();
    fs::write(world.ledger(), vec![b'x'; size as usize]).expect("a destroyed ledger");
    for part in ["-wal", "-shm"] {
        let path = world.name(&format!("state/bookend/bookend.db{part}"));
        let size = fs::metadata(&path).expect("the file").len();
        fs::write(path, vec![b'x'; size as usize]).expect("a destroyed file");
    }
    waiting.end_in_spool(&world);
    for command in [&["recover"][..], &["list"], &["session", "list"], &["run", "--", "true"]] {
        let output = bookend(&world, command).ended(End::Code(125));
        for part in [world.ledger().to_str().expect("UTF-8"), "move it away", ".recover"] {
            assert!(output.stderr.contains(part), "{part} in {output:?}");
        }
    }
    // Moved away, as the hint says. The new ledger has no row for the end, so the record is kept.
    fs::rename(world.path("state/bookend/bookend.db"), world.path("old")).expect("moved away");
    world.run_sh("true").run().ended(End::Code(0));
    let spool = world.path("state/bookend/bookend.db.d/spool");
    assert_eq!(records(&spool), ["one.kept.json"]);
    let kept: serde_json::Value =
        serde_json::from_slice(&fs::read(spool.join("one.kept.json")).expect("kept")).expect("JSON");
    assert_eq!((kept["task"].as_str(), kept["exit_code"].as_i64()), (Some("one"), Some(3)));
}

#[test]
fn a_record_that_cannot_be_merged_is_reported_once() {
    let Some(world) = World::of_bookend("a_record_that_cannot_be_merged_is_reported_once") else { return };
    world.run_sh("true").run().ended(End::Code(0));
    let spool = world.path("state/bookend/bookend.db.d/spool");
    fs::write(spool.join("torn.json"), "{\"version\":1,").expect("a torn record");
    let report = json(&world, &["recover", "--json"]);
    assert_eq!(
        (report["settled"].as_bool(), report["spool"][0]["merged"].as_bool()),
        (Some(false), Some(false))
    );
    assert_eq!(records(&spool), ["torn.kept.json"]);
    assert!(recover(&world, &[]).contains("nothing to settle"));
}
