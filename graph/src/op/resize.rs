//! Images of another size.

mod interpolation;

use serde::{Deserialize, Serialize};

use interpolation::AxisMap;
pub use interpolation::Sample;

use super::elementwise::elements;
use super::position::affordable;
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, elements_of, floats};
use crate::{Bindings, DType, Dim, Shape, Tensor, ValueType};

/// Interpolation of x to another size, as ONNX's Resize: `(x, roi, scales)` or
/// `(x, roi, scales, sizes)`; each has one number (roi two) for each of `axes`.
///
/// Sizes win over scales, which may then be empty. The region roi counts only where the coordinates
/// are those of [`Coordinates::TfCropAndResize`]; elsewhere it may be empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resize {
    /// How an element is made from those around its place.
    pub interpolation: Interpolation,
    /// Where in the input an element of the output lies.
    pub coordinates: Coordinates,
    /// What places outside the input count as.
    pub outside: Outside,
    /// Whether to widen the filter of a smaller output, so that every input element counts.
    pub antialias: bool,
    /// What sizes mean.
    pub aspect: AspectRatio,
    /// The dimensions that are resized, each at most once.
    pub axes: Vec<usize>,
}

/// How an element is made from those around its place.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Interpolation {
    /// The nearest.
    Nearest(Nearest),
    /// Linearly from the two around it, by dimension.
    Linear,
    /// By a cubic through the four around it (Keys 1981, doi:10.1109/TASSP.1981.1163711), by
    /// dimension.
    Cubic {
        /// Slope of the cubic at 1, usually −0.5 or −0.75.
        a: f32,
    },
}

/// Which of two neighbours is the nearest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nearest {
    /// The nearer, or the one before.
    RoundPreferFloor,
    /// The nearer, or the one after.
    RoundPreferCeil,
    /// The one before.
    Floor,
    /// The one after.
    Ceil,
}

/// Where in the input the element at `y` of an output lies.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Coordinates {
    /// `(y + ½) / scale − ½`
    HalfPixel,
    /// As `HalfPixel`, with the middle of the input in the middle of the output.
    HalfPixelSymmetric,
    /// As `HalfPixel`, −½ for an output of one element.
    PytorchHalfPixel,
    /// The first and last elements lie on each other.
    AlignCorners,
    /// `y / scale`
    Asymmetric,
    /// `(y + ½) / scale`, of version 11 alone.
    TfHalfPixelForNearest,
    /// As `AlignCorners`, with the corners of the region roi.
    TfCropAndResize {
        /// The output for places outside the input.
        extrapolation: f32,
    },
}

/// What places outside the input count as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outside {
    /// The nearest element at the edge.
    Edge,
    /// Nothing: the weights of the others are scaled up.
    Excluded,
}

/// What sizes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AspectRatio {
    /// The sizes themselves.
    Stretch,
    /// One scale for all, such that no size is exceeded.
    NotLarger,
    /// One scale for all, such that each size is reached.
    NotSmaller,
}

/// What becomes of one dimension.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Target {
    size: usize,
    scale: f64,
}

impl Resize {
    /// What becomes of each of `axes`, whose sizes are given.
    fn by_scales(&self, input: &[usize], scales: &[f32]) -> Result<Vec<Target>, String> {
        if scales.len() != self.axes.len() {
            return Err(format!("expected {} scales, found {}", self.axes.len(), scales.len()));
        }
        let target = |(&size, &scale): (&usize, &f32)| {
            // In f32, as onnxruntime: 20 times the f32 next to 1.3 is 26.
            let target = (size as f32 * scale).floor();
            // `affordable` sets a far lower bound on what is made.
            if !(scale > 0.0 && target < 1e15) {
                return Err(format!("{size} entries cannot be scaled by {scale}"));
            }
            Ok(Target { size: target as usize, scale: scale.into() })
        };
        input.iter().zip(scales).map(target).collect()
    }

    fn by_sizes(&self, input: &[usize], sizes: &[i64]) -> Result<Vec<Target>, String> {
        if sizes.len() != self.axes.len() {
            return Err(format!("expected {} sizes, found {}", self.axes.len(), sizes.len()));
        }
        let stretched = |(&input, &size): (&usize, &i64)| {
            let size = usize::try_from(size).map_err(|_| format!("size {size} is negative"))?;
            if input == 0 && size > 0 {
                return Err(format!("nothing cannot be resized to {size} entries"));
            }
            Ok(Target { size, scale: if input == 0 { 1.0 } else { size as f64 / input as f64 } })
        };
        let mut targets =
            input.iter().zip(sizes).map(stretched).collect::<Result<Vec<_>, String>>()?;
        let scales = targets.iter().map(|target| target.scale);
        let scale = match self.aspect {
            AspectRatio::Stretch => return Ok(targets),
            AspectRatio::NotLarger => scales.fold(f64::INFINITY, f64::min),
            AspectRatio::NotSmaller => scales.fold(0.0, f64::max),
        };
        for (target, &input) in targets.iter_mut().zip(input) {
            *target = Target { size: (scale * input as f64 + 0.5).floor() as usize, scale };
        }
        Ok(targets)
    }

