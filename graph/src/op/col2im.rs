//! Images from the windows that were cut out of them.

use serde::{Deserialize, Serialize};

use super::position::affordable;
use super::window::{self, Rounding, Window};
use super::{Argument, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Adds up windows where they lie in an image, as ONNX's Col2Im and PyTorch's `fold`: `(x)`.
///
/// # Shapes
///
/// x `[batch, channels · entries of a window, windows]`; the output is `[batch, channels, …]` with
/// the sizes of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Col2Im {
    /// Sizes of the image.
    pub image: Vec<usize>,
    /// What slid over the image.
    pub window: Window,
}

impl Col2Im {
    /// Entries of a window, and windows of the image.
    fn counts(&self) -> Result<(usize, usize), String> {
        let axes = self.window.axes(&self.image, Rounding::Floor)?;
        let product = |sizes: &[usize]| {
            let product = crate::weights::checked_elements(sizes);
            product.ok_or_else(|| format!("the sizes {sizes:?} are too large"))
        };
        Ok((product(&self.window.kernel)?, product(&window::outputs(&axes))?))
    }

    /// Channels, of as many rows.
    fn channels(&self, rows: usize) -> Result<usize, String> {
        let (entries, _) = self.counts()?;
        let whole = rows.is_multiple_of(entries);
        whole
            .then(|| rows / entries)
            .ok_or_else(|| format!("{rows} rows are no windows of {entries}"))
    }
}

impl Operator for Col2Im {
    fn onnx_type(&self) -> &'static str {
        "Col2Im"
    }

    fn onnx(&self) -> OnnxForm {
        let list = |sizes: &[usize]| sizes.iter().map(|&size| size as i64).collect();
        let mut form = self.window.form();
        form.attributes.retain(|(name, _)| *name != "kernel_shape");
        form.integers("image_shape", list(&self.image))
            .integers("block_shape", list(&self.window.kernel))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        x.expect(DType::F32)?;
        let (_, windows) = self.counts()?;
        let [batch, rows, columns] = x.shape.as_slice() else {
            return Err(format!("expected [batch, rows, windows], found {x}"));
        };
        if !columns.may_equal(&Dim::Fixed(windows)) {
            return Err(format!("expected {windows} windows, found {x}"));
        }
        let channels = match rows {
            Dim::Fixed(rows) => Dim::Fixed(self.channels(*rows)?),
            _ => Dim::Unknown,
        };
        let image = self.image.iter().map(|&size| Dim::Fixed(size));
        let shape = [batch.clone(), channels].into_iter().chain(image).collect();
        Ok(ValueType { dtype: DType::F32, shape })
    }

    /// Sums in `f64`.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let (entries, windows) = self.counts()?;
        let &[batch, rows, columns] = x.shape() else {
            return Err(format!("expected [batch, rows, windows], found {x:?}"));
        };
        if columns != windows {
            return Err(format!("expected {windows} windows, found {x:?}"));
        }
        let channels = self.channels(rows)?;
        let shape = [&[batch, channels], self.image.as_slice()].concat();
        let mut sums = vec![0f64; affordable(&shape)?];
        let size: usize = self.image.iter().product();
        let axes = self.window.axes(&self.image, Rounding::Floor)?;
        let values = floats(x)?;
        if values.is_empty() {
            return Ok(Tensor::zeros(DType::F32, &shape));
        }
        for column in 0..windows {
            for entry in window::entries(&axes, column) {
                let Some(place) = entry.input else { continue };
                for channel in 0..batch * channels {
                    let row = channel * entries + entry.kernel;
                    sums[channel * size + place] += f64::from(values[row * windows + column]);
                }
            }
        }
        let sums = sums.into_iter().map(|sum| sum as f32).collect();
        Tensor::new(&shape, sums).map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        super::elementwise::elements(&inputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::Padding;

    fn windows(kernel: [usize; 2], before: usize) -> Window {
        let padding = Padding::Explicit { before: vec![before; 2], after: vec![before; 2] };
        Window { kernel: kernel.to_vec(), strides: vec![1; 2], dilations: vec![1; 2], padding }
    }

    #[test]
    fn places_are_added_up_as_often_as_windows_hold_them() {
        let op = Col2Im { image: vec![3, 3], window: windows([2, 2], 0) };
        let ones = Tensor::from_fn(&[1, 8, 4], |_| 1f32);
        let y = op.evaluate(&[&ones], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [1, 2, 3, 3]);
        let counts = [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0];
        assert_eq!(y.elements::<f32>().unwrap()[..9], counts);
        // What lies in the padding is left out.
        let op = Col2Im { image: vec![1, 1], window: windows([3, 3], 1) };
        let x = Tensor::from_fn(&[1, 9, 1], |index| index as f32);
        let y = op.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [4.0]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let x = Tensor::from_fn(&[1, 8, 4], |_| 1f32);
        let check = |image: [usize; 2], kernel: [usize; 2]| {
            let op = Col2Im { image: image.to_vec(), window: windows(kernel, 0) };
            assert!(op.evaluate(&[&x], &Bindings::default()).is_err());
        };
        check([3, 4], [2, 2]);
        check([3, 3], [3, 1]);
        check([1 << 40, 1 << 40], [2, 2]);
        check([3, 3], [1 << 40, 2]);
    }
}
