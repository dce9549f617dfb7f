//! `pipeline report [RUN…] -o FILE`.

use std::path::PathBuf;

use anyhow::Context as _;
use engine::history::RunChoice;
use reports::{Format, Inspections, Options};

use super::answer::Answer;
use super::arguments::State;
use super::failure::Failure;

/// Writes a report on one or several runs.
#[derive(Debug, clap::Args)]
pub(super) struct Report {
    /// Runs, numbers or `latest`; the newest one where none is named
    runs: Vec<RunChoice>,
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
        let history = self.state.history()?;
        let choices =
            if self.runs.is_empty() { &[RunChoice::Latest] } else { self.runs.as_slice() };
        let records = choices
            .iter()
            .map(|choice| Ok(history.run(*choice)?))
            .collect::<Result<Vec<_>, Failure>>()?;
        let options = Options { baseline: self.baseline, inspections: Inspections::read(&records) };
        let text = reports::render_with(&records, &options, self.format())
            .context("cannot make the report")?;
        let Some(path) = &self.output else { return Ok(Answer::text(text)) };
        std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Answer::text(path.display().to_string()))
    }

    fn format(&self) -> Format {
        let ending = self.output.as_ref().and_then(|path| path.extension()?.to_str()?.parse().ok());
        self.format.or(ending).unwrap_or(Format::Html)
    }
}
