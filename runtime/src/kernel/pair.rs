//! Functions of two f32 elements, broadcast, apart from the four of arithmetic, and comparisons of
//! integers.

use std::marker::PhantomData;

use bytemuck::Pod;
use graph::op::Binary;
use graph::{DType, Element, Op};

use super::elementwise::Side;
use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, run};
use crate::module::{Module, Node, Operation};

const fn pair(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare: prepare_node }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    pair("pow.f32", "Pow"),
    pair("prelu.f32", "PRelu"),
    pair("max.f32", "Max"),
    pair("min.f32", "Min"),
    pair("equal", "Equal"),
    pair("greater", "Greater"),
    pair("greater-or-equal", "GreaterOrEqual"),
    pair("less", "Less"),
    pair("less-or-equal", "LessOrEqual"),
];

fn accepts(module: &Module, node: &Node) -> Result<(), String> {
    prepare(module, node).map(|_| ())
}

fn prepare_node(module: &Module, node: &Node, _: kernels::Cpu) -> Prepared {
    prepare(module, node).expect("other nodes were not accepted")
}

fn prepare(module: &Module, node: &Node) -> Result<Prepared, String> {
    let Operation::Graph(Op::Binary(op)) = node.operation else {
        return Err("does not know the function".to_owned());
    };
    let types = [0, 1].map(|input| module.value(node.inputs[input]).dtype);
    let comparison = match types {
        [DType::F32, DType::F32] => of_floats(op).or_else(|| comparison::<f32>(op)),
        [DType::I64, DType::I64] => comparison::<i64>(op),
        [DType::I32, DType::I32] => comparison::<i32>(op),
        [a, b] => return Err(format!("takes f32, or compares i64 or i32, found {a} and {b}")),
    };
    comparison.ok_or_else(|| format!("does not know the function for {}", types[0]))
}

fn of_floats(op: Binary) -> Option<Prepared> {
    Some(match op {
        Binary::Pow => pairs(|a: f32, b: f32| if b == 2.0 { a * a } else { a.powf(b) }),
        Binary::PRelu => pairs(|a: f32, b: f32| if a < 0.0 { a * b } else { a }),
        Binary::Max => pairs(|a: f32, b: f32| if a.is_nan() || a > b { a } else { b }),
        Binary::Min => pairs(|a: f32, b: f32| if a.is_nan() || a < b { a } else { b }),
        _ => return None,
    })
}

fn comparison<T: Element + Copy + PartialOrd>(op: Binary) -> Option<Prepared> {
    Some(match op {
        Binary::Equal => pairs(|a: T, b: T| u8::from(a == b)),
        Binary::Greater => pairs(|a: T, b: T| u8::from(a > b)),
        Binary::GreaterOrEqual => pairs(|a: T, b: T| u8::from(a >= b)),
        Binary::Less => pairs(|a: T, b: T| u8::from(a < b)),
        Binary::LessOrEqual => pairs(|a: T, b: T| u8::from(a <= b)),
        _ => return None,
    })
}

/// A function of two elements, whose results are numbers, or u8 for truth values.
struct Pairs<T, U, F> {
    function: F,
    types: PhantomData<fn(T, T) -> U>,
}

fn pairs<T: Element + Copy, U: Pod>(
    function: impl Fn(T, T) -> U + Send + Sync + 'static,
) -> Prepared {
    run(Pairs { function, types: PhantomData })
}

impl<T: Element + Copy, U: Pod, F: Fn(T, T) -> U + Send + Sync> Kernel for Pairs<T, U, F> {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let function = &self.function;
        let [a, b] = [0, 1].map(|input| Side { shape: call.inputs[input].shape });
        let [left, right] = [0, 1].map(|input| call.inputs[input].elements::<T>());
        let output: &mut [U] = elements_mut(call.output);
        let columns = call.shape.last().copied().unwrap_or(1);
        for (row, y) in output.chunks_exact_mut(columns.max(1)).enumerate() {
            let (a_start, b_start) = (a.start(row, call.shape), b.start(row, call.shape));
            let (left, right) = (&left[a_start..], &right[b_start..]);
            // Rows of their own, so that the compiler sees which side does not move.
            match (a.step(columns), b.step(columns)) {
                (0, 0) => y.fill(function(left[0], right[0])),
                (0, _) => y.iter_mut().zip(right).for_each(|(y, &b)| *y = function(left[0], b)),
                (_, 0) => y.iter_mut().zip(left).for_each(|(y, &a)| *y = function(a, right[0])),
                _ => y
                    .iter_mut()
                    .zip(left.iter().zip(right))
                    .for_each(|(y, (&a, &b))| *y = function(a, b)),
            }
        }
        Ok(())
    }
}
