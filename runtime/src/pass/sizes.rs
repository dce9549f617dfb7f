//! Sizes that a rewritten graph tells before a run where the graph as it was read did not: types are
//! inferred again, and a reshape to a size that is known needs no value that says it.

use std::collections::BTreeMap;

use graph::op::{Argument, Binary, Integer};
use graph::{Dim, Op, ValueType};

use super::transposes::reshape;
use crate::module::{Id, Module, Operation, Value};

pub(super) fn run(module: &mut Module) -> usize {
    let (shapes, _) = infer(module);
    let mut fired = 0;
    for (value, shape) in module.values.iter_mut().zip(shapes) {
        if value.shape != shape {
            value.shape = shape;
            fired += 1;
        }
    }
    for index in 0..module.nodes.len() {
        let node = &module.nodes[index];
        let (Operation::Graph(Op::ReshapeTo(_)), &[x, _]) =
            (&node.operation, node.inputs.as_slice())
        else {
            continue;
        };
        if let Some(op) = reshape(&module.value(x).shape, &module.value(node.output).shape) {
            module.nodes[index].operation = Operation::Graph(Op::Reshape(op));
            module.nodes[index].inputs.truncate(1);
            fired += 1;
        }
    }
    module.sweep();
    fired
}

/// Known numbers by value, see [`Integer`].
pub(crate) type Numbers = BTreeMap<Id, Vec<Integer>>;

/// The short integer values whose numbers follow from constants and the sizes of the inputs.
pub(crate) fn integers(module: &Module) -> Numbers {
    infer(module).1
}

/// The shape of every value as far as it can be known before a run, and the known numbers.
pub(super) fn infer(module: &Module) -> (Vec<Vec<Dim>>, Numbers) {
    let mut types: Vec<ValueType> = module.values.iter().map(Value::value_type).collect();
    let mut known = Numbers::new();
    for (index, value) in module.values.iter().enumerate() {
        if let Some(numbers) = value.constant.as_ref().and_then(Integer::of_tensor) {
            known.insert(Id(index), numbers);
        }
    }
    for node in &module.nodes {
        let op = match &node.operation {
            Operation::Graph(op) => op,
            Operation::Choose => {
                let [a, b] = [1, 2].map(|side| types[node.inputs[side].0].shape.clone());
                let output = &mut types[node.output.0].shape;
                if a == b && a.len() == output.len() {
                    *output = a;
                }
                continue;
            }
            _ => continue,
        };
        let argument = |id: &Id| Argument {
            value_type: &types[id.0],
            constant: module.constant(*id),
            integers: known.get(id).map(Vec::as_slice),
        };
        let arguments: Vec<Argument<'_>> = node.inputs.iter().map(argument).collect();
        let numbers = never_equal(op, &arguments).or_else(|| op.operator().integers(&arguments));
        let unknown = types[node.output.0].shape.contains(&Dim::Unknown);
        let found = if unknown { op.operator().infer(&arguments).ok() } else { None };
        if let Some(found) = found {
            let output = &mut types[node.output.0];
            if found.dtype == output.dtype && found.shape.len() == output.shape.len() {
                for (dim, found) in output.shape.iter_mut().zip(found.shape) {
                    if dim.is_unknown() {
                        *dim = found;
                    }
                }
            }
        }
        if let Some(numbers) = numbers {
            known.insert(node.output, numbers);
        }
    }
    (types.into_iter().map(|value_type| value_type.shape).collect(), known)
}

/// Whether sizes are a negative number: never. Exporters ask so for what stands for "any" in a shape.
fn never_equal(op: &Op, arguments: &[Argument<'_>]) -> Option<Vec<Integer>> {
    let (Op::Binary(Binary::Equal), [a, b]) = (op, arguments) else { return None };
    let (a, b) = (a.integers?, b.integers?);
    let at = |list: &[Integer], index: usize| match list {
        [one] => Some(one.clone()),
        list => list.get(index).cloned(),
    };
    let equal = |index| {
        Some(match (at(a, index)?, at(b, index)?) {
            (Integer::Known(a), Integer::Known(b)) => Integer::Known(i64::from(a == b)),
            (Integer::Symbol(_), Integer::Known(number))
            | (Integer::Known(number), Integer::Symbol(_))
                if number < 0 =>
            {
                Integer::Known(0)
            }
            _ => Integer::Unknown,
        })
    };
    (0..a.len().max(b.len())).map(equal).collect()
}
