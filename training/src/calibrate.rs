//! Ranges of activations from training rows, for post-training quantization.

use std::collections::BTreeMap;

use graph::rewrite::observer::{Method, Observer};

use crate::examples::Examples;
use crate::network::{Mode, Network};

/// The quantization scale of each value named in `taps`, from what `method` sees on these batches
/// of rows. Padding is left out of values `[batch, sequence, …]`.
///
/// # Errors
///
/// When a value is missing or not finite.
pub fn calibrate(
    network: &Network,
    examples: &Examples,
    taps: &[&str],
    method: Method,
    batches: &[Vec<usize>],
) -> anyhow::Result<BTreeMap<String, f32>> {
    let mut observers = BTreeMap::new();
    for &tap in taps {
        observers.insert(tap, Observer::new(method)?);
    }
    for rows in batches {
        let batch = examples.batch(rows);
        let values = network.forward(&batch.inputs(), taps, Mode::Evaluate)?;
        for (tap, observer) in &mut observers {
            let tensor = values.tensor(tap)?;
            let elements = tensor.elements::<f32>()?;
            let shape = tensor.shape();
            if shape.len() < 3 || shape[..2] != [batch.len(), batch.length] {
                observer.observe(elements)?;
                continue;
            }
            let width: usize = shape[2..].iter().product();
            let tokens = elements.chunks(width.max(1)).zip(&batch.mask);
            let kept: Vec<f32> = tokens
                .filter(|(_, mask)| **mask != 0)
                .flat_map(|(token, _)| token)
                .copied()
                .collect();
            observer.observe(&kept)?;
        }
    }
    let scales =
        observers.into_iter().map(|(tap, observer)| Ok((tap.to_owned(), observer.scale()?)));
    scales.collect()
}
