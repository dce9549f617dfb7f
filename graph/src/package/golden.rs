//! Golden examples: inputs with the outputs that every machine has to compute for them.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use super::PackageError;
use crate::{Bindings, Graph, GraphError, Tensor, ValueId, reference, weights};

/// Tensors by the names of a graph's inputs or outputs.
pub type NamedTensors = Vec<(String, Tensor)>;

/// One run of a model: what went in and what has to come out.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenExample {
    /// Every input of the graph, in its order.
    pub inputs: NamedTensors,
    /// Every output of the graph, in its order.
    pub outputs: NamedTensors,
}

/// Runs that every machine has to reproduce.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Golden {
    /// The runs.
    pub examples: Vec<GoldenExample>,
}

/// An output this much smaller than another counts as 0.
const NEGLIGIBLE: f32 = 1e-6;

impl Golden {
    /// Examples whose outputs the reference evaluator computes, slowly.
    ///
    /// # Errors
    ///
    /// When inputs do not fit the graph.
    pub fn evaluate(graph: &Graph, inputs: Vec<NamedTensors>) -> Result<Self, GraphError> {
        let example = |inputs: NamedTensors| {
            let given: Vec<(&str, Tensor)> =
                inputs.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
            let outputs = reference::evaluate(graph, &given)?;
            let names = graph.outputs().iter().map(|&id| graph.value_name(id).to_owned());
            Ok(GoldenExample { outputs: names.zip(outputs).collect(), inputs })
        };
        Ok(Self { examples: inputs.into_iter().map(example).collect::<Result<_, _>>()? })
    }

    /// Runs every example and compares. An output may differ by a share, `tolerance`, of the greatest
    /// magnitude that any example expects of it; the share `other_integers` of integers may be others.
    /// Gives the greatest absolute difference of floats.
    ///
    /// # Errors
    ///
    /// When there is no example; names the first that fails to run, or has an output of another type
    /// or shape or too far away from what is expected.
    pub fn verify<E: Display>(
        &self,
        tolerance: f32,
        other_integers: f32,
        mut run: impl FnMut(&GoldenExample) -> Result<Vec<Tensor>, E>,
    ) -> Result<f32, PackageError> {
        if self.examples.is_empty() {
            return Err(PackageError::NoGolden);
        }
        let mut greatest: BTreeMap<&str, f32> = BTreeMap::new();
        for (name, expected) in self.examples.iter().flat_map(|example| &example.outputs) {
            let greatest = greatest.entry(name).or_insert(f32::MIN_POSITIVE);
            *greatest = greatest.max(magnitude(expected));
        }
        // What is nothing but rounding may be rounded otherwise.
        let least = greatest.values().fold(0f32, |most, &of_one| most.max(of_one)) * NEGLIGIBLE;
        let mut worst = 0f32;
        for (index, example) in self.examples.iter().enumerate() {
            let fail = |reason| PackageError::Golden { index, reason };
            let outputs = run(example).map_err(|error| fail(error.to_string()))?;
            if outputs.len() != example.outputs.len() {
                let (expected, found) = (example.outputs.len(), outputs.len());
                return Err(fail(format!("expected {expected} outputs, found {found}")));
            }
            for ((name, expected), found) in example.outputs.iter().zip(&outputs) {
                let tolerance = tolerance * greatest[name.as_str()].max(least);
                let difference = compare(expected, found, tolerance, other_integers)
                    .map_err(|reason| fail(format!("output `{name}`: {reason}")))?;
                worst = worst.max(difference);
            }
        }
        Ok(worst)
    }

    /// All tensors under the names that [`Golden::read`] expects, after checking that they fit.
    pub(super) fn tensors(&self, graph: &Graph) -> Result<Vec<(String, &Tensor)>, PackageError> {
        let mut tensors = Vec::new();
        for (index, example) in self.examples.iter().enumerate() {
            example.check(graph).map_err(|reason| PackageError::Golden { index, reason })?;
            for (kind, named) in [("input", &example.inputs), ("output", &example.outputs)] {
                tensors.extend(named.iter().map(|(name, tensor)| (key(index, kind, name), tensor)));
            }
        }
        Ok(tensors)
    }

