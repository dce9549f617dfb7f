//! Which kernels compute the values that a call asks for, in which order.
//!
//! The nodes that are not needed are left out, patterns that one kernel does faster are folded
//! into it unless a value inside them is asked for, values whose inputs are known on the host are
//! computed there, and the places for dropout are marked.

use std::collections::{BTreeMap, BTreeSet};

use graph::op::{Dequantize, Quantize};
use graph::{DType, Graph, Node, NodeId, Op, ValueId};
use kernels::Products;

use crate::error::{Error, Result};

/// One step of a walk.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    pub(crate) kernel: Kernel,
    pub(crate) inputs: Vec<ValueId>,
    pub(crate) output: ValueId,
    /// Number of this place among those that drop hidden values.
    pub(crate) dropout: Option<u64>,
    /// Values that no later step reads.
    pub(crate) release: Vec<ValueId>,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kernel {
    /// The reference evaluation, on the host: masks, positions, constants.
    Host(Op),
    /// One operator, on the device.
    Device(Op),
    /// `x·weight + bias`: `(x, weight, bias)`.
    Linear,
    /// Multi-head attention: `(query, key, value)` or `(query, key, value, bias)`.
    Attention(Attention),
    /// Quantize followed by dequantize: `(x)`.
    FakeQuantize(FakeQuantize),
    /// A folded weight's real values: `(x)`, 8-bit.
    Constant(FakeQuantize),
}

/// Sizes of an attention.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attention {
    pub(crate) heads: usize,
    /// Factor on the scores.
    pub(crate) scale: f32,
    /// How exact the products have to be: as the runtime has it, with which a quantized model has to
    /// agree.
    pub(crate) products: Products,
}

/// One quantization of a real value.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct FakeQuantize {
    /// Dimension that has one scale an entry; `None` for one scale in all.
    pub(crate) axis: Option<usize>,
    /// Name of the scale.
    pub(crate) scale: String,
    /// Name of the weight that is quantized; `None` for a computed value.
    pub(crate) weight: Option<String>,
    /// Zero point of each scale.
    pub(crate) zero_points: Vec<f32>,
    /// Least and greatest 8-bit value.
    pub(crate) range: (f32, f32),
}

impl FakeQuantize {
    /// Whether 0 stands for 0 in every channel.
    pub(crate) fn is_symmetric(&self) -> bool {
        self.zero_points.iter().all(|&zero_point| zero_point == 0.0)
    }
}

/// The steps of one call.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) instructions: Vec<Instruction>,
}

impl Plan {
    /// The steps that compute `taps`.
    ///
    /// # Errors
    ///
    /// When a quantized value is read by something else than a dequantize, or a scale is computed.
    pub(crate) fn new(graph: &Graph, taps: &[ValueId]) -> Result<Self> {
        let mut planner = Planner::new(graph, taps);
        planner.fuse()?;
        planner.emit()
    }
}

struct Planner<'a> {
    graph: &'a Graph,
    taps: BTreeSet<ValueId>,
    needed: BTreeSet<NodeId>,
    /// Readers of each value, taps included.
    uses: BTreeMap<ValueId, usize>,
    host: BTreeSet<ValueId>,
    /// Nodes that a kernel of a later node covers.
    absorbed: BTreeSet<NodeId>,
    kernels: BTreeMap<NodeId, (Kernel, Vec<ValueId>)>,
}

impl<'a> Planner<'a> {
    fn new(graph: &'a Graph, taps: &[ValueId]) -> Self {
        let mut needed = BTreeSet::new();
        let mut open = taps.to_vec();
        while let Some(value) = open.pop() {
            if let Some(id) = graph.producer_id(value)
                && needed.insert(id)
            {
                open.extend(&graph.node(id).inputs);
            }
        }
        let taps: BTreeSet<ValueId> = taps.iter().copied().collect();
        let mut uses: BTreeMap<ValueId, usize> = taps.iter().map(|&tap| (tap, 1)).collect();
        for &id in &needed {
            for &input in &graph.node(id).inputs {
                *uses.entry(input).or_default() += 1;
            }
        }
        let host = host_values(graph);
        let (absorbed, kernels) = Default::default();
        Self { graph, taps, needed, uses, host, absorbed, kernels }
    }

    /// The needed nodes in order.
    fn nodes(&self) -> Vec<(NodeId, &'a Node)> {
        self.graph.nodes().filter(|(id, _)| self.needed.contains(id)).collect()
    }

