//! Reading sweeps back.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;
use sqlx::sqlite::SqliteRow;

use super::database::HistoryError;
use super::read::{Bind, History, cell, is_alive, parsed, timestamp, unreadable, unsigned, word};
use super::sweep::*;
use crate::manifest::SweepSpec;
use crate::sweep::pareto;
use crate::sweep::space::Domain;

/// Watched values of each seed.
type Reached = Vec<Vec<f64>>;

/// Sweeps with the number of their trials in each state, and what follows.
macro_rules! summaries {
    ($rest:literal) => {
        concat!(
            "SELECT sweeps.*,
                (SELECT count(*) FROM trials WHERE sweep_id = sweeps.id AND trials.state = 'running') AS n_running,
                (SELECT count(*) FROM trials WHERE sweep_id = sweeps.id AND trials.state = 'done') AS n_done,
                (SELECT count(*) FROM trials WHERE sweep_id = sweeps.id AND trials.state = 'failed') AS n_failed,
                (SELECT count(*) FROM trials WHERE sweep_id = sweeps.id AND trials.state = 'paused') AS n_paused
             FROM sweeps ",
            $rest
        )
    };
}

impl History {
    /// The newest sweeps, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn sweeps(&self, limit: usize) -> Result<Vec<SweepSummary>, HistoryError> {
        let limit = Bind::Number(i64::try_from(limit).unwrap_or(i64::MAX));
        let rows = self.rows(summaries!("ORDER BY id DESC LIMIT ?"), &[limit])?;
        rows.iter().map(summary).collect()
    }

    /// Everything about one sweep.
    ///
    /// # Errors
    /// When there is no such sweep or the database cannot be read.
    pub fn sweep(&self, id: i64) -> Result<SweepRecord, HistoryError> {
        let rows = self.rows(summaries!("WHERE id = ?"), &[Bind::Number(id)])?;
        let row = rows.first().ok_or(HistoryError::NoSweep { id })?;
        let spec: Value = parsed("spec", &cell::<String>(row, "spec")?)?;
        let typed: SweepSpec = parsed("spec", &cell::<String>(row, "spec")?)?;
        let seeds: Vec<u64> = parsed("seeds", &cell::<String>(row, "seeds")?)?;
        let summary = summary(row)?;
        let mut trials = self.trials(id, &seeds, summary.state == SweepState::Running)?;
        let objectives = objectives(&typed);
        mark_best(&mut trials, &objectives);
        Ok(SweepRecord {
            summary,
            space: dimensions(&typed),
            objectives,
            constraints: constraints(&typed),
            seeds,
            trials,
            stage_runs: self.stage_run_counts(id)?,
            spec,
        })
    }

    /// Number of the sweep with this identity.
    pub(crate) fn sweep_of(&self, identity: &str) -> Result<Option<i64>, HistoryError> {
        let rows =
            self.rows("SELECT id FROM sweeps WHERE identity = ?", &[Bind::Text(identity)])?;
        rows.first().map(|row| cell(row, "id")).transpose()
    }

    fn trials(
        &self,
        sweep: i64,
        seeds: &[u64],
        is_going: bool,
    ) -> Result<Vec<TrialRecord>, HistoryError> {
        let id = [Bind::Number(sweep)];
        let mut runs: BTreeMap<i64, Vec<TrialRunRecord>> = BTreeMap::new();
        for row in &self.rows("SELECT * FROM trial_runs WHERE sweep_id = ?", &id)? {
            let seed: String = cell(row, "seed")?;
            runs.entry(cell(row, "number")?).or_default().push(TrialRunRecord {
                seed: seed.parse().map_err(|_| unreadable("seed", seed.clone()))?,
                run: cell(row, "run_id")?,
                done: cell(row, "done")?,
                objectives: parsed("objectives", &cell::<String>(row, "objectives")?)?,
                constraints: parsed("constraints", &cell::<String>(row, "constraints")?)?,
            });
        }
        let mut rungs = self.rungs(sweep, seeds)?;
        self.rows("SELECT * FROM trials WHERE sweep_id = ? ORDER BY number", &id)?
            .iter()
            .map(|row| {
                let number: i64 = cell(row, "number")?;
                let state = match word("state", cell(row, "state")?)? {
                    TrialState::Running if !is_going => TrialState::Interrupted,
                    state => state,
                };
                let rung: Option<i64> = cell(row, "rung")?;
                let mut rungs = rungs.remove(&number).unwrap_or_default();
                for reached in &mut rungs {
                    // It went on unless it is held at this very rung.
                    let held =
                        state == TrialState::Paused && rung == i64::try_from(reached.rung).ok();
                    reached.promoted = !held;
                }
                let mut runs = runs.remove(&number).unwrap_or_default();
                runs.sort_by_key(|run| seeds.iter().position(|seed| *seed == run.seed));
                let objectives: Option<String> = cell(row, "objectives")?;
                Ok(TrialRecord {
                    number: unsigned(number),
                    identity: cell(row, "identity")?,
                    state,
                    rung: rung.and_then(|rung| usize::try_from(rung).ok()),
                    params: parsed("params", &cell::<String>(row, "params")?)?,
                    objectives: match objectives {
                        Some(text) => {
                            parsed::<Vec<f64>>("objectives", &text)?.into_iter().map(Some).collect()
                        }
                        None => Vec::new(),
                    },
                    violation: cell(row, "violation")?,
                    best: false,
                    runs,
                    rungs,
                    error: cell(row, "error")?,
                })
            })
            .collect()
    }

    /// Rungs by trial, each once every seed has reached it.
    fn rungs(
        &self,
        sweep: i64,
        seeds: &[u64],
    ) -> Result<BTreeMap<i64, Vec<RungRecord>>, HistoryError> {
        let mut by_rung: BTreeMap<(i64, i64), (i64, Reached)> = BTreeMap::new();
        for row in &self.rows("SELECT * FROM rungs WHERE sweep_id = ?", &[Bind::Number(sweep)])? {
            let seed: String = cell(row, "seed")?;
            if !seeds.iter().any(|known| known.to_string() == seed) {
                continue;
            }
            let at = by_rung.entry((cell(row, "number")?, cell(row, "rung")?)).or_default();
            at.0 = cell(row, "epochs")?;
            at.1.push(parsed("reached", &cell::<String>(row, "reached")?)?);
        }
        let mut rungs: BTreeMap<i64, Vec<RungRecord>> = BTreeMap::new();
        for ((number, rung), (epochs, values)) in by_rung {
            if values.len() == seeds.len() {
                rungs.entry(number).or_default().push(RungRecord {
                    rung: usize::try_from(rung).unwrap_or_default(),
                    epochs: unsigned(epochs),
                    values: means(&values),
                    promoted: false,
                });
            }
        }
        Ok(rungs)
    }

    /// Stages of the sweep's measured runs, and how many of their results the sweep itself made.
    fn stage_run_counts(&self, sweep: i64) -> Result<StageRunCounts, HistoryError> {
        let rows = self.rows(
            "WITH own AS (
                SELECT id FROM runs WHERE json_extract(\"trigger\", '$.sweep.sweep') = ?1
             ), stages AS (
                SELECT key, coalesce(origin_run, run_id) AS origin FROM stage_runs
                WHERE run_id IN (SELECT run_id FROM trial_runs WHERE sweep_id = ?1)
                  AND stage_runs.state IN ('ran', 'hit')
             )
             SELECT (SELECT count(*) FROM stages) AS total,
                    (SELECT count(DISTINCT key) FROM stages WHERE origin IN own) AS ran",
            &[Bind::Number(sweep)],
        )?;
        let Some(row) = rows.first() else { return Ok(StageRunCounts::default()) };
        let (total, ran) = (unsigned(cell(row, "total")?), unsigned(cell(row, "ran")?));
        Ok(StageRunCounts { total, ran, saved: total - ran })
    }
}

