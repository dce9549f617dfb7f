//! One node as its operator's entry sees it: attributes, inputs, and where to write.

mod branch;

use std::collections::{BTreeMap, BTreeSet};

pub(in crate::onnx) use branch::{Branch, picked};

use super::{ImportError, Importer, Item, READS_FOUR_BITS, Scope, Sequence, own_domain};
use crate::onnx::{proto, tensor};
use crate::op::{Argument, Op};
use crate::{DType, Dim, Shape, Tensor, ValueId};

/// A node with the graph that it is written to.
pub(in crate::onnx) struct NodeContext<'c, 'a> {
    importer: &'c mut Importer<'a>,
    scope: &'c mut Scope,
    node: &'a proto::NodeMessage,
    label: String,
    inputs: Vec<Option<ValueId>>,
    items: Vec<Item>,
    opset: i64,
    made: usize,
}

impl<'c, 'a> NodeContext<'c, 'a> {
    pub(super) fn new(
        importer: &'c mut Importer<'a>,
        scope: &'c mut Scope,
        node: &'a proto::NodeMessage,
    ) -> Result<Self, ImportError> {
        let first = node.output.iter().find(|name| !name.is_empty());
        let label = first.or(node.name.as_ref()).cloned().unwrap_or_default();
        let find = |name: &String| match (scope.item(name), scope.four_bits.get(name)) {
            _ if name.is_empty() => Ok(Item::Absent),
            (Some(item), _) => Ok(item),
            (None, Some(id)) if READS_FOUR_BITS.contains(&node.op_type()) => Ok(Item::Tensor(*id)),
            (None, Some(_)) => Err(ImportError::Unsupported {
                op: qualified(node),
                attribute: format!("`{name}`, a tensor of 4-bit integers,"),
                node: label.clone(),
            }),
            (None, None) => Err(ImportError::Node {
                node: label.clone(),
                op: node.op_type().to_owned(),
                reason: format!("it reads `{name}`, but no value has this name"),
            }),
        };
        let items = node.input.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        let tensor = |item: &Item| match item {
            Item::Tensor(id) => Some(*id),
            Item::Sequence(_) | Item::Absent => None,
        };
        let inputs = items.iter().map(tensor).collect();
        let domain = own_domain(node.domain.as_deref());
        let opset = scope.opsets.get(&domain).copied().unwrap_or(1);
        Ok(Self { importer, scope, node, label, inputs, items, opset, made: 0 })
    }

    // Errors.

    /// Name of the node in messages: that of its first output.
    pub(in crate::onnx) fn label(&self) -> &str {
        &self.label
    }

    /// What to say of something that graphs cannot hold.
    pub(in crate::onnx) fn unsupported(&self, attribute: impl Into<String>) -> ImportError {
        ImportError::Unsupported {
            op: qualified(self.node),
            attribute: attribute.into(),
            node: self.label.clone(),
        }
    }

    /// What to say of a node that is not what its operator takes.
    pub(in crate::onnx) fn invalid(&self, reason: impl Into<String>) -> ImportError {
        ImportError::Node {
            node: self.label.clone(),
            op: self.node.op_type().to_owned(),
            reason: reason.into(),
        }
    }

    // Reading.

    /// Version of the operator set that the node is written in.
    pub(in crate::onnx) fn opset(&self) -> i64 {
        self.opset
    }

