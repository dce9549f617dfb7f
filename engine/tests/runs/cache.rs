//! What is taken from the cache, what runs again, and what is said about it.

use std::fs;

use engine::history::{History, RunChoice, StageState};
use engine::store::{CollectOptions, Store};
use engine::{Forecast, RunEvent, RunOptions, Selection};

use crate::Test;
use crate::project::{Toy, options, states};

pub(crate) const TESTS: &[Test] = &[
    ("second_run_is_all_hits", second_run_is_all_hits),
    ("changed_param_reruns_what_depends_on_it", changed_param_reruns_what_depends_on_it),
    (
        "seed_is_in_the_key_but_labels_and_gates_are_not",
        seed_is_in_the_key_but_labels_and_gates_are_not,
    ),
    (
        "data_content_is_in_the_key_but_its_path_is_not",
        data_content_is_in_the_key_but_its_path_is_not,
    ),
    ("damaged_results_are_made_again", damaged_results_are_made_again),
    ("selections_leave_stages_out", selections_leave_stages_out),
    ("external_effects_are_asked_for", external_effects_are_asked_for),
    ("logs_are_found_whatever_moved", logs_are_found_whatever_moved),
    ("cache_can_be_switched_off", cache_can_be_switched_off),
    ("collection_keeps_what_is_referenced", collection_keeps_what_is_referenced),
    ("history_tells_everything", history_tells_everything),
    ("checkpoints_come_from_files", checkpoints_come_from_files),
    ("planning_writes_nothing", planning_writes_nothing),
];

pub(crate) const CHAIN: &str = r#"
[stages.one]
kind = "number"
params = { value = 21, last-digit = true }
[stages.two]
kind = "number"
params = { value = 2 }
[stages.sum]
kind = "add"
inputs = { left = "one.value", right = "two.value" }
[stages.again]
kind = "add"
inputs = { left = "sum.sum" }
"#;

fn second_run_is_all_hits() {
    let toy = Toy::new(CHAIN);
    let first = toy.run(&[]);
    assert_eq!(states(&first), ["one ran", "two ran", "sum ran", "again ran"]);
    assert_eq!(toy.executed(), ["again", "one", "sum", "two"]);
    assert_eq!(toy.output("again.sum"), "3");
    let proof = toy.project().artifact("sum.proof", &[]).unwrap().path.unwrap();
    assert_eq!(fs::read_to_string(proof.join("parts/left")).unwrap(), "1");
    let second = toy.run(&[]);
    assert_eq!(states(&second), ["one hit", "two hit", "sum hit", "again hit"]);
    assert_eq!(toy.executed(), [""; 0]);
    assert_eq!(second.exit_code(), 0);
}

fn changed_param_reruns_what_depends_on_it() {
    let toy = Toy::new(CHAIN);
    toy.run(&[]);
    toy.executed();
    // Another parameter, the same output: what is downstream stays cached.
    let same = toy.run(&["stages.one.params.value=31"]);
    assert_eq!(states(&same), ["one ran", "two hit", "sum hit", "again hit"]);
    let explained =
        toy.project().explain("one", &["stages.one.params.value=41".to_owned()]).unwrap();
    let changes: Vec<_> = explained.changes.iter().map(ToString::to_string).collect();
    assert_eq!(changes, ["params.value: 31 → 41"]);
    assert_eq!(explained.stage.forecast, Forecast::Run);
    assert_eq!(explained.stage.reason, "changed since run 2: params.value: 31 → 41");
    toy.executed();
    let other = toy.run(&["stages.two.params.value=5"]);
    assert_eq!(states(&other), ["one hit", "two ran", "sum ran", "again ran"]);
    assert_eq!(toy.executed(), ["again", "sum", "two"]);
    assert_eq!(other.stages[1].reason, "changed since run 2: params.value: 2 → 5");
    assert!(other.stages[2].reason.starts_with("changed since run 2: inputs.right.digest: "));
    let forced = RunOptions {
        force: true,
        selection: Selection { only: vec!["sum".to_owned()], ..Selection::default() },
        ..RunOptions::default()
    };
    assert_eq!(states(&toy.run_with(&forced).0), ["one hit", "two hit", "sum ran"]);
}

