//! How errors are shown and with which exit code they end.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::ExitCode;

use engine::Error;
use engine::history::HistoryError;
use engine::manifest::ManifestError;
use engine::store::StoreError;

/// The command or what it names is wrong.
pub(super) const WRONG: u8 = 2;

/// Why a verb has no answer.
#[derive(Debug)]
pub(super) enum Failure {
    /// What the engine says.
    Engine(Error),
    /// Anything else, with its exit code.
    Other(anyhow::Error, u8),
    /// Nobody reads what is printed any more.
    Unheard,
}

impl Failure {
    /// A command that is wrong.
    pub(super) fn wrong(message: impl Into<String>) -> Self {
        Self::Other(anyhow::Error::msg(message.into()), WRONG)
    }

    /// The exit code the program ends with.
    pub(super) fn code(&self) -> u8 {
        match self {
            Self::Engine(error) => error.exit_code(),
            Self::Other(_, code) => *code,
            Self::Unheard => 0,
        }
    }

    /// Prints it on standard error and gives the exit code.
    pub(super) fn print(&self) -> ExitCode {
        // With standard error gone there is nobody left to tell.
        let _unheard = io::stderr().write_all(self.text().as_bytes());
        ExitCode::from(self.code())
    }

    /// Its message without causes and hints, in one line.
    pub(super) fn message(&self) -> String {
        let text = self.text();
        let line = text.lines().next().unwrap_or_default();
        line.strip_prefix("error: ").unwrap_or(line).to_owned()
    }

    fn text(&self) -> String {
        match self {
            Self::Engine(Error::Manifest(ManifestError::Invalid(places))) => {
                let blocks: Vec<_> =
                    places.iter().map(|place| format!("error: {place}\n")).collect();
                blocks.join("\n")
            }
            Self::Engine(error) => chain(error),
            Self::Other(error, _) => chain(error.as_ref()),
            Self::Unheard => String::new(),
        }
    }
}

/// An error and those of its causes that its own text does not already contain.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = format!("error: {error}\n");
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            let _infallible = writeln!(text, "  because: {message}");
        }
        cause = error.source();
    }
    text
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Engine(error)
    }
}

impl From<HistoryError> for Failure {
    fn from(error: HistoryError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error, WRONG)
    }
}

/// Only for writing to standard output.
impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::Unheard;
        }
        Self::Other(anyhow::Error::new(error).context("cannot write to standard output"), WRONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_once() {
        let inner = io::Error::other("the disk is gone");
        let error = anyhow::Error::new(inner).context("cannot write report.html");
        let text = chain(error.as_ref());
        assert_eq!(text, "error: cannot write report.html\n  because: the disk is gone\n");
        let told = StoreError::Busy { holder: "a run".to_owned() };
        assert_eq!(chain(&Error::Store(told)).lines().count(), 1);
    }

    #[test]
    fn a_closed_pipe_is_no_error() {
        let failure = Failure::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(failure.code(), 0);
        assert_eq!(Failure::from(io::Error::other("full")).code(), WRONG);
    }
}
