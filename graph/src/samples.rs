//! Inputs for a graph when there are no real ones: for golden examples, checks and timings.

use crate::package::NamedTensors;
use crate::{Bindings, DType, Dim, Graph, Tensor};

/// One tensor for each input of `graph`, the same for the same sizes and `seed`: floats between −1
/// and 1; integers and truth values 0 and 1, which name a row of any table, and 1 at the start of each
/// row, so that no mask hides all of it.
///
/// # Errors
///
/// Names the dimension that `bindings` leaves open, or the input that is too large.
pub fn inputs(graph: &Graph, bindings: &Bindings, seed: u64) -> Result<NamedTensors, String> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let input = |&id| {
        let (name, value_type) = (graph.value_name(id), graph.value_type(id));
        let shape = bindings
            .sizes(&value_type.shape)
            .map_err(|reason| format!("input `{name}`: {reason}"))?;
        crate::weights::checked_elements(&shape)
            .ok_or_else(|| format!("input `{name}`: {shape:?} is too large"))?;
        let row = shape.last().copied().unwrap_or(1).max(1);
        let mut bit = |index: usize| random.bit() || index.is_multiple_of(row);
        let tensor = match value_type.dtype {
            DType::F32 => Tensor::from_fn(&shape, |_| random.unit() * 2.0 - 1.0),
            DType::I64 => Tensor::from_fn(&shape, |index| i64::from(bit(index))),
            DType::I32 => Tensor::from_fn(&shape, |index| i32::from(bit(index))),
            DType::I8 => Tensor::from_fn(&shape, |index| i8::from(bit(index))),
            DType::U8 => Tensor::from_fn(&shape, |index| u8::from(bit(index))),
            DType::Bool => Tensor::from_fn(&shape, bit),
        };
        Ok((name.to_owned(), tensor))
    };
    graph.inputs().iter().map(input).collect()
}

/// The names of the dimensions that a run of `graph` binds, in the order of its inputs.
pub fn open_dimensions(graph: &Graph) -> Vec<String> {
    let mut names = Vec::new();
    for dim in graph.inputs().iter().flat_map(|&id| &graph.value_type(id).shape) {
        if let Dim::Symbol(name) = dim
            && !names.iter().any(|known: &String| **known == **name)
        {
            names.push(name.to_string());
        }
    }
    names
}

/// A xorshift generator (Marsaglia 2003): its numbers need no quality, only to be the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn unit(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 24) as f32
    }

    fn bit(&mut self) -> bool {
        self.next() >> 63 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inputs_fit_the_graph_and_repeat() {
        let mut graph = Graph::new("g");
        let shape = vec![Dim::symbol("batch"), Dim::Fixed(3)];
        let x = graph.add_input("x", DType::F32, shape.clone()).unwrap();
        graph.add_input("ids", DType::I64, shape).unwrap();
        graph.set_outputs(&[x]);
        let bindings = Bindings::new([("batch", 2)]);
        let tensors = inputs(&graph, &bindings, 7).unwrap();
        assert_eq!(tensors, inputs(&graph, &bindings, 7).unwrap());
        assert_ne!(tensors, inputs(&graph, &bindings, 8).unwrap());
        assert!(tensors[0].1.elements::<f32>().unwrap().iter().all(|x| x.abs() <= 1.0));
        let ids = tensors[1].1.elements::<i64>().unwrap();
        assert!(ids.iter().all(|x| (0..=1).contains(x)));
        assert_eq!((ids[0], ids[3]), (1, 1));
        assert_eq!(open_dimensions(&graph), ["batch"]);
        let error = inputs(&graph, &Bindings::default(), 7).unwrap_err();
        assert_eq!(error, "input `x`: dimension `batch` is not bound");
    }
}
