//! Writing a run into the database, one transaction a fact.

use std::path::Path;

use serde_json::Value;
use sqlx::{Connection as _, Sqlite, Transaction};

use super::database::{Database, HistoryError, failed};
use super::{Environment, GateRecord, RunState, SourceRecord, StageState, Trigger};
use crate::protocol::{Metric, SeriesPoint, Unavailable};
use crate::schedule::ProcessIdentity;
use crate::store::{Artifact, Form, Store};

/// Most points in one statement.
const POINTS_MAX: usize = 100;

/// What is known when a run starts.
#[derive(Debug)]
pub(crate) struct RunStart<'a> {
    pub(crate) manifest: &'a crate::manifest::Manifest,
    pub(crate) manifest_file: &'a Path,
    pub(crate) device: &'a str,
    pub(crate) environment: &'a Environment,
    pub(crate) trigger: &'a Trigger,
}

/// What is known when a stage of a run turns out to be a hit or starts to run.
#[derive(Debug)]
pub(crate) struct StageStart<'a> {
    pub(crate) run: i64,
    pub(crate) position: usize,
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) state: StageState,
    pub(crate) reason: &'a str,
    pub(crate) key: Option<&'a str>,
    pub(crate) key_document: Option<&'a Value>,
    pub(crate) params: &'a Value,
    /// Port, reference, digest where known.
    pub(crate) inputs: &'a [(String, String, Option<String>)],
    pub(crate) log_path: Option<&'a Path>,
    pub(crate) threads: Option<usize>,
}

/// The one writer of a run.
#[derive(Debug)]
pub(crate) struct Recorder {
    database: Database,
}

impl Recorder {
    pub(crate) async fn open(store: &Store) -> Result<Self, HistoryError> {
        Ok(Self { database: Database::writer(store).await? })
    }

