//! The documents tell the truth: their commands work, their output is real, their links lead somewhere.

mod comparison;
mod elsewhere;
mod links;
mod transcript;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::harness::{DocumentBlock, End, World, blocks, document, documents, prose};
use elsewhere::{ELSEWHERE, Elsewhere};

/// The languages of blocks that contain no commands.
const DATA: [&str; 10] = ["", "text", "json", "jsonc", "ini", "toml", "sql", "rust", "mermaid", "diff"];

/// Its commands are those of several machines, so its prompts name them.
const SEVERAL_MACHINES: &str = "contrib/doc/fleet.md";

fn all_blocks(language: &str) -> Vec<DocumentBlock> {
    let of = |name: &String| blocks(name);
    documents().iter().flat_map(of).filter(|b| b.language == language).collect()
}

/// The two commands for a fresh machine build bookend, so `.ci/run` runs them.
fn is_for_a_fresh_machine(block: &DocumentBlock) -> bool {
    block.document == "README.md" && block.language == "sh" && block.text.starts_with("cargo ")
}

/// Prints what Claude Code prints and keeps the conversation where Claude Code keeps it. If there is a pipe
/// `$TMPDIR/hold`, it reports there that it runs, and then works until it is stopped.
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
printf '{"type":"assistant","timestamp":"%s","message":{"content":[{"type":"text","text":"hello"}]}}\n' \
  "$(date -u +%Y-%m-%dT%H:%M:%S.%3NZ)" >>"$folder/$id.jsonl"
if [ -p "$TMPDIR/hold" ]; then
  exec 8>"$TMPDIR/hold"
  echo works >&8
  exec sleep 1000
fi
if [ "$mode" = stream-json ]; then
  echo '{"type":"system","subtype":"init","session_id":"'"$id"'","model":"stand-in"}'
fi
case $mode in
  text) echo hello ;;
  *) printf '{"type":"result","subtype":"success","is_error":false,"result":"hello","session_id":"%s",' "$id"
     echo '"num_turns":4,"total_cost_usd":0.0832,"usage":{"input_tokens":5210,"output_tokens":1280}}' ;;
esac
"#;

fn world() -> World {
    let world = World::new();
    world.program("claude", CLAUDE);
    world
}

#[test]
fn every_sh_block_runs() {
    let mut runs = 0;
    for block in all_blocks("sh").iter().filter(|b| !is_for_a_fresh_machine(b)) {
        let world = world();
        let output = world.bare(["sh", "-eu", "-c", &block.text]).run();
        assert_eq!(output.end, End::Code(0), "{}\n{}\n{output:?}", block.place(), block.text);
        runs += 1;
    }
    assert!(runs > 8, "{runs} blocks");
}

