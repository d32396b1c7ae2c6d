//! Fuzzes the line splitter.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::agent::fuzz::lines(bytes));
