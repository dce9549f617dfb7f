//! The verbs that need no finished run.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::sandbox::{Answer, Sandbox, repository};

#[test]
fn completions_know_every_verb_but_the_hidden_one() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = sandbox.ask(&["completions", shell]);
        for verb in ["run", "plan", "explain", "doctor"] {
            assert!(script.contains(verb), "{shell}: {verb}");
        }
        assert!(!script.contains("worker"), "{shell}");
    }
    assert_eq!(sandbox.run(&["completions", "tcsh"]).code, Some(2));
}

#[test]
fn init_writes_a_manifest_that_passes_once_and_never_over_another() {
    let sandbox = Sandbox::new();
    sandbox.ask(&["init"]);
    let rows = ["text\tlabel", "good\tgreat", "bad\tother"].join("\n");
    sandbox.write("data.tsv", rows);
    assert_eq!(sandbox.json(&["check", "pipeline.toml"])["valid"], true);
    sandbox.write("pipeline.toml", "mine");
    let again = sandbox.run(&["init"]);
    assert_eq!(again.code, Some(2), "{again:?}");
    assert_eq!(std::fs::read_to_string(sandbox.path("pipeline.toml")).unwrap(), "mine");
}

#[test]
fn wrong_commands_end_with_2_and_say_what_is_right() {
    let sandbox = Sandbox::new();
    let manifest = repository().join("manifests/quickstart.toml").display().to_string();
    let cases: &[(&[&str], &str)] = &[
        (&["rum"], "run"),
        (&["run"], "MANIFEST"),
        (&["run", "nowhere.toml"], "nowhere.toml"),
        (&["run", &manifest, "--from", "teecher"], "did you mean `teacher`"),
        (&["run", &manifest, "--jobs", "0"], "--jobs"),
        (&["explain", &manifest, "studnet"], "did you mean `student`"),
        (&["path", &manifest, "student"], "STAGE.PORT"),
        (&["path", &manifest, "student.modle"], "did you mean `model`"),
        (&["path", &manifest, "student.model"], "run the manifest first"),
        (&["stages", "distil"], "distill"),
        (&["show", "7"], "no run 7"),
        (&["note", "7", "good"], "no run 7"),
        (&["note", "latest"], "TEXT"),
        (&["show", "newest"], "a number or `latest`"),
        (&["report"], "no run"),
        (&["gc", "--older-than", "3 weeks"], "30d"),
    ];
    for (arguments, hint) in cases {
        let mut command = sandbox.command(arguments);
        let output = command.env("PIPELINE_HOME", sandbox.path("state")).output();
        let answer = Answer::of(&output.expect("it starts"));
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:?}");
        assert!(answer.stderr.contains(hint), "{arguments:?}: {}", answer.stderr);
        assert!(answer.stdout.is_empty(), "{arguments:?}: {}", answer.stdout);
    }
    assert!(!sandbox.path("state").exists());
}

#[test]
fn facts_of_an_empty_project_are_empty() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.json(&["runs"]), serde_json::json!([]));
    assert_eq!(sandbox.json(&["cache", "verify"])["damaged"], serde_json::json!([]));
    assert_eq!(sandbox.json(&["gc"])["removed"], 0);
    let findings = sandbox.json(&["doctor"]);
    assert!(findings.as_array().expect("findings").iter().all(|found| found["state"] != "bad"));
    assert!(!sandbox.path(".pipeline").exists());
}

#[test]
fn every_stage_kind_is_described() {
    let sandbox = Sandbox::new();
    let kinds = sandbox.json(&["stages"]);
    for kind in kinds.as_array().expect("kinds") {
        let name = kind["kind"].as_str().expect("a name");
        let described = sandbox.ask(&["stages", name]);
        assert!(described.contains(kind["about"].as_str().expect("a line")), "{name}");
        for key in kind["params"]["properties"].as_object().into_iter().flatten() {
            assert!(described.contains(key.0), "{name}: {}", key.0);
            assert!(
                key.1["description"].as_str().is_some_and(|text| !text.is_empty()),
                "{name}: `{}` says nothing about itself",
                key.0
            );
        }
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let sandbox = Sandbox::new();
    let mut command = sandbox.command(&["schema"]);
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let stderr = BufReader::new(child.stderr.take().expect("stderr"));
    assert_eq!(stderr.lines().count(), 0);
    assert_eq!(child.wait().expect("it ends").code(), Some(0));
}

#[test]
fn a_full_disk_is_told() {
    let full = std::fs::File::options().write(true).open("/dev/full").expect("Linux");
    let sandbox = Sandbox::new();
    let output = sandbox.command(&["schema"]).stdout(full).output().expect("it starts");
    let answer = Answer::of(&output);
    assert_eq!(answer.code, Some(2), "{answer:?}");
    assert!(answer.stderr.contains("No space left on device"), "{answer:?}");
}
