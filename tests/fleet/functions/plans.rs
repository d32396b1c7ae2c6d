//! Tests that reading a long history uses indexes.
//!
//! `BOOKEND_FLEET_ROWS` is the number of rows; `.ci/run` sets 1,000,000.

use serde_json::Value;

use super::Host;
use crate::harness::print_line;
use crate::postgres::Postgres;

/// A history of `ROWS` tasks: 1 of 100 failed, 1 of 10,000 is unsettled, 20 run.
const HISTORY: &str = "
    INSERT INTO bookend.task_history (id, key, repo, agent, status, started_at, finished_at, last_seen_at,
        delivery_status, hinted_at, node, epoch, rev, published_at)
    SELECT lpad(n::text, 12, '0'), 'key ' || n % 1000, 'repo ' || n % 50, 'agent ' || n % 20,
        CASE WHEN n > ROWS - 20 THEN 'running' WHEN n % 100 = 0 THEN 'failure' ELSE 'success' END,
        '2026-01-01'::timestamptz + n * interval '1 s',
        CASE WHEN n <= ROWS - 20 THEN '2026-01-01'::timestamptz + n * interval '1 s' END,
        '2026-01-01'::timestamptz + n * interval '1 s',
        CASE WHEN n % 10000 = 5 THEN 'pending' END, NULL, node, 1, n, now()
    FROM generate_series(1, ROWS) n, bookend.lease;
    ANALYZE bookend.task_history;
";

/// The condition of the index, as readers write it.
const UNSETTLED: &str = "(
    delivery_status IN ('pending', 'delivering', 'failed')
    OR (status = 'interrupted' AND hinted_at IS NULL)
    OR (status <> 'running' AND cleanup_after IS NULL AND live_slot IS NOT NULL)
    OR finished_at < started_at
    OR (finished_at IS NULL AND status NOT IN ('running', 'interrupted'))
    OR (finished_at IS NOT NULL AND status = 'running')
) IS TRUE";

/// Scans of whole tables in a plan, and the pages that it read.
fn cost(plan: &Value) -> (Vec<String>, i64) {
    let node = &plan["Plan"];
    let pages =
        ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|name| node[name].as_i64()).sum();
    let mut scans = Vec::new();
    let mut nodes = vec![node];
    while let Some(node) = nodes.pop() {
        if node["Node Type"].as_str().is_some_and(|kind| kind.contains("Seq Scan"))
            && node["Relation Name"] == "task_history"
        {
            scans.push(node.to_string());
        }
        nodes.extend(node["Plans"].as_array().into_iter().flatten());
    }
    (scans, pages)
}

#[test]
fn a_long_history_is_read_by_indexes() {
    let Some(postgres) = Postgres::with_schema("a_long_history_is_read_by_indexes") else { return };
    let host = Host::join(&postgres, "a");
    let rows: i64 =
        std::env::var("BOOKEND_FLEET_ROWS").map_or(30_000, |rows| rows.parse().expect("a number"));
    postgres.psql(&HISTORY.replace("ROWS", &rows.to_string()));
    let middle = format!("('2026-01-01'::timestamptz + {} * interval '1 s', '{:012}')", rows / 2, rows / 2);
    let page = |condition: &str| {
        format!(
            "SELECT * FROM bookend.task_history WHERE {condition} ORDER BY started_at DESC, id DESC LIMIT 64"
        )
    };
    let after = |condition: &str| page(&format!("{condition} AND (started_at, id) < {middle}"));
    let ended = "status <> 'running'";
    let failures = "status NOT IN ('running', 'success') AND status = 'failure'";
    let queries = [
        page("status = 'running'"),
        page(ended),
        after(ended),
        page("key = 'key 7'"),
        after("key = 'key 7' AND status <> 'running'"),
        page("repo = 'repo 7'"),
        after("repo = 'repo 7'"),
        page("agent = 'agent 7'"),
        after("agent = 'agent 7'"),
        page(failures),
        after(failures),
        page(&format!("node = '{}'", host.node)),
        page(UNSETTLED),
        page("late IS NOT NULL"),
        format!("SELECT * FROM bookend.task_history WHERE id = '{:012}'", rows / 2),
        format!(
            "SELECT * FROM bookend.task_history WHERE status <> 'running'
             AND last_seen_at > '2026-01-01'::timestamptz + {} * interval '1 s'",
            rows - 100
        ),
        "SELECT * FROM bookend.node_state".to_owned(),
    ];
    let (mut most, mut slowest) = (0, 0.0_f64);
    for query in queries {
        let explained = postgres.psql(&format!("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}"));
        let plans: Value = serde_json::from_str(&explained).expect("JSON");
        let (scans, pages) = cost(&plans[0]);
        assert_eq!(scans, [""; 0], "{query}");
        assert!(pages < 300, "{pages} pages: {query}\n{explained}");
        most = most.max(pages);
        slowest = slowest.max(plans[0]["Execution Time"].as_f64().unwrap_or_default());
    }
    print_line(&format!(
        "of {rows} tasks, each page is read from {most} pages or less, in {slowest} ms or less"
    ));
}
