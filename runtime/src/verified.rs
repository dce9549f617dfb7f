//! Loading a package: the kernels chosen on this machine have to reproduce its golden examples.

#[cfg(test)]
mod tests;

use graph::package::{Golden, GoldenExample, MOST_TOLERANCE, Package, other_entries};
use graph::{DType, Graph, Tensor};
use kernels::bf16::rounded;
use kernels::{Cpu, Tier};
use serde::{Serialize, Serializer};

use crate::{CompileOptions, CompiledModel, Device, Precision, RuntimeError, compile};

/// Greatest difference from an expected output that the kernels of this machine may make where a
/// package does not say, as a share of the greatest magnitude that is expected of it: about two steps
/// of an int8 activation.
const TOLERANCE: f32 = 2e-2;

/// How much larger the difference of two machines may be than that of inputs that differ in last bits.
const MARGIN: f32 = 4.0;

/// A tier whose kernels failed the self-test here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FailedTier {
    /// The tier.
    #[serde(serialize_with = "name")]
    pub tier: Tier,
    /// What was expected and found.
    pub reason: String,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "what serde calls")]
fn name<S: Serializer>(tier: &Tier, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(tier.name())
}

/// A compiled model that has passed its self-test.
#[derive(Clone, Debug)]
pub struct VerifiedModel {
    /// The model.
    pub model: CompiledModel,
    /// Faster tiers that this machine has and whose kernels gave other answers, fastest first.
    pub failed: Vec<FailedTier>,
    /// Greatest difference from a golden output.
    pub worst_difference: f32,
}

/// Compiles the package's model and runs its golden examples. Where the kernels of a tier fail
/// them, those of the next slower tier take their place, unless `options` force a tier. Where a GPU
/// that [`Device::Auto`] chose fails them, the CPU takes its place, with the reason.
///
/// # Errors
/// When the model does not compile, or no tier that may be used reproduces the examples.
pub fn load(package: &Package, options: &CompileOptions) -> Result<VerifiedModel, RuntimeError> {
    load_with(package, options, |options| compile(&package.model.graph, options))
}

/// [`load`] with what compiles the model at a tier: tests give one whose kernels answer wrongly.
fn load_with(
    package: &Package,
    options: &CompileOptions,
    compile: impl Fn(&CompileOptions) -> Result<CompiledModel, RuntimeError>,
) -> Result<VerifiedModel, RuntimeError> {
    let first = match options.tier {
        Some(tier) => Cpu::with_tier(tier)?,
        None => Cpu::from_environment()?,
    };
    let mut tiers: Vec<Tier> = match options.tier {
        Some(tier) => vec![tier],
        None => Cpu::every().map(Cpu::tier).filter(|tier| *tier <= first.tier()).collect(),
    };
    let mut options = options.clone();
    let mut gpu_failed: Option<String> = None;
    let mut failed = Vec::new();
    while let Some(tier) = tiers.pop() {
        options.tier = Some(tier);
        let mut model = compile(&options)?;
        if let Some(reason) = &gpu_failed {
            model = model.on_cpu_because(reason);
        }
        let reason = match self_test(package, &model) {
            Ok(worst_difference) => return Ok(VerifiedModel { model, failed, worst_difference }),
            Err(RuntimeError::SelfTest { reason }) => reason,
            Err(other) => return Err(other),
        };
        let device = &model.explain().device;
        match model.explain().on_gpu() {
            false => failed.push(FailedTier { tier, reason }),
            true if options.device == Device::Auto => {
                gpu_failed = Some(format!("{device} failed the self-test: {reason}"));
                options.device = Device::Cpu;
                tiers.push(tier);
            }
            // Tiers are of the CPU: a slower one makes no GPU answer otherwise.
            true => return Err(RuntimeError::SelfTest { reason: format!("{device}: {reason}") }),
        }
    }
    let reasons: Vec<String> =
        failed.iter().map(|failed| format!("{}: {}", failed.tier, failed.reason)).collect();
    Err(RuntimeError::SelfTest { reason: reasons.join("; ") })
}

/// Runs the golden examples of a package and compares the answers with the expected ones; gives
/// the greatest difference.
///
/// # Errors
/// Says which example differs and by how much; the package must not be served then.
pub fn self_test(package: &Package, model: &CompiledModel) -> Result<f32, RuntimeError> {
    let fail = |reason: String| RuntimeError::SelfTest { reason };
    let mut session = model.session();
    let run = |example: &GoldenExample| {
        let inputs: Vec<(&str, &Tensor)> =
            example.inputs.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        session.run(&inputs)
    };
    let (floats, integers) =
        (package.tolerance.unwrap_or(TOLERANCE), package.tolerance.unwrap_or(0.0));
    package.golden.verify(floats, integers, run).map_err(|error| fail(error.to_string()))
}

