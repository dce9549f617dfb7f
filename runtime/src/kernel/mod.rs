//! What runs a node: one file a family, one table [`KERNELS`].

pub(crate) mod attention;
pub(crate) mod bf16;
pub(crate) mod bf16_conv;
mod boxes;
mod channel_norm;
pub(crate) mod channels_last;
mod choose;
mod concat;
pub(crate) mod conv;
mod conv_transpose;
mod deform;
mod elementwise;
mod fold;
mod function;
pub(crate) mod gather;
mod generate;
mod grid;
mod integer;
mod integer_conv;
mod integer_pool;
mod linear;
mod matmul;
pub(crate) mod movement;
mod pad;
mod pair;
pub(crate) mod pool;
pub(crate) mod quantize;
mod rank;
mod rearrange;
mod recurrent;
mod reduce;
mod reference;
mod region;
mod repeat;
pub(crate) mod resize;
mod rotary;
mod rows;
mod scatter;
mod select;
mod several;
mod slice_by;
pub(crate) mod volume;

use graph::{Bindings, DType, Dim, Element, Shape, Tensor};
use kernels::{Cpu, Tier};

use crate::cost::Rate;
use crate::dynamic::Admit;
use crate::explain::RejectedKernel;
use crate::module::{Id, Module, Node, Operation};
use crate::plan::SizeTerm;

pub(crate) use function::function_of;
pub(crate) use reference::from_operand;
pub(crate) use several::{side_by_side, written};

/// A value as a kernel sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operand<'a> {
    pub(crate) dtype: DType,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: &'a [u8],
}

impl<'a> Operand<'a> {
    /// Stands for an input that is not there.
    pub(crate) const NONE: Self = Self { dtype: DType::F32, shape: &[], bytes: &[] };

    /// The elements of a value that lies in memory as bf16.
    pub(crate) fn bf16(&self) -> &'a [u16] {
        if self.bytes.is_empty() { &[] } else { bytemuck::cast_slice(self.bytes) }
    }

    /// The elements, of the type that the kernel accepted when the model was compiled.
    pub(crate) fn elements<T: Element>(&self) -> &'a [T] {
        // No bytes may start anywhere; elements have to be aligned.
        if self.bytes.is_empty() { &[] } else { bytemuck::checked::cast_slice(self.bytes) }
    }
}

/// One run of a node.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    pub(crate) inputs: &'a [Operand<'a>],
    pub(crate) shape: &'a [usize],
    pub(crate) output: &'a mut [u8],
    /// The input that lies where the output goes, see [`Kernel::in_place`]: `output` holds its
    /// elements, and it has no bytes of its own.
    pub(crate) in_place: Option<usize>,
    /// What [`Kernel::scratch`] asked for, with any content.
    pub(crate) scratch: &'a mut [u8],
    pub(crate) bindings: &'a Bindings,
}

/// One run of a node whose output gets memory of its own.
#[derive(Clone, Copy)]
pub(crate) struct Free<'a> {
    pub(crate) inputs: &'a [&'a Tensor],
    pub(crate) bindings: &'a Bindings,
    /// Whether there is room for what is written.
    pub(crate) admit: Admit<'a>,
}

impl<'a> Call<'a> {
    pub(crate) fn f32(&self, input: usize) -> &'a [f32] {
        self.inputs[input].elements()
    }
}

/// The elements of an output.
pub(crate) fn elements_mut<T: bytemuck::Pod>(output: &mut [u8]) -> &mut [T] {
    if output.is_empty() { &mut [] } else { bytemuck::cast_slice_mut(output) }
}

/// Memory that a kernel needs while it runs: as much as a tensor of this shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scratch {
    pub(crate) element_bytes: usize,
    pub(crate) shape: Shape,
}

/// A node's kernel with whatever it prepared: packed weights, scales.
pub(crate) trait Kernel: Send + Sync {
    /// Computes the output.
    ///
    /// # Errors
    /// When the values of an input are out of range.
    fn run(&self, call: Call<'_>) -> Result<(), String>;

    /// Inputs that the output may lie over, best first. The planner does so where one has the
    /// output's size, is not read later, and is no input or constant of the model; the call says
    /// which it is.
    fn in_place(&self) -> &'static [usize] {
        &[]
    }

    /// Memory that it needs while it runs, for inputs and an output of these shapes.
    fn scratch(&self, _inputs: &[&[Dim]], _output: &[Dim]) -> Option<Scratch> {
        None
    }

    /// [`Kernel::scratch`] for a kernel that runs a program of its own: a sum.
    fn arena(&self) -> &[SizeTerm] {
        &[]
    }

    /// Computes the output, and those behind it, where a run goes node by node: for a kernel whose
    /// output's sizes only computing it tells. `None` for all others.
    ///
    /// # Errors
    /// When the values of an input are out of range, or there is no room for what is written.
    fn compute(&self, _: Free<'_>) -> Option<Result<Vec<Tensor>, String>> {
        None
    }

