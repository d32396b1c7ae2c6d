//! Tests of what each role may do, and that objects of others do not change what a function does.

use serde_json::json;

use super::{Host, entry};
use crate::postgres::Postgres;

/// Not allowed.
const DENIED: &str = "42501";
const TABLES: &str = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'bookend'";

/// The functions that a role may call, by name.
fn callable(postgres: &Postgres, role: &str) -> String {
    postgres.psql(&format!(
        "SELECT string_agg(p.proname, ' ' ORDER BY p.proname)
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'bookend' AND has_function_privilege('{role}', p.oid, 'EXECUTE')"
    ))
}

#[test]
fn each_role_may_call_its_functions_and_no_others() {
    let Some(postgres) = Postgres::with_schema("each_role_may_call_its_functions_and_no_others") else {
        return;
    };
    postgres.role("stranger", &[]);
    assert_eq!(callable(&postgres, "stranger"), "");
    assert_eq!(callable(&postgres, "bookend_read"), "is_recent patience shown version watch");
    assert_eq!(
        callable(&postgres, "bookend_operator"),
        "cancel declare_lost is_recent patience prune shown version watch"
    );
    assert_eq!(
        callable(&postgres, "bookend_host"),
        "claims finding give_up_waiting is_recent leave order_cancel order_done patience publish reconcile \
         register release renew repoint shown stopped take version watch"
    );
    let stranger = postgres.session("stranger");
    assert_eq!(stranger.error("SELECT bookend.version()"), DENIED);
    assert_eq!(stranger.error("SELECT * FROM bookend.node"), DENIED);
}

#[test]
fn every_function_of_a_role_has_a_fixed_search_path() {
    let Some(postgres) = Postgres::with_schema("every_function_of_a_role_has_a_fixed_search_path") else {
        return;
    };
    // Without one, a function must have been parsed when it was created, and run as its caller.
    let others = postgres.psql(
        "SELECT string_agg(p.proname, ' ' ORDER BY p.proname)
         FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'bookend' AND p.proconfig IS DISTINCT FROM ARRAY['search_path=bookend, pg_temp']",
    );
    assert_eq!(others, "can_read can_show fits is_recent patience shown");
    let parsed = format!(
        "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
         WHERE n.nspname = 'bookend' AND p.proname = ANY (string_to_array('{others}', ' '))
           AND prosqlbody IS NOT NULL AND NOT prosecdef"
    );
    assert_eq!(postgres.psql(&parsed), "6");
}

#[test]
fn no_role_writes_a_table() {
    let Some(postgres) = Postgres::with_schema("no_role_writes_a_table") else { return };
    let tables = postgres.psql(TABLES);
    assert!(tables.lines().count() > 10, "{tables}");
    for group in ["bookend_host", "bookend_operator", "bookend_read"] {
        let role = format!("a_{group}");
        postgres.role(&role, &[group]);
        let session = postgres.session(&role);
        for table in tables.lines() {
            session.query(&format!("SELECT * FROM bookend.{table}")).expect("everyone reads");
            for statement in ["DELETE FROM", "INSERT INTO", "TRUNCATE", "DROP TABLE"] {
                let rest = if statement == "INSERT INTO" { " DEFAULT VALUES" } else { "" };
                let sql = format!("{statement} bookend.{table}{rest}");
                let code = session.error(&sql);
                // The view accepts no row from anyone.
                assert!(
                    code == DENIED || (table == "node_state" && !code.is_empty()),
                    "{role}: {sql}: {code}"
                );
            }
        }
        assert_eq!(session.error("UPDATE bookend.task_history SET status = 'success'"), DENIED);
        assert_eq!(session.error("UPDATE bookend.node SET role = session_user"), DENIED);
        assert_eq!(session.error("CREATE TABLE bookend.mine (n int)"), DENIED);
    }
}

