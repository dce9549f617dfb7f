//! Writing a sweep into the database: a trial and the sampler's state in one transaction.

use std::path::Path;

use serde_json::Value;
use sqlx::{Connection as _, Sqlite, Transaction};
use tokio::runtime::Runtime;

use super::database::{Database, HistoryError, failed};
use super::recorder::{json, signed, word};
use super::{SweepState, TrialState, Trigger};
use crate::schedule::ProcessIdentity;
use crate::store::Store;
use crate::sweep::space::Params;

/// What is known when a sweep starts or goes on.
#[derive(Debug)]
pub(crate) struct SweepStart<'a> {
    pub(crate) identity: &'a str,
    pub(crate) manifest: &'a crate::manifest::Manifest,
    pub(crate) manifest_file: &'a Path,
    pub(crate) spec: &'a Value,
    pub(crate) seed: u64,
    pub(crate) seeds: &'a [u64],
    pub(crate) asked: u64,
    pub(crate) trigger: &'a Trigger,
}

/// A trial as it is drawn.
#[derive(Debug)]
pub(crate) struct NewTrial<'a> {
    pub(crate) number: u64,
    pub(crate) identity: &'a str,
    pub(crate) params: &'a Params,
    pub(crate) sampler: &'a Value,
    pub(crate) rung: Option<usize>,
}

/// One seed of a trial as it was measured.
#[derive(Debug)]
pub(crate) struct Measured<'a> {
    pub(crate) number: u64,
    pub(crate) seed: u64,
    pub(crate) run: i64,
    pub(crate) done: bool,
    pub(crate) objectives: &'a [f64],
    pub(crate) constraints: &'a [f64],
}

/// What one seed of a trial had reached at a rung.
#[derive(Debug)]
pub(crate) struct Reached<'a> {
    pub(crate) number: u64,
    pub(crate) seed: u64,
    pub(crate) rung: usize,
    pub(crate) epochs: u64,
    pub(crate) values: &'a [f64],
}

/// Where a trial stands now.
#[derive(Debug)]
pub(crate) struct Standing<'a> {
    pub(crate) number: u64,
    pub(crate) state: TrialState,
    pub(crate) rung: Option<usize>,
    pub(crate) objectives: Option<&'a [f64]>,
    pub(crate) violation: Option<f64>,
    pub(crate) error: Option<&'a str>,
}

/// The one writer of a sweep. Calls block; they must not be made inside an async task.
#[derive(Debug)]
pub(crate) struct SweepRecorder {
    database: Database,
    runtime: Runtime,
    sweep: i64,
    session: i64,
}

impl SweepRecorder {
    /// Opens the database and notes that the sweep is at work.
    pub(crate) fn start(store: &Store, start: &SweepStart<'_>) -> Result<Self, HistoryError> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(HistoryError::Runtime)?;
        let mut database = runtime.block_on(Database::writer(store))?;
        let (sweep, session) = runtime.block_on(start_sweep(&mut database, start))?;
        Ok(Self { database, runtime, sweep, session })
    }

    /// Number of the sweep.
    pub(crate) fn sweep(&self) -> i64 {
        self.sweep
    }

    /// Adds a trial with what its parameters were drawn from.
    pub(crate) fn add_trial(&mut self, trial: &NewTrial<'_>) -> Result<(), HistoryError> {
        let sweep = self.sweep;
        self.write("note a trial", async |transaction| {
            sqlx::query("INSERT INTO trials (sweep_id, number, identity, params, sampler, state, rung) VALUES (?, ?, ?, ?, ?, ?, ?)")
                .bind(sweep)
                .bind(signed(trial.number))
                .bind(trial.identity)
                .bind(json(trial.params))
                .bind(trial.sampler.to_string())
                .bind(word(TrialState::Running))
                .bind(trial.rung.map(|rung| signed(rung as u64)))
                .execute(&mut **transaction)
                .await
        })
    }

    /// Notes a seed of a trial.
    pub(crate) fn measured(&mut self, measured: &Measured<'_>) -> Result<(), HistoryError> {
        let sweep = self.sweep;
        self.write("note a trial's run", async |transaction| {
            sqlx::query("INSERT OR REPLACE INTO trial_runs (sweep_id, number, seed, run_id, done, objectives, constraints) VALUES (?, ?, ?, ?, ?, ?, ?)")
                .bind(sweep)
                .bind(signed(measured.number))
                .bind(measured.seed.to_string())
                .bind(measured.run)
                .bind(measured.done)
                .bind(json(&measured.objectives))
                .bind(json(&measured.constraints))
                .execute(&mut **transaction)
                .await
        })
    }

    /// Notes what a seed of a trial had reached at a rung.
    pub(crate) fn reached(&mut self, reached: &Reached<'_>) -> Result<(), HistoryError> {
        let sweep = self.sweep;
        self.write("note a rung", async |transaction| {
            sqlx::query("INSERT OR REPLACE INTO rungs (sweep_id, number, rung, seed, epochs, reached) VALUES (?, ?, ?, ?, ?, ?)")
                .bind(sweep)
                .bind(signed(reached.number))
                .bind(signed(reached.rung as u64))
                .bind(reached.seed.to_string())
                .bind(signed(reached.epochs))
                .bind(json(&reached.values))
                .execute(&mut **transaction)
                .await
        })
    }

