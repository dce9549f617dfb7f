//! Everything a report says, as one struct that the templates print.

mod drawings;
mod inspected;
mod loads;
mod measurements;
mod stages;

use engine::history::{NoteRecord, RunRecord, RunState, StageRecord};
use serde::Serialize;

use crate::chain::{self, Model};
use crate::compare::{self, Setting};
use crate::dag::{self, Dag};
use crate::groups;
use crate::inspection::Inspections;
use crate::lineage::{self, Lineage};
use crate::plot::{Bars, Plot};
use crate::quantity::{ABSENT, quantity, seconds};
use crate::table::{self, Cell, Table, Verdict};
use crate::timeline::{self, Savings, Timeline};
use crate::versus::Versus;

use drawings::Drawings;
use inspected::InspectedViews;
use measurements::Grid;
use stages::{Failure, GateView, Missing, StageView};

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
    /// Groups of runs against the baseline, model by model.
    pub(crate) versus: Versus,
    pub(crate) pareto: Option<Plot>,
    /// Accuracy against file size.
    pub(crate) sizes: Option<Plot>,
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
    pub(crate) timeline: Option<Timeline>,
    pub(crate) savings: Option<Savings>,
    pub(crate) lineage: Option<Lineage>,
    pub(crate) inspected: InspectedViews,
    pub(crate) loads: Vec<Plot>,
    pub(crate) energy: Option<Bars>,
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

/// Something with a digest.
#[derive(Debug, Serialize)]
pub(crate) struct Provenance {
    pub(crate) name: String,
    /// Kind of an artifact, or where a source came from.
    pub(crate) about: String,
    pub(crate) size: String,
    pub(crate) digest: String,
}

/// Reads what a report says out of the records of `runs`, of which there is at least one;
/// `baseline` is the index of the run that the others are compared with.
pub(crate) fn read(runs: &[RunRecord], baseline: usize, inspections: &Inspections) -> Page {
    let views: Vec<RunView> = runs.iter().map(|run| read_run(run, inspections)).collect();
    let mut manifests: Vec<&str> = views.iter().map(|run| run.manifest.as_str()).collect();
    manifests.dedup();
    let numbers: Vec<String> = views.iter().map(|run| run.id.to_string()).collect();
    let word = if runs.len() == 1 { "run" } else { "runs" };
    Page {
        title: format!("{}, {word} {}", manifests.join(" and "), numbers.join(", ")),
        comparison: (runs.len() > 1).then(|| compare(runs, baseline)),
        runs: views,
    }
}

fn compare(runs: &[RunRecord], baseline: usize) -> Comparison {
    let chains: Vec<(String, Vec<Model>)> =
        runs.iter().map(|run| (run_name(run), chain::models(run))).collect();
    Comparison {
        names: chains.iter().map(|(name, _)| name.clone()).collect(),
        versus: groups::compare(runs, baseline),
        pareto: drawings::pareto(&chains, "latency p50"),
        sizes: drawings::pareto(&chains, "file size"),
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

fn read_run(run: &RunRecord, inspections: &Inspections) -> RunView {
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
        timeline: timeline::draw(run),
        savings: timeline::savings(run),
        lineage: lineage::read(run),
        inspected: inspected::read(run, inspections),
        loads: loads::curves(run),
        energy: loads::energy(&models),
        measurements: measurements::all(&models),
        throughput: measurements::throughput(&models),
        table,
        dag: dag::draw(run),
        stages: run.stages.iter().map(stages::read_stage).collect(),
        failures: run.stages.iter().filter_map(stages::failure).collect(),
        gates: run.stages.iter().flat_map(stages::gates).collect(),
        unavailable: run.stages.iter().flat_map(stages::missing).collect(),
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
        RunState::Paused => {
            "Early stopping of a sweep holds this run at a checkpoint. The report shows what it had \
             reached."
        }
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
