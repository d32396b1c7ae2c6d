//! Asserts in debug builds that nothing is logged while the write lock of the ledger is held: a message can
//! wait for the process that reads it, and every other run waits for the lock.

use std::cell::Cell;

thread_local! {
    static IS_SILENT: Cell<bool> = const { Cell::new(false) };
}

/// No message may be logged on this thread while this lives.
pub struct Silence(());

impl Silence {
    pub fn begin() -> Silence {
        if cfg!(debug_assertions) {
            IS_SILENT.set(true);
        }
        Silence(())
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            IS_SILENT.set(false);
        }
    }
}

pub(super) fn assert_none() {
    debug_assert!(!IS_SILENT.get(), "a message is logged inside a write transaction");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "inside a write transaction")]
    fn a_message_inside_a_write_transaction_is_refused() {
        let _silence = Silence::begin();
        assert_none();
    }

    #[test]
    fn a_message_after_it_is_allowed() {
        drop(Silence::begin());
        assert_none();
    }
}
