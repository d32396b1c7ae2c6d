//! Rebuilding one table of another program so that it takes bookend's rows; all its rows and columns are
//! kept.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension};

use super::ddl::{self, CreateTable, TableChange, quoted};
use crate::ledger::schema;
use crate::task::Status;

const DRAFT: &str = "bookend_rebuild";
/// Replaces an integer primary key, since the ids of bookend are text.
const ROW_NUMBER: &str = "bookend_rowid";

const SELECT_SQL: &str = "
    SELECT name, sql FROM sqlite_schema WHERE type = 'table' AND name = ?1 COLLATE NOCASE";
const SELECT_COLUMNS: &str = "
    SELECT name, type, dflt_value IS NOT NULL, pk, hidden FROM pragma_table_xinfo(?1)";
const SELECT_DEPENDENTS: &str = "
    SELECT sql FROM sqlite_schema
    WHERE tbl_name = ?1 COLLATE NOCASE AND type IN ('index', 'trigger') AND sql IS NOT NULL
    ORDER BY type, rowid";
/// The declarations of the first columns of a table, and its foreign keys.
const SELECT_SHAPE: &str = "
    SELECT (SELECT group_concat(quote(name) || quote(type) || quote(dflt_value) || hidden, ', ')
            FROM (SELECT * FROM pragma_table_xinfo(?1) ORDER BY cid LIMIT ?2)),
           (SELECT group_concat(\"table\" || quote(\"from\") || quote(\"to\") || on_update || on_delete)
            FROM (SELECT * FROM pragma_foreign_key_list(?1) ORDER BY id, seq))";
const SELECT_OWN: &str = "
    SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY rowid";
const SELECT_OWN_COLUMNS: &str = "
    SELECT s.name, i.name FROM sqlite_schema s, pragma_table_xinfo(s.name) i WHERE s.type = 'table'";
const SELECT_IS_TAKEN: &str = "SELECT 1 FROM sqlite_schema WHERE name = ?1 COLLATE NOCASE";
const SELECT_HAS_SEQUENCE: &str = "SELECT 1 FROM sqlite_schema WHERE name = 'sqlite_sequence'";
const SELECT_SEQUENCE: &str = "SELECT seq FROM sqlite_sequence WHERE name = ?1 COLLATE NOCASE";
const UPDATE_SEQUENCE: &str = "UPDATE sqlite_sequence SET seq = max(seq, ?2) WHERE name = ?1";
const INSERT_SEQUENCE: &str = "INSERT INTO sqlite_sequence (name, seq) VALUES (?1, ?2)";
const CREATE_ID_FILLER: &str = "
    CREATE TRIGGER bookend_task_gets_id AFTER INSERT ON task_history WHEN NEW.id IS NULL
    BEGIN
        UPDATE task_history SET id = NEW.bookend_rowid WHERE bookend_rowid = NEW.bookend_rowid;
    END";

/// A column of an existing table.
#[derive(Debug)]
struct ForeignColumn {
    name: String,
    declared: String,
    has_default: bool,
    is_key: bool,
    is_generated: bool,
}

/// A table of the other program.
#[derive(Debug)]
pub struct ForeignTable {
    name: String,
    sql: String,
    columns: Vec<ForeignColumn>,
}

impl ForeignTable {
    /// `None`: the table does not exist.
    pub fn read(conn: &Connection, name: &str) -> rusqlite::Result<Option<ForeignTable>> {
        let found = conn
            .query_row(SELECT_SQL, [name], |row| Ok((row.get::<_, String>(0)?, row.get(1)?)))
            .optional()?;
        let Some((name, sql)) = found else { return Ok(None) };
        let columns = columns(conn, &name)?;
        Ok(Some(ForeignTable { name, sql, columns }))
    }

    pub fn name(&self) -> String {
        self.name.to_ascii_lowercase()
    }

    fn column(&self, name: &str) -> Option<&ForeignColumn> {
        self.columns.iter().find(|c| c.name.eq_ignore_ascii_case(name))
    }

    pub fn has(&self, column: &str) -> bool {
        self.column(column).is_some()
    }

    /// The declared type of a column.
    pub fn declared(&self, column: &str) -> Option<&str> {
        self.column(column).map(|c| c.declared.as_str())
    }

    /// The newest value of a column.
    pub fn newest(&self, conn: &Connection, column: &str) -> rusqlite::Result<Option<Value>> {
        let (column, table) = (quoted(column), quoted(&self.name));
        let order = if self.rowid().is_some() { "ORDER BY rowid DESC" } else { "" };
        let sql = format!("SELECT {column} FROM {table} WHERE {column} IS NOT NULL {order} LIMIT 1");
        conn.query_row(&sql, [], |row| row.get(0)).optional()
    }

    /// The column that is an alias of the rowid.
    fn integer_key(&self) -> Option<&ForeignColumn> {
        let mut keys = self.columns.iter().filter(|c| c.is_key);
        let key = keys.next().filter(|c| c.declared.eq_ignore_ascii_case("INTEGER"))?;
        (keys.next().is_none() && self.has_rowid()).then_some(key)
    }

    fn has_rowid(&self) -> bool {
        CreateTable::parse(&self.sql).is_some_and(|t| !t.has_option("ROWID"))
    }

    /// A name for the rowid that no column has; `None`: the table has no rowid.
    fn rowid(&self) -> Option<&'static str> {
        if !self.has_rowid() {
            return None;
        }
        ["rowid", "_rowid_", "oid"].into_iter().find(|n| !self.has(n))
    }
}

