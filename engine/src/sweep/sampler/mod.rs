//! Samplers: which point of a space comes next.
//!
//! A sampler is a pure function of the space, the seed, the number of the trial and what earlier
//! trials came to. Nothing is kept between two calls, so a sweep that was interrupted goes on as
//! if it had not been.

mod draw;
mod grid;
mod nsga2;
mod options;
mod tpe;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::space::{Params, Space, SpaceError};
use draw::Draws;
pub use options::{Crossover, Nsga2Options, Sampler, TpeOptions};

/// An earlier trial.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// What it ran with.
    pub params: Params,
    /// What it came to.
    pub outcome: Outcome,
}

/// What a trial came to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It ran to its end.
    Done {
        /// Each to be minimized. Where one is not a number, the trial counts as failed.
        objectives: Vec<f64>,
        /// By how much constraints are broken, all together; 0 where none is.
        violation: f64,
    },
    /// It still runs.
    Pending,
    /// It told nothing about its parameters.
    Failed,
    /// It was stopped early. Samplers rank it behind those that went further.
    Paused {
        /// How far it went.
        rung: usize,
        /// What it had come to by then, each to be minimized.
        objectives: Vec<f64>,
    },
}

/// What a sampler goes by.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// Has passed [`Sampler::check`].
    pub space: &'a Space,
    /// Seed of the sweep.
    pub seed: u64,
    /// Number of the trial that is asked for, from 0.
    pub number: u64,
    /// The trials before it: trial `i` at index `i`.
    pub history: &'a [Observation],
}

/// What the next trial is to run with.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Proposal {
    /// A point of the space.
    pub params: Params,
    /// What it was drawn from.
    pub state: Value,
}

impl Sampler {
    /// Whether it can sample the space.
    ///
    /// # Errors
    /// What is wrong with the space, or with the sampler's options.
    pub fn check(&self, space: &Space) -> Result<(), SpaceError> {
        self.total(space).map(drop)
    }

    /// How many points there are: for `grid` and `zip`; the others go on for ever.
    ///
    /// # Errors
    /// See [`Self::check`].
    pub fn total(&self, space: &Space) -> Result<Option<u64>, SpaceError> {
        space.check()?;
        if !matches!(self, Self::Zip) {
            space.check_distinct()?;
        }
        self.check_options()?;
        match self {
            Self::Grid => space.grid_size().map(Some),
            Self::Zip => grid::zip_size(space).map(Some),
            Self::Random | Self::Tpe(_) | Self::Nsga2(_) => Ok(None),
        }
    }

    /// The next point; `None` where `grid` or `zip` has no more.
    ///
    /// # Errors
    /// See [`Self::check`].
    pub fn ask(&self, ask: &Ask<'_>) -> Result<Option<Proposal>, SpaceError> {
        let total = self.total(ask.space)?;
        if total.is_some_and(|total| ask.number >= total) {
            return Ok(None);
        }
        let (params, drawn) = match self {
            Self::Grid => (grid::grid_point(ask.space, ask.number)?, json!({ "of": total })),
            Self::Zip => (grid::zip_point(ask.space, ask.number), json!({ "of": total })),
            Self::Random => (Draws::new(ask.seed, ask.number).point(ask.space), json!({})),
            Self::Tpe(options) => tpe::ask(options, ask),
            Self::Nsga2(options) => nsga2::ask(options, ask),
        };
        let mut state = json!({ "sampler": self.name(), "seed": ask.seed, "number": ask.number });
        for (key, value) in drawn.as_object().into_iter().flatten() {
            state[key] = value.clone();
        }
        Ok(Some(Proposal { params, state }))
    }
}

impl Outcome {
    /// Objectives and violation of a trial that ran to its end.
    pub(crate) fn done(&self) -> Option<(&[f64], f64)> {
        match self {
            Self::Done { objectives, violation } if are_numbers(objectives) => {
                Some((objectives, violation.max(0.0)))
            }
            _ => None,
        }
    }
}

/// Whether objectives can be compared.
fn are_numbers(objectives: &[f64]) -> bool {
    !objectives.is_empty() && !objectives.iter().any(|value| value.is_nan())
}

#[cfg(test)]
mod tests;
