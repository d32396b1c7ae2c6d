//! `bookend agents`: the known agents, the user's own declarations, and the row that a recorded output makes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::Value;

use crate::harness::{End, Output, World};

/// Saves a declaration of the user's.
fn declare(world: &World, name: &str, text: &str) -> std::path::PathBuf {
    let folder = world.path("home/.config/bookend/agents");
    fs::create_dir_all(&folder).expect("the folder of declarations");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("its mode");
    let file = folder.join(format!("{name}.toml"));
    fs::write(&file, text).expect("a declaration");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its mode");
    file
}

fn agents(world: &World, words: &[&str]) -> Output {
    world.bare(["bookend", "agents"].iter().chain(words).copied()).run()
}

fn json(output: Output) -> Value {
    serde_json::from_str(&output.ended(End::Code(0)).silent().stdout).expect("JSON")
}

const SMALL: &str = "schema = 1\nname = \"sketch\"\n";

#[test]
fn the_list_names_each_agent_its_program_and_where_its_declaration_is() {
    let world = World::new();
    let file = declare(&world, "sketch", SMALL);
    let listed = agents(&world, &[]).ended(End::Code(0)).silent().stdout;
    assert_eq!(listed, agents(&world, &["list"]).stdout);
    for name in ["claude", "codex", "copilot", "cursor", "gemini", "opencode", "qwen"] {
        let line = listed.lines().find(|line| line.starts_with(name)).expect("its line");
        assert!(line.ends_with("built in"), "{line}");
    }
    assert!(listed.contains(&format!("{}\n", file.display())), "{listed}");

    declare(&world, "codex", &SMALL.replace("sketch", "codex"));
    let listed = json(agents(&world, &["--json"]));
    let codex = listed["agents"].as_array().expect("agents").iter().find(|a| a["name"] == "codex");
    let source = codex.expect("codex")["source"].as_str().expect("a source");
    assert!(source.ends_with("codex.toml, replaces the built-in"), "{source}");
}

#[test]
fn a_broken_declaration_is_listed_as_refused_and_disturbs_no_other() {
    let world = World::new();
    declare(&world, "sketch", "schema = 1\nname = \"sketch\"\npront = {}\n");
    let listed = agents(&world, &[]).ended(End::Code(0)).silent().stdout;
    assert!(listed.contains("sketch.toml (refused)"), "{listed}");
    assert!(listed.contains("sketch.toml:3: "), "{listed}");
    agents(&world, &["check", "codex"]).ended(End::Code(0)).silent();
    let refused = agents(&world, &["check", "sketch"]).ended(End::Code(2));
    assert!(refused.stderr.contains("sketch.toml:3: ") && refused.stderr.contains("pront"), "{refused:?}");
}

