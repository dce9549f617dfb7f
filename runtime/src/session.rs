#[cfg(test)]
mod tests;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use graph::{Bindings, DType, Dim, Element, Tensor, TensorError};

use crate::RuntimeError;
use crate::compile::Shared;
use crate::dynamic::{self, Values};
use crate::kernel::{Call, Kernel, Operand, from_operand};
use crate::module::{Id, Module, Node};
use crate::plan::{self, ALIGNMENT, Place, Plan};
use crate::program::Program;
use crate::slices::Slices;

/// Sizes for which a session keeps plans at the same time.
const MOST_PLANS: usize = 512;

/// What memory holds that nothing may read: NaN as f32, −1 as an index.
const POISON: u8 = 0xff;

/// Inputs that a node has without costing an allocation a run.
const FEW_INPUTS: usize = 8;

/// Who is told which node has run.
pub(crate) type Watch<'w> = &'w mut (dyn FnMut(usize) + Send);

/// Runs a model, one request after another, in memory that it keeps.
pub struct Session {
    model: Arc<Shared>,
    /// Oldest first.
    plans: Vec<Planned>,
    arena: Vec<u8>,
    /// What lies on the GPU that the model runs on.
    #[cfg(feature = "gpu")]
    on_gpu: Option<crate::gpu::Memory>,
    /// Outputs of the last run of a model whose sizes depend on values.
    computed: Vec<Tensor>,
}

/// How inputs of some shapes run.
struct Planned {
    shapes: Vec<Vec<usize>>,
    plan: Plan,
    /// How a run is cut, where it is.
    slices: Option<Slices>,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Session")
            .field("plans", &self.plans.len())
            .field("arena_bytes", &self.arena.len())
            .finish_non_exhaustive()
    }
}

impl Session {
    pub(crate) fn new(model: Arc<Shared>) -> Self {
        Self {
            #[cfg(feature = "gpu")]
            on_gpu: model.gpu.as_ref().map(crate::gpu::Memory::new),
            model,
            plans: Vec::new(),
            arena: Vec::new(),
            computed: Vec::new(),
        }
    }

    /// Runs the model and copies its outputs, in the order of the graph.
    ///
    /// # Errors
    /// As [`Session::run_borrowed`].
    pub fn run(&mut self, inputs: &[(&str, &Tensor)]) -> Result<Vec<Tensor>, RuntimeError> {
        self.run_borrowed(inputs)?.iter().map(|output| output.to_tensor()).collect()
    }

