//! A module whose kernels are chosen: a model, or the body of a loop.

use graph::{Bindings, Tensor};

use crate::RuntimeError;
use crate::guards::Guards;
use crate::kernel::Prepared;
use crate::module::Module;
use crate::plan::{Buffers, Plan};

/// What runs.
pub(crate) struct Program {
    pub(crate) module: Module,
    /// One for each node of the module.
    pub(crate) steps: Vec<Prepared>,
    pub(crate) buffers: Buffers,
    pub(crate) guards: Guards,
    /// Whether sizes depend on values, so that runs go node by node.
    pub(crate) dynamic: bool,
}

impl Program {
    /// One that goes node by node until its memory is planned.
    pub(crate) fn new(module: Module, steps: Vec<Prepared>) -> Self {
        let (buffers, guards) = (Buffers::unplanned(&module), Guards::new(&module));
        Self { module, steps, buffers, guards, dynamic: true }
    }

    /// Finds out what shares memory, unless sizes depend on values.
    ///
    /// # Errors
    /// When the fixed dimensions of a value alone do not fit memory.
    pub(crate) fn plan_memory(&mut self) -> Result<(), RuntimeError> {
        if self.module.is_dynamic() {
            return Ok(());
        }
        self.buffers = Buffers::new(&self.module, &self.steps)?;
        self.dynamic = false;
        // Sizes that are only known in a run are inferred from what was packed, too.
        release_unread(&mut self.module, &self.steps);
        Ok(())
    }

    /// Where everything lies for these sizes.
    ///
    /// # Errors
    /// When a size is not bound, or the program cannot run with it.
    pub(crate) fn plan(&self, bindings: Bindings) -> Result<Plan, RuntimeError> {
        Plan::new(&self.module, &self.steps, &self.buffers, bindings)
    }

    /// Bytes of the constants that are left.
    pub(crate) fn constant_bytes(&self) -> usize {
        let constants = self.module.values.iter().filter_map(|value| value.constant.as_ref());
        constants.map(Tensor::size_bytes).sum()
    }

    /// Bytes of weights that kernels packed.
    pub(crate) fn packed_bytes(&self) -> usize {
        self.steps.iter().map(Prepared::packed_bytes).sum()
    }
}

/// Lets go of constants that nothing reads when the program runs: rewritten or packed ones.
fn release_unread(module: &mut Module, steps: &[Prepared]) {
    let mut read = vec![false; module.values.len()];
    for output in &module.outputs {
        read[output.0] = true;
    }
    for (node, step) in module.nodes.iter().zip(steps) {
        for (position, input) in node.inputs.iter().enumerate() {
            read[input.0] |= !step.has_packed(position);
        }
    }
    for (value, _) in module.values.iter_mut().zip(read).filter(|(_, read)| !read) {
        value.constant = None;
    }
}
