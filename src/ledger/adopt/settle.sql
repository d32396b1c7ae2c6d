-- An interrupted task had to be given an end before: nobody saw it. Until then it was surely thought alive.
UPDATE task_history SET last_seen_at = coalesce(last_seen_at, finished_at), finished_at = NULL
WHERE status = 'interrupted' AND finished_at IS NOT NULL;

-- What was interrupted before the adoption is history: no hint is due for it.
UPDATE task_history SET hinted_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE status = 'interrupted' AND hinted_at IS NULL;
