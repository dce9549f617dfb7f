//! The left operand as the tiers read it: tiles of a few rows, in each tile groups of four inputs,
//! in each group the rows one after another. The kernels then read it from front to back.

use std::cell::Cell;
use std::ops::Range;

use super::pack::GROUP;
use super::quantize::{Quantization, quantize_piece};
use crate::parallel::check_len;
use crate::scratch::{Kept, lend};
use crate::tier::Cpu;

/// Elements that are rounded at a time before they are rearranged; a multiple of [`GROUP`].
const PIECE: usize = 768;

/// What a layer reads, `[rows, k]`, row-major.
#[derive(Clone, Copy, Debug)]
pub enum Input<'a> {
    /// Integers.
    Int8 {
        /// The elements.
        x: &'a [i8],
        /// The integer that stands for 0.
        zero_point: i8,
    },
    /// Numbers that are rounded on the way in, as [`super::quantize()`] would.
    F32 {
        /// The elements.
        x: &'a [f32],
        /// How they are written as int8.
        to: Quantization,
    },
}

impl Input<'_> {
    /// The integer that stands for 0.
    #[must_use]
    pub const fn zero_point(&self) -> i8 {
        match self {
            Self::Int8 { zero_point, .. } => *zero_point,
            Self::F32 { to, .. } => to.zero_point,
        }
    }

    #[track_caller]
    pub(super) fn check(&self, elements: usize) {
        let found = match self {
            Self::Int8 { x, .. } => x.len(),
            Self::F32 { x, .. } => x.len(),
        };
        check_len("int8 linear: x", found, elements);
    }

    /// Packs the tile of these rows of length `k` into groups of four: `groups·rows` of them.
    pub(super) fn pack<T: Unit>(
        &self,
        cpu: Cpu,
        rows: Range<usize>,
        k: usize,
        packed: &mut [[T; GROUP]],
    ) {
        if k == 0 {
            return;
        }
        let n_rows = rows.len();
        let (x, to) = match self {
            Self::Int8 { x, .. } => {
                for (offset, row) in rows.enumerate() {
                    interleave(&x[row * k..(row + 1) * k], n_rows, &mut packed[offset..]);
                }
                return;
            }
            Self::F32 { x, to } => (&x[rows.start * k..rows.end * k], *to),
        };
        let mut rounded = [0; PIECE];
        if x.len() <= PIECE {
            // All rows at once: a call for each costs as much as it does on short ones.
            let rounded = &mut rounded[..x.len()];
            quantize_piece(cpu, x, to, rounded);
            for (offset, row) in rounded.chunks_exact(k).enumerate() {
                interleave(row, n_rows, &mut packed[offset..]);
            }
            return;
        }
        for (offset, row) in x.chunks_exact(k).enumerate() {
            for (piece, x) in row.chunks(PIECE).enumerate() {
                let rounded = &mut rounded[..x.len()];
                quantize_piece(cpu, x, to, rounded);
                interleave(rounded, n_rows, &mut packed[piece * PIECE / GROUP * n_rows + offset..]);
            }
        }
    }
}

/// Writes each group of four to every `step`-th place; zeros past the end of the row.
fn interleave<T: Unit>(row: &[i8], step: usize, packed: &mut [[T; GROUP]]) {
    let (groups, tail) = row.as_chunks::<GROUP>();
    let mut places = packed.iter_mut().step_by(step);
    for (group, place) in groups.iter().zip(places.by_ref()) {
        *place = group.map(T::of);
    }
    if let Some(place) = places.next().filter(|_| !tail.is_empty()) {
        let mut group = [0; GROUP];
        group[..tail.len()].copy_from_slice(tail);
        *place = group.map(T::of);
    }
}

/// An element of the left operand as a tier multiplies it.
pub(super) trait Unit: Copy + Default + Send + Sync + 'static {
    fn of(x: i8) -> Self;

    /// This thread's memory for packed operands.
    fn scratch() -> &'static Kept<[Self; GROUP]>;
}

/// For products of 16-bit numbers.
impl Unit for i16 {
    fn of(x: i8) -> Self {
        Self::from(x)
    }

    fn scratch() -> &'static Kept<[Self; GROUP]> {
        thread_local! {
            static SCRATCH: Cell<Vec<[i16; GROUP]>> = const { Cell::new(Vec::new()) };
        }
        &SCRATCH
    }
}

/// `x + 128`, for a dot product that wants its left side unsigned.
impl Unit for u8 {
    fn of(x: i8) -> Self {
        x.cast_unsigned() ^ 0x80
    }

    fn scratch() -> &'static Kept<[Self; GROUP]> {
        thread_local! {
            static SCRATCH: Cell<Vec<[u8; GROUP]>> = const { Cell::new(Vec::new()) };
        }
        &SCRATCH
    }
}

/// Lends `groups` groups of unspecified content that this thread keeps from call to call.
pub(super) fn with_scratch<T: Unit, R>(
    groups: usize,
    run: impl FnOnce(&mut [[T; GROUP]]) -> R,
) -> R {
    lend(T::scratch(), groups, run)
}
