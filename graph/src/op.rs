//! The operators a graph may hold, with ONNX semantics.
//!
//! An operator is an attribute struct with an [`Operator`] implementation (one file a family) and
//! one variant of [`Op`]. Other crates add what is theirs: a Burn execution, a runtime kernel.

mod attention;
mod binary;
mod blocks;
mod boxes;
mod channel_norm;
mod choose;
mod col2im;
mod control;
mod conv;
mod deform;
mod depth_space;
mod determinant;
mod elementwise;
mod expand;
mod generate;
mod grid;
mod integer;
mod integer_matmul;
mod linear_attention;
mod matmul;
mod movement;
mod normalize;
mod onnx_form;
mod pad;
mod pick;
mod pool;
mod position;
mod quantize;
mod random;
mod rank;
mod recurrent;
mod reduce;
mod reduce_axes;
mod regions;
mod resize;
mod rotary;
mod row_norm;
mod scatter;
mod shape;
mod slice_by;
mod softmax;
mod squeeze_by;
mod subgraph;
mod unary;
mod wide;
mod window;

use std::fmt;
use std::ops::Deref;

use serde::{Deserialize, Serialize};

pub use attention::{Attention, AttentionPart, VisibleKeys};
pub use binary::Binary;
pub use blocks::{DequantizeBlocks, QuantizeBlocks};
pub use boxes::{BoxForm, NonMaxSuppression};
pub use channel_norm::{
    BatchNorm, BatchNormPart, BatchNormTraining, GroupNorm, InstanceNorm, LocalResponseNorm,
};
pub use choose::Clip;
pub use col2im::Col2Im;
pub use control::{If, Loop, ROUND_LIMIT, stacked};
pub use conv::{Conv, ConvInteger, ConvTranspose};
pub use deform::DeformConv;
pub use depth_space::{DepthOrder, DepthToSpace, SpaceToDepth};
pub use determinant::Determinant;
pub use elementwise::{Arithmetic, Gelu, erf};
pub use expand::{Expand, Tile};
pub use generate::{EyeLike, OneHot, Triangle};
pub use grid::{AffineGrid, GridMode, GridOutside, GridSample};
pub use integer::Integer;
pub use integer_matmul::{DynamicQuantization, MatMulInteger};
pub use linear_attention::{LinearAttention, LinearAttentionPart, UpdateRule};
pub use matmul::MatMul;
pub use movement::{Cast, Gather, Reshape, Slice, Transpose, Unsqueeze};
pub use normalize::{LayerNorm, Softmax};
pub use onnx_form::{OnnxAttribute, OnnxForm, OnnxOperand, OnnxSubgraph};
pub use pad::{Pad, PadMode};
pub use pick::{Compress, ReverseSequence, Unique, UniquePart};
pub use pool::{AveragePadding, GlobalPool, Pool, PoolKind, StorageOrder};
pub use quantize::{Dequantize, Quantize};
pub use random::{Distribution, Random};
pub use rank::{ArgExtreme, CumulativeProduct, CumulativeSum, TopK, TopKPart};
pub use recurrent::{
    Activation, ActivationKind, Cell, Direction, Recurrent, RecurrentInput, RecurrentOutput,
};
pub use reduce::ReduceSum;
pub use reduce_axes::{Reduce, ReduceKind};
pub use regions::{MaxRoiPool, RegionCoordinates, RegionPooling, RoiAlign};
pub use resize::{AspectRatio, Coordinates, Interpolation, Nearest, Outside, Resize, Sample};
pub use rotary::{RotaryEmbedding, RotaryPairs};
pub use row_norm::{LayerNormPart, LayerNormStatistic, RmsNorm};
pub use scatter::{GatherElements, GatherNd, ScatterElements, ScatterNd, Scattering};
pub use shape::{Concat, ReshapeTo, ShapeOf, Squeeze};
pub use slice_by::{Entries, SliceBy, Split};
pub use softmax::SoftmaxRelative;
pub use squeeze_by::{SqueezeBy, UnsqueezeBy};
pub(crate) use subgraph::Known;
pub use subgraph::{Computed, Subgraph, SubgraphNode};
pub use unary::Unary;
pub use window::{Padding, Rounding, Window, WindowAxis};

use crate::{Bindings, Element, Tensor, ValueType};

/// What is known of an operator's input before a run.
#[derive(Clone, Copy, Debug)]
pub struct Argument<'a> {
    /// Element type and shape.
    pub value_type: &'a ValueType,
    /// The content of a weight.
    pub constant: Option<&'a Tensor>,
    /// The numbers of an integer value of rank 0 or 1, as far as they are known.
    pub integers: Option<&'a [Integer]>,
}

impl Deref for Argument<'_> {
    type Target = ValueType;
    fn deref(&self) -> &ValueType {
        self.value_type
    }
}