#[test]
fn a_declaration_that_others_can_write_to_is_refused_with_the_remedy() {
    let world = World::new();
    let file = declare(&world, "codex", &SMALL.replace("sketch", "codex"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).expect("its mode");
    for words in [["check", "codex"], ["show", "codex"]] {
        let refused = agents(&world, &words).ended(End::Code(2));
        assert!(refused.stderr.contains("chmod go-w"), "{refused:?}");
    }
}

#[test]
fn a_printed_declaration_can_be_saved_and_replaces_the_built_in() {
    let world = World::new();
    for name in ["codex", "copilot", "cursor", "gemini", "opencode", "qwen"] {
        let printed = agents(&world, &["show", name]).ended(End::Code(0)).silent().stdout;
        assert!(printed.starts_with(&format!("# {name}: built in\n")), "{printed}");
        let file = declare(&world, name, "");
        let redirected =
            world.bare(["sh", "-c", &format!("bookend agents show {name} >'{}'", file.display())]);
        redirected.run().ended(End::Code(0)).silent();
        assert_eq!(fs::read_to_string(&file).expect("the file"), printed);
        let checked = agents(&world, &["check", name]).ended(End::Code(0)).silent().stdout;
        assert!(checked.contains(&file.display().to_string()), "{checked}");
        let again = agents(&world, &["show", name]).ended(End::Code(0)).stdout;
        assert!(again.lines().next().is_some_and(|l| l.ends_with("replaces the built-in")), "{again}");
    }
}

#[test]
fn an_agent_that_is_code_or_unknown_is_refused_by_name() {
    let world = World::new();
    let code = agents(&world, &["show", "claude"]).ended(End::Code(2));
    assert!(code.stderr.contains("claude has no declaration"), "{code:?}");
    let unknown = agents(&world, &["check", "nobody"]).ended(End::Code(1));
    assert!(unknown.stderr.contains("there is no agent nobody"), "{unknown:?}");
    let file = agents(&world, &["check", "./nobody.toml"]).ended(End::Code(2));
    assert!(file.stderr.contains("./nobody.toml"), "{file:?}");
    let alone = agents(&world, &["check", "codex", "--exit", "1"]).ended(End::Code(2));
    assert!(alone.stderr.contains("--sample"), "{alone:?}");
}

/// The row that the sample of an agent would make, by `check` and by a run that prints it.
#[test]
fn a_recorded_output_shows_the_row_that_a_run_makes() {
    let Some(world) = World::of_bookend("a_recorded_output_shows_the_row") else { return };
    for (agent, words, file, exit) in [
        ("codex", "exec --json hi", "301-codex-tool-ok.stdout.jsonl", 0),
        ("codex", "exec --json hi", "303-codex-err500.stdout.jsonl", 1),
        ("gemini", "-o stream-json -p hi", "309-gemini-tool-ok.stdout.jsonl", 0),
        ("gemini", "-o json -p hi", "210-gemini-json.stdout.json", 0),
        ("gemini", "-o stream-json -p hi", "310-gemini-err400.stdout.jsonl", 144),
        ("opencode", "run --format json hi", "315-opencode-tool-ok.stdout.jsonl", 0),
        ("opencode", "run --format json hi", "317-opencode-err400.stdout.jsonl", 1),
        ("qwen", "-o stream-json -p hi", "321-qwen-tool-ok.stdout.jsonl", 0),
        ("copilot", "--output-format json -p hi", "329-copilot-tool-ok.stdout.jsonl", 0),
        ("claude", "-p hi --output-format json", "30-error-500-json.stdout.json", 1),
    ] {
        let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(file);
        let sample = sample.to_str().expect("a path");
        world.stand_in(agent, &format!("cat '{sample}'; exit {exit}"));
        world.run([agent].into_iter().chain(words.split(' '))).run().ended(End::Code(exit));
        let row = world.rows().pop().expect("a row");
        let exit = exit.to_string();
        let shown = json(agents(&world, &["check", agent, "--sample", sample, "--exit", &exit, "--json"]));
        for (name, value) in shown.as_object().expect("a row") {
            match value {
                Value::Null => assert_eq!(row.text(name), "", "{file}: {name}"),
                Value::String(text) => assert_eq!(&row.text(name), text, "{file}: {name}"),
                Value::Number(n) if n.is_i64() => assert_eq!(row.number(name), n.as_i64(), "{file}: {name}"),
                other => assert!(!other.is_boolean(), "{file}: {name} is {other}"),
            }
        }
    }
}

/// The keys of the tables in the source, by their names in a file.
fn keys_in_the_source() -> std::collections::BTreeSet<String> {
    let source = include_str!("../src/agent/declared/schema.rs");
    let mut renamed = None;
    let mut keys = std::collections::BTreeSet::new();
    for line in source.lines().map(str::trim) {
        let field = line.strip_prefix("pub ").unwrap_or(line).split_once(": ").map(|(name, _)| name);
        if let Some(name) = line.strip_prefix("#[serde(rename = \"") {
            renamed = name.split('"').next();
        } else if let Some(name) =
            field.filter(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
        {
            keys.insert(renamed.take().unwrap_or(name).to_owned());
        }
    }
    keys
}

#[test]
fn every_key_of_a_declaration_is_documented_and_every_documented_key_exists() {
    let document = include_str!("../contrib/doc/agents.md");
    let (_, tables) = document.split_once("## The keys of a declaration").expect("the section");
    let keys = keys_in_the_source();
    assert!(keys.len() > 60, "{keys:?}");
    let undocumented: Vec<_> = keys
        .iter()
        .filter(|key| {
            ![format!("`{key}`"), format!(" {key} = "), format!("\"{key}\"")]
                .iter()
                .any(|k| tables.contains(k))
        })
        .filter(|key| !["id", "name"].contains(&key.as_str()))
        .collect();
    assert!(undocumented.is_empty(), "agents.md lacks {undocumented:?}");
    let first_column = tables.lines().filter_map(|line| line.strip_prefix("| `")?.split(" |").next());
    for name in first_column.flat_map(|cell| cell.split("`, `")).map(|cell| cell.trim_end_matches('`')) {
        assert!(keys.contains(name), "a declaration has no key {name}");
    }
}
