#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Values of broadcast shapes, taken together element by element.
//!
//! A [`Broadcast`] cuts a result into runs along which each side goes on in one way: from element to
//! element, or staying at one. Neighbouring dimensions that all sides have, or all lack, are one.

use crate::parallel::{LINE, check_len, for_each_piece};
use crate::tier::{Cpu, tiered};

/// Dimensions of a broadcast result at most.
pub const BROADCAST_RANK: usize = 16;

/// How the elements of `N` sides lie under those of a result.
#[derive(Clone, Copy, Debug)]
pub struct Broadcast<const N: usize> {
    /// The last dimension first; one at least.
    axes: [Axis<N>; BROADCAST_RANK],
    rank: usize,
    /// Elements of each side, and of the result.
    side_lens: [usize; N],
    len: usize,
}

#[derive(Clone, Copy, Debug)]
struct Axis<const N: usize> {
    size: usize,
    /// Elements of each side from one entry to the next; 0 where it repeats.
    strides: [usize; N],
}

impl<const N: usize> Broadcast<N> {
    /// The sides' shapes are aligned at their last dimensions, as numpy does it.
    ///
    /// # Panics
    /// When a side does not broadcast to `shape`, or that has more than [`BROADCAST_RANK`]
    /// dimensions.
    pub fn new(shape: &[usize], sides: [&[usize]; N]) -> Self {
        assert!(shape.len() <= BROADCAST_RANK, "expected {BROADCAST_RANK} dimensions at most");
        let mut axes = [Axis { size: 1, strides: [0; N] }; BROADCAST_RANK];
        let (mut rank, mut side_lens) = (0usize, [1; N]);
        for (back, &size) in shape.iter().rev().enumerate() {
            let strides = std::array::from_fn(|side| {
                let own = sides[side].len().checked_sub(back + 1).map_or(1, |at| sides[side][at]);
                assert!(
                    own == size || own == 1,
                    "{:?} does not broadcast to {shape:?}",
                    sides[side]
                );
                let stride = if own == 1 { 0 } else { side_lens[side] };
                side_lens[side] *= own;
                stride
            });
            if size == 1 {
                continue;
            }
            let last: &mut Axis<N> = &mut axes[rank.saturating_sub(1)];
            if rank > 0 && (0..N).all(|side| strides[side] == last.strides[side] * last.size) {
                last.size *= size;
            } else {
                axes[rank] = Axis { size, strides };
                rank += 1;
            }
        }
        let too_long = sides.iter().find(|side| side.len() > shape.len());
        assert!(too_long.is_none(), "{too_long:?} does not broadcast to {shape:?}");
        Self { axes, rank: rank.max(1), side_lens, len: shape.iter().product() }
    }

    /// Whether each side goes on along a run, rather than staying.
    fn moves(&self) -> [bool; N] {
        self.axes[0].strides.map(|stride| stride != 0)
    }

    /// Calls `job` for every run of the elements `start..start + len` of the result: with where it
    /// starts behind `start`, how long it is, and where each side is at its start.
    #[allow(clippy::inline_always, reason = "it must be compiled again inside each tier")]
    #[inline(always)]
    fn for_each_run(
        &self,
        start: usize,
        len: usize,
        mut job: impl FnMut(usize, usize, [usize; N]),
    ) {
        let (run, outer) = (&self.axes[0], &self.axes[1..self.rank]);
        let (mut column, mut rest) = (start % run.size, start / run.size);
        let (mut places, mut at) = ([0; BROADCAST_RANK], [0; N]);
        for (place, axis) in places.iter_mut().zip(outer) {
            *place = rest % axis.size;
            rest /= axis.size;
            (0..N).for_each(|side| at[side] += *place * axis.strides[side]);
        }
        let mut done = 0;
        while done < len {
            let count = (run.size - column).min(len - done);
            job(done, count, std::array::from_fn(|side| at[side] + column * run.strides[side]));
            done += count;
            column = 0;
            for (place, axis) in places.iter_mut().zip(outer) {
                *place += 1;
                (0..N).for_each(|side| at[side] += axis.strides[side]);
                if *place < axis.size {
                    break;
                }
                *place = 0;
                (0..N).for_each(|side| at[side] -= axis.size * axis.strides[side]);
            }
        }
    }

