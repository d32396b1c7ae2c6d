//! Fuzzes the reader of Claude Code's output.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::fuzz::readers::claude(bytes));
