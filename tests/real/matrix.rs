//! Command lines of Claude Code end in the same way with bookend and without it.

use std::ffi::OsString;
use std::fs;
use std::io::{Seek, Write};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use serde_json::Value;

use crate::Real;
use crate::harness::{End, World, print_line};

/// The number of command lines that are tried in parallel; each has two sides.
const AT_ONCE: usize = 3;
/// The limits in seconds after which a command counts as waiting: the second one applies if only one side
/// has ended within the first. A world waits for 30 s at most.
const LIMITS: [&str; 2] = ["8", "24"];
/// The number of parts, of which one is tried per day. `BOOKEND_TEST_MATRIX=all` tries all.
const PARTS: usize = 4;

/// A line of `command-lines.jsonl`.
struct Case {
    tag: String,
    arguments: Vec<String>,
    stdin: Option<String>,
    /// A shell command that runs first.
    before: Option<String>,
    /// The number of runs.
    times: u64,
}

fn cases() -> Vec<Case> {
    let text = |v: &Value| v.as_str().map(str::to_owned);
    let case = |line: &str| {
        let line: Value = serde_json::from_str(line).expect("a line of JSON");
        let options = &line[2];
        Case {
            tag: text(&line[0]).expect("a tag"),
            arguments: line[1].as_array().expect("arguments").iter().filter_map(text).collect(),
            stdin: text(&options["stdin"]),
            before: text(&options["pre"]),
            times: options["n"].as_u64().unwrap_or(1),
        }
    };
    include_str!("command-lines.jsonl").lines().map(case).collect()
}

/// The cases of today's part, or all.
fn chosen() -> Vec<Case> {
    if std::env::var("BOOKEND_TEST_MATRIX").is_ok_and(|v| v == "all") {
        return cases();
    }
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a date");
    let today = (since.as_secs() / 86_400) as usize % PARTS;
    cases().into_iter().enumerate().filter(|(n, _)| n % PARTS == today).map(|(_, case)| case).collect()
}

/// One side of a case, in its own world.
struct Side<'a> {
    world: World,
    claude: PathBuf,
    environment: &'a [(&'static str, OsString)],
}

impl<'a> Side<'a> {
    fn new(claude: &PathBuf, environment: &'a [(&'static str, OsString)]) -> Side<'a> {
        let world = World::new();
        symlink(claude, world.path("bin/claude")).expect("Claude Code in the world's PATH");
        let here = world.path("home/w");
        fs::create_dir(&here).expect("a folder");
        let trusted = serde_json::json!({
            "hasTrustDialogAccepted": true,
            "hasCompletedProjectOnboarding": true,
        });
        let known = serde_json::json!({
            "hasCompletedOnboarding": true,
            "theme": "dark",
            "bypassPermissionsModeAccepted": true,
            "customApiKeyResponses": { "approved": ["dummy"], "rejected": [] },
            "projects": { world.name("home/w"): trusted },
        });
        fs::write(world.path("home/.claude.json"), known.to_string()).expect("what Claude Code knows");
        let repository = "git init -q . && git -c user.email=a@b -c user.name=a commit -q --allow-empty -m x";
        let made = Command::new("sh").args(["-c", repository]).current_dir(&here).status().expect("git");
        assert!(made.success(), "a repository");
        Side { world, claude: claude.clone(), environment }
    }

    fn run(&mut self, words: &[&str], stdin: Option<&str>) -> End {
        self.world.renew_deadline();
        let command = self.world.bare(words.iter().copied()).cwd(self.world.path("home/w"));
        let mut command = self.environment.iter().fold(command, |c, (name, value)| c.env(*name, value));
        if let Some(text) = stdin {
            let mut file = tempfile::tempfile().expect("a file");
            file.write_all(text.as_bytes()).expect("its text");
            file.rewind().expect("its beginning");
            command = command.input(file);
        }
        command.run().end
    }

    /// How each run of the case ended; 124: it did not end within `limit` seconds.
    fn ends(mut self, case: &Case, before: &[&str], limit: &str) -> Vec<End> {
        if let Some(script) = &case.before {
            self.run(&["sh", "-c", script], None);
        }
        let claude = self.claude.clone();
        let arguments = case.arguments.iter().map(String::as_str);
        let words: Vec<&str> = ["timeout", "-k", "4", limit]
            .into_iter()
            .chain(before.iter().copied())
            .chain(claude.to_str())
            .chain(arguments)
            .collect();
        (0..case.times).map(|_| self.run(&words, case.stdin.as_deref())).collect()
    }
}

/// How the case ends without bookend and with it.
fn both(case: &Case, claude: &PathBuf, environment: &[(&'static str, OsString)]) -> [Vec<End>; 2] {
    let mut ends = [Vec::new(), Vec::new()];
    for limit in LIMITS {
        ends = std::thread::scope(|scope| {
            let sides = [&[][..], &["bookend", "run", "--key", "k", "--"]];
            let side = |before| scope.spawn(move || Side::new(claude, environment).ends(case, before, limit));
            sides.map(side).map(|side| side.join().expect("a side"))
        });
        if ends[0] == ends[1] {
            break;
        }
    }
    ends
}

#[test]
fn claude_ends_in_the_same_way_with_bookend_and_without() {
    let Some(real) = Real::new("claude_ends_in_the_same_way_with_bookend_and_without", "text:pong") else {
        return;
    };
    let mut environment = real.environment();
    // Requests to other hosts fail at once.
    environment.extend([
        ("HTTPS_PROXY", "http://127.0.0.1:9".into()),
        ("NO_PROXY", "127.0.0.1,localhost".into()),
        ("npm_config_registry", "http://127.0.0.1:9/".into()),
        ("npm_config_fetch_retries", "0".into()),
        ("TERM", "xterm".into()),
    ]);
    let claude = fs::canonicalize(real.world.path("bin/claude")).expect("the program of Claude Code");
    let cases = chosen();
    let (next, wrong) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let [bare, with] = both(case, &claude, &environment);
                    if bare != with {
                        let difference =
                            format!("{}: {:?}: {bare:?} became {with:?}", case.tag, case.arguments);
                        wrong.lock().expect("the list").push(difference);
                    }
                }
            });
        }
    });
    print_line(&format!("{} command lines of Claude Code were tried twice", cases.len()));
    let wrong = wrong.into_inner().expect("the list");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
