//! Every manifest of the repository is sound.

use crate::sandbox::{Sandbox, repository};

fn manifests() -> Vec<String> {
    let folder = repository().join("manifests");
    let entries = std::fs::read_dir(folder).expect("the folder of manifests");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut found: Vec<String> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == "toml"))
        .map(|path| path.display().to_string())
        .collect();
    found.sort();
    assert!(found.len() >= 2, "{found:?}");
    found
}

#[test]
fn every_manifest_passes_check_and_plan() {
    let sandbox = Sandbox::new();
    let home = sandbox.path("state").display().to_string();
    for manifest in manifests() {
        let checked = sandbox.json(&["check", &manifest]);
        assert_eq!(checked["valid"], true, "{manifest}");
        let plan = sandbox.json(&["plan", &manifest, "--home", &home]);
        let stages = plan["stages"].as_array().expect("stages");
        assert_eq!(stages.len(), checked["stages"].as_array().expect("stages").len(), "{manifest}");
        assert!(stages.iter().all(|stage| stage["forecast"] != "hit"), "{manifest}");
    }
    assert!(!sandbox.path("state").exists(), "`check` and `plan` write nothing");
}

#[test]
fn the_main_manifests_name_their_stages_alike() {
    let sandbox = Sandbox::new();
    for name in ["quickstart", "bert"] {
        let manifest = repository().join(format!("manifests/{name}.toml")).display().to_string();
        let checked = sandbox.json(&["check", &manifest]);
        let stages = checked["stages"].as_array().expect("stages");
        let names: Vec<&str> = stages.iter().filter_map(|stage| stage["name"].as_str()).collect();
        let wanted =
            ["teacher", "search", "student", "pruned", "int8", "package", "service", "bench"];
        assert!(wanted.iter().all(|stage| names.contains(stage)), "{name}: {names:?}");
    }
}
