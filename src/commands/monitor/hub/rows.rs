//! The rows of a task as the fleet's database takes them.

use serde_json::{Map, Value, json};

use crate::ledger::UnpublishedTask;
use crate::task::{Session, SessionInvalidation, StatusTransition, Task, Time};

/// What can hold a prompt or a command. It is published only if the fleet asks for it.
const COMMANDS: [&str; 5] = ["argv", "user_argv", "on_finish", "run_options", "delivery_error"];
/// The columns with times, in which another program may have written anything.
const TIMES: [&str; 12] = [
    "started_at",
    "finished_at",
    "agent_released_at",
    "last_seen_at",
    "delivered_at",
    "cleanup_after",
    "hinted_at",
    "limit_resets_at",
    "at",
    "restored_at",
    "last_used_at",
    "published_at",
];

/// One element of what `bookend.publish` takes.
pub fn entry(unpublished: &UnpublishedTask, with_commands: bool) -> Value {
    let UnpublishedTask { rev, task, transitions, sessions, invalidations } = unpublished;
    json!({
        "rev": rev,
        "task": of_task(task, with_commands),
        "transitions": (1..).zip(transitions).map(|(n, t)| of_transition(n, t)).collect::<Vec<_>>(),
        "session": sessions.first().map(of_session),
        "invalidations": invalidations.iter().map(of_invalidation).collect::<Vec<_>>(),
    })
}

fn of_task(task: &Task, with_commands: bool) -> Value {
    let mut row = columns(json!(task));
    if !with_commands {
        COMMANDS.iter().for_each(|column| drop(row.remove(*column)));
    }
    if row.get("started_at").is_none_or(Value::is_null) {
        // The column is always set. Another program may have left it empty.
        row.insert("started_at".to_owned(), json!(Time::UNIX_EPOCH));
    }
    row.into()
}

fn of_transition(n: i64, transition: &StatusTransition) -> Value {
    let mut row = columns(json!(transition));
    row.insert("n".to_owned(), n.into());
    row.into()
}

fn of_session(session: &Session) -> Value {
    let mut row = columns(json!(session));
    row.remove("trust");
    row.insert("trusted".to_owned(), session.trust.as_number().into());
    row.into()
}

fn of_invalidation(invalidation: &SessionInvalidation) -> Value {
    columns(json!(invalidation)).into()
}

/// The columns of a row, with values that PostgreSQL accepts.
fn columns(row: Value) -> Map<String, Value> {
    let Value::Object(row) = row else { return Map::new() };
    row.into_iter()
        .map(|(name, value)| {
            let value = if TIMES.contains(&name.as_str()) { time(&value) } else { accepted(value) };
            (name, value)
        })
        .collect()
}

/// A time, or NULL for what is none.
fn time(value: &Value) -> Value {
    let time = value.as_str().and_then(|text| text.parse::<Time>().ok());
    time.map_or(Value::Null, |time| json!(time))
}

/// PostgreSQL's texts have no NUL, and its integers are signed.
fn accepted(value: Value) -> Value {
    match value {
        Value::String(text) if text.contains('\0') => text.replace('\0', "\u{fffd}").into(),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (None, Some(bits)) => bits.cast_signed().into(),
            _ => Value::Number(n),
        },
        Value::Array(values) => values.into_iter().map(accepted).collect(),
        Value::Object(values) => {
            let accepted =
                values.into_iter().map(|(name, value)| (name.replace('\0', "\u{fffd}"), accepted(value)));
            Value::Object(accepted.collect())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::tests::{World, new_task, start};

    fn published(with_commands: bool) -> Value {
        let world = World::new();
        let mut ledger = world.open();
        ledger.join_fleet("{}").unwrap();
        let _live = start(&mut ledger, &new_task("t", Some("k")));
        let found = ledger.publication(&ledger.unpublished().unwrap()).unwrap();
        entry(&found[0], with_commands)
    }

    #[test]
    fn command_lines_are_published_only_if_the_fleet_asks_for_them() {
        let (without, with) = (published(false), published(true));
        for column in COMMANDS {
            assert!(without["task"].get(column).is_none(), "{column}");
            assert!(with["task"].get(column).is_some(), "{column}");
        }
        assert!(!without.to_string().contains("say"), "{without}");
        assert_eq!(
            (without["task"]["cwd"].as_str(), without["transitions"][0]["n"].as_i64()),
            (Some("/tmp"), Some(1))
        );
        assert_eq!(without["task"]["pid_ns"], json!(-2), "unsigned numbers keep their bits");
    }

    #[test]
    fn what_postgresql_does_not_accept_is_replaced() {
        let row = columns(json!({
            "at": "yesterday", "started_at": "2026-11-21T12:00:00+01:00", "error": "a\0b",
            "artifacts": [{"\0": ["\0", u64::MAX]}], "cost_usd": 0.25,
        }));
        let wanted = json!({
            "at": null, "started_at": "2026-11-21T11:00:00.000Z", "error": "a\u{fffd}b",
            "artifacts": [{"\u{fffd}": ["\u{fffd}", -1]}], "cost_usd": 0.25,
        });
        assert_eq!(Value::Object(row), wanted);
    }
}
