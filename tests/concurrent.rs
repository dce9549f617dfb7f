//! Two runs of one manifest at once.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::sandbox::{Sandbox, TEACHER, reviews, stages};

#[test]
fn the_second_run_waits_says_for_whom_and_hits() {
    let sandbox = Sandbox::new();
    let head = "schema = 1\nname = \"twice\"\n";
    sandbox.write("twice.toml", format!("{head}{}{TEACHER}", reviews(400)));
    let mut first = sandbox
        .command(&["run", "twice.toml", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut lines = BufReader::new(first.stdout.take().expect("stdout")).lines();
    let event = |line: std::io::Result<String>| -> Value {
        serde_json::from_str(&line.expect("a line")).expect("JSON")
    };
    lines.by_ref().map(event).find(|event| event["event"] == "stage-started").expect("it runs");

    let report = sandbox.ask(&["report", "latest", "--format", "md"]);
    assert!(report.contains("running"), "a report says that its run goes on:\n{report}");
    assert_eq!(sandbox.json(&["runs", "--state", "running"])[0]["id"], 1);

    let (code, events) = sandbox.events(&["twice.toml"]);
    assert_eq!(code, Some(0));
    let waiting = events.iter().rfind(|event| event["event"] == "waiting-for-run");
    let holder = &waiting.expect("the second run waits")["holder"];
    assert_eq!((&holder["pid"], &holder["run"]), (&Value::from(first.id()), &Value::from(1)));
    assert_eq!(stages(&events, "stage-hit"), ["teacher"]);

    let rest: Vec<Value> = lines.map(event).collect();
    assert_eq!(stages(&rest, "stage-finished"), ["teacher"]);
    assert_eq!(first.wait().expect("it ends").code(), Some(0));
}
