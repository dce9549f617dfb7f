//! Really removing heads and units: weights are sliced, shapes shrink.

use anyhow::Result;
use graph::rewrite::prune;
use graph::{Graph, structure};

use super::gradual::Kept;

/// Slices the graph down to what is kept.
pub(super) fn slice(graph: &mut Graph, kept: &Kept) -> Result<()> {
    for (layer, heads) in kept.heads.iter().enumerate() {
        prune::keep_heads(graph, layer, heads)?;
    }
    for (layer, units) in kept.units.iter().enumerate() {
        prune::keep_units(graph, layer, units)?;
    }
    Ok(())
}

/// Share of the heads and units of `graph`, counted by their weights, that `kept` leaves out.
pub(super) fn share_gone(graph: &Graph, kept: &Kept) -> Result<f64> {
    let (mut total, mut left) = (0, 0);
    for (index, layer) in structure::encoder_layers(graph)?.iter().enumerate() {
        let head = layer.attention.head_size * 4;
        if let Some(heads) = kept.heads.get(index) {
            total += layer.attention.heads * head;
            left += heads.len() * head;
        }
        if let Some(units) = kept.units.get(index) {
            total += layer.feed_forward.units * 2;
            left += units.len() * 2;
        }
    }
    Ok(if total == 0 { 0.0 } else { 1.0 - left as f64 / total as f64 })
}
