use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use graph::{Bindings, DType, Element, Tensor, TensorError};

use crate::RuntimeError;
use crate::compile::Shared;
use crate::dynamic;
use crate::kernel::{Call, Operand, Prepared, from_operand};
use crate::module::{Id, Module, Node};
use crate::plan::{ALIGNMENT, Place, Plan};

/// Sizes for which a session keeps plans at the same time.
const MOST_PLANS: usize = 512;

/// Most inputs that an operation has.
const MOST_INPUTS: usize = 8;

/// Runs a model, one request after another, in memory that it keeps.
pub struct Session {
    model: Arc<Shared>,
    /// Shapes of the inputs, and the plan for them; oldest first.
    plans: Vec<(Vec<Vec<usize>>, Plan)>,
    arena: Vec<u8>,
    /// Outputs of the last run of a model whose sizes depend on values.
    computed: Vec<Tensor>,
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
        Self { model, plans: Vec::new(), arena: Vec::new(), computed: Vec::new() }
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
        if self.model.dynamic {
            return self.run_dynamic(inputs);
        }
        let index = self.plan(inputs)?;
        let Self { model, plans, arena, .. } = self;
        let plan = &plans[index].1;
        let wanted = plan.bytes + ALIGNMENT;
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
        let arena = &mut arena[start..start + plan.bytes];
        let run = Run { module: &model.module, plan, inputs };
        model.pool.install(|| run.steps(&model.steps, arena))?;
        Ok(Outputs(Source::Planned { run, arena }))
    }

    fn run_dynamic<'a>(
        &'a mut self,
        inputs: &'a [(&'a str, &'a Tensor)],
    ) -> Result<Outputs<'a>, RuntimeError> {
        let Self { model, computed, .. } = self;
        let module = &model.module;
        check_types(module, inputs)?;
        let (_, bindings) = bind(module, inputs)?;
        let given = |&id: &Id| find(module, inputs, id).cloned();
        let tensors = module.inputs.iter().filter_map(given).collect();
        *computed = model.pool.install(|| dynamic::run(model, tensors, &bindings))?;
        Ok(Outputs(Source::Computed { module, tensors: computed }))
    }

    /// Index of the plan for the shapes of these inputs.
    fn plan(&mut self, inputs: &[(&str, &Tensor)]) -> Result<usize, RuntimeError> {
        let module = &self.model.module;
        check_types(module, inputs)?;
        let given = |shapes: &[Vec<usize>]| {
            let mut ids = module.inputs.iter().zip(shapes);
            ids.all(|(&id, shape)| find(module, inputs, id).is_some_and(|x| x.shape() == shape))
        };
        if let Some(index) = self.plans.iter().position(|(shapes, _)| given(shapes)) {
            return Ok(index);
        }
        let (shapes, bindings) = bind(module, inputs)?;
        let plan = Plan::new(module, &self.model.steps, bindings)?;
        if self.plans.len() == MOST_PLANS {
            self.plans.remove(0);
        }
        self.plans.push((shapes, plan));
        Ok(self.plans.len() - 1)
    }
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
fn bind(
    module: &Module,
    inputs: &[(&str, &Tensor)],
) -> Result<(Vec<Vec<usize>>, Bindings), RuntimeError> {
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

/// One run: what to read and where it lies.
#[derive(Clone, Copy)]
struct Run<'a> {
    module: &'a Module,
    plan: &'a Plan,
    inputs: &'a [(&'a str, &'a Tensor)],
}

impl<'a> Run<'a> {
    fn steps(&self, steps: &[Prepared], arena: &mut [u8]) -> Result<(), RuntimeError> {
        for (node, step) in self.module.nodes.iter().zip(steps) {
            let Prepared::Run(kernel) = step else { continue };
            let (operands, output) = self.split(node, arena);
            let call = Call {
                inputs: &operands[..node.inputs.len()],
                shape: &self.plan.shapes[node.output.0],
                output,
                bindings: &self.plan.bindings,
            };
            kernel.run(call).map_err(|reason| RuntimeError::Node {
                node: node.name.clone(),
                operation: node.operation.kind(),
                reason,
            })?;
        }
        Ok(())
    }

    /// The inputs of a node and the place of its output, all at once: the plan keeps the output
    /// away from them.
    fn split<'b>(
        &self,
        node: &Node,
        arena: &'b mut [u8],
    ) -> ([Operand<'b>; MOST_INPUTS], &'b mut [u8])
    where
        'a: 'b,
    {
        let Place::Arena(range) = self.plan.places[node.output.0].clone() else {
            unreachable!("the plan gives every computed value a place in the arena")
        };
        let (before, rest) = arena.split_at_mut(range.start);
        let (output, after) = rest.split_at_mut(range.len());
        let (before, after) = (&*before, &*after);
        let mut operands = [Operand::NONE; MOST_INPUTS];
        for (operand, &id) in operands.iter_mut().zip(&node.inputs) {
            let bytes = self.bytes(id, |wanted| {
                if wanted.is_empty() {
                    &[]
                } else if wanted.end <= range.start {
                    &before[wanted]
                } else {
                    &after[wanted.start - range.end..wanted.end - range.end]
                }
            });
            let dtype = self.module.value(id).dtype;
            *operand = Operand { dtype, shape: &self.plan.shapes[id.0], bytes };
        }
        (operands, output)
    }

    /// The bytes of a value; `arena` gives those of a range of the arena.
    fn bytes<'b>(&self, id: Id, arena: impl FnOnce(Range<usize>) -> &'b [u8]) -> &'b [u8]
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
                let tensor = find(self.module, self.inputs, self.module.inputs[index]);
                &tensor.expect("`check_types` found every input").bytes()[range]
            }
        }
    }
}

/// The outputs of a run, lent by the session until its next run.
#[derive(Clone, Copy)]
pub struct Outputs<'a>(Source<'a>);

/// Where the outputs lie.
#[derive(Clone, Copy)]
enum Source<'a> {
    /// In the arena, or where the plan says.
    Planned { run: Run<'a>, arena: &'a [u8] },
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
            Source::Planned { run, .. } => run.module,
            Source::Computed { module, .. } => module,
        };
        module.outputs.iter().enumerate().map(move |(index, &id)| {
            let operand = match source {
                Source::Planned { run, arena } => Operand {
                    dtype: module.value(id).dtype,
                    shape: &run.plan.shapes[id.0],
                    bytes: run.bytes(id, |range| &arena[range]),
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