fn summary(row: &SqliteRow) -> Result<SweepSummary, HistoryError> {
    let spec: SweepSpec = parsed("spec", &cell::<String>(row, "spec")?)?;
    let state = match word("state", cell(row, "state")?)? {
        SweepState::Running if !is_alive(row)? => SweepState::Interrupted,
        state => state,
    };
    let unended = unsigned(cell(row, "n_running")?);
    let is_going = state == SweepState::Running;
    Ok(SweepSummary {
        id: cell(row, "id")?,
        manifest: cell(row, "manifest")?,
        manifest_path: PathBuf::from(cell::<String>(row, "manifest_path")?),
        state,
        started_at: timestamp(cell(row, "started_at")?)?,
        duration_s: cell(row, "duration_s")?,
        sampler: spec.sampler.name().to_owned(),
        asked: unsigned(cell(row, "asked")?),
        running: if is_going { unended } else { 0 },
        interrupted: if is_going { 0 } else { unended },
        done: unsigned(cell(row, "n_done")?),
        failed: unsigned(cell(row, "n_failed")?),
        paused: unsigned(cell(row, "n_paused")?),
    })
}

fn dimensions(spec: &SweepSpec) -> Vec<DimensionRecord> {
    let space = spec.space().map(|space| space.dimensions).unwrap_or_default();
    space
        .into_iter()
        .map(|dimension| DimensionRecord {
            log: matches!(
                dimension.domain,
                Domain::LogUniform { .. } | Domain::Int { log: true, .. }
            ),
            domain: serde_json::to_value(&spec.space[&dimension.name]).unwrap_or_default(),
            name: dimension.name,
        })
        .collect()
}

