//! The graph itself: values, nodes and weights, and the edits that keep them consistent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::op::{Argument, Integer};
use crate::{DType, Op, Shape, Tensor, dim};

/// A value of one graph: an input, a weight, or a node's output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(u32);

/// A node of one graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(u32);

/// Element type and shape of a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ValueType {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Shape,
}

impl ValueType {
    /// Checks the element type.
    ///
    /// # Errors
    ///
    /// Says which type was expected and which found.
    pub fn expect(&self, dtype: DType) -> Result<(), String> {
        if self.dtype == dtype { Ok(()) } else { Err(format!("expected {dtype}, found {self}")) }
    }
}

impl fmt::Display for ValueType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}{}", self.dtype, dim::display(&self.shape))
    }
}

/// An application of an operator.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Name, unique among the nodes; its output has the same name.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// What it reads, in the operator's order.
    pub inputs: Vec<ValueId>,
    /// What it writes.
    pub output: ValueId,
}

/// What can be wrong with a graph.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GraphError {
    /// An operator refuses its inputs, or fails on their values.
    #[error("node `{node}` ({op}): {reason}")]
    Node {
        /// Name of the node.
        node: String,
        /// ONNX type of its operator.
        op: &'static str,
        /// What was expected and found.
        reason: String,
    },
    /// Two values share a name.
    #[error("the name `{0}` is used twice; give each value a name of its own")]
    Duplicate(String),
    /// A name that no value has.
    #[error("no value is named `{0}`")]
    Missing(String),
    /// The nodes cannot be put in an order.
    #[error("node `{0}` depends on its own output")]
    Cycle(String),
    /// A value given for an input has another type or shape.
    #[error("input `{name}`: {reason}")]
    Input {
        /// Name of the input.
        name: String,
        /// What was expected and found.
        reason: String,
    },
    /// A weight has another type or shape than asked for.
    #[error("weight `{name}`: {reason}")]
    Weight {
        /// Name of the weight.
        name: String,
        /// What was expected and found.
        reason: String,
    },
}

#[derive(Clone, Debug)]
struct Value {
    name: String,
    value_type: ValueType,
}

/// A model: operators over named values, with weights. Nodes are kept in an order in which every
/// node comes after what it reads.
#[derive(Clone, Debug)]
pub struct Graph {
    /// What the model is called.
    pub name: String,
    values: Vec<Value>,
    by_name: BTreeMap<String, ValueId>,
    nodes: BTreeMap<NodeId, Node>,
    order: Vec<NodeId>,
    producers: BTreeMap<ValueId, NodeId>,
    inputs: Vec<ValueId>,
    outputs: Vec<ValueId>,
    weights: BTreeMap<ValueId, Tensor>,
    /// What is known of the numbers of small integer values.
    integers: BTreeMap<ValueId, Vec<Integer>>,
    next_node: u32,
}

