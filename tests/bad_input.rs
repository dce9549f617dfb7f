//! Bad input: a clear error with file and line where there is one, exit code 2, nothing written.

use crate::checkpoint;
use crate::sandbox::{Answer, Sandbox};

/// A sound manifest; each case breaks one line of it.
const MANIFEST: &str = r#"schema = 1
name = "bad"

[data.texts]
path = "texts.tsv"
text = "text"
label = "label"
labels = ["other", "great"]
test = 0.2

[stages.teacher]
kind = "train-teacher"
inputs = { data = "data.texts" }
params = { epochs = 1, max-length = 16, vocabulary-size = 60, architecture = { layers = 1, hidden = 8, heads = 2, intermediate = 8 } }

[stages.student]
kind = "distill"
inputs = { data = "data.texts", logits = "teacher.logits", teacher = "teacher.model" }
params = { epochs = 1, student = { layers = [0] } }
"#;

/// Rows enough for every split.
fn rows() -> String {
    let words = ["soft", "hard", "sweet", "sour", "fresh", "stale", "warm", "cold"];
    let mut text = String::from("text\tlabel\n");
    for index in 0..120_usize {
        let (first, second) = (words[index % 8], words[index / 8 % 8]);
        let label = if index % 2 == 0 { "great" } else { "other" };
        text.push_str(&format!("{first} and {second} number {index}\t{label}\n"));
    }
    text
}

fn project(manifest: &str, rows: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("bad.toml", manifest);
    sandbox.write("texts.tsv", rows);
    sandbox
}

fn says(answer: &Answer, code: i32, words: &[&str], case: &str) {
    assert_eq!(answer.code, Some(code), "{case}: {answer:#?}");
    for word in words {
        assert!(answer.stderr.contains(word), "{case}: expected `{word}` in\n{}", answer.stderr);
    }
}

/// Line to replace, its replacement, what the error says; the line and caret come on top.
const MANIFEST_CASES: &[(&str, &str, &[&str])] = &[
    ("schema = 1", "schema = 2", &["bad.toml:1:", "schema"]),
    (
        "name = \"bad\"",
        "name = \"bad\"\nsead = 3",
        &["bad.toml:3:1: ", "`sead`", "did you mean `seed`"],
    ),
    ("name = \"bad\"", "name = bad", &["bad.toml:2:8: ", "not TOML"]),
    ("test = 0.2", "test = 1.5", &["bad.toml:9:", "test"]),
    ("test = 0.2", "test = \"much\"", &["bad.toml:9:8: ", "string"]),
    ("labels = [\"other\", \"great\"]", "labels = [\"great\"]", &["bad.toml:8:", "labels"]),
    ("path = \"texts.tsv\"", "path = \"text.tsv\"", &["bad.toml:5:8: ", "text.tsv"]),
    ("kind = \"distill\"", "kind = \"distil\"", &["bad.toml:17:8: ", "did you mean `distill`"]),
    ("kind = \"distill\"", "kind = \"distill\"\nretry = 2", &["bad.toml:18:1: ", "`retry`"]),
    (
        "kind = \"distill\"",
        "kind = \"distill\"\nrequire = { acuracy-min = 0.5 }",
        &["bad.toml:18:13: ", "kind `distill` report no `acuracy`", "did you mean `accuracy`"],
    ),
    (
        "name = \"bad\"",
        "name = \"bad\"\nsweep = { sampler = \"grid\", space = { \"stages.student.params.epochs\" = { choice = [1, 2] } }, objectives = [{ maximize = \"student.test/accuracy\" }] }",
        &["bad.toml:3:", "objective `student.test/accuracy`", "validation/accuracy"],
    ),
    (
        "name = \"bad\"",
        "name = \"bad\"\nschedule = { cron = \"0 1 * * *\", on-regression = { metrics = { \"teacher/validation/speed\" = \"higher\" } } }",
        &["bad.toml:3:", "metric `teacher/validation/speed`", "they report validation/accuracy"],
    ),
    (
        "params = { epochs = 1, student = { layers = [0] } }",
        "params = { epochs = 1, student = { layers = [0] }, temprature = { constant = 2.0 } }",
        &["bad.toml:19:52: ", "`temprature`", "did you mean `temperature`"],
    ),
    (
        "params = { epochs = 1, student = { layers = [0] } }",
        "params = { epochs = 0, student = { layers = [0] } }",
        &["bad.toml:19:21: ", "nonzero"],
    ),
    (
        "params = { epochs = 1, student = { layers = [0] } }",
        "params = { epochs = 1, student = { layers = [0] }, alpha = 1.5 }",
        &["bad.toml:19:60: ", "1.5"],
    ),
    (
        "params = { epochs = 1, student = { layers = [0] } }",
        "params = { epochs = \"many\", student = { layers = [0] } }",
        &["bad.toml:19:21: ", "string \"many\""],
    ),
    (
        "params = { epochs = 1, student = { layers = [0] } }",
        "params = { student = { layers = [0] } }",
        &["bad.toml:19:", "`epochs`"],
    ),
    (
        "inputs = { data = \"data.texts\", logits = \"teacher.logits\", teacher = \"teacher.model\" }",
        "inputs = { data = \"data.texts\", logits = \"techer.logits\", teacher = \"teacher.model\" }",
        &["bad.toml:18:42: ", "did you mean `teacher`"],
    ),
    (
        "inputs = { data = \"data.texts\", logits = \"teacher.logits\", teacher = \"teacher.model\" }",
        "inputs = { data = \"data.texts\", logits = \"teacher.model\", teacher = \"teacher.model\" }",
        &["bad.toml:18:42: ", "logits", "model"],
    ),
    (
        "inputs = { data = \"data.texts\" }",
        "inputs = { data = \"data.texts\", checkpoint = \"student.model\" }",
        &["bad.toml:13:", "checkpoint"],
    ),
    (
        "inputs = { data = \"data.texts\", logits = \"teacher.logits\", teacher = \"teacher.model\" }",
        "inputs = { data = \"data.texts\", logits = \"student.model\", teacher = \"student.model\" }",
        &["bad.toml:18:", "student"],
    ),
];

