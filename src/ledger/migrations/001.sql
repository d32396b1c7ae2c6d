CREATE TABLE bookend_migration (
    version    INTEGER PRIMARY KEY NOT NULL,
    applied_at TEXT NOT NULL
) STRICT;

-- What is particular to this file, e.g. 'adopted': it belongs to another program, its modes are kept.
CREATE TABLE bookend_setting (
    name  TEXT PRIMARY KEY NOT NULL,
    value TEXT
) STRICT;

-- Times are RFC 3339, UTC, milliseconds. All that is known only at the end may be NULL.
CREATE TABLE task_history (
    id                    TEXT PRIMARY KEY NOT NULL,
    key                   TEXT,
    repo                  TEXT,
    issue_number          INTEGER,
    user                  TEXT,
    agent                 TEXT,
    agent_type            TEXT,
    model                 TEXT,
    provider              TEXT,
    status                TEXT NOT NULL CHECK (status IN
        ('running', 'success', 'failure', 'cancelled', 'interrupted', 'aborted_no_skill')),
    reason                TEXT,
    error                 TEXT,
    started_at            TEXT NOT NULL,
    finished_at           TEXT,
    duration_ms           INTEGER,
    cost_usd              REAL,
    session_cost_usd      REAL,
    turns                 INTEGER,
    input_tokens          INTEGER,
    output_tokens         INTEGER,
    cache_read_tokens     INTEGER,
    cache_creation_tokens INTEGER,
    artifacts             TEXT,
    session_id            TEXT,
    resumed_from          TEXT,
    argv                  TEXT,
    cwd                   TEXT,
    live_slot             INTEGER,
    live_dev              INTEGER,
    live_ino              INTEGER,
    host                  TEXT,
    boot_id               TEXT,
    pid_ns                INTEGER,
    supervisor_pid        INTEGER,
    supervisor_start      INTEGER,
    agent_pid             INTEGER,
    agent_start           INTEGER,
    cgroup                TEXT,
    exit_code             INTEGER,
    term_signal           INTEGER,
    stop_signal           INTEGER,
    stop_sender_pid       INTEGER,
    stop_sender_uid       INTEGER,
    end_source            TEXT CHECK (end_source IN ('wait', 'spool', 'recovery')),
    last_seen_at          TEXT,
    oom_killed            INTEGER,
    -- What the cgroup's memory.events counted when the task began: only what came later concerns it.
    oom_kills_before      INTEGER,
    cpu_ms                INTEGER,
    max_rss_kib           INTEGER,
    on_finish             TEXT,
    delivery_status       TEXT CHECK (delivery_status IN
        ('pending', 'delivering', 'delivered', 'failed')),
    delivery_attempts     INTEGER NOT NULL DEFAULT 0,
    delivered_at          TEXT,
    retention_secs        INTEGER,
    cleanup_after         TEXT,
    hinted_at             TEXT,
    user_argv             TEXT,
    run_options           TEXT,
    leftovers             TEXT,
    parent_id             TEXT,
    tool_in_flight        TEXT,
    context_lost          INTEGER,
    -- The session row that this task's link displaced (JSON): it comes back if the agent never executed.
    former_session        TEXT
) STRICT;

CREATE UNIQUE INDEX task_history_one_running_per_key ON task_history (key) WHERE status = 'running';
CREATE INDEX task_history_running ON task_history (started_at) WHERE status = 'running';
CREATE INDEX task_history_undelivered ON task_history (started_at)
    WHERE delivery_status IN ('pending', 'delivering');
CREATE INDEX task_history_unhinted ON task_history (started_at)
    WHERE status = 'interrupted' AND hinted_at IS NULL;
CREATE INDEX task_history_started ON task_history (started_at);
CREATE INDEX task_history_key ON task_history (key, started_at) WHERE key IS NOT NULL;
CREATE INDEX task_history_repo ON task_history (repo, started_at) WHERE repo IS NOT NULL;
CREATE INDEX task_history_agent ON task_history (agent, started_at) WHERE agent IS NOT NULL;
CREATE INDEX task_history_cleanup ON task_history (cleanup_after)
    WHERE status <> 'running' AND cleanup_after IS NOT NULL;
