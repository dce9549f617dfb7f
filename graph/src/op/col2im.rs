//! Images from the windows that were cut out of them.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::movement::whole_numbers;
use super::position::affordable;
use super::window::{self, Padding, Rounding, Window, WindowAxis};
use super::{Argument, Integer, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// Adds up windows where they lie in an image, as ONNX's Col2Im and PyTorch's `fold`:
/// `(x, image, block)`.
///
/// # Shapes
///
/// x `[batch, channels · entries of a window, windows]`; the sizes of the image and those of a window
/// are lists of one number an axis. The output is `[batch, channels, …]` with the sizes of the image.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Col2Im {
    /// Distance of two windows along each axis, > 0.
    pub strides: Vec<usize>,
    /// Distance of two entries of a window along each axis, > 0.
    pub dilations: Vec<usize>,
    /// What was added around the image.
    pub padding: Padding,
}

/// What slid over an image, and how often it fits.
struct Cut {
    axes: Vec<WindowAxis>,
    entries: usize,
    windows: usize,
}

impl Col2Im {
    fn window(&self, kernel: Vec<usize>) -> Window {
        let Self { strides, dilations, padding } = self.clone();
        Window { kernel, strides, dilations, padding }
    }

    fn cut(&self, image: &[usize], block: &[usize]) -> Result<Cut, String> {
        let axes = self.window(block.to_vec()).axes(image, Rounding::Floor)?;
        let product = |sizes: &[usize]| {
            let product = crate::weights::checked_elements(sizes);
            product.ok_or_else(|| format!("the sizes {sizes:?} are too large"))
        };
        let (entries, windows) = (product(block)?, product(&window::outputs(&axes))?);
        Ok(Cut { axes, entries, windows })
    }
}

/// Numbers that are sizes.
fn sizes(numbers: &[i64]) -> Result<Vec<usize>, String> {
    let sizes = numbers.iter().map(|&size| usize::try_from(size)).collect::<Result<_, _>>();
    sizes.map_err(|_| format!("expected sizes, found {numbers:?}"))
}

/// The sizes that an input lists, when all are known.
fn known(list: &Argument<'_>) -> Result<Option<Vec<usize>>, String> {
    let numbers: Option<Vec<i64>> =
        list.integers.and_then(|numbers| numbers.iter().map(Integer::known).collect());
    numbers.map(|numbers| sizes(&numbers)).transpose()
}

/// Channels, of as many rows.
fn channels(rows: usize, entries: usize) -> Result<usize, String> {
    let whole = entries > 0 && rows.is_multiple_of(entries);
    whole.then(|| rows / entries).ok_or_else(|| format!("{rows} rows are no windows of {entries}"))
}

impl Operator for Col2Im {
    fn onnx_type(&self) -> &'static str {
        "Col2Im"
    }

    fn onnx(&self) -> OnnxForm {
        let mut form = self.window(Vec::new()).form();
        form.attributes.retain(|(name, _)| *name != "kernel_shape");
        form
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, image, block] = exactly(inputs)?;
        x.expect(DType::F32)?;
        let axes = self.strides.len();
        for list in [image, block] {
            list.expect(DType::I64)?;
            if list.shape != [Dim::Fixed(axes)] {
                return Err(format!("expected {axes} sizes, found {list}"));
            }
        }
        let [batch, rows, columns] = x.shape.as_slice() else {
            return Err(format!("expected [batch, rows, windows], found {x}"));
        };
        let kernel = known(&block)?;
        if let (Some(image), Some(block)) = (known(&image)?, &kernel) {
            let Cut { windows, .. } = self.cut(&image, block)?;
            if !columns.may_equal(&Dim::Fixed(windows)) {
                return Err(format!("expected {windows} windows, found {x}"));
            }
        }
        let entries = kernel.map(|block| crate::weights::checked_elements(&block).unwrap_or(0));
        let channels = match (rows, entries) {
            (Dim::Fixed(rows), Some(entries)) => Dim::Fixed(channels(*rows, entries)?),
            _ => Dim::Unknown,
        };
        let mut shape = vec![batch.clone(), channels];
        match image.integers {
            Some(numbers) => {
                shape.extend(numbers.iter().map(Integer::dim).collect::<Result<Vec<_>, _>>()?);
            }
            None => shape.extend(vec![Dim::Unknown; axes]),
        }
        Ok(ValueType { dtype: DType::F32, shape })
    }

    /// Sums in `f64`.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, image, block] = exactly(inputs)?;
        let (image, block) = (sizes(&whole_numbers(image)?)?, sizes(&whole_numbers(block)?)?);
        let Cut { axes, entries, windows } = self.cut(&image, &block)?;
        let &[batch, rows, columns] = x.shape() else {
            return Err(format!("expected [batch, rows, windows], found {x:?}"));
        };
        if columns != windows {
            return Err(format!("expected {windows} windows, found {x:?}"));
        }
        let channels = channels(rows, entries)?;
        let shape = [&[batch, channels], image.as_slice()].concat();
        let mut sums = vec![0f64; affordable(&shape)?];
        let size: usize = image.iter().product();
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
        elements(&inputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put_back(
        x: &Tensor,
        image: [i64; 2],
        block: [i64; 2],
        around: usize,
    ) -> Result<Tensor, String> {
        let padding = Padding::Explicit { before: vec![around; 2], after: vec![around; 2] };
        let op = Col2Im { strides: vec![1; 2], dilations: vec![1; 2], padding };
        let [image, block] = [image, block].map(|list| Tensor::new(&[2], list.to_vec()).unwrap());
        op.evaluate(&[x, &image, &block], &Bindings::default())
    }

    #[test]
    fn places_are_added_up_as_often_as_windows_hold_them() {
        let ones = Tensor::from_fn(&[1, 8, 4], |_| 1f32);
        let y = put_back(&ones, [3, 3], [2, 2], 0).unwrap();
        assert_eq!(y.shape(), [1, 2, 3, 3]);
        let counts = [1.0, 2.0, 1.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0];
        assert_eq!(y.elements::<f32>().unwrap()[..9], counts);
        // What lies in the padding is left out.
        let x = Tensor::from_fn(&[1, 9, 1], |index| index as f32);
        let y = put_back(&x, [1, 1], [3, 3], 1).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [4.0]);
    }

    #[test]
    fn sizes_that_do_not_fit_are_refused() {
        let x = Tensor::from_fn(&[1, 8, 4], |_| 1f32);
        assert!(put_back(&x, [3, 4], [2, 2], 0).is_err());
        assert!(put_back(&x, [3, 3], [3, 1], 0).is_err());
        assert!(put_back(&x, [3, -3], [2, 2], 0).is_err());
        assert!(put_back(&x, [3, 3], [0, 2], 0).is_err());
        assert!(put_back(&x, [1 << 40, 1 << 40], [2, 2], 0).is_err());
        assert!(put_back(&x, [3, 3], [1 << 40, 2], 0).is_err());
    }
}
