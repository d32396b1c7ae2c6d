//! `contrib/doc/reference.md` names what exists and nothing else.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::{End, World};
use crate::standins::{self, Busy};

/// Every place of a value in a JSON document: `tasks[].id`.
fn fields(value: &Value, at: &str, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let place = if at.is_empty() { name.clone() } else { format!("{at}.{name}") };
                found.insert(place.clone());
                fields(value, &place, found);
            }
        }
        Value::Array(items) => {
            for item in items {
                fields(item, &format!("{at}[]"), found);
            }
        }
        _ => {}
    }
}

/// A world in which something of everything has happened.
fn eventful() -> World {
    let world = World::new();
    standins::install(&world);
    standins::dispatch(&world, "claude").run().ended(End::Code(0));
    let made = "git init -q . && echo a >a && git add a && git -c user.name=a -c user.email=a@b commit -qm a && echo b >b
        bookend artifact add b https://example.org; setsid sleep 100 >/dev/null 2>&1 & BOOKEND_DETACHED=1 setsid sleep 3 &
        exit 3";
    world.run_sh(made).options(["--on-finish", "exit 1"]).run().ended(End::Code(3));
    Busy::of(&world, "claude").kill_all();
    world
}

#[test]
fn dump() {
    let world = eventful();
    let words: &[&[&str]] = &[
        &["audit", "--json"],
        &["recover", "--dry-run", "--json"],
        &["recover", "--json"],
        &["list", "--json"],
        &["show", "--json"],
        &["stats", "--json"],
        &["doctor", "--json"],
        &["session", "list", "--json"],
        &["session", "show", standins::KEY, "--json"],
        &["session", "resume-id", standins::KEY, "--json"],
        &["session", "restore", standins::KEY, "--json"],
        &["session", "list", "--json"],
        &["session", "show", standins::KEY, "--json"],
        &["session", "resume-id", standins::KEY, "--json"],
        &["session", "invalidate", standins::KEY, "--json"],
        &["prune", "--json", "--retention", "0"],
    ];
    for words in words {
        let mut words = words.to_vec();
        let id = world.rows()[1].text("id");
        if words[0] == "show" {
            words.insert(1, &id);
        }
        let output = standins::bookend(&world, &words);
        let mut found = BTreeSet::new();
        let value: Value = serde_json::from_str(&output.stdout).unwrap_or_default();
        fields(&value, "", &mut found);
        crate::harness::say(&format!("{words:?} {:?} {}\n{found:?}\n{}", output.end, output.stderr, output.stdout));
    }
}
