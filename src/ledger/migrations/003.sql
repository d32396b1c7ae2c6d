-- The inodes of the pidfds of supervisor and agent (pidfs, Linux 6.9): unique for a boot, and readable where
-- /proc hides the process.
ALTER TABLE task_history ADD COLUMN supervisor_pidfd INTEGER;
ALTER TABLE task_history ADD COLUMN agent_pidfd INTEGER;
-- When `recover` stopped counting an agent that may still run.
ALTER TABLE task_history ADD COLUMN agent_released_at TEXT;
-- How often the --on-interrupted command of `recover` was begun for the task.
ALTER TABLE task_history ADD COLUMN hint_attempts INTEGER NOT NULL DEFAULT 0;
-- Why bookend put no session into the agent's arguments although the task has a key.
ALTER TABLE task_history ADD COLUMN session_untracked TEXT;
-- Whether the transcript lay where bookend looks for it when the task ended in success. NULL: not looked.
ALTER TABLE task_history ADD COLUMN transcript_seen INTEGER;
