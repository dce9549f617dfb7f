//! What every request may use.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use engine::history::HistoryError;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::records::Records;
use crate::token::Token;

/// Pages that may be updated at once; each costs a few queries a second.
const MOST_WATCHERS: usize = 64;

/// A package that is to go live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promotion {
    /// Folder of the package.
    pub package: PathBuf,
    /// Folder of the model repository.
    pub repository: PathBuf,
    /// Name of the service in it.
    pub service: String,
}

/// A package that is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promoted {
    /// Version of the service.
    pub version: u64,
    /// Whether it was live before.
    pub was_live: bool,
}

/// How a package goes live; what went wrong as a sentence.
pub type Promote = Box<dyn Fn(&Promotion) -> Result<Promoted, String> + Send + Sync>;

/// What the pages are about and what they may do.
pub struct Settings {
    /// State folder.
    pub home: PathBuf,
    /// Who writes, unless the form says something else.
    pub author: String,
    /// Folder of the model repository.
    pub repository: PathBuf,
    /// How a package goes live.
    pub promote: Promote,
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Settings").field("home", &self.home).finish_non_exhaustive()
    }
}

/// What every request may use; cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    pub(crate) shared: Arc<Shared>,
}

/// What is behind [`State`].
pub(crate) struct Shared {
    pub(crate) settings: Settings,
    pub(crate) records: Records,
    pub(crate) token: Token,
    /// Port of the address that is answered.
    pub(crate) port: u16,
    /// One promotion at a time.
    pub(crate) promoting: Mutex<()>,
    pub(crate) watchers: Arc<Semaphore>,
    /// Turns true when streams have to end.
    pub(crate) stopping: watch::Sender<bool>,
}

impl State {
    /// Pages about the runs in a state folder, answered at `127.0.0.1:port`; who has the token may
    /// write.
    ///
    /// # Errors
    /// When the run database is damaged or was written by a newer version.
    pub fn new(settings: Settings, port: u16, token: Token) -> Result<Self, HistoryError> {
        let shared = Shared {
            records: Records::open(&settings.home)?,
            settings,
            token,
            port,
            promoting: Mutex::new(()),
            watchers: Arc::new(Semaphore::new(MOST_WATCHERS)),
            stopping: watch::Sender::new(false),
        };
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let home = &self.settings.home;
        formatter.debug_struct("Shared").field("home", home).finish_non_exhaustive()
    }
}
