//! The best entries along an axis and where they are, and running sums.

use bytemuck::Pod;
use graph::op::{ArgExtreme, CumulativeSum, TopK, TopKPart};
use graph::{DType, Dim, Element, Op};
use kernels::{Best, Ranked, best_place, top_k};

use super::several::split;
use super::{Call, Kernel, KernelEntry, Scratch, elements_mut, run};
use crate::module::{Module, Node, Operation};

const fn extreme(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry {
        name,
        operation,
        tier: None,
        cost: 1,
        accepts: |module, node| match &node.operation {
            Operation::Graph(Op::ArgExtreme(op)) if op.last => {
                Err("takes the first of equal elements only".to_owned())
            }
            _ => ranked(module, node),
        },
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::ArgExtreme(op)) => run(Extreme(*op)),
            _ => unreachable!("the table pairs this kernel with places of extremes"),
        },
    }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    extreme("arg-max", "ArgMax"),
    extreme("arg-min", "ArgMin"),
    KernelEntry {
        name: "top-k",
        operation: "TopK",
        tier: None,
        cost: 1,
        accepts: ranked,
        prepare: |module, node, _| run(Top::new(module, node)),
    },
    KernelEntry {
        name: "cumulative-sum",
        operation: "CumSum",
        tier: None,
        cost: 1,
        accepts: |module, node| {
            ranked(module, node)?;
            match module.value(node.inputs[1]).dtype {
                DType::I64 | DType::I32 => Ok(()),
                found => Err(format!("takes an axis in i64 or i32, found {found}")),
            }
        },
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::CumulativeSum(op)) => run(Running(*op)),
            _ => unreachable!("the table pairs this kernel with running sums"),
        },
    },
];

/// Accepts numbers of four and eight bytes.
fn ranked(module: &Module, node: &Node) -> Result<(), String> {
    match module.value(node.inputs[0]).dtype {
        DType::F32 | DType::I64 | DType::I32 => Ok(()),
        found => Err(format!("takes f32, i64 and i32, found {found}")),
    }
}

/// What lies outside an axis, its size, and what lies inside.
fn around(shape: &[usize], axis: usize) -> [usize; 3] {
    let product = |shape: &[usize]| shape.iter().product();
    [product(&shape[..axis]), shape[axis], product(&shape[axis + 1..])]
}

struct Extreme(ArgExtreme);

impl Kernel for Extreme {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, sizes) = (&call.inputs[0], around(call.inputs[0].shape, self.0.axis));
        let y: &mut [i64] = elements_mut(call.output);
        if sizes[1] == 0 && !y.is_empty() {
            return Err(format!("dimension {} has no element to find", self.0.axis));
        }
        let best = if self.0.largest { Best::Greatest } else { Best::Least };
        match x.dtype {
            DType::F32 => best_place::<f32>(x.elements(), sizes, best, y),
            DType::I64 => best_place::<i64>(x.elements(), sizes, best, y),
            _ => best_place::<i32>(x.elements(), sizes, best, y),
        }
        Ok(())
    }
}

struct Top {
    op: TopK,
    parts: Vec<TopKPart>,
    key_bytes: usize,
}

impl Kernel for Top {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.inputs[0].dtype {
            DType::F32 => self.top::<f32>(call),
            DType::I64 => self.top::<i64>(call),
            _ => self.top::<i32>(call),
        }
    }

    /// A key for each element.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        Some(Scratch { element_bytes: self.key_bytes, shape: inputs[0].to_vec() })
    }
}

impl Top {
    fn new(module: &Module, node: &Node) -> Self {
        let ops: Vec<TopK> = node
            .operation
            .operators()
            .map(|op| match op {
                Op::TopK(op) => *op,
                _ => unreachable!("the table pairs this kernel with best entries"),
            })
            .collect();
        let key_bytes = match module.value(node.inputs[0]).dtype {
            DType::I64 => size_of::<<i64 as Ranked>::Key>(),
            _ => size_of::<<f32 as Ranked>::Key>(),
        };
        Self { op: ops[0], parts: ops.iter().map(|op| op.part).collect(), key_bytes }
    }

