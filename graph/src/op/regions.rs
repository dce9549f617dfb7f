//! Regions of images as small images of one size.

use serde::{Deserialize, Serialize};

use super::movement::whole_numbers;
use super::position::affordable;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Most places that are looked at in one region.
const SAMPLE_LIMIT: usize = 1 << 20;

/// What becomes of the numbers in one part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionPooling {
    /// The mean of interpolated numbers.
    Average,
    /// The largest of the pixels that are interpolated between, each times its weight.
    Maximum,
}

/// Where pixels lie in the coordinates of regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RegionCoordinates {
    /// Half a pixel from the edges of their squares.
    HalfPixel,
    /// On whole numbers; a region is at least a pixel wide and high. What opset 10 means.
    OutputHalfPixel,
}

/// Regions of images, interpolated (He et al. 2017, arXiv:1703.06870), as ONNX's RoiAlign:
/// `(x, regions, images)`.
///
/// # Shapes
///
/// x `[images, channels, height, width]`, regions `[regions, 4]` as `[x, y, x, y]` of the first and
/// last corner, which image each is of `[regions]`; the output is
/// `[regions, channels, height, width]` with the height and width given here.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RoiAlign {
    /// What becomes of the numbers in one part.
    pub pooling: RegionPooling,
    /// Where pixels lie.
    pub coordinates: RegionCoordinates,
    /// Rows of the output.
    pub height: usize,
    /// Columns of the output.
    pub width: usize,
    /// Places in each direction of a part; `None` for one a pixel.
    pub samples: Option<usize>,
    /// Pixels of x a unit of the regions.
    pub scale: f32,
}

/// A pixel and its weight, four for each place that is looked at.
type Corners = [(usize, f32); 4];

/// One axis of a region: where it begins, how wide a part is, how many places of a part count.
#[derive(Clone, Copy, Debug)]
struct Side {
    start: f32,
    part: f32,
    samples: usize,
}

impl Side {
    /// The place of sample `index` of part `part`.
    fn place(&self, part: usize, index: usize) -> f32 {
        let within = (index as f32 + 0.5) * self.part / self.samples as f32;
        self.start + part as f32 * self.part + within
    }
}

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

impl RoiAlign {
    fn side(&self, low: f32, high: f32, parts: usize) -> Side {
        let offset = if self.coordinates == RegionCoordinates::HalfPixel { 0.5 } else { 0.0 };
        let (start, end) = (low * self.scale - offset, high * self.scale - offset);
        let mut length = end - start;
        if self.coordinates == RegionCoordinates::OutputHalfPixel {
            length = length.max(1.0);
        }
        let part = length / parts as f32;
        Side { start, part, samples: self.samples.unwrap_or(part.ceil() as usize) }
    }

    /// The four pixels and weights of each place in each part of a region of an image of `sizes`.
    fn corners(&self, region: &[f32; 4], sizes: [usize; 2]) -> Result<Vec<Vec<Corners>>, String> {
        let [height, width] = sizes;
        let x = self.side(region[0], region[2], self.width);
        let y = self.side(region[1], region[3], self.height);
        // Parts without a sample are parts all the same.
        let counts = [self.height, self.width, y.samples.max(1), x.samples.max(1)];
        let samples = counts.iter().fold(1usize, |product, &count| product.saturating_mul(count));
        if samples > SAMPLE_LIMIT {
            return Err(format!(
                "expected at most {SAMPLE_LIMIT} places in a region, found {samples}"
            ));
        }
        let corner = |y: f32, x: f32| {
            let (Some((top, bottom, down)), Some((left, right, across))) =
                (around(y, height), around(x, width))
            else {
                return [(0, 0.0); 4];
            };
            [
                (top * width + left, (1.0 - down) * (1.0 - across)),
                (top * width + right, (1.0 - down) * across),
                (bottom * width + left, down * (1.0 - across)),
                (bottom * width + right, down * across),
            ]
        };
        let part = |index: usize| {
            let (row, column) = (index / self.width, index % self.width);
            let places = (0..y.samples).flat_map(|i| (0..x.samples).map(move |j| (i, j)));
            places.map(|(i, j)| corner(y.place(row, i), x.place(column, j))).collect()
        };
        Ok((0..self.height * self.width).map(part).collect())
    }

