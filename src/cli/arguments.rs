//! Arguments that several verbs share.

use std::path::{Path, PathBuf};

use engine::history::History;
use engine::{Host, Project, RunOptions, Selection};
use stages::STAGES;

use super::failure::Failure;

/// Where results are kept.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct State {
    /// State folder [default: $PIPELINE_HOME, else .pipeline in the project root]
    #[arg(long, value_name = "FOLDER")]
    home: Option<PathBuf>,
}

impl State {
    /// The state folder for someone in the current folder.
    pub(super) fn folder(&self) -> PathBuf {
        let here = || engine::state_folder(&std::path::absolute(".").unwrap_or_default());
        self.home.as_deref().map_or_else(here, absolute)
    }

    /// The state folder that was named, if any.
    pub(super) fn given(&self) -> Option<PathBuf> {
        self.home.as_deref().map(absolute)
    }

    /// Earlier runs.
    pub(super) fn history(&self) -> Result<History, Failure> {
        Ok(History::open(&self.folder())?)
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// A manifest and how to read it.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct ManifestFile {
    /// Manifest file
    #[arg(value_hint = clap::ValueHint::FilePath)]
    manifest: PathBuf,
    /// Overrides a value of the manifest, for instance stages.student.params.epochs=1
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) set: Vec<String>,
    #[command(flatten)]
    state: State,
}

impl ManifestFile {
    /// The manifest file as given.
    pub(super) fn path(&self) -> &Path {
        &self.manifest
    }

    /// The manifest with its state folder; nothing is read yet.
    pub(super) fn project(&self) -> Result<Project, Failure> {
        self.project_of(&self.manifest)
    }

    /// Another manifest with the same state folder.
    pub(super) fn project_of(&self, manifest: &Path) -> Result<Project, Failure> {
        let mut host = Host::this_program(cfg!(feature = "cuda"))
            .map_err(|error| anyhow::Error::new(error).context("cannot find this program"))?;
        // Training frees and asks for the same large tensors every step: an allocator that gives
        // them back to the system in between pays for page faults.
        host.environment.push(("MIMALLOC_PURGE_DELAY".into(), "-1".into()));
        let home = self.state.home.as_deref().map(absolute);
        Ok(Project::open(manifest, STAGES, host, home.as_deref()))
    }
}

/// Which stages of a manifest, and how.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Asked {
    /// Start at this stage: it and everything that depends on it
    #[arg(long, value_name = "STAGE")]
    from: Option<String>,
    /// End with this stage: it and everything it depends on
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    until: Vec<String>,
    /// These stages alone; what they need has to be cached
    #[arg(long, value_name = "STAGE", value_delimiter = ',')]
    only: Vec<String>,
    /// Run these stages although they are cached
    #[arg(long)]
    force: bool,
}

impl Asked {
    /// As the engine wants it.
    pub(super) fn options(&self, manifest: &ManifestFile) -> RunOptions {
        RunOptions {
            selection: Selection {
                from: self.from.clone(),
                until: self.until.clone(),
                only: self.only.clone(),
            },
            force: self.force,
            set: manifest.set.clone(),
            ..RunOptions::default()
        }
    }
}
