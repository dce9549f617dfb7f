//! `graph.json`: a graph without its weights' elements, as text.
//!
//! Everything goes by name, one value a line, nodes in the order they run, so that two graphs can
//! be compared with `diff`. Reading trusts nothing: types are inferred again and compared.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::weights::checked_elements;
use crate::{DType, Dim, Graph, GraphError, Op, Shape, Tensor, ValueId, ValueType};

/// Version of the format, raised when older readers could not understand it.
const VERSION: u32 = 1;
/// Most bytes of a document; a node takes about 200.
pub(crate) const SIZE_LIMIT: u64 = 64 << 20;
/// Most dimensions of a value; operators can double them, so a hostile file could explode.
const RANK_LIMIT: usize = 16;
/// Longest name.
pub(crate) const NAME_LIMIT: usize = 1024;

/// What can be wrong with a document.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// The text is no JSON of this form; the message has line and column.
    #[error("expected a graph document: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Another program, or a newer one, wrote it.
    #[error("expected format version {VERSION}, found {0}; read it with the version that wrote it")]
    Version(u32),
    /// A value's declaration makes no sense.
    #[error("value `{name}`: {reason}")]
    Value {
        /// Name of the value.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// The document and the weights do not belong together.
    #[error("weight `{name}`: {reason}")]
    Weight {
        /// Name of the weight.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// A node reads what is not there yet.
    #[error(
        "node `{node}` reads `{input}`, which only a later node writes: the nodes are cyclic or \
         not in order"
    )]
    Order {
        /// Name of the node.
        node: String,
        /// Name of the value it reads.
        input: String,
    },
    /// A node or an output names a value that does not exist.
    #[error("{reader} reads `{input}`, but no value has this name")]
    Missing {
        /// The node or output.
        reader: String,
        /// The name.
        input: String,
    },
    /// An operator refuses its inputs, or a name is used twice.
    #[error(transparent)]
    Graph(#[from] GraphError),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ValueRecord {
    name: String,
    dtype: DType,
    shape: Shape,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeRecord {
    name: String,
    op: Op,
    inputs: Vec<String>,
    dtype: DType,
    shape: Shape,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(rename = "version")]
    _version: u32,
    name: String,
    inputs: Vec<ValueRecord>,
    weights: Vec<ValueRecord>,
    nodes: Vec<NodeRecord>,
    outputs: Vec<String>,
}

/// Only the version, so that a newer document is refused by its version and not by its fields.
#[derive(Debug, Deserialize)]
struct VersionOnly {
    version: u32,
}

/// The document of a graph; equal graphs have equal documents.
pub fn write(graph: &Graph) -> String {
    let weights = graph.weights().map(|(id, _)| line(&value_record(graph, id)));
    let inputs = graph.inputs().iter().map(|&id| line(&value_record(graph, id)));
    let nodes = graph.nodes().map(|(_, node)| {
        let ValueType { dtype, shape } = graph.value_type(node.output).clone();
        let name = |&id: &ValueId| graph.value_name(id).to_owned();
        let inputs = node.inputs.iter().map(name).collect();
        line(&NodeRecord { name: node.name.clone(), op: node.op.clone(), inputs, dtype, shape })
    });
    let outputs = graph.outputs().iter().map(|&id| line(&graph.value_name(id)));
    format!(
        "{{\n\"version\": {VERSION},\n\"name\": {},\n\"inputs\": {},\n\"weights\": {},\n\
         \"nodes\": {},\n\"outputs\": {}\n}}\n",
        line(&graph.name),
        list(inputs),
        list(weights),
        list(nodes),
        list(outputs),
    )
}

fn value_record(graph: &Graph, id: ValueId) -> ValueRecord {
    let ValueType { dtype, shape } = graph.value_type(id).clone();
    ValueRecord { name: graph.value_name(id).to_owned(), dtype, shape }
}

fn line(record: &impl Serialize) -> String {
    serde_json::to_string(record).expect("records hold strings, numbers and lists")
}

fn list(lines: impl Iterator<Item = String>) -> String {
    let lines: Vec<String> = lines.map(|line| format!("  {line}")).collect();
    if lines.is_empty() { "[]".to_owned() } else { format!("[\n{}\n]", lines.join(",\n")) }
}

