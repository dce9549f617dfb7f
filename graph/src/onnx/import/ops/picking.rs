//! Elements at places that are given as values.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{
    Compress, GatherElements, GatherNd, Op, ReverseSequence, ScatterElements, ScatterNd,
    Scattering, Unique, UniquePart,
};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "Compress", import: compress },
    OperatorEntry { name: "GatherElements", import: gather_elements },
    OperatorEntry { name: "GatherND", import: gather_nd },
    OperatorEntry { name: "ReverseSequence", import: reverse_sequence },
    // What ScatterElements was called before opset 11.
    OperatorEntry { name: "Scatter", import: scatter_elements },
    OperatorEntry { name: "ScatterElements", import: scatter_elements },
    OperatorEntry { name: "ScatterND", import: scatter_nd },
    OperatorEntry { name: "Unique", import: unique },
];

/// The axis that the node names, where it names one.
fn given_axis(node: &NodeContext<'_, '_>) -> Result<Option<usize>, ImportError> {
    let rank = node.rank(node.input(0)?);
    node.int("axis").map(|axis| node.axis_of(axis, rank)).transpose()
}

fn compress(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let axis = given_axis(node)?;
    let inputs = node.all_inputs()?;
    node.output(0, Op::Compress(Compress { axis }), &inputs)
}

fn gather_elements(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let axis = given_axis(node)?.unwrap_or(0);
    let inputs = node.all_inputs()?;
    node.output(0, Op::GatherElements(GatherElements { axis }), &inputs)
}

fn gather_nd(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let batch_dims = usize::try_from(node.int_or("batch_dims", 0));
    let batch_dims = batch_dims.map_err(|_| node.invalid("expected batch_dims of at least 0"))?;
    let inputs = node.all_inputs()?;
    node.output(0, Op::GatherNd(GatherNd { batch_dims }), &inputs)
}

fn reverse_sequence(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let rank = node.rank(node.input(0)?);
    let batch_axis = node.axis_of(node.int_or("batch_axis", 1), rank)?;
    let time_axis = node.axis_of(node.int_or("time_axis", 0), rank)?;
    let inputs = node.all_inputs()?;
    node.output(0, Op::ReverseSequence(ReverseSequence { batch_axis, time_axis }), &inputs)
}

fn reduction(node: &NodeContext<'_, '_>) -> Result<Scattering, ImportError> {
    let name = node.text_or("reduction", "none");
    let found = Scattering::from_name(&name);
    found.ok_or_else(|| node.unsupported(format!("reduction = `{name}`")))
}

fn scatter_elements(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let axis = given_axis(node)?.unwrap_or(0);
    let reduction = reduction(node)?;
    let inputs = node.all_inputs()?;
    node.output(0, Op::ScatterElements(ScatterElements { axis, reduction }), &inputs)
}

fn scatter_nd(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let reduction = reduction(node)?;
    let inputs = node.all_inputs()?;
    node.output(0, Op::ScatterNd(ScatterNd { reduction }), &inputs)
}

fn unique(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let axis = given_axis(node)?;
    let sorted = node.flag("sorted", true);
    let inputs = node.all_inputs()?;
    let parts = [UniquePart::Entries, UniquePart::First, UniquePart::Inverse, UniquePart::Counts];
    for (index, part) in parts.into_iter().enumerate() {
        node.output(index, Op::Unique(Unique { axis, sorted, part }), &inputs)?;
    }
    Ok(())
}
