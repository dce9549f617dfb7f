//! Quantization as quantize/dequantize pairs: inserted, folded into integers, reverted.
//!
//! Everything is 8-bit. Activations have one scale, matrices one an output column, filters one an
//! output channel, word tables one a row. Zero points are 0, but for images: they are unsigned, with
//! a range of their own, since most of them have no numbers below 0. A pair stands between the float
//! value and what reads it; [`fold`] replaces the pairs of weights by their integers.

mod images;

use std::collections::BTreeMap;

use super::{RewriteError, floats, unused};
use crate::op::{Dequantize, Quantize};
use crate::structure::{Convolution, Linear, convolutions, float_source, linears, word_embedding};
use crate::{DType, Graph, NodeId, Op, Tensor, ValueId};

/// Greatest magnitude that scales are made for. What lies below saturates at −128, which a weight
/// reaches only where its scale was learned.
pub const LEVELS: f32 = 127.0;

/// Steps from the least to the greatest number of 8 bits without a sign.
const UNSIGNED_STEPS: f32 = 255.0;

/// What [`insert`] quantizes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuantizeOptions {
    /// Names of linear layers and convolutions that stay float.
    pub float: Vec<String>,
    /// Whether the word embedding table is quantized.
    pub embeddings: bool,
}

/// What a pair quantizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PointKind {
    /// A value computed when the graph runs; its scale comes from calibration or training.
    Activation,
    /// A constant; its scales follow from it.
    Weight,
}

/// One quantize/dequantize pair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuantizePoint {
    /// What is quantized.
    pub kind: PointKind,
    /// Names of the layers (linear, convolutions, or the embedding) that read the pair, in order.
    pub readers: Vec<String>,
    /// The float value; the integers once folded.
    pub input: ValueId,
    /// The quantize node; `None` once folded.
    pub quantize: Option<NodeId>,
    /// The dequantize node.
    pub dequantize: NodeId,
    /// The scale, a weight: `f32[]`, or `f32[channels]` along `axis`.
    pub scale: ValueId,
    /// The zero point, a weight of the scale's shape: `i8`, 0, or `u8` where the range is free.
    pub zero_point: ValueId,
    /// Dimension of the input that has a scale an entry.
    pub axis: Option<usize>,
}

/// Inserts a pair before each input and each weight of the linear layers and convolutions, and behind
/// the word table. What reads the same value shares its pair. Images keep to integers between
/// convolutions: sums of them, their greatest elements and what only moves read and write pairs too.
/// Scales of activations are 1 until they are set: [`set_activation_scale`],
/// [`set_activation_range`]. What is quantized already stays.
///
/// New names: `LINEAR.input.scale` with the first reader's name, `VALUE.scale` for images,
/// `WEIGHT.scale`; beside each `.zero_point`, `.quantized` and `.dequantized`.
///
/// Gives the names of scales of images between which integers are only moved, those together. With the
/// same range, they need not be rounded anew.
///
/// # Errors
///
/// When a name in `options` is no layer's, or a weight has no finite scale.
pub fn insert(
    graph: &mut Graph,
    options: &QuantizeOptions,
) -> Result<Vec<Vec<String>>, RewriteError> {
    let (linears, convolutions) = (linears(graph), convolutions(graph));
    for name in &options.float {
        let convolutions = convolutions.iter().map(|convolution| convolution.name.as_str());
        let names = linears.iter().map(|linear| linear.name.as_str()).chain(convolutions);
        check_name("linear layer or convolution", name, names)?;
    }
    let mut insertion = Insertion { graph: graph.clone(), pairs: existing_pairs(graph) };
    let wanted = |convolution: &&Convolution| !options.float.contains(&convolution.name);
    let moved = insertion.images(&convolutions.iter().filter(wanted).collect::<Vec<_>>())?;
    for linear in linears.iter().filter(|linear| !options.float.contains(&linear.name)) {
        insertion.linear(linear)?;
    }
    if options.embeddings {
        let embedding = word_embedding(graph)?;
        insertion.weight(embedding.lookup, 0, embedding.table, 0)?;
    }
    let mut edited = insertion.graph;
    edited.refresh()?;
    *graph = edited;
    Ok(moved)
}

