//! `contrib/doc/reference.md` names everything that exists, and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::harness::{End, World};
use crate::standins::{self, Busy};

type Names = BTreeSet<String>;

const PAGE: &str = "contrib/doc/reference.md";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

/// The text below a heading, up to the next heading of any level.
fn section(heading: &str) -> String {
    let page = read(PAGE);
    let mut lines = page.lines().skip_while(|line| *line != heading);
    assert!(lines.next().is_some(), "{PAGE} has no {heading:?}");
    lines.take_while(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect()
}

/// The cells of each row of a section's tables, without the heads.
fn rows(heading: &str) -> Vec<Vec<String>> {
    let section = section(heading);
    let rows = section.lines().filter(|l| l.starts_with("| ") && !l.starts_with("| ---"));
    let cells = |row: &str| row.trim_matches('|').split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
    rows.map(cells).collect()
}

/// The names in backticks of one column of a section's tables.
fn named(heading: &str, column: usize) -> Names {
    let of = |row: &Vec<String>| -> Vec<String> {
        row[column].split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    rows(heading).iter().flat_map(of).collect()
}

fn set<'a>(names: impl IntoIterator<Item = &'a str>) -> Names {
    names.into_iter().map(str::to_owned).collect()
}

/// The Rust code of the program, without its unit tests.
fn sources() -> String {
    let mut text = String::new();
    let mut open = vec![root().join("src")];
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).expect("a directory of src").flatten() {
            let path = entry.path();
            let is_test = path.file_stem().is_some_and(|s| s == "tests");
            if path.is_dir() && !is_test {
                open.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && !is_test {
                let code = fs::read_to_string(&path).expect("a source");
                text += code.split("#[cfg(test)]\nmod tests").next().expect("its beginning");
            }
        }
    }
    text
}

/// The words of the sources that begin with `prefix`.
fn words_with(prefix: &str) -> Names {
    let text = sources();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|w| w.len() > prefix.len() && w.starts_with(prefix)).map(str::to_owned).collect()
}

#[test]
fn every_variable_is_listed_and_every_listed_one_is_read() {
    let mut exist = words_with("BOOKEND_");
    // Only tests use these.
    exist.retain(|name| !name.starts_with("BOOKEND_FAILPOINT") && !name.starts_with("BOOKEND_TEST_"));
    assert_eq!(named("## Environment variables", 0), exist);
}

#[test]
fn every_option_of_run_has_its_variable() {
    let world = World::new();
    let help = world.bare(["bookend", "run", "--help"]).run().ended(End::Code(0)).stdout;
    let listed = named("## Environment variables", 0);
    let shown: Names =
        help.split("[env: ").skip(1).filter_map(|t| t.split(['=', ']']).next()).map(str::to_owned).collect();
    assert!(shown.len() > 25, "{shown:?}");
    assert_eq!(shown.difference(&listed).count(), 0, "{shown:?}");
}

#[test]
fn every_exit_code_is_listed() {
    let codes = read("src/exit.rs");
    let value = |line: &str| {
        let (_, value) = line.trim().strip_prefix("pub const ")?.split_once(": i32 = ")?;
        Some(value.trim_end_matches(';').to_owned())
    };
    let mut exist: Names = codes.lines().filter_map(value).collect();
    exist.insert("0".to_owned());
    let listed: Names = rows("## Exit codes").iter().skip(1).map(|row| row[0].clone()).collect();
    assert_eq!(listed, exist);
}

#[test]
fn every_status_and_reason_is_listed() {
    let schema = read("src/ledger/migrations/001.sql");
    let check = schema.split("CHECK (status IN").nth(1).and_then(|t| t.split(')').next()).expect("a CHECK");
    let statuses: Names = check.split('\'').skip(1).step_by(2).map(str::to_owned).collect();
    assert_eq!(named("## Statuses", 0), statuses);

    let reasons = named("## Reasons", 1);
    let code = sources();
    let ended =
        code.split("fn from_words").nth(1).and_then(|t| t.split("\n    }\n").next()).expect("the words");
    let words: Names = ended.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let fleet = set(["host_lost", "unknown_to_ledger"]);
    let schema = read("src/fleet/schema/001.sql");
    assert!(fleet.iter().all(|reason| schema.contains(&format!("'{reason}', "))), "{fleet:?}");
    assert_eq!(reasons, &(&words | &fleet) | &set(["backgrounded", "--require-skill"]));
}

