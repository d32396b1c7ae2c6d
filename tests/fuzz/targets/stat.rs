//! Fuzzes the parser of `/proc/PID/stat`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::fuzz::stat::stat(bytes));
