//! The body of a loop as a module of its own.

use std::collections::BTreeMap;

use graph::op::{Argument, Computed, Integer, Loop};
use graph::{Dim, ValueType};

use crate::module::{Id, Module, Node, Operation};
use crate::pass::{Numbers, integers};

/// A body, as it is before any pass.
pub(crate) struct Body {
    pub(crate) module: Module,
    /// For each input of the module, which of the node's inputs it is.
    pub(crate) sources: Vec<usize>,
    /// For each input of the node, whether it is a constant of the module.
    pub(crate) captured: Vec<bool>,
    /// Types of what the body gets, see [`Loop::given`].
    pub(crate) types: Vec<ValueType>,
}

impl Body {
    /// The body of a loop that a node of `outer` runs. Constants that it reads from outside become its
    /// own; sizes that only a run knows get names where nothing in it needs them to be equal.
    ///
    /// # Errors
    /// When a node of the body refuses its inputs.
    pub(crate) fn new(outer: &Module, node: &Node, op: &Loop) -> Result<Self, String> {
        let numbers = integers(outer);
        let plain: Vec<ValueType> =
            node.inputs.iter().map(|&id| outer.value(id).value_type()).collect();
        let named = named(outer, node);
        let of = |types: &[ValueType]| Writing { outer, node, numbers: &numbers, types }.body(op);
        if named == plain { of(&plain) } else { of(&named).or_else(|_| of(&plain)) }
    }
}

/// Types of what a node reads, with a name for every size that is not known.
fn named(outer: &Module, node: &Node) -> Vec<ValueType> {
    let named = |id: &Id| {
        let mut value_type = outer.value(*id).value_type();
        for (axis, dim) in value_type.shape.iter_mut().enumerate() {
            if dim.is_unknown() {
                *dim = Dim::symbol(&format!("{}/{axis}", outer.value(*id).name));
            }
        }
        value_type
    };
    node.inputs.iter().map(named).collect()
}

/// A body that is about to be written.
struct Writing<'a> {
    outer: &'a Module,
    node: &'a Node,
    numbers: &'a Numbers,
    /// Of the node's inputs.
    types: &'a [ValueType],
}

impl Writing<'_> {
    /// What is known of an input of the node.
    fn argument<'b>(&'b self, index: usize, value_type: &'b ValueType) -> Argument<'b> {
        let id = self.node.inputs[index];
        let integers: Option<&[Integer]> = self.numbers.get(&id).map(Vec::as_slice);
        Argument { value_type, constant: self.outer.constant(id), integers }
    }

    fn body(&self, op: &Loop) -> Result<Body, String> {
        let arguments: Vec<Argument<'_>> =
            self.types.iter().enumerate().map(|(i, kind)| self.argument(i, kind)).collect();
        let types = op.given(&arguments)?;
        let outside = 2 + op.carried;
        let argument = |(index, value_type)| match index {
            index if index < outside => Argument { value_type, constant: None, integers: None },
            index => self.argument(index, value_type),
        };
        let arguments: Vec<Argument<'_>> = types.iter().enumerate().map(argument).collect();
        let known = op.body.of_nodes(&arguments)?;
        let captured: Vec<bool> = (0..types.len())
            .map(|index| index >= outside && arguments[index].constant.is_some())
            .collect();
        let mut module = Module {
            values: Vec::new(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            disabled_passes: self.outer.disabled_passes.clone(),
            on_gpu: false,
            batch: None,
            ..*self.outer
        };
        let mut ids = BTreeMap::new();
        let mut sources = Vec::new();
        for (index, (name, value_type)) in op.body.inputs.iter().zip(&types).enumerate() {
            let ValueType { dtype, shape } = value_type.clone();
            let id = module.add_value(name.clone(), dtype, shape);
            if captured[index] {
                module.values[id.0].constant =
                    self.outer.constant(self.node.inputs[index]).cloned();
            } else {
                module.inputs.push(id);
                sources.push(index);
            }
            ids.insert(name.as_str(), id);
        }
        for (node, Computed { value_type, .. }) in op.body.nodes.iter().zip(known) {
            let ValueType { dtype, shape } = value_type;
            let output = module.add_value(node.name.clone(), dtype, shape);
            // Types were inferred by these names.
            let inputs = node.inputs.iter().map(|name| ids[name.as_str()]).collect();
            let operation = Operation::Graph(node.op.clone());
            let name = node.name.clone();
            module.nodes.push(Node { name, operation, inputs, output, fused_from: Vec::new() });
            ids.insert(&node.name, output);
        }
        let output = |name: &String| ids.get(name.as_str()).copied();
        let outputs = op.body.outputs.iter().map(output).collect::<Option<Vec<Id>>>();
        module.outputs = outputs.ok_or("expected outputs that the body computes")?;
        Ok(Body { module, sources, captured, types })
    }
}
