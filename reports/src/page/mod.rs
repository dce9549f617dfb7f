//! Everything a report says, as one struct that the templates print.

mod drawings;
mod measurements;

use engine::Metric;
use engine::history::{NoteRecord, RunRecord, RunState, StageRecord};
use serde::Serialize;

use crate::chain::{self, Model};
use crate::compare::{self, Setting};
use crate::dag::{self, Dag};
use crate::plot::Plot;
use crate::quantity::{ABSENT, exact, interval, quantity, seconds};
use crate::table::{self, Cell, Table, Verdict};

use drawings::Drawings;
use measurements::Grid;

/// A report.
#[derive(Debug, Serialize)]
pub(crate) struct Page {
    pub(crate) title: String,
    /// With several runs only.
    pub(crate) comparison: Option<Comparison>,
    pub(crate) runs: Vec<RunView>,
}

/// Several runs side by side.
#[derive(Debug, Serialize)]
pub(crate) struct Comparison {
    pub(crate) names: Vec<String>,
    pub(crate) table: Table,
    pub(crate) pareto: Option<Plot>,
    pub(crate) curves: Vec<Plot>,
    pub(crate) parameters: Settings,
    pub(crate) environments: Settings,
}

/// Settings that differ and those that do not.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    pub(crate) differing: Vec<Setting>,
    pub(crate) same: Vec<Setting>,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct RunView {
    pub(crate) id: i64,
    pub(crate) manifest: String,
    pub(crate) manifest_path: String,
    pub(crate) manifest_text: String,
    pub(crate) overrides: Vec<String>,
    pub(crate) state: RunState,
    /// What the state means, in a sentence; empty for a run that is done.
    pub(crate) state_note: String,
    pub(crate) started: String,
    pub(crate) duration: String,
    pub(crate) counts: String,
    pub(crate) device: String,
    pub(crate) seed: u64,
    pub(crate) claims: Vec<Claim>,
    pub(crate) notes: Vec<NoteView>,
    pub(crate) table: Table,
    pub(crate) drawings: Drawings,
    pub(crate) measurements: Grid,
    pub(crate) throughput: Grid,
    pub(crate) dag: Option<Dag>,
    pub(crate) stages: Vec<StageView>,
    pub(crate) failures: Vec<Failure>,
    pub(crate) gates: Vec<GateView>,
    pub(crate) unavailable: Vec<Missing>,
    pub(crate) environment: Vec<(&'static str, String)>,
    pub(crate) sources: Vec<Provenance>,
    pub(crate) artifacts: Vec<Provenance>,
    pub(crate) keys: Vec<(String, String)>,
}

/// What someone said about a run.
#[derive(Debug, Serialize)]
pub(crate) struct NoteView {
    pub(crate) id: i64,
    pub(crate) at: String,
    pub(crate) author: String,
    pub(crate) verdict: Option<&'static str>,
    pub(crate) text: String,
}

/// What the last model of the chain has over the first.
#[derive(Debug, Serialize)]
pub(crate) struct Claim {
    pub(crate) label: String,
    pub(crate) value: String,
    pub(crate) interval: Option<String>,
    pub(crate) change: String,
    pub(crate) verdict: Verdict,
    /// The number of the first model.
    pub(crate) base: String,
}

/// A stage in the list of stages.
#[derive(Debug, Serialize)]
pub(crate) struct StageView {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) state: &'static str,
    pub(crate) duration: String,
    pub(crate) reason: String,
    pub(crate) attempts: Vec<String>,
    pub(crate) parameters: Vec<(String, String)>,
    pub(crate) metrics: Vec<MetricView>,
}

/// A metric with all that was recorded about it.
#[derive(Debug, Serialize)]
pub(crate) struct MetricView {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) interval: Option<String>,
    pub(crate) split: Option<String>,
    pub(crate) samples: Option<u64>,
}

/// What went wrong in a stage.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    pub(crate) stage: String,
    pub(crate) state: &'static str,
    pub(crate) error: String,
}

/// A gate and how it came out.
#[derive(Debug, Serialize)]
pub(crate) struct GateView {
    pub(crate) stage: String,
    pub(crate) gate: String,
    pub(crate) metric: String,
    pub(crate) bound: String,
    pub(crate) value: String,
    pub(crate) passed: bool,
}

/// Metrics that a stage could not measure for one reason.
#[derive(Debug, Serialize)]
pub(crate) struct Missing {
    pub(crate) stage: String,
    pub(crate) names: Vec<String>,
    pub(crate) reason: String,
}