    /// One number of the pixels of one channel.
    fn pooled(&self, pixels: &[f32], corners: &[Corners]) -> f32 {
        let parts = |corner: &Corners| corner.map(|(place, weight)| pixels[place] * weight);
        match self.pooling {
            RegionPooling::Average => {
                let sum: f64 = corners.iter().flat_map(parts).map(f64::from).sum();
                (sum / corners.len().max(1) as f64) as f32
            }
            RegionPooling::Maximum => {
                corners.iter().flat_map(parts).reduce(f32::max).unwrap_or(0.0)
            }
        }
    }
}

impl Operator for RoiAlign {
    fn onnx_type(&self) -> &'static str {
        "RoiAlign"
    }

    fn onnx(&self) -> OnnxForm {
        let mode = match self.pooling {
            RegionPooling::Average => "avg",
            RegionPooling::Maximum => "max",
        };
        let coordinates = match self.coordinates {
            RegionCoordinates::HalfPixel => "half_pixel",
            RegionCoordinates::OutputHalfPixel => "output_half_pixel",
        };
        let samples = self.samples.unwrap_or(0);
        OnnxForm::default()
            .attribute("mode", OnnxAttribute::Text(mode))
            .attribute("coordinate_transformation_mode", OnnxAttribute::Text(coordinates))
            .attribute("output_height", OnnxAttribute::Int(self.height as i64))
            .attribute("output_width", OnnxAttribute::Int(self.width as i64))
            .attribute("sampling_ratio", OnnxAttribute::Int(samples as i64))
            .attribute("spatial_scale", OnnxAttribute::Float(self.scale))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, regions, images] = exactly(inputs)?;
        x.expect(DType::F32)?;
        regions.expect(DType::F32)?;
        images.expect(DType::I64)?;
        let (&[_, channels, _, _], &[count, four], &[same_count]) = (
            &x.shape.iter().collect::<Vec<_>>()[..],
            &regions.shape.iter().collect::<Vec<_>>()[..],
            &images.shape.iter().collect::<Vec<_>>()[..],
        ) else {
            return Err(format!("regions {regions} of images {images} do not go with {x}"));
        };
        if !four.may_equal(&Dim::Fixed(4)) || !count.may_equal(same_count) {
            return Err(format!("regions {regions} of images {images} do not go with {x}"));
        }
        let sizes = [self.height, self.width].map(Dim::Fixed);
        let shape = [&[known(count, same_count), channels.clone()][..], &sizes].concat();
        Ok(ValueType { dtype: DType::F32, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, regions, images] = exactly(inputs)?;
        let (&[batch, channels, height, width], &[count, 4]) = (x.shape(), regions.shape()) else {
            return Err(format!("regions {regions:?} do not go with {x:?}"));
        };
        let images = whole_numbers(images)?;
        if images.len() != count {
            return Err(format!("expected an image for each of {count} regions, found {images:?}"));
        }
        let shape = [count, channels, self.height, self.width];
        let mut output = Vec::with_capacity(affordable(&shape)?);
        if shape.contains(&0) {
            return Ok(Tensor::zeros(DType::F32, &shape));
        }
        let pixels = floats(x)?;
        let (regions, _) = floats(regions)?.as_chunks::<4>();
        for (region, image) in regions.iter().zip(images) {
            let image = image_of(image, batch)?;
            if height * width == 0 {
                return Err("expected pixels for a region, found none".to_owned());
            }
            let corners = self.corners(region, [height, width])?;
            for channel in 0..channels {
                let start = (image * channels + channel) * height * width;
                let pixels = &pixels[start..start + height * width];
                output.extend(corners.iter().map(|corners| self.pooled(pixels, corners)));
            }
        }
        Tensor::new(&shape, output).map_err(|error| error.to_string())
    }
}

