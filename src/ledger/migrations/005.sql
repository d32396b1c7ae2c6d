-- The task that was cancelled for this one by `--replace`. NULL: none was.
ALTER TABLE task_history ADD COLUMN replaces TEXT;
-- How the --on-finish command last failed. NULL: it did not, or has not ended yet.
ALTER TABLE task_history ADD COLUMN delivery_error TEXT;
-- What the session of a task had used when it ended, for agents that report that instead of what the run used:
-- JSON of the four token counts.
ALTER TABLE task_history ADD COLUMN session_tokens TEXT;
