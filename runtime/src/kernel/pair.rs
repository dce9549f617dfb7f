//! Functions of two f32 elements, broadcast, apart from the four of arithmetic.

use bytemuck::Pod;
use graph::Op;
use graph::op::Binary;

use super::elementwise::Side;
use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, floats, run};
use crate::module::{Module, Node, Operation};

const fn pair(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare: prepare_node }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    pair("pow.f32", "Pow"),
    pair("prelu.f32", "PRelu"),
    pair("max.f32", "Max"),
    pair("min.f32", "Min"),
    pair("equal.f32", "Equal"),
    pair("greater.f32", "Greater"),
    pair("greater-or-equal.f32", "GreaterOrEqual"),
    pair("less.f32", "Less"),
    pair("less-or-equal.f32", "LessOrEqual"),
];

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    prepare(node).map(|_| ()).ok_or_else(|| "does not know the function".to_owned())
}

fn prepare_node(_: &Module, node: &Node, _: kernels::Cpu) -> Prepared {
    prepare(node).expect("other functions were not accepted")
}

fn prepare(node: &Node) -> Option<Prepared> {
    let Operation::Graph(Op::Binary(op)) = node.operation else { return None };
    Some(match op {
        Binary::Pow => run(Pairs(|a: f32, b: f32| if b == 2.0 { a * a } else { a.powf(b) })),
        Binary::PRelu => run(Pairs(|a: f32, b: f32| if a < 0.0 { a * b } else { a })),
        Binary::Max => run(Pairs(|a: f32, b: f32| if a.is_nan() || a > b { a } else { b })),
        Binary::Min => run(Pairs(|a: f32, b: f32| if a.is_nan() || a < b { a } else { b })),
        Binary::Equal => run(Pairs(|a: f32, b: f32| u8::from(a == b))),
        Binary::Greater => run(Pairs(|a: f32, b: f32| u8::from(a > b))),
        Binary::GreaterOrEqual => run(Pairs(|a: f32, b: f32| u8::from(a >= b))),
        Binary::Less => run(Pairs(|a: f32, b: f32| u8::from(a < b))),
        Binary::LessOrEqual => run(Pairs(|a: f32, b: f32| u8::from(a <= b))),
        _ => return None,
    })
}

/// A function whose results are f32, or u8 for truth values.
struct Pairs<F>(F);

impl<T: Pod, F: Fn(f32, f32) -> T + Send + Sync> Kernel for Pairs<F> {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [a, b] = [0, 1].map(|input| Side { shape: call.inputs[input].shape });
        let (left, right) = (call.f32(0), call.f32(1));
        let output: &mut [T] = elements_mut(call.output);
        let columns = call.shape.last().copied().unwrap_or(1);
        for (row, y) in output.chunks_exact_mut(columns.max(1)).enumerate() {
            let (a_start, b_start) = (a.start(row, call.shape), b.start(row, call.shape));
            let (left, right) = (&left[a_start..], &right[b_start..]);
            // Rows of their own, so that the compiler sees which side does not move.
            match (a.step(columns), b.step(columns)) {
                (0, 0) => y.fill((self.0)(left[0], right[0])),
                (0, _) => y.iter_mut().zip(right).for_each(|(y, &b)| *y = (self.0)(left[0], b)),
                (_, 0) => y.iter_mut().zip(left).for_each(|(y, &a)| *y = (self.0)(a, right[0])),
                _ => y
                    .iter_mut()
                    .zip(left.iter().zip(right))
                    .for_each(|(y, (&a, &b))| *y = (self.0)(a, b)),
            }
        }
        Ok(())
    }
}
