//! Runs a network over examples without a tape.

use crate::error::{Error, Result};
use crate::examples::Examples;
use crate::network::{Mode, Network};

/// What a network says about examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Class scores of each example, before softmax, in the order of the examples.
    pub logits: Vec<Vec<f32>>,
    /// Mean cross-entropy with the labels, in nats.
    pub loss: f64,
    /// Part of the examples whose greatest score is their label's.
    pub accuracy: f64,
}

/// The first output of `network`, `[batch, classes]`, for every example.
///
/// # Errors
///
/// When there are no examples, the output has another rank, or the forward pass fails.
pub fn evaluate(network: &Network, examples: &Examples, batch_size: usize) -> Result<Evaluation> {
    if examples.is_empty() {
        let (name, found) = ("examples", "0".to_owned());
        return Err(Error::Setting { name, found, expected: "at least one to evaluate" });
    }
    let graph = network.source();
    let output = *graph.outputs().first().ok_or_else(|| Error::Missing {
        name: "output".to_owned(),
        hint: "expected a graph with an output".to_owned(),
    })?;
    let output = graph.value_name(output);
    let mut logits = vec![Vec::new(); examples.len()];
    for rows in examples.by_length(batch_size) {
        let values = network.forward(&examples.batch(&rows).inputs(), &[output], Mode::Evaluate)?;
        let scores = values.get::<2>(output)?;
        let classes = scores.dims()[1].max(1);
        let scores = scores.into_data().try_into_vec::<f32>().expect("scores are f32");
        for (row, scores) in rows.into_iter().zip(scores.chunks(classes)) {
            logits[row] = scores.to_vec();
        }
    }
    let (mut loss, mut right) = (0f64, 0usize);
    for (scores, &label) in logits.iter().zip(&examples.labels) {
        loss += cross_entropy(scores, label);
        right += usize::from(greatest(scores) == label);
    }
    let count = examples.len() as f64;
    Ok(Evaluation { logits, loss: loss / count, accuracy: right as f64 / count })
}

/// −log softmax(scores)[label]; infinite for a label without a score.
fn cross_entropy(scores: &[f32], label: usize) -> f64 {
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores.iter().map(|&score| f64::from(score - max).exp()).sum();
    let score = scores.get(label).map_or(f64::NEG_INFINITY, |&score| f64::from(score - max));
    sum.ln() - score
}

/// Index of the first greatest score.
fn greatest(scores: &[f32]) -> usize {
    let better =
        |best: usize, index: usize| if scores[index] > scores[best] { index } else { best };
    (0..scores.len()).fold(0, better)
}
