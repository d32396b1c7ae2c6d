//! Whatever one host publishes, the tasks of the others and their sums are shown.

use serde_json::{Value, json};

use crate::functions::{Host, entry, with};
use crate::postgres::Postgres;
use crate::reading::Site;

/// The columns of a task of one type, besides its id and those that only the fleet writes.
fn columns(postgres: &Postgres, of: &str) -> Vec<String> {
    let names = postgres.psql(&format!(
        "SELECT column_name FROM information_schema.columns
         WHERE table_schema = 'bookend' AND table_name = 'task_history' AND data_type = '{of}'
           AND column_name NOT IN ('id', 'status', 'epoch', 'rev', 'claim_no', 'published_at', 'late')"
    ));
    names.lines().map(str::to_owned).collect()
}

fn nested(levels: usize) -> Value {
    (0..levels).fold(json!(1), |inner, _| json!([inner]))
}

/// Publishes a row. Numbers that no double holds are written as `"1e400"`.
fn publish(host: &Host, entry: &Value) -> String {
    let rows = json!([entry]).to_string().replace('\'', "''").replace("\"1e400\"", "1e400");
    let answer = host.call("publish", &format!("'{rows}', '{{}}'"));
    answer["rows"][0]["result"].as_str().expect("a result").to_owned()
}

#[test]
fn what_no_reader_takes_is_not_stored() {
    let Some(postgres) = Postgres::with_schema("what_no_reader_takes_is_not_stored") else { return };
    let host = Host::join(&postgres, "a");
    let no_times = ["infinity", "-infinity", "0001-01-01 BC", "10000-01-01 00:00:00Z"].map(Value::from);
    let kinds = [
        ("timestamp with time zone", &no_times[..]),
        ("double precision", &["NaN", "Infinity", "-Infinity"].map(Value::from)[..]),
        ("jsonb", &[json!("1e400"), json!({ "a": [{ "b": "1e400" }] }), nested(101)][..]),
    ];
    let row = || entry(1, "t", None, "success");
    for (of, values) in kinds {
        let names = columns(&postgres, of);
        assert!(names.len() > 1, "{names:?}");
        for (name, value) in names.iter().flat_map(|name| values.iter().map(move |value| (name, value))) {
            let result = publish(&host, &with(row(), json!({ name: value })));
            assert_eq!(result, "unreadable", "{name} = {value}");
        }
    }
    let session = json!({ "key": "k", "session_id": "s", "task_id": "t", "last_used_at": "infinity" });
    let invalidation =
        json!({ "id": 1, "session_id": "s", "reason": "timeout", "at": "2026-03-01T10:00:00Z" });
    for time in no_times {
        let mut rows = [row(), row(), row()];
        rows[0]["transitions"][0]["at"] = time.clone();
        rows[1]["session"] = session.clone();
        rows[2]["invalidations"] = json!([invalidation]);
        rows[2]["invalidations"][0]["restored_at"] = time;
        rows.iter().for_each(|row| assert_eq!(publish(&host, row), "unreadable", "{row}"));
    }
    assert_eq!(postgres.psql("SELECT count(*) FROM bookend.task_history"), "0");
    let last = json!({
        "started_at": "0001-01-01T00:00:00Z", "finished_at": "9999-12-31T23:59:59.999Z", "cost_usd": -1e308,
        "session_tokens": nested(99), "artifacts": [1e308],
    });
    assert_eq!(publish(&host, &with(row(), last)), "ok");
}

#[test]
fn extreme_values_of_one_host_hide_nothing_of_others() {
    let Some(site) = Site::new("extreme_values_of_one_host_hide_nothing_of_others") else { return };
    let host = Host::join(&site.postgres, "odd");
    let mut rows = Vec::new();
    let extremes = [
        ("bigint", vec![json!(i64::MIN), json!(i64::MAX), json!(-1)]),
        ("double precision", vec![json!(1e308), json!(-1e308)]),
        ("timestamp with time zone", vec![json!("0001-01-01T00:00:00Z"), json!("9999-12-31T23:59:59.999Z")]),
        ("jsonb", vec![nested(99), json!(1e308), json!("text"), json!({ "a": null })]),
        ("text", vec![json!(""), json!("x".repeat(800)), json!("\u{1b}[31m\n")]),
        ("boolean", vec![json!(true)]),
    ];
    for (of, values) in extremes {
        for (name, value) in
            columns(&site.postgres, of).iter().flat_map(|n| values.iter().map(move |v| (n, v)))
        {
            let (rev, id) = (rows.len() as i64 + 1, format!("odd{}", rows.len()));
            rows.push(with(entry(rev, &id, Some("k"), "success"), json!({ name: value })));
        }
    }
    assert!(host.publish(&rows).split(' ').all(|result| result == "ok"));
    for (kind, detail) in [("double_claim", "[[1]]"), ("double_claim", "7"), ("odd", "{}")] {
        host.call("finding", &format!("'{kind}', '{detail}', '{detail}'"));
    }
    assert_eq!(site.ids(&["--limit", "1000"]).len(), rows.len() + 1);
    assert_eq!(site.json(&["stats"])["total"]["runs"], rows.len() + 1);
    for words in ["list", "stats --by day,agent", "timeline", "audit", "fleet status"] {
        site.prints(&words.split(' ').collect::<Vec<_>>());
    }
    for row in rows.iter().filter(|row| row["task"]["max_rss_kib"].is_i64() || row["task"]["cpu_ms"].is_i64())
    {
        site.prints(&["show", row["task"]["id"].as_str().expect("an id")]);
    }
}