impl fmt::Display for Argument<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value_type.fmt(formatter)
    }
}

/// What an operator is, apart from how fast it runs.
pub trait Operator {
    /// The ONNX operator type, such as `MatMul`.
    fn onnx_type(&self) -> &'static str;

    /// What the ONNX node has beside the operator's inputs.
    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
    }

    /// Type of the output for inputs of these types.
    ///
    /// # Errors
    ///
    /// Says which input does not fit and why.
    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String>;

    /// The numbers of an integer output of rank 0 or 1, as far as they follow from the inputs'
    /// types and numbers: what lets shapes that a model computes be known before a run.
    fn integers(&self, _inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        None
    }

    /// The output for these inputs, computed slowly and obviously.
    ///
    /// # Errors
    ///
    /// When an input's values are out of range (an index beyond its table, …).
    fn evaluate(&self, inputs: &[&Tensor], bindings: &Bindings) -> Result<Tensor, String>;

    /// Floating-point (or integer) operations for inputs and output of these concrete shapes: a
    /// multiply and an add count as two; data movement, the default, counts as none.
    fn flops(&self, _inputs: &[Vec<usize>], _output: &[usize]) -> u64 {
        0
    }
}

/// An operator with its attributes. Every operator has one output.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Op {
    /// `a + b`, broadcast.
    Add,
    /// `a − b`, broadcast.
    Sub,
    /// `a · b`, broadcast.
    Mul,
    /// `a / b`, broadcast.
    Div,
    /// `max(x, 0)`.
    Relu,
    /// Hyperbolic tangent.
    Tanh,
    /// Gaussian error linear unit.
    Gelu(Gelu),
    /// Matrix product over the last two dimensions, broadcast over the others.
    MatMul,
    /// Softmax along one axis.
    Softmax(Softmax),
    /// Layer normalization over the trailing dimensions: `(x, scale, bias)`.
    LayerNorm(LayerNorm),
    /// Picks entries of `data` along one axis: `(data, indices)`.
    Gather(Gather),
    /// Another shape for the same elements.
    Reshape(Reshape),
    /// Reordered dimensions.
    Transpose(Transpose),
    /// Extra dimensions of size 1.
    Unsqueeze(Unsqueeze),
    /// A range along one axis.
    Slice(Slice),
    /// Another element type.
    Cast(Cast),
    /// Sum along axes.
    ReduceSum(ReduceSum),
    /// `saturate(round_half_even(x / scale) + zero_point)`: `(x, scale, zero_point)`.
    Quantize(Quantize),
    /// `(x − zero_point) · scale`: `(x, scale, zero_point)`.
    Dequantize(Dequantize),
    /// The input itself.
    Identity,
    /// Sizes of dimensions.
    ShapeOf(ShapeOf),
    /// Number of elements.
    SizeOf,
    /// Another shape for the same elements, given as a value: `(x, shape)`.
    ReshapeTo(ReshapeTo),
    /// Fewer dimensions of size 1.
    Squeeze(Squeeze),
    /// Inputs one after another along one axis.
    Concat(Concat),
    /// A function of each element.
    Unary(Unary),
    /// A function of each pair of elements, broadcast.
    Binary(Binary),
    /// One of two values, element by element: `(condition, a, b)`.
    Where,
    /// Elements kept inside bounds.
    Clip(Clip),
    /// Many elements to one along axes.
    Reduce(Reduce),
    /// Where the extremes along one axis are.
    ArgExtreme(ArgExtreme),
    /// The largest or smallest entries along one axis: `(x, k)`.
    TopK(TopK),
    /// Running sums along one axis: `(x, axis)`.
    CumulativeSum(CumulativeSum),
    /// Logarithm or maximum of the softmax along the last axis.
    SoftmaxRelative(SoftmaxRelative),
    /// Evenly spaced numbers: `(start, limit, delta)`.
    Range,
    /// One-hot vectors: `(indices, depth, [off, on])`.
    OneHot(OneHot),
    /// Places of what is not 0.
    NonZero,
    /// The upper or lower triangle of matrices: `(x)` or `(x, k)`.
    Triangle(Triangle),
    /// Ones on a diagonal.
    EyeLike(EyeLike),
    /// Convolution: `(x, weight)` or `(x, weight, bias)`.
    Conv(Conv),
    /// Convolution of integers: `(x, weight, x_zero_point, weight_zero_point)`.
    ConvInteger(ConvInteger),
    /// Transposed convolution: `(x, weight)` or `(x, weight, bias)`.
    ConvTranspose(ConvTranspose),
    /// One number for every window.
    Pool(Pool),
    /// One number for every image.
    GlobalPool(GlobalPool),
    /// Batch normalization: `(x, scale, bias, mean, variance)`.
    BatchNorm(BatchNorm),
    /// Batch normalization by the batch itself: `(x, scale, bias, mean, variance)`.
    BatchNormTraining(BatchNormTraining),
    /// Normalization of each channel: `(x, scale, bias)`.
    InstanceNorm(InstanceNorm),
    /// Normalization of groups of channels: `(x, scale, bias)`.
    GroupNorm(GroupNorm),
    /// Local response normalization across channels.
    LocalResponseNorm(LocalResponseNorm),
    /// Root-mean-square normalization over the last dimension: `(x, scale)`.
    RmsNorm(RmsNorm),
    /// What layer normalization subtracts or divides by: `(x, scale)`.
    LayerNormStatistic(LayerNormStatistic),
    /// Scaled dot-product attention: `(q, k, v, …)`.
    Attention(Attention),
    /// Rotary position embedding: `(x, cos, sin)` or `(x, cos, sin, positions)`.
    RotaryEmbedding(RotaryEmbedding),
    /// [`Op::Quantize`] with a scale a block.
    QuantizeBlocks(QuantizeBlocks),
    /// [`Op::Dequantize`] with a scale a block.
    DequantizeBlocks(DequantizeBlocks),
    /// Scale or zero point that follow from the values.
    DynamicQuantization(DynamicQuantization),
    /// Product of 8-bit matrices: `(a, b, a_zero_point, b_zero_point)`.
    MatMulInteger,
    /// Interpolation to another size: `(x, roi, scales)` or `(x, roi, scales, sizes)`.
    Resize(Resize),
    /// Channels as squares of pixels.
    DepthToSpace(DepthToSpace),
    /// Squares of pixels as channels.
    SpaceToDepth(SpaceToDepth),
    /// Ranges given as values: `(x, starts, ends, axes, steps)`.
    SliceBy(SliceBy),
    /// One part of a tensor cut along one axis.
    Split(Split),
    /// Entries before and after a tensor's own: `(x, pads, value, axes)`.
    Pad(Pad),
    /// Broadcast with a shape given as a value: `(x, shape)`.
    Expand(Expand),
    /// Copies along each dimension: `(x, repeats)`.
    Tile(Tile),
    /// The element of `data` for each index: `(data, indices)`.
    GatherElements(GatherElements),
    /// The slice of `data` for each row of indices: `(data, indices)`.
    GatherNd(GatherNd),
    /// An update written for each index: `(data, indices, updates)`.
    ScatterElements(ScatterElements),
    /// A slice written for each row of indices: `(data, indices, updates)`.
    ScatterNd(ScatterNd),
    /// Entries where a condition holds: `(x, condition)`.
    Compress(Compress),
    /// The different entries.
    Unique(Unique),
    /// The beginnings of sequences in reverse: `(x, lengths)`.
    ReverseSequence(ReverseSequence),
    /// One of two subgraphs.
    If(If),
    /// A subgraph run again and again.
    Loop(Loop),
    /// One output of a recurrent layer.
    Recurrent(Recurrent),
    /// Fewer dimensions of size 1: `(x, axes)`.
    SqueezeBy(SqueezeBy),
    /// Extra dimensions of size 1: `(x, axes)`.
    UnsqueezeBy(UnsqueezeBy),
    /// The best boxes that do not overlap better ones: `(boxes, scores, most, overlap, score)`.
    NonMaxSuppression(NonMaxSuppression),
    /// Regions of images, interpolated: `(x, regions, images)`.
    RoiAlign(RoiAlign),
    /// The largest number of each part of regions: `(x, regions)`.
    MaxRoiPool(MaxRoiPool),
    /// Elements of images at places: `(x, grid)`.
    GridSample(GridSample),
    /// The places of a grid under an affine map: `(theta, size)`.
    AffineGrid(AffineGrid),
    /// Random numbers in the shape of the input: `(like)`.
    Random(Random),
    /// Running products along one axis: `(x, axis)`.
    CumulativeProduct(CumulativeProduct),
    /// Determinants of matrices.
    Determinant(Determinant),
    /// Windows added up where they lie in an image: `(x, image, block)`.
    Col2Im(Col2Im),
    /// Convolution with windows bent by values: `(x, weight, offset, …)`.
    DeformConv(DeformConv),
    /// Attention that keeps a matrix: `(query, key, value, …)`.
    LinearAttention(LinearAttention),
}

