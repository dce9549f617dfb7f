#![allow(unsafe_code, reason = "threads fill disjoint ranges of one slice")]
//! Images read at places that are given as numbers.

use crate::parallel::{self, CHUNK, Shared, check_shape};

/// How an element is made from those around its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interpolation {
    /// Linearly from the two around it, by axis.
    Linear,
    /// The nearest; of two the one at an even place.
    Nearest,
}

/// What places outside an image count as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outside {
    /// Zeros.
    Zeros,
    /// The nearest element at the edge.
    Border,
    /// What the edges mirror.
    Reflection,
}

/// How [`grid_sample`] reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GridSampling {
    /// How an element is made.
    pub interpolation: Interpolation,
    /// What places outside count as.
    pub outside: Outside,
    /// Whether −1 and 1 are the middles of an axis's outer elements, rather than their edges.
    pub align_corners: bool,
}

/// Entries that an element is made of, and no entry.
const TAPS: usize = 4;
pub(crate) const NONE: usize = usize::MAX;

/// Four entries of an image with their weights.
#[derive(Clone, Copy)]
pub(crate) struct Corners {
    entries: [usize; TAPS],
    weights: [f32; TAPS],
    /// Whether both rows have two neighbours.
    is_square: bool,
}

impl Corners {
    /// No entries.
    pub(crate) const OUTSIDE: Self =
        Self { entries: [NONE; TAPS], weights: [0.0; TAPS], is_square: false };

    /// Those of two rows and two columns of an image, or [`NONE`], with weights.
    #[inline]
    pub(crate) fn new(rows: [(usize, f32); 2], columns: [(usize, f32); 2], width: usize) -> Self {
        let taps: [_; TAPS] = std::array::from_fn(|tap| (rows[tap / 2], columns[tap % 2]));
        let is_pair = |[(a, _), (b, _)]: [(usize, f32); 2]| a != NONE && b == a + 1;
        Self {
            entries: taps.map(|((row, _), (column, _))| {
                if row != NONE && column != NONE { row * width + column } else { NONE }
            }),
            weights: taps.map(|((_, by_row), (_, by_column))| by_row * by_column),
            is_square: is_pair(rows) && is_pair(columns),
        }
    }

    /// Their weighted sum; those that an image has not are 0.
    #[inline]
    pub(crate) fn read(&self, x: &[f32]) -> f32 {
        let [first, second, third, fourth] = self.weights;
        if self.is_square {
            let (above, below) = (&x[self.entries[0]..][..2], &x[self.entries[2]..][..2]);
            return above[0] * first + above[1] * second + below[0] * third + below[1] * fourth;
        }
        let taps = self.entries.iter().zip(self.weights);
        taps.map(|(&entry, weight)| x.get(entry).map_or(0.0, |x| x * weight)).sum()
    }
}

/// Elements whose entries are found at once.
const AT_ONCE: usize = 128;

/// `place` mirrored at the ends until it lies between them.
fn reflected(place: f64, low: f64, high: f64) -> f64 {
    if place.is_nan() || (low..=high).contains(&place) {
        return place;
    }
    let length = high - low;
    if length <= 0.0 {
        return low;
    }
    let beyond = if place < low { low - place } else { place - high };
    let (turns, rest) = ((beyond / length).floor(), beyond % length);
    // The first turn leaves from the end that the place lies beyond.
    if (place < low) == (turns % 2.0 == 0.0) { low + rest } else { high - rest }
}

impl GridSampling {
    /// The two entries of an axis that a place from −1 to 1 is made of, and their weights.
    #[inline]
    fn taps(&self, place: f32, size: usize) -> [(usize, f32); 2] {
        let length = size as f32;
        let mut place = if self.align_corners {
            (place + 1.0) / 2.0 * (length - 1.0)
        } else {
            ((place + 1.0) * length - 1.0) / 2.0
        };
        if self.interpolation == Interpolation::Nearest {
            place = place.round_ties_even();
        }
        let (margin, last) = (if self.align_corners { 0.0 } else { 0.5 }, length - 1.0);
        if place < -margin || place > last + margin {
            place = match self.outside {
                Outside::Zeros => place,
                Outside::Border => place.clamp(0.0, last),
                Outside::Reflection => self.mirrored(place, last),
            };
        }
        let first = place.floor();
        let entry = self.entry(first, last);
        match self.interpolation {
            Interpolation::Linear => {
                let within = place - first;
                [(entry, 1.0 - within), (self.entry(first + 1.0, last), within)]
            }
            // Whole, also where the place is no number.
            Interpolation::Nearest => [(entry, 1.0), (NONE, 0.0)],
        }
    }

    /// A place mirrored at the ends of an axis whose last entry this is.
    fn mirrored(&self, place: f32, last: f32) -> f32 {
        let margin = if self.align_corners { 0.0 } else { 0.5 };
        reflected(f64::from(place), -margin, f64::from(last) + margin) as f32
    }

