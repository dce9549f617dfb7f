//! `pipeline run MANIFEST`.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use engine::history::{RunChoice, RunRecord, Trigger};
use engine::{Project, RunReport};
use reports::Format;
use serde_json::json;

use super::answer::{Answer, Facts, columns, print_line};
use super::arguments::{Asked, ManifestFile};
use super::failure::Failure;
use super::plan::look_ahead;
use super::progress::Progress;
use super::quantity::seconds;
use super::runs::word;

/// Runs the stages of a manifest that are not cached yet.
#[derive(Debug, clap::Args)]
pub(super) struct Run {
    #[command(flatten)]
    manifest: ManifestFile,
    #[command(flatten)]
    asked: Asked,
    /// After a failure go on with what does not depend on it
    #[arg(long)]
    keep_going: bool,
    /// Stages at once
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    jobs: Option<u16>,
    /// Say what would run, like `plan`
    #[arg(long)]
    dry_run: bool,
    /// What starts the run, as JSON; schedulers say so
    #[arg(long, value_name = "TRIGGER", hide = true, default_value = "\"manual\"")]
    trigger: Trigger,
    /// Print one JSON event a line with stable field names
    #[arg(long)]
    json: bool,
}

impl Run {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let mut options = self.asked.options(&self.manifest);
        options.keep_going = self.keep_going;
        options.jobs = self.jobs.map(usize::from);
        options.trigger = self.trigger.clone();
        if self.dry_run {
            return look_ahead(&self.manifest, &options, Facts { json: self.json });
        }
        let project = self.manifest.project()?;
        let report = if self.json {
            project.run(&options, &mut |event| print_line(event))?
        } else {
            let mut progress = Progress::to_stderr();
            let report = project.run(&options, &mut |event| progress.hear(event));
            progress.end();
            report?
        };
        let record = project.history()?.run(RunChoice::Id(report.run))?;
        // A run that is done stays done, with its page or without.
        let page = match write_page(&project, &record) {
            Ok(page) => Some(page),
            Err(failure) => {
                failure.print();
                None
            }
        };
        let code = report.exit_code();
        if self.json {
            let table = reports::summary_table(&record);
            print_line(&json!({ "event": "report-written", "path": page, "summary": table }));
            return Ok(Answer::default().with_code(code));
        }
        Ok(Answer::text(summary(&report, &record, page.as_deref())).with_code(code))
    }
}

/// Writes the HTML report of a run into the state folder.
fn write_page(project: &Project, record: &RunRecord) -> Result<PathBuf, Failure> {
    let folder = project.home().join("reports");
    let path = folder.join(format!("{}.html", record.summary.id));
    let page = reports::render(std::slice::from_ref(record), Format::Html)
        .context("cannot make the report")?;
    let written = || {
        std::fs::create_dir_all(&folder)?;
        let mut file = tempfile::NamedTempFile::new_in(&folder)?;
        file.write_all(page.as_bytes())?;
        file.persist(&path)?;
        io::Result::Ok(())
    };
    written().with_context(|| format!("cannot write the report {}", path.display()))?;
    Ok(path)
}

fn summary(report: &RunReport, record: &RunRecord, page: Option<&Path>) -> String {
    let header = ["stage", "state", "time", "why"].map(str::to_owned);
    let rows = report.stages.iter().map(|stage| {
        let time = if stage.duration_s > 0.0 { seconds(stage.duration_s) } else { String::new() };
        // A failure's details were told when it happened; here one line has to do.
        let failure = stage.error.as_ref().and_then(|error| error.lines().next());
        let why = failure.unwrap_or(&stage.reason).to_owned();
        [stage.name.clone(), word(&stage.state), time, why]
    });
    let mut text = columns(&std::iter::once(header).chain(rows).collect::<Vec<_>>());
    let table = reports::summary_table(record);
    if !table.rows.is_empty() {
        let _infallible = write!(text, "\n{table}");
    }
    let (run, state) = (report.run, word(&report.state));
    let took = seconds(report.duration_s);
    let _infallible = write!(text, "\nrun {run}: {state} in {took}\n");
    if let Some(page) = page {
        let _infallible = writeln!(text, "report: {}", shown(page));
    }
    text
}

/// A path from the current folder where it lies inside.
fn shown(path: &Path) -> String {
    let here = std::env::current_dir().ok();
    let inside = here.and_then(|here| path.strip_prefix(here).ok());
    inside.unwrap_or(path).display().to_string()
}
