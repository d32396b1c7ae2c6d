//! Fuzzes the spool's records.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::ledger::fuzz::spool(bytes));
