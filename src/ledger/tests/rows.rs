//! The rows of the ledger: they are read as written, in the documented order, and the tables reject invalid
//! ones.

use serde_json::json;

use super::{END, START, World, ended, new_task, start, time};
use crate::ledger::{
    DeliveryStatus, FinishOutcome, Ledger, LedgerError, LiveEvidence, ProgressUpdate, TaskLookup,
};
use crate::task::{
    CancelReason, Ending, FailureReason, InterruptReason, Key, SessionTotals, Status, Task, TaskFilter,
    TaskId, UsageCounts,
};

fn read(ledger: &Ledger, id: &str) -> Task {
    match ledger.task(id).unwrap() {
        TaskLookup::One(task) => *task,
        other => panic!("{id}: {other:?}"),
    }
}

fn ids(ledger: &Ledger, filter: TaskFilter) -> Vec<String> {
    ledger.tasks(&filter).unwrap().into_iter().map(|t| t.id.to_string()).collect()
}

#[test]
fn a_running_row_contains_what_was_claimed() {
    let world = World::new();
    let mut ledger = world.open();
    let mut task = new_task("t", Some("k"));
    task.on_finish = Some("{\"argv\":[\"notify\"],\"cwd\":\"/\"}".to_owned());
    let live = start(&mut ledger, &task);
    let row = read(&ledger, "t");
    assert_eq!(row.status, Status::Running);
    assert_eq!(row.argv, Some(task.argv));
    assert_eq!(row.supervisor(), Some(task.supervisor));
    assert_eq!(row.agent_process(), task.agent_process);
    assert_eq!(row.pid_ns, Some(task.place.pid_ns));
    assert_eq!(row.on_finish, Some(json!({"argv": ["notify"], "cwd": "/"})));
    assert_eq!(row.run_options, Some(json!({"grace": 10})));
    assert_eq!(
        (row.live_slot, row.live_dev, row.live_ino),
        (Some(live.slot), Some(live.dev), Some(live.ino))
    );
    assert_eq!((row.cost_usd, row.turns, row.finished_at), (None, None, None));
    assert_eq!(row.last_seen_at, Some(time(START).into()));
    let value = serde_json::to_value(read(&ledger, "t")).unwrap();
    assert_eq!(value["argv"][1], "-p");
    assert_eq!(value["status"], "running");
}

/// As the fleet reads the rows of other hosts: from the JSON of all columns.
#[test]
fn a_row_survives_json_with_every_column() {
    let world = World::new();
    drop(world.open());
    let json_columns =
        "'artifacts', 'argv', 'user_argv', 'on_finish', 'run_options', 'leftovers', 'session_tokens'";
    let row = |column: &str| match column {
        "status" => "'failure'".to_owned(),
        "end_source" => "'wait'".to_owned(),
        "delivery_status" => "'failed'".to_owned(),
        "supervisor_start" => "-2".to_owned(),
        "transcript_seen" | "oom_killed" | "context_lost" => "1".to_owned(),
        column if column.ends_with("_at") || column == "cleanup_after" => format!("'{START}'"),
        column if json_columns.contains(&format!("'{column}'")) => "'[\"a\"]'".to_owned(),
        column => format!("CASE type WHEN 'TEXT' THEN '{column}' WHEN 'REAL' THEN 0.1 ELSE 2 END"),
    };
    let raw = world.raw();
    let sql = "SELECT name, type FROM pragma_table_info('task_history')";
    let columns: Vec<(String, String)> = raw
        .prepare(sql)
        .unwrap()
        .query_map([], |c| Ok((c.get(0)?, c.get(1)?)))
        .unwrap()
        .map(Result::unwrap)
        .collect();
    let values = columns.iter().map(|(name, kind)| row(name).replace("CASE type", &format!("CASE '{kind}'")));
    let values = values.collect::<Vec<_>>().join(", ");
    let names = columns.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    raw.execute(&format!("INSERT INTO task_history ({names}) VALUES ({values})"), []).unwrap();
    let task = read(&world.open(), "id");
    let json = serde_json::to_string(&task).unwrap();
    let fields: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&json).unwrap();
    assert!(fields.values().all(|value| !value.is_null()), "{json}");
    assert_eq!(serde_json::from_str::<Task>(&json).unwrap(), task);
    assert_eq!(task.supervisor_start, Some(u64::MAX - 1), "an unsigned number needs all its bits");
}

