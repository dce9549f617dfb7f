//! A model from wherever it is: a package, a model folder, a checkpoint, an ONNX file.

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, ensure};
use graph::bert::Pooling;
use graph::onnx::ImportOptions;
use graph::package::{MANIFEST_FILE, Package};
use graph::{
    Bindings, DType, ModelFolder, ModelInfo, Tensor, dim, huggingface, model_folder, onnx, samples,
};

use crate::cli::failure::Failure;

/// A name and its size, `sequence=128`.
#[derive(Clone, Debug)]
struct Size {
    name: String,
    size: NonZeroUsize,
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('=').and_then(|(name, size)| Some((name, size.parse().ok()?)));
        let (name, size) = parts.ok_or_else(|| {
            format!("expected NAME=SIZE with a size of 1 or more, found `{text}`")
        })?;
        Ok(Self { name: name.to_owned(), size })
    }
}

/// The model that a verb is about.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Source {
    /// Package, model folder, Hugging Face checkpoint folder, or ONNX file
    model: PathBuf,
    /// Sizes of named dimensions, such as `batch=1,sequence=128`; an ONNX model is read with them
    /// fixed, and its inputs of one integer may be given too
    #[arg(long, value_name = "NAME=SIZE", value_delimiter = ',')]
    bind: Vec<Size>,
    /// Names of the classes of a checkpoint or ONNX model, in the order of its outputs
    #[arg(long, value_name = "LABEL", value_delimiter = ',')]
    labels: Vec<String>,
    /// `tokenizer.json` of an ONNX model that takes texts
    #[arg(long, value_name = "FILE")]
    tokenizer: Option<PathBuf>,
    /// Most word pieces of a text, for an ONNX model that takes texts
    #[arg(long, value_name = "N", default_value_t = 512, requires = "tokenizer")]
    max_length: usize,
}

/// A model and, where it came in one, its package.
#[derive(Debug)]
pub(in crate::cli) struct Opened {
    pub(in crate::cli) model: ModelFolder,
    pub(in crate::cli) package: Option<Package>,
    /// Inputs that became constants.
    pub(in crate::cli) bound: Vec<String>,
}

impl Opened {
    /// Tokens of a text that nobody gave the length of: 128, or the most that the model takes.
    pub(in crate::cli) fn usual_length(&self) -> usize {
        /// Where a model knows no longest text.
        const USUAL: usize = 128;
        match self.model.info.max_length {
            0 => USUAL,
            most => most.min(USUAL),
        }
    }
}

impl Source {
    /// Sizes given on the command line.
    pub(in crate::cli) fn bindings(&self) -> BTreeMap<String, usize> {
        self.bind.iter().map(|Size { name, size }| (name.clone(), size.get())).collect()
    }

    /// Reads and checks the model.
    ///
    /// # Errors
    /// When there is nothing at the path, or what is there is broken.
    pub(in crate::cli) fn open(&self) -> Result<Opened, Failure> {
        self.open_for(&[])
    }

    /// The same to run on these inputs: of an ONNX model their sizes are fixed, and those of one integer
    /// become constants, so that memory is planned, and kernels are chosen, for them.
    ///
    /// # Errors
    /// As for [`Self::open`].
    pub(in crate::cli) fn open_for(&self, inputs: &[(&str, &Tensor)]) -> Result<Opened, Failure> {
        let opened = self.read(inputs);
        let opened = opened.with_context(|| format!("cannot read {}", self.model.display()));
        opened.map_err(|error| Failure::Other(error, crate::cli::failure::WRONG))
    }

    fn read(&self, inputs: &[(&str, &Tensor)]) -> anyhow::Result<Opened> {
        let path = self.model.as_path();
        let bare = |model| Opened { model, package: None, bound: Vec::new() };
        if !path.is_dir() {
            // Once they are fixed, dimensions have no names; some models are read only with them fixed.
            let (mut options, mut bound) = (ImportOptions::default(), Vec::new());
            if !(self.bind.is_empty() && inputs.is_empty()) {
                let open = onnx::import_inputs(path)?;
                self.refuse_unknown(&open)?;
                let dimensions = samples::open_dimensions(&open);
                // A number is one only where no dimension has its name.
                let is_number = |name: &String| {
                    !dimensions.contains(name) && numbers(&open).any(|number| number == name)
                };
                (options.numbers, options.bindings) =
                    self.bindings().into_iter().partition(|(name, _)| is_number(name));
                for (name, size) in sizes_of(&open, inputs) {
                    options.bindings.entry(name).or_insert(size);
                }
                for (name, number) in numbers_of(&open, inputs) {
                    // What is given twice is refused with the other inputs.
                    if !options.numbers.contains_key(&name) {
                        options.numbers.insert(name.clone(), number);
                        bound.push(name);
                    }
                }
            }
            let graph = onnx::import(path, &options)?;
            let (tokenizer_json, max_length) = match &self.tokenizer {
                Some(file) => {
                    let read = fs::read(file);
                    (
                        read.with_context(|| format!("cannot read {}", file.display()))?,
                        self.max_length,
                    )
                }
                None => (Vec::new(), 0),
            };
            let info = ModelInfo { labels: self.labels.clone(), max_length };
            return Ok(Opened { bound, ..bare(ModelFolder { graph, tokenizer_json, info }) });
        }
        ensure!(
            self.tokenizer.is_none(),
            "expected a folder without --tokenizer: it brings its own, only an ONNX file has none"
        );
        let is_package = path.join(MANIFEST_FILE).exists();
        let opened = if is_package || path.join(model_folder::GRAPH_FILE).exists() {
            ensure!(
                self.labels.is_empty(),
                "expected a package or model folder without --labels: it brings its own"
            );
            match is_package {
                true => {
                    let package = Package::read(path)?;
                    let model = package.model.clone();
                    Opened { package: Some(package), ..bare(model) }
                }
                false => bare(ModelFolder::read(path)?),
            }
        } else {
            bare(self.checkpoint(path)?)
        };
        self.refuse_unknown(&opened.model.graph)?;
        Ok(opened)
    }

