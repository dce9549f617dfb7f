//! What the passes do, step by step: the module after one of them, and how far each moves the
//! answers.

use std::fmt::Write as _;

use graph::{Graph, Tensor, reference};
use serde::Serialize;

use crate::compile::{CompileOptions, Rewriting, compile_module};
use crate::module::Module;
use crate::pass::{self, PASSES};
use crate::{RuntimeError, pass_names};

/// How far one pass moves a model's answers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PassCheck {
    /// Name of the pass.
    pub name: String,
    /// Number of rewrites.
    pub fired: usize,
    /// Greatest absolute difference of any output from the graph's own definition, once this pass
    /// has run.
    pub worst_error: f32,
}

/// The module after the passes up to `last`, one node a line.
///
/// # Errors
/// When `last`, or a disabled name, is no pass.
pub fn dump_after(
    graph: &Graph,
    options: &CompileOptions,
    last: &str,
) -> Result<String, RuntimeError> {
    pass::check_names(std::slice::from_ref(&last.to_owned()))?;
    pass::check_names(&options.disabled_passes)?;
    let mut module = Module::new(graph, options, options.cpu()?);
    for pass in PASSES {
        if pass::runs(pass, &module, options.level, &options.disabled_passes) {
            pass::apply(pass, &mut module);
        }
        if pass.name == last {
            break;
        }
    }
    Ok(text(&module))
}

fn text(module: &Module) -> String {
    let mut text = String::new();
    let value = |id: crate::module::Id| {
        let value = module.value(id);
        format!("{}: {}", value.name, value.kind())
    };
    for &input in &module.inputs {
        let _infallible = writeln!(text, "input {}", value(input));
    }
    for node in &module.nodes {
        let inputs: Vec<&str> =
            node.inputs.iter().map(|&id| module.value(id).name.as_str()).collect();
        let kind = node.operation.kind();
        let _infallible = writeln!(text, "{} = {kind}({})", value(node.output), inputs.join(", "));
    }
    for &output in &module.outputs {
        let _infallible = writeln!(text, "output {}", module.value(output).name);
    }
    text
}

/// Runs the model on `inputs` after each pass that fires and compares with the reference.
///
/// # Errors
/// When a disabled name is no pass, or the model fails on the inputs.
pub fn check_passes(
    graph: &Graph,
    options: &CompileOptions,
    inputs: &[(&str, &Tensor)],
) -> Result<Vec<PassCheck>, RuntimeError> {
    pass::check_names(&options.disabled_passes)?;
    let owned: Vec<(&str, Tensor)> =
        inputs.iter().map(|&(name, tensor)| (name, tensor.clone())).collect();
    let expected = reference::evaluate(graph, &owned).map_err(|error| RuntimeError::Input {
        name: "of the check".to_owned(),
        reason: error.to_string(),
    })?;
    let mut module = Module::new(graph, options, options.cpu()?);
    let mut checks = Vec::new();
    for pass in PASSES {
        let runs = pass::runs(pass, &module, options.level, &options.disabled_passes);
        let fired = if runs { pass::apply(pass, &mut module) } else { 0 };
        if fired == 0 {
            continue;
        }
        let compiled = compile_module(module.clone(), options, Rewriting::none(options.level))?;
        let found = compiled.session().run(inputs)?;
        let worst_error =
            expected.iter().zip(&found).map(|(a, b)| difference(a, b)).fold(0.0, f32::max);
        checks.push(PassCheck { name: pass.name.to_owned(), fired, worst_error });
    }
    debug_assert!(checks.iter().all(|check| pass_names().any(|name| name == check.name)));
    Ok(checks)
}

/// Greatest absolute difference; infinite where type, shape or any integer differs.
fn difference(expected: &Tensor, found: &Tensor) -> f32 {
    match (expected.elements::<f32>(), found.elements::<f32>()) {
        (Ok(a), Ok(b)) if expected.shape() == found.shape() => a
            .iter()
            .zip(b)
            .map(|(a, b)| if a == b || a.is_nan() && b.is_nan() { 0.0 } else { (a - b).abs() })
            .fold(0.0, |worst, d| if d.is_nan() { f32::INFINITY } else { f32::max(worst, d) }),
        _ if expected == found => 0.0,
        _ => f32::INFINITY,
    }
}
