//! Images read at places that are given as values.

use serde::{Deserialize, Serialize};

use super::movement::whole_numbers;
use super::position::{affordable, flat, position};
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Most dimensions of an image: the elements around a place are as many as a power of it.
const AXES_LIMIT: usize = 4;

/// How an element is made from those around its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GridMode {
    /// Linearly from the two around it, by dimension.
    Linear,
    /// The nearest; of two the one at an even place.
    Nearest,
    /// By a cubic through the four around it, with slope −0.75 at 1 (Keys 1981,
    /// doi:10.1109/TASSP.1981.1163711), by dimension.
    Cubic,
}

/// What places outside the image count as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GridOutside {
    /// Zeros.
    Zeros,
    /// The nearest element at the edge.
    Border,
    /// What the edges mirror.
    Reflection,
}

/// Elements of images at places, as ONNX's GridSample: `(x, grid)`.
///
/// # Shapes
///
/// x `[images, channels, …]` with n more dimensions, grid `[images, …, n]`; the output has the grid's
/// dimensions between. A place is a number an axis, the last axis first: −1 and 1 are its ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct GridSample {
    /// How an element is made.
    pub mode: GridMode,
    /// What places outside count as.
    pub outside: GridOutside,
    /// Whether the ends of an axis are the middles of its outer elements, rather than their edges.
    pub align_corners: bool,
}

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

