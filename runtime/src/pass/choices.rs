//! The nodes of both branches of a choice among all others, and their results chosen from: so other
//! passes rewrite them, and memory is planned for them. A run skips what only the branch needs that was
//! not chosen, see `guards`.

use std::collections::BTreeMap;

use graph::op::{Argument, Computed, If, Subgraph};
use graph::{Dim, Op, ValueType};

use super::sizes::{self, Numbers};
use crate::module::{Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let is_choice = |node: &Node| matches!(node.operation, Operation::Graph(Op::If(_)));
    if !module.nodes.iter().any(is_choice) {
        return 0;
    }
    let (shapes, numbers) = sizes::infer(module);
    let is_dynamic = shapes.iter().any(|shape| shape.contains(&Dim::Unknown));
    for (value, shape) in module.values.iter_mut().zip(shapes) {
        value.shape = shape;
    }
    let nodes = std::mem::take(&mut module.nodes);
    let mut inlining = Inlining { module, numbers, is_dynamic, nodes: Vec::new(), fired: 0 };
    nodes.into_iter().for_each(|node| inlining.take(node));
    let Inlining { nodes, fired, .. } = inlining;
    module.nodes = nodes;
    fired
}

/// Nodes that come to stand one after another.
struct Inlining<'m> {
    /// Without its nodes.
    module: &'m mut Module,
    numbers: Numbers,
    /// Whether sizes depend on values anyway.
    is_dynamic: bool,
    nodes: Vec<Node>,
    fired: usize,
}

/// What is known of the nodes of a branch.
type Known = Vec<Computed>;

impl Inlining<'_> {
    /// Takes a node as it is, or what a choice stands for.
    fn take(&mut self, node: Node) {
        let parts = match &node.operation {
            Operation::Graph(Op::If(choice)) => self.parts(choice, &node.inputs),
            _ => None,
        };
        let (Some([then_known, else_known]), Operation::Graph(Op::If(choice))) =
            (parts, &node.operation)
        else {
            self.nodes.push(node);
            return;
        };
        let (then_inputs, else_inputs) = node.inputs[1..].split_at(choice.then_branch.inputs.len());
        let prefix = |side: &str| format!("{}/{side}/", node.name);
        let a = self.write(&prefix("then"), (&choice.then_branch, then_known), then_inputs);
        let b = self.write(&prefix("else"), (&choice.else_branch, else_known), else_inputs);
        let inputs = vec![node.inputs[0], a, b];
        self.nodes.push(Node { operation: Operation::Choose, inputs, ..node });
        self.fired += 1;
    }

    /// What is known of both branches; `None` where they are not as the operator says, or hide sizes that
    /// the rest of the module does not.
    fn parts(&self, choice: &If, inputs: &[Id]) -> Option<[Known; 2]> {
        let (_, read) = inputs.split_first()?;
        let (then_inputs, else_inputs) = read.split_at_checked(choice.then_branch.inputs.len())?;
        Some([
            self.known(&choice.then_branch, then_inputs)?,
            self.known(&choice.else_branch, else_inputs)?,
        ])
    }

    fn known(&self, branch: &Subgraph, inputs: &[Id]) -> Option<Known> {
        let module = &*self.module;
        let given: Vec<ValueType> =
            inputs.iter().map(|&id| module.value(id).value_type()).collect();
        let argument = |(value_type, id)| Argument {
            value_type,
            constant: module.constant(id),
            integers: self.numbers.get(&id).map(Vec::as_slice),
        };
        let arguments: Vec<Argument<'_>> =
            given.iter().zip(inputs.iter().copied()).map(argument).collect();
        let known = branch.of_nodes(&arguments).ok()?;
        let names = branch.inputs.iter().chain(branch.nodes.iter().map(|node| &node.name));
        let has_result =
            branch.outputs.first().is_some_and(|name| names.clone().any(|n| n == name));
        let is_known = |computed: &Computed| !computed.value_type.shape.contains(&Dim::Unknown);
        (has_result && (self.is_dynamic || known.iter().all(is_known))).then_some(known)
    }

    /// Takes the nodes of a branch, and gives its result.
    fn write(&mut self, prefix: &str, (branch, known): (&Subgraph, Known), inputs: &[Id]) -> Id {
        let mut ids: BTreeMap<&str, Id> =
            branch.inputs.iter().map(String::as_str).zip(inputs.iter().copied()).collect();
        for (node, Computed { value_type, integers }) in branch.nodes.iter().zip(known) {
            let ValueType { dtype, shape } = value_type;
            let name = format!("{prefix}{}", node.name);
            // Types were inferred by these names.
            let inputs = node.inputs.iter().map(|name| ids[name.as_str()]).collect();
            let output = self.module.add_value(name.clone(), dtype, shape);
            if let Some(integers) = integers {
                self.numbers.insert(output, integers);
            }
            let operation = Operation::Graph(node.op.clone());
            self.take(Node { name, operation, inputs, output, fused_from: Vec::new() });
            ids.insert(&node.name, output);
        }
        ids[branch.outputs[0].as_str()]
    }
}
