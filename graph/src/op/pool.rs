//! Pooling over windows and over whole images.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::position::{affordable, position};
use super::window::{self, Entry, Rounding, Window};
use super::{Argument, OnnxAttribute, OnnxForm, Operator, elements_of, exactly, floats};
use crate::{Bindings, DType, Dim, Element, Shape, Tensor, ValueType};

/// One number for every window of `[batch, channels, d1, …]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pool {
    /// Which number.
    pub kind: PoolKind,
    /// What slides over the spatial dimensions.
    pub window: Window,
    /// Whether a last window that is not whole counts.
    pub rounding: Rounding,
}

/// What a pool makes of a window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum PoolKind {
    /// The greatest element; padding does not count.
    Max,
    /// Where in the flat input the greatest element is first found, as i64.
    MaxIndex {
        /// Order in which the spatial dimensions are counted.
        order: StorageOrder,
    },
    /// The mean.
    Average {
        /// What padding counts as.
        padding: AveragePadding,
    },
    /// `(Σ|x|ᵖ)^(1/p)`.
    Lp {
        /// The power, > 0.
        p: f32,
    },
}

/// Order in which the spatial dimensions of an image are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageOrder {
    /// The last dimension runs fastest.
    RowMajor,
    /// The first dimension runs fastest.
    ColumnMajor,
}

/// What padding counts as in a mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AveragePadding {
    /// Nothing: the mean is over the input's own elements.
    Excluded,
    /// Zeros.
    Zeros,
}

impl Operator for Pool {
    fn onnx_type(&self) -> &'static str {
        match self.kind {
            PoolKind::Max | PoolKind::MaxIndex { .. } => "MaxPool",
            PoolKind::Average { .. } => "AveragePool",
            PoolKind::Lp { .. } => "LpPool",
        }
    }

    fn onnx(&self) -> OnnxForm {
        let ceil = OnnxAttribute::Int(i64::from(self.rounding == Rounding::Ceil));
        let form = self.window.form().attribute("ceil_mode", ceil);
        match self.kind {
            PoolKind::Max => form,
            PoolKind::MaxIndex { order } => {
                let order = i64::from(order == StorageOrder::ColumnMajor);
                form.attribute("storage_order", OnnxAttribute::Int(order)).output(1).of_outputs(2)
            }
            PoolKind::Average { padding } => {
                let zeros = i64::from(padding == AveragePadding::Zeros);
                let form = form.attribute("count_include_pad", OnnxAttribute::Int(zeros));
                // Dilations are younger than what is written otherwise.
                if self.window.dilations.iter().any(|&size| size != 1) {
                    form.since(19)
                } else {
                    form
                }
            }
            PoolKind::Lp { p } => form.attribute("p", OnnxAttribute::Int(p as i64)),
        }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        let dtype = match self.kind {
            PoolKind::Max | PoolKind::MaxIndex { .. } => maximum_type(x.value_type)?,
            PoolKind::Average { .. } | PoolKind::Lp { .. } => {
                x.expect(DType::F32)?;
                DType::F32
            }
        };
        let [batch, channels, spatial @ ..] = x.shape.as_slice() else {
            return Err(format!("expected a batch of images, found {x}"));
        };
        let spatial = self.window.infer(spatial, self.rounding)?;
        let shape = [&[batch.clone(), channels.clone()], spatial.as_slice()].concat();
        let index = matches!(self.kind, PoolKind::MaxIndex { .. });
        Ok(ValueType { dtype: if index { DType::I64 } else { dtype }, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        match x.dtype() {
            DType::F32 => self.evaluate_floats(x),
            DType::I8 => self.maximum(x, i8::MIN),
            DType::U8 => self.maximum(x, u8::MIN),
            other => Err(format!("expected f32, i8 or u8, found {other}")),
        }
    }

    fn flops(&self, _: &[Vec<usize>], output: &[usize]) -> u64 {
        elements(output) * elements(&self.window.kernel)
    }
}

impl Pool {
    fn evaluate_floats(&self, x: &Tensor) -> Result<Tensor, String> {
        let values = floats(x)?;
        let own = |image: usize, entries: &[Entry]| -> Vec<f64> {
            let own = entries.iter().filter_map(|entry| entry.input);
            own.map(|place| f64::from(values[image + place])).collect()
        };
        match self.kind {
            PoolKind::Max | PoolKind::MaxIndex { .. } => self.maximum(x, f32::NEG_INFINITY),
            PoolKind::Average { padding } => self.windows(x, |image, entries| {
                let own = own(image, entries);
                let count = match padding {
                    AveragePadding::Excluded => own.len(),
                    AveragePadding::Zeros => entries.len(),
                };
                (own.iter().sum::<f64>() / count as f64) as f32
            }),
            PoolKind::Lp { p } => {
                let p = f64::from(p);
                self.windows(x, |image, entries| {
                    let powers = own(image, entries).into_iter().map(|value| value.abs().powf(p));
                    powers.sum::<f64>().powf(1.0 / p) as f32
                })
            }
        }
    }

    /// `reduce(start of the image, entries of the window)` for every window.
    fn windows<T: Element>(
        &self,
        x: &Tensor,
        reduce: impl Fn(usize, &[Entry]) -> T,
    ) -> Result<Tensor, String> {
        let [batch, channels, spatial @ ..] = x.shape() else {
            return Err(format!("expected a batch of images, found {x:?}"));
        };
        let axes = self.window.axes(spatial, self.rounding)?;
        let shape = [&[*batch, *channels], window::outputs(&axes).as_slice()].concat();
        affordable(&shape)?;
        let (image, count) =
            (spatial.iter().product::<usize>(), shape[2..].iter().product::<usize>());
        let windows: Vec<_> = (0..count).map(|index| window::entries(&axes, index)).collect();
        Ok(Tensor::from_fn(&shape, |index| reduce(index / count * image, &windows[index % count])))
    }

    /// The greatest element of each window, or its place; `least` for a window without elements.
    fn maximum<T: Element + PartialOrd>(&self, x: &Tensor, least: T) -> Result<Tensor, String> {
        let values = elements_of::<T>(x)?;
        let greatest = |image: usize, entries: &[Entry]| {
            let own = entries.iter().filter_map(|entry| entry.input).map(|place| image + place);
            own.reduce(|best, place| if values[place] > values[best] { place } else { best })
        };
        match self.kind {
            PoolKind::Max => self.windows(x, |image, entries| {
                greatest(image, entries).map_or(least, |place| values[place])
            }),
            PoolKind::MaxIndex { order } => {
                let spatial = x.shape().get(2..).unwrap_or_default();
                self.windows(x, |image, entries| {
                    greatest(image, entries).map_or(-1, |place| match order {
                        StorageOrder::RowMajor => place as i64,
                        StorageOrder::ColumnMajor => {
                            let at = position(place - image, spatial);
                            let within = at.iter().zip(spatial).rev();
                            let within = within.fold(0, |flat, (at, size)| flat * size + at);
                            (image + within) as i64
                        }
                    })
                })
            }
            PoolKind::Average { .. } | PoolKind::Lp { .. } => {
                Err(format!("expected f32, found {}", x.dtype()))
            }
        }
    }
}

fn maximum_type(x: &ValueType) -> Result<DType, String> {
    match x.dtype {
        DType::F32 | DType::I8 | DType::U8 => Ok(x.dtype),
        _ => Err(format!("expected f32, i8 or u8, found {x}")),
    }
}

/// One number for every whole image of `[batch, channels, d1, …]`: `[batch, channels, 1, …]`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum GlobalPool {
    /// The greatest element.
    Max,
    /// The mean.
    Average,
    /// `(Σ|x|ᵖ)^(1/p)`.
    Lp {
        /// The power, > 0.
        p: f32,
    },
}

