//! Opening the database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, SqlSafeStr as _, SqliteConnection};

use crate::store::{Store, StoreError};

/// What made the tables of each schema version, 1 for the first: description, statements.
/// (`sqlx::migrate!` would collect them too, at the price of compiling SQLite a second time.)
const MIGRATIONS: &[(&str, &str)] = &[
    ("runs", include_str!("migrations/0001_runs.sql")),
    ("notes", include_str!("migrations/0005_notes.sql")),
];

fn migrator() -> Migrator {
    let numbered = MIGRATIONS.iter().zip(1..).map(|(&(description, statements), version)| {
        let statements = statements.into_sql_str();
        Migration::new(version, description.into(), MigrationType::Simple, statements, false)
    });
    Migrator::with_migrations(numbered.collect())
}

/// The newest schema version that is known here.
fn newest_schema() -> i64 {
    MIGRATIONS.len() as i64
}

/// Longest wait for another writer; its transactions take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(30);

/// Why the run database did not work.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    /// SQLite refused.
    #[error("run database {}: cannot {action}: {source}{}", path.display(), advice(source))]
    Database {
        /// The database file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// What SQLite says.
        source: sqlx::Error,
    },
    /// A newer version of this program has changed the tables.
    #[error(
        "run database {} was written by a newer version of this program (schema {found}, this version knows up to {known}); use that version, or another state folder through PIPELINE_HOME",
        path.display()
    )]
    Newer {
        /// The database file.
        path: PathBuf,
        /// Its schema version.
        found: i64,
        /// Newest known here.
        known: i64,
    },
    /// Its tables could not be brought up to date.
    #[error("run database {}: cannot create its tables: {source}", path.display())]
    Migration {
        /// The database file.
        path: PathBuf,
        /// What went wrong.
        source: MigrateError,
    },
    /// A row holds what this version never writes.
    #[error("run database: {what} is not readable: {found}")]
    Row {
        /// Which column.
        what: &'static str,
        /// Its content.
        found: String,
    },
    /// There is no such run.
    #[error("there is no run {id}; `pipeline runs` lists them")]
    NoRun {
        /// What was asked for.
        id: String,
    },
    /// The folder of the database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// No thread of its own for database work.
    #[error("cannot start the runtime for database work: {0}")]
    Runtime(std::io::Error),
}

/// An open database.
#[derive(Debug)]
pub(super) struct Database {
    pub(super) path: PathBuf,
    pub(super) connection: SqliteConnection,
}

impl Database {
    pub(super) fn path(home: &Path) -> PathBuf {
        home.join("runs.sqlite")
    }

    /// Opens for writing, creating and upgrading the tables where needed.
    pub(super) async fn writer(store: &Store) -> Result<Self, HistoryError> {
        let path = Self::path(store.home());
        // Two first runs at once must not both create the tables.
        let _alone = store.lock("database")?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT);
        let connection =
            options.connect().await.map_err(|source| failed(&path, "open it", source))?;
        let mut database = Self { path, connection };
        database.refuse_newer().await?;
        migrator()
            .run_direct(None, &mut database.connection, false)
            .await
            .map_err(|source| HistoryError::Migration { path: database.path.clone(), source })?;
        Ok(database)
    }

    /// Opens for reading; `None` where there is no database yet.
    pub(super) async fn reader(home: &Path) -> Result<Option<Self>, HistoryError> {
        let path = Self::path(home);
        if !path.exists() {
            return Ok(None);
        }
        // Not read-only: after a kill the first to open has to roll back or replay the journal.
        let options = SqliteConnectOptions::new().filename(&path).busy_timeout(BUSY_TIMEOUT);
        let connection =
            options.connect().await.map_err(|source| failed(&path, "open it", source))?;
        let mut database = Self { path, connection };
        database.refuse_newer().await?;
        // A first run may be about to create the tables.
        Ok(if database.schema_version().await?.is_some() { Some(database) } else { None })
    }

    async fn refuse_newer(&mut self) -> Result<(), HistoryError> {
        let known = newest_schema();
        match self.schema_version().await? {
            Some(found) if found > known => {
                Err(HistoryError::Newer { path: self.path.clone(), found, known })
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn schema_version(&mut self) -> Result<Option<i64>, HistoryError> {
        let tables: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM sqlite_master WHERE name = '_sqlx_migrations'",
        )
        .fetch_one(&mut self.connection)
        .await
        .map_err(|source| failed(&self.path, "read its version", source))?;
        if tables == 0 {
            return Ok(None);
        }
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&mut self.connection)
            .await
            .map_err(|source| failed(&self.path, "read its version", source))
    }
}

pub(super) fn failed(path: &Path, action: &'static str, source: sqlx::Error) -> HistoryError {
    HistoryError::Database { path: path.to_owned(), action, source }
}

/// What to do about the SQLite errors that are the user's to solve.
fn advice(source: &sqlx::Error) -> &'static str {
    let code = source.as_database_error().and_then(|error| error.code());
    match code.as_deref() {
        Some("13") => "; free some space, for instance with `pipeline gc`, and run again",
        Some("8" | "14" | "1544") => "; set PIPELINE_HOME to a folder that can be written",
        Some("11" | "26") => "; it is damaged: move it away, results in the store are not affected",
        _ => "",
    }
}
