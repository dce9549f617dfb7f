//! Opening the database.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration, MigrationType, Migrator};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions as _, Connection as _, SqlSafeStr as _, SqliteConnection};

use crate::store::{Store, StoreError};

/// What made the tables of each schema version, 1 for the first: description, statements.
/// (`sqlx::migrate!` would collect them too, at the price of compiling SQLite a second time.)
const MIGRATIONS: &[(&str, &str)] = &[
    ("runs", include_str!("migrations/0001_runs.sql")),
    ("triggers", include_str!("migrations/0002_triggers.sql")),
    ("schedules", include_str!("migrations/0003_schedules.sql")),
    ("sweeps", include_str!("migrations/0004_sweeps.sql")),
    ("notes", include_str!("migrations/0005_notes.sql")),
    ("sweep sessions", include_str!("migrations/0006_sweep_sessions.sql")),
    ("processes", include_str!("migrations/0007_processes.sql")),
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

/// Longest wait of a writer for another; its transactions take milliseconds.
const WRITER_WAIT: Duration = Duration::from_secs(30);
/// Longest wait of a reader, who waits for recovery after a crash at most; someone looks on.
const READER_WAIT: Duration = Duration::from_secs(5);

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
    /// A check of the file found damage.
    #[error("run database {} is damaged: {found}", path.display())]
    Damaged {
        /// The database file.
        path: PathBuf,
        /// What SQLite says.
        found: String,
    },
    /// What was read from a file that may change meanwhile makes no sense.
    #[error(
        "run database {} could not be read: {found}; it cannot be written from here, so that its owner may have changed it meanwhile: try again, and if that does not help let its owner run `pipeline doctor`",
        path.display()
    )]
    Changed {
        /// The database file.
        path: PathBuf,
        /// What SQLite says.
        found: String,
    },
    /// A row holds what this version never writes.
    #[error(
        "run database: {what} is not readable: {found}; it may be damaged, `pipeline doctor` looks and says how to recover"
    )]
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
    /// The run has no such stage.
    #[error("run {run} has no stage `{name}`, {known}")]
    NoStage {
        /// The run.
        run: i64,
        /// What was asked for.
        name: String,
        /// The stages that it has.
        known: String,
    },
    /// The stage never ran.
    #[error("stage `{name}` of run {run} never ran, so that it has no log: {why}")]
    NoLog {
        /// Its run.
        run: i64,
        /// The stage.
        name: String,
        /// Why it did not.
        why: String,
    },
    /// The run that did the work of a hit does not know of it.
    #[error(
        "stage `{name}` of run {run} is a hit, but run {origin}, which did its work, has no log of it"
    )]
    NoOrigin {
        /// Run of the hit.
        run: i64,
        /// The hit.
        name: String,
        /// Run that did the work.
        origin: i64,
    },
    /// There is no such sweep.
    #[error("there is no sweep {id}; `pipeline sweeps` lists them")]
    NoSweep {
        /// What was asked for.
        id: i64,
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
    /// Whether SQLite takes it that nobody changes the file, as it must where nothing can be
    /// written beside it. What is written later is seen by those who open it later only.
    pub(super) is_immutable: bool,
}

impl Database {
    pub(super) fn path(home: &Path) -> PathBuf {
        home.join("runs.sqlite")
    }

    /// Opens for writing, creating and upgrading the tables where needed.
    pub(super) async fn writer(store: &Store) -> Result<Self, HistoryError> {
        Self::writer_within(store, WRITER_WAIT).await
    }

