//! How a model is compiled, as the command line says it.

use std::fmt::Write as _;
use std::num::NonZeroUsize;

use graph::package::Package;
use runtime::{
    CompileOptions, CompiledModel, Device, Explanation, FailedTier, Level, Precision, RuntimeError,
    VerifiedModel,
};

use super::Opened;
use crate::cli::failure::{Failure, WRONG};

/// Options of the compiler.
#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Compilation {
    /// CPU threads [default: all]
    #[arg(long, value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// How much the compiler rewrites: 0 nothing, 1 cleans up, 2 fuses, 3 also merges projections
    #[arg(short = 'O', value_name = "LEVEL", default_value_t = 3, value_parser = clap::value_parser!(u8).range(0..=3))]
    level: u8,
    /// What float layers multiply: `f32`, or `bf16`, which is faster where the CPU has it
    #[arg(long, value_name = "TYPE", default_value = "f32", value_parser = ["f32", "bf16"])]
    precision: String,
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "cpu",
        help = format!("Where it runs: {}, which is a GPU that is there or the CPU", Device::NAMES),
    )]
    device: Device,
    /// Passes that do not run
    #[arg(long, value_name = "PASS", value_delimiter = ',')]
    disable_pass: Vec<String>,
    /// Share of the machine's memory that weights and one session may take, such as 0.5; a run that
    /// needs more is refused before it allocates
    #[arg(long, value_name = "FRACTION", conflicts_with = "memory_budget")]
    memory_fraction: Option<f64>,
    /// The same in bytes
    #[arg(long, value_name = "BYTES")]
    memory_budget: Option<usize>,
}

impl Compilation {
    /// # Errors
    /// When the share is none, or the machine does not say how much memory it has.
    pub(in crate::cli) fn options(&self) -> Result<CompileOptions, Failure> {
        let level = match self.level {
            0 => Level::O0,
            1 => Level::O1,
            2 => Level::O2,
            _ => Level::O3,
        };
        let share = self.memory_fraction.map(runtime::memory_fraction).transpose();
        let share = share.map_err(|error| Failure::Other(error.into(), WRONG))?;
        Ok(CompileOptions {
            level,
            disabled_passes: self.disable_pass.clone(),
            threads: self.threads,
            precision: if self.precision == "bf16" { Precision::Bf16 } else { Precision::F32 },
            device: self.device,
            memory_budget: self.memory_budget.or(share),
            ..CompileOptions::default()
        })
    }

    /// Compiles the model; a package has to pass its self-test. Says which tiers failed it.
    ///
    /// # Errors
    /// When an option is wrong, or no kernels of this machine reproduce the package's answers.
    pub(in crate::cli) fn compile(
        &self,
        opened: &Opened,
    ) -> Result<(CompiledModel, Vec<FailedTier>), Failure> {
        if let Some(package) = &opened.package {
            return self.load(package).map(|verified| (verified.model, verified.failed));
        }
        let compiled = runtime::compile(&opened.model.graph, &self.options()?);
        compiled.map(|compiled| (compiled, Vec::new())).map_err(refused)
    }

    /// Compiles a package and tests it.
    ///
    /// # Errors
    /// When an option is wrong, or no kernels of this machine reproduce its answers.
    pub(in crate::cli) fn load(&self, package: &Package) -> Result<VerifiedModel, Failure> {
        runtime::load(package, &self.options()?).map_err(refused)
    }
}

fn refused(error: RuntimeError) -> Failure {
    let code = if matches!(error, RuntimeError::SelfTest { .. }) { 1 } else { WRONG };
    Failure::Other(error.into(), code)
}

/// A line for each tier whose kernels failed the self-test here; `runs` is the tier that took over.
pub(in crate::cli) fn failed_tiers(failed: &[FailedTier], runs: &str) -> String {
    let line = |FailedTier { tier, reason }: &FailedTier| {
        format!("kernels for {tier} failed the self-test here, {runs} runs: {reason}\n")
    };
    failed.iter().map(line).collect()
}

/// Where the model runs, and what of it does not run there; nothing where a CPU was asked for.
pub(in crate::cli) fn place(explanation: &Explanation) -> String {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_that_stay_on_the_cpu_are_told_with_the_reason() {
        let mut graph = graph::Graph::new("product");
        let x =
            graph.add_input("x", graph::DType::F32, vec![2.into(), 2.into()]).expect("an input");
        let y = graph.add_node("y", graph::Op::MatMul, &[x, x]).expect("a product");
        graph.set_outputs(&[y]);
        let compiled = runtime::compile(&graph, &CompileOptions::default()).expect("it compiles");
        let mut explanation = compiled.explain().clone();
        assert_eq!(place(&explanation), "");
        explanation.device = "cuda:0".to_owned();
        explanation.nodes[0].fallback = Some("no kernel for MatMul on a GPU".to_owned());
        let expected = "on cuda:0: 0 of 1 nodes\n  \
                        y (MatMul) on the CPU: no kernel for MatMul on a GPU\n";
        assert_eq!(place(&explanation), expected);
        explanation.device = "cpu".to_owned();
        explanation.device_reason = Some("there is none".to_owned());
        explanation.nodes[0].fallback = None;
        assert_eq!(place(&explanation), "on the cpu: there is none\n");
    }
}
