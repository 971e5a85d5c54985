//! See `duration` in the shared functions.
#![no_main]

#[path = "../../common/dsl/tests/support/surface.rs"]
mod surface;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| surface::duration(bytes));
