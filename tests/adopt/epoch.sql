-- Times are numbers: seconds in one table, seconds with a fraction in the other.
CREATE TABLE task_history (
    id TEXT PRIMARY KEY, repo TEXT, issue_number INTEGER, agent TEXT, session_id TEXT,
    status TEXT NOT NULL CHECK (status IN ('success', 'failure', 'cancelled', 'interrupted', 'aborted_no_skill')),
    started_at INTEGER NOT NULL CHECK (started_at > 0),
    finished_at INTEGER NOT NULL,
    cost_usd REAL NOT NULL, turns INTEGER NOT NULL, artifacts TEXT NOT NULL
);
CREATE TABLE claude_sdk_sessions (key TEXT PRIMARY KEY, session_id TEXT NOT NULL, last_used_at REAL NOT NULL);
INSERT INTO task_history VALUES
    ('t1', 'charles/claude-hooks', 1104, 'dev', 'cursor:6ce4', 'success', 1767225600, 1767225660, 1.5, 3, '[]'),
    ('t2', 'charles/claude-hooks', 1105, 'dev', 'cursor:7df5', 'interrupted', 1767312000, 1767312060, 0, 0, '[]');
INSERT INTO claude_sdk_sessions VALUES
    ('forgejo:dev:charles/claude-hooks:1104', 'cursor:6ce4', 1767225660.25),
    ('forgejo:dev:charles/claude-hooks:1105', 'cursor:7df5', 1767312060.5);