#[test]
fn every_error_of_a_manifest_has_its_place() {
    for (line, broken, words) in MANIFEST_CASES {
        assert!(MANIFEST.contains(line), "{line}");
        let sandbox = project(&MANIFEST.replacen(line, broken, 1), &rows());
        for verb in ["check", "plan", "run"] {
            let answer = sandbox.run(&[verb, "bad.toml"]);
            says(&answer, 2, words, broken);
            assert!(answer.stderr.contains('^'), "no caret: {}", answer.stderr);
            assert_eq!(answer.stdout, "", "{broken}");
        }
        assert!(!sandbox.path(".pipeline").exists(), "{broken}: something was written");
    }
}

#[test]
fn stages_that_wait_for_each_other_are_named() {
    let first = "[stages.a]\nkind = \"qat\"\n\
                 inputs = { data = \"data.texts\", model = \"b.model\" }\nparams = { epochs = 1 }\n";
    let second = "[stages.b]\nkind = \"qat\"\n\
                  inputs = { data = \"data.texts\", model = \"a.model\" }\nparams = { epochs = 1 }\n";
    let sandbox = project(&format!("{MANIFEST}\n{first}{second}"), &rows());
    let answer = sandbox.run(&["run", "bad.toml"]);
    says(&answer, 2, &["bad.toml:", "wait for each other", "a", "b"], "a cycle");
    assert!(!sandbox.path(".pipeline").exists());
}

#[test]
fn all_errors_are_told_at_once_also_as_json() {
    let manifest =
        MANIFEST.replace("name = \"bad\"", "nam = \"bad\"").replace("heads = 2", "haeds = 2");
    let sandbox = project(&manifest, &rows());
    let answer = sandbox.run(&["check", "bad.toml", "--json"]);
    assert_eq!(answer.code, Some(2), "{answer:#?}");
    let found: serde_json::Value = serde_json::from_str(&answer.stdout).expect("JSON");
    let lines: Vec<_> =
        found["errors"].as_array().expect("errors").iter().map(|it| &it["line"]).collect();
    assert!(lines.len() >= 2 && lines.iter().any(|line| **line == 14), "{found:#}");
    let told = sandbox.run(&["check", "bad.toml"]).stderr;
    assert!(told.matches("error: bad.toml:").count() >= 2, "{told}");
}

