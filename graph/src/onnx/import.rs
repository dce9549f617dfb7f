//! From ONNX to a graph: operators are looked up by name in [`OPERATORS`], and each writes what it
//! stands for with the graph's own operators.
//!
//! Reading trusts nothing: bytes, nodes, nesting and ranks are bounded, and what is not understood
//! is refused by name.

mod error;
mod function;
mod node;
mod ops;
mod order;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use prost::Message;

pub use error::ImportError;
use function::{FunctionKey, Functions};
pub(in crate::onnx) use node::{Branch, NodeContext, picked};

use super::export::SIZE_LIMIT;
use super::{proto, tensor, type_name, value_type};
use crate::document::NAME_LIMIT;
use crate::op::Op;
use crate::{DType, Dim, Graph, Shape, Tensor, ValueId, file};

/// Most nodes, those of functions counted as often as they are called.
const NODE_LIMIT: usize = 200_000;
/// Deepest nesting of functions and subgraphs.
const DEPTH_LIMIT: usize = 16;
/// Most numbers that are made of a byte of packed ones, in all nodes that read it.
const UNPACKED_LIMIT: usize = 16;
/// Most dimensions of a value.
const RANK_LIMIT: usize = 16;
/// Most entries of sequences, those of every value that is one added up.
const SEQUENCE_LIMIT: usize = 1 << 20;
/// Operators for which integers of four bits are no others than those of eight.
const READS_FOUR_BITS: [&str; 2] = ["DequantizeLinear", "GatherBlockQuantized"];
/// Newest operator set that is understood; newer ones may change what operators mean.
const NEWEST_OPSET: i64 = 27;

/// How to read a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// Sizes for named dimensions, which become fixed.
    pub bindings: BTreeMap<String, usize>,
    /// Numbers for inputs that are one integer, see [`is_number`], which become constants.
    pub numbers: BTreeMap<String, usize>,
}

/// An operator that can be read.
pub(in crate::onnx) struct OperatorEntry {
    /// ONNX type.
    pub(in crate::onnx) name: &'static str,
    /// Writes what a node stands for.
    pub(in crate::onnx) import: fn(&mut NodeContext<'_, '_>) -> Result<(), ImportError>,
}

/// The ONNX types that are read, sorted; those that are not ONNX's own have their domain in front.
pub fn operators() -> Vec<String> {
    let mut names = Vec::new();
    for domain in ops::OPERATORS {
        let separator = if domain.name.is_empty() { "" } else { "." };
        names.extend(
            domain.entries().map(|entry| format!("{}{separator}{}", domain.name, entry.name)),
        );
    }
    names.sort_unstable();
    names
}

/// Reads a model from a file. Elements in files beside it are found in its folder. What the model
/// computes in floats of 16 bits is computed in f32: inputs and outputs, too.
///
/// # Errors
///
/// When the file is unreadable, is no ONNX model, exceeds a limit, or has something that graphs
/// cannot hold, which is named with its node.
pub fn import(path: &Path, options: &ImportOptions) -> Result<Graph, ImportError> {
    let bytes = file::read(path, SIZE_LIMIT as u64)?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    import_bytes(&bytes, Some(folder.unwrap_or(Path::new("."))), options)
}

/// Reads what a model in a file takes, as a graph of its inputs alone: their names and types are there
/// also where the rest is read only with sizes fixed.
///
/// # Errors
///
/// When the file is unreadable, is no ONNX model, or has inputs that graphs cannot hold.
pub fn import_inputs(path: &Path) -> Result<Graph, ImportError> {
    let model = decode(&file::read(path, SIZE_LIMIT as u64)?)?;
    let options = ImportOptions::default();
    let mut importer = Importer::new(&model, None, &options)?;
    importer.inputs(graph_of(&model)?, &mut Scope::default())?;
    Ok(importer.graph)
}

/// Reads a model from bytes; `folder` is where elements in other files are looked for.
///
/// # Errors
///
/// As [`import`].
pub fn import_bytes(
    bytes: &[u8],
    folder: Option<&Path>,
    options: &ImportOptions,
) -> Result<Graph, ImportError> {
    let model = decode(bytes)?;
    let mut importer = Importer::new(&model, folder, options)?;
    let mut scope = Scope { opsets: opsets(&model.opset_import)?, ..Scope::default() };
    importer.model_graph(graph_of(&model)?, &mut scope)?;
    let mut graph = importer.graph;
    graph.refresh()?;
    Ok(graph)
}

fn malformed(reason: impl ToString) -> ImportError {
    ImportError::Malformed { reason: reason.to_string() }
}

