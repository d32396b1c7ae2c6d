//! Reads the result of a function in the database as the type that the caller expects.

use std::error::Error as StdError;

use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, Type};

use super::error::FleetError;

/// The first column of a row, as JSON. A function without a result, and NULL, are `null`.
struct FirstColumn(Value);

impl<'a> FromSql<'a> for FirstColumn {
    fn from_sql(of: &Type, raw: &'a [u8]) -> Result<FirstColumn, Box<dyn StdError + Sync + Send>> {
        let value = match *of {
            Type::JSON | Type::JSONB => Value::from_sql(of, raw)?,
            Type::BOOL => bool::from_sql(of, raw)?.into(),
            Type::INT4 => i32::from_sql(of, raw)?.into(),
            Type::INT8 => i64::from_sql(of, raw)?.into(),
            Type::VOID => Value::Null,
            Type::UUID => uuid::Uuid::from_sql(of, raw)?.to_string().into(),
            _ => <&str>::from_sql(of, raw)?.into(),
        };
        Ok(FirstColumn(value))
    }

    fn from_sql_null(_: &Type) -> Result<FirstColumn, Box<dyn StdError + Sync + Send>> {
        Ok(FirstColumn(Value::Null))
    }

    fn accepts(of: &Type) -> bool {
        let known = [Type::BOOL, Type::INT4, Type::INT8, Type::JSON, Type::JSONB, Type::UUID, Type::VOID];
        known.contains(of) || <&str>::accepts(of)
    }
}

/// The first column of a row.
pub(super) fn read<T: DeserializeOwned>(row: &Row) -> Result<T, FleetError> {
    let FirstColumn(value) = row.try_get(0).map_err(|e| FleetError::Answer(e.into()))?;
    serde_json::from_value(value).map_err(|e| FleetError::Answer(e.into()))
}
