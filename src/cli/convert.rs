//! `pipeline convert INPUT -o PACKAGE`.

mod int8;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use graph::package::{Golden, Package};
use graph::{Bindings, ModelFolder, samples};
use runtime::{CompileOptions, FailedTier};
use serde::Serialize;

use self::int8::{Quantization, Quantized};
use super::answer::{Answer, Facts};
use super::failure::{Failure, WRONG};
use super::model::{Compilation, Source, failed_tiers, sizes};
use super::quantity::bytes;

/// The dimension that rows of a batch lie along.
const BATCH: &str = "batch";
/// Sizes of the open dimensions in the golden examples: one alone, and a few that differ.
const GOLDEN_SIZES: [usize; 2] = [1, 3];

/// Makes a package of a model: a checkpoint, an ONNX file, a model folder.
#[derive(Debug, clap::Args)]
pub(super) struct Convert {
    #[command(flatten)]
    source: Source,
    /// Folder of the package; it must not be there
    #[arg(short, long, value_name = "PACKAGE")]
    output: PathBuf,
    #[command(flatten)]
    quantization: Quantization,
    /// Rows that have to fit the memory budget together, at the most word pieces or the sizes bound
    #[arg(long, value_name = "N")]
    batch_size: Option<usize>,
    #[command(flatten)]
    compilation: Compilation,
    #[command(flatten)]
    facts: Facts,
}

/// What was made.
#[derive(Debug, Serialize)]
struct Report {
    package: PathBuf,
    weights: usize,
    weight_bytes: u64,
    nodes: usize,
    tier: String,
    /// Faster tiers whose kernels failed the self-test on this machine, and why.
    failed_tiers: Vec<FailedTier>,
    worst_difference: f32,
    #[serde(skip_serializing_if = "Option::is_none")]
    quantized: Option<Quantized>,
    /// Rows that fit the memory budget together, where there is a budget and a `batch`.
    #[serde(skip_serializing_if = "Option::is_none")]
    largest_batch: Option<usize>,
}

impl Convert {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        if self.output.exists() {
            let path = self.output.display();
            return Err(Failure::wrong(format!("{path} is there already; name a new folder")));
        }
        let opened = self.source.open()?;
        let wrong = |error| Failure::Other(error, WRONG);
        let (model, quantized) = self.quantization.apply(opened.model).map_err(wrong)?;
        let largest_batch = self.largest_batch(&model)?;
        match (self.batch_size, largest_batch) {
            (Some(wanted), Some(most)) if wanted > most => {
                return Err(Failure::wrong(format!(
                    "expected a batch that fits the memory budget, at most {most}, found {wanted}"
                )));
            }
            (Some(_), None) => {
                return Err(Failure::wrong(
                    "--batch-size is for a memory budget, give one with --memory-budget or \
                     --memory-fraction, and for a model whose dimension `batch` is open",
                ));
            }
            _ => {}
        }
        let report = Report { largest_batch, quantized, ..self.pack(model)? };
        Ok(self.facts.answer(&report, || text(&report)))
    }

    /// The most rows that fit the memory budget; `None` without a budget or a `batch`.
    fn largest_batch(&self, model: &ModelFolder) -> Result<Option<usize>, Failure> {
        let options = self.compilation.options()?;
        let open = samples::open_dimensions(&model.graph);
        let (Some(budget), true) = (options.memory_budget, open.iter().any(|name| name == BATCH))
        else {
            return Ok(None);
        };
        let wrong = |error: runtime::RuntimeError| Failure::Other(error.into(), WRONG);
        let longest = if model.info.max_length > 0 { model.info.max_length } else { 128 };
        let (sizes, _) = sizes(&model.graph, &self.source.bindings(), longest);
        let unlimited = CompileOptions { memory_budget: None, ..options };
        let compiled = runtime::compile(&model.graph, &unlimited).map_err(wrong)?;
        let most = compiled.largest(BATCH, &sizes, budget).map_err(wrong)?;
        Ok(Some(most.unwrap_or(0)))
    }

    fn pack(&self, model: ModelFolder) -> Result<Report, Failure> {
        let wrong = |error: anyhow::Error| Failure::Other(error, WRONG);
        let golden = golden(&model).map_err(wrong)?;
        let file_name = self.output.file_name().unwrap_or_default().to_string_lossy();
        let tool = concat!("pipeline ", env!("CARGO_PKG_VERSION")).to_owned();
        let provenance = BTreeMap::from([("tool".to_owned(), tool)]);
        let precision = self.compilation.options()?.precision;
        let tolerance = runtime::golden_tolerance(&model.graph, &golden, precision)
            .map_err(|error| wrong(error.into()))?;
        let name = file_name.into_owned();
        let package = Package { name, model, golden, tolerance, provenance, slo: None };
        // What was written is read back and tested before it has a name that anyone may rely on.
        let beside = self.folder_beside().map_err(wrong)?;
        let untested = beside.path().join("package");
        package.write(&untested).map_err(|error| wrong(error.into()))?;
        let package =
            Package::read(&untested).context("reading the package back").map_err(wrong)?;
        let verified = self.compilation.load(&package)?;
        std::fs::rename(&untested, &self.output)
            .with_context(|| format!("cannot name the package {}", self.output.display()))
            .map_err(wrong)?;
        Ok(Report {
            package: self.output.clone(),
            weights: package.model.graph.weight_count(),
            weight_bytes: package.model.graph.weight_bytes() as u64,
            nodes: package.model.graph.nodes().count(),
            tier: verified.model.explain().tier.clone(),
            failed_tiers: verified.failed,
            worst_difference: verified.worst_difference,
            quantized: None,
            largest_batch: None,
        })
    }
}

impl Convert {
    /// A folder on the file system of the output that goes away again.
    fn folder_beside(&self) -> Result<tempfile::TempDir> {
        let parent = self.output.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        std::fs::create_dir_all(parent)
            .and_then(|()| tempfile::Builder::new().prefix(".convert-").tempdir_in(parent))
            .with_context(|| format!("cannot write in the folder {}", parent.display()))
    }
}

/// What the reference answers on made-up inputs.
fn golden(model: &ModelFolder) -> Result<Golden> {
    let open = samples::open_dimensions(&model.graph);
    let runs = if open.is_empty() { &GOLDEN_SIZES[..1] } else { &GOLDEN_SIZES[..] };
    let mut inputs = Vec::new();
    for &size in runs {
        let bindings = Bindings::new(open.iter().map(|name| (name.as_str(), size)));
        let made = samples::inputs(&model.graph, &bindings, size as u64);
        inputs.push(made.map_err(anyhow::Error::msg)?);
    }
    Golden::evaluate(&model.graph, inputs).with_context(|| {
        let advice = if open.is_empty() {
            String::new()
        } else {
            let (open, runs) = (open.join(", "), &GOLDEN_SIZES);
            format!(" whose open dimensions ({open}) have sizes {runs:?}; give others with --bind")
        };
        format!("the model does not run on made-up inputs{advice}")
    })
}

fn text(report: &Report) -> String {
    let batch = report.largest_batch.map_or_else(String::new, |most| {
        format!("at most {most} rows together fit the memory budget\n")
    });
    let failed = failed_tiers(&report.failed_tiers, &report.tier);
    let int8 = report.quantized.as_ref().map(int8::text).unwrap_or_default();
    format!(
        "{}: {} weights, {}, {} nodes\n{int8}{failed}self-test passed with kernels for {}: at most {:.1e} from the reference\n{batch}",
        report.package.display(),
        report.weights,
        bytes(report.weight_bytes),
        report.nodes,
        report.tier,
        report.worst_difference
    )
}
