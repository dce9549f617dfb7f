#![allow(unsafe_code, reason = "calls code for detected instruction sets")]
//! The left operand as the tiers read it: tiles of a few rows, in each tile groups of four inputs.

use std::cell::Cell;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
use super::avx2;
use super::pack::GROUP;
use super::quantize::{Quantization, quantize_piece};
use crate::float::Left;
use crate::parallel::check_len;
use crate::scratch::{Kept, lend};
#[cfg(target_arch = "x86_64")]
use crate::tier::Tier;
use crate::tier::{Cpu, tiered};

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
    #[track_caller]
    pub(super) fn check(&self, elements: usize) {
        let found = match self {
            Self::Int8 { x, .. } => x.len(),
            Self::F32 { x, .. } => x.len(),
        };
        check_len("int8 linear: x", found, elements);
    }
}

/// [`Input`], and what the crate itself multiplies.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source<'a> {
    Rows(Input<'a>),
    /// Windows of an image, whose padding has the zero point.
    Windows {
        x: Left<'a, i8>,
        zero_point: i8,
    },
}

impl Source<'_> {
    /// The integer that stands for 0.
    pub(super) const fn zero_point(&self) -> i8 {
        match self {
            Self::Rows(Input::Int8 { zero_point, .. }) | Self::Windows { zero_point, .. } => {
                *zero_point
            }
            Self::Rows(Input::F32 { to, .. }) => to.zero_point,
        }
    }

    /// Packs the tile of these rows of length `k` into groups of four: `groups·rows` of them, in the
    /// order that [`Unit::INTERLEAVES`] says.
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
        let groups = k.div_ceil(GROUP);
        // From group to group of a row, and from row to row.
        let (step, row_step) = if T::INTERLEAVES { (rows.len(), 1) } else { (1, groups) };
        match *self {
            // Rows that stay whole and fill their groups lie there as they do here.
            Self::Rows(Input::Int8 { x, .. }) if !T::INTERLEAVES && k.is_multiple_of(GROUP) => {
                write(cpu, &x[rows.start * k..rows.end * k], step, packed);
            }
            Self::Rows(Input::Int8 { x, .. }) => {
                for (offset, row) in rows.enumerate() {
                    let packed = &mut packed[offset * row_step..];
                    write(cpu, &x[row * k..(row + 1) * k], step, packed);
                }
            }
            Self::Rows(Input::F32 { x, to }) => {
                let x = &x[rows.start * k..rows.end * k];
                pack_rounded(cpu, (x, to), k, [step, row_step], packed);
            }
            Self::Windows { x, .. } => pack_windows(cpu, x, rows, [step, row_step], packed),
        }
    }
}

/// Packs numbers that are rounded on the way.
fn pack_rounded<T: Unit>(
    cpu: Cpu,
    (x, to): (&[f32], Quantization),
    k: usize,
    [step, row_step]: [usize; 2],
    packed: &mut [[T; GROUP]],
) {
    let mut rounded = [0; PIECE];
    if x.len() <= PIECE {
        // All rows at once: a call for each costs as much as it does on short ones.
        let rounded = &mut rounded[..x.len()];
        quantize_piece(cpu, x, to, rounded);
        for (offset, row) in rounded.chunks_exact(k).enumerate() {
            write(cpu, row, step, &mut packed[offset * row_step..]);
        }
        return;
    }
    for (offset, row) in x.chunks_exact(k).enumerate() {
        for (piece, x) in row.chunks(PIECE).enumerate() {
            let rounded = &mut rounded[..x.len()];
            quantize_piece(cpu, x, to, rounded);
            let start = piece * PIECE / GROUP * step + offset * row_step;
            write(cpu, rounded, step, &mut packed[start..]);
        }
    }
}

/// Packs rows whose pieces lie apart.
fn pack_windows<T: Unit>(
    cpu: Cpu,
    x: Left<'_, i8>,
    rows: Range<usize>,
    [step, row_step]: [usize; 2],
    packed: &mut [[T; GROUP]],
) {
    thread_local! {
        static ROW: Cell<Vec<i8>> = const { Cell::new(Vec::new()) };
    }
    let starts = x.starts_of(rows.clone()).enumerate();
    if x.segment_len().is_multiple_of(GROUP) || x.segment_len() >= x.k() {
        for (offset, start) in starts {
            for (index, piece) in x.pieces(start) {
                write(cpu, piece, step, &mut packed[offset * row_step + index / GROUP * step..]);
            }
        }
        return;
    }
    // Groups reach from one piece into the next.
    if T::INTERLEAVES {
        lend(&ROW, x.k() + LONG, |row| {
            for (offset, start) in starts {
                copy_row(x, start, row, |x| x);
                write(cpu, &row[..x.k()], step, &mut packed[offset * row_step..]);
            }
        });
        return;
    }
    let (packed, row_len) = (packed.as_flattened_mut(), row_step * GROUP);
    let are_short = x.segment_len() <= SHORT;
    let written = if are_short { pack_short(x, rows, row_len, packed) } else { 0 };
    for (offset, start) in starts.skip(written) {
        // What is written past the end of a row is where the next one goes.
        let packed = &mut packed[offset * row_len..];
        copy_row(x, start, packed, T::unit);
        packed[x.k()..row_len].fill(T::unit(0));
    }
}

