-- Writes a task of bookend from start to end, so that a constraint that refuses it is found now.
PRAGMA ignore_check_constraints = OFF;
SAVEPOINT trial;
INSERT INTO task_history (id, key, agent, agent_type, status, started_at, live_slot)
VALUES ('bookend-trial', 'bookend-trial', 'bookend', 'command', 'running',
        kept_time('task_history.started_at', '2026-01-01T00:00:00.000Z'), 1);
INSERT INTO claude_sdk_sessions (key, session_id, provider, last_used_at, task_id)
VALUES ('bookend-trial', 'bookend-trial', NULL,
        kept_time('claude_sdk_sessions.last_used_at', '2026-01-01T00:00:00.000Z'), 'bookend-trial');
UPDATE task_history
SET status = 'success', finished_at = kept_time('task_history.finished_at', '2026-01-01T00:00:01.000Z')
WHERE id = 'bookend-trial';
DELETE FROM claude_sdk_sessions WHERE key = 'bookend-trial';
ROLLBACK TO trial;
RELEASE trial;
