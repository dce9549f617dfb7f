#![allow(unsafe_code, reason = "lines are seen as their elements")]
//! The one layout of packed bf16 weights that all tiers read.

use super::round::round;

/// Columns of a panel.
pub(super) const PANEL: usize = 16;

/// Products that the tile instruction sums at once.
pub(super) const GROUP: usize = 2;

/// Rows are filled up with zeros to a multiple of this, the inner dimension of a tile.
pub(super) const TILE_INPUTS: usize = 32;

/// One group of a panel: for each of 16 columns, 2 consecutive weights. A cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(64))]
pub(super) struct Line(pub(super) [u16; PANEL * GROUP]);

impl Line {
    /// All elements of some lines.
    pub(super) fn elements(lines: &mut [Self]) -> &mut [u16] {
        let len = lines.len() * PANEL * GROUP;
        // SAFETY: a line is so many elements without padding.
        unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
    }
}

/// Weights `[k, n]`, rounded to bf16 and rearranged for the kernels: panels of 16 columns, in each
/// panel groups of 2 rows, zeros where `n` or `k` end inside a panel or a tile of 32 rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedBf16 {
    k: usize,
    n: usize,
    lines: Vec<Line>,
}

impl PackedBf16 {
    /// Packs `w`, whose element `(row, col)` is `w[row·strides[0] + col·strides[1]]`, rounding to
    /// the nearest bf16, halves to even.
    ///
    /// # Shapes
    /// `[k, n]`: `k` inputs, `n` outputs.
    ///
    /// # Panics
    /// When the last element lies outside `w`.
    #[must_use]
    pub fn new(w: &[f32], [k, n]: [usize; 2], strides: [usize; 2]) -> Self {
        let groups = panel_lines(k);
        let mut lines = vec![Line([0; PANEL * GROUP]); groups * n.div_ceil(PANEL)];
        for col in 0..n {
            let panel = &mut lines[col / PANEL * groups..][..groups];
            for row in 0..k {
                let value = round(w[row * strides[0] + col * strides[1]]);
                panel[row / GROUP].0[col % PANEL * GROUP + row % GROUP] = value;
            }
        }
        Self { k, n, lines }
    }

    /// Number of inputs.
    #[must_use]
    pub const fn inputs(&self) -> usize {
        self.k
    }

    /// Number of outputs.
    #[must_use]
    pub const fn outputs(&self) -> usize {
        self.n
    }

    /// Bytes held.
    #[must_use]
    pub const fn size_bytes(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    /// Panels of 16 columns.
    pub(super) const fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// Lines of a panel.
    pub(super) const fn panel_lines(&self) -> usize {
        panel_lines(self.k)
    }

    /// All lines, one panel after another.
    pub(super) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The lines of one panel, without those that are filled up.
    pub(super) fn panel(&self, panel: usize) -> &[Line] {
        &self.lines[panel * self.panel_lines()..][..self.k.div_ceil(GROUP)]
    }
}

const fn panel_lines(k: usize) -> usize {
    k.next_multiple_of(TILE_INPUTS) / GROUP
}
