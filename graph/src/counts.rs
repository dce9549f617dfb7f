//! What a graph costs for given sizes: weights, operations, activations. Counted, not measured.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::model::node_error;
use crate::{Bindings, Graph, GraphError, Node, Op, ValueId};

/// The cost of one node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeCounts {
    /// Name of the node.
    pub name: String,
    /// ONNX type of its operator.
    pub op: &'static str,
    /// Operations; a multiply and an add are two.
    pub flops: u64,
    /// Elements of the weights it reads directly.
    pub weight_elements: u64,
    /// Bytes of its output.
    pub activation_bytes: u64,
}

/// The cost of a graph for one binding of its symbols.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Elements of all weights.
    pub weight_elements: u64,
    /// Bytes of all weights.
    pub weight_bytes: u64,
    /// Operations of all nodes; a multiply and an add are two.
    pub flops: u64,
    /// Bytes of all nodes' outputs together: what training keeps for the backward pass.
    pub activation_bytes: u64,
    /// Most bytes of outputs that are needed at one time when the nodes run one by one in order
    /// and memory is reused perfectly. A plan without fusion or in-place operators cannot get
    /// below it. Reshaped outputs share their input's bytes.
    pub peak_activation_bytes: u64,
    /// One entry a node, in order.
    pub nodes: Vec<NodeCounts>,
}

/// Counts for symbols bound as in `bindings`, such as `batch` and `sequence`.
///
/// # Errors
///
/// When a symbol is not bound, named with its node, or a size overflows.
pub fn count(graph: &Graph, bindings: &Bindings) -> Result<Counts, GraphError> {
    let mut nodes = Vec::new();
    for (_, node) in graph.nodes() {
        nodes.push(count_node(graph, node, bindings)?);
    }
    Ok(Counts {
        weight_elements: graph.weight_count() as u64,
        weight_bytes: graph.weight_bytes() as u64,
        flops: nodes.iter().map(|node| node.flops).sum(),
        activation_bytes: nodes.iter().map(|node| node.activation_bytes).sum(),
        peak_activation_bytes: peak(graph, &nodes),
        nodes,
    })
}

fn count_node(graph: &Graph, node: &Node, bindings: &Bindings) -> Result<NodeCounts, GraphError> {
    let sizes = |id: ValueId| -> Result<Vec<usize>, GraphError> {
        let value_type = graph.value_type(id);
        let fail = |reason| node_error(&node.name, &node.op, reason);
        let sizes = bindings.sizes(&value_type.shape).map_err(fail)?;
        let too_large = || fail(format!("{sizes:?} is too large to count"));
        crate::weights::checked_elements(&sizes).ok_or_else(too_large)?;
        Ok(sizes)
    };
    let inputs = node.inputs.iter().map(|&id| sizes(id)).collect::<Result<Vec<_>, _>>()?;
    let output = sizes(node.output)?;
    let elements: usize = output.iter().product();
    let width = graph.value_type(node.output).dtype.size_bytes();
    let weights = node.inputs.iter().filter_map(|&id| graph.weight(id));
    let operator = node.op.operator();
    Ok(NodeCounts {
        name: node.name.clone(),
        op: operator.onnx_type(),
        flops: operator.flops(&inputs, &output),
        weight_elements: weights.map(|tensor| tensor.len() as u64).sum(),
        activation_bytes: (elements * width) as u64,
    })
}

fn peak(graph: &Graph, counts: &[NodeCounts]) -> u64 {
    let mut roots: BTreeMap<ValueId, ValueId> = BTreeMap::new();
    let mut last_use: BTreeMap<ValueId, usize> = BTreeMap::new();
    for (position, (_, node)) in graph.nodes().enumerate() {
        let root = |id: ValueId| roots.get(&id).copied().unwrap_or(id);
        for &input in &node.inputs {
            last_use.insert(root(input), position);
        }
        let shared = matches!(node.op, Op::Reshape(_) | Op::Unsqueeze(_));
        let shared = shared && graph.producer(node.inputs[0]).is_some();
        let root = if shared { root(node.inputs[0]) } else { node.output };
        roots.insert(node.output, root);
        last_use.insert(root, position);
    }
    for output in graph.outputs().iter().filter_map(|id| roots.get(id)) {
        last_use.insert(*output, counts.len());
    }
    let mut ending: BTreeMap<usize, u64> = BTreeMap::new();
    let (mut live, mut peak) = (0, 0);
    for (position, ((_, node), counts)) in graph.nodes().zip(counts).enumerate() {
        if roots[&node.output] == node.output {
            live += counts.activation_bytes;
            *ending.entry(last_use[&node.output]).or_default() += counts.activation_bytes;
        }
        peak = peak.max(live);
        live -= ending.remove(&position).unwrap_or(0);
    }
    peak
}

#[cfg(test)]
mod tests;
