//! Schedulers with real processes and made-up times.

use std::fs;
use std::process::{Child, Command, Stdio};

use engine::history::{History, RunChoice, TickState, Trigger};
use engine::schedule::{Ending, Scheduler, SchedulerEvent};
use rustix::process::{Pid, Signal, kill_process};

use crate::project::{Toy, earlier_process, wait_until};
use crate::{Test, program, toys};

pub(crate) const TESTS: &[Test] = &[
    ("a_slot_runs_once_and_says_so", a_slot_runs_once_and_says_so),
    ("two_schedulers_run_each_slot_once", two_schedulers_run_each_slot_once),
    ("a_schedule_starts_when_it_is_first_seen_or_edited", a_schedule_starts_when_first_seen),
    ("every_missed_slot_runs_where_all_are_asked_for", every_missed_slot_runs),
    ("the_run_of_a_killed_scheduler_goes_on", the_run_of_a_killed_scheduler_goes_on),
    ("a_claim_without_a_run_is_taken_over_once", a_claim_without_a_run_is_taken_over_once),
    ("the_next_slot_stops_the_running_one", the_next_slot_stops_the_running_one),
    ("a_reused_process_number_holds_nothing_up", a_reused_process_number_holds_nothing_up),
    ("a_scheduled_sweep_goes_on_or_begins_anew", a_scheduled_sweep_goes_on_or_begins_anew),
    ("a_regression_is_told_and_ends_the_scheduler", a_regression_is_told),
    ("what_cannot_begin_is_a_failed_tick", what_cannot_begin_is_a_failed_tick),
];

const HELD: &str = "
[stages.steps]
kind = \"steps\"
params = { steps = 6, hold-at = 3 }
";

fn hourly(more: &str, stages: &str) -> Toy {
    Toy::new(&format!("[schedule]\ncron = \"0 * * * *\"\n{more}\n{stages}"))
}

fn at(time: &str) -> jiff::Timestamp {
    format!("2026-05-04T{time}Z").parse().unwrap()
}

fn scheduler(toy: &Toy, time: &str) -> Scheduler {
    Scheduler {
        manifests: vec![toy.root().join("toy.toml")],
        folder: None,
        home: Some(toy.home()),
        table: toys::TOYS,
        program: (program(), vec!["scheduled".into()]),
        ending: Ending::Once(at(time)),
    }
}

/// Lets a scheduler look once, in this process; whether a regression ended it, and what it said.
fn look(toy: &Toy, time: &str) -> (bool, Vec<SchedulerEvent>) {
    let mut events = Vec::new();
    let regressed = scheduler(toy, time).run(&mut |event| events.push(event.clone()));
    (regressed.unwrap(), events)
}

