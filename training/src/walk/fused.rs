//! Differentiable operations on CPU memory: a forward and a backward pass over slices, entered
//! into Burn's tape as one node.
//!
//! Burn's CPU backend composes everything from small single-threaded steps with fresh memory each.
//! The operations that take most of a training step are written here against the `kernels` crate
//! instead; other devices compose Burn's own.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::HashSet;
use std::fmt::Debug;

use burn::backend::autodiff::NodeId;
use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{
    Autodiff, BackendTensor, DispatchAutodiffContext, DispatchKindConversion, DispatchTensor, Flex,
};
use burn::tensor::{Tensor, TensorData};
use kernels::{Cpu, Matrix};

/// Elements that one thread takes at once, about.
pub(crate) const CHUNK: usize = 16 * 1024;

/// An operation of `N` inputs with its gradient.
pub(crate) trait Operation<const N: usize>: Clone + Debug + Send + 'static {
    /// What the backward pass needs of the forward pass. Tensors are shared, not copied.
    type Saved: Clone + Debug + Send + 'static;

    /// The output.
    fn forward(&self, inputs: &[FlexTensor; N]) -> (FlexTensor, Self::Saved);

    /// The gradients of the inputs that are `wanted`, from the output's.
    fn backward(
        &self,
        saved: Self::Saved,
        gradient: &FlexTensor,
        wanted: [bool; N],
    ) -> [Option<FlexTensor>; N];
}

#[derive(Debug)]
struct Taped<O>(O);

impl<O: Operation<N>, const N: usize> Backward<Flex, N> for Taped<O> {
    type State = O::Saved;

    fn backward(self, ops: Ops<Self::State, N>, gradients: &mut Gradients, _: &mut Checkpointer) {
        let gradient = gradients.consume::<Flex>(&ops.node);
        BEGUN.with_borrow_mut(|begun| begun.remove(&ops.node.id));
        let wanted = ops.parents.each_ref().map(Option::is_some);
        let found = self.0.backward(ops.state, &gradient, wanted);
        drop(gradient);
        for (parent, found) in ops.parents.into_iter().zip(found) {
            let (Some(parent), Some(mut found)) = (parent, found) else { continue };
            // Burn would add up, too, but in one thread; a value that several operations read, such
            // as what queries, keys and values are made of, gets a gradient from each. Leaves keep
            // their gradients, which is Burn's business.
            let leaf = parent.parents.is_empty();
            if !leaf && !BEGUN.with_borrow_mut(|begun| begun.insert(parent.id)) {
                found = add(&found, &gradients.consume::<Flex>(&parent));
            }
            gradients.register::<Flex>(parent.id, found);
        }
    }
}

thread_local! {
    /// Values whose gradient an operation of this kind has begun, in the backward pass that runs on
    /// this thread.
    static BEGUN: RefCell<HashSet<NodeId>> = RefCell::default();
}

/// `a + b` of equal shapes.
pub(crate) fn add(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    pairwise(kernels::add, a, b)
}

/// `a · b` of equal shapes, element by element.
pub(crate) fn mul(a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    pairwise(kernels::mul, a, b)
}

fn pairwise(of: fn(Cpu, &[f32], &[f32], &mut [f32]), a: &FlexTensor, b: &FlexTensor) -> FlexTensor {
    let (left, right) = (elements(a), elements(b));
    let mut y = vec![0f32; left.len()];
    of(Cpu::best(), &left, &right, &mut y);
    tensor(&shape(a), y)
}

/// The gradients of everything that `loss` depends on.
pub(crate) fn backward(loss: &Tensor<1>) -> burn::tensor::Gradients {
    // Burn's own operations consume gradients without telling.
    BEGUN.with_borrow_mut(HashSet::clear);
    loss.backward()
}

