//! The tokens of a run whose agent reports those of the session.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::{End, Row, World, eventually};
use crate::standins::{self, bookend};

const CODEX: [&str; 5] = ["codex", "exec", "--json", "--skip-git-repo-check", "do it"];
const FORK: [&str; 6] = ["codex", "exec", "fork", "--json", "t1", "do it"];

/// Prints the totals of the session, of which `$1` tokens are input, a tenth of them cached. A fork has
/// a new id.
const CODEX_SCRIPT: &str = r#"
case $* in *fork*) id=t2 ;; *) id=t1 ;; esac
folder=$HOME/.codex/sessions/2026/11/30
mkdir -p $folder && echo '{}' >>$folder/rollout-$id.jsonl
echo "{\"type\":\"thread.started\",\"thread_id\":\"$id\"}"
echo '{"type":"turn.started"}'
total() {
  printf '{"type":"turn.completed","usage":{"input_tokens":%s,"cached_input_tokens":%s,' $1 $(($1 / 10))
  printf '"cache_write_input_tokens":0,"output_tokens":%s}}\n' $(($1 / 5))
}
"#;

/// Runs a stand-in for codex that ends with `script`, under a key, and returns its row.
fn run(world: &World, argv: &[&str], script: &str, end: End) -> Row {
    world.stand_in("codex", &format!("{CODEX_SCRIPT}{script}"));
    world.run(argv.iter().copied()).options(["--key", "k"]).run().ended(end);
    world.rows().pop().expect("a row")
}

/// Input, output and cached tokens.
fn tokens(row: &Row) -> [Option<i64>; 3] {
    ["input_tokens", "output_tokens", "cache_read_tokens"].map(|column| row.number(column))
}

#[test]
fn each_run_of_a_session_has_its_own_tokens() {
    let Some(world) = World::of_bookend("each_run_of_a_session_has_its_own_tokens") else { return };
    for (total, own) in [
        ("100", [Some(90), Some(20), Some(10)]),
        ("200", [Some(90), Some(20), Some(10)]),
        ("200", [Some(0), Some(0), Some(0)]),
        // The agent lost the session and counts anew.
        ("50", [Some(45), Some(10), Some(5)]),
        ("150", [Some(90), Some(20), Some(10)]),
    ] {
        let row = run(&world, &CODEX, &format!("total {total}"), End::Code(0));
        assert_eq!(tokens(&row), own, "of {total}");
        let total: i64 = total.parse().expect("a number");
        let all = json!({
            "input_tokens": total - total / 10, "output_tokens": total / 5,
            "cache_read_tokens": total / 10, "cache_creation_tokens": 0,
        });
        assert_eq!(row.json("session_tokens"), all);
        let shown = standins::json(&world, &["show", "--json", &row.text("id")]);
        assert_eq!(shown["task"]["session_tokens"], all);
    }
    assert!(world.rows().iter().skip(1).all(|row| row.text("resumed_from") == "t1"));
    let fork = run(&world, &FORK, "total 250", End::Code(0));
    assert_eq!((fork.text("session_id"), fork.text("resumed_from")), ("t2".into(), "t1".into()));
    assert_eq!(tokens(&fork), [Some(90), Some(20), Some(10)], "a fork inherits the totals");
}

#[test]
fn the_progress_of_a_run_has_its_own_tokens() {
    let Some(world) = World::of_bookend("the_progress_of_a_run_has_its_own_tokens") else { return };
    run(&world, &CODEX, "total 100", End::Code(0));
    let mut go = world.fifo("go");
    world.stand_in("codex", &format!("{CODEX_SCRIPT} total 300; read line <'{}'", go.path()));
    let running = world.run(CODEX).options(["--key", "k"]).start();
    eventually(world.deadline(), "the tokens of the running task", || {
        world.rows().pop().is_some_and(|row| tokens(&row) == [Some(180), Some(40), Some(20)])
    });
    go.write_line("");
    running.wait().ended(End::Code(0));
}

#[test]
fn a_killed_run_leaves_the_totals_as_they_were() {
    let Some(world) = World::of_bookend("a_killed_run_leaves_the_totals_as_they_were") else { return };
    run(&world, &CODEX, "total 100", End::Code(0));
    let killed = run(&world, &CODEX, "kill -9 $$", End::Signal(9));
    assert_eq!((tokens(&killed), killed.text("session_tokens")), ([None; 3], String::new()));
    bookend(&world, &["session", "restore", "k"]).ended(End::Code(0));
    let row = run(&world, &CODEX, "total 300", End::Code(0));
    assert_eq!(row.text("resumed_from"), "t1");
    assert_eq!(tokens(&row), [Some(180), Some(40), Some(20)], "what both used since the last known total");
}

const QWEN: [&str; 5] = ["qwen", "-o", "stream-json", "-p", "do it"];

/// `message INPUT` prints what is counted, `total INPUT` the session's total, which replaces it.
const QWEN_SCRIPT: &str = r#"
mkdir -p "$HOME/.qwen/projects/$(pwd -P | sed 's/[^A-Za-z0-9]/-/g')/chats"
echo '{}' >"$HOME/.qwen/projects/$(pwd -P | sed 's/[^A-Za-z0-9]/-/g')/chats/$id.jsonl"
printf '{"type":"system","subtype":"init","session_id":"%s","model":"m"}\n' $id
message() { printf '{"type":"assistant","message":{"content":[],"usage":{"input_tokens":%s}}}\n' $1; }
total() { printf '{"type":"result","is_error":false,"num_turns":1,"usage":{"input_tokens":%s}}\n' $1; }
"#;

/// What a killed run used, as far as it was counted, is not charged to the next run of the session again.
#[test]
fn tokens_that_were_counted_in_a_killed_run_are_charged_once() {
    let test = "tokens_that_were_counted_in_a_killed_run_are_charged_once";
    let Some(world) = World::of_bookend(test) else { return };
    let run = |script: &str, end: End| {
        world.stand_in("qwen", &format!("{QWEN_SCRIPT}{script}"));
        world.run(QWEN).options(["--key", "k"]).run().ended(end);
        let row = world.rows().pop().expect("a row");
        (row.number("input_tokens"), row.json("session_tokens")["input_tokens"].as_i64())
    };
    assert_eq!(run("message 100; total 200", End::Code(0)), (Some(200), Some(200)));
    assert_eq!(run("message 30; kill -9 $$", End::Signal(9)), (Some(30), Some(230)));
    bookend(&world, &["session", "restore", "k"]).ended(End::Code(0));
    assert_eq!(run("message 100; total 330", End::Code(0)), (Some(100), Some(330)));
    assert_eq!(world.rows()[2].text("resumed_from"), world.rows()[0].text("session_id"));

    // The supervisor is killed too, and the row has what its last progress wrote.
    let mut up = world.fifo("up");
    let go = world.fifo("go");
    let ready =
        format!("{QWEN_SCRIPT}message 50; echo ready $$ >'{}'; read line <'{}'", up.path(), go.path());
    world.stand_in("qwen", &ready);
    let running = world.run(QWEN).options(["--key", "k"]).start();
    up.pid("ready");
    eventually(world.deadline(), "the tokens of the running task", || {
        world.rows().pop().is_some_and(|row| row.number("input_tokens") == Some(50))
    });
    running.signal(Signal::KILL);
    running.wait();
    standins::recover(&world, &[]);
    bookend(&world, &["session", "restore", "k"]).ended(End::Code(0));
    assert_eq!(run("message 100; total 480", End::Code(0)), (Some(100), Some(480)));
}
