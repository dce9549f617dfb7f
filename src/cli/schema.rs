//! `pipeline schema`.

use super::answer::{Answer, json};
use super::failure::Failure;

/// Prints the JSON Schema of manifests, for editors.
#[derive(Debug, clap::Args)]
pub(super) struct Schema {}

impl Schema {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        Ok(Answer::text(json(&engine::schema(stages::STAGES))))
    }
}
