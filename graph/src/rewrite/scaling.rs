//! Factors and summands by channel, which filters and norms before them can take in (Jacob et al. 2018,
//! arXiv:1712.05877, section 3.2).

use super::{RewriteError, unused};
use crate::op::BatchNorm;
use crate::{Graph, NodeId, Op, Tensor, ValueId};

/// `x · factor + summand`, one of each a channel.
#[derive(Clone, Debug, PartialEq)]
pub struct Scaling {
    /// What channels are multiplied by.
    pub factor: Vec<f64>,
    /// What is added then.
    pub summand: Vec<f64>,
}

impl Scaling {
    /// What `op` does to images of `rank` dimensions and so many channels, its input at `position`, with
    /// other inputs that are `constants`; `None` where that is no scaling.
    pub fn of(
        op: &Op,
        constants: &[Option<&Tensor>],
        position: usize,
        [rank, channels]: [usize; 2],
    ) -> Option<Self> {
        if let Op::BatchNorm(norm) = op {
            return Self::of_norm(*norm, constants.get(1..)?).filter(|_| position == 0);
        }
        let numbers = by_channel((*constants.get(1 - position.min(1))?)?, rank)?;
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
            Op::Sub if position == 0 => (ones, with(&numbers, |number| -number)),
            Op::Sub => (with(&ones, |one| -one), numbers),
            Op::Mul => (numbers, zeros),
            Op::Div if position == 0 => (with(&numbers, f64::recip), zeros),
            _ => return None,
        };
        Some(Self { factor, summand })
    }

    /// What a normalization does, whose `parameters` are constants: scale, bias, mean, variance.
    pub fn of_norm(op: BatchNorm, parameters: &[Option<&Tensor>]) -> Option<Self> {
        let parameters = parameters.iter().map(|parameter| vector((*parameter)?));
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

    /// Filters `[channels, …]` and bias `[channels]` of the convolution that scales its results too.
    pub fn after_filters(&self, filters: &Tensor, bias: Option<&Tensor>) -> Option<[Tensor; 2]> {
        let outputs = self.factor.len();
        let bias = bias.map_or_else(|| Some(vec![0.0; outputs]), vector)?;
        if bias.len() != outputs || filters.shape().first() != Some(&outputs) {
            return None;
        }
        let values = filters.elements::<f32>().ok()?;
        let filter = (values.len() / outputs.max(1)).max(1);
        let mut scaled = values.to_vec();
        for (filter, factor) in scaled.chunks_exact_mut(filter).zip(&self.factor) {
            filter.iter_mut().for_each(|weight| *weight = (f64::from(*weight) * factor) as f32);
        }
        Some([Tensor::new(filters.shape(), scaled).ok()?, self.apply(&bias)])
    }

    /// Scale and bias `[channels]` of the normalization that scales its results too.
    pub fn after_norm(&self, scale: &Tensor, bias: &Tensor) -> Option<[Tensor; 2]> {
        let (scale, bias) = (vector(scale)?, vector(bias)?);
        if [scale.len(), bias.len()] != [self.factor.len(); 2] {
            return None;
        }
        let scale = Tensor::from_fn(&[scale.len()], |i| (scale[i] * self.factor[i]) as f32);
        Some([scale, self.apply(&bias)])
    }

    /// What becomes of what is added before.
    fn apply(&self, bias: &[f64]) -> Tensor {
        let number = |i: usize| (bias[i] * self.factor[i] + self.summand[i]) as f32;
        Tensor::from_fn(&[bias.len()], number)
    }
}

fn vector(tensor: &Tensor) -> Option<Vec<f64>> {
    Some(tensor.elements::<f32>().ok()?.iter().map(|&number| f64::from(number)).collect())
}