fn columns(conn: &Connection, table: &str) -> rusqlite::Result<Vec<ForeignColumn>> {
    conn.prepare(SELECT_COLUMNS)?
        .query_map([table], |row| {
            Ok(ForeignColumn {
                name: row.get(0)?,
                declared: row.get(1)?,
                has_default: row.get(2)?,
                is_key: row.get::<_, i64>(3)? > 0,
                is_generated: row.get::<_, i64>(4)? > 1,
            })
        })?
        .collect()
}

/// The tables of a new ledger.
#[derive(Debug)]
pub struct OwnTables {
    objects: Vec<Object>,
    /// Tables and their columns.
    columns: Vec<(String, String)>,
}

#[derive(Debug)]
struct Object {
    kind: String,
    name: String,
    table: String,
    sql: String,
}

impl OwnTables {
    pub fn read() -> rusqlite::Result<OwnTables> {
        let conn = Connection::open_in_memory()?;
        schema::make_tables(&conn)?;
        let objects = conn
            .prepare(SELECT_OWN)?
            .query_map([], |row| {
                Ok(Object { kind: row.get(0)?, name: row.get(1)?, table: row.get(2)?, sql: row.get(3)? })
            })?
            .collect::<rusqlite::Result<_>>()?;
        let columns = conn
            .prepare(SELECT_OWN_COLUMNS)?
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<_>>()?;
        Ok(OwnTables { objects, columns })
    }

    fn of_kind(&self, kind: &'static str) -> impl Iterator<Item = &Object> {
        self.objects.iter().filter(move |o| o.kind == kind)
    }

    pub fn tables(&self) -> impl Iterator<Item = &str> {
        self.of_kind("table").map(|o| o.name.as_str())
    }

    fn sql(&self, table: &str) -> &str {
        self.of_kind("table").find(|o| o.name == table).map_or("", |o| &o.sql)
    }

    fn columns_of(&self, table: &str) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(move |(t, _)| t == table).map(|(_, column)| column.as_str())
    }

    /// Not STRICT: the other program may use a SQLite that is older than STRICT and could not open the file.
    pub fn create_table(&self, conn: &Connection, name: &str) -> rusqlite::Result<()> {
        let sql = self.sql(name);
        let sql = CreateTable::parse(sql).map_or_else(|| sql.to_owned(), |t| t.without_options());
        conn.execute_batch(&sql)
    }

    /// An index gets another name if its own is taken. The trigger that protects endings applies only to rows
    /// of bookend.
    pub fn create_indexes_and_triggers(&self, conn: &Connection) -> rusqlite::Result<()> {
        for object in self.of_kind("index").chain(self.of_kind("trigger")) {
            let is_taken = conn.query_row(SELECT_IS_TAKEN, [&object.name], |_| Ok(())).optional()?;
            let mut sql = object.sql.clone();
            if is_taken.is_some() {
                sql = sql.replacen(&object.name, &format!("bookend_{}", object.name), 1);
            }
            if object.table == "task_history" {
                sql = sql.replacen("WHEN OLD.", "WHEN OLD.live_slot IS NOT NULL AND OLD.", 1);
            }
            conn.execute_batch(&sql)?;
        }
        Ok(())
    }
}

