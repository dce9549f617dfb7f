//! `pipeline show RUN`.

use std::fmt::Write as _;

use engine::Metric;
use engine::history::{RunChoice, RunRecord, StageRecord};

use super::answer::{Answer, Facts, columns};
use super::arguments::State;
use super::failure::Failure;
use super::quantity::{bytes, maybe_seconds};
use super::runs::word;

/// Shows everything about a run: its stages, metrics, gates and artifacts.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Run: a number or `latest`
    run: RunChoice,
    #[command(flatten)]
    state: State,
    #[command(flatten)]
    facts: Facts,
}

impl Show {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let record = self.state.history()?.run(self.run)?;
        Ok(self.facts.answer(&record, || text(&record)))
    }
}

fn text(record: &RunRecord) -> String {
    let run = &record.summary;
    let mut text = format!(
        "run {} of {}: {}, {}, started {:.0}, took {}\n",
        run.id,
        run.manifest_path.display(),
        run.trigger,
        word(&run.state),
        run.started_at,
        maybe_seconds(run.duration_s)
    );
    let machine = &record.environment;
    let (device, seed) = (&record.device, record.seed);
    let _infallible =
        writeln!(text, "device {device}, seed {seed}, {} × {}", machine.cores, machine.cpu_model);
    for note in &record.notes {
        let _infallible = write!(text, "{} ({:.0})", note.author, note.at);
        if let Some(verdict) = note.verdict {
            let _infallible = write!(text, " {}", verdict.word());
        }
        text.push_str(if note.text.is_empty() { "" } else { ": " });
        let _infallible = writeln!(text, "{}", note.text);
    }
    for change in &record.overrides {
        let _infallible = writeln!(text, "--set {change}");
    }
    for source in record.datasets.iter().chain(&record.models) {
        let size = bytes(source.size_bytes);
        let _infallible = writeln!(text, "{}: {}, {size}", source.name, source.origin);
    }
    record.stages.iter().for_each(|stage| text.push_str(&about(stage)));
    let table = reports::summary_table(record);
    if !table.rows.is_empty() {
        let _infallible = write!(text, "\n{table}");
    }
    text
}

fn about(stage: &StageRecord) -> String {
    let (name, kind, state) = (&stage.name, &stage.kind, word(&stage.state));
    let took = maybe_seconds(stage.work_s.or(stage.duration_s));
    let mut text = format!("\n{name} ({kind}): {state}, {took}, {}\n", stage.reason);
    if let Some(error) = &stage.error {
        let _infallible = writeln!(text, "  error: {error}");
    }
    for artifact in &stage.artifacts {
        let place = match &artifact.path {
            Some(path) => path.display().to_string(),
            None => "no longer in the store".to_owned(),
        };
        let size = bytes(artifact.size_bytes);
        let _infallible = writeln!(text, "  {name}.{}: {size}, {place}", artifact.port);
    }
    for gate in &stage.gates {
        let outcome = if gate.passed { "held" } else { "missed" };
        let value = gate.value.map_or_else(|| "not measured".to_owned(), |value| value.to_string());
        let _infallible = writeln!(text, "  {} = {}: {outcome}, {value}", gate.gate, gate.bound);
    }
    let header = ["metric", "value", "95 % interval", "samples"].map(|title| format!("  {title}"));
    let rows: Vec<_> = std::iter::once(header).chain(stage.metrics.iter().map(row)).collect();
    if rows.len() > 1 {
        text.push_str(&columns(&rows));
    }
    for metric in &stage.unavailable {
        let _infallible = writeln!(text, "  {}: unavailable, {}", metric.name, metric.reason);
    }
    text
}

fn row(metric: &Metric) -> [String; 4] {
    let interval = metric.low.zip(metric.high);
    [
        format!("  {}", metric.name),
        format!("  {} {}", metric.value, metric.unit),
        interval.map_or_else(String::new, |(low, high)| format!("  {low} to {high}")),
        metric.samples.map_or_else(String::new, |samples| format!("  {samples}")),
    ]
}