    /// The entry at a whole place.
    #[inline]
    fn entry(&self, at: f32, last: f32) -> usize {
        match self.outside {
            _ if (0.0..=last).contains(&at) => at as usize,
            Outside::Zeros => NONE,
            Outside::Border => at.clamp(0.0, last) as usize,
            Outside::Reflection => self.mirrored(at, last).clamp(0.0, last) as usize,
        }
    }

    /// The entries of an image and their weights.
    #[inline]
    fn sources(&self, place: [f32; 2], [height, width]: [usize; 2]) -> Corners {
        let [rows, columns] = [self.taps(place[1], height), self.taps(place[0], width)];
        Corners::new(rows, columns, width)
    }
}

/// Elements of images at places: a column and a row each, −1 and 1 for the ends.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`; `grid`: `[images, places, 2]`; `y`:
/// `[images, channels, places]`
///
/// # Panics
/// When a length differs, or there are places but no elements.
pub fn grid_sample(
    sampling: &GridSampling,
    x: &[f32],
    [images, channels, height, width]: [usize; 4],
    grid: &[f32],
    y: &mut [f32],
) {
    check_shape("grid_sample: x", x.len(), &[images, channels, height, width]);
    let places = grid.len() / (2 * images).max(1);
    check_shape("grid_sample: grid", grid.len(), &[images, places, 2]);
    check_shape("grid_sample: y", y.len(), &[images, channels, places]);
    if y.is_empty() {
        return;
    }
    let image = height * width;
    assert!(image > 0, "grid_sample: expected elements to read");
    let (pixels, (grid, _)) = (x, grid.as_chunks::<2>());
    let pieces = places.div_ceil(AT_ONCE);
    let run = |index: usize, result: Shared<f32>| {
        let (at, start) = (index / pieces, index % pieces * AT_ONCE);
        let count = AT_ONCE.min(places - start);
        let mut sources = [Corners::OUTSIDE; AT_ONCE];
        let sources = &mut sources[..count];
        for (sources, &place) in sources.iter_mut().zip(&grid[at * places + start..]) {
            *sources = sampling.sources(place, [height, width]);
        }
        for channel in at * channels..(at + 1) * channels {
            let x = &pixels[channel * image..][..image];
            // SAFETY: the range lies in the row of its channel, whose length was checked above, and
            // every piece of a row belongs to one index.
            let y = unsafe { result.range(channel * places + start, count) };
            y.iter_mut().zip(&*sources).for_each(|(y, corners)| *y = corners.read(x));
        }
    };
    let is_small = y.len() < CHUNK / TAPS;
    let result = Shared::new(y);
    if is_small {
        (0..images * pieces).for_each(|index| run(index, result));
    } else {
        parallel::for_each(images * pieces, |index| run(index, result));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two rows of three columns.
    const IMAGE: [f32; 6] = [1.0, 2.0, 3.0, 5.0, 7.0, 11.0];

    #[track_caller]
    fn check(outside: Outside, place: [f32; 2], expected: f32) {
        let interpolation = Interpolation::Linear;
        let sampling = GridSampling { interpolation, outside, align_corners: true };
        let mut y = [0.0];
        grid_sample(&sampling, &IMAGE, [1, 1, 2, 3], &place, &mut y);
        assert!((y[0] - expected).abs() < 1e-5, "{place:?}: expected {expected}, found {y:?}");
    }

    #[test]
    fn places_inside_and_outside() {
        check(Outside::Zeros, [-1.0, -1.0], 1.0);
        check(Outside::Zeros, [0.5, -1.0], 2.5);
        check(Outside::Zeros, [0.0, 0.0], 4.5);
        check(Outside::Zeros, [1.5, -1.0], 1.5);
        check(Outside::Zeros, [3.0, -1.0], 0.0);
        check(Outside::Zeros, [f32::NAN, 0.0], 0.0);
        check(Outside::Border, [1.5, -1.0], 3.0);
        check(Outside::Border, [-9.0, 9.0], 5.0);
        check(Outside::Reflection, [1.5, -1.0], 2.5);
        check(Outside::Reflection, [3.0, -3.0], 5.0);
    }

    #[test]
    fn channels_and_images_are_read_alike() {
        let x: Vec<f32> = (0..2 * 3 * 20).map(|at| at as f32).collect();
        let grid: Vec<f32> = (0..2 * 300 * 2).map(|at| (at % 23) as f32 / 8.0 - 1.3).collect();
        let sampling = GridSampling {
            interpolation: Interpolation::Nearest,
            outside: Outside::Border,
            align_corners: false,
        };
        let mut all = vec![0.0; 2 * 3 * 300];
        grid_sample(&sampling, &x, [2, 3, 4, 5], &grid, &mut all);
        for (channel, (x, found)) in x.chunks(20).zip(all.chunks(300)).enumerate() {
            let mut alone = [0.0; 300];
            grid_sample(&sampling, x, [1, 1, 4, 5], &grid[channel / 3 * 600..][..600], &mut alone);
            assert_eq!(found, alone);
        }
    }
}
