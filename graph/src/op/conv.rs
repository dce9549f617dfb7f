//! Convolution and its transpose.

use serde::{Deserialize, Serialize};

use super::elementwise::elements;
use super::position::{affordable, flat, position};
use super::quantize::integers_of;
use super::window::{self, Padding, Rounding, Window};
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Shape, Tensor, ValueType};

/// Convolution: `(x, weight)` or `(x, weight, bias)`.
///
/// # Shapes
///
/// - x: `[batch, channels, d1, …]`
/// - weight: `[outputs, channels / groups, k1, …]`
/// - bias: `[outputs]`
/// - output: `[batch, outputs, …]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Conv {
    /// What slides over the spatial dimensions.
    pub window: Window,
    /// Into how many parts, which do not see each other, the channels fall; > 0.
    pub groups: usize,
}

/// Convolution of 8-bit integers: `(x, weight, x_zero_point, weight_zero_point)`, where the zero
/// points are scalars, that of the weight also one an output channel; the output is i32. What is
/// padded counts as zero points.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvInteger {
    /// What slides over the spatial dimensions.
    pub window: Window,
    /// Into how many parts, which do not see each other, the channels fall; > 0.
    pub groups: usize,
}

/// The first two inputs' shapes of a convolution and what follows for the output.
fn infer_conv(x: &[Dim], weight: &[Dim], window: &Window, groups: usize) -> Result<Shape, String> {
    let ([batch, channels, spatial @ ..], [outputs, inner, kernel @ ..]) = (x, weight) else {
        return Err("expected x and weight of at least 2 dimensions".to_owned());
    };
    check_kernel(kernel, window)?;
    if groups == 0 || outputs.fixed().is_some_and(|outputs| outputs % groups != 0) {
        return Err(format!("{outputs} outputs do not fall into {groups} groups"));
    }
    if let (Some(channels), Some(inner)) = (channels.fixed(), inner.fixed())
        && inner.checked_mul(groups) != Some(channels)
    {
        return Err(format!("expected {channels} channels in {groups} groups, found {inner} each"));
    }
    let spatial = window.infer(spatial, Rounding::Floor)?;
    Ok([&[batch.clone(), outputs.clone()], spatial.as_slice()].concat())
}

fn check_kernel(kernel: &[Dim], window: &Window) -> Result<(), String> {
    let same = kernel.len() == window.kernel.len()
        && kernel.iter().zip(&window.kernel).all(|(dim, &size)| Dim::Fixed(size).may_equal(dim));
    if same {
        return Ok(());
    }
    let found = crate::dim::display(kernel);
    Err(format!("expected a weight with a kernel of {:?}, found {found}", window.kernel))
}

fn check_bias(bias: Option<&Argument<'_>>, outputs: &Dim) -> Result<(), String> {
    match bias {
        Some(bias) if bias.shape.len() != 1 || !bias.shape[0].may_equal(outputs) => {
            Err(format!("expected a bias of shape [{outputs}], found {bias}"))
        }
        Some(bias) => bias.expect(DType::F32),
        None => Ok(()),
    }
}

/// Every output of a convolution, from `sum(output channel, products)` with the flat indices of x
/// and of the weight in each product.
fn convolve(
    x: &[usize],
    weight: &[usize],
    window: &Window,
    groups: usize,
    mut sum: impl FnMut(usize, &mut dyn Iterator<Item = (usize, usize)>),
) -> Result<Vec<usize>, String> {
    let shape = infer_conv(&crate::dim::fixed(x), &crate::dim::fixed(weight), window, groups)?;
    let shape = Bindings::default().sizes(&shape)?;
    affordable(&shape)?;
    let axes = window.axes(&x[2..], Rounding::Floor)?;
    let (outputs, inner) = (weight[0], weight[1]);
    let count = |sizes: &[usize]| sizes.iter().product::<usize>();
    let (x_image, kernel) = (count(&x[2..]), count(&weight[2..]));
    let windows: Vec<_> =
        (0..count(&shape[2..])).map(|index| window::entries(&axes, index)).collect();
    for image in 0..shape[0] {
        for output in 0..outputs {
            let first = image * x[1] + output / (outputs / groups) * inner;
            for entries in &windows {
                let mut products = (0..inner).flat_map(|channel| {
                    entries.iter().filter_map(move |entry| {
                        let place = (first + channel) * x_image + entry.input?;
                        Some((place, (output * inner + channel) * kernel + entry.kernel))
                    })
                });
                sum(output, &mut products);
            }
        }
    }
    Ok(shape)
}