    /// The node that writes `value`, when nothing but one reader needs the value.
    fn inner(&self, value: ValueId) -> Option<(NodeId, &'a Node)> {
        let id = self.graph.producer_id(value)?;
        (self.uses.get(&value) == Some(&1) && !self.taps.contains(&value))
            .then(|| (id, self.graph.node(id)))
    }

    fn fuse(&mut self) -> Result<()> {
        for (id, node) in self.nodes().into_iter().rev() {
            if self.absorbed.contains(&id) || self.host.contains(&node.output) {
                continue;
            }
            if let Some((kernel, inputs, inside)) = self.matched(node)? {
                self.kernels.insert(id, (kernel, inputs));
                self.absorbed.extend(inside);
            }
        }
        Ok(())
    }

    /// The kernel that computes `node` and the nodes it covers besides.
    #[allow(clippy::type_complexity, reason = "a pattern's kernel, inputs and covered nodes")]
    fn matched(&self, node: &Node) -> Result<Option<(Kernel, Vec<ValueId>, Vec<NodeId>)>> {
        Ok(match &node.op {
            Op::Add => self.linear(node),
            Op::Reshape(_) => self.attention(node),
            Op::Dequantize(op) => Some(self.dequantize(node, *op)?),
            Op::Quantize(_) => {
                let reason = "a quantized value can only be trained through when nothing but a \
                              dequantize reads it"
                    .to_owned();
                return Err(node_error(node, reason));
            }
            _ => None,
        })
    }

    fn linear(&self, node: &Node) -> Option<(Kernel, Vec<ValueId>, Vec<NodeId>)> {
        let rank = |value: ValueId| self.graph.value_type(value).shape.len();
        [(0, 1), (1, 0)].into_iter().find_map(|(product, bias)| {
            let (id, product) = self.inner(node.inputs[product])?;
            let bias = node.inputs[bias];
            let [x, weight] = product.inputs[..] else { return None };
            let width = self.graph.value_type(weight).shape.last()?;
            let fits = product.op == Op::MatMul
                && rank(weight) == 2
                && rank(x) >= 2
                && self.graph.value_type(bias).shape == [width.clone()]
                && self.graph.weight(bias).is_some();
            fits.then(|| (Kernel::Linear, vec![x, weight, bias], vec![id]))
        })
    }

    /// `value` through a reshape to heads and a transpose to `order`: the value before both, and
    /// the number of heads.
    fn heads(
        &self,
        value: ValueId,
        order: [usize; 4],
        inside: &mut Vec<NodeId>,
    ) -> Option<(ValueId, usize)> {
        let (transpose_id, transpose) = self.inner(value)?;
        let (reshape_id, reshape) = self.inner(transpose.inputs[0])?;
        let (Op::Transpose(found), Op::Reshape(_)) = (&transpose.op, &reshape.op) else {
            return None;
        };
        let source = reshape.inputs[0];
        let [_, _, heads, _] = &self.graph.value_type(reshape.output).shape[..] else {
            return None;
        };
        let kept = self.graph.value_type(source).shape[..2]
            == self.graph.value_type(reshape.output).shape[..2];
        if found.permutation != order || !kept || self.graph.value_type(source).shape.len() != 3 {
            return None;
        }
        inside.extend([transpose_id, reshape_id]);
        Some((source, heads.fixed()?))
    }

    /// The scores without their mask, with it; the mask must be known on the host.
    fn masked(
        &self,
        scores: ValueId,
        inside: &mut Vec<NodeId>,
    ) -> Option<(ValueId, Option<ValueId>)> {
        let (id, node) = self.inner(scores)?;
        if node.op != Op::Add {
            return Some((scores, None));
        }
        let [a, b] = node.inputs[..] else { return None };
        let (scores, mask) = if self.host.contains(&b) { (a, b) } else { (b, a) };
        if !self.host.contains(&mask) || self.graph.value_type(mask).shape.len() != 4 {
            return None;
        }
        inside.push(id);
        Some((scores, Some(mask)))
    }

    /// The product of query and key, and the factor on it.
    fn scaled(&self, scores: ValueId, inside: &mut Vec<NodeId>) -> Option<(ValueId, f32)> {
        let (id, node) = self.inner(scores)?;
        let constant = |value: ValueId| {
            let tensor = self.graph.weight(value).filter(|tensor| tensor.shape().is_empty())?;
            tensor.elements::<f32>().ok()?.first().copied()
        };
        let (product, factor) = match (&node.op, &node.inputs[..]) {
            (Op::MatMul, _) => return Some((scores, 1.0)),
            (Op::Mul, &[a, b]) => match (constant(b), constant(a)) {
                (Some(factor), _) => (a, factor),
                (None, factor) => (b, factor?),
            },
            (Op::Div, &[a, b]) => (a, 1.0 / constant(b)?),
            _ => return None,
        };
        inside.push(id);
        Some((product, factor))
    }

