//! Lets the engine watch a training run.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engine::StageContext;
use training::{Monitor, Progress};

/// A [`Monitor`] that hands everything on to a stage's context.
pub(crate) struct Watch<'a> {
    context: &'a StageContext,
    phase: &'static str,
    /// Checkpoints of this phase; phases of one stage do not share them.
    folder: PathBuf,
}

impl<'a> Watch<'a> {
    /// A monitor whose progress lines say `phase`.
    pub(crate) fn new(context: &'a StageContext, phase: &'static str) -> Result<Self> {
        let folder = context.checkpoint_dir().join(phase);
        fs::create_dir_all(&folder).with_context(|| format!("creating the folder {}", folder.display()))?;
        Ok(Self { context, phase, folder })
    }
}

impl Monitor for Watch<'_> {
    fn progress(&mut self, progress: &Progress) {
        self.context.progress(engine::Progress {
            step: progress.done,
            total: progress.total,
            loss: Some(progress.loss),
            rate: Some(progress.examples_per_second),
            rate_unit: "examples".to_owned(),
            phase: self.phase.to_owned(),
        });
    }

    fn series(&mut self, name: &str, step: u64, value: f64) {
        self.context.series(name, step, value);
    }

    fn log(&mut self, line: &str) {
        self.context.log(line);
    }

    fn interrupted(&self) -> bool {
        self.context.interrupted()
    }

    fn checkpoint_dir(&self) -> Option<&Path> {
        Some(&self.folder)
    }
}
