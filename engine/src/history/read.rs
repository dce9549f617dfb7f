//! Reading runs back.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::Value;
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteRow};
use sqlx::{QueryBuilder, Row as _, Sqlite};
use tokio::runtime::Runtime;

use super::database::{Database, HistoryError};
use super::record::*;
use super::recorder::json;
use crate::protocol::Metric;
use crate::schedule::ProcessIdentity;
use crate::store::{Artifact, Digest, Form, Store};

/// Rows for [`summary`]: runs, and how many of their stages ended how.
macro_rules! summaries {
    ($which:literal) => {
        concat!(
            "SELECT id, manifest, manifest_path, state, started_at, duration_s, process, \"trigger\",
                seed, device, manifest_text, overrides,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'ran') AS n_ran,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'hit') AS n_hits,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'failed') AS n_failed
             FROM runs ",
            $which
        )
    };
}
pub(super) use summaries;

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

/// Which runs are asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunFilter {
    /// How many at most.
    pub limit: usize,
    /// Only those of this manifest file, absolute.
    pub manifest: Option<PathBuf>,
    /// Only those in this state.
    pub state: Option<RunState>,
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

    /// Whether it shows the database as it was when opened: there it cannot be written, and what
    /// its owner writes later is not seen.
    pub fn is_immutable(&self) -> bool {
        let guard = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        guard.as_ref().is_some_and(|database| database.is_immutable)
    }

    /// Looks through the whole database for damage.
    ///
    /// # Errors
    /// When there is some, or it cannot be read.
    pub fn check(&self) -> Result<(), HistoryError> {
        let mut guard = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        guard.as_mut().map_or(Ok(()), |database| self.runtime.block_on(database.check()))
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
        self.chosen_runs(&RunFilter { limit, ..RunFilter::default() })
    }

    /// The newest runs that a filter lets through, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn chosen_runs(&self, filter: &RunFilter) -> Result<Vec<RunSummary>, HistoryError> {
        // Whether a run that has no end goes on or was killed is not in the database.
        let kept = |state: RunState| match state {
            RunState::Interrupted => vec![RunState::Interrupted, RunState::Running],
            state => vec![state],
        };
        let states = serde_json::to_string(&filter.state.map(kept)).expect("plain JSON");
        let manifest = filter.manifest.as_ref().map(|file| file.display().to_string());
        let mut before = i64::MAX;
        let mut found = Vec::new();
        while found.len() < filter.limit {
            let rows = self.rows(
                summaries!(
                    "WHERE id < ?1 AND (?2 IS NULL OR manifest_file = ?2)
                     AND (?3 = 'null' OR state IN (SELECT value FROM json_each(?3))) ORDER BY id DESC LIMIT ?4"
                ),
                &[
                    Bind::Number(before),
                    Bind::Maybe(manifest.as_deref()),
                    Bind::Text(&states),
                    Bind::Number(count(filter.limit - found.len())),
                ],
            )?;
            if rows.is_empty() {
                break;
            }
            for row in &rows {
                let run = summary(row)?;
                before = run.id;
                found.extend(filter.state.is_none_or(|state| state == run.state).then_some(run));
            }
        }
        Ok(found)
    }

    /// The newest run of a stage of a manifest that got as far as a cache key; trials count only
    /// for their own sweep.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn last_stage(
        &self,
        manifest_file: &Path,
        stage: &str,
        sweep: Option<i64>,
    ) -> Result<Option<LastStage>, HistoryError> {
        let rows = self.rows(
            "SELECT stage_runs.* FROM stage_runs JOIN runs ON runs.id = run_id
             WHERE manifest_file = ? AND name = ? AND key IS NOT NULL
              AND coalesce(json_extract(\"trigger\", '$.sweep.sweep') = ?, 1)
             ORDER BY runs.id DESC LIMIT 1",
            &[
                Bind::Text(&manifest_file.display().to_string()),
                Bind::Text(stage),
                // No sweep has this number.
                Bind::Number(sweep.unwrap_or(0)),
            ],
        )?;
        rows.first()
            .map(|row| {
                Ok(LastStage {
                    run: cell(row, "run_id")?,
                    state: word("state", cell(row, "state")?)?,
                    key: cell(row, "key")?,
                    key_document: document(row)?,
                    work_s: cell(row, "work_s")?,
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
             ORDER BY runs.id DESC LIMIT 5",
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
        let mut seconds: Vec<f64> =
            rows.iter().map(|row| cell(row, "work_s")).collect::<Result<_, _>>()?;
        seconds.sort_by(f64::total_cmp);
        Ok(seconds.get(seconds.len() / 2).copied())
    }

    /// Newest artifact of `stage.port` that is still in the store, of the runs of a manifest with
    /// these overrides that are no trials of a sweep.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn newest_artifact(
        &self,
        manifest_file: &Path,
        stage: &str,
        port: &str,
        overrides: &[String],
    ) -> Result<Option<Artifact>, HistoryError> {
        let rows = self.rows(
            "SELECT artifacts.* FROM artifacts
             JOIN stage_runs ON stage_runs.id = stage_run_id JOIN runs ON runs.id = run_id
             WHERE manifest_file = ? AND stage_runs.name = ? AND port = ? AND stage_runs.state IN ('ran', 'hit')
              AND overrides = ? AND json_extract(\"trigger\", '$.sweep') IS NULL
             ORDER BY runs.id DESC LIMIT 20",
            &[
                Bind::Text(&manifest_file.display().to_string()),
                Bind::Text(stage),
                Bind::Text(port),
                Bind::Text(&json(&overrides)),
            ],
        )?;
        for row in &rows {
            let artifact = stored(row)?;
            if self.store.path(&artifact).exists() {
                return Ok(Some(artifact));
            }
        }
        Ok(None)
    }

    pub(super) fn artifact(&self, row: &SqliteRow) -> Result<ArtifactRecord, HistoryError> {
        let artifact = stored(row)?;
        let path = self.store.path(&artifact);
        Ok(ArtifactRecord {
            port: cell(row, "port")?,
            kind: cell(row, "kind")?,
            digest: artifact.digest.to_string(),
            size_bytes: artifact.size_bytes,
            path: path.exists().then_some(path),
        })
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
                Bind::Maybe(text) => query.bind(text.map(str::to_owned)),
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
        let Some(database) = guard.as_mut() else {
            return Ok(Vec::new());
        };
        self.runtime
            .block_on(query.fetch_all(&mut database.connection))
            .map_err(|source| database.failed("read it", source))
    }
}

pub(super) enum Bind<'a> {
    Number(i64),
    Text(&'a str),
    Maybe(Option<&'a str>),
}

/// A count as SQLite keeps it.
fn count(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// A cell of a row; in a damaged file it may be anything.
pub(super) fn cell<'r, T>(row: &'r SqliteRow, column: &'static str) -> Result<T, HistoryError>
where
    T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
{
    row.try_get(column).map_err(|error| unreadable(column, error.to_string()))
}

/// The artifact that a row is about.
fn stored(row: &SqliteRow) -> Result<Artifact, HistoryError> {
    let text: String = cell(row, "digest")?;
    let digest = Digest::parse(&text).ok_or_else(|| unreadable("digest", text))?;
    let form = match cell::<&str>(row, "form")? {
        "blob" => Form::Blob,
        "tree" => Form::Tree,
        other => return Err(unreadable("form", other.to_owned())),
    };
    Ok(Artifact { form, digest, size_bytes: unsigned(cell(row, "size_bytes")?) })
}

pub(super) fn metric(row: &SqliteRow) -> Result<Metric, HistoryError> {
    Ok(Metric {
        name: cell(row, "name")?,
        value: cell(row, "value")?,
        unit: cell(row, "unit")?,
        split: cell(row, "split")?,
        samples: cell::<Option<i64>>(row, "samples")?.map(unsigned),
        low: cell(row, "low")?,
        high: cell(row, "high")?,
    })
}

pub(super) fn summary(row: &SqliteRow) -> Result<RunSummary, HistoryError> {
    let state = word("state", cell(row, "state")?)?;
    let killed = state == RunState::Running && !is_alive(row)?;
    Ok(RunSummary {
        id: cell(row, "id")?,
        manifest: cell(row, "manifest")?,
        manifest_path: PathBuf::from(cell::<String>(row, "manifest_path")?),
        trigger: parsed("trigger", &cell::<String>(row, "trigger")?)?,
        state: if killed { RunState::Interrupted } else { state },
        started_at: timestamp(cell(row, "started_at")?)?,
        duration_s: cell(row, "duration_s")?,
        ran: cell(row, "n_ran")?,
        hits: cell(row, "n_hits")?,
        failed: cell(row, "n_failed")?,
    })
}

/// The process that works on what a row is about; rows of older versions name none.
pub(super) fn process(row: &SqliteRow) -> Result<Option<ProcessIdentity>, HistoryError> {
    let text: Option<String> = cell(row, "process")?;
    text.map(|text| parsed("process", &text)).transpose()
}

/// Whether that process is still there.
pub(super) fn is_alive(row: &SqliteRow) -> Result<bool, HistoryError> {
    Ok(process(row)?.is_some_and(|process| process.is_alive()))
}

pub(super) fn document(row: &SqliteRow) -> Result<Value, HistoryError> {
    let text: Option<String> = cell(row, "key_document")?;
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

pub(super) fn parsed<T: DeserializeOwned>(
    what: &'static str,
    text: &str,
) -> Result<T, HistoryError> {
    serde_json::from_str(text).map_err(|_| unreadable(what, text.to_owned()))
}

pub(super) fn unreadable(what: &'static str, found: String) -> HistoryError {
    HistoryError::Row { what, found }
}

pub(super) fn unsigned(count: i64) -> u64 {
    u64::try_from(count).unwrap_or(0)
}