    /// Reads the examples for `graph` from a file.
    pub(super) fn read(path: &Path, graph: &Graph) -> Result<Self, PackageError> {
        let mut tensors = weights::read(path)?;
        let mut examples = Vec::new();
        while !tensors.is_empty() {
            let index = examples.len();
            let fail = |reason| PackageError::Golden { index, reason };
            let example = GoldenExample {
                inputs: take(&mut tensors, graph, graph.inputs(), index, "input").map_err(fail)?,
                outputs: take(&mut tensors, graph, graph.outputs(), index, "output")
                    .map_err(fail)?,
            };
            example.check(graph).map_err(fail)?;
            examples.push(example);
        }
        Ok(Self { examples })
    }
}

fn key(index: usize, kind: &str, name: &str) -> String {
    format!("{index}.{kind}.{name}")
}

fn take(
    tensors: &mut BTreeMap<String, Tensor>,
    graph: &Graph,
    ids: &[ValueId],
    index: usize,
    kind: &str,
) -> Result<NamedTensors, String> {
    let named = ids.iter().map(|&id| {
        let name = graph.value_name(id);
        let tensor = tensors.remove(&key(index, kind, name));
        Ok((name.to_owned(), tensor.ok_or_else(|| format!("{kind} `{name}` is missing"))?))
    });
    named.collect()
}

impl GoldenExample {
    /// Names, types and shapes are the graph's, and outputs tell something: floats are not all
    /// infinite or NaN.
    fn check(&self, graph: &Graph) -> Result<(), String> {
        let mut bindings = Bindings::default();
        for (kind, named, ids) in
            [("input", &self.inputs, graph.inputs()), ("output", &self.outputs, graph.outputs())]
        {
            let found: Vec<&str> = named.iter().map(|(name, _)| name.as_str()).collect();
            let expected: Vec<&str> = ids.iter().map(|&id| graph.value_name(id)).collect();
            if found != expected {
                return Err(format!("expected the {kind}s {expected:?}, found {found:?}"));
            }
            for (&id, (name, tensor)) in ids.iter().zip(named) {
                let declared = graph.value_type(id);
                if tensor.dtype() != declared.dtype {
                    return Err(format!("{kind} `{name}`: expected {declared}, found {tensor:?}"));
                }
                bindings
                    .bind(&declared.shape, tensor.shape())
                    .map_err(|reason| format!("{kind} `{name}`: {reason}"))?;
            }
        }
        for (name, tensor) in &self.outputs {
            let elements: &[f32] = tensor.elements().unwrap_or_default();
            if !elements.is_empty() && !elements.iter().any(|value| value.is_finite()) {
                return Err(format!("output `{name}`: expected finite numbers, found none"));
            }
        }
        Ok(())
    }
}

/// Greatest magnitude of finite floats, 0 of integers.
fn magnitude(tensor: &Tensor) -> f32 {
    let elements: &[f32] = tensor.elements().unwrap_or_default();
    elements.iter().map(|value| value.abs()).filter(|value| value.is_finite()).fold(0.0, f32::max)
}

/// How many entries differ of two tensors of one type and shape.
pub fn other_entries(a: &Tensor, b: &Tensor) -> usize {
    let size = a.dtype().size_bytes();
    let pairs = a.bytes().chunks_exact(size).zip(b.bytes().chunks_exact(size));
    pairs.filter(|(a, b)| a != b).count()
}

/// The greatest absolute difference, which is 0 for equal integers and for what is infinite or NaN
/// in both.
fn compare(
    expected: &Tensor,
    found: &Tensor,
    tolerance: f32,
    other_integers: f32,
) -> Result<f32, String> {
    if expected.dtype() != found.dtype() || expected.shape() != found.shape() {
        return Err(format!("expected {expected:?}, found {found:?}"));
    }
    let (Ok(expected), Ok(found)) = (expected.elements::<f32>(), found.elements::<f32>()) else {
        let (others, all) = (other_entries(expected, found), expected.len());
        if others as f32 <= other_integers * all as f32 {
            return Ok(0.0);
        }
        return Err(format!("expected equal integers, found {others} others of {all}"));
    };
    let mut worst = 0f32;
    for (index, (expected, found)) in expected.iter().zip(found).enumerate() {
        if expected == found || expected.is_nan() && found.is_nan() {
            continue;
        }
        let difference = (expected - found).abs();
        if difference.is_nan() || difference > tolerance {
            return Err(format!(
                "expected {expected} ± {tolerance} at element {index}, found {found}"
            ));
        }
        worst = worst.max(difference);
    }
    Ok(worst)
}
