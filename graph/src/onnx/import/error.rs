use crate::{FileError, GraphError};

/// Why an ONNX model cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// The file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The bytes are no ONNX model, or one that contradicts itself.
    #[error("expected an ONNX model: {reason}")]
    Malformed {
        /// What was expected and found.
        reason: String,
    },
    /// The model is larger than what is read.
    #[error("expected at most {limit} {what}, found {found}; the model is refused")]
    Limit {
        /// What is counted.
        what: &'static str,
        /// Most that are read.
        limit: usize,
        /// What the model has, or where counting stopped.
        found: usize,
    },
    /// Something that ONNX has and graphs have not.
    #[error("node `{node}` ({op}): {attribute} is not supported")]
    Unsupported {
        /// ONNX type of the operator, with its domain where it is not ONNX's own.
        op: String,
        /// The attribute, input, type or version that is not supported; `this operator` for all of it.
        attribute: String,
        /// Name of the node or of its first output.
        node: String,
    },
    /// A node's attributes or inputs are not what its operator takes.
    #[error("node `{node}` ({op}): {reason}")]
    Node {
        /// Name of the node or of its first output.
        node: String,
        /// ONNX type of the operator.
        op: String,
        /// What was expected and found.
        reason: String,
    },
    /// A stored tensor cannot be read.
    #[error("tensor `{name}`: {reason}")]
    Tensor {
        /// Name of the initializer.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// An input or output has no type that graphs hold.
    #[error("value `{name}`: {reason}")]
    Value {
        /// Name of the value.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// The graph refuses what the model says.
    #[error(transparent)]
    Graph(#[from] GraphError),
}