    fn check(&self, sides: [usize; N], result: usize) {
        check_len("broadcast: result", result, self.len);
        for (found, expected) in sides.into_iter().zip(self.side_lens) {
            check_len("broadcast: side", found, expected);
        }
    }
}

/// `y = function(a, b)` from element `start` of the result on.
#[allow(clippy::inline_always, reason = "it must be compiled again inside each tier")]
#[inline(always)]
fn fill<T: Copy, U: Copy>(
    broadcast: &Broadcast<2>,
    start: usize,
    [a, b]: [&[T]; 2],
    y: &mut [U],
    function: impl Fn(T, T) -> U,
) {
    // Runs of their own, so that the compiler sees which side does not move.
    match broadcast.moves() {
        [false, false] => broadcast.for_each_run(start, y.len(), |done, len, [i, j]| {
            y[done..][..len].fill(function(a[i], b[j]));
        }),
        [false, true] => broadcast.for_each_run(start, y.len(), |done, len, [i, j]| {
            let a = a[i];
            let pairs = y[done..][..len].iter_mut().zip(&b[j..][..len]);
            pairs.for_each(|(y, &b)| *y = function(a, b));
        }),
        [true, false] => broadcast.for_each_run(start, y.len(), |done, len, [i, j]| {
            let b = b[j];
            let pairs = y[done..][..len].iter_mut().zip(&a[i..][..len]);
            pairs.for_each(|(y, &a)| *y = function(a, b));
        }),
        [true, true] => broadcast.for_each_run(start, y.len(), |done, len, [i, j]| {
            let sides = a[i..][..len].iter().zip(&b[j..][..len]);
            let pairs = y[done..][..len].iter_mut().zip(sides);
            pairs.for_each(|(y, (&a, &b))| *y = function(a, b));
        }),
    }
}

/// `y = function(y, x)` from element `start` of the result on.
#[allow(clippy::inline_always, reason = "it must be compiled again inside each tier")]
#[inline(always)]
fn update<T: Copy>(
    broadcast: &Broadcast<1>,
    start: usize,
    x: &[T],
    y: &mut [T],
    function: impl Fn(T, T) -> T,
) {
    match broadcast.moves() {
        [false] => broadcast.for_each_run(start, y.len(), |done, len, [i]| {
            let x = x[i];
            y[done..][..len].iter_mut().for_each(|y| *y = function(*y, x));
        }),
        [true] => broadcast.for_each_run(start, y.len(), |done, len, [i]| {
            let pairs = y[done..][..len].iter_mut().zip(&x[i..][..len]);
            pairs.for_each(|(y, &x)| *y = function(*y, x));
        }),
    }
}

type Fill<T, U> = fn(Cpu, &Broadcast<2>, usize, [&[T]; 2], &mut [U]);
type Update<T> = fn(Cpu, &Broadcast<1>, usize, &[T], &mut [T]);

/// A function of two elements.
#[derive(Clone, Copy, Debug)]
pub struct Pairwise<T, U> {
    fill: Fill<T, U>,
}

/// A [`Pairwise`] whose result may lie over a side.
#[derive(Clone, Copy, Debug)]
pub struct Updating<T> {
    /// With a result of its own.
    pub apart: Pairwise<T, T>,
    over: [Update<T>; 2],
}

impl<T: Copy + Sync, U: Copy + Send> Pairwise<T, U> {
    /// `y = function(a, b)`.
    ///
    /// # Panics
    /// When a slice has other elements than its shape.
    pub fn run(&self, cpu: Cpu, broadcast: &Broadcast<2>, sides: [&[T]; 2], y: &mut [U]) {
        broadcast.check(sides.map(<[T]>::len), y.len());
        if !y.is_empty() {
            for_each_piece(y, LINE, |start, y| {
                (self.fill)(cpu, broadcast, start, sides, y);
            });
        }
    }
}

impl<T: Copy + Send + Sync> Updating<T> {
    /// `y = function(y, x)`, or `function(x, y)` where `y` is side 1. The other side is `x`.
    ///
    /// # Panics
    /// When a slice has other elements than its shape.
    pub fn run(&self, cpu: Cpu, broadcast: &Broadcast<1>, over: usize, x: &[T], y: &mut [T]) {
        broadcast.check([x.len()], y.len());
        if !y.is_empty() {
            for_each_piece(y, LINE, |start, y| {
                (self.over[over])(cpu, broadcast, start, x, y);
            });
        }
    }
}

