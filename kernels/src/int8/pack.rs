//! The one layout of packed weights that all tiers read.

use super::ahead::Ahead;

/// Columns of a panel: the 32-bit sums of one 512-bit register.
pub(crate) const PANEL: usize = 16;

/// Products that the int8 dot product instruction sums at once.
pub(crate) const GROUP: usize = 4;

/// Lines of zeros behind the last panel. Tiles of 16 lines are multiplied whole: where k ends
/// inside one, it goes on into the next panel, whose weights meet the zeros that x ends in.
pub(crate) const SPARE_LINES: usize = 15;

/// One group of a panel: for each of 16 columns, 4 consecutive weights. A cache line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [i8; PANEL * GROUP]);

/// int8 weights `[k, n]`, rearranged for the kernels: panels of 16 columns, in each panel groups
/// of 4 rows, zeros where `n` or `k` end inside one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedWeights {
    k: usize,
    n: usize,
    groups: usize,
    lines: Vec<Line>,
    column_sums: Vec<i32>,
}

impl PackedWeights {
    /// Packs `w`, whose element `(row, col)` is `w[row·strides[0] + col·strides[1]]`.
    ///
    /// # Shapes
    /// `[k, n]`: `k` inputs, `n` outputs.
    ///
    /// # Panics
    /// When the last element lies outside `w`.
    #[must_use]
    pub fn new(w: &[i8], [k, n]: [usize; 2], strides: [usize; 2]) -> Self {
        let groups = k.div_ceil(GROUP);
        let panels = n.div_ceil(PANEL);
        let mut lines = vec![Line([0; PANEL * GROUP]); groups * panels + SPARE_LINES];
        let mut column_sums = vec![0; panels * PANEL];
        for col in 0..n {
            let panel = &mut lines[col / PANEL * groups..][..groups];
            for row in 0..k {
                let value = w[row * strides[0] + col * strides[1]];
                panel[row / GROUP].0[col % PANEL * GROUP + row % GROUP] = value;
                column_sums[col] += i32::from(value);
            }
        }
        Self { k, n, groups, lines, column_sums }
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
        self.lines.len() * size_of::<Line>() + self.column_sums.len() * size_of::<i32>()
    }

    /// Groups of four inputs.
    pub(crate) const fn groups(&self) -> usize {
        self.groups
    }

    /// Panels of 16 columns.
    pub(crate) const fn panels(&self) -> usize {
        self.column_sums.len() / PANEL
    }

    /// All lines, and [`SPARE_LINES`] more.
    #[cfg(target_arch = "x86_64")]
    pub(crate) fn lines_for_tiles(&self) -> &[Line] {
        &self.lines
    }

    /// The lines of `count` panels from `first`, one panel after another, and their column sums.
    pub(crate) fn tile(&self, first: usize, count: usize) -> Columns<'_> {
        Columns {
            groups: self.groups,
            lines: &self.lines[first * self.groups..(first + count) * self.groups],
            sums: &self.column_sums[first * PANEL..(first + count) * PANEL],
            ahead: Ahead::NOTHING,
        }
    }
}

/// Neighbouring panels of packed weights.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Columns<'a> {
    /// Lines of each panel.
    pub(crate) groups: usize,
    /// All lines.
    pub(crate) lines: &'a [Line],
    /// Σ over the rows, for each column.
    pub(crate) sums: &'a [i32],
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "others leave it to the CPU")
    )]
    pub(crate) ahead: Ahead,
}

impl Columns<'_> {
    /// The same, for tile `index` of `tiles` of a product that fetches as many panels as these, which come
    /// next.
    #[cfg(target_arch = "x86_64")]
    pub(crate) const fn fetching_next(self, index: usize, tiles: usize) -> Self {
        let ahead = Ahead::of_tile((self.lines.len(), self.panels()), index, tiles);
        Self { ahead, ..self }
    }

    /// Number of panels.
    pub(crate) const fn panels(&self) -> usize {
        self.sums.len() / PANEL
    }
}
