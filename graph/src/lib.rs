//! A model as data: a typed graph of operators, named values with symbolic shapes, and weights.
//!
//! Every stage of the pipeline reads a [`Graph`] and writes a [`Graph`]. This crate knows what the
//! operators mean (shape rules and a slow, obvious reference evaluation, both ONNX semantics), how
//! graphs are read, written and rewritten. It does not know how they are trained or run fast, and
//! it knows no manifest, run or database.
//!
//! # Layout
//!
//! - [`Graph`] ([`model`]): values, nodes, weights; every edit goes through its methods.
//! - [`Op`] ([`op`]): one file an operator family: shape rule, reference evaluation, cost.
//! - [`reference`](mod@reference): evaluates a graph node by node; what every other execution is tested against.
//! - [`bert`]: builds the graph of a BERT-style encoder classifier. With [`huggingface`] the only place that knows it.
//! - [`structure`]: what a graph is made of, found by pattern: linear layers, encoder layers, embeddings.
//! - [`rewrite`]: pruning, sparsity masks, quantization.
//! - [`counts`]: weights, operations and activation bytes for given sizes.
//! - [`ModelFolder`]: a model as files, which is what stages pass on: [`document`] and [`weights`].
//! - [`huggingface`], [`onnx`]: the ways in; [`onnx`] is the way out too. [`package`]: what servers load.
//! - [`samples`]: inputs when there are no real ones.

pub mod bert;
pub mod counts;
pub mod dim;
pub mod document;
mod file;
pub mod huggingface;
pub mod model;
pub mod model_folder;
pub mod onnx;
pub mod op;
pub mod package;
pub mod reference;
pub mod rewrite;
pub mod samples;
pub mod structure;
pub mod tensor;
pub mod weights;

pub use dim::{Bindings, Dim, Shape};
pub use file::FileError;
pub use model::{Graph, GraphError, Node, NodeId, ValueId, ValueType};
pub use model_folder::{ModelError, ModelFolder, ModelInfo};
pub use op::Op;
pub use tensor::{DType, Element, Tensor, TensorError};
