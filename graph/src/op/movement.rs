//! Data movement: no arithmetic, only other places, shapes and types.

use serde::{Deserialize, Serialize};

use super::position::affordable;
use super::{Argument, Integer, OnnxAttribute, OnnxForm, Operator, elements_of, exactly};
use crate::{Bindings, DType, Dim, Shape, Tensor, ValueType, dim};

/// Entries of `data` along `axis` at `indices`: the output's shape is data's with that dimension
/// replaced by the shape of the indices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gather {
    /// Dimension of `data` to pick from.
    pub axis: usize,
}

impl Operator for Gather {
    fn onnx_type(&self) -> &'static str {
        "Gather"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().axis(self.axis)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [data, indices] = exactly(inputs)?;
        if !matches!(indices.dtype, DType::I64 | DType::I32) {
            return Err(format!("expected integer indices, found {indices}"));
        }
        if self.axis >= data.shape.len() {
            return Err(format!("axis {} is not a dimension of {data}", self.axis));
        }
        let (before, after) = (&data.shape[..self.axis], &data.shape[self.axis + 1..]);
        let shape = [before, &indices.shape, after].concat();
        Ok(ValueType { dtype: data.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [data, indices] = exactly(inputs)?;
        let size = data.shape()[self.axis];
        let picked = whole_numbers(indices)?;
        let picked: Vec<usize> = picked
            .iter()
            .map(|&index| from_either_end(index, size, self.axis))
            .collect::<Result<_, _>>()?;
        let (before, after) = (&data.shape()[..self.axis], &data.shape()[self.axis + 1..]);
        let shape = [before, indices.shape(), after].concat();
        affordable(&shape)?;
        data.select(self.axis, &picked).reshaped(&shape).map_err(|error| error.to_string())
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [data, indices] = exactly(inputs).ok()?;
        let (data, indices) = (data.integers?, indices.integers?);
        let pick = |index: &Integer| {
            Some(data[from_either_end(index.known()?, data.len(), self.axis).ok()?].clone())
        };
        indices.iter().map(pick).collect()
    }
}

/// The same elements under another shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Reshape {
    /// A size a dimension: 0 copies the input's dimension at that place, −1 (at most once) takes
    /// what is left.
    pub shape: Vec<i64>,
}

impl Reshape {
    /// The output's shape.
    fn target(&self, input: &[Dim]) -> Result<Shape, String> {
        let fail = |why: &str| format!("{why}: {} to {:?}", dim::display(input), self.shape);
        let mut shape = Shape::new();
        let mut rest: Vec<Dim> =
            input.iter().filter(|dim| dim.fixed().is_none()).cloned().collect();
        let mut fixed: usize = input.iter().filter_map(Dim::fixed).product();
        let mut left = None;
        for (position, &size) in self.shape.iter().enumerate() {
            let dim = match size {
                0 => input.get(position).cloned().ok_or_else(|| fail("no dimension to copy"))?,
                -1 if left.is_none() => {
                    left = Some(position);
                    shape.push(Dim::Fixed(1));
                    continue;
                }
                size => usize::try_from(size).map(Dim::Fixed).map_err(|_| fail("bad size"))?,
            };
            match &dim {
                Dim::Fixed(0) => return Err(fail("cannot divide an empty shape")),
                Dim::Fixed(size) if fixed.is_multiple_of(*size) => fixed /= size,
                Dim::Fixed(_) => return Err(fail("the elements do not divide")),
                symbol @ (Dim::Symbol(_) | Dim::Unknown) => {
                    let found = rest.iter().position(|dim| dim == symbol);
                    rest.remove(found.ok_or_else(|| fail("a dimension is used twice"))?);
                }
            }
            shape.push(dim);
        }
        match (left, rest.as_slice()) {
            (Some(position), []) => shape[position] = Dim::Fixed(fixed),
            (Some(position), [symbol]) if fixed == 1 => shape[position] = symbol.clone(),
            (None, []) if fixed == 1 => {}
            _ => return Err(fail("the number of elements differs")),
        }
        Ok(shape)
    }
}

impl Operator for Reshape {
    fn onnx_type(&self) -> &'static str {
        "Reshape"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().integers("shape", self.shape.clone())
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        Ok(ValueType { dtype: x.dtype, shape: self.target(&x.shape)? })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        if self.shape.len() > 1 { None } else { x.integers.map(<[_]>::to_vec) }
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let input: Shape = x.shape().iter().map(|&size| Dim::Fixed(size)).collect();
        let shape = Bindings::default().sizes(&self.target(&input)?)?;
        x.reshaped(&shape).map_err(|error| error.to_string())
    }
}

/// Reordered dimensions: output dimension `i` is input dimension `permutation[i]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transpose {
    /// Every dimension of the input once.
    pub permutation: Vec<usize>,
}