/// Something with a digest.
#[derive(Debug, Serialize)]
pub(crate) struct Provenance {
    pub(crate) name: String,
    /// Kind of an artifact, or where a source came from.
    pub(crate) about: String,
    pub(crate) size: String,
    pub(crate) digest: String,
}

/// Reads what a report says out of the records of `runs`, of which there is at least one.
pub(crate) fn read(runs: &[RunRecord]) -> Page {
    let views: Vec<RunView> = runs.iter().map(read_run).collect();
    let mut manifests: Vec<&str> = views.iter().map(|run| run.manifest.as_str()).collect();
    manifests.dedup();
    let numbers: Vec<String> = views.iter().map(|run| run.id.to_string()).collect();
    let word = if runs.len() == 1 { "run" } else { "runs" };
    Page {
        title: format!("{}, {word} {}", manifests.join(" and "), numbers.join(", ")),
        comparison: (runs.len() > 1).then(|| compare(runs)),
        runs: views,
    }
}

fn compare(runs: &[RunRecord]) -> Comparison {
    let chains: Vec<(String, Vec<Model>)> =
        runs.iter().map(|run| (run_name(run), chain::models(run))).collect();
    let in_run = |(name, models): &(String, Vec<Model>)| {
        let rename = |model: &Model| model.named(format!("{name} · {}", model.name));
        models.iter().map(rename).collect::<Vec<_>>()
    };
    let all: Vec<Model> = chains.iter().flat_map(in_run).collect();
    Comparison {
        names: chains.iter().map(|(name, _)| name.clone()).collect(),
        table: table::of_models(&all),
        pareto: drawings::pareto(&chains),
        curves: drawings::curves_of_runs(runs),
        parameters: Settings::split(compare::parameters(runs)),
        environments: Settings::split(compare::environments(runs)),
    }
}

/// What a run is called where several are shown.
pub(crate) fn run_name(run: &RunRecord) -> String {
    format!("{} #{}", run.summary.manifest, run.summary.id)
}

impl Settings {
    fn split(settings: Vec<Setting>) -> Self {
        let (differing, same) = settings.into_iter().partition(|setting| setting.differs);
        Self { differing, same }
    }
}

fn read_run(run: &RunRecord) -> RunView {
    let models = chain::models(run);
    let table = table::of_models(&models);
    let summary = &run.summary;
    RunView {
        id: summary.id,
        manifest: summary.manifest.clone(),
        manifest_path: summary.manifest_path.display().to_string(),
        manifest_text: run.manifest_text.clone(),
        overrides: run.overrides.clone(),
        state: summary.state,
        state_note: state_note(summary.state).to_owned(),
        started: summary.started_at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        duration: summary.duration_s.map_or_else(|| ABSENT.to_owned(), seconds),
        counts: format!("{} ran, {} cached, {} failed", summary.ran, summary.hits, summary.failed),
        device: run.device.clone(),
        seed: run.seed,
        claims: claims(&table),
        notes: run.notes.iter().map(note).collect(),
        drawings: drawings::draw(run, &models),
        measurements: measurements::all(&models),
        throughput: measurements::throughput(&models),
        table,
        dag: dag::draw(run),
        stages: run.stages.iter().map(read_stage).collect(),
        failures: run.stages.iter().filter_map(failure).collect(),
        gates: run.stages.iter().flat_map(gates).collect(),
        unavailable: run.stages.iter().flat_map(missing).collect(),
        environment: compare::environment(run),
        sources: run.datasets.iter().chain(&run.models).map(source).collect(),
        artifacts: run.stages.iter().flat_map(artifacts).collect(),
        keys: run.stages.iter().filter_map(key).collect(),
    }
}

fn state_note(state: RunState) -> &'static str {
    match state {
        RunState::Done => "",
        RunState::Running => {
            "This run is still going, or was killed before it could say how it ended. The report \
             shows what is recorded so far."
        }
        RunState::Failed => "A stage or a gate of this run failed. The report shows what is there.",
        RunState::Interrupted => "Someone stopped this run. Run the manifest again to continue it.",
    }
}

fn note(note: &NoteRecord) -> NoteView {
    NoteView {
        id: note.id,
        at: note.at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        author: note.author.clone(),
        verdict: note.verdict.map(|verdict| verdict.word()),
        text: note.text.clone(),
    }
}

