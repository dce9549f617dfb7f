//! The objectives that stages train with: labels alone, a teacher, a teacher for many subnetworks.

mod distill;
mod supernet;
mod supervised;
#[cfg(test)]
mod tests;

pub use distill::{Distill, Masking, Match, Teacher};
pub use supernet::{Choose, Subnetwork, Supernet};
pub use supervised::Supervised;

use burn::tensor::{Int, Tensor, TensorData};

use crate::device::Device;
use crate::examples::Batch;
use crate::network::Network;

/// Name of the classifier's output: the graph's first.
fn logits_name(network: &Network) -> &str {
    let graph = network.source();
    graph.outputs().first().map_or("", |&id| graph.value_name(id))
}

/// Class ids of a batch, `[rows]`.
fn labels(batch: &Batch, device: &Device) -> Tensor<1, Int> {
    let ids: Vec<i64> = batch.labels.iter().map(|&label| label as i64).collect();
    let rows = ids.len();
    Tensor::from_data(TensorData::new(ids, [rows]), device.burn())
}

/// Mask of a batch as numbers, `[rows, length]`.
fn mask(batch: &Batch, device: &Device) -> Tensor<2> {
    device.tensor([batch.len(), batch.length], batch.float_mask())
}

/// The rows of `table` that a batch is made of, `[rows, columns]`.
fn rows_of(table: &[Vec<f32>], batch: &Batch, device: &Device) -> anyhow::Result<Tensor<2>> {
    let columns = table.first().map_or(0, Vec::len);
    let mut elements = Vec::with_capacity(batch.len() * columns);
    for &row in &batch.rows {
        let logits = table.get(row).ok_or_else(|| {
            anyhow::anyhow!(
                "expected teacher logits for every training row, found {} rows",
                table.len()
            )
        })?;
        elements.extend_from_slice(logits);
    }
    Ok(device.tensor([batch.len(), columns], elements))
}