    async fn writer_within(store: &Store, wait: Duration) -> Result<Self, HistoryError> {
        let path = Self::path(store.home());
        // Two first runs at once must not both create the tables.
        let _alone = store.lock("database")?;
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Normal)
            .foreign_keys(true)
            .busy_timeout(wait);
        let mut database = Self::open(&path, &options).await?;
        migrator()
            .run_direct(None, &mut database.connection, false)
            .await
            .map_err(|source| HistoryError::Migration { path: database.path.clone(), source })?;
        database.number_runs(store).await?;
        Ok(database)
    }

    /// Numbers of runs whose database was lost are not given again: results and logs bear them.
    async fn number_runs(&mut self, store: &Store) -> Result<(), HistoryError> {
        let numbered: i64 =
            sqlx::query_scalar("SELECT count(*) FROM sqlite_sequence WHERE name = 'runs'")
                .fetch_one(&mut self.connection)
                .await
                .map_err(|source| self.failed("number its runs", source))?;
        if numbered > 0 {
            return Ok(());
        }
        // A run may have started since.
        sqlx::query(
            "INSERT INTO sqlite_sequence (name, seq) SELECT 'runs', ? WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'runs')",
        )
        .bind(store.highest_run()?)
        .execute(&mut self.connection)
        .await
        .map_err(|source| self.failed("number its runs", source))?;
        Ok(())
    }

    /// Opens for reading; `None` where there is no database yet. An older version's tables are
    /// brought up to date, so that every query knows one schema only.
    pub(super) async fn reader(home: &Path) -> Result<Option<Self>, HistoryError> {
        Self::reader_within(home, READER_WAIT).await
    }

    async fn reader_within(home: &Path, wait: Duration) -> Result<Option<Self>, HistoryError> {
        let path = Self::path(home);
        if !path.exists() {
            return Ok(None);
        }
        // Not read-only: after a kill the first to open has to roll back or replay the journal.
        let options = SqliteConnectOptions::new().filename(&path).busy_timeout(wait);
        let mut database = match Self::open(&path, &options).await {
            Err(error) if error.is_read_only() && path.is_file() => {
                Self::open_read_only(&path, &options).await?
            }
            opened => opened?,
        };
        match database.schema_version().await? {
            // A first run may be about to create the tables.
            None => Ok(None),
            Some(found) if found < newest_schema() => {
                database.close("bring it up to date").await?;
                Self::writer(&Store::at(home)).await.map(Some)
            }
            Some(_) => Ok(Some(database)),
        }
    }

    async fn open(path: &Path, options: &SqliteConnectOptions) -> Result<Self, HistoryError> {
        Self::open_as(path, options, false).await
    }

    async fn open_as(
        path: &Path,
        options: &SqliteConnectOptions,
        is_immutable: bool,
    ) -> Result<Self, HistoryError> {
        let connection =
            options.connect().await.map_err(|source| failed(path, "open it", source))?;
        let mut database = Self { path: path.to_owned(), connection, is_immutable };
        database.refuse_newer().await?;
        Ok(database)
    }

    /// Opens what cannot be written.
    async fn open_read_only(
        path: &Path,
        options: &SqliteConnectOptions,
    ) -> Result<Self, HistoryError> {
        match Self::open(path, &options.clone().read_only(true)).await {
            // Without a journal to replay nothing has to be written beside the file.
            Err(error) if error.is_read_only() && !has_journal(path) => {
                Self::open_immutable(path, options).await
            }
            opened => opened,
        }
    }

    async fn open_immutable(
        path: &Path,
        options: &SqliteConnectOptions,
    ) -> Result<Self, HistoryError> {
        Self::open_as(path, &options.clone().read_only(true).immutable(true), true).await
    }

    /// What is told when SQLite refuses.
    pub(super) fn failed(&self, action: &'static str, source: sqlx::Error) -> HistoryError {
        if self.is_immutable && is_damage(&source) {
            return HistoryError::Changed { path: self.path.clone(), found: source.to_string() };
        }
        failed(&self.path, action, source)
    }

    /// Looks through the whole file for damage.
    pub(super) async fn check(&mut self) -> Result<(), HistoryError> {
        let found: String = sqlx::query_scalar("PRAGMA quick_check(1)")
            .fetch_one(&mut self.connection)
            .await
            .map_err(|source| self.failed("check it", source))?;
        if found == "ok" {
            return Ok(());
        }
        let (path, found) = (self.path.clone(), found.replace('\n', " "));
        Err(match self.is_immutable {
            true => HistoryError::Changed { path, found },
            false => HistoryError::Damaged { path, found },
        })
    }

    pub(super) async fn close(self, action: &'static str) -> Result<(), HistoryError> {
        let Self { path, connection, .. } = self;
        connection.close().await.map_err(|source| failed(&path, action, source))
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
        .map_err(|source| self.failed("read its version", source))?;
        if tables == 0 {
            return Ok(None);
        }
        sqlx::query_scalar("SELECT max(version) FROM _sqlx_migrations WHERE success")
            .fetch_one(&mut self.connection)
            .await
            .map_err(|source| self.failed("read its version", source))
    }
}

