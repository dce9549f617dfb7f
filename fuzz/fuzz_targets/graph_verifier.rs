//! Any bytes as the `graph.json` of an encoder.
#![no_main]

#[path = "../entry.rs"]
#[allow(dead_code, reason = "each target calls one entry")]
mod entry;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static WEIGHTS: LazyLock<BTreeMap<String, graph::Tensor>> =
    LazyLock::new(|| entry::weights(&entry::encoder()));

fuzz_target!(|bytes: &[u8]| entry::graph_verifier(bytes, &WEIGHTS));
