//! The tables of a manifest as types.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[data.NAME]`: a file of labelled texts, one row a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DatasetSpec {
    /// Tab-separated file with a header line, plain or `.gz`; relative to the project root.
    pub path: PathBuf,
    /// Column that holds the text.
    pub text: String,
    /// Column that holds the label.
    pub label: String,
    /// Labels in the order of their class ids, at least two; any other label in the file is an error.
    pub labels: Vec<String>,
    /// Column that says `train` or `test`; without it `test` carves the test rows out by hash.
    #[serde(default)]
    pub split: Option<String>,
    /// Fraction of the training rows set aside for validation by content hash, in (0, 1).
    #[serde(default = "default_validation")]
    pub validation: f64,
    /// Fraction of all rows set aside for testing by content hash, in (0, 1); only without `split`.
    #[serde(default)]
    pub test: Option<f64>,
    /// Column whose equal values never end up in different splits.
    #[serde(default)]
    pub group: Option<String>,
    /// Keep only this many training rows, the first by content hash; for quick runs.
    #[serde(default)]
    pub limit: Option<usize>,
}

fn default_validation() -> f64 {
    0.1
}
