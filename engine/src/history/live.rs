//! What a run is doing right now, cheap enough to be asked twice a second.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::database::HistoryError;
use super::read::{Bind, History, summary, timestamp, word};
use super::{RunState, RunSummary, StageState};
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
    /// Run that really did the work, for hits.
    pub origin_run: Option<i64>,
    /// Log file, where it has one.
    pub log_path: Option<PathBuf>,
    /// Where it stands; of running stages that say so.
    pub progress: Option<ProgressRecord>,
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

/// Where a run keeps the newest progress of its running stages, as JSON by stage.
pub(crate) fn progress_path(store: &Store, run: i64) -> PathBuf {
    store.home().join("logs").join(run.to_string()).join("progress.json")
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
                "SELECT name, state, started_at, origin_run, log_path FROM stage_runs WHERE run_id = ? ORDER BY position",
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
                    origin_run: row.get("origin_run"),
                    log_path: row.get::<Option<String>, _>("log_path").map(PathBuf::from),
                    progress: progress.remove(&name).filter(|_| state == StageState::Running),
                    name,
                })
            })
            .collect::<Result<_, HistoryError>>()?;
        Ok(LiveRun { summary, stages })
    }

    /// The newest progress of the running stages of a run. Nothing where there is no file, or where
    /// it is not what this version writes: progress is for people and may be missing.
    fn progress(&self, run: i64) -> BTreeMap<String, ProgressRecord> {
        let bytes = std::fs::read(progress_path(self.store(), run)).unwrap_or_default();
        serde_json::from_slice(&bytes).unwrap_or_default()
    }
}
