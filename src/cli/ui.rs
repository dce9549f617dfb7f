//! `pipeline ui`.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use ui::{Promoted, Promotion, ServeError, Server, Settings};

use super::answer::Answer;
use super::arguments::State;
use super::failure::Failure;
use super::note::user;

/// Serves live pages about the runs to a browser on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Ui {
    /// Port on 127.0.0.1; 0 takes any that is free
    #[arg(long, value_name = "PORT", default_value_t = 0)]
    port: u16,
    /// Only print the address
    #[arg(long)]
    no_open: bool,
    /// Model repository that packages are promoted to [default: model-repository in the project root]
    #[arg(long, value_name = "FOLDER")]
    repository: Option<PathBuf>,
    #[command(flatten)]
    state: State,
}

impl Ui {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let here = std::path::absolute(".").unwrap_or_default();
        let repository = match &self.repository {
            Some(folder) => std::path::absolute(folder).unwrap_or_else(|_| folder.clone()),
            None => engine::project_folder(&here).join("model-repository"),
        };
        let settings = Settings {
            home: self.state.folder(),
            author: user(),
            repository,
            promote: Box::new(promote),
        };
        let server = Server::bind(settings, self.port)?;
        let address = server.address_to_write();
        let mut out = io::stdout().lock();
        writeln!(
            out,
            "{address}\nCtrl-C ends it. Whoever has this address may write notes and promote packages."
        )?;
        out.flush()?;
        drop(out);
        if !self.no_open {
            open(&address);
        }
        server.run()?;
        Ok(Answer::default())
    }
}

fn promote(promotion: &Promotion) -> Result<Promoted, String> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let Promotion { package, repository, service } = promotion;
    let promoted = stages::promote(package, repository, service, threads)
        .map_err(|error| format!("{error:#}"))?;
    Ok(Promoted { version: promoted.version, was_live: promoted.was_live })
}

/// Shows the address in a browser where the desktop can; it is printed anyway.
fn open(address: &str) {
    let opener = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let mut command = Command::new(opener);
    command.arg(address).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    std::thread::spawn(move || {
        let _no_desktop = command.status();
    });
}

impl From<ServeError> for Failure {
    fn from(error: ServeError) -> Self {
        match error {
            ServeError::History(error) => error.into(),
            other => Self::wrong(other.to_string()),
        }
    }
}
