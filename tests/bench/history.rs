//! Ledgers with many ended tasks, as years of use would leave them.

use crate::harness::World;
use crate::measure::{command, time};

/// Adds `rows` ended tasks, one every 30 seconds, each of 20 seconds.
pub fn fill(world: &World, rows: u32) {
    time(&mut command(world, &["bookend", "run", "--", "true"]));
    world.write(&format!(
        "PRAGMA cache_size = -500000;
         PRAGMA synchronous = OFF;
         WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
         INSERT INTO task_history (id, key, repo, issue_number, agent, agent_type, provider, status, reason,
             started_at, finished_at, duration_ms, cost_usd, turns, input_tokens, output_tokens, session_id,
             argv, user_argv, cwd, live_slot, boot_id, host, end_source, last_seen_at, cleanup_after)
         SELECT format('01900000-%08d', i), format('forgejo:dev:repo-%d:%d', i % 50, i % 5000),
             format('repo-%d', i % 50), i % 5000, CASE i % 3 WHEN 0 THEN 'dev' ELSE 'review' END, 'claude',
             'anthropic', CASE i % 10 WHEN 0 THEN 'failure' ELSE 'success' END,
             CASE i % 10 WHEN 0 THEN 'exit' END,
             strftime('%Y-%m-%dT%H:%M:%fZ', 1700000000 + i * 30, 'unixepoch'),
             strftime('%Y-%m-%dT%H:%M:%fZ', 1700000020 + i * 30, 'unixepoch'),
             20000, 0.25, 7, 1000, 200, format('session-%d', i), '[\"claude\",\"-p\",\"continue it\"]',
             '[\"claude\",\"-p\",\"continue it\"]', '/srv/work', i, 'boot', 'host', 'wait',
             strftime('%Y-%m-%dT%H:%M:%fZ', 1700000020 + i * 30, 'unixepoch'), '2100-01-01T00:00:00.000Z'
         FROM n;
         INSERT INTO claude_sdk_sessions (key, session_id, provider, task_id, trusted)
         SELECT key, session_id, provider, id, 1 FROM task_history
         WHERE status = 'success' AND key IS NOT NULL
         ORDER BY started_at DESC LIMIT 1"
    ));
}