    fn check(&self, x: &ValueType) -> Result<(), String> {
        if x.dtype == DType::Bool {
            return Err(format!("expected numbers, found {x}"));
        }
        let once = |(index, axis): (usize, &usize)| !self.axes[..index].contains(axis);
        let rank = x.shape.len();
        if self.axes.iter().any(|&axis| axis >= rank) || !self.axes.iter().enumerate().all(once) {
            return Err(format!("{:?} are not dimensions of {x}", self.axes));
        }
        Ok(())
    }

    /// The output's dimension `axis`, which is `place` in the list of axes.
    fn infer_dim(
        &self,
        x: &[Dim],
        place: usize,
        scales: Option<&[f32]>,
        sizes: Option<&[Integer]>,
    ) -> Result<Dim, String> {
        let known: Option<Vec<usize>> = self.axes.iter().map(|&axis| x[axis].fixed()).collect();
        if let Some(sizes) = sizes {
            if self.aspect == AspectRatio::Stretch {
                let size = sizes.get(place).ok_or("expected a size for each axis")?;
                return size.dim();
            }
            let sizes: Option<Vec<i64>> = sizes.iter().map(Integer::known).collect();
            return match known.zip(sizes) {
                Some((input, sizes)) => Ok(Dim::Fixed(self.by_sizes(&input, &sizes)?[place].size)),
                None => Ok(Dim::Unknown),
            };
        }
        match (scales, known) {
            (Some(scales), Some(input)) => {
                Ok(Dim::Fixed(self.by_scales(&input, scales)?[place].size))
            }
            (Some(scales), None) => match (scales.get(place), x[self.axes[place]].fixed()) {
                (Some(1.0), _) => Ok(x[self.axes[place]].clone()),
                (Some(&scale), Some(size)) => {
                    let one = Self { axes: vec![0], ..self.clone() };
                    Ok(Dim::Fixed(one.by_scales(&[size], &[scale])?[0].size))
                }
                (Some(_), None) => Ok(Dim::Unknown),
                (None, _) => Err("expected a scale for each axis".to_owned()),
            },
            (None, _) => Ok(Dim::Unknown),
        }
    }

    /// How the entries of each of `axes` are made, for an x of these sizes and inputs of these contents.
    ///
    /// # Errors
    ///
    /// When their lengths differ, or something would have to be made of nothing.
    pub fn samples(
        &self,
        x: &[usize],
        roi: &[f32],
        scales: &[f32],
        sizes: Option<&[i64]>,
    ) -> Result<Vec<Vec<Sample>>, String> {
        let size = |&axis: &usize| x.get(axis).copied().ok_or("expected a size for each axis");
        let input = self.axes.iter().map(size).collect::<Result<Vec<usize>, _>>()?;
        let targets = match sizes {
            Some(sizes) => self.by_sizes(&input, sizes)?,
            None => self.by_scales(&input, scales)?,
        };
        Ok(self.maps(x, &targets, roi)?.into_iter().map(|map| map.0).collect())
    }

    /// How the entries of each axis are made; `roi` as the input.
    fn maps(&self, x: &[usize], targets: &[Target], roi: &[f32]) -> Result<Vec<AxisMap>, String> {
        let crops = matches!(self.coordinates, Coordinates::TfCropAndResize { .. });
        if crops && roi.len() != 2 * self.axes.len() {
            return Err(format!("expected {} corners, found {}", 2 * self.axes.len(), roi.len()));
        }
        let map = |(place, target): (usize, &Target)| {
            let region = if crops {
                (f64::from(roi[place]), f64::from(roi[self.axes.len() + place]))
            } else {
                (0.0, 1.0)
            };
            self.axis_map(x[self.axes[place]], *target, region)
        };
        targets.iter().enumerate().map(map).collect()
    }
}

