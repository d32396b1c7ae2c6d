-- Fewer indexes: each costs every run the time to read it in the schema, and most of them a page of the log
-- at either end. The running tasks are found by the index that keeps them to one a key, and whatever the
-- operator has to see to by one index of all that is rare.
CREATE UNIQUE INDEX task_history_one_running ON task_history (status, key) WHERE status = 'running';
CREATE INDEX task_history_unsettled ON task_history (started_at) WHERE (
    delivery_status IN ('pending', 'delivering', 'failed')
    OR (status = 'interrupted' AND hinted_at IS NULL)
    OR (status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL)
    OR finished_at < started_at
    OR (finished_at IS NULL AND status NOT IN ('running', 'interrupted'))
    OR (finished_at IS NOT NULL AND status = 'running')
) IS TRUE;
-- Those that ended well are found by their start: they are the many.
CREATE INDEX task_history_ended_otherwise ON task_history (status, started_at)
    WHERE status NOT IN ('running', 'success');

-- By task, and in order: the moves of a task are together without an index beside the table. A supervisor of
-- the version before that still runs says no number: what it writes is its task's end.
ALTER TABLE task_transition RENAME TO bookend_former_transition;
CREATE TABLE task_transition (
    task_id     TEXT NOT NULL,
    n           INTEGER NOT NULL DEFAULT 2,
    at          TEXT NOT NULL,
    from_status TEXT,
    to_status   TEXT NOT NULL,
    reason      TEXT,
    by_pid      INTEGER,
    by_command  TEXT,
    PRIMARY KEY (task_id, n)
) STRICT, WITHOUT ROWID;
INSERT INTO task_transition
SELECT task_id, row_number() OVER (PARTITION BY task_id ORDER BY rowid), at, from_status, to_status, reason,
       by_pid, by_command
FROM bookend_former_transition;
DROP TABLE bookend_former_transition;
