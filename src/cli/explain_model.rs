//! `pipeline explain-model MODEL`.

use std::fmt::Write as _;

use graph::{Tensor, samples};
use runtime::{Explanation, PassCheck, RuntimeError};
use serde::Serialize;

use super::answer::{Answer, Facts, columns};
use super::failure::{Failure, WRONG};
use super::model::{Compilation, Source, sizes};
use super::quantity::bytes;

/// Says how a model runs on this machine: passes, fused nodes, kernels and why not the others.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainModel {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    compilation: Compilation,
    /// Also say why each other kernel was not chosen
    #[arg(long)]
    rejected: bool,
    /// Print the graph as it is after this pass, and nothing else
    #[arg(long, value_name = "PASS")]
    dump_after: Option<String>,
    /// Run the model on made-up inputs after each pass, and say how far it moved the answers
    #[arg(long)]
    verify: bool,
    #[command(flatten)]
    facts: Facts,
}

/// What is said of a model.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    explanation: &'a Explanation,
    /// Nodes of the graph before the compiler.
    graph_nodes: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<PassCheck>,
}

impl ExplainModel {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        let opened = self.source.open()?;
        let (graph, options) = (&opened.model.graph, self.compilation.options()?);
        let wrong = |error: RuntimeError| Failure::Other(error.into(), WRONG);
        if let Some(pass) = &self.dump_after {
            return Ok(Answer::text(runtime::dump_after(graph, &options, pass).map_err(wrong)?));
        }
        let mut checks = Vec::new();
        if self.verify {
            let (bindings, _) = sizes(graph, &self.source.bindings(), 16);
            let inputs = samples::inputs(graph, &bindings, 0).map_err(Failure::wrong)?;
            let inputs: Vec<(&str, &Tensor)> =
                inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            checks = runtime::check_passes(graph, &options, &inputs).map_err(wrong)?;
        }
        let (compiled, _) = self.compilation.compile(&opened)?;
        let report =
            Report { explanation: compiled.explain(), graph_nodes: graph.nodes().count(), checks };
        Ok(self.facts.answer(&report, || self.text(&report)))
    }

    fn text(&self, report: &Report<'_>) -> String {
        let explanation = report.explanation;
        let Explanation { tier, threads, constant_bytes, packed_bytes, .. } = explanation;
        let size = |size: &usize| bytes(*size as u64);
        let mut text = place(explanation);
        let _infallible = writeln!(
            text,
            "kernels for {tier}, {threads} threads, {} of constants, {} of packed weights\n",
            size(constant_bytes),
            size(packed_bytes)
        );
        let fired = || explanation.passes.iter().filter(|pass| pass.fired > 0);
        text.push_str(if fired().next().is_some() {
            "passes that fired:\n"
        } else {
            "no pass fired\n"
        });
        for pass in fired() {
            let _infallible = writeln!(text, "  {} {}×", pass.name, pass.fired);
        }
        if !report.checks.is_empty() {
            text.push_str(
                "\nworst error against the graph's own definition, once a pass has run:\n",
            );
        }
        for PassCheck { name, worst_error, .. } in &report.checks {
            let _infallible = writeln!(text, "  {name} {worst_error:.1e}");
        }
        let (before, after) = (report.graph_nodes, explanation.nodes.len());
        let _infallible = writeln!(text, "\nnodes of the graph: {before}; that run: {after}");
        let header = ["node", "operation", "output", "kernel", "stands for"].map(str::to_owned);
        let rows = explanation.nodes.iter().map(|node| {
            let fused = match node.fused_from.len() {
                0 => String::new(),
                count => format!("{count} nodes"),
            };
            [&node.name, &node.operation, &node.output, &node.kernel, &fused].map(Clone::clone)
        });
        let rows: Vec<_> = std::iter::once(header).chain(rows).collect();
        let _infallible = write!(text, "{}", columns(&rows));
        if self.rejected {
            text.push_str(&rejected(explanation));
        }
        text
    }
}

/// Where the model runs, and what of it does not run there; nothing where a CPU was asked for.
fn place(explanation: &Explanation) -> String {
    let mut text = String::new();
    let (device, nodes) = (&explanation.device, &explanation.nodes);
    if let Some(reason) = &explanation.device_reason {
        let _infallible = writeln!(text, "on the {device}: {reason}");
    } else if explanation.on_gpu() {
        let (count, stay) = (nodes.len(), explanation.fallbacks().count());
        let _infallible = writeln!(text, "on {device}: {} of {count} nodes", count - stay);
    }
    for (node, reason) in explanation.fallbacks() {
        let _infallible =
            writeln!(text, "  {} ({}) on the CPU: {reason}", node.name, node.operation);
    }
    text
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
