//! Convolution, then batch normalization, all with constants → convolution with other constants
//! (Jacob et al. 2018, arXiv:1712.05877, section 3.2).

use graph::op::BatchNorm;
use graph::{Op, Tensor};

use super::repeat;
use crate::module::{Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let node = &module.nodes[index];
    let Operation::Graph(Op::Conv(_)) = &node.operation else { return false };
    let Some(next) = module.only_consumer(node.output) else { return false };
    let Operation::Graph(Op::BatchNorm(norm)) = module.nodes[next].operation else { return false };
    if module.nodes[next].inputs.first() != Some(&node.output) {
        return false;
    }
    let Some([weight, bias]) = folded(module, node, &module.nodes[next], norm) else {
        return false;
    };
    let (x, name, operation) = (node.inputs[0], node.name.clone(), node.operation.clone());
    let weight = module.add_constant(format!("{name}/weight"), weight);
    let bias = module.add_constant(format!("{name}/bias"), bias);
    module.fuse(next, &[index, next], operation, vec![x, weight, bias]);
    true
}

/// Weight and bias of the one convolution that does what both nodes do.
fn folded(module: &Module, conv: &Node, norm: &Node, op: BatchNorm) -> Option<[Tensor; 2]> {
    let constant = |id: &crate::module::Id| module.constant(*id);
    let (weight, bias) = (constant(conv.inputs.get(1)?)?, conv.inputs.get(2).map(constant));
    let &outputs = weight.shape().first()?;
    let vector = |tensor: &Tensor| -> Option<Vec<f64>> {
        let numbers = tensor.elements::<f32>().ok()?.iter().map(|&number| f64::from(number));
        Some(numbers.collect()).filter(|numbers: &Vec<f64>| numbers.len() == outputs)
    };
    let bias = match bias {
        Some(bias) => vector(bias?)?,
        None => vec![0.0; outputs],
    };
    let [_, parameters @ ..] = norm.inputs.as_slice() else { return None };
    let parameters = parameters.iter().map(|id| vector(constant(id)?));
    let parameters = parameters.collect::<Option<Vec<_>>>()?;
    let [scale, shift, mean, variance] = parameters.as_slice() else { return None };
    let factor = |output: usize| scale[output] / (variance[output] + f64::from(op.epsilon)).sqrt();
    let values = weight.elements::<f32>().ok()?;
    let filter = values.len() / outputs.max(1);
    let weight = Tensor::from_fn(weight.shape(), |index| {
        (f64::from(values[index]) * factor(index / filter)) as f32
    });
    let bias = Tensor::from_fn(&[outputs], |output| {
        ((bias[output] - mean[output]) * factor(output) + shift[output]) as f32
    });
    Some([weight, bias])
}