    fn attention(&self, node: &Node) -> Option<(Kernel, Vec<ValueId>, Vec<NodeId>)> {
        let mut inside = Vec::new();
        let (order_id, order) = self.inner(node.inputs[0])?;
        let Op::Transpose(transpose) = &order.op else { return None };
        let merged = &self.graph.value_type(node.output).shape;
        if transpose.permutation != [0, 2, 1, 3] || merged.len() != 3 {
            return None;
        }
        let (context_id, context) = self.inner(order.inputs[0])?;
        let (softmax_id, softmax) = self.inner(*context.inputs.first()?)?;
        if context.op != Op::MatMul || !matches!(softmax.op, Op::Softmax(_)) {
            return None;
        }
        inside.extend([order_id, context_id, softmax_id]);
        let (scores, mask) = self.masked(softmax.inputs[0], &mut inside)?;
        let (product, scale) = self.scaled(scores, &mut inside)?;
        let (product_id, product) = self.inner(product)?;
        if product.op != Op::MatMul {
            return None;
        }
        inside.push(product_id);
        let (query, heads) = self.heads(product.inputs[0], [0, 2, 1, 3], &mut inside)?;
        let (key, key_heads) = self.heads(product.inputs[1], [0, 2, 3, 1], &mut inside)?;
        let (value, value_heads) = self.heads(context.inputs[1], [0, 2, 1, 3], &mut inside)?;
        let shape = |value: ValueId| &self.graph.value_type(value).shape;
        let alike = shape(query) == shape(key) && shape(key) == shape(value);
        if key_heads != heads || value_heads != heads || !alike || shape(query) != merged {
            return None;
        }
        let inputs = [query, key, value].into_iter().chain(mask).collect();
        let is_rounded = matches!(self.graph.consumers(node.output)[..], [reader]
            if matches!(self.graph.node(reader).op, Op::Quantize(_)));
        let products = if is_rounded { Products::Split } else { Products::F32 };
        Some((Kernel::Attention(Attention { heads, scale, products }), inputs, inside))
    }

    fn dequantize(
        &self,
        node: &Node,
        op: Dequantize,
    ) -> Result<(Kernel, Vec<ValueId>, Vec<NodeId>)> {
        let [x, scale, zero_point] = node.inputs[..] else {
            return Err(node_error(node, "expected 3 inputs".to_owned()));
        };
        let zeros = self.graph.weight(zero_point).ok_or_else(|| {
            node_error(node, "expected a constant zero point, found a computed one".to_owned())
        })?;
        if self.graph.weight(scale).is_none() {
            let reason = "expected a constant scale, found a computed one".to_owned();
            return Err(node_error(node, reason));
        }
        let mut quantization = FakeQuantize {
            axis: op.axis,
            scale: self.graph.value_name(scale).to_owned(),
            weight: None,
            zero_points: integers(zeros),
            range: if zeros.dtype() == DType::U8 { (0.0, 255.0) } else { (-128.0, 127.0) },
        };
        if self.graph.weight(x).is_some() {
            return Ok((Kernel::Constant(quantization), vec![x], vec![]));
        }
        let quantize = self.graph.producer(x).filter(|quantize| {
            quantize.op == Op::Quantize(Quantize { axis: op.axis })
                && quantize.inputs[1..] == node.inputs[1..]
        });
        let quantize = quantize.ok_or_else(|| {
            node_error(node, "expected a quantize with the same scale before it".to_owned())
        })?;
        let source = quantize.inputs[0];
        if self.graph.weight(source).is_some() {
            quantization.weight = Some(self.graph.value_name(source).to_owned());
        }
        // Several dequantizes may read one quantize; it is covered when only they do.
        let covered = !self.taps.contains(&x)
            && self.graph.consumers(x).iter().all(|id| {
                let reader = self.graph.node(*id);
                matches!(reader.op, Op::Dequantize(_)) || !self.needed.contains(id)
            });
        let id = self.graph.producer_id(x).expect("the quantize found above");
        let inside = if covered { vec![id] } else { vec![] };
        Ok((Kernel::FakeQuantize(quantization), vec![source], inside))
    }

