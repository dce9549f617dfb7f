//! Sums, differences, products and quotients with broadcasting, and their counterpart, sums along
//! an axis, as one node each on the tape.

use burn::backend::flex::FlexTensor;
use graph::op;
use rayon::prelude::*;

use super::floats::Floats;
use super::fused::{self, CHUNK, Operation};

/// What becomes of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Combine {
    Add,
    Sub,
    Mul,
    Div,
}

impl Combine {
    fn of(self, a: f32, b: f32) -> f32 {
        match self {
            Self::Add => a + b,
            Self::Sub => a - b,
            Self::Mul => a * b,
            Self::Div => a / b,
        }
    }
}

/// Where a row of the output reads an operand: sizes of 1 are read again and again.
struct Rows {
    sizes: Vec<usize>,
    /// Elements from one entry of a dimension to the next, 0 where the operand has one entry.
    strides: Vec<usize>,
    /// As `strides`, along a row.
    step: usize,
}

impl Rows {
    /// # Shapes
    /// `output` is what `operand` broadcasts to, both of the same rank, at least 1.
    fn new(operand: &[usize], output: &[usize]) -> Self {
        let mut strides = vec![0; operand.len()];
        let mut stride = 1;
        for (place, (&size, &whole)) in strides.iter_mut().zip(operand.iter().zip(output)).rev() {
            *place = if size == whole { stride } else { 0 };
            stride *= size;
        }
        let step = strides.pop().expect("rank 0 is held as rank 1");
        Self { sizes: output[..output.len() - 1].to_vec(), strides, step }
    }

    fn start(&self, mut row: usize) -> usize {
        let mut start = 0;
        for (&size, &stride) in self.sizes.iter().zip(&self.strides).rev() {
            start += row % size * stride;
            row /= size;
        }
        start
    }
}

/// `combine(a, b)` of every row of the output; operands as [`Rows`] reads them.
fn rows(combine: Combine, shape: &[usize], [a, b]: [(&[f32], &Rows); 2]) -> Vec<f32> {
    let width = shape[shape.len() - 1];
    let mut y = vec![0f32; shape.iter().product()];
    if y.is_empty() {
        return y;
    }
    let at_once = (CHUNK / width).max(1);
    y.par_chunks_mut(at_once * width).enumerate().for_each(|(chunk, y)| {
        for (row, y) in y.chunks_exact_mut(width).enumerate() {
            let row = chunk * at_once + row;
            let (a, b) = ((&a.0[a.1.start(row)..], a.1.step), (&b.0[b.1.start(row)..], b.1.step));
            match (a, b) {
                ((a, 0), (b, 0)) => y.fill(combine.of(a[0], b[0])),
                ((a, 0), (b, _)) => each(y, b, |b| combine.of(a[0], b)),
                ((a, _), (b, 0)) => each(y, a, |a| combine.of(a, b[0])),
                ((a, _), (b, _)) => {
                    let pairs = a.iter().zip(b);
                    y.iter_mut().zip(pairs).for_each(|(y, (&a, &b))| *y = combine.of(a, b));
                }
            }
        }
    });
    y
}

fn each(y: &mut [f32], x: &[f32], of: impl Fn(f32) -> f32) {
    y.iter_mut().zip(x).for_each(|(y, &x)| *y = of(x));
}

/// The gradient of an operand of `shape` from that of what it broadcasts to: the sum over all that
/// read the same element, in their order.
fn gathered(gradient: &[f32], whole: &[usize], shape: &[usize]) -> Vec<f32> {
    let width = whole[whole.len() - 1];
    let places = Rows::new(shape, whole);
    let mut sums = vec![0f32; shape.iter().product()];
    for (row, gradient) in gradient.chunks_exact(width.max(1)).enumerate() {
        let start = places.start(row);
        if places.step == 0 {
            sums[start] += gradient.iter().sum::<f32>();
        } else {
            sums[start..].iter_mut().zip(gradient).for_each(|(sum, gradient)| *sum += gradient);
        }
    }
    sums
}

/// `combine(a, b)`, dimensions of size 1 repeated.
///
/// # Shapes
/// `a` and `b` have the same rank.
#[derive(Clone, Debug)]
struct Broadcast(Combine);

/// What the gradients need.
#[derive(Clone, Debug)]
struct Saved {
    shapes: [Vec<usize>; 2],
    /// The operands, where the gradient of one depends on the other.
    factors: Option<[FlexTensor; 2]>,
}

fn output_shape([a, b]: [&[usize]; 2]) -> Vec<usize> {
    a.iter().zip(b).map(|(&a, &b)| if a == 1 { b } else { a }).collect()
}

