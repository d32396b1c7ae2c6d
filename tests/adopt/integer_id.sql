-- SQLite generates the ids.
CREATE TABLE task_history (
    id INTEGER PRIMARY KEY AUTOINCREMENT, repo TEXT NOT NULL, issue_number INTEGER NOT NULL, agent TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('success', 'failure', 'interrupted')),
    started_at INTEGER NOT NULL, finished_at INTEGER NOT NULL,
    cost_usd REAL NOT NULL, turns INTEGER NOT NULL, artifacts TEXT NOT NULL
);
CREATE TABLE comments (task_id INTEGER NOT NULL REFERENCES task_history ON DELETE CASCADE, text TEXT);
CREATE TABLE audit (task_id INTEGER NOT NULL, what TEXT);
CREATE TRIGGER history_in AFTER INSERT ON task_history BEGIN
    INSERT INTO audit VALUES (NEW.id, 'in');
END;
CREATE TABLE claude_sdk_sessions (key TEXT PRIMARY KEY, session_id TEXT NOT NULL, last_used_at INTEGER NOT NULL);
INSERT INTO task_history (repo, issue_number, agent, status, started_at, finished_at, cost_usd, turns, artifacts) VALUES
    ('charles/claude-hooks', 1104, 'dev', 'success', 1767225600123, 1767225660123, 1.5, 3, '[]'),
    ('charles/claude-hooks', 1105, 'dev', 'failure', 1767312000123, 1767312060123, 0, 0, '[]'),
    ('charles/claude-hooks', 1106, 'dev', 'success', 1767312000123, 1767312060123, 0, 0, '[]');
INSERT INTO comments VALUES (1, 'one'), (2, 'two');
DELETE FROM task_history WHERE id = 3;
INSERT INTO claude_sdk_sessions VALUES ('forgejo:dev:charles/claude-hooks:1104', 'a0000000-0000-4000-8000-000000000001', 1767225660123);