    /// Runs the model and lends its outputs. With sizes it has seen before, the session itself
    /// allocates nothing.
    ///
    /// # Errors
    /// When an input is missing, unknown, or has another type or shape than the model declares;
    /// when the sizes cannot run; when a node fails on the values.
    pub fn run_borrowed<'a>(
        &'a mut self,
        inputs: &'a [(&'a str, &'a Tensor)],
    ) -> Result<Outputs<'a>, RuntimeError> {
        self.run_watched(inputs, None)
    }

    /// Why runs on a GPU launch their kernels one by one, where the device refused to record them:
    /// it is asked when sizes come a second time.
    #[cfg(feature = "gpu")]
    pub fn recording_refused(&self) -> Option<String> {
        self.on_gpu.as_ref()?.refused()
    }

    /// [`Session::run_borrowed`] that says which node has run, after each. A GPU is waited for then.
    pub(crate) fn run_watched<'a>(
        &'a mut self,
        inputs: &'a [(&'a str, &'a Tensor)],
        watch: Option<Watch<'_>>,
    ) -> Result<Outputs<'a>, RuntimeError> {
        if self.model.program.dynamic {
            return self.run_dynamic(inputs, tell(watch));
        }
        let index = self.plan(inputs)?;
        let Self {
            model,
            plans,
            arena,
            #[cfg(feature = "gpu")]
            on_gpu,
            ..
        } = self;
        let Planned { plan, slices, .. } = &plans[index];
        let program = &model.program;
        let run = Run::new(program, plan, Given::Tensors(inputs));
        if let (Some(slices), None) = (slices, &watch) {
            let arena = room(arena, slices.bytes())?;
            slices.run(&run, model, arena)?;
            return Ok(Outputs(Source::Sliced { run, slices, arena }));
        }
        let arena = room(arena, plan.bytes)?;
        #[cfg(feature = "gpu")]
        if let (Some(gpu), Some(on_gpu)) = (&model.gpu, on_gpu) {
            let work = || crate::gpu::run(&run, gpu, &program.steps, on_gpu, arena, watch);
            model.team.run(work)?;
            return Ok(Outputs(Source::Planned { run, arena }));
        }
        model.team.run(|| run.steps(arena, tell(watch)))?;
        Ok(Outputs(Source::Planned { run, arena }))
    }

    fn run_dynamic<'a>(
        &'a mut self,
        inputs: &'a [(&'a str, &'a Tensor)],
        ran: impl FnMut(usize) + Send,
    ) -> Result<Outputs<'a>, RuntimeError> {
        let Self { model, computed, .. } = self;
        let module = &model.program.module;
        let (_, bindings) = bind(module, inputs)?;
        let given = |&id: &Id| find(module, inputs, id).cloned();
        let tensors: Vec<Tensor> = module.inputs.iter().filter_map(given).collect();
        let admit = |node: &str, bytes| plan::admit_written(model, node, bytes);
        let mut values = Values::new(&model.program);
        *computed = model.team.run(|| values.run(tensors, &bindings, &admit, ran))?;
        Ok(Outputs(Source::Computed { module, tensors: computed }))
    }

    /// Index of the plan for the shapes of these inputs.
    fn plan(&mut self, inputs: &[(&str, &Tensor)]) -> Result<usize, RuntimeError> {
        let module = &self.model.program.module;
        check_types(module, inputs)?;
        let given = |shapes: &[Vec<usize>]| {
            let mut ids = module.inputs.iter().zip(shapes);
            ids.all(|(&id, shape)| find(module, inputs, id).is_some_and(|x| x.shape() == shape))
        };
        if let Some(index) = self.plans.iter().position(|planned| given(&planned.shapes)) {
            return Ok(index);
        }
        let (shapes, bindings) = bind(module, inputs)?;
        let plan = self.model.plan(bindings)?;
        let slices = self.model.slices(&plan);
        if self.plans.len() == MOST_PLANS {
            self.plans.remove(0);
        }
        self.plans.push(Planned { shapes, plan, slices });
        Ok(self.plans.len() - 1)
    }
}

/// So many bytes of an arena that grows where it is too small.
fn room(arena: &mut Vec<u8>, bytes: usize) -> Result<&mut [u8], RuntimeError> {
    let wanted = bytes + ALIGNMENT;
    if arena.len() < wanted {
        // The old content is of no use: making room without it copies nothing.
        *arena = Vec::new();
        arena.try_reserve_exact(wanted).map_err(|error| RuntimeError::Sizes {
            name: "arena".to_owned(),
            reason: format!("cannot have {wanted} bytes: {error}"),
        })?;
        arena.resize(wanted, 0);
    }
    let start = arena.as_ptr().align_offset(ALIGNMENT);
    let arena = &mut arena[start..start + bytes];
    poison(arena);
    Ok(arena)
}

fn find<'a>(module: &Module, inputs: &[(&str, &'a Tensor)], id: Id) -> Option<&'a Tensor> {
    let name = &module.value(id).name;
    inputs.iter().find(|(given, _)| given == name).map(|(_, tensor)| *tensor)
}

/// Checks that every input is there with its type, and no other.
fn check_types(module: &Module, inputs: &[(&str, &Tensor)]) -> Result<(), RuntimeError> {
    let fail = |name: &str, reason: String| RuntimeError::Input { name: name.to_owned(), reason };
    for &id in &module.inputs {
        let value = module.value(id);
        let found = find(module, inputs, id);
        let tensor = found
            .ok_or_else(|| fail(&value.name, "expected a tensor, none was given".to_owned()))?;
        if tensor.dtype() != value.dtype {
            let shape = graph::dim::display(&value.shape);
            let reason = format!("expected {}{shape}, found {tensor:?}", value.dtype);
            return Err(fail(&value.name, reason));
        }
    }
    let known = |name: &str| module.inputs.iter().any(|&id| module.value(id).name == name);
    match inputs.iter().find(|(name, _)| !known(name)) {
        Some((name, _)) => Err(fail(name, "the model has no such input".to_owned())),
        None => Ok(()),
    }
}

