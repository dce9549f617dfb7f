//! Lists of runs: filtered, sorted, a page at a time.

use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, Sqlite};

use super::database::HistoryError;
use super::notes::Verdict;
use super::read::{History, is_alive, summary, word};
use super::{RunState, RunSummary};

/// Which runs to list, and in which order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunQuery {
    /// `name` of the manifest.
    pub manifest: Option<String>,
    /// How the run ended, or that it has not.
    pub state: Option<RunState>,
    /// Part of the manifest's path, of an override, of a stage's name or error, or of a note, in
    /// any case; or the number of the run.
    pub text: Option<String>,
    /// Earliest start.
    pub since: Option<jiff::Timestamp>,
    /// Starts before this.
    pub before: Option<jiff::Timestamp>,
    /// What to sort by.
    pub order: RunOrder,
    /// Smallest first instead of greatest first.
    pub ascending: bool,
    /// Runs to leave out at the beginning.
    pub offset: usize,
    /// Runs at most.
    pub limit: usize,
}

/// What runs are sorted by; runs that are equal are sorted by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunOrder {
    /// Number, which is the order of starting.
    #[default]
    Id,
    /// Name of the manifest.
    Manifest,
    /// Seconds from start to end; runs without an end first.
    Duration,
}

/// A page of a list of runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RunPage {
    /// The runs of the page.
    pub runs: Vec<ListedRun>,
    /// Runs on all pages.
    pub total: usize,
}

/// A run in a list.
#[derive(Debug, Clone, PartialEq)]
pub struct ListedRun {
    /// The run.
    pub summary: RunSummary,
    /// The newest decision about it.
    pub verdict: Option<Verdict>,
    /// What people said about it, decisions included.
    pub n_notes: u32,
}

impl History {
    /// Runs that fit the query.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn list(&self, query: &RunQuery) -> Result<RunPage, HistoryError> {
        let killed = self.killed()?;
        let has_notes = self.has_notes()?;
        let mut counted = QueryBuilder::new("SELECT count(*) AS total FROM runs WHERE ");
        query.push_condition(&mut counted, &killed, has_notes);
        let total: i64 = self.built(counted)?.first().map_or(0, |row| row.get("total"));
        let mut listed = QueryBuilder::new(
            "SELECT runs.*,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'ran') AS n_ran,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'hit') AS n_hits,
                (SELECT count(*) FROM stage_runs WHERE run_id = runs.id AND stage_runs.state = 'failed') AS n_failed, ",
        );
        listed.push(if has_notes {
            "(SELECT count(*) FROM notes WHERE run_id = runs.id) AS n_notes,
             (SELECT verdict FROM notes WHERE run_id = runs.id AND verdict IS NOT NULL ORDER BY notes.id DESC LIMIT 1) AS verdict"
        } else {
            "0 AS n_notes, NULL AS verdict"
        });
        listed.push(" FROM runs WHERE ");
        query.push_condition(&mut listed, &killed, has_notes);
        let direction = if query.ascending { "ASC" } else { "DESC" };
        listed.push(match (query.order, query.ascending) {
            (RunOrder::Id, _) => " ORDER BY ",
            (RunOrder::Manifest, true) => " ORDER BY manifest ASC, ",
            (RunOrder::Manifest, false) => " ORDER BY manifest DESC, ",
            (RunOrder::Duration, true) => " ORDER BY duration_s ASC NULLS FIRST, ",
            (RunOrder::Duration, false) => " ORDER BY duration_s DESC NULLS FIRST, ",
        });
        listed.push("runs.id ").push(direction).push(" LIMIT ").push_bind(signed(query.limit));
        listed.push(" OFFSET ").push_bind(signed(query.offset));
        let runs = self.built(listed)?.iter().map(listed_run).collect::<Result<_, _>>()?;
        Ok(RunPage { runs, total: usize::try_from(total).unwrap_or(0) })
    }

    /// Names of all manifests that were ever run.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn manifests(&self) -> Result<Vec<String>, HistoryError> {
        let rows = self.rows("SELECT DISTINCT manifest FROM runs ORDER BY manifest", &[])?;
        Ok(rows.iter().map(|row| row.get("manifest")).collect())
    }

    /// Runs that say they are going, but whose process is not there any more.
    fn killed(&self) -> Result<Vec<i64>, HistoryError> {
        let rows = self.rows("SELECT id, process FROM runs WHERE state = 'running'", &[])?;
        let mut killed = Vec::new();
        for row in &rows {
            if !is_alive(row)? {
                killed.push(row.get("id"));
            }
        }
        Ok(killed)
    }
}

impl RunQuery {
    fn push_condition(&self, sql: &mut QueryBuilder<Sqlite>, killed: &[i64], has_notes: bool) {
        sql.push("1");
        if let Some(manifest) = &self.manifest {
            sql.push(" AND manifest = ").push_bind(manifest.clone());
        }
        if let Some(since) = self.since {
            sql.push(" AND started_at >= ").push_bind(since.to_string());
        }
        if let Some(before) = self.before {
            sql.push(" AND started_at < ").push_bind(before.to_string());
        }
        if let Some(state) = self.state {
            let killed: Vec<String> = killed.iter().map(i64::to_string).collect();
            let killed = killed.join(",");
            match state {
                RunState::Running => {
                    sql.push(" AND state = 'running' AND id NOT IN (").push(killed).push(")");
                }
                RunState::Interrupted => {
                    sql.push(" AND (state = 'interrupted' OR id IN (").push(killed).push("))");
                }
                RunState::Done => drop(sql.push(" AND state = 'done'")),
                RunState::Failed => drop(sql.push(" AND state = 'failed'")),
                RunState::Paused => drop(sql.push(" AND state = 'paused'")),
            }
        }
        if let Some(text) = &self.text {
            let pattern = format!("%{}%", escape_like(text));
            let mut like = |before: &str, after: &str| {
                sql.push(before).push_bind(pattern.clone()).push(" ESCAPE '\\'").push(after);
            };
            like(" AND (manifest_path LIKE ", "");
            like(" OR manifest LIKE ", "");
            like(" OR overrides LIKE ", "");
            like(" OR EXISTS (SELECT 1 FROM stage_runs WHERE run_id = runs.id AND (name LIKE ", "");
            like(" OR error LIKE ", "))");
            if has_notes {
                like(" OR EXISTS (SELECT 1 FROM notes WHERE run_id = runs.id AND (text LIKE ", "");
                like(" OR author LIKE ", "))");
            }
            sql.push(" OR CAST(id AS TEXT) = ").push_bind(text.trim_start_matches('#').to_owned());
            sql.push(")");
        }
    }
}

/// A text in which nothing is a wildcard of `LIKE`.
fn escape_like(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(character);
    }
    escaped
}

fn listed_run(row: &SqliteRow) -> Result<ListedRun, HistoryError> {
    let verdict: Option<String> = row.get("verdict");
    Ok(ListedRun {
        summary: summary(row)?,
        verdict: verdict.map(|text| word("verdict", text)).transpose()?,
        n_notes: row.get("n_notes"),
    })
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