#[test]
fn a_host_cannot_act_as_another_node() {
    let Some(postgres) = Postgres::with_schema("a_host_cannot_act_as_another_node") else { return };
    let (a, mut b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    let third = Host::join(&postgres, "c");
    a.take("k", "t", false);
    a.publish(&[entry(1, "t", Some("k"), "running")]);
    postgres.psql("SELECT bookend.cancel('t')");
    let own = b.node;
    b.node = third.node;
    assert_eq!(b.error("take", "'k', 't2', 0, false"), "BK002", "it is told nothing of a third one's key");
    b.node = a.node;
    let row = super::quoted(&[entry(2, "t", Some("k"), "success")]);
    let calls = [
        ("renew", format!("'{}'", a.node)),
        ("take", "'k', 't2', 0, false".to_owned()),
        ("take", "'free', 't2', 0, true".to_owned()),
        ("repoint", "'k', 't2'".to_owned()),
        ("release", "'k', 't'".to_owned()),
        ("give_up_waiting", "'k'".to_owned()),
        ("publish", format!("{row}, '{{}}'")),
        ("reconcile", "'{}', 9".to_owned()),
        ("order_cancel", "'k'".to_owned()),
        ("order_done", "1, 'done'".to_owned()),
        ("stopped", String::new()),
        ("leave", String::new()),
        ("finding", "'kind', 'subject', NULL".to_owned()),
    ];
    for (function, arguments) in calls {
        assert_eq!(b.error(function, &arguments), "BK002", "{function}");
    }
    assert_eq!(b.session.error(&format!("SELECT bookend.claims('{}')", a.node)), "BK002");
    assert_eq!(b.register("boot 1", "8:1", None)["state"], "refused");
    for call in
        ["cancel('t')", "declare_lost(NULL, 1, 1)", "prune(0, false, 9)", "settle(NULL, '{t}', '', '')"]
    {
        assert_eq!(b.session.error(&format!("SELECT bookend.{call}")), DENIED, "{call}");
    }
    b.node = own;
    assert_eq!(b.call("release", "'k', 't'"), json!({ "state": "not_held" }));
    assert_eq!(postgres.psql("SELECT node, task_id FROM bookend.claim"), format!("{}|t", a.node));
    assert_eq!(postgres.psql("SELECT status FROM bookend.task_history"), "running");
    assert_eq!(postgres.psql("SELECT result IS NULL FROM bookend.cancel_order"), "t");
}

#[test]
fn set_role_does_not_make_a_host_another() {
    let Some(postgres) = Postgres::with_schema("set_role_does_not_make_a_host_another") else { return };
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    postgres.psql("GRANT bookend_a TO bookend_b");
    b.session.query("SET ROLE bookend_a").expect("a member of it");
    let sql = a.statement("take", "'k', 't', 0, false");
    assert_eq!(b.session.error(&sql), "BK002");
}

/// Objects with the names of those that the functions use, in a schema that comes first.
const TRAPS: &str = "
    CREATE TABLE SCHEMA.node (id uuid, role name, host text, left_at timestamptz);
    CREATE TABLE SCHEMA.lease (node uuid, epoch bigint, lost_at timestamptz);
    CREATE TABLE SCHEMA.claim (key text, task_id text, node uuid);
    CREATE TABLE SCHEMA.setting (name text, value jsonb);
    CREATE TABLE SCHEMA.task_history (id text, status text, node uuid);
    CREATE FUNCTION SCHEMA.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql
        AS 'BEGIN RAISE EXCEPTION ''a trap was called''; END';
    CREATE FUNCTION SCHEMA.guard(uuid, bigint) RETURNS void LANGUAGE sql AS 'SELECT';
    CREATE FUNCTION SCHEMA.own(uuid) RETURNS void LANGUAGE sql AS 'SELECT';
    CREATE FUNCTION SCHEMA.trap(integer, double precision) RETURNS double precision LANGUAGE plpgsql
        AS 'BEGIN RAISE EXCEPTION ''a trap was called''; END';
    CREATE OPERATOR SCHEMA.* (LEFTARG = integer, RIGHTARG = double precision, FUNCTION = SCHEMA.trap);
    CREATE FUNCTION SCHEMA.same(uuid, uuid) RETURNS boolean LANGUAGE sql AS 'SELECT true';
    CREATE OPERATOR SCHEMA.= (LEFTARG = uuid, RIGHTARG = uuid, FUNCTION = SCHEMA.same);
";

#[test]
fn objects_of_others_do_not_change_what_a_function_does() {
    let test = "objects_of_others_do_not_change_what_a_function_does";
    let Some(postgres) = Postgres::start(test) else { return };
    // Traps in `public` before the schema is created, as anyone can set them up with PostgreSQL 14.
    postgres.psql(&TRAPS.replace("SCHEMA", "public"));
    postgres.create_schema();
    postgres.psql("GRANT ALL ON ALL TABLES IN SCHEMA public TO PUBLIC");
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    a.take("k", "t", false);
    for (schema, path) in [("public", "public, pg_catalog"), ("pg_temp", "pg_temp, pg_catalog")] {
        if schema == "pg_temp" {
            b.session.query(&TRAPS.replace("SCHEMA", schema)).expect("traps of its own");
        }
        b.session.query(&format!("SET search_path = {path}")).expect("its own path");
        let node = format!("INSERT INTO {schema}.node VALUES ('{}', 'bookend_b')", a.node);
        b.session.query(&node).expect("a row in its table");
        for function in ["take", "release"] {
            let arguments = if function == "take" { "'k', 't2', 0, false" } else { "'k', 't'" };
            assert_eq!(b.session.error(&a.statement(function, arguments)), "BK002", "{function} with {path}");
        }
        assert_eq!(b.take("k", "t2", false), "held by t of a");
        assert!(["ok", "older"].contains(&b.publish(&[entry(1, "of b", None, "running")]).as_str()));
        let state = "SELECT string_agg(state, ' ') FROM bookend.node_state";
        assert_eq!(b.session.query(state), Ok("reachable reachable".to_owned()));
    }
}

#[test]
fn a_role_that_may_create_roles_can_create_the_schema() {
    let test = "a_role_that_may_create_roles_can_create_the_schema";
    let Some(postgres) = Postgres::start(test) else { return };
    postgres.psql("CREATE ROLE owner CREATEROLE LOGIN");
    postgres.psql("GRANT CREATE ON DATABASE postgres TO owner; GRANT CONNECT ON DATABASE postgres TO PUBLIC");
    for again in [false, true] {
        if again {
            // The roles of the cluster exist, as for a second database.
            postgres.psql("DROP SCHEMA bookend CASCADE; ALTER ROLE owner NOCREATEROLE");
        }
        postgres.psql(&format!("SET SESSION AUTHORIZATION owner; {}", crate::postgres::SCHEMA));
        assert_eq!(
            postgres.psql("SELECT nspowner::regrole FROM pg_namespace WHERE nspname = 'bookend'"),
            "owner"
        );
    }
    let (a, b) = (Host::join(&postgres, "a"), Host::join(&postgres, "b"));
    assert_eq!(a.take("k", "t", false), "granted");
    assert_eq!(b.take("k", "t2", true), "held by t of a");
    assert_eq!(
        a.publish(&[entry(1, "t", Some("k"), "running"), entry(2, "t", Some("k"), "success")]),
        "ok ok"
    );
    assert_eq!(b.take("k", "t2", true), "granted");
}
