//! Rewrites of a module: one file each, in the order of the table.

mod activation;
mod attention;
mod attention_operator;
mod batch_norm;
mod bias;
mod channels_last;
mod choices;
mod common_subexpressions;
mod conv_activation;
mod conv_sum;
mod dead_code;
mod dequantize_weights;
mod dynamic_quantization;
mod factors;
mod filter_borders;
mod fold_constants;
mod gelu;
mod group_norm;
mod index_gather;
mod integer_conv;
mod integer_gather;
mod integer_linear;
mod integer_movement;
mod integer_sum;
mod layer_norm;
mod linear;
mod loop_invariants;
mod merge_qkv;
mod narrow;
mod no_ops;
mod quantize_epilogue;
mod quantize_prologue;
mod residual_layer_norm;
mod rms_norm;
mod several_outputs;
mod signed_integers;
mod sizes;
mod slice_batch;
mod swish;
mod transposes;

use serde::Serialize;

pub(crate) use activation::activation_of;
#[cfg(feature = "gpu")]
pub(crate) use activation::activation_of_node;
pub(crate) use integer_linear::per_tensor;
pub(crate) use sizes::{Numbers, integers};

use crate::RuntimeError;
use crate::compile::Level;
use crate::module::Module;

/// A rewrite.
pub(crate) struct Pass {
    /// What `disabled_passes` and explanations call it.
    pub(crate) name: &'static str,
    /// The lowest level that runs it.
    pub(crate) level: Level,
    /// Rewrites wherever it can; returns how often it did.
    pub(crate) run: fn(&mut Module) -> usize,
}

/// Every pass, in the order in which they run.
///
/// Constants fold early, so that later passes see quantized weights as constants; what is left of
/// dequantized weights folds only after the integer passes had their chance to keep them int8.
pub(crate) const PASSES: &[Pass] = &[
    Pass { name: "choices", level: Level::O1, run: choices::run },
    Pass { name: "dead-code", level: Level::O1, run: dead_code::run },
    Pass { name: "loop-invariants", level: Level::O1, run: loop_invariants::run },
    Pass { name: "index-gather", level: Level::O1, run: index_gather::run },
    Pass { name: "sizes", level: Level::O1, run: sizes::run },
    Pass { name: "no-ops", level: Level::O1, run: no_ops::run },
    Pass { name: "attention-operator", level: Level::O1, run: attention_operator::run },
    Pass { name: "fold-constants", level: Level::O1, run: fold_constants::run },
    Pass { name: "transposes", level: Level::O1, run: transposes::run },
    Pass { name: "common-subexpressions", level: Level::O1, run: common_subexpressions::run },
    Pass { name: "gelu", level: Level::O1, run: gelu::run },
    Pass { name: "swish", level: Level::O1, run: swish::run },
    Pass { name: "layer-norm", level: Level::O1, run: layer_norm::run },
    Pass { name: "rms-norm", level: Level::O1, run: rms_norm::run },
    Pass { name: "group-norm", level: Level::O1, run: group_norm::run },
    Pass { name: "signed-integers", level: Level::O1, run: signed_integers::run },
    Pass { name: "dynamic-quantization", level: Level::O2, run: dynamic_quantization::run },
    Pass { name: "float-products", level: Level::O1, run: dynamic_quantization::run_floats },
    Pass { name: "integer-gather", level: Level::O2, run: integer_gather::run },
    Pass { name: "integer-movement", level: Level::O2, run: integer_movement::run },
    Pass { name: "integer-linear", level: Level::O2, run: integer_linear::run },
    Pass { name: "integer-conv", level: Level::O2, run: integer_conv::run },
    Pass { name: "dequantize-weights", level: Level::O1, run: dequantize_weights::run },
    Pass { name: "filter-borders", level: Level::O1, run: filter_borders::run },
    Pass { name: "batch-norm", level: Level::O2, run: batch_norm::run },
    Pass { name: "conv-activation", level: Level::O2, run: conv_activation::run },
    Pass { name: "channels-last", level: Level::O2, run: channels_last::run },
    Pass { name: "conv-sum", level: Level::O2, run: conv_sum::run },
    Pass { name: "integer-sum", level: Level::O2, run: integer_sum::run },
    Pass { name: "linear", level: Level::O2, run: linear::run },
    Pass { name: "bias", level: Level::O2, run: bias::run },
    Pass { name: "activation", level: Level::O2, run: activation::run },
    Pass { name: "attention", level: Level::O2, run: attention::run },
    Pass { name: "attention-heads", level: Level::O2, run: attention::run_heads },
    Pass { name: "quantize-epilogue", level: Level::O2, run: quantize_epilogue::run },
    Pass { name: "merge-qkv", level: Level::O3, run: merge_qkv::run },
    Pass { name: "quantize-prologue", level: Level::O2, run: quantize_prologue::run },
    Pass { name: "residual-layer-norm", level: Level::O2, run: residual_layer_norm::run },
    Pass { name: "several-outputs", level: Level::O1, run: several_outputs::run },
    Pass { name: "narrow", level: Level::O2, run: narrow::run },
    Pass { name: "slice-batch", level: Level::O3, run: slice_batch::run },
];

