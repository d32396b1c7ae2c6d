-- Finds the tasks that were running at a given time: the start and the end of such a task share a prefix, and
-- every time between them has the same prefix. A few lookups, each of an hour, a day or a month, therefore
-- find all of them. Where another program writes `started_at` in another format, '' holds them.
CREATE INDEX task_history_in_flight ON task_history (
    CASE
        WHEN substr(started_at, 1, 13) = substr(last_seen_at, 1, 13) THEN substr(last_seen_at, 1, 13)
        WHEN substr(started_at, 1, 10) = substr(last_seen_at, 1, 10) THEN substr(last_seen_at, 1, 10)
        WHEN substr(started_at, 1, 7) = substr(last_seen_at, 1, 7) THEN substr(last_seen_at, 1, 7)
        ELSE ''
    END,
    last_seen_at, started_at
) WHERE status <> 'running' AND last_seen_at IS NOT NULL;