/// An [`Updating`] of a closure.
macro_rules! updating {
    ($type:ident, $function:expr) => {{
        tiered! {
            fn apart(walk: &Broadcast<2>, start: usize, sides: [&[$type]; 2], y: &mut [$type]) {
                fill(walk, start, sides, y, $function);
            }
        }
        tiered! {
            fn over_a(walk: &Broadcast<1>, start: usize, x: &[$type], y: &mut [$type]) {
                update(walk, start, x, y, $function);
            }
        }
        tiered! {
            fn over_b(walk: &Broadcast<1>, start: usize, x: &[$type], y: &mut [$type]) {
                update(walk, start, x, y, |b, a| $function(a, b));
            }
        }
        Updating { apart: Pairwise { fill: apart }, over: [over_a, over_b] }
    }};
}

/// A [`Pairwise`] of an operator that compares; the results are 0 and 1.
macro_rules! comparing {
    ($type:ident, $operator:tt) => {{
        tiered! {
            fn apart(walk: &Broadcast<2>, start: usize, sides: [&[$type]; 2], y: &mut [u8]) {
                fill(walk, start, sides, y, |a, b| u8::from(a $operator b));
            }
        }
        Pairwise { fill: apart }
    }};
}

/// Numbers that are taken together.
pub trait Number: Copy + Send + Sync + 'static {
    /// `a + b`; integers wrap around.
    const ADD: Updating<Self>;
    /// `a − b`; integers wrap around.
    const SUB: Updating<Self>;
    /// `a · b`; integers wrap around.
    const MUL: Updating<Self>;
    /// The larger; NaN where one is.
    const MAX: Updating<Self>;
    /// The smaller; NaN where one is.
    const MIN: Updating<Self>;
    /// `a = b`, as 0 and 1.
    const EQUAL: Pairwise<Self, u8>;
    /// `a > b`, as 0 and 1.
    const GREATER: Pairwise<Self, u8>;
    /// `a ≥ b`, as 0 and 1.
    const GREATER_OR_EQUAL: Pairwise<Self, u8>;
    /// `a < b`, as 0 and 1.
    const LESS: Pairwise<Self, u8>;
    /// `a ≤ b`, as 0 and 1.
    const LESS_OR_EQUAL: Pairwise<Self, u8>;
}

macro_rules! number {
    ($type:ident, $add:expr, $sub:expr, $mul:expr, $max:expr, $min:expr) => {
        impl Number for $type {
            const ADD: Updating<$type> = updating!($type, $add);
            const SUB: Updating<$type> = updating!($type, $sub);
            const MUL: Updating<$type> = updating!($type, $mul);
            const MAX: Updating<$type> = updating!($type, $max);
            const MIN: Updating<$type> = updating!($type, $min);
            const EQUAL: Pairwise<$type, u8> = comparing!($type, ==);
            const GREATER: Pairwise<$type, u8> = comparing!($type, >);
            const GREATER_OR_EQUAL: Pairwise<$type, u8> = comparing!($type, >=);
            const LESS: Pairwise<$type, u8> = comparing!($type, <);
            const LESS_OR_EQUAL: Pairwise<$type, u8> = comparing!($type, <=);
        }
    };
}

number!(
    f32,
    |a: f32, b: f32| a + b,
    |a: f32, b: f32| a - b,
    |a: f32, b: f32| a * b,
    |a: f32, b: f32| if a.is_nan() || a > b { a } else { b },
    |a: f32, b: f32| if a.is_nan() || a < b { a } else { b }
);

macro_rules! integers {
    ($($type:ident)*) => {
        $(number!(
            $type,
            $type::wrapping_add,
            $type::wrapping_sub,
            $type::wrapping_mul,
            $type::max,
            $type::min
        );)*
    };
}
integers!(i64 i32 i8 u8);

