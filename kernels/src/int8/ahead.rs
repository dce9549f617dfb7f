//! What a product fetches while it multiplies: the weights that come next, which the caches of a core may
//! not hold.

use std::ops::Range;

/// Tiles of rows that share the fetching, a power of two. One alone would ask for weights faster than memory
/// gives them.
const MOST_TURNS: usize = 4;

/// Fetching of the panels that come behind those that are multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    lines: usize,
    first: usize,
    end: usize,
}

impl Ahead {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self { lines: 0, first: 0, end: 0 };

    /// What tile `index` of `tiles` fetches: a share of the panels that come `lines` behind the `panels` that it
    /// multiplies, as long as there are shares.
    pub(crate) const fn of_tile(
        (lines, panels): (usize, usize),
        index: usize,
        tiles: usize,
    ) -> Self {
        // Shifts: divisions would take as long as some products.
        let most = MOST_TURNS.ilog2();
        let turns = if tiles >= MOST_TURNS { most } else { tiles.ilog2() };
        if index >> turns > 0 {
            return Self::NOTHING;
        }
        Self { lines, first: (index * panels) >> turns, end: ((index + 1) * panels) >> turns }
    }

    /// Lines from one that is multiplied to the one that is fetched meanwhile.
    pub(crate) const fn lines(self) -> usize {
        self.lines
    }

    /// The panels whose followers are fetched.
    pub(crate) const fn panels(self) -> Range<usize> {
        self.first..self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fetch_each_panel_once() {
        for (tiles, panels) in [(1, 4), (2, 4), (3, 4), (9, 4), (2, 1), (5, 2), (1, 0)] {
            let of_tile = |tile| Ahead::of_tile((8, panels), tile, tiles).panels();
            let fetched: Vec<usize> = (0..tiles).flat_map(of_tile).collect();
            assert_eq!(fetched, Vec::from_iter(0..panels), "{tiles} tiles of {panels} panels");
        }
        assert!(Ahead::NOTHING.panels().is_empty());
    }
}
