//! The one layout of packed weights that all tiers read.

/// Columns of a panel: one 512-bit register.
pub(crate) const PANEL: usize = 16;

/// One row of a panel. A cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [f32; PANEL]);

/// `f32` weights `[k, n]` in panels of 16 columns, zeros where `n` ends inside one.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedWeights {
    k: usize,
    n: usize,
    lines: Vec<Line>,
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
    pub fn new(w: &[f32], [k, n]: [usize; 2], strides: [usize; 2]) -> Self {
        let mut lines = vec![Line::default(); k * n.div_ceil(PANEL)];
        for col in 0..n {
            let panel = &mut lines[col / PANEL * k..][..k];
            for (row, line) in panel.iter_mut().enumerate() {
                line.0[col % PANEL] = w[row * strides[0] + col * strides[1]];
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
    pub(crate) const fn panels(&self) -> usize {
        self.n.div_ceil(PANEL)
    }

    /// The lines of `count` panels from `first`, one panel after another.
    pub(crate) fn tile(&self, first: usize, count: usize) -> &[Line] {
        &self.lines[first * self.k..(first + count) * self.k]
    }
}
