//! Turns records of runs and sweeps into reports: one self-contained HTML file, Markdown, CSV or
//! JSON; and packs runs for elsewhere.
//!
//! It reads the structs of [`engine::history`] and no SQL, no tensors, no graphs, no clock. The
//! only files it reads are those that [`Inspections::read`] finds in the store. It knows no stage
//! kinds either: what a report shows is found by the names of metrics (`phase/name`), series and
//! ports, so a new stage kind that follows them is shown without an edit here. A number that no
//! row of the record backs is never printed; what is missing is shown as missing, with the reason
//! that was recorded.
//!
//! # Layout
//!
//! - [`render`], [`render_with`], [`render_sweeps`]: the ways in for whole reports,
//!   [`content`], [`sweep_content`] and [`style`] for pages that frame one, [`summary_table`] for the table a run ends
//!   with.
//! - [`bundle`](bundle()), [`verify`], [`mlflow`](mlflow()): a run as one file that can be checked,
//!   and as what another program reads.
//! - `chain`: finds the models of a run and what was measured on each; `lineage`: where they came
//!   from; `timeline`: when stages were at work.
//! - `table`, `column`, `quantity`: numbers as people read them, with their change against the
//!   first model.
//! - `groups`, `versus`, `statistics`: several runs against a baseline, over their seeds.
//! - `compare`: parameters, those that differ between runs first.
//! - `sweep`: what a page on sweeps says; which parameters matter.
//! - `plot`, `dag`: geometry of the drawings; no markup.
//! - `page`: all of the above as one struct, which `template` prints through `templates/`.
//!
//! Start at `page` to change what a report says, in `templates/` to change how it looks.

mod bundle;
mod chain;
mod column;
mod compare;
mod csv;
mod dag;
mod groups;
mod inspection;
mod json;
mod lineage;
mod mlflow;
mod page;
mod plot;
mod quantity;
mod statistics;
mod sweep;
mod table;
mod template;
mod timeline;
mod versus;

use std::str::FromStr;

use engine::history::{RunRecord, SweepRecord};

pub use bundle::{BundleError, Lock, Replay, Verified, bundle, verify};
pub use inspection::Inspections;
pub use mlflow::{Files, mlflow};
pub use table::{Cell, Change, Table, Verdict, summary_table};

/// What a report is written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// One file with everything in it, for a browser; needs no network.
    Html,
    /// The tables, for a pull request.
    Markdown,
    /// The records and the chain of models, for programs.
    Json,
    /// A row a measurement or a trial, for a spreadsheet.
    Csv,
}

impl FromStr for Format {
    type Err = UnknownFormat;

    /// Reads `html`, `md`, `json` or `csv`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "html" => Ok(Self::Html),
            "md" => Ok(Self::Markdown),
            "json" => Ok(Self::Json),
            "csv" => Ok(Self::Csv),
            _ => Err(UnknownFormat { found: text.to_owned() }),
        }
    }
}

/// A name that is no [`Format`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a report format `html`, `md`, `json` or `csv`, found `{found}`")]
pub struct UnknownFormat {
    found: String,
}

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// There was nothing to report.
    #[error("expected at least one run to report on, found none; run a manifest first")]
    NoRuns,
    /// There was no sweep to report on.
    #[error("expected at least one sweep to report on, found none; run `pipeline sweep` first")]
    NoSweeps,
    /// The baseline is none of the runs.
    #[error(
        "expected the baseline to be one of the runs {runs}, found {baseline}; name it among them"
    )]
    NoBaseline {
        /// Number that was asked for.
        baseline: i64,
        /// Numbers of the runs.
        runs: String,
    },
    /// A template and the page it prints do not fit.
    #[error("a report template failed: {0:#}")]
    Template(#[from] minijinja::Error),
    /// The records could not be written as JSON.
    #[error("the records of the runs could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// What a report may need beside the records.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Number of the run that the others are compared with; the first one where none is named.
    pub baseline: Option<i64>,
    /// Kernels and memory maps of the models.
    pub inspections: Inspections,
}

/// Writes a report on one or several runs, shown in the order given, against the first of them;
/// what stages wrote down about compiled models is read from the store.
///
/// # Errors
/// As [`render_with`].
pub fn render(runs: &[RunRecord], format: Format) -> Result<String, RenderError> {
    let options = Options { baseline: None, inspections: Inspections::read(runs) };
    render_with(runs, &options, format)
}

/// Writes a report on one or several runs, shown in the order given.
///
/// With several runs the report begins with a comparison: all their models against those of the
/// baseline, runs that differ only in their seed as one, and the parameters that differ. The same
/// records always give the same text.
///
/// # Errors
/// [`RenderError::NoRuns`] without runs, [`RenderError::NoBaseline`]; the others mean that this
/// crate is wrong.
pub fn render_with(
    runs: &[RunRecord],
    options: &Options,
    format: Format,
) -> Result<String, RenderError> {
    if runs.is_empty() {
        return Err(RenderError::NoRuns);
    }
    let baseline = match options.baseline {
        None => 0,
        Some(baseline) => {
            runs.iter().position(|run| run.summary.id == baseline).ok_or_else(|| {
                let runs: Vec<String> = runs.iter().map(|run| run.summary.id.to_string()).collect();
                RenderError::NoBaseline { baseline, runs: runs.join(", ") }
            })?
        }
    };
    match format {
        Format::Html => template::html(&page::read(runs, baseline, &options.inspections)),
        Format::Markdown => template::markdown(&page::read(runs, baseline, &options.inspections)),
        Format::Json => json::render(runs, baseline),
        Format::Csv => Ok(csv::render(runs)),
    }
}

/// Writes a report on one or several sweeps, shown in the order given.
///
/// # Errors
/// [`RenderError::NoSweeps`] without sweeps; the others mean that this crate is wrong.
pub fn render_sweeps(sweeps: &[SweepRecord], format: Format) -> Result<String, RenderError> {
    if sweeps.is_empty() {
        return Err(RenderError::NoSweeps);
    }
    match format {
        Format::Html => template::sweep_html(&sweep::read(sweeps)),
        Format::Markdown => template::sweep_markdown(&sweep::read(sweeps)),
        Format::Json => sweep::json(sweeps),
        Format::Csv => Ok(sweep::csv(sweeps)),
    }
}

/// The content of the HTML report on `runs`, to be put inside the `<main>` of a page that brings
/// [`style`] and a frame of its own.
///
/// # Errors
/// Like [`render`].
pub fn content(runs: &[RunRecord]) -> Result<String, RenderError> {
    if runs.is_empty() {
        return Err(RenderError::NoRuns);
    }
    template::content(&page::read(runs, 0, &Inspections::read(runs)))
}

/// The content of the HTML report on `sweeps`, for a frame as [`content`] wants one.
///
/// # Errors
/// Like [`render_sweeps`].
pub fn sweep_content(sweeps: &[SweepRecord]) -> Result<String, RenderError> {
    if sweeps.is_empty() {
        return Err(RenderError::NoSweeps);
    }
    template::sweep_content(&sweep::read(sweeps))
}

/// The style sheet of HTML reports.
pub fn style() -> &'static str {
    template::STYLE
}
