#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| envoyfs_fuzz_checks::log_block(bytes));