/// Runs `operation`, taped when an input is on the tape.
///
/// # Panics
///
/// When an input is not in CPU memory.
pub(crate) fn apply<O: Operation<N>, const N: usize>(
    operation: &O,
    inputs: [DispatchTensor; N],
) -> DispatchTensor {
    let plain = |input: &DispatchTensor| input.autodiff == DispatchAutodiffContext::Disabled;
    if inputs.iter().all(plain) {
        let inputs = inputs.map(plain_tensor);
        let (output, _) = operation.forward(&inputs);
        return DispatchTensor::from_backend(BackendTensor::<Flex>::Float(output));
    }
    let parts = inputs.map(|input| taped_tensor(input).into_parts());
    let mut nodes = Vec::with_capacity(N);
    let tensors = parts.map(|(tensor, node)| {
        nodes.push(node);
        tensor
    });
    let nodes: [_; N] = nodes.try_into().expect("one node an input");
    let (output, saved) = operation.forward(&tensors);
    drop(tensors);
    let prepared = Taped(operation.clone()).prepare::<NoCheckpointing>(nodes).compute_bound();
    let output = match prepared.stateful() {
        OpsKind::Tracked(prepared) => prepared.finish(saved, output),
        OpsKind::UnTracked(prepared) => prepared.finish(output),
    };
    DispatchTensor::from_backend(BackendTensor::<Autodiff<Flex>>::Float(output))
}

/// The CPU memory of a tensor that is on no tape.
///
/// # Panics
///
/// When it is on a tape, or not in CPU memory.
pub(crate) fn plain_tensor(tensor: DispatchTensor) -> FlexTensor {
    <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(tensor)
        .expect("fused operations run on CPU tensors only")
        .float()
}

/// The CPU memory of a tensor that is on no tape; `None` when it is elsewhere.
pub(crate) fn on_cpu(tensor: &DispatchTensor) -> Option<FlexTensor> {
    let found = <DispatchTensor as DispatchKindConversion<Flex>>::try_into_backend(tensor.clone());
    found.ok().map(BackendTensor::float)
}

/// The tensor of `data` that is on no tape.
pub(crate) fn plain(data: FlexTensor) -> DispatchTensor {
    DispatchTensor::from_backend(BackendTensor::<Flex>::Float(data))
}

fn taped_tensor(tensor: DispatchTensor) -> FloatTensor<Autodiff<Flex>> {
    if tensor.autodiff == DispatchAutodiffContext::Disabled {
        return FloatTensor::<Autodiff<Flex>>::new(plain_tensor(tensor));
    }
    <DispatchTensor as DispatchKindConversion<Autodiff<Flex>>>::try_into_backend(tensor)
        .expect("fused operations run on CPU tensors only")
        .float()
}

/// The sizes of a tensor.
pub(crate) fn shape(tensor: &FlexTensor) -> Vec<usize> {
    tensor.layout().shape().to_vec()
}

/// The elements in row-major order, copied only when they do not lie so.
pub(crate) fn elements(tensor: &FlexTensor) -> Cow<'_, [f32]> {
    match tensor.as_slice::<f32>() {
        Some(elements) => Cow::Borrowed(elements),
        None => {
            let copy = tensor.to_contiguous();
            Cow::Owned(copy.as_slice::<f32>().expect("a contiguous f32 tensor").to_vec())
        }
    }
}

/// A tensor of `shape` from row-major `elements`.
pub(crate) fn tensor(shape: &[usize], elements: Vec<f32>) -> FlexTensor {
    FlexTensor::from_data(TensorData::new(elements, shape.to_vec()))
}

/// The same elements under another shape; they must lie in row-major order.
pub(crate) fn contiguous(tensor: &FlexTensor) -> FlexTensor {
    tensor.to_contiguous()
}

/// A tensor of rank 2 as a matrix, strides kept: nothing is copied.
pub(crate) fn matrix(tensor: &FlexTensor) -> Matrix<'_> {
    let layout = tensor.layout();
    let shape = layout.shape();
    let stride = |axis: usize| usize::try_from(layout.strides()[axis]).expect("no flipped axes");
    let start = layout.start_offset();
    let data = &tensor.storage::<f32>()[start..];
    Matrix::strided(data, [shape[0], shape[1]], [stride(0), stride(1)])
}
