-- How often the --on-interrupted command of `recover` was begun for the task.
ALTER TABLE task_history ADD COLUMN hint_attempts INTEGER NOT NULL DEFAULT 0;
