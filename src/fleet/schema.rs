//! The versions of a fleet's schema in PostgreSQL.

/// Each is executed once, in one transaction. They never change.
pub(super) const MIGRATIONS: [&str; 1] = [include_str!("schema/001.sql")];

/// The version that this program knows.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;
