//! Convolution whose windows are bent by values.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::position::affordable;
use super::window::{Rounding, Window, WindowAxis};
use super::{Argument, OnnxAttribute, OnnxForm, Operator, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Deformable convolution of images (Zhu et al. 2018, arXiv:1811.11168), as ONNX's DeformConv:
/// `(x, weight, offset)`, then a bias and a mask where there are.
///
/// # Shapes
///
/// - x: `[batch, channels, height, width]`
/// - weight: `[outputs, channels / groups, kernel height, kernel width]`
/// - offset: `[batch, offset groups · entries of a window · 2, …]`, in pixels down and across
/// - bias: `[outputs]`
/// - mask: `[batch, offset groups · entries of a window, …]`, a factor for each entry
/// - output: `[batch, outputs, …]`
///
/// An entry that its offset moves between pixels is interpolated linearly; outside are zeros.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DeformConv {
    /// What slides over the images.
    pub window: Window,
    /// Into how many parts, which do not see each other, the channels fall; > 0.
    pub groups: usize,
    /// Into how many parts, each with offsets of its own, the channels fall; > 0.
    pub offset_groups: usize,
    /// Whether there is a bias.
    pub bias: bool,
    /// Whether there is a mask.
    pub mask: bool,
}

/// The inputs by name.
struct Inputs<'a, T> {
    x: &'a T,
    weight: &'a T,
    offset: &'a T,
    bias: Option<&'a T>,
    mask: Option<&'a T>,
}

/// Up to four pixels around a place, with their weights; those outside are left out.
fn pixels(y: f64, x: f64, height: usize, width: usize) -> Vec<(usize, f64)> {
    let along = |place: f64, size: usize| {
        let low = place.floor();
        [(low, 1.0 - (place - low)), (low + 1.0, place - low)]
            .map(|(at, weight)| ((0.0..size as f64).contains(&at).then_some(at as usize), weight))
    };
    let mut found = Vec::new();
    for (row, down) in along(y, height) {
        for (column, across) in along(x, width) {
            if let (Some(row), Some(column)) = (row, column) {
                found.push((row * width + column, down * across));
            }
        }
    }
    found
}

/// Sizes of all that is read.
struct Sizes {
    batch: usize,
    channels: usize,
    outputs: usize,
    inner: usize,
    rows: WindowAxis,
    columns: WindowAxis,
}

impl Sizes {
    /// Pixels of an image, entries of a window, places of an output.
    fn areas(&self) -> [usize; 3] {
        let (rows, columns) = (&self.rows, &self.columns);
        [rows.input * columns.input, rows.kernel * columns.kernel, rows.output * columns.output]
    }
}

impl DeformConv {
    fn named<'a, T>(&self, inputs: &'a [T]) -> Result<Inputs<'a, T>, String> {
        let expected = 3 + usize::from(self.bias) + usize::from(self.mask);
        let [x, weight, offset, rest @ ..] = inputs else {
            return Err(format!("expected {expected} inputs, found {}", inputs.len()));
        };
        if inputs.len() != expected {
            return Err(format!("expected {expected} inputs, found {}", inputs.len()));
        }
        let bias = rest.first().filter(|_| self.bias);
        let mask = rest.last().filter(|_| self.mask);
        Ok(Inputs { x, weight, offset, bias, mask })
    }

    fn sizes(&self, x: &[usize], weight: &[usize]) -> Result<Sizes, String> {
        let (&[batch, channels, height, width], &[outputs, inner, rows, columns]) = (x, weight)
        else {
            return Err(format!("expected images and a weight of theirs, found {x:?}, {weight:?}"));
        };
        let axes = self.window.axes(&[height, width], Rounding::Floor)?;
        let falls = |count: usize, groups: usize| groups > 0 && count.is_multiple_of(groups);
        let fits = self.window.kernel == [rows, columns]
            && falls(outputs, self.groups)
            && falls(channels, self.offset_groups)
            && inner.checked_mul(self.groups) == Some(channels);
        match axes[..] {
            [rows, columns] if fits => Ok(Sizes { batch, channels, outputs, inner, rows, columns }),
            _ => Err(format!("a weight {weight:?} of {self:?} does not go with {x:?}")),
        }
    }

    /// The pixels, with weights, that each entry of the window of an output place is made of.
    fn entries(
        &self,
        sizes: &Sizes,
        place: usize,
        offset: impl Fn(usize) -> f32,
        mask: impl Fn(usize) -> f32,
    ) -> Vec<Vec<(usize, f64)>> {
        let Sizes { rows, columns, .. } = sizes;
        let (row, column) = (place / columns.output, place % columns.output);
        let start = |axis: &WindowAxis, index: usize, entry: usize| {
            (index * axis.stride + entry * axis.dilation) as f64 - axis.before as f64
        };
        let entry = |entry: usize| {
            let y = start(rows, row, entry / columns.kernel) + f64::from(offset(2 * entry));
            let x =
                start(columns, column, entry % columns.kernel) + f64::from(offset(2 * entry + 1));
            let factor = f64::from(mask(entry));
            let found = pixels(y, x, rows.input, columns.input);
            found.into_iter().map(|(pixel, weight)| (pixel, weight * factor)).collect()
        };
        (0..rows.kernel * columns.kernel).map(entry).collect()
    }
}

