//! The statements that read the tasks of a fleet. Each is a constant, and its parameters have types.
//!
//! PostgreSQL plans an unnamed statement for the values of its parameters, so a condition that a filter does
//! not use costs nothing.

/// The columns of a task, and what only the fleet knows about it.
macro_rules! row {
    () => {
        "to_jsonb(t) || jsonb_build_object('unreachable_since', CASE WHEN t.status = 'running' THEN
             (SELECT n.unreachable_since FROM bookend.node_state n WHERE n.id = t.node) END)"
    };
}

/// The conditions of a filter besides its period: $1 statuses, $2 key, $3 repo, $4 persona, $5 model.
macro_rules! matched {
    () => {
        "(cardinality($1) = 0 OR t.status = ANY ($1)) AND ($2 IS NULL OR t.key = $2)
             AND ($3 IS NULL OR t.repo = $3) AND ($4 IS NULL OR t.agent = $4)
             AND ($5 IS NULL OR t.model = $5)"
    };
}

/// Started before $7.
macro_rules! before {
    () => {
        "($7 IS NULL OR t.started_at < $7::timestamptz)"
    };
}

/// All conditions of a filter: $6 since, $7 until.
macro_rules! selected {
    () => {
        concat!(matched!(), " AND ($6 IS NULL OR t.started_at >= $6::timestamptz) AND ", before!())
    };
}

macro_rules! select {
    ($($rest:expr),+) => {
        concat!("SELECT ", row!(), " FROM bookend.task_history t ", $($rest),+)
    };
}

/// A page of the running ($8) or of the ended tasks, after the place $9, $10: $11 tasks.
pub(super) const PAGE: &str = select!(
    "WHERE (t.status = 'running') = $8 AND ",
    selected!(),
    " AND ($9 IS NULL OR (t.started_at, t.id) < ($9::timestamptz, $10))
     ORDER BY t.started_at DESC, t.id DESC LIMIT $11"
);

/// How many tasks are selected, of those that are not $8, up to $9.
pub(super) const COUNT: &str = concat!(
    "SELECT count(*) FROM (SELECT FROM bookend.task_history t WHERE ",
    selected!(),
    " AND NOT t.id = ANY ($8) LIMIT $9) counted"
);

/// The tasks that ran at $6 or later, whenever they started, of each kind $8.
pub(super) const IN_FLIGHT: &str = concat!(
    "(",
    select!(
        "WHERE t.status = 'running' AND ",
        matched!(),
        " AND ",
        before!(),
        " ORDER BY t.started_at DESC LIMIT $8"
    ),
    ") UNION ALL (",
    select!("WHERE t.status <> 'running' AND ", selected!(), " ORDER BY t.started_at DESC LIMIT $8"),
    ") UNION ALL (",
    select!(
        "WHERE t.status <> 'running' AND t.last_seen_at >= $6::timestamptz
           AND t.started_at < $6::timestamptz AND ",
        matched!(),
        " AND ",
        before!(),
        " ORDER BY t.last_seen_at DESC LIMIT $8"
    ),
    ")"
);

/// The tasks whose ids are at least $1 and less than $2.
pub(super) const BY_PREFIX: &str = select!("WHERE t.id >= $1 AND t.id < $2 ORDER BY t.id LIMIT 10");

/// The task $1.
pub(super) const BY_ID: &str = select!("WHERE t.id = $1");

/// Orders that the host of the task $1 cancels it.
pub(super) const CANCEL: &str = "SELECT bookend.cancel($1)";

/// What came of the order $1; NULL while it is open.
pub(super) const ORDER_RESULT: &str =
    "SELECT (SELECT coalesce(result, '') FROM bookend.cancel_order WHERE id = $1 AND done_at IS NOT NULL)";

/// The task that was started last, of those with the key $1 if that is not NULL.
pub(super) const NEWEST: &str =
    select!("WHERE ($1 IS NULL OR t.key = $1) ORDER BY t.started_at DESC, t.id DESC LIMIT 1");

/// What is known of the task $1 with the key $2 besides its row.
pub(super) const HISTORY: &str = "
    SELECT jsonb_build_object(
        'transitions', (
            SELECT coalesce(jsonb_agg(to_jsonb(x) || jsonb_build_object('at', bookend.shown(x.at))
                            ORDER BY x.n), '[]')
            FROM bookend.task_transition x WHERE x.task_id = $1),
        'invalidations', (
            SELECT coalesce(jsonb_agg(to_jsonb(i) || jsonb_build_object(
                                'id', coalesce(i.id, 0), 'at', bookend.shown(i.at),
                                'restored_at', bookend.shown(i.restored_at),
                                'last_used_at', bookend.shown(i.last_used_at)) ORDER BY i.at), '[]')
            FROM bookend.session_invalidation i WHERE i.task_id = $1),
        'replaced_by', (
            SELECT t.id FROM bookend.task_history t
            WHERE t.key = $2 AND t.replaces = $1 ORDER BY t.started_at LIMIT 1))";