fn combined(combine: Combine, shape: &[usize], [a, b]: [&FlexTensor; 2]) -> FlexTensor {
    let [a_rows, b_rows] = [a, b].map(|operand| Rows::new(&fused::shape(operand), shape));
    let (a, b) = (fused::elements(a), fused::elements(b));
    fused::tensor(shape, rows(combine, shape, [(&a, &a_rows), (&b, &b_rows)]))
}

impl Operation<2> for Broadcast {
    type Saved = Saved;

    fn forward(&self, [a, b]: &[FlexTensor; 2]) -> (FlexTensor, Saved) {
        let shapes = [fused::shape(a), fused::shape(b)];
        let y = combined(self.0, &output_shape(shapes.each_ref().map(Vec::as_slice)), [a, b]);
        let factors = matches!(self.0, Combine::Mul | Combine::Div).then(|| [a.clone(), b.clone()]);
        (y, Saved { shapes, factors })
    }

    fn backward(
        &self,
        Saved { shapes, factors }: Saved,
        gradient: &FlexTensor,
        wanted: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let whole = fused::shape(gradient);
        let with = |combine: Combine, factors: [&FlexTensor; 2]| combined(combine, &whole, factors);
        std::array::from_fn(|index| {
            if !wanted[index] {
                return None;
            }
            // By each element of the output, and without the sign of `b`'s.
            let own = match (self.0, &factors, index) {
                (Combine::Mul, Some(factors), _) => {
                    with(Combine::Mul, [gradient, &factors[1 - index]])
                }
                (Combine::Div, Some([_, b]), 0) => with(Combine::Div, [gradient, b]),
                (Combine::Div, Some([a, b]), _) => {
                    let quotient = with(Combine::Div, [a, b]);
                    with(Combine::Div, [&with(Combine::Mul, [gradient, &quotient]), b])
                }
                _ => gradient.clone(),
            };
            let negative = index == 1 && matches!(self.0, Combine::Sub | Combine::Div);
            if shapes[index] == whole && !negative {
                return Some(own);
            }
            let mut sums = gathered(&fused::elements(&own), &whole, &shapes[index]);
            if negative {
                sums.iter_mut().for_each(|sum| *sum = -*sum);
            }
            Some(fused::tensor(&shapes[index], sums))
        })
    }
}

/// The sum along an axis, which stays with size 1.
#[derive(Clone, Debug)]
struct SumAxis(usize);

impl Operation<1> for SumAxis {
    type Saved = Vec<usize>;

    fn forward(&self, [x]: &[FlexTensor; 1]) -> (FlexTensor, Vec<usize>) {
        let shape = fused::shape(x);
        let mut sum = shape.clone();
        sum[self.0] = 1;
        let elements = fused::elements(x);
        let sums = gathered(&elements, &shape, &sum);
        (fused::tensor(&sum, sums), shape)
    }

    fn backward(
        &self,
        shape: Vec<usize>,
        gradient: &FlexTensor,
        _: [bool; 1],
    ) -> [Option<FlexTensor>; 1] {
        let zero = [0f32];
        let from = fused::shape(gradient);
        let elements = fused::elements(gradient);
        let whole = (&*elements, &Rows::new(&from, &shape));
        let nothing = (&zero[..], &Rows::new(&vec![1; shape.len()], &shape));
        [Some(fused::tensor(&shape, rows(Combine::Add, &shape, [whole, nothing])))]
    }
}

/// `combine(a, b)`, dimensions of size 1 repeated.
pub(super) fn combine(fuse: bool, combine: Combine, a: Floats, b: Floats) -> Floats {
    if !fuse {
        return match combine {
            Combine::Add => a.add(b),
            Combine::Sub => a.sub(b),
            Combine::Mul => a.mul(b),
            Combine::Div => a.div(b),
        };
    }
    let (a, b) = a.aligned(b);
    Floats(fused::apply(&Broadcast(combine), [a.0, b.0]))
}

/// The sum along `op.axis`, which is dropped.
pub(super) fn reduce_sum(fuse: bool, op: &op::ReduceSum, x: Floats) -> Floats {
    let mut shape = x.shape();
    shape.remove(op.axis);
    let axis = op.axis;
    let sum = if fuse { Floats(fused::apply(&SumAxis(axis), [x.0])) } else { x.sum_axis(axis) };
    // Rank 0 is held as one element of rank 1.
    if shape.is_empty() { sum.reshape(&[1]) } else { sum.reshape(&shape) }
}