fn conv_flops(inputs: &[Vec<usize>], output: &[usize]) -> u64 {
    2 * elements(output) * elements(&inputs[1][1..])
}

fn groups_form(form: OnnxForm, groups: usize) -> OnnxForm {
    form.attribute("group", OnnxAttribute::Int(groups as i64))
}

impl Operator for Conv {
    fn onnx_type(&self) -> &'static str {
        "Conv"
    }

    fn onnx(&self) -> OnnxForm {
        groups_form(self.window.form(), self.groups)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let (x, weight, bias) = with_bias(inputs)?;
        x.expect(DType::F32)?;
        weight.expect(DType::F32)?;
        let shape = infer_conv(&x.shape, &weight.shape, &self.window, self.groups)?;
        check_bias(bias, &shape[1])?;
        Ok(ValueType { dtype: DType::F32, shape })
    }

    /// Sums in `f64`.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let (x, weight, bias) = with_bias(inputs)?;
        let (values, weights) = (floats(x)?, floats(weight)?);
        let bias = bias.map(|bias| floats(bias)).transpose()?;
        let mut output = Vec::new();
        let shape =
            convolve(x.shape(), weight.shape(), &self.window, self.groups, |channel, products| {
                let bias = bias.map_or(0.0, |bias| f64::from(bias[channel]));
                let sum: f64 =
                    products.map(|(x, w)| f64::from(values[x]) * f64::from(weights[w])).sum();
                output.push((sum + bias) as f32);
            })?;
        Tensor::new(&shape, output).map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], output: &[usize]) -> u64 {
        conv_flops(inputs, output)
    }
}

impl Operator for ConvInteger {
    fn onnx_type(&self) -> &'static str {
        "ConvInteger"
    }

    fn onnx(&self) -> OnnxForm {
        groups_form(self.window.form(), self.groups)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x, weight, x_zero, weight_zero] = exactly(inputs)?;
        for (value, zero) in [(x, x_zero), (weight, weight_zero)] {
            if !matches!(value.dtype, DType::I8 | DType::U8) {
                return Err(format!("expected 8-bit integers, found {value}"));
            }
            zero.expect(value.dtype)?;
        }
        let shape = infer_conv(&x.shape, &weight.shape, &self.window, self.groups)?;
        let by_output = weight_zero.shape.len() == 1 && weight_zero.shape[0].may_equal(&shape[1]);
        if !x_zero.shape.is_empty() || !(weight_zero.shape.is_empty() || by_output) {
            return Err(format!("expected scalar zero points, found {x_zero} and {weight_zero}"));
        }
        Ok(ValueType { dtype: DType::I32, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, weight, x_zero, weight_zero] = exactly(inputs)?;
        let (values, weights) = (integers_of(x)?, integers_of(weight)?);
        let (x_zero, zeros) = (integers_of(x_zero)?, integers_of(weight_zero)?);
        let zero = *x_zero.first().ok_or("expected a zero point")?;
        if !weight_zero.shape().is_empty() && zeros.len() != weight.shape()[0] {
            return Err(format!("expected a zero point an output, found {}", zeros.len()));
        }
        let mut output = Vec::new();
        let shape =
            convolve(x.shape(), weight.shape(), &self.window, self.groups, |channel, products| {
                let weight_zero = zeros[if zeros.len() == 1 { 0 } else { channel }];
                let products =
                    products.map(|(x, w)| (values[x] - zero) * (weights[w] - weight_zero));
                output.push(products.fold(0, i32::wrapping_add));
            })?;
        Tensor::new(&shape, output).map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], output: &[usize]) -> u64 {
        conv_flops(inputs, output)
    }
}

