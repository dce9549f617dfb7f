//! The pages behind a socket.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use engine::history::HistoryError;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::state::{Settings, State};
use crate::token::Token;

/// Longest wait for answers under way once the server has to end.
const GRACE: Duration = Duration::from_secs(2);

/// Why pages could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The run database does not work.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The address cannot be had.
    #[error(
        "cannot listen on 127.0.0.1:{port}: {source}; choose another `--port`, or 0 for any that is free"
    )]
    Listen {
        /// The port asked for.
        port: u16,
        /// What the system says.
        source: io::Error,
    },
    /// The system refused something else.
    #[error("cannot {action}: {source}")]
    System {
        /// What was tried.
        action: &'static str,
        /// What the system says.
        source: io::Error,
    },
}

/// A server that listens on loopback.
#[derive(Debug)]
pub struct Server {
    // Ends before the state, whose last owner is here.
    runtime: Runtime,
    listener: TcpListener,
    state: State,
}

impl Server {
    /// Listens on 127.0.0.1; port 0 is any that is free. Must not be called in an async task.
    ///
    /// # Errors
    /// When the port is taken or the run database cannot be read.
    pub fn bind(settings: Settings, port: u16) -> Result<Self, ServeError> {
        let system = |action| move |source| ServeError::System { action, source };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(system("start the server"))?;
        let listener = runtime
            .block_on(TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))))
            .map_err(|source| ServeError::Listen { port, source })?;
        let port = listener.local_addr().map_err(system("read the address"))?.port();
        let token = Token::random().map_err(system("make a token"))?;
        Ok(Self { runtime, listener, state: State::new(settings, port, token)? })
    }

    /// Where the pages are, for someone who may read.
    pub fn address(&self) -> String {
        format!("http://127.0.0.1:{}/", self.state.shared.port)
    }

    /// Where the pages are, for someone who may write: a browser never sends what follows the `#`.
    pub fn address_to_write(&self) -> String {
        format!("{}#token={}", self.address(), self.state.shared.token.text())
    }

    /// Answers until the process is told to stop by SIGINT or SIGTERM.
    ///
    /// # Errors
    /// When the system does not let it listen for signals or connections.
    pub fn run(self) -> Result<(), ServeError> {
        let Self { runtime, listener, state } = self;
        let app = crate::app(state.clone());
        let served = runtime.block_on(async {
            let failed = |source| ServeError::System { action: "listen for signals", source };
            let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
            let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
            let mut stopped = state.shared.stopping.subscribe();
            let stop = async move {
                // An error means that the sender is gone, which is a reason to stop, too.
                let _stop = stopped.wait_for(|stopping| *stopping).await;
            };
            let serving = tokio::spawn(async move {
                axum::serve(listener, app).with_graceful_shutdown(stop).await
            });
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            state.shared.stopping.send_replace(true);
            // A browser may keep a connection open; it does not keep the server.
            match tokio::time::timeout(GRACE, serving).await {
                Ok(Ok(ended)) => {
                    ended.map_err(|source| ServeError::System { action: "serve", source })
                }
                Ok(Err(_)) | Err(_) => Ok(()),
            }
        });
        runtime.shutdown_timeout(GRACE);
        served
    }
}