impl Operator for GlobalPool {
    fn onnx_type(&self) -> &'static str {
        match self {
            Self::Max => "GlobalMaxPool",
            Self::Average => "GlobalAveragePool",
            Self::Lp { .. } => "GlobalLpPool",
        }
    }

    fn onnx(&self) -> OnnxForm {
        match self {
            Self::Max | Self::Average => OnnxForm::default(),
            Self::Lp { p } => OnnxForm::default().attribute("p", OnnxAttribute::Int(*p as i64)),
        }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        x.expect(DType::F32)?;
        let [batch, channels, spatial @ ..] = x.shape.as_slice() else {
            return Err(format!("expected a batch of images, found {x}"));
        };
        let ones: Shape = vec![Dim::Fixed(1); spatial.len()];
        let shape = [&[batch.clone(), channels.clone()], ones.as_slice()].concat();
        Ok(ValueType { dtype: DType::F32, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let values = floats(x)?;
        let [batch, channels, spatial @ ..] = x.shape() else {
            return Err(format!("expected a batch of images, found {x:?}"));
        };
        let image: usize = spatial.iter().product();
        let shape = [&[*batch, *channels], vec![1; spatial.len()].as_slice()].concat();
        Ok(Tensor::from_fn(&shape, |index| {
            let own = values[index * image..][..image].iter();
            match self {
                Self::Max => {
                    own.fold(f32::NEG_INFINITY, |best, &x| if x > best { x } else { best })
                }
                Self::Average => (own.map(|&x| f64::from(x)).sum::<f64>() / image as f64) as f32,
                Self::Lp { p } => {
                    let p = f64::from(*p);
                    let powers = own.map(|&x| f64::from(x).abs().powf(p));
                    powers.sum::<f64>().powf(1.0 / p) as f32
                }
            }
        }))
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        elements(&inputs[0])
    }
}

#[cfg(test)]
mod tests {
    use super::super::window::Padding;
    use super::*;

    fn pool(kind: PoolKind) -> Pool {
        let window = Window {
            kernel: vec![2, 2],
            strides: vec![2, 2],
            dilations: vec![1, 1],
            padding: Padding::Explicit { before: vec![1, 0], after: vec![0, 0] },
        };
        Pool { kind, window, rounding: Rounding::Floor }
    }

    #[test]
    fn places_are_counted_in_either_order() {
        let x = Tensor::from_fn(&[1, 2, 3, 2], |index| index as u8);
        let places = |order| {
            let pool = pool(PoolKind::MaxIndex { order });
            let y = pool.evaluate(&[&x], &Bindings::default()).unwrap();
            y.elements::<i64>().unwrap().to_vec()
        };
        assert_eq!(places(StorageOrder::RowMajor), [1, 5, 7, 11]);
        assert_eq!(places(StorageOrder::ColumnMajor), [3, 5, 9, 11]);
    }

    #[test]
    fn a_power_of_two_is_the_length_of_the_window() {
        let x = Tensor::new(&[1, 1, 1, 2], vec![3f32, -4.0]).unwrap();
        let y = pool(PoolKind::Lp { p: 2.0 }).evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [5.0]);
        let y = GlobalPool::Lp { p: 1.0 }.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [7.0]);
    }

    #[test]
    fn empty_batches_stay_empty() {
        let x = Tensor::zeros(DType::F32, &[0, 3, 4, 4]);
        let y = pool(PoolKind::Max).evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [0, 3, 2, 2]);
        let y = GlobalPool::Average.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.shape(), [0, 3, 1, 1]);
    }
}
