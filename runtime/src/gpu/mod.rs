//! The second back end: the steps of a compiled model on a GPU.
//!
//! Weights are uploaded once, when the model is compiled. A session has one arena on the device,
//! laid out by the same plan as the one in memory, and one of half its size where values are kept in
//! bf16 beside f32. It launches step after step; nothing waits until the outputs are read. A node
//! without a kernel here, see [`KERNELS`], runs on the CPU: its inputs are read into their places in
//! the session's own arena, its output is written back.
//!
//! A session records the launches of sizes that it meets again, where the hardware can and nothing
//! runs on the CPU between them; from then on a run is one launch.
//!
//! CubeCL names no device in its kernels, so neither does this: `kernels::gpu::Gpu` is whatever
//! `crate::Device` opened.

mod channels_last;
mod conv;
mod elementwise;
mod float;
mod integer;
mod integer_images;
mod movement;
mod run;

use graph::DType;
use kernels::Cpu;
use kernels::gpu::{Buffer, Floats, Gpu, GpuError};

use crate::RuntimeError;
use crate::explain::RejectedKernel;
use crate::kernel::{self, Choice, Prepared};
use crate::module::{Id, Module, Node, Operation};
use crate::plan::bases;

pub(crate) use run::{Memory, run};

/// A value as a kernel sees it.
#[derive(Debug)]
pub(crate) struct Operand<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    /// Where it lies on the device; nothing where the kernel packed it.
    pub(crate) buffer: Buffer,
    /// Whether the floats that `dtype` says are bf16 here, see [`GpuKernel::writes_bf16`].
    pub(crate) bf16: bool,
}

impl Operand<'_> {
    fn floats(&self) -> Floats<'_> {
        if self.bf16 { Floats::Bf16(&self.buffer) } else { Floats::F32(&self.buffer) }
    }
}

/// How a value of floats lies on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    /// As it is.
    F32,
    /// Rounded, since all who read it round it, in the first half of its place.
    Bf16,
    /// Twice, since some do.
    Both,
}

/// One launch of a node.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) inputs: &'a [Operand<'a>],
    pub(crate) shape: &'a [usize],
    /// In f32, or bf16 where `kept` says that alone.
    pub(crate) output: Buffer,
    /// The output in bf16, where it is kept as both.
    pub(crate) rounded: Buffer,
    pub(crate) kept: Kept,
}

impl Call<'_> {
    fn floats(&self) -> Floats<'_> {
        match self.kept {
            Kept::F32 => Floats::F32(&self.output),
            Kept::Bf16 => Floats::Bf16(&self.output),
            Kept::Both => Floats::Both { exact: &self.output, rounded: &self.rounded },
        }
    }
}