impl Operator for Resize {
    fn onnx_type(&self) -> &'static str {
        "Resize"
    }

    fn onnx(&self) -> OnnxForm {
        let (mode, nearest, a) = match self.interpolation {
            Interpolation::Nearest(nearest) => ("nearest", nearest.text(), -0.75),
            Interpolation::Linear => ("linear", Nearest::RoundPreferFloor.text(), -0.75),
            Interpolation::Cubic { a } => ("cubic", Nearest::RoundPreferFloor.text(), a),
        };
        let (coordinates, extrapolation) = match self.coordinates {
            Coordinates::HalfPixel => ("half_pixel", 0.0),
            Coordinates::HalfPixelSymmetric => ("half_pixel_symmetric", 0.0),
            Coordinates::PytorchHalfPixel => ("pytorch_half_pixel", 0.0),
            Coordinates::AlignCorners => ("align_corners", 0.0),
            Coordinates::Asymmetric => ("asymmetric", 0.0),
            Coordinates::TfHalfPixelForNearest => ("tf_half_pixel_for_nn", 0.0),
            Coordinates::TfCropAndResize { extrapolation } => ("tf_crop_and_resize", extrapolation),
        };
        let aspect = match self.aspect {
            AspectRatio::Stretch => "stretch",
            AspectRatio::NotLarger => "not_larger",
            AspectRatio::NotSmaller => "not_smaller",
        };
        let flag = |yes: bool| OnnxAttribute::Int(i64::from(yes));
        let axes = self.axes.iter().map(|&axis| axis as i64).collect();
        OnnxForm::default()
            .attribute("mode", OnnxAttribute::Text(mode))
            .attribute("nearest_mode", OnnxAttribute::Text(nearest))
            .attribute("cubic_coeff_a", OnnxAttribute::Float(a))
            .attribute("coordinate_transformation_mode", OnnxAttribute::Text(coordinates))
            .attribute("extrapolation_value", OnnxAttribute::Float(extrapolation))
            .attribute("exclude_outside", flag(self.outside == Outside::Excluded))
            .attribute("antialias", flag(self.antialias))
            .attribute("keep_aspect_ratio_policy", OnnxAttribute::Text(aspect))
            .attribute("axes", OnnxAttribute::Ints(axes))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let (x, roi, scales, sizes) = parts(inputs)?;
        self.check(x.value_type)?;
        roi.expect(DType::F32)?;
        scales.expect(DType::F32)?;
        if let Some(sizes) = sizes {
            sizes.expect(DType::I64)?;
        }
        let known_scales = match (sizes, scales.constant) {
            (None, Some(scales)) => Some(floats(scales)?),
            _ => None,
        };
        let mut shape: Shape = x.shape.clone();
        for (place, &axis) in self.axes.iter().enumerate() {
            let known_sizes = sizes.and_then(|sizes| sizes.integers);
            shape[axis] = match (sizes, known_sizes) {
                (Some(_), None) => Dim::Unknown,
                _ => self.infer_dim(&x.shape, place, known_scales, known_sizes)?,
            };
        }
        Ok(ValueType { dtype: x.dtype, shape })
    }

    /// One axis after the other in `f64`.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let (x, roi, scales, sizes) = parts(inputs)?;
        let x_type = ValueType { dtype: x.dtype(), shape: crate::dim::fixed(x.shape()) };
        self.check(&x_type)?;
        let input: Vec<usize> = self.axes.iter().map(|&axis| x.shape()[axis]).collect();
        let targets = match sizes {
            Some(sizes) => self.by_sizes(&input, elements_of::<i64>(sizes)?)?,
            None => self.by_scales(&input, floats(scales)?)?,
        };
        let mut shape = x.shape().to_vec();
        for (&axis, target) in self.axes.iter().zip(&targets) {
            shape[axis] = target.size;
        }
        affordable(&shape)?;
        let maps = self.maps(x.shape(), &targets, floats(roi)?)?;
        let (mut values, mut sizes) = (numbers(x)?, x.shape().to_vec());
        for (&axis, map) in self.axes.iter().zip(&maps) {
            values = map.apply(&values, &sizes, axis);
            sizes[axis] = map.len();
            affordable(&sizes)?;
        }
        Ok(match x.dtype() {
            DType::F32 => Tensor::from_fn(&shape, |index| values[index] as f32),
            DType::I64 => Tensor::from_fn(&shape, |index| values[index] as i64),
            DType::I32 => Tensor::from_fn(&shape, |index| values[index] as i32),
            DType::I8 => Tensor::from_fn(&shape, |index| values[index] as i8),
            DType::U8 => Tensor::from_fn(&shape, |index| values[index] as u8),
            DType::Bool => return Err("expected numbers, found truth values".to_owned()),
        })
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        let taps: u64 = match self.interpolation {
            Interpolation::Nearest(_) => return 0,
            Interpolation::Linear => 2,
            Interpolation::Cubic { .. } => 4,
        };
        2 * taps * elements(output)
    }
}

impl Nearest {
    fn text(self) -> &'static str {
        match self {
            Self::RoundPreferFloor => "round_prefer_floor",
            Self::RoundPreferCeil => "round_prefer_ceil",
            Self::Floor => "floor",
            Self::Ceil => "ceil",
        }
    }
}

