//! Rules of the house that the compiler does not check: which crate may use which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Crates of ours that each crate may use.
const MAY_USE: &[(&str, &[&str])] = &[
    ("kernels", &[]),
    ("graph", &[]),
    ("runtime", &["graph", "kernels"]),
    ("training", &["graph", "kernels"]),
    ("engine", &[]),
    ("stages", &["engine", "graph", "training", "runtime"]),
    ("reports", &["engine"]),
    ("ui", &["engine", "reports"]),
    ("pipeline", &["engine", "graph", "kernels", "reports", "runtime", "stages", "training", "ui"]),
];

/// Packages that each crate must not use.
const NEVER: &[(&str, &[&str])] = &[
    ("kernels", &["burn", "tokio"]),
    ("graph", &["burn", "tokio", "sqlx"]),
    ("runtime", &["burn", "tokio"]),
    ("training", &["sqlx", "tokio"]),
    ("engine", &["burn", "axum", "minijinja"]),
    ("stages", &["sqlx", "axum", "minijinja"]),
    ("reports", &["burn", "sqlx"]),
    ("ui", &["burn", "sqlx"]),
    ("pipeline", &["burn", "sqlx"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn dependencies(crate_name: &str) -> BTreeSet<String> {
    let folder = if crate_name == "pipeline" { root().to_owned() } else { root().join(crate_name) };
    let text = fs::read_to_string(folder.join("Cargo.toml")).expect("every crate has a Cargo.toml");
    let manifest: toml::Table = text.parse().expect("valid TOML");
    let table = manifest.get("dependencies").and_then(toml::Value::as_table);
    table.into_iter().flat_map(|table| table.keys().cloned()).collect()
}

#[test]
fn crates_use_only_what_the_design_allows() {
    let ours: BTreeSet<&str> = MAY_USE.iter().map(|(name, _)| *name).collect();
    let never: BTreeMap<&str, &[&str]> = NEVER.iter().copied().collect();
    for (name, allowed) in MAY_USE {
        for dependency in dependencies(name) {
            let dependency = dependency.as_str();
            assert!(
                !ours.contains(dependency) || allowed.contains(&dependency),
                "{name} uses {dependency}; ARCHITECTURE.md has no such arrow"
            );
            assert!(!never[name].contains(&dependency), "{name} must not use {dependency}");
        }
    }
}

#[test]
fn every_member_of_the_workspace_is_in_the_table() {
    let text = fs::read_to_string(root().join("Cargo.toml")).expect("the root Cargo.toml");
    let manifest: toml::Table = text.parse().expect("valid TOML");
    let members = manifest["workspace"]["members"].as_array().expect("members");
    for member in members.iter().filter_map(toml::Value::as_str) {
        assert!(MAY_USE.iter().any(|(name, _)| *name == member), "{member} is missing in MAY_USE");
    }
}

/// Files of ours, with their text.
fn sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Vec<_> = MAY_USE.iter().map(|(name, _)| root().join(name).join("src")).collect();
    open.push(root().join("src"));
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                open.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).expect("below the root").display().to_string();
                found.push((name, fs::read_to_string(&path).expect("UTF-8 source")));
            }
        }
    }
    found
}

#[test]
fn stages_do_not_import_each_other() {
    let stages: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(name, text)| name.starts_with("stages/src/") && text.contains("impl Stage for"))
        .map(|(name, _)| name)
        .collect();
    assert!(!stages.is_empty(), "no stage found");
    let stem = |name: &str| name["stages/src/".len()..].trim_end_matches(".rs").replace('/', "::");
    for (name, text) in sources().iter().filter(|(name, _)| stages.contains(name)) {
        for other in stages.iter().filter(|other| *other != name) {
            let import = format!("crate::{}::", stem(other));
            assert!(!text.contains(&import), "{name} imports from {other}");
        }
    }
}

#[test]
fn only_the_command_prints() {
    for (name, text) in sources().into_iter().filter(|(name, _)| !name.ends_with("tests.rs")) {
        let library = !name.starts_with("src/");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        for call in ["println!(", "eprintln!("] {
            let prints = code.lines().any(|line| line.trim_start().starts_with(call));
            assert!(!(library && prints), "{name} prints; only src/ may");
        }
    }
}

/// The files that know which vendor a GPU is of, by crate.
const NAMES_A_VENDOR: [&str; 3] =
    ["kernels/src/gpu/device.rs", "runtime/src/device.rs", "training/src/device.rs"];

#[test]
fn one_file_a_crate_names_the_vendor_of_a_gpu() {
    let crates = ["graph/", "kernels/", "runtime/", "stages/", "training/"];
    let ours = |name: &str| crates.iter().any(|folder| name.starts_with(folder));
    for (name, text) in sources().into_iter().filter(|(name, _)| ours(name)) {
        let names = text.to_lowercase().contains("cuda");
        assert!(!names || NAMES_A_VENDOR.contains(&name.as_str()), "{name} names CUDA");
    }
}

#[test]
fn unsafe_code_stays_in_kernels_and_the_weight_mapping() {
    for (name, text) in sources() {
        let allowed = name.starts_with("kernels/src/") || name.starts_with("graph/src/weights");
        let uses = text.lines().any(|line| {
            let line = line.trim_start();
            !line.starts_with("//") && (line.contains("unsafe {") || line.contains("unsafe fn"))
        });
        assert!(allowed || !uses, "{name} has unsafe code");
    }
}
