//! Killed anywhere, a pipeline goes on where it was and ends with the same bits.

use std::fs;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::sandbox::{Sandbox, TEACHER, reviews};

/// Longest wait for something that takes milliseconds.
const DEADLINE: Duration = Duration::from_secs(30);

/// Stages whose outputs are a function of the manifest alone.
const STAGES: &str = r#"
[stages.student]
kind = "distill"
inputs = { data = "data.reviews", teacher = "teacher.model", logits = "teacher.logits" }
params = { epochs = 2, student = { layers = [0] }, training = { batch-size = 8 } }

[stages.int8]
kind = "qat"
inputs = { data = "data.reviews", model = "student.model", logits = "teacher.logits" }
params = { epochs = 1, sensitivity = false, training = { batch-size = 8, learning-rate = 1e-5 } }

[stages.package]
kind = "export"
inputs = { data = "data.reviews", model = "int8.model" }
"#;

const OUTPUTS: [&str; 5] =
    ["teacher.model", "teacher.logits", "student.model", "int8.model", "package.package"];

fn project() -> Sandbox {
    let sandbox = Sandbox::new();
    let head = "schema = 1\nname = \"killed\"\nseed = 3\n";
    sandbox.write("killed.toml", format!("{head}{}{TEACHER}{STAGES}", reviews(240)));
    sandbox
}

fn digests(sandbox: &Sandbox) -> Vec<String> {
    OUTPUTS.iter().map(|output| sandbox.digest("killed.toml", output)).collect()
}

/// A run in the background.
struct Running {
    engine: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Running {
    fn start(sandbox: &Sandbox) -> Self {
        let mut engine = sandbox
            .command(&["run", "killed.toml", "--json"])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("it starts");
        let lines = BufReader::new(engine.stdout.take().expect("stdout")).lines();
        Self { engine, lines }
    }

    /// Reads events up to one of this kind about this stage; `false` when the run ends first.
    fn reach(&mut self, kind: &str, stage: &str) -> bool {
        self.lines.by_ref().map_while(Result::ok).any(|line| {
            let event: Value = serde_json::from_str(&line).expect("JSON");
            event["event"] == kind && event["stage"] == stage
        })
    }

    fn signal(&self, signal: Signal) {
        send(self.engine.id(), signal);
    }

    /// Reads to the end; the exit code, `None` when killed.
    fn end(mut self) -> Option<i32> {
        self.lines.by_ref().for_each(drop);
        self.engine.wait().expect("it ends").code()
    }

    /// Process id of its worker.
    fn worker(&self) -> u32 {
        let begun = Instant::now();
        while begun.elapsed() < DEADLINE {
            if let Some(worker) = children(self.engine.id()).first() {
                return *worker;
            }
            std::thread::yield_now();
        }
        panic!("the run has no worker");
    }
}

fn send(process: u32, signal: Signal) {
    let process = i32::try_from(process).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(process, signal).expect("it is there");
}

/// Processes whose parent is `parent`.
fn children(parent: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").expect("Linux").flatten();
    let processes = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = |process: &u32| {
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        // The name, which may hold anything, is in brackets; the state and the parent follow.
        let after = stat.rsplit_once(')').map(|(_, after)| after.to_owned()).unwrap_or_default();
        after.split_whitespace().nth(1).and_then(|id| id.parse().ok()) == Some(parent)
    };
    processes.filter(is_child).collect()
}

#[test]
fn sigkill_anywhere_loses_nothing_and_changes_no_bit() {
    let undisturbed = project();
    undisturbed.ask(&["run", "killed.toml"]);
    let wanted = digests(&undisturbed);

    let sandbox = project();
    let moments = [
        ("stage-started", "teacher"),
        ("stage-progress", "teacher"),
        ("stage-finished", "teacher"),
        ("stage-started", "student"),
        ("stage-progress", "student"),
        ("stage-finished", "student"),
        ("stage-progress", "int8"),
        ("stage-finished", "int8"),
        ("stage-started", "package"),
        ("stage-finished", "package"),
    ];
    for (kind, stage) in moments {
        let mut run = Running::start(&sandbox);
        assert!(run.reach(kind, stage), "the run never got to {kind} of {stage}");
        run.signal(Signal::KILL);
        assert_eq!(run.end(), None, "killed at {kind} of {stage}");
    }
    sandbox.ask(&["run", "killed.toml"]);
    assert_eq!(digests(&sandbox), wanted, "{OUTPUTS:?}");
    let verified = sandbox.json(&["cache", "verify"]);
    assert_eq!(verified["damaged"], serde_json::json!([]), "{verified:#}");
    let runs = sandbox.json(&["runs"]);
    assert_eq!(runs.as_array().map(Vec::len), Some(moments.len() + 1), "every run is recorded");
}

#[test]
fn killed_workers_fail_their_stage_and_interrupted_ones_resume() {
    let sandbox = project();
    for stage in ["teacher", "student", "int8"] {
        for kind in ["stage-started", "stage-progress"] {
            let mut run = Running::start(&sandbox);
            assert!(run.reach(kind, stage), "{kind} of {stage}");
            send(run.worker(), Signal::KILL);
            assert_eq!(run.end(), Some(1), "{stage}: a killed worker is a failed stage");
            assert_eq!(outcome(&sandbox, stage), "crashed", "{kind} of {stage}");
        }
        let mut run = Running::start(&sandbox);
        assert!(run.reach("stage-progress", stage), "{stage}");
        run.signal(Signal::INT);
        assert_eq!(run.end(), Some(130), "{stage}");
        assert_eq!(outcome(&sandbox, stage), "interrupted", "{stage}");
    }
    sandbox.ask(&["run", "killed.toml"]);

    let undisturbed = project();
    undisturbed.ask(&["run", "killed.toml"]);
    assert_eq!(digests(&sandbox), digests(&undisturbed), "{OUTPUTS:?}");
}

/// How the last attempt of a stage in the newest run ended.
fn outcome(sandbox: &Sandbox, stage: &str) -> String {
    let shown = sandbox.json(&["show", "latest"]);
    let recorded = shown["stages"].as_array().expect("stages");
    let stage = recorded.iter().find(|recorded| recorded["name"] == stage).expect("the stage");
    let attempts = stage["attempts"].as_array().expect("attempts");
    let last = attempts.last().expect("an attempt");
    last["outcome"].as_str().expect("a word").to_owned()
}
