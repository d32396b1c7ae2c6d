//! Access to the ledger through SQLite, as another program has it.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, OpenFlags};

/// One row: its values by column name.
#[derive(Debug, Clone)]
pub struct Row(BTreeMap<String, Value>);

impl Row {
    fn value(&self, column: &str) -> &Value {
        self.0.get(column).unwrap_or_else(|| panic!("no column {column} in {:?}", self.0.keys()))
    }

    /// The text, or "" for NULL.
    pub fn text(&self, column: &str) -> String {
        match self.value(column) {
            Value::Null => String::new(),
            Value::Text(t) => t.clone(),
            Value::Integer(n) => n.to_string(),
            other => panic!("{column} is {other:?}"),
        }
    }

    pub fn number(&self, column: &str) -> Option<i64> {
        match self.value(column) {
            Value::Null => None,
            Value::Integer(n) => Some(*n),
            other => panic!("{column} is {other:?}"),
        }
    }

    pub fn real(&self, column: &str) -> Option<f64> {
        match self.value(column) {
            Value::Null => None,
            Value::Real(n) => Some(*n),
            Value::Integer(n) => Some(*n as f64),
            other => panic!("{column} is {other:?}"),
        }
    }

    pub fn json(&self, column: &str) -> serde_json::Value {
        let text = self.text(column);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{column} is {text:?}: {e}"))
    }

    pub fn pid(&self, column: &str) -> i32 {
        let n = self.number(column).unwrap_or_else(|| panic!("{column} is NULL"));
        i32::try_from(n).expect("a pid")
    }

    /// `status` and `reason` joined: `failure/exit`, `success/`.
    pub fn ending(&self) -> String {
        format!("{}/{}", self.text("status"), self.text("reason"))
    }
}

/// Changes the ledger as another program could.
pub(super) fn change(ledger: &Path, sql: &str) -> rusqlite::Result<()> {
    let connection = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.busy_timeout(Duration::from_secs(10))?;
    connection.execute_batch(sql)
}

pub(super) fn query(ledger: &Path, sql: &str) -> Vec<Row> {
    let connection = Connection::open_with_flags(ledger, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .unwrap_or_else(|e| panic!("opening {}: {e}", ledger.display()));
    connection.busy_timeout(Duration::from_secs(10)).expect("a busy timeout");
    let mut statement = connection.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let columns: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let rows = statement.query_map([], |row| {
        columns
            .iter()
            .enumerate()
            .map(|(i, name)| Ok((name.clone(), row.get(i)?)))
            .collect::<rusqlite::Result<_>>()
            .map(Row)
    });
    rows.and_then(Iterator::collect).unwrap_or_else(|e| panic!("{sql}: {e}"))
}

pub(super) fn write(ledger: &Path, sql: &str) {
    let connection = Connection::open(ledger).unwrap_or_else(|e| panic!("opening {}: {e}", ledger.display()));
    connection.busy_timeout(Duration::from_secs(10)).expect("a busy timeout");
    connection.execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}
