//! Stand-ins for agents: shell scripts named `claude` or `cursor-agent` that print what the test asks for.

use super::World;

/// A command line of claude whose output bookend captures.
pub const STREAM: [&str; 6] = ["claude", "-p", "--output-format", "stream-json", "--verbose", "do it"];

/// The shell functions of a script, each of which prints one event: `init ID`, `turn ID MESSAGE INPUT
/// OUTPUT`, `result ID COST`, `failed ID`. `$id` is the session that the argv names.
const FUNCTIONS: &str = r#"#!/bin/sh
id= was=
for word; do
  case $was in --session-id|--resume) id=$word ;; esac
  was=$word
done
init() {
  printf '{"type":"system","subtype":"init","session_id":"%s","model":"model-1",' "$1"
  printf '"claude_code_version":"2.1.330"}\n'
}
turn() {
  printf '{"type":"assistant","message":{"id":"%s","role":"assistant","content":[],' "$2"
  printf '"usage":{"input_tokens":%s,"output_tokens":%s}},"session_id":"%s"}\n' "$3" "$4" "$1"
}
result() {
  printf '{"type":"result","subtype":"success","is_error":false,"result":"done","num_turns":2,'
  printf '"session_id":"%s","total_cost_usd":%s,"usage":{"input_tokens":30,"output_tokens":4,' "$1" "$2"
  printf '"inputTokens":30,"outputTokens":4}}\n'
}
failed() {
  printf '{"type":"result","subtype":"success","is_error":true,"result":"no luck","num_turns":1,'
  printf '"session_id":"%s","total_cost_usd":0.1}\n' "$1"
}
"#;

impl World {
    /// Installs a stand-in under `name`. It appends each argv as one line to `home/argv`.
    pub fn stand_in(&self, name: &str, script: &str) {
        let note = "echo \"$*\" >>\"$HOME/argv\"\n";
        self.program(name, &format!("{FUNCTIONS}{note}{script}\n"));
    }

    /// Installs a `claude` that stores its conversations as Claude Code does and then runs `script`.
    pub fn claude(&self, script: &str) {
        let keep =
            "mkdir -p \"$HOME/.claude/projects/all\"\necho '{}' >\"$HOME/.claude/projects/all/$id.jsonl\"";
        self.stand_in("claude", &format!("{keep}\n{script}"));
    }

    /// The argv of each stand-in that ran, without the program name, oldest first.
    pub fn argvs(&self) -> Vec<String> {
        let noted = std::fs::read_to_string(self.path("home/argv")).unwrap_or_default();
        noted.lines().map(str::to_owned).collect()
    }
}
