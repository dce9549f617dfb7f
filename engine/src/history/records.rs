//! Reading whole runs: one query a table, however many runs and stages there are.

use std::collections::BTreeMap;

use serde_json::{Map, Value};
use sqlx::sqlite::SqliteRow;

use super::database::HistoryError;
use super::live::log_path;
use super::read::{
    Bind, History, RunChoice, cell, document, metric, parsed, summaries, summary, timestamp,
    unreadable, unsigned, word,
};
use super::record::*;
use crate::protocol::Unavailable;
use crate::store::Store;

type Fallible<T> = Result<T, HistoryError>;

/// Rows of a table by the run or stage run they belong to, in the order read.
struct Grouped<T>(BTreeMap<i64, Vec<T>>);

impl<T> Grouped<T> {
    fn take(&mut self, owner: i64) -> Vec<T> {
        self.0.remove(&owner).unwrap_or_default()
    }
}

/// What belongs to the stages of the chosen runs.
struct Details {
    params: Grouped<(String, Value)>,
    inputs: Grouped<EdgeRecord>,
    artifacts: Grouped<ArtifactRecord>,
    attempts: Grouped<AttemptRecord>,
    metrics: Grouped<crate::protocol::Metric>,
    unavailable: Grouped<Unavailable>,
    gates: Grouped<GateRecord>,
    series: BTreeMap<i64, Vec<Series>>,
}

impl History {
    /// Everything about one run.
    ///
    /// # Errors
    /// When there is no such run or the database cannot be read.
    pub fn run(&self, choice: RunChoice) -> Fallible<RunRecord> {
        Ok(self.records(&[choice])?.remove(0))
    }

    /// Everything about some runs, in the order asked for.
    ///
    /// # Errors
    /// When one of them is not there or the database cannot be read.
    pub fn records(&self, choices: &[RunChoice]) -> Fallible<Vec<RunRecord>> {
        let latest = match choices.contains(&RunChoice::Latest) {
            true => self.runs(1)?.first().map(|run| run.id),
            false => None,
        };
        let missing = |id: Option<i64>| HistoryError::NoRun {
            id: id.map_or_else(|| "yet".to_owned(), |id| id.to_string()),
        };
        let ids = choices.iter().map(|choice| match choice {
            RunChoice::Id(id) => Ok(*id),
            RunChoice::Latest => latest.ok_or_else(|| missing(None)),
        });
        let ids: Vec<i64> = ids.collect::<Fallible<_>>()?;
        let chosen = serde_json::to_string(&ids).expect("plain JSON");
        let mut records = self.read_all(&chosen)?;
        for id in &ids {
            if !records.contains_key(id) {
                return Err(missing(Some(*id)));
            }
        }
        let mut last_use: BTreeMap<i64, usize> = BTreeMap::new();
        last_use.extend(ids.iter().enumerate().map(|(index, id)| (*id, index)));
        let found = ids.iter().enumerate().filter_map(|(index, id)| {
            if last_use[id] == index { records.remove(id) } else { records.get(id).cloned() }
        });
        Ok(found.collect())
    }

    /// The runs of a JSON list of numbers.
    fn read_all(&self, chosen: &str) -> Fallible<BTreeMap<i64, RunRecord>> {
        let runs = self.rows(
            summaries!("WHERE id IN (SELECT value FROM json_each(?))"),
            &[Bind::Text(chosen)],
        )?;
        let mut sources = self.grouped(
            "SELECT run_id AS owner, * FROM sources WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY run_id, name",
            chosen,
            source,
        )?;
        let mut environments = self.grouped(
            "SELECT run_id AS owner, * FROM environment WHERE run_id IN (SELECT value FROM json_each(?))",
            chosen,
            |row| named_value(row, "environment"),
        )?;
        let mut stages = self.stages(chosen)?;
        let mut records = BTreeMap::new();
        for row in &runs {
            let summary = summary(row)?;
            let id = summary.id;
            let mut stages = stages.take(id);
            if summary.state != RunState::Running {
                // Killed with its run.
                for stage in stages.iter_mut().filter(|stage| stage.state == StageState::Running) {
                    stage.state = StageState::Interrupted;
                }
            }
            let (datasets, models) =
                sources.take(id).into_iter().partition(|source| source.name.starts_with("data."));
            let environment = Value::Object(environments.take(id).into_iter().collect());
            let seed: String = cell(row, "seed")?;
            let record = RunRecord {
                summary,
                seed: seed.parse().map_err(|_| unreadable("seed", seed))?,
                device: cell(row, "device")?,
                manifest_text: cell(row, "manifest_text")?,
                overrides: parsed("overrides", &cell::<String>(row, "overrides")?)?,
                environment: serde_json::from_value(environment)
                    .map_err(|error| unreadable("environment", error.to_string()))?,
                datasets,
                models,
                stages,
                notes: self.notes(id)?,
            };
            records.insert(id, record);
        }
        Ok(records)
    }

    fn grouped<T>(
        &self,
        sql: &'static str,
        chosen: &str,
        read: impl Fn(&SqliteRow) -> Fallible<T>,
    ) -> Fallible<Grouped<T>> {
        let mut groups: BTreeMap<i64, Vec<T>> = BTreeMap::new();
        for row in &self.rows(sql, &[Bind::Text(chosen)])? {
            groups.entry(cell(row, "owner")?).or_default().push(read(row)?);
        }
        Ok(Grouped(groups))
    }