impl Operator for DeformConv {
    fn onnx_type(&self) -> &'static str {
        "DeformConv"
    }

    fn onnx(&self) -> OnnxForm {
        let bias = self.bias.then_some(3);
        let mask = self.mask.then_some(4);
        self.window
            .form()
            .attribute("group", OnnxAttribute::Int(self.groups as i64))
            .attribute("offset_group", OnnxAttribute::Int(self.offset_groups as i64))
            .places([0, 1, 2].into_iter().chain(bias).chain(mask).collect())
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let Inputs { x, weight, offset, bias, mask } = self.named(inputs)?;
        for input in inputs {
            input.expect(DType::F32)?;
        }
        let mismatch = || format!("offsets {offset} and a weight {weight} do not go with {x}");
        let ([batch, channels, height, width], [outputs, inner, rows, columns]) =
            (x.shape.as_slice(), weight.shape.as_slice())
        else {
            return Err(mismatch());
        };
        let spatial = self.window.infer(&[height.clone(), width.clone()], Rounding::Floor)?;
        let entries: usize = self.window.kernel.iter().product();
        let entries = entries.checked_mul(self.offset_groups).filter(|&entries| entries > 0);
        let entries = entries.ok_or_else(mismatch)?;
        let falls = |dim: &Dim, groups: usize| {
            groups > 0 && dim.fixed().is_none_or(|size| size.is_multiple_of(groups))
        };
        let inner_fits = match (channels.fixed(), inner.fixed()) {
            (Some(channels), Some(inner)) => inner.checked_mul(self.groups) == Some(channels),
            _ => true,
        };
        let kernel = [rows, columns].into_iter().zip(&self.window.kernel);
        let kernel_fits = kernel.into_iter().all(|(dim, &size)| dim.may_equal(&Dim::Fixed(size)));
        let moved = |input: &Argument<'_>, channels: usize| {
            input.shape.len() == 4
                && input.shape[0].may_equal(batch)
                && input.shape[1].may_equal(&Dim::Fixed(channels))
                && input.shape[2..].iter().zip(&spatial).all(|(dim, size)| dim.may_equal(size))
        };
        let moves = moved(offset, entries.saturating_mul(2))
            && mask.is_none_or(|mask| moved(mask, entries));
        let bias_fits =
            bias.is_none_or(|bias| bias.shape.len() == 1 && bias.shape[0].may_equal(outputs));
        let fits = falls(outputs, self.groups) && falls(channels, self.offset_groups);
        if !(fits && inner_fits && kernel_fits && moves && bias_fits) {
            return Err(mismatch());
        }
        let shape = [&[batch.clone(), outputs.clone()], spatial.as_slice()].concat();
        Ok(ValueType { dtype: DType::F32, shape })
    }

    /// Sums in `f64`.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let Inputs { x, weight, offset, bias, mask } = self.named(inputs)?;
        let sizes = self.sizes(x.shape(), weight.shape())?;
        let [image, kernel, places] = sizes.areas();
        let Sizes { batch, channels, outputs, inner, .. } = sizes;
        let shape = [batch, outputs, sizes.rows.output, sizes.columns.output];
        let mut sums = vec![0f64; affordable(&shape)?];
        let moved = [batch, self.offset_groups, kernel, places, 2];
        let moved = crate::weights::checked_elements(&moved).unwrap_or(usize::MAX) / 2;
        let mask = mask.map(|mask| floats(mask)).transpose()?;
        let bias = bias.map(|bias| floats(bias)).transpose()?;
        if offset.len() / 2 != moved
            || mask.is_some_and(|mask| mask.len() != moved)
            || bias.is_some_and(|bias| bias.len() != outputs)
        {
            return Err(format!("offsets {offset:?}, mask or bias do not go with {x:?}"));
        }
        let (x, weight, offset) = (floats(x)?, floats(weight)?, floats(offset)?);
        let in_offset_group = channels / self.offset_groups;
        if x.is_empty() || sums.is_empty() {
            let biased = |index: usize| bias.map_or(0.0, |bias| bias[index / places % outputs]);
            return Ok(Tensor::from_fn(&shape, biased));
        }
        for part in 0..batch * self.offset_groups {
            let (item, offset_group) = (part / self.offset_groups, part % self.offset_groups);
            for place in 0..places {
                let shift = |index: usize| offset[(part * 2 * kernel + index) * places + place];
                let factor = |entry: usize| {
                    mask.map_or(1.0, |mask| mask[(part * kernel + entry) * places + place])
                };
                let entries = self.entries(&sizes, place, shift, factor);
                for channel in offset_group * in_offset_group..(offset_group + 1) * in_offset_group
                {
                    let pixels = &x[(item * channels + channel) * image..][..image];
                    let read = |entry: &Vec<(usize, f64)>| {
                        entry.iter().map(|&(at, by)| by * f64::from(pixels[at])).sum::<f64>()
                    };
                    let values: Vec<f64> = entries.iter().map(read).collect();
                    let in_group = outputs / self.groups;
                    let group = channel / inner;
                    for output in group * in_group..(group + 1) * in_group {
                        let first = (output * inner + channel % inner) * kernel;
                        let weights = weight[first..first + kernel].iter();
                        let products = weights.zip(&values).map(|(&w, value)| f64::from(w) * value);
                        sums[(item * outputs + output) * places + place] += products.sum::<f64>();
                    }
                }
            }
        }
        let biased = |(index, sum): (usize, f64)| {
            (sum + bias.map_or(0.0, |bias| f64::from(bias[index / places % outputs]))) as f32
        };
        let values = sums.into_iter().enumerate().map(biased).collect();
        Tensor::new(&shape, values).map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], output: &[usize]) -> u64 {
        2 * elements(output) * elements(&inputs[1][1..])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::{Conv, Padding};

    fn window() -> Window {
        let padding = Padding::Explicit { before: vec![1, 0], after: vec![0, 1] };
        Window { kernel: vec![2, 2], strides: vec![1, 2], dilations: vec![2, 1], padding }
    }

    fn numbers(shape: &[usize]) -> Tensor {
        Tensor::from_fn(shape, |index| ((index * 37 + 11) % 29) as f32 / 29.0 - 0.4)
    }

    fn near(a: &Tensor, b: &Tensor) {
        assert_eq!(a.shape(), b.shape());
        let (a, b) = (a.elements::<f32>().unwrap(), b.elements::<f32>().unwrap());
        assert!(a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5), "{a:?} {b:?}");
    }

    #[test]
    fn without_offsets_it_is_a_convolution() {
        let (x, weight) = (numbers(&[2, 4, 5, 5]), numbers(&[6, 2, 2, 2]));
        let bias = numbers(&[6]);
        let conv = Conv { window: window(), groups: 2 };
        let inputs = [&x, &weight, &bias];
        let expected = conv.evaluate(&inputs, &Bindings::default()).unwrap();
        let [rows, columns] = [expected.shape()[2], expected.shape()[3]];
        let none = Tensor::zeros(DType::F32, &[2, 16, rows, columns]);
        let op =
            DeformConv { window: window(), groups: 2, offset_groups: 2, bias: true, mask: false };
        let y = op.evaluate(&[&x, &weight, &none, &bias], &Bindings::default()).unwrap();
        near(&y, &expected);
        // A mask of halves halves what is not the bias.
        let halves = Tensor::from_fn(&[2, 8, rows, columns], |_| 0.5f32);
        let masked = DeformConv { bias: false, mask: true, ..op.clone() };
        let y = masked.evaluate(&[&x, &weight, &none, &halves], &Bindings::default()).unwrap();
        let plain = conv.evaluate(&[&x, &weight], &Bindings::default()).unwrap();
        let half = Tensor::from_fn(y.shape(), |index| floats(&plain).unwrap()[index] / 2.0);
        near(&y, &half);
        assert!(op.evaluate(&[&x, &weight, &halves, &bias], &Bindings::default()).is_err());
    }

    #[test]
    fn entries_lie_where_their_offsets_say() {
        let x = Tensor::from_fn(&[1, 1, 2, 3], |index| index as f32);
        let weight = Tensor::new(&[1, 1, 1, 1], vec![2f32]).unwrap();
        let padding = Padding::Explicit { before: vec![0; 2], after: vec![0; 2] };
        let window =
            Window { kernel: vec![1; 2], strides: vec![1; 2], dilations: vec![1; 2], padding };
        let op = DeformConv { window, groups: 1, offset_groups: 1, bias: false, mask: false };
        let read = |down: f32, across: f32| {
            let offset = Tensor::from_fn(&[1, 2, 2, 3], |i| if i < 6 { down } else { across });
            let y = op.evaluate(&[&x, &weight, &offset], &Bindings::default()).unwrap();
            y.elements::<f32>().unwrap().to_vec()
        };
        assert_eq!(read(0.0, 1.0), [2.0, 4.0, 0.0, 8.0, 10.0, 0.0]);
        assert_eq!(read(0.5, 0.0)[..3], [3.0, 5.0, 7.0]);
        assert_eq!(read(-0.5, 0.0)[..3], [0.0, 1.0, 2.0]);
        assert_eq!(read(1e30, f32::NAN), [0.0; 6]);
    }
}