impl Graph {
    /// An empty graph.
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            values: Vec::new(),
            by_name: BTreeMap::new(),
            nodes: BTreeMap::new(),
            order: Vec::new(),
            producers: BTreeMap::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            weights: BTreeMap::new(),
            integers: BTreeMap::new(),
            next_node: 0,
        }
    }

    // Reading.

    /// The values given when the graph runs, in order.
    pub fn inputs(&self) -> &[ValueId] {
        &self.inputs
    }

    /// The values the graph is run for, in order.
    pub fn outputs(&self) -> &[ValueId] {
        &self.outputs
    }

    /// The nodes, each after what it reads.
    pub fn nodes(&self) -> impl DoubleEndedIterator<Item = (NodeId, &Node)> {
        self.order.iter().map(|&id| (id, &self.nodes[&id]))
    }

    /// One node.
    pub fn node(&self, id: NodeId) -> &Node {
        &self.nodes[&id]
    }

    /// The weights, by value, in the order they were added.
    pub fn weights(&self) -> impl Iterator<Item = (ValueId, &Tensor)> {
        self.weights.iter().map(|(&id, tensor)| (id, tensor))
    }

    /// The tensor of a weight; `None` for inputs and nodes' outputs.
    pub fn weight(&self, id: ValueId) -> Option<&Tensor> {
        self.weights.get(&id)
    }

    /// Name of a value.
    pub fn value_name(&self, id: ValueId) -> &str {
        &self.values[id.0 as usize].name
    }

    /// Type of a value.
    pub fn value_type(&self, id: ValueId) -> &ValueType {
        &self.values[id.0 as usize].value_type
    }

    /// The value of this name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.by_name.get(name).copied()
    }

    /// The node that writes a value; `None` for inputs and weights.
    pub fn producer(&self, id: ValueId) -> Option<&Node> {
        self.producers.get(&id).map(|node| &self.nodes[node])
    }

    /// The node that writes a value; `None` for inputs and weights.
    pub fn producer_id(&self, id: ValueId) -> Option<NodeId> {
        self.producers.get(&id).copied()
    }

    /// The nodes that read a value, in order; a node that reads it twice is listed once.
    pub fn consumers(&self, id: ValueId) -> Vec<NodeId> {
        self.nodes().filter(|(_, node)| node.inputs.contains(&id)).map(|(id, _)| id).collect()
    }

    /// Number of weight elements.
    pub fn weight_count(&self) -> usize {
        self.weights.values().map(Tensor::len).sum()
    }

    /// Bytes of all weights.
    pub fn weight_bytes(&self) -> usize {
        self.weights.values().map(Tensor::size_bytes).sum()
    }

    // Building.

    fn add_value(&mut self, name: String, value_type: ValueType) -> Result<ValueId, GraphError> {
        let id = ValueId(u32::try_from(self.values.len()).expect("fewer than 2³² values"));
        if self.by_name.contains_key(&name) {
            return Err(GraphError::Duplicate(name));
        }
        self.by_name.insert(name.clone(), id);
        self.values.push(Value { name, value_type });
        Ok(id)
    }

    /// Adds a value that is given when the graph runs.
    ///
    /// # Errors
    ///
    /// When the name is taken.
    pub fn add_input(
        &mut self,
        name: &str,
        dtype: DType,
        shape: Shape,
    ) -> Result<ValueId, GraphError> {
        let id = self.add_value(name.to_owned(), ValueType { dtype, shape })?;
        self.inputs.push(id);
        Ok(id)
    }

    /// Says what is known of an input's numbers, where the graph is a part of another one.
    pub(crate) fn assume_integers(&mut self, id: ValueId, integers: Option<&[Integer]>) {
        if let Some(integers) = integers {
            self.integers.insert(id, integers.to_vec());
        }
    }

    /// Adds a weight.
    ///
    /// # Errors
    ///
    /// When the name is taken.
    pub fn add_weight(&mut self, name: &str, tensor: Tensor) -> Result<ValueId, GraphError> {
        let id = self.add_value(name.to_owned(), weight_type(&tensor))?;
        if let Some(integers) = Integer::of_tensor(&tensor) {
            self.integers.insert(id, integers);
        }
        self.weights.insert(id, tensor);
        Ok(id)
    }

    /// Adds a node after all others and returns its output, whose name is the node's.
    ///
    /// # Errors
    ///
    /// When the operator refuses the inputs, or the name is taken.
    pub fn add_node(
        &mut self,
        name: &str,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, GraphError> {
        let arguments: Vec<Argument<'_>> = inputs.iter().map(|&id| self.argument(id)).collect();
        let operator = op.operator();
        let value_type =
            operator.infer(&arguments).map_err(|reason| node_error(name, &op, reason))?;
        let integers = operator.integers(&arguments);
        let output = self.add_value(name.to_owned(), value_type)?;
        if let Some(integers) = integers {
            self.integers.insert(output, integers);
        }
        let id = NodeId(self.next_node);
        self.next_node += 1;
        self.nodes.insert(id, Node { name: name.to_owned(), op, inputs: inputs.to_vec(), output });
        self.order.push(id);
        self.producers.insert(output, id);
        Ok(output)
    }

    /// Names the values the graph is run for.
    pub fn set_outputs(&mut self, outputs: &[ValueId]) {
        self.outputs = outputs.to_vec();
    }

    /// What is known of a value before a run.
    pub fn argument(&self, id: ValueId) -> Argument<'_> {
        Argument {
            value_type: self.value_type(id),
            constant: self.weight(id),
            integers: self.integers.get(&id).map(Vec::as_slice),
        }
    }

    // Editing. After edits that change shapes or order, call `refresh`.

    /// Replaces a weight's tensor, whose shape and type may differ: then [`Self::refresh`] has to
    /// follow once all of an edit's weights are in place.
    ///
    /// # Panics
    ///
    /// When `id` is not a weight.
    pub fn set_weight(&mut self, id: ValueId, tensor: Tensor) {
        self.values[id.0 as usize].value_type = weight_type(&tensor);
        match Integer::of_tensor(&tensor) {
            Some(integers) => self.integers.insert(id, integers),
            None => self.integers.remove(&id),
        };
        let old = self.weights.insert(id, tensor);
        assert!(old.is_some(), "`{}` is not a weight", self.value_name(id));
    }

    /// Changes a node's operator. [`Self::refresh`] has to follow.
    pub fn set_op(&mut self, id: NodeId, op: Op) {
        self.nodes.get_mut(&id).expect("a node of this graph").op = op;
    }

    /// Changes what a node reads at `position`. [`Self::refresh`] has to follow.
    pub fn set_node_input(&mut self, id: NodeId, position: usize, value: ValueId) {
        self.nodes.get_mut(&id).expect("a node of this graph").inputs[position] = value;
    }

    /// Changes all that a node reads. [`Self::refresh`] has to follow.
    pub fn set_node_inputs(&mut self, id: NodeId, inputs: Vec<ValueId>) {
        self.nodes.get_mut(&id).expect("a node of this graph").inputs = inputs;
    }

    /// Makes every reader of `old`, and every output that is `old`, read `new`.
    /// [`Self::refresh`] has to follow.
    pub fn replace_uses(&mut self, old: ValueId, new: ValueId) {
        for node in self.nodes.values_mut() {
            for input in &mut node.inputs {
                if *input == old && node.output != new {
                    *input = new;
                }
            }
        }
        for output in &mut self.outputs {
            if *output == old {
                *output = new;
            }
        }
    }

    /// Renames a value (and the node that writes it).
    ///
    /// # Errors
    ///
    /// When another value has the name.
    pub fn rename(&mut self, id: ValueId, name: &str) -> Result<(), GraphError> {
        if self.find(name).is_some_and(|other| other != id) {
            return Err(GraphError::Duplicate(name.to_owned()));
        }
        let old = std::mem::replace(&mut self.values[id.0 as usize].name, name.to_owned());
        self.by_name.remove(&old);
        self.by_name.insert(name.to_owned(), id);
        if let Some(node) = self.producers.get(&id) {
            self.nodes.get_mut(node).expect("producers are nodes").name = name.to_owned();
        }
        Ok(())
    }

    /// Drops what no output needs, puts the nodes in order (as stable as possible), infers all
    /// types anew and numbers values and nodes from 0. Earlier ids are invalid afterwards.
    ///
    /// # Errors
    ///
    /// When the nodes depend on each other in a circle, or an operator refuses its inputs.
    pub fn refresh(&mut self) -> Result<(), GraphError> {
        let order = self.sorted()?;
        let mut fresh = Self::new(std::mem::take(&mut self.name));
        let mut ids: BTreeMap<ValueId, ValueId> = BTreeMap::new();
        for &id in &self.inputs {
            let value = self.values[id.0 as usize].clone();
            ids.insert(
                id,
                fresh.add_input(&value.name, value.value_type.dtype, value.value_type.shape)?,
            );
        }
        let used: BTreeSet<ValueId> = order
            .iter()
            .flat_map(|node| self.nodes[node].inputs.iter().copied())
            .chain(self.outputs.iter().copied())
            .collect();
        for (&id, tensor) in self.weights.iter().filter(|(id, _)| used.contains(id)) {
            ids.insert(id, fresh.add_weight(self.value_name(id), tensor.clone())?);
        }
        for node in order.iter().map(|id| &self.nodes[id]) {
            let inputs: Vec<ValueId> = node.inputs.iter().map(|id| ids[id]).collect();
            ids.insert(node.output, fresh.add_node(&node.name, node.op.clone(), &inputs)?);
        }
        let outputs: Vec<ValueId> = self.outputs.iter().map(|id| ids[id]).collect();
        fresh.set_outputs(&outputs);
        *self = fresh;
        Ok(())
    }

    /// The nodes that outputs need in their old order, each moved after what it reads: a node that
    /// was added later comes just before its first reader.
    fn sorted(&self) -> Result<Vec<NodeId>, GraphError> {
        let mut needed = BTreeSet::new();
        let mut open: Vec<ValueId> = self.outputs.clone();
        while let Some(value) = open.pop() {
            if let Some(&id) = self.producers.get(&value)
                && needed.insert(id)
            {
                open.extend(&self.nodes[&id].inputs);
            }
        }
        let mut order = Vec::with_capacity(needed.len());
        let (mut begun, mut done) = (BTreeSet::new(), BTreeSet::new());
        for &root in self.order.iter().filter(|id| needed.contains(id)) {
            let mut path = vec![root];
            while let Some(&id) = path.last() {
                let producers = self.nodes[&id].inputs.iter().filter_map(|x| self.producers.get(x));
                match producers.copied().find(|producer| !done.contains(producer)) {
                    Some(producer) => {
                        begun.insert(id);
                        if begun.contains(&producer) {
                            return Err(GraphError::Cycle(self.nodes[&producer].name.clone()));
                        }
                        path.push(producer);
                    }
                    None => {
                        path.pop();
                        if done.insert(id) {
                            order.push(id);
                        }
                    }
                }
            }
        }
        Ok(order)
    }
}

