//! int8 without training, for any graph: ranges of activations from runs on sample inputs.

use graph::rewrite::observer::{Method, Observer};
use graph::rewrite::quantize::{self, PointKind, QuantizeOptions, set_activation_scale};
use graph::{Graph, Tensor, ValueId};

use crate::{CompileOptions, Level, RuntimeError, compile};

/// `graph` in int8: quantize/dequantize pairs around its linear layers and embeddings, with the
/// activations' scales from what `samples` make of them, and weights rounded.
///
/// # Errors
/// When the graph has no layer to quantize, no samples are given, or a sample does not run.
pub fn quantized(
    graph: &Graph,
    options: &QuantizeOptions,
    method: Method,
    samples: impl IntoIterator<Item = Vec<(String, Tensor)>>,
) -> Result<Graph, RuntimeError> {
    let fail =
        |error: graph::rewrite::RewriteError| RuntimeError::Quantize { reason: error.to_string() };
    let mut quantized = graph.clone();
    quantize::insert(&mut quantized, options).map_err(fail)?;
    let points: Vec<(String, String)> = quantize::points(&quantized)
        .iter()
        .filter(|point| point.kind == PointKind::Activation)
        .map(|point| {
            let name = |id: ValueId| quantized.value_name(id).to_owned();
            (name(point.input), name(point.scale))
        })
        .collect();
    let mut observers = Vec::new();
    for _ in &points {
        observers.push(Observer::new(method).map_err(fail)?);
    }
    let mut tapped = graph.clone();
    let taps: Vec<ValueId> = points.iter().filter_map(|(value, _)| graph.find(value)).collect();
    tapped.set_outputs(&taps);
    // Outputs may not be fused away, so every tap can be read.
    let compiled =
        compile(&tapped, &CompileOptions { level: Level::O1, ..CompileOptions::default() })?;
    let mut session = compiled.session();
    for sample in samples {
        let inputs: Vec<(&str, &Tensor)> =
            sample.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
        for (observer, output) in observers.iter_mut().zip(session.run_borrowed(&inputs)?.iter()) {
            observer.observe(output.elements::<f32>()?).map_err(fail)?;
        }
    }
    for (observer, (_, scale)) in observers.iter().zip(&points) {
        let step = observer.scale().map_err(fail)?;
        set_activation_scale(&mut quantized, scale, step).map_err(fail)?;
    }
    quantize::fold(&mut quantized).map_err(fail)?;
    Ok(quantized)
}
