//! Elements that move, or only get another shape.

use bytemuck::{Pod, cast_slice};
use graph::op::{Slice, Transpose};
use graph::{DType, Dim, Op};
use kernels::broadcast::{BROADCAST_RANK, Broadcast, expand};
use kernels::{Cpu, permute, permute_any};

use super::{
    Call, Kernel, KernelEntry, MOST_DIMENSIONS, Prepared, any, elements_mut, expect_type,
    few_dimensions, run,
};
use crate::module::{Module, Node, Operation};

const fn view(name: &'static str, operation: &'static str) -> KernelEntry {
    let prepare = |_: &Module, _: &Node, _| Prepared::View { start: 0 };
    KernelEntry { name, operation, tier: None, cost: 1, accepts: any, prepare }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    view("reshape.view", "Reshape"),
    view("unsqueeze.view", "Unsqueeze"),
    view("squeeze.view", "Squeeze"),
    view("identity.view", "Identity"),
    KernelEntry {
        name: "slice.view",
        operation: "Slice",
        tier: None,
        cost: 1,
        accepts: accepts_part,
        prepare: |_, node, _| Prepared::View { start: slice(node).start },
    },
    KernelEntry {
        name: "slice.copy",
        operation: "Slice",
        tier: None,
        cost: 2,
        accepts: any,
        prepare: |module, node, _| {
            let element_bytes = module.value(node.output).element_bytes();
            run(CopySlice { op: slice(node).clone(), element_bytes })
        },
    },
    KernelEntry {
        name: "transpose.f32",
        operation: "Transpose",
        tier: None,
        cost: 1,
        accepts: accepts_transpose,
        prepare: |_, node, cpu| match &node.operation {
            Operation::Graph(Op::Transpose(op)) => run(Transposition { cpu, op: op.clone() }),
            _ => unreachable!("the table pairs this kernel with transpositions"),
        },
    },
    KernelEntry {
        name: "transpose.copy",
        operation: "Transpose",
        tier: None,
        cost: 2,
        accepts: |module, node| few_dimensions(module, node.inputs[0], MOST_DIMENSIONS),
        prepare: |module, node, _| match &node.operation {
            Operation::Graph(Op::Transpose(op)) => {
                let element_bytes = module.value(node.output).element_bytes();
                run(CopyTransposition { op: op.clone(), element_bytes })
            }
            _ => unreachable!("the table pairs this kernel with transpositions"),
        },
    },
    KernelEntry {
        name: "expand.copy",
        operation: "Expand",
        tier: None,
        cost: 1,
        accepts: |module, node| few_dimensions(module, node.output, BROADCAST_RANK),
        prepare: |_, _, _| run(Expansion),
    },
    KernelEntry {
        name: "cast.copy",
        operation: "Cast",
        tier: None,
        cost: 1,
        accepts: any,
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::Cast(op)) => run(CopyCast { to: op.to }),
            _ => unreachable!("the table pairs this kernel with casts"),
        },
    },
];

/// A part of the outermost dimension; one that may not be there only where every run needs it.
fn accepts_part(module: &Module, node: &Node) -> Result<(), String> {
    let Slice { axis, end, .. } = slice(node);
    if *axis != 0 {
        return Err(format!("takes axis 0 only, found {axis}"));
    }
    let fixed = |dim: Option<&Dim>| dim.and_then(Dim::fixed);
    let size = fixed(module.value(node.inputs[0]).shape.first());
    let is_there = fixed(Some(end)).zip(size).is_some_and(|(end, size)| end <= size);
    let is_choice = |node: &Node| matches!(node.operation, Operation::Choose);
    if is_there || !module.nodes.iter().any(is_choice) {
        return Ok(());
    }
    Err("takes entries that are there, where a run may not need them".to_owned())
}

pub(crate) fn slice(node: &Node) -> &Slice {
    match &node.operation {
        Operation::Graph(Op::Slice(op)) => op,
        _ => unreachable!("the table pairs this kernel with slices"),
    }
}

struct CopySlice {
    op: Slice,
    element_bytes: usize,
}

impl Kernel for CopySlice {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let Slice { axis, start, .. } = self.op;
        let input = &call.inputs[0];
        let (size, kept) = (input.shape[axis], call.shape[axis]);
        if start + kept > size {
            let end = start + kept;
            return Err(format!("{start}..{end} is outside dimension {axis} of size {size}"));
        }
        let inner = self.element_bytes * input.shape[axis + 1..].iter().product::<usize>();
        let blocks = input.bytes.chunks_exact((size * inner).max(1));
        for (output, input) in call.output.chunks_exact_mut((kept * inner).max(1)).zip(blocks) {
            output.copy_from_slice(&input[start * inner..(start + kept) * inner]);
        }
        Ok(())
    }
}

