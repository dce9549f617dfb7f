//! Stages that fail: how it shows, what goes on, what is tried again.

use engine::history::{History, RunChoice, StageState};
use engine::{Forecast, RunEvent, RunOptions};

use crate::Test;
use crate::project::{Toy, options, states, wait_until};

pub(crate) const TESTS: &[Test] = &[
    ("failures_stop_what_depends_on_them", failures_stop_what_depends_on_them),
    ("failures_are_never_cached", failures_are_never_cached),
    ("every_kind_of_failure_is_told", every_kind_of_failure_is_told),
    ("retries_come_with_pauses", retries_come_with_pauses),
    ("bad_input_is_not_tried_again", bad_input_is_not_tried_again),
    ("timeouts_end_the_whole_group", timeouts_end_the_whole_group),
    ("gates_fail_with_the_measured_value", gates_fail_with_the_measured_value),
    ("noise_on_stdout_is_log", noise_on_stdout_is_log),
    ("newer_databases_are_refused", newer_databases_are_refused),
    ("damaged_databases_say_what_to_do", damaged_databases_say_what_to_do),
    ("cuda_is_never_replaced_silently", cuda_is_never_replaced_silently),
    ("state_folder_that_is_none", state_folder_that_is_none),
];

const BRANCHES: &str = r#"
[stages.bad]
kind = "trouble"
params = { how = "error" }
[stages.after]
kind = "add"
inputs = { left = "bad.value" }
[stages.good]
kind = "number"
params = { value = 1 }
[stages.last]
kind = "add"
inputs = { left = "good.value" }
"#;

fn failures_stop_what_depends_on_them() {
    let toy = Toy::new(BRANCHES);
    let on = toy.run_with(&RunOptions { keep_going: true, ..RunOptions::default() }).0;
    assert_eq!(states(&on), ["bad failed", "after skipped", "good ran", "last ran"]);
    assert_eq!(on.stages[1].reason, "`bad` failed");
    assert_eq!(on.stages[0].error.as_deref(), Some("cannot bite: the disk is made of cheese"));
    assert_eq!(on.exit_code(), 1);
    // With one slot, `bad` has had its turn long before the end of a chain.
    let mut chain = BRANCHES.to_owned();
    let mut before = "good.value".to_owned();
    for index in 0..10 {
        chain += &format!("[stages.link-{index}]\nkind = \"add\"\ninputs.left = \"{before}\"\n");
        before = format!("link-{index}.sum");
    }
    let stop = Toy::new(&chain).run_with(&RunOptions { jobs: Some(1), ..RunOptions::default() }).0;
    assert_eq!(states(&stop)[..2], ["bad failed", "after skipped"]);
    let last = stop.stages.last().unwrap();
    assert_eq!((last.name.as_str(), last.state), ("link-9", StageState::Skipped));
    assert!(stop.stages.iter().any(|stage| stage.reason == "another stage failed"));
}

fn failures_are_never_cached() {
    let toy = Toy::new("[stages.bad]\nkind = \"trouble\"\nparams = { how = \"no-output\" }\n");
    assert_eq!(states(&toy.run(&[])), ["bad failed"]);
    let second = toy.run(&[]);
    assert_eq!(states(&second), ["bad failed"]);
    assert_eq!(second.stages[0].reason, "it did not finish in run 1");
    assert_eq!(toy.executed(), ["bad", "bad"]);
}

fn every_kind_of_failure_is_told() {
    let check = |how: &str, expected: &[&str]| {
        let toy = Toy::new(&format!(
            "[stages.bad]\nkind = \"trouble\"\nparams = {{ how = \"{how}\" }}\n"
        ));
        let error = toy.run(&[]).stages[0].error.clone().unwrap();
        for part in expected {
            assert!(error.contains(part), "{how}: {error}");
        }
    };
    check("panic", &["the stage panicked: toys panic; its log says where"]);
    check("abort", &["the worker ended without a result (signal: 6 (SIGABRT)"]);
    check("no-output", &["stage kind `trouble` finished without writing its output `value`"]);
}

fn retries_come_with_pauses() {
    let toy = Toy::new(
        "[stages.bad]\nkind = \"trouble\"\nparams = { how = \"abort\", times = 2 }\nretries = 2\n",
    );
    let (report, events) = toy.run_with(&RunOptions::default());
    assert_eq!(states(&report), ["bad ran"]);
    let pauses: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            RunEvent::StageRetrying { attempt, delay_s, .. } => Some((*attempt, *delay_s)),
            _ => None,
        })
        .collect();
    assert_eq!(pauses, [(1, 0.001), (2, 0.002)]);
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Latest).unwrap();
    let outcomes: Vec<_> =
        run.stages[0].attempts.iter().map(|attempt| attempt.outcome.as_str()).collect();
    assert_eq!(outcomes, ["crashed", "crashed", "done"]);
}

fn bad_input_is_not_tried_again() {
    let toy = Toy::new(
        "[stages.bad]\nkind = \"trouble\"\nparams = { how = \"bad-input\" }\nretries = 5\n",
    );
    let report = toy.run(&[]);
    assert_eq!(report.stages[0].error.as_deref(), Some("reviews.tsv:3: unknown label `meh`"));
    assert_eq!(report.exit_code(), 2);
    assert_eq!(toy.executed(), ["bad"]);
}

fn timeouts_end_the_whole_group() {
    let toy = Toy::new(
        "[stages.bad]\nkind = \"trouble\"\nparams = { how = \"hang\" }\ntimeout = \"400ms\"\n",
    );
    let report = toy.run(&[]);
    assert_eq!(report.stages[0].error.as_deref(), Some("it took longer than its timeout of 400ms"));
    let grandchild = std::fs::read_to_string(toy.root().join("grandchild")).unwrap();
    wait_until("the end of the worker's child", || !alive(&grandchild));
}