/// Weights of the elements at −1, 0, 1 and 2 for a place between 0 and 1.
fn cubic(place: f64) -> [f64; 4] {
    const SLOPE: f64 = -0.75;
    let near = |x: f64| ((SLOPE + 2.0) * x - (SLOPE + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((SLOPE * x - 5.0 * SLOPE) * x + 8.0 * SLOPE) * x - 4.0 * SLOPE;
    [far(place + 1.0), near(place), near(1.0 - place), far(2.0 - place)]
}

impl GridSample {
    /// The entries of an axis of `size` that the place from −1 to 1 is made of, with their weights;
    /// `None` for an entry that is 0.
    fn taps(&self, place: f32, size: usize) -> Vec<(Option<usize>, f64)> {
        let length = size as f32;
        // In f32, as onnxruntime: whether a place is halfway decides on the nearest.
        let mut place = if self.align_corners {
            (place + 1.0) / 2.0 * (length - 1.0)
        } else {
            ((place + 1.0) * length - 1.0) / 2.0
        };
        if self.mode == GridMode::Nearest {
            place = place.round_ties_even();
        }
        let margin = if self.align_corners { 0.0 } else { 0.5 };
        let (low, high, last) =
            (-margin, f64::from(length - 1.0) + margin, f64::from(length - 1.0));
        let mut place = f64::from(place);
        if place < low || place > high {
            place = match self.outside {
                GridOutside::Zeros => place,
                // A cubic goes on to the edge's elements, as in PyTorch and onnxruntime.
                GridOutside::Border if self.mode == GridMode::Cubic => place,
                GridOutside::Border => place.clamp(0.0, last),
                GridOutside::Reflection => reflected(place, low, high),
            };
        }
        let first = place.floor();
        let entry = |offset: f64| match (self.outside, first + offset) {
            (GridOutside::Zeros, at) => (0.0..=last).contains(&at).then_some(at as usize),
            (GridOutside::Border, at) => Some(at.clamp(0.0, last) as usize),
            (GridOutside::Reflection, at) => {
                Some(reflected(at, low, high).clamp(0.0, last) as usize)
            }
        };
        let within = place - first;
        match self.mode {
            GridMode::Nearest => vec![(entry(0.0), 1.0)],
            GridMode::Linear => vec![(entry(0.0), 1.0 - within), (entry(1.0), within)],
            GridMode::Cubic => {
                [-1.0, 0.0, 1.0, 2.0].map(entry).into_iter().zip(cubic(within)).collect()
            }
        }
    }

    /// Flat places in an image of `sizes`, and their weights, that an element is made of.
    fn sources(&self, place: &[f32], sizes: &[usize]) -> Vec<(usize, f64)> {
        let mut sources = vec![(0, 1.0)];
        for (&place, &size) in place.iter().rev().zip(sizes) {
            let taps = self.taps(place, size);
            let along = |&(flat, weight): &(usize, f64)| {
                let tap = |&(entry, by): &(Option<usize>, f64)| {
                    entry.map(|entry| (flat * size + entry, weight * by))
                };
                taps.iter().filter_map(tap).collect::<Vec<_>>()
            };
            sources = sources.iter().flat_map(along).collect();
        }
        sources
    }
}

impl Operator for GridSample {
    fn onnx_type(&self) -> &'static str {
        "GridSample"
    }

    fn onnx(&self) -> OnnxForm {
        let mode = match self.mode {
            GridMode::Linear => "linear",
            GridMode::Nearest => "nearest",
            GridMode::Cubic => "cubic",
        };
        let outside = match self.outside {
            GridOutside::Zeros => "zeros",
            GridOutside::Border => "border",
            GridOutside::Reflection => "reflection",
        };
        OnnxForm::default()
            .attribute("mode", OnnxAttribute::Text(mode))
            .attribute("padding_mode", OnnxAttribute::Text(outside))
            .attribute("align_corners", OnnxAttribute::Int(self.align_corners.into()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, grid] = exactly(inputs)?;
        x.expect(DType::F32)?;
        grid.expect(DType::F32)?;
        let mismatch = || format!("grid {grid} does not go with images {x}");
        let ([images, channels, axes @ ..], [same, between @ .., last]) =
            (x.shape.as_slice(), grid.shape.as_slice())
        else {
            return Err(mismatch());
        };
        if axes.len() > AXES_LIMIT {
            return Err(format!("expected images of at most {AXES_LIMIT} axes, found {x}"));
        }
        let fits = images.may_equal(same) && last.may_equal(&Dim::Fixed(axes.len()));
        if axes.is_empty() || between.len() != axes.len() || !fits {
            return Err(mismatch());
        }
        let shape = [&[images.clone(), channels.clone()], between].concat();
        Ok(ValueType { dtype: DType::F32, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, grid] = exactly(inputs)?;
        let ([images, channels, sizes @ ..], [same, between @ .., axes]) =
            (x.shape(), grid.shape())
        else {
            return Err(format!("grid {grid:?} does not go with images {x:?}"));
        };
        if images != same || *axes != sizes.len() || between.len() != sizes.len() {
            return Err(format!("grid {grid:?} does not go with images {x:?}"));
        }
        let shape = [&[*images, *channels], between].concat();
        let mut output = vec![0f32; affordable(&shape)?];
        let (size, places): (usize, usize) = (sizes.iter().product(), between.iter().product());
        if output.is_empty() {
            return Ok(Tensor::zeros(DType::F32, &shape));
        }
        if size == 0 {
            return Err(format!("expected elements to read, found {x:?}"));
        }
        let (pixels, grid) = (floats(x)?, floats(grid)?);
        for (index, place) in grid.chunks_exact((*axes).max(1)).enumerate() {
            let (image, index) = (index / places, index % places);
            let sources = self.sources(place, sizes);
            for channel in image * channels..(image + 1) * channels {
                let read = |&(place, weight): &(usize, f64)| {
                    weight * f64::from(pixels[channel * size + place])
                };
                output[channel * places + index] = sources.iter().map(read).sum::<f64>() as f32;
            }
        }
        Tensor::new(&shape, output).map_err(|error| error.to_string())
    }
}

/// The places of a grid of `size` under an affine map (Jaderberg et al. 2015, arXiv:1506.02025), as
/// ONNX's AffineGrid: `(theta, size)`.
///
/// # Shapes
///
/// theta `[images, n, n + 1]` for n of 2 or 3, size a list `[images, channels, …]` of n more numbers;
/// the output is `[images, …, n]` as [`GridSample`] reads it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct AffineGrid {
    /// Whether the ends of an axis are the middles of its outer elements, rather than their edges.
    pub align_corners: bool,
}

impl AffineGrid {
    /// The place of entry `index` of an axis of `size` before the map.
    fn place(self, index: usize, size: usize) -> f64 {
        let (index, size) = (index as f64, size as f64);
        match self.align_corners {
            true if size <= 1.0 => -1.0,
            true => 2.0 * index / (size - 1.0) - 1.0,
            false => (2.0 * index + 1.0) / size - 1.0,
        }
    }
}

impl Operator for AffineGrid {
    fn onnx_type(&self) -> &'static str {
        "AffineGrid"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .attribute("align_corners", OnnxAttribute::Int(self.align_corners.into()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [theta, size] = exactly(inputs)?;
        theta.expect(DType::F32)?;
        size.expect(DType::I64)?;
        let mismatch = || format!("sizes {size} do not go with maps {theta}");
        let ([images, Dim::Fixed(axes @ (2 | 3)), wide], [Dim::Fixed(count)]) =
            (theta.shape.as_slice(), size.shape.as_slice())
        else {
            return Err(mismatch());
        };
        if !wide.may_equal(&Dim::Fixed(axes + 1)) || *count != axes + 2 {
            return Err(mismatch());
        }
        let mut shape = vec![images.clone()];
        match size.integers {
            Some([_, _, sizes @ ..]) => {
                shape.extend(sizes.iter().map(Integer::dim).collect::<Result<Vec<_>, _>>()?);
            }
            _ => shape.extend(vec![Dim::Unknown; *axes]),
        }
        shape.push(Dim::Fixed(*axes));
        Ok(ValueType { dtype: DType::F32, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [theta, size] = exactly(inputs)?;
        let &[images, axes, wide] = theta.shape() else {
            return Err(format!("expected affine maps, found {theta:?}"));
        };
        let size = whole_numbers(size)?;
        let sizes: Option<Vec<usize>> = size.iter().map(|&n| usize::try_from(n).ok()).collect();
        let sizes = sizes.filter(|sizes| sizes.len() == axes + 2 && sizes[0] == images);
        let sizes = sizes.filter(|_| wide == axes + 1);
        let sizes = sizes.ok_or_else(|| format!("sizes {size:?} do not go with maps {theta:?}"))?;
        let sizes = &sizes[2..];
        let shape = [&[images], sizes, &[axes]].concat();
        affordable(&shape)?;
        let maps = floats(theta)?;
        let element = |index: usize| {
            let place = position(index, &shape);
            let row = flat(&[place[0], place[axes + 1]], &[images, axes]) * wide;
            // Maps take the last axis first.
            let along = |column: usize| {
                let axis = axes - 1 - column;
                f64::from(maps[row + column]) * self.place(place[1 + axis], sizes[axis])
            };
            ((0..axes).map(along).sum::<f64>() + f64::from(maps[row + axes])) as f32
        };
        Ok(Tensor::from_fn(&shape, element))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [(GridMode, GridOutside); 9] = [
        (GridMode::Linear, GridOutside::Zeros),
        (GridMode::Linear, GridOutside::Border),
        (GridMode::Linear, GridOutside::Reflection),
        (GridMode::Nearest, GridOutside::Zeros),
        (GridMode::Nearest, GridOutside::Border),
        (GridMode::Nearest, GridOutside::Reflection),
        (GridMode::Cubic, GridOutside::Zeros),
        (GridMode::Cubic, GridOutside::Border),
        (GridMode::Cubic, GridOutside::Reflection),
    ];

    /// A row of 1, 2, 4 read at one place.
    fn read((mode, outside): (GridMode, GridOutside), align_corners: bool, place: f32) -> f32 {
        let x = Tensor::new(&[1, 1, 3], vec![1f32, 2.0, 4.0]).unwrap();
        let grid = Tensor::new(&[1, 1, 1], vec![place]).unwrap();
        let op = GridSample { mode, outside, align_corners };
        let y = op.evaluate(&[&x, &grid], &Bindings::default()).unwrap();
        y.elements::<f32>().unwrap()[0]
    }

    #[test]
    fn places_are_read_between_elements_and_outside() {
        // With the ends in the middles of elements, −0.5 is halfway between the first two.
        assert_eq!(read(ALL[0], true, -0.5), 1.5);
        assert_eq!(read(ALL[0], false, -1.0), 0.5);
        assert_eq!(read(ALL[1], false, -1.0), 1.0);
        assert_eq!(read(ALL[2], false, -1.0), 1.0);
        // One and a half elements beyond the end: nothing, the last, what lies as far before it.
        assert_eq!(
            ALL[..3].iter().map(|&op| read(op, true, 2.5)).collect::<Vec<_>>(),
            [0.0, 4.0, 1.5]
        );
        // Halfway the even place is the nearest.
        assert_eq!((read(ALL[3], true, -0.5), read(ALL[3], true, 0.5)), (1.0, 4.0));
        assert_eq!((read(ALL[3], true, 3.0), read(ALL[4], true, 3.0)), (0.0, 4.0));
        // Of a straight line a cubic reads that line; the weights halfway are −3/32 and 19/32.
        let expected = (19.0 * (1.0 + 2.0) - 3.0 * (0.0 + 4.0)) / 32.0;
        assert_eq!(read(ALL[6], true, -0.5), expected);
        assert_eq!(read(ALL[7], true, -0.5), (19.0 * 3.0 - 3.0 * (1.0 + 4.0)) / 32.0);
        // Beyond the edge, a quarter before the first element, the weight of the second is −9/64.
        let weight = -0.75 * (1.25f32.powi(3) - 5.0 * 1.25f32.powi(2) + 8.0 * 1.25 - 4.0);
        assert_eq!(read(ALL[7], true, -1.25), 1.0 + weight);
    }

    #[test]
    fn no_place_is_a_panic() {
        for op in ALL {
            for align_corners in [true, false] {
                for place in [f32::MAX, f32::MIN, f32::INFINITY, f32::NEG_INFINITY, f32::NAN] {
                    read(op, align_corners, place);
                }
                // As the edge itself.
                let x = Tensor::new(&[1, 1, 1], vec![3f32]).unwrap();
                let grid = Tensor::new(&[1, 1, 1], vec![9f32]).unwrap();
                let op = GridSample { mode: op.0, outside: op.1, align_corners };
                op.evaluate(&[&x, &grid], &Bindings::default()).unwrap();
            }
        }
        let empty = Tensor::zeros(DType::F32, &[1, 1, 0]);
        let grid = Tensor::zeros(DType::F32, &[1, 2, 1]);
        let op = GridSample { mode: ALL[0].0, outside: ALL[0].1, align_corners: true };
        assert!(op.evaluate(&[&empty, &grid], &Bindings::default()).is_err());
    }

    /// The last axis comes first in a place.
    #[test]
    fn a_grid_of_the_identity_reads_the_image_itself() {
        let theta = Tensor::new(&[1, 2, 3], vec![1f32, 0.0, 0.0, 0.0, 1.0, 0.0]).unwrap();
        let size = Tensor::new(&[4], vec![1i64, 2, 3, 2]).unwrap();
        let x = Tensor::from_fn(&[1, 2, 3, 2], |index| (index * index) as f32);
        for align_corners in [true, false] {
            let grid = AffineGrid { align_corners };
            let grid = grid.evaluate(&[&theta, &size], &Bindings::default()).unwrap();
            assert_eq!(grid.shape(), [1, 3, 2, 2]);
            let edge = if align_corners { [-1.0, -1.0] } else { [-0.5, -2.0 / 3.0] };
            assert_eq!(grid.elements::<f32>().unwrap()[..2], edge);
            let op = GridSample { mode: ALL[0].0, outside: ALL[0].1, align_corners };
            let y = op.evaluate(&[&x, &grid], &Bindings::default()).unwrap();
            let (y, x) = (y.elements::<f32>().unwrap(), x.elements::<f32>().unwrap());
            assert!(y.iter().zip(x).all(|(y, x)| (y - x).abs() < 1e-4), "{y:?}");
        }
        let huge = Tensor::new(&[4], vec![1i64, 2, 1 << 40, 1 << 40]).unwrap();
        let grid = AffineGrid { align_corners: true };
        assert!(grid.evaluate(&[&theta, &huge], &Bindings::default()).is_err());
    }
}