/// Replaces the quantization of constants by its result: integers take the place of the float
/// weight, under its name. Outputs stay the same bit for bit.
///
/// # Errors
///
/// When an operator fails on its constants.
pub fn fold(graph: &mut Graph) -> Result<(), RewriteError> {
    let mut edited = graph.clone();
    for (_, node) in graph.nodes().filter(|(_, node)| matches!(node.op, Op::Quantize(_))) {
        let constants: Option<Vec<&Tensor>> =
            node.inputs.iter().map(|&input| graph.weight(input)).collect();
        let Some(constants) = constants else { continue };
        let integers = node.op.operator().evaluate(&constants, &crate::Bindings::default());
        let integers =
            integers.map_err(|reason| crate::model::node_error(&node.name, &node.op, reason))?;
        let source = node.inputs[0];
        if graph.consumers(source).len() == 1 && !graph.outputs().contains(&source) {
            edited.set_weight(source, integers);
            edited.replace_uses(node.output, source);
        } else {
            let name = format!("{}.integers", node.name);
            let folded = edited.add_weight(&name, integers)?;
            edited.replace_uses(node.output, folded);
        }
    }
    edited.refresh()?;
    *graph = edited;
    Ok(())
}

/// Gives a linear layer (or the embedding of this name) back to float: it reads its input and
/// weight without their pairs. Pairs that others read stay.
///
/// # Errors
///
/// When there is no such layer, or [`fold`] has dropped its float weight.
pub fn revert(graph: &mut Graph, name: &str) -> Result<(), RewriteError> {
    let linears = linears(graph);
    let embedding = word_embedding(graph).ok();
    let mut sources = Vec::new();
    if let Some(linear) = linears.iter().find(|linear| linear.name == name) {
        sources.extend([(linear.product, 0, linear.input), (linear.product, 1, linear.weight)]);
    } else if let Some(embedding) = embedding.iter().find(|embedding| embedding.name == name) {
        sources.push((embedding.lookup, 0, embedding.table));
    } else {
        let names = linears.iter().map(|linear| linear.name.as_str());
        check_name(
            "linear layer",
            name,
            names.chain(embedding.iter().map(|embedding| embedding.name.as_str())),
        )?;
    }
    let mut edited = graph.clone();
    for (node, position, source) in sources {
        if graph.weight(source).is_some_and(|tensor| tensor.elements::<f32>().is_err()) {
            return Err(RewriteError::Quantized {
                what: "revert",
                node: graph.node(node).name.clone(),
                instead: "revert before folding, which drops the float weights",
            });
        }
        edited.set_node_input(node, position, source);
    }
    edited.refresh()?;
    *graph = edited;
    Ok(())
}

/// The pairs of a graph, in order of their dequantize nodes; folded weights included.
pub fn points(graph: &Graph) -> Vec<QuantizePoint> {
    let (linears, convolutions) = (linears(graph), convolutions(graph));
    let embedding = word_embedding(graph).ok();
    let layers = linears.iter().map(|linear| (linear.product, &linear.name));
    let layers = layers.chain(convolutions.iter().map(|found| (found.node, &found.name)));
    let layers = embedding.iter().map(|found| (found.lookup, &found.name)).chain(layers);
    let layers: Vec<(NodeId, &String)> = layers.collect();
    graph
        .nodes()
        .filter_map(|(dequantize, node)| {
            let Op::Dequantize(op) = node.op else { return None };
            let input = float_source(graph, node.output);
            let constant = graph.weight(input).is_some();
            Some(QuantizePoint {
                kind: if constant { PointKind::Weight } else { PointKind::Activation },
                readers: reader_names(graph, node.output, &layers),
                input,
                quantize: graph.producer_id(node.inputs[0]),
                dequantize,
                scale: node.inputs[1],
                zero_point: node.inputs[2],
                axis: op.axis,
            })
        })
        .collect()
}

/// Sets the scale of an activation, by the name of the scale.
///
/// # Errors
///
/// When no activation has a scale of that name, or `scale` is not a finite number above 0.
pub fn set_activation_scale(graph: &mut Graph, name: &str, scale: f32) -> Result<(), RewriteError> {
    if !(scale.is_finite() && scale > 0.0) {
        let (expected, found) = ("a finite number above 0".to_owned(), scale.to_string());
        return Err(RewriteError::Range { what: "activation scale", expected, found });
    }
    let [id, _] = activation(graph, name)?;
    graph.set_weight(id, Tensor::scalar(scale));
    Ok(())
}

