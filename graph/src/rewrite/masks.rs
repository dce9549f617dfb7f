//! Sparsity formats: weights become zero but stay where they are. A mask has the shape of its
//! weight, 1 where the weight stays and 0 where it goes. By itself this makes no file smaller and no
//! product faster: that takes a kernel made for the format.

use std::collections::BTreeMap;

use super::{RewriteError, floats};
use crate::{Graph, Tensor, ValueId};

/// Masks by name of the weight.
pub type Masks = BTreeMap<String, Tensor>;

/// Zeroes the smallest magnitudes of all `weights` together, until a share of `sparsity`, 0 to 1,
/// is zero (Han et al. 2015, arXiv:1506.02626). Of equal magnitudes the earlier one goes.
///
/// # Errors
///
/// When a weight is missing or not `f32`, or `sparsity` is out of range.
pub fn magnitude(graph: &Graph, weights: &[&str], sparsity: f64) -> Result<Masks, RewriteError> {
    if !(0.0..=1.0).contains(&sparsity) {
        let (expected, found) = ("0 to 1".to_owned(), sparsity.to_string());
        return Err(RewriteError::Range { what: "sparsity", expected, found });
    }
    let tensors: Vec<(&str, &Tensor, &[f32])> = weights
        .iter()
        .map(|&name| find(graph, name).and_then(|(_, x)| Ok((name, x, floats(name, x)?))))
        .collect::<Result<_, _>>()?;
    let elements = tensors.iter().flat_map(|(_, _, elements)| *elements);
    let mut keys: Vec<u64> = elements.zip(0..).map(|(x, at)| magnitude_key(*x, at)).collect();
    let n_zero = (sparsity * keys.len() as f64).round() as usize;
    let least_kept = (n_zero < keys.len()).then(|| *keys.select_nth_unstable(n_zero).1);
    let mut positions = 0..;
    let mut masks = Masks::new();
    for (name, tensor, elements) in tensors {
        let mask = Tensor::from_fn(tensor.shape(), |index| {
            let at = positions.next().expect("the range has no end");
            let stays = least_kept.is_some_and(|least| magnitude_key(elements[index], at) >= least);
            f32::from(u8::from(stays))
        });
        masks.insert(name.to_owned(), mask);
    }
    Ok(masks)
}

/// A number in the order of magnitudes, then of positions: the bits of non-negative floats are in
/// the order of the floats.
fn magnitude_key(element: f32, position: u32) -> u64 {
    u64::from(element.abs().to_bits()) << 32 | u64::from(position)
}

/// Keeps the two greatest magnitudes of every four consecutive inputs of each output: the format of
/// sparse tensor cores (Mishra et al. 2021, arXiv:2104.08378). Where the inputs do not divide by
/// four, the last one to three stay dense. Of equal magnitudes the earlier one stays.
///
/// # Errors
///
/// When a weight is missing or is not an `f32` matrix `[inputs, outputs]`.
pub fn two_of_four(graph: &Graph, weights: &[&str]) -> Result<Masks, RewriteError> {
    let masks = weights.iter().map(|name| {
        let (_, tensor) = find(graph, name)?;
        let elements = floats(name, tensor)?;
        let &[inputs, outputs] = tensor.shape() else {
            let reason = format!("expected a matrix [inputs, outputs], found {tensor:?}");
            return Err(RewriteError::Weight { name: (*name).to_owned(), reason });
        };
        let mask = Tensor::from_fn(&[inputs, outputs], |index| {
            let (input, output) = (index / outputs, index % outputs);
            let group = input / 4 * 4;
            if group + 4 > inputs {
                return 1f32;
            }
            let magnitude = |row: usize| elements[row * outputs + output].abs();
            let greater = |&other: &usize| {
                magnitude(other) > magnitude(input)
                    || (magnitude(other) == magnitude(input) && other < input)
            };
            f32::from(u8::from((group..group + 4).filter(greater).count() < 2))
        });
        Ok(((*name).to_owned(), mask))
    });
    masks.collect()
}

