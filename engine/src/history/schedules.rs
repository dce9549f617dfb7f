//! Reading schedules and their ticks back.

use std::path::Path;

use serde::Serialize;

use super::database::HistoryError;
use super::read::{Bind, History, cell, parsed, timestamp, word};
use super::{RunState, TickState};
use crate::schedule::Comparison;

/// What became of a slot of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct TickRecord {
    /// When it was due, before its delay, in UTC.
    pub slot: jiff::Timestamp,
    /// What became of it.
    pub state: TickState,
    /// Why, where there is more to say.
    pub reason: Option<String>,
    /// When that was decided, in UTC.
    pub decided_at: jiff::Timestamp,
    /// Its run, where one began.
    pub run: Option<i64>,
    /// Its sweep, where one began or went on.
    pub sweep: Option<i64>,
    /// How that run stands.
    pub run_state: Option<RunState>,
    /// How the run compares with the last good one, where that is watched.
    pub comparison: Option<Comparison>,
}

impl History {
    /// The newest ticks of a manifest's schedule, newest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn ticks(
        &self,
        manifest_file: &Path,
        limit: usize,
    ) -> Result<Vec<TickRecord>, HistoryError> {
        let rows = self.rows(
            r#"SELECT ticks.*, runs.id AS run, runs.state AS run_state, sweep_id
               FROM schedules JOIN ticks ON schedule_id = schedules.id
               LEFT JOIN runs ON runs.manifest_file = schedules.manifest_file AND runs."trigger" LIKE '{"schedule":%'
                AND runs."trigger" = '{"schedule":{"slot":"' || slot || '"}}'
               LEFT JOIN sweep_sessions ON sweep_sessions.manifest_file = schedules.manifest_file
                AND sweep_sessions."trigger" LIKE '{"schedule":%'
                AND sweep_sessions."trigger" = '{"schedule":{"slot":"' || slot || '"}}'
               WHERE schedules.manifest_file = ? ORDER BY slot DESC LIMIT ?"#,
            &[
                Bind::Text(&manifest_file.display().to_string()),
                Bind::Number(i64::try_from(limit).unwrap_or(i64::MAX)),
            ],
        )?;
        rows.iter()
            .map(|row| {
                let run_state: Option<String> = cell(row, "run_state")?;
                let comparison: Option<String> = cell(row, "regression")?;
                Ok(TickRecord {
                    slot: timestamp(cell(row, "slot")?)?,
                    state: word("state", cell(row, "state")?)?,
                    reason: cell(row, "reason")?,
                    decided_at: timestamp(cell(row, "decided_at")?)?,
                    run: cell(row, "run")?,
                    sweep: cell(row, "sweep_id")?,
                    run_state: run_state.map(|state| word("state", state)).transpose()?,
                    comparison: comparison.map(|text| parsed("regression", &text)).transpose()?,
                })
            })
            .collect()
    }
}
