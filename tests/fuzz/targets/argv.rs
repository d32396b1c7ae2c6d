//! Fuzzes the command line that bookend executes.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::fuzz::argv::argv(bytes));