#[test]
fn a_key_has_at_most_one_running_task() {
    let world = World::new();
    let mut ledger = world.open();
    let live = start(&mut ledger, &new_task("a", Some("k")));
    let claim = ledger.claim().unwrap();
    assert_eq!(claim.holder(&Key::recorded("k")).unwrap().unwrap().id, "a");
    let clash = claim.insert(&new_task("b", Some("k")), &live, "run").unwrap_err();
    assert!(matches!(clash, LedgerError::KeyBusy { .. }));
    let same = claim.insert(&new_task("a", None), &live, "run").unwrap_err();
    assert!(matches!(same, LedgerError::TaskExists { .. }));
    drop(claim);
    let foreign = "INSERT INTO task_history (id, key, status, started_at) VALUES ('c', 'k', 'running', '')";
    assert!(world.raw().execute(foreign, []).is_err());
    ledger.finish(&TaskId::recorded("a"), &ended(Ending::Success), "run").unwrap();
    drop(start(&mut ledger, &new_task("b", Some("k"))));
}

#[test]
fn a_dropped_claim_changes_nothing() {
    let world = World::new();
    let mut ledger = world.open();
    let live = ledger.hold_live().unwrap();
    let claim = ledger.claim().unwrap();
    claim.insert(&new_task("a", Some("k")), &live, "run").unwrap();
    drop(claim);
    assert!(matches!(ledger.task("a").unwrap(), TaskLookup::None));
    assert!(ledger.transitions(&TaskId::recorded("a")).unwrap().is_empty());
}

#[test]
fn a_task_ends_once_and_an_end_creates_no_row() {
    let world = World::new();
    let mut ledger = world.open();
    let mut task = new_task("t", None);
    task.on_finish = Some("{}".to_owned());
    drop(start(&mut ledger, &task));
    let mut first = ended(Ending::Failure(FailureReason::Exit));
    first.error = Some("it broke".to_owned());
    ledger.finish(&TaskId::recorded("t"), &first, "run").unwrap();
    let again = ledger.finish(&TaskId::recorded("t"), &ended(Ending::Success), "recover").unwrap();
    assert_eq!(again, FinishOutcome::AlreadyTerminal(Status::Failure));
    let row = read(&ledger, "t");
    assert_eq!(
        (row.status, row.reason.as_deref(), row.error.as_deref()),
        (Status::Failure, Some("exit"), Some("it broke"))
    );
    assert_eq!(row.cleanup_after, Some(time("2026-11-21T13:00:05.000Z").into()));
    assert_eq!(row.delivery_status.as_deref(), Some("pending"));
    assert_eq!(row.end_source.as_deref(), Some("wait"));
    assert_eq!(row.last_seen_at, Some(time(END).into()));
    let transitions: Vec<_> = ledger
        .transitions(&TaskId::recorded("t"))
        .unwrap()
        .into_iter()
        .map(|m| (m.from_status, m.to_status, m.by_command.unwrap()))
        .collect();
    assert_eq!(
        transitions,
        [
            (None, Status::Running, "run".to_owned()),
            (Some(Status::Running), Status::Failure, "run".to_owned()),
        ]
    );
    let missing = ledger.finish(&TaskId::recorded("no-such"), &ended(Ending::Success), "run").unwrap();
    assert_eq!(missing, FinishOutcome::NoRow);
    assert_eq!(ledger.tasks(&TaskFilter::default()).unwrap().len(), 1);
}

#[test]
fn the_tables_refuse_each_transition_that_the_program_refuses() {
    let world = World::new();
    drop(world.open());
    let raw = world.raw();
    for from in Status::ALL {
        for to in Status::ALL {
            let id = format!("{from}-{to}");
            raw.execute(
                "INSERT INTO task_history (id, status, started_at) VALUES (?1, ?2, '')",
                (&id, from.as_str()),
            )
            .unwrap();
            let changed =
                raw.execute("UPDATE task_history SET status = ?2 WHERE id = ?1", (&id, to.as_str()));
            assert_eq!(changed.is_ok(), from == to || from.may_become(to), "{id}");
        }
    }
    let unknown =
        raw.execute("INSERT INTO task_history (id, status, started_at) VALUES ('x', 'done', '')", []);
    assert!(unknown.is_err());
}

