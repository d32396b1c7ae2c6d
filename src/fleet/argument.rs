//! The parameters of a statement, each with its type in PostgreSQL.

use serde_json::Value;
use tokio_postgres::types::{ToSql, Type};
use uuid::Uuid;

/// One parameter of a statement, with the type that PostgreSQL gets it as: `$1` needs no cast.
#[derive(Debug, Clone)]
pub enum CallArgument {
    Flag(Option<bool>),
    Integer(Option<i64>),
    Json(Value),
    Text(Option<String>),
    Texts(Vec<String>),
    Uuid(Uuid),
}

impl CallArgument {
    pub(super) fn typed(&self) -> (&(dyn ToSql + Sync), Type) {
        match self {
            CallArgument::Flag(value) => (value, Type::BOOL),
            CallArgument::Integer(value) => (value, Type::INT8),
            CallArgument::Json(value) => (value, Type::JSONB),
            CallArgument::Text(value) => (value, Type::TEXT),
            CallArgument::Texts(value) => (value, Type::TEXT_ARRAY),
            CallArgument::Uuid(value) => (value, Type::UUID),
        }
    }
}

impl From<bool> for CallArgument {
    fn from(value: bool) -> CallArgument {
        CallArgument::Flag(Some(value))
    }
}

impl From<i64> for CallArgument {
    fn from(value: i64) -> CallArgument {
        CallArgument::Integer(Some(value))
    }
}

impl From<Option<i64>> for CallArgument {
    fn from(value: Option<i64>) -> CallArgument {
        CallArgument::Integer(value)
    }
}

impl From<Value> for CallArgument {
    fn from(value: Value) -> CallArgument {
        CallArgument::Json(value)
    }
}

impl From<&str> for CallArgument {
    fn from(value: &str) -> CallArgument {
        CallArgument::Text(Some(value.to_owned()))
    }
}

impl From<Option<&str>> for CallArgument {
    fn from(value: Option<&str>) -> CallArgument {
        CallArgument::Text(value.map(str::to_owned))
    }
}

impl From<Vec<String>> for CallArgument {
    fn from(value: Vec<String>) -> CallArgument {
        CallArgument::Texts(value)
    }
}

impl From<Uuid> for CallArgument {
    fn from(value: Uuid) -> CallArgument {
        CallArgument::Uuid(value)
    }
}
