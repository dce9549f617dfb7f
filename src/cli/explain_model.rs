//! `pipeline explain-model MODEL`.

mod text;

use graph::{Tensor, samples};
use runtime::{
    CompiledModel, Explanation, FailedTier, MachinePeaks, PassCheck, Profile, RuntimeError,
};
use serde::Serialize;

use super::answer::{Answer, Facts};
use super::failure::{Failure, WRONG};
use super::model::{Compilation, Source, sizes};

/// Says how a model runs on this machine: passes, fused nodes, kernels and why not the others, and
/// where the time of a run goes.
#[derive(Debug, clap::Args)]
pub(super) struct ExplainModel {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    compilation: Compilation,
    /// Also say why each kernel was chosen, and why not each other
    #[arg(long)]
    rejected: bool,
    /// How long to time the nodes, on made-up inputs; 0 to time nothing
    #[arg(long, value_name = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
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
    /// Sizes of the open dimensions that the times are for.
    sizes: String,
    /// Faster tiers whose kernels failed the package's self-test on this machine, and why.
    failed_tiers: Vec<FailedTier>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checks: Vec<PassCheck>,
    /// Where the time goes; absent where nothing was timed.
    profile: Option<Profile>,
    /// Why nothing was timed.
    profile_unavailable: Option<String>,
}

impl ExplainModel {
    pub(super) fn answer(&self) -> Result<Answer, Failure> {
        if !(self.seconds >= 0.0 && self.seconds.is_finite()) {
            return Err(Failure::wrong("expected --seconds of 0 or above"));
        }
        let opened = self.source.open()?;
        let (graph, options) = (&opened.model.graph, self.compilation.options()?);
        let wrong = |error: RuntimeError| Failure::Other(error.into(), WRONG);
        if let Some(pass) = &self.dump_after {
            return Ok(Answer::text(runtime::dump_after(graph, &options, pass).map_err(wrong)?));
        }
        let mut checks = Vec::new();
        if self.verify {
            let (bindings, _) =
                sizes(graph, &self.source.bindings(), opened.usual_length().min(16));
            let inputs = samples::inputs(graph, &bindings, 0).map_err(Failure::wrong)?;
            let inputs: Vec<(&str, &Tensor)> =
                inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
            checks = runtime::check_passes(graph, &options, &inputs).map_err(wrong)?;
        }
        let (compiled, failed_tiers) = self.compilation.compile(&opened)?;
        let (bindings, sizes) = sizes(graph, &self.source.bindings(), opened.usual_length());
        let profiled = match self.seconds > 0.0 {
            true => samples::inputs(graph, &bindings, 0)
                .and_then(|inputs| profile(&compiled, &inputs, self.seconds)),
            false => Err("--seconds 0".to_owned()),
        };
        let (profile, profile_unavailable) = match profiled {
            Ok(profile) => (Some(profile), None),
            Err(reason) => (None, Some(reason)),
        };
        let report = Report {
            explanation: compiled.explain(),
            graph_nodes: graph.nodes().count(),
            sizes,
            failed_tiers,
            checks,
            profile,
            profile_unavailable,
        };
        Ok(self.facts.answer(&report, || text::text(&report, self.rejected)))
    }
}

fn profile(
    compiled: &CompiledModel,
    inputs: &[(String, Tensor)],
    seconds: f64,
) -> Result<Profile, String> {
    let inputs: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let peaks = MachinePeaks::measure(compiled.explain().threads);
    runtime::profile(compiled, &inputs, seconds, &peaks)
        .map_err(|error| format!("the model does not run on made-up inputs: {error}"))
}
