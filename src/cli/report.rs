//! `pipeline report [RUN…] -o FILE` and `pipeline report --sweep SWEEP -o FILE`.

use std::path::PathBuf;

use anyhow::Context as _;
use engine::history::RunChoice;
use reports::{Format, Inspections, Options};

use super::answer::Answer;
use super::arguments::State;
use super::failure::Failure;

/// Writes a report on one or several runs or sweeps.
#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// Runs, numbers or `latest`; the newest one where none is named
    runs: Vec<RunChoice>,
    /// Report on a sweep instead; several may be named
    #[arg(long, value_name = "SWEEP", conflicts_with_all = ["runs", "baseline"])]
    sweep: Vec<i64>,
    /// File to write; standard output where none is named
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Run that the others are compared with, one of those named [default: the first]
    #[arg(long, value_name = "RUN")]
    baseline: Option<i64>,
    /// html, md, json or csv [default: by the file's ending, else html]
    #[arg(long, value_parser = read_format)]
    format: Option<Format>,
    #[command(flatten)]
    state: State,
}

fn read_format(text: &str) -> Result<Format, reports::UnknownFormat> {
    text.parse()
}

impl Report {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        if !self.sweep.is_empty() {
            return self.on_sweeps();
        }
        let history = self.state.history()?;
        let choices =
            if self.runs.is_empty() { &[RunChoice::Latest] } else { self.runs.as_slice() };
        let records = history.records(choices)?;
        let options = Options { baseline: self.baseline, inspections: Inspections::read(&records) };
        let text = reports::render_with(&records, &options, self.format())
            .context("cannot make the report")?;
        self.hand_over(text)
    }

    fn on_sweeps(&self) -> Result<Answer, Failure> {
        let history = self.state.history()?;
        let sweeps = self.sweep.iter().map(|id| Ok(history.sweep(*id)?));
        let sweeps = sweeps.collect::<Result<Vec<_>, Failure>>()?;
        let text =
            reports::render_sweeps(&sweeps, self.format()).context("cannot make the report")?;
        self.hand_over(text)
    }

    fn hand_over(&self, text: String) -> Result<Answer, Failure> {
        let Some(path) = &self.output else { return Ok(Answer::text(text)) };
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Answer::text(path.display().to_string()))
    }

    fn format(&self) -> Format {
        let ending = self.output.as_ref().and_then(|path| path.extension()?.to_str()?.parse().ok());
        self.format.or(ending).unwrap_or(Format::Html)
    }
}