/// Integers, with what floats have no use for or do otherwise.
pub trait Whole: Number {
    /// `a / b`, cut towards 0. The least number divided by −1 wraps around.
    ///
    /// # Panics
    /// When a divisor is 0, which [`Whole::is_zero`] finds.
    const QUOTIENT: Updating<Self>;
    /// Remainder with the sign of the divisor; panics as [`Whole::QUOTIENT`] does.
    const MOD: Updating<Self>;
    /// Remainder with the sign of the dividend; panics as [`Whole::QUOTIENT`] does.
    const REMAINDER: Updating<Self>;
    /// Bits set in both.
    const BITS_AND: Updating<Self>;
    /// Bits set in at least one.
    const BITS_OR: Updating<Self>;
    /// Bits set in exactly one.
    const BITS_XOR: Updating<Self>;

    /// Whether it is 0.
    fn is_zero(self) -> bool;
}

macro_rules! whole {
    ($($type:ident)*) => {
        $(impl Whole for $type {
            const QUOTIENT: Updating<$type> = updating!($type, $type::wrapping_div);
            const MOD: Updating<$type> = updating!($type, |a: $type, b: $type| {
                let rest = a.wrapping_rem(b);
                // Other signs than the divisor's differ from it in the highest bit.
                if rest != 0 && (rest ^ b) & (1 << ($type::BITS - 1)) != 0 && $type::MIN != 0 {
                    rest.wrapping_add(b)
                } else {
                    rest
                }
            });
            const REMAINDER: Updating<$type> = updating!($type, $type::wrapping_rem);
            const BITS_AND: Updating<$type> = updating!($type, |a: $type, b: $type| a & b);
            const BITS_OR: Updating<$type> = updating!($type, |a: $type, b: $type| a | b);
            const BITS_XOR: Updating<$type> = updating!($type, |a: $type, b: $type| a ^ b);

            fn is_zero(self) -> bool {
                self == 0
            }
        })*
    };
}
whole!(i64 i32 i8 u8);

/// `a · 2ᵇ`, cut to the type.
pub const SHIFT_LEFT: Updating<u8> =
    updating!(u8, |a: u8, b: u8| if b < 8 { a << (b & 7) } else { 0 });

/// `a / 2ᵇ`, rounded down.
pub const SHIFT_RIGHT: Updating<u8> =
    updating!(u8, |a: u8, b: u8| if b < 8 { a >> (b & 7) } else { 0 });

/// Remainder with the sign of the divisor.
pub const MOD: Updating<f32> = updating!(f32, |a: f32, b: f32| {
    let rest = a % b;
    if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
});

/// Remainder with the sign of the dividend.
pub const REMAINDER: Updating<f32> = updating!(f32, |a: f32, b: f32| a % b);

/// `a / b`
pub const DIV: Updating<f32> = updating!(f32, |a: f32, b: f32| a / b);

/// `aᵇ`
pub const POW: Updating<f32> =
    updating!(f32, |a: f32, b: f32| if b == 2.0 { a * a } else { a.powf(b) });

/// `a` where that is not below 0, `a · b` elsewhere.
pub const PRELU: Updating<f32> = updating!(f32, |a: f32, b: f32| if a < 0.0 { a * b } else { a });

/// Bits set in both; of 0 and 1, whether both hold.
pub const AND: Updating<u8> = updating!(u8, |a: u8, b: u8| a & b);

/// Bits set in at least one; of 0 and 1, whether one holds.
pub const OR: Updating<u8> = updating!(u8, |a: u8, b: u8| a | b);

/// Bits set in exactly one; of 0 and 1, whether they differ.
pub const XOR: Updating<u8> = updating!(u8, |a: u8, b: u8| a ^ b);

/// `y = x`, repeated to the result's shape.
///
/// # Panics
/// When a slice has other elements than its shape.
pub fn expand<T: Copy + Send + Sync>(broadcast: &Broadcast<1>, x: &[T], y: &mut [T]) {
    broadcast.check([x.len()], y.len());
    if y.is_empty() {
        return;
    }
    let [moves] = broadcast.moves();
    for_each_piece(y, LINE, |start, y| {
        broadcast.for_each_run(start, y.len(), |done, len, [at]| {
            let y = &mut y[done..][..len];
            if moves { y.copy_from_slice(&x[at..][..len]) } else { y.fill(x[at]) }
        });
    });
}

type Choose<T> = fn(Cpu, &Broadcast<3>, usize, &[u8], [&[T]; 2], &mut [T]);

