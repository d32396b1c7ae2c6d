//! Every command in the README works as it stands there.

use std::fs;
use std::path::Path;

use crate::harness::{End, World};

/// The shell blocks of the README, in order.
fn blocks() -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let text = fs::read_to_string(path).expect("README.md");
    text.split("```sh\n")
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap_or_default().to_owned())
        .collect()
}

/// What a person with a fresh machine types. `.ci/run` runs both word by word.
fn is_for_a_fresh_machine(block: &str) -> bool {
    block.starts_with("cargo ")
}

/// Prints what Claude Code prints, and keeps the conversation where Claude Code keeps it.
const CLAUDE: &str = r#"#!/bin/sh
mode=text
id=11111111-1111-4111-8111-111111111111
while [ $# -gt 0 ]; do
  case $1 in
    --output-format) mode=$2; shift ;;
    --session-id | --resume) id=$2; shift ;;
  esac
  shift
done
folder=$HOME/.claude/projects/$(pwd -P | sed 's/[^A-Za-z0-9]/-/g')
mkdir -p "$folder"
echo '{}' >>"$folder/$id.jsonl"
if [ "$mode" = stream-json ]; then
  echo '{"type":"system","subtype":"init","session_id":"'"$id"'","model":"stand-in"}'
  echo '{"type":"result","subtype":"success","is_error":false,"result":"hello","session_id":"'"$id"'",
    "num_turns":1,"total_cost_usd":0.01,"usage":{"input_tokens":1,"output_tokens":1}}' | tr -d '\n'
  echo
else
  echo hello
fi
"#;

fn world() -> World {
    let world = World::new();
    world.program("claude", CLAUDE);
    world
}

#[test]
fn every_block_of_the_readme_runs() {
    let mut tried = 0;
    for block in blocks().iter().filter(|b| !is_for_a_fresh_machine(b)) {
        let world = world();
        let output = world.bare(["sh", "-eu", "-c", block]).run();
        assert_eq!(output.end, End::Code(0), "{block}\n{output:?}");
        tried += 1;
    }
    assert!(tried > 8, "{tried} blocks");
}

#[test]
fn a_fresh_machine_needs_two_commands() {
    let blocks = blocks();
    let (fresh, tour): (Vec<_>, Vec<_>) = blocks.iter().partition(|b| is_for_a_fresh_machine(b));
    assert_eq!(fresh.len(), 2, "{fresh:?}");
    assert!(fresh.iter().all(|b| b.lines().count() == 1), "one line each: {fresh:?}");
    assert!(tour.iter().all(|b| !b.contains("cargo ")), "the tour takes bookend from the PATH");

    // The build itself is not repeated here: what follows it is run with this build.
    let rest = fresh[0].strip_prefix("cargo build --release && ").expect("it builds first");
    let world = world();
    let output = world.bare(["sh", "-eu", "-c", &rest.replace("./target/release/", "")]).run();
    let output = output.ended(End::Code(0)).silent();
    assert!(output.stdout.starts_with("hello\n"), "{output:?}");
    assert!(output.stdout.contains("success"), "it shows the row: {output:?}");
    assert_eq!(fresh[1], "cargo test\n");
}

#[test]
fn the_readmes_second_run_under_a_key_resumes_the_first() {
    let blocks = blocks();
    let block = blocks.iter().find(|b| b.contains("--key nightly -- claude")).expect("the block about keys");
    let world = world();
    world.bare(["sh", "-eu", "-c", block]).run().ended(End::Code(0)).silent();
    let rows = world.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1].text("resumed_from"), rows[0].text("session_id"));
}

#[test]
fn the_readme_names_every_command_and_every_option_it_names_exists() {
    let text =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).expect("README.md");
    let world = world();
    let help = |command: &str| world.bare(["bookend", command, "--help"]).run().ended(End::Code(0)).stdout;
    let known: String = [
        "run",
        "list",
        "show",
        "audit",
        "cancel",
        "prune",
        "doctor",
        "stats",
        "timeline",
        "recover",
        "deliver",
        "redispatch",
        "adopt",
        "backup",
        "man",
    ]
    .map(help)
    .concat();
    // What is for machines with systemd or just is followed there, in tests/systemd.
    let (ours, machines): (Vec<_>, Vec<_>) =
        text.split("```").enumerate().partition(|(n, part)| n % 2 == 0 || !part.starts_with("bash\n"));
    assert!(!machines.is_empty());
    let text: String = ours.into_iter().map(|(_, part)| part).collect();
    for word in text.split(|c: char| c.is_whitespace() || "`=,;:.)".contains(c)) {
        let is_option =
            word.strip_prefix("--").is_some_and(|w| w.starts_with(|c: char| c.is_ascii_lowercase()));
        let is_ours =
            !["--resume", "--session-id", "--bg", "--output-format", "--verbose", "--release", "--path"]
                .contains(&word);
        if is_option && is_ours {
            assert!(known.contains(word), "{word} is in the README and in no --help");
        }
    }
}
