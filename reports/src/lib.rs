//! Turns records of runs into reports: one self-contained HTML file, Markdown or JSON.
//!
//! It reads the structs of [`engine::history`] and nothing else: no SQL, no tensors, no graphs,
//! no files, no clock. It knows no stage kinds either: what a report shows is found by the names of
//! metrics (`phase/name`), series and ports, so a new stage kind that follows them is shown
//! without an edit here. A number that no row of the record backs is never printed; what is
//! missing is shown as missing, with the reason that was recorded.
//!
//! # Layout
//!
//! - [`render`]: the one way in for whole reports, [`content`] and [`style`] for pages that frame
//!   one, [`summary_table`] for the table a run ends with.
//! - `chain`: finds the models of a run and what was measured on each.
//! - `table`, `quantity`: numbers as people read them, with their change against the first model.
//! - `compare`: parameters, those that differ between runs first.
//! - `plot`, `dag`: geometry of the drawings; no markup.
//! - `page`: all of the above as one struct, which `template` prints through `templates/`.
//!
//! Start at `page` to change what a report says, in `templates/` to change how it looks.

mod chain;
mod compare;
mod dag;
mod json;
mod page;
mod plot;
mod quantity;
mod table;
mod template;

use std::str::FromStr;

use engine::history::RunRecord;

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
}

impl FromStr for Format {
    type Err = UnknownFormat;

    /// Reads `html`, `md` or `json`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "html" => Ok(Self::Html),
            "md" => Ok(Self::Markdown),
            "json" => Ok(Self::Json),
            _ => Err(UnknownFormat { found: text.to_owned() }),
        }
    }
}

/// A name that is no [`Format`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected a report format `html`, `md` or `json`, found `{found}`")]
pub struct UnknownFormat {
    found: String,
}

/// Why a report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RenderError {
    /// There was nothing to report.
    #[error("expected at least one run to report on, found none; run a manifest first")]
    NoRuns,
    /// A template and the page it prints do not fit.
    #[error("a report template failed: {0:#}")]
    Template(#[from] minijinja::Error),
    /// The records could not be written as JSON.
    #[error("the records of the runs could not be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
}

/// Writes a report on one or several runs, shown in the order given.
///
/// With several runs the report begins with a comparison: all their models, and the parameters
/// that differ. The same records always give the same text.
///
/// # Errors
/// [`RenderError::NoRuns`] without runs; the others mean that this crate is wrong.
pub fn render(runs: &[RunRecord], format: Format) -> Result<String, RenderError> {
    if runs.is_empty() {
        return Err(RenderError::NoRuns);
    }
    match format {
        Format::Html => template::html(&page::read(runs)),
        Format::Markdown => template::markdown(&page::read(runs)),
        Format::Json => json::render(runs),
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
    template::content(&page::read(runs))
}

/// The style sheet of HTML reports.
pub fn style() -> &'static str {
    template::STYLE
}
