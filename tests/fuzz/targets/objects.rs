//! Fuzzes the splitter into JSON objects.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| bookend_fuzz::agent::fuzz::objects(bytes));
