-- The schema `bookend` of a fleet, version 1, for PostgreSQL 14 or newer. `bookend fleet init` executes this
-- file in one transaction. The role that does so owns everything and needs CREATEROLE the first time.
--
-- Hosts write only by calling the functions below, one call a transaction. Each function returns one jsonb.
-- Where a call cannot be answered, it fails with one of these SQLSTATEs, and nothing has changed:
--   BK001  the registration is over: the node was declared lost, has left, or has registered again
--   BK002  the node is unknown or belongs to another role
--   BK003  the ledger was restored: it has drawn again a `rev` that was published before
--   BK004  bookend and this schema do not understand each other
-- Times in the answers are RFC 3339, UTC, milliseconds, and of PostgreSQL's clock unless a column's.

-- Names without a schema are PostgreSQL's own, whatever others have put into `public`.
SET LOCAL search_path = pg_catalog;

CREATE SCHEMA bookend;

-- The group roles exist once per cluster, for all its databases.
DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['bookend_host', 'bookend_operator', 'bookend_read'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', name);
        END IF;
    END LOOP;
END $$;

CREATE TABLE bookend.migration (
    version    integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO bookend.migration (version) VALUES (1);

CREATE TABLE bookend.setting (
    name  text PRIMARY KEY,
    value jsonb NOT NULL
);
INSERT INTO bookend.setting VALUES
    -- The time between two renewals of a lease. A node that misses three is unreachable.
    ('renew_ms', '5000'),
    -- Whether hosts publish command lines and prompts.
    ('publish_argv', 'false');

-- A ledger that is in the fleet.
CREATE TABLE bookend.node (
    id            uuid PRIMARY KEY,
    host          text NOT NULL,
    role          name NOT NULL,
    machine_id    text,
    boot_id       text,
    ledger_id     text,
    -- Device and inode of the file: a copy of the ledger has others.
    ledger_file   text,
    version       text,
    registered_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    left_at       timestamptz
);

-- Renewed every few seconds: no index on what changes, and space in the page, so that each update is HOT.
CREATE TABLE bookend.lease (
    node       uuid PRIMARY KEY REFERENCES bookend.node,
    epoch      bigint NOT NULL DEFAULT 1,
    -- Grows with each `register`: a call through an earlier connection that arrives late changes nothing.
    registration bigint NOT NULL DEFAULT 0,
    seq        bigint NOT NULL DEFAULT 0,
    -- The monitor that holds it: each start of a monitor draws one.
    instance   uuid,
    renewed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- The highest published `rev`.
    max_rev    bigint NOT NULL DEFAULT 0,
    -- The highest published `rev` when `prune` removed tasks last: up to it, a row may be missing.
    pruned_rev bigint NOT NULL DEFAULT 0,
    stopped_at timestamptz,
    lost_at    timestamptz,
    lost_by    name,
    -- The seq that `register` has answered to a newcomer with this node's id, and when: it waits whether that
    -- moves.
    watch_seq  bigint,
    watch_at   timestamptz
) WITH (fillfactor = 20);

-- `no` only grows: of two holders of a key, the later one has the higher number.
CREATE TABLE bookend.claim (
    key     text PRIMARY KEY,
    task_id text NOT NULL,
    node    uuid NOT NULL REFERENCES bookend.node,
    epoch   bigint NOT NULL,
    slot    bigint,
    no      bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    since   timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX claim_node ON bookend.claim (node);

-- The nodes that wait for a key. The lowest `n` of those reachable gets it.
CREATE TABLE bookend.waiter (
    key     text NOT NULL,
    node    uuid NOT NULL REFERENCES bookend.node,
    task_id text NOT NULL,
    n       bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
    since   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (key, node)
);
CREATE INDEX waiter_node ON bookend.waiter (node);

-- The columns of the ledger, and those behind `node`, which are the fleet's.
CREATE TABLE bookend.task_history (
    -- In the order of its bytes, so that a task is found by the beginning of its id.
    id                    text COLLATE "C" PRIMARY KEY,
    key                   text,
    repo                  text,
    issue_number          bigint,
    "user"                text,
    agent                 text,
    agent_type            text,
    model                 text,
    provider              text,
    status                text NOT NULL,
    reason                text,
    error                 text,
    started_at            timestamptz NOT NULL,
    finished_at           timestamptz,
    duration_ms           bigint,
    cost_usd              double precision,
    session_cost_usd      double precision,
    session_tokens        jsonb,
    turns                 bigint,
    input_tokens          bigint,
    output_tokens         bigint,
    cache_read_tokens     bigint,
    cache_creation_tokens bigint,
    artifacts             jsonb,
    session_id            text,
    resumed_from          text,
    argv                  jsonb,
    cwd                   text,
    live_slot             bigint,
    live_dev              bigint,
    live_ino              bigint,
    host                  text,
    boot_id               text,
    pid_ns                bigint,
    supervisor_pid        bigint,
    supervisor_start      bigint,
    supervisor_pidfd      bigint,
    agent_pid             bigint,
    agent_start           bigint,
    agent_pidfd           bigint,
    agent_released_at     timestamptz,
    cgroup                text,
    exit_code             bigint,
    term_signal           bigint,
    stop_signal           bigint,
    stop_sender_pid       bigint,
    stop_sender_uid       bigint,
    -- As in the ledger, or 'lease': the fleet ended it.
    end_source            text,
    last_seen_at          timestamptz,
    oom_killed            boolean,
    oom_kills_before      bigint,
    cpu_ms                bigint,
    max_rss_kib           bigint,
    on_finish             jsonb,
    delivery_status       text,
    delivery_attempts     bigint,
    delivery_error        text,
    delivered_at          timestamptz,
    retention_secs        bigint,
    cleanup_after         timestamptz,
    hinted_at             timestamptz,
    hint_attempts         bigint,
    user_argv             jsonb,
    run_options           jsonb,
    leftovers             jsonb,
    parent_id             text,
    tool_in_flight        text,
    context_lost          boolean,
    session_untracked     text,
    transcript_seen       boolean,
    tokens_scope          text,
    session_kept          text,
    limit_resets_at       timestamptz,
    former_session        jsonb,
    replaces              text,
    node                  uuid NOT NULL REFERENCES bookend.node,
    epoch                 bigint NOT NULL,
    rev                   bigint NOT NULL,
    -- The number of the claim on its key.
    claim_no              bigint,
    published_at          timestamptz NOT NULL,
    -- What its host reported after the task had ended here: the columns of that ending. The status stays.
    late                  jsonb
);
-- Lists are read by (started_at, id), newest first, and go on after the last one of the page before.
CREATE INDEX task_history_started ON bookend.task_history (started_at, id);
CREATE INDEX task_history_running ON bookend.task_history (started_at, id) WHERE status = 'running';
CREATE INDEX task_history_running_node ON bookend.task_history (node) WHERE status = 'running';
CREATE INDEX task_history_key ON bookend.task_history (key, started_at, id) WHERE key IS NOT NULL;
CREATE INDEX task_history_repo ON bookend.task_history (repo, started_at, id) WHERE repo IS NOT NULL;
CREATE INDEX task_history_agent ON bookend.task_history (agent, started_at, id) WHERE agent IS NOT NULL;
CREATE INDEX task_history_node ON bookend.task_history (node, started_at, id);
CREATE INDEX task_history_ended_otherwise ON bookend.task_history (status, started_at, id)
    WHERE status NOT IN ('running', 'success');
CREATE INDEX task_history_last_seen ON bookend.task_history (last_seen_at) WHERE status <> 'running';
CREATE INDEX task_history_unsettled ON bookend.task_history (started_at, id) WHERE (
    delivery_status IN ('pending', 'delivering', 'failed')
    OR (status = 'interrupted' AND hinted_at IS NULL)
    OR (status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL)
    OR finished_at < started_at
    OR (finished_at IS NULL AND status NOT IN ('running', 'interrupted'))
    OR (finished_at IS NOT NULL AND status = 'running')
) IS TRUE;
CREATE INDEX task_history_late ON bookend.task_history (started_at, id) WHERE late IS NOT NULL;

CREATE TABLE bookend.task_transition (
    task_id     text NOT NULL,
    n           bigint NOT NULL,
    at          timestamptz NOT NULL,
    from_status text,
    to_status   text NOT NULL,
    reason      text,
    by_pid      bigint,
    by_command  text,
    -- NULL: the fleet itself.
    by_node     uuid,
    PRIMARY KEY (task_id, n)
);

-- Where the conversation of a key was used last. It is resumed only there.
CREATE TABLE bookend.session (
    key          text PRIMARY KEY,
    session_id   text NOT NULL,
    provider     text,
    task_id      text,
    last_used_at timestamptz,
    trusted      bigint,
    node         uuid NOT NULL REFERENCES bookend.node,
    claim_no     bigint,
    -- The fleet ended the task that used it: it is not resumed there either.
    lost_at      timestamptz
);

CREATE TABLE bookend.session_invalidation (
    node         uuid NOT NULL REFERENCES bookend.node,
    -- The number in the ledger of the node. NULL: the fleet itself.
    id           bigint,
    key          text,
    session_id   text NOT NULL,
    provider     text,
    task_id      text,
    reason       text NOT NULL,
    at           timestamptz NOT NULL,
    restored_at  timestamptz,
    last_used_at timestamptz,
    UNIQUE (node, id)
);
CREATE INDEX session_invalidation_key ON bookend.session_invalidation (key);
CREATE INDEX session_invalidation_task ON bookend.session_invalidation (task_id);

CREATE TABLE bookend.cancel_order (
    id      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    task_id text NOT NULL,
    -- The node that carries it out.
    node    uuid NOT NULL REFERENCES bookend.node,
    by_role name NOT NULL,
    by_host text,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    done_at timestamptz,
    result  text
);
CREATE UNIQUE INDEX cancel_order_open ON bookend.cancel_order (node, task_id) WHERE done_at IS NULL;
CREATE INDEX cancel_order_task ON bookend.cancel_order (task_id);

CREATE TABLE bookend.finding (
    id      bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
    node    uuid NOT NULL REFERENCES bookend.node,
    kind    text NOT NULL,
    subject text NOT NULL,
    detail  jsonb,
    at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    UNIQUE (node, kind, subject)
);

-- When a program last followed the list.
CREATE TABLE bookend.watcher (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    seen_at  timestamptz NOT NULL
) WITH (fillfactor = 20);
INSERT INTO bookend.watcher (seen_at) VALUES ('-infinity');

-- Helpers. Only `shown`, `patience` and `is_recent` are for everyone, since the view uses them: they are
-- parsed now, so that the search_path of a caller does not matter.

-- A time as the answers have it.
CREATE FUNCTION bookend.shown(t timestamptz) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN to_char(t AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"');

-- The time after which a node that was not renewed is unreachable: three renewals.
CREATE FUNCTION bookend.patience() RETURNS interval
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (SELECT 3 * value::float8 * interval '1 millisecond' FROM bookend.setting WHERE name = 'renew_ms');

-- Whether a lease was renewed lately. A time in the future is of before the clock was set back.
CREATE FUNCTION bookend.is_recent(t timestamptz) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN t BETWEEN clock_timestamp() - bookend.patience() AND clock_timestamp() + bookend.patience();

-- BK002 unless the node belongs to the role that is logged in.
CREATE FUNCTION bookend.own(p_node uuid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = bookend, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM node WHERE id = p_node AND role = session_user) THEN
        RAISE EXCEPTION 'node % is not a node of the role %', p_node, session_user
            USING ERRCODE = 'BK002';
    END IF;
END $$;

-- The node's epoch. BK001 if the registration is over. Until the transaction ends, `declare_lost`, `leave`
-- and `register` wait for it.
CREATE FUNCTION bookend.guard(p_node uuid, p_registration bigint) RETURNS bigint
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
DECLARE
    held lease;
BEGIN
    PERFORM own(p_node);
    -- The row is read after the lock: what a `declare_lost` or `register` before us has written is seen.
    PERFORM FROM lease WHERE node = p_node FOR KEY SHARE;
    SELECT * INTO held FROM lease WHERE node = p_node;
    IF held.lost_at IS NOT NULL THEN
        RAISE EXCEPTION 'node % was declared lost: epoch % is over', p_node, held.epoch
            USING ERRCODE = 'BK001';
    ELSIF held.registration IS DISTINCT FROM p_registration THEN
        RAISE EXCEPTION 'registration % of node % is over', p_registration, p_node USING ERRCODE = 'BK001';
    END IF;
    RETURN held.epoch;
END $$;

-- The node that waits longest for a key, of those that can take it.
CREATE FUNCTION bookend.first_waiter(p_key text) RETURNS bookend.waiter
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
DECLARE
    first waiter;
BEGIN
    SELECT w.* INTO first FROM waiter w JOIN lease l ON l.node = w.node
    WHERE w.key = p_key AND l.stopped_at IS NULL
      AND is_recent(l.renewed_at)
    ORDER BY w.n LIMIT 1;
    RETURN first;
END $$;

-- Notifies the node that waits longest, if there is one, that the key is free.
CREATE FUNCTION bookend.offer(p_key text) RETURNS void
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
DECLARE
    first waiter := first_waiter(p_key);
BEGIN
    IF first.node IS NOT NULL THEN
        PERFORM pg_notify('bookend_node', first.node::text);
    END IF;
END $$;

-- Notifies the programs that follow the list, if there were any within 90 seconds.
CREATE FUNCTION bookend.rows_changed() RETURNS void
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
BEGIN
    PERFORM pg_notify('bookend_rows', '')
    FROM watcher WHERE seen_at > clock_timestamp() - interval '90 s';
END $$;

-- Ends running tasks of a node on the word of the fleet. Returns the ids of those that ran.
CREATE FUNCTION bookend.settle(p_node uuid, p_tasks text[], p_reason text, p_error text) RETURNS text[]
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
DECLARE
    ended text[];
BEGIN
    WITH ending AS (
        UPDATE task_history t
        SET status = 'interrupted', reason = p_reason, error = p_error, end_source = 'lease',
            last_seen_at = greatest(t.last_seen_at, t.started_at, l.renewed_at)
        FROM lease l
        WHERE l.node = p_node AND t.node = p_node AND t.status = 'running' AND t.id = ANY (p_tasks)
        RETURNING t.id
    ), moves AS (
        INSERT INTO task_transition (task_id, n, at, from_status, to_status, reason, by_command)
        SELECT id, 1 + coalesce((SELECT max(n) FROM task_transition WHERE task_id = id), 0),
               clock_timestamp(), 'running', 'interrupted', p_reason, 'fleet'
        FROM ending
    ), sessions AS (
        UPDATE session s SET lost_at = clock_timestamp()
        FROM ending WHERE s.task_id = ending.id AND s.node = p_node
        RETURNING s.*
    ), invalidations AS (
        INSERT INTO session_invalidation (node, key, session_id, provider, task_id, reason, at, last_used_at)
        SELECT p_node, key, session_id, provider, task_id, p_reason, lost_at, last_used_at FROM sessions
    )
    SELECT coalesce(array_agg(id ORDER BY id), '{}') INTO ended FROM ending;
    RETURN ended;
END $$;

-- For everyone.

-- One row per node. `state` is reachable, unreachable, stopped, lost or left; `running` and `claims` are
-- counts.
CREATE VIEW bookend.node_state AS
SELECT n.id, n.host, n.role, n.machine_id, n.boot_id, n.ledger_id, n.ledger_file, n.version, n.registered_at,
       n.left_at, l.epoch, l.registration, l.seq, l.renewed_at, l.max_rev, l.stopped_at, l.lost_at, l.lost_by,
       now.state, now.state = 'reachable' AS reachable,
       CASE WHEN now.state = 'unreachable' THEN l.renewed_at END AS unreachable_since,
       (SELECT count(*) FROM bookend.task_history t WHERE t.node = n.id AND t.status = 'running') AS running,
       (SELECT count(*) FROM bookend.claim c WHERE c.node = n.id) AS claims,
       (SELECT count(*) FROM bookend.waiter w WHERE w.node = n.id) AS waiting
FROM bookend.node n JOIN bookend.lease l ON l.node = n.id
CROSS JOIN LATERAL (
    SELECT CASE WHEN n.left_at IS NOT NULL THEN 'left' WHEN l.lost_at IS NOT NULL THEN 'lost'
                WHEN l.stopped_at IS NOT NULL THEN 'stopped'
                WHEN bookend.is_recent(l.renewed_at) THEN 'reachable'
                ELSE 'unreachable' END AS state
) now;

-- The task that holds a key, or for which it is reserved: the answer `held` of `take`.
CREATE FUNCTION bookend.held(p_task text, p_node uuid, p_since timestamptz) RETURNS jsonb
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
BEGIN
    RETURN (
        SELECT jsonb_build_object('state', 'held', 'task', p_task, 'node', s.id, 'host', s.host,
                                  'since', shown(p_since), 'reachable', s.reachable,
                                  'unreachable_since', shown(s.unreachable_since))
        FROM node_state s WHERE s.id = p_node);
END $$;

-- Orders one cancellation; a second order for the same task is the first one, while it is open.
CREATE FUNCTION bookend.order_for(p_task text, p_node uuid) RETURNS jsonb
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
DECLARE
    order_id bigint;
    asking text := coalesce((SELECT min(host) FROM node WHERE role = session_user AND left_at IS NULL),
                            host(inet_client_addr()));
BEGIN
    INSERT INTO cancel_order (task_id, node, by_role, by_host)
    VALUES (p_task, p_node, session_user, asking)
    ON CONFLICT (node, task_id) WHERE done_at IS NULL DO UPDATE SET task_id = excluded.task_id
    RETURNING id INTO order_id;
    PERFORM pg_notify('bookend_node', p_node::text);
    RETURN (SELECT jsonb_build_object('state', 'ordered', 'order', order_id, 'task', p_task, 'node', id,
                                      'host', host, 'reachable', reachable)
            FROM node_state WHERE id = p_node);
END $$;

-- Releases the claims of a node but those of some tasks, and returns their keys.
CREATE FUNCTION bookend.release_all(p_node uuid, p_but text[]) RETURNS text[]
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
DECLARE
    freed text[];
BEGIN
    WITH released AS (DELETE FROM claim WHERE node = p_node AND task_id <> ALL (p_but) RETURNING key)
    SELECT coalesce(array_agg(key ORDER BY key), '{}') INTO freed FROM released;
    PERFORM offer(key) FROM unnest(freed) key;
    RETURN freed;
END $$;

-- Ends what a node waits for, and the orders for it.
CREATE FUNCTION bookend.close_requests(p_node uuid, p_result text) RETURNS void
LANGUAGE sql SET search_path = bookend, pg_temp
AS $$
    DELETE FROM waiter WHERE node = p_node;
    UPDATE cancel_order SET done_at = clock_timestamp(), result = p_result
    WHERE node = p_node AND done_at IS NULL
$$;

-- version() → {"schema": 1, "renew_ms": 5000, "publish_argv": false, …all settings}
CREATE FUNCTION bookend.version() RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
    SELECT jsonb_build_object('schema', (SELECT max(version) FROM migration))
        || (SELECT jsonb_object_agg(name, value) FROM setting)
$$;

-- watch() → {}: `publish` sends NOTIFY bookend_rows during the next 90 seconds. Call it every 30 seconds.
CREATE FUNCTION bookend.watch() RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
BEGIN
    UPDATE watcher SET seen_at = clock_timestamp() WHERE seen_at < clock_timestamp() - interval '10 s';
    RETURN '{}';
END $$;

-- For hosts.

-- register(node, facts, instance, seen_seq or NULL): the start of a monitor.
-- facts: {"machine_id","boot_id","ledger_id","ledger_file","host","version" (of bookend),"schema": 1,
--     "superseded" (true: another monitor has taken the lease from this one)}
-- → {"state":"ok","registration","epoch","was_lost" (a new epoch has begun),
--     "max_rev" (published so far)}: the other functions want this registration
-- | {"state":"watch","seq","wait_ms"}: call again after wait_ms with this seq as seen_seq
-- | {"state":"refused","why":"role"|"copies"|"left","text"}
-- Errors: BK004 if facts.schema is not the version of this schema.
CREATE FUNCTION bookend.register(p_node uuid, p_facts jsonb, p_instance uuid, p_seen_seq bigint)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    schema integer := (SELECT max(version) FROM migration);
    known node;
    held lease;
    is_new boolean;
BEGIN
    IF (p_facts->>'schema')::integer IS DISTINCT FROM schema THEN
        RAISE EXCEPTION 'the schema in PostgreSQL has version %, and bookend on this host knows version %',
            schema, coalesce(p_facts->>'schema', 'none') USING ERRCODE = 'BK004';
    END IF;
    INSERT INTO node (id, host, role) VALUES (p_node, coalesce(p_facts->>'host', ''), session_user)
    ON CONFLICT (id) DO NOTHING;
    is_new := FOUND;
    SELECT * INTO known FROM node WHERE id = p_node;
    IF known.role <> session_user THEN
        RETURN jsonb_build_object('state', 'refused', 'why', 'role', 'text',
            format('node %s belongs to the role %I, and this is %I', p_node, known.role, session_user));
    END IF;
    INSERT INTO lease (node) VALUES (p_node) ON CONFLICT (node) DO NOTHING;
    SELECT * INTO held FROM lease WHERE node = p_node FOR UPDATE;
    -- Another `register` may have changed it before the lock.
    SELECT * INTO known FROM node WHERE id = p_node;
    IF known.left_at IS NOT NULL THEN
        RETURN jsonb_build_object('state', 'refused', 'why', 'left', 'text',
            'this node has left the fleet; to join it again: `bookend fleet join --new-node URL`');
    END IF;
    -- Another monitor with this node's id renews the lease meanwhile. A copy may have the same boot and file: a
    -- virtual machine that was resumed twice from one snapshot.
    IF NOT (is_new OR held.stopped_at IS NOT NULL OR held.lost_at IS NOT NULL
            OR (known.boot_id IS NOT DISTINCT FROM p_facts->>'boot_id'
                AND known.ledger_file IS NOT DISTINCT FROM p_facts->>'ledger_file'
                AND p_facts->'superseded' IS DISTINCT FROM 'true'))
    THEN
        IF p_seen_seq IS NOT NULL AND p_seen_seq <> held.seq THEN
            RETURN jsonb_build_object('state', 'refused', 'why', 'copies', 'text',
                'machine id and ledger are copies: `bookend fleet join --new-node URL`');
        END IF;
        IF held.watch_seq IS DISTINCT FROM held.seq OR held.watch_at > clock_timestamp() THEN
            UPDATE lease SET watch_seq = seq, watch_at = clock_timestamp() WHERE node = p_node
            RETURNING * INTO held;
        END IF;
        IF p_seen_seq IS NULL OR held.watch_at > clock_timestamp() - patience() THEN
            RETURN jsonb_build_object('state', 'watch', 'seq', held.seq, 'wait_ms', greatest(1, ceil(
                extract(epoch FROM held.watch_at + patience() - clock_timestamp()) * 1000)::bigint));
        END IF;
    END IF;
    UPDATE node SET host = coalesce(p_facts->>'host', host), machine_id = p_facts->>'machine_id',
        boot_id = p_facts->>'boot_id', ledger_id = p_facts->>'ledger_id',
        ledger_file = p_facts->>'ledger_file', version = p_facts->>'version'
    WHERE id = p_node;
    -- The requests of the monitor before this one have ended with it.
    DELETE FROM waiter WHERE node = p_node;
    UPDATE lease SET instance = p_instance, registration = registration + 1, seq = seq + 1,
        renewed_at = clock_timestamp(),
        epoch = epoch + (lost_at IS NOT NULL)::integer, lost_at = NULL, lost_by = NULL, stopped_at = NULL
    WHERE node = p_node;
    RETURN jsonb_build_object('state', 'ok', 'registration', held.registration + 1,
        'epoch', held.epoch + (held.lost_at IS NOT NULL)::integer,
        'was_lost', held.lost_at IS NOT NULL, 'max_rev', held.max_rev);
END $$;

-- renew(node, registration, instance), every renew_ms
-- → {"state":"ok","seq","orders":[{"id","task","by_role","by_host","at"}],"free":[keys it can take now],
--     "max_rev" (published so far)}
-- | {"state":"superseded"}: another monitor has registered | {"state":"lost"}
-- In both cases register again. Errors: BK002.
CREATE FUNCTION bookend.renew(p_node uuid, p_registration bigint, p_instance uuid) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    held lease;
BEGIN
    PERFORM own(p_node);
    UPDATE lease SET seq = seq + 1, renewed_at = clock_timestamp()
    WHERE node = p_node AND registration = p_registration AND instance = p_instance AND lost_at IS NULL
    RETURNING * INTO held;
    IF NOT FOUND THEN
        SELECT * INTO held FROM lease WHERE node = p_node;
        RETURN jsonb_build_object('state', CASE WHEN held.lost_at IS NULL THEN 'superseded' ELSE 'lost' END);
    END IF;
    RETURN jsonb_build_object('state', 'ok', 'seq', held.seq, 'max_rev', held.max_rev,
        'orders', coalesce((
            SELECT jsonb_agg(jsonb_build_object('id', id, 'task', task_id, 'by_role', by_role,
                                                'by_host', by_host, 'at', shown(at)) ORDER BY id)
            FROM cancel_order WHERE node = p_node AND done_at IS NULL), '[]'),
        'free', coalesce((
            SELECT jsonb_agg(w.key ORDER BY w.n) FROM waiter w
            WHERE w.node = p_node AND NOT EXISTS (SELECT FROM claim c WHERE c.key = w.key)
              AND (first_waiter(w.key)).node = p_node), '[]'));
END $$;

-- take(node, registration, key, task, slot, wait): asks for the claim on a key.
-- → {"state":"granted","no","task","elsewhere": host or null,"session_lost": bool}
--     task: the one that the claim names; elsewhere: the key's session was used last on that other node;
--     session_lost: its task was ended by the fleet. In both cases the session of this host is not to be resumed.
-- | {"state":"held","task","node","host","since","reachable","unreachable_since"}
--     Of a free key: the task for which it is reserved, since its node waits longer.
-- A claim of the same node is granted: the local ledger decides. It names the same task as before, which may
-- run, until `repoint` says that another one does. Only if `wait` is true and other nodes wait for the key,
-- the answer is `held` by the own node, so that they get their turn.
-- With `wait` true and `held`, the node waits from now on: NOTIFY bookend_node, or `free` in `renew`; then
-- take again. Until granted, or `give_up_waiting`. Errors: BK001, BK002.
CREATE FUNCTION bookend.take(
    p_node uuid, p_registration bigint, p_key text, p_task text, p_slot bigint, p_wait boolean)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    c claim;
    w waiter;
    named text := p_task;
    granted bigint;
    current_epoch bigint;
BEGIN
    IF NOT fits(p_key) THEN
        RAISE EXCEPTION 'the key is longer than the 800 bytes that the fleet allows' USING ERRCODE = '22001';
    END IF;
    -- Without a write or a lock if another node has it and the caller does not wait.
    SELECT * INTO c FROM claim WHERE key = p_key;
    IF FOUND AND c.node <> p_node AND NOT p_wait THEN
        PERFORM own(p_node);
        RETURN held(c.task_id, c.node, c.since);
    END IF;
    current_epoch := guard(p_node, p_registration);
    LOOP
        w := first_waiter(p_key);
        IF w.node IS NULL OR w.node = p_node THEN
            INSERT INTO claim (key, task_id, node, epoch, slot)
            VALUES (p_key, p_task, p_node, current_epoch, p_slot)
            ON CONFLICT (key) DO NOTHING RETURNING no INTO granted;
            EXIT WHEN granted IS NOT NULL;
        END IF;
        SELECT * INTO c FROM claim WHERE key = p_key FOR UPDATE;
        IF FOUND AND c.node = p_node
            AND (NOT p_wait OR c.task_id = p_task OR w.node IS NULL OR w.node = p_node)
        THEN
            named := c.task_id;
            granted := c.no;
            EXIT;
        END IF;
        IF FOUND OR (w.node IS NOT NULL AND w.node <> p_node) THEN
            IF p_wait THEN
                INSERT INTO waiter (key, node, task_id) VALUES (p_key, p_node, p_task)
                ON CONFLICT (key, node) DO UPDATE SET task_id = excluded.task_id
                WHERE waiter.task_id <> excluded.task_id;
            END IF;
            RETURN CASE WHEN c.node IS NULL THEN held(w.task_id, w.node, w.since)
                        ELSE held(c.task_id, c.node, c.since) END;
        END IF;
        -- It was released between the two statements.
    END LOOP;
    DELETE FROM waiter WHERE key = p_key AND node = p_node;
    RETURN jsonb_build_object('state', 'granted', 'no', granted, 'task', named, 'elsewhere', (
            SELECT n.host FROM session s JOIN node n ON n.id = s.node
            WHERE s.key = p_key AND s.node <> p_node),
        'session_lost', EXISTS (
            SELECT FROM session WHERE key = p_key AND node = p_node AND lost_at IS NOT NULL));
END $$;

-- repoint(node, registration, key, task): the claim of this node on the key names this task from now on,
-- which holds the key in the ledger.
-- → {"state":"ok"} | {"state":"not_held"}. Errors: BK001, BK002.
CREATE FUNCTION bookend.repoint(p_node uuid, p_registration bigint, p_key text, p_task text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
BEGIN
    PERFORM guard(p_node, p_registration);
    UPDATE claim SET task_id = p_task, slot = CASE WHEN task_id = p_task THEN slot END,
        since = CASE WHEN task_id = p_task THEN since ELSE clock_timestamp() END
    WHERE key = p_key AND node = p_node;
    RETURN jsonb_build_object('state', CASE WHEN FOUND THEN 'ok' ELSE 'not_held' END);
END $$;

-- release(node, registration, key, task): frees the key if this task of this node holds it. Publish the task
-- before.
-- → {"state":"released"} | {"state":"not_held"}. Errors: BK001, BK002.
CREATE FUNCTION bookend.release(p_node uuid, p_registration bigint, p_key text, p_task text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
BEGIN
    PERFORM guard(p_node, p_registration);
    DELETE FROM claim WHERE key = p_key AND node = p_node AND task_id = p_task;
    IF NOT FOUND THEN
        RETURN '{"state": "not_held"}';
    END IF;
    PERFORM offer(p_key);
    RETURN '{"state": "released"}';
END $$;

-- give_up_waiting(node, registration, key) → {}: no run of this node waits for the key any more.
-- Errors: BK001, BK002.
CREATE FUNCTION bookend.give_up_waiting(p_node uuid, p_registration bigint, p_key text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
BEGIN
    PERFORM guard(p_node, p_registration);
    DELETE FROM waiter WHERE key = p_key AND node = p_node;
    IF FOUND AND NOT EXISTS (SELECT FROM claim WHERE key = p_key) THEN
        PERFORM offer(p_key);
    END IF;
    RETURN '{}';
END $$;

-- claims(node) → [{"key","task","slot","no","epoch","since"}], by key. Errors: BK002.
CREATE FUNCTION bookend.claims(p_node uuid) RETURNS jsonb
LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
BEGIN
    PERFORM own(p_node);
    RETURN coalesce((
        SELECT jsonb_agg(jsonb_build_object('key', key, 'task', task_id, 'slot', slot, 'no', no,
                                            'epoch', epoch, 'since', shown(since)) ORDER BY key)
        FROM claim WHERE node = p_node), '[]');
END $$;

-- Whether an index takes a value: with all its columns, its row has at most 2704 bytes. This one and the next
-- two are parsed now and become parts of the statements that use them: called, they would take more time than
-- all else that `publish` does.
CREATE FUNCTION bookend.fits(value text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN octet_length(coalesce(value, '')) <= 800;

-- Whether RFC 3339 can write a time.
CREATE FUNCTION bookend.can_show(t timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN t IS NULL OR (t >= '0001-01-01 00:00:00Z' AND t < '10000-01-01 00:00:00Z');

-- Whether readers of JSON take a value: they stop at some depth, and at numbers beyond a double.
CREATE FUNCTION bookend.can_read(value jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN value IS NULL OR NOT (value @? '$.**{100 to last}' OR value @? '$.** ? (@ > 1e308 || @ < -1e308)');

-- The parts of an element of `publish`, or a message if a value does not fit its column or no reader takes it.
CREATE FUNCTION bookend.parts_of(
    p_entry jsonb,
    OUT task bookend.task_history,
    OUT transitions bookend.task_transition[],
    OUT used bookend.session,
    OUT invalidations bookend.session_invalidation[],
    OUT message text)
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
DECLARE
    missing CONSTANT text := 'a column that is always set is missing';
    too_long CONSTANT text := 'an id, key, repository, persona or status is longer than 800 bytes';
    no_time CONSTANT text := 'a time is not in the years 1 to 9999';
BEGIN
    task := jsonb_populate_record(NULL::task_history, p_entry->'task');
    transitions := ARRAY(SELECT x FROM jsonb_populate_recordset(
        NULL::task_transition, coalesce(nullif(p_entry->'transitions', 'null'), '[]')) x);
    invalidations := ARRAY(SELECT x FROM jsonb_populate_recordset(
        NULL::session_invalidation, coalesce(nullif(p_entry->'invalidations', 'null'), '[]')) x);
    IF p_entry->'session' <> 'null' THEN
        used := jsonb_populate_record(NULL::session, p_entry->'session');
    END IF;
    message := CASE
        WHEN task.id IS NULL OR task.status IS NULL OR task.started_at IS NULL THEN missing
        WHEN NOT (fits(task.id) AND fits(task.key) AND fits(task.repo) AND fits(task.agent)
                  AND fits(task.status) AND fits(used.key)) THEN too_long
        WHEN NOT (can_show(task.started_at) AND can_show(task.finished_at)
                  AND can_show(task.agent_released_at) AND can_show(task.last_seen_at)
                  AND can_show(task.delivered_at) AND can_show(task.cleanup_after)
                  AND can_show(task.hinted_at) AND can_show(task.limit_resets_at)
                  AND can_show(used.last_used_at)) THEN no_time
        WHEN NOT (coalesce(abs(task.cost_usd), 0) < 'Infinity'
                  AND coalesce(abs(task.session_cost_usd), 0) < 'Infinity')
            THEN 'a cost is not a finite number'
        WHEN NOT (can_read(task.session_tokens) AND can_read(task.artifacts) AND can_read(task.argv)
                  AND can_read(task.on_finish) AND can_read(task.user_argv) AND can_read(task.run_options)
                  AND can_read(task.leftovers) AND can_read(task.former_session))
            THEN 'a JSON value has more than 100 levels, or a number beyond 1e308'
    END;
    message := coalesce(message, (
        SELECT max(CASE WHEN x.n IS NULL OR x.at IS NULL OR x.to_status IS NULL THEN missing
                        WHEN NOT fits(x.task_id) THEN too_long WHEN NOT can_show(x.at) THEN no_time END)
        FROM unnest(transitions) x), (
        SELECT max(CASE WHEN x.id IS NULL OR x.session_id IS NULL OR x.reason IS NULL OR x.at IS NULL
                            THEN missing
                        WHEN NOT (fits(x.key) AND fits(x.task_id)) THEN too_long
                        WHEN NOT (can_show(x.at) AND can_show(x.restored_at) AND can_show(x.last_used_at))
                            THEN no_time END)
        FROM unnest(invalidations) x));
EXCEPTION WHEN data_exception THEN
    message := SQLERRM;
END $$;

-- Stores where the session of a key was used last, unless a later claim on the key has used it elsewhere.
CREATE FUNCTION bookend.store_session(p_used bookend.session, p_node uuid, p_claim_no bigint) RETURNS void
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
BEGIN
    IF p_used.key IS NULL OR p_used.session_id IS NULL THEN
        RETURN;
    END IF;
    INSERT INTO session AS old (key, session_id, provider, task_id, last_used_at, trusted, node, claim_no)
    VALUES (p_used.key, p_used.session_id, p_used.provider, p_used.task_id, p_used.last_used_at,
            p_used.trusted, p_node, p_claim_no)
    ON CONFLICT (key) DO UPDATE SET
        session_id = excluded.session_id, provider = excluded.provider, task_id = excluded.task_id,
        last_used_at = excluded.last_used_at, trusted = excluded.trusted, node = excluded.node,
        claim_no = coalesce(excluded.claim_no, old.claim_no),
        -- 2: an operator restored it.
        lost_at = CASE WHEN old.task_id = excluded.task_id AND excluded.trusted IS DISTINCT FROM 2
                       THEN old.lost_at END
    WHERE old.node = excluded.node OR old.claim_no IS NULL OR old.claim_no < excluded.claim_no;
END $$;

-- Frees the key of a task that has ended, but for the keys to keep.
CREATE FUNCTION bookend.free(p_node uuid, p_key text, p_task text, p_keep text[]) RETURNS void
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
BEGIN
    DELETE FROM claim
    WHERE key = p_key AND node = p_node AND task_id = p_task AND key <> ALL (coalesce(p_keep, '{}'));
    IF FOUND THEN
        PERFORM offer(p_key);
    END IF;
END $$;

-- Takes one element of `publish`; returns its part of the answer.
CREATE FUNCTION bookend.publish_one(p_node bookend.node, p_epoch bigint, p_entry jsonb, p_keep text[])
RETURNS jsonb
LANGUAGE plpgsql SET search_path = bookend, pg_temp
AS $$
DECLARE
    parts record := parts_of(p_entry);
    t task_history := parts.task;
    s task_history;
    answer jsonb := jsonb_build_object('rev', p_entry->'rev', 'result', 'ok');
    reported text := t.status;
    keeps_end boolean := false;
    is_late boolean := false;
BEGIN
    IF parts.message IS NOT NULL THEN
        INSERT INTO finding (node, kind, subject, detail)
        VALUES (p_node.id, 'unreadable', left(coalesce(p_entry->'task'->>'id', ''), 200),
                jsonb_build_object('message', parts.message))
        ON CONFLICT (node, kind, subject) DO UPDATE SET detail = excluded.detail;
        IF p_entry->'task'->>'status' <> 'running' THEN
            PERFORM free(p_node.id, p_entry->'task'->>'key', p_entry->'task'->>'id', p_keep);
        END IF;
        RETURN answer || jsonb_build_object('result', 'unreadable', 'message', parts.message);
    END IF;
    t.node := p_node.id;
    t.epoch := p_epoch;
    t.rev := (p_entry->>'rev')::bigint;
    t.published_at := clock_timestamp();
    SELECT * INTO s FROM task_history WHERE id = t.id FOR UPDATE;
    IF NOT FOUND THEN
        DELETE FROM finding WHERE node = t.node AND kind = 'unreadable' AND subject = left(t.id, 200);
        -- A restored ledger that has drawn higher numbers only, before it is published again, is not noticed:
        -- its tasks are stored, and those that it has lost stay.
        IF NOT FOUND AND EXISTS (
            SELECT FROM lease WHERE node = t.node AND t.rev > pruned_rev AND t.rev <= max_rev)
        THEN
            RAISE EXCEPTION 'rev % of task % was published before, of another task: the ledger was restored',
                t.rev, t.id USING ERRCODE = 'BK003';
        END IF;
    ELSIF s.node <> t.node THEN
        IF t.status <> 'running' THEN
            PERFORM free(t.node, t.key, t.id, p_keep);
        END IF;
        RETURN answer || '{"result": "foreign"}';
    ELSIF s.rev >= t.rev THEN
        RETURN answer || '{"result": "older"}';
    END IF;

    t.claim_no := coalesce(s.claim_no, (SELECT no FROM claim WHERE key = t.key AND node = t.node));
    t.late := s.late;
    IF s.status <> 'running' THEN
        keeps_end := s.end_source = 'lease' OR t.status <> s.status;
        -- A reboot agrees with an ending by the fleet.
        is_late := keeps_end AND NOT (s.end_source = 'lease' AND s.late IS NULL AND t.status = 'interrupted'
            AND t.end_source = 'recovery' AND t.boot_id IS DISTINCT FROM p_node.boot_id);
    END IF;
    IF is_late THEN
        t.late := jsonb_build_object('status', t.status, 'reason', t.reason, 'error', t.error,
                                     'end_source', t.end_source, 'finished_at', shown(t.finished_at));
        answer := answer || '{"result": "late"}';
    END IF;
    IF keeps_end THEN
        t.status := s.status;
        t.reason := s.reason;
        t.error := s.error;
        t.end_source := s.end_source;
        t.finished_at := s.finished_at;
    END IF;
    DELETE FROM task_history WHERE id = t.id;
    INSERT INTO task_history VALUES (t.*);
    INSERT INTO task_transition
    SELECT t.id, x.n, x.at, x.from_status, x.to_status, x.reason, x.by_pid, x.by_command, t.node
    FROM unnest(parts.transitions) x WHERE x.to_status = 'running' OR NOT keeps_end
    ON CONFLICT (task_id, n) DO NOTHING;
    PERFORM store_session(parts.used, t.node, t.claim_no);
    INSERT INTO session_invalidation
    SELECT t.node, x.id, x.key, x.session_id, x.provider, x.task_id, x.reason, x.at, x.restored_at,
           x.last_used_at
    FROM unnest(parts.invalidations) x
    ON CONFLICT (node, id) DO UPDATE SET restored_at = excluded.restored_at;
    IF reported <> 'running' THEN
        UPDATE cancel_order SET done_at = clock_timestamp(), result = reported
        WHERE node = t.node AND task_id = t.id AND done_at IS NULL;
        PERFORM free(t.node, t.key, t.id, p_keep);
    END IF;
    RETURN answer;
END $$;

-- publish(node, registration, rows, keep_claims): rows are
--   [{"rev", "task": {columns of the ledger's row}, "transitions": [{its rows}],
--     "session": {the row of claude_sdk_sessions whose task_id is this task} or null,
--     "invalidations": [{rows of session_invalidation}]}]
-- in order of rev, times as RFC 3339, JSON columns (session_tokens, artifacts, argv, on_finish, user_argv,
-- run_options, leftovers, former_session) as JSON, no \u0000 in any text. What is left out is NULL.
-- → {"rows":[{"rev","result"}]}, in the same order; none of them is to be sent again. result:
--   ok          stored
--   older       this rev or a higher one of the task is stored already
--   late        stored, but the task had ended here (declared lost): its ending is in the column `late`
--   foreign     the task is another node's; nothing was changed
--   unreadable  a value does not fit its column or index, or no reader takes it, e.g. a time that is infinite
--               ("message" says which); only a finding was stored
-- A task that ended frees its key unless that is in keep_claims, the keys for which a request is pending.
-- Errors: BK001, BK002, BK003 if a rev up to the highest published one is of a task that is neither stored nor
-- unreadable, nor can have been pruned.
CREATE FUNCTION bookend.publish(p_node uuid, p_registration bigint, p_rows jsonb, p_keep_claims text[])
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    current_epoch bigint;
    self node;
    entry jsonb;
    answers jsonb[] := '{}';
    highest bigint := 0;
BEGIN
    current_epoch := guard(p_node, p_registration);
    SELECT * INTO self FROM node WHERE id = p_node;
    FOR entry IN SELECT jsonb_array_elements(p_rows) LOOP
        answers := answers || publish_one(self, current_epoch, entry, p_keep_claims);
        highest := greatest(highest, (entry->>'rev')::bigint);
    END LOOP;
    UPDATE lease SET max_rev = highest WHERE node = p_node AND max_rev < highest;
    PERFORM rows_changed();
    RETURN jsonb_build_object('rows', to_jsonb(answers));
END $$;

-- reconcile(node, registration, running, max_rev): `running` are the ids of the tasks that run in the ledger, of
-- those that hold a live slot without a row yet, and of those with changes that are still to be published;
-- max_rev is the highest rev that the ledger has drawn. Other running rows of the node are ended, other claims
-- released. No `take` of the node may be under way.
-- → {"rebooted":[ids],"unknown":[ids],"released":[keys]}. Errors: BK001, BK002, BK003.
CREATE FUNCTION bookend.reconcile(p_node uuid, p_registration bigint, p_running text[], p_max_rev bigint)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    published bigint;
    rebooted text[];
    unknown text[];
    released text[];
BEGIN
    PERFORM guard(p_node, p_registration);
    SELECT max_rev INTO published FROM lease WHERE node = p_node;
    IF p_max_rev < published THEN
        RAISE EXCEPTION 'the ledger has drawn rev %, and % was published: the ledger was restored',
            p_max_rev, published USING ERRCODE = 'BK003';
    END IF;
    SELECT coalesce(array_agg(t.id) FILTER (WHERE t.boot_id <> n.boot_id), '{}'),
           coalesce(array_agg(t.id) FILTER (WHERE (t.boot_id <> n.boot_id) IS NOT TRUE), '{}')
    INTO rebooted, unknown
    FROM task_history t JOIN node n ON n.id = t.node
    WHERE t.node = p_node AND t.status = 'running' AND t.id <> ALL (p_running);
    rebooted := settle(p_node, rebooted, 'rebooted', 'the machine rebooted during the run');
    unknown := settle(p_node, unknown, 'unknown_to_ledger', 'its ledger does not have this task');
    -- A monitor that was killed may have moved a claim to a task that then did not start.
    UPDATE claim c SET task_id = t.id
    FROM task_history t
    WHERE c.node = p_node AND c.task_id <> ALL (p_running)
      AND t.node = p_node AND t.status = 'running' AND t.key = c.key;
    released := release_all(p_node, p_running);
    PERFORM rows_changed();
    RETURN jsonb_build_object('rebooted', rebooted, 'unknown', unknown, 'released', released);
END $$;

-- order_cancel(node, registration, key), for --replace: orders that the holder of a key is cancelled.
-- → {"state":"ordered","order","task","node","host","reachable"} | {"state":"free"}: take again
-- | {"state":"own"}: this node holds it | {"state":"not_waiting"}: call take with wait first
-- Errors: BK001, BK002.
CREATE FUNCTION bookend.order_cancel(p_node uuid, p_registration bigint, p_key text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    c claim;
BEGIN
    PERFORM guard(p_node, p_registration);
    IF NOT EXISTS (SELECT FROM waiter WHERE key = p_key AND node = p_node) THEN
        RETURN '{"state": "not_waiting"}';
    END IF;
    SELECT * INTO c FROM claim WHERE key = p_key;
    IF NOT FOUND THEN
        RETURN '{"state": "free"}';
    ELSIF c.node = p_node THEN
        RETURN '{"state": "own"}';
    END IF;
    RETURN order_for(c.task_id, c.node);
END $$;

-- order_done(node, registration, order, result) → {"state":"done"} | {"state":"closed"}: no open order of
-- this node has this id. Errors: BK001, BK002.
CREATE FUNCTION bookend.order_done(p_node uuid, p_registration bigint, p_order bigint, p_result text)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
BEGIN
    PERFORM guard(p_node, p_registration);
    UPDATE cancel_order SET done_at = clock_timestamp(), result = p_result
    WHERE id = p_order AND node = p_node AND done_at IS NULL;
    RETURN jsonb_build_object('state', CASE WHEN FOUND THEN 'done' ELSE 'closed' END);
END $$;

-- stopped(node, registration), the last call of a monitor: a node without running tasks and claims is not
-- unreachable but stopped. → {"state":"stopped"} | {"state":"running","running": n,"claims": n}.
-- Errors: BK001, BK002.
CREATE FUNCTION bookend.stopped(p_node uuid, p_registration bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    s node_state;
BEGIN
    PERFORM guard(p_node, p_registration);
    DELETE FROM waiter WHERE node = p_node;
    SELECT * INTO s FROM node_state WHERE id = p_node;
    IF s.running > 0 OR s.claims > 0 THEN
        RETURN jsonb_build_object('state', 'running', 'running', s.running, 'claims', s.claims);
    END IF;
    UPDATE lease SET stopped_at = clock_timestamp(), instance = NULL WHERE node = p_node;
    RETURN '{"state": "stopped"}';
END $$;

-- leave(node, registration or NULL: whichever is the last one): the node is out of the fleet for good, its rows
-- stay. No later call of it changes anything. With NULL also a node that has not registered yet: it is refused
-- when it does. → {"state":"left"} | {"state":"running","tasks":[ids]}: not while tasks run or hold keys.
-- Errors: BK001, BK002.
CREATE FUNCTION bookend.leave(p_node uuid, p_registration bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    running text[];
BEGIN
    IF p_registration IS NULL THEN
        -- It waits for a `register` of the node that is under way.
        INSERT INTO node (id, host, role, left_at) VALUES (p_node, '', session_user, clock_timestamp())
        ON CONFLICT (id) DO NOTHING;
        IF FOUND THEN
            RETURN '{"state": "left"}';
        END IF;
    END IF;
    PERFORM own(p_node);
    -- It waits for each call of the node that has passed `guard`, and those after it fail there.
    PERFORM FROM lease WHERE node = p_node FOR UPDATE;
    PERFORM guard(p_node, coalesce(p_registration, (SELECT registration FROM lease WHERE node = p_node)));
    SELECT array_agg(id ORDER BY id) INTO running
    FROM (SELECT id FROM task_history WHERE node = p_node AND status = 'running'
          UNION SELECT task_id FROM claim WHERE node = p_node) busy;
    IF running IS NOT NULL THEN
        RETURN jsonb_build_object('state', 'running', 'tasks', running);
    END IF;
    PERFORM close_requests(p_node, 'left');
    UPDATE node SET left_at = clock_timestamp() WHERE id = p_node;
    UPDATE lease SET stopped_at = clock_timestamp(), instance = NULL, registration = registration + 1
    WHERE node = p_node;
    RETURN '{"state": "left"}';
END $$;

-- finding(node, registration, kind, subject, detail) → {}: stores what `audit` reports, e.g. double_claim of
-- a task
-- id. The same again replaces detail. Errors: BK001, BK002.
CREATE FUNCTION bookend.finding(
    p_node uuid, p_registration bigint, p_kind text, p_subject text, p_detail jsonb)
RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
BEGIN
    PERFORM guard(p_node, p_registration);
    INSERT INTO finding (node, kind, subject, detail) VALUES (p_node, p_kind, p_subject, p_detail)
    ON CONFLICT (node, kind, subject) DO UPDATE SET detail = excluded.detail;
    RETURN '{}';
END $$;

-- For operators.

-- cancel(task): orders its host to cancel it.
-- → {"state":"ordered","order","task","node","host","reachable"} | {"state":"ended","status"}
-- | {"state":"unknown"}: no such task
CREATE FUNCTION bookend.cancel(p_task text) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    t task_history;
BEGIN
    SELECT * INTO t FROM task_history WHERE id = p_task;
    IF NOT FOUND THEN
        RETURN '{"state": "unknown"}';
    ELSIF t.status <> 'running' THEN
        RETURN jsonb_build_object('state', 'ended', 'status', t.status);
    END IF;
    RETURN order_for(t.id, t.node);
END $$;

-- declare_lost(node, epoch, seq as in node_state): a person vouches that the node's machine is off.
-- → {"state":"lost","host","tasks":[ids that are interrupted],"released":[keys]}
-- | {"state":"moved","epoch","seq"}: it was renewed or registered since | {"state":"already_lost"}
-- | {"state":"left"} | {"state":"unknown"}
CREATE FUNCTION bookend.declare_lost(p_node uuid, p_epoch bigint, p_seq bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    held lease;
    n node;
    ended text[];
BEGIN
    -- It waits for each call of the node that has passed `guard`, and those after it fail there.
    SELECT * INTO held FROM lease WHERE node = p_node FOR UPDATE;
    SELECT * INTO n FROM node WHERE id = p_node;
    IF n.id IS NULL OR n.left_at IS NOT NULL THEN
        RETURN jsonb_build_object('state', CASE WHEN n.id IS NULL THEN 'unknown' ELSE 'left' END);
    ELSIF held.lost_at IS NOT NULL THEN
        RETURN '{"state": "already_lost"}';
    ELSIF held.epoch <> p_epoch OR held.seq <> p_seq THEN
        RETURN jsonb_build_object('state', 'moved', 'epoch', held.epoch, 'seq', held.seq);
    END IF;
    UPDATE lease SET lost_at = clock_timestamp(), lost_by = session_user WHERE node = p_node;
    ended := settle(p_node, ARRAY(SELECT id FROM task_history WHERE node = p_node AND status = 'running'),
                    'host_lost', format('%s declared the host %s lost', session_user, n.host));
    PERFORM close_requests(p_node, 'host_lost');
    PERFORM rows_changed();
    RETURN jsonb_build_object('state', 'lost', 'host', n.host, 'tasks', ended,
                              'released', release_all(p_node, '{}'));
END $$;

-- prune(older_secs, dry_run, most): removes up to `most` tasks that ended so long ago, with what belongs to
-- them. → {"tasks": n}; with dry_run the number of those that would be removed, up to `most`.
CREATE FUNCTION bookend.prune(p_older_secs bigint, p_dry_run boolean, p_most bigint) RETURNS jsonb
LANGUAGE plpgsql SECURITY DEFINER SET search_path = bookend, pg_temp
AS $$
DECLARE
    before timestamptz := clock_timestamp() - p_older_secs * interval '1 second';
    due text[];
BEGIN
    due := ARRAY(SELECT id FROM task_history WHERE status <> 'running' AND last_seen_at < before
                 ORDER BY last_seen_at LIMIT p_most);
    due := due || ARRAY(SELECT id FROM task_history
                        WHERE status <> 'running' AND last_seen_at IS NULL AND started_at < before
                        LIMIT p_most - cardinality(due));
    IF NOT p_dry_run AND cardinality(due) > 0 THEN
        DELETE FROM task_history WHERE id = ANY (due) AND status <> 'running';
        DELETE FROM task_transition WHERE task_id = ANY (due);
        DELETE FROM session_invalidation WHERE task_id = ANY (due);
        DELETE FROM cancel_order WHERE task_id = ANY (due);
        DELETE FROM finding WHERE subject = ANY (due);
        -- A host may still send an earlier change of these tasks, which is no sign of a restored ledger.
        UPDATE lease SET pruned_rev = max_rev WHERE pruned_rev < max_rev;
    END IF;
    RETURN jsonb_build_object('tasks', cardinality(due));
END $$;

-- What every role may do. Tables are written by functions only.
REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA bookend FROM PUBLIC;
GRANT USAGE ON SCHEMA bookend TO bookend_host, bookend_operator, bookend_read;
GRANT SELECT ON ALL TABLES IN SCHEMA bookend TO bookend_host, bookend_operator, bookend_read;
GRANT EXECUTE ON FUNCTION bookend.shown, bookend.patience, bookend.is_recent, bookend.version, bookend.watch
    TO bookend_host, bookend_operator, bookend_read;
GRANT EXECUTE ON FUNCTION bookend.register, bookend.renew, bookend.take, bookend.repoint, bookend.release,
    bookend.give_up_waiting, bookend.claims, bookend.publish, bookend.reconcile, bookend.order_cancel,
    bookend.order_done, bookend.stopped, bookend.leave, bookend.finding TO bookend_host;
GRANT EXECUTE ON FUNCTION bookend.cancel, bookend.declare_lost, bookend.prune TO bookend_operator;
