//! The runs that slots of schedules led to.

use std::path::Path;

use jiff::Timestamp;
use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, Transaction};

use super::database::{HistoryError, failed};
use super::read::{cell, word as word_of};
use super::recorder::json;
use super::{RunState, TickState, Trigger};
use crate::protocol::Metric;
use crate::schedule::ProcessIdentity;
use crate::schedule::regression::Measured;

type Fallible<T> = Result<T, HistoryError>;

/// The run of a slot.
pub(super) struct RunOfSlot {
    pub(super) id: i64,
    state: RunState,
    pub(super) process: ProcessIdentity,
}

impl RunOfSlot {
    pub(super) fn is_alive(&self) -> bool {
        self.state == RunState::Running && self.process.is_alive()
    }

    pub(super) fn ended(&self) -> TickState {
        match self.state {
            RunState::Done => TickState::Done,
            RunState::Failed => TickState::Failed,
            RunState::Interrupted | RunState::Running | RunState::Paused => TickState::Interrupted,
        }
    }
}

pub(super) async fn run_of(
    transaction: &mut Transaction<'_, Sqlite>,
    path: &Path,
    manifest_file: &Path,
    slot: Timestamp,
) -> Fallible<Option<RunOfSlot>> {
    let row = sqlx::query(
        r#"SELECT id, state, pid FROM runs WHERE manifest_file = ? AND "trigger" = ? AND "trigger" LIKE '{"schedule":%'"#,
    )
    .bind(manifest_file.display().to_string())
    .bind(json(&Trigger::Schedule { slot }))
    .fetch_optional(&mut **transaction)
    .await
    .map_err(|source| failed(path, "look for a run", source))?;
    let read = |row: &SqliteRow| {
        let pid: i64 = cell(row, "pid")?;
        Ok(RunOfSlot {
            id: cell(row, "id")?,
            state: word_of("state", cell(row, "state")?)?,
            process: ProcessIdentity::of(u32::try_from(pid).unwrap_or(0)),
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