/// How bookend and the other program share a table.
struct Rules {
    /// The columns that bookend always fills.
    always: &'static [&'static str],
    /// The condition for rows that bookend wrote, or whose end is unknown.
    exempt: &'static str,
    /// The column by which bookend finds rows.
    key: &'static str,
}

fn rules(table: &str) -> Rules {
    match table {
        "task_history" => Rules {
            always: &["id", "status", "started_at", "agent", "agent_type"],
            exempt: "live_slot IS NOT NULL OR status IN ('running', 'interrupted')",
            key: "id",
        },
        _ => Rules {
            always: &["key", "session_id", "last_used_at"],
            exempt: "task_id IS NOT NULL",
            key: "key",
        },
    }
}

/// Rebuilds a table, and returns the statements that restore its indexes and triggers. The inner error says
/// why the table cannot be rebuilt.
pub fn rebuild(
    conn: &Connection,
    theirs: &ForeignTable,
    own: &OwnTables,
) -> rusqlite::Result<std::result::Result<Vec<String>, String>> {
    let Some(old) = CreateTable::parse(&theirs.sql) else {
        return Ok(Err("is not an ordinary table".to_owned()));
    };
    let name = theirs.name();
    let Some(wanted) = CreateTable::parse(own.sql(&name)) else { return Ok(Ok(Vec::new())) };
    let rules = rules(&name);
    let integer_key = match theirs.integer_key() {
        Some(key) if key.name.eq_ignore_ascii_case(rules.key) && name == "task_history" => Some(key),
        Some(key) if key.name.eq_ignore_ascii_case(rules.key) => {
            return Ok(Err(format!("has an integer column {} as its key", key.name)));
        }
        _ => None,
    };
    if integer_key.is_some() && old.has_option("STRICT") {
        return Ok(Err("is STRICT and accepts only integers as ids; the ids of bookend are text".to_owned()));
    }

    let known: Vec<&str> = own.columns_of(&name).collect();
    let add: Vec<String> =
        known.iter().filter(|c| !theirs.has(c)).filter_map(|c| wanted.column(c).map(str::to_owned)).collect();
    let keeps_not_null = |column: &str| {
        let is = |names: &[&str]| names.iter().any(|n| n.eq_ignore_ascii_case(column));
        let is_default = theirs.column(column).is_some_and(|c| c.has_default || c.is_generated);
        let is_known = known.iter().any(|k| k.eq_ignore_ascii_case(column));
        let gives_way = integer_key.is_some_and(|k| k.name.eq_ignore_ascii_case(column));
        (is(rules.always) && !gives_way) || (!is_known && is_default)
    };
    let statuses = Status::ALL.map(Status::as_str);
    let counts_on = theirs.sql.to_ascii_uppercase().contains("AUTOINCREMENT");
    let row_number =
        format!("{ROW_NUMBER} INTEGER PRIMARY KEY{}", if counts_on { " AUTOINCREMENT" } else { "" });
    let change = TableChange {
        name: DRAFT,
        add: &add,
        keeps_not_null: &keeps_not_null,
        words: (name == "task_history").then_some(("status", &statuses[..])),
        exempt: rules.exempt,
        integer_key: integer_key.map(|k| (k.name.as_str(), row_number.as_str())),
    };
    conn.execute_batch(&old.changed(&change))?;
    let shape = |table| {
        let columns = theirs.columns.len() as i64;
        conn.query_row(SELECT_SHAPE, (table, columns), |row| {
            Ok((row.get::<_, Option<String>>(0)?, row.get::<_, Option<String>>(1)?))
        })
    };
    if shape(theirs.name.as_str())? != shape(DRAFT)? {
        return Ok(Err("is written in a way that bookend does not understand".to_owned()));
    }
    if !copy(conn, theirs, integer_key.is_some())? {
        return Ok(Err("differs from its copy".to_owned()));
    }

    let mut dependents: Vec<String> = conn
        .prepare(SELECT_DEPENDENTS)?
        .query_map([&theirs.name], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let sequence = sequence(conn, &theirs.name)?;
    let table = quoted(&theirs.name);
    conn.execute_batch(&format!("DROP TABLE {table}; ALTER TABLE {DRAFT} RENAME TO {table}"))?;
    if let Some(last) = sequence
        && conn.execute(UPDATE_SEQUENCE, (&theirs.name, last))? == 0
    {
        conn.execute(INSERT_SEQUENCE, (&theirs.name, last))?;
    }
    if let Some(key) = integer_key {
        // The triggers of the other program read the id before it is filled in.
        let with = format!("coalesce(NEW.{}, NEW.{ROW_NUMBER})", quoted(&key.name));
        for sql in dependents.iter_mut().filter(|sql| is_trigger(sql)) {
            *sql = ddl::replace_new(sql, &key.name, &with);
        }
        dependents.push(CREATE_ID_FILLER.to_owned());
    }
    if !has_unique(conn, &theirs.name, rules.key)? {
        let key = quoted(rules.key);
        dependents.push(format!("CREATE UNIQUE INDEX bookend_{name}_{} ON {table} ({key})", rules.key));
    }
    Ok(Ok(dependents))
}

/// Copies all rows with their rowids, and returns whether the copy equals the original.
fn copy(conn: &Connection, theirs: &ForeignTable, numbered: bool) -> rusqlite::Result<bool> {
    let kept: Vec<&ForeignColumn> = theirs.columns.iter().filter(|c| !c.is_generated).collect();
    let names: Vec<String> = kept.iter().map(|c| quoted(&c.name)).collect();
    let list = names.join(", ");
    let table = quoted(&theirs.name);
    let (number_to, number_from) = match theirs.rowid() {
        Some(rowid) if numbered => (format!("{ROW_NUMBER}, "), format!("{rowid}, ")),
        Some(rowid) if theirs.integer_key().is_none() => (format!("{rowid}, "), format!("{rowid}, ")),
        _ => (String::new(), String::new()),
    };
    let original = format!("SELECT {number_from}{list} FROM {table}");
    conn.execute_batch(&format!("INSERT INTO {DRAFT} ({number_to}{list}) {original}"))?;
    let same = format!(
        "SELECT (SELECT count(*) FROM {table}) = (SELECT count(*) FROM {DRAFT})
            AND NOT EXISTS ({original} EXCEPT SELECT {number_to}{list} FROM {DRAFT})"
    );
    conn.query_row(&same, [], |row| row.get(0))
}

/// The last number given by AUTOINCREMENT.
fn sequence(conn: &Connection, table: &str) -> rusqlite::Result<Option<i64>> {
    let has = conn.query_row(SELECT_HAS_SEQUENCE, [], |_| Ok(())).optional()?;
    match has {
        Some(()) => conn.query_row(SELECT_SEQUENCE, [table], |row| row.get(0)).optional(),
        None => Ok(None),
    }
}

fn is_trigger(sql: &str) -> bool {
    sql.get(.."CREATE TRIGGER".len()).is_some_and(|head| head.eq_ignore_ascii_case("CREATE TRIGGER"))
}

/// Whether a unique index covers this column alone.
fn has_unique(conn: &Connection, table: &str, column: &str) -> rusqlite::Result<bool> {
    const SELECT_UNIQUE: &str = "
        SELECT 1 FROM pragma_index_list(?1) l
        WHERE l.\"unique\" AND NOT l.partial
          AND (SELECT count(*) FROM pragma_index_info(l.name)) = 1
          AND (SELECT name FROM pragma_index_info(l.name)) = ?2 COLLATE NOCASE";
    Ok(conn.query_row(SELECT_UNIQUE, (table, column), |_| Ok(())).optional()?.is_some())
}
