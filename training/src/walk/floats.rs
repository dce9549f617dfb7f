//! Burn's float operations on tensors of any rank.

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor, TensorMetadata};
use burn::tensor::{Int, Shape, Slice, Tensor};

/// A float tensor of any rank on any device, on the tape or not. Rank 0 is held as one element of
/// rank 1, which broadcasts alike.
#[derive(Clone, Debug)]
pub(crate) struct Floats(pub(crate) DispatchTensor);

impl Floats {
    pub(crate) fn shape(&self) -> Vec<usize> {
        self.0.shape().to_vec()
    }

    pub(crate) fn typed<const D: usize>(self) -> Tensor<D> {
        Tensor::from_dispatch(self.0)
    }

    pub(crate) fn reshape(self, shape: &[usize]) -> Self {
        if self.0.shape().to_vec() == shape {
            return self;
        }
        Self(Dispatch::float_reshape(self.0, Shape::from(shape.to_vec())))
    }

    pub(crate) fn permute(self, axes: &[usize]) -> Self {
        Self(Dispatch::float_permute(self.0, axes))
    }

    /// The entries `start..end` of dimension `axis`.
    pub(crate) fn slice(self, axis: usize, start: usize, end: usize) -> Self {
        let shape = self.shape();
        let range = |index: usize| {
            let (start, end) = if index == axis { (start, end) } else { (0, shape[index]) };
            Slice::new(start as isize, Some(end as isize), 1)
        };
        let slices: Vec<Slice> = (0..shape.len()).map(range).collect();
        Self(Dispatch::float_slice(self.0, &slices))
    }

    /// The first entries of each dimension.
    pub(crate) fn leading(self, sizes: &[usize]) -> Self {
        if self.shape() == sizes {
            return self;
        }
        let slices: Vec<Slice> =
            sizes.iter().map(|&size| Slice::new(0, Some(size as isize), 1)).collect();
        Self(Dispatch::float_slice(self.0, &slices))
    }

    /// Both with the same rank, dimensions of size 1 put in front of the shorter one.
    pub(super) fn aligned(self, other: Self) -> (Self, Self) {
        let (left, right) = (self.shape(), other.shape());
        let rank = left.len().max(right.len());
        let padded = |shape: Vec<usize>| [vec![1; rank - shape.len()], shape].concat();
        (self.reshape(&padded(left)), other.reshape(&padded(right)))
    }

    pub(crate) fn add(self, other: Self) -> Self {
        let (left, right) = self.aligned(other);
        Self(Dispatch::float_add(left.0, right.0))
    }

    pub(crate) fn sub(self, other: Self) -> Self {
        let (left, right) = self.aligned(other);
        Self(Dispatch::float_sub(left.0, right.0))
    }

    pub(crate) fn mul(self, other: Self) -> Self {
        let (left, right) = self.aligned(other);
        Self(Dispatch::float_mul(left.0, right.0))
    }

    pub(crate) fn div(self, other: Self) -> Self {
        let (left, right) = self.aligned(other);
        Self(Dispatch::float_div(left.0, right.0))
    }

    pub(crate) fn add_scalar(self, scalar: f32) -> Self {
        Self(Dispatch::float_add_scalar(self.0, scalar.into()))
    }

    pub(crate) fn scale(self, factor: f32) -> Self {
        Self(Dispatch::float_mul_scalar(self.0, factor.into()))
    }

    pub(crate) fn divide_scalar(self, divisor: f32) -> Self {
        Self(Dispatch::float_div_scalar(self.0, divisor.into()))
    }

    pub(crate) fn matmul(self, other: Self) -> Self {
        let (left, right) = self.aligned(other);
        Self(Dispatch::float_matmul(left.0, right.0))
    }

    pub(crate) fn exp(self) -> Self {
        Self(Dispatch::float_exp(self.0))
    }

    pub(crate) fn sqrt(self) -> Self {
        Self(Dispatch::float_sqrt(self.0))
    }

    pub(crate) fn abs(self) -> Self {
        Self(Dispatch::float_abs(self.0))
    }

    pub(crate) fn tanh(self) -> Self {
        Self(Dispatch::float_tanh(self.0))
    }

    pub(crate) fn erf(self) -> Self {
        Self(Dispatch::float_erf(self.0))
    }

    /// To the nearest whole number, halves to even.
    pub(crate) fn round(self) -> Self {
        Self(Dispatch::float_round(self.0))
    }

    pub(crate) fn clamp(self, low: f32, high: f32) -> Self {
        Self(Dispatch::float_clamp(self.0, low.into(), high.into()))
    }

    pub(crate) fn relu(self) -> Self {
        Self(Dispatch::float_clamp_min(self.0, 0f32.into()))
    }

    /// Entries of dimension `axis`, by index.
    pub(crate) fn select(self, axis: usize, indices: Tensor<1, Int>) -> Self {
        Self(Dispatch::float_select(self.0, axis, indices.into_dispatch()))
    }

    /// The greater of both, element by element; shapes are equal.
    pub(crate) fn maximum(self, other: Self) -> Self {
        Self(self.typed::<1>().max_pair(other.typed::<1>()).into_dispatch())
    }

    /// Sum along `axis`, which stays with size 1.
    pub(crate) fn sum_axis(self, axis: usize) -> Self {
        Self(Dispatch::float_sum_dim(self.0, axis))
    }

    /// Greatest along `axis`, which stays with size 1.
    pub(crate) fn max_axis(self, axis: usize) -> Self {
        Self(Dispatch::float_max_dim(self.0, axis))
    }

    /// Sum of all, `[1]`.
    pub(crate) fn sum(self) -> Self {
        Self(Dispatch::float_sum(self.0))
    }

    /// The same values, off the tape but still in its context.
    pub(crate) fn detach(self) -> Self {
        Self(Dispatch::float_detach(self.0))
    }

    /// The same values without any tape.
    pub(crate) fn inner(self) -> Self {
        let tensor = Tensor::<1>::from_dispatch(self.0);
        let inner = if tensor.is_autodiff() { tensor.inner() } else { tensor };
        Self(inner.into_dispatch())
    }

    /// The same values as a leaf of a new tape, which keeps its gradient.
    pub(crate) fn leaf(self) -> Self {
        let tensor = Tensor::<1>::from_dispatch(self.inner().0);
        Self(tensor.autodiff().require_grad().into_dispatch())
    }

    /// The elements in row-major order, copied to the host.
    pub(crate) fn to_vec(&self) -> Vec<f32> {
        let data = Tensor::<1>::from_dispatch(self.0.clone()).into_data();
        data.try_into_vec::<f32>().expect("floats are f32")
    }
}