#[test]
fn unknown_counts_do_not_overwrite_known_ones() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &new_task("t", None)));
    let counts = UsageCounts { cost_usd: Some(0.25), output_tokens: Some(7), ..UsageCounts::default() };
    ledger
        .progress(
            &TaskId::recorded("t"),
            &counts,
            &ProgressUpdate {
                session_totals: SessionTotals::default(),
                model: Some("opus"),
                tool_in_flight: Some("Bash"),
                at: time(END),
            },
        )
        .unwrap();
    ledger
        .progress(
            &TaskId::recorded("t"),
            &UsageCounts::default(),
            &ProgressUpdate {
                session_totals: SessionTotals::default(),
                model: None,
                tool_in_flight: None,
                at: time(END),
            },
        )
        .unwrap();
    let mut inferred = ended(Ending::Interrupted(InterruptReason::SupervisorLost));
    inferred.source = crate::task::EndSource::Recovery;
    inferred.finished_at = None;
    inferred.exit = None;
    ledger.finish(&TaskId::recorded("t"), &inferred, "recover").unwrap();
    let more = UsageCounts { cost_usd: Some(9.0), ..UsageCounts::default() };
    ledger
        .progress(
            &TaskId::recorded("t"),
            &more,
            &ProgressUpdate {
                session_totals: SessionTotals::default(),
                model: None,
                tool_in_flight: None,
                at: time("2026-11-21T12:00:06Z"),
            },
        )
        .unwrap();
    let row = read(&ledger, "t");
    assert_eq!((row.cost_usd, row.output_tokens, row.turns), (Some(0.25), Some(7), None));
    assert_eq!(row.model.as_deref(), Some("opus"));
    assert_eq!((row.finished_at, row.exit_code), (None, None));
    assert_eq!(row.last_seen_at, Some(time(END).into()));
    assert!(row.cleanup_after.is_some());
}

#[test]
fn running_tasks_come_first_and_each_group_newest_first() {
    let world = World::new();
    let mut ledger = world.open();
    for (n, id) in ["a", "b", "c", "d", "e"].into_iter().enumerate() {
        let key = match id {
            "b" => "own",
            _ if n % 2 == 0 => "even",
            _ => "odd",
        };
        let mut task = new_task(id, Some(key));
        task.started_at = time(&format!("2026-11-21T12:00:0{n}.000Z"));
        drop(start(&mut ledger, &task));
        let ending = match id {
            "b" => continue,
            "c" => Ending::Cancelled(CancelReason::Operator),
            _ => Ending::Success,
        };
        ledger.finish(&TaskId::recorded(id), &ended(ending), "run").unwrap();
    }
    let all = TaskFilter::default();
    assert_eq!(ids(&ledger, all.clone()), ["b", "e", "d", "c", "a"]);
    let limited = |limit| TaskFilter { limit: Some(limit), ..TaskFilter::default() };
    assert_eq!(ids(&ledger, limited(3)), ["b", "e", "d"]);
    assert_eq!(ids(&ledger, limited(1)), ["b"]);
    assert!(ids(&ledger, limited(0)).is_empty());
    let of = |status: Option<Status>, key: Option<&str>| TaskFilter {
        statuses: status.into_iter().collect(),
        key: key.map(Key::recorded),
        ..TaskFilter::default()
    };
    assert_eq!(ids(&ledger, of(None, Some("even"))), ["e", "c", "a"]);
    assert_eq!(ids(&ledger, of(Some(Status::Success), None)), ["e", "d", "a"]);
    assert_eq!(ids(&ledger, of(Some(Status::Success), Some("even"))), ["e", "a"]);
    assert_eq!(ids(&ledger, of(Some(Status::Running), Some("own"))), ["b"]);
    assert!(ids(&ledger, of(Some(Status::Running), Some("even"))).is_empty());
}