/// The tolerance that a model's golden examples need, where that is more than usual: four times what becomes of
/// the answers when inputs differ in their last bits, or, where none are floats, weights. Where floats are
/// rounded to integers layer after layer, such a bit decides now and then, and the next layer goes on from
/// there. With bf16 weights are rounded to it.
///
/// # Errors
/// When the model does not compile, or an example does not run.
pub fn golden_tolerance(
    graph: &Graph,
    golden: &Golden,
    precision: Precision,
) -> Result<Option<f32>, RuntimeError> {
    let is_float = |tensor: &Tensor| tensor.dtype() == DType::F32;
    let mut inputs = golden.examples.iter().flat_map(|example| &example.inputs);
    let has_floats = inputs.any(|(_, tensor)| is_float(tensor));
    let model = compile(graph, &CompileOptions::default())?;
    let exact = answers(&model, golden, Tensor::clone)?;
    let other = match precision {
        Precision::F32 if has_floats => answers(&model, golden, nudged)?,
        _ => {
            // Where weights are large, one model at a time.
            drop(model);
            let changed = if precision == Precision::Bf16 { in_bf16 } else { nudged };
            let other = compile(&with_weights(graph, changed), &CompileOptions::default());
            match other.and_then(|model| answers(&model, golden, nudged)) {
                Ok(other) => other,
                // Weights that say what is read or how large something is tell nothing.
                Err(_) => return Ok(None),
            }
        }
    };
    let (mut most, mut is_usual) = (0f32, true);
    for (output, other) in exact.iter().zip(&other) {
        let difference = greatest_difference(output, other);
        // An integer that changes counts wherever it does, a float from the usual tolerance on.
        is_usual &= MARGIN * difference <= if is_float(output) { TOLERANCE } else { 0.0 };
        most = most.max(difference);
    }
    Ok((!is_usual).then_some((MARGIN * most).clamp(TOLERANCE, MOST_TOLERANCE)))
}

/// All outputs for all examples, whose inputs are changed.
fn answers(
    model: &CompiledModel,
    golden: &Golden,
    changed: fn(&Tensor) -> Tensor,
) -> Result<Vec<Tensor>, RuntimeError> {
    let mut session = model.session();
    let mut all = Vec::new();
    for GoldenExample { inputs, .. } in &golden.examples {
        let inputs: Vec<(&str, Tensor)> =
            inputs.iter().map(|(name, tensor)| (name.as_str(), changed(tensor))).collect();
        let inputs: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        all.extend(session.run(&inputs)?);
    }
    Ok(all)
}

/// Floats that differ in their last bits, up and down in turn.
fn nudged(tensor: &Tensor) -> Tensor {
    const NUDGE: f32 = 8.0 * f32::EPSILON;
    let Ok(elements) = tensor.elements::<f32>() else { return tensor.clone() };
    // Steps of 3 are no period of rows and channels.
    let nudge = |index: usize| if index.is_multiple_of(3) { 1.0 - NUDGE } else { 1.0 + NUDGE };
    Tensor::from_fn(tensor.shape(), |index| elements[index] * nudge(index))
}

fn in_bf16(tensor: &Tensor) -> Tensor {
    let Ok(elements) = tensor.elements::<f32>() else { return tensor.clone() };
    Tensor::from_fn(tensor.shape(), |index| rounded(elements[index]))
}

/// The same graph but for its weights.
fn with_weights(graph: &Graph, other: fn(&Tensor) -> Tensor) -> Graph {
    let mut changed = graph.clone();
    for (id, weight) in graph.weights().filter(|(_, weight)| is_learned(weight)) {
        changed.set_weight(id, other(weight));
    }
    changed
}

/// Whether floats look like what training gives: few or whole numbers may be sizes and places, large ones hide
/// what a mask says.
fn is_learned(weight: &Tensor) -> bool {
    const FEW: usize = 8;
    const LARGE: f32 = 1e30;
    weight.len() > FEW
        && weight.elements::<f32>().is_ok_and(|elements| {
            elements.iter().all(|x| x.abs() < LARGE) && elements.iter().any(|x| x.fract() != 0.0)
        })
}

/// The greatest difference of floats, by their greatest magnitude, or the share of integers that differ; 1 of
/// what has another shape, or is no number in one only.
fn greatest_difference(a: &Tensor, b: &Tensor) -> f32 {
    if a.shape() != b.shape() {
        return 1.0;
    }
    let (Ok(left), Ok(right)) = (a.elements::<f32>(), b.elements::<f32>()) else {
        return other_entries(a, b) as f32 / a.len().max(1) as f32;
    };
    let finite = left.iter().map(|x| x.abs()).filter(|x| x.is_finite());
    let greatest = finite.fold(f32::MIN_POSITIVE, f32::max);
    let pairs = left.iter().zip(right).filter(|(a, b)| a != b && !(a.is_nan() && b.is_nan()));
    let ratios = pairs.map(|(a, b)| (a - b).abs() / greatest);
    ratios.map(|ratio| if ratio.is_nan() { 1.0 } else { ratio.min(1.0) }).fold(0.0, f32::max)
}
