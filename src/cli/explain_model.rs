//! `pipeline explain-model FOLDER`.

use std::fmt::Write as _;
use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Context as _;
use graph::ModelFolder;
use graph::package::Package;
use runtime::{CompileOptions, Explanation};

use super::answer::{Answer, Facts, columns};
use super::failure::Failure;
use super::quantity::bytes;

/// Says how a model runs on this machine: passes, fused nodes, kernels and why not the others.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainModel {
    /// Folder of a model or package, as `path` prints it
    folder: PathBuf,
    /// CPU threads it is compiled for [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// Passes that do not run
    #[arg(long, value_name = "PASS", value_delimiter = ',')]
    without: Vec<String>,
    /// Also say why each other kernel was not chosen
    #[arg(long)]
    rejected: bool,
    #[command(flatten)]
    facts: Facts,
}

impl ExplainModel {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let options = CompileOptions {
            threads: self.threads,
            disabled_passes: self.without.clone(),
            ..CompileOptions::default()
        };
        let model = runtime::compile(&self.model()?.graph, &options)
            .with_context(|| format!("cannot compile {}", self.folder.display()))?;
        let explanation = model.explain();
        Ok(self.facts.answer(explanation, || self.text(explanation)))
    }

    fn model(&self) -> Result<ModelFolder, Failure> {
        if self.folder.join("package.toml").exists() {
            return Ok(Package::read(&self.folder).map_err(anyhow::Error::new)?.model);
        }
        Ok(ModelFolder::read(&self.folder).map_err(anyhow::Error::new)?)
    }

    fn text(&self, explanation: &Explanation) -> String {
        let Explanation { tier, threads, constant_bytes, packed_bytes, .. } = explanation;
        let size = |size: &usize| bytes(*size as u64);
        let mut text = format!(
            "kernels for {tier}, {threads} threads, {} of constants, {} of packed weights\n\npasses that fired:\n",
            size(constant_bytes),
            size(packed_bytes)
        );
        for pass in explanation.passes.iter().filter(|pass| pass.fired > 0) {
            let _infallible = writeln!(text, "  {} {}×", pass.name, pass.fired);
        }
        let header = ["node", "operation", "output", "kernel", "stands for"].map(str::to_owned);
        let rows = explanation.nodes.iter().map(|node| {
            let fused = match node.fused_from.len() {
                0 => String::new(),
                count => format!("{count} nodes"),
            };
            [&node.name, &node.operation, &node.output, &node.kernel, &fused].map(Clone::clone)
        });
        let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
        let _infallible = write!(text, "\n{}", columns(&rows));
        if self.rejected {
            text.push_str(&rejected(explanation));
        }
        text
    }
}

fn rejected(explanation: &Explanation) -> String {
    let mut text = String::from("\nnot chosen:\n");
    for node in &explanation.nodes {
        for other in &node.rejected {
            let _infallible = writeln!(text, "  {}: {}, {}", node.name, other.kernel, other.reason);
        }
    }
    text
}
