//! Durability, observed with strace: the row is synced before the agent runs, the end before bookend exits, a
//! spooled record before its rename.

use std::fs;

use crate::harness::{End, World, on_path, possible};
use crate::spool::locked;

/// The command line of a run under strace, which writes to the file `trace` of the world.
fn traced(world: &World, options: &[&str]) -> Vec<String> {
    let calls = "trace=fsync,fdatasync,write,pwrite64,rename,renameat,renameat2,exit_group";
    let words = ["strace", "-f", "-qq", "-y", "-e", calls, "-o", &world.name("trace")];
    words
        .iter()
        .chain(options)
        .chain(&["bookend", "run", "--id", "one", "--"])
        .map(|w| (*w).to_owned())
        .collect()
}

/// The system calls of bookend itself, in order.
fn calls(world: &World) -> Vec<String> {
    let trace = fs::read_to_string(world.path("trace")).expect("the trace");
    let pid = trace.split_whitespace().next().expect("a call").to_owned();
    trace
        .lines()
        .filter_map(|line| line.strip_prefix(&pid))
        .map(|call| call.trim_start().to_owned())
        .collect()
}

/// The index of the first matching call at or after `from`.
#[track_caller]
fn find(calls: &[String], from: usize, what: &str, matches: impl Fn(&str) -> bool) -> usize {
    let found = calls[from..].iter().position(|call| matches(call));
    from + found.unwrap_or_else(|| panic!("no {what} in {:#?}", &calls[from..]))
}

fn writes_log(call: &str) -> bool {
    call.starts_with("pwrite64(") && call.contains("-wal>")
}

fn syncs_log(call: &str) -> bool {
    call.starts_with("fdatasync(") && call.contains("-wal>")
}

fn opens_gate(call: &str) -> bool {
    call.starts_with("write(") && call.contains("<pipe:") && call.contains("\"!\", 1")
}

#[test]
fn the_log_is_synced_before_the_gate_opens_and_before_bookend_exits() {
    let test = "the_log_is_synced_before_the_gate_opens_and_before_bookend_exits";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, on_path("strace"), "strace") {
        return;
    }
    let words = traced(&world, &[]);
    world.bare(words.iter().map(String::as_str).chain(["true"])).run().ended(End::Code(0));
    let calls = calls(&world);
    let gate = find(&calls, 0, "byte for the gate", opens_gate);
    let exit = find(&calls, gate, "exit", |call| call.starts_with("exit_group("));
    for (from, to) in [(0, gate), (gate, exit)] {
        let written = calls[from..to].iter().rposition(|call| writes_log(call)).expect("a commit") + from;
        let synced = find(&calls, written, "sync of the log", syncs_log);
        assert!(synced < to, "{:#?}", &calls[written..=to]);
    }
}

#[test]
fn a_spooled_record_is_synced_before_its_rename_and_its_directory_after_it() {
    let test = "a_spooled_record_is_synced_before_its_rename_and_its_directory_after_it";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, on_path("strace"), "strace") {
        return;
    }
    let (mut say, mut go) = (world.fifo("say"), world.fifo("go"));
    let script = format!("echo ready $$ >{}; read line <{}; exit 3", say.path(), go.path());
    let words = traced(&world, &[]);
    let words = words.iter().map(String::as_str).chain(["sh", "-c", &script]);
    let run = world.bare(words).env("BOOKEND_BUSY_TIMEOUT", "10ms").start();
    say.pid("ready");
    let lock = locked(&world);
    go.write_line("now");
    run.wait().ended(End::Code(3));
    drop(lock);
    let calls = calls(&world);
    let is_sync = |call: &str, of: &str| call.starts_with("fsync(") && call.contains(of);
    let synced = find(&calls, 0, "sync of the record", |call| is_sync(call, ".one.slot>"));
    let renamed = find(&calls, 0, "rename", |c| c.starts_with("rename") && c.contains("one.json"));
    assert!(synced < renamed, "{calls:#?}");
    find(&calls, renamed, "sync of the directory", |call| is_sync(call, "/spool>"));
}

#[test]
fn a_sync_that_fails_is_reported_as_that_and_starts_nothing() {
    let test = "a_sync_that_fails_is_reported_as_that_and_starts_nothing";
    let Some(world) = World::of_bookend(test) else { return };
    if !possible(test, on_path("strace"), "strace") {
        return;
    }
    let words = traced(&world, &["-e", "inject=fdatasync:error=EIO:when=1"]);
    world.run(["true"]).run().ended(End::Code(0)).silent();
    let effect = world.name("tmp/effect");
    let argv = words.iter().map(String::as_str).chain(["touch", &effect]);
    let refused = world.bare(argv).run().ended(End::Code(125));
    for part in ["fdatasync", "-wal", "Input/output error", "dmesg"] {
        assert!(refused.stderr.contains(part), "{part:?} in {refused:?}");
    }
    assert!(!refused.stderr.contains("SQL logic error"), "{refused:?}");
    assert!(!world.path("tmp/effect").exists(), "the agent ran");
    let row = world.sql("SELECT * FROM task_history WHERE id = 'one'").remove(0);
    assert_eq!(row.ending(), "failure/spawn");
}