CREATE INDEX task_history_last_seen ON task_history (last_seen_at)
    WHERE status <> 'running' AND last_seen_at IS NOT NULL;

-- What the audit looks for, so that its cost grows with what is wrong and not with the history.
CREATE INDEX task_history_delivery_failed ON task_history (started_at) WHERE delivery_status = 'failed';
CREATE INDEX task_history_uncleaned ON task_history (started_at)
    WHERE status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL;
CREATE INDEX task_history_ill_timed ON task_history (started_at)
    WHERE finished_at < started_at
       OR (finished_at IS NULL AND status NOT IN ('running', 'interrupted'))
       OR (finished_at IS NOT NULL AND status = 'running');
CREATE INDEX task_history_ended ON task_history (status, started_at) WHERE status <> 'running';
CREATE INDEX task_history_session ON task_history (session_id, started_at) WHERE session_id IS NOT NULL;

CREATE TABLE claude_sdk_sessions (
    key          TEXT PRIMARY KEY NOT NULL,
    session_id   TEXT NOT NULL,
    provider     TEXT,
    last_used_at TEXT,
    task_id      TEXT,
    -- 1: task_id ended well with it; 2: an operator restored it after task_id. 0: recovery has to judge it.
    trusted      INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX claude_sdk_sessions_untrusted ON claude_sdk_sessions (key) WHERE trusted = 0;
CREATE INDEX claude_sdk_sessions_task ON claude_sdk_sessions (task_id);
CREATE INDEX claude_sdk_sessions_session ON claude_sdk_sessions (session_id);

CREATE TABLE task_transition (
    task_id     TEXT NOT NULL,
    at          TEXT NOT NULL,
    from_status TEXT,
    to_status   TEXT NOT NULL,
    reason      TEXT,
    by_pid      INTEGER,
    by_command  TEXT
) STRICT;
CREATE INDEX task_transition_task ON task_transition (task_id);

CREATE TABLE session_invalidation (
    id           INTEGER PRIMARY KEY NOT NULL,
    key          TEXT,
    session_id   TEXT NOT NULL,
    provider     TEXT,
    task_id      TEXT,
    reason       TEXT NOT NULL,
    at           TEXT NOT NULL,
    restored_at  TEXT,
    last_used_at TEXT
) STRICT;
CREATE INDEX session_invalidation_key ON session_invalidation (key);
CREATE INDEX session_invalidation_task ON session_invalidation (task_id);
CREATE INDEX session_invalidation_session ON session_invalidation (session_id);

-- Whoever writes: a task ends once. Inserting a row that has ended is allowed, since a program that
-- shares the file may record its own tasks only at their end.
CREATE TRIGGER task_history_ends_once BEFORE UPDATE OF status ON task_history
WHEN OLD.status <> 'running' AND NEW.status <> OLD.status
BEGIN
    SELECT RAISE(ABORT, 'a task that has ended keeps its status');
END;

-- Whoever writes: a session that is pointed elsewhere, that was used by a task of another program, or whose
-- task is removed, has to be judged again.
CREATE TRIGGER claude_sdk_sessions_pointed_elsewhere
AFTER UPDATE OF session_id, task_id ON claude_sdk_sessions
WHEN NEW.trusted <> 0 AND NEW.trusted = OLD.trusted
    AND (NEW.session_id IS NOT OLD.session_id OR NEW.task_id IS NOT OLD.task_id)
BEGIN
    UPDATE claude_sdk_sessions SET trusted = 0 WHERE key = NEW.key;
END;
CREATE TRIGGER task_history_inserted_at_its_end AFTER INSERT ON task_history
WHEN NEW.status <> 'running' AND NEW.session_id IS NOT NULL
BEGIN
    UPDATE claude_sdk_sessions SET trusted = 0 WHERE session_id = NEW.session_id;
END;
CREATE TRIGGER task_history_removed AFTER DELETE ON task_history
BEGIN
    UPDATE claude_sdk_sessions SET trusted = 0 WHERE task_id = OLD.id;
END;
