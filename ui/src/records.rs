//! Reading the run database off the async threads.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use engine::history::{History, HistoryError};

use crate::failure::Failure;
use crate::state::State;

/// The run database of a state folder, which may come to be while pages are served.
#[derive(Debug)]
pub(crate) struct Records {
    home: PathBuf,
    // A std lock: it is held for a pointer's copy, never over an await.
    history: Mutex<Option<Arc<History>>>,
}

impl Records {
    pub(crate) fn open(home: &Path) -> Result<Self, HistoryError> {
        let history = Mutex::new(Some(Arc::new(History::open(home)?)));
        Ok(Self { home: home.to_owned(), history })
    }

    /// The database. Blocks.
    fn history(&self) -> Result<Arc<History>, HistoryError> {
        let mut guard = self.history.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(history) = guard.as_ref()
            && !history.is_immutable()
            && history.schema_version()?.is_some()
        {
            return Ok(Arc::clone(history));
        }
        // Before the first run there was nothing to open; one that is immutable misses later runs.
        let history = Arc::new(History::open(&self.home)?);
        *guard = Some(Arc::clone(&history));
        Ok(history)
    }

    /// Asks the database something. Blocks.
    pub(crate) fn read<T>(
        &self,
        question: impl FnOnce(&History) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        question(&*self.history()?)
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        let history = self.history.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // The last request may end on an async thread, where a history must not be dropped: it has
        // a runtime of its own.
        let _dropped = std::thread::spawn(move || drop(history)).join();
    }
}

impl State {
    /// Asks the database something on a thread for blocking work.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&State, &History) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let state = self.clone();
        let asked = tokio::task::spawn_blocking(move || {
            state.shared.records.read(|history| question(&state, history))
        });
        asked.await.unwrap_or_else(|_| Err(Failure::broken("a page could not be made")))
    }
}
