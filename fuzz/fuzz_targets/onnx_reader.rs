//! Any bytes as an ONNX model. Start from real ones: `cargo fuzz run onnx_reader runtime/tests/data/bert/*`.
#![no_main]

#[path = "../entry.rs"]
#[allow(dead_code, reason = "each target calls one entry")]
mod entry;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| entry::onnx_reader(bytes));