/// Whether a process runs; one that only waits for its parent's look does not.
pub(crate) fn alive(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or("").trim_start().starts_with('Z'))
}

fn gates_fail_with_the_measured_value() {
    let toy = Toy::new(crate::cache::CHAIN);
    let failed = toy.run(&["stages.sum.require.sum-max=2.5"]);
    assert_eq!(states(&failed), ["one ran", "two ran", "sum failed", "again skipped"]);
    let said = "gate `sum-max`: test/sum is 3 count, required is at most 2.5";
    assert_eq!(failed.stages[2].error.as_deref(), Some(said));
    assert_eq!(failed.exit_code(), 1);
    toy.executed();
    let plan = toy.project().plan(&options(&["stages.sum.require.sum-max=2.5"])).unwrap();
    let forecasts: Vec<_> = plan.stages.iter().map(|stage| stage.forecast).collect();
    assert_eq!(forecasts, [Forecast::Hit, Forecast::Hit, Forecast::Fail, Forecast::Skip]);
    assert_eq!((plan.stages[2].reason.as_str(), plan.expected_s), (said, Some(0.0)));
    // The work itself was good: it is not done again, only judged again.
    let again = toy.run(&["stages.sum.require.sum-max=2.5"]);
    assert_eq!(states(&again), ["one hit", "two hit", "sum failed", "again skipped"]);
    assert_eq!(
        states(&toy.run(&["stages.sum.require.sum-max=3"])),
        ["one hit", "two hit", "sum hit", "again ran"]
    );
    assert_eq!(toy.executed(), ["again"]);

    let last = "[stages.last]\nkind = \"add\"\ninputs = { left = \"again.sum\" }\n";
    let toy = Toy::new(&format!("{}{last}", crate::cache::CHAIN));
    toy.run(&[]);
    let plan = toy.project().plan(&options(&["stages.sum.require.sum-max=2.5"])).unwrap();
    let skipped: Vec<_> = plan.stages[3..].iter().map(|stage| stage.reason.as_str()).collect();
    assert_eq!(skipped, ["`sum` fails", "`again` would not run"]);
}

fn noise_on_stdout_is_log() {
    let toy = Toy::new("[stages.loud]\nkind = \"trouble\"\nparams = { how = \"noise\" }\n");
    let (report, events) = toy.run_with(&RunOptions::default());
    assert_eq!(states(&report), ["loud ran"]);
    assert!(events.iter().any(|event| matches!(
        event,
        RunEvent::StageLog { line, .. } if line == "a library prints without asking"
    )));
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Latest).unwrap();
    assert_eq!(run.stages[0].state, StageState::Ran);
    let log = std::fs::read_to_string(run.stages[0].log_path.as_ref().unwrap()).unwrap();
    assert!(log.contains("a library prints without asking"), "{log}");
}

fn newer_databases_are_refused() {
    let toy = Toy::new(crate::cache::CHAIN);
    toy.run(&[]);
    toy.sql("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99, 'later', TRUE, x'00', 0)");
    let error = toy.project().run(&RunOptions::default(), &mut |_| {}).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(
        error.to_string().contains("was written by a newer version of this program (schema 99"),
        "{error}"
    );
}

fn cuda_is_never_replaced_silently() {
    let toy = Toy::new("[stages.one]\nkind = \"number\"\nparams.value = 1\n");
    let error = toy.project().run(&options(&["device=cuda"]), &mut |_| {}).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the manifest asks for CUDA, but this program was built without it; build it with `--features cuda`, or run with `--set device=cpu`"
    );
    let (report, events) = toy.run_with(&options(&["device=auto"]));
    assert_eq!(report.exit_code(), 0);
    assert!(matches!(
        &events[0],
        RunEvent::RunStarted { device, fallback: Some(why), .. }
            if device == "cpu" && why == "running on the CPU: this program was built without CUDA"
    ));
}

fn state_folder_that_is_none() {
    let toy = Toy::new("[stages.one]\nkind = \"number\"\nparams.value = 1\n");
    toy.write("file", "");
    let home = toy.root().join("file/home");
    let project = engine::Project::open(
        &toy.root().join("toy.toml"),
        crate::toys::TOYS,
        crate::host(),
        Some(&home),
    );
    let error = project.run(&RunOptions::default(), &mut |_| {}).unwrap_err();
    assert_eq!(error.exit_code(), 2);
    assert!(error.to_string().starts_with("cannot create folder "), "{error}");
}

fn damaged_databases_say_what_to_do() {
    let toy = Toy::new(crate::cache::CHAIN);
    // In a process of its own, so that nothing still has the database open.
    assert!(toy.spawn("toy.toml", &[]).wait().unwrap().success());
    let path = toy.home().join("runs.sqlite");
    for name in ["runs.sqlite-wal", "runs.sqlite-shm"] {
        let _absent = std::fs::remove_file(toy.home().join(name));
    }
    std::fs::write(&path, "this is no database, whatever its name says".repeat(100)).unwrap();
    let error = toy.project().run(&RunOptions::default(), &mut |_| {}).unwrap_err();
    assert!(error.to_string().contains("it is damaged: move it away"), "{error}");
    std::fs::remove_file(&path).unwrap();
    let report = toy.run(&[]);
    assert_eq!(states(&report), ["one hit", "two hit", "sum hit", "again hit"]);
    assert_eq!(report.run, 2, "the number of a lost run is not given again");
    let run = History::open(&toy.home()).unwrap().run(RunChoice::Latest).unwrap();
    assert_eq!(run.stages[2].metrics[0].value, 3.0, "summaries come from the store");
}