fn objectives(spec: &SweepSpec) -> Vec<ObjectiveRecord> {
    let record = |objective: &crate::manifest::Objective| {
        let (stage, metric) = objective.target()?;
        let (stage, metric) = (stage.to_owned(), metric.to_owned());
        Some(ObjectiveRecord { stage, metric, maximize: objective.maximize() })
    };
    spec.objectives.iter().filter_map(record).collect()
}

fn constraints(spec: &SweepSpec) -> Vec<ConstraintRecord> {
    spec.gates()
        .map(|(stage, gate)| ConstraintRecord {
            stage: stage.to_owned(),
            gate: gate.key(),
            bound: gate.limit,
        })
        .collect()
}

/// Column means of rows of equal length.
pub(crate) fn means(rows: &[Vec<f64>]) -> Vec<f64> {
    let width = rows.first().map_or(0, Vec::len);
    let mean = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).sum::<f64>() / rows.len().max(1) as f64
    };
    (0..width).map(mean).collect()
}

/// Marks the trials that no other beats: the first front among those that are done.
fn mark_best(trials: &mut [TrialRecord], objectives: &[ObjectiveRecord]) {
    let done: Vec<usize> = (0..trials.len())
        .filter(|&index| {
            let trial = &trials[index];
            trial.state == TrialState::Done && trial.objectives.len() == objectives.len()
        })
        .collect();
    let minimized: Vec<Vec<f64>> = done
        .iter()
        .map(|&index| {
            let values = trials[index].objectives.iter().zip(objectives);
            let minimized = values.map(|(value, objective)| {
                let value = value.unwrap_or(f64::NAN);
                if objective.maximize { -value } else { value }
            });
            minimized.collect()
        })
        .collect();
    let points: Vec<pareto::Point<'_>> = done
        .iter()
        .zip(&minimized)
        .map(|(&index, objectives)| {
            let violation = trials[index].violation.unwrap_or(0.0);
            pareto::Point { objectives, violation }
        })
        .collect();
    if let Some(first) = pareto::non_dominated_sort(&points).first() {
        for &index in first {
            let trial = &mut trials[done[index]];
            trial.best = trial.violation.is_none_or(|violation| violation <= 0.0);
        }
    }
}