    fn emit(self) -> Result<Plan> {
        let mut instructions = Vec::new();
        for (id, node) in self.nodes() {
            if self.absorbed.contains(&id) {
                continue;
            }
            let (kernel, inputs) = match self.kernels.get(&id) {
                Some((kernel, inputs)) => (kernel.clone(), inputs.clone()),
                None if self.host.contains(&node.output) => {
                    (Kernel::Host(node.op.clone()), node.inputs.clone())
                }
                None => (Kernel::Device(node.op.clone()), node.inputs.clone()),
            };
            let (output, dropout, release) = (node.output, None, Vec::new());
            instructions.push(Instruction { kernel, inputs, output, dropout, release });
        }
        self.mark_dropout(&mut instructions);
        self.mark_releases(&mut instructions);
        Ok(Plan { instructions })
    }

    /// Dropout goes where encoders have it (Vaswani et al. 2017, §5.4; Devlin et al. 2018): on a
    /// linear layer's output that is added to another computed value, on the normalized sum of
    /// embeddings, and on what the layer that gives an output reads.
    fn mark_dropout(&self, instructions: &mut [Instruction]) {
        let by_output: BTreeMap<ValueId, usize> =
            instructions.iter().enumerate().map(|(index, step)| (step.output, index)).collect();
        let is_embedding = |value: ValueId| {
            let producer = by_output.get(&value).map(|&index| &instructions[index].kernel);
            matches!(producer, Some(Kernel::Device(Op::Gather(_))))
        };
        let mut places = BTreeSet::new();
        for (index, step) in instructions.iter().enumerate() {
            match &step.kernel {
                Kernel::Device(Op::Add) => {
                    for (one, other) in [(0, 1), (1, 0)] {
                        let (one, other) = (step.inputs[one], step.inputs[other]);
                        let linear = by_output
                            .get(&one)
                            .filter(|&&index| instructions[index].kernel == Kernel::Linear);
                        if let Some(&linear) = linear
                            && self.uses.get(&one) == Some(&1)
                            && by_output.contains_key(&other)
                        {
                            places.insert(linear);
                        }
                    }
                }
                Kernel::Device(Op::LayerNorm(_)) => {
                    let sum = by_output.get(&step.inputs[0]).map(|&index| &instructions[index]);
                    let embeds = sum.is_some_and(|sum| {
                        sum.kernel == Kernel::Device(Op::Add)
                            && sum.inputs.iter().any(|&input| is_embedding(input))
                    });
                    if embeds {
                        places.insert(index);
                    }
                }
                Kernel::Linear if self.graph.outputs().contains(&step.output) => {
                    // Before a quantization, which has to stay next to what it quantizes for.
                    let read = by_output.get(&step.inputs[0]).copied();
                    places.extend(read.and_then(|index| match &instructions[index] {
                        Instruction { kernel: Kernel::FakeQuantize(_), inputs, .. } => {
                            by_output.get(&inputs[0]).copied()
                        }
                        _ => Some(index),
                    }));
                }
                _ => {}
            }
        }
        for (number, index) in places.into_iter().enumerate() {
            instructions[index].dropout = Some(number as u64);
        }
    }

    fn mark_releases(&self, instructions: &mut [Instruction]) {
        let mut last = BTreeMap::new();
        for (index, step) in instructions.iter().enumerate() {
            for &input in &step.inputs {
                last.insert(input, index);
            }
        }
        for (value, index) in last {
            if !self.taps.contains(&value) {
                instructions[index].release.push(value);
            }
        }
    }
}

/// Values that are known without the device: integer inputs, constant scalars, integer weights,
/// and what is computed of these alone.
fn host_values(graph: &Graph) -> BTreeSet<ValueId> {
    let inputs = graph.inputs().iter().copied();
    let mut host: BTreeSet<ValueId> =
        inputs.filter(|&id| graph.value_type(id).dtype != DType::F32).collect();
    let constant =
        |tensor: &graph::Tensor| tensor.dtype() != DType::F32 || tensor.shape().is_empty();
    host.extend(graph.weights().filter(|(_, tensor)| constant(tensor)).map(|(id, _)| id));
    for (_, node) in graph.nodes() {
        if node.inputs.iter().all(|input| host.contains(input)) {
            host.insert(node.output);
        }
    }
    host
}

pub(crate) fn node_error(node: &Node, reason: String) -> Error {
    Error::Node { node: node.name.clone(), op: node.op.operator().onnx_type(), reason }
}

/// 8-bit elements as floats.
pub(crate) fn integers(tensor: &graph::Tensor) -> Vec<f32> {
    match (tensor.elements::<i8>(), tensor.elements::<u8>()) {
        (Ok(values), _) => values.iter().map(|&value| f32::from(value)).collect(),
        (_, Ok(values)) => values.iter().map(|&value| f32::from(value)).collect(),
        _ => Vec::new(),
    }
}
