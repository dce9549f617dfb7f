//! Sweeps over toy manifests: what is shared, what is held, what survives a kill.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use engine::history::{
    History, RunChoice, RunState, StageState, SweepRecord, SweepState, TrialState,
};
use engine::{SweepEvent, SweepOptions, SweepReport};

use crate::Test;
use crate::project::Toy;

pub(crate) const TESTS: &[Test] = &[
    ("trials_share_what_they_have_in_common", trials_share_what_they_have_in_common),
    (
        "sweeps_killed_anywhere_lose_and_repeat_nothing",
        sweeps_killed_anywhere_lose_and_repeat_nothing,
    ),
    ("a_space_that_leads_nowhere_is_told_where_it_is_written", spaces_are_checked),
    ("very_many_trials_are_planned_at_once", very_many_trials_are_planned_at_once),
    ("a_used_budget_is_told_and_can_be_raised", a_used_budget_is_told_and_can_be_raised),
    ("trials_do_not_stand_for_the_manifest", trials_do_not_stand_for_the_manifest),
    ("sweeps_are_extended", sweeps_are_extended),
    ("a_sweep_that_waited_knows_what_was_measured", a_sweep_that_waited_knows_what_was_measured),
    ("asha_holds_and_promotes", asha_holds_and_promotes),
    ("halving_and_hyperband_come_to_an_end", halving_and_hyperband_come_to_an_end),
    ("a_later_sweep_reuses_rungs", a_later_sweep_reuses_rungs),
    ("failing_trials_do_what_the_manifest_says", failing_trials_do_what_the_manifest_says),
    ("constraints_decide_first", constraints_decide_first),
    ("parallel_trials_take_no_result_twice", parallel_trials_take_no_result_twice),
    ("what_cannot_be_looked_for_is_said_at_once", what_cannot_be_looked_for_is_said_at_once),
];

/// Three stages; the space is over the last two.
const GRID: &str = r#"
seed = 7
[stages.base]
kind = "number"
params = { value = 3 }
[stages.middle]
kind = "add"
inputs = { left = "base.value" }
[stages.end]
kind = "add"
inputs = { left = "middle.sum" }
[sweep]
sampler = "grid"
seeds = [1, 2, 3]
objectives = [{ maximize = "end.validation/score" }]
[sweep.space]
"stages.middle.params.offset" = { int = [0, 3] }
"stages.end.params.offset" = { choice = [0, 10, 20, 30, 40, 50] }
"#;

fn sweep(toy: &Toy, set: &[&str]) -> SweepReport {
    let (report, _) = sweep_with(toy, set, false);
    report
}

fn sweep_with(toy: &Toy, set: &[&str], retry_failed: bool) -> (SweepReport, Vec<SweepEvent>) {
    let set = set.iter().map(|text| (*text).to_owned()).collect();
    let mut events = Vec::new();
    let options = SweepOptions { set, retry_failed, ..SweepOptions::default() };
    let report = toy.project().sweep(&options, &mut |event| events.push(event.clone()));
    (report.unwrap_or_else(|error| panic!("{error}")), events)
}

fn refused(toy: &Toy, set: &[&str]) -> String {
    let set = set.iter().map(|text| (*text).to_owned()).collect();
    let options = SweepOptions { set, ..SweepOptions::default() };
    toy.project().sweep(&options, &mut |_| {}).unwrap_err().to_string()
}

fn best(sweep: &SweepRecord) -> Vec<u64> {
    sweep.trials.iter().filter(|trial| trial.best).map(|trial| trial.number).collect()
}

fn trials_share_what_they_have_in_common() {
    let toy = Toy::new(GRID);
    let plan = toy.project().plan_sweep(&SweepOptions::default()).unwrap();
    assert_eq!((plan.trials, plan.stage_runs, plan.estimated), (24, 216, false));
    assert_eq!((plan.needed, plan.saved), (3 + 12 + 72, 129));
    assert!(!toy.home().join("runs.sqlite").exists(), "planning writes nothing");

    let report = sweep(&toy, &[]);
    assert_eq!(report.exit_code(), 0);
    let SweepRecord { summary, trials, stage_runs, .. } = &report.sweep;
    assert_eq!((summary.state, summary.done), (SweepState::Done, 24));
    // What upstream wrote turned out to be the same for every seed: even more was shared.
    assert_eq!((stage_runs.total, stage_runs.saved), (216, 216 - stage_runs.ran));
    assert!(stage_runs.ran <= plan.needed, "{stage_runs:?}");
    assert_eq!(toy.executed().len() as u64, stage_runs.ran);
    let won = &trials[best(&report.sweep)[0] as usize];
    assert_eq!(won.params["stages.end.params.offset"], 50);
    assert_eq!(won.objectives, [Some(3.0 + 3.0 + 50.0)]);
    assert_eq!(won.runs.iter().map(|run| run.seed).collect::<Vec<_>>(), [1, 2, 3]);

    let again = sweep(&toy, &[]);
    assert_eq!(toy.executed(), [""; 0]);
    assert_eq!(again.sweep.trials, report.sweep.trials);
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Id(won.runs[0].run)).unwrap();
    assert_eq!(run.seed, 1);
    let trial = best(&report.sweep)[0];
    assert_eq!(run.summary.trigger.to_string(), format!("sweep 1, trial {trial}"));
}

