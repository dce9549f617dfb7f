//! The runs, and sessions of sweeps, that slots of schedules led to.

use std::path::Path;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, Transaction};

use super::database::{HistoryError, failed};
use super::read::{cell, process, word as word_of};
use super::recorder::json;
use super::{RunState, TickState, Trigger};
use crate::protocol::Metric;
use crate::schedule::ProcessIdentity;
use crate::schedule::regression::Measured;

type Fallible<T> = Result<T, HistoryError>;

/// What a slot led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    Run(i64),
    Sweep(i64),
}

/// The run of a slot, or the session of a sweep.
pub(super) struct WorkOfSlot {
    pub(super) outcome: Outcome,
    /// How its tick ends; `None` while it has not said how it ended.
    ended: Option<TickState>,
    pub(super) process: Option<ProcessIdentity>,
}

impl WorkOfSlot {
    pub(super) fn is_alive(&self) -> bool {
        self.ended.is_none() && self.process.as_ref().is_some_and(ProcessIdentity::is_alive)
    }

    pub(super) fn ended(&self) -> TickState {
        self.ended.unwrap_or(TickState::Interrupted)
    }
}

pub(super) async fn work_of(
    transaction: &mut Transaction<'_, Sqlite>,
    path: &Path,
    manifest_file: &Path,
    slot: Timestamp,
) -> Fallible<Option<WorkOfSlot>> {
    let row = sqlx::query(
        r#"SELECT id, NULL AS sweep, state, process FROM runs
           WHERE manifest_file = ?1 AND "trigger" = ?2 AND "trigger" LIKE '{"schedule":%'
           UNION ALL
           SELECT NULL, sweep_id, state, process FROM sweep_sessions
           WHERE manifest_file = ?1 AND "trigger" = ?2 AND "trigger" LIKE '{"schedule":%'"#,
    )
    .bind(manifest_file.display().to_string())
    .bind(json(&Trigger::Schedule { slot }))
    .fetch_optional(&mut **transaction)
    .await
    .map_err(|source| failed(path, "look for a run", source))?;
    let read = |row: &SqliteRow| {
        let sweep: Option<i64> = cell(row, "sweep")?;
        Ok(WorkOfSlot {
            outcome: match sweep {
                Some(sweep) => Outcome::Sweep(sweep),
                None => Outcome::Run(cell(row, "id")?),
            },
            // The words for the states of sweeps are among those of runs.
            ended: match word_of("state", cell(row, "state")?)? {
                RunState::Running => None,
                RunState::Done => Some(TickState::Done),
                RunState::Failed => Some(TickState::Failed),
                RunState::Interrupted | RunState::Paused => Some(TickState::Interrupted),
            },
            process: process(row)?,
        })
    };
    row.as_ref().map(read).transpose()
}

/// The newest run of a schedule before `run` that was done and no regression.
pub(super) async fn last_good(
    transaction: &mut Transaction<'_, Sqlite>,
    path: &Path,
    manifest_file: &Path,
    run: i64,
) -> Fallible<Option<i64>> {
    sqlx::query_scalar(
        r#"SELECT runs.id FROM schedules JOIN ticks ON schedule_id = schedules.id
           JOIN runs ON runs.manifest_file = schedules.manifest_file AND runs."trigger" LIKE '{"schedule":%'
            AND runs."trigger" = '{"schedule":{"slot":"' || slot || '"}}'
           WHERE schedules.manifest_file = ? AND ticks.state = 'done' AND runs.id < ?
            AND (regression IS NULL OR json_array_length(regression, '$.worse') = 0)
           ORDER BY runs.id DESC LIMIT 1"#,
    )
    .bind(manifest_file.display().to_string())
    .bind(run)
    .fetch_optional(&mut **transaction)
    .await
    .map_err(|source| failed(path, "look for the last good run", source))
}

pub(super) async fn measured(
    transaction: &mut Transaction<'_, Sqlite>,
    path: &Path,
    run: i64,
) -> Fallible<Measured> {
    let rows = sqlx::query(
        "SELECT stage_runs.name AS stage, metrics.* FROM stage_runs JOIN metrics ON stage_run_id = id
         WHERE run_id = ? ORDER BY stage_runs.position, metrics.position",
    )
    .bind(run)
    .fetch_all(&mut **transaction)
    .await
    .map_err(|source| failed(path, "read metrics", source))?;
    let named = |row: &SqliteRow| {
        let metric: Metric = super::read::metric(row)?;
        Ok((format!("{}/{}", cell::<String>(row, "stage")?, metric.name), metric))
    };
    // A metric that is reported again counts with its last value.
    rows.iter().map(named).collect()
}
