//! A teacher's logits for the training rows: computed once, an artifact that others read.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, ensure};
use graph::{Graph, Tensor, weights};
use training::data::Row;
use training::loss::{CrossEntropy, Distillation};
use training::objectives::{Distill, Teacher};
use training::temperature::Temperature;

use crate::range::Fraction;

const LOGITS: &str = "logits";
const ROWS: &str = "rows";

/// Digest of the texts, in order: logits of other rows are of no use.
fn digest(rows: &[Row]) -> Tensor {
    let mut hasher = blake3::Hasher::new();
    for row in rows {
        hasher.update(&(row.text.len() as u64).to_le_bytes());
        hasher.update(row.text.as_bytes());
    }
    let digest = hasher.finalize();
    Tensor::from_fn(&[32], |index| digest.as_bytes()[index])
}

/// Writes one row of logits a training row.
pub(crate) fn write(path: &Path, rows: &[Row], logits: &[Vec<f32>]) -> Result<()> {
    let classes = logits.first().map_or(0, Vec::len);
    let tensor = Tensor::new(&[logits.len(), classes], logits.concat())?;
    let tensors = [(LOGITS, &tensor), (ROWS, &digest(rows))];
    Ok(weights::write(path, tensors)?)
}

/// Reads the logits back, in the order of `rows`.
pub(crate) fn read(path: &Path, rows: &[Row]) -> Result<Vec<Vec<f32>>> {
    let tensors: BTreeMap<String, Tensor> = weights::read(path)?.into_iter().collect();
    ensure!(
        tensors.get(ROWS) == Some(&digest(rows)),
        "the teacher's logits belong to other training rows; connect `data` and `logits` to stages that read the same data"
    );
    let tensor = &tensors[LOGITS];
    let classes = tensor.shape()[1];
    Ok(tensor.elements::<f32>()?.chunks(classes.max(1)).map(<[f32]>::to_vec).collect())
}

/// Weight of the teacher against the labels, where a manifest says nothing.
pub(crate) fn default_alpha() -> Fraction {
    Fraction::new(0.5)
}

/// Temperature where a manifest says nothing: DistilBERT's.
pub(crate) fn default_temperature() -> Temperature {
    Temperature::Constant { value: 2.0 }
}

/// What a model recovers with: α·T²·KL to these logits + (1 − α)·cross-entropy of the labels.
pub(crate) fn objective(
    alpha: Fraction,
    temperature: Temperature,
    logits: Vec<Vec<f32>>,
    graph: &Graph,
) -> Result<Distill> {
    let distillation = Distillation { alpha: alpha.get() as f32, hard: CrossEntropy::default() };
    let teacher = Teacher { logits, network: None };
    // The seed is for learned projections, and nothing is matched here.
    Distill::new(distillation, temperature, teacher, graph, Vec::new(), 0)
}
