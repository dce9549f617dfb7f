//! A run database that does not work: every verb says which file and what to do, and leaves it alone.

use std::fs;
use std::path::Path;

use crate::sandbox::{Sandbox, TEACHER, reviews};

const SCHEDULE: &str = "[schedule]\ncron = \"0 * * * *\"\n";

/// A project with a finished run, and its database file.
fn project() -> (Sandbox, std::path::PathBuf) {
    let sandbox = Sandbox::new();
    let head = "schema = 1\nname = \"kept\"\n";
    sandbox.write("kept.toml", format!("{head}{SCHEDULE}{}{TEACHER}", reviews(60)));
    sandbox.ask(&["run", "kept.toml"]);
    let database = sandbox.path(".pipeline/runs.sqlite");
    (sandbox, database)
}

/// Every verb that needs the database.
const VERBS: &[&[&str]] = &[
    &["runs"],
    &["show", "latest"],
    &["logs", "1", "teacher"],
    &["report", "latest"],
    &["plan", "kept.toml"],
    &["explain", "kept.toml", "teacher"],
    &["path", "kept.toml", "teacher.model"],
    &["run", "kept.toml"],
    &["scheduler", "list", "kept.toml"],
    &["scheduler", "run", "kept.toml", "--once"],
];

/// Lets every verb meet the database; `doctor` finds it bad and says each of `words`.
fn refused(sandbox: &Sandbox, database: &Path, words: &[&str], doctor: &[&str], case: &str) {
    let before = fs::read(database).expect("the database");
    for verb in VERBS {
        let answer = sandbox.run(verb);
        assert_eq!(answer.code, Some(2), "{case}, {verb:?}: {answer:#?}");
        for word in words {
            assert!(answer.stderr.contains(word), "{case}, {verb:?}: {word}: {}", answer.stderr);
        }
    }
    let answer = sandbox.run(&["doctor"]);
    assert_eq!(answer.code, Some(1), "{case}: {answer:#?}");
    for word in doctor {
        assert!(answer.stdout.contains(word), "{case}: {word}: {}", answer.stdout);
    }
    assert!(before == fs::read(database).expect("the database"), "{case}: it was written to");
}

fn damage(database: &Path, at: impl Iterator<Item = usize>) {
    let mut bytes = fs::read(database).expect("the database");
    at.for_each(|index| bytes[index] ^= 0xff);
    fs::write(database, bytes).expect("the damage");
}

#[test]
fn a_damaged_header_is_told_and_results_outlive_it() {
    let (sandbox, database) = project();
    damage(&database, 0..16);
    let words = ["runs.sqlite", "it is damaged", "pipeline doctor"];
    let doctor = ["results in the store are not affected", "| sqlite3 runs.sqlite"];
    refused(&sandbox, &database, &words, &doctor, "a damaged header");
    fs::remove_file(&database).expect("moved away");
    let (code, events) = sandbox.events(&["kept.toml"]);
    assert_eq!(code, Some(0));
    assert_eq!(crate::sandbox::stages(&events, "stage-hit"), ["teacher"]);
}

#[test]
fn damaged_pages_are_told() {
    let (sandbox, database) = project();
    let pages = fs::metadata(&database).expect("the database").len() / 4096;
    // What kind of page each is; the first one says what tables there are.
    damage(&database, (1..usize::try_from(pages).expect("a count")).map(|page| page * 4096));
    let words = ["runs.sqlite", "it is damaged", "pipeline doctor"];
    refused(&sandbox, &database, &words, &["run database", "bad", ".dump"], "damaged pages");
}

#[test]
fn a_database_that_cannot_be_opened_is_told() {
    let (sandbox, database) = project();
    for name in ["runs.sqlite", "runs.sqlite-wal", "runs.sqlite-shm"] {
        let _absent = fs::remove_file(database.with_file_name(name));
    }
    fs::create_dir(&database).expect("a folder in its place");
    for verb in VERBS {
        let answer = sandbox.run(verb);
        assert_eq!(answer.code, Some(2), "{verb:?}: {answer:#?}");
        assert!(answer.stderr.contains("set PIPELINE_HOME"), "{verb:?}: {}", answer.stderr);
    }
    assert_eq!(sandbox.run(&["doctor"]).code, Some(1));
}

#[test]
fn recovery_as_told_brings_runs_back() {
    let (sandbox, database) = project();
    if std::process::Command::new("sqlite3").arg("--version").output().is_err() {
        eprintln!("skipped: there is no `sqlite3`");
        return;
    }
    // An index: the tables come back whole.
    damage(&database, [5 * 4096].into_iter());
    let found = sandbox.run(&["doctor"]).stdout;
    let commands: Vec<&str> = found.split('`').skip(1).step_by(2).collect();
    let started_anew = commands.iter().find(|command| command.starts_with("cd ")).expect("how");
    let recovered = commands.iter().find(|command| command.contains(".dump")).expect("how");
    let script = format!("{started_anew} && {recovered}");
    let status = std::process::Command::new("sh").args(["-c", &script]).status();
    assert!(status.expect("sh").success(), "{script}");
    assert_eq!(sandbox.run(&["doctor"]).code, Some(0), "{script}");
    assert_eq!(sandbox.json(&["runs"])[0]["ran"], 1, "{script}");
    let (code, _) = sandbox.events(&["kept.toml"]);
    assert_eq!(code, Some(0));
}
