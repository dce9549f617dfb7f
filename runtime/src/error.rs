use graph::TensorError;

/// What can go wrong when a model is compiled or run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RuntimeError {
    /// A pass that does not exist.
    #[error("no pass is named `{found}`; the passes are {known}")]
    UnknownPass {
        /// The name given.
        found: String,
        /// All names.
        known: String,
    },
    /// The kernel tier cannot be had on this CPU.
    #[error(transparent)]
    Tier(#[from] kernels::TierError),
    /// The device cannot be had.
    #[error("device `{name}`: {reason}")]
    Device {
        /// The name given.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// The threads did not start.
    #[error("cannot start {threads} threads for the model: {reason}")]
    Threads {
        /// Number of threads asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
    /// An input is missing, unknown, or has another type or shape than the model declares.
    #[error("input `{name}`: {reason}")]
    Input {
        /// Name of the input.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// The sizes of a value do not follow from the inputs' sizes, or do not fit memory.
    #[error("value `{name}`: {reason}")]
    Sizes {
        /// Name of the value.
        name: String,
        /// What is missing.
        reason: String,
    },
    /// A run, or the weights alone, need more memory than the budget. A run has not allocated it, but
    /// for what earlier nodes wrote where sizes depend on values; weights have been packed.
    #[error("{asked} needs {needed_bytes} bytes, the memory budget is {budget_bytes}: {advice}")]
    Memory {
        /// The sizes of the run, or the weights.
        asked: String,
        /// Bytes of weights and arena.
        needed_bytes: usize,
        /// Bytes that were allowed.
        budget_bytes: usize,
        /// What fits, and what to do.
        advice: String,
    },
    /// The memory of the machine is not known, or the part of it that was asked for is none.
    #[error("memory of the machine: {reason}")]
    MachineMemory {
        /// What was expected and found.
        reason: String,
    },
    /// A node failed on the values it was given.
    #[error("node `{node}` ({operation}): {reason}")]
    Node {
        /// Name of the node.
        node: String,
        /// Kind of its operation.
        operation: &'static str,
        /// What was expected and found.
        reason: String,
    },
    /// The model cannot be quantized.
    #[error("cannot quantize: {reason}")]
    Quantize {
        /// What was expected and found.
        reason: String,
    },
    /// The kernels of this machine do not reproduce the package's golden examples.
    #[error("the self-test failed, the package must not be served on this machine: {reason}")]
    SelfTest {
        /// Which example differs, and by how much.
        reason: String,
    },
    /// An output was asked for as another type.
    #[error("output `{name}`: {reason}")]
    Output {
        /// Name of the output.
        name: String,
        /// What was expected and found.
        reason: TensorError,
    },
}
