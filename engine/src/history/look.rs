//! One look of a scheduler at one schedule: reading where it stands, writing what was decided.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{Sqlite, Transaction};

use super::TickState;
use super::database::{HistoryError, failed};
use super::read::{cell, parsed, timestamp, word as word_of};
use super::recorder::{json, word};
use super::slot_runs::work_of;
use super::ticks::{Scheduled, Turn};
use crate::schedule::{Active, ProcessIdentity, Seen};

type Fallible<T> = Result<T, HistoryError>;

/// Time between asking a run to stop and insisting.
const GRACE: SignedDuration = SignedDuration::from_secs(30);

/// One look at one schedule, inside its transaction.
pub(super) struct Look<'l, 't> {
    pub(super) transaction: &'l mut Transaction<'t, Sqlite>,
    pub(super) path: &'l Path,
    pub(super) schedule: i64,
    pub(super) now: Timestamp,
}

impl Look<'_, '_> {
    fn failed(&self, source: sqlx::Error) -> HistoryError {
        failed(self.path, "look after a schedule", source)
    }

    /// Finds or makes the schedule's row; gives back up to where its slots are decided. A changed
    /// timetable starts now.
    pub(super) async fn schedule(&mut self, scheduled: &Scheduled<'_>) -> Fallible<Timestamp> {
        let file = scheduled.manifest_file.display().to_string();
        let slots = scheduled.timetable.identity();
        let row = sqlx::query("SELECT id, slots, since FROM schedules WHERE manifest_file = ?")
            .bind(&file)
            .fetch_optional(&mut **self.transaction)
            .await
            .map_err(|source| self.failed(source))?;
        if let Some(row) = &row {
            self.schedule = cell(row, "id")?;
            if cell::<String>(row, "slots")? == slots {
                return timestamp(cell(row, "since")?);
            }
            sqlx::query("UPDATE ticks SET state = 'skipped', reason = 'the schedule was edited' WHERE schedule_id = ? AND state = 'queued'")
                .bind(self.schedule)
                .execute(&mut **self.transaction)
                .await
                .map_err(|source| self.failed(source))?;
        }
        self.schedule = sqlx::query_scalar(
            "INSERT INTO schedules (manifest_file, manifest_path, slots, since) VALUES (?, ?, ?, ?)
             ON CONFLICT (manifest_file) DO UPDATE SET slots = excluded.slots, since = excluded.since RETURNING id",
        )
        .bind(&file)
        .bind(scheduled.manifest_path.display().to_string())
        .bind(slots)
        .bind(self.now.to_string())
        .fetch_one(&mut **self.transaction)
        .await
        .map_err(|source| self.failed(source))?;
        Ok(self.now)
    }

    /// Everything that the decision depends on.
    pub(super) async fn seen(
        &mut self,
        manifest_file: &Path,
        since: Timestamp,
        turn: &mut Turn,
    ) -> Fallible<Seen> {
        let from = since.min(self.now).to_string();
        let rows = sqlx::query("SELECT * FROM ticks WHERE schedule_id = ? AND (slot > ? OR state IN ('queued', 'claimed'))")
            .bind(self.schedule)
            .bind(from)
            .fetch_all(&mut **self.transaction)
            .await
            .map_err(|source| self.failed(source))?;
        let mut seen = Seen {
            since,
            recorded: BTreeSet::new(),
            orphans: BTreeSet::new(),
            queued: BTreeSet::new(),
            active: None,
        };
        for row in &rows {
            let slot = timestamp(cell(row, "slot")?)?;
            seen.recorded.insert(slot);
            match word_of("state", cell(row, "state")?)? {
                TickState::Queued => _ = seen.queued.insert(slot),
                TickState::Claimed => self.claimed(manifest_file, row, turn, &mut seen).await?,
                _ => {}
            }
        }
        Ok(seen)
    }

    /// Finds out where a claimed slot stands.
    async fn claimed(
        &mut self,
        manifest_file: &Path,
        row: &SqliteRow,
        turn: &mut Turn,
        seen: &mut Seen,
    ) -> Fallible<()> {
        let slot = timestamp(cell(row, "slot")?)?;
        let identity = |column: &'static str| {
            let text: Option<String> = cell(row, column)?;
            text.map(|text| parsed::<ProcessIdentity>(column, &text)).transpose()
        };
        let is_alive = |process: &Option<ProcessIdentity>| {
            process.as_ref().is_some_and(ProcessIdentity::is_alive)
        };
        let (owner, mut process) = (identity("owner")?, identity("process")?);
        if !is_alive(&owner) && !is_alive(&process) {
            match work_of(self.transaction, self.path, manifest_file, slot).await? {
                Some(work) if work.is_alive() => process = work.process,
                Some(_) => {
                    turn.abandoned.push(slot);
                    return Ok(());
                }
                None => {
                    seen.orphans.insert(slot);
                    return Ok(());
                }
            }
        }
        let stopped_at: Option<String> = cell(row, "stopped_at")?;
        let stopped_at = stopped_at.map(timestamp).transpose()?;
        if stopped_at.is_some_and(|stopped| self.now.duration_since(stopped) >= GRACE) {
            turn.stop.extend(process);
        }
        seen.active = Some(Active { slot, stopping: stopped_at.is_some() });
        Ok(())
    }

    pub(super) async fn tick(
        &mut self,
        slot: Timestamp,
        state: TickState,
        reason: Option<&str>,
    ) -> Fallible<()> {
        sqlx::query(
            "INSERT INTO ticks (schedule_id, slot, state, reason, decided_at) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (schedule_id, slot) DO UPDATE SET state = excluded.state, reason = excluded.reason,
              decided_at = excluded.decided_at, owner = NULL, process = NULL",
        )
        .bind(self.schedule)
        .bind(slot.to_string())
        .bind(word(state))
        .bind(reason)
        .bind(self.now.to_string())
        .execute(&mut **self.transaction)
        .await
        .map_err(|source| self.failed(source))?;
        Ok(())
    }

    pub(super) async fn claim(&mut self, slot: Timestamp, owner: &ProcessIdentity) -> Fallible<()> {
        sqlx::query("UPDATE ticks SET state = 'claimed', owner = ? WHERE schedule_id = ? AND slot = ? AND state = 'queued'")
            .bind(json(owner))
            .bind(self.schedule)
            .bind(slot.to_string())
            .execute(&mut **self.transaction)
            .await
            .map_err(|source| self.failed(source))?;
        Ok(())
    }

    /// Notes that the run of a slot has to stop; gives back its process, once there is one.
    pub(super) async fn stop(&mut self, slot: Timestamp) -> Fallible<Option<ProcessIdentity>> {
        let process: Option<String> = sqlx::query_scalar(
            "UPDATE ticks SET stopped_at = ? WHERE schedule_id = ? AND slot = ? RETURNING process",
        )
        .bind(self.now.to_string())
        .bind(self.schedule)
        .bind(slot.to_string())
        .fetch_one(&mut **self.transaction)
        .await
        .map_err(|source| self.failed(source))?;
        process.map(|text| parsed("process", &text)).transpose()
    }

    pub(super) async fn advance(&mut self, since: Timestamp) -> Fallible<()> {
        sqlx::query("UPDATE schedules SET since = ? WHERE id = ?")
            .bind(since.to_string())
            .bind(self.schedule)
            .execute(&mut **self.transaction)
            .await
            .map_err(|source| self.failed(source))?;
        Ok(())
    }
}
