//! Normalization.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{
    BatchNorm, BatchNormPart, BatchNormTraining, Gather, GroupNorm, InstanceNorm, LayerNorm,
    LayerNormPart, LayerNormStatistic, LocalResponseNorm, Op, Reshape, RmsNorm,
};
use crate::{Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "BatchNormalization", import: batch },
    OperatorEntry { name: "GroupNormalization", import: group },
    OperatorEntry { name: "InstanceNormalization", import: instance },
    OperatorEntry { name: "LRN", import: local_response },
    OperatorEntry { name: "LayerNormalization", import: layer },
    OperatorEntry { name: "RMSNormalization", import: root_mean_square },
    // What onnxruntime calls it, without a domain of its own.
    OperatorEntry { name: "SimplifiedLayerNormalization", import: root_mean_square },
];

/// Before opset 7 an attribute says that statistics are given, from 7 to 13 that there are no
/// outputs for new ones, and since then an attribute that there are.
fn batch(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    if !node.flag("spatial", true) {
        return Err(node.unsupported("spatial = 0"));
    }
    let inputs: Vec<ValueId> = (0..5).map(|index| node.input(index)).collect::<Result<_, _>>()?;
    let epsilon = node.float_or("epsilon", 1e-5);
    let training = match node.opset() {
        ..7 => !node.flag("is_test", false),
        7..14 => (1..5).any(|index| node.wants(index)),
        _ => node.flag("training_mode", false),
    };
    if !training {
        return node.output(0, Op::BatchNorm(BatchNorm { epsilon }), &inputs);
    }
    if node.wants(3) || node.wants(4) {
        return Err(node.unsupported("the outputs saved_mean and saved_var"));
    }
    let momentum = node.float_or("momentum", 0.9);
    let parts = [BatchNormPart::Output, BatchNormPart::RunningMean, BatchNormPart::RunningVariance];
    for (index, part) in parts.into_iter().enumerate() {
        let op = BatchNormTraining { epsilon, momentum, part };
        node.output(index, Op::BatchNormTraining(op), &inputs)?;
    }
    Ok(())
}

fn instance(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = [node.input(0)?, node.input(1)?, node.input(2)?];
    let epsilon = node.float_or("epsilon", 1e-5);
    node.output(0, Op::InstanceNorm(InstanceNorm { epsilon }), &inputs)
}

/// Before opset 21 there was one scale and bias a group; each is repeated for its channels.
fn group(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (x, mut scale, mut bias) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let groups = usize::try_from(node.int_or("num_groups", 0)).ok().filter(|&groups| groups > 0);
    let groups = groups.ok_or_else(|| node.invalid("expected at least one group"))?;
    if node.opset() < 21 {
        let channels = node.shape(x).get(1).and_then(Dim::fixed);
        let channels = channels.filter(|channels| channels.is_multiple_of(groups));
        let channels = channels.ok_or_else(|| {
            node.unsupported(format!("a number of channels that is no multiple of {groups}"))
        })?;
        if channels > 1 << 24 {
            return Err(node.invalid(format!("too many channels: {channels}")));
        }
        let of_channel = |channel| (channel / (channels / groups)) as i64;
        let place = node.weight(Tensor::from_fn(&[channels], of_channel))?;
        let gather = Op::Gather(Gather { axis: 0 });
        scale = node.add(gather.clone(), &[scale, place])?;
        bias = node.add(gather, &[bias, place])?;
    }
    let epsilon = node.float_or("epsilon", 1e-5);
    node.output(0, Op::GroupNorm(GroupNorm { groups, epsilon }), &[x, scale, bias])
}

fn local_response(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let size = usize::try_from(node.int_or("size", 0)).unwrap_or(0);
    let op = LocalResponseNorm {
        size,
        alpha: node.float_or("alpha", 1e-4),
        beta: node.float_or("beta", 0.75),
        bias: node.float_or("bias", 1.0),
    };
    node.output(0, Op::LocalResponseNorm(op), &[x])
}

/// The dimensions of `x` from `axis` on, which are normalized together.
struct Rows {
    x: ValueId,
    /// Sizes of those dimensions.
    sizes: Vec<usize>,
    /// Number of dimensions before.
    axis: usize,
}

impl Rows {
    /// Those from `axis` on of `x`, which `scale` scales.
    fn of(
        node: &NodeContext<'_, '_>,
        x: ValueId,
        scale: ValueId,
        axis: i64,
    ) -> Result<Self, ImportError> {
        let axis = node.axis_of(axis, node.rank(x))?;
        let sizes = match &node.shape(x)[axis..] {
            // A scale of one number might be repeated.
            [Dim::Unknown] => node
                .fixed_dims(scale)
                .filter(|scale| matches!(scale.as_slice(), [width] if *width > 1)),
            dims => dims.iter().map(Dim::fixed).collect::<Option<Vec<usize>>>(),
        };
        let sizes = sizes.filter(|sizes| {
            crate::weights::checked_elements(sizes).is_some_and(|width| width <= 1 << 31)
        });
        let sizes =
            sizes.ok_or_else(|| node.unsupported("normalized dimensions that are not fixed"))?;
        Ok(Self { x, sizes, axis })
    }

    fn width(&self) -> usize {
        self.sizes.iter().product()
    }

