//! Writing what schedulers decide: a decision and its record are one transaction.

use std::path::Path;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, Sqlite, Transaction};

use super::database::{Database, HistoryError, failed};
use super::look::Look;
use super::recorder::{json, word};
use super::slot_runs::{Outcome, last_good, measured, work_of};
use crate::schedule::regression::Comparison;
use crate::schedule::{OnRegression, ProcessIdentity, Timetable, Verdict, decide};
use crate::store::Store;

/// What became of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TickState {
    /// It waits for its turn.
    Queued,
    /// A scheduler runs it.
    Claimed,
    /// Its run did everything.
    Done,
    /// Its run failed, or could not begin.
    Failed,
    /// Its run was stopped or killed.
    Interrupted,
    /// It did not run because of another run.
    Skipped,
    /// It did not run because nobody attended to it in time.
    Missed,
}

/// Whose schedule it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scheduled<'a> {
    pub(crate) manifest_file: &'a Path,
    pub(crate) manifest_path: &'a Path,
    pub(crate) timetable: &'a Timetable,
}

/// What a scheduler has to do after its look at a schedule.
#[derive(Debug, Default)]
pub(crate) struct Turn {
    /// Slot to start a run for; it is claimed.
    pub(crate) start: Option<Timestamp>,
    /// Runs to interrupt.
    pub(crate) stop: Vec<ProcessIdentity>,
    /// Slots whose run ended after their scheduler died.
    pub(crate) abandoned: Vec<Timestamp>,
    /// Slots that were decided not to run, and why.
    pub(crate) left_out: Vec<(Timestamp, TickState, Option<String>)>,
    /// Whether a run goes on, or a slot waits for one.
    pub(crate) busy: bool,
    /// When the next slot is due, or begins to wait for its delay.
    pub(crate) wake: Option<Timestamp>,
}

/// How a claimed slot ended.
#[derive(Debug, Clone)]
pub(crate) struct Conclusion {
    pub(crate) state: TickState,
    pub(crate) reason: Option<String>,
    pub(crate) run: Option<i64>,
    pub(crate) sweep: Option<i64>,
    pub(crate) comparison: Option<Comparison>,
}

/// The ticks of a state folder.
#[derive(Debug)]
pub(crate) struct Ticks {
    database: Database,
}

type Fallible<T> = Result<T, HistoryError>;

impl Ticks {
    pub(crate) async fn open(store: &Store) -> Fallible<Self> {
        Ok(Self { database: Database::writer(store).await? })
    }

    pub(crate) async fn close(self) -> Fallible<()> {
        self.database.close("close it").await
    }

    async fn begin(&mut self) -> Fallible<Transaction<'_, Sqlite>> {
        let Database { path, connection, .. } = &mut self.database;
        let begun = connection.begin_with("BEGIN IMMEDIATE").await;
        begun.map_err(|source| failed(path, "start writing", source))
    }

    /// Decides what is due, records it and claims the slot to start.
    pub(crate) async fn turn(
        &mut self,
        scheduled: &Scheduled<'_>,
        owner: &ProcessIdentity,
        now: Timestamp,
    ) -> Fallible<Turn> {
        let path = self.database.path.clone();
        let mut transaction = self.begin().await?;
        let mut look = Look { transaction: &mut transaction, path: &path, schedule: 0, now };
        let since = look.schedule(scheduled).await?;
        let mut turn = Turn::default();
        let seen = look.seen(scheduled.manifest_file, since, &mut turn).await?;
        let decision = decide(scheduled.timetable, &seen, now);
        turn.wake = decision.wake;
        let mut queued = seen.queued.len();
        for (slot, verdict) in &decision.verdicts {
            let (state, reason) = match verdict {
                Verdict::Queued => (TickState::Queued, None),
                Verdict::Skipped(reason) => (TickState::Skipped, Some(reason.clone())),
                Verdict::Missed => (TickState::Missed, None),
            };
            queued += usize::from(state == TickState::Queued);
            look.tick(*slot, state, reason.as_deref()).await?;
            if state != TickState::Queued {
                turn.left_out.push((*slot, state, reason));
            }
        }
        if let Some(slot) = decision.start {
            look.claim(slot, owner).await?;
            turn.start = Some(slot);
        }
        if let Some(active) = seen.active.filter(|_| decision.stop_active) {
            turn.stop.extend(look.stop(active.slot).await?);
        }
        if decision.changes(&seen) {
            look.advance(decision.since).await?;
        }
        turn.busy = turn.start.is_some() || seen.active.is_some() || queued > 0;
        let committed = transaction.commit().await;
        committed.map_err(|source| failed(&path, "record a decision", source))?;
        Ok(turn)
    }

    /// Notes which process runs a claimed slot.
    pub(crate) async fn started(
        &mut self,
        manifest_file: &Path,
        slot: Timestamp,
        process: &ProcessIdentity,
    ) -> Fallible<()> {
        let path = self.database.path.clone();
        let mut transaction = self.begin().await?;
        let written = async {
            sqlx::query(
                "UPDATE ticks SET process = ? WHERE slot = ? AND state = 'claimed'
                 AND schedule_id = (SELECT id FROM schedules WHERE manifest_file = ?)",
            )
            .bind(json(process))
            .bind(slot.to_string())
            .bind(manifest_file.display().to_string())
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await
        };
        written.await.map_err(|source| failed(&path, "note a process", source))
    }

    /// Records how a claimed slot ended, by its run or its sweep; `None` when someone else did so before.
    /// `told` says how its process ended, where that is known.
    pub(crate) async fn conclude(
        &mut self,
        manifest_file: &Path,
        slot: Timestamp,
        watch: Option<&OnRegression>,
        told: Option<&str>,
    ) -> Fallible<Option<Conclusion>> {
        let path = self.database.path.clone();
        let mut transaction = self.begin().await?;
        let mut conclusion = Conclusion {
            state: TickState::Failed,
            reason: None,
            run: None,
            sweep: None,
            comparison: None,
        };
        match work_of(&mut transaction, &path, manifest_file, slot).await? {
            Some(work) => {
                conclusion.state = work.ended();
                match work.outcome {
                    Outcome::Run(run) => conclusion.run = Some(run),
                    Outcome::Sweep(sweep) => conclusion.sweep = Some(sweep),
                }
            }
            None => {
                let told = told.unwrap_or("it vanished");
                conclusion.reason = Some(format!("its run did not begin: {told}"));
            }
        }
        if let (Some(watch), Some(run), TickState::Done) = (watch, conclusion.run, conclusion.state)
        {
            let now = measured(&mut transaction, &path, run).await?;
            let last = match last_good(&mut transaction, &path, manifest_file, run).await? {
                Some(last) => Some((last, measured(&mut transaction, &path, last).await?)),
                None => None,
            };
            let last = last.as_ref().map(|(run, metrics)| (*run, metrics));
            conclusion.comparison = Some(Comparison::of(watch, (run, &now), last));
        }
        let written = async {
            let updated = sqlx::query(
                "UPDATE ticks SET state = ?, reason = ?, regression = ? WHERE slot = ? AND state = 'claimed'
                 AND schedule_id = (SELECT id FROM schedules WHERE manifest_file = ?)",
            )
            .bind(word(conclusion.state))
            .bind(&conclusion.reason)
            .bind(conclusion.comparison.as_ref().map(json))
            .bind(slot.to_string())
            .bind(manifest_file.display().to_string())
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(updated.rows_affected() > 0)
        };
        let first: Result<bool, sqlx::Error> = written.await;
        let first = first.map_err(|source| failed(&path, "note the end of a tick", source))?;
        Ok(first.then_some(conclusion))
    }
}
