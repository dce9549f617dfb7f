//! The graphs that nodes hold: written into subgraphs, or in the place of the node.

use std::collections::{BTreeMap, BTreeSet};

use super::super::function::deeper;
use super::super::{ImportError, Item, Scope, shortened};
use super::{NodeContext, free_names};
use crate::onnx::proto;
use crate::op::{Op, Subgraph, SubgraphNode};
use crate::{Graph, ValueId, ValueType};

/// A graph of a node while it is read.
pub(in crate::onnx) struct Branch {
    graph: Graph,
    /// What is given by the operator itself.
    formals: Vec<ValueId>,
    /// What comes from outside, constants included, by what stands for it here.
    captures: BTreeMap<ValueId, ValueId>,
    /// What the graph gives.
    pub(in crate::onnx) outputs: Vec<ValueId>,
}

impl Branch {
    pub(in crate::onnx) fn new() -> Self {
        let (formals, captures, outputs) = (Vec::new(), BTreeMap::new(), Vec::new());
        Self { graph: Graph::new("branch"), formals, captures, outputs }
    }

    /// A value that the operator gives.
    pub(in crate::onnx) fn formal(
        &mut self,
        name: &str,
        value_type: ValueType,
    ) -> Result<ValueId, ImportError> {
        let id = self.graph.add_input(name, value_type.dtype, value_type.shape)?;
        self.formals.push(id);
        Ok(id)
    }