/// Equality of what the graphs are: names, operators, edges, weights bit for bit.
impl PartialEq for Graph {
    fn eq(&self, other: &Self) -> bool {
        let node = |graph: &Self, node: &Node| {
            let inputs: Vec<String> =
                node.inputs.iter().map(|&id| graph.value_name(id).to_owned()).collect();
            (node.name.clone(), node.op.clone(), inputs)
        };
        let names = |graph: &Self, ids: &[ValueId]| -> Vec<(String, ValueType)> {
            let describe =
                |&id: &ValueId| (graph.value_name(id).to_owned(), graph.value_type(id).clone());
            ids.iter().map(describe).collect()
        };
        let weights = |graph: &Self| -> BTreeMap<String, Tensor> {
            graph
                .weights()
                .map(|(id, tensor)| (graph.value_name(id).to_owned(), tensor.clone()))
                .collect()
        };
        self.name == other.name
            && names(self, &self.inputs) == names(other, &other.inputs)
            && names(self, &self.outputs) == names(other, &other.outputs)
            && self
                .nodes()
                .map(|(_, n)| node(self, n))
                .eq(other.nodes().map(|(_, n)| node(other, n)))
            && weights(self) == weights(other)
    }
}

pub(crate) fn node_error(name: &str, op: &Op, reason: String) -> GraphError {
    GraphError::Node { node: name.to_owned(), op: op.operator().onnx_type(), reason }
}

