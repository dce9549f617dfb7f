//! Runs and workers that are killed or interrupted, and runs side by side.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Child;
use std::time::Duration;

use engine::history::{History, RunChoice, RunFilter, RunState, StageState};
use engine::store::Store;
use rustix::process::{Pid, Signal, kill_process};

use crate::Test;
use crate::failures::alive;
use crate::project::{Toy, earlier_process, states, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("a_killed_run_ends_although_its_number_is_used_again", killed_runs_end),
    ("killed_engine_takes_its_worker_along", killed_engine_takes_its_worker_along),
    ("killed_worker_is_told_and_resumed", killed_worker_is_told_and_resumed),
    ("first_interrupt_checkpoints", first_interrupt_checkpoints),
    ("second_interrupt_kills", second_interrupt_kills),
    ("a_run_that_waits_for_a_collection_can_be_stopped", collections_are_waited_for),
    ("runs_of_one_manifest_take_turns", runs_of_one_manifest_take_turns),
    ("equal_stages_of_two_manifests_run_once", equal_stages_of_two_manifests_run_once),
    ("kills_at_any_moment_lose_nothing", kills_at_any_moment_lose_nothing),
];

const HELD: &str = r#"
[stages.before]
kind = "number"
params = { value = 1 }
[stages.steps]
kind = "steps"
inputs = { left = "before.value" }
params = { steps = 6, hold-at = 3 }
"#;

/// Starts a run and waits until its worker stands at step 3.
fn held(toy: &Toy) -> (Child, String) {
    toy.write("hold", "");
    let _absent = fs::remove_file(toy.root().join("reached"));
    let child = toy.spawn("toy.toml", &[]);
    wait_until("the worker's step 3", || toy.root().join("reached").exists());
    let worker = fs::read_to_string(toy.root().join("reached")).unwrap();
    (child, worker)
}

fn release(toy: &Toy) {
    fs::remove_file(toy.root().join("hold")).unwrap();
}

fn send(pid: u32, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

/// The next run goes on at step 3 and has the whole series.
fn assert_resumed(toy: &Toy) {
    toy.executed();
    release(toy);
    let report = toy.run(&[]);
    assert_eq!(states(&report), ["before hit", "steps ran"]);
    assert_eq!(toy.output("steps.value"), "6");
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Latest).unwrap();
    let steps = &run.stages[1];
    let log = fs::read_to_string(steps.log_path.as_ref().unwrap()).unwrap();
    assert!(log.contains("starts at step 3"), "{log}");
    let points = &steps.series[0].points;
    assert_eq!(points.last(), Some(&(6, Some(1.0 / 6.0))));
    assert!(!toy.home().join("work").join(steps.key.as_ref().unwrap()).exists());
    assert_eq!(Store::at(&toy.home()).verify_all().unwrap().damaged, []);
}

fn killed_runs_end() {
    let toy = Toy::new(crate::cache::CHAIN);
    toy.run(&[]);
    // A process that is there, as in a container where every run is number 1.
    let process = earlier_process(std::process::id());
    toy.sql(&format!("UPDATE runs SET state = 'running', process = '{process}'"));
    let interrupted = || {
        let runs = History::open(&toy.home()).unwrap().chosen_runs(&RunFilter {
            limit: 9,
            state: Some(RunState::Interrupted),
            ..RunFilter::default()
        });
        runs.unwrap().len()
    };
    assert_eq!(interrupted(), 1);
    toy.run(&[]);
    toy.sql("UPDATE runs SET process = NULL");
    assert_eq!(interrupted(), 1, "the next run has noted it for good");
}

fn killed_engine_takes_its_worker_along() {
    let toy = Toy::new(HELD);
    let (mut child, worker) = held(&toy);
    child.kill().unwrap();
    child.wait().unwrap();
    wait_until("the end of the worker", || !alive(&worker));
    let history = History::open(&toy.home()).unwrap();
    assert_eq!(history.run(RunChoice::Latest).unwrap().summary.state, RunState::Interrupted);
    assert_resumed(&toy);
    let killed = History::open(&toy.home()).unwrap().run(RunChoice::Id(1)).unwrap();
    assert_eq!(killed.summary.state, RunState::Interrupted);
    assert_eq!(killed.stages[1].state, StageState::Interrupted);
}

fn killed_worker_is_told_and_resumed() {
    let toy = Toy::new(HELD);
    let (mut child, worker) = held(&toy);
    send(worker.parse().unwrap(), Signal::KILL);
    assert_eq!(child.wait().unwrap().code(), Some(1));
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Latest).unwrap();
    let error = run.stages[1].error.clone().unwrap();
    assert!(error.contains("when memory runs out"), "{error}");
    assert_resumed(&toy);
}