    /// Notes where a trial stands.
    pub(crate) fn stands(&mut self, standing: &Standing<'_>) -> Result<(), HistoryError> {
        let sweep = self.sweep;
        self.write("note where a trial stands", async |transaction| {
            sqlx::query("UPDATE trials SET state = ?, rung = ?, objectives = ?, violation = ?, error = ? WHERE sweep_id = ? AND number = ?")
                .bind(word(standing.state))
                .bind(standing.rung.map(|rung| signed(rung as u64)))
                .bind(standing.objectives.map(|values| json(&values)))
                .bind(standing.violation)
                .bind(standing.error)
                .bind(sweep)
                .bind(signed(standing.number))
                .execute(&mut **transaction)
                .await
        })
    }

    /// Notes how the session ended, after `worked_s` seconds of work, and with it the sweep.
    pub(crate) fn sweep_stands(
        &mut self,
        state: SweepState,
        worked_s: f64,
    ) -> Result<(), HistoryError> {
        let (sweep, session) = (self.sweep, self.session);
        self.write("note where the sweep stands", async |transaction| {
            sqlx::query("UPDATE sweep_sessions SET state = ?, duration_s = ? WHERE id = ?")
                .bind(word(state))
                .bind(worked_s)
                .bind(session)
                .execute(&mut **transaction)
                .await?;
            sqlx::query("UPDATE sweeps SET state = ?, duration_s = duration_s + ? WHERE id = ?")
                .bind(word(state))
                .bind(worked_s)
                .bind(sweep)
                .execute(&mut **transaction)
                .await
        })
    }

    /// Closes the database, so that everything is in its one file when the process ends.
    pub(crate) fn close(self) -> Result<(), HistoryError> {
        let Self { database: Database { path, connection, .. }, runtime, .. } = self;
        runtime.block_on(connection.close()).map_err(|source| failed(&path, "close it", source))
    }

    fn write<T>(
        &mut self,
        action: &'static str,
        statements: impl AsyncFnOnce(&mut Transaction<'_, Sqlite>) -> Result<T, sqlx::Error>,
    ) -> Result<(), HistoryError> {
        let Self { database: Database { path, connection, .. }, runtime, .. } = self;
        let written = runtime.block_on(async {
            let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
            statements(&mut transaction).await?;
            transaction.commit().await
        });
        written.map_err(|source| failed(path, action, source))
    }
}

/// Numbers of the sweep and of its new session.
async fn start_sweep(
    database: &mut Database,
    start: &SweepStart<'_>,
) -> Result<(i64, i64), HistoryError> {
    let Database { path, connection, .. } = database;
    let manifest = start.manifest;
    let written = async {
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        let file = start.manifest_file.display().to_string();
        // Not one statement with ON CONFLICT: that would use up a number each time.
        let known: Option<i64> = sqlx::query_scalar(
            "UPDATE sweeps SET manifest_text = ?, spec = ?, seeds = ?, asked = ?, state = ?, process = ?
             WHERE identity = ? RETURNING id",
        )
        .bind(&manifest.text)
        .bind(start.spec.to_string())
        .bind(json(&start.seeds))
        .bind(signed(start.asked))
        .bind(word(SweepState::Running))
        .bind(json(&ProcessIdentity::here()))
        .bind(start.identity)
        .fetch_optional(&mut *transaction)
        .await?;
        let sweep = match known {
            Some(sweep) => sweep,
            None => add_sweep(&mut transaction, start, &file).await?,
        };
        // Other sweeps of the manifest cannot be at work while this one holds its lock.
        sqlx::query(
            "UPDATE sweeps SET state = ? WHERE manifest_file = ? AND state = ? AND id <> ?",
        )
        .bind(word(SweepState::Interrupted))
        .bind(&file)
        .bind(word(SweepState::Running))
        .bind(sweep)
        .execute(&mut *transaction)
        .await?;
        sqlx::query("UPDATE sweep_sessions SET state = ? WHERE manifest_file = ? AND state = ?")
            .bind(word(SweepState::Interrupted))
            .bind(&file)
            .bind(word(SweepState::Running))
            .execute(&mut *transaction)
            .await?;
        let session = sqlx::query_scalar(
            r#"INSERT INTO sweep_sessions (sweep_id, manifest_file, "trigger", state, process, started_at)
               VALUES (?, ?, ?, ?, ?, ?) RETURNING id"#,
        )
        .bind(sweep)
        .bind(&file)
        .bind(json(start.trigger))
        .bind(word(SweepState::Running))
        .bind(json(&ProcessIdentity::here()))
        .bind(jiff::Timestamp::now().to_string())
        .fetch_one(&mut *transaction)
        .await?;
        transaction.commit().await?;
        Ok((sweep, session))
    };
    written.await.map_err(|source| failed(path, "note the start of a sweep", source))
}

async fn add_sweep(
    transaction: &mut Transaction<'_, Sqlite>,
    start: &SweepStart<'_>,
    file: &str,
) -> Result<i64, sqlx::Error> {
    let manifest = start.manifest;
    sqlx::query_scalar(
        "INSERT INTO sweeps (identity, manifest, manifest_file, manifest_path, manifest_text, spec, seed, seeds, asked, state, process, started_at, duration_s)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 0) RETURNING id",
    )
    .bind(start.identity)
    .bind(&manifest.name)
    .bind(file)
    .bind(manifest.shown_path().display().to_string())
    .bind(&manifest.text)
    .bind(start.spec.to_string())
    .bind(start.seed.to_string())
    .bind(json(&start.seeds))
    .bind(signed(start.asked))
    .bind(word(SweepState::Running))
    .bind(json(&ProcessIdentity::here()))
    .bind(jiff::Timestamp::now().to_string())
    .fetch_one(&mut **transaction)
    .await
}