#[test]
fn every_journal_field_and_message_id_is_listed() {
    let code = sources();
    let is_field = |word: &&str| word.len() > 2 && word.chars().all(|c| c.is_ascii_uppercase() || c == '_');
    let last_word =
        |part: &str| part.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().map(str::to_owned);
    // A field of a message: `NAME = value,` in the arguments of a macro of tracing.
    let is_other = |line: &&str| ["const ", "static ", "let "].iter().any(|word| line.contains(word));
    let mut exist = Names::new();
    for line in code.lines().filter(|line| !is_other(line)) {
        let parts: Vec<&str> = line.split(" = ").collect();
        exist.extend(parts[..parts.len() - 1].iter().filter_map(|part| last_word(part)));
    }
    exist.retain(|word| is_field(&word.as_str()));
    assert!(exist.remove("MESSAGE"), "{exist:?}");
    let listed = named("## Journal fields", 0);
    assert_eq!(listed, exist);

    let is_id = |word: &&str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    let ids: Names = code.split('"').filter(is_id).map(str::to_owned).collect();
    let mut listed = named("## Journal fields", 1);
    listed.retain(|name| name.len() == 32);
    assert!(ids.len() > 5 && listed == ids, "{listed:?} and {ids:?}");
}

/// The functions of the schema that a role may execute, by the group that may.
#[test]
fn every_function_of_the_fleet_is_listed_with_its_role() {
    let schema = read("src/fleet/schema/001.sql");
    let grants =
        schema.split("GRANT EXECUTE ON FUNCTION ").skip(1).map(|g| g.split(';').next().expect("one"));
    let mut exist: BTreeMap<String, Names> = BTreeMap::new();
    for (functions, roles) in grants.map(|grant| grant.split_once(" TO ").expect("roles")) {
        let names = functions.split(',').map(|name| name.trim().trim_start_matches("bookend.").to_owned());
        let role = if roles.contains(',') { "all" } else { roles.trim() };
        exist.entry(role.to_owned()).or_default().extend(names);
    }
    let functions = rows("## Fleet").into_iter().skip_while(|row| row[0] != "function").skip(1);
    let listed = functions.map(|row| {
        let role = row[1].split(':').next().expect("a role").trim_matches('`').to_owned();
        (role, row[0].split(", ").map(|name| name.trim_matches('`').to_owned()).collect())
    });
    assert_eq!(listed.collect::<BTreeMap<String, Names>>(), exist);
    for code in ["BK001", "BK002", "BK003", "BK004"] {
        assert!(section("## Fleet").contains(code) && sources().contains(code), "{code}");
    }
}

#[test]
fn every_audit_code_is_listed_with_its_severity() {
    let world = World::new();
    let help = world.bare(["bookend", "audit", "--help"]).run().ended(End::Code(0)).stdout;
    let known = rows("## Audit codes");
    for row in &known[1..] {
        let code = row[0].trim_matches('`');
        assert!(help.contains(&format!("{code}:")) || help.contains(code), "{code} is not in {help}");
        assert!(row[1].starts_with("error") || row[1].starts_with("warn"), "{row:?}");
    }
    let code = read("src/view/audit.rs");
    let all = code.split("pub const ALL: [").nth(1).and_then(|t| t.split(';').nth(1)).expect("ALL");
    let count: usize = all.split(']').next().and_then(|n| n.trim().parse().ok()).expect("its length");
    assert_eq!(known.len() - 1, count);
}

