//! Runs of toy manifests through the public face, with real worker processes.
//!
//! The program is the tests, the worker of the stages, and a run that tests can kill.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "without the standard harness clippy does not see that this is a test"
)]

mod cache;
mod crowd;
mod failures;
mod kills;
mod project;
mod schedules;
mod sweeps;
mod toys;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;

use engine::{Host, Project, RunOptions, SweepOptions};

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.first().map(String::as_str) {
        Some("worker") => engine::worker_main(toys::TOYS, Path::new(&arguments[1])),
        Some("run") => run(&arguments[1], &arguments[2..]),
        Some("sweep") => sweep(&arguments[1], &arguments[2..]),
        Some("scheduler") => schedules::main(&arguments[1..]),
        Some("scheduled") => scheduled(&arguments[1..]),
        _ => tests(&arguments),
    }
}

/// A run of its own, that tests can send signals to; its events go to standard output.
fn run(manifest: &str, set: &[String]) -> ExitCode {
    let project = Project::open(Path::new(manifest), toys::TOYS, host(), None);
    let options = RunOptions { set: set.to_vec(), ..RunOptions::default() };
    let report = project.run(&options, &mut |event| {
        println!("{}", serde_json::to_string(event).unwrap());
    });
    match report {
        Ok(report) => ExitCode::from(report.exit_code()),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// A sweep of its own, that tests can kill.
fn sweep(manifest: &str, set: &[String]) -> ExitCode {
    let project = Project::open(Path::new(manifest), toys::TOYS, host(), None);
    let options = SweepOptions { set: set.to_vec(), ..SweepOptions::default() };
    match project.sweep(&options, &mut |_| {}) {
        Ok(report) => ExitCode::from(report.exit_code()),
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// A run or a sweep that a scheduler starts.
fn scheduled(arguments: &[String]) -> ExitCode {
    let [verb, manifest, _, home, _, trigger] = arguments else { panic!("{arguments:?}") };
    let project = Project::open(Path::new(manifest), toys::TOYS, host(), Some(Path::new(home)));
    let trigger = trigger.parse().unwrap();
    let code = if verb == "sweep" {
        let options = SweepOptions { trigger, ..SweepOptions::default() };
        project.sweep(&options, &mut |_| {}).map(|report| report.exit_code())
    } else {
        let options = RunOptions { trigger, ..RunOptions::default() };
        project.run(&options, &mut |_| {}).map(|report| report.exit_code())
    };
    ExitCode::from(code.unwrap_or_else(|error| error.exit_code()))
}

fn host() -> Host {
    Host {
        grace: std::time::Duration::from_millis(300),
        backoff: std::time::Duration::from_millis(1),
        ..Host::this_program(false).unwrap()
    }
}

/// Runs every test whose name holds the filter, four at a time, and lists the failures.
fn tests(arguments: &[String]) -> ExitCode {
    let all: Vec<Test> = [
        cache::TESTS,
        crowd::TESTS,
        failures::TESTS,
        kills::TESTS,
        schedules::TESTS,
        sweeps::TESTS,
    ]
    .concat();
    if arguments.iter().any(|argument| argument == "--list") {
        for (name, _) in &all {
            println!("{name}: test");
        }
        return ExitCode::SUCCESS;
    }
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let queue = Mutex::new(all.into_iter().filter(|(name, _)| wanted(name)));
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().unwrap().next();
                    let Some((name, test)) = next else {
                        return;
                    };
                    let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
                    println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
                    if !passed {
                        failed.lock().unwrap().push(name);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nfailed: {failed:?}");
    ExitCode::FAILURE
}

/// Path of this program.
fn program() -> PathBuf {
    std::env::current_exe().unwrap()
}
