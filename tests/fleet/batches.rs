//! How the monitor sends tasks: the size of a call, and answers that leave tasks out.

use crate::harness::{End, eventually};
use crate::node::{Node, fleet};
use crate::postgres::Postgres;

/// Replaces the function `publish`, which is then called `former`.
fn replace_publish(postgres: &Postgres, body: &str) {
    postgres.psql(&format!(
        "CREATE TABLE public.call (at timestamptz DEFAULT clock_timestamp(), tasks int, bytes int);
         ALTER FUNCTION bookend.publish RENAME TO former;
         CREATE FUNCTION bookend.publish(node uuid, registration bigint, tasks jsonb, keep text[])
         RETURNS jsonb LANGUAGE plpgsql SECURITY DEFINER AS $$
         BEGIN
             INSERT INTO public.call (tasks, bytes)
             VALUES (jsonb_array_length(tasks), octet_length(tasks::text));
             RETURN {body};
         END $$;
         GRANT EXECUTE ON FUNCTION bookend.former TO bookend_host"
    ));
}

fn run(node: &Node, id: &str) {
    node.world.run_sh("true").options(["--id", id]).run().ended(End::Code(0)).silent();
}

fn until(node: &Node, postgres: &Postgres, what: &str, sql: &str) {
    eventually(node.world.deadline(), what, || postgres.psql(sql) == "t");
}

#[test]
fn an_answer_that_leaves_tasks_out_is_reported_and_the_monitor_tries_again_later() {
    let test = "an_answer_that_leaves_tasks_out_is_reported_and_the_monitor_tries_again_later";
    let Some(postgres) = fleet(test) else { return };
    let mut node = Node::start(&postgres, "a");
    for answer in [r#"'{"rows": []}'"#, r#"'{"rows": [{"rev": 9000000000, "result": "ok"}]}'"#] {
        node.world.renew_deadline();
        replace_publish(&postgres, answer);
        run(&node, &format!("t{}", answer.len()));
        until(&node, &postgres, "three attempts", "SELECT count(*) > 2 FROM public.call");
        let pauses = "SELECT min(pause) > '0.3 s' FROM (
            SELECT at - lag(at) OVER (ORDER BY at) AS pause FROM public.call) pauses";
        assert_eq!(postgres.psql(pauses), "t");
        let errors = node.monitor().errors();
        assert!(errors.contains("did not answer for each task that was sent"), "{errors}");
        postgres.psql(
            "DROP FUNCTION bookend.publish; ALTER FUNCTION bookend.former RENAME TO publish;
             DROP TABLE public.call",
        );
        node.published();
    }
    assert_eq!(
        postgres.psql("SELECT count(*), max(max_rev) < 1000 FROM bookend.task_history, bookend.lease"),
        "2|t"
    );
    node.monitor().service.until("publishing to");
}

#[test]
fn large_tasks_are_sent_in_small_calls() {
    let Some(postgres) = fleet("large_tasks_are_sent_in_small_calls") else { return };
    let mut node = Node::join(&postgres, "a");
    for n in 0..8 {
        run(&node, &format!("t{n}"));
    }
    // Texts of 100 kB, and one that is larger than a call should be.
    node.world.write("UPDATE task_history SET error = hex(randomblob(iif(id = 't5', 200000, 50000)))");
    replace_publish(&postgres, "bookend.former(node, registration, tasks, keep)");
    node.start_monitor(&[]);
    until(&node, &postgres, "all tasks", "SELECT count(*) = 8 FROM bookend.task_history");
    node.published();
    let calls =
        "SELECT count(*) > 4, bool_or(tasks > 1), bool_and(bytes < 270000 OR tasks = 1) FROM public.call";
    assert_eq!(postgres.psql(calls), "t|t|t", "{}", postgres.psql("SELECT tasks, bytes FROM public.call"));
}

#[test]
fn keys_are_granted_while_a_long_history_is_still_published() {
    let Some(postgres) = fleet("keys_are_granted_while_a_long_history_is_still_published") else { return };
    // Renewals wait behind the calls.
    postgres.psql("UPDATE bookend.setting SET value = '5000' WHERE name = 'renew_ms'");
    let mut node = Node::join(&postgres, "a");
    node.world.write(
        "INSERT INTO task_history (id, status, started_at, finished_at)
         WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 4000)
         SELECT 'old-' || n, 'success', '2026-11-29T12:00:00.000Z', '2026-11-29T12:01:00.000Z' FROM n",
    );
    replace_publish(&postgres, "(SELECT bookend.former(node, registration, tasks, keep) FROM pg_sleep(0.7))");
    node.start_monitor(&[]);
    node.keyed("k", "true").run().ended(End::Code(0)).silent();
    let published = postgres.psql("SELECT count(*) BETWEEN 1 AND 3999 FROM bookend.task_history");
    assert_eq!(published, "t");
}