/// The graph of a document and its weights.
///
/// # Errors
///
/// When the text is no document of this version; a name is used twice or unknown; nodes are not in
/// order; an operator refuses its inputs or gives another type than declared; or the weights are
/// not exactly those declared.
pub fn read(text: &[u8], mut weights: BTreeMap<String, Tensor>) -> Result<Graph, DocumentError> {
    let VersionOnly { version } = parse(text)?;
    if version != VERSION {
        return Err(DocumentError::Version(version));
    }
    let document: Document = parse(text)?;
    let mut graph = Graph::new(document.name);
    for ValueRecord { name, dtype, shape } in document.inputs {
        check_value(&name, &shape)?;
        graph.add_input(&name, dtype, shape)?;
    }
    for record in document.weights {
        check_value(&record.name, &record.shape)?;
        let missing = || weight_error(&record.name, "expected its tensor, found none".to_owned());
        let tensor = weights.remove(&record.name).ok_or_else(missing)?;
        let id = graph.add_weight(&record.name, tensor)?;
        expect_type(&graph, id, record.dtype, &record.shape)
            .map_err(|reason| weight_error(&record.name, reason))?;
    }
    if let Some(name) = weights.into_keys().next() {
        return Err(weight_error(&name, "the graph has no weight of this name".to_owned()));
    }
    add_nodes(&mut graph, document.nodes)?;
    let output = |name: String| {
        let reader = "the list of outputs".to_owned();
        graph.find(&name).ok_or(DocumentError::Missing { reader, input: name })
    };
    let outputs = document.outputs.into_iter().map(output).collect::<Result<Vec<_>, _>>()?;
    graph.set_outputs(&outputs);
    Ok(graph)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, serde_json::Error> {
    serde_json::from_slice(text)
}

fn add_nodes(graph: &mut Graph, nodes: Vec<NodeRecord>) -> Result<(), DocumentError> {
    let names: BTreeSet<String> = nodes.iter().map(|node| node.name.clone()).collect();
    let shapes = graph.inputs().iter().flat_map(|&id| &graph.value_type(id).shape);
    let symbols: BTreeSet<Dim> = shapes.filter(|dim| dim.fixed().is_none()).cloned().collect();
    for NodeRecord { name, op, inputs, dtype, shape } in nodes {
        check_value(&name, &shape)?;
        let find = |input: &String| {
            graph.find(input).ok_or_else(|| {
                let (node, input) = (name.clone(), input.clone());
                if names.contains(&input) {
                    DocumentError::Order { node, input }
                } else {
                    DocumentError::Missing { reader: format!("node `{node}`"), input }
                }
            })
        };
        let inputs = inputs.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let id = graph.add_node(&name, op, &inputs)?;
        let fail = |reason| DocumentError::Value { name: name.clone(), reason };
        expect_type(graph, id, dtype, &shape).map_err(fail)?;
        let unbound =
            shape.iter().find(|dim| matches!(dim, Dim::Symbol(_)) && !symbols.contains(dim));
        if let Some(dim) = unbound {
            return Err(fail(format!("dimension `{dim}` is not one of any input")));
        }
    }
    Ok(())
}

fn weight_error(name: &str, reason: String) -> DocumentError {
    DocumentError::Weight { name: name.to_owned(), reason }
}

fn expect_type(graph: &Graph, id: ValueId, dtype: DType, shape: &[Dim]) -> Result<(), String> {
    let declared = ValueType { dtype, shape: shape.to_vec() };
    let found = graph.value_type(id);
    if *found == declared {
        Ok(())
    } else {
        Err(format!("declared as {declared}, but it is {found}"))
    }
}

/// Bounds what later arithmetic on sizes meets, before any operator sees it.
fn check_value(name: &str, shape: &[Dim]) -> Result<(), DocumentError> {
    let fail = |reason| {
        let name = name.chars().take(NAME_LIMIT).collect();
        Err(DocumentError::Value { name, reason })
    };
    if name.is_empty() || name.len() > NAME_LIMIT {
        return fail(format!("expected a name of 1 to {NAME_LIMIT} bytes, found {}", name.len()));
    }
    if shape.len() > RANK_LIMIT {
        return fail(format!("expected at most {RANK_LIMIT} dimensions, found {}", shape.len()));
    }
    let symbols = shape.iter().filter_map(|dim| match dim {
        Dim::Symbol(symbol) => Some(symbol),
        Dim::Fixed(_) | Dim::Unknown => None,
    });
    for symbol in symbols {
        let starts_well = symbol.starts_with(|first: char| first.is_alphabetic() || first == '_');
        if !starts_well || symbol.len() > NAME_LIMIT {
            return fail(format!("expected a dimension's name to begin with a letter: `{symbol}`"));
        }
    }
    let sizes: Vec<usize> = shape.iter().filter_map(Dim::fixed).collect();
    if checked_elements(&sizes).is_none() {
        return fail(format!("sizes {sizes:?} are too large"));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
