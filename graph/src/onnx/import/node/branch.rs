//! The graphs that nodes hold: written into subgraphs, or in the place of the node.

use std::collections::{BTreeMap, BTreeSet};

use super::super::function::deeper;
use super::super::{ImportError, Item, Scope, Sequence, shortened};
use super::{NodeContext, free_names};
use crate::onnx::proto;
use crate::op::{Concat, Op, Subgraph, SubgraphNode, Unsqueeze};
use crate::{Dim, Graph, ValueId, ValueType};

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

    /// A sequence from outside in a branch; as one tensor where a loop's body picks entries of those
    /// `picked`, so that they are put together once.
    pub(in crate::onnx) fn capture_sequence(
        &mut self,
        branch: &mut Branch,
        name: &str,
        mut outer: Sequence,
        picked: &BTreeSet<&str>,
    ) -> Result<Sequence, ImportError> {
        self.importer.count_entries(outer.len())?;
        if picked.contains(name)
            && let Some(all) = self.stack(&outer)?
        {
            outer = Sequence::Stacked(all);
        }
        match &outer {
            Sequence::Entries(entries) => {
                let entry =
                    |(index, &id)| self.capture(branch, &format!("{name}/entry/{index}"), id);
                let own = entries.iter().enumerate().map(entry).collect::<Result<_, _>>()?;
                Ok(Sequence::Entries(own))
            }
            Sequence::Stacked(id) => Ok(Sequence::Stacked(self.capture(branch, name, *id)?)),
            Sequence::Growing(..) => Err(self.refuse_sequence(&outer)),
        }
    }

    /// All entries under a new first dimension, where their shapes are known to be one.
    pub(in crate::onnx) fn stack(
        &mut self,
        sequence: &Sequence,
    ) -> Result<Option<ValueId>, ImportError> {
        let entries = match sequence {
            Sequence::Stacked(id) => return Ok(Some(*id)),
            Sequence::Growing(..) => return Err(self.refuse_sequence(sequence)),
            Sequence::Entries(entries) => entries,
        };
        let types: BTreeSet<_> =
            entries.iter().map(|&id| (self.dtype(id) as u8, self.shape(id))).collect();
        let is_one = types.len() == 1
            && (entries.len() == 1
                || types.iter().all(|(_, shape)| !shape.contains(&Dim::Unknown)));
        if !is_one {
            return Ok(None);
        }
        // A node that reads many is as much as many nodes.
        self.importer.count_nodes(entries.len())?;
        let part = |&id: &ValueId| self.add(Op::Unsqueeze(Unsqueeze { axes: vec![0] }), &[id]);
        let parts = entries.iter().map(part).collect::<Result<Vec<_>, _>>()?;
        self.add(Op::Concat(Concat { axis: 0 }), &parts).map(Some)
    }

    /// Reads a graph into a branch; `given` is what stands for its inputs.
    pub(in crate::onnx) fn read_branch(
        &mut self,
        branch: &mut Branch,
        message: &'a proto::GraphMessage,
        given: &[Item],
    ) -> Result<(), ImportError> {
        let outputs = self.read_items(branch, message, given)?;
        let outputs = outputs.iter().map(|item| self.tensor_of(item));
        branch.outputs = outputs.collect::<Result<_, _>>()?;
        Ok(())
    }

    /// What a graph gives, which has to be a tensor.
    pub(in crate::onnx) fn tensor_of(&self, item: &Item) -> Result<ValueId, ImportError> {
        match item {
            Item::Tensor(id) => Ok(*id),
            Item::Sequence(_) | Item::Absent => {
                Err(self.unsupported("a graph that gives a sequence or an optional value"))
            }
        }
    }

    /// As [`Self::read_branch`], and gives what the graph does, which may be sequences.
    pub(in crate::onnx) fn read_items(
        &mut self,
        branch: &mut Branch,
        message: &'a proto::GraphMessage,
        given: &[Item],
    ) -> Result<Vec<Item>, ImportError> {
        let mut scope = self.inner_scope(message, given)?;
        scope.repeats |= !given.is_empty();
        let picked = if given.is_empty() { BTreeSet::new() } else { picked(message) };
        for name in free_names(message) {
            // A name that nothing has is reported by the node that reads it.
            match self.scope.item(&name) {
                Some(Item::Tensor(outer)) => {
                    let id = self.capture(branch, &name, outer)?;
                    scope.values.insert(name, id);
                }
                Some(Item::Sequence(outer)) => {
                    let own = self.capture_sequence(branch, &name, outer, &picked)?;
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
        outputs
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
        given: &[Item],
    ) -> Result<Scope, ImportError> {
        let (expected, found) = (given.len(), message.input.len());
        if expected != found {
            return Err(
                self.invalid(format!("expected a graph of {expected} inputs, found {found}"))
            );
        }
        let mut scope = Scope {
            four_bits: BTreeMap::new(),
            absent: self.scope.absent.clone(),
            opsets: self.scope.opsets.clone(),
            attributes: self.scope.attributes.clone(),
            prefix: String::new(),
            depth: deeper(self.scope.depth)?,
            repeats: self.scope.repeats,
            ..Scope::default()
        };
        for (info, item) in message.input.iter().zip(given) {
            scope.insert(info.name().to_owned(), item.clone());
        }
        Ok(scope)
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

/// The sequences of which a graph takes an entry at a place that it computes or is given.
pub(in crate::onnx) fn picked(graph: &proto::GraphMessage) -> BTreeSet<&str> {
    let constants = graph.node.iter().filter(|node| node.op_type() == "Constant");
    let constants = constants.flat_map(|node| &node.output).map(String::as_str);
    let known: BTreeSet<&str> =
        constants.chain(graph.initializer.iter().map(|tensor| tensor.name())).collect();
    let mut picked = BTreeSet::new();
    for node in &graph.node {
        if let ("SequenceAt", [sequence, place]) = (node.op_type(), node.input.as_slice())
            && !known.contains(place.as_str())
        {
            picked.insert(sequence.as_str());
        }
        let graphs = node.attribute.iter().filter_map(|attribute| attribute.g.as_ref());
        picked.extend(graphs.flat_map(self::picked));
    }
    picked
}