/// Packs the first of these rows, which are a few short pieces each, and says how many: the last may have no
/// room for moves of a fixed size. Their ends, which meet zeros, hold anything.
fn pack_short<T: Unit>(
    x: Left<'_, i8>,
    rows: Range<usize>,
    row_len: usize,
    packed: &mut [T],
) -> usize {
    const MOST_PIECES: usize = 8;
    let len = x.segment_len();
    let (data, of_pieces) = x.segment_starts();
    let mut pieces = [0; MOST_PIECES];
    let mut count = 0;
    for piece in of_pieces {
        let Some(place) = pieces.get_mut(count) else { return 0 };
        *place = piece;
        count += 1;
    }
    let Some((last, _)) = pieces[..count].split_last() else { return 0 };
    let count_of_rows = rows.len();
    let (read, wrote) = (last + SHORT, (count - 1) * len + SHORT);
    for (offset, start) in x.starts_of(rows).enumerate() {
        let from = data.get(start..start + read);
        let to = packed.get_mut(offset * row_len..offset * row_len + wrote);
        let (Some(from), Some(to)) = (from, to) else { return offset };
        for (index, &piece) in pieces[..count].iter().enumerate() {
            let (Some(from), Some(to)) = (
                from[piece..].first_chunk::<SHORT>(),
                to[index * len..].first_chunk_mut::<SHORT>(),
            ) else {
                return offset;
            };
            *to = from.map(T::unit);
        }
    }
    count_of_rows
}

/// Elements that are moved at once of pieces of at most as many.
const SHORT: usize = 16;
const LONG: usize = 32;

/// Copies the row that starts there. Behind its end there may be written, too.
#[inline]
fn copy_row<T>(x: Left<'_, i8>, start: usize, to: &mut [T], unit: impl Fn(i8) -> T + Copy) {
    match x.segment_len() {
        ..=SHORT => x.copy_row::<SHORT, T>(start, to, unit),
        _ => x.copy_row::<LONG, T>(start, to, unit),
    }
}

/// Writes each group of four to every `step`-th place; zeros past the end of the row.
fn write<T: Unit>(cpu: Cpu, row: &[i8], step: usize, packed: &mut [[T; GROUP]]) {
    let (groups, tail) = row.as_chunks::<GROUP>();
    T::write(cpu, groups, step, packed);
    if !tail.is_empty() {
        let mut group = [0; GROUP];
        group[..tail.len()].copy_from_slice(tail);
        packed[groups.len() * step] = T::group(group);
    }
}

fn one_by_one<T: Unit>(groups: &[[i8; GROUP]], step: usize, packed: &mut [[T; GROUP]]) {
    for (&group, place) in groups.iter().zip(packed.iter_mut().step_by(step)) {
        *place = T::group(group);
    }
}

/// An element of the left operand as a tier multiplies it.
pub(super) trait Unit: Copy + Default + Send + Sync + 'static {
    /// Whether the rows of a tile follow each other in each group, so that the kernel reads from
    /// front to back, or each row stays whole.
    const INTERLEAVES: bool;

    /// An input.
    fn unit(x: i8) -> Self;

    /// Four inputs.
    fn group(x: [i8; GROUP]) -> [Self; GROUP] {
        x.map(Self::unit)
    }

    /// Writes whole groups to every `step`-th place.
    fn write(cpu: Cpu, groups: &[[i8; GROUP]], step: usize, packed: &mut [[Self; GROUP]]);

    /// This thread's memory for packed operands.
    fn scratch() -> &'static Kept<[Self; GROUP]>;
}

/// For products of 16-bit numbers.
impl Unit for i16 {
    const INTERLEAVES: bool = true;

    fn unit(x: i8) -> Self {
        Self::from(x)
    }

    fn write(cpu: Cpu, groups: &[[i8; GROUP]], step: usize, packed: &mut [[Self; GROUP]]) {
        let mut written = 0;
        #[cfg(target_arch = "x86_64")]
        if cpu.tier() >= Tier::Avx2 {
            // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX2.
            written = unsafe { avx2::interleave(groups, step, packed) };
        }
        let rest = packed.get_mut(written * step..).unwrap_or_default();
        one_by_one(&groups[written..], step, rest);
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
    const INTERLEAVES: bool = false;

    fn unit(x: i8) -> Self {
        x.cast_unsigned() ^ 0x80
    }

    fn group(x: [i8; GROUP]) -> [Self; GROUP] {
        (u32::from_ne_bytes(x.map(i8::cast_unsigned)) ^ 0x8080_8080).to_ne_bytes()
    }

    fn write(cpu: Cpu, groups: &[[i8; GROUP]], _: usize, packed: &mut [[Self; GROUP]]) {
        // Without steps, which a vector cannot take.
        unsigned(cpu, groups, packed);
    }

    fn scratch() -> &'static Kept<[Self; GROUP]> {
        thread_local! {
            static SCRATCH: Cell<Vec<[u8; GROUP]>> = const { Cell::new(Vec::new()) };
        }
        &SCRATCH
    }
}

tiered! {
    fn unsigned(groups: &[[i8; GROUP]], packed: &mut [[u8; GROUP]]) {
        for (&group, place) in groups.iter().zip(packed) {
            *place = u8::group(group);
        }
    }
}

/// Lends `groups` groups of unspecified content that this thread keeps from call to call.
pub(super) fn with_scratch<T: Unit, R>(
    groups: usize,
    run: impl FnOnce(&mut [[T; GROUP]]) -> R,
) -> R {
    lend(T::scratch(), groups, run)
}