    /// A node before those of the model.
    pub(in crate::onnx) fn add(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, ImportError> {
        Ok(self.graph.add_node(name, op, inputs)?)
    }

    /// Type of one of its values.
    pub(in crate::onnx) fn value_type(&self, id: ValueId) -> &ValueType {
        self.graph.value_type(id)
    }
}

impl<'a> NodeContext<'_, 'a> {
    /// The graph attribute of this name. A function's own attributes cannot be graphs.
    pub(in crate::onnx) fn graph(
        &self,
        name: &str,
    ) -> Result<&'a proto::GraphMessage, ImportError> {
        let found = self.node.attribute.iter().find(|attribute| attribute.name() == name);
        let graph = found.and_then(|attribute| attribute.g.as_ref());
        graph.ok_or_else(|| self.invalid(format!("it lacks the graph `{name}`")))
    }

    /// A value from outside in a branch.
    pub(in crate::onnx) fn capture(
        &self,
        branch: &mut Branch,
        name: &str,
        outer: ValueId,
    ) -> Result<ValueId, ImportError> {
        let argument = self.argument(outer);
        let id = match argument.constant {
            Some(tensor) => branch.graph.add_weight(name, tensor.clone())?,
            None => {
                let ValueType { dtype, shape } = argument.value_type.clone();
                let id = branch.graph.add_input(name, dtype, shape)?;
                branch.graph.assume_integers(id, argument.integers);
                id
            }
        };
        branch.captures.insert(id, outer);
        Ok(id)
    }

    /// Reads a graph into a branch; `given` is what stands for its inputs.
    pub(in crate::onnx) fn read_branch(
        &mut self,
        branch: &mut Branch,
        message: &'a proto::GraphMessage,
        given: &[ValueId],
    ) -> Result<(), ImportError> {
        let mut scope = self.inner_scope(message, given)?;
        scope.repeats |= !given.is_empty();
        for name in free_names(message) {
            // A name that nothing has is reported by the node that reads it.
            match self.scope.item(&name) {
                Some(Item::Tensor(outer)) => {
                    let id = self.capture(branch, &name, outer)?;
                    scope.values.insert(name, id);
                }
                Some(Item::Sequence(outer)) => {
                    self.importer.count_entries(outer.len())?;
                    let entry =
                        |(index, &id)| self.capture(branch, &format!("{name}/entry/{index}"), id);
                    let own = outer.iter().enumerate().map(entry).collect::<Result<_, _>>()?;
                    scope.sequences.insert(name, own);
                }
                Some(Item::Absent) => {}
                None => {
                    if let Some(&outer) = self.scope.four_bits.get(&name) {
                        let id = self.capture(branch, &name, outer)?;
                        scope.four_bits.insert(name, id);
                    }
                }
            }
        }
        std::mem::swap(&mut self.importer.graph, &mut branch.graph);
        let outputs = self.importer.body(message, &mut scope);
        std::mem::swap(&mut self.importer.graph, &mut branch.graph);
        let tensor = |item: Item| match item {
            Item::Tensor(id) => Ok(id),
            Item::Sequence(_) | Item::Absent => {
                Err(self.unsupported("a graph that gives a sequence or an optional value"))
            }
        };
        branch.outputs = outputs?.into_iter().map(tensor).collect::<Result<_, _>>()?;
        Ok(())
    }

    /// Writes the nodes of a graph without inputs in the place of this node.
    pub(in crate::onnx) fn inline(
        &mut self,
        message: &'a proto::GraphMessage,
    ) -> Result<(), ImportError> {
        let mut scope = self.inner_scope(message, &[])?;
        scope.prefix = shortened(format!("{}{}/", self.scope.prefix, self.label));
        for name in free_names(message) {
            if let Some(&id) = self.scope.four_bits.get(&name) {
                scope.four_bits.insert(name, id);
            } else if let Some(item) = self.scope.item(&name) {
                scope.insert(name, item);
            }
        }
        let outputs = self.importer.body(message, &mut scope)?;
        for (index, item) in outputs.into_iter().enumerate() {
            self.set_item(index, item)?;
        }
        Ok(())
    }

    fn inner_scope(
        &self,
        message: &proto::GraphMessage,
        given: &[ValueId],
    ) -> Result<Scope, ImportError> {
        let (expected, found) = (given.len(), message.input.len());
        if expected != found {
            return Err(
                self.invalid(format!("expected a graph of {expected} inputs, found {found}"))
            );
        }
        let names = message.input.iter().map(|info| info.name().to_owned());
        Ok(Scope {
            values: names.zip(given.iter().copied()).collect(),
            four_bits: BTreeMap::new(),
            absent: self.scope.absent.clone(),
            opsets: self.scope.opsets.clone(),
            attributes: self.scope.attributes.clone(),
            prefix: String::new(),
            depth: deeper(self.scope.depth)?,
            repeats: self.scope.repeats,
            ..Scope::default()
        })
    }

    /// The subgraph that computes `outputs` of a branch, and what it reads from outside.
    pub(in crate::onnx) fn subgraph(
        &mut self,
        branch: &mut Branch,
        outputs: &[ValueId],
    ) -> Result<(Subgraph, Vec<ValueId>), ImportError> {
        let mut needed: BTreeSet<ValueId> = outputs.iter().copied().collect();
        let mut nodes = Vec::new();
        let name = |graph: &Graph, id: ValueId| graph.value_name(id).to_owned();
        let graph = &branch.graph;
        for (_, node) in graph.nodes().rev().collect::<Vec<_>>() {
            if needed.remove(&node.output) {
                // What is computed for several outputs is written as often.
                let inner = node.op.subgraphs().into_iter().map(Subgraph::count);
                self.importer.count_nodes(1 + inner.sum::<usize>())?;
                needed.extend(&node.inputs);
                let inputs = node.inputs.iter().map(|&id| name(graph, id)).collect();
                nodes.push(SubgraphNode { name: node.name.clone(), op: node.op.clone(), inputs });
            }
        }
        nodes.reverse();
        let mut inputs: Vec<String> = branch.formals.iter().map(|&id| name(graph, id)).collect();
        let outputs = outputs.iter().map(|&id| name(graph, id)).collect();
        let mut outside = Vec::new();
        for id in needed.into_iter().filter(|id| !branch.formals.contains(id)) {
            inputs.push(name(&branch.graph, id));
            let outer = match (branch.captures.get(&id), branch.graph.weight(id)) {
                (Some(&outer), _) => outer,
                (None, Some(tensor)) => {
                    let outer = self.weight(tensor.clone())?;
                    branch.captures.insert(id, outer);
                    outer
                }
                (None, None) => return Err(self.invalid("a value comes from nowhere")),
            };
            outside.push(outer);
        }
        Ok((Subgraph { inputs, nodes, outputs }, outside))
    }
}
