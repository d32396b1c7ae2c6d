//! Fuzzes the reader of other commands' output.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::fuzz::readers::command(bytes));