    /// The input whose content was packed, and which is not read again.
    fn packed_input(&self) -> Option<usize> {
        None
    }

    /// Whether the content of an input was packed, and is not read again.
    fn has_packed(&self, input: usize) -> bool {
        self.packed_input() == Some(input)
    }

    /// How fast it works at best.
    fn rate(&self) -> Rate {
        Rate::default()
    }

    /// Bytes of packed weights, and of the constants of a program of its own.
    fn packed_bytes(&self) -> usize {
        0
    }

    /// Whether it is the graph's own definition of the operator.
    fn is_definition(&self) -> bool {
        false
    }

    /// What explanations say of a program of its own.
    fn summary(&self) -> Option<String> {
        None
    }
}

/// How a node gets its result.
pub(crate) enum Prepared {
    /// It is a part of its first input, from index `start` of the outermost dimension on.
    View { start: usize },
    /// It is a part of what its first input's node writes, behind so many bytes.
    Part { behind: Vec<SizeTerm> },
    /// A kernel computes it.
    Run(Box<dyn Kernel>),
    /// A kernel computes it on a GPU.
    #[cfg(feature = "gpu")]
    OnGpu(Box<dyn crate::gpu::GpuKernel>),
}

impl Prepared {
    /// The kernel, where one computes the result on the CPU.
    pub(crate) fn kernel(&self) -> Option<&dyn Kernel> {
        match self {
            Self::Run(kernel) => Some(&**kernel),
            _ => None,
        }
    }

    /// See [`Kernel::is_definition`].
    pub(crate) fn is_definition(&self) -> bool {
        self.kernel().is_some_and(|kernel| kernel.is_definition())
    }

    /// Whether nothing is computed.
    pub(crate) fn is_view(&self) -> bool {
        matches!(self, Self::View { .. } | Self::Part { .. })
    }

    /// Whether the content of an input was packed, see [`Kernel::packed_input`].
    pub(crate) fn has_packed(&self, input: usize) -> bool {
        match self {
            #[cfg(feature = "gpu")]
            Self::OnGpu(kernel) => kernel.packed_input() == Some(input),
            _ => self.kernel().is_some_and(|kernel| kernel.has_packed(input)),
        }
    }

    /// See [`Kernel::packed_bytes`].
    pub(crate) fn packed_bytes(&self) -> usize {
        match self {
            #[cfg(feature = "gpu")]
            Self::OnGpu(kernel) => kernel.packed_bytes(),
            _ => self.kernel().map_or(0, |kernel| kernel.packed_bytes()),
        }
    }
}

fn run(kernel: impl Kernel + 'static) -> Prepared {
    Prepared::Run(Box::new(kernel))
}

/// A way to run an operation.
pub(crate) struct KernelEntry {
    /// What explanations call it.
    pub(crate) name: &'static str,
    /// The kind of operation, see `Operation::kernel_kind`, or [`EVERY_OPERATOR`].
    pub(crate) operation: &'static str,
    /// The instructions it is made of; `None` where it takes what the model's tier has.
    pub(crate) tier: Option<Tier>,
    /// Rough time for the same work, in units of the fastest kernel of the operation.
    pub(crate) cost: u32,
    /// Whether it can run the node; says why not.
    pub(crate) accepts: fn(&Module, &Node) -> Result<(), String>,
    /// Makes it ready.
    pub(crate) prepare: fn(&Module, &Node, Cpu) -> Prepared,
}

/// Stands for every operator of the graph, fused operations excepted.
const EVERY_OPERATOR: &str = "*";

/// Every kernel. Of those that accept a node, the cheapest runs.
pub(crate) const KERNELS: &[&[KernelEntry]] = &[
    attention::KERNELS,
    bf16::KERNELS,
    bf16_conv::KERNELS,
    boxes::KERNELS,
    channel_norm::KERNELS,
    channels_last::KERNELS,
    choose::KERNELS,
    concat::KERNELS,
    conv::KERNELS,
    conv_transpose::KERNELS,
    deform::KERNELS,
    elementwise::KERNELS,
    fold::KERNELS,
    function::KERNELS,
    gather::KERNELS,
    generate::KERNELS,
    grid::KERNELS,
    integer::KERNELS,
    integer_conv::KERNELS,
    integer_pool::KERNELS,
    linear::KERNELS,
    matmul::KERNELS,
    movement::KERNELS,
    pad::KERNELS,
    pair::KERNELS,
    pool::KERNELS,
    quantize::KERNELS,
    rank::KERNELS,
    rearrange::KERNELS,
    recurrent::KERNELS,
    reduce::KERNELS,
    region::KERNELS,
    repeat::KERNELS,
    resize::KERNELS,
    rotary::KERNELS,
    rows::KERNELS,
    scatter::KERNELS,
    select::KERNELS,
    several::KERNELS,
    slice_by::KERNELS,
    volume::KERNELS,
    reference::KERNELS,
];