/// A node's kernel on a GPU with whatever it prepared there: weights, sums of their columns.
pub(crate) trait GpuKernel: Send + Sync {
    /// Launches what computes the output, and does nothing else: launches are recorded.
    ///
    /// # Errors
    /// When the sizes are out of range.
    fn launch(&self, gpu: &Gpu, call: &Call<'_>) -> Result<(), String>;

    /// The input that names rows of the first one. The host checks its values before every run, for
    /// a GPU cannot refuse a wrong one.
    fn indices(&self) -> Option<usize> {
        None
    }

    /// The input whose content was uploaded, and which is not read again.
    fn packed_input(&self) -> Option<usize> {
        None
    }

    /// Bytes that it uploaded.
    fn packed_bytes(&self) -> usize {
        0
    }

    /// Whether it rounds this input to bf16, and can read it so.
    fn reads_bf16(&self, _input: usize) -> bool {
        false
    }

    /// Whether it can write its output as bf16, and does so where all who read it round it to that.
    fn writes_bf16(&self) -> bool {
        false
    }

    /// Whether it can also write it as both.
    fn writes_both(&self) -> bool {
        false
    }
}

/// Makes a kernel ready for a node that it can run; says why not.
type Prepare = fn(&Gpu, &Module, &Node) -> Result<Box<dyn GpuKernel>, String>;

/// A way to run an operation on a GPU.
pub(crate) struct GpuEntry {
    /// What explanations call it.
    pub(crate) name: &'static str,
    /// The kind of operation, see `Operation::kernel_kind`.
    pub(crate) operation: &'static str,
    pub(crate) prepare: Prepare,
}

/// Every kernel. The first that takes a node runs it.
pub(crate) const KERNELS: &[&[GpuEntry]] = &[
    channels_last::KERNELS,
    conv::KERNELS,
    elementwise::KERNELS,
    float::KERNELS,
    integer::KERNELS,
    integer_images::KERNELS,
    movement::KERNELS,
];

/// Chooses a kernel of the GPU, or of the CPU where it has none.
pub(crate) fn choose(gpu: &Gpu, module: &Module, node: &Node, cpu: Cpu) -> Choice {
    let kind = node.operation.kernel_kind();
    let mut rejected = Vec::new();
    let entries = KERNELS.iter().copied().flatten().filter(|entry| entry.operation == kind);
    for entry in entries {
        match (entry.prepare)(gpu, module, node) {
            Ok(kernel) => {
                let prepared = Prepared::OnGpu(kernel);
                let reason = "the first of the GPU's that can run".to_owned();
                return Choice { name: entry.name, prepared, reason, rejected, fallback: None };
            }
            Err(reason) => {
                rejected.push(RejectedKernel { kernel: entry.name.to_owned(), reason });
            }
        }
    }
    let mut choice = kernel::choose(module, node, cpu);
    if !choice.prepared.is_view() {
        let reasons: Vec<String> =
            rejected.iter().map(|other| format!("{} {}", other.kernel, other.reason)).collect();
        choice.fallback = Some(match reasons.as_slice() {
            [] => format!("no kernel for {} on a GPU", node.operation.kind()),
            reasons => reasons.join("; "),
        });
    }
    choice.rejected.splice(0..0, rejected);
    choice
}

/// The operator of a node that is one of the graph.
fn operator(node: &Node) -> Option<&graph::Op> {
    match &node.operation {
        Operation::Graph(op) => Some(op),
        _ => None,
    }
}

/// A compiled model's part on a GPU.
pub(crate) struct GpuModel {
    gpu: Gpu,
    /// For each value its content, where it is a constant that a step on the GPU reads.
    constants: Vec<Option<Buffer>>,
    /// For each value, the value that it is a view of, or itself.
    bases: Vec<Id>,
    /// For each value, how it lies on the device.
    kept: Vec<Kept>,
}

/// How each value is written: as bf16 where all who read it round it to that, on the GPU; as both where
/// some do.
fn kept(module: &Module, steps: &[Prepared]) -> Vec<Kept> {
    let mut found = vec![Kept::F32; module.values.len()];
    let (mut rounds, mut reads) = (vec![false; found.len()], vec![false; found.len()]);
    module.outputs.iter().for_each(|output| reads[output.0] = true);
    for (node, step) in module.nodes.iter().zip(steps) {
        for (position, input) in node.inputs.iter().enumerate() {
            let is_rounded = matches!(step, Prepared::OnGpu(kernel) if kernel.reads_bf16(position));
            let readers = if is_rounded { &mut rounds } else { &mut reads };
            readers[input.0] = true;
        }
    }
    for (node, step) in module.nodes.iter().zip(steps) {
        let Prepared::OnGpu(kernel) = step else { continue };
        let output = node.output.0;
        found[output] = match (rounds[output], reads[output]) {
            (true, false) if kernel.writes_bf16() => Kept::Bf16,
            (true, true) if kernel.writes_both() => Kept::Both,
            _ => Kept::F32,
        };
    }
    found
}

impl GpuModel {
    /// Uploads the constants that steps on the GPU read.
    pub(crate) fn new(gpu: Gpu, module: &Module, steps: &[Prepared]) -> Self {
        let bases = bases(module, steps);
        let mut constants: Vec<Option<Buffer>> = vec![None; module.values.len()];
        for (node, step) in module.nodes.iter().zip(steps) {
            let Prepared::OnGpu(kernel) = step else { continue };
            for (position, input) in node.inputs.iter().enumerate() {
                let base = bases[input.0];
                let packed = kernel.packed_input() == Some(position);
                let missing = constants[base.0].is_none() && !packed;
                if let Some(tensor) = module.constant(base).filter(|_| missing) {
                    constants[base.0] = Some(gpu.upload(tensor.bytes()));
                }
            }
        }
        let kept = kept(module, steps);
        Self { gpu, constants, bases, kept }
    }

    /// Whether some values are kept twice.
    fn keeps_both(&self) -> bool {
        self.kept.contains(&Kept::Both)
    }

    fn failed(&self, error: &GpuError) -> RuntimeError {
        RuntimeError::Device { name: self.gpu.name().to_owned(), reason: error.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique() {
        let all: Vec<_> = KERNELS.iter().copied().flatten().collect();
        for (index, entry) in all.iter().enumerate() {
            let alike =
                |other: &&&GpuEntry| other.name == entry.name && other.operation == entry.operation;
            assert!(all[..index].iter().find(alike).is_none(), "{} twice", entry.name);
            assert!(entry.name.starts_with("gpu."), "{}", entry.name);
        }
    }
}
