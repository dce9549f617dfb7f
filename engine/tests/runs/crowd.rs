//! Many runs and many readers of one database.

use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use engine::history::{History, RunChoice, RunState};

use crate::project::{Toy, wait_until};
use crate::{Test, program};

pub(crate) const TESTS: &[Test] =
    &[("eight_runs_write_while_readers_read", eight_runs_write_while_readers_read)];

const RUNS: usize = 8;
const STEPS: usize = 300;

/// A run in a process of its own, with what it says on standard error.
fn spawn(toy: &Toy, manifest: &str) -> Child {
    Command::new(program())
        .arg("run")
        .arg(toy.root().join(manifest))
        .env("PIPELINE_HOME", toy.home())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Ends the readers, also when something fails.
struct EndOfReading<'a>(&'a AtomicBool);

impl Drop for EndOfReading<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn eight_runs_write_while_readers_read() {
    let toy = Toy::new("[stages.one]\nkind = \"number\"\nparams = { value = 1 }\n");
    toy.write("hold", "");
    for index in 0..RUNS {
        // All stand at their first step until all have started; then they write at once.
        let stages: String = (0..3)
            .map(|stage| {
                let seed = STEPS + index * 3 + stage;
                format!("[stages.s{stage}]\nkind = \"steps\"\nparams = {{ steps = {seed}, hold-at = 0 }}\n")
            })
            .collect();
        toy.write(&format!("m{index}.toml"), &format!("schema = 1\nname = \"m{index}\"\n{stages}"));
    }
    let mut runs: Vec<_> = (0..RUNS).map(|index| spawn(&toy, &format!("m{index}.toml"))).collect();
    let (over, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    let going_on = || {
        let history = History::open(&toy.home()).unwrap();
        history.runs(100).unwrap().iter().filter(|run| run.state == RunState::Running).count()
    };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    // Opened anew each time, as by a command.
                    let history = History::open(&toy.home()).unwrap();
                    let ids = history.runs(100).unwrap().into_iter().map(|run| run.id);
                    let choices: Vec<_> = ids.map(RunChoice::Id).collect();
                    if !choices.is_empty() {
                        history.records(&choices).unwrap();
                    }
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let end_of_reading = EndOfReading(&over);
        wait_until("all runs to start", || going_on() == RUNS);
        std::fs::remove_file(toy.root().join("hold")).unwrap();
        let ends: Vec<_> = runs
            .iter_mut()
            .map(|run| {
                let mut said = String::new();
                run.stderr.take().unwrap().read_to_string(&mut said).unwrap();
                (run.wait().unwrap().code(), said)
            })
            .collect();
        drop(end_of_reading);
        for (code, said) in ends {
            assert_eq!((code, said.as_str()), (Some(0), ""));
        }
    });
    assert!(reads.load(Ordering::Relaxed) > 10);
    let history = History::open(&toy.home()).unwrap();
    history.check().unwrap();
    for run in history.runs(100).unwrap() {
        assert_eq!(run.state, RunState::Done);
        let record = history.run(RunChoice::Id(run.id)).unwrap();
        assert_eq!(record.stages.len(), 3);
        for stage in record.stages {
            let steps = stage.params["steps"].as_u64().unwrap();
            assert_eq!(stage.series[0].points.len() as u64, steps, "no point is lost");
        }
    }
}