#[test]
fn a_unique_prefix_identifies_a_task() {
    let world = World::new();
    let mut ledger = world.open();
    for id in ["0193a", "0193b", "0193bc", "x%_"] {
        drop(start(&mut ledger, &new_task(id, None)));
    }
    assert_eq!(read(&ledger, "0193a").id, "0193a");
    assert_eq!(read(&ledger, "0193b").id, "0193b", "a complete id is not a prefix");
    assert_eq!(read(&ledger, "0193bc").id, "0193bc");
    assert_eq!(read(&ledger, "x").id, "x%_");
    match ledger.task("0193").unwrap() {
        TaskLookup::Ambiguous(ids) => assert_eq!(ids, ["0193a", "0193b", "0193bc"]),
        other => panic!("{other:?}"),
    }
    assert!(matches!(ledger.task("%").unwrap(), TaskLookup::None));
    assert!(matches!(ledger.task("").unwrap(), TaskLookup::Ambiguous(_)));
}

#[test]
fn deliveries_are_counted() {
    let world = World::new();
    let mut ledger = world.open();
    let mut task = new_task("t", None);
    task.on_finish = Some("{}".to_owned());
    drop(start(&mut ledger, &task));
    ledger.finish(&TaskId::recorded("t"), &ended(Ending::Success), "run").unwrap();
    let pending = read(&ledger, "t");
    assert_eq!(ledger.begin_delivery(&pending).unwrap(), Some(1));
    assert_eq!(ledger.begin_delivery(&pending).unwrap(), None, "another process has claimed it");
    ledger.delivery(&TaskId::recorded("t"), DeliveryStatus::Failed, Some("was killed"), time(END)).unwrap();
    let row = read(&ledger, "t");
    assert_eq!(row.delivery_error.as_deref(), Some("was killed"));
    assert_eq!(
        (row.delivery_status.as_deref(), row.delivery_attempts, row.delivered_at.clone()),
        (Some("failed"), 1, None)
    );
    assert_eq!(ledger.begin_delivery(&row).unwrap(), Some(2));
    ledger.delivery(&TaskId::recorded("t"), DeliveryStatus::Delivered, None, time(END)).unwrap();
    let row = read(&ledger, "t");
    assert_eq!(row.delivery_error, None);
    assert_eq!(
        (row.delivery_status.as_deref(), row.delivery_attempts, row.delivered_at.clone()),
        (Some("delivered"), 2, Some(time(END).into()))
    );
    assert!(matches!(
        ledger.delivery(&TaskId::recorded("u"), DeliveryStatus::Failed, None, time(END)).unwrap_err(),
        LedgerError::NoSuchTask { .. }
    ));
}

#[test]
fn the_live_lock_shows_whether_a_task_is_running() {
    let world = World::new();
    let mut ledger = world.open();
    let live = start(&mut ledger, &new_task("t", None));
    let mut row = read(&ledger, "t");
    assert_eq!(ledger.evidence(&row).unwrap(), LiveEvidence::Held);
    let reader = Ledger::open_read_only(&world.at()).unwrap().unwrap();
    assert_eq!(reader.evidence(&row).unwrap(), LiveEvidence::Held);
    drop(live);
    assert_eq!(ledger.evidence(&row).unwrap(), LiveEvidence::Free);
    row.live_dev = row.live_dev.map(|n| n + 1);
    assert!(matches!(ledger.evidence(&row).unwrap(), LiveEvidence::Renumbered { .. }));
    row.live_ino = row.live_ino.map(|n| n + 1);
    assert_eq!(ledger.evidence(&row).unwrap(), LiveEvidence::OtherFile);
    row.live_slot = None;
    assert_eq!(ledger.evidence(&row).unwrap(), LiveEvidence::NoSlot);
}

#[test]
fn freeing_memory_keeps_the_settings() {
    let world = World::new();
    let mut ledger = world.open();
    drop(start(&mut ledger, &new_task("t", None)));
    ledger.rest().unwrap();
    ledger.finish(&TaskId::recorded("t"), &ended(Ending::Success), "run").unwrap();
    assert_eq!(read(&ledger, "t").status, Status::Success);
}
