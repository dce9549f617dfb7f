//! Reading runs back.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{QueryBuilder, Row as _, Sqlite};
use tokio::runtime::Runtime;

use super::database::{Database, HistoryError, failed};
use super::record::*;
use crate::protocol::{Metric, Unavailable};
use crate::store::{Artifact, Digest, Form, Store};

/// Which run is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunChoice {
    /// The newest of all.
    Latest,
    /// The one with this number.
    Id(i64),
}

impl std::str::FromStr for RunChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "latest" => Ok(Self::Latest),
            _ => text
                .parse()
                .map(Self::Id)
                .map_err(|_| format!("`{text}` is no run, expected a number or `latest`")),
        }
    }
}

/// The newest finished run of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct LastStage {
    /// Run it belongs to.
    pub run: i64,
    /// How it ended.
    pub state: StageState,
    /// Its cache key.
    pub key: Option<String>,
    /// The document the key was made of; `Null` without a key.
    pub key_document: Value,
    /// Seconds its work took when it was really done.
    pub work_s: Option<f64>,
}

/// Earlier runs of a state folder. Calls block; they must not be made inside an async task.
pub struct History {
    store: Store,
    runtime: Runtime,
    database: Mutex<Option<Database>>,
}

impl std::fmt::Debug for History {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("History").field("home", &self.store.home()).finish_non_exhaustive()
    }
}

