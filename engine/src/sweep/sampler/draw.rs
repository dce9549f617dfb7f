//! Seeded draws.

use rand::rngs::ChaCha8Rng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;

use crate::sweep::space::{Domain, Params, Space};

/// Draws of one trial.
pub(super) struct Draws(ChaCha8Rng);

impl Draws {
    /// Every trial has a stream of its own, so that it does not matter who drew before.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(number);
        Self(rng)
    }

    /// From 0, included, to 1, not included.
    pub(super) fn unit(&mut self) -> f64 {
        self.0.random()
    }

    /// Below `count`, which is at least 1.
    pub(super) fn index(&mut self, count: usize) -> usize {
        ((self.unit() * count as f64) as usize).min(count - 1)
    }

    pub(super) fn happens(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// A value, each as likely as the domain says.
    pub(super) fn value(&mut self, domain: &Domain) -> Value {
        match domain {
            Domain::Choice(choices) => choices[self.index(choices.len())].clone(),
            numeric => {
                let scale = numeric.numeric().expect("all but choices are numeric");
                let (low, high) = scale.ends();
                numeric.value(scale.value_at(low + self.unit() * (high - low)))
            }
        }
    }

    /// A point, all dimensions independent of each other.
    pub(super) fn point(&mut self, space: &Space) -> Params {
        space.assemble(|_, dimension| self.value(&dimension.domain))
    }
}
