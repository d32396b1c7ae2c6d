-- The other program goes on writing tasks and sessions of its own, and knows nothing of task_id: what it
-- writes is linked for it, so that its failed tasks make a session unsafe and its good ones keep it.
CREATE INDEX bookend_task_history_words
    ON task_history (agent || ':' || repo || ':' || issue_number, started_at);

CREATE TRIGGER bookend_task_links_session AFTER INSERT ON task_history
WHEN NEW.live_slot IS NULL AND NEW.status <> 'running'
BEGIN
    UPDATE claude_sdk_sessions SET task_id = NEW.id
    WHERE substr(key, instr(key, ':') + 1) = NEW.agent || ':' || NEW.repo || ':' || NEW.issue_number
      AND NOT EXISTS (
          SELECT 1 FROM task_history t WHERE t.id = claude_sdk_sessions.task_id AND t.status = 'running');
END;

CREATE TRIGGER bookend_session_finds_task AFTER INSERT ON claude_sdk_sessions
WHEN NEW.task_id IS NULL
BEGIN
    UPDATE claude_sdk_sessions SET task_id = (
        SELECT id FROM task_history
        WHERE agent || ':' || repo || ':' || issue_number = substr(NEW.key, instr(NEW.key, ':') + 1)
        ORDER BY started_at DESC LIMIT 1)
    WHERE key = NEW.key;
END;
