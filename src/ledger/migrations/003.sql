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
-- Whether the token counts include those of subagents: 'main' or 'all'. NULL: not known.
ALTER TABLE task_history ADD COLUMN tokens_scope TEXT;
-- What --keep-session kept the session after: 'limit' or 'api-error'. NULL: it kept none.
ALTER TABLE task_history ADD COLUMN session_kept TEXT;
-- When the usage limit that ended the run is lifted, as the agent printed it.
ALTER TABLE task_history ADD COLUMN limit_resets_at TEXT;
