//! `--ledger` with the URL of a database: every build tells it from a file.

use std::path::Path;

/// Whether `--ledger` names a database instead of a file.
pub fn is_database_url(ledger: &Path) -> bool {
    let is_url = |text: &str| text.starts_with("postgres://") || text.starts_with("postgresql://");
    ledger.to_str().is_some_and(is_url)
}