fn decode(bytes: &[u8]) -> Result<proto::Model, ImportError> {
    proto::Model::decode(bytes).map_err(malformed)
}

fn graph_of(model: &proto::Model) -> Result<&proto::GraphMessage, ImportError> {
    model.graph.as_ref().ok_or_else(|| malformed("it has no graph"))
}

/// Versions of the operator sets by domain; ONNX's own is the empty one.
fn opsets(list: &[proto::OperatorSet]) -> Result<BTreeMap<String, i64>, ImportError> {
    let domain = |set: &proto::OperatorSet| own_domain(set.domain.as_deref());
    let sets: BTreeMap<String, i64> =
        list.iter().map(|set| (domain(set), set.version.unwrap_or(1))).collect();
    match sets.get("") {
        Some(version) if !(1..=NEWEST_OPSET).contains(version) => Err(ImportError::Malformed {
            reason: format!("expected an operator set up to {NEWEST_OPSET}, found {version}"),
        }),
        _ => Ok(sets),
    }
}

/// ONNX's own domain has two names.
fn own_domain(domain: Option<&str>) -> String {
    domain.filter(|&domain| domain != "ai.onnx").unwrap_or_default().to_owned()
}

/// What to say of an input or output that is no tensor.
const NO_TENSOR: &str = "expected a tensor; sequences, maps and optional values are not supported";

/// Whether an input of this type is one integer, alone or in a list, which [`ImportOptions::numbers`] may
/// give.
pub fn is_number(dtype: DType, shape: &[Dim]) -> bool {
    matches!(dtype, DType::I32 | DType::I64) && matches!(shape, [] | [Dim::Fixed(1)])
}

/// A tensor of one integer.
fn constant(dtype: DType, rank: usize, number: usize) -> Option<Tensor> {
    let shape = vec![1; rank];
    match dtype {
        DType::I32 => Tensor::new(&shape, vec![i32::try_from(number).ok()?]).ok(),
        DType::I64 => Tensor::new(&shape, vec![i64::try_from(number).ok()?]).ok(),
        _ => None,
    }
}

/// The graph being made and what every part of the model shares.
pub(in crate::onnx) struct Importer<'a> {
    graph: Graph,
    folder: Option<PathBuf>,
    functions: Functions<'a>,
    bindings: &'a BTreeMap<String, usize>,
    numbers: &'a BTreeMap<String, usize>,
    nodes_left: usize,
    entries_left: usize,
    /// Nodes so far that draw random numbers and name no seed.
    drawing: u32,
    /// How many numbers may still be made of packed ones.
    unpacked_left: usize,
    /// How often each name was asked for when it was taken.
    copies: BTreeMap<String, usize>,
}

/// Names as one graph or function sees them.
#[derive(Clone, Default)]
pub(in crate::onnx) struct Scope {
    values: BTreeMap<String, ValueId>,
    /// Sequences of tensors, which are gone when the model has been read.
    sequences: BTreeMap<String, Sequence>,
    /// Constants of integers of four bits, which only operators of [`READS_FOUR_BITS`] can tell from
    /// those of eight.
    four_bits: BTreeMap<String, ValueId>,
    /// Inputs of a function that its call leaves out, and optional values that are empty.
    absent: BTreeSet<String>,
    opsets: BTreeMap<String, i64>,
    /// What the call of a function gives for its attributes.
    attributes: BTreeMap<String, proto::Attribute>,
    /// Before the name of every value made here; empty for the model's own graph.
    prefix: String,
    depth: usize,
    /// Whether this is inside a loop.
    repeats: bool,
}

/// A sequence of tensors.
#[derive(Clone)]
pub(in crate::onnx) enum Sequence {
    /// These.
    Entries(Rc<[ValueId]>),
    /// As many as a run says, all of one shape: the entries of a value's first dimension.
    Stacked(ValueId),
    /// What a loop carries at this place, in the body that only adds to it, and what is added.
    Growing(usize, Rc<[ValueId]>),
}

impl Sequence {
    /// Number of tensors that are held for it.
    fn len(&self) -> usize {
        match self {
            Self::Entries(entries) | Self::Growing(_, entries) => entries.len(),
            Self::Stacked(_) => 1,
        }
    }
}

/// What a name stands for.
#[derive(Clone)]
pub(in crate::onnx) enum Item {
    Tensor(ValueId),
    Sequence(Sequence),
    Absent,
}

