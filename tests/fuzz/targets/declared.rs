//! Fuzzes the reader of declared agents' output.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::fuzz::readers::declared(bytes));
