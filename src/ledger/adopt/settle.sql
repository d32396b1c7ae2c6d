-- The end of an interrupted task is unknown: the time recorded as its end is when it was last seen.
UPDATE task_history SET last_seen_at = coalesce(last_seen_at, finished_at), finished_at = NULL
WHERE status = 'interrupted' AND finished_at IS NOT NULL;

-- Tasks that were interrupted before the adoption are not reported.
UPDATE task_history SET hinted_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now')
WHERE status = 'interrupted' AND hinted_at IS NULL;
