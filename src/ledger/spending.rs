//! What the tasks of a key have cost since a time.

use rusqlite::Connection;
use rusqlite::types::Value;

use super::dialect::AnyReal;
use crate::task::{Key, TaskId};

/// What the tasks of a key have cost, as far as that is known.
#[derive(Debug, Clone, PartialEq)]
pub struct KeySpending {
    /// The sum of the known costs. Running tasks count with what they have reported so far.
    pub cost_usd: f64,
    /// How many tasks have an unknown cost.
    pub uncounted: u32,
    /// The newest of them.
    pub newest_uncounted: Vec<TaskId>,
}

/// As in `stats`, an impossible cost is none. An agent that was not executed has cost nothing.
macro_rules! uncounted {
    () => {
        "(cost_usd BETWEEN 0 AND 1e9) IS NOT TRUE AND status <> 'aborted_no_skill'
         AND coalesce(reason, '') NOT IN ('prepare', 'spawn')"
    };
}

const SUM_OF_KEY: &str = concat!(
    "SELECT total(iif(cost_usd BETWEEN 0 AND 1e9, cost_usd, 0)), count(*) FILTER (WHERE ",
    uncounted!(),
    ") FROM task_history WHERE key = ?1 AND started_at >= ?2"
);
const SELECT_UNCOUNTED: &str = concat!(
    "SELECT id FROM task_history WHERE key = ?1 AND started_at >= ?2 AND ",
    uncounted!(),
    " ORDER BY started_at DESC LIMIT 5"
);

/// `since` is in the format of the column.
pub(super) fn of_key(conn: &Connection, key: &Key, since: &Value) -> rusqlite::Result<KeySpending> {
    let (cost, uncounted) =
        conn.query_row(SUM_OF_KEY, (key, since), |row| Ok((row.get::<_, AnyReal>(0)?.0, row.get(1)?)))?;
    let newest_uncounted = match uncounted {
        0 => Vec::new(),
        _ => conn
            .prepare(SELECT_UNCOUNTED)?
            .query_map((key, since), |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?,
    };
    Ok(KeySpending { cost_usd: cost.unwrap_or_default(), uncounted, newest_uncounted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{World, each_uses_an_index};

    #[test]
    fn the_sum_of_a_key_uses_an_index() {
        each_uses_an_index(&[SUM_OF_KEY, SELECT_UNCOUNTED]);
    }

    #[test]
    fn only_costs_of_the_key_since_then_are_counted() {
        let world = World::new();
        let _ledger = world.open();
        let raw = world.raw();
        for (id, key, status, reason, started, cost) in [
            ("before", "k", "success", None, "2026-03-05T11:59:59.999Z", Some(1.0)),
            ("at", "k", "success", None, "2026-03-05T12:00:00.000Z", Some(2.0)),
            ("failed", "k", "failure", Some("exit"), "2026-03-05T12:00:01.000Z", Some(4.0)),
            ("other key", "l", "success", None, "2026-03-05T12:00:02.000Z", Some(8.0)),
            ("running", "k", "running", None, "2026-03-05T12:00:03.000Z", Some(16.0)),
            ("unknown", "k", "success", None, "2026-03-05T12:00:04.000Z", None),
            ("impossible", "k", "success", None, "2026-03-05T12:00:05.000Z", Some(f64::INFINITY)),
            ("negative", "k", "success", None, "2026-03-05T12:00:06.000Z", Some(-1.0)),
            ("not started", "k", "failure", Some("spawn"), "2026-03-05T12:00:07.000Z", None),
            ("no skill", "k", "aborted_no_skill", Some("x"), "2026-03-05T12:00:08.000Z", None),
        ] {
            raw.execute(
                "INSERT INTO task_history (id, key, status, reason, started_at, cost_usd)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                (id, key, status, reason, started, cost),
            )
            .unwrap();
        }
        let since = Value::Text("2026-03-05T12:00:00.000Z".to_owned());
        let spent = of_key(&raw, &"k".into(), &since).unwrap();
        let uncounted = ["negative", "impossible", "unknown"].map(TaskId::recorded).to_vec();
        assert_eq!(spent, KeySpending { cost_usd: 22.0, uncounted: 3, newest_uncounted: uncounted });
    }
}
