//! `pipeline check MANIFEST`.

use engine::Error;
use engine::manifest::{Manifest, ManifestError};
use serde_json::json;

use super::answer::{Answer, Facts};
use super::arguments::ManifestFile;
use super::failure::{Failure, WRONG};

/// Reads a manifest and says everything that is wrong with it.
#[derive(Debug, clap::Args)]
pub(super) struct Check {
    #[command(flatten)]
    manifest: ManifestFile,
    #[command(flatten)]
    facts: Facts,
}

impl Check {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        match self.manifest.project()?.check_all(&self.manifest.set) {
            Ok(manifest) => Ok(self.facts.answer(&accepted(&manifest), || {
                let stages = manifest.stages.len();
                format!("{}: {stages} stages, no errors", manifest.shown_path().display())
            })),
            Err(Error::Manifest(ManifestError::Invalid(errors))) if self.facts.json => {
                let found = json!({ "valid": false, "errors": errors });
                Ok(self.facts.answer(&found, String::new).with_code(WRONG))
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn accepted(manifest: &Manifest) -> serde_json::Value {
    let stages: Vec<_> = manifest
        .stages
        .iter()
        .map(|stage| json!({ "name": stage.name, "kind": stage.stage.kind() }))
        .collect();
    json!({ "valid": true, "errors": [], "name": manifest.name, "stages": stages })
}
