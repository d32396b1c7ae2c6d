//! The wall clock, as the ledger writes it.

/// Now: RFC 3339, UTC, milliseconds.
pub fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}