/// The shapes of the inputs in the model's order, and the sizes they give to its symbols.
pub(crate) fn bind(
    module: &Module,
    inputs: &[(&str, &Tensor)],
) -> Result<(Vec<Vec<usize>>, Bindings), RuntimeError> {
    check_types(module, inputs)?;
    let mut bindings = Bindings::default();
    let mut shapes = Vec::new();
    for &id in &module.inputs {
        let value = module.value(id);
        let tensor = find(module, inputs, id).expect("`check_types` found every input");
        let bound = bindings.bind(&value.shape, tensor.shape());
        bound.map_err(|reason| RuntimeError::Input { name: value.name.clone(), reason })?;
        shapes.push(tensor.shape().to_vec());
    }
    Ok((shapes, bindings))
}

/// Overwrites memory that nothing may read, in debug builds: floats become NaN, indices invalid.
pub(crate) fn poison(bytes: &mut [u8]) {
    if cfg!(debug_assertions) {
        bytes.fill(POISON);
    }
}

fn tell(mut watch: Option<Watch<'_>>) -> impl FnMut(usize) + Send {
    move |index| {
        if let Some(watch) = &mut watch {
            watch(index);
        }
    }
}

/// What a run reads from outside.
#[derive(Clone, Copy)]
pub(crate) enum Given<'a> {
    /// Tensors by name.
    Tensors(&'a [(&'a str, &'a Tensor)]),
    /// What a round of a loop reads.
    Round(&'a dyn Inputs),
}

/// Inputs by index.
pub(crate) trait Inputs: Sync {
    /// The bytes of one.
    fn bytes(&self, index: usize) -> &[u8];
}

/// One run: what to read and where it lies.
#[derive(Clone, Copy)]
pub(crate) struct Run<'a> {
    program: &'a Program,
    pub(crate) module: &'a Module,
    pub(crate) plan: &'a Plan,
    given: Given<'a>,
    /// The first element of a slice, and the elements of its batch.
    slice: Option<(usize, usize)>,
}

impl<'a> Run<'a> {
    pub(crate) fn new(program: &'a Program, plan: &'a Plan, given: Given<'a>) -> Self {
        Self { program, module: &program.module, plan, given, slice: None }
    }

    /// The run of the elements of the batch from `first` on that the plan is for.
    pub(crate) fn of_slice<'b>(&'b self, plan: &'b Plan, first: usize, batch: usize) -> Run<'b> {
        Run { plan, slice: Some((first, batch)), ..*self }
    }

    /// Runs all nodes in an arena of the plan's size.
    pub(crate) fn steps(
        &self,
        arena: &mut [u8],
        mut ran: impl FnMut(usize),
    ) -> Result<(), RuntimeError> {
        let Program { module, steps, guards, .. } = self.program;
        let mut freed = self.plan.freed.iter().peekable();
        for (index, (node, step)) in module.nodes.iter().zip(steps).enumerate() {
            if let Some(kernel) = step.kernel()
                && guards.admit(index, |condition| self.holds(condition, arena))
            {
                self.step(index, node, kernel, arena)?;
            }
            ran(index);
            while let Some((_, range)) = freed.next_if(|(last, _)| *last == index) {
                poison(&mut arena[range.clone()]);
            }
        }
        Ok(())
    }

    /// Whether a condition holds.
    fn holds(&self, condition: Id, arena: &[u8]) -> bool {
        self.bytes(condition, |range| &arena[range]).first().is_some_and(|&byte| byte != 0)
    }