/// Transposed convolution, the gradient of a convolution with respect to its input: `(x, weight)`
/// or `(x, weight, bias)`.
///
/// # Shapes
///
/// - x: `[batch, channels, d1, …]`
/// - weight: `[channels, outputs / groups, k1, …]`
/// - bias: `[outputs]`
/// - output: `[batch, outputs, …]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConvTranspose {
    /// The window of the convolution; its padding is cut off the output here. For "same" padding
    /// the output is `input · stride`.
    pub window: Window,
    /// Into how many parts, which do not see each other, the channels fall; > 0.
    pub groups: usize,
    /// Entries added at the end of each spatial dimension, one number each.
    pub output_padding: Vec<usize>,
    /// Spatial sizes of the output, where they are given and not computed: then the padding
    /// follows from them, and of an odd number the greater half comes before, but for `SameUpper`.
    pub output_shape: Option<Vec<usize>>,
}

impl ConvTranspose {
    /// Size of the output and what is cut before it, which is negative when something is added,
    /// along dimension `axis` of `input` entries.
    ///
    /// # Errors
    ///
    /// When there is no such output.
    pub fn axis(&self, axis: usize, input: usize) -> Result<(usize, i64), String> {
        let fail = || format!("{input} entries cannot be convolved backwards by {self:?}");
        let stride = self.window.strides[axis];
        let whole = match input.checked_sub(1) {
            Some(steps) => steps.checked_mul(stride).ok_or_else(fail)? + self.window.span(axis),
            None => 0,
        };
        let whole = i64::try_from(whole + self.output_padding[axis]).map_err(|_| fail())?;
        let given = self.output_shape.as_ref().map(|sizes| sizes[axis]);
        let target = match (&self.window.padding, given) {
            (Padding::Explicit { before, after }, None) => {
                let (before, after) = (before[axis] as i64, after[axis] as i64);
                let output = usize::try_from(whole - before - after).map_err(|_| fail())?;
                return Ok((output, before));
            }
            (_, Some(size)) => size,
            (_, None) => input.checked_mul(stride).ok_or_else(fail)?,
        };
        let total = whole - i64::try_from(target).map_err(|_| fail())?;
        let less = total.div_euclid(2);
        let before = if self.window.padding == Padding::SameUpper { less } else { total - less };
        Ok((target, before))
    }

    fn target(&self, x: &[Dim], weight: &[Dim]) -> Result<Shape, String> {
        let ([batch, channels, spatial @ ..], [inner, outputs, kernel @ ..]) = (x, weight) else {
            return Err("expected x and weight of at least 2 dimensions".to_owned());
        };
        self.window.check(spatial.len())?;
        let lengths = [Some(&self.output_padding), self.output_shape.as_ref()];
        if lengths.into_iter().flatten().any(|list| list.len() != spatial.len()) {
            return Err(format!("expected one number a spatial dimension: {self:?}"));
        }
        if self.output_padding.iter().any(|&size| size > window::SIZE_LIMIT) {
            return Err(format!("output padding out of range: {self:?}"));
        }
        check_kernel(kernel, &self.window)?;
        if !channels.may_equal(inner) {
            return Err(format!("expected a weight for {channels} channels, found {inner}"));
        }
        let uneven = channels.fixed().is_some_and(|n| self.groups == 0 || n % self.groups != 0);
        let outputs = match outputs.fixed() {
            _ if uneven || self.groups == 0 => None,
            Some(outputs) => outputs.checked_mul(self.groups).map(Dim::Fixed),
            None => Some(if self.groups == 1 { outputs.clone() } else { Dim::Unknown }),
        };
        let outputs = outputs.ok_or_else(|| {
            format!("{channels} channels do not fall into {} groups", self.groups)
        })?;
        let dim = |(axis, dim): (usize, &Dim)| match (dim.fixed(), &self.output_shape) {
            (Some(size), _) => Ok(Dim::Fixed(self.axis(axis, size)?.0)),
            (None, Some(sizes)) => Ok(Dim::Fixed(sizes[axis])),
            (None, None) => Ok(Dim::Unknown),
        };
        let spatial = spatial.iter().enumerate().map(dim).collect::<Result<Shape, String>>()?;
        Ok([&[batch.clone(), outputs], spatial.as_slice()].concat())
    }
}

