//! What a product fetches while it multiplies: the weights that come next, which the caches of a core may
//! not hold.

use std::ops::Range;

/// Tiles of rows that share the fetching. One alone would ask for weights faster than memory gives them.
const TURNS: usize = 4;

/// Fetching of the panels that come behind those that are multiplied.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ahead {
    lines: usize,
    turn: usize,
    turns: usize,
}

impl Ahead {
    /// Nothing.
    pub(crate) const NOTHING: Self = Self { lines: 0, turn: 0, turns: 0 };

    /// What tile `index` of `tiles` fetches: a share of what comes `lines` behind what it multiplies, as
    /// long as there are shares.
    pub(crate) fn of_tile(lines: usize, index: usize, tiles: usize) -> Self {
        let turns = tiles.min(TURNS);
        if index < turns { Self { lines, turn: index, turns } } else { Self::NOTHING }
    }

    /// Lines from one that is multiplied to the one that is fetched meanwhile.
    pub(crate) const fn lines(self) -> usize {
        self.lines
    }

    /// Of so many panels those whose followers are fetched; none where nothing is.
    pub(crate) fn panels(self, count: usize) -> Range<usize> {
        let edge = |turn: usize| (turn * count).checked_div(self.turns).unwrap_or(0);
        edge(self.turn)..edge(self.turn + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_fetch_each_panel_once() {
        for (tiles, panels) in [(1, 4), (2, 4), (3, 4), (9, 4), (2, 1), (5, 2), (1, 0)] {
            let fetched: Vec<usize> =
                (0..tiles).flat_map(|tile| Ahead::of_tile(8, tile, tiles).panels(panels)).collect();
            assert_eq!(fetched, Vec::from_iter(0..panels), "{tiles} tiles of {panels} panels");
        }
        assert!(Ahead::NOTHING.panels(4).is_empty());
    }
}
