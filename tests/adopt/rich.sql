-- A file with many features: cascading foreign keys, triggers, views, further columns, unusual syntax.
PRAGMA foreign_keys = ON;
PRAGMA user_version = 42;
PRAGMA application_id = 77;
CREATE TABLE "repos" (name TEXT PRIMARY KEY, UNIQUE (name COLLATE NOCASE));
INSERT INTO repos VALUES ('charles/claude-hooks');
CREATE TABLE Task_History (
    id TEXT NOT NULL, -- a comment, with a comma and a ( parenthesis
    repo TEXT CONSTRAINT needs_repo NOT NULL ON CONFLICT ABORT REFERENCES repos (name) ON UPDATE CASCADE,
    issue_number TEXT, agent TEXT DEFAULT 'dev',
    [status] VARCHAR(20) NOT NULL DEFAULT ('success') CHECK (("status" IN ('success', 'failure', 'interrupted', 'timed out'))),
    started_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
    finished_at DATETIME NOT NULL,
    cost_usd NUMERIC NOT NULL CHECK (cost_usd >= 0),
    turns INTEGER NOT NULL CHECK (typeof(turns) = 'integer'),
    artifacts JSON NOT NULL CHECK (json_valid(artifacts)),
    `odd "name", (really)` TEXT NOT NULL /* its own */,
    tenant TEXT NOT NULL DEFAULT 'acme',
    payload BLOB,
    seconds REAL GENERATED ALWAYS AS (julianday(finished_at) - julianday(started_at)) VIRTUAL,
    label TEXT AS (repo || '#' || issue_number) STORED,
    retry_of TEXT REFERENCES Task_History (id),
    PRIMARY KEY (id),
    CHECK (finished_at IS NOT NULL AND length(tenant) > 0)
) WITHOUT ROWID;
CREATE UNIQUE INDEX task_history_started ON task_history (started_at, id);
CREATE INDEX only_costly ON task_history (lower(agent)) WHERE cost_usd > 1;
CREATE TABLE comments (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    task_id TEXT NOT NULL REFERENCES task_history (id) ON DELETE CASCADE ON UPDATE CASCADE,
    text TEXT
);
CREATE TABLE audit (n INTEGER PRIMARY KEY, task_id TEXT, what TEXT, label TEXT);
CREATE TRIGGER history_in AFTER INSERT ON task_history BEGIN
    INSERT INTO audit (task_id, what, label) VALUES (NEW.id, 'in', NEW.label);
END;
CREATE TRIGGER history_out AFTER DELETE ON Task_History BEGIN
    INSERT INTO audit (task_id, what) VALUES (OLD.id, 'out');
END;
CREATE TRIGGER commented AFTER INSERT ON comments BEGIN
    UPDATE task_history SET turns = turns + 1 WHERE id = NEW.task_id;
END;
CREATE VIEW dashboard AS
    SELECT h.agent, count(*) AS tasks, sum(h.cost_usd) AS cost, max(h.finished_at) AS last,
           (SELECT count(*) FROM comments c WHERE c.task_id = h.id) AS comments
    FROM task_history h GROUP BY h.agent;
CREATE VIEW on_top AS SELECT agent, tasks FROM dashboard WHERE tasks > 0;
CREATE TRIGGER through_view INSTEAD OF INSERT ON on_top BEGIN
    INSERT INTO audit (what) VALUES (NEW.agent);
END;
CREATE TABLE claude_sdk_sessions (
    session_key_id INTEGER PRIMARY KEY AUTOINCREMENT,
    key TEXT NOT NULL UNIQUE ON CONFLICT REPLACE,
    session_id TEXT NOT NULL,
    last_used_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
    created_at DATETIME NOT NULL,
    used INTEGER NOT NULL DEFAULT 1
);
CREATE TRIGGER session_out AFTER DELETE ON claude_sdk_sessions BEGIN
    INSERT INTO audit (what) VALUES ('session ' || OLD.session_id);
END;
CREATE VIEW sessions_with_tasks AS
    SELECT s.key, h.id FROM claude_sdk_sessions s JOIN task_history h ON s.key LIKE '%:' || h.label;

INSERT INTO task_history (id, repo, issue_number, status, started_at, finished_at, cost_usd, turns, artifacts, `odd "name", (really)`, payload, retry_of) VALUES
    ('t1', 'charles/claude-hooks', '1104', 'failure', '2026-01-01 00:00:00', '2026-01-01 00:01:00', 1.5, 3, '["a"]', 'x', x'00ff', NULL),
    ('t2', 'charles/claude-hooks', '1104', 'success', '2026-01-02 00:00:00', '2026-01-02 00:01:00', 2, 2, '{}', 'y', NULL, 't1'),
    ('t3', 'charles/claude-hooks', NULL, 'timed out', '2026-01-03 00:00:00', '2026-01-03 00:01:00', 0, 0, '[]', '', x'', NULL),
    ('t4', 'charles/claude-hooks', '1105', 'interrupted', '2026-01-04 00:00:00', '2026-01-04 00:01:00', 0, 0, '[]', '', NULL, NULL);
INSERT INTO comments (task_id, text) VALUES ('t1', 'one'), ('t2', 'two'), ('t2', 'three'), ('t4', 'four');
DELETE FROM comments WHERE text = 'four';
INSERT INTO claude_sdk_sessions (key, session_id, last_used_at, created_at) VALUES
    ('forgejo:dev:charles/claude-hooks:1104', 'a0000000-0000-4000-8000-000000000001', '2026-01-02 00:01:00', '2026-01-01'),
    ('forgejo:dev:charles/claude-hooks:1105', 'a0000000-0000-4000-8000-000000000002', '2026-01-04 00:01:00', '2026-01-01');