/// The one of two equal dimensions that is known, if any.
fn known(a: &Dim, b: &Dim) -> Dim {
    if a.is_unknown() { b.clone() } else { a.clone() }
}

fn image_of(image: i64, images: usize) -> Result<usize, String> {
    usize::try_from(image)
        .ok()
        .filter(|&image| image < images)
        .ok_or_else(|| format!("image {image} of a region is not one of {images}"))
}

/// The largest number of each part of regions on whole pixels (Girshick 2015, arXiv:1504.08083), as
/// ONNX's MaxRoiPool: `(x, regions)`.
///
/// # Shapes
///
/// x `[images, channels, height, width]`, regions `[regions, 5]` as `[image, x, y, x, y]` of the
/// first and last pixel; the output is `[regions, channels, height, width]` with the height and
/// width given here, 0 for parts outside.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MaxRoiPool {
    /// Rows of the output.
    pub height: usize,
    /// Columns of the output.
    pub width: usize,
    /// Pixels of x a unit of the regions.
    pub scale: f32,
}

impl MaxRoiPool {
    /// The pixels of each part of a region from `low` to `high`, among `size`.
    fn parts(&self, low: f32, high: f32, parts: usize, size: usize) -> Vec<(usize, usize)> {
        let (start, end) = ((low * self.scale).round(), (high * self.scale).round());
        let length = (end - start + 1.0).max(1.0);
        let part = length / parts as f32;
        let clamped = |place: f32| (start + place).clamp(0.0, size as f32) as usize;
        let bounds = |index: usize| {
            (clamped((index as f32 * part).floor()), clamped(((index + 1) as f32 * part).ceil()))
        };
        (0..parts).map(bounds).collect()
    }
}

