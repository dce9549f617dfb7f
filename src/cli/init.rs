//! `pipeline init`.

use std::fs::File;
use std::io::{ErrorKind, Write as _};

use anyhow::Context as _;

use super::answer::Answer;
use super::failure::Failure;

/// Name of the file that is written.
const FILE: &str = "pipeline.toml";

/// Writes a small commented manifest into the current folder.
#[derive(Debug, clap::Args)]
pub(super) struct Init {}

impl Init {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let mut file = match File::create_new(FILE) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return Err(Failure::wrong(format!(
                    "{FILE} is there already; it was left as it is"
                )));
            }
            Err(error) => return Err(anyhow::Error::new(error).context(cannot_write()).into()),
        };
        file.write_all(include_bytes!("init.toml")).with_context(cannot_write)?;
        Ok(Answer::text(format!(
            "wrote {FILE}; put your texts into data.tsv as it says, then: pipeline run {FILE}"
        )))
    }
}

fn cannot_write() -> String {
    format!("cannot write {FILE} into the current folder")
}
