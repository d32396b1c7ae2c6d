-- The task that was cancelled for this one by `--replace`. NULL: none was.
ALTER TABLE task_history ADD COLUMN replaces TEXT;
-- How the --on-finish command last failed. NULL: it did not, or has not ended yet.
ALTER TABLE task_history ADD COLUMN delivery_error TEXT;
