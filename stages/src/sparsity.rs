//! Zeros among the weights of linear layers, which later training has to leave alone.

use anyhow::Result;
use graph::rewrite::masks::Masks;
use graph::{Graph, Tensor, structure};
use training::Network;

/// A mask for the matrix of each linear layer of a float graph: 0 where the weight is exactly zero,
/// 1 elsewhere.
pub(crate) fn nonzero(graph: &Graph) -> Result<Masks> {
    let mut masks = Masks::new();
    for linear in structure::linears(graph) {
        let Some(weight) = graph.weight(linear.weight) else { continue };
        let elements = weight.elements::<f32>()?;
        let mask =
            Tensor::from_fn(weight.shape(), |index| f32::from(u8::from(elements[index] != 0.0)));
        masks.insert(graph.value_name(linear.weight).to_owned(), mask);
    }
    Ok(masks)
}

/// Makes the weights that are zero in the linear layers of `graph` stay so while `network` trains.
pub(crate) fn keep_zeros(network: &mut Network, graph: &Graph) -> Result<()> {
    for (name, mask) in nonzero(graph)? {
        if mask.elements::<f32>()?.contains(&0.0) {
            network.set_mask(&name, &mask)?;
        }
    }
    Ok(())
}
