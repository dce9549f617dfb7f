//! The pages about runs of toy stages: every route asked without a socket, and all of them used in a
//! real browser where there is one.
//!
//! The program is the tests, the worker of the stages, and the server that a browser asks.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "without the standard harness clippy does not see that this is a test"
)]

mod browser;
mod project;
mod reading;
mod streams;
mod toys;
mod writing;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::ExitCode;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["worker", task] => engine::worker_main(toys::TOYS, Path::new(task)),
        ["run", folder, name] => {
            project::run(Path::new(folder), name, &[]);
            ExitCode::SUCCESS
        }
        ["serve", folder] => browser::serve(Path::new(folder)),
        _ => tests(&arguments),
    }
}

/// Runs every test whose name holds a filter, and lists the failures.
fn tests(arguments: &[String]) -> ExitCode {
    let all: Vec<Test> = [reading::TESTS, writing::TESTS, streams::TESTS, browser::TESTS].concat();
    if arguments.iter().any(|argument| argument == "--list") {
        all.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    let filters: Vec<_> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let wanted =
        |name: &str| filters.is_empty() || filters.iter().any(|filter| name.contains(*filter));
    let mut failed = Vec::new();
    for (name, test) in all.into_iter().filter(|(name, _)| wanted(name)) {
        let passed = catch_unwind(AssertUnwindSafe(test)).is_ok();
        println!("test {name} ... {}", if passed { "ok" } else { "FAILED" });
        failed.extend((!passed).then_some(name));
    }
    if failed.is_empty() {
        return ExitCode::SUCCESS;
    }
    println!("\nfailed: {failed:?}");
    ExitCode::FAILURE
}