/// Sets scale and zero point of an activation that is unsigned, by the name of the scale, so that its 255
/// steps go from `range[0]`, ≤ 0, to `range[1]`, ≥ 0.
///
/// # Errors
///
/// When no unsigned activation has a scale of that name, or the range is not one of finite numbers
/// around 0.
pub fn set_activation_range(
    graph: &mut Graph,
    name: &str,
    range @ [least, greatest]: [f32; 2],
) -> Result<(), RewriteError> {
    if !(least <= 0.0 && greatest >= 0.0 && (greatest - least).is_finite()) {
        let (expected, found) = ("finite numbers around 0".to_owned(), format!("{range:?}"));
        return Err(RewriteError::Range { what: "activation range", expected, found });
    }
    let [scale_id, zero_point] = activation(graph, name)?;
    if graph.value_type(zero_point).dtype != DType::U8 {
        let (expected, found) = ("an unsigned activation".to_owned(), name.to_owned());
        return Err(RewriteError::Range { what: "activation range", expected, found });
    }
    let scale = (greatest - least) / UNSIGNED_STEPS;
    let scale = if scale.is_normal() { scale } else { 1.0 / UNSIGNED_STEPS };
    let zero = (-least / scale).round_ties_even() as u8;
    graph.set_weight(scale_id, Tensor::scalar(scale));
    graph.set_weight(zero_point, Tensor::scalar(zero));
    Ok(())
}

/// Scale and zero point of an activation, by the name of the scale.
fn activation(graph: &Graph, name: &str) -> Result<[ValueId; 2], RewriteError> {
    let all: Vec<[ValueId; 2]> = graph
        .nodes()
        .filter_map(|(_, node)| match (&node.op, node.inputs.as_slice()) {
            (Op::Dequantize(Dequantize { axis: None }), &[x, scale, zero_point]) => {
                let is_constant = |id| graph.weight(id).is_some();
                (!is_constant(x) && is_constant(scale)).then_some([scale, zero_point])
            }
            _ => None,
        })
        .collect();
    all.iter().find(|[scale, _]| graph.value_name(*scale) == name).copied().ok_or_else(|| {
        let known: Vec<&str> = all.iter().map(|[scale, _]| graph.value_name(*scale)).collect();
        let (name, known) = (name.to_owned(), known.join(", "));
        RewriteError::Unknown { what: "activation scale", name, known }
    })
}

/// One scale an entry of dimension `axis`: the greatest magnitude there, by 127, `f32[entries]`.
/// Where all is zero (or too small to divide by), 1/127, so that zero stays zero.
///
/// # Errors
///
/// When the weight is not `f32`, has no such dimension, or is not finite.
pub fn weight_scales(weight: &Tensor, axis: usize) -> Result<Tensor, RewriteError> {
    let error = |reason| RewriteError::Weight { name: "weight to quantize".to_owned(), reason };
    let elements = weight.elements::<f32>().map_err(|found| error(found.to_string()))?;
    if axis >= weight.shape().len() {
        return Err(error(format!("expected a dimension of {weight:?}, found {axis}")));
    }
    let inner: usize = weight.shape()[axis + 1..].iter().product();
    let mut greatest = vec![0f32; weight.shape()[axis]];
    for (index, element) in elements.iter().enumerate() {
        if !element.is_finite() {
            return Err(error(format!("expected finite numbers, found {element} at {index}")));
        }
        let channel = index / inner % greatest.len();
        greatest[channel] = greatest[channel].max(element.abs());
    }
    Ok(Tensor::from_fn(&[greatest.len()], |channel| scale_for(greatest[channel])))
}

/// The scale whose 127 steps reach `greatest`, ≥ 0.
pub(super) fn scale_for(greatest: f32) -> f32 {
    let scale = greatest / LEVELS;
    if scale.is_normal() { scale } else { 1.0 / LEVELS }
}

fn check_name<'a>(
    what: &'static str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> Result<(), RewriteError> {
    let known: Vec<&str> = known.collect();
    if known.contains(&name) {
        return Ok(());
    }
    let (name, known) = (name.to_owned(), known.join(", "));
    Err(RewriteError::Unknown { what, name, known })
}

