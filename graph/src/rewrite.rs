//! Edits that make a model smaller: graph in, graph out.
//!
//! Every edit either succeeds and leaves a consistent graph, or leaves the graph as it was and says
//! what was not found or does not fit. Value and node ids change with an edit; names stay.
//!
//! - [`prune`]: really removes feed-forward units, attention heads, layers, hidden width, words.
//! - [`importance`]: which of them matter least, judged by the weights alone.
//! - [`masks`]: sparsity formats that zero weights without removing them.
//! - [`quantize`]: inserts, folds and reverts quantize/dequantize pairs.
//! - [`observer`]: scales for activations from numbers seen.
//! - [`scaling`]: filters take in norms, factors and summands by channel.

pub mod importance;
pub mod masks;
pub mod observer;
pub mod prune;
pub mod quantize;
pub mod scaling;

#[cfg(test)]
pub(crate) mod samples;

use crate::structure::StructureError;
use crate::{Graph, GraphError, Tensor};

/// Why an edit was refused; the graph is then as it was.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum RewriteError {
    /// The graph lacks a part that the edit is about.
    #[error(transparent)]
    Structure(#[from] StructureError),
    /// The edited graph would not be valid.
    #[error(transparent)]
    Graph(#[from] GraphError),
    /// An index beyond what there is, or given twice, or none at all.
    #[error("{what}: expected distinct indices below {size}, at least one; found {found}")]
    Indices {
        /// What is indexed.
        what: &'static str,
        /// How many there are.
        size: usize,
        /// The offending index, or `none`.
        found: String,
    },
    /// A dimension that cannot be cut, because something else depends on its size.
    #[error("cannot remove {what}: `{at}` {reason}")]
    Bound {
        /// What was to be removed.
        what: &'static str,
        /// Name of the value or node in the way.
        at: String,
        /// How it depends on the dimension.
        reason: &'static str,
    },
    /// An edit that needs the float weights met a quantized graph.
    #[error("cannot {what}: node `{node}` is part of the quantization; {instead}")]
    Quantized {
        /// The edit.
        what: &'static str,
        /// Name of the node.
        node: String,
        /// What to do instead.
        instead: &'static str,
    },
    /// A name that nothing of its kind has.
    #[error("no {what} is called `{name}`; there are: {known}")]
    Unknown {
        /// What was looked for.
        what: &'static str,
        /// The name given.
        name: String,
        /// The names there are.
        known: String,
    },
    /// A weight whose type, shape or values do not fit the edit.
    #[error("weight `{name}`: {reason}")]
    Weight {
        /// Name of the weight.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// A number out of its range, or sizes that do not fit together.
    #[error("{what}: expected {expected}, found {found}")]
    Range {
        /// What the number is.
        what: &'static str,
        /// Its range.
        expected: String,
        /// The number given.
        found: String,
    },
}

/// The `f32` elements of the weight `name`.
fn floats<'a>(name: &str, tensor: &'a Tensor) -> Result<&'a [f32], RewriteError> {
    tensor
        .elements()
        .map_err(|error| RewriteError::Weight { name: name.to_owned(), reason: error.to_string() })
}

/// `name`, or the first of `name-2`, `name-3`, … that no value has.
fn unused(graph: &Graph, name: &str) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(|name| graph.find(name).is_none()).expect("there are more names than values")
}
