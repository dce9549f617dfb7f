//! Training runs that the engine watches.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use engine::StageContext;
use training::{Examples, Monitor, Network, Objective, Progress, Recipe};

/// [`training::fit`] with progress, curves, checkpoints and interruptions of a stage. `phase` names
/// the run on progress lines; the phases of one stage do not share checkpoints.
pub(crate) fn fit(
    context: &StageContext,
    phase: &'static str,
    network: &mut Network,
    rows: Rows<'_>,
    objective: &mut dyn Objective,
    recipe: &Recipe,
) -> Result<()> {
    let folder = context.checkpoint_dir().join(phase);
    fs::create_dir_all(&folder)
        .with_context(|| format!("creating the folder {}", folder.display()))?;
    let mut watch = Watch { context, phase, folder };
    match training::fit(network, rows.train, rows.validation, objective, recipe, &mut watch) {
        Ok(_) => Ok(()),
        Err(training::Error::Interrupted { .. }) => Err(engine::Interrupted.into()),
        Err(training::Error::Paused { .. }) => Err(engine::Paused.into()),
        Err(error) => Err(error).context(phase),
    }
}

/// What a network is trained on, and what its best epoch is chosen by.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    /// Rows to train on.
    pub(crate) train: &'a Examples,
    /// Rows to choose by; the last epoch is taken without.
    pub(crate) validation: Option<&'a Examples>,
}

/// A [`Monitor`] that hands everything on to a stage's context.
struct Watch<'a> {
    context: &'a StageContext,
    phase: &'static str,
    folder: PathBuf,
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

    /// Curves carry the phase's name: each phase counts its steps from 0.
    fn series(&mut self, name: &str, step: u64, value: f64) {
        let own = name.strip_prefix("train/").map(|curve| format!("{}/{curve}", self.phase));
        self.context.series(own.as_deref().unwrap_or(name), step, value);
    }

    fn log(&mut self, line: &str) {
        self.context.log(line);
    }

    fn interrupted(&self) -> bool {
        self.context.interrupted()
    }

    fn epoch_done(&mut self, epochs: usize) {
        self.context.milestone(epochs as u64);
    }

    fn pause_after(&self) -> Option<usize> {
        self.context.pause_after().and_then(|epochs| usize::try_from(epochs).ok())
    }

    fn checkpoint_dir(&self) -> Option<&Path> {
        Some(&self.folder)
    }
}