/// The kernel chosen for a node.
pub(crate) struct Choice {
    /// What explanations call it.
    pub(crate) name: &'static str,
    pub(crate) prepared: Prepared,
    pub(crate) reason: String,
    pub(crate) rejected: Vec<RejectedKernel>,
    /// Why it runs on the CPU although the model runs on a GPU.
    pub(crate) fallback: Option<String>,
}

/// Chooses the cheapest kernel that accepts the node.
pub(crate) fn choose(module: &Module, node: &Node, cpu: Cpu) -> Choice {
    let kind = node.operation.kernel_kind();
    let of_graph = matches!(node.operation, Operation::Graph(_));
    let fits = |entry: &&KernelEntry| {
        entry.operation == kind || entry.operation == EVERY_OPERATOR && of_graph
    };
    let mut rejected = Vec::new();
    let (mut usable_entries, mut best) = (0, None::<(&KernelEntry, Cpu)>);
    let candidates = KERNELS.iter().copied().flatten();
    for entry in candidates.filter(fits) {
        let mut reject = |entry: &KernelEntry, reason| {
            rejected.push(RejectedKernel { kernel: entry.name.to_owned(), reason });
        };
        match usable(module, node, cpu, entry) {
            Err(reason) => reject(entry, reason),
            Ok(entry_cpu) => {
                usable_entries += 1;
                match best {
                    Some((other, _)) if other.cost <= entry.cost => {
                        reject(entry, slower(entry, other));
                    }
                    _ => {
                        if let Some((other, _)) = best.replace((entry, entry_cpu)) {
                            reject(other, slower(other, entry));
                        }
                    }
                }
            }
        }
    }
    let (entry, cpu) = best.expect("every operation has a kernel that accepts all its nodes");
    let mut reason = match (usable_entries, rejected.len()) {
        (_, 0) => "the only kernel for the operation".to_owned(),
        (1, others) => format!("the only one of {} kernels that can run here", others + 1),
        (usable, _) => format!("the cheapest of {usable} that can run, cost {}", entry.cost),
    };
    let prepared = (entry.prepare)(module, node, cpu);
    if let Some(summary) = prepared.kernel().and_then(|kernel| kernel.summary()) {
        reason = format!("{reason}; {summary}");
    }
    Choice { name: entry.name, prepared, reason, rejected, fallback: None }
}

fn slower(entry: &KernelEntry, than: &KernelEntry) -> String {
    format!("cost {} against {} of {}", entry.cost, than.cost, than.name)
}

/// Whether a kernel runs the node that is not the graph's definition.
pub(crate) fn has_kernel(module: &Module, node: &Node) -> bool {
    let kind = node.operation.kernel_kind();
    let mut own = KERNELS.iter().copied().flatten().filter(|entry| entry.operation == kind);
    own.any(|entry| usable(module, node, module.cpu, entry).is_ok())
}

/// The instructions to run an entry with, or why it cannot run.
fn usable(module: &Module, node: &Node, cpu: Cpu, entry: &KernelEntry) -> Result<Cpu, String> {
    (entry.accepts)(module, node)?;
    let Some(tier) = entry.tier else { return Ok(cpu) };
    if tier > cpu.tier() {
        return Err(format!("needs tier {tier}, the model runs at {}", cpu.tier()));
    }
    Cpu::with_tier(tier).map_err(|error| error.to_string())
}

/// Accepts every node of the operation.
fn any(_: &Module, _: &Node) -> Result<(), String> {
    Ok(())
}

/// Dimensions at most where a kernel gives each a place of its own.
pub(crate) const MOST_DIMENSIONS: usize = 8;

/// Accepts values of so many dimensions at most.
pub(crate) fn few_dimensions(module: &Module, value: Id, most: usize) -> Result<(), String> {
    match module.value(value).shape.len() {
        rank if rank <= most => Ok(()),
        rank => Err(format!("takes {most} dimensions at most, found {rank}")),
    }
}

/// Accepts nodes whose inputs, as far as they are there, are all f32.
pub(crate) fn floats(module: &Module, node: &Node) -> Result<(), String> {
    (0..node.inputs.len()).try_for_each(|input| expect_type(module, node, input, DType::F32))
}

/// Accepts nodes whose input has elements of this type.
pub(crate) fn expect_type(
    module: &Module,
    node: &Node,
    input: usize,
    dtype: DType,
) -> Result<(), String> {
    match module.value(node.inputs[input]).dtype {
        found if found == dtype => Ok(()),
        found => Err(format!("takes {dtype} for input {input}, found {found}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_costs_positive() {
        let all: Vec<_> = KERNELS.iter().copied().flatten().collect();
        for (index, entry) in all.iter().enumerate() {
            let alike = |other: &&&KernelEntry| {
                other.name == entry.name && other.operation == entry.operation
            };
            assert!(all[..index].iter().find(alike).is_none(), "{} twice", entry.name);
            assert!(entry.cost > 0, "{}", entry.name);
        }
    }
}
