//! Writing what schedulers decide: a decision and its record are one transaction.

use std::collections::BTreeSet;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{Connection as _, Sqlite, Transaction};

use super::database::{Database, HistoryError, failed};
use super::read::{cell, parsed, timestamp, word as word_of};
use super::recorder::{json, word};
use super::{RunState, Trigger};
use crate::protocol::Metric;
use crate::schedule::regression::{Comparison, Measured};
use crate::schedule::{Active, OnRegression, ProcessIdentity, Seen, Timetable, Verdict, decide};
use crate::store::Store;

/// Time between asking a run to stop and insisting.
const GRACE: SignedDuration = SignedDuration::from_secs(30);

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
        let Database { path, connection } = &mut self.database;
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

    /// Records how a claimed slot ended, by its run; `None` when someone else did so before.
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
        let run = run_of(&mut transaction, &path, manifest_file, slot).await?;
        let mut conclusion = match &run {
            Some(run) => {
                Conclusion { state: run.ended(), reason: None, run: Some(run.id), comparison: None }
            }
            None => Conclusion {
                state: TickState::Failed,
                reason: Some(format!("its run did not begin: {}", told.unwrap_or("it vanished"))),
                run: None,
                comparison: None,
            },
        };
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

/// The run of a slot.
struct RunOfSlot {
    id: i64,
    state: RunState,
    process: ProcessIdentity,
}

impl RunOfSlot {
    fn is_alive(&self) -> bool {
        self.state == RunState::Running && self.process.is_alive()
    }

    fn ended(&self) -> TickState {
        match self.state {
            RunState::Done => TickState::Done,
            RunState::Failed => TickState::Failed,
            RunState::Interrupted | RunState::Running | RunState::Paused => TickState::Interrupted,
        }
    }
}

async fn run_of(
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
async fn last_good(
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

async fn measured(
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

/// One look at one schedule, inside its transaction.
struct Look<'l, 't> {
    transaction: &'l mut Transaction<'t, Sqlite>,
    path: &'l Path,
    schedule: i64,
    now: Timestamp,
}

impl Look<'_, '_> {
    fn failed(&self, source: sqlx::Error) -> HistoryError {
        failed(self.path, "look after a schedule", source)
    }

    /// Finds or makes the schedule's row; gives back up to where its slots are decided. A changed
    /// timetable starts now.
    async fn schedule(&mut self, scheduled: &Scheduled<'_>) -> Fallible<Timestamp> {
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
    async fn seen(
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
            match run_of(self.transaction, self.path, manifest_file, slot).await? {
                Some(run) if run.is_alive() => process = Some(run.process),
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

    async fn tick(
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

    async fn claim(&mut self, slot: Timestamp, owner: &ProcessIdentity) -> Fallible<()> {
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
    async fn stop(&mut self, slot: Timestamp) -> Fallible<Option<ProcessIdentity>> {
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

    async fn advance(&mut self, since: Timestamp) -> Fallible<()> {
        sqlx::query("UPDATE schedules SET since = ? WHERE id = ?")
            .bind(since.to_string())
            .bind(self.schedule)
            .execute(&mut **self.transaction)
            .await
            .map_err(|source| self.failed(source))?;
        Ok(())
    }
}
