//! Which entries of an axis make an entry of its resized form, and with what weights.

use super::{Coordinates, Interpolation, Nearest, Outside, Resize, Target};

/// How each entry of a resized axis is made.
pub(super) struct AxisMap(pub(super) Vec<Sample>);

/// How one entry of a resized dimension is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// A sum of entries, each times its weight.
    Weighted(Vec<(usize, f64)>),
    /// A number that no entry changes.
    Fill(f64),
}

impl AxisMap {
    /// Entries of the resized axis.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// `values` of `shape` with this done to dimension `axis`.
    pub(super) fn apply(&self, values: &[f64], shape: &[usize], axis: usize) -> Vec<f64> {
        let inner: usize = shape[axis + 1..].iter().product();
        let outer: usize = shape[..axis].iter().product();
        let mut output = Vec::with_capacity(outer * self.len() * inner);
        for block in 0..outer {
            for sample in &self.0 {
                output.extend((0..inner).map(|column| match sample {
                    Sample::Fill(value) => *value,
                    Sample::Weighted(weights) => {
                        let value =
                            |entry: usize| values[(block * shape[axis] + entry) * inner + column];
                        weights.iter().map(|&(entry, weight)| weight * value(entry)).sum()
                    }
                }));
            }
        }
        output
    }
}

impl Resize {
    /// The map of an axis with `input` entries; `region` is its part of roi.
    ///
    /// # Errors
    ///
    /// When something would have to be made of nothing.
    pub(super) fn axis_map(
        &self,
        input: usize,
        target: Target,
        region: (f64, f64),
    ) -> Result<AxisMap, String> {
        if input == 0 && target.size > 0 {
            return Err(format!("nothing cannot be resized to {} entries", target.size));
        }
        // A kernel that is widened is as long as the input at most times a constant.
        if self.antialias && target.scale < 1e-6 {
            return Err(format!("a scale of {} is too small to smooth", target.scale));
        }
        let last = input.saturating_sub(1) as f64;
        let sample = |index: usize| {
            let place = self.coordinates.place(index as f64, input as f64, target, region);
            match self.coordinates {
                Coordinates::TfCropAndResize { extrapolation }
                    if !(0.0..=last).contains(&place) =>
                {
                    Sample::Fill(f64::from(extrapolation))
                }
                _ => Sample::Weighted(self.weights(place, input, target.scale)),
            }
        };
        Ok(AxisMap((0..target.size).map(sample).collect()))
    }

    /// The entries that make the one at `place`.
    fn weights(&self, place: f64, input: usize, scale: f64) -> Vec<(usize, f64)> {
        let inside = |entry: f64| entry.clamp(0.0, input.saturating_sub(1) as f64) as usize;
        if let Interpolation::Nearest(nearest) = self.interpolation {
            return vec![(inside(nearest.of(place)), 1.0)];
        }
        let shrink = if self.antialias { scale.min(1.0) } else { 1.0 };
        let reach = (self.reach() / shrink).ceil();
        let (first, end) = (place.floor() - reach, place.floor() + reach + 1.0);
        let entries = (0..(end - first) as usize).map(|step| first + step as f64);
        let weighted = entries.map(|entry| (entry, self.kernel(shrink * (entry - place))));
        let weighted: Vec<(f64, f64)> = weighted.filter(|&(_, weight)| weight != 0.0).collect();
        let is_inside = |entry: f64| (0.0..input as f64).contains(&entry);
        let counted = weighted
            .into_iter()
            .filter(|&(entry, _)| self.outside == Outside::Edge || is_inside(entry));
        let counted: Vec<(f64, f64)> = counted.collect();
        let sum: f64 = counted.iter().map(|&(_, weight)| weight).sum();
        let sum = if sum == 0.0 { 1.0 } else { sum };
        counted.into_iter().map(|(entry, weight)| (inside(entry), weight / sum)).collect()
    }

    /// Distance at which the kernel becomes 0.
    fn reach(&self) -> f64 {
        match self.interpolation {
            Interpolation::Nearest(_) | Interpolation::Linear => 1.0,
            Interpolation::Cubic { .. } => 2.0,
        }
    }

    /// Weight of an entry at `distance`.
    fn kernel(&self, distance: f64) -> f64 {
        let x = distance.abs();
        match self.interpolation {
            Interpolation::Nearest(_) | Interpolation::Linear => (1.0 - x).max(0.0),
            Interpolation::Cubic { a } => {
                let a = f64::from(a);
                if x <= 1.0 {
                    ((a + 2.0) * x - (a + 3.0)) * x * x + 1.0
                } else if x < 2.0 {
                    ((a * x - 5.0 * a) * x + 8.0 * a) * x - 4.0 * a
                } else {
                    0.0
                }
            }
        }
    }
}

impl Nearest {
    fn of(self, place: f64) -> f64 {
        match self {
            Self::RoundPreferFloor => (place - 0.5).ceil(),
            Self::RoundPreferCeil => (place + 0.5).floor(),
            Self::Floor => place.floor(),
            Self::Ceil => place.ceil(),
        }
    }
}

impl Coordinates {
    /// Place in the input, of `input` entries, of the output's entry at `y`.
    fn place(self, y: f64, input: f64, target: Target, (start, end): (f64, f64)) -> f64 {
        let Target { scale, size } = target;
        // The size before it is cut to a whole number.
        let width = scale * input;
        // In f32, as onnxruntime: 1 divided by the f32 next to 0.2 is 5, and lies on an element.
        let divided = |y: f64| f64::from(y as f32 / scale as f32);
        let half_pixel = divided(y + 0.5) - 0.5;
        match self {
            Self::HalfPixel => half_pixel,
            Self::HalfPixelSymmetric => input / 2.0 * (1.0 - size as f64 / width) + half_pixel,
            Self::PytorchHalfPixel if width == 1.0 => -0.5,
            Self::PytorchHalfPixel => half_pixel,
            Self::AlignCorners if width == 1.0 => 0.0,
            Self::AlignCorners => y * (input - 1.0) / (width - 1.0),
            Self::Asymmetric => divided(y),
            Self::TfHalfPixelForNearest => divided(y + 0.5),
            Self::TfCropAndResize { .. } if width == 1.0 => 0.5 * (start + end) * (input - 1.0),
            Self::TfCropAndResize { .. } => {
                start * (input - 1.0) + y * (end - start) * (input - 1.0) / (width - 1.0)
            }
        }
    }
}