    fn details(&self, chosen: &str) -> Fallible<Details> {
        macro_rules! of_stages {
            ($table:literal, $order:literal) => {
                concat!(
                    "SELECT stage_run_id AS owner, ", $table, ".* FROM stage_runs JOIN ", $table,
                    " ON stage_run_id = stage_runs.id WHERE run_id IN (SELECT value FROM json_each(?))
                     ORDER BY stage_run_id, ", $table, ".", $order
                )
            };
        }
        Ok(Details {
            params: self
                .grouped(of_stages!("params", "name"), chosen, |row| named_value(row, "params"))?,
            inputs: self.grouped(of_stages!("lineage", "port"), chosen, edge)?,
            artifacts: self
                .grouped(of_stages!("artifacts", "port"), chosen, |row| self.artifact(row))?,
            attempts: self.grouped(of_stages!("attempts", "number"), chosen, attempt)?,
            metrics: self.grouped(of_stages!("metrics", "position"), chosen, metric)?,
            unavailable: self.grouped(
                of_stages!("unavailable", "position"),
                chosen,
                unavailable,
            )?,
            gates: self.grouped(of_stages!("gates", "position"), chosen, gate)?,
            series: self.series(chosen)?,
        })
    }

    /// The stages of each run, upstream first.
    fn stages(&self, chosen: &str) -> Fallible<Grouped<StageRecord>> {
        let mut details = self.details(chosen)?;
        let rows = self.rows(
            "SELECT * FROM stage_runs WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY run_id, position",
            &[Bind::Text(chosen)],
        )?;
        let mut stages: BTreeMap<i64, Vec<StageRecord>> = BTreeMap::new();
        for row in &rows {
            stages.entry(cell(row, "run_id")?).or_default().push(details.stage(self.store(), row)?);
        }
        Ok(Grouped(stages))
    }

    /// Series of each stage run; for a hit those of the run that did the work.
    fn series(&self, chosen: &str) -> Fallible<BTreeMap<i64, Vec<Series>>> {
        let rows = self.rows(
            "SELECT chosen.id AS owner, series.name, step, value
             FROM (SELECT id, coalesce(
                    (SELECT min(id) FROM stage_runs AS origin WHERE origin.key = stage_runs.key AND origin.run_id = stage_runs.origin_run),
                    id) AS source
                   FROM stage_runs WHERE run_id IN (SELECT value FROM json_each(?))) AS chosen
             JOIN series ON stage_run_id = source ORDER BY chosen.id, series.name, step",
            &[Bind::Text(chosen)],
        )?;
        let mut all: BTreeMap<i64, Vec<Series>> = BTreeMap::new();
        for row in &rows {
            let name: &str = cell(row, "name")?;
            let point = (unsigned(cell(row, "step")?), cell(row, "value")?);
            let series = all.entry(cell(row, "owner")?).or_default();
            match series.last_mut() {
                Some(series) if series.name == name => series.points.push(point),
                _ => series.push(Series { name: name.to_owned(), points: vec![point] }),
            }
        }
        Ok(all)
    }
}

impl Details {
    fn stage(&mut self, store: &Store, row: &SqliteRow) -> Fallible<StageRecord> {
        let id: i64 = cell(row, "id")?;
        let started_at: Option<String> = cell(row, "started_at")?;
        let name: String = cell(row, "name")?;
        // Where it lies now: a state folder may be moved.
        let run = cell(row, "run_id")?;
        let has_log = cell::<Option<&str>>(row, "log_path")?.is_some();
        let log_path = has_log.then(|| log_path(store, run, &name));
        Ok(StageRecord {
            name,
            kind: cell(row, "kind")?,
            state: word("state", cell(row, "state")?)?,
            reason: cell(row, "reason")?,
            key: cell(row, "key")?,
            key_document: document(row)?,
            params: Value::Object(self.params.take(id).into_iter().collect::<Map<_, _>>()),
            inputs: self.inputs.take(id),
            artifacts: self.artifacts.take(id),
            started_at: started_at.map(timestamp).transpose()?,
            duration_s: cell(row, "duration_s")?,
            work_s: cell(row, "work_s")?,
            origin_run: cell(row, "origin_run")?,
            threads: cell(row, "threads")?,
            attempts: self.attempts.take(id),
            metrics: self.metrics.take(id),
            unavailable: self.unavailable.take(id),
            series: self.series.remove(&id).unwrap_or_default(),
            gates: self.gates.take(id),
            log_path,
            error: cell(row, "error")?,
        })
    }
}

fn named_value(row: &SqliteRow, what: &'static str) -> Fallible<(String, Value)> {
    Ok((cell(row, "name")?, parsed(what, &cell::<String>(row, "value")?)?))
}

fn source(row: &SqliteRow) -> Fallible<SourceRecord> {
    Ok(SourceRecord {
        name: cell(row, "name")?,
        origin: cell(row, "origin")?,
        digest: cell(row, "digest")?,
        size_bytes: unsigned(cell(row, "size_bytes")?),
    })
}

fn edge(row: &SqliteRow) -> Fallible<EdgeRecord> {
    Ok(EdgeRecord {
        port: cell(row, "port")?,
        from: cell(row, "source")?,
        digest: cell(row, "digest")?,
    })
}

fn attempt(row: &SqliteRow) -> Fallible<AttemptRecord> {
    Ok(AttemptRecord {
        number: cell(row, "number")?,
        started_at: timestamp(cell(row, "started_at")?)?,
        duration_s: cell(row, "duration_s")?,
        outcome: cell(row, "outcome")?,
        error: cell(row, "error")?,
    })
}

fn unavailable(row: &SqliteRow) -> Fallible<Unavailable> {
    Ok(Unavailable { name: cell(row, "name")?, reason: cell(row, "reason")? })
}

fn gate(row: &SqliteRow) -> Fallible<GateRecord> {
    Ok(GateRecord {
        gate: cell(row, "gate")?,
        metric: cell(row, "metric")?,
        bound: cell(row, "bound")?,
        value: cell(row, "value")?,
        passed: cell(row, "passed")?,
    })
}