impl Operator for Transpose {
    fn onnx_type(&self) -> &'static str {
        "Transpose"
    }

    fn onnx(&self) -> OnnxForm {
        let permutation = self.permutation.iter().map(|&axis| axis as i64).collect();
        OnnxForm::default().attribute("perm", OnnxAttribute::Ints(permutation))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        let mut sorted = self.permutation.clone();
        sorted.sort_unstable();
        if !sorted.iter().copied().eq(0..x.shape.len()) {
            return Err(format!("{:?} is not an order of the dimensions of {x}", self.permutation));
        }
        let shape = self.permutation.iter().map(|&axis| x.shape[axis].clone()).collect();
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let shape: Vec<usize> = self.permutation.iter().map(|&axis| x.shape()[axis]).collect();
        let source = |index| {
            let mut rest = index;
            let mut position = vec![0; shape.len()];
            for axis in (0..shape.len()).rev() {
                position[self.permutation[axis]] = rest % shape[axis];
                rest /= shape[axis];
            }
            Some(position.iter().zip(x.shape()).fold(0, |flat, (p, size)| flat * size + p))
        };
        x.rearranged(&shape, None, source).map_err(|error| error.to_string())
    }
}

/// Extra dimensions of size 1.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unsqueeze {
    /// Where the new dimensions stand in the output, ascending.
    pub axes: Vec<usize>,
}

impl Operator for Unsqueeze {
    fn onnx_type(&self) -> &'static str {
        "Unsqueeze"
    }

    fn onnx(&self) -> OnnxForm {
        let axes = self.axes.iter().map(|&axis| axis as i64).collect();
        OnnxForm::default().integers("axes", axes)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        let mut shape = x.shape.clone();
        for &axis in &self.axes {
            if axis > shape.len() {
                return Err(format!("axis {axis} lies beyond the dimensions of {x}"));
            }
            shape.insert(axis, Dim::Fixed(1));
        }
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        if x.shape.len() + self.axes.len() > 1 { None } else { x.integers.map(<[_]>::to_vec) }
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let mut shape = x.shape().to_vec();
        for &axis in &self.axes {
            shape.insert(axis, 1);
        }
        x.reshaped(&shape).map_err(|error| error.to_string())
    }
}

/// The entries `start..end` along `axis`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slice {
    /// Dimension that is cut.
    pub axis: usize,
    /// First entry kept.
    pub start: usize,
    /// One past the last entry kept: a number, or a symbol bound when the graph runs (then `start`
    /// is 0 and the output's dimension is the symbol).
    pub end: Dim,
}

impl Operator for Slice {
    fn onnx_type(&self) -> &'static str {
        "Slice"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default()
            .integers("starts", vec![self.start as i64])
            .size("ends", self.end.clone())
            .integers("axes", vec![self.axis as i64])
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        let size = x.shape.get(self.axis);
        let size = size.ok_or_else(|| format!("axis {} is not a dimension of {x}", self.axis))?;
        let dim = match (&self.end, size) {
            (Dim::Fixed(end), size) if size.fixed().is_none_or(|size| *end <= size) => {
                let length = end.checked_sub(self.start);
                Dim::Fixed(length.ok_or_else(|| format!("{}..{end} is no range", self.start))?)
            }
            (symbol @ Dim::Symbol(_), _) if self.start == 0 => symbol.clone(),
            _ => return Err(format!("{}..{} is not inside {x}", self.start, self.end)),
        };
        let mut shape = x.shape.clone();
        shape[self.axis] = dim;
        Ok(ValueType { dtype: x.dtype, shape })
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        Some(x.integers?.get(self.start..self.end.fixed()?)?.to_vec())
    }

    fn evaluate(&self, inputs: &[&Tensor], bindings: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        let end = bindings.size(&self.end).ok_or_else(|| format!("`{}` is not bound", self.end))?;
        let size = x.shape()[self.axis];
        if self.start > end || end > size {
            let axis = self.axis;
            return Err(format!(
                "{}..{end} is outside dimension {axis} of size {size}",
                self.start
            ));
        }
        Ok(x.select(self.axis, &(self.start..end).collect::<Vec<_>>()))
    }
}

/// Another element type; floats become integers by truncation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cast {
    /// Type of the output.
    pub to: DType,
}

impl Operator for Cast {
    fn onnx_type(&self) -> &'static str {
        "Cast"
    }

    fn onnx(&self) -> OnnxForm {
        OnnxForm::default().attribute("to", OnnxAttribute::Type(self.to))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [x] = exactly(inputs)?;
        Ok(ValueType { dtype: self.to, shape: x.shape.clone() })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x] = exactly(inputs)?;
        convert(x, self.to)
    }

    fn integers(&self, inputs: &[Argument<'_>]) -> Option<Vec<Integer>> {
        let [x] = exactly(inputs).ok()?;
        let integers = matches!(self.to, DType::I64 | DType::I32);
        if integers { x.integers.map(<[_]>::to_vec) } else { None }
    }
}

