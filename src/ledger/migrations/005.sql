-- What the session of a task had used when it ended, for agents that report that instead of what the run used: JSON
-- of the four token counts.
ALTER TABLE task_history ADD COLUMN session_tokens TEXT;
