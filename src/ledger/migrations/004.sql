-- Which tasks ran at a given time: those that ended later that day are found by their end. Those that ended on
-- another day than they started are few and have an index of their own. It also holds the tasks of a ledger in
-- which another program writes `started_at` as a number.
CREATE INDEX task_history_overnight ON task_history (last_seen_at, started_at)
    WHERE last_seen_at > substr(started_at, 1, 10) || '~';
