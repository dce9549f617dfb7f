//! Manifests: what a pipeline is made of, read with every error in its place.
//!
//! [`Manifest::read`] parses the text, lays `--set` overrides over it, gives every table to its
//! type and checks the graph of stages. It collects all errors before it gives up.

mod check;
mod diagnostic;
mod document;
mod metric;
mod read;
mod schema;
mod sections;
mod spec;
mod sweep;
mod sweep_check;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use crate::schedule::Schedule;
use crate::stage::{AnyStage, StageTable};

pub use diagnostic::{Diagnostic, ManifestError};
pub(crate) use diagnostic::{did_you_mean, only};
pub(crate) use schema::params_schema;
pub use schema::schema;
pub(crate) use sections::NO_DURATION;
pub use sections::parse_duration;
pub use spec::{Bound, DatasetSpec, DeviceChoice, Gate, ModelSpec, Reference};
pub use sweep::{
    DimensionSpec, EarlyStopping, Objective, OnTrialFailure, StoppingMethod, SweepSpec, Watch,
};

/// A manifest that has passed every check.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// `name`.
    pub name: String,
    /// `seed`.
    pub seed: u64,
    /// `device`, `auto` not yet resolved.
    pub device: DeviceChoice,
    /// `[data.*]`, paths as written.
    pub data: BTreeMap<String, DatasetSpec>,
    /// `[models.*]`.
    pub models: BTreeMap<String, ModelSpec>,
    /// `[stages.*]`, upstream first, otherwise in the order of the file.
    pub stages: Vec<StageSpec>,
    /// `[sweep]`.
    pub sweep: Option<SweepSpec>,
    /// `[schedule]`.
    pub schedule: Option<Schedule>,
    /// File it was read from.
    pub path: PathBuf,
    /// Folder that relative paths start from.
    pub root: PathBuf,
    /// Text as read.
    pub text: String,
    /// Overrides as given.
    pub overrides: Vec<String>,
}

/// One stage of a [`Manifest`].
#[derive(Debug, Clone)]
pub struct StageSpec {
    /// Name in the manifest.
    pub name: String,
    /// Its kind.
    pub stage: &'static dyn AnyStage,
    /// Parameters with defaults filled in.
    pub params: Value,
    /// Connected input ports.
    pub inputs: BTreeMap<String, Reference>,
    /// Whether an earlier result may be used.
    pub cache: bool,
    /// Longest time an attempt may take.
    pub timeout: Option<Duration>,
    /// Attempts after the first.
    pub retries: u32,
    /// Gates on its metrics.
    pub gates: Vec<Gate>,
}

impl Manifest {
    /// Reads and checks the manifest at `path`, with `--set` overrides laid over it.
    ///
    /// # Errors
    /// Everything that is wrong with it, in one [`ManifestError`].
    pub fn read(
        path: &Path,
        table: StageTable,
        overrides: &[String],
    ) -> Result<Self, ManifestError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ManifestError::Unreadable { path: path.to_owned(), source })?;
        read::manifest(path, &project_root(path), text, table, overrides)
    }

    /// The stage called `name`.
    pub fn stage(&self, name: &str) -> Option<&StageSpec> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// Path of a dataset's file.
    pub fn data_path(&self, spec: &DatasetSpec) -> PathBuf {
        self.root.join(&spec.path)
    }

    /// The manifest's path as shown to people: relative to the project root where it lies inside.
    pub fn shown_path(&self) -> PathBuf {
        let absolute = std::path::absolute(&self.path).unwrap_or_else(|_| self.path.clone());
        absolute.strip_prefix(&self.root).map_or(absolute.clone(), Path::to_owned)
    }
}

/// Nearest folder at or above the manifest's that holds `.git`, `Cargo.toml` or `.pipeline`;
/// the manifest's own where there is none.
pub fn project_root(manifest: &Path) -> PathBuf {
    let absolute = std::path::absolute(manifest).unwrap_or_else(|_| manifest.to_owned());
    let folder = absolute.parent().unwrap_or(Path::new("/"));
    folder
        .ancestors()
        .find(|ancestor| {
            [".git", "Cargo.toml", ".pipeline"].iter().any(|marker| ancestor.join(marker).exists())
        })
        .unwrap_or(folder)
        .to_owned()
}
