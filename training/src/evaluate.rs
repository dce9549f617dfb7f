//! Runs a network over examples without a tape.

use crate::error::{Error, Result};
use crate::examples::Examples;
use crate::metrics::{argmax, cross_entropy};
use crate::network::{Mode, Network};

/// What a network says about examples.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// Class scores of each example, before softmax, in the order of the examples.
    pub logits: Vec<Vec<f32>>,
    /// Mean cross-entropy with the labels, in nats; infinite for a label without a score.
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
    let labelled = logits.iter().zip(&examples.labels);
    let right = labelled.filter(|(scores, label)| argmax(scores) == **label).count();
    let accuracy = right as f64 / examples.len() as f64;
    Ok(Evaluation { loss: cross_entropy(&logits, &examples.labels), accuracy, logits })
}
