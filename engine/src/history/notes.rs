//! What people say about runs: remarks, approval, rejection.

use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, Row as _};

use super::database::{Database, HistoryError, failed};
use super::read::{Bind, History, timestamp, word};

/// Longest text of a note, in characters.
const LONGEST_TEXT: usize = 10_000;
/// Longest name of an author, in characters.
const LONGEST_AUTHOR: usize = 100;

/// What someone decided about a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// It may be used.
    Approved,
    /// It may not.
    Rejected,
}

impl Verdict {
    /// Its word in the database and in reports.
    pub fn word(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Rejected => "rejected",
        }
    }
}

/// Something someone said about a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NoteRecord {
    /// Number of the note, growing over all runs.
    pub id: i64,
    /// When, in UTC.
    pub at: jiff::Timestamp,
    /// Who, as they call themselves.
    pub author: String,
    /// What they decided, if anything. The newest decision counts.
    pub verdict: Option<Verdict>,
    /// What they said; empty only beside a verdict.
    pub text: String,
}

/// A note that may be stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewNote {
    author: String,
    verdict: Option<Verdict>,
    text: String,
}

/// Why something is no note.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Nothing is said.
    #[error("expected a text, a verdict or both, found neither")]
    Empty,
    /// Nobody says it.
    #[error("expected the name of the author, found none")]
    NoAuthor,
    /// It is too long.
    #[error("expected {what} of at most {most} characters, found {found}")]
    TooLong {
        /// Which part.
        what: &'static str,
        /// Characters that it may have.
        most: usize,
        /// Characters that it has.
        found: usize,
    },
}

impl NewNote {
    /// Checks a note; blanks around its parts are dropped.
    ///
    /// # Errors
    /// When nothing is said, nobody says it, or it is too long.
    pub fn new(author: &str, verdict: Option<Verdict>, text: &str) -> Result<Self, NoteError> {
        // Browsers send line ends as two characters.
        let (author, text) = (author.trim(), text.trim().replace("\r\n", "\n"));
        let too_long = |what, text: &str, most| match text.chars().count() {
            found if found > most => Err(NoteError::TooLong { what, most, found }),
            _ => Ok(()),
        };
        too_long("a text", &text, LONGEST_TEXT)?;
        too_long("an author", author, LONGEST_AUTHOR)?;
        if author.is_empty() {
            return Err(NoteError::NoAuthor);
        }
        if text.is_empty() && verdict.is_none() {
            return Err(NoteError::Empty);
        }
        Ok(Self { author: author.to_owned(), verdict, text })
    }
}

impl History {
    /// Stores a note about the run with this number.
    ///
    /// # Errors
    /// When there is no such run or the database cannot be written.
    pub fn add_note(&self, run: i64, note: &NewNote) -> Result<NoteRecord, HistoryError> {
        if self.rows("SELECT id FROM runs WHERE id = ?", &[Bind::Number(run)])?.is_empty() {
            return Err(HistoryError::NoRun { id: run.to_string() });
        }
        let NewNote { author, verdict, text } = note.clone();
        let at = jiff::Timestamp::now();
        let written = async {
            let Database { path, mut connection, .. } = Database::writer(self.store()).await?;
            let row = async {
                let id: i64 = sqlx::query_scalar(
                    "INSERT INTO notes (run_id, at, author, verdict, text) VALUES (?, ?, ?, ?, ?) RETURNING id",
                )
                .bind(run)
                .bind(at.to_string())
                .bind(&author)
                .bind(verdict.map(Verdict::word))
                .bind(&text)
                .fetch_one(&mut connection)
                .await?;
                connection.close().await?;
                Ok(id)
            };
            row.await.map_err(|source| failed(&path, "note what was said about a run", source))
        };
        let id = self.runtime().block_on(written)?;
        Ok(NoteRecord { id, at, author, verdict, text })
    }

    /// What was said about a run, oldest first.
    pub(super) fn notes(&self, run: i64) -> Result<Vec<NoteRecord>, HistoryError> {
        if !self.has_notes()? {
            return Ok(Vec::new());
        }
        self.rows("SELECT * FROM notes WHERE run_id = ? ORDER BY id", &[Bind::Number(run)])?
            .iter()
            .map(|row| {
                let verdict: Option<String> = row.get("verdict");
                Ok(NoteRecord {
                    id: row.get("id"),
                    at: timestamp(row.get("at"))?,
                    author: row.get("author"),
                    verdict: verdict.map(|text| word("verdict", text)).transpose()?,
                    text: row.get("text"),
                })
            })
            .collect()
    }

    /// Whether the tables are new enough to hold notes: readers do not upgrade them.
    pub(super) fn has_notes(&self) -> Result<bool, HistoryError> {
        Ok(!self.rows("SELECT 1 FROM sqlite_master WHERE name = 'notes'", &[])?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_something_and_has_an_author() {
        let long = "x".repeat(LONGEST_TEXT + 1);
        let check = |author: &str, verdict, text: &str, expected: Result<&str, &str>| {
            let note = NewNote::new(author, verdict, text);
            let found = note.map(|note| note.text).map_err(|error| error.to_string());
            let expected = expected.map(str::to_owned).map_err(str::to_owned);
            assert_eq!(found, expected);
        };
        check("ann", None, " good\r\nindeed ", Ok("good\nindeed"));
        check("ann", Some(Verdict::Approved), " ", Ok(""));
        check("ann", None, " ", Err("expected a text, a verdict or both, found neither"));
        check(" ", None, "x", Err("expected the name of the author, found none"));
        check("ann", None, &long, Err("expected a text of at most 10000 characters, found 10001"));
    }
}
