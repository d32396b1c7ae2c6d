-- Each session belongs to the last task whose agent, repo and issue make up its key.
WITH last (words, id) AS (
    SELECT words, id FROM (
        SELECT agent || ':' || repo || ':' || issue_number AS words, id,
               row_number() OVER (
                   PARTITION BY agent, repo, issue_number ORDER BY started_at DESC, rowid DESC) AS place
        FROM task_history
        WHERE agent IS NOT NULL AND repo IS NOT NULL AND issue_number IS NOT NULL
    )
    WHERE place = 1
)
UPDATE claude_sdk_sessions SET task_id = last.id
FROM last
WHERE substr(key, instr(key, ':') + 1) = last.words AND task_id IS NULL;
