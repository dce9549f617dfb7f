//! Regions of images as means of a few places in each of their parts (He et al. 2017,
//! arXiv:1703.06870).

use crate::parallel::{CHUNK, check_shape, for_each_row};

/// How [`region_means`] looks at regions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RegionParts {
    /// Rows and columns of parts.
    pub parts: [usize; 2],
    /// Places in each direction of a part; `None` for one a pixel.
    pub samples: Option<usize>,
    /// Pixels of the image a unit of the regions.
    pub scale: f32,
    /// What is taken off every place, in pixels.
    pub offset: f32,
    /// The least length of a side, in pixels, where there is one.
    pub least: Option<f32>,
}

/// One axis of a region: where it begins, how long a part is, how many places of a part count.
#[derive(Clone, Copy)]
struct Side {
    start: f32,
    part: f32,
    samples: usize,
}

/// Four pixels with their weights, and the part that they are of.
#[derive(Clone, Copy)]
struct Corners {
    part: usize,
    pixels: [usize; 4],
    weights: [f32; 4],
}

/// Places that are found at once.
const AT_ONCE: usize = 64;

/// The two pixels around `place` in a row of `size`, and the weight of the second; `None` outside.
fn around(place: f32, size: usize) -> Option<(usize, usize, f32)> {
    if place < -1.0 || place > size as f32 {
        return None;
    }
    let place = if place <= 0.0 { 0.0 } else { place };
    let low = place as usize;
    Some(if low + 1 >= size {
        (size - 1, size - 1, 0.0)
    } else {
        (low, low + 1, place - low as f32)
    })
}

impl RegionParts {
    fn side(&self, low: f32, high: f32, parts: usize) -> Side {
        let (start, end) = (low * self.scale - self.offset, high * self.scale - self.offset);
        let length = end - start;
        let part = self.least.map_or(length, |least| length.max(least)) / parts as f32;
        Side { start, part, samples: self.samples.unwrap_or(part.ceil() as usize) }
    }

    /// Both sides of a region `[x, y, x, y]`, rows first.
    fn sides(&self, region: [f32; 4]) -> [Side; 2] {
        let [x, y, x_end, y_end] = region;
        [self.side(y, y_end, self.parts[0]), self.side(x, x_end, self.parts[1])]
    }

    /// Places that are looked at in a region.
    #[must_use]
    pub fn places(&self, region: [f32; 4]) -> usize {
        let counts = self.sides(region).map(|side| side.samples.max(1));
        counts.iter().chain(&self.parts).fold(1, |product, &count| product.saturating_mul(count))
    }
}

impl Side {
    /// The place of sample `index` of part `part`.
    fn place(&self, part: usize, index: usize) -> f32 {
        let within = (index as f32 + 0.5) * self.part / self.samples as f32;
        self.start + part as f32 * self.part + within
    }
}

/// The mean of the places in each part of each region, of every channel; places outside count as 0.
///
/// # Shapes
/// `x`: `[images, channels, height, width]`; `regions`: `[regions]` of `[x, y, x, y]`; `of`:
/// `[regions]`, the image of each; `y`: `[regions, channels, parts[0], parts[1]]`
///
/// # Panics
/// When a length differs, or an image is not there.
pub fn region_means(
    how: &RegionParts,
    x: &[f32],
    [images, channels, height, width]: [usize; 4],
    regions: &[[f32; 4]],
    of: impl Fn(usize) -> usize + Sync,
    y: &mut [f32],
) {
    check_shape("region_means: x", x.len(), &[images, channels, height, width]);
    let [rows, columns] = how.parts;
    check_shape("region_means: y", y.len(), &[regions.len(), channels, rows, columns]);
    if y.is_empty() {
        return;
    }
    let (image, parts) = (height * width, rows * columns);
    assert!(image > 0, "region_means: expected pixels to read");
    let work = channels * how.places(regions[0]).max(1);
    for_each_row(y, channels * parts, (CHUNK / work).max(1), |region, y| {
        let pixels = &x[of(region) * channels * image..][..channels * image];
        let [down, across] = how.sides(regions[region]);
        y.fill(0.0);
        let mut corners = [Corners { part: 0, pixels: [0; 4], weights: [0.0; 4] }; AT_ONCE];
        let mut found = 0;
        let a_part = down.samples * across.samples;
        for at in 0..parts * a_part {
            let (part, sample) = (at / a_part, at % a_part);
            let row = around(down.place(part / columns, sample / across.samples), height);
            let column = around(across.place(part % columns, sample % across.samples), width);
            if let (Some(row), Some(column)) = (row, column) {
                corners[found] = Corners::new(part, row, column, width);
                found += 1;
            }
            if found == AT_ONCE {
                add(&corners, pixels, image, y, parts);
                found = 0;
            }
        }
        add(&corners[..found], pixels, image, y, parts);
        y.iter_mut().for_each(|y| *y /= a_part.max(1) as f32);
    });
}

impl Corners {
    fn new(
        part: usize,
        (top, bottom, below): (usize, usize, f32),
        (left, right, beside): (usize, usize, f32),
        width: usize,
    ) -> Self {
        let (above, before) = (1.0 - below, 1.0 - beside);
        let pixels = [(top, left), (top, right), (bottom, left), (bottom, right)];
        Self {
            part,
            pixels: pixels.map(|(row, column)| row * width + column),
            weights: [above * before, above * beside, below * before, below * beside],
        }
    }
}

/// Adds places to the parts of every channel.
fn add(corners: &[Corners], pixels: &[f32], image: usize, y: &mut [f32], parts: usize) {
    for (x, y) in pixels.chunks_exact(image).zip(y.chunks_exact_mut(parts)) {
        for Corners { part, pixels, weights } in corners {
            let sum: f32 = pixels.iter().zip(weights).map(|(&at, weight)| x[at] * weight).sum();
            y[*part] += sum;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn means_of_a_slope_are_its_middles() {
        // What rises by 1 a column and 10 a row has its mean in the middle of a part.
        let x: Vec<f32> = (0..2 * 8 * 8).map(|at| (at % 8 + at / 8 % 8 * 10) as f32).collect();
        let how = RegionParts {
            parts: [2, 3],
            samples: Some(5),
            scale: 0.5,
            offset: 0.0,
            least: Some(1.0),
        };
        let mut y = [0.0; 12];
        region_means(&how, &x, [1, 2, 8, 8], &[[2.0, 4.0, 8.0, 12.0]], |_| 0, &mut y);
        for (part, y) in y.iter().enumerate() {
            let (row, column) = (part / 3 % 2, part % 3);
            let expected = (1.5 + column as f32) + 10.0 * (3.0 + 2.0 * row as f32);
            assert!((y - expected).abs() < 1e-4, "part {part}: expected {expected}, found {y}");
        }
    }

    #[test]
    fn places_outside_count_as_zeros() {
        let how =
            RegionParts { parts: [1, 1], samples: None, scale: 1.0, offset: 0.5, least: None };
        let mut y = [9.0; 2];
        let regions = [[-9.0, -9.0, -5.0, -5.0], [0.5, 0.5, 0.5, 0.5]];
        region_means(&how, &[1.0; 4], [1, 1, 2, 2], &regions, |_| 0, &mut y);
        assert_eq!(y, [0.0, 0.0]);
    }
}
