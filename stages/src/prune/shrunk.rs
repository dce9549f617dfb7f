//! What was removed before an interruption, kept beside the checkpoints.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};
use graph::ModelFolder;

/// The influence of each layer, beside the model.
const INFLUENCE: &str = "influence.json";

/// A model that heads, units and layers are gone from.
#[derive(Debug)]
pub(super) struct Shrunk {
    pub(super) model: ModelFolder,
    /// Influence of each layer it had; empty where layers were not judged by it.
    pub(super) influence: Vec<f64>,
}

impl Shrunk {
    /// What [`Self::write`] left in `checkpoints`; `None` when it was not done yet.
    pub(super) fn read(checkpoints: &Path) -> Result<Option<Self>> {
        let folder = checkpoints.join("shrunk");
        if !folder.exists() {
            return Ok(None);
        }
        let read = || -> Result<Self> {
            let influence = serde_json::from_slice(&fs::read(folder.join(INFLUENCE))?)?;
            Ok(Self { model: ModelFolder::read(&folder)?, influence })
        };
        read().map(Some).with_context(|| {
            format!("reading what was pruned before the interruption, {}", folder.display())
        })
    }

    /// Writes it whole or not at all.
    pub(super) fn write(&self, checkpoints: &Path) -> Result<()> {
        let (partial, done) = (checkpoints.join("shrunk.partial"), checkpoints.join("shrunk"));
        if partial.exists() {
            fs::remove_dir_all(&partial)
                .with_context(|| format!("removing {}", partial.display()))?;
        }
        self.model.write(&partial)?;
        let path = partial.join(INFLUENCE);
        fs::write(&path, serde_json::to_vec(&self.influence)?)
            .with_context(|| format!("writing {}", path.display()))?;
        fs::rename(&partial, &done).with_context(|| format!("renaming to {}", done.display()))
    }
}

#[cfg(test)]
mod tests {
    use graph::bert::{self, BertConfig, BertLayer};
    use graph::model_folder::ModelInfo;

    use super::*;

    #[test]
    fn a_resumed_stage_has_the_model_and_the_scores() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Shrunk::read(folder.path()).unwrap().is_none());
        let layer = BertLayer { heads: 2, intermediate: 8 };
        let config = BertConfig { positions: 8, ..BertConfig::uniform(20, 8, 1, layer) };
        let graph = bert::build(&config, &mut bert::initial_weights(1)).unwrap();
        let info = ModelInfo { labels: vec!["a".to_owned(), "b".to_owned()], max_length: 8 };
        let model = ModelFolder { graph: graph.clone(), tokenizer_json: b"{}".to_vec(), info };
        let influence = vec![0.25, 1.0 / 3.0];
        // A second interruption may find an unfinished folder.
        fs::create_dir(folder.path().join("shrunk.partial")).unwrap();
        Shrunk { model, influence: influence.clone() }.write(folder.path()).unwrap();
        let read = Shrunk::read(folder.path()).unwrap().unwrap();
        assert!(read.model.graph == graph);
        assert_eq!(read.influence, influence);
    }
}
