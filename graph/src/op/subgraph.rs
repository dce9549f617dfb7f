//! Nodes that an operator runs when, and as often as, it has to.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Argument, Integer, Op};
use crate::{Bindings, Tensor, ValueType};

/// Deepest nesting of subgraphs. Types are inferred once or twice a level, so depth costs.
pub(crate) const NESTING_LIMIT: usize = 8;

/// Nodes over named values. Everything from outside, constants included, is an input; names are
/// the subgraph's own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subgraph {
    /// Names of what is given, in order.
    pub inputs: Vec<String>,
    /// What is computed, each node after what it reads.
    pub nodes: Vec<SubgraphNode>,
    /// Names of the results, in order.
    pub outputs: Vec<String>,
}

/// A node of a subgraph.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubgraphNode {
    /// Name of its output.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// Names of what it reads.
    pub inputs: Vec<String>,
}

/// What is known of what a node of a subgraph computes.
#[derive(Clone, Debug)]
pub struct Computed {
    /// Element type and shape.
    pub value_type: ValueType,
    /// The numbers of an integer value of rank 0 or 1, as far as they are known.
    pub integers: Option<Vec<Integer>>,
}

/// What is known of a value of a subgraph.
pub(crate) struct Known<'a> {
    value_type: ValueType,
    constant: Option<&'a Tensor>,
    integers: Option<Vec<Integer>>,
}

impl Known<'_> {
    pub(crate) fn argument(&self) -> Argument<'_> {
        Argument {
            value_type: &self.value_type,
            constant: self.constant,
            integers: self.integers.as_deref(),
        }
    }
}

impl Subgraph {
    /// Levels of subgraphs, this one included.
    pub(super) fn depth(&self) -> usize {
        let inner = self.nodes.iter().flat_map(|node| node.op.subgraphs());
        1 + inner.map(Self::depth).max().unwrap_or(0)
    }

    /// Nodes, those of subgraphs in it included.
    pub(crate) fn count(&self) -> usize {
        let inner = self.nodes.iter().flat_map(|node| node.op.subgraphs());
        self.nodes.len() + inner.map(Self::count).sum::<usize>()
    }

    /// Types of the outputs.
    ///
    /// # Errors
    ///
    /// When a node refuses its inputs, a name is unknown or used twice, or subgraphs nest too deep.
    pub(super) fn infer(&self, arguments: &[Argument<'_>]) -> Result<Vec<ValueType>, String> {
        let depth = self.depth();
        if depth > NESTING_LIMIT {
            return Err(format!(
                "expected at most {NESTING_LIMIT} nested subgraphs, found {depth}"
            ));
        }
        let values = self.known(arguments)?;
        let types = self.outputs.iter().map(|name| Ok(find(&values, name)?.value_type.clone()));
        types.collect()
    }

    /// What is known of what its nodes compute, in their order.
    ///
    /// # Errors
    ///
    /// When a node refuses its inputs, or a name is unknown or used twice.
    pub fn of_nodes(&self, arguments: &[Argument<'_>]) -> Result<Vec<Computed>, String> {
        let mut values = self.known(arguments)?;
        let known = |node: &SubgraphNode| {
            let Known { value_type, integers, .. } = values
                .remove(node.name.as_str())
                .ok_or_else(|| format!("the name `{}` is unknown", node.name))?;
            Ok(Computed { value_type, integers })
        };
        self.nodes.iter().map(known).collect()
    }

    /// What is known of every value, by name, when this is known of the inputs.
    ///
    /// # Errors
    ///
    /// When a node refuses its inputs, or a name is unknown or used twice.
    pub(crate) fn known<'a>(
        &'a self,
        arguments: &[Argument<'a>],
    ) -> Result<BTreeMap<&'a str, Known<'a>>, String> {
        let given = arguments.iter().map(|argument| Known {
            value_type: argument.value_type.clone(),
            constant: argument.constant,
            integers: argument.integers.map(<[_]>::to_vec),
        });
        let mut values = self.named(given)?;
        for node in &self.nodes {
            let inputs = node.inputs.iter().map(|name| Ok(find(&values, name)?.argument()));
            let inputs = inputs.collect::<Result<Vec<_>, String>>()?;
            let operator = node.op.operator();
            let value_type = operator.infer(&inputs).map_err(|reason| node.error(&reason))?;
            let integers = operator.integers(&inputs);
            let known = Known { value_type, constant: None, integers };
            if values.insert(&node.name, known).is_some() {
                return Err(format!("the name `{}` is used twice", node.name));
            }
        }
        Ok(values)
    }

    /// The outputs for these inputs.
    ///
    /// # Errors
    ///
    /// When a node fails on its values, or a name is unknown.
    pub(super) fn evaluate(
        &self,
        inputs: &[&Tensor],
        bindings: &Bindings,
    ) -> Result<Vec<Tensor>, String> {
        let mut values = self.named(inputs.iter().map(|&tensor| tensor.clone()))?;
        for node in &self.nodes {
            let inputs = node.inputs.iter().map(|name| find(&values, name));
            let inputs = inputs.collect::<Result<Vec<_>, String>>()?;
            let output = node.op.operator().evaluate(&inputs, bindings);
            values.insert(&node.name, output.map_err(|reason| node.error(&reason))?);
        }
        self.outputs.iter().map(|name| find(&values, name).cloned()).collect()
    }

    /// What is given, by the inputs' names.
    fn named<T>(
        &self,
        given: impl ExactSizeIterator<Item = T>,
    ) -> Result<BTreeMap<&str, T>, String> {
        let (expected, found) = (self.inputs.len(), given.len());
        let named: BTreeMap<&str, T> = self.inputs.iter().map(String::as_str).zip(given).collect();
        if expected != found || named.len() != expected {
            return Err(format!("expected {expected} values of different names, found {found}"));
        }
        Ok(named)
    }
}

impl SubgraphNode {
    fn error(&self, reason: &str) -> String {
        format!("in `{}` ({}): {reason}", self.name, self.op.operator().onnx_type())
    }
}

fn find<'a, T>(values: &'a BTreeMap<&str, T>, name: &str) -> Result<&'a T, String> {
    values.get(name).ok_or_else(|| format!("no value before it is named `{name}`"))
}