fn seed_is_in_the_key_but_labels_and_gates_are_not() {
    let toy = Toy::new(CHAIN);
    toy.run(&[]);
    let gated = toy.run(&[
        "stages.sum.require.sum-max=3",
        "name=other",
        "stages.sum.timeout=1h",
        "stages.sum.retries=2",
    ]);
    assert_eq!(states(&gated), ["one hit", "two hit", "sum hit", "again hit"]);
    let seeded = toy.run(&["seed=8"]);
    assert_eq!(states(&seeded)[..2], ["one ran", "two ran"]);
    assert_eq!(seeded.stages[0].reason, "changed since run 2: seed: 0 → 8");
}

fn data_content_is_in_the_key_but_its_path_is_not() {
    let manifest = r#"
[data.reviews]
path = "a.tsv"
text = "text"
label = "label"
labels = ["no", "yes"]
test = 0.5
[stages.rows]
kind = "rows"
inputs = { data = "data.reviews" }
"#;
    let toy = Toy::new(manifest);
    toy.write("a.tsv", "text\tlabel\nx\tyes\n");
    assert_eq!(states(&toy.run(&[])), ["rows ran"]);
    fs::rename(toy.root().join("a.tsv"), toy.root().join("b.tsv")).unwrap();
    assert_eq!(states(&toy.run(&["data.reviews.path=b.tsv"])), ["rows hit"]);
    let spec = toy.run(&["data.reviews.path=b.tsv", "data.reviews.validation=0.2"]);
    assert_eq!(
        spec.stages[0].reason,
        "changed since run 2: inputs.data.dataset.validation: 0.1 → 0.2"
    );
    toy.write("a.tsv", "text\tlabel\nx\tyes\ny\tno\n");
    assert_eq!(states(&toy.run(&[])), ["rows ran"]);
    assert_eq!(toy.output("rows.value"), "2");
}