impl Operator for MaxRoiPool {
    fn onnx_type(&self) -> &'static str {
        "MaxRoiPool"
    }

    fn onnx(&self) -> OnnxForm {
        let sizes = vec![self.height as i64, self.width as i64];
        OnnxForm::default()
            .attribute("pooled_shape", OnnxAttribute::Ints(sizes))
            .attribute("spatial_scale", OnnxAttribute::Float(self.scale))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, regions] = exactly(inputs)?;
        x.expect(DType::F32)?;
        regions.expect(DType::F32)?;
        match (x.shape.as_slice(), regions.shape.as_slice()) {
            ([_, channels, _, _], [count, five]) if five.may_equal(&Dim::Fixed(5)) => {
                let sizes = [self.height, self.width].map(Dim::Fixed);
                let shape = [&[count.clone(), channels.clone()][..], &sizes].concat();
                Ok(ValueType { dtype: DType::F32, shape })
            }
            _ => Err(format!("regions {regions} do not go with {x}")),
        }
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, regions] = exactly(inputs)?;
        let (&[batch, channels, height, width], &[count, 5]) = (x.shape(), regions.shape()) else {
            return Err(format!("regions {regions:?} do not go with {x:?}"));
        };
        let shape = [count, channels, self.height, self.width];
        let mut output = Vec::with_capacity(affordable(&shape)?);
        if shape.contains(&0) {
            return Ok(Tensor::zeros(DType::F32, &shape));
        }
        let pixels = floats(x)?;
        let (regions, _) = floats(regions)?.as_chunks::<5>();
        for &[image, left, top, right, bottom] in regions {
            let image = image_of(image as i64, batch)?;
            let rows = self.parts(top, bottom, self.height, height);
            let columns = self.parts(left, right, self.width, width);
            for channel in 0..channels {
                let start = (image * channels + channel) * height * width;
                for &(top, bottom) in &rows {
                    output.extend(columns.iter().map(|&(left, right)| {
                        let row = |row: usize| start + row * width;
                        let places = (top..bottom).flat_map(|y| row(y) + left..row(y) + right);
                        places.map(|place| pixels[place]).reduce(f32::max).unwrap_or(0.0)
                    }));
                }
            }
        }
        Tensor::new(&shape, output).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image() -> Tensor {
        Tensor::from_fn(&[1, 1, 4, 4], |index| index as f32)
    }

    fn aligned(op: RoiAlign, region: [f32; 4]) -> Result<Vec<f32>, String> {
        let regions = Tensor::new(&[1, 4], region.to_vec()).unwrap();
        let images = Tensor::new(&[1], vec![0i64]).unwrap();
        let y = op.evaluate(&[&image(), &regions, &images], &Bindings::default())?;
        Ok(y.elements::<f32>().unwrap().to_vec())
    }

    const ALIGN: RoiAlign = RoiAlign {
        pooling: RegionPooling::Average,
        coordinates: RegionCoordinates::HalfPixel,
        height: 2,
        width: 2,
        samples: Some(1),
        scale: 1.0,
    };

    #[test]
    fn parts_are_interpolated_at_their_middles() {
        // The middles of the parts of the whole image lie between pixels 0 and 1, or 2 and 3.
        assert_eq!(aligned(ALIGN, [0.0, 0.0, 4.0, 4.0]).unwrap(), [2.5, 4.5, 10.5, 12.5]);
        let whole = RoiAlign { coordinates: RegionCoordinates::OutputHalfPixel, ..ALIGN };
        assert_eq!(aligned(whole, [0.0, 0.0, 2.0, 2.0]).unwrap(), [2.5, 3.5, 6.5, 7.5]);
        // Four places a part have the same mean where pixels lie on a plane.
        let finer = RoiAlign { samples: None, ..ALIGN };
        assert_eq!(aligned(finer, [0.0, 0.0, 4.0, 4.0]).unwrap(), [2.5, 4.5, 10.5, 12.5]);
        let largest = RoiAlign { pooling: RegionPooling::Maximum, ..ALIGN };
        assert_eq!(aligned(largest, [0.0, 0.0, 4.0, 4.0]).unwrap(), [1.25, 1.75, 3.25, 3.75]);
    }

    #[test]
    fn what_lies_outside_is_zero_and_huge_regions_are_refused() {
        assert_eq!(aligned(ALIGN, [90.0, 90.0, 94.0, 94.0]).unwrap(), [0.0; 4]);
        // Without a length there is nothing to look at.
        let finer = RoiAlign { samples: None, ..ALIGN };
        assert_eq!(aligned(finer, [1.0, 1.0, 1.0, 1.0]).unwrap(), [0.0; 4]);
        assert!(aligned(finer, [0.0, 0.0, 1e30, 1e30]).unwrap_err().contains("places"));
        let many = RoiAlign { samples: Some(usize::MAX), ..ALIGN };
        assert!(aligned(many, [0.0, 0.0, 4.0, 4.0]).unwrap_err().contains("places"));
        let large = RoiAlign { height: 1 << 40, width: 1 << 40, ..ALIGN };
        assert!(aligned(large, [0.0, 0.0, 4.0, 4.0]).is_err());
        assert_eq!(aligned(ALIGN, [f32::NAN; 4]).unwrap().len(), 4);
    }

    #[test]
    fn the_largest_of_whole_pixels_is_kept() {
        let op = MaxRoiPool { height: 2, width: 2, scale: 0.5 };
        let pool = |region: [f32; 5]| {
            let regions = Tensor::new(&[1, 5], region.to_vec()).unwrap();
            let y = op.evaluate(&[&image(), &regions], &Bindings::default())?;
            Ok::<_, String>(y.elements::<f32>().unwrap().to_vec())
        };
        assert_eq!(pool([0.0, 0.0, 0.0, 6.0, 6.0]).unwrap(), [5.0, 7.0, 13.0, 15.0]);
        // Three pixels in two parts: the middle one is in both.
        assert_eq!(pool([0.0, 0.0, 0.0, 4.0, 4.0]).unwrap(), [5.0, 6.0, 9.0, 10.0]);
        assert_eq!(pool([0.0, 40.0, 40.0, 44.0, 44.0]).unwrap(), [0.0; 4]);
        assert!(pool([1.0, 0.0, 0.0, 4.0, 4.0]).is_err());
    }
}