impl Scope {
    fn item(&self, name: &str) -> Option<Item> {
        let tensor = self.values.get(name).copied().map(Item::Tensor);
        let sequence = || self.sequences.get(name).cloned().map(Item::Sequence);
        tensor.or_else(sequence).or_else(|| self.absent.contains(name).then_some(Item::Absent))
    }

    fn insert(&mut self, name: String, item: Item) {
        match item {
            Item::Tensor(id) => drop(self.values.insert(name, id)),
            Item::Sequence(sequence) => drop(self.sequences.insert(name, sequence)),
            Item::Absent => drop(self.absent.insert(name)),
        }
    }
}

impl<'a> Importer<'a> {
    fn new(
        model: &'a proto::Model,
        folder: Option<&Path>,
        options: &'a ImportOptions,
    ) -> Result<Self, ImportError> {
        Ok(Self {
            graph: Graph::new(graph_of(model)?.name.clone().unwrap_or_default()),
            folder: folder.map(Path::to_owned),
            functions: function::table(&model.functions)?,
            bindings: &options.bindings,
            numbers: &options.numbers,
            nodes_left: NODE_LIMIT,
            entries_left: SEQUENCE_LIMIT,
            drawing: 0,
            unpacked_left: 0,
            copies: BTreeMap::new(),
        })
    }

    fn inputs(
        &mut self,
        message: &proto::GraphMessage,
        scope: &mut Scope,
    ) -> Result<(), ImportError> {
        let stored: BTreeSet<&str> =
            message.initializer.iter().filter_map(|tensor| tensor.name.as_deref()).collect();
        // Old models list their weights among the inputs.
        for info in message.input.iter().filter(|info| !stored.contains(info.name())) {
            check_name(info.name())?;
            let (dtype, shape) = self.declared_type(info)?;
            let number = self.numbers.get(info.name()).filter(|_| is_number(dtype, &shape));
            let id = match number.and_then(|&number| constant(dtype, shape.len(), number)) {
                Some(tensor) => self.graph.add_weight(info.name(), tensor)?,
                None => self.graph.add_input(info.name(), dtype, shape)?,
            };
            scope.values.insert(info.name().to_owned(), id);
        }
        Ok(())
    }

    fn model_graph(
        &mut self,
        message: &'a proto::GraphMessage,
        scope: &mut Scope,
    ) -> Result<(), ImportError> {
        self.inputs(message, scope)?;
        self.initializers(message, scope)?;
        self.nodes(&message.node, scope)?;
        let mut outputs = Vec::new();
        for info in &message.output {
            check_name(info.name())?;
            outputs.push(self.output(info.name(), scope)?);
        }
        self.graph.set_outputs(&outputs);
        Ok(())
    }

    fn initializers(
        &mut self,
        message: &proto::GraphMessage,
        scope: &mut Scope,
    ) -> Result<(), ImportError> {
        if let Some(sparse) = message.sparse_initializer.first() {
            let name = sparse.values.as_ref().map(|values| values.name().to_owned());
            let reason = "sparse tensors are not supported".to_owned();
            return Err(ImportError::Tensor { name: name.unwrap_or_default(), reason });
        }
        for stored in &message.initializer {
            let name = stored.name();
            let fail = |reason| ImportError::Tensor { name: name.to_owned(), reason };
            let tensor = tensor::read(stored, self.folder.as_deref()).map_err(fail)?;
            self.allow_unpacking(&tensor);
            let own = match scope.depth {
                0 => shortened(name.to_owned()),
                _ => self.fresh(format!("{}{name}", scope.prefix)),
            };
            let id = self.graph.add_weight(&own, tensor)?;
            let four_bits = tensor::has_four_bits(stored);
            let values = if four_bits { &mut scope.four_bits } else { &mut scope.values };
            values.insert(name.to_owned(), id);
        }
        Ok(())
    }

    /// Reads a graph that a node holds and gives its outputs.
    fn body(
        &mut self,
        message: &'a proto::GraphMessage,
        scope: &mut Scope,
    ) -> Result<Vec<Item>, ImportError> {
        self.initializers(message, scope)?;
        self.nodes(&message.node, scope)?;
        let value = |info: &proto::ValueInfo| {
            scope.item(info.name()).ok_or_else(|| ImportError::Value {
                name: info.name().to_owned(),
                reason: "it is an output, but nothing writes it".to_owned(),
            })
        };
        message.output.iter().map(value).collect()
    }