fn damaged_results_are_made_again() {
    let toy = Toy::new(CHAIN);
    toy.run(&[]);
    toy.executed();
    let path = toy.project().artifact("two.value", &[]).unwrap().path.unwrap();
    let proof = toy.project().artifact("sum.proof", &[]).unwrap().path.unwrap();
    fs::remove_file(&path).unwrap();
    fs::write(&path, "7").unwrap();
    fs::remove_file(proof.join("right")).unwrap();
    let refused = toy.project().artifact("two.value", &[]).unwrap_err().to_string();
    assert!(refused.starts_with("the artifact of `two.value` is damaged: "), "{refused}");
    let plan = toy.project().plan(&RunOptions::default()).unwrap();
    assert!(plan.stages[1].reason.starts_with("its stored result is damaged: "), "{plan:?}");
    let healed = toy.run(&[]);
    // Both numbers are rebuilt to the same content, so `again` stays cached.
    assert_eq!(states(&healed), ["one hit", "two ran", "sum ran", "again hit"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "2");
    assert_eq!(fs::read_to_string(proof.join("right")).unwrap(), "2");
    fs::remove_file(&path).unwrap();
    let verified = Store::at(&toy.home()).verify_all().unwrap();
    assert_eq!(verified.damaged.len(), 2, "the number, and the proof that holds it: {verified:?}");
    assert_eq!(states(&toy.run(&[])), ["one hit", "two ran", "sum ran", "again hit"]);
}

fn selections_leave_stages_out() {
    let toy = Toy::new(CHAIN);
    let select = |from: Option<&str>, until: Option<&str>, only: &[&str]| RunOptions {
        selection: Selection {
            from: from.map(str::to_owned),
            until: until.map(str::to_owned).into_iter().collect(),
            only: only.iter().map(|name| (*name).to_owned()).collect(),
        },
        ..RunOptions::default()
    };
    let missing = toy.run_with(&select(None, None, &["sum"])).0;
    assert_eq!(missing.exit_code(), 1);
    assert_eq!(
        missing.stages[0].error.as_deref(),
        Some(
            "`--from` and `--only` leave this stage out, but it has no cached result (it never ran); run without them once"
        )
    );
    assert_eq!(
        states(&toy.run_with(&select(None, Some("sum"), &[])).0),
        ["one ran", "two ran", "sum ran"]
    );
    assert_eq!(
        states(&toy.run_with(&select(Some("sum"), None, &[])).0),
        ["one hit", "two hit", "sum hit", "again ran"]
    );
    assert_eq!(states(&toy.run_with(&select(None, None, &["two"])).0), ["two hit"]);
    let unknown = toy.project().plan(&select(Some("summ"), None, &[])).unwrap_err();
    assert_eq!(unknown.to_string(), "the manifest has no stage `summ`; did you mean `sum`?");
    assert_eq!(unknown.exit_code(), 2);
    let nothing = toy.project().plan(&select(Some("sum"), Some("one"), &[])).unwrap_err();
    assert!(nothing.to_string().starts_with("no stage is asked for"));
}

fn external_effects_are_asked_for() {
    let toy = Toy::new(
        "[stages.one]\nkind = \"number\"\nparams.value = 1\n[stages.service]\nkind = \"publish\"\ninputs.left = \"one.value\"\n",
    );
    assert_eq!(states(&toy.run(&[])), ["one ran", "service ran"]);
    assert_eq!(states(&toy.run(&[])), ["one hit", "service hit"]);
    fs::remove_file(toy.root().join("live")).unwrap();
    let again = toy.run(&[]);
    assert_eq!(states(&again), ["one hit", "service ran"]);
    assert_eq!(again.stages[1].reason, "its effect outside is gone");
}

fn logs_are_found_whatever_moved() {
    let toy = Toy::new("[stages.early]\nkind = \"number\"\nparams.value = 1\n");
    toy.run(&[]);
    toy.write(
        "toy.toml",
        "schema = 1\nname = \"toy\"\n[stages.late]\nkind = \"number\"\nparams.value = 1\n\
         [stages.again]\nkind = \"number\"\nparams.value = 1\n",
    );
    assert_eq!(states(&toy.run(&[])), ["late hit", "again hit"]);
    let home = toy.root().join("moved");
    fs::rename(toy.home(), &home).unwrap();
    let history = History::open(&home).unwrap();
    for name in ["late", "again"] {
        let log = history.log(RunChoice::Latest, name).unwrap();
        assert_eq!((log.run, log.origin, log.grows), (2, 1, false));
        assert_eq!(log.path, home.join("logs/1/early.log"));
        assert!(log.path.exists());
    }
    let missing = history.log(RunChoice::Id(1), "late").unwrap_err().to_string();
    assert_eq!(missing, "run 1 has no stage `late`, only `early`");
}

fn cache_can_be_switched_off() {
    let toy = Toy::new("[stages.one]\nkind = \"number\"\nparams.value = 1\ncache = false\n");
    toy.run(&[]);
    assert_eq!(toy.run(&[]).stages[0].reason, "its cache is switched off");
    assert_eq!(toy.executed(), ["one", "one"]);
}

fn collection_keeps_what_is_referenced() {
    let toy = Toy::new(CHAIN);
    toy.run(&[]);
    let store = Store::at(&toy.home());
    let kept = store.collect(CollectOptions::default()).unwrap();
    assert_eq!((kept.actions, kept.removed), (0, 0), "{kept:?}");
    fs::write(toy.home().join("tmp/leftover"), "12345").unwrap();
    let dry = store.collect(CollectOptions { dry_run: true, ..CollectOptions::default() }).unwrap();
    let swept = store.collect(CollectOptions::default()).unwrap();
    assert_eq!((dry.freed_bytes, swept.freed_bytes), (5, 5));
    assert_eq!(states(&toy.run(&[])), ["one hit", "two hit", "sum hit", "again hit"]);
    let all =
        CollectOptions { older_than: Some(std::time::Duration::ZERO), ..CollectOptions::default() };
    let emptied = store.collect(all).unwrap();
    assert_eq!((emptied.actions, emptied.kept_bytes), (4, 0));
    let again = toy.run(&[]);
    assert_eq!(states(&again), ["one ran", "two ran", "sum ran", "again ran"]);
    assert_eq!(again.stages[0].reason, "its result is no longer in the store");
}

fn history_tells_everything() {
    let toy = Toy::new(CHAIN);
    let mut gated = options(&["stages.sum.require.sum-max=3"]);
    gated.jobs = Some(1);
    let (_, events) = toy.run_with(&gated);
    assert!(events.iter().any(|event| matches!(
        event,
        RunEvent::StageMetric { stage, metric } if stage == "sum" && metric.value == 3.0
    )));
    toy.run(&[]);
    let history = History::open(&toy.home()).unwrap();
    let runs = history.runs(10).unwrap();
    assert_eq!(
        runs.iter().map(|run| (run.id, run.ran, run.hits, run.failed)).collect::<Vec<_>>(),
        [(2, 0, 4, 0), (1, 4, 0, 0)]
    );
    assert_eq!(runs[0].manifest_path.to_str(), Some("toy.toml"));
    let first = history.run(RunChoice::Id(1)).unwrap();
    assert_eq!(first.overrides, ["stages.sum.require.sum-max=3"]);
    assert!(first.environment.cores >= 1 && first.environment.rustc.starts_with("rustc"));
    let sum = &first.stages[2];
    assert_eq!((sum.name.as_str(), sum.state), ("sum", StageState::Ran));
    assert_eq!(sum.params["offset"], 0);
    assert_eq!(sum.inputs[0].from, "one.value");
    assert_eq!(
        sum.inputs[0].digest.as_ref(),
        first.stages[0].artifacts.first().map(|artifact| &artifact.digest)
    );
    assert_eq!(sum.attempts.len(), 1);
    assert_eq!((sum.gates[0].value, sum.gates[0].passed), (Some(3.0), true));
    assert_eq!(sum.unavailable[0].reason, "toys have no meter");
    assert!(
        fs::read_to_string(sum.log_path.as_ref().unwrap()).unwrap().contains("test/sum = 3 count")
    );
    let second = history.run(RunChoice::Latest).unwrap();
    let hit = &second.stages[2];
    assert_eq!((hit.state, hit.origin_run), (StageState::Hit, Some(1)));
    assert_eq!(hit.metrics, sum.metrics);
    assert_eq!(hit.artifacts, sum.artifacts);
    assert_eq!(hit.key, sum.key);
    let missing = history.run(RunChoice::Id(9)).unwrap_err().to_string();
    assert_eq!(missing, "there is no run 9; `pipeline runs` lists them");
    let plan = toy.project().plan(&options(&["seed=2"])).unwrap();
    assert_eq!(plan.stages[0].forecast, Forecast::Run);
    assert_eq!(plan.stages[2].forecast, Forecast::Depends);
    assert_eq!(plan.stages[2].reason, "depends on `one.value`, `two.value`");
    assert!(plan.expected_s.unwrap() > 0.0);
}

fn checkpoints_come_from_files() {
    let manifest = r#"
[models.tiny]
sources = ["file:absent", "file:model"]
files = ["model.safetensors"]
[stages.read]
kind = "pretrained"
inputs.checkpoint = "models.tiny"
"#;
    let toy = Toy::new(manifest);
    fs::create_dir(toy.root().join("model")).unwrap();
    let none = toy.run(&[]);
    assert_eq!(none.exit_code(), 1);
    let error = none.stages[0].error.clone().unwrap();
    assert!(error.contains("\n  file:absent: ") && error.contains("\n  file:model: "), "{error}");
    toy.write("model/model.safetensors", "12345");
    let wrong = toy.run(&[&format!("models.tiny.sha256=\"{}\"", "0".repeat(64))]);
    let error = wrong.stages[0].error.clone().unwrap();
    assert_eq!(wrong.exit_code(), 2);
    assert!(error.contains("wrong digest of model.safetensors: expected sha256 0000"), "{error}");
    let sha256 = "5994471abb01112afcc18159f6cc74b4f511b99806da59b3caf5a9c173cacfc5";
    let set = format!("models.tiny.sha256=\"{sha256}\"");
    let plan = toy.project().plan(&options(&[&set])).unwrap();
    assert_eq!(plan.stages[0].reason, "depends on `models.tiny`");
    assert_eq!(states(&toy.run(&[&set])), ["read ran"]);
    fs::remove_dir_all(toy.root().join("model")).unwrap();
    assert_eq!(
        states(&toy.run(&[&set])),
        ["read hit"],
        "a fetched checkpoint is cached by its digest"
    );
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Latest).unwrap();
    assert_eq!(
        (run.models[0].name.as_str(), run.models[0].origin.as_str()),
        ("models.tiny", "file:model")
    );
}

fn planning_writes_nothing() {
    let toy = Toy::new(CHAIN);
    let plan = toy.project().plan(&RunOptions::default()).unwrap();
    assert_eq!(plan.stages.len(), 4);
    toy.project().explain("sum", &[]).unwrap();
    let wrong =
        toy.project().run(&options(&["stages.one.params.valu=1"]), &mut |_| {}).unwrap_err();
    assert_eq!(wrong.exit_code(), 2);
    assert_eq!(fs::read_dir(toy.home()).unwrap().count(), 0);
}