/// The same in a process of its own; `runner` replaces the program that runs manifests.
fn spawn(toy: &Toy, time: &str, runner: Option<&str>) -> Child {
    Command::new(program())
        .arg("scheduler")
        .arg(toy.root().join("toy.toml"))
        .arg(toy.home())
        .arg(at(time).to_string())
        .args(runner)
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

/// A scheduler in this or another process, from the arguments of [`spawn`].
pub(crate) fn main(arguments: &[String]) -> std::process::ExitCode {
    let [manifest, home, now, runner @ ..] = arguments else { panic!("{arguments:?}") };
    let scheduler = Scheduler {
        manifests: vec![manifest.into()],
        folder: None,
        home: Some(home.into()),
        table: toys::TOYS,
        program: match runner {
            [script] => ("/bin/sh".into(), vec!["-c".into(), script.into()]),
            _ => (program(), vec!["scheduled".into()]),
        },
        ending: Ending::Once(now.parse().unwrap()),
    };
    scheduler.run(&mut |_| {}).unwrap();
    std::process::ExitCode::SUCCESS
}

/// `HH:MM state` of every tick, oldest first.
fn ticks(toy: &Toy) -> Vec<String> {
    let file = toy.root().join("toy.toml").canonicalize().unwrap();
    let mut ticks = History::open(&toy.home()).unwrap().ticks(&file, 1000).unwrap();
    ticks.reverse();
    let shown = |state: TickState| format!("{state:?}").to_lowercase();
    ticks
        .iter()
        .map(|tick| format!("{} {}", tick.slot.strftime("%H:%M"), shown(tick.state)))
        .collect()
}

fn runs(toy: &Toy) -> usize {
    History::open(&toy.home()).unwrap().runs(1000).unwrap().len()
}

fn a_slot_runs_once_and_says_so() {
    let toy = hourly("", HELD);
    let (_, events) = look(&toy, "09:30:00");
    assert!(
        matches!(&events[..], [SchedulerEvent::Watching { next: Some(next), .. }] if *next == at("10:00:00"))
    );
    assert_eq!(runs(&toy), 0);
    look(&toy, "10:00:20");
    look(&toy, "10:00:40");
    look(&toy, "09:59:00"); // the clock went back
    look(&toy, "10:00:10");
    assert_eq!(ticks(&toy), ["10:00 done"]);
    assert_eq!(toy.executed(), ["steps"]);
    let run = toy.project().history().unwrap().run(RunChoice::Latest).unwrap();
    assert_eq!(
        (run.summary.id, run.summary.trigger),
        (1, Trigger::Schedule { slot: at("10:00:00") })
    );
}

fn two_schedulers_run_each_slot_once() {
    let toy = hourly("overlap = \"queue\"", HELD);
    look(&toy, "09:30:00");
    for hour in 10..14 {
        let both: Vec<_> = (0..2).map(|_| spawn(&toy, &format!("{hour}:00:01"), None)).collect();
        for mut scheduler in both {
            assert!(scheduler.wait().unwrap().success());
        }
    }
    assert_eq!(ticks(&toy), ["10:00 done", "11:00 done", "12:00 done", "13:00 done"]);
    assert_eq!(runs(&toy), 4);
}

fn a_schedule_starts_when_first_seen() {
    let toy = hourly("catch-up = \"all\"", HELD);
    look(&toy, "09:30:00");
    look(&toy, "10:00:05");
    let text = fs::read_to_string(toy.root().join("toy.toml")).unwrap();
    toy.write("toy.toml", &text.replace("0 * * * *", "*/15 * * * *"));
    look(&toy, "12:05:00");
    assert_eq!(ticks(&toy), ["10:00 done"], "an edit catches nothing up");
    look(&toy, "12:31:00");
    assert_eq!(ticks(&toy), ["10:00 done", "12:15 done", "12:30 done"]);
}

fn every_missed_slot_runs() {
    for (policy, expected) in [("none", 0), ("last", 1), ("all", 5)] {
        let toy = hourly(&format!("catch-up = \"{policy}\""), HELD);
        look(&toy, "09:30:00");
        look(&toy, "14:30:00");
        look(&toy, "14:30:00");
        let ticks = ticks(&toy);
        let done = ticks.iter().filter(|tick| tick.ends_with("done")).count();
        assert_eq!((ticks.len(), done, runs(&toy)), (5, expected, expected), "{policy}");
    }
}

fn kill(child: &mut Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

fn the_run_of_a_killed_scheduler_goes_on() {
    let toy = hourly("", HELD);
    look(&toy, "09:30:00");
    toy.write("hold", "");
    let mut first = spawn(&toy, "10:00:01", None);
    wait_until("step 3", || toy.root().join("reached").exists());
    kill(&mut first);
    look(&toy, "11:00:01");
    assert_eq!(ticks(&toy), ["10:00 claimed", "11:00 skipped"]);
    fs::remove_file(toy.root().join("hold")).unwrap();
    wait_until("the end of the run", || {
        look(&toy, "11:10:00");
        ticks(&toy)[0] == "10:00 done"
    });
    assert_eq!((runs(&toy), toy.executed()), (1, vec!["steps".to_owned()]));
}

fn a_claim_without_a_run_is_taken_over_once() {
    let toy = hourly("", HELD);
    look(&toy, "09:30:00");
    let script = format!(
        "echo $$ > {0}/runner.new; mv {0}/runner.new {0}/runner; exec sleep 1000",
        toy.root().display()
    );
    let mut first = spawn(&toy, "10:00:01", Some(&script));
    wait_until("the claim", || toy.root().join("runner").exists());
    kill(&mut first);
    let runner = fs::read_to_string(toy.root().join("runner")).unwrap();
    let runner = Pid::from_raw(runner.trim().parse().unwrap()).unwrap();
    kill_process(runner, Signal::KILL).unwrap();
    wait_until("the end of the runner", || kill_process(runner, Signal::KILL).is_err());
    assert_eq!(ticks(&toy), ["10:00 claimed"]);
    let both: Vec<_> = (0..2).map(|_| spawn(&toy, "10:00:30", None)).collect();
    both.into_iter().for_each(|mut scheduler| assert!(scheduler.wait().unwrap().success()));
    assert_eq!((ticks(&toy), runs(&toy)), (vec!["10:00 done".to_owned()], 1));
}

fn a_reused_process_number_holds_nothing_up() {
    for overlap in ["skip", "cancel-running"] {
        let toy = hourly(&format!("overlap = \"{overlap}\""), HELD);
        look(&toy, "09:30:00");
        look(&toy, "10:00:01");
        let mut stranger = Command::new("sleep").arg("1000").spawn().unwrap();
        let process = earlier_process(stranger.id());
        toy.sql(&format!(
            "UPDATE ticks SET state = 'claimed', owner = '{process}', process = NULL;
             UPDATE runs SET state = 'running', process = '{process}'"
        ));
        look(&toy, "11:00:01");
        look(&toy, "12:00:01");
        assert_eq!(ticks(&toy), ["10:00 interrupted", "11:00 done", "12:00 done"], "{overlap}");
        assert!(stranger.try_wait().unwrap().is_none(), "nobody may stop a stranger");
        kill(&mut stranger);
    }
}

const SWEPT: &str = "
seed = 7
[stages.base]
kind = \"number\"
params = { value = 3 }
[stages.end]
kind = \"add\"
inputs = { left = \"base.value\" }
[sweep]
sampler = \"grid\"
objectives = [{ maximize = \"end.validation/score\" }]
[sweep.space]
\"stages.end.params.offset\" = { choice = [0, 10] }
[schedule]
cron = \"0 * * * *\"
sweep = true
";

fn a_scheduled_sweep_goes_on_or_begins_anew() {
    let toy = Toy::new(SWEPT);
    look(&toy, "09:30:00");
    for _ in 0..2 {
        // The second look is at a slot that has had its sweep.
        look(&toy, "10:00:20");
    }
    assert_eq!((ticks(&toy), runs(&toy)), (vec!["10:00 done".to_owned()], 2));
    let (_, events) = look(&toy, "11:00:20");
    let ended = events.iter().find_map(|event| match event {
        SchedulerEvent::Ended { sweep, run, .. } => Some((*sweep, *run)),
        _ => None,
    });
    assert_eq!(ended, Some((Some(1), None)), "the same sweep, which has nothing left to do");
    assert_eq!(runs(&toy), 2);
    let text = fs::read_to_string(toy.root().join("toy.toml")).unwrap();
    toy.write("toy.toml", &text.replace("value = 3", "value = 4"));
    look(&toy, "12:00:20");
    assert_eq!(ticks(&toy), ["10:00 done", "11:00 done", "12:00 done"]);
    assert_eq!(runs(&toy), 4);
    let file = toy.root().join("toy.toml").canonicalize().unwrap();
    let ticks = History::open(&toy.home()).unwrap().ticks(&file, 9).unwrap();
    let sweeps: Vec<_> = ticks.iter().map(|tick| tick.sweep).collect();
    assert_eq!(sweeps, [Some(2), Some(1), Some(1)]);
}

fn the_next_slot_stops_the_running_one() {
    let toy = hourly("overlap = \"cancel-running\"", HELD);
    look(&toy, "09:30:00");
    toy.write("hold", "");
    let mut first = spawn(&toy, "10:00:01", None);
    wait_until("step 3", || toy.root().join("reached").exists());
    look(&toy, "11:00:01");
    wait_until("the end of the first run", || ticks(&toy)[0] == "10:00 interrupted");
    fs::remove_file(toy.root().join("hold")).unwrap();
    assert!(first.wait().unwrap().success());
    assert_eq!(ticks(&toy), ["10:00 interrupted", "11:00 done"]);
    let second = toy.project().history().unwrap().run(RunChoice::Latest).unwrap();
    let points = &second.stages[0].series[0].points;
    assert_eq!(points.len(), 6, "it went on from the checkpoint");
}

fn a_regression_is_told() {
    let watch = "[schedule.on-regression]\nmetrics = { \"measure/test/score\" = \"higher\" }\n\
                 command = [\"sh\", \"-c\", \"cat > told\"]\nexit = true";
    let stage = |value: f64| {
        format!(
            "[stages.measure]\nkind = \"measure\"\nparams = {{ value = {value}, spread = 0.05 }}"
        )
    };
    let toy = hourly(watch, &stage(0.8));
    look(&toy, "09:30:00");
    let measure = |value: f64, time: &str| {
        let text = fs::read_to_string(toy.root().join("toy.toml")).unwrap();
        let (head, _) = text.split_once("[stages").unwrap();
        toy.write("toy.toml", &format!("{head}{}", stage(value)));
        let (regressed, events) = look(&toy, time);
        let told = fs::read_to_string(toy.root().join("told")).ok();
        let _absent = fs::remove_file(toy.root().join("told"));
        let compared = events.iter().find_map(|event| match event {
            SchedulerEvent::Ended { comparison, .. } => comparison.clone(),
            _ => None,
        });
        (regressed, told, compared.unwrap())
    };
    let (regressed, told, first) = measure(0.8, "10:00:01");
    assert!(!regressed && told.is_none() && first.unjudged.len() == 1, "there is nothing before");
    assert!(!measure(0.76, "11:00:01").0, "inside the interval");
    let (regressed, told, worse) = measure(0.6, "12:00:01");
    assert!(regressed && worse.last_good == Some(2), "{worse:?}");
    let facts: serde_json::Value = serde_json::from_str(&told.unwrap()).unwrap();
    assert_eq!((&facts["run"], &facts["last-good"]), (&3.into(), &2.into()));
    assert_eq!(facts["worse"][0]["metric"], "measure/test/score");
    let (regressed, _, still) = measure(0.61, "13:00:01");
    assert!(regressed && still.last_good == Some(2), "a bad run is nothing to compare with");
    assert!(!measure(0.9, "14:00:01").0);
}

fn what_cannot_begin_is_a_failed_tick() {
    let toy = hourly("", HELD);
    look(&toy, "09:30:00");
    let mut scheduler = scheduler(&toy, "10:00:01");
    scheduler.program = ("/no/such/program".into(), Vec::new());
    scheduler.run(&mut |_| {}).unwrap();
    look(&toy, "10:00:30");
    assert_eq!((ticks(&toy), runs(&toy)), (vec!["10:00 failed".to_owned()], 0));
    let file = toy.root().join("toy.toml").canonicalize().unwrap();
    let tick = toy.project().history().unwrap().ticks(&file, 1).unwrap().remove(0);
    assert!(tick.reason.unwrap().contains("/no/such/program cannot be started"));
}