#[test]
fn every_column_is_listed_with_its_type() {
    let world = World::new();
    world.run(["true"]).run().ended(End::Code(0));
    let tables =
        world.sql("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'");
    assert!(tables.len() > 4, "{tables:?}");
    for table in tables {
        let table = table.text("name");
        let columns =
            world.sql(&format!("SELECT name, lower(type) AS type FROM pragma_table_info('{table}')"));
        let exist: Names =
            columns.iter().map(|c| format!("{}: {}", c.text("name"), c.text("type"))).collect();
        let rows = rows(&format!("### `{table}`"));
        let listed: Names =
            rows[1..].iter().map(|r| format!("{}: {}", r[0].trim_matches('`'), r[1])).collect();
        assert_eq!(listed, exist, "{table}");
        let kinds = ["stable", "internal", "internal, not in JSON"];
        assert!(rows[1..].iter().all(|r| kinds.contains(&r[2].as_str())), "{rows:?}");
    }
}

/// Every place of a value in a JSON document, such as `tasks[].id`.
fn fields(value: &Value, at: &str, found: &mut Names) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let place = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                found.insert(place.clone());
                fields(value, &place, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| fields(item, &format!("{at}[]"), found)),
        _ => {}
    }
}

/// A world in which a run has succeeded, one has failed with a hook and a leftover process, and one was lost.
fn eventful() -> World {
    let world = World::new();
    standins::install(&world);
    standins::dispatch(&world, "claude").run().ended(End::Code(0));
    let failing = "echo b >b; bookend artifact add b https://example.org
                   BOOKEND_DETACHED=1 setsid sleep 100 >/dev/null 2>&1 & exit 3";
    let failing = world.run_sh(failing).options(["--id", "failed", "--on-finish", "exit 1"]);
    failing.run().ended(End::Code(3));
    Busy::of(&world, "claude").kill_all();
    world
}

/// The fields of each command's documents in an eventful world, in the order of a session at the terminal.
fn printed() -> BTreeMap<String, Names> {
    let world = eventful();
    let key = standins::KEY;
    let commands: [(&str, &[&str]); 16] = [
        ("audit", &[]),
        ("recover", &["--dry-run"]),
        ("recover", &[]),
        ("list", &[]),
        ("stats", &[]),
        ("doctor", &[]),
        ("session restore KEY", &[]),
        ("session list", &[]),
        ("session show KEY", &[]),
        ("session resume-id KEY", &[]),
        ("show ID", &[]),
        ("show failed", &[]),
        ("session invalidate KEY", &[]),
        ("prune", &["--retention", "0"]),
        ("agents list", &[]),
        ("agents check NAME", &[]),
    ];
    let lost = || world.rows()[2].text("id");
    let mut printed: BTreeMap<String, Names> = BTreeMap::new();
    for (command, options) in commands {
        let id = if command == "show ID" { lost() } else { String::new() };
        let words = command.split(' ').map(|word| match word {
            "KEY" => key,
            "ID" => &id,
            "NAME" => "codex",
            word => word,
        });
        let words: Vec<&str> = words.chain(options.iter().copied()).chain(["--json"]).collect();
        let command = command.replace("failed", "ID");
        fields(&standins::json(&world, &words), "", printed.entry(command).or_default());
    }
    printed
}

/// Where a document holds whole tasks.
const TASKS: [&str; 3] = ["task", "tasks[]", "hints[].task"];

#[test]
fn every_field_of_the_json_documents_is_listed() {
    let words: Names = {
        let code = sources();
        code.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').map(str::to_owned).collect()
    };
    for (command, mut printed) in printed() {
        let inside = |field: &String| {
            TASKS.iter().any(|task| field.strip_prefix(task).is_some_and(|f| f.starts_with('.')))
        };
        printed.retain(|field| !inside(field) && !field.starts_with("summary.by_code."));
        let listed = named(&format!("### `bookend {command} --json`"), 0);
        let missing: Vec<&String> = printed.difference(&listed).collect();
        assert!(missing.is_empty(), "bookend {command} prints {missing:?}, which {PAGE} does not list");
        // What this world has no example of is at least a name of the program.
        for field in listed.difference(&printed) {
            let is_item = field.contains("[].");
            let name = field.rsplit('.').next().expect("a name").trim_end_matches("[]");
            assert!(is_item && words.contains(name), "bookend {command} never prints {field}");
        }
    }
}

