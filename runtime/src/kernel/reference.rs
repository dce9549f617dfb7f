//! The graph's own slow definition of an operator, for what has no kernel.

use graph::{Op, Tensor, TensorError};
use kernels::peaks::Numbers;

use super::{Call, EVERY_OPERATOR, Kernel, KernelEntry, Operand, any, run};
use crate::cost::{Parallel, Rate};
use crate::module::Operation;

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "reference",
    operation: EVERY_OPERATOR,
    tier: None,
    cost: 1000,
    accepts: any,
    prepare: |_, node, _| match &node.operation {
        Operation::Graph(op) => run(Reference(op.clone())),
        _ => unreachable!("the table pairs this kernel with operators of the graph"),
    },
}];

struct Reference(Op);

impl Kernel for Reference {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let inputs: Result<Vec<Tensor>, TensorError> =
            call.inputs.iter().map(from_operand).collect();
        let inputs = inputs.map_err(|error| error.to_string())?;
        let references: Vec<&Tensor> = inputs.iter().collect();
        let output = self.0.operator().evaluate(&references, call.bindings)?;
        let (found, expected) = (output.bytes().len(), call.output.len());
        if found != expected {
            return Err(format!("expected {expected} bytes, the operator gave {found}"));
        }
        call.output.copy_from_slice(output.bytes());
        Ok(())
    }

    fn is_definition(&self) -> bool {
        true
    }

    /// In doubles, one after another.
    fn rate(&self) -> Rate {
        Rate { numbers: Numbers::F32, share: 0.002, parallel: Parallel::Never }
    }
}

/// A copy of an operand.
pub(crate) fn from_operand(operand: &Operand<'_>) -> Result<Tensor, TensorError> {
    Tensor::from_bytes(operand.dtype, operand.shape, operand.bytes)
}
