-- The tasks in the README's picture: a night of three agents and a crash at 2 h 20 min before now.
-- `just picture` runs this on a new ledger in which the task `running` runs.
CREATE TEMP TABLE sketch (id, key, agent, status, reason, begins, minutes, cost);
INSERT INTO sketch VALUES
    ('01a0-logs',     'nightly:logs',     'ops', 'success',     NULL,              235, 11,   0.31),
    ('01a1-triage',   'nightly:triage',   'dev', 'success',     NULL,              226, 34,   1.12),
    ('01a2-deps',     'nightly:deps',     'dev', 'failure',     'exit',            215, 8,    0.22),
    ('01a3-fix-1104', 'forgejo:dev:1104', 'dev', 'interrupted', 'rebooted',        190, NULL, NULL),
    ('01a4-review',   'forgejo:qa:1097',  'qa',  'interrupted', 'rebooted',        172, NULL, NULL),
    ('01a5-docs',     'nightly:docs',     'ops', 'success',     NULL,              165, 19,   0.48),
    ('01a6-fix-1104', 'forgejo:dev:1104', 'dev', 'success',     NULL,              131, 52,   2.04),
    ('01a7-review',   'forgejo:qa:1097',  'qa',  'cancelled',   'timeout',         128, 60,   1.77),
    ('01a8-bench',    'nightly:bench',    'ops', 'success',     NULL,              84,  26,   0.39),
    ('01a9-review',   'forgejo:qa:1097',  'qa',  'success',     NULL,              55,  21,   0.64);

INSERT INTO task_history (id, key, agent, status, reason, started_at, finished_at, last_seen_at, duration_ms, cost_usd)
SELECT id, key, agent, status, reason,
    strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || begins || ' minutes'),
    strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-' || (begins - minutes) || ' minutes'),
    CASE WHEN minutes IS NULL THEN strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-140 minutes') END,
    minutes * 60000, cost
FROM sketch;

UPDATE task_history SET started_at = strftime('%Y-%m-%dT%H:%M:%fZ', 'now', '-38 minutes') WHERE id = 'running';
