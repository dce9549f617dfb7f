//! What can go wrong outside a stage, by what the caller can do about it.

use crate::history::HistoryError;
use crate::manifest::ManifestError;
use crate::source::SourceError;
use crate::store::StoreError;

/// Why the engine could not do what it was asked for. A failing stage is no error of the
/// engine: it is the outcome of a run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The manifest is wrong.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// The command names something that is not there, or asks for what cannot be.
    #[error("{message}{}", hint(.help))]
    Command {
        /// What is wrong.
        message: String,
        /// What was probably meant, or what to do.
        help: Option<String>,
    },
    /// The state folder does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The run database does not work.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// A pretrained checkpoint could not be had.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The executor could not be started.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
    /// Someone stopped it before a run began.
    #[error("interrupted")]
    Interrupted,
}

fn hint(help: &Option<String>) -> String {
    help.as_ref().map_or_else(String::new, |help| format!("; {help}"))
}

impl Error {
    /// An error in what was asked for.
    pub(crate) fn command(message: impl Into<String>, help: Option<String>) -> Self {
        Self::Command { message: message.into(), help }
    }

    /// Exit code of the command that ends with this error: 1 for work that failed, 2 for a
    /// wrong command, manifest or state folder, 130 when interrupted.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Manifest(_) | Self::Command { .. } | Self::Store(_) | Self::History(_) => 2,
            Self::Source(SourceError::Interrupted(_)) | Self::Interrupted => 130,
            Self::Source(_) | Self::System { .. } => 1,
        }
    }
}