impl Operator for ConvTranspose {
    fn onnx_type(&self) -> &'static str {
        "ConvTranspose"
    }

    fn onnx(&self) -> OnnxForm {
        let list = |list: &[usize]| {
            OnnxAttribute::Ints(list.iter().map(|&number| number as i64).collect())
        };
        let form = groups_form(self.window.form(), self.groups)
            .attribute("output_padding", list(&self.output_padding));
        match &self.output_shape {
            Some(sizes) => form.attribute("output_shape", list(sizes)),
            None => form,
        }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let (x, weight, bias) = with_bias(inputs)?;
        x.expect(DType::F32)?;
        weight.expect(DType::F32)?;
        let shape = self.target(&x.shape, &weight.shape)?;
        check_bias(bias, &shape[1])?;
        Ok(ValueType { dtype: DType::F32, shape })
    }

    /// Sums in `f64`: every input entry adds a scaled kernel to the output.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let (x, weight, bias) = with_bias(inputs)?;
        let (values, weights) = (floats(x)?, floats(weight)?);
        let target = self.target(&crate::dim::fixed(x.shape()), &crate::dim::fixed(weight.shape()));
        let shape = Bindings::default().sizes(&target?)?;
        affordable(&shape)?;
        let (spatial, kernel) = (&x.shape()[2..], &weight.shape()[2..]);
        let cut: Vec<i64> = spatial
            .iter()
            .enumerate()
            .map(|(axis, &size)| Ok(self.axis(axis, size)?.1))
            .collect::<Result<_, String>>()?;
        let image: usize = shape[2..].iter().product();
        let mut sums = vec![0f64; shape.iter().product()];
        if let Some(bias) = bias {
            let bias = floats(bias)?;
            let channel = |index: usize| f64::from(bias[index / image.max(1) % shape[1]]);
            sums.iter_mut().enumerate().for_each(|(index, sum)| *sum = channel(index));
        }
        let (inner, per_group) = (weight.shape()[1], x.shape()[1] / self.groups);
        for (index, &value) in values.iter().enumerate() {
            let at = position(index, x.shape());
            let first = at[0] * shape[1] + at[1] / per_group * inner;
            for entry in 0..inner * kernel.iter().product::<usize>() {
                let entry_at = position(entry, &weight.shape()[1..]);
                let place: Option<Vec<usize>> = (0..spatial.len())
                    .map(|axis| {
                        let Window { strides, dilations, .. } = &self.window;
                        let place =
                            at[axis + 2] * strides[axis] + entry_at[axis + 1] * dilations[axis];
                        let place = usize::try_from(place as i64 - cut[axis]).ok();
                        place.filter(|&place| place < shape[axis + 2])
                    })
                    .collect();
                if let Some(place) = place {
                    let place = (first + entry_at[0]) * image + flat(&place, &shape[2..]);
                    let entry = at[1] * weight.shape()[1..].iter().product::<usize>() + entry;
                    sums[place] += f64::from(value) * f64::from(weights[entry]);
                }
            }
        }
        Tensor::new(&shape, sums.into_iter().map(|sum| sum as f32).collect())
            .map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        2 * elements(&inputs[0]) * elements(&inputs[1][1..])
    }
}