    /// The value of a graph's output under the output's own name.
    fn output(&mut self, name: &str, scope: &Scope) -> Result<ValueId, ImportError> {
        let fail = |reason: &str| {
            Err(ImportError::Value { name: name.to_owned(), reason: reason.to_owned() })
        };
        let id = match scope.item(name) {
            Some(Item::Tensor(id)) => id,
            Some(Item::Sequence(_) | Item::Absent) => return fail(NO_TENSOR),
            None => return fail("it is an output, but nothing writes it"),
        };
        if self.graph.value_name(id) == name {
            return Ok(id);
        }
        Ok(self.graph.add_node(name, Op::Identity, &[id])?)
    }

    fn nodes(
        &mut self,
        nodes: &'a [proto::NodeMessage],
        scope: &mut Scope,
    ) -> Result<(), ImportError> {
        for index in order::execution_order(nodes, scope)? {
            self.count_nodes(1)?;
            self.node(&nodes[index], scope)?;
        }
        Ok(())
    }

    /// Takes entries of a sequence off what may still be held.
    fn count_entries(&mut self, count: usize) -> Result<(), ImportError> {
        let limit = SEQUENCE_LIMIT;
        let found = (limit - self.entries_left).saturating_add(count);
        let error = ImportError::Limit { what: "entries of sequences", limit, found };
        self.entries_left = self.entries_left.checked_sub(count).ok_or(error)?;
        Ok(())
    }

    /// Lets nodes unpack what the model brings, each byte as often as a few tied layers do.
    fn allow_unpacking(&mut self, tensor: &Tensor) {
        if tensor.dtype() == DType::U8 {
            self.unpacked_left = self.unpacked_left.saturating_add(UNPACKED_LIMIT * tensor.len());
        }
    }

    /// Takes nodes off what may still be written.
    fn count_nodes(&mut self, count: usize) -> Result<(), ImportError> {
        let found = NODE_LIMIT - self.nodes_left + count;
        let limit = ImportError::Limit { what: "nodes", limit: NODE_LIMIT, found };
        self.nodes_left = self.nodes_left.checked_sub(count).ok_or(limit)?;
        Ok(())
    }

    fn node(&mut self, node: &'a proto::NodeMessage, scope: &mut Scope) -> Result<(), ImportError> {
        let domain = own_domain(node.domain.as_deref());
        let key = FunctionKey {
            domain: domain.clone(),
            name: node.op_type().to_owned(),
            overload: node.overload().to_owned(),
        };
        if let Some(function) = self.functions.get(&key).copied() {
            return self.call(node, function, scope);
        }
        let entry = ops::find(&domain, node.op_type());
        let mut context = NodeContext::new(self, scope, node)?;
        if context.reads_sequence() && !ops::takes_sequences(node.op_type()) {
            return Err(context.unsupported("an input that is a sequence"));
        }
        match entry {
            Some(entry) => (entry.import)(&mut context),
            None => Err(context.unsupported("this operator")),
        }
    }

    fn declared_type(&self, info: &proto::ValueInfo) -> Result<(DType, Shape), ImportError> {
        let fail = |reason| ImportError::Value { name: info.name().to_owned(), reason };
        let kind = info.r#type.as_ref().and_then(|kind| kind.tensor_type.as_ref());
        let kind = kind.ok_or_else(|| fail(NO_TENSOR.to_owned()))?;
        let number = kind.elem_type.unwrap_or(0);
        let dtype = value_type(number).ok_or_else(|| {
            fail(format!("elements of type {} are not supported", type_name(number)))
        })?;
        let shape = kind.shape.as_ref().ok_or_else(|| {
            fail("expected a known number of dimensions, found none declared".to_owned())
        })?;
        if shape.dim.len() > RANK_LIMIT {
            let found = shape.dim.len();
            return Err(fail(format!("expected at most {RANK_LIMIT} dimensions, found {found}")));
        }
        let dims = shape.dim.iter().enumerate().map(|(axis, dim)| match &dim.value {
            // As some exporters say that it is known at a run.
            Some(proto::DimensionValue::Size(-1)) => {
                Ok(self.named(&format!("{}.{axis}", info.name())))
            }
            Some(proto::DimensionValue::Size(size)) => usize::try_from(*size)
                .map(Dim::Fixed)
                .map_err(|_| fail(format!("dimension {axis} is {size}"))),
            Some(proto::DimensionValue::Symbol(name)) if !["", "?"].contains(&name.as_str()) => {
                check_name(name).map(|()| self.named(name))
            }
            // A dimension without a name is one of its own.
            _ => Ok(self.named(&format!("{}.{axis}", info.name()))),
        });
        Ok((dtype, dims.collect::<Result<_, _>>()?))
    }