fn weight_type(tensor: &Tensor) -> ValueType {
    ValueType { dtype: tensor.dtype(), shape: dim::fixed(tensor.shape()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dim;

    fn linear() -> Graph {
        let mut graph = Graph::new("linear");
        let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch"), 2.into()]).unwrap();
        let w = graph.add_weight("w", Tensor::from_fn(&[2, 3], |i| i as f32)).unwrap();
        let b = graph.add_weight("b", Tensor::from_fn(&[3], |i| i as f32)).unwrap();
        let product = graph.add_node("product", Op::MatMul, &[x, w]).unwrap();
        let sum = graph.add_node("sum", Op::Add, &[product, b]).unwrap();
        graph.set_outputs(&[sum]);
        graph
    }

    #[test]
    fn errors_name_the_node() {
        let mut graph = linear();
        let x = graph.find("x").unwrap();
        let error = graph.add_node("wrong", Op::MatMul, &[x, x]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "node `wrong` (MatMul): inner dimensions of [batch, 2] and [batch, 2] differ: 2 and batch; \
             if `batch` is 2, give its size (--bind batch=2)"
        );
        let error = graph.add_node("sum", Op::Relu, &[x]).unwrap_err();
        assert_eq!(error, GraphError::Duplicate("sum".to_owned()));
    }

    #[test]
    fn refresh_orders_new_nodes_and_drops_dead_ones() {
        let mut graph = linear();
        let product = graph.find("product").unwrap();
        let consumer = graph.consumers(product)[0];
        let relu = graph.add_node("relu", Op::Relu, &[product]).unwrap();
        graph.add_node("dead", Op::Relu, &[product]).unwrap();
        graph.set_node_input(consumer, 0, relu);
        graph.refresh().unwrap();
        let names: Vec<&str> = graph.nodes().map(|(_, node)| node.name.as_str()).collect();
        assert_eq!(names, ["product", "relu", "sum"]);
        assert_eq!(graph.find("dead"), None);
    }

    #[test]
    fn refresh_reports_a_cycle() {
        let mut graph = linear();
        let (product, sum) = (graph.find("product").unwrap(), graph.find("sum").unwrap());
        let id = graph.producer_id(product).unwrap();
        graph.set_node_input(id, 0, sum);
        assert_eq!(graph.refresh().unwrap_err(), GraphError::Cycle("product".to_owned()));
    }
}
