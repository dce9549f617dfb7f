//! Convolution or batch normalization, then batch normalization or a factor or summand by channel, all
//! with constants → the first with other constants (Jacob et al. 2018, arXiv:1712.05877, section 3.2).

use graph::op::BatchNorm;
use graph::{Op, Tensor};

use super::repeat;
use crate::module::{Id, Module, Node, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    repeat(module, rewrite)
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let found = || {
        let node = &module.nodes[index];
        let Operation::Graph(op @ (Op::Conv(_) | Op::BatchNorm(_))) = &node.operation else {
            return None;
        };
        let next = module.only_consumer(node.output)?;
        let channels = match op {
            Op::Conv(_) => *module.constant(*node.inputs.get(1)?)?.shape().first()?,
            _ => module.constant(*node.inputs.get(1)?)?.len(),
        };
        let scaling = Scaling::of(module, &module.nodes[next], node.output, channels)?;
        let constants = match op {
            Op::Conv(_) => scaling.after_conv(module, node)?,
            _ => scaling.after_norm(module, node)?,
        };
        Some((next, constants))
    };
    let Some((next, constants)) = found() else { return false };
    let node = &module.nodes[index];
    let (name, operation) = (node.name.clone(), node.operation.clone());
    let mut inputs = node.inputs.clone();
    for (input, what, constant) in constants {
        let id = module.add_constant(format!("{name}/{what}"), constant);
        match inputs.get_mut(input) {
            Some(place) => *place = id,
            None => inputs.push(id),
        }
    }
    module.fuse(next, &[index, next], operation, inputs);
    true
}

/// An input that changes: its place, what it is called, its content.
type Changed = (usize, &'static str, Tensor);

/// `x·factor + summand` by channel.
pub(super) struct Scaling {
    pub(super) factor: Vec<f64>,
    pub(super) summand: Vec<f64>,
}

impl Scaling {
    /// What a node does to `x`, one of its inputs, which has so many channels.
    fn of(module: &Module, node: &Node, x: Id, channels: usize) -> Option<Self> {
        let Operation::Graph(op) = &node.operation else { return None };
        if let Op::BatchNorm(norm) = op {
            let fits = node.inputs.first() == Some(&x);
            return Self::of_norm(module, node, *norm).filter(|_| fits);
        }
        let &[left, right] = node.inputs.as_slice() else { return None };
        let (other, is_left) = if left == x { (right, true) } else { (left, false) };
        let x = module.value(x);
        if x.shape.len() != module.value(node.output).shape.len() {
            return None;
        }
        let numbers = by_channel(module.constant(other)?, x.shape.len())?;
        let numbers = match numbers.elements::<f32>().ok()? {
            [number] => vec![f64::from(*number); channels],
            numbers if numbers.len() == channels => numbers.iter().map(|&x| f64::from(x)).collect(),
            _ => return None,
        };
        let (ones, zeros) = (vec![1.0; channels], vec![0.0; channels]);
        let with = |numbers: &[f64], function: fn(f64) -> f64| {
            numbers.iter().map(|&number| function(number)).collect::<Vec<_>>()
        };
        let (factor, summand) = match op {
            Op::Add => (ones, numbers),
            Op::Sub if is_left => (ones, with(&numbers, |number| -number)),
            Op::Sub => (with(&ones, |one| -one), numbers),
            Op::Mul => (numbers, zeros),
            Op::Div if is_left => (with(&numbers, f64::recip), zeros),
            _ => return None,
        };
        Some(Self { factor, summand })
    }

    /// What a normalization by constants does.
    pub(super) fn of_norm(module: &Module, node: &Node, op: BatchNorm) -> Option<Self> {
        let [_, parameters @ ..] = node.inputs.as_slice() else { return None };
        let parameters = parameters.iter().map(|&id| vector(module, id));
        let parameters = parameters.collect::<Option<Vec<_>>>()?;
        let [scale, bias, mean, variance] = parameters.as_slice() else { return None };
        if parameters.iter().any(|parameter| parameter.len() != scale.len()) {
            return None;
        }
        let deviation = variance.iter().map(|variance| (variance + f64::from(op.epsilon)).sqrt());
        let factor: Vec<f64> = scale.iter().zip(deviation).map(|(scale, d)| scale / d).collect();
        let shifts = bias.iter().zip(mean).zip(&factor);
        let summand = shifts.map(|((bias, mean), factor)| bias - mean * factor).collect();
        Some(Self { factor, summand })
    }

    /// Weight and bias of the one convolution that does what both nodes do.
    fn after_conv(&self, module: &Module, conv: &Node) -> Option<Vec<Changed>> {
        let weight = module.constant(*conv.inputs.get(1)?)?;
        let outputs = self.factor.len();
        let bias = match conv.inputs.get(2) {
            Some(&bias) => vector(module, bias)?,
            None => vec![0.0; outputs],
        };
        if bias.len() != outputs || weight.shape().first() != Some(&outputs) {
            return None;
        }
        let values = weight.elements::<f32>().ok()?;
        let filter = (values.len() / outputs.max(1)).max(1);
        let mut scaled = values.to_vec();
        for (filter, factor) in scaled.chunks_exact_mut(filter).zip(&self.factor) {
            filter.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
        }
        let weight = Tensor::new(weight.shape(), scaled).ok()?;
        Some(vec![(1, "weight", weight), (2, "bias", self.apply(&bias))])
    }

    /// Scale and bias of the one normalization that does what both nodes do.
    fn after_norm(&self, module: &Module, norm: &Node) -> Option<Vec<Changed>> {
        let scale = vector(module, *norm.inputs.get(1)?)?;
        let bias = vector(module, *norm.inputs.get(2)?)?;
        if [scale.len(), bias.len()] != [self.factor.len(); 2] {
            return None;
        }
        let scale = Tensor::from_fn(&[scale.len()], |i| (scale[i] * self.factor[i]) as f32);
        Some(vec![(1, "scale", scale), (2, "bias", self.apply(&bias))])
    }

    /// What becomes of what is added before.
    fn apply(&self, bias: &[f64]) -> Tensor {
        let number = |i: usize| (bias[i] * self.factor[i] + self.summand[i]) as f32;
        Tensor::from_fn(&[bias.len()], number)
    }
}

fn vector(module: &Module, id: Id) -> Option<Vec<f64>> {
    let numbers = module.constant(id)?.elements::<f32>().ok()?;
    Some(numbers.iter().map(|&number| f64::from(number)).collect())
}

/// A constant that is broadcast to images of `rank` dimensions with one number a channel, as `[c]`:
/// it is `[c, 1, …]` or `[1, c, 1, …]`, or a single number.
pub(super) fn by_channel(tensor: &Tensor, rank: usize) -> Option<Tensor> {
    let channels = match tensor.shape() {
        shape if shape.iter().all(|&size| size == 1) && shape.len() <= rank => 1,
        [1, channels, spatial @ ..] | [channels, spatial @ ..]
            if spatial.len() + 2 == rank && spatial.iter().all(|&size| size == 1) =>
        {
            *channels
        }
        _ => return None,
    };
    Tensor::new(&[channels], tensor.elements::<f32>().ok()?.to_vec()).ok()
}