#[test]
fn overrides_are_checked_like_the_manifest() {
    let sandbox = project(MANIFEST, &rows());
    let cases: &[(&str, &[&str])] = &[
        ("stages.student.params.epoch=3", &["--set", "did you mean `epochs`"]),
        ("stages.studnet.params.epochs=3", &["--set", "did you mean `student`"]),
        ("device=cuda", &["CUDA", "device=cpu"]),
        ("seed", &["KEY.KEY=VALUE"]),
    ];
    for (change, words) in cases {
        says(&sandbox.run(&["run", "bad.toml", "--set", change]), 2, words, change);
    }
    assert!(!sandbox.path(".pipeline").exists());
}

#[test]
fn data_that_is_wrong_is_told_with_its_line() {
    let sound = rows();
    let broken_row = sound.replacen("hard and soft number 1\tother", "hard and soft number 1", 1);
    let unknown_label = sound.replacen("number 2\tgreat", "number 2\tgrate", 1);
    let no_column = sound.replacen("text\tlabel", "review\tlabel", 1);
    let cases: &[(&str, String, &[&str])] = &[
        ("a row with a field missing", broken_row, &["texts.tsv:3: ", "columns"]),
        ("an unknown label", unknown_label, &["texts.tsv:4: ", "grate", "great"]),
        ("a missing column", no_column, &["texts.tsv", "text"]),
        ("an empty file", String::new(), &["texts.tsv"]),
    ];
    for (case, rows, words) in cases {
        let sandbox = project(MANIFEST, rows);
        let answer = sandbox.run(&["run", "bad.toml", "--until", "teacher"]);
        says(&answer, 2, words, case);
        let kept = sandbox.run(&["path", "bad.toml", "teacher.model"]);
        assert_eq!(kept.code, Some(2), "{case}: nothing of it is kept");
    }
}

#[test]
fn checkpoints_that_are_wrong_are_told_with_the_tensor() {
    type Break = fn(&Sandbox);
    let cases: &[(&str, Break, &[&str])] = &[
        (
            "truncated weights",
            |sandbox| {
                let whole = checkpoint::weights(|_| 0.02);
                sandbox.write("encoder/model.safetensors", &whole[..whole.len() / 2]);
            },
            &["model.safetensors"],
        ),
        (
            "shapes that do not fit",
            |sandbox| sandbox.write("encoder/config.json", checkpoint::config(12).to_string()),
            &["embeddings.word_embeddings.weight", "12"],
        ),
        (
            "numbers that are none",
            |sandbox| {
                let value =
                    |name: &str| if name.contains("query.weight") { f32::NAN } else { 0.02 };
                sandbox.write("encoder/model.safetensors", checkpoint::weights(value));
            },
            &["query.weight", "finite"],
        ),
        (
            "a wrong digest",
            |sandbox| {
                let digest = format!("[models.encoder]\nsha256 = \"{}\"", "0".repeat(64));
                let manifest = checkpoint::manifest().replace("[models.encoder]", &digest);
                sandbox.write("tuned.toml", manifest);
            },
            &["file:encoder", "sha256", "000000"],
        ),
    ];
    for (case, damage, words) in cases {
        let sandbox = checkpoint::project();
        damage(&sandbox);
        says(&sandbox.run(&["run", "tuned.toml"]), 2, words, case);
        let kept = sandbox.run(&["path", "tuned.toml", "teacher.model"]);
        assert_eq!(kept.code, Some(2), "{case}: nothing of it is kept");
    }
    let sandbox = checkpoint::project();
    std::fs::remove_file(sandbox.path("encoder/model.safetensors")).expect("a file");
    let answer = sandbox.run(&["run", "tuned.toml"]);
    says(&answer, 1, &["file:encoder", "model.safetensors"], "no mirror has it");
}

#[test]
fn a_state_folder_that_cannot_be_written_is_told() {
    let sandbox = project(MANIFEST, &rows());
    // The superuser may write into any folder, but not below a file.
    let home = sandbox.path("texts.tsv").join("state").display().to_string();
    let answer = sandbox.run(&["run", "bad.toml", "--home", &home]);
    says(&answer, 2, &["texts.tsv/state"], "a state folder below a file");
    if !rustix::process::geteuid().is_root() {
        use std::os::unix::fs::PermissionsExt as _;
        sandbox.write("closed/file", "");
        let closed = sandbox.path("closed");
        let mode = |mode| std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(&closed, mode(0o555)).expect("permissions");
        let answer = sandbox.run(&["run", "bad.toml", "--home", &closed.display().to_string()]);
        std::fs::set_permissions(&closed, mode(0o755)).expect("permissions");
        says(&answer, 2, &["PIPELINE_HOME"], "a read-only state folder");
    }
}