    /// ONNX type of the node.
    pub(in crate::onnx) fn op_type(&self) -> &'a str {
        self.node.op_type()
    }

    /// All inputs; `None` for those left out.
    pub(in crate::onnx) fn inputs(&self) -> &[Option<ValueId>] {
        &self.inputs
    }

    /// The input at `index`, which has to be there.
    pub(in crate::onnx) fn input(&self, index: usize) -> Result<ValueId, ImportError> {
        self.optional(index).ok_or_else(|| {
            self.invalid(format!("expected an input at {index}, found {}", self.inputs.len()))
        })
    }

    /// Whether the input at `index` is of integers of four bits, held as those of eight.
    pub(in crate::onnx) fn has_four_bits(&self, index: usize) -> bool {
        self.node.input.get(index).is_some_and(|name| self.scope.four_bits.contains_key(name))
    }

    /// The input at `index`, where there is one.
    pub(in crate::onnx) fn optional(&self, index: usize) -> Option<ValueId> {
        self.inputs.get(index).copied().flatten()
    }

    /// Every input; none may be left out.
    pub(in crate::onnx) fn all_inputs(&self) -> Result<Vec<ValueId>, ImportError> {
        (0..self.inputs.len()).map(|index| self.input(index)).collect()
    }

    /// What the inputs are, sequences included.
    pub(super) fn items(&self) -> Vec<Item> {
        self.items.clone()
    }

    /// Whether an input is a sequence.
    pub(super) fn reads_sequence(&self) -> bool {
        self.items.iter().any(|item| matches!(item, Item::Sequence(_)))
    }

    /// What the input at `index` is.
    pub(in crate::onnx) fn item(&self, index: usize) -> Item {
        self.items.get(index).cloned().unwrap_or(Item::Absent)
    }

    /// The sequence at `index`.
    pub(in crate::onnx) fn sequence(&self, index: usize) -> Result<Sequence, ImportError> {
        match self.item(index) {
            Item::Sequence(sequence) => Ok(sequence),
            Item::Tensor(_) | Item::Absent => {
                Err(self.invalid(format!("expected a sequence at {index}")))
            }
        }
    }

    /// What to say of a sequence that does more than its kind can.
    pub(in crate::onnx) fn refuse_sequence(&self, sequence: &Sequence) -> ImportError {
        self.unsupported(match sequence {
            Sequence::Growing(..) => "reading a sequence in the loop that adds to it",
            Sequence::Entries(_) | Sequence::Stacked(_) => {
                "a sequence whose number of entries a run says"
            }
        })
    }

    /// Whether the node is inside a loop.
    pub(in crate::onnx) fn repeats(&self) -> bool {
        self.scope.repeats
    }

    /// A seed that no other node of the file has by itself: −1, −2, …
    pub(in crate::onnx) fn next_seed(&mut self) -> f32 {
        self.importer.drawing += 1;
        -(self.importer.drawing as f32)
    }

    /// Counts nodes that this one is about to make.
    pub(in crate::onnx) fn will_add(&mut self, count: usize) -> Result<(), ImportError> {
        self.importer.count_nodes(count)
    }

    /// What is known of a value.
    pub(in crate::onnx) fn argument(&self, id: ValueId) -> Argument<'_> {
        self.importer.graph.argument(id)
    }

    /// Element type of a value.
    pub(in crate::onnx) fn dtype(&self, id: ValueId) -> DType {
        self.argument(id).dtype
    }

    /// Shape of a value.
    pub(in crate::onnx) fn shape(&self, id: ValueId) -> Shape {
        self.argument(id).shape.clone()
    }

    /// Number of dimensions of a value.
    pub(in crate::onnx) fn rank(&self, id: ValueId) -> usize {
        self.argument(id).shape.len()
    }

    /// The content of a value that is known now.
    pub(in crate::onnx) fn constant(&self, id: ValueId) -> Option<&Tensor> {
        self.importer.graph.weight(id)
    }

    /// The numbers of an integer value that are all known now.
    pub(in crate::onnx) fn known_integers(&self, id: ValueId) -> Option<Vec<i64>> {
        let argument = self.argument(id);
        if let Some(numbers) = argument.integers {
            return numbers.iter().map(crate::op::Integer::known).collect();
        }
        match argument.constant?.dtype() {
            DType::I64 => argument.constant?.elements::<i64>().ok().map(<[_]>::to_vec),
            _ => None,
        }
    }

    /// The numbers of an integer input, which have to be known now.
    pub(in crate::onnx) fn integers(&self, index: usize) -> Result<Vec<i64>, ImportError> {
        let id = self.input(index)?;
        self.known_integers(id)
            .ok_or_else(|| self.unsupported(format!("input {index} that is computed by the model")))
    }

    /// The numbers of an f32 value that is known now.
    pub(in crate::onnx) fn known_floats(&self, id: ValueId) -> Option<Vec<f32>> {
        self.constant(id)?.elements::<f32>().ok().map(<[_]>::to_vec)
    }

    /// `axis` counted from the front of `rank` dimensions.
    pub(in crate::onnx) fn axis_of(&self, axis: i64, rank: usize) -> Result<usize, ImportError> {
        let place = if axis < 0 { axis + rank as i64 } else { axis };
        usize::try_from(place)
            .ok()
            .filter(|&place| place < rank)
            .ok_or_else(|| self.invalid(format!("axis {axis} is not one of {rank} dimensions")))
    }

    /// `axes` counted from the front of `rank` dimensions, ascending, each once.
    pub(in crate::onnx) fn axes_of(
        &self,
        axes: &[i64],
        rank: usize,
    ) -> Result<Vec<usize>, ImportError> {
        let axes: Result<BTreeSet<usize>, _> =
            axes.iter().map(|&axis| self.axis_of(axis, rank)).collect();
        Ok(axes?.into_iter().collect())
    }

    // Attributes.

    fn attribute(&self, name: &str) -> Option<&proto::Attribute> {
        let found = self.node.attribute.iter().find(|attribute| attribute.name() == name)?;
        match &found.ref_attr_name {
            Some(outer) if !outer.is_empty() => self.scope.attributes.get(outer),
            _ => Some(found),
        }
    }

    /// Whether the node has the attribute.
    pub(in crate::onnx) fn has(&self, name: &str) -> bool {
        self.attribute(name).is_some()
    }

    /// An integer attribute.
    pub(in crate::onnx) fn int(&self, name: &str) -> Option<i64> {
        self.attribute(name).map(|attribute| attribute.i.unwrap_or(0))
    }

    /// An integer attribute or its default.
    pub(in crate::onnx) fn int_or(&self, name: &str, default: i64) -> i64 {
        self.int(name).unwrap_or(default)
    }

    /// An integer attribute that stands for yes or no.
    pub(in crate::onnx) fn flag(&self, name: &str, default: bool) -> bool {
        self.int(name).map_or(default, |value| value != 0)
    }

    /// A float attribute or its default.
    pub(in crate::onnx) fn float_or(&self, name: &str, default: f32) -> f32 {
        self.attribute(name).and_then(|attribute| attribute.f).unwrap_or(default)
    }

    /// A list of integers.
    pub(in crate::onnx) fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.attribute(name).map(|attribute| attribute.ints.clone())
    }

    /// A list of floats.
    pub(in crate::onnx) fn floats(&self, name: &str) -> Option<Vec<f32>> {
        self.attribute(name).map(|attribute| attribute.floats.clone())
    }

    /// A text attribute or its default.
    pub(in crate::onnx) fn text_or(&self, name: &str, default: &str) -> String {
        let found = self.attribute(name).and_then(|attribute| attribute.s.as_deref());
        found.map_or_else(|| default.to_owned(), |text| String::from_utf8_lossy(text).into_owned())
    }

    /// A list of texts.
    pub(in crate::onnx) fn texts(&self, name: &str) -> Vec<String> {
        let found = self.attribute(name).map(|attribute| attribute.strings.as_slice());
        let text = |text: &Vec<u8>| String::from_utf8_lossy(text).into_owned();
        found.unwrap_or_default().iter().map(text).collect()
    }

    /// A tensor attribute.
    pub(in crate::onnx) fn tensor(&self, name: &str) -> Result<Option<Tensor>, ImportError> {
        let Some(message) = self.attribute(name).and_then(|attribute| attribute.t.as_ref()) else {
            return Ok(None);
        };
        if tensor::has_four_bits(message) {
            return Err(self.unsupported("a constant of 4-bit integers"));
        }
        let folder = self.importer.folder.as_deref();
        let tensor = tensor::read(message, folder).map_err(|reason| self.invalid(reason))?;
        Ok(Some(tensor))
    }

    /// An attribute that names an element type.
    pub(in crate::onnx) fn element_type(&self, name: &str) -> Result<Option<DType>, ImportError> {
        let Some(number) = self.int(name) else { return Ok(None) };
        let number = i32::try_from(number).unwrap_or(0);
        let kind = crate::onnx::value_type(number);
        kind.map(Some).ok_or_else(|| {
            self.unsupported(format!("`{name}` = {}", crate::onnx::type_name(number)))
        })
    }

    /// The attributes for a function's body: those of the node, and the function's defaults.
    pub(super) fn attributes(
        &self,
        defaults: &[proto::Attribute],
    ) -> Result<BTreeMap<String, proto::Attribute>, ImportError> {
        let mut attributes: BTreeMap<String, proto::Attribute> =
            defaults.iter().map(|default| (default.name().to_owned(), default.clone())).collect();
        for own in &self.node.attribute {
            if let Some(value) = self.attribute(own.name()) {
                attributes.insert(own.name().to_owned(), value.clone());
            }
        }
        Ok(attributes)
    }

    // Writing.

    /// Number of outputs that the node names.
    pub(in crate::onnx) fn output_count(&self) -> usize {
        self.node.output.len()
    }

    /// Whether the node names an output at `index`.
    pub(in crate::onnx) fn wants(&self, index: usize) -> bool {
        self.node.output.get(index).is_some_and(|name| !name.is_empty())
    }

    /// Adds a constant.
    pub(in crate::onnx) fn weight(&mut self, tensor: Tensor) -> Result<ValueId, ImportError> {
        let name = self.inner_name();
        Ok(self.importer.graph.add_weight(&name, tensor)?)
    }

    /// Adds a constant that the model brings.
    pub(in crate::onnx) fn stored(&mut self, tensor: Tensor) -> Result<ValueId, ImportError> {
        self.importer.allow_unpacking(&tensor);
        self.weight(tensor)
    }

    /// Takes numbers off what may still be made of packed ones.
    pub(in crate::onnx) fn count_unpacked(&mut self, count: usize) -> Result<(), ImportError> {
        let left = self.importer.unpacked_left.checked_sub(count);
        self.importer.unpacked_left =
            left.ok_or_else(|| self.unsupported("unpacking the same weights so often"))?;
        Ok(())
    }

    /// Adds a list of integers.
    pub(in crate::onnx) fn list(&mut self, numbers: &[i64]) -> Result<ValueId, ImportError> {
        self.weight(Tensor::from_fn(&[numbers.len()], |index| numbers[index]))
    }

    /// Adds an f32 constant of rank 0.
    pub(in crate::onnx) fn scalar(&mut self, value: f32) -> Result<ValueId, ImportError> {
        self.weight(Tensor::scalar(value))
    }

    /// Adds a node that is not one of the outputs.
    pub(in crate::onnx) fn add(
        &mut self,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, ImportError> {
        let name = self.inner_name();
        self.emit(name, op, inputs)
    }

    /// Adds the node that writes the output at `index`, when the model names that output.
    pub(in crate::onnx) fn output(
        &mut self,
        index: usize,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<(), ImportError> {
        if !self.wants(index) {
            return Ok(());
        }
        let name = format!("{}{}", self.scope.prefix, self.node.output[index]);
        let id = self.emit(name, op, inputs)?;
        self.set(index, id);
        Ok(())
    }

    /// Makes a value that is there the output at `index`.
    pub(in crate::onnx) fn set(&mut self, index: usize, id: ValueId) {
        if self.wants(index) {
            self.scope.values.insert(self.node.output[index].clone(), id);
        }
    }

    /// Makes what is there the output at `index`.
    pub(in crate::onnx) fn set_item(
        &mut self,
        index: usize,
        item: Item,
    ) -> Result<(), ImportError> {
        if let Item::Sequence(sequence) = &item {
            self.importer.count_entries(sequence.len())?;
        }
        if self.wants(index) {
            self.scope.insert(self.node.output[index].clone(), item);
        }
        Ok(())
    }

    fn emit(&mut self, name: String, op: Op, inputs: &[ValueId]) -> Result<ValueId, ImportError> {
        let id = self.importer.emit(name, op, inputs).map_err(|error| match error {
            crate::GraphError::Node { op, reason, .. } => {
                let op = if op == self.op_type() {
                    op.to_owned()
                } else {
                    format!("{}: {op}", self.op_type())
                };
                ImportError::Node { node: self.label.clone(), op, reason }
            }
            other => other.into(),
        })?;
        let rank = self.rank(id);
        if rank > super::RANK_LIMIT {
            let reason = format!("expected at most {} dimensions, found {rank}", super::RANK_LIMIT);
            return Err(self.invalid(reason));
        }
        Ok(id)
    }

    fn inner_name(&mut self) -> String {
        let name = format!("{}{}/{}", self.scope.prefix, self.label, self.made);
        self.made += 1;
        self.importer.fresh(name)
    }

    /// A value with its last dimensions known to be `sizes`, for messages and checks.
    pub(in crate::onnx) fn fixed_dims(&self, id: ValueId) -> Option<Vec<usize>> {
        self.argument(id).shape.iter().map(Dim::fixed).collect()
    }
}

/// ONNX type of a node, with its domain where it is not ONNX's own.
fn qualified(node: &proto::NodeMessage) -> String {
    let domain = own_domain(node.domain.as_deref());
    let separator = if domain.is_empty() { "" } else { "." };
    format!("{domain}{separator}{}", node.op_type())
}

/// The names that a node reads, those that its subgraphs take from outside included.
pub(super) fn reads(node: &proto::NodeMessage, names: &mut BTreeSet<String>) {
    names.extend(node.input.iter().filter(|name| !name.is_empty()).cloned());
    for graph in node.attribute.iter().filter_map(|attribute| attribute.g.as_ref()) {
        names.extend(free_names(graph));
    }
}

/// The names that a subgraph reads and does not write.
pub(super) fn free_names(graph: &proto::GraphMessage) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for node in &graph.node {
        reads(node, &mut names);
    }
    names.extend(graph.output.iter().map(|info| info.name().to_owned()));
    let own = graph.node.iter().flat_map(|node| &node.output).map(String::as_str);
    let own = own.chain(graph.input.iter().map(|info| info.name()));
    let own = own.chain(graph.initializer.iter().map(|tensor| tensor.name()));
    for name in own {
        names.remove(name);
    }
    names
}
