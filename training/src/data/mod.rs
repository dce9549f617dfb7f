//! Labelled texts from a tab-separated file, split so that nothing leaks.
//!
//! The file has a header line and no quoting; `.gz` is read through. A malformed row is an error
//! that names file and line; nothing is skipped silently. Splits are drawn by content hash, so they
//! depend on the rows alone: not on their order in the file, not on a seed.

mod read;
mod split;
#[cfg(test)]
mod tests;

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where labelled texts come from and how they are divided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// Tab-separated UTF-8 file with a header line; gzip-compressed when the name ends in `.gz`.
    pub path: PathBuf,
    /// Column that holds the text.
    pub text: String,
    /// Column that holds the label.
    pub label: String,
    /// Labels in the order of their class ids, at least two.
    pub labels: Vec<String>,
    /// Column that says `train` or `test`; exactly one of `split` and `test` is given.
    pub split: Option<String>,
    /// Fraction of the training rows set aside for validation, in (0, 1).
    pub validation: f64,
    /// Fraction of all rows set aside for testing, in (0, 1).
    pub test: Option<f64>,
    /// Column whose equal values never end up in different splits.
    pub group: Option<String>,
    /// Keep only this many training rows, the first by content hash; validation and test stay whole.
    pub limit: Option<usize>,
}

/// One labelled text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The text as it stands in the file, never blank.
    pub text: String,
    /// Class id, an index into [`Dataset::labels`].
    pub label: usize,
}

/// Three disjoint sets of rows, each in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dataset {
    /// Rows that weights are fitted to.
    pub train: Vec<Row>,
    /// Rows that choices are made on: early stopping, search, mixed precision.
    pub validation: Vec<Row>,
    /// Rows that are reported on, once.
    pub test: Vec<Row>,
    /// Class names by class id.
    pub labels: Vec<String>,
}

/// Rows by split and class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Class names by class id.
    pub labels: Vec<String>,
    /// Training rows of each class.
    pub train: Vec<usize>,
    /// Validation rows of each class.
    pub validation: Vec<usize>,
    /// Test rows of each class.
    pub test: Vec<usize>,
}

/// The texts of one column of a file as [`Source::path`] may name it, in file order.
///
/// # Errors
///
/// [`DataError`] when the file cannot be read, has no such column, or a row is malformed.
pub fn texts(path: &Path, column: &str) -> Result<Vec<String>, DataError> {
    let bytes =
        fs::read(path).map_err(|error| DataError::Io { path: path.to_owned(), source: error })?;
    read::texts(&bytes, path, column)
}

impl Dataset {
    /// Reads and divides a file.
    ///
    /// # Errors
    ///
    /// [`DataError`] when the file cannot be read, a row is malformed, declared splits overlap, a
    /// fraction leaves a split empty, or the source contradicts itself.
    pub fn load(source: &Source) -> Result<Self, DataError> {
        let bytes = fs::read(&source.path)
            .map_err(|error| DataError::Io { path: source.path.clone(), source: error })?;
        Self::from_bytes(&bytes, source)
    }

    /// Divides the contents of a file; `source.path` only names it in errors and decides whether
    /// `bytes` are compressed.
    ///
    /// # Errors
    ///
    /// As [`Dataset::load`], without the reading.
    pub fn from_bytes(bytes: &[u8], source: &Source) -> Result<Self, DataError> {
        source.check()?;
        let records = read::records(bytes, source)?;
        split::divide(records, source)
    }

    /// How many rows each class has in each split.
    pub fn counts(&self) -> Counts {
        let count = |rows: &[Row]| {
            let mut counts = vec![0; self.labels.len()];
            rows.iter().for_each(|row| counts[row.label] += 1);
            counts
        };
        Counts {
            labels: self.labels.clone(),
            train: count(&self.train),
            validation: count(&self.validation),
            test: count(&self.test),
        }
    }
}

impl Source {
    fn check(&self) -> Result<(), DataError> {
        let invalid = |message: String| Err(DataError::Source { path: self.path.clone(), message });
        let mut labels = self.labels.clone();
        labels.sort_unstable();
        labels.dedup();
        if labels.len() < 2 || labels.len() != self.labels.len() {
            return invalid(format!(
                "expected at least two different labels, found {:?}",
                self.labels
            ));
        }
        for (name, fraction) in [("validation", Some(self.validation)), ("test", self.test)] {
            if let Some(fraction) = fraction
                && !(fraction > 0.0 && fraction < 1.0)
            {
                return invalid(format!(
                    "expected `{name}` between 0 and 1, both excluded, found {fraction}"
                ));
            }
        }
        if self.split.is_some() == self.test.is_some() {
            return invalid(
                "expected exactly one of `split` (a column) and `test` (a fraction)".to_owned(),
            );
        }
        if self.limit == Some(0) {
            return invalid("expected `limit` of at least 1, found 0".to_owned());
        }
        Ok(())
    }
}

/// A place in a data file and what is wrong there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Line in the (decompressed) file, from 1; the header is line 1.
    pub line: usize,
    /// `expected …, found …`.
    pub message: String,
}

/// Why a data file could not become a [`Dataset`].
#[derive(Debug, thiserror::Error)]
pub enum DataError {
    /// The file could not be read or decompressed.
    #[error("cannot read {}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system or the decompressor said.
        source: std::io::Error,
    },
    /// The description of the data contradicts itself.
    #[error("data {}: {message}", path.display())]
    Source {
        /// The file described.
        path: PathBuf,
        /// What was expected and found.
        message: String,
    },
    /// Rows do not have the declared form.
    #[error("{}", Listing { path, problems, total: *total })]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The first problems in file order, at most [`MAX_LISTED`].
        problems: Vec<Problem>,
        /// How many problems there are in all.
        total: usize,
    },
}

/// How many problems of a file an error lists before it only counts.
pub const MAX_LISTED: usize = 20;

struct Listing<'a> {
    path: &'a Path,
    problems: &'a [Problem],
    total: usize,
}

impl fmt::Display for Listing<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let separator = if index == 0 { "" } else { "\n" };
            write!(
                formatter,
                "{separator}{}:{}: {}",
                self.path.display(),
                problem.line,
                problem.message
            )?;
        }
        match self.total - self.problems.len() {
            0 => Ok(()),
            more => write!(formatter, "\n… and {more} more"),
        }
    }
}

/// Collects problems, listing the first few and counting all.
#[derive(Default)]
struct Problems {
    listed: Vec<Problem>,
    total: usize,
}

impl Problems {
    fn add(&mut self, line: usize, message: String) {
        self.total += 1;
        if self.listed.len() < MAX_LISTED {
            self.listed.push(Problem { line, message });
        }
    }

    fn check(self, path: &Path) -> Result<(), DataError> {
        if self.total == 0 { Ok(()) } else { Err(self.into_error(path)) }
    }

    fn into_error(self, path: &Path) -> DataError {
        DataError::Malformed { path: path.to_owned(), problems: self.listed, total: self.total }
    }
}
