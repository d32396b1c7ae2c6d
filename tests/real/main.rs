//! Runs real Claude Code under bookend against an API on the loopback interface, without other network
//! access.
//!
//! It needs `BOOKEND_REAL_CLAUDE`, the path of Claude Code's program, and python3 for the API; `.ci/run`
//! installs both. Without them each test prints that it is skipped and passes, or fails with
//! `BOOKEND_TEST_ALL=1`. The tests in `agents` run other agents instead.

#[path = "../harness/mod.rs"]
#[allow(dead_code, unused_imports, reason = "shared with the other binary of tests, which uses more of it")]
mod harness;

mod agents;
mod dying;
mod interactive;
mod matrix;
mod outcomes;
mod sessions;
mod stopping;

use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::symlink;

use harness::{Cmd, Proc, World, on_path, possible};
use serde_json::Value;

/// A world with Claude Code in its PATH and its own API.
struct Real {
    world: World,
    /// The API server, which runs until it is dropped.
    _api: Proc,
    port: String,
}

impl Real {
    /// `script` is the list of the API's answers: see the head of `fake_anthropic_api.py`.
    fn new(test: &str, script: &str) -> Option<Real> {
        let claude = std::env::var_os("BOOKEND_REAL_CLAUDE");
        let needs =
            "real Claude Code: set BOOKEND_REAL_CLAUDE=/path/to/claude and have python3, or start .ci/run";
        if !possible(test, claude.is_some() && on_path("python3"), needs) {
            return None;
        }
        let world = World::new();
        let claude = fs::canonicalize(claude.expect("just asked for")).expect("the program of Claude Code");
        symlink(claude, world.path("bin/claude")).expect("Claude Code in the world's PATH");
        let home = world.name("home");
        let known = serde_json::json!({
            "hasCompletedOnboarding": true,
            "theme": "dark",
            "customApiKeyResponses": { "approved": ["dummy"], "rejected": [] },
            "projects": { home: { "hasTrustDialogAccepted": true, "hasCompletedProjectOnboarding": true } },
        });
        fs::write(world.path("home/.claude.json"), known.to_string()).expect("what Claude Code knows");

        let server = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/fake_anthropic_api.py");
        let mut api = world.bare(["python3", server]).env("FAKE_SCRIPT", script).start();
        let port = api.line();
        Some(Real { world, _api: api, port })
    }

    /// The environment in which Claude Code uses no network but loopback.
    fn environment(&self) -> Vec<(&'static str, OsString)> {
        vec![
            ("ANTHROPIC_BASE_URL", format!("http://127.0.0.1:{}", self.port).into()),
            ("ANTHROPIC_API_KEY", "dummy".into()),
            ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1".into()),
            ("DISABLE_TELEMETRY", "1".into()),
            ("DISABLE_AUTOUPDATER", "1".into()),
            // Without it, Claude Code refuses --dangerously-skip-permissions as root.
            ("IS_SANDBOX", "1".into()),
        ]
    }

    /// `bookend run -- claude -p hello …`
    fn claude<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Cmd<'_> {
        self.against_the_api(self.world.run(CLAUDE.into_iter().chain(arguments)))
    }

    /// `claude -p hello …` without bookend.
    fn bare<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Cmd<'_> {
        self.against_the_api(self.world.bare(CLAUDE.into_iter().chain(arguments)))
    }

    fn against_the_api<'a>(&self, command: Cmd<'a>) -> Cmd<'a> {
        self.environment().into_iter().fold(command, |command, (name, value)| command.env(name, value))
    }

    /// Whether Claude Code has saved the conversation.
    fn has_transcript(&self, session: &str) -> bool {
        let projects = fs::read_dir(self.world.path("home/.claude/projects")).expect("its projects");
        projects.flatten().any(|p| p.path().join(format!("{session}.jsonl")).exists())
    }
}

const CLAUDE: [&str; 4] = ["claude", "-p", "hello", "--dangerously-skip-permissions"];

/// The options of each output mode.
const JSON: [&str; 2] = ["--output-format", "json"];
const STREAM_JSON: [&str; 3] = ["--output-format", "stream-json", "--verbose"];

/// The last result event of Claude Code, in either mode.
fn result(stdout: &str) -> Value {
    let line = stdout.lines().last().unwrap_or_default();
    let result: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(result["type"], "result", "{line}");
    result
}
