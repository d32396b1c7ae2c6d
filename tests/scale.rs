//! Looking at a ledger of a million rows takes no more than three times as long as at one of a thousand.
//! Minutes of work: `cargo test --release -- --ignored scale`.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::harness::World;

/// Adds so many ended tasks, as a year of work would have left them.
fn fill(world: &World, rows: u32) {
    world.run(["true"]).run();
    world.write(&format!(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO task_history (id, key, repo, issue_number, agent, agent_type, provider, status, reason,
             started_at, finished_at, duration_ms, cost_usd, turns, input_tokens, output_tokens, session_id,
             argv, user_argv, cwd, live_slot, boot_id, host, end_source, last_seen_at, cleanup_after)
         SELECT format('01900000-%08d', i), format('forgejo:dev:repo-%d:%d', i % 50, i % 5000),
             format('repo-%d', i % 50), i % 5000, CASE i % 3 WHEN 0 THEN 'dev' ELSE 'review' END, 'claude',
             'anthropic', CASE i % 10 WHEN 0 THEN 'failure' ELSE 'success' END,
             CASE i % 10 WHEN 0 THEN 'exit' END,
             strftime('%Y-%m-%dT%H:%M:%fZ', 1700000000 + i * 30, 'unixepoch'),
             strftime('%Y-%m-%dT%H:%M:%fZ', 1700000020 + i * 30, 'unixepoch'),
             20000, 0.25, 7, 1000, 200, format('session-%d', i), '[\"claude\",\"-p\",\"go on with it\"]',
             '[\"claude\",\"-p\",\"go on with it\"]', '/srv/work', i, 'boot', 'host', 'wait',
             strftime('%Y-%m-%dT%H:%M:%fZ', 1700000020 + i * 30, 'unixepoch'), '2100-01-01T00:00:00.000Z'
         FROM n;
         INSERT INTO claude_sdk_sessions (key, session_id, provider, task_id, trusted)
         SELECT key, session_id, provider, id, 1 FROM task_history
         WHERE status = 'success' AND key IS NOT NULL
         ORDER BY started_at DESC LIMIT 1;
         ANALYZE"
    ));
}

/// The best of many runs: what the work itself takes.
fn best(world: &World, words: &[&str]) -> Duration {
    let once = || {
        let began = Instant::now();
        let status = Command::new(env!("CARGO_BIN_EXE_bookend"))
            .args(words)
            .arg("--ledger")
            .arg(world.ledger())
            .stdout(Stdio::null())
            .status()
            .expect("bookend");
        assert!(status.success(), "{words:?}");
        began.elapsed()
    };
    (0..40).map(|_| once()).min().expect("a time")
}

#[test]
#[ignore = "minutes of work"]
fn a_million_rows_are_looked_at_as_fast_as_a_thousand() {
    let Some(small) = World::of_bookend("a_million_rows_are_looked_at_as_fast_as_a_thousand") else { return };
    let large = World::new();
    fill(&small, 1_000);
    fill(&large, 1_000_000);
    let key = |world: &World| world.sql("SELECT key FROM claude_sdk_sessions")[0].text("key");
    let (key_of_small, key_of_large) = (key(&small), key(&large));
    let looks: [&[&str]; 11] = [
        &["list"],
        &["list", "--status", "failure"],
        &["list", "--status", "interrupted"],
        &["list", "--repo", "repo-7", "--agent", "dev"],
        &["list", "--agent", "nobody"],
        &["list", "--key", "KEY"],
        &["list", "--since", "1h"],
        &["show", "01900000-00000500"],
        &["session", "resume-id", "KEY"],
        &["audit"],
        &["prune", "--dry-run"],
    ];
    let mut slow = Vec::new();
    for words in looks {
        let with = |key: &str| {
            words.iter().map(|w| if *w == "KEY" { key.to_owned() } else { (*w).to_owned() }).collect()
        };
        let time = |world: &World, words: Vec<String>| {
            best(world, &words.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let (a, b) = (time(&small, with(&key_of_small)), time(&large, with(&key_of_large)));
        let ratio = b.as_secs_f64() / a.as_secs_f64();
        crate::harness::say(&format!("{words:?}: {a:.2?} at 1,000 rows, {b:.2?} at 1,000,000: {ratio:.2}"));
        if ratio > 3.0 {
            slow.push(words);
        }
    }
    assert!(slow.is_empty(), "more than three times as slow: {slow:?}");
}