/// Figures of each group and of all selected tasks, which come first: $12 rows at most, newest days first
/// if $11. $9 are tasks that are read instead of those with the ids $8, and $10 what is grouped by.
///
/// A sum of decimal numbers does not depend on their order. Values that are not possible are left out, as in
/// the figures of a ledger.
pub(super) const STATS: &str = concat!(
    "WITH selected AS (
        SELECT t.status, t.started_at, t.agent, t.repo, t.key, t.model, t.cost_usd, t.duration_ms, t.turns,
               t.input_tokens, t.output_tokens, t.cache_read_tokens, t.cache_creation_tokens
        FROM bookend.task_history t WHERE ",
    selected!(),
    " AND NOT t.id = ANY ($8)
        UNION ALL
        SELECT * FROM jsonb_to_recordset($9) AS fresh (
            status text, started_at timestamptz, agent text, repo text, key text, model text, cost_usd float8,
            duration_ms bigint, turns bigint, input_tokens bigint, output_tokens bigint,
            cache_read_tokens bigint, cache_creation_tokens bigint)
    ), figures AS (
        SELECT status,
               CASE WHEN 'agent' = ANY ($10) THEN agent END AS by_agent,
               CASE WHEN 'repo' = ANY ($10) THEN repo END AS by_repo,
               CASE WHEN 'key' = ANY ($10) THEN key END AS by_key,
               CASE WHEN 'model' = ANY ($10) THEN model END AS by_model,
               CASE WHEN 'day' = ANY ($10)
                    THEN to_char(started_at AT TIME ZONE 'UTC', 'YYYY-MM-DD') END AS by_day,
               CASE WHEN cost_usd BETWEEN -1e9 AND 1e9 THEN cost_usd END AS cost,
               CASE WHEN duration_ms BETWEEN -1e12 AND 1e12 THEN duration_ms END AS time,
               CASE WHEN input_tokens BETWEEN -1e12 AND 1e12 THEN input_tokens END AS tokens_in,
               CASE WHEN output_tokens BETWEEN -1e12 AND 1e12 THEN output_tokens END AS tokens_out,
               CASE WHEN cache_read_tokens BETWEEN -1e12 AND 1e12 THEN cache_read_tokens END AS tokens_read,
               CASE WHEN cache_creation_tokens BETWEEN -1e12 AND 1e12
                    THEN cache_creation_tokens END AS tokens_written,
               CASE WHEN turns BETWEEN -1e12 AND 1e12 THEN turns END AS turns
        FROM selected
    )
    SELECT jsonb_build_object(
        'is_total', grouping(by_agent) = 1,
        'by', jsonb_build_object('agent', by_agent, 'repo', by_repo, 'key', by_key, 'model', by_model,
                                 'day', by_day),
        'runs', count(*),
        'running', count(*) FILTER (WHERE status = 'running'),
        'success', count(*) FILTER (WHERE status = 'success'),
        'failure', count(*) FILTER (WHERE status = 'failure'),
        'cancelled', count(*) FILTER (WHERE status = 'cancelled'),
        'interrupted', count(*) FILTER (WHERE status = 'interrupted'),
        'aborted_no_skill', count(*) FILTER (WHERE status = 'aborted_no_skill'),
        'cost_usd', sum(cost::numeric)::float8,
        'duration_ms', sum(time),
        'input_tokens', sum(tokens_in),
        'output_tokens', sum(tokens_out),
        'cache_read_tokens', sum(tokens_read),
        'cache_creation_tokens', sum(tokens_written),
        'turns', sum(turns),
        'costs', percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY cost),
        'times', percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY time::float8))
    FROM figures
    GROUP BY GROUPING SETS ((by_agent, by_repo, by_key, by_model, by_day), ())
    ORDER BY grouping(by_agent) DESC, CASE WHEN $11 THEN by_day END COLLATE \"C\" DESC NULLS LAST,
             count(*) DESC, by_agent COLLATE \"C\" NULLS FIRST, by_repo COLLATE \"C\" NULLS FIRST,
             by_key COLLATE \"C\" NULLS FIRST, by_model COLLATE \"C\" NULLS FIRST,
             by_day COLLATE \"C\" NULLS FIRST
    LIMIT $12"
);

/// The running tasks whose hosts do not answer.
pub(super) const UNREACHABLE: &str = select!(
    "JOIN bookend.node_state s ON s.id = t.node
     WHERE t.status = 'running' AND s.unreachable_since IS NOT NULL ORDER BY t.started_at"
);

/// The tasks that their hosts ended after the fleet had.
pub(super) const LATE: &str = select!("WHERE t.late IS NOT NULL ORDER BY t.started_at");

/// The tasks whose `--on-finish` command failed, and those whose times and status contradict each other. The
/// first condition is that of an index, word for word.
pub(super) const UNSETTLED: &str = select!(
    "WHERE (
    delivery_status IN ('pending', 'delivering', 'failed')
    OR (status = 'interrupted' AND hinted_at IS NULL)
    OR (status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL)
    OR finished_at < started_at
    OR (finished_at IS NULL AND status NOT IN ('running', 'interrupted'))
    OR (finished_at IS NOT NULL AND status = 'running')
) IS TRUE
       AND (t.delivery_status = 'failed' OR t.finished_at < t.started_at
         OR (t.finished_at IS NULL AND t.status NOT IN ('running', 'interrupted'))
         OR (t.finished_at IS NOT NULL AND t.status = 'running'))
     ORDER BY t.started_at"
);

/// What monitors have noticed of running tasks whose keys were held by others.
pub(super) const DOUBLE_CLAIMS: &str = "
    SELECT jsonb_build_object('task', f.subject, 'host', n.host, 'key', f.detail->>'key',
                              'other_task', f.detail->>'other_task', 'other_host', f.detail->>'other_host',
                              'at', bookend.shown(f.at), 'is_running', EXISTS (
        SELECT FROM bookend.task_history t WHERE t.id = f.subject AND t.status = 'running'))
    FROM bookend.finding f JOIN bookend.node n ON n.id = f.node
    WHERE f.kind = 'double_claim' ORDER BY f.id";