pub(super) fn failed(path: &Path, action: &'static str, source: sqlx::Error) -> HistoryError {
    HistoryError::Database { path: path.to_owned(), action, source }
}

/// Whether SQLite keeps something beside the file.
fn has_journal(path: &Path) -> bool {
    ["sqlite-wal", "sqlite-shm"].iter().any(|ending| path.with_extension(ending).exists())
}

impl HistoryError {
    /// Whether something beside the file, or the file, cannot be written.
    fn is_read_only(&self) -> bool {
        matches!(self, Self::Database { source, .. } if matches!(code(source), Some(8 | 14)))
    }

    /// How to get at least a part of a damaged database back; `None` where it is not damaged.
    pub fn recovery(&self) -> Option<String> {
        let path = match self {
            Self::Damaged { path, .. } => path,
            Self::Database { path, source, .. } if is_damage(source) => path,
            _ => return None,
        };
        let folder = path.parent().unwrap_or(Path::new("/")).display();
        Some(format!(
            "results in the store are not affected. With no run going on, start anew by \
             `cd {folder} && for f in runs.sqlite*; do mv $f damaged-$f; done`; get back what can be read by \
             `sqlite3 damaged-runs.sqlite .dump | sed 's/^ROLLBACK.*/COMMIT;/' | sqlite3 runs.sqlite` after that"
        ))
    }
}

/// SQLite's primary result code, without what extends it.
fn code(source: &sqlx::Error) -> Option<i32> {
    let code = source.as_database_error()?.code()?;
    Some(code.parse::<i32>().ok()? & 0xff)
}

fn is_damage(source: &sqlx::Error) -> bool {
    matches!(code(source), Some(11 | 26))
}

