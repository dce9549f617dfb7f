#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! Windows in single channels, in integers: the bytes of four rows are interleaved, so that one product of
//! four bytes with four weights sums a column of a window, for 16 channels. A column is interleaved once
//! for all windows that share it.

mod columns;
mod pack;
mod windows;

use std::cell::Cell;

pub(super) use self::pack::Blocks;
use self::pack::Line;
use super::integer_depthwise::BLOCK;
use crate::parallel::{check_len, check_shape};
use crate::scratch::lend;
use crate::tier::{Cpu, Tier};
use crate::wide::Rounding;
use crate::window::Slide;

/// Rows that are interleaved.
const ROWS: usize = 4;

/// Registers with the sums of a block.
const REGISTERS: usize = 4;

/// Their lanes.
const LANES: usize = 16;

/// Windows, in each part of a register, whose columns are interleaved at a time: these stay in the first
/// cache.
const MOST_WINDOWS: usize = 28;

/// Windows whose sums are in registers at once: each weight is loaded for all. Behind the last ones there is
/// room for as many.
const WINDOWS: usize = 4;

thread_local! {
    static COLUMNS: Cell<Vec<Line>> = const { Cell::new(Vec::new()) };
}

/// Where sums go.
pub(super) enum Results<'a> {
    /// Scaled, with the bias added, rounded: `[columns.output, channels]`.
    Rounded { y: &'a mut [i8], rounding: Rounding, scales: &'a [f32], bias: Option<&'a [f32]> },
    /// To what takes the place of the first in the row of the output, its channel, and sums of channels.
    Sums(&'a mut dyn FnMut(usize, usize, &[i32])),
}

/// A row of the output of an image.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub(super) windows: &'a [Slide; 2],
    /// `[rows.input, columns.input, channels]`
    pub(super) x: &'a [i8],
    pub(super) zero_point: i8,
    pub(super) row: usize,
}

impl Row<'_> {
    /// # Panics
    /// When a size differs, or the tier has no AVX-512.
    pub(super) fn fill(&self, cpu: Cpu, blocks: &Blocks, mut results: Results<'_>) {
        let [rows, columns] = self.windows;
        let Blocks { channels, kernel, .. } = *blocks;
        assert!(cpu.tier() >= Tier::Avx512, "expected AVX-512, found {cpu:?}");
        assert_eq!([rows.kernel, columns.kernel], kernel, "depthwise: kernel");
        check_shape("depthwise: x", self.x.len(), &[rows.input, columns.input, channels]);
        if let Results::Rounded { y, scales, bias, .. } = &results {
            check_shape("depthwise: y", y.len(), &[columns.output, channels]);
            check_len("depthwise: scales", scales.len(), channels);
            check_len("depthwise: bias", bias.map_or(channels, <[f32]>::len), channels);
        }
        // Columns that windows share are kept once.
        let shares = columns.dilation == 1 && columns.stride < columns.kernel;
        for first in (0..channels).step_by(BLOCK) {
            let count = BLOCK.min(channels - first);
            let lines = &blocks.lines[first / BLOCK * blocks.block_len()..][..blocks.block_len()];
            let sums = &blocks.sums[first / BLOCK];
            let block = Block { row: *self, channels, first, count, shares, lines, sums };
            // SAFETY: the tier has AVX-512, and its VNNI where that is said; the sizes were checked.
            unsafe {
                match parts(count) {
                    4 => block.run::<4>(cpu, &mut results),
                    2 => block.run::<2>(cpu, &mut results),
                    _ => block.run::<1>(cpu, &mut results),
                }
            }
        }
    }
}

/// Some channels of a row.
struct Block<'a> {
    row: Row<'a>,
    channels: usize,
    /// The first of them, and how many there are.
    first: usize,
    count: usize,
    /// Whether neighbouring windows find their columns in the same place.
    shares: bool,
    lines: &'a [Line],
    sums: &'a [[i32; LANES]; REGISTERS],
}

/// Windows from `first` on: in each part of a register so many.
#[derive(Clone, Copy)]
struct Run {
    first: usize,
    windows: usize,
}

impl Block<'_> {
    /// # Safety
    /// There is VNNI where the tier says so, and [`Row::fill`] checked the sizes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn run<const PARTS: usize>(&self, cpu: Cpu, results: &mut Results<'_>) {
        let output = self.row.windows[1].output;
        let most = output.div_ceil(PARTS).min(MOST_WINDOWS);
        lend(&COLUMNS, self.lines_for(most), |columns| {
            for first in (0..output).step_by(most * PARTS) {
                let windows = (output - first).div_ceil(PARTS).min(most);
                let run = Run { first, windows };
                // SAFETY: the caller's promise.
                unsafe {
                    self.interleave::<PARTS>(run, columns);
                    if cpu.tier() >= Tier::Vnni {
                        self.windows_vnni::<PARTS>(run, columns, results);
                    } else {
                        self.windows_avx512::<PARTS>(run, columns, results);
                    }
                }
            }
        });
    }

    /// Lines that so many windows read, and those that are multiplied with them.
    const fn lines_for(&self, windows: usize) -> usize {
        self.columns(windows.next_multiple_of(WINDOWS)) * self.groups() * REGISTERS
    }

    const fn groups(&self) -> usize {
        self.row.windows[0].kernel.div_ceil(ROWS)
    }

    /// Columns that so many neighbouring windows read.
    const fn columns(&self, windows: usize) -> usize {
        let kernel = self.row.windows[1].kernel;
        if self.shares { (windows - 1) * self.step() + kernel } else { windows * kernel }
    }

    /// From the columns of a window to those of the next.
    const fn step(&self) -> usize {
        let columns = &self.row.windows[1];
        if self.shares { columns.stride } else { columns.kernel }
    }
}

/// Parts of a register: a block of few channels leaves room for several windows.
const fn parts(count: usize) -> usize {
    match count {
        0..=16 => 4,
        17..=32 => 2,
        _ => 1,
    }
}

/// A mask of the first of 64 bytes.
const fn first_bytes(count: usize) -> u64 {
    if count < BLOCK { (1 << count) - 1 } else { u64::MAX }
}
