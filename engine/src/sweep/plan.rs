//! What a sweep would cost: how many stage runs its trials share.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde_json::json;

use super::board::Board;
use super::measure::{overrides, targets};
use super::sampler::{Ask, Sampler};
use super::space::Params;
use crate::error::Error;
use crate::key::{self, KeyInput};
use crate::manifest::{Manifest, Reference};
use crate::plan::{Part, Selection, parts};
use crate::project::Project;
use crate::store::Digest;

/// Most trials whose stages are counted one by one.
const PLANNED_MAX: u64 = 1000;

/// What a sweep would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct SweepPlan {
    /// The sweep it goes on with, if it has begun.
    pub sweep: Option<i64>,
    /// How parameters are drawn.
    pub sampler: String,
    /// Trials there are to be.
    pub trials: u64,
    /// Trials that are there already.
    pub known: u64,
    /// Seeds of every trial.
    pub seeds: Vec<u64>,
    /// Stages of a run that goes to its end, upstream first.
    pub stages: Vec<String>,
    /// Stages of all trials and seeds.
    pub stage_runs: u64,
    /// Those that differ, and have to run once.
    pub needed: u64,
    /// Those that a trial shares with an earlier one.
    pub saved: u64,
    /// Whether the numbers rest on drawn parameters that stand for those not known before the run,
    /// or on the first of very many trials.
    pub estimated: bool,
    /// Epochs at which early stopping holds trials.
    pub rungs: Vec<u64>,
    /// Seconds of all stages that have to run, from history, without early stopping; `None` where
    /// history does not know them all.
    pub expected_s: Option<f64>,
}

/// Counts the stage runs of the board's trials.
pub(super) fn plan(
    project: &Project,
    set: &[String],
    board: &Board,
    sweep: Option<i64>,
) -> Result<SweepPlan, Error> {
    let base = project.check(set)?;
    let selection = Selection { until: targets(&board.spec), ..Selection::default() };
    let mut distinct = BTreeMap::new();
    let mut stage_runs = 0_u32;
    let history = project.history()?;
    let planned = stand_ins(board)?;
    let is_cut = planned.len() as u64 == PLANNED_MAX && board.asked > PLANNED_MAX;
    // The trials beyond are taken to share as much as those that are looked at.
    let share = if is_cut { board.asked as f64 / PLANNED_MAX as f64 } else { 1.0 };
    for params in planned {
        for seed in &board.seeds {
            let set = [set, &overrides(&params, *seed)].concat();
            let manifest = project.check(&set)?;
            let included = parts(&manifest, &selection)?;
            let mut known: BTreeMap<String, Digest> = BTreeMap::new();
            for (spec, part) in manifest.stages.iter().zip(&included) {
                if *part == Part::Left {
                    continue;
                }
                stage_runs += 1;
                let key = structural_key(&manifest, spec, &mut known);
                distinct.entry(key).or_insert_with(|| spec.name.clone());
            }
        }
    }
    let needed = (distinct.len() as f64 * share) as u64;
    let stage_runs = (f64::from(stage_runs) * share) as u64;
    let mut expected_s = Some(0.0);
    for name in distinct.into_values().collect::<Vec<_>>() {
        let kind = base.stage(&name).map_or("", |stage| stage.stage.kind());
        let seconds = history.expected_s(project.manifest_file(), &name, kind)?;
        expected_s = expected_s.zip(seconds).map(|(sum, seconds)| sum + seconds * share);
    }
    let ladder = board.ladder.iter();
    Ok(SweepPlan {
        sweep,
        sampler: board.spec.sampler.name().to_owned(),
        trials: board.asked,
        known: board.trials.len() as u64,
        seeds: board.seeds.clone(),
        stages: base
            .stages
            .iter()
            .zip(parts(&base, &selection)?)
            .filter(|(_, part)| *part != Part::Left)
            .map(|(stage, _)| stage.name.clone())
            .collect(),
        stage_runs,
        needed,
        saved: stage_runs - needed,
        estimated: is_cut || !matches!(board.spec.sampler, Sampler::Grid | Sampler::Zip),
        rungs: ladder
            .flat_map(|ladder| (0..ladder.len()).filter_map(|rung| ladder.epochs(rung)))
            .collect(),
        expected_s,
    })
}

/// Parameters of all trials, or of the first of very many: those that are known, and for the rest
/// such as may be drawn.
fn stand_ins(board: &Board) -> Result<Vec<Params>, Error> {
    let mut params: Vec<Params> = board.trials.iter().map(|trial| trial.params.clone()).collect();
    params.truncate(PLANNED_MAX as usize);
    let wanted = board.asked.min(PLANNED_MAX);
    let sampler = match &board.spec.sampler {
        Sampler::Grid => Sampler::Grid,
        Sampler::Zip => Sampler::Zip,
        Sampler::Random | Sampler::Tpe(_) | Sampler::Nsga2(_) => Sampler::Random,
    };
    let mut seen: BTreeSet<String> =
        params.iter().map(|params| json!(params).to_string()).collect();
    // A small space runs out of new parameters long before this.
    for number in 0..4 * wanted {
        if params.len() as u64 >= wanted {
            break;
        }
        let ask = Ask { space: &board.space, seed: board.seed, number, history: &[] };
        let proposal = sampler.ask(&ask);
        match proposal.map_err(|error| Error::command(error.to_string(), None))? {
            Some(proposal) if seen.insert(json!(proposal.params).to_string()) => {
                params.push(proposal.params);
            }
            Some(_) => {}
            None => break,
        }
    }
    Ok(params)
}

/// What tells stages apart before anything has run: their key with upstream stages in the place of
/// what those will write.
fn structural_key(
    manifest: &Manifest,
    spec: &crate::manifest::StageSpec,
    known: &mut BTreeMap<String, Digest>,
) -> Digest {
    let references: BTreeMap<&str, String> =
        spec.inputs.iter().map(|(port, from)| (port.as_str(), from.to_string())).collect();
    for (port, reference) in &spec.inputs {
        if !matches!(reference, Reference::Stage { .. }) {
            let name = &references[port.as_str()];
            known.entry(name.clone()).or_insert_with(|| key::digest(&json!(name)));
        }
    }
    let inputs = spec
        .inputs
        .iter()
        .map(|(port, from)| {
            let dataset = match from {
                Reference::Data(name) => manifest.data.get(name),
                Reference::Model(_) | Reference::Stage { .. } => None,
            };
            (port.as_str(), KeyInput { digest: known.get(&references[port.as_str()]), dataset })
        })
        .collect();
    let digest = key::digest(&key::document(spec, &inputs, manifest.seed, "any"));
    for port in spec.stage.outputs() {
        let output = key::digest(&json!([digest, port.name]));
        known.insert(format!("{}.{}", spec.name, port.name), output);
    }
    digest
}
