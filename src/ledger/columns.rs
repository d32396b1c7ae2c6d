//! The names, signals and times of a task as columns, since `crate::task` does not depend on the database.

use rusqlite::ToSql;
use rusqlite::types::{FromSql, FromSqlError, FromSqlResult, ToSqlOutput, ValueRef};

use super::dialect::AnyText;
use crate::task::{Key, Provider, RecordedTime, SessionId, Signal, TaskId, Time, TokenUsage};

/// Another program may have written any value: all but NULL are read as text.
macro_rules! text_column {
    ($name:ident) => {
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from(self.as_str()))
            }
        }

        impl FromSql for $name {
            fn column_result(value: ValueRef<'_>) -> FromSqlResult<$name> {
                let text = AnyText::column_result(value)?.0;
                text.map($name::recorded).ok_or(FromSqlError::InvalidType)
            }
        }
    };
}

text_column!(TaskId);
text_column!(Key);
text_column!(Provider);
text_column!(SessionId);

impl ToSql for Signal {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::from(self.number()))
    }
}

impl FromSql for Signal {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<Signal> {
        i32::column_result(value).map(Signal::from_number)
    }
}

/// JSON.
impl ToSql for TokenUsage {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        serde_json::to_string(self)
            .map(ToSqlOutput::from)
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(Box::new(e)))
    }
}

/// Text that is not JSON comes from another program and is an unknown total.
impl FromSql for TokenUsage {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<TokenUsage> {
        let text = AnyText::column_result(value)?.0.ok_or(FromSqlError::InvalidType)?;
        Ok(serde_json::from_str(&text).unwrap_or_default())
    }
}

macro_rules! written_as_shown {
    ($name:ident) => {
        impl ToSql for $name {
            fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
                Ok(ToSqlOutput::from(self.to_string()))
            }
        }
    };
}

written_as_shown!(Time);
written_as_shown!(RecordedTime);

/// For bookend's own tables; a column that another program may fill is read as [`super::dialect::AnyTime`].
impl FromSql for RecordedTime {
    fn column_result(value: ValueRef<'_>) -> FromSqlResult<RecordedTime> {
        String::column_result(value).map(RecordedTime::recorded)
    }
}