    fn named(&self, name: &str) -> Dim {
        let symbol = dimension_name(name);
        match self.bindings.get(name).or_else(|| self.bindings.get(&*symbol)) {
            Some(&size) => Dim::Fixed(size),
            None => Dim::symbol(&symbol),
        }
    }

    /// A name that no value has yet, made from `name`.
    fn fresh(&mut self, name: String) -> String {
        let name = shortened(name);
        if self.graph.find(&name).is_none() {
            return name;
        }
        let copies = self.copies.entry(name.clone()).or_default();
        loop {
            *copies += 1;
            let fresh = format!("{name}'{copies}");
            if self.graph.find(&fresh).is_none() {
                return fresh;
            }
        }
    }

    /// Adds what `op` gives for `inputs`: a weight where that is known, a node elsewhere.
    fn emit(
        &mut self,
        name: String,
        op: Op,
        inputs: &[ValueId],
    ) -> Result<ValueId, crate::GraphError> {
        let name = self.fresh(name);
        match self.folded(&op, inputs) {
            Some(tensor) => self.graph.add_weight(&name, tensor),
            None => self.graph.add_node(&name, op, inputs),
        }
    }

    /// The value of `op` when it follows from constants and is no larger than they are, or follows
    /// from sizes. A failure is left to the node, which reports it when it runs.
    fn folded(&self, op: &Op, inputs: &[ValueId]) -> Option<Tensor> {
        const SMALL: usize = 4096;
        let arguments: Vec<_> = inputs.iter().map(|&id| self.graph.argument(id)).collect();
        let value_type = op.operator().infer(&arguments).ok()?;
        if let Some(numbers) = op.operator().integers(&arguments) {
            let known: Option<Vec<i64>> = numbers.iter().map(crate::op::Integer::known).collect();
            let sizes = crate::Bindings::default().sizes(&value_type.shape);
            if let (Some(known), Ok(sizes)) = (known, sizes) {
                let list = Tensor::new(&sizes, known).ok()?;
                let cast = crate::op::Cast { to: value_type.dtype };
                return crate::op::Operator::evaluate(&cast, &[&list], &crate::Bindings::default())
                    .ok();
            }
        }
        // Quantized weights stay quantized: the integer kernels need to see them. A loop may run
        // for long, and so may what looks at as many places as its inputs say.
        if matches!(op, Op::Dequantize(_) | Op::If(_) | Op::Loop(_) | Op::RoiAlign(_)) {
            return None;
        }
        // A small constant may ask for a very large one.
        let known: usize =
            // What is empty along one dimension may be walked along the others.
            value_type.shape.iter().filter_map(crate::Dim::fixed).map(|size| size.max(1)).fold(
                1,
                usize::saturating_mul,
            );
        let constants: Option<Vec<&Tensor>> =
            inputs.iter().map(|&id| self.graph.weight(id)).collect();
        let constants = constants?;
        let moves = matches!(
            op,
            Op::Transpose(_)
                | Op::Reshape(_)
                | Op::ReshapeTo(_)
                | Op::Unsqueeze(_)
                | Op::Squeeze(_)
                | Op::Identity
        );
        let places = |tensor: &&Tensor| {
            tensor.shape().iter().fold(1usize, |places, &size| places.saturating_mul(size.max(1)))
        };
        let elements = constants.iter().map(places).fold(0, usize::saturating_add);
        if constants.is_empty() || !(moves || elements <= SMALL && known <= SMALL) {
            return None;
        }
        let tensor = op.operator().evaluate(&constants, &crate::Bindings::default()).ok()?;
        (moves || tensor.len() <= SMALL).then_some(tensor)
    }
}

/// The end of a name that is too long to be kept, with room for a number behind it.
fn shortened(mut name: String) -> String {
    if name.len() > NAME_LIMIT - 32 {
        let start = name.len() - (NAME_LIMIT - 32);
        name.drain(..name.ceil_char_boundary(start));
    }
    name
}

/// Inputs and outputs keep their names, which therefore may not be too long.
fn check_name(name: &str) -> Result<(), ImportError> {
    let found = name.len();
    if found > NAME_LIMIT {
        let limit = NAME_LIMIT;
        return Err(ImportError::Limit { what: "bytes in the name of a value", limit, found });
    }
    Ok(())
}

/// A dimension's name as graphs want it: beginning with a letter.
fn dimension_name(name: &str) -> String {
    if name.starts_with(|first: char| first.is_alphabetic() || first == '_') {
        name.to_owned()
    } else {
        format!("_{name}")
    }
}

#[cfg(test)]
mod tests;