/// `(x, roi, scales, sizes)`.
fn parts<T: Copy>(inputs: &[T]) -> Result<(T, T, T, Option<T>), String> {
    match *inputs {
        [x, roi, scales] => Ok((x, roi, scales, None)),
        [x, roi, scales, sizes] => Ok((x, roi, scales, Some(sizes))),
        _ => Err(format!("expected 3 or 4 inputs, found {}", inputs.len())),
    }
}

fn numbers(x: &Tensor) -> Result<Vec<f64>, String> {
    fn collect<T: crate::Element>(
        x: &Tensor,
        number: impl Fn(T) -> f64,
    ) -> Result<Vec<f64>, String> {
        Ok(elements_of::<T>(x)?.iter().map(|&x| number(x)).collect())
    }
    match x.dtype() {
        DType::F32 => collect::<f32>(x, f64::from),
        DType::I64 => collect::<i64>(x, |x| x as f64),
        DType::I32 => collect::<i32>(x, f64::from),
        DType::I8 => collect::<i8>(x, f64::from),
        DType::U8 => collect::<u8>(x, f64::from),
        DType::Bool => Err("expected numbers, found truth values".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resize(interpolation: Interpolation) -> Resize {
        Resize {
            interpolation,
            coordinates: Coordinates::HalfPixel,
            outside: Outside::Edge,
            antialias: false,
            aspect: AspectRatio::Stretch,
            axes: vec![1],
        }
    }

    fn vector<T: crate::Element>(values: &[T]) -> Tensor {
        Tensor::new(&[values.len()], values.to_vec()).unwrap()
    }

    fn evaluate(op: &Resize, x: &Tensor, scale: f32) -> Result<Tensor, String> {
        let (roi, scales) = (vector::<f32>(&[]), vector(&[scale]));
        op.evaluate(&[x, &roi, &scales], &Bindings::default())
    }

    #[test]
    fn integers_stay_integers() {
        let x = Tensor::new(&[1, 2], vec![1u8, 3]).unwrap();
        let nearest = resize(Interpolation::Nearest(Nearest::RoundPreferFloor));
        let y = evaluate(&nearest, &x, 2.0).unwrap();
        assert_eq!(y.elements::<u8>().unwrap(), [1, 1, 3, 3]);
    }

    #[test]
    fn scales_are_those_that_their_f32_stand_for() {
        let x = Tensor::from_fn(&[1, 20], |index| index as f32);
        let nearest = resize(Interpolation::Nearest(Nearest::Floor));
        let op = Resize { coordinates: Coordinates::Asymmetric, ..nearest };
        assert_eq!(evaluate(&op, &x, 1.3).unwrap().shape(), [1, 26]);
        let y = evaluate(&op, &x, 0.2).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [0.0, 5.0, 10.0, 15.0]);
    }

    #[test]
    fn averages_of_halves_are_means_of_pairs() {
        let x = Tensor::new(&[1, 4], vec![1f32, 3.0, 5.0, 9.0]).unwrap();
        let y = evaluate(&resize(Interpolation::Linear), &x, 0.5).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [2.0, 7.0]);
    }

    #[test]
    fn hostile_sizes_are_refused() {
        let x = Tensor::zeros(DType::F32, &[1, 4]);
        let linear = resize(Interpolation::Linear);
        for scale in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e30, 1e12] {
            assert!(evaluate(&linear, &x, scale).is_err(), "{scale}");
        }
        let (none, sizes) = (vector::<f32>(&[]), vector(&[i64::MAX]));
        assert!(linear.evaluate(&[&x, &none, &none, &sizes], &Bindings::default()).is_err());
        assert!(evaluate(&linear, &Tensor::zeros(DType::F32, &[1, 0]), 2.0).is_ok());
    }

    #[test]
    fn what_is_not_scaled_keeps_its_name() {
        let shape = vec![Dim::symbol("batch"), Dim::symbol("w"), Dim::Fixed(4)];
        let value_type = ValueType { dtype: DType::F32, shape };
        let scales = vector(&[1f32, 2.0, 2.0]);
        let roi_type = ValueType { dtype: DType::F32, shape: vec![Dim::Fixed(0)] };
        let scales_type = ValueType { dtype: DType::F32, shape: vec![Dim::Fixed(3)] };
        let argument = |value_type, constant| Argument { value_type, constant, integers: None };
        let op = Resize { axes: vec![0, 1, 2], ..resize(Interpolation::Linear) };
        let arguments = [
            argument(&value_type, None),
            argument(&roi_type, None),
            argument(&scales_type, Some(&scales)),
        ];
        let found = op.infer(&arguments).unwrap().shape;
        assert_eq!(found, [Dim::symbol("batch"), Dim::Unknown, Dim::Fixed(8)]);
    }
}
