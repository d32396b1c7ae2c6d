//! What a ledger stores and never stores, and ledger files that other users created.

use std::fs;
use std::path::Path;

use super::{OTHER_USER, set_mode, world_for_all_users};
use crate::harness::{End, World};
use crate::standins::bookend;

/// The content of all files below a directory.
fn contents(dir: &Path) -> Vec<u8> {
    let entries = fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").path());
    entries
        .flat_map(|path| if path.is_dir() { contents(&path) } else { fs::read(path).expect("a file") })
        .collect()
}

fn holds(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

#[test]
fn a_prompt_from_stdin_the_output_and_the_environment_are_not_stored() {
    let Some(world) = World::of_bookend("a_prompt_from_stdin_is_not_stored") else { return };
    let printed = serde_json::json!({ "type": "result", "subtype": "success", "is_error": false,
        "num_turns": 1, "result": "the-answer", "session_id": "0e6ae530-ok" });
    world.program("claude", &format!("#!/bin/sh\ncat >/dev/null\necho '{printed}'\necho the-noise >&2\n"));
    fs::write(world.path("prompt"), "the-prompt").expect("a prompt");
    let words = ["claude", "-p", "--output-format", "stream-json", "--verbose", "--", "the-argument"];
    let run = world.run(words).options(["--id", "one"]).env("VARIABLE", "the-environment");
    let output =
        run.input(fs::File::open(world.path("prompt")).expect("the prompt")).run().ended(End::Code(0));
    assert!(output.stdout.contains("the-answer"), "{output:?}");
    let stored = contents(&world.path("state"));
    assert!(holds(&stored, "the-argument") && holds(&stored, "0e6ae530-ok"), "the row is stored");
    for text in ["the-prompt", "the-answer", "the-noise", "the-environment"] {
        assert!(!holds(&stored, text), "{text} is stored");
    }
}

#[test]
fn only_the_beginning_of_an_error_is_stored() {
    let Some(world) = World::of_bookend("only_the_beginning_of_an_error_is_stored") else { return };
    let printed = serde_json::json!({ "type": "result", "subtype": "error", "is_error": true, "num_turns": 1,
        "result": "ä".repeat(100_000), "session_id": "0e6ae530-ok" });
    fs::write(world.path("printed"), format!("{printed}\n")).expect("a result");
    world.program("claude", &format!("#!/bin/sh\ncat {}\nexit 1\n", world.name("printed")));
    let words = ["claude", "-p", "--output-format", "stream-json", "--verbose", "x"];
    world.run(words).options(["--id", "agents"]).run().ended(End::Code(1));
    let prepare = "head -c 100000 /dev/zero | tr '\\0' x >&2; exit 3";
    world.run(["true"]).options(["--id", "prepares", "--prepare", prepare]).run().ended(End::Code(125));
    let count = |id: &str, letter: char| {
        let row = world.sql(&format!("SELECT error FROM task_history WHERE id = '{id}'")).remove(0);
        row.text("error").chars().filter(|c| *c == letter).count()
    };
    let agents = count("agents", 'ä');
    assert!((8000..=8192).contains(&agents), "{agents} characters of the agent's error");
    let prepares = count("prepares", 'x');
    assert!((4000..=4097).contains(&prepares), "{prepares} bytes of the error of --prepare");
}

#[test]
fn a_value_of_ten_megabytes_is_read_in_a_private_ledger_and_refused_in_a_shared_one() {
    let Some(world) =
        World::of_bookend("a_value_of_ten_megabytes_is_read_in_a_private_ledger_and_refused_in_a_shared_one")
    else {
        return;
    };
    let ledger = world.name("l.db");
    world.run(["true"]).options(["--id", "one", "--ledger", &ledger]).run().ended(End::Code(0));
    let open = rusqlite::Connection::open(&ledger).expect("the ledger");
    open.execute_batch("UPDATE task_history SET host = CAST(zeroblob(10000000) AS TEXT)")
        .expect("a long value");
    let show = || bookend(&world, &["show", "one", "--json", "--ledger", &ledger]);
    show().ended(End::Code(0));
    set_mode(&world, "l.db", 0o620);
    let refused = show().ended(End::Code(125));
    assert!(refused.stderr.contains("a value in it is longer than bookend reads"), "{refused:?}");
    let refused = bookend(&world, &["redispatch", "one", "--ledger", &ledger]).ended(End::Code(125));
    assert!(refused.stderr.contains("longer than bookend reads"), "{refused:?}");
}

/// In a sticky directory every user can create the missing files. The agent does not run then.
#[test]
fn files_of_another_user_in_a_sticky_directory_are_refused() {
    let Some(world) = world_for_all_users("files_of_another_user_in_a_sticky_directory_are_refused") else {
        return;
    };
    let ledger = world.name("open/l.db");
    let run = || world.run(["touch", &world.name("effect")]).options(["--ledger", &ledger]).run();
    for taken in ["l.db", "l.db-wal", "l.db.d"] {
        let _ = fs::remove_dir_all(world.path("open"));
        fs::create_dir(world.path("open")).expect("a directory");
        set_mode(&world, "open", 0o1777);
        run().ended(End::Code(0)).silent();
        fs::remove_file(world.path("effect")).expect("the effect");
        let path = world.path(&format!("open/{taken}"));
        std::os::unix::fs::chown(path, Some(OTHER_USER), Some(OTHER_USER)).expect("another owner");
        let refused = run().ended(End::Code(125));
        assert!(refused.stderr.contains(&format!("belongs to uid {OTHER_USER}")), "{taken}: {refused:?}");
        assert!(!world.path("effect").exists(), "{taken}: the agent ran");
    }
}

#[test]
fn a_parent_directory_may_be_writable_by_the_users_private_group() {
    let Some(world) = world_for_all_users("a_parent_directory_may_be_writable_by_the_users_private_group")
    else {
        return;
    };
    // The group root is private to root: on most machines it has no members.
    let group = std::process::Command::new("getent").args(["group", "root"]).output().expect("getent").stdout;
    let is_alone = String::from_utf8_lossy(&group).trim().ends_with(':');
    fs::create_dir(world.path("near")).expect("a directory");
    set_mode(&world, "near", 0o775);
    let ledger = world.name("near/l.db");
    let run = || world.run(["true"]).options(["--ledger", &ledger]).run();
    let expected = if is_alone { End::Code(0) } else { End::Code(125) };
    run().ended(expected);
    std::os::unix::fs::chown(world.path("near"), None, Some(OTHER_USER)).expect("another group");
    let refused = run().ended(End::Code(125));
    assert!(refused.stderr.contains("is writable by its group"), "{refused:?}");
}