fn sweeps_killed_anywhere_lose_and_repeat_nothing() {
    let toy = Toy::new(GRID);
    let undisturbed = Toy::new(GRID);
    let expected = sweep(&undisturbed, &[]);
    let mut killed = 0;
    for round in 0..8_u64 {
        let mut child = toy.spawn_verb("sweep", "toy.toml", &[]);
        std::thread::sleep(Duration::from_millis(60 + 97 * round));
        let _ended = child.kill();
        killed += usize::from(!child.wait().unwrap().success());
        // Whoever looks now learns that it was cut off; the first kill may come before it began.
        if let Ok(sweep) = History::open(&toy.home()).and_then(|history| history.sweep(1)) {
            assert_ne!(sweep.summary.state, SweepState::Running);
            assert!(sweep.trials.iter().all(|trial| trial.state != TrialState::Running));
        }
    }
    assert!(killed >= 5, "only {killed} of 8 sweeps were killed before their end");
    let report = sweep(&toy, &[]);
    assert_eq!(report.sweep.summary.state, SweepState::Done);
    let told = |sweep: &SweepRecord| {
        let trial = |trial: &engine::history::TrialRecord| {
            (trial.params.clone(), trial.objectives.clone(), trial.state)
        };
        sweep.trials.iter().map(trial).collect::<Vec<_>>()
    };
    assert_eq!(told(&report.sweep), told(&expected.sweep));
    // No result was made twice, and no seed of a trial that was measured had another run.
    let history = History::open(&toy.home()).unwrap();
    let mut made: BTreeMap<String, usize> = BTreeMap::new();
    let mut done: BTreeMap<String, usize> = BTreeMap::new();
    for run in history.runs(usize::MAX).unwrap() {
        let run = history.run(RunChoice::Id(run.id)).unwrap();
        for stage in run.stages.iter().filter(|stage| stage.state == StageState::Ran) {
            *made.entry(stage.key.clone().unwrap()).or_default() += 1;
        }
        if run.summary.state == RunState::Done {
            *done.entry(run.overrides.join(" ")).or_default() += 1;
        }
    }
    assert!(made.values().all(|times| *times == 1), "{made:?}");
    // A kill may come after a run and before its number is noted; that run is repeated, all hits.
    let repeated = done.values().filter(|times| **times > 1).count();
    assert!(repeated <= killed, "{repeated} measured runs were repeated after {killed} kills");
    assert_eq!(done.len(), 72);
}

fn a_sweep_that_waited_knows_what_was_measured() {
    let toy = Toy::new(GRID);
    let both: Vec<_> = (0..2).map(|_| toy.spawn_verb("sweep", "toy.toml", &[])).collect();
    for mut sweep in both {
        assert!(sweep.wait().unwrap().success());
    }
    let history = History::open(&toy.home()).unwrap();
    let sweep = history.sweep(1).unwrap();
    assert_eq!((sweep.summary.state, sweep.summary.done), (SweepState::Done, 24));
    assert_eq!(history.runs(usize::MAX).unwrap().len(), 72, "the second had nothing left to do");
}

fn spaces_are_checked() {
    let wrong = "\"stages.base.params.bogus\" = { int = [1, 9] }\n\
                 \"nonsense.path\" = { int = [1, 2] }\n";
    let toy = Toy::new(&format!("{GRID}{wrong}"));
    let error = toy.project().check_all(&[]).unwrap_err().to_string();
    for expected in [
        "toy.toml:21:2: sweep: `stages.base.params.bogus=",
        "toy.toml:22:2: sweep: `nonsense.path=",
        "unknown field `bogus`",
    ] {
        assert!(error.contains(expected), "{expected}: {error}");
    }
    assert_eq!(error.matches("toml:").count(), 2, "{error}");
    assert!(error.find("toml:21") < error.find("toml:22"), "{error}");
    let toy = Toy::new(GRID);
    toy.project().check_all(&[]).unwrap();
}