    /// Refuses sizes of dimensions that the model does not have.
    fn refuse_unknown(&self, graph: &graph::Graph) -> anyhow::Result<()> {
        let mut open = samples::open_dimensions(graph);
        open.extend(numbers(graph).map(str::to_owned));
        // The importer puts `_` before a name that begins with no letter.
        let is_known =
            |name: &String| open.iter().any(|open| open == name || *open == format!("_{name}"));
        for Size { name, .. } in &self.bind {
            let listed: Vec<String> = open.iter().map(|name| format!("`{name}`")).collect();
            let known =
                if open.is_empty() { "which has none".to_owned() } else { listed.join(", ") };
            ensure!(
                is_known(name),
                "expected --bind with a dimension or an integer of the model ({known}), found `{name}`"
            );
        }
        Ok(())
    }

    fn checkpoint(&self, path: &Path) -> anyhow::Result<ModelFolder> {
        let labels = self.labels.clone();
        ensure!(labels.len() > 1, "expected --labels: the classes of this checkpoint's classifier");
        let checkpoint = huggingface::load(path, labels.len(), Pooling::Mean, 0)?;
        let info = ModelInfo { labels, max_length: checkpoint.config.positions };
        let tokenizer_json = checkpoint.tokenizer_json;
        Ok(ModelFolder { graph: checkpoint.graph, tokenizer_json, info })
    }
}

/// Sizes of named dimensions that inputs of these sizes have; none of one that has two, which the run
/// will refuse.
fn sizes_of(graph: &graph::Graph, inputs: &[(&str, &Tensor)]) -> BTreeMap<String, usize> {
    let mut sizes = BTreeMap::new();
    let mut uneven = Vec::new();
    for (name, tensor) in inputs {
        let Some(id) = graph.find(name) else { continue };
        let (dims, shape) = (&graph.value_type(id).shape, tensor.shape());
        for (dim, &size) in dims.iter().zip(shape).filter(|_| dims.len() == shape.len()) {
            if let graph::Dim::Symbol(symbol) = dim
                && sizes.insert(symbol.to_string(), size).is_some_and(|other| other != size)
            {
                uneven.push(symbol.to_string());
            }
        }
    }
    sizes.retain(|name, size| *size > 0 && !uneven.contains(name));
    sizes
}

/// Names of the inputs that are one integer.
fn numbers(graph: &graph::Graph) -> impl Iterator<Item = &str> {
    let is_number = |id: graph::ValueId| {
        let value_type = graph.value_type(id);
        onnx::is_number(value_type.dtype, &value_type.shape)
    };
    graph.inputs().iter().filter(move |&&id| is_number(id)).map(|&id| graph.value_name(id))
}

/// Inputs of one integer with what they are; none that is negative or of another type.
fn numbers_of(graph: &graph::Graph, inputs: &[(&str, &Tensor)]) -> Vec<(String, usize)> {
    let number = |tensor: &Tensor| match tensor.dtype() {
        DType::I32 => tensor.elements::<i32>().ok()?.first().map(|&number| i64::from(number)),
        _ => tensor.elements::<i64>().ok()?.first().copied(),
    };
    let of = |name: &str| {
        let (_, tensor) = inputs.iter().find(|(given, _)| *given == name)?;
        let declared = graph.value_type(graph.find(name)?);
        let fits = declared.dtype == tensor.dtype() && declared.shape == dim::fixed(tensor.shape());
        let number = usize::try_from(number(tensor)?).ok().filter(|_| fits)?;
        Some((name.to_owned(), number))
    };
    numbers(graph).filter_map(of).collect()
}

/// Sizes for every open dimension of a model: those given, else 1 for batches and `default` for
/// the others. What has no name is called by its input and its place, the first of which is a batch.
pub(in crate::cli) fn sizes(
    graph: &graph::Graph,
    given: &BTreeMap<String, usize>,
    default: usize,
) -> (Bindings, String) {
    let is_batch = |name: &str| name.contains("batch") || name.ends_with(".0");
    let size = |name: &String| {
        given.get(name).copied().unwrap_or(if is_batch(name) { 1 } else { default })
    };
    let sizes: Vec<(String, usize)> = samples::open_dimensions(graph)
        .into_iter()
        .map(|name| (name.clone(), size(&name)))
        .collect();
    let text: Vec<String> = sizes.iter().map(|(name, size)| format!("{name}={size}")).collect();
    let bindings = Bindings::new(sizes.iter().map(|(name, size)| (name.as_str(), *size)));
    (bindings, text.join(", "))
}
