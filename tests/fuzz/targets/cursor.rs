//! Fuzzes the reader of Cursor's output.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::fuzz::readers::cursor(bytes));