/// The elements of `x` as another type: fractions are cut, integers keep their low bits, and a
/// number is true unless it is 0.
fn convert(x: &Tensor, to: DType) -> Result<Tensor, String> {
    macro_rules! from {
        ($type:ty, $is_true:expr) => {{
            let values = elements_of::<$type>(x)?;
            match to {
                DType::F32 => Tensor::from_fn(x.shape(), |index| values[index] as f32),
                DType::I64 => Tensor::from_fn(x.shape(), |index| values[index] as i64),
                DType::I32 => Tensor::from_fn(x.shape(), |index| values[index] as i32),
                DType::I8 => Tensor::from_fn(x.shape(), |index| values[index] as i8),
                DType::U8 => Tensor::from_fn(x.shape(), |index| values[index] as u8),
                DType::Bool => Tensor::from_fn(x.shape(), |index| $is_true(values[index])),
            }
        }};
    }
    Ok(match x.dtype() {
        DType::F32 => from!(f32, |value| value != 0.0),
        DType::I64 => from!(i64, |value| value != 0),
        DType::I32 => from!(i32, |value| value != 0),
        DType::I8 => from!(i8, |value| value != 0),
        DType::U8 => from!(u8, |value| value != 0),
        DType::Bool => {
            let values = elements_of::<bool>(x)?;
            let bytes = Tensor::from_fn(x.shape(), |index| u8::from(values[index]));
            if to == DType::Bool { x.clone() } else { convert(&bytes, to)? }
        }
    })
}

/// The elements of an integer tensor.
pub(super) fn whole_numbers(x: &Tensor) -> Result<Vec<i64>, String> {
    match x.dtype() {
        DType::I64 => elements_of::<i64>(x).map(<[_]>::to_vec),
        DType::I32 => elements_of::<i32>(x).map(|x| x.iter().map(|&x| i64::from(x)).collect()),
        other => Err(format!("expected integers, found {other}")),
    }
}

/// The place that `index` names in a dimension of `size`: from its end when it is negative.
pub(super) fn from_either_end(index: i64, size: usize, axis: usize) -> Result<usize, String> {
    let place = if index < 0 { index + size as i64 } else { index };
    usize::try_from(place)
        .ok()
        .filter(|&place| place < size)
        .ok_or_else(|| format!("index {index} is outside dimension {axis} of size {size}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[&str]) -> Shape {
        dims.iter().map(|dim| dim.parse().map_or_else(|_| Dim::symbol(dim), Dim::Fixed)).collect()
    }

    #[test]
    fn reshape_copies_and_infers_dimensions() {
        let check = |from: &[&str], to: &[i64], expected: Option<&[&str]>| {
            let found = Reshape { shape: to.to_vec() }.target(&shape(from));
            assert_eq!(found.ok(), expected.map(shape));
        };
        check(&["b", "s", "384"], &[0, 0, 12, 32], Some(&["b", "s", "12", "32"]));
        check(&["b", "s", "12", "32"], &[0, 0, -1], Some(&["b", "s", "384"]));
        check(&["b", "4"], &[-1, 4], Some(&["b", "4"]));
        check(&["b", "s"], &[-1], None);
        check(&["6"], &[4], None);
        check(&["6"], &[2, -1, -1], None);
    }

    #[test]
    fn transpose_moves_elements() {
        let x = Tensor::from_fn(&[2, 3], |index| index as f32);
        let y =
            Transpose { permutation: vec![1, 0] }.evaluate(&[&x], &Bindings::default()).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [0.0, 3.0, 1.0, 4.0, 2.0, 5.0]);
    }

    #[test]
    fn gather_names_an_index_outside_the_table() {
        let table = Tensor::from_fn(&[2, 2], |index| index as f32);
        let indices = Tensor::new(&[1], vec![2i64]).unwrap();
        let error = Gather { axis: 0 }.evaluate(&[&table, &indices], &Bindings::default());
        assert_eq!(error.unwrap_err(), "index 2 is outside dimension 0 of size 2");
    }

    #[test]
    fn slice_takes_a_bound_symbol() {
        let table = Tensor::from_fn(&[4, 2], |index| index as f32);
        let slice = Slice { axis: 0, start: 0, end: Dim::symbol("sequence") };
        let y = slice.evaluate(&[&table], &Bindings::new([("sequence", 2)])).unwrap();
        assert_eq!(y.elements::<f32>().unwrap(), [0.0, 1.0, 2.0, 3.0]);
    }
}