    fn top<T>(&self, call: Call<'_>) -> Result<(), String>
    where
        T: Ranked<Key: Pod> + Element + Pod,
    {
        let axis = self.op.axis;
        let sizes @ [_, size, inner] = around(call.inputs[0].shape, axis);
        let k = call.shape[axis];
        if k > size || u32::try_from(size).is_err() {
            return Err(format!("expected at most {size} entries, found k = {k}"));
        }
        if call.output.is_empty() {
            return Ok(());
        }
        let x: &[T] = call.inputs[0].elements();
        let keys: &mut [T::Key] = elements_mut(call.scratch);
        let best = if self.op.largest { Best::Greatest } else { Best::Least };
        top_k(x, sizes, best, k, keys);
        let lines = || {
            let keys = keys.chunks_exact(size).map(|keys| &keys[..k]).enumerate();
            keys.flat_map(|(line, keys)| {
                let (block, column) = (line / inner, line % inner);
                keys.iter().enumerate().map(move |(rank, &key)| {
                    let place = T::place(key);
                    let from = (block * size + place) * inner + column;
                    ((block * k + rank) * inner + column, place, from)
                })
            })
        };
        let len: usize = call.shape.iter().product();
        let sizes = self.parts.iter().map(|part| match part {
            TopKPart::Indices => len * size_of::<i64>(),
            TopKPart::Values => len * size_of::<T>(),
        });
        for (part, output) in self.parts.iter().zip(split(call.output, sizes)) {
            match part {
                TopKPart::Indices => {
                    let y: &mut [i64] = elements_mut(output);
                    lines().for_each(|(to, place, _)| y[to] = place as i64);
                }
                TopKPart::Values => {
                    let y: &mut [T] = elements_mut(output);
                    lines().for_each(|(to, _, from)| y[to] = x[from]);
                }
            }
        }
        Ok(())
    }
}

struct Running(CumulativeSum);

impl Kernel for Running {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, rank) = (&call.inputs[0], call.inputs[0].shape.len());
        let axis = match call.inputs[1].dtype {
            DType::I64 => call.inputs[1].elements::<i64>().as_array().map(|&[axis]| axis),
            _ => call.inputs[1].elements::<i32>().as_array().map(|&[axis]| axis.into()),
        };
        let axis = axis
            .ok_or_else(|| format!("expected one axis, found shape {:?}", call.inputs[1].shape))?;
        let from_start = if axis < 0 { axis.wrapping_add(rank as i64) } else { axis };
        let from_start = usize::try_from(from_start).ok().filter(|&axis| axis < rank);
        let axis = from_start.ok_or_else(|| format!("axis {axis} is none of {rank}"))?;
        let sizes = around(x.shape, axis);
        match x.dtype {
            // In doubles, as the definition.
            DType::F32 => {
                let to_float = |sum: f64| sum as f32;
                self.sum::<f32, f64>(x.elements(), sizes, call.output, |a, b| a + b, to_float);
            }
            DType::I64 => {
                self.sum::<i64, i64>(x.elements(), sizes, call.output, i64::wrapping_add, |x| x);
            }
            _ => self.sum::<i32, i32>(x.elements(), sizes, call.output, i32::wrapping_add, |x| x),
        }
        Ok(())
    }
}

impl Running {
    fn sum<T: Pod + Into<S>, S: Copy + Default>(
        &self,
        x: &[T],
        [_, size, inner]: [usize; 3],
        output: &mut [u8],
        add: impl Fn(S, S) -> S,
        finish: impl Fn(S) -> T,
    ) {
        let block = size * inner;
        if block == 0 {
            return;
        }
        let y: &mut [T] = elements_mut(output);
        for (x, y) in x.chunks_exact(block).zip(y.chunks_exact_mut(block)) {
            for column in 0..inner {
                let mut sum = S::default();
                for step in 0..size {
                    let place = if self.0.reverse { size - 1 - step } else { step };
                    let at = place * inner + column;
                    let before = sum;
                    sum = add(sum, x[at].into());
                    y[at] = finish(if self.0.exclusive { before } else { sum });
                }
            }
        }
    }
}