fn very_many_trials_are_planned_at_once() {
    let toy = Toy::new(&GRID.replace("{ int = [0, 3] }", "{ int = [0, 1000000000] }"));
    let plan = |set: &[&str]| {
        let set = set.iter().map(|text| (*text).to_owned()).collect();
        toy.project().plan_sweep(&SweepOptions { set, ..SweepOptions::default() })
    };
    let refused = plan(&[]).unwrap_err().to_string();
    assert!(refused.contains("6000000006 combinations are more than 1000000"), "{refused}");
    for sampler in ["grid", "random"] {
        let sampler = format!("sweep.sampler={sampler}");
        let plan = plan(&["sweep.trials=4000000000", "sweep.seeds=[1]", &sampler]).unwrap();
        assert_eq!((plan.trials, plan.stage_runs), (4_000_000_000, 12_000_000_000));
        assert!(plan.estimated && plan.needed > 4_000_000_000 && plan.saved > 0, "{plan:?}");
    }
}

fn a_used_budget_is_told_and_can_be_raised() {
    let toy = Toy::new(GRID);
    let report = sweep(&toy, &["sweep.budget=1ms"]);
    assert_eq!((report.exit_code(), report.sweep.used_budget()), (1, Some("1ms")));
    let report = sweep(&toy, &["sweep.budget=1h", "sweep.trials=2"]);
    assert_eq!((report.exit_code(), report.sweep.used_budget()), (0, None));
}

fn trials_do_not_stand_for_the_manifest() {
    let toy = Toy::new(GRID);
    toy.run(&["stages.end.params.offset=7"]);
    toy.run(&[]);
    sweep(&toy, &["sweep.seeds=[7]"]);
    assert_eq!(toy.output("end.sum"), "3", "not the last trial's");
    let explanation = toy.project().explain("end", &[]).unwrap();
    assert_eq!((explanation.previous_run, explanation.changes.len()), (Some(2), 0));
    let output = |set: &str| {
        let artifact = toy.project().artifact("end.sum", &[set.to_owned()]);
        artifact.map(|artifact| fs::read_to_string(artifact.path.unwrap()).unwrap())
    };
    assert_eq!(output("stages.end.params.offset=7").unwrap(), "10");
    assert_eq!(output("stages.end.params.offset=50").unwrap(), "53", "a trial made it");
    let missing = output("stages.end.params.offset=5").unwrap_err().to_string();
    assert!(
        missing.contains("no finished artifact of `end.sum` with these overrides"),
        "{missing}"
    );
}

fn sweeps_are_extended() {
    let toy = Toy::new(&GRID.replace("sampler = \"grid\"", "sampler = \"random\"\ntrials = 3"));
    let first = sweep(&toy, &[]);
    assert_eq!(first.sweep.trials.len(), 3);
    let (more, events) = sweep_with(&toy, &["sweep.trials=5", "sweep.seeds=[1,2,3,4]"], false);
    assert_eq!((more.sweep.summary.id, more.sweep.trials.len()), (1, 5));
    assert!(more.sweep.trials.iter().all(|trial| trial.runs.len() == 4));
    let earlier: Vec<_> = first.sweep.trials.iter().map(|trial| &trial.params).collect();
    let kept: Vec<_> = more.sweep.trials.iter().take(3).map(|trial| &trial.params).collect();
    assert_eq!(kept, earlier);
    let runs = events.iter().filter(|event| {
        matches!(event, SweepEvent::TrialRun { run: engine::RunEvent::RunStarted { .. }, .. })
    });
    assert_eq!(runs.count(), 3 + 2 * 4, "the new seed of three trials, and two new trials");
    // A drawn point that is known already does not count: the space has 24.
    let all = sweep(&toy, &["sweep.trials=100"]);
    assert_eq!(all.sweep.trials.len(), 24);
}

/// A learner whose score after its epochs is best at rate 0.6; nine epochs each.
const LEARN: &str = r#"
[stages.base]
kind = "number"
params = { value = 3 }
[stages.learn]
kind = "learn"
inputs = { left = "base.value" }
params = { epochs = 9, rate = 0.5 }
[stages.end]
kind = "add"
inputs = { left = "learn.value" }
[sweep]
sampler = "random"
trials = 9
objectives = [{ maximize = "learn.validation/score" }]
early-stopping = { method = "asha", stage = "learn", watch = [{ maximize = "validation/score" }] }
[sweep.space]
"stages.learn.params.rate" = { uniform = [0.0, 1.0] }
"#;