/// A constant that is broadcast to images of `rank` dimensions with one number a channel, as `[c]`:
/// it is `[c, 1, …]` or `[1, c, 1, …]`, or a single number.
pub fn by_channel(tensor: &Tensor, rank: usize) -> Option<Tensor> {
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

/// Makes convolutions with constant filters take in what alone reads them and scales by channel.
///
/// # Errors
///
/// When the graph is not consistent.
pub fn fold_scalings(graph: &mut Graph) -> Result<(), RewriteError> {
    let mut edited = graph.clone();
    loop {
        let found = edited.nodes().find_map(|(id, _)| found(&edited, id));
        let Some((conv, next, constants)) = found else { break };
        let node = edited.node(conv).clone();
        let mut inputs = vec![node.inputs[0]];
        for (place, (constant, what)) in constants.into_iter().zip(["weight", "bias"]).enumerate() {
            let own = node.inputs.get(1 + place).copied();
            let is_own =
                |&id: &ValueId| edited.consumers(id).len() == 1 && !edited.outputs().contains(&id);
            inputs.push(match own.filter(is_own) {
                Some(id) => {
                    edited.set_weight(id, constant);
                    id
                }
                None => {
                    let name = unused(&edited, &format!("{}.scaled-{what}", node.name));
                    edited.add_weight(&name, constant)?
                }
            });
        }
        edited.set_node_inputs(conv, inputs);
        let scaled = edited.node(next).output;
        edited.replace_uses(scaled, node.output);
        edited.refresh()?;
    }
    *graph = edited;
    Ok(())
}

/// The node that scales what a convolution writes, and filters and bias with that in them.
fn found(graph: &Graph, conv: NodeId) -> Option<(NodeId, NodeId, [Tensor; 2])> {
    let node = graph.node(conv);
    let (Op::Conv(_), [_, filters, bias @ ..]) = (&node.op, node.inputs.as_slice()) else {
        return None;
    };
    let [next] = graph.consumers(node.output)[..] else { return None };
    let following = graph.node(next);
    let shape = |id| &graph.value_type(id).shape;
    // Outputs keep their names.
    let is_output = [node.output, following.output].iter().any(|id| graph.outputs().contains(id));
    if is_output || shape(following.output).len() != shape(node.output).len() {
        return None;
    }
    let constants: Vec<_> = following.inputs.iter().map(|&id| graph.weight(id)).collect();
    let position = following.inputs.iter().position(|&id| id == node.output)?;
    let filters = graph.weight(*filters)?;
    let sizes = [shape(node.output).len(), *filters.shape().first()?];
    let scaling = Scaling::of(&following.op, &constants, position, sizes)?;
    let bias = match bias.first() {
        Some(&bias) => Some(graph.weight(bias)?),
        None => None,
    };
    Some((conv, next, scaling.after_filters(filters, bias)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Conv, Padding, Window};
    use crate::{DType, dim, reference};

    fn weight(graph: &mut Graph, name: &str, shape: &[usize], add: f32) -> crate::ValueId {
        let tensor = Tensor::from_fn(shape, |i| add + (i * 7 % 11) as f32 * 0.1);
        graph.add_weight(name, tensor).unwrap()
    }

    fn conv() -> Op {
        let padding = Padding::Explicit { before: vec![1, 1], after: vec![1, 1] };
        let (kernel, ones) = (vec![3, 3], vec![1, 1]);
        let window = Window { kernel, strides: ones.clone(), dilations: ones, padding };
        Op::Conv(Conv { window, groups: 1 })
    }

    /// A convolution, its norm, a factor, a summand that stands left, and a second convolution with the same
    /// filters, which may not change.
    #[test]
    fn filters_take_in_norms_factors_and_summands() {
        let mut graph = Graph::new("norms");
        let x = graph.add_input("x", DType::F32, dim::fixed(&[1, 2, 5, 5])).unwrap();
        let filters = weight(&mut graph, "filters", &[2, 2, 3, 3], -0.5);
        let first = graph.add_node("first", conv(), &[x, filters]).unwrap();
        let parameters = ["scale", "shift", "mean", "variance"];
        let parameters = parameters.map(|name| weight(&mut graph, name, &[2], 0.4));
        let norm = Op::BatchNorm(BatchNorm { epsilon: 1e-5 });
        let inputs = [&[first], &parameters[..]].concat();
        let normed = graph.add_node("normed", norm, &inputs).unwrap();
        let factor = weight(&mut graph, "factor", &[1, 2, 1, 1], 1.5);
        let scaled = graph.add_node("scaled", Op::Mul, &[normed, factor]).unwrap();
        let summand = weight(&mut graph, "summand", &[2, 1, 1], 3.0);
        let summed = graph.add_node("summed", Op::Sub, &[summand, scaled]).unwrap();
        let rectified = graph.add_node("rectified", Op::Relu, &[summed]).unwrap();
        let y = graph.add_node("y", conv(), &[rectified, filters]).unwrap();
        graph.set_outputs(&[y]);

        let mut folded = graph.clone();
        fold_scalings(&mut folded).unwrap();
        let names: Vec<&str> = folded.nodes().map(|(_, node)| node.name.as_str()).collect();
        assert_eq!(names, ["first", "rectified", "y"]);
        let input = Tensor::from_fn(&[1, 2, 5, 5], |i| (i * 13 % 17) as f32 * 0.2 - 1.5);
        let answer = |graph: &Graph| {
            let outputs = reference::evaluate(graph, &[("x", input.clone())]).unwrap();
            outputs[0].elements::<f32>().unwrap().to_vec()
        };
        for (expected, found) in answer(&graph).iter().zip(answer(&folded)) {
            assert!(
                (expected - found).abs() < 1e-4 * expected.abs().max(1.0),
                "{expected} {found}"
            );
        }
    }
}