fn first_interrupt_checkpoints() {
    let toy = Toy::new(HELD);
    let (mut child, _) = held(&toy);
    send(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Latest).unwrap();
    assert_eq!(run.summary.state, RunState::Interrupted);
    assert_eq!(run.stages[1].state, StageState::Interrupted);
    assert_eq!(run.stages[1].attempts[0].outcome, "interrupted");
    assert_resumed(&toy);
}

fn second_interrupt_kills() {
    // This stage never looks whether it should stop.
    let toy = Toy::new("[stages.bad]\nkind = \"trouble\"\nparams = { how = \"hang\" }\n");
    let mut child = toy.spawn("toy.toml", &[]);
    let path = toy.root().join("grandchild");
    wait_until("the worker's child", || fs::read_to_string(&path).is_ok_and(|pid| !pid.is_empty()));
    send(child.id(), Signal::TERM);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains(r#""event":"stopping","kill":false"#)));
    send(child.id(), Signal::INT);
    assert_eq!(lines.count(), 3, "stopping, interrupted, finished");
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let grandchild = fs::read_to_string(path).unwrap();
    wait_until("the end of the worker's child", || !alive(&grandchild));
}

fn collections_are_waited_for() {
    let toy = Toy::new(crate::cache::CHAIN);
    fs::create_dir(toy.home().join("locks")).unwrap();
    let store = fs::File::create(toy.home().join("locks/store")).unwrap();
    store.lock().unwrap();
    let mut child = toy.spawn("toy.toml", &[]);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let waiting = lines.next().unwrap().unwrap();
    assert!(waiting.contains(r#""event":"waiting-for-collection""#), "{waiting}");
    send(child.id(), Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    drop(store);
    assert_eq!(toy.run(&[]).exit_code(), 0);
}

fn runs_of_one_manifest_take_turns() {
    let toy = Toy::new(HELD);
    let (mut first, _) = held(&toy);
    let mut second = toy.spawn("toy.toml", &[]);
    let mut lines = BufReader::new(second.stdout.take().unwrap()).lines();
    let waiting = lines.next().unwrap().unwrap();
    assert!(waiting.contains(r#""event":"waiting-for-run""#), "{waiting}");
    assert!(waiting.contains(&format!(r#""pid":{},"run":1,"since":""#, first.id())), "{waiting}");
    release(&toy);
    assert!(first.wait().unwrap().success());
    assert_eq!(lines.filter(|line| line.as_ref().unwrap().contains("stage-hit")).count(), 2);
    assert!(second.wait().unwrap().success());
    assert_eq!(toy.executed(), ["before", "steps"]);
}

fn equal_stages_of_two_manifests_run_once() {
    let toy = Toy::new(HELD);
    let (mut first, _) = held(&toy);
    let text = fs::read_to_string(toy.root().join("toy.toml")).unwrap();
    toy.write("other.toml", &text);
    let mut second = toy.spawn("other.toml", &[]);
    let mut lines = BufReader::new(second.stdout.take().unwrap()).lines();
    let waiting =
        lines.find(|line| line.as_ref().unwrap().contains("waiting-for-stage")).unwrap().unwrap();
    assert!(waiting.contains(&format!(r#""pid":{}"#, first.id())), "{waiting}");
    release(&toy);
    assert!(first.wait().unwrap().success());
    assert_eq!(lines.filter(|line| line.as_ref().unwrap().contains("stage-hit")).count(), 1);
    assert!(second.wait().unwrap().success());
    assert_eq!(toy.executed(), ["before", "steps"]);
}

/// Kills runs at ever later moments, then lets one finish: the result is that of a run that
/// nobody disturbed, and nothing in the store is damaged.
fn kills_at_any_moment_lose_nothing() {
    let manifest =
        format!("{}\n[stages.steps]\nkind = \"steps\"\nparams.steps = 40\n", crate::cache::CHAIN);
    let toy = Toy::new(&manifest);
    let mut finished = 0;
    for round in 0..60 {
        let mut child = toy.spawn("toy.toml", &[&format!("seed={}", round / 20)]);
        std::thread::sleep(Duration::from_millis(3 + 4 * (round % 20)));
        let _ended = child.kill();
        finished += usize::from(child.wait().unwrap().success());
    }
    for seed in 0..3 {
        let report = toy.run(&[&format!("seed={seed}")]);
        assert_eq!(report.exit_code(), 0, "{report:?}");
        assert_eq!(toy.output("again.sum"), "3");
        assert_eq!(toy.output("steps.value"), "40");
    }
    let verified = Store::at(&toy.home()).verify_all().unwrap();
    assert_eq!(verified.damaged, [], "{finished} of 60 runs finished before they were killed");
    assert_eq!(verified.actions, 15);
    let collected =
        Store::at(&toy.home()).collect(engine::store::CollectOptions::default()).unwrap();
    assert_eq!(collected.actions, 0);
    assert_eq!(fs::read_dir(toy.home().join("tmp")).unwrap().count(), 0);
    assert_eq!(fs::read_dir(toy.home().join("work")).unwrap().count(), 0);
}