#[test]
fn the_stability_of_each_field_is_that_of_its_column() {
    let in_backticks =
        |cell: &str| -> Names { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let columns = rows("### `task_history`");
    let with = |kind: &str| -> Names {
        let of_kind = columns.iter().filter(|row| row[2] == kind);
        of_kind.map(|row| row[0].trim_matches('`').to_owned()).collect()
    };
    let printed = printed();
    let documents = rows("### Stability of the fields");
    let task = documents.iter().find(|row| row[0] == "a task").expect("the fields of a task");
    assert_eq!((in_backticks(&task[1]), in_backticks(&task[2])), (with("stable"), with("internal")));
    let fields =
        printed["list"].iter().filter_map(|f| f.strip_prefix("tasks[].")).filter(|f| !f.contains('.'));
    let listed = &in_backticks(&task[1]) | &in_backticks(&task[2]);
    assert_eq!(fields.map(str::to_owned).collect::<Names>(), listed);
    let of = |command: &str| -> Names {
        let documents = printed.iter().filter(|(name, _)| name.split(' ').next() == Some(command));
        documents.flat_map(|(_, fields)| fields.clone()).collect()
    };
    let commands: Names = printed.keys().filter_map(|c| c.split(' ').next()).map(str::to_owned).collect();
    let named: Names = documents[1..].iter().flat_map(|row| in_backticks(&row[0])).collect();
    assert_eq!(named, commands, "every document has its row");
    for row in documents[1..].iter().filter(|row| row[0] != "a task") {
        let command = row[0].trim_matches('`');
        let listed = named_in(&printed, command);
        for field in in_backticks(&row[2]) {
            assert!(of(command).contains(&field) || listed.contains(&field), "{command} has no {field}");
        }
    }
}

/// The fields that the page lists for the documents of a command.
fn named_in(printed: &BTreeMap<String, Names>, command: &str) -> Names {
    let documents = printed.keys().filter(|name| name.split(' ').next() == Some(command));
    documents.flat_map(|name| named(&format!("### `bookend {name} --json`"), 0)).collect()
}

#[test]
fn a_task_in_json_has_the_columns_of_its_table() {
    let mut columns = rows("### `task_history`");
    columns.retain(|row| row[0].starts_with('`') && row[2] != "internal, not in JSON");
    let columns: Names = columns.iter().map(|row| row[0].trim_matches('`').to_owned()).collect();
    let mut seen = Names::new();
    for (command, printed) in printed() {
        for task in TASKS {
            let direct = printed.iter().filter_map(|f| f.strip_prefix(task)?.strip_prefix('.'));
            let own: Names = direct.clone().filter(|f| !f.contains('.')).map(|f| f.to_owned()).collect();
            assert!(own.is_empty() || own == columns, "{command}: {own:?}");
            seen.extend(direct.map(str::to_owned));
        }
    }
    let below = |name: &str| -> Names {
        let inside =
            seen.iter().filter_map(|f| f.strip_prefix(name)?.trim_start_matches("[]").strip_prefix('.'));
        inside.filter(|f| !f.contains('.')).map(str::to_owned).collect()
    };
    let mut artifacts = named("### Artifacts", 1);
    artifacts.insert("kind".to_owned());
    assert_eq!(below("artifacts").difference(&artifacts).count(), 0, "{:?}", below("artifacts"));
    assert!(below("artifacts").is_superset(&set(["at", "kind", "path", "bytes", "url"])));
    let leftovers: Names =
        rows("### Leftover processes")[1..].iter().map(|r| r[0].trim_matches('`').to_owned()).collect();
    assert_eq!(below("leftovers").difference(&leftovers).count(), 0, "{:?}", below("leftovers"));
}