/// What to do about the SQLite errors that are the user's to solve.
fn advice(source: &sqlx::Error) -> &'static str {
    match code(source) {
        Some(13) => "; free some space, for instance with `pipeline gc`, and run again",
        Some(8 | 14) => {
            "; set PIPELINE_HOME to a state folder that can be read, and for runs written"
        }
        Some(5 | 6) => {
            "; another program has held it for long, a backup or an open `sqlite3` for instance: end that and try again"
        }
        Some(11 | 26) => {
            "; it is damaged: move it away, results in the store are not affected; `pipeline doctor` says how to recover"
        }
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_database_that_someone_holds_is_told_and_left_alone() {
        with_store(async |store| {
            Database::writer(store).await.unwrap().close("close it").await.unwrap();
            let holder = SqliteConnectOptions::new()
                .filename(Database::path(store.home()))
                .locking_mode(sqlx::sqlite::SqliteLockingMode::Exclusive);
            let mut holder = holder.connect().await.unwrap();
            for statement in ["BEGIN EXCLUSIVE", "DELETE FROM runs", "COMMIT"] {
                sqlx::query(sqlx::AssertSqlSafe(statement)).execute(&mut holder).await.unwrap();
            }
            let wait = Duration::from_millis(50);
            let writer = Database::writer_within(store, wait).await.unwrap_err();
            let reader = Database::reader_within(store.home(), wait).await.unwrap_err();
            for error in [reader, writer] {
                let text = error.to_string();
                assert!(text.contains("runs.sqlite") && text.contains("end that"), "{text}");
                assert_eq!(error.recovery(), None);
            }
            holder.close().await.unwrap();
            assert!(Database::reader(store.home()).await.unwrap().is_some());
        });
    }

    #[test]
    fn what_cannot_be_written_is_read_as_it_is_when_opened() {
        with_store(async |store| {
            Database::writer(store).await.unwrap().close("close it").await.unwrap();
            let path = Database::path(store.home());
            let options = SqliteConnectOptions::new().filename(&path);
            // Root may write everywhere, so that the ways to open are tried one by one.
            assert!(!has_journal(&path));
            let mut first = Database::open_immutable(&path, &options).await.unwrap();
            assert!(first.is_immutable);
            first.check().await.unwrap();
            assert_eq!(runs(&mut first).await, 0);

            let mut writer = Database::writer(store).await.unwrap();
            assert!(has_journal(&path) && !writer.is_immutable);
            sqlx::query(
                "INSERT INTO runs (manifest, manifest_file, manifest_path, manifest_text, overrides, seed, device, state, started_at) VALUES ('m', '/m.toml', 'm.toml', '', '[]', '0', 'cpu', 'done', '2026-01-01T00:00:00Z')",
            )
            .execute(&mut writer.connection)
            .await
            .unwrap();
            writer.close("close it").await.unwrap();
            let mut later = Database::open_immutable(&path, &options).await.unwrap();
            assert_eq!(runs(&mut later).await, 1);
            // Where plain reading works, it sees what is written later.
            assert!(!Database::open_read_only(&path, &options).await.unwrap().is_immutable);
        });
    }

    #[test]
    fn a_file_that_changes_unseen_is_not_called_damaged() {
        with_store(async |store| {
            Database::writer(store).await.unwrap().close("close it").await.unwrap();
            let path = Database::path(store.home());
            let options = SqliteConnectOptions::new().filename(&path);
            let mut opened = Database::open_immutable(&path, &options).await.unwrap();
            let mut bytes = std::fs::read(&path).unwrap();
            // All but the first page, which describes the tables.
            bytes[4096..].fill(0xff);
            std::fs::write(&path, bytes).unwrap();
            let error = opened.check().await.unwrap_err();
            assert!(error.to_string().contains("try again"), "{error}");
            assert_eq!(error.recovery(), None);
        });
    }

    /// Runs a test with a store of its own.
    fn with_store(test: impl AsyncFnOnce(&Store)) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            test(&Store::create(folder.path()).unwrap()).await;
        });
    }

    async fn runs(database: &mut Database) -> i64 {
        let count = sqlx::query_scalar("SELECT count(*) FROM runs");
        count.fetch_one(&mut database.connection).await.unwrap()
    }

    #[test]
    fn numbers_that_a_lost_database_gave_are_not_given_again() {
        with_store(async |store| {
            std::fs::create_dir_all(store.home().join("logs/7")).unwrap();
            // The second follows a kill between the tables and their numbers.
            for unset in [false, true] {
                let mut writer = Database::writer(store).await.unwrap();
                if unset {
                    let unset = sqlx::query("DELETE FROM sqlite_sequence");
                    unset.execute(&mut writer.connection).await.unwrap();
                    writer.close("close it").await.unwrap();
                    writer = Database::writer(store).await.unwrap();
                }
                let rows =
                    sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'runs'");
                let rows: Vec<i64> = rows.fetch_all(&mut writer.connection).await.unwrap();
                assert_eq!(rows, [7]);
                writer.close("close it").await.unwrap();
            }
        });
    }

    #[test]
    fn tables_of_an_older_version_are_brought_up_to_date_by_a_reader() {
        with_store(async |store| {
            let options = SqliteConnectOptions::new()
                .filename(Database::path(store.home()))
                .create_if_missing(true);
            let mut first = options.connect().await.unwrap();
            let only = Migrator::with_migrations(migrator().iter().take(1).cloned().collect());
            only.run_direct(None, &mut first, false).await.unwrap();
            sqlx::query(
                "INSERT INTO runs VALUES (1, 'm', '/m.toml', 'm.toml', '', '[]', '0', 'cpu', 'done', 1, '2026-01-01T00:00:00Z', 1.0)",
            )
            .execute(&mut first)
            .await
            .unwrap();
            first.close().await.unwrap();

            let mut reader = Database::reader(store.home()).await.unwrap().unwrap();
            assert_eq!(reader.schema_version().await.unwrap(), Some(newest_schema()));
            let trigger: String = sqlx::query_scalar("SELECT \"trigger\" FROM runs")
                .fetch_one(&mut reader.connection)
                .await
                .unwrap();
            assert_eq!(trigger, "\"manual\"");
        });
    }
}