/// Epochs that were trained since the last look.
fn epochs(toy: &Toy) -> usize {
    toy.executed().iter().filter(|line| *line == "epoch").count()
}

fn asha_holds_and_promotes() {
    let full = Toy::new(LEARN);
    let whole = sweep(&full, &["sweep.early-stopping.min-epochs=9"]);
    assert_eq!((whole.sweep.summary.done, epochs(&full)), (9, 81));

    let toy = Toy::new(LEARN);
    let plan = toy.project().plan_sweep(&SweepOptions::default()).unwrap();
    assert_eq!(plan.rungs, [1, 3]);
    let report = sweep(&toy, &[]);
    let SweepRecord { summary, trials, .. } = &report.sweep;
    assert_eq!(summary.done + summary.paused, 9);
    assert!(summary.done >= 1, "{summary:?}");
    let trained = epochs(&toy);
    assert!(trained * 10 <= 81 * 4, "{trained} of 81 epochs were trained");
    let (won, expected) = (best(&report.sweep)[0], best(&whole.sweep)[0]);
    assert_eq!(trials[won as usize].params, whole.sweep.trials[expected as usize].params);
    // Held and taken up again, the winner is what it would have been without a stop.
    assert_eq!(trials[won as usize].objectives, whole.sweep.trials[expected as usize].objectives);
    let run = trials[won as usize].runs[0].run;
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Id(run)).unwrap();
    assert_eq!(run.stages[1].series[0].points.len(), 9);
    let held = trials.iter().find(|trial| trial.state == TrialState::Paused).unwrap();
    assert!(!held.rungs.last().unwrap().promoted);
    assert!(held.rungs.iter().rev().skip(1).all(|rung| rung.promoted));
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Id(held.runs[0].run)).unwrap();
    assert_eq!((run.summary.state, run.stages[1].state), (RunState::Paused, StageState::Paused));
    // A second look finds nothing left to do.
    sweep(&toy, &[]);
    assert_eq!(epochs(&toy), 0);
}

fn halving_and_hyperband_come_to_an_end() {
    for method in ["successive-halving", "hyperband"] {
        let toy = Toy::new(&LEARN.replace("asha", method));
        let report = sweep(&toy, &[]);
        assert_eq!(report.exit_code(), 0, "{method}");
        let trained = epochs(&toy);
        assert!(trained < 81, "{method} trained {trained} epochs");
    }
    // Two watched series: whoever is beaten by nobody goes on.
    let toy = Toy::new(&LEARN.replace(
        "watch = [{ maximize = \"validation/score\" }]",
        "watch = [{ maximize = \"validation/score\" }, { minimize = \"validation/cost\" }]",
    ));
    let report = sweep(&toy, &[]);
    assert_eq!(report.sweep.trials[0].rungs[0].values.len(), 2);
    assert!(report.sweep.summary.done >= 1);
}

fn a_later_sweep_reuses_rungs() {
    let toy = Toy::new(LEARN);
    sweep(&toy, &[]);
    let trained = epochs(&toy);
    assert!(trained > 0);
    // Another search over the same parameters: other constraints make it another sweep.
    let later = sweep(&toy, &["sweep.constraints={\"learn.cost-max\"=100.0}"]);
    assert_eq!(later.sweep.summary.id, 2);
    assert_eq!(epochs(&toy), 0, "checkpoints and results of the first sweep were there");
}