fn accepts_transpose(module: &Module, node: &Node) -> Result<(), String> {
    expect_type(module, node, 0, DType::F32)?;
    if module.value(node.inputs[0]).as_bf16 {
        return Err("takes elements of 4 bytes".to_owned());
    }
    few_dimensions(module, node.inputs[0], MOST_DIMENSIONS)
}

struct Transposition {
    cpu: Cpu,
    op: Transpose,
}

impl Kernel for Transposition {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, y) = (call.f32(0), elements_mut(call.output));
        permute(self.cpu, x, call.inputs[0].shape, &self.op.permutation, y);
        Ok(())
    }
}

struct CopyTransposition {
    op: Transpose,
    element_bytes: usize,
}

impl Kernel for CopyTransposition {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        fn move_all<T: Pod + Send + Sync>(permutation: &[usize], call: Call<'_>) {
            let Call { inputs, output, .. } = call;
            let x = if inputs[0].bytes.is_empty() { &[] } else { cast_slice(inputs[0].bytes) };
            permute_any::<T>(x, inputs[0].shape, permutation, elements_mut(output));
        }
        let Transpose { permutation } = &self.op;
        match self.element_bytes {
            1 => move_all::<u8>(permutation, call),
            2 => move_all::<u16>(permutation, call),
            4 => move_all::<u32>(permutation, call),
            8 => move_all::<u64>(permutation, call),
            other => return Err(format!("takes elements of 1 to 8 bytes, found {other}")),
        }
        Ok(())
    }
}

struct Expansion;

impl Kernel for Expansion {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        fn repeat<T: Pod + Send + Sync>(call: Call<'_>) {
            let x = &call.inputs[0];
            let elements = if x.bytes.is_empty() { &[] } else { cast_slice::<u8, T>(x.bytes) };
            let broadcast = Broadcast::new(call.shape, [x.shape]);
            expand(&broadcast, elements, elements_mut(call.output));
        }
        match call.inputs[0].dtype.size_bytes() {
            1 => repeat::<u8>(call),
            4 => repeat::<u32>(call),
            8 => repeat::<u64>(call),
            bytes => return Err(format!("does not know elements of {bytes} bytes")),
        }
        Ok(())
    }
}

struct CopyCast {
    to: DType,
}

impl Kernel for CopyCast {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss,
        clippy::cast_lossless,
        reason = "the operator's meaning"
    )]
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let x = &call.inputs[0];
        macro_rules! from {
            ($type:ty, $is_true:expr) => {{
                let x = x.elements::<$type>();
                match self.to {
                    DType::F32 => write(call.output, x, |x| x as f32),
                    DType::I64 => write(call.output, x, |x| x as i64),
                    DType::I32 => write(call.output, x, |x| x as i32),
                    DType::I8 => write(call.output, x, |x| x as i8),
                    DType::U8 => write(call.output, x, |x| x as u8),
                    DType::Bool => write(call.output, x, |x| u8::from($is_true(x))),
                }
            }};
        }
        match x.dtype {
            from if from == self.to => call.output.copy_from_slice(x.bytes),
            DType::F32 => from!(f32, |x| x != 0.0),
            DType::I64 => from!(i64, |x| x != 0),
            DType::I32 => from!(i32, |x| x != 0),
            DType::I8 => from!(i8, |x| x != 0),
            // Truth values lie there as 0 and 1.
            DType::U8 | DType::Bool => {
                let x = x.bytes;
                match self.to {
                    DType::F32 => write(call.output, x, |x| x as f32),
                    DType::I64 => write(call.output, x, |x| x as i64),
                    DType::I32 => write(call.output, x, |x| x as i32),
                    DType::I8 => write(call.output, x, |x| x as i8),
                    DType::U8 => write(call.output, x, |x| x),
                    DType::Bool => write(call.output, x, |x| u8::from(x != 0)),
                }
            }
        }
        Ok(())
    }
}

fn write<T: Copy, U: Pod>(output: &mut [u8], x: &[T], cast: impl Fn(T) -> U) {
    let output: &mut [U] = elements_mut(output);
    output.iter_mut().zip(x).for_each(|(y, &x)| *y = cast(x));
}