/// Multiplies each weight with its mask.
///
/// # Errors
///
/// When a weight is missing, not `f32`, or has another shape than its mask.
pub fn apply(graph: &mut Graph, masks: &Masks) -> Result<(), RewriteError> {
    let mut masked = Vec::new();
    for (name, mask) in masks {
        let (id, tensor) = find(graph, name)?;
        let (elements, keep) = (floats(name, tensor)?, floats(name, mask)?);
        if tensor.shape() != mask.shape() {
            let reason = format!("expected a mask of its shape, found {tensor:?} and {mask:?}");
            return Err(RewriteError::Weight { name: name.clone(), reason });
        }
        // Chosen rather than multiplied, so that a zero has no sign.
        let zeroed = |index: usize| if keep[index] == 0.0 { 0.0 } else { elements[index] };
        masked.push((id, Tensor::from_fn(tensor.shape(), zeroed)));
    }
    for (id, tensor) in masked {
        graph.set_weight(id, tensor);
    }
    Ok(())
}

/// Share of the masked elements that are zero, 0 to 1; 0 without any.
pub fn sparsity(masks: &Masks) -> f64 {
    let elements = masks.values().flat_map(|mask| mask.elements::<f32>().unwrap_or_default());
    let (zeros, all) =
        elements.fold((0u64, 0u64), |(zeros, all), &x| (zeros + u64::from(x == 0.0), all + 1));
    if all == 0 { 0.0 } else { zeros as f64 / all as f64 }
}

fn find<'a>(graph: &'a Graph, name: &str) -> Result<(ValueId, &'a Tensor), RewriteError> {
    let found = graph.find(name).and_then(|id| Some((id, graph.weight(id)?)));
    found.ok_or_else(|| {
        let known: Vec<&str> = graph.weights().map(|(id, _)| graph.value_name(id)).collect();
        RewriteError::Unknown { what: "weight", name: name.to_owned(), known: known.join(", ") }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{DType, Op};

    fn graph(weight: Tensor) -> Graph {
        let mut graph = Graph::new("one");
        let x = graph.add_input("x", DType::F32, vec![1.into(), weight.shape()[0].into()]).unwrap();
        let w = graph.add_weight("w", weight).unwrap();
        let y = graph.add_node("y", Op::MatMul, &[x, w]).unwrap();
        graph.set_outputs(&[y]);
        graph
    }

    fn elements(masks: &Masks) -> Vec<f32> {
        masks["w"].elements::<f32>().unwrap().to_vec()
    }

    #[test]
    fn magnitude_zeroes_exactly_the_share_asked_for() {
        let weight = Tensor::new(&[2, 3], vec![0.5f32, -0.1, 0.3, -0.3, 0.0, 2.0]).unwrap();
        let mut graph = graph(weight);
        let check = |sparsity: f64, expected: [f32; 6]| {
            assert_eq!(elements(&magnitude(&graph, &["w"], sparsity).unwrap()), expected);
        };
        check(0.0, [1.0; 6]);
        check(0.5, [1.0, 0.0, 0.0, 1.0, 0.0, 1.0]);
        check(1.0, [0.0; 6]);
        let masks = magnitude(&graph, &["w"], 0.5).unwrap();
        assert_eq!(sparsity(&masks), 0.5);
        apply(&mut graph, &masks).unwrap();
        let weight = graph.weight(graph.find("w").unwrap()).unwrap();
        assert_eq!(weight.elements::<f32>().unwrap(), [0.5, 0.0, 0.0, -0.3, 0.0, 2.0]);
    }

    #[test]
    fn two_of_four_goes_along_the_inputs_and_leaves_the_rest_dense() {
        let column = [0.1f32, -0.9, 0.5, 0.2, 0.0, 0.0];
        let weight = Tensor::from_fn(&[6, 2], |index| {
            let (input, output) = (index / 2, index % 2);
            if output == 0 { column[input] } else { 1.0 }
        });
        let masks = two_of_four(&graph(weight), &["w"]).unwrap();
        let expected = [0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0, 1.0];
        assert_eq!(elements(&masks), expected);
    }

    #[test]
    fn errors_name_the_weight() {
        let mut graph = graph(Tensor::from_fn(&[4, 1], |_| 1f32));
        let error = two_of_four(&graph, &["v"]).unwrap_err();
        assert_eq!(error.to_string(), "no weight is called `v`; there are: w");
        let masks = Masks::from([("w".to_owned(), Tensor::scalar(0f32))]);
        let error = apply(&mut graph, &masks).unwrap_err().to_string();
        assert!(error.starts_with("weight `w`: expected a mask of its shape"), "{error}");
        assert!(magnitude(&graph, &["w"], 1.5).is_err());
    }
}
