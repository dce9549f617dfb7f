//! The verbs of `pipeline`: each file takes the arguments of one and says what it answers.
//!
//! A verb asks the engine, makes an [`answer::Answer`] of what it hears and gives it back;
//! errors go through [`failure::Failure`], which alone knows how they are shown and with which
//! exit code they end. `run` also shows what happens while it goes on, see `progress`.

mod answer;
mod arguments;
mod auto;
mod bench;
mod bundle;
mod cache;
mod check;
mod completions;
mod convert;
mod doctor;
mod explain;
mod explain_model;
mod export_mlflow;
mod failure;
mod gc;
mod infer;
mod init;
mod logs;
mod measure_memory;
mod model;
mod note;
mod path;
mod plan;
mod progress;
mod quantity;
mod report;
mod run;
mod runs;
mod scheduler;
mod schema;
mod show;
mod stages;
mod sweep;
mod sweeps;
mod ui;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use answer::Answer;
use failure::Failure;

/// Compresses, deploys and measures models as declarative, cached pipelines.
#[derive(Debug, Parser)]
#[command(
    name = "pipeline",
    version,
    after_help = "Exit codes: 0 done, 1 a stage or gate failed, 2 the command or manifest is wrong, 130 interrupted."
)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Run(run::Run),
    Auto(auto::Auto),
    Sweep(sweep::Sweep),
    Sweeps(sweeps::Sweeps),
    Plan(plan::Plan),
    Explain(explain::Explain),
    Convert(convert::Convert),
    Infer(infer::Infer),
    Bench(bench::Bench),
    ExplainModel(explain_model::ExplainModel),
    Check(check::Check),
    Stages(stages::Stages),
    Schema(schema::Schema),
    Runs(runs::Runs),
    Scheduler(scheduler::Scheduler),
    Show(show::Show),
    Logs(logs::Logs),
    Path(path::Path),
    Report(report::Report),
    Bundle(bundle::Bundle),
    ExportMlflow(export_mlflow::ExportMlflow),
    Note(note::Note),
    Ui(ui::Ui),
    Gc(gc::Gc),
    Cache(cache::Cache),
    Doctor(doctor::Doctor),
    Init(init::Init),
    Completions(completions::Completions),
    MeasureMemory(measure_memory::MeasureMemory),
    Worker(worker::Worker),
}

/// Reads the arguments, does what they ask for and gives the exit code back.
pub(crate) fn main() -> ExitCode {
    let verb = Cli::parse().verb;
    if let Verb::Worker(worker) = &verb {
        return worker.work();
    }
    match verb.answer().and_then(|answer| Ok(answer.print()?)) {
        Ok(code) => code,
        Err(failure) => failure.print(),
    }
}

impl Verb {
    fn answer(&self) -> Result<Answer, Failure> {
        match self {
            Self::Run(verb) => verb.answer(),
            Self::Auto(verb) => verb.answer(),
            Self::Sweep(verb) => verb.answer(),
            Self::Sweeps(verb) => verb.answer(),
            Self::Plan(verb) => verb.answer(),
            Self::Explain(verb) => verb.answer(),
            Self::Convert(verb) => verb.answer(),
            Self::Infer(verb) => verb.answer(),
            Self::Bench(verb) => verb.answer(),
            Self::ExplainModel(verb) => verb.answer(),
            Self::Check(verb) => verb.answer(),
            Self::Stages(verb) => verb.answer(),
            Self::Schema(verb) => verb.answer(),
            Self::Runs(verb) => verb.answer(),
            Self::Scheduler(verb) => verb.answer(),
            Self::Show(verb) => verb.answer(),
            Self::Logs(verb) => verb.answer(),
            Self::Path(verb) => verb.answer(),
            Self::Report(verb) => verb.answer(),
            Self::Bundle(verb) => verb.answer(),
            Self::ExportMlflow(verb) => verb.answer(),
            Self::Note(verb) => verb.answer(),
            Self::Ui(verb) => verb.answer(),
            Self::Gc(verb) => verb.answer(),
            Self::Cache(verb) => verb.answer(),
            Self::Doctor(verb) => verb.answer(),
            Self::Init(verb) => verb.answer(),
            Self::Completions(verb) => verb.answer(),
            Self::MeasureMemory(verb) => verb.answer(),
            Self::Worker(_) => Ok(Answer::default()),
        }
    }
}

/// The grammar of the command line, for completions.
fn grammar() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_grammar_is_sound() {
        super::grammar().debug_assert();
    }
}