/// Two inputs and a third that may be left out.
fn with_bias<T>(inputs: &[T]) -> Result<(&T, &T, Option<&T>), String> {
    match inputs {
        [x, weight] => Ok((x, weight, None)),
        [x, weight, bias] => Ok((x, weight, Some(bias))),
        _ => Err(format!("expected 2 or 3 inputs, found {}", inputs.len())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: &[usize]) -> Window {
        let ones = vec![1; kernel.len()];
        let zeros = vec![0; kernel.len()];
        Window {
            kernel: kernel.to_vec(),
            strides: ones.clone(),
            dilations: ones,
            padding: Padding::Explicit { before: zeros.clone(), after: zeros },
        }
    }

    fn transposed(kernel: &[usize]) -> ConvTranspose {
        let output_padding = vec![0; kernel.len()];
        ConvTranspose { window: window(kernel), groups: 1, output_padding, output_shape: None }
    }

    #[test]
    fn groups_do_not_see_each_other() {
        let x = Tensor::new(&[1, 2, 3], vec![1f32, 2.0, 3.0, 10.0, 20.0, 30.0]).unwrap();
        let weight = Tensor::new(&[2, 1, 2], vec![1f32, 1.0, 1.0, -1.0]).unwrap();
        let bias = Tensor::new(&[2], vec![0f32, 0.5]).unwrap();
        let conv = Conv { window: window(&[2]), groups: 2 };
        let y = conv.evaluate(&[&x, &weight, &bias], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [3.0, 5.0, -9.5, -9.5]);
    }

    #[test]
    fn the_transpose_is_the_adjoint() {
        // ⟨conv(x), y⟩ = ⟨x, conv_transpose(y)⟩; all numbers are small integers, so exact.
        let mut window = window(&[2, 3]);
        window.strides = vec![2, 1];
        window.dilations = vec![1, 2];
        window.padding = Padding::Explicit { before: vec![1, 0], after: vec![0, 2] };
        let number = |index: usize| (index * 7 % 11) as f32 - 5.0;
        let x = Tensor::from_fn(&[1, 4, 5, 5], number);
        let weight = Tensor::from_fn(&[6, 2, 2, 3], number);
        let conv = Conv { window: window.clone(), groups: 2 };
        let forward = conv.evaluate(&[&x, &weight], &Bindings::default()).unwrap();
        let y = Tensor::from_fn(forward.shape(), number);
        let back =
            ConvTranspose { window, groups: 2, output_padding: vec![0, 0], output_shape: None };
        let back = back.evaluate(&[&y, &weight], &Bindings::default()).unwrap();
        assert_eq!(back.shape(), x.shape());
        let inner = |a: &Tensor, b: &Tensor| -> f32 {
            let (a, b) = (a.elements::<f32>().unwrap(), b.elements::<f32>().unwrap());
            a.iter().zip(b).map(|(a, b)| a * b).sum()
        };
        assert_eq!(inner(&forward, &y), inner(&x, &back));
    }

    #[test]
    fn batches_may_be_symbols_and_wrong_channels_are_refused() {
        let infer = |op: &dyn Operator, x: &[Dim], weight: &[usize]| {
            let value = |shape: Shape| ValueType { dtype: DType::F32, shape };
            let (x, weight) = (value(x.to_vec()), value(crate::dim::fixed(weight)));
            let argument = |value_type| Argument { value_type, constant: None, integers: None };
            op.infer(&[argument(&x), argument(&weight)]).map(|found| found.shape)
        };
        let conv = Conv { window: window(&[2]), groups: 1 };
        let image = [Dim::symbol("batch"), Dim::Fixed(4), Dim::Fixed(5)];
        let expected = [Dim::symbol("batch"), Dim::Fixed(3), Dim::Fixed(4)];
        assert_eq!(infer(&conv, &image, &[3, 4, 2]).unwrap(), expected);
        assert!(infer(&conv, &image, &[3, 5, 2]).is_err());
        assert!(infer(&conv, &image, &[3, 4, 3]).is_err());
        assert!(infer(&transposed(&[2]), &image, &[5, 3, 2]).is_err());
    }
}