fn failing_trials_do_what_the_manifest_says() {
    let manifest = r#"
[stages.one]
kind = "number"
params = { value = 1 }
[stages.learn]
kind = "learn"
inputs = { left = "one.value" }
params = { epochs = 1, rate = 0.5 }
[sweep]
sampler = "grid"
objectives = [{ maximize = "learn.validation/score" }]
[sweep.space]
"stages.learn.params.rate" = { choice = [0.1, 0.666, 0.9] }
"#;
    let toy = Toy::new(manifest);
    let (report, events) = sweep_with(&toy, &[], false);
    let states: Vec<_> = report.sweep.trials.iter().map(|trial| trial.state).collect();
    assert_eq!(states, [TrialState::Done, TrialState::Failed, TrialState::Done]);
    let error = report.sweep.trials[1].error.clone().unwrap();
    assert_eq!(error, "seed 0: learn: the number of the beast");
    let told = events.iter().filter(|event| {
        matches!(event, SweepEvent::TrialStands { error: Some(told), .. } if *told == error)
    });
    assert_eq!(told.count(), 1);
    assert_eq!(report.exit_code(), 0);
    toy.executed();
    let (_, events) = sweep_with(&toy, &[], true);
    let started = events.iter().filter(|event| matches!(event, SweepEvent::TrialStarted { .. }));
    assert_eq!(started.count(), 1, "only the failed one runs again");

    let toy = Toy::new(manifest);
    let stopped = sweep(&toy, &["sweep.on-trial-failure=stop"]);
    assert_eq!((stopped.sweep.trials.len(), stopped.exit_code()), (2, 1));
    assert_eq!(stopped.sweep.summary.state, SweepState::Failed);

    let toy = Toy::new(manifest);
    sweep(&toy, &["sweep.on-trial-failure=retry"]);
    let tried = toy.executed().iter().filter(|line| *line == "learn").count();
    assert_eq!(tried, 4, "the failing one twice");
}

fn constraints_decide_first() {
    let toy = Toy::new(GRID);
    let report = sweep(&toy, &["sweep.constraints={\"end.score-max\"=45.0}", "sweep.seeds=[1]"]);
    let won = &report.sweep.trials[best(&report.sweep)[0] as usize];
    assert_eq!((won.objectives[0], won.violation), (Some(3.0 + 2.0 + 40.0), Some(0.0)));
    let over = report.sweep.trials.iter().find(|trial| trial.objectives[0] == Some(54.0)).unwrap();
    assert_eq!(over.violation, Some(0.2));
}

fn parallel_trials_take_no_result_twice() {
    let toy = Toy::new(GRID);
    let report = sweep(&toy, &["sweep.parallel=4"]);
    assert_eq!(report.sweep.summary.done, 24);
    assert_eq!(toy.executed().len() as u64, report.sweep.stage_runs.ran);
}

fn what_cannot_be_looked_for_is_said_at_once() {
    let toy = Toy::new(GRID);
    let runs = |toy: &Toy| {
        History::open(&toy.home())
            .and_then(|history| history.runs(100))
            .map_or(0, |runs| runs.len())
    };
    let error = refused(&toy, &["sweep.objectives=[{maximize=\"end.validation/scare\"}]"]);
    assert_eq!(
        error,
        "objective `end.validation/scare`: stage `end` reports no such metric; it reports test/sum, validation/score; did you mean `validation/score`?"
    );
    assert_eq!(runs(&toy), 1, "the first run shows it");
    let error = refused(&toy, &["sweep.objectives=[{maximize=\"end.test/sum\"}]"]);
    assert!(error.contains("is measured on the test rows"), "{error}");
    let before = runs(&toy);
    for (set, expected) in [
        ("sweep.objectives=[]", "`objectives` is empty"),
        ("sweep.budget=18446744073709551615s", "no length of time up to 100 years"),
        ("stages.end.timeout=10000000000000000000s", "no length of time up to 100 years"),
        ("sweep.objectives=[{maximize=\"and.score\"}]", "there is no stage `and`"),
        ("sweep.space={}", "space"),
        ("sweep.space={\"stages.end.params.offset\"={uniform=[2.0,1.0]}}", "low"),
        ("sweep.space={\"stages.and.params.offset\"={int=[0,1]}}", "there is no stage `and`"),
        ("sweep.space={\"stages.end.params.offzet\"={int=[0,1]}}", "unknown field `offzet`"),
        ("sweep.constraints={\"end.score-max\"=1,\"end.score-min\"=2}", "contradict each other"),
        ("sweep.sampler=tpe", "`trials` is missing"),
        ("sweep.sampler=best", "unknown value `best`"),
        ("sweep.seeds=[1,1]", "appears twice"),
        (
            "sweep.early-stopping={method=\"asha\",stage=\"end\",watch=[{maximize=\"x\"}]}",
            "has no epochs to be held at",
        ),
    ] {
        let error = refused(&toy, &[set]);
        assert!(error.contains(expected), "{set}: {error}");
    }
    assert_eq!(runs(&toy), before, "nothing ran");
    let none = Toy::new(crate::cache::CHAIN);
    assert!(refused(&none, &[]).starts_with("the manifest has no `[sweep]`"));
    let _gone = fs::remove_dir_all(none.home());
}
