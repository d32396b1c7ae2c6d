-- Finds the tasks that were running at a given time and did not start and end in the same hour (the index of
-- `last_seen_at` finds the others). The start and the end of a task share a prefix, and every time between them
-- has that prefix: a lookup for the day, one for the month and one for '' find all. '' also holds the tasks of a
-- ledger in which another program writes `started_at` as a number.
CREATE INDEX task_history_in_flight ON task_history (
    CASE
        WHEN substr(started_at, 1, 10) = substr(last_seen_at, 1, 10) THEN substr(last_seen_at, 1, 10)
        WHEN substr(started_at, 1, 7) = substr(last_seen_at, 1, 7) THEN substr(last_seen_at, 1, 7)
        ELSE ''
    END,
    last_seen_at, started_at
) WHERE status <> 'running' AND substr(started_at, 1, 13) <> substr(last_seen_at, 1, 13);
