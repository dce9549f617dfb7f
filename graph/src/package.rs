//! The package: everything a server needs, in one folder, with the means to check it.

mod golden;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::file::{self, FileError};
use crate::model_folder::{GRAPH_FILE, ModelInfo, TOKENIZER_FILE, WEIGHTS_FILE};
use crate::onnx::{self, OnnxError};
use crate::weights::WeightsError;
use crate::{DType, Graph, ModelError, ModelFolder, Op, Shape, ValueId};

pub use golden::{Golden, GoldenExample, NamedTensors, other_entries};

/// The manifest's file.
pub const MANIFEST_FILE: &str = "package.toml";
/// The golden examples' file.
pub const GOLDEN_FILE: &str = "golden.safetensors";
/// The ONNX model's file.
pub const ONNX_FILE: &str = "model.onnx";
/// Version of the folder's layout.
pub const SCHEMA: u32 = 1;

/// The greatest tolerance of golden examples: a self-test that forgives more tells nothing.
pub const MOST_TOLERANCE: f32 = 0.25;

/// A model ready to be served.
#[derive(Clone, Debug, PartialEq)]
pub struct Package {
    /// What the package is called.
    pub name: String,
    /// Graph, tokenizer, labels.
    pub model: ModelFolder,
    /// Inputs with the outputs that the model has to give for them on every machine.
    pub golden: Golden,
    /// How far from them an output may be, as a share of the greatest magnitude expected of it, and which
    /// share of integers may be others, where that is more than usual, at most [`MOST_TOLERANCE`]: of models
    /// in which a last bit decides more.
    pub tolerance: Option<f32>,
    /// Where the model comes from: free facts by name, such as digests of data and checkpoint.
    pub provenance: BTreeMap<String, String>,
    /// What the service promises, if anything.
    pub slo: Option<Slo>,
}

/// A service level objective.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slo {
    /// 99th percentile of the time to answer one request, in milliseconds, > 0.
    pub p99_ms: f64,
}

/// `package.toml`: what is in the package, readable without loading it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct PackageManifest {
    /// Version of the folder's layout.
    pub schema: u32,
    /// What the package is called.
    pub name: String,
    /// Names of the classes, in the order of the logits.
    pub labels: Vec<String>,
    /// Most word pieces of a text; 0 for a model that takes no texts.
    pub max_length: usize,
    /// How far from golden outputs one may be, where that is more than usual.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tolerance: Option<f32>,
    /// What the model takes, in order.
    pub inputs: Vec<Port>,
    /// What the model gives, in order.
    pub outputs: Vec<Port>,
    /// How much of the model is integers.
    pub quantization: Quantization,
    /// What the service promises, if anything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slo: Option<Slo>,
    /// Where the model comes from.
    pub provenance: BTreeMap<String, String>,
    /// `blake3:` and the digest in hex of every other file, by name.
    pub digests: BTreeMap<String, String>,
}

/// An input or output of the model.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Port {
    /// Name of the value.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Dimensions: numbers, or names that a request binds.
    pub shape: Shape,
}

/// How much of a model is integers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Quantization {
    /// Elements of weights held as 8-bit integers.
    pub int8_weights: usize,
    /// Elements of weights held as 32-bit floats.
    pub float_weights: usize,
    /// Activations that are quantized.
    pub quantized_activations: usize,
}

/// What can be wrong with a package.
#[derive(Debug, thiserror::Error)]
pub enum PackageError {
    /// A file cannot be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model in it is broken.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The golden examples' file is broken.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// The model cannot be written as ONNX.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
    /// The manifest is broken, or does not fit the model.
    #[error("{}: {reason}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// What was expected and found.
        reason: String,
    },
    /// A file is not the one that was packed.
    #[error(
        "{}: expected digest {expected}, found {found}: the file was changed after packing; export \
         or copy the package again",
        path.display()
    )]
    Digest {
        /// The file.
        path: PathBuf,
        /// The manifest's digest.
        expected: String,
        /// The file's digest.
        found: String,
    },
    /// The golden examples do not fit the model.
    #[error("golden example {index}: {reason}")]
    Golden {
        /// Index of the example.
        index: usize,
        /// What was expected and found.
        reason: String,
    },
    /// Nothing tells whether a machine computes the model's answers.
    #[error("expected at least one golden example, found none")]
    NoGolden,
}

/// Every file but the manifest, for a model that takes texts.
const FILES: [&str; 5] = [GRAPH_FILE, WEIGHTS_FILE, TOKENIZER_FILE, GOLDEN_FILE, ONNX_FILE];

/// Every file but the manifest. A model without texts has no tokenizer.
fn files(max_length: usize) -> impl Iterator<Item = &'static str> {
    FILES.into_iter().filter(move |&name| max_length > 0 || name != TOKENIZER_FILE)
}
/// Most bytes of a manifest.
const MANIFEST_LIMIT: u64 = 16 << 20;

impl Package {
    /// Writes the package into the folder `directory`, which is created when it is not there. The
    /// manifest comes last. Equal packages make equal bytes.
    ///
    /// # Errors
    ///
    /// When a file cannot be written; labels or golden examples do not fit the graph; a weight is
    /// infinite or NaN; or the graph has no ONNX form.
    pub fn write(&self, directory: &Path) -> Result<PackageManifest, PackageError> {
        let path = directory.join(MANIFEST_FILE);
        self.model.check_labels(&path)?;
        let golden = self.golden.tensors(&self.model.graph)?;
        let onnx = onnx::export(&self.model.graph)?;
        self.model.write_parts(directory)?;
        let golden = golden.iter().map(|(name, tensor)| (name.as_str(), *tensor));
        crate::weights::write(&directory.join(GOLDEN_FILE), golden)?;
        file::write(&directory.join(ONNX_FILE), &onnx)?;
        let mut manifest = self.manifest();
        for name in files(manifest.max_length) {
            manifest.digests.insert(name.to_owned(), digest(&directory.join(name))?);
        }
        let text = toml::to_string_pretty(&manifest).map_err(|error| PackageError::Manifest {
            path: path.clone(),
            reason: error.to_string(),
        })?;
        file::write(&path, text.as_bytes())?;
        Ok(manifest)
    }