    async fn begin(&mut self) -> Result<(Transaction<'_, Sqlite>, &Path), HistoryError> {
        let Database { path, connection, .. } = &mut self.database;
        // A deferred transaction that turns into a writer later fails when someone else wrote.
        let transaction = connection
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|source| failed(path, "start writing", source))?;
        Ok((transaction, path))
    }

    /// Notes a new run; earlier runs of the manifest that never ended, but for those of this very
    /// process, were killed.
    pub(crate) async fn start_run(&mut self, start: &RunStart<'_>) -> Result<i64, HistoryError> {
        let manifest = start.manifest;
        let file = start.manifest_file.display().to_string();
        let process = json(&ProcessIdentity::here());
        let (mut transaction, path) = self.begin().await?;
        let written = async {
            sqlx::query("UPDATE stage_runs SET state = ? WHERE state = ? AND run_id IN (SELECT id FROM runs WHERE manifest_file = ? AND state = ? AND process IS NOT ?)")
                .bind(word(StageState::Interrupted))
                .bind(word(StageState::Running))
                .bind(&file)
                .bind(word(RunState::Running))
                .bind(&process)
                .execute(&mut *transaction)
                .await?;
            sqlx::query(
                "UPDATE runs SET state = ? WHERE manifest_file = ? AND state = ? AND process IS NOT ?",
            )
            .bind(word(RunState::Interrupted))
            .bind(&file)
            .bind(word(RunState::Running))
            .bind(&process)
            .execute(&mut *transaction)
            .await?;
            let run: i64 = sqlx::query_scalar(
                r#"INSERT INTO runs (manifest, manifest_file, manifest_path, manifest_text, overrides, seed, device, state, process, started_at, "trigger")
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id"#,
            )
            .bind(&manifest.name)
            .bind(&file)
            .bind(manifest.shown_path().display().to_string())
            .bind(&manifest.text)
            .bind(json(&manifest.overrides))
            .bind(manifest.seed.to_string())
            .bind(start.device)
            .bind(word(RunState::Running))
            .bind(&process)
            .bind(jiff::Timestamp::now().to_string())
            .bind(json(start.trigger))
            .fetch_one(&mut *transaction)
            .await?;
            let environment = serde_json::to_value(start.environment).expect("plain JSON");
            for (name, value) in environment.as_object().into_iter().flatten() {
                sqlx::query("INSERT INTO environment (run_id, name, value) VALUES (?, ?, ?)")
                    .bind(run)
                    .bind(name)
                    .bind(value.to_string())
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(run)
        };
        written.await.map_err(|source| failed(path, "note the start of a run", source))
    }

    /// Notes what a dataset or checkpoint was when this run read it.
    pub(crate) async fn source(
        &mut self,
        run: i64,
        source: &SourceRecord,
    ) -> Result<(), HistoryError> {
        let (mut transaction, path) = self.begin().await?;
        let written = async {
            sqlx::query("INSERT OR REPLACE INTO sources (run_id, name, origin, digest, size_bytes) VALUES (?, ?, ?, ?, ?)")
                .bind(run)
                .bind(&source.name)
                .bind(&source.origin)
                .bind(&source.digest)
                .bind(signed(source.size_bytes))
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        written.await.map_err(|source| failed(path, "note an input", source))
    }

    /// Notes that a stage starts, is a hit or is skipped; gives its row back.
    ///
    /// A stage that takes up the checkpoint of a killed one takes over its series as well.
    pub(crate) async fn start_stage(
        &mut self,
        start: &StageStart<'_>,
    ) -> Result<i64, HistoryError> {
        let (mut transaction, path) = self.begin().await?;
        let written = async {
            let predecessor: Option<i64> = sqlx::query_scalar(
                "SELECT id FROM stage_runs WHERE key = ? AND state NOT IN (?, ?) ORDER BY id DESC LIMIT 1",
            )
            .bind(start.key)
            .bind(word(StageState::Ran))
            .bind(word(StageState::Hit))
            .fetch_optional(&mut *transaction)
            .await?;
            let skipped = start.state == StageState::Skipped;
            let stage_run: i64 = sqlx::query_scalar(
                "INSERT INTO stage_runs (run_id, position, name, kind, state, reason, key, key_document, started_at, threads, log_path)
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            )
            .bind(start.run)
            .bind(i64::try_from(start.position).unwrap_or(i64::MAX))
            .bind(start.name)
            .bind(start.kind)
            .bind(word(start.state))
            .bind(start.reason)
            .bind(start.key)
            .bind(start.key_document.map(Value::to_string))
            .bind((!skipped).then(|| jiff::Timestamp::now().to_string()))
            .bind(start.threads.map(|threads| signed(threads as u64)))
            .bind(start.log_path.map(|path| path.display().to_string()))
            .fetch_one(&mut *transaction)
            .await?;
            for (name, value) in start.params.as_object().into_iter().flatten() {
                sqlx::query("INSERT INTO params (stage_run_id, name, value) VALUES (?, ?, ?)")
                    .bind(stage_run)
                    .bind(name)
                    .bind(value.to_string())
                    .execute(&mut *transaction)
                    .await?;
            }
            for (port, source, digest) in start.inputs {
                sqlx::query(
                    "INSERT INTO lineage (stage_run_id, port, source, digest) VALUES (?, ?, ?, ?)",
                )
                .bind(stage_run)
                .bind(port)
                .bind(source)
                .bind(digest)
                .execute(&mut *transaction)
                .await?;
            }
            if let (StageState::Running, Some(predecessor)) = (start.state, predecessor) {
                sqlx::query("INSERT INTO series (stage_run_id, name, step, value) SELECT ?, name, step, value FROM series WHERE stage_run_id = ?")
                    .bind(stage_run)
                    .bind(predecessor)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await?;
            Ok(stage_run)
        };
        written.await.map_err(|source| failed(path, "note the start of a stage", source))
    }

    /// Notes the start of an attempt.
    pub(crate) async fn start_attempt(
        &mut self,
        stage_run: i64,
        number: u32,
    ) -> Result<(), HistoryError> {
        let (mut transaction, path) = self.begin().await?;
        let written = async {
            sqlx::query("INSERT INTO attempts (stage_run_id, number, started_at, outcome) VALUES (?, ?, ?, 'running')")
                .bind(stage_run)
                .bind(number)
                .bind(jiff::Timestamp::now().to_string())
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        written.await.map_err(|source| failed(path, "note an attempt", source))
    }

    /// Notes the end of an attempt.
    pub(crate) async fn finish_attempt(
        &mut self,
        stage_run: i64,
        number: u32,
        duration_s: f64,
        outcome: &str,
        error: Option<&str>,
    ) -> Result<(), HistoryError> {
        let (mut transaction, path) = self.begin().await?;
        let written = async {
            sqlx::query("UPDATE attempts SET duration_s = ?, outcome = ?, error = ? WHERE stage_run_id = ? AND number = ?")
                .bind(duration_s)
                .bind(outcome)
                .bind(error)
                .bind(stage_run)
                .bind(number)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        written.await.map_err(|source| failed(path, "note the end of an attempt", source))
    }

    /// Adds points of series; a step that is there already gets the new value.
    pub(crate) async fn series(
        &mut self,
        stage_run: i64,
        points: &[SeriesPoint],
    ) -> Result<(), HistoryError> {
        let (mut transaction, path) = self.begin().await?;
        let written = async {
            // One statement for many points: each costs a trip to SQLite's thread and back.
            for points in points.chunks(POINTS_MAX) {
                let mut insert = sqlx::QueryBuilder::new(
                    "INSERT OR REPLACE INTO series (stage_run_id, name, step, value) ",
                );
                insert.push_values(points, |mut row, point| {
                    row.push_bind(stage_run).push_bind(&point.name);
                    row.push_bind(signed(point.step)).push_bind(point.value);
                });
                insert.build().execute(&mut *transaction).await?;
            }
            transaction.commit().await
        };
        written.await.map_err(|source| failed(path, "write series", source))
    }

    /// Notes what came of a stage.
    pub(crate) async fn finish_stage(
        &mut self,
        stage_run: i64,
        end: &StageEnd<'_>,
    ) -> Result<(), HistoryError> {
        let (mut transaction, path) = self.begin().await?;
        let written = async {
            sqlx::query("UPDATE stage_runs SET state = ?, duration_s = ?, work_s = ?, origin_run = ?, error = ? WHERE id = ?")
                .bind(word(end.state))
                .bind(end.duration_s)
                .bind(end.work_s)
                .bind(end.origin_run)
                .bind(end.error)
                .bind(stage_run)
                .execute(&mut *transaction)
                .await?;
            end.metrics(&mut transaction, stage_run).await?;
            for (port, kind, artifact) in end.artifacts {
                sqlx::query("INSERT INTO artifacts (stage_run_id, port, kind, form, digest, size_bytes) VALUES (?, ?, ?, ?, ?, ?)")
                    .bind(stage_run)
                    .bind(port)
                    .bind(kind)
                    .bind(match artifact.form {
                        Form::Blob => "blob",
                        Form::Tree => "tree",
                    })
                    .bind(artifact.digest.as_str())
                    .bind(signed(artifact.size_bytes))
                    .execute(&mut *transaction)
                    .await?;
            }
            for (position, gate) in (0_i64..).zip(end.gates) {
                sqlx::query("INSERT INTO gates (stage_run_id, position, gate, metric, bound, value, passed) VALUES (?, ?, ?, ?, ?, ?, ?)")
                    .bind(stage_run)
                    .bind(position)
                    .bind(&gate.gate)
                    .bind(&gate.metric)
                    .bind(gate.bound)
                    .bind(gate.value)
                    .bind(gate.passed)
                    .execute(&mut *transaction)
                    .await?;
            }
            transaction.commit().await
        };
        written.await.map_err(|source| failed(path, "note the end of a stage", source))
    }

    /// Closes the database, so that everything is in its one file when the process ends.
    pub(crate) async fn close(self) -> Result<(), HistoryError> {
        self.database.close("close it").await
    }

    /// Notes how the run ended.
    pub(crate) async fn finish_run(
        &mut self,
        run: i64,
        state: RunState,
        duration_s: f64,
    ) -> Result<(), HistoryError> {
        let (mut transaction, path) = self.begin().await?;
        let written = async {
            sqlx::query("UPDATE runs SET state = ?, duration_s = ? WHERE id = ?")
                .bind(word(state))
                .bind(duration_s)
                .bind(run)
                .execute(&mut *transaction)
                .await?;
            transaction.commit().await
        };
        written.await.map_err(|source| failed(path, "note the end of a run", source))
    }
}

/// What came of a stage.
#[derive(Debug)]
pub(crate) struct StageEnd<'a> {
    pub(crate) state: StageState,
    pub(crate) duration_s: f64,
    pub(crate) work_s: Option<f64>,
    pub(crate) origin_run: Option<i64>,
    pub(crate) error: Option<&'a str>,
    pub(crate) metrics: &'a [Metric],
    pub(crate) unavailable: &'a [Unavailable],
    /// Port, kind of the port, what was written to it.
    pub(crate) artifacts: &'a [(String, String, Artifact)],
    pub(crate) gates: &'a [GateRecord],
}

impl StageEnd<'_> {
    async fn metrics(
        &self,
        transaction: &mut Transaction<'_, Sqlite>,
        stage_run: i64,
    ) -> Result<(), sqlx::Error> {
        for (position, metric) in (0_i64..).zip(self.metrics) {
            sqlx::query("INSERT INTO metrics (stage_run_id, position, name, value, unit, split, samples, low, high) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)")
                .bind(stage_run)
                .bind(position)
                .bind(&metric.name)
                .bind(metric.value)
                .bind(&metric.unit)
                .bind(&metric.split)
                .bind(metric.samples.map(signed))
                .bind(metric.low)
                .bind(metric.high)
                .execute(&mut **transaction)
                .await?;
        }
        for (position, unavailable) in (0_i64..).zip(self.unavailable) {
            sqlx::query("INSERT INTO unavailable (stage_run_id, position, name, reason) VALUES (?, ?, ?, ?)")
                .bind(stage_run)
                .bind(position)
                .bind(&unavailable.name)
                .bind(&unavailable.reason)
                .execute(&mut **transaction)
                .await?;
        }
        Ok(())
    }
}

/// An enum as the kebab-case word that serde gives it.
pub(super) fn word(value: impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        other => unreachable!("a state is a word, not {other:?}"),
    }
}

pub(super) fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("what is kept as JSON has no maps with odd keys")
}

pub(super) fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