    /// Runs the kernel of one node.
    pub(crate) fn step(
        &self,
        index: usize,
        node: &Node,
        kernel: &dyn Kernel,
        arena: &mut [u8],
    ) -> Result<(), RuntimeError> {
        let count = node.inputs.len();
        let (mut few, mut many) = ([Operand::NONE; FEW_INPUTS], Vec::new());
        let operands = match few.get_mut(..count) {
            Some(few) => few,
            None => {
                many.resize(count, Operand::NONE);
                many.as_mut_slice()
            }
        };
        let (output, scratch) = self.split(index, node, arena, operands);
        let call = Call {
            inputs: operands,
            shape: &self.plan.shapes[node.output.0],
            output,
            in_place: self.program.buffers.in_place[index],
            scratch,
            bindings: &self.plan.bindings,
        };
        kernel.run(call).map_err(|reason| RuntimeError::Node {
            node: node.name.clone(),
            operation: node.operation.kind(),
            reason,
        })
    }

    /// The bytes given for an input.
    fn input(&self, index: usize) -> &'a [u8] {
        match self.given {
            Given::Tensors(inputs) => {
                let tensor = find(self.module, inputs, self.module.inputs[index]);
                tensor.expect("`check_types` found every input").bytes()
            }
            Given::Round(inputs) => inputs.bytes(index),
        }
    }

    /// Every input's sizes and bytes.
    #[cfg(feature = "gpu")]
    pub(crate) fn inputs(&self) -> impl Iterator<Item = (&'a [usize], &'a [u8])> {
        let run = *self;
        let shapes = self.module.inputs.iter().map(move |id| run.plan.shapes[id.0].as_slice());
        shapes.enumerate().map(move |(index, shape)| (shape, run.input(index)))
    }

    /// The inputs of a node, the place of its output and its scratch, all at once: the plan keeps
    /// them apart, but for an input that the output lies over, which gets no bytes.
    fn split<'b>(
        &self,
        index: usize,
        node: &Node,
        arena: &'b mut [u8],
        operands: &mut [Operand<'b>],
    ) -> (&'b mut [u8], &'b mut [u8])
    where
        'a: 'b,
    {
        let written = self.plan.written[index].clone();
        let (written, read) = split(arena, [written, self.plan.scratch[index].clone()]);
        let in_place = self.program.buffers.in_place[index];
        for (position, (operand, &id)) in operands.iter_mut().zip(&node.inputs).enumerate() {
            let bytes = match in_place {
                Some(over) if over == position => &[],
                _ => self.bytes(id, |wanted| read.bytes(wanted)),
            };
            let dtype = self.module.value(id).dtype;
            *operand = Operand { dtype, shape: &self.plan.shapes[id.0], bytes };
        }
        let [output, scratch] = written;
        (output, scratch)
    }

    /// Bytes of an input before those of the slice.
    fn skipped(&self, input: Id, bytes: usize) -> usize {
        let outermost = self.module.value(input).shape.first();
        match (self.slice, outermost, &self.module.batch) {
            (Some((first, batch)), Some(Dim::Symbol(name)), Some(symbol)) if name == symbol => {
                bytes / batch * first
            }
            _ => 0,
        }
    }

    /// The bytes of a value; `arena` gives those of a range of the arena.
    pub(crate) fn bytes<'b>(&self, id: Id, arena: impl FnOnce(Range<usize>) -> &'b [u8]) -> &'b [u8]
    where
        'a: 'b,
    {
        match self.plan.places[id.0].clone() {
            Place::Nowhere => &[],
            Place::Arena(range) => arena(range),
            Place::Constant(base, range) => match self.module.constant(base) {
                Some(tensor) => &tensor.bytes()[range],
                None => &[],
            },
            Place::Input(index, range) => {
                let bytes = self.input(index);
                &bytes[self.skipped(self.module.inputs[index], bytes.len())..][range]
            }
        }
    }
}

/// What is left of an arena when two ranges are taken out.
#[derive(Clone, Copy)]
struct Rest<'a> {
    /// The pieces before, between and behind, and where they start.
    pieces: [(usize, &'a [u8]); 3],
}

impl<'a> Rest<'a> {
    /// # Panics
    /// When the range does not lie in one piece.
    fn bytes(&self, wanted: Range<usize>) -> &'a [u8] {
        if wanted.is_empty() {
            return &[];
        }
        let piece = self.pieces.iter().rev().find(|(start, _)| *start <= wanted.start);
        let (start, bytes) = piece.expect("the first piece starts at 0");
        &bytes[wanted.start - start..wanted.end - start]
    }
}