    /// The manifest without digests.
    fn manifest(&self) -> PackageManifest {
        let graph = &self.model.graph;
        let ports = |ids: &[ValueId]| ids.iter().map(|&id| Port::of(graph, id)).collect();
        PackageManifest {
            schema: SCHEMA,
            name: self.name.clone(),
            labels: self.model.info.labels.clone(),
            max_length: self.model.info.max_length,
            inputs: ports(graph.inputs()),
            outputs: ports(graph.outputs()),
            quantization: Quantization::of(graph),
            tolerance: self.tolerance,
            slo: self.slo,
            provenance: self.provenance.clone(),
            digests: BTreeMap::new(),
        }
    }

    /// Reads a package and checks it: the digest of every file, and that the manifest describes
    /// the model that is there. Whether this machine computes the golden outputs is for the
    /// server to find out with [`Golden::verify`].
    ///
    /// # Errors
    ///
    /// When a file is missing, broken or not the one that was packed; each names the file.
    pub fn read(directory: &Path) -> Result<Self, PackageError> {
        let manifest = PackageManifest::read(directory)?;
        let path = directory.join(MANIFEST_FILE);
        for name in files(manifest.max_length) {
            let (path, expected) = (directory.join(name), manifest.digests[name].clone());
            let found = digest(&path)?;
            if found != expected {
                return Err(PackageError::Digest { path, expected, found });
            }
        }
        let info = ModelInfo { labels: manifest.labels.clone(), max_length: manifest.max_length };
        let model = ModelFolder::read_parts(directory, info)?;
        model.check_labels(&path)?;
        let golden = Golden::read(&directory.join(GOLDEN_FILE), &model.graph)?;
        let PackageManifest { name, provenance, tolerance, slo, digests, .. } = manifest.clone();
        let package = Self { name, model, golden, tolerance, provenance, slo };
        if (PackageManifest { digests, ..package.manifest() }) != manifest {
            let reason = "expected the inputs, outputs and quantization of the graph, found others";
            return Err(PackageError::Manifest { path, reason: reason.to_owned() });
        }
        Ok(package)
    }
}

impl PackageManifest {
    /// Reads the manifest of the package in `directory`, without looking at the other files.
    ///
    /// # Errors
    ///
    /// When it is missing, broken, of another version, or does not list every file.
    pub fn read(directory: &Path) -> Result<Self, PackageError> {
        let path = directory.join(MANIFEST_FILE);
        let bytes = file::read(&path, MANIFEST_LIMIT)?;
        let fail = |reason| PackageError::Manifest { path: path.clone(), reason };
        let manifest: Self = toml::from_slice(&bytes).map_err(|error| fail(error.to_string()))?;
        if manifest.schema != SCHEMA {
            return Err(fail(format!("expected schema {SCHEMA}, found {}", manifest.schema)));
        }
        if let Some(found) =
            manifest.tolerance.filter(|found| !(0.0..=MOST_TOLERANCE).contains(found))
        {
            return Err(fail(format!(
                "expected a tolerance up to {MOST_TOLERANCE}, found {found}"
            )));
        }
        let files: BTreeSet<&str> = files(manifest.max_length).collect();
        let listed: BTreeSet<&str> = manifest.digests.keys().map(String::as_str).collect();
        if files != listed {
            return Err(fail(format!("expected digests of {files:?}, found {listed:?}")));
        }
        Ok(manifest)
    }
}

impl Port {
    fn of(graph: &Graph, id: ValueId) -> Self {
        let value_type = graph.value_type(id).clone();
        let name = graph.value_name(id).to_owned();
        Self { name, dtype: value_type.dtype, shape: value_type.shape }
    }
}

impl Quantization {
    /// Counts integers and floats of a graph.
    pub fn of(graph: &Graph) -> Self {
        let mut int8: BTreeSet<ValueId> = BTreeSet::new();
        let mut activations: BTreeSet<ValueId> = BTreeSet::new();
        for (_, node) in graph.nodes() {
            let Some(&input) = node.inputs.first() else { continue };
            let is_weight = graph.weight(input).is_some();
            match node.op {
                Op::Dequantize(_) if is_weight => int8.insert(input),
                Op::Quantize(_) if !is_weight => activations.insert(input),
                _ => false,
            };
        }
        let floats = graph.weights().filter(|(_, tensor)| tensor.dtype() == DType::F32);
        Self {
            int8_weights: int8.iter().filter_map(|&id| graph.weight(id)).map(|w| w.len()).sum(),
            float_weights: floats.map(|(_, tensor)| tensor.len()).sum(),
            quantized_activations: activations.len(),
        }
    }
}

/// `blake3:` and the digest of a file's bytes in hex.
fn digest(path: &Path) -> Result<String, FileError> {
    let fail = |source| FileError::new("read", path, source);
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path).map_err(fail)?).map_err(fail)?;
    Ok(format!("blake3:{}", hasher.finalize().to_hex()))
}

#[cfg(test)]
mod tests;
