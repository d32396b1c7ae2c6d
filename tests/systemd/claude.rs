//! The task of the systemd page with real Claude Code, against an API on the loopback interface.

use std::fs;

use serde_json::Value;

use crate::documents::{blocks_of_root, fresh_with};
use crate::harness::{on_path, possible};
use crate::machine::Machine;

const API: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/fake_anthropic_api.py");
/// What stands for the Internet in the machine: everything else is as the page says.
const LOOPBACK: &str = "[Service]\nEnvironment=ANTHROPIC_BASE_URL=http://127.0.0.1:8080\n\
    Environment=CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC=1 DISABLE_TELEMETRY=1 DISABLE_AUTOUPDATER=1\n";

/// A Python expression with the API's answer to a request.
fn api(path: &str, body: &str) -> String {
    format!("__import__('urllib.request').request.urlopen('http://127.0.0.1:8080/{path}', {body}).read()")
}

/// Waits until the API has got so many requests of an agent.
fn asked(m: &Machine, times: u32) {
    m.until(&format!(
        "python3 -c \"exit(__import__('json').loads({})['main'] < {times})\"",
        api("_count", "None")
    ));
}

#[test]
fn the_documented_task_works_with_real_claude_code() {
    let test = "the_documented_task_works_with_real_claude_code";
    let claude = std::env::var_os("BOOKEND_REAL_CLAUDE");
    let needs =
        "real Claude Code: set BOOKEND_REAL_CLAUDE=/path/to/claude and have python3, or start .ci/run";
    if !possible(test, claude.is_some() && on_path("python3"), needs) {
        return;
    }
    let claude = fs::canonicalize(claude.expect("just asked for")).expect("the program of Claude Code");
    let binds = [format!("{}:/usr/local/bin/claude:ro", claude.display()), format!("{API}:/srv/api.py:ro")];
    let Some(m) = fresh_with(test, &["--bind", &binds[0], "--bind", &binds[1]]) else { return };
    m.sh("systemd-run --quiet --unit=api --setenv=FAKE_PORT=8080 --setenv=FAKE_SCRIPT=hang \
          --setenv=FAKE_REQUIRE_KEY=sk-ant-your-key python3 /srv/api.py");
    m.write("/etc/systemd/system/bookend@.service.d/loopback.conf", LOOPBACK);
    let mut requests = 0;
    for block in blocks_of_root() {
        m.sh(&format!("cd /srv/bookend\n{}", block.text));
        if block.text.contains("start bookend@nightly\n") {
            requests += 1;
            asked(&m, requests);
        }
    }
    assert_eq!(requests, 2, "the page starts the task once and restarts it once");
    let rows = m.rows();
    assert_eq!(rows.len(), 2, "{rows:#?}");
    for row in &rows {
        assert_eq!((&row["status"], &row["exit_code"]), (&"interrupted".into(), &143.into()), "{row:#}");
    }
    assert_eq!(rows[0]["resumed_from"], Value::Null);

    m.sh(&format!("python3 -c \"{}\"", api("_script", "b'text:done'")));
    m.sh("systemctl start bookend@nightly");
    m.until("systemctl show -P ActiveState bookend@nightly | grep -Eq 'inactive|failed'");
    let row = m.rows().remove(0);
    assert_eq!(row["status"], "success", "{row:#}");
    assert!(row["cost_usd"].as_f64().is_some_and(|cost| cost > 0.0), "{row:#}");
    assert!(row["session_id"].is_string() && row["model"].is_string(), "{row:#}");
}
