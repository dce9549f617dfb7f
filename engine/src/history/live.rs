//! What a run is doing right now, cheap enough to be asked twice a second.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::database::HistoryError;
use super::read::{Bind, History, RunChoice, summary, timestamp, word};
use super::{RunState, RunSummary, StageState};
use crate::manifest::only;
use crate::protocol::Progress;
use crate::store::Store;

/// A run while it goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveRun {
    /// The line of `pipeline runs`.
    pub summary: RunSummary,
    /// Its stages that got as far as a row, upstream first.
    pub stages: Vec<LiveStage>,
}

/// A stage of a run while it goes on.
#[derive(Debug, Clone, PartialEq)]
pub struct LiveStage {
    /// Name in the manifest.
    pub name: String,
    /// How it ended, or that it has not.
    pub state: StageState,
    /// When it started.
    pub started_at: Option<jiff::Timestamp>,
    /// Why it ran, is a hit or was skipped.
    pub reason: String,
    /// Its cache key, where it got that far.
    pub key: Option<String>,
    /// Run that really did the work, for hits.
    pub origin_run: Option<i64>,
    /// Log file, where it has one.
    pub log_path: Option<PathBuf>,
    /// Where it stands; of running stages that say so.
    pub progress: Option<ProgressRecord>,
}

/// The log of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageLog {
    /// Run whose stage was asked for.
    pub run: i64,
    /// Run that did the work.
    pub origin: i64,
    /// Its file.
    pub path: PathBuf,
    /// Whether more may come.
    pub grows: bool,
}

/// Where a running stage stands, and since when that is known.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ProgressRecord {
    /// When the stage said so, in UTC.
    pub at: jiff::Timestamp,
    /// What it said.
    pub progress: Progress,
}

/// Folder of what the stages of a run say.
pub(crate) fn logs_folder(store: &Store, run: i64) -> PathBuf {
    store.home().join("logs").join(run.to_string())
}

/// Where a run keeps the log of a stage.
pub(crate) fn log_path(store: &Store, run: i64, stage: &str) -> PathBuf {
    logs_folder(store, run).join(format!("{stage}.log"))
}

/// Where a run keeps the newest progress of its running stages, as JSON by stage.
pub(crate) fn progress_path(store: &Store, run: i64) -> PathBuf {
    logs_folder(store, run).join("progress.json")
}

impl History {
    /// What a run is doing.
    ///
    /// # Errors
    /// When there is no such run or the database cannot be read.
    pub fn live(&self, run: i64) -> Result<LiveRun, HistoryError> {
        let rows = self.rows(
            "SELECT runs.*,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'ran') AS n_ran,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'hit') AS n_hits,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'failed') AS n_failed
             FROM runs WHERE id = ?",
            &[Bind::Number(run)],
        )?;
        let row = rows.first().ok_or_else(|| HistoryError::NoRun { id: run.to_string() })?;
        let summary = summary(row)?;
        let going = summary.state == RunState::Running;
        let mut progress = if going { self.progress(run) } else { BTreeMap::new() };
        let stages = self
            .rows(
                "SELECT name, state, reason, key, started_at, origin_run, log_path IS NOT NULL AS has_log FROM stage_runs WHERE run_id = ? ORDER BY position",
                &[Bind::Number(run)],
            )?
            .iter()
            .map(|row| {
                let (name, started_at): (String, Option<String>) =
                    (row.get("name"), row.get("started_at"));
                let state = match word("state", row.get("state"))? {
                    // Killed with its run.
                    StageState::Running if !going => StageState::Interrupted,
                    state => state,
                };
                Ok(LiveStage {
                    state,
                    started_at: started_at.map(timestamp).transpose()?,
                    reason: row.get("reason"),
                    key: row.get("key"),
                    origin_run: row.get("origin_run"),
                    log_path: row.get::<bool, _>("has_log").then(|| log_path(self.store(), run, &name)),
                    progress: progress.remove(&name).filter(|_| state == StageState::Running),
                    name,
                })
            })
            .collect::<Result<_, HistoryError>>()?;
        Ok(LiveRun { summary, stages })
    }

    /// The log of a stage of a run; for a hit that of the stage that did the work, whatever its name.
    ///
    /// # Errors
    /// When there is no such run or stage, it never ran, or the database cannot be read.
    pub fn log(&self, choice: RunChoice, name: &str) -> Result<StageLog, HistoryError> {
        let run = match choice {
            RunChoice::Id(id) => id,
            RunChoice::Latest => self.run(choice)?.summary.id,
        };
        let mut live = self.live(run)?;
        let position = live.stages.iter().position(|stage| stage.name == name);
        let mut stage = live.stages.swap_remove(position.ok_or_else(|| {
            let names = live.stages.iter().map(|stage| stage.name.as_str());
            HistoryError::NoStage { run, name: name.to_owned(), known: only(names) }
        })?);
        let never = HistoryError::NoLog { run, name: name.to_owned(), why: stage.reason.clone() };
        if let Some(origin) = stage.origin_run {
            live = self.live(origin)?;
            let mut stages = live.stages.into_iter();
            let same = stages.find(|other| other.key == stage.key && other.log_path.is_some());
            stage =
                same.ok_or_else(|| HistoryError::NoOrigin { run, name: name.to_owned(), origin })?;
        }
        let grows = stage.state == StageState::Running;
        Ok(StageLog { run, origin: live.summary.id, path: stage.log_path.ok_or(never)?, grows })
    }

    /// The newest progress of the running stages of a run. Nothing where there is no file, or where
    /// it is not what this version writes: progress is for people and may be missing.
    fn progress(&self, run: i64) -> BTreeMap<String, ProgressRecord> {
        let bytes = std::fs::read(progress_path(self.store(), run)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}
