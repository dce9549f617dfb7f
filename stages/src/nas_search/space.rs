//! The architectures a search may choose from, and the moves between them.

use std::num::NonZeroUsize;

use graph::bert::BertLayer;
use rand::seq::IndexedRandom as _;
use rand::{Rng, RngExt as _};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Choices for each size; every layer chooses its heads and units by itself.
#[derive(Debug, Clone, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Space {
    /// Numbers of encoder layers.
    layers: Vec<NonZeroUsize>,
    /// Numbers of attention heads in a layer; a head is as wide as the teacher's.
    heads: Vec<NonZeroUsize>,
    /// Numbers of feed-forward units in a layer.
    intermediate: Vec<NonZeroUsize>,
    /// Widths of the residual stream.
    hidden: Vec<NonZeroUsize>,
}

/// One architecture of a [`Space`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Candidate {
    /// Width of the residual stream.
    pub(crate) hidden: usize,
    /// Heads and feed-forward units of each layer, from the input.
    pub(crate) layers: Vec<Layer>,
}

/// Sizes of one layer of a [`Candidate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Layer {
    /// Attention heads.
    pub(crate) heads: usize,
    /// Feed-forward units.
    pub(crate) intermediate: usize,
}

impl From<Layer> for BertLayer {
    fn from(layer: Layer) -> Self {
        Self { heads: layer.heads, intermediate: layer.intermediate }
    }
}

fn numbers(choices: &[NonZeroUsize]) -> impl Iterator<Item = usize> {
    choices.iter().map(|choice| choice.get())
}

fn largest(choices: &[NonZeroUsize]) -> usize {
    numbers(choices).max().unwrap_or(1)
}

fn smallest(choices: &[NonZeroUsize]) -> usize {
    numbers(choices).min().unwrap_or(1)
}

fn nearest(choices: &[NonZeroUsize], wanted: f64) -> usize {
    let distance = |choice: &usize| (*choice as f64 - wanted).abs();
    numbers(choices).min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap_or(1)
}

fn pick(choices: &[NonZeroUsize], rng: &mut impl Rng) -> usize {
    choices.choose(rng).map_or(1, |choice| choice.get())
}

impl Space {
    /// Checks that every size has a choice.
    ///
    /// # Errors
    ///
    /// Names the empty list.
    pub(crate) fn check(&self) -> Result<(), String> {
        let lists = [
            ("layers", &self.layers),
            ("heads", &self.heads),
            ("intermediate", &self.intermediate),
            ("hidden", &self.hidden),
        ];
        match lists.iter().find(|(_, choices)| choices.is_empty()) {
            Some((name, _)) => Err(format!("`space.{name}` is empty; give at least one choice")),
            None => Ok(()),
        }
    }

    /// The architecture that contains all others.
    pub(crate) fn largest(&self) -> Candidate {
        let layer =
            Layer { heads: largest(&self.heads), intermediate: largest(&self.intermediate) };
        Candidate { hidden: largest(&self.hidden), layers: vec![layer; largest(&self.layers)] }
    }

    /// The architecture that all others contain.
    pub(crate) fn smallest(&self) -> Candidate {
        let layer =
            Layer { heads: smallest(&self.heads), intermediate: smallest(&self.intermediate) };
        Candidate { hidden: smallest(&self.hidden), layers: vec![layer; smallest(&self.layers)] }
    }

    /// The uniform architecture whose sizes come closest to those wanted.
    pub(crate) fn nearest(
        &self,
        layers: f64,
        heads: f64,
        intermediate: f64,
        hidden: f64,
    ) -> Candidate {
        let layer = Layer {
            heads: nearest(&self.heads, heads),
            intermediate: nearest(&self.intermediate, intermediate),
        };
        let depth = nearest(&self.layers, layers);
        Candidate { hidden: nearest(&self.hidden, hidden), layers: vec![layer; depth] }
    }

    fn random_layer(&self, rng: &mut impl Rng) -> Layer {
        Layer { heads: pick(&self.heads, rng), intermediate: pick(&self.intermediate, rng) }
    }

    /// An architecture with every size drawn uniformly from its choices.
    pub(crate) fn random(&self, rng: &mut impl Rng) -> Candidate {
        let depth = pick(&self.layers, rng);
        let layers = (0..depth).map(|_| self.random_layer(rng)).collect();
        Candidate { hidden: pick(&self.hidden, rng), layers }
    }

    /// `parent` with each size drawn anew with probability `rate`.
    pub(crate) fn mutate(&self, parent: &Candidate, rate: f64, rng: &mut impl Rng) -> Candidate {
        let mut child = parent.clone();
        if rng.random_bool(rate) {
            child.hidden = pick(&self.hidden, rng);
        }
        if rng.random_bool(rate) {
            let depth = pick(&self.layers, rng);
            while child.layers.len() < depth {
                child.layers.push(self.random_layer(rng));
            }
            child.layers.truncate(depth);
        }
        for layer in &mut child.layers {
            if rng.random_bool(rate) {
                layer.heads = pick(&self.heads, rng);
            }
            if rng.random_bool(rate) {
                layer.intermediate = pick(&self.intermediate, rng);
            }
        }
        child
    }

    /// Each size from one of the two parents; the depth is one parent's.
    pub(crate) fn cross(&self, a: &Candidate, b: &Candidate, rng: &mut impl Rng) -> Candidate {
        let (deep, other) = if rng.random_bool(0.5) { (a, b) } else { (b, a) };
        let mut child = deep.clone();
        if rng.random_bool(0.5) {
            child.hidden = other.hidden;
        }
        for (layer, &other) in child.layers.iter_mut().zip(&other.layers) {
            if rng.random_bool(0.5) {
                *layer = other;
            }
        }
        child
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use rand::rngs::ChaCha8Rng;

    fn space() -> Space {
        serde_json::from_value(serde_json::json!({
            "layers": [2, 4], "heads": [1, 2], "intermediate": [8, 16, 32], "hidden": [16, 32]
        }))
        .unwrap()
    }

    fn contains(space: &Space, candidate: &Candidate) -> bool {
        let has =
            |choices: &[NonZeroUsize], value: usize| numbers(choices).any(|choice| choice == value);
        has(&space.layers, candidate.layers.len())
            && has(&space.hidden, candidate.hidden)
            && candidate.layers.iter().all(|layer| {
                has(&space.heads, layer.heads) && has(&space.intermediate, layer.intermediate)
            })
    }

    #[test]
    fn every_move_stays_in_the_space() {
        let (space, mut rng) = (space(), ChaCha8Rng::seed_from_u64(1));
        for _ in 0..200 {
            let (a, b) = (space.random(&mut rng), space.random(&mut rng));
            let child = space.cross(&a, &b, &mut rng);
            let child = space.mutate(&child, 0.5, &mut rng);
            assert!(contains(&space, &child), "{child:?}");
        }
        assert!(contains(&space, &space.largest()) && contains(&space, &space.smallest()));
    }

    #[test]
    fn nearest_snaps_each_size() {
        let candidate = space().nearest(2.4, 1.2, 25.0, 23.0);
        let layer = Layer { heads: 1, intermediate: 32 };
        assert_eq!(candidate, Candidate { hidden: 16, layers: vec![layer; 2] });
    }
}