/// Passes that a GPU does without. What it launches does not depend on values. It has no kernel for
/// root-mean-square norms, and its attention reads heads in rows. Loops
/// run on the CPU, each for the output that is copied back. A layer that rounds as it reads does so once
/// for each tile of columns there; a launch that rounds once is cheaper. Its kernels see for themselves
/// what may be bf16, and its threads share every launch.
const ON_CPUS_ONLY: [&str; 7] = [
    "choices",
    "attention-heads",
    "rms-norm",
    "quantize-prologue",
    "several-outputs",
    "narrow",
    "slice-batch",
];

/// How often a pass rewrote something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PassReport {
    /// Name of the pass.
    pub name: String,
    /// Whether it ran; `false` when disabled, above the level or of no use to the device.
    pub ran: bool,
    /// Number of rewrites.
    pub fired: usize,
}

/// The names that `disabled_passes` may hold, in the order in which the passes run.
pub fn pass_names() -> impl Iterator<Item = &'static str> {
    PASSES.iter().map(|pass| pass.name)
}

/// Runs the passes of `level` that the device wants and that are not disabled.
///
/// # Errors
/// When a disabled name is no pass.
pub(crate) fn run(
    module: &mut Module,
    level: Level,
    disabled: &[String],
) -> Result<Vec<PassReport>, RuntimeError> {
    check_names(disabled)?;
    let one = |pass: &Pass| {
        let ran = runs(pass, module, level, disabled);
        let fired = if ran { apply(pass, module) } else { 0 };
        PassReport { name: pass.name.to_owned(), ran, fired }
    };
    Ok(PASSES.iter().map(one).collect())
}

/// Runs a pass; gives how often it fired. Fused operations take sizes that are known before a run, so that
/// one that fuses where they depend on values changes nothing.
pub(crate) fn apply(pass: &Pass, module: &mut Module) -> usize {
    if pass.level <= Level::O1 || !module.is_dynamic() {
        return (pass.run)(module);
    }
    let mut tried = module.clone();
    let fired = (pass.run)(&mut tried);
    if !tried.nodes.iter().all(|node| tried.has_enough_sizes(node)) {
        return 0;
    }
    *module = tried;
    fired
}

/// Passes for plans of whole runs, which there are none of where sizes depend on values.
const FOR_PLANS_ONLY: [&str; 2] = ["narrow", "slice-batch"];

/// Whether a pass runs on the module at `level`.
pub(crate) fn runs(pass: &Pass, module: &Module, level: Level, disabled: &[String]) -> bool {
    let is_wanted = || {
        (!ON_CPUS_ONLY.contains(&pass.name) || !module.on_gpu)
            && (!FOR_PLANS_ONLY.contains(&pass.name) || !module.is_dynamic())
    };
    pass.level <= level && !disabled.iter().any(|name| name == pass.name) && is_wanted()
}

/// Checks that every name is a pass's.
///
/// # Errors
/// Names the first that is not, and all that are.
pub(crate) fn check_names(names: &[String]) -> Result<(), RuntimeError> {
    match names.iter().find(|name| pass_names().all(|known| known != *name)) {
        None => Ok(()),
        Some(found) => {
            let known = pass_names().collect::<Vec<_>>().join(", ");
            Err(RuntimeError::UnknownPass { found: found.clone(), known })
        }
    }
}

/// Applies `rewrite` to node after node until no node lets it; returns how often it fired.
fn repeat(module: &mut Module, rewrite: impl Fn(&mut Module, usize) -> bool) -> usize {
    let mut fired = 0;
    let mut index = 0;
    while index < module.nodes.len() {
        let before = module.nodes.len();
        if rewrite(module, index) {
            fired += 1;
            // Nodes before this one may be gone; none before it can match that did not before.
            index = index.saturating_sub(before.saturating_sub(module.nodes.len()));
        } else {
            index += 1;
        }
    }
    fired
}