fn reader_names(graph: &Graph, value: ValueId, layers: &[(NodeId, &String)]) -> Vec<String> {
    let readers = graph.consumers(value);
    let names = layers.iter().filter(|(node, _)| readers.contains(node)).map(|(_, name)| *name);
    names.cloned().collect()
}

/// The output of each pair, by the value it quantizes and the dimension with its own scales.
type Pairs = BTreeMap<(ValueId, Option<usize>), ValueId>;

fn existing_pairs(graph: &Graph) -> Pairs {
    let pairs = points(graph).into_iter().filter(|point| point.quantize.is_some());
    pairs.map(|point| ((point.input, point.axis), graph.node(point.dequantize).output)).collect()
}

struct Insertion {
    graph: Graph,
    pairs: Pairs,
}

impl Insertion {
    fn linear(&mut self, linear: &Linear) -> Result<(), RewriteError> {
        if self.graph.node(linear.product).inputs[0] == linear.input {
            let name = format!("{}.input", linear.name);
            let unset = |_: &Graph| Ok((Tensor::scalar(1f32), Tensor::scalar(0i8)));
            let pair = self.pair(&name, linear.input, None, unset)?;
            self.graph.set_node_input(linear.product, 0, pair);
        }
        self.weight(linear.product, 1, linear.weight, 1)
    }

    /// Puts a pair between `node` and the constant it reads at `position`.
    fn weight(
        &mut self,
        node: NodeId,
        position: usize,
        weight: ValueId,
        axis: usize,
    ) -> Result<(), RewriteError> {
        if self.graph.node(node).inputs[position] != weight {
            return Ok(());
        }
        let name = self.graph.value_name(weight).to_owned();
        let pair = self.pair(&name, weight, Some(axis), |graph| {
            let tensor = graph.weight(weight).expect("layers and tables have constant weights");
            floats(&name, tensor)?;
            let scale = weight_scales(tensor, axis).map_err(|error| match error {
                RewriteError::Weight { reason, .. } => {
                    RewriteError::Weight { name: name.clone(), reason }
                }
                other => other,
            })?;
            let zeros = Tensor::from_fn(scale.shape(), |_| 0i8);
            Ok((scale, zeros))
        })?;
        self.graph.set_node_input(node, position, pair);
        Ok(())
    }

    /// The dequantized value of the pair after `value`, made unless there is one, with new scales and
    /// zero points.
    fn pair(
        &mut self,
        name: &str,
        value: ValueId,
        axis: Option<usize>,
        parameters: impl FnOnce(&Graph) -> Result<(Tensor, Tensor), RewriteError>,
    ) -> Result<ValueId, RewriteError> {
        if let Some(&pair) = self.pairs.get(&(value, axis)) {
            return Ok(pair);
        }
        let parameters = parameters(&self.graph)?;
        let parameters = self.parameters(name, parameters)?;
        self.pair_of(name, value, axis, parameters)
    }

    /// Scales and zero points as weights.
    fn parameters(
        &mut self,
        name: &str,
        (scale, zero_point): (Tensor, Tensor),
    ) -> Result<[ValueId; 2], RewriteError> {
        let mut add = |what: &str, tensor: Tensor| {
            let name = unused(&self.graph, &format!("{name}.{what}"));
            self.graph.add_weight(&name, tensor)
        };
        Ok([add("scale", scale)?, add("zero_point", zero_point)?])
    }

    /// The dequantized value of a new pair after `value`.
    fn pair_of(
        &mut self,
        name: &str,
        value: ValueId,
        axis: Option<usize>,
        [scale, zero_point]: [ValueId; 2],
    ) -> Result<ValueId, RewriteError> {
        let mut add = |what: &str, op: Op, x: ValueId| {
            let name = unused(&self.graph, &format!("{name}.{what}"));
            self.graph.add_node(&name, op, &[x, scale, zero_point])
        };
        let integers = add("quantized", Op::Quantize(Quantize { axis }), value)?;
        let pair = add("dequantized", Op::Dequantize(Dequantize { axis }), integers)?;
        self.pairs.insert((value, axis), pair);
        Ok(pair)
    }
}

#[cfg(test)]
mod tests;
