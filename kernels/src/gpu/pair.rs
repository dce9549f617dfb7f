//! Functions of pairs of elements that broadcast.

use cubecl::prelude::*;

use super::copy::{Strided, Walk, WalkLaunch};
use super::{Buffer, Gpu};

/// A function of two elements.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pair {
    /// `a + b`
    Add,
    /// `a − b`
    Sub,
    /// `a · b`
    Mul,
    /// `a / b`
    Div,
}

#[cube(launch_unchecked)]
fn pairs_kernel(
    a: &[f32],
    b: &[f32],
    y: &mut [f32],
    of_a: Walk,
    of_b: Walk,
    #[comptime] pair: Pair,
) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let (a, b) = (a[of_a.place(index)], b[of_b.place(index)]);
        y[index] = match pair {
            Pair::Add => a + b,
            Pair::Sub => a - b,
            Pair::Mul => a * b,
            Pair::Div => a / b,
        };
        index += step;
    }
}

/// `y[i] = pair(a[i'], b[i''])`: dimensions of `a` and `b` that are 1 or lacking repeat.
///
/// # Shapes
/// f32; `y`: `shape`, of at most four dimensions; `a` and `b` broadcast to it.
///
/// # Panics
/// When they do not.
pub fn pairs(
    gpu: &Gpu,
    pair: Pair,
    [a, b]: [(&Buffer, &[usize]); 2],
    (y, shape): (&Buffer, &[usize]),
) {
    let elements = shape.iter().product();
    let [of_a, of_b] = [a.1, b.1].map(|own| Strided::broadcast(own, shape));
    let count = |own: &[usize]| own.iter().product::<usize>();
    let (cubes, units) = gpu.spread(elements);
    let y = y.argument::<f32>("pairs: y", elements);
    if elements == 0 {
        return;
    }
    let a = a.0.argument::<f32>("pairs: a", count(a.1));
    let b = b.0.argument::<f32>("pairs: b", count(b.1));
    let (of_a, of_b) = (WalkLaunch::of(&of_a), WalkLaunch::of(&of_b));
    // SAFETY: the kernel stays below the length of y; `broadcast` made strides that stay in a, b.
    unsafe {
        pairs_kernel::launch_unchecked(&gpu.client, cubes, units, a, b, y, of_a, of_b, pair);
    };
}
