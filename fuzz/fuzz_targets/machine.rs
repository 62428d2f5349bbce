//! `cargo +nightly fuzz run machine`
#![no_main]

#[path = "../harness.rs"]
#[allow(dead_code, reason = "the other target uses the rest")]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::machine(input));
