//! Names and slots of the spool.

use super::*;

#[test]
fn a_file_name_stays_in_the_spool_and_differs_for_each_id() {
    assert_eq!(file_name(&TaskId::recorded("../a")).unwrap(), "%2E%2E%2Fa");
    assert_ne!(file_name(&TaskId::recorded("a/b")).unwrap(), file_name(&TaskId::recorded("a%2Fb")).unwrap());
    assert_eq!(id_of(&file_name(&TaskId::recorded("a/b:%.c")).unwrap()), Some(TaskId::recorded("a/b:%.c")));
    assert_eq!(id_of("a%2"), None);
    assert!(file_name(&TaskId::recorded("")).is_err());
    assert!(file_name(&TaskId::recorded("x".repeat(300))).is_err());
}

#[test]
fn slots_and_kept_records_are_not_merged() {
    let dir = tempfile::tempdir().unwrap();
    for name in [".a.slot", "b.kept.json", ".c.json", "d.json", "e.txt"] {
        fs::write(dir.path().join(name), "").unwrap();
    }
    assert_eq!(waiting(dir.path()).unwrap(), [dir.path().join("d.json")]);
}

#[test]
fn a_record_that_is_moved_away_overwrites_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.json");
    fs::write(&path, "1").unwrap();
    let first = keep(&path).unwrap();
    fs::write(&path, "2").unwrap();
    let second = keep(&path).unwrap();
    assert_eq!(fs::read(first).unwrap(), b"1");
    assert_eq!(fs::read(second).unwrap(), b"2");
}
