-- Why bookend put no session into the agent's arguments although the task has a key.
ALTER TABLE task_history ADD COLUMN session_untracked TEXT;
-- Whether the transcript lay where bookend looks for it when the task ended in success. NULL: not looked.
ALTER TABLE task_history ADD COLUMN transcript_seen INTEGER;
