//! The one layout of packed weights that all tiers read.

use std::ops::Range;

/// Columns of a panel: one 512-bit register.
pub(crate) const PANEL: usize = 16;

/// One row of a panel. A cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[repr(C, align(64))]
pub(crate) struct Line(pub(crate) [f32; PANEL]);

/// Inputs of a part at most. The rows of a block are read again for each few panels, and with more
/// inputs they would come from beyond the caches of a core each time.
pub(crate) const DEPTH: usize = 1536;

/// Panels that are multiplied together, one after another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Panels<'a> {
    pub(super) lines: &'a [Line],
    /// Lines from one that is multiplied to the one that is fetched meanwhile.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        allow(dead_code, reason = "others leave it to the CPU")
    )]
    pub(super) ahead: usize,
}

impl<'a> Panels<'a> {
    pub(crate) const fn new(lines: &'a [Line]) -> Self {
        Self { lines, ahead: 0 }
    }

    /// The same, for a product that fetches the panels that come next, as many as these, where the
    /// caches of a core do not hold them.
    pub(super) const fn fetching_next(lines: &'a [Line]) -> Self {
        Self { lines, ahead: lines.len() }
    }
}

/// `f32` weights `[k, n]`, a part of the inputs after another, each in panels of 16 columns, zeros
/// where `n` ends inside one.
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
        let panels = n.div_ceil(PANEL);
        let mut lines = vec![Line::default(); k * panels];
        for part in parts(k) {
            let lines = &mut lines[part.start * panels..part.end * panels];
            for col in 0..n {
                let panel = &mut lines[col / PANEL * part.len()..][..part.len()];
                for (row, line) in part.clone().zip(panel) {
                    line.0[col % PANEL] = w[row * strides[0] + col * strides[1]];
                }
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

    /// The parts of the inputs, in order; one without inputs where there are none.
    pub(crate) fn parts(&self) -> impl Iterator<Item = Range<usize>> {
        parts(self.k)
    }

    /// The lines of some panels in a part of the inputs, one panel after another.
    pub(crate) fn tile(&self, part: &Range<usize>, panels: Range<usize>) -> &[Line] {
        let first = part.start * self.panels();
        &self.lines[first + panels.start * part.len()..first + panels.end * part.len()]
    }
}

/// Parts of `k` inputs, as long as one another but for rounding.
fn parts(k: usize) -> impl Iterator<Item = Range<usize>> {
    let count = k.div_ceil(DEPTH).max(1);
    (0..count).map(move |part| k * part / count..k * (part + 1) / count)
}
