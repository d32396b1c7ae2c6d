-- A row is written once, at the end of its task: all columns known then are NOT NULL, and none is running.
CREATE TABLE task_history (
    id TEXT PRIMARY KEY,
    repo TEXT NOT NULL,
    issue_number INTEGER NOT NULL,
    agent TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('success', 'failure', 'cancelled', 'interrupted', 'aborted_no_skill')),
    started_at TEXT NOT NULL,
    finished_at TEXT NOT NULL,
    cost_usd REAL NOT NULL DEFAULT 0,
    turns INTEGER NOT NULL,
    artifacts TEXT NOT NULL DEFAULT '[]',
    CHECK (finished_at >= started_at)
);
CREATE INDEX idx_history_repo ON task_history (repo, issue_number);
CREATE TABLE claude_sdk_sessions (
    key TEXT PRIMARY KEY,
    session_id TEXT NOT NULL,
    last_used_at TEXT NOT NULL
);

INSERT INTO task_history VALUES
    ('t1', 'charles/claude-hooks', 1104, 'dev', 'failure', '2026-01-01T00:00:00.000000+00:00', '2026-01-01T00:01:00.000000+00:00', 1.5, 3, '["a"]'),
    ('t2', 'charles/claude-hooks', 1104, 'dev', 'success', '2026-01-02T00:00:00.000000+00:00', '2026-01-02T00:01:00.000000+00:00', 0.5, 2, '[]'),
    ('t3', 'charles/claude-hooks', 1105, 'dev', 'success', '2026-01-03T00:00:00.000000+00:00', '2026-01-03T00:01:00.000000+00:00', 0, 0, '[]'),
    ('t4', 'charles/claude-hooks', 1105, 'dev', 'interrupted', '2026-01-04T00:00:00.000000+00:00', '2026-01-04T00:01:00.000000+00:00', 0, 0, '[]'),
    ('t5', 'charles/claude-hooks', 1106, 'qa', 'success', '2026-01-05T00:00:00.000000+00:00', '2026-01-05T00:01:00.000000+00:00', 0, 0, '[]');
INSERT INTO claude_sdk_sessions VALUES
    ('forgejo:dev:charles/claude-hooks:1104', 'cursor:6ce4', '2026-01-02T00:01:00.000000+00:00'),
    ('forgejo:dev:charles/claude-hooks:1105', 'cursor:7df5', '2026-01-04T00:01:00.000000+00:00'),
    ('forgejo:dev:charles/claude-hooks:9999', '0198-nobody', '2026-01-04T00:01:00.000000+00:00');