    /// A reshape that keeps the dimensions before the rows.
    fn reshape(&self, sizes: &[usize]) -> Op {
        let kept = vec![0; self.axis];
        let sizes: Vec<i64> = sizes.iter().map(|&size| size as i64).collect();
        Op::Reshape(Reshape { shape: [kept, sizes].concat() })
    }

    /// Applies `op`, which takes x and what is one number an element of a row, to rows of one
    /// dimension. `parameters` are f32 values, each with the number that counts where there is
    /// none. What comes last is left to the caller.
    fn apply<const N: usize>(
        &self,
        node: &mut NodeContext<'_, '_>,
        parameters: [(Option<ValueId>, f32); N],
        op: Op,
    ) -> Result<(Op, Vec<ValueId>), ImportError> {
        let mut inputs = vec![self.x];
        if self.sizes.len() > 1 {
            inputs[0] = node.add(self.reshape(&[self.width()]), &[self.x])?;
        }
        for (parameter, default) in parameters {
            inputs.push(match parameter {
                Some(parameter) if self.sizes.len() > 1 => {
                    let shape = vec![self.width() as i64];
                    node.add(Op::Reshape(Reshape { shape }), &[parameter])?
                }
                Some(parameter) => parameter,
                None => node.weight(Tensor::from_fn(&[self.width()], |_| default))?,
            });
        }
        if self.sizes.len() == 1 {
            return Ok((op, inputs));
        }
        let rows = node.add(op, &inputs)?;
        Ok((self.reshape(&self.sizes), vec![rows]))
    }

    /// Whether a parameter has one number an element of a row.
    fn fits(&self, node: &NodeContext<'_, '_>, parameter: ValueId) -> bool {
        node.fixed_dims(parameter).as_ref() == Some(&self.sizes)
    }
}

/// What a layer normalization reads.
pub(super) struct Normalized {
    pub(super) x: ValueId,
    pub(super) scale: ValueId,
    pub(super) bias: Option<ValueId>,
    /// First of the dimensions that are normalized together; below 0 from the last.
    pub(super) axis: i64,
    /// Added to the variance, or to the mean of the squares.
    pub(super) epsilon: f32,
}

impl Normalized {
    fn of(node: &NodeContext<'_, '_>, bias: Option<ValueId>) -> Result<Self, ImportError> {
        let (x, scale) = (node.input(0)?, node.input(1)?);
        let (axis, epsilon) = (node.int_or("axis", -1), node.float_or("epsilon", 1e-5));
        Ok(Self { x, scale, bias, axis, epsilon })
    }

    /// Writes means and inverse deviations, the outputs after the first.
    pub(super) fn write_statistics(
        &self,
        node: &mut NodeContext<'_, '_>,
    ) -> Result<(), ImportError> {
        let axis = node.axis_of(self.axis, node.rank(self.x))?;
        let statistics = [(1, LayerNormPart::Mean), (2, LayerNormPart::InverseDeviation)];
        for (index, part) in statistics {
            let op = LayerNormStatistic { axis, epsilon: self.epsilon, part };
            node.output(index, Op::LayerNormStatistic(op), &[self.x, self.scale])?;
        }
        Ok(())
    }

    /// Writes the first output.
    pub(super) fn write(&self, node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
        let &Self { x, scale, bias, axis, epsilon } = self;
        let rows = Rows::of(node, x, scale, axis)?;
        let op = Op::LayerNorm(LayerNorm { epsilon });
        if rows.fits(node, scale) && bias.is_none_or(|bias| rows.fits(node, bias)) {
            let (last, inputs) = rows.apply(node, [(Some(scale), 1.0), (bias, 0.0)], op)?;
            return node.output(0, last, &inputs);
        }
        let (last, inputs) = rows.apply(node, [(None, 1.0), (None, 0.0)], op)?;
        let rows = node.add(last, &inputs)?;
        let Some(bias) = bias else { return node.output(0, Op::Mul, &[rows, scale]) };
        let scaled = node.add(Op::Mul, &[rows, scale])?;
        node.output(0, Op::Add, &[scaled, bias])
    }

    /// Writes the first output of a normalization by the root of the mean square.
    pub(super) fn write_simplified(
        &self,
        node: &mut NodeContext<'_, '_>,
    ) -> Result<(), ImportError> {
        let &Self { x, scale, axis, epsilon, .. } = self;
        let rows = Rows::of(node, x, scale, axis)?;
        let op = Op::RmsNorm(RmsNorm { epsilon });
        if rows.fits(node, scale) {
            let (last, inputs) = rows.apply(node, [(Some(scale), 1.0)], op)?;
            return node.output(0, last, &inputs);
        }
        let (last, inputs) = rows.apply(node, [(None, 1.0)], op)?;
        let rows = node.add(last, &inputs)?;
        node.output(0, Op::Mul, &[rows, scale])
    }
}

pub(super) fn layer(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let layer = Normalized::of(node, node.optional(2))?;
    layer.write_statistics(node)?;
    layer.write(node)
}

pub(super) fn root_mean_square(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    if node.wants(1) {
        return Err(node.unsupported("the output of inverse deviations"));
    }
    Normalized::of(node, None)?.write_simplified(node)
}
