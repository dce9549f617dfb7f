//! `pipeline completions SHELL`.

use clap_complete::Shell;

use super::answer::Answer;
use super::failure::Failure;

/// Prints a completion script for a shell.
#[derive(Debug, clap::Args)]
pub(super) struct Completions {
    /// Shell
    shell: Shell,
}

impl Completions {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut visible(), "pipeline", &mut script);
        Ok(Answer::text(String::from_utf8_lossy(&script)))
    }
}

/// The grammar without verbs that only the program itself uses.
fn visible() -> clap::Command {
    let whole = super::grammar();
    let verbs = whole.get_subcommands().filter(|verb| !verb.is_hide_set()).cloned();
    clap::Command::new("pipeline").version(env!("CARGO_PKG_VERSION")).subcommands(verbs)
}