/// Elements of a size, whatever they stand for.
pub trait Bits: Copy + Send + Sync + 'static {
    /// Chooses for the elements from a place of the result on; see [`select`].
    #[doc(hidden)]
    const CHOOSE: Choose<Self>;
}

macro_rules! bits {
    ($($type:ident)*) => {
        $(impl Bits for $type {
            const CHOOSE: Choose<Self> = {
                tiered! {
                    fn piece(
                        walk: &Broadcast<3>,
                        start: usize,
                        condition: &[u8],
                        sides: [&[$type]; 2],
                        y: &mut [$type],
                    ) {
                        choose(walk, start, condition, sides, y);
                    }
                }
                piece
            };
        })*
    };
}
bits!(u8 u16 u32 u64);

/// See [`select`], from element `start` of the result on.
#[allow(clippy::inline_always, reason = "it must be compiled again inside each tier")]
#[inline(always)]
fn choose<T: Copy>(
    broadcast: &Broadcast<3>,
    start: usize,
    condition: &[u8],
    [a, b]: [&[T]; 2],
    y: &mut [T],
) {
    let [holds_moves, a_moves, b_moves] = broadcast.moves();
    broadcast.for_each_run(start, y.len(), |done, len, [h, i, j]| {
        let y = &mut y[done..][..len];
        if !holds_moves {
            let (side, at, moves) =
                if condition[h] != 0 { (a, i, a_moves) } else { (b, j, b_moves) };
            if moves {
                y.copy_from_slice(&side[at..][..len])
            } else {
                y.fill(side[at])
            }
            return;
        }
        let rows = y.iter_mut().zip(&condition[h..][..len]);
        // Loops of their own, so that the compiler sees which side does not move.
        match (a_moves, b_moves) {
            (false, false) => {
                let (a, b) = (a[i], b[j]);
                rows.for_each(|(y, &holds)| *y = if holds != 0 { a } else { b });
            }
            (false, true) => {
                let a = a[i];
                let rows = rows.zip(&b[j..][..len]);
                rows.for_each(|((y, &holds), &b)| *y = if holds != 0 { a } else { b });
            }
            (true, false) => {
                let b = b[j];
                let rows = rows.zip(&a[i..][..len]);
                rows.for_each(|((y, &holds), &a)| *y = if holds != 0 { a } else { b });
            }
            (true, true) => {
                let rows = rows.zip(a[i..][..len].iter().zip(&b[j..][..len]));
                rows.for_each(|((y, &holds), (&a, &b))| *y = if holds != 0 { a } else { b });
            }
        }
    });
}

