//! `pipeline path MANIFEST STAGE.PORT`.

use super::answer::{Answer, Facts};
use super::arguments::ManifestFile;
use super::failure::Failure;

/// Prints where the artifact of an output lies that a run would use, else that of the newest run, for
/// scripts.
#[derive(Debug, clap::Args)]
pub(super) struct Path {
    #[command(flatten)]
    manifest: ManifestFile,
    /// Output of a stage, for instance student.model
    #[arg(value_name = "STAGE.PORT")]
    output: String,
    #[command(flatten)]
    facts: Facts,
}

impl Path {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let artifact = self.manifest.project()?.artifact(&self.output, &self.manifest.set)?;
        Ok(self.facts.answer(&artifact, || {
            artifact.path.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
        }))
    }
}