fn claims(table: &Table) -> Vec<Claim> {
    let (Some(first), Some(last)) = (table.rows.first(), table.rows.last()) else {
        return Vec::new();
    };
    let claim = |((title, base), cell): ((&String, &Cell), &Cell)| {
        let change = cell.change.as_ref()?;
        Some(Claim {
            label: title.clone(),
            value: cell.text.clone(),
            interval: cell.interval.clone(),
            change: change.text.clone(),
            verdict: change.verdict,
            base: format!("{}: {}", first[0].text, base.text),
        })
    };
    table.columns.iter().zip(first).zip(last).filter_map(claim).collect()
}

fn read_stage(stage: &StageRecord) -> StageView {
    // These have drawings and tables of their own.
    let is_shown_elsewhere = |metric: &&Metric| {
        metric.name.starts_with("bench/") || metric.name.starts_with("sensitivity/")
    };
    let duration = dag::status(stage);
    let (_, duration) = duration.split_once(" · ").unwrap_or(("", ABSENT));
    let attempt = |attempt: &engine::history::AttemptRecord| {
        let mut text = format!("attempt {}: {}", attempt.number, attempt.outcome);
        if let Some(duration) = attempt.duration_s {
            text.push_str(&format!(" after {}", seconds(duration)));
        }
        if let Some(error) = &attempt.error {
            text.push_str(&format!(": {error}"));
        }
        text
    };
    StageView {
        name: stage.name.clone(),
        kind: stage.kind.clone(),
        state: dag::state_word(stage.state),
        duration: duration.to_owned(),
        reason: stage.reason.clone(),
        // A single attempt says no more than the stage does.
        attempts: stage.attempts.iter().filter(|_| stage.attempts.len() > 1).map(attempt).collect(),
        parameters: compare::flatten(&stage.params),
        metrics: stage
            .metrics
            .iter()
            .filter(|metric| !is_shown_elsewhere(metric))
            .map(metric_view)
            .collect(),
    }
}

fn metric_view(metric: &Metric) -> MetricView {
    let ends = metric.low.zip(metric.high);
    MetricView {
        name: metric.name.clone(),
        value: quantity(metric.value, &metric.unit),
        interval: ends.map(|(low, high)| interval(low, high, &metric.unit)),
        split: metric.split.clone(),
        samples: metric.samples,
    }
}

fn failure(stage: &StageRecord) -> Option<Failure> {
    let error = stage.error.clone()?;
    Some(Failure { stage: stage.name.clone(), state: dag::state_word(stage.state), error })
}

fn gates(stage: &StageRecord) -> impl Iterator<Item = GateView> {
    stage.gates.iter().map(|gate| {
        let unit = stage
            .metrics
            .iter()
            .find(|metric| Some(&metric.name) == gate.metric.as_ref())
            .map(|metric| metric.unit.as_str());
        let text = |value: f64| match unit {
            // Percentages are rounded; beside a bound every digit counts.
            None | Some("fraction" | "count" | "") => exact(rounded(value)),
            Some(unit) => format!("{} {unit}", exact(rounded(value))),
        };
        GateView {
            stage: stage.name.clone(),
            gate: gate.gate.clone(),
            metric: gate.metric.clone().unwrap_or_else(|| "not reported".to_owned()),
            bound: text(gate.bound),
            value: gate.value.map_or_else(|| ABSENT.to_owned(), text),
            passed: gate.passed,
        }
    })
}

/// Six significant digits: no measurement here has more.
fn rounded(value: f64) -> f64 {
    format!("{value:.5e}").parse().unwrap_or(value)
}

fn missing(stage: &StageRecord) -> Vec<Missing> {
    let mut groups: Vec<Missing> = Vec::new();
    for missing in &stage.unavailable {
        match groups.iter_mut().find(|group| group.reason == missing.reason) {
            Some(group) => group.names.push(missing.name.clone()),
            None => groups.push(Missing {
                stage: stage.name.clone(),
                names: vec![missing.name.clone()],
                reason: missing.reason.clone(),
            }),
        }
    }
    groups
}

fn source(source: &engine::history::SourceRecord) -> Provenance {
    Provenance {
        name: source.name.clone(),
        about: source.origin.clone(),
        size: quantity(source.size_bytes as f64, "bytes"),
        digest: source.digest.clone(),
    }
}

fn artifacts(stage: &StageRecord) -> impl Iterator<Item = Provenance> {
    stage.artifacts.iter().map(|artifact| Provenance {
        name: format!("{}.{}", stage.name, artifact.port),
        about: artifact.kind.clone(),
        size: quantity(artifact.size_bytes as f64, "bytes"),
        digest: artifact.digest.clone(),
    })
}

fn key(stage: &StageRecord) -> Option<(String, String)> {
    Some((stage.name.clone(), stage.key.clone()?))
}
