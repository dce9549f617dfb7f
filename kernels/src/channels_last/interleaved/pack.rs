//! Filters as the products read them.

use std::array::from_fn;

use super::{BLOCK, LANES, REGISTERS, ROWS, parts};
use crate::parallel::check_shape;

/// Four bytes of each lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [i8; LANES * ROWS]);

impl Default for Line {
    fn default() -> Self {
        Self([0; LANES * ROWS])
    }
}

/// The place in a block of lane `lane` of register `register`, once bytes were interleaved.
pub(super) const fn place_of(register: usize, lane: usize) -> usize {
    lane / 4 * 16 + register * 4 + lane % 4
}

/// Filters for blocks of [`BLOCK`] channels, those of the last one in each part of a register.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Blocks {
    pub(super) channels: usize,
    pub(super) kernel: [usize; 2],
    /// `[blocks, kernel[1], kernel[0] in fours, REGISTERS]`
    pub(super) lines: Vec<Line>,
    /// The sums of the weights, `[blocks]`.
    pub(super) sums: Vec<[[i32; LANES]; REGISTERS]>,
}

impl Blocks {
    /// # Shapes
    /// `weights`: `[kernel[0], kernel[1], channels]`
    pub(in super::super) fn new(weights: &[i8], channels: usize, kernel: [usize; 2]) -> Self {
        check_shape("blocks: weights", weights.len(), &[kernel[0], kernel[1], channels]);
        let (mut lines, mut sums) = (Vec::new(), Vec::new());
        for first in (0..channels).step_by(BLOCK) {
            let count = BLOCK.min(channels - first);
            let part = BLOCK / parts(count);
            let mut sum = [[0; LANES]; REGISTERS];
            for (column, group) in (0..kernel[1])
                .flat_map(|column| (0..kernel[0].div_ceil(ROWS)).map(move |group| (column, group)))
            {
                for register in 0..REGISTERS {
                    let weight = |index: usize| {
                        let channel = place_of(register, index / ROWS) % part;
                        let row = group * ROWS + index % ROWS;
                        let is_there = row < kernel[0] && channel < count;
                        let place = (row * kernel[1] + column) * channels + first + channel;
                        if is_there { weights[place] } else { 0 }
                    };
                    let line: [i8; LANES * ROWS] = from_fn(weight);
                    for (sum, four) in sum[register].iter_mut().zip(line.as_chunks::<ROWS>().0) {
                        *sum += four.iter().map(|&weight| i32::from(weight)).sum::<i32>();
                    }
                    lines.push(Line(line));
                }
            }
            sums.push(sum);
        }
        Self { channels, kernel, lines, sums }
    }

    pub(in super::super) const fn size_bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
            + self.sums.len() * size_of::<[[i32; LANES]; REGISTERS]>()
    }

    /// Fours of rows.
    const fn groups(&self) -> usize {
        self.kernel[0].div_ceil(ROWS)
    }

    /// Lines of a block.
    pub(super) const fn block_len(&self) -> usize {
        self.kernel[1] * self.groups() * REGISTERS
    }
}
