//! The nodes of both branches of a choice among all others, and their results chosen from: so other
//! passes rewrite them, and memory is planned for them. A run skips what only the branch needs that was
//! not chosen, see `guards`.

use std::collections::BTreeMap;

use graph::op::{Argument, Subgraph};
use graph::{Dim, Op, ValueType};

use super::sizes;
use crate::module::{Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let mut fired = 0;
    let mut index = 0;
    while index < module.nodes.len() {
        // Choices inside a branch come in the place of the one around it.
        match inline(module, index) {
            Some(()) => fired += 1,
            None => index += 1,
        }
    }
    fired
}

/// Replaces a choice; `None` where the node is none, or sizes would not be known any more.
fn inline(module: &mut Module, index: usize) -> Option<()> {
    let Node { name, operation, inputs, output, .. } = module.nodes[index].clone();
    let Operation::Graph(Op::If(choice)) = operation else { return None };
    let (&condition, read) = inputs.split_first()?;
    let (then_inputs, else_inputs) = read.split_at_checked(choice.then_branch.inputs.len())?;
    let branches =
        [("then", &choice.then_branch, then_inputs), ("else", &choice.else_branch, else_inputs)];
    let types = branches.map(|(_, branch, inputs)| types(module, branch, inputs));
    let [Some(then_types), Some(else_types)] = types else { return None };
    let mut nodes = Vec::new();
    let mut results = vec![condition];
    for ((side, branch, inputs), types) in branches.into_iter().zip([then_types, else_types]) {
        let prefix = format!("{name}/{side}/");
        let result = write(module, &mut nodes, &prefix, (branch, types), inputs)?;
        results.push(result);
    }
    let operation = Operation::Choose;
    nodes.push(Node { name, operation, inputs: results, output, fused_from: Vec::new() });
    module.nodes.splice(index..=index, nodes);
    Some(())
}

/// Types of the nodes of a branch; `None` where it hides sizes that the rest of the module does not.
fn types(module: &Module, branch: &Subgraph, inputs: &[Id]) -> Option<Vec<ValueType>> {
    let numbers = sizes::integers(module);
    let given: Vec<ValueType> = inputs.iter().map(|&id| module.value(id).value_type()).collect();
    let argument = |(value_type, id)| Argument {
        value_type,
        constant: module.constant(id),
        integers: numbers.get(&id).map(Vec::as_slice),
    };
    let arguments: Vec<Argument<'_>> =
        given.iter().zip(inputs.iter().copied()).map(argument).collect();
    let types = branch.node_types(&arguments).ok()?;
    let is_known = |value_type: &ValueType| !value_type.shape.contains(&Dim::Unknown);
    (module.is_dynamic() || types.iter().all(is_known)).then_some(types)
}

/// Appends the nodes of a branch, and gives its result.
fn write(
    module: &mut Module,
    nodes: &mut Vec<Node>,
    prefix: &str,
    (branch, types): (&Subgraph, Vec<ValueType>),
    inputs: &[Id],
) -> Option<Id> {
    let mut ids: BTreeMap<&str, Id> =
        branch.inputs.iter().map(String::as_str).zip(inputs.iter().copied()).collect();
    for (node, ValueType { dtype, shape }) in branch.nodes.iter().zip(types) {
        let name = format!("{prefix}{}", node.name);
        let inputs = node.inputs.iter().map(|name| ids.get(name.as_str()).copied());
        let inputs = inputs.collect::<Option<_>>()?;
        let output = module.add_value(name.clone(), dtype, shape);
        let operation = Operation::Graph(node.op.clone());
        nodes.push(Node { name, operation, inputs, output, fused_from: Vec::new() });
        ids.insert(&node.name, output);
    }
    ids.get(branch.outputs.first()?.as_str()).copied()
}
