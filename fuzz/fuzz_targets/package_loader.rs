//! A package in which one file is other bytes: the first byte says which, the rest is its content.
#![no_main]

#[path = "../entry.rs"]
#[allow(dead_code, reason = "each target calls one entry")]
mod entry;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

const FILES: [&str; 4] =
    ["package.toml", "graph.json", "weights.safetensors", "golden.safetensors"];

static PACKAGE: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a temporary folder");
    entry::write_package(folder.path());
    folder
});

fuzz_target!(|bytes: &[u8]| {
    if let Some((which, content)) = bytes.split_first() {
        let file = FILES[usize::from(*which) % FILES.len()];
        entry::package_loader(PACKAGE.path(), file, content);
    }
});
