//! Three linear layers of one input that an attention reads → one layer with their columns side
//! by side. Parts of the columns of one value, as models have it that were trained with one layer, are
//! read where they lie.

use graph::{Dim, Op, Tensor};
use kernels::Activation;

use super::repeat;
use crate::module::{HeadPlace, HeadSplit, Id, IntegerLinear, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, |module, index| {
        sliced(module, index).or_else(|| rewrite(module, index)).is_some()
    })
}

/// Reads slices of the columns of rows where they are sliced from.
fn sliced(module: &mut Module, index: usize) -> Option<()> {
    let Operation::Attention(split) = module.nodes[index].operation.clone() else { return None };
    let mut fused = split.clone();
    let mut inputs = module.nodes[index].inputs.clone();
    let mut absorbed = vec![index];
    for (place, input) in fused.places.iter_mut().zip(&mut inputs) {
        let HeadPlace::InRows { column } = place else { continue };
        let Some((slice, Op::Slice(op))) = module.produced(*input) else { continue };
        let whole = module.nodes[slice].inputs[0];
        if module.value(*input).shape.len() != 3 || op.axis != 2 {
            continue;
        }
        *column += op.start;
        *input = whole;
        if !absorbed.contains(&slice) {
            absorbed.push(slice);
        }
    }
    // A slice that something else reads as well has to be made anyway.
    let alone = |&slice: &usize| {
        let output = module.nodes[slice].output;
        let read = module.nodes[index].inputs.iter().filter(|&&input| input == output).count();
        module.uses(output) == read
    };
    (absorbed.len() > 1 && absorbed[1..].iter().all(alone)).then_some(())?;
    module.fuse(index, &absorbed, Operation::Attention(fused), inputs);
    Some(())
}

fn rewrite(module: &mut Module, index: usize) -> Option<()> {
    let Operation::Attention(split) = module.nodes[index].operation.clone() else { return None };
    if split.places != [HeadPlace::InRows { column: 0 }; 3] || split.sharing != 1 {
        return None;
    }
    let parts: [Id; 3] = module.nodes[index].inputs[..3].try_into().ok()?;
    let width = split.heads * split.head_size;
    let has_heads_only = |&part: &Id| {
        let shape = &module.value(part).shape;
        shape.len() == 3 && shape.last() == Some(&Dim::Fixed(width))
    };
    parts.iter().all(has_heads_only).then_some(())?;
    let layers = linear_layers(module, parts)?;
    let operation = merged_operation(module, layers)?;
    let inputs = merged_inputs(module, layers)?;
    let places = [0, width, 2 * width].map(|column| HeadPlace::InRows { column });
    let split = HeadSplit { places, ..split };

    let name = format!("{}.qkv", module.nodes[index].name);
    let mut shape = module.value(parts[0]).shape.clone();
    *shape.last_mut()? = Dim::Fixed(3 * width);
    let dtype = module.value(parts[0]).dtype;
    let output = module.add_value(name.clone(), dtype, shape);
    let mask = module.nodes[index].inputs[3..].to_vec();
    module.nodes[index].operation = Operation::Attention(split);
    module.nodes[index].inputs = [vec![output; 3], mask].concat();
    let first = *layers.iter().min()?;
    module.fuse(first, &layers, operation, inputs);
    let merged = &mut module.nodes[first];
    merged.name = name;
    merged.output = output;
    Some(())
}

/// The nodes of three different linear layers with one input, read by nothing else.
fn linear_layers(module: &Module, parts: [Id; 3]) -> Option<[usize; 3]> {
    let mut layers = [0; 3];
    for (layer, part) in layers.iter_mut().zip(parts) {
        *layer = module.producer(part)?;
        let operation = &module.nodes[*layer].operation;
        let is_layer = matches!(operation, Operation::Linear { .. } | Operation::IntegerLinear(_));
        if !is_layer || module.uses(part) != 1 {
            return None;
        }
    }
    let [first, rest @ ..] = layers.map(|layer| &module.nodes[layer]);
    let alike = rest.iter().all(|node| {
        node.inputs[0] == first.inputs[0]
            && node.inputs.len() == first.inputs.len()
            && module.value(node.inputs[1]).shape == module.value(first.inputs[1]).shape
    });
    alike.then_some(layers)
}

fn merged_operation(module: &Module, layers: [usize; 3]) -> Option<Operation> {
    let operations = layers.map(|layer| &module.nodes[layer].operation);
    match operations {
        [Operation::Linear { activation: Activation::Identity }, b, c]
            if operations[0] == b && operations[0] == c =>
        {
            Some(operations[0].clone())
        }
        [Operation::IntegerLinear(a), Operation::IntegerLinear(b), Operation::IntegerLinear(c)] => {
            let plain = |layer: &IntegerLinear| {
                layer.activation == Activation::Identity
                    && layer.output.is_none()
                    && layer.input == a.input
            };
            let scales = [a, b, c].map(|layer| layer.weight_scales.as_slice()).concat();
            let merged = IntegerLinear { weight_scales: scales, ..a.clone() };
            [a, b, c].into_iter().all(plain).then_some(Operation::IntegerLinear(merged))
        }
        _ => None,
    }
}

/// The common input, and weights and biases side by side.
fn merged_inputs(module: &mut Module, layers: [usize; 3]) -> Option<Vec<Id>> {
    let nodes = layers.map(|layer| &module.nodes[layer]);
    let mut inputs = vec![nodes[0].inputs[0]];
    let mut tensors = Vec::new();
    for position in 1..nodes[0].inputs.len() {
        let parts = nodes.map(|node| module.constant(node.inputs[position]));
        let [Some(a), Some(b), Some(c)] = parts else { return None };
        let name = format!("{}+{}", module.value(nodes[0].inputs[position]).name, 2);
        tensors.push((name, side_by_side([a, b, c])?));
    }
    for (name, tensor) in tensors {
        inputs.push(module.add_constant(name, tensor));
    }
    Some(inputs)
}

/// Concatenates along the last dimension.
fn side_by_side(parts: [&Tensor; 3]) -> Option<Tensor> {
    fn join<T: graph::Element>(parts: [&Tensor; 3]) -> Option<Tensor> {
        let columns = *parts[0].shape().last()?;
        let mut shape = parts[0].shape().to_vec();
        *shape.last_mut()? = 3 * columns;
        let slices =
            [parts[0].elements().ok()?, parts[1].elements().ok()?, parts[2].elements().ok()?];
        let mut elements: Vec<T> = Vec::with_capacity(3 * parts[0].len());
        for row in 0..parts[0].len() / columns.max(1) {
            for part in slices {
                elements.extend_from_slice(&part[row * columns..(row + 1) * columns]);
            }
        }
        Tensor::new(&shape, elements).ok()
    }
    join::<f32>(parts).or_else(|| join::<i8>(parts))
}