/// Takes two ranges that do not overlap out of the arena.
fn split(arena: &mut [u8], [a, b]: [Range<usize>; 2]) -> ([&mut [u8]; 2], Rest<'_>) {
    let swapped = (b.start, b.end) < (a.start, a.end);
    let (first, second) = if swapped { (b, a) } else { (a, b) };
    let (before, rest) = arena.split_at_mut(first.start);
    let (taken_first, rest) = rest.split_at_mut(first.len());
    let (between, rest) = rest.split_at_mut(second.start - first.end);
    let (taken_second, behind) = rest.split_at_mut(second.len());
    let pieces = [(0, &*before), (first.end, &*between), (second.end, &*behind)];
    let taken = if swapped { [taken_second, taken_first] } else { [taken_first, taken_second] };
    (taken, Rest { pieces })
}

/// The outputs of a run, lent by the session until its next run.
#[derive(Clone, Copy)]
pub struct Outputs<'a>(Source<'a>);

/// Where the outputs lie.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// In the arena, or where the plan says.
    Planned { run: Run<'a>, arena: &'a [u8] },
    /// Gathered from slices.
    Sliced { run: Run<'a>, slices: &'a Slices, arena: &'a [u8] },
    /// In tensors of their own, in the order of the graph.
    Computed { module: &'a Module, tensors: &'a [Tensor] },
}

impl fmt::Debug for Outputs<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_list().entries(self.iter()).finish()
    }
}

impl<'a> Outputs<'a> {
    /// All outputs, in the order of the graph.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = OutputView<'a>> {
        let source = self.0;
        let module = match source {
            Source::Planned { run, .. } | Source::Sliced { run, .. } => run.module,
            Source::Computed { module, .. } => module,
        };
        module.outputs.iter().enumerate().map(move |(index, &id)| {
            let operand = match source {
                Source::Planned { run, arena } => Operand {
                    dtype: module.value(id).dtype,
                    shape: &run.plan.shapes[id.0],
                    bytes: run.bytes(id, |range| &arena[range]),
                },
                Source::Sliced { run, slices, arena } => Operand {
                    dtype: module.value(id).dtype,
                    shape: &run.plan.shapes[id.0],
                    bytes: slices.output(arena, index),
                },
                Source::Computed { tensors, .. } => dynamic::operand(&tensors[index]),
            };
            OutputView { name: &module.value(id).name, operand }
        })
    }

    /// The output of this name.
    pub fn get(&self, name: &str) -> Option<OutputView<'a>> {
        self.iter().find(|output| output.name == name)
    }
}

/// One output of a run.
#[derive(Clone, Copy, Debug)]
pub struct OutputView<'a> {
    name: &'a str,
    operand: Operand<'a>,
}

impl<'a> OutputView<'a> {
    /// Its name.
    pub fn name(&self) -> &'a str {
        self.name
    }

    /// Sizes of the dimensions, outermost first.
    pub fn shape(&self) -> &'a [usize] {
        self.operand.shape
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.operand.dtype
    }

    /// The elements in row-major order.
    ///
    /// # Errors
    /// When they have another type.
    pub fn elements<T: Element>(&self) -> Result<&'a [T], RuntimeError> {
        if T::DTYPE == self.operand.dtype {
            return Ok(self.operand.elements());
        }
        let reason = TensorError::DType { expected: T::DTYPE, found: self.operand.dtype };
        Err(self.error(reason))
    }

    /// A copy.
    ///
    /// # Errors
    /// Never for the outputs of a session, whose bytes fit their shape.
    pub fn to_tensor(&self) -> Result<Tensor, RuntimeError> {
        from_operand(&self.operand).map_err(|reason| self.error(reason))
    }

    fn error(&self, reason: TensorError) -> RuntimeError {
        RuntimeError::Output { name: self.name.to_owned(), reason }
    }
}
