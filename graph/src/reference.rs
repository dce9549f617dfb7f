//! Evaluates a graph node by node with the operators' own slow definitions.

use std::collections::BTreeMap;

use crate::model::node_error;
use crate::{Bindings, Graph, GraphError, Tensor, ValueId};

/// Every value of `graph` for these inputs, by id.
///
/// # Errors
///
/// When an input is missing or has another type or shape than declared, or an operator fails.
pub fn trace(
    graph: &Graph,
    inputs: &[(&str, Tensor)],
) -> Result<BTreeMap<ValueId, Tensor>, GraphError> {
    let mut values: BTreeMap<ValueId, Tensor> =
        graph.weights().map(|(id, tensor)| (id, tensor.clone())).collect();
    let bindings = bind(graph, inputs)?;
    for (name, tensor) in inputs {
        values.insert(graph.find(name).expect("`bind` found it"), tensor.clone());
    }
    for (_, node) in graph.nodes() {
        let arguments: Vec<&Tensor> = node.inputs.iter().map(|id| &values[id]).collect();
        let output = node.op.operator().evaluate(&arguments, &bindings);
        let output = output.map_err(|reason| node_error(&node.name, &node.op, reason))?;
        values.insert(node.output, output);
    }
    Ok(values)
}

/// The outputs of `graph` for these inputs.
///
/// # Errors
///
/// As [`trace`].
pub fn evaluate(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<Vec<Tensor>, GraphError> {
    let values = trace(graph, inputs)?;
    Ok(graph.outputs().iter().map(|id| values[id].clone()).collect())
}

/// Checks `inputs` against the graph's declaration and binds its symbols to their sizes.
///
/// # Errors
///
/// When an input is missing, unknown, or has another type or shape than declared.
pub fn bind(graph: &Graph, inputs: &[(&str, Tensor)]) -> Result<Bindings, GraphError> {
    let mut bindings = Bindings::default();
    for &id in graph.inputs() {
        let name = graph.value_name(id);
        let fail = |reason| GraphError::Input { name: name.to_owned(), reason };
        let given = inputs.iter().find(|(given, _)| *given == name);
        let (_, tensor) =
            given.ok_or_else(|| fail("expected a tensor, none was given".to_owned()))?;
        let declared = graph.value_type(id);
        if tensor.dtype() != declared.dtype {
            return Err(fail(format!("expected {declared}, found {tensor:?}")));
        }
        bindings.bind(&declared.shape, tensor.shape()).map_err(fail)?;
    }
    if let Some((name, _)) = inputs
        .iter()
        .find(|(name, _)| !graph.inputs().iter().any(|&id| graph.value_name(id) == *name))
    {
        return Err(GraphError::Missing((*name).to_owned()));
    }
    Ok(bindings)
}
