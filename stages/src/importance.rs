//! How much heads, units and layers matter.

use anyhow::{Context as _, Result};
use graph::rewrite::importance;
use graph::structure::{self, EncoderLayer};
use graph::{Graph, Tensor, ValueId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::objectives::Supervised;
use training::{Bucket, Examples};
use training::{Mode, Network};
use training::{Objective, Step};

/// How the importance of heads and units is scored.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Importance {
    /// Sum of the magnitudes of its weights.
    L1,
    /// Change of the labels' loss when it is switched off, to first order: Σ over batches of
    /// |Σ w·∂L/∂w| (Molchanov et al. 2017, arXiv:1611.06440; DynaBERT, arXiv:2004.04037, §2.1).
    #[default]
    Taylor,
}

/// Scores of heads and units, a list a layer each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Scores {
    /// By layer.
    pub(crate) heads: Vec<Vec<f64>>,
    /// By layer.
    pub(crate) units: Vec<Vec<f64>>,
}

/// Training rows that Taylor scores and layer influence are taken from.
#[derive(Debug)]
pub(crate) struct Probe<'a> {
    /// The rows.
    pub(crate) examples: &'a Examples,
    /// Which of them, batch by batch.
    pub(crate) batches: Vec<Vec<usize>>,
}

/// Batches of a probe.
const PROBE_BATCHES: usize = 8;

impl<'a> Probe<'a> {
    /// The first batches of an epoch in a seeded order.
    pub(crate) fn new(examples: &'a Examples, batch_size: usize, seed: u64) -> Self {
        let mut batches = examples.epoch(batch_size, Bucket::ByLength, seed, 0);
        batches.truncate(PROBE_BATCHES);
        Self { examples, batches }
    }
}

/// Sums of the magnitudes of the weights that go with each part.
pub(crate) fn l1(graph: &Graph) -> Result<Scores> {
    Ok(Scores { heads: importance::heads(graph)?, units: importance::units(graph)? })
}

/// The rows of the matrix that reads a part's output say all: with a switch m on the output,
/// ∂L/∂m at m = 1 is the sum of w·∂L/∂w over those rows. L is the labels' loss: towards its own
/// logits a teacher has no gradient.
pub(crate) fn taylor(network: &Network, probe: &Probe<'_>) -> Result<Scores> {
    let mut objective = Supervised::default();
    let layers = structure::encoder_layers(network.source())?;
    let zeros = |count: fn(&EncoderLayer) -> usize| {
        layers.iter().map(|layer| vec![0.0; count(layer)]).collect()
    };
    let mut scores = Scores {
        heads: zeros(|layer| layer.attention.heads),
        units: zeros(|layer| layer.feed_forward.units),
    };
    for rows in &probe.batches {
        let step = Step { index: 0, total: 1, part: 0, epoch: 0, epochs: 1, dropout: 0.0, seed: 0 };
        let loss = objective.loss(network, &probe.examples.batch(rows), &step)?;
        let gradients = network.gradients(&loss.total);
        let effects = |weight: ValueId| {
            let name = network.source().value_name(weight);
            let gradient =
                gradients.get(name).with_context(|| format!("no gradient reaches `{name}`"))?;
            row_products(&network.tensor(name)?, gradient)
        };
        for (index, layer) in layers.iter().enumerate() {
            add(&mut scores.heads[index], &effects(layer.attention.output.weight)?);
            add(&mut scores.units[index], &effects(layer.feed_forward.down.weight)?);
        }
    }
    Ok(scores)
}

/// Adds the magnitude of each part's effect, which is spread evenly over `effects`.
fn add(scores: &mut [f64], effects: &[f64]) {
    let width = (effects.len() / scores.len().max(1)).max(1);
    for (score, rows) in scores.iter_mut().zip(effects.chunks(width)) {
        *score += rows.iter().sum::<f64>().abs();
    }
}

/// Σ w·g of each row of two matrices of one shape.
fn row_products(weight: &Tensor, gradient: &Tensor) -> Result<Vec<f64>> {
    let columns = weight.shape().last().copied().unwrap_or(1).max(1);
    let (weight, gradient) = (weight.elements::<f32>()?, gradient.elements::<f32>()?);
    let product = |(w, g): (&f32, &f32)| f64::from(*w) * f64::from(*g);
    let rows = weight.chunks(columns).zip(gradient.chunks(columns));
    Ok(rows.map(|(w, g)| w.iter().zip(g).map(product).sum()).collect())
}

/// Block influence of each layer, 1 − mean over tokens of cos(input, output) (ShortGPT, Men et al.
/// 2024, arXiv:2403.03853): a layer that hardly turns its input matters little.
pub(crate) fn layer_influence(
    graph: &Graph,
    network: &Network,
    probe: &Probe<'_>,
) -> Result<Vec<f64>> {
    let layers = structure::encoder_layers(graph)?;
    let mut sums = vec![(0.0, 0usize); layers.len()];
    for rows in &probe.batches {
        let batch = probe.examples.batch(rows);
        let taps: Vec<&str> = layers
            .iter()
            .flat_map(|layer| [layer.input, layer.output])
            .map(|id| graph.value_name(id))
            .collect();
        let values = network.forward(&batch.inputs(), &taps, Mode::Evaluate)?;
        for (layer, (sum, tokens)) in layers.iter().zip(&mut sums) {
            let (input, output) = (
                values.tensor(graph.value_name(layer.input))?,
                values.tensor(graph.value_name(layer.output))?,
            );
            let width = input.shape().last().copied().unwrap_or(1).max(1);
            let pairs =
                input.elements::<f32>()?.chunks(width).zip(output.elements::<f32>()?.chunks(width));
            for ((input, output), _) in pairs.zip(&batch.mask).filter(|(_, mask)| **mask != 0) {
                *sum += cosine(input, output);
                *tokens += 1;
            }
        }
    }
    Ok(sums.into_iter().map(|(sum, tokens)| 1.0 - sum / tokens.max(1) as f64).collect())
}

fn cosine(a: &[f32], b: &[f32]) -> f64 {
    let dot = |a: &[f32], b: &[f32]| {
        a.iter().zip(b).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>()
    };
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt().max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn row_products_sum_each_row() {
        let tensor = |values: [f32; 4]| Tensor::new(&[2, 2], values.to_vec()).unwrap();
        let products =
            row_products(&tensor([1.0, 2.0, 3.0, 4.0]), &tensor([1.0, 1.0, -1.0, 0.5])).unwrap();
        assert_eq!(products, [3.0, -1.0]);
    }

    #[test]
    fn parallel_vectors_have_cosine_one() {
        assert!((cosine(&[1.0, 2.0], &[2.0, 4.0]) - 1.0).abs() < 1e-12);
        assert!(cosine(&[1.0, 0.0], &[0.0, 1.0]).abs() < 1e-12);
    }
}