impl Op {
    /// Whether the output has the elements of the first input, each once, in another order or shape.
    pub fn rearranges(&self) -> bool {
        matches!(
            self,
            Self::Identity
                | Self::Reshape(_)
                | Self::ReshapeTo(_)
                | Self::Transpose(_)
                | Self::Squeeze(_)
                | Self::SqueezeBy(_)
                | Self::Unsqueeze(_)
                | Self::UnsqueezeBy(_)
                | Self::DepthToSpace(_)
                | Self::SpaceToDepth(_)
        )
    }

    /// The operator's rules.
    #[allow(clippy::too_many_lines, reason = "one line an operator")]
    pub fn operator(&self) -> &dyn Operator {
        match self {
            Self::Add => &Arithmetic::Add,
            Self::Sub => &Arithmetic::Sub,
            Self::Mul => &Arithmetic::Mul,
            Self::Div => &Arithmetic::Div,
            Self::Relu => &elementwise::Relu,
            Self::Tanh => &elementwise::Tanh,
            Self::Gelu(op) => op,
            Self::MatMul => &MatMul,
            Self::Softmax(op) => op,
            Self::LayerNorm(op) => op,
            Self::Gather(op) => op,
            Self::Reshape(op) => op,
            Self::Transpose(op) => op,
            Self::Unsqueeze(op) => op,
            Self::Slice(op) => op,
            Self::Cast(op) => op,
            Self::ReduceSum(op) => op,
            Self::Quantize(op) => op,
            Self::Dequantize(op) => op,
            Self::Identity => &shape::Identity,
            Self::ShapeOf(op) => op,
            Self::SizeOf => &shape::SizeOf,
            Self::ReshapeTo(op) => op,
            Self::Squeeze(op) => op,
            Self::Concat(op) => op,
            Self::Unary(op) => op,
            Self::Binary(op) => op,
            Self::Where => &choose::Where,
            Self::Clip(op) => op,
            Self::Reduce(op) => op,
            Self::ArgExtreme(op) => op,
            Self::TopK(op) => op,
            Self::CumulativeSum(op) => op,
            Self::SoftmaxRelative(op) => op,
            Self::Range => &generate::Range,
            Self::OneHot(op) => op,
            Self::NonZero => &generate::NonZero,
            Self::Triangle(op) => op,
            Self::EyeLike(op) => op,
            Self::Conv(op) => op,
            Self::ConvInteger(op) => op,
            Self::ConvTranspose(op) => op,
            Self::Pool(op) => op,
            Self::GlobalPool(op) => op,
            Self::BatchNorm(op) => op,
            Self::BatchNormTraining(op) => op,
            Self::InstanceNorm(op) => op,
            Self::GroupNorm(op) => op,
            Self::LocalResponseNorm(op) => op,
            Self::RmsNorm(op) => op,
            Self::LayerNormStatistic(op) => op,
            Self::Attention(op) => op,
            Self::RotaryEmbedding(op) => op,
            Self::QuantizeBlocks(op) => op,
            Self::DequantizeBlocks(op) => op,
            Self::DynamicQuantization(op) => op,
            Self::MatMulInteger => &MatMulInteger,
            Self::Resize(op) => op,
            Self::DepthToSpace(op) => op,
            Self::SpaceToDepth(op) => op,
            Self::SliceBy(op) => op,
            Self::Split(op) => op,
            Self::Pad(op) => op,
            Self::Expand(op) => op,
            Self::Tile(op) => op,
            Self::GatherElements(op) => op,
            Self::GatherNd(op) => op,
            Self::ScatterElements(op) => op,
            Self::ScatterNd(op) => op,
            Self::Compress(op) => op,
            Self::Unique(op) => op,
            Self::ReverseSequence(op) => op,
            Self::If(op) => op,
            Self::Loop(op) => op,
            Self::Recurrent(op) => op,
            Self::SqueezeBy(op) => op,
            Self::UnsqueezeBy(op) => op,
            Self::NonMaxSuppression(op) => op,
            Self::RoiAlign(op) => op,
            Self::MaxRoiPool(op) => op,
            Self::GridSample(op) => op,
            Self::AffineGrid(op) => op,
            Self::Random(op) => op,
            Self::CumulativeProduct(op) => op,
            Self::Determinant(op) => op,
            Self::Col2Im(op) => op,
            Self::DeformConv(op) => op,
            Self::LinearAttention(op) => op,
        }
    }

    /// The subgraphs that the operator holds.
    pub fn subgraphs(&self) -> Vec<&Subgraph> {
        match self {
            Self::If(op) => vec![&op.then_branch, &op.else_branch],
            Self::Loop(op) => vec![&op.body],
            _ => Vec::new(),
        }
    }
}

/// The inputs as an array of `N`.
///
/// # Errors
///
/// When there are more or fewer.
fn exactly<T: Copy, const N: usize>(inputs: &[T]) -> Result<[T; N], String> {
    inputs.try_into().map_err(|_| format!("expected {N} inputs, found {}", inputs.len()))
}

/// The elements of `tensor`, of the type asked for.
fn elements_of<T: Element>(tensor: &Tensor) -> Result<&[T], String> {
    tensor.elements().map_err(|error| error.to_string())
}

/// The elements of `tensor` as `f32`.
fn floats(tensor: &Tensor) -> Result<&[f32], String> {
    tensor.elements().map_err(|error| error.to_string())
}