#[test]
fn every_console_block_shows_the_real_output() {
    let mut wrong = String::new();
    for name in documents().into_iter().filter(|name| name != SEVERAL_MACHINES) {
        let blocks: Vec<_> = blocks(&name).into_iter().filter(|b| b.language == "console").collect();
        let steps = transcript::steps(&blocks);
        let outputs = transcript::outputs(&world(), &steps);
        assert_eq!(outputs.len(), steps.len(), "{name}: {outputs:#?}");
        for (step, output) in steps.iter().zip(&outputs) {
            if !transcript::agree(&step.expected, output) {
                wrong += &format!("{}: $ {}\n{}\n", step.place, step.command, output.join("\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "the documents show something else than this:\n{wrong}");
}

/// Three machines and a PostgreSQL run the transcript of the fleet, in the tests on a booted systemd.
#[test]
fn every_console_block_of_the_fleet_names_its_machines_and_is_run_on_them() {
    let console = blocks(SEVERAL_MACHINES).into_iter().filter(|b| b.language == "console");
    let texts: Vec<_> = console.map(|b| (b.place(), b.text)).collect();
    assert!(texts.len() > 8, "{texts:?}");
    for (place, text) in texts {
        let first = text.split("# ").next().unwrap_or_default();
        assert!(["db", "alpha", "beta"].contains(&first), "{place}: no prompt of a machine in {text}");
    }
    let test = document("tests/systemd/fleet_document.rs");
    assert!(test.contains("steps(&blocks(PAGE))") && test.contains(SEVERAL_MACHINES), "it is not run");
}

#[test]
fn every_bash_block_is_run_elsewhere() {
    let blocks = all_blocks("bash");
    let runs = |entry: &Elsewhere, block: &DocumentBlock| {
        entry.document == block.document
            && block.text.starts_with(entry.command)
            && (entry.section.is_empty() || entry.section == block.section)
    };
    for block in &blocks {
        let entry = ELSEWHERE.iter().find(|e| runs(e, block));
        assert!(entry.is_some(), "{}: list it in tests/docs/elsewhere.rs\n{}", block.place(), block.text);
    }
    for entry in ELSEWHERE {
        let Elsewhere { document, command, section, reason, file, evidence } = entry;
        let used = !root().join(document).exists() || blocks.iter().any(|block| runs(entry, block));
        assert!(used, "{document} has no block {command:?} in {section:?} ({reason})");
        assert!(self::document(file).contains(evidence), "{file} does not run {command:?}: no {evidence:?}");
    }
}

#[test]
fn every_block_says_whether_it_contains_commands() {
    for name in documents() {
        for block in blocks(&name) {
            let is_data = DATA.contains(&block.language.as_str());
            let known = is_data || ["sh", "console", "bash"].contains(&block.language.as_str());
            assert!(known, "{}: a block of an unknown language {:?}", block.place(), block.language);
            let has_command = block
                .text
                .lines()
                .any(|l| ["$ ", "bookend ", "cargo ", "just "].iter().any(|p| l.starts_with(p)));
            let is_output = block.text.starts_with("bookend: ");
            assert!(!is_data || !has_command || is_output, "{}: its commands are not run", block.place());
        }
    }
}

#[test]
fn a_fresh_machine_needs_two_commands() {
    let fresh: Vec<_> = blocks("README.md").into_iter().filter(is_for_a_fresh_machine).collect();
    assert_eq!(fresh.len(), 1, "one block: {fresh:?}");
    let commands: Vec<&str> = fresh[0].text.lines().collect();
    assert_eq!(commands.len(), 2, "{commands:?}");

    // The build is not repeated here: the rest of the line runs with this build.
    let rest = commands[0].strip_prefix("cargo build --release && ").expect("it builds first");
    let world = world();
    let output = world.bare(["sh", "-eu", "-c", &rest.replace("./target/release/", "")]).run();
    let output = output.ended(End::Code(0)).silent();
    assert!(output.stdout.starts_with("hello\n"), "{output:?}");
    assert!(output.stdout.contains("success"), "it shows the row: {output:?}");
    assert_eq!(commands[1], "cargo test");
}

#[test]
fn the_second_run_under_a_key_in_the_guide_resumes_the_first() {
    let blocks = blocks("contrib/doc/guide.md");
    let block =
        blocks.iter().find(|b| b.text.contains("--key nightly -- claude")).expect("the block about keys");
    let world = world();
    world.bare(["sh", "-eu", "-c", &block.text]).run().ended(End::Code(0)).silent();
    let rows = world.rows();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[1].text("resumed_from"), rows[0].text("session_id"));
}

#[test]
fn the_readme_is_a_page_of_150_lines_with_a_small_picture() {
    let lines = document("README.md").lines().count();
    assert!(lines <= 150, "{lines} lines: put the rest into contrib/doc");
    let picture = fs::read(root().join("contrib/doc/timeline.png")).expect("the picture");
    assert!(picture.starts_with(b"\x89PNG\r\n"), "a PNG");
    assert!(picture.len() < 100_000, "{} bytes", picture.len());
    assert!(document("README.md").contains("](contrib/doc/timeline.png)"));
}

#[test]
fn every_document_is_in_the_package() {
    let manifest = document("Cargo.toml");
    for asset in ["[\"README.md\", ", "[\"contrib/doc/*.md\", ", "[\"contrib/doc/*.png\", "] {
        assert!(manifest.contains(asset), "no asset {asset}");
    }
}

/// Options of other programs that the documents name.
const FOREIGN: [&str; 7] =
    ["--bg", "--bin", "--format", "--output-format", "--resume", "--session-id", "--test"];

/// The commands of bookend as its man pages name them, such as `session list`.
fn commands() -> BTreeSet<String> {
    let entries = fs::read_dir(root().join("contrib/man")).expect("contrib/man").flatten();
    let name = |e: fs::DirEntry| e.file_name().to_string_lossy().trim_end_matches(".1").to_owned();
    let pages: BTreeSet<String> = entries.map(name).collect();
    let names = pages.iter().filter_map(|page| page.strip_prefix("bookend-"));
    // `resume-id` is one word, the parts of `session-resume-id` are two.
    let words = |name: &str| match name.split_once('-') {
        Some((first, rest)) if pages.contains(&format!("bookend-{first}")) => format!("{first} {rest}"),
        _ => name.to_owned(),
    };
    names.map(words).collect()
}

#[test]
fn every_command_and_option_in_the_text_exists() {
    let world = world();
    let commands = commands();
    let help = |command: &String| {
        let argv = ["bookend"].into_iter().chain(command.split(' ')).chain(["--help"]);
        world.bare(argv).run().ended(End::Code(0)).stdout
    };
    let help: String = commands.iter().map(help).collect();
    for name in documents() {
        let prose = prose(&name);
        for code in prose.split('`').skip(1).step_by(2) {
            if let Some(rest) = code.strip_prefix("bookend ") {
                let first = rest.split_whitespace().next().unwrap_or_default();
                let exists = commands.contains(first)
                    || first.starts_with('-')
                    || !first.starts_with(char::is_lowercase);
                assert!(exists, "{name}: `{code}` names no command");
            }
            for word in code.split(|c: char| c.is_whitespace() || "=,;:.)|[]".contains(c)) {
                let is_option =
                    word.strip_prefix("--").is_some_and(|w| w.starts_with(|c: char| c.is_ascii_lowercase()));
                assert!(
                    !is_option || FOREIGN.contains(&word) || help.contains(word),
                    "{name}: {word} is in no --help of bookend"
                );
            }
        }
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