/// `y = a` where `condition` is not 0, and `b` elsewhere; the sides are condition, a and b.
///
/// # Panics
/// When a slice has other elements than its shape.
pub fn select<T: Bits>(
    cpu: Cpu,
    broadcast: &Broadcast<3>,
    condition: &[u8],
    sides: [&[T]; 2],
    y: &mut [T],
) {
    broadcast.check([condition.len(), sides[0].len(), sides[1].len()], y.len());
    if !y.is_empty() {
        for_each_piece(y, LINE, |start, y| {
            (T::CHOOSE)(cpu, broadcast, start, condition, sides, y);
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A result's shape, and for each side which dimensions it has as they are.
    fn shapes() -> impl Strategy<Value = (Vec<usize>, [Vec<usize>; 3])> {
        let axis = (0usize..6, any::<[bool; 3]>());
        (prop::collection::vec(axis, 0..5), any::<[u8; 3]>()).prop_map(|(axes, cut)| {
            let shape = axes.iter().map(|(size, _)| *size).collect::<Vec<_>>();
            let sides = [0, 1, 2].map(|side| {
                let own = axes.iter().map(|(size, has)| if has[side] { *size } else { 1 });
                let own: Vec<usize> = own.collect();
                // Leading ones may be left out.
                let ones = own.iter().take_while(|&&size| size == 1).count();
                own[usize::from(cut[side]).min(ones)..].to_vec()
            });
            (shape, sides)
        })
    }

    /// Where an element of the result finds that of a side.
    fn place(index: usize, shape: &[usize], side: &[usize]) -> usize {
        let (mut rest, mut at, mut stride) = (index, 0, 1);
        for (back, &size) in shape.iter().rev().enumerate() {
            let position = rest % size;
            rest /= size;
            if let Some(own) = side.len().checked_sub(back + 1).map(|axis| side[axis]) {
                at += if own == 1 { 0 } else { position * stride };
                stride *= own;
            }
        }
        at
    }

    fn numbers(shape: &[usize], first: i32) -> Vec<f32> {
        let len = shape.iter().product::<usize>() as i32;
        (first..first + len).map(|x| x as f32 - 7.5).collect()
    }

    proptest! {
        #[test]
        fn every_element_meets_its_partners((shape, sides) in shapes()) {
            let [a, b, c] = sides.each_ref().map(|side| numbers(side, side.len() as i32));
            let holds: Vec<u8> = c.iter().map(|&x| (x as i32 % 2) as u8).collect();
            let len: usize = shape.iter().product();
            let [x, y, z] = sides.each_ref().map(|side| {
                (0..len).map(|index| place(index, &shape, side)).collect::<Vec<usize>>()
            });
            let expected = |of: &dyn Fn(usize) -> f32| (0..len).map(of).collect::<Vec<f32>>();
            let [left, right, _] = sides.each_ref().map(|side| &side[..]);
            for cpu in Cpu::every() {
                let mut found = vec![f32::NAN; len];
                f32::SUB.apart.run(cpu, &Broadcast::new(&shape, [left, right]), [&a, &b], &mut found);
                prop_assert_eq!(&found, &expected(&|i| a[x[i]] - b[y[i]]));
                let mut found = vec![9; len];
                f32::LESS.run(cpu, &Broadcast::new(&shape, [left, right]), [&a, &b], &mut found);
                let found: Vec<f32> = found.into_iter().map(f32::from).collect();
                prop_assert_eq!(&found, &expected(&|i| f32::from(u8::from(a[x[i]] < b[y[i]]))));
                for over in [0, 1] {
                    let mut found = numbers(&shape, 3);
                    let before = found.clone();
                    f32::SUB.run(cpu, &Broadcast::new(&shape, [left]), over, &a, &mut found);
                    let sign = if over == 0 { 1.0 } else { -1.0 };
                    prop_assert_eq!(&found, &expected(&|i| (before[i] - a[x[i]]) * sign));
                }
                let mut found = vec![0u32; len];
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<u32>>();
                let walk = Broadcast::new(&shape, [&sides[2], left, right]);
                select(cpu, &walk, &holds, [&bits(&a), &bits(&b)], &mut found);
                let chosen = expected(&|i| if holds[z[i]] != 0 { a[x[i]] } else { b[y[i]] });
                prop_assert_eq!(found, bits(&chosen));
            }
            let mut found = vec![f32::NAN; len];
            expand(&Broadcast::new(&shape, [left]), &a, &mut found);
            prop_assert_eq!(&found, &expected(&|i| a[x[i]]));
        }
    }

    #[test]
    fn pieces_start_in_the_middle_of_a_run() {
        let (rows, columns) = (3, crate::PARALLEL_ELEMENTS - 5);
        let (a, b) = (numbers(&[rows, 1], 0), numbers(&[columns], 0));
        let mut y = vec![0.0; rows * columns];
        let broadcast = Broadcast::new(&[rows, columns], [&[rows, 1], &[columns]]);
        f32::MUL.apart.run(Cpu::best(), &broadcast, [&a, &b], &mut y);
        for (index, y) in y.into_iter().enumerate() {
            assert_eq!(y, a[index / columns] * b[index % columns]);
        }
    }

    #[test]
    fn integers_wrap_and_truth_values_combine() {
        let broadcast = Broadcast::new(&[2], [&[2], &[1]]);
        let mut y = [0; 2];
        i32::ADD.apart.run(Cpu::best(), &broadcast, [&[i32::MAX, 1], &[1]], &mut y);
        assert_eq!(y, [i32::MIN, 2]);
        let mut y = [0, 1];
        AND.run(Cpu::best(), &Broadcast::new(&[2], [&[]]), 0, &[1], &mut y);
        assert_eq!(y, [0, 1]);
    }

    #[test]
    #[should_panic(expected = "does not broadcast")]
    fn other_sizes_are_refused() {
        let _ = Broadcast::new(&[2, 3], [&[2]]);
    }
}
