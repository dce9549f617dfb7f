//! `pipeline scheduler`: what a user meets; how slots are decided is tested in the engine.

use crate::sandbox::{Sandbox, TEACHER, reviews};

fn project(schedule: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    let head = "schema = 1\nname = \"nightly\"\n";
    let rest = format!("{}{TEACHER}", reviews(60));
    sandbox.write("nightly.toml", format!("{head}[schedule]\n{schedule}\n{rest}"));
    sandbox.write("plain.toml", format!("{head}{rest}"));
    sandbox
}

fn once(sandbox: &Sandbox, now: &str) -> crate::sandbox::Answer {
    sandbox.run(&["scheduler", "run", "nightly.toml", "--once", "--now", now, "--json"])
}

#[test]
fn a_slot_runs_once_and_shows_everywhere() {
    let sandbox = project("cron = \"30 2 * * *\"\ntimezone = \"Europe/Berlin\"");
    assert_eq!(once(&sandbox, "2026-05-04T00:00:00Z").code, Some(0));
    let ran = once(&sandbox, "2026-05-04T00:30:05Z");
    assert!(ran.stdout.contains("\"event\":\"ended\"") && ran.code == Some(0), "{ran:#?}");
    assert!(!once(&sandbox, "2026-05-04T00:30:30Z").stdout.contains("started"));
    let trigger = serde_json::json!({ "schedule": { "slot": "2026-05-04T00:30:00Z" } });
    let runs = sandbox.json(&["runs"]);
    assert_eq!((runs.as_array().map(Vec::len), &runs[0]["trigger"]), (Some(1), &trigger));
    assert_eq!(sandbox.json(&["show", "1"])["summary"]["trigger"], trigger);
    let report = sandbox.ask(&["report", "1", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["runs"][0]["record"]["summary"]["trigger"], trigger);
    let listed = sandbox.json(&["scheduler", "list", "nightly.toml", "--limit", "2"]);
    assert_eq!(listed[0]["next"].as_array().map(Vec::len), Some(2));
    assert_eq!(
        (&listed[0]["ticks"][0]["state"], &listed[0]["ticks"][0]["run"]),
        (&"done".into(), &1.into())
    );
    assert_eq!(
        sandbox.json(&["runs", "--manifest", "nightly.toml", "--state", "done"])[0]["id"],
        1
    );
    assert_eq!(sandbox.json(&["runs", "--manifest", "plain.toml"]), serde_json::json!([]));
    assert_eq!(sandbox.json(&["runs", "--state", "failed"]), serde_json::json!([]));
}

#[test]
fn a_folder_gives_its_manifests_with_a_schedule() {
    let sandbox = project("cron = \"30 2 * * *\"");
    sandbox.write("Cargo.toml", "[package]\nname = \"other\"\n");
    let listed = sandbox.run(&["scheduler", "list", "--folder", ".", "--json"]);
    assert_eq!(listed.code, Some(0), "{listed:?}");
    assert!(listed.stderr.contains("Cargo.toml"), "{listed:?}");
    let shown: serde_json::Value = serde_json::from_str(&listed.stdout).expect("JSON");
    assert_eq!(shown.as_array().map(Vec::len), Some(1), "{shown:#}");

    let text = std::fs::read_to_string(sandbox.path("nightly.toml")).expect("a manifest");
    sandbox.write("mistaken.toml", text.replace("30 2 ", "30 25 "));
    for verb in ["list", "emit-systemd"] {
        let answer = sandbox.run(&["scheduler", verb, "--folder", "."]);
        assert_eq!(answer.code, Some(2), "{verb}: {answer:?}");
        assert!(answer.stderr.contains("mistaken.toml:4:8: schedule: `30 25"), "{answer:?}");
        assert!(answer.stdout.contains("nightly"), "{verb} goes on: {answer:?}");
    }
}

#[test]
fn what_cannot_be_scheduled_is_told_before_anything_is_written() {
    let sandbox = project("cron = \"30 25 * * *\"");
    let cases: &[(&[&str], &str)] = &[
        (&["scheduler", "run", "nightly.toml", "--once"], "nightly.toml:4:8: schedule: `30 25"),
        (&["scheduler", "list", "nightly.toml"], "nightly.toml:4:8: schedule: `30 25"),
        (&["check", "nightly.toml"], "nightly.toml:4:8: schedule: `30 25"),
        (&["scheduler", "run", "plain.toml", "--once"], "plain.toml has no `[schedule]`"),
        (&["scheduler", "emit-systemd", "plain.toml"], "plain.toml has no `[schedule]`"),
        (&["scheduler", "run"], "MANIFEST"),
    ];
    for (arguments, words) in cases {
        let answer = sandbox.run(arguments);
        assert_eq!(answer.code, Some(2), "{arguments:?}: {answer:#?}");
        assert!(answer.stderr.contains(words), "{arguments:?}: {}", answer.stderr);
    }
    assert!(!sandbox.path(".pipeline").exists());
}

#[test]
fn units_have_names_and_state_folders_of_their_own() {
    let sandbox = project("cron = \"30 2 * * *\"");
    let text = std::fs::read_to_string(sandbox.path("nightly.toml")).expect("a manifest");
    sandbox.write("other/nightly.toml", text);
    let both = ["nightly.toml", "other/nightly.toml", "--home", "elsewhere"];
    let units = sandbox.ask(&[&["scheduler", "emit-systemd"][..], &both].concat());
    let names: std::collections::BTreeSet<_> =
        units.lines().filter(|line| line.starts_with("# ~/.config")).collect();
    assert_eq!(names.len(), 4, "a service and a timer each: {units}");
    let home = format!(" --home \"{}\" --once", sandbox.path("elsewhere").display());
    let started =
        units.lines().filter(|line| line.starts_with("ExecStart=") && line.ends_with(&home));
    assert_eq!(started.count(), 2, "{units}");
}

#[test]
fn systemd_accepts_the_units() {
    for (schedule, timer) in [
        ("cron = \"30 2 * * MON-FRI\"\ntimezone = \"Europe/Berlin\"", true),
        ("cron = \"0 4 L * *\"", false),
    ] {
        let sandbox = project(schedule);
        let text = sandbox.ask(&["scheduler", "emit-systemd", "nightly.toml"]);
        let mut names = Vec::new();
        for unit in text.split("# ~/.config/systemd/user/").skip(1) {
            let (name, unit) = unit.split_once('\n').expect("a name and a unit");
            sandbox.write(&format!("units/{name}"), unit);
            names.push(sandbox.path(&format!("units/{name}")));
        }
        assert_eq!(names.len(), 1 + usize::from(timer), "{text}");
        let mut verify = std::process::Command::new("systemd-analyze");
        verify.args(["--user", "verify"]).args(&names).env("XDG_RUNTIME_DIR", sandbox.path(""));
        match verify.output() {
            Ok(said) => {
                assert!(said.status.success() && said.stderr.is_empty(), "{said:?}\n{text}")
            }
            Err(_) => eprintln!("not verified: there is no `systemd-analyze`"),
        }
    }
}
