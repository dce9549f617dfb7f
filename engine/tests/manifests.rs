//! Every manifest in `tests/manifests` with what is said about it. A new case is a new file; a
//! first line `# set: KEY=VALUE …` gives overrides.

#[path = "runs/toys.rs"]
#[allow(dead_code, reason = "only the declarations of the toys matter here")]
mod toys;

use std::fmt::Write as _;

use engine::manifest::Manifest;

#[test]
fn manifests_are_checked_in_one_pass() {
    let mut settings = insta::Settings::clone_current();
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    settings.bind(|| {
        insta::glob!("manifests/*.toml", |path| {
            let text = std::fs::read_to_string(path).unwrap();
            let overrides: Vec<String> = text
                .lines()
                .next()
                .and_then(|line| line.strip_prefix("# set: "))
                .map(|sets| sets.split(' ').map(str::to_owned).collect())
                .unwrap_or_default();
            let folder = path.parent().unwrap().display().to_string();
            let said = match Manifest::read(path, toys::TOYS, &overrides) {
                Ok(manifest) => shown(&manifest),
                Err(error) => error.to_string(),
            };
            let root = env!("CARGO_MANIFEST_DIR");
            insta::assert_snapshot!(said.replace(&format!("{folder}/"), "").replace(root, "ROOT"));
        });
    });
}

fn shown(manifest: &Manifest) -> String {
    let mut text = format!("{} seed={} device={:?}", manifest.name, manifest.seed, manifest.device);
    for stage in &manifest.stages {
        let kind = stage.stage.kind();
        let inputs: Vec<_> =
            stage.inputs.iter().map(|(port, from)| format!("{port}={from}")).collect();
        let gates: Vec<_> =
            stage.gates.iter().map(|gate| format!("{}={}", gate.key(), gate.limit)).collect();
        write!(
            text,
            "\n{} {kind} {} inputs={inputs:?} cache={} timeout={:?} retries={} gates={gates:?}",
            stage.name, stage.params, stage.cache, stage.timeout, stage.retries
        )
        .expect("a string takes all text");
    }
    text
}

#[test]
fn schema_covers_every_kind() {
    let schema = engine::schema(toys::TOYS);
    insta::assert_snapshot!(serde_json::to_string_pretty(&schema).unwrap());
}

#[test]
fn toy_table_is_well_formed() {
    let mut kinds: Vec<_> = engine::kinds(toys::TOYS).into_iter().map(|kind| kind.kind).collect();
    kinds.sort_unstable();
    kinds.dedup();
    assert_eq!(kinds.len(), toys::TOYS.len());
}