impl History {
    /// Opens the history in a state folder; without a database there it is empty.
    ///
    /// # Errors
    /// When the database is damaged or was written by a newer version.
    pub fn open(home: &Path) -> Result<Self, HistoryError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HistoryError::Runtime)?;
        let database = runtime.block_on(Database::reader(home))?;
        Ok(Self { store: Store::at(home), runtime, database: Mutex::new(database) })
    }

    /// Version of the tables; `None` before the first run.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn schema_version(&self) -> Result<Option<i64>, HistoryError> {
        let mut guard = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        match guard.as_mut() {
            Some(database) => self.runtime.block_on(database.schema_version()),
            None => Ok(None),
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    /// The newest runs, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn runs(&self, limit: usize) -> Result<Vec<RunSummary>, HistoryError> {
        let rows = self.rows(
            "SELECT runs.*,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'ran') AS n_ran,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'hit') AS n_hits,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'failed') AS n_failed
             FROM runs ORDER BY id DESC LIMIT ?",
            &[Bind::Number(i64::try_from(limit).unwrap_or(i64::MAX))],
        )?;
        rows.iter().map(summary).collect()
    }

    /// Everything about one run.
    ///
    /// # Errors
    /// When there is no such run or the database cannot be read.
    pub fn run(&self, choice: RunChoice) -> Result<RunRecord, HistoryError> {
        let id = match choice {
            RunChoice::Id(id) => Some(id),
            RunChoice::Latest => self.runs(1)?.first().map(|run| run.id),
        };
        let shown = id.map_or_else(|| "yet".to_owned(), |id| id.to_string());
        let missing = || HistoryError::NoRun { id: shown.clone() };
        let id = id.ok_or_else(missing)?;
        let rows = self.rows(
            "SELECT runs.*,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'ran') AS n_ran,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'hit') AS n_hits,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'failed') AS n_failed
             FROM runs WHERE id = ?",
            &[Bind::Number(id)],
        )?;
        let row = rows.first().ok_or_else(missing)?;
        let sources = self.sources(id)?;
        let (datasets, models) =
            sources.into_iter().partition(|source: &SourceRecord| source.name.starts_with("data."));
        let summary = summary(row)?;
        let mut stages = self
            .rows(
                "SELECT * FROM stage_runs WHERE run_id = ? ORDER BY position",
                &[Bind::Number(id)],
            )?
            .iter()
            .map(|row| self.stage(row))
            .collect::<Result<Vec<_>, _>>()?;
        if summary.state != RunState::Running {
            // Killed with its run.
            for stage in stages.iter_mut().filter(|stage| stage.state == StageState::Running) {
                stage.state = StageState::Interrupted;
            }
        }
        let seed: String = row.get("seed");
        Ok(RunRecord {
            summary,
            seed: seed.parse().map_err(|_| unreadable("seed", seed))?,
            device: row.get("device"),
            manifest_text: row.get("manifest_text"),
            overrides: parsed("overrides", &row.get::<String, _>("overrides"))?,
            environment: self.environment(id)?,
            datasets,
            models,
            stages,
            notes: self.notes(id)?,
        })
    }

    /// The newest run of a stage of a manifest that got as far as a cache key, before the run
    /// `before` where one is given.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn last_stage(
        &self,
        manifest_file: &Path,
        stage: &str,
        before: Option<i64>,
    ) -> Result<Option<LastStage>, HistoryError> {
        let rows = self.rows(
            "SELECT stage_runs.* FROM stage_runs JOIN runs ON runs.id = run_id
             WHERE manifest_file = ? AND name = ? AND key IS NOT NULL AND run_id < ?
             ORDER BY run_id DESC LIMIT 1",
            &[
                Bind::Text(&manifest_file.display().to_string()),
                Bind::Text(stage),
                Bind::Number(before.unwrap_or(i64::MAX)),
            ],
        )?;
        rows.first()
            .map(|row| {
                Ok(LastStage {
                    run: row.get("run_id"),
                    state: word("state", row.get("state"))?,
                    key: row.get("key"),
                    key_document: document(row)?,
                    work_s: row.get("work_s"),
                })
            })
            .transpose()
    }

    /// Seconds that a stage of this name and kind usually takes: the median of its last five
    /// real runs in this manifest, else of its kind anywhere.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn expected_s(
        &self,
        manifest_file: &Path,
        stage: &str,
        kind: &str,
    ) -> Result<Option<f64>, HistoryError> {
        let own = self.rows(
            "SELECT work_s FROM stage_runs JOIN runs ON runs.id = run_id
             WHERE manifest_file = ? AND name = ? AND kind = ? AND stage_runs.state = 'ran' AND work_s IS NOT NULL
             ORDER BY run_id DESC LIMIT 5",
            &[Bind::Text(&manifest_file.display().to_string()), Bind::Text(stage), Bind::Text(kind)],
        )?;
        let rows = if own.is_empty() {
            self.rows(
                "SELECT work_s FROM stage_runs WHERE kind = ? AND state = 'ran' AND work_s IS NOT NULL
                 ORDER BY id DESC LIMIT 5",
                &[Bind::Text(kind)],
            )?
        } else {
            own
        };
        let mut seconds: Vec<f64> = rows.iter().map(|row| row.get("work_s")).collect();
        seconds.sort_by(f64::total_cmp);
        Ok(seconds.get(seconds.len() / 2).copied())
    }

    /// Newest good artifact of `stage.port` of a manifest that is still in the store.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn newest_artifact(
        &self,
        manifest_file: &Path,
        stage: &str,
        port: &str,
    ) -> Result<Option<ArtifactRecord>, HistoryError> {
        let rows = self.rows(
            "SELECT artifacts.* FROM artifacts
             JOIN stage_runs ON stage_runs.id = stage_run_id JOIN runs ON runs.id = run_id
             WHERE manifest_file = ? AND stage_runs.name = ? AND port = ? AND stage_runs.state IN ('ran', 'hit')
             ORDER BY run_id DESC LIMIT 20",
            &[Bind::Text(&manifest_file.display().to_string()), Bind::Text(stage), Bind::Text(port)],
        )?;
        for row in &rows {
            let artifact = self.artifact(row)?;
            if artifact.path.is_some() {
                return Ok(Some(artifact));
            }
        }
        Ok(None)
    }

    fn stage(&self, row: &SqliteRow) -> Result<StageRecord, HistoryError> {
        let id = [Bind::Number(row.get("id"))];
        let key: Option<String> = row.get("key");
        let origin_run: Option<i64> = row.get("origin_run");
        let state = word("state", row.get("state"))?;
        let params: Map<String, Value> = self
            .rows("SELECT name, value FROM params WHERE stage_run_id = ?", &id)?
            .iter()
            .map(|row| Ok((row.get("name"), parsed("params", &row.get::<String, _>("value"))?)))
            .collect::<Result<_, HistoryError>>()?;
        let inputs = self
            .rows("SELECT * FROM lineage WHERE stage_run_id = ? ORDER BY port", &id)?
            .iter()
            .map(|row| EdgeRecord {
                port: row.get("port"),
                from: row.get("source"),
                digest: row.get("digest"),
            })
            .collect();
        let artifacts = self
            .rows("SELECT * FROM artifacts WHERE stage_run_id = ? ORDER BY port", &id)?
            .iter()
            .map(|row| self.artifact(row))
            .collect::<Result<_, _>>()?;
        let started_at: Option<String> = row.get("started_at");
        Ok(StageRecord {
            name: row.get("name"),
            kind: row.get("kind"),
            state,
            reason: row.get("reason"),
            key_document: document(row)?,
            params: Value::Object(params),
            inputs,
            artifacts,
            started_at: started_at.map(timestamp).transpose()?,
            duration_s: row.get("duration_s"),
            work_s: row.get("work_s"),
            threads: row.get("threads"),
            attempts: self.attempts(&id)?,
            metrics: self.metrics(&id)?,
            unavailable: self.unavailable(&id)?,
            series: self.series(row.get("id"), key.as_deref(), origin_run)?,
            gates: self.gates(&id)?,
            log_path: row.get::<Option<String>, _>("log_path").map(PathBuf::from),
            error: row.get("error"),
            origin_run,
            key,
        })
    }

    fn attempts(&self, stage_run: &[Bind<'_>]) -> Result<Vec<AttemptRecord>, HistoryError> {
        self.rows("SELECT * FROM attempts WHERE stage_run_id = ? ORDER BY number", stage_run)?
            .iter()
            .map(|row| {
                Ok(AttemptRecord {
                    number: row.get("number"),
                    started_at: timestamp(row.get("started_at"))?,
                    duration_s: row.get("duration_s"),
                    outcome: row.get("outcome"),
                    error: row.get("error"),
                })
            })
            .collect()
    }

    fn metrics(&self, stage_run: &[Bind<'_>]) -> Result<Vec<Metric>, HistoryError> {
        let rows =
            self.rows("SELECT * FROM metrics WHERE stage_run_id = ? ORDER BY position", stage_run)?;
        let metric = |row: &SqliteRow| Metric {
            name: row.get("name"),
            value: row.get("value"),
            unit: row.get("unit"),
            split: row.get("split"),
            samples: row.get::<Option<i64>, _>("samples").map(unsigned),
            low: row.get("low"),
            high: row.get("high"),
        };
        Ok(rows.iter().map(metric).collect())
    }

    fn unavailable(&self, stage_run: &[Bind<'_>]) -> Result<Vec<Unavailable>, HistoryError> {
        let rows = self.rows(
            "SELECT * FROM unavailable WHERE stage_run_id = ? ORDER BY position",
            stage_run,
        )?;
        Ok(rows
            .iter()
            .map(|row| Unavailable { name: row.get("name"), reason: row.get("reason") })
            .collect())
    }

    fn gates(&self, stage_run: &[Bind<'_>]) -> Result<Vec<GateRecord>, HistoryError> {
        let rows =
            self.rows("SELECT * FROM gates WHERE stage_run_id = ? ORDER BY position", stage_run)?;
        let gate = |row: &SqliteRow| GateRecord {
            gate: row.get("gate"),
            metric: row.get("metric"),
            bound: row.get("bound"),
            value: row.get("value"),
            passed: row.get("passed"),
        };
        Ok(rows.iter().map(gate).collect())
    }

    /// Series of a stage run, or of the run that did a hit's work.
    fn series(
        &self,
        stage_run: i64,
        key: Option<&str>,
        origin_run: Option<i64>,
    ) -> Result<Vec<Series>, HistoryError> {
        let mut owner = stage_run;
        if let (Some(key), Some(origin)) = (key, origin_run) {
            let rows = self.rows(
                "SELECT id FROM stage_runs WHERE key = ? AND run_id = ? ORDER BY id LIMIT 1",
                &[Bind::Text(key), Bind::Number(origin)],
            )?;
            owner = rows.first().map_or(stage_run, |row| row.get("id"));
        }
        let rows = self.rows(
            "SELECT * FROM series WHERE stage_run_id = ? ORDER BY name, step",
            &[Bind::Number(owner)],
        )?;
        let mut all: Vec<Series> = Vec::new();
        for row in &rows {
            let name: String = row.get("name");
            let point = (unsigned(row.get("step")), row.get("value"));
            match all.last_mut() {
                Some(series) if series.name == name => series.points.push(point),
                _ => all.push(Series { name, points: vec![point] }),
            }
        }
        Ok(all)
    }

    fn artifact(&self, row: &SqliteRow) -> Result<ArtifactRecord, HistoryError> {
        let text: String = row.get("digest");
        let digest = Digest::parse(&text).ok_or_else(|| unreadable("digest", text.clone()))?;
        let form = match row.get::<&str, _>("form") {
            "blob" => Form::Blob,
            "tree" => Form::Tree,
            other => return Err(unreadable("form", other.to_owned())),
        };
        let size_bytes = unsigned(row.get("size_bytes"));
        let path = self.store.path(&Artifact { form, digest, size_bytes });
        Ok(ArtifactRecord {
            port: row.get("port"),
            kind: row.get("kind"),
            digest: text,
            size_bytes,
            path: path.exists().then_some(path),
        })
    }

    fn sources(&self, run: i64) -> Result<Vec<SourceRecord>, HistoryError> {
        let rows = self
            .rows("SELECT * FROM sources WHERE run_id = ? ORDER BY name", &[Bind::Number(run)])?;
        let source = |row: &SqliteRow| SourceRecord {
            name: row.get("name"),
            origin: row.get("origin"),
            digest: row.get("digest"),
            size_bytes: unsigned(row.get("size_bytes")),
        };
        Ok(rows.iter().map(source).collect())
    }

    fn environment(&self, run: i64) -> Result<Environment, HistoryError> {
        let rows = self
            .rows("SELECT name, value FROM environment WHERE run_id = ?", &[Bind::Number(run)])?;
        let fields: Map<String, Value> = rows
            .iter()
            .map(|row| {
                Ok((row.get("name"), parsed("environment", &row.get::<String, _>("value"))?))
            })
            .collect::<Result<_, HistoryError>>()?;
        serde_json::from_value(Value::Object(fields))
            .map_err(|error| unreadable("environment", error.to_string()))
    }

    pub(super) fn rows(
        &self,
        sql: &'static str,
        binds: &[Bind<'_>],
    ) -> Result<Vec<SqliteRow>, HistoryError> {
        let mut query = sqlx::query(sql);
        for bind in binds {
            query = match bind {
                Bind::Number(number) => query.bind(*number),
                Bind::Text(text) => query.bind((*text).to_owned()),
            };
        }
        self.fetch(query)
    }

    /// Rows of a statement that depends on what is asked for.
    pub(super) fn built(
        &self,
        mut statement: QueryBuilder<Sqlite>,
    ) -> Result<Vec<SqliteRow>, HistoryError> {
        self.fetch(statement.build())
    }

    fn fetch(
        &self,
        query: Query<'_, Sqlite, SqliteArguments>,
    ) -> Result<Vec<SqliteRow>, HistoryError> {
        // A poisoned lock means a panic in a read, which leaves the connection usable.
        let mut guard = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Database { path, connection }) = guard.as_mut() else {
            return Ok(Vec::new());
        };
        self.runtime
            .block_on(query.fetch_all(connection))
            .map_err(|source| failed(path, "read it", source))
    }
}

pub(super) enum Bind<'a> {
    Number(i64),
    Text(&'a str),
}

pub(super) fn summary(row: &SqliteRow) -> Result<RunSummary, HistoryError> {
    let state = word("state", row.get("state"))?;
    let killed = state == RunState::Running && !alive(row.get("pid"));
    Ok(RunSummary {
        id: row.get("id"),
        manifest: row.get("manifest"),
        manifest_path: PathBuf::from(row.get::<String, _>("manifest_path")),
        state: if killed { RunState::Interrupted } else { state },
        started_at: timestamp(row.get("started_at"))?,
        duration_s: row.get("duration_s"),
        ran: row.get("n_ran"),
        hits: row.get("n_hits"),
        failed: row.get("n_failed"),
    })
}

/// Whether a process of this number is there.
pub(super) fn alive(pid: i32) -> bool {
    let gone = rustix::io::Errno::SRCH;
    rustix::process::Pid::from_raw(pid)
        .is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(gone))
}

fn document(row: &SqliteRow) -> Result<Value, HistoryError> {
    let text: Option<String> = row.get("key_document");
    text.map_or(Ok(Value::Null), |text| parsed("key_document", &text))
}

pub(super) fn timestamp(text: String) -> Result<jiff::Timestamp, HistoryError> {
    text.parse().map_err(|_| unreadable("started_at", text))
}

pub(super) fn word<T: DeserializeOwned>(
    what: &'static str,
    text: String,
) -> Result<T, HistoryError> {
    serde_json::from_value(Value::String(text.clone())).map_err(|_| unreadable(what, text))
}

fn parsed<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, HistoryError> {
    serde_json::from_str(text).map_err(|_| unreadable(what, text.to_owned()))
}

fn unreadable(what: &'static str, found: String) -> HistoryError {
    HistoryError::Row { what, found }
}

fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
