//! Scaled dot-product attention.

use serde::{Deserialize, Serialize};

use super::elementwise::{broadcast_index, elements};
use super::position::{affordable, position};
use super::{Argument, OnnxAttribute, OnnxForm, Operator, elements_of, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// `softmax(softcap(scale · q · kᵀ) + mask) · v` by head (Vaswani et al. 2017, arXiv:1706.03762);
/// every key and value head serves `query heads / key heads` query heads in a row (Ainslie et al.
/// 2023, arXiv:2305.13245). A query without any key to look at gets weights of 0.
///
/// Inputs are `(q, k, v)` and then, where the fields below say so, the mask, the past keys and
/// values, and the lengths.
///
/// # Shapes
///
/// - q: `[batch, query heads, queries, size]`
/// - k: `[batch, key heads, new keys, size]`
/// - v: `[batch, key heads, new keys, value size]`
/// - mask: broadcasts to `[batch, query heads, queries, keys]`, where the last dimension may be
///   shorter: what it lacks is masked out. True keeps; f32 is added.
/// - past keys and values: as k and v, and before them
/// - lengths: `[batch]`, i64: so many of the keys count
/// - output: `[batch, query heads, queries, value size]`
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attention {
    /// Factor of the products; `None` for `1 / √size`.
    pub scale: Option<f32>,
    /// Products are limited to `softcap · tanh(product / softcap)`; 0 for no limit.
    pub softcap: f32,
    /// Which keys a query sees, apart from the mask.
    pub visible: VisibleKeys,
    /// Whether there is a mask.
    pub mask: bool,
    /// Whether there are past keys and values.
    pub past: bool,
    /// Whether there are lengths.
    pub lengths: bool,
    /// Which output this is.
    pub part: AttentionPart,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum VisibleKeys {
    /// All.
    All,
    /// Query `i` the past ones and the new ones up to `i`. Where lengths and no past are given, the
    /// queries are the last of those keys.
    Causal,
}

/// An output of [`Attention`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionPart {
    /// The weighted values.
    Output,
    /// `scale · q · kᵀ`, `[batch, query heads, queries, keys]`, as are the following.
    Products,
    /// The products after the softcap.
    Capped,
    /// The products after softcap and mask.
    Masked,
    /// The softmax.
    Weights,
}

/// The inputs by what they are.
struct Inputs<T> {
    q: T,
    k: T,
    v: T,
    mask: Option<T>,
    past: Option<[T; 2]>,
    lengths: Option<T>,
}

/// Sizes of an attention.
struct Sizes {
    batch: usize,
    heads: usize,
    key_heads: usize,
    queries: usize,
    past: usize,
    keys: usize,
    size: usize,
    value_size: usize,
}

impl Attention {
    fn inputs<T: Copy>(&self, inputs: &[T]) -> Result<Inputs<T>, String> {
        let mut rest = inputs.iter().copied();
        let found = inputs.len();
        let mut next = || rest.next().ok_or_else(|| format!("expected more inputs than {found}"));
        let (q, k, v) = (next()?, next()?, next()?);
        let mask = if self.mask { Some(next()?) } else { None };
        let past = if self.past { Some([next()?, next()?]) } else { None };
        let lengths = if self.lengths { Some(next()?) } else { None };
        match rest.next() {
            Some(_) => Err(format!("expected fewer inputs than {found}")),
            None => Ok(Inputs { q, k, v, mask, past, lengths }),
        }
    }

    fn sizes(&self, inputs: &Inputs<&Tensor>) -> Result<Sizes, String> {
        let four = |tensor: &Tensor| -> Result<[usize; 4], String> {
            let shape = tensor.shape().try_into();
            shape.map_err(|_| format!("expected 4 dimensions, found {tensor:?}"))
        };
        let ([batch, heads, queries, size], k, v) =
            (four(inputs.q)?, four(inputs.k)?, four(inputs.v)?);
        let past = match inputs.past {
            None => 0,
            Some([key, value]) => {
                let (key, value) = (four(key)?, four(value)?);
                let fits = key == [k[0], k[1], key[2], k[3]] && value == [v[0], v[1], key[2], v[3]];
                if !fits {
                    return Err(format!("past {key:?}, {value:?} do not go with {k:?}, {v:?}"));
                }
                key[2]
            }
        };
        let key_heads = k[1];
        if k != [batch, key_heads, k[2], size]
            || v[..3] != k[..3]
            || key_heads == 0
            || !heads.is_multiple_of(key_heads)
        {
            let q = inputs.q.shape();
            return Err(format!("q {q:?}, k {k:?} and v {v:?} do not go together"));
        }
        let keys = past + k[2];
        Ok(Sizes { batch, heads, key_heads, queries, past, keys, size, value_size: v[3] })
    }

    /// What is added to the products, by flat index of `[batch, heads, queries, keys]`.
    fn bias(&self, inputs: &Inputs<&Tensor>, sizes: &Sizes) -> Result<Vec<f64>, String> {
        let shape = [sizes.batch, sizes.heads, sizes.queries, sizes.keys];
        let mask = inputs.mask.map(|mask| Mask::new(mask, shape)).transpose()?;
        let lengths = inputs.lengths.map(elements_of::<i64>).transpose()?;
        if lengths.is_some_and(|lengths| lengths.len() != sizes.batch) {
            return Err(format!("expected {} lengths", sizes.batch));
        }
        let bias = |index| {
            let at = position(index, &shape);
            let (query, key) = (at[2], at[3]);
            let length = lengths.map(|lengths| lengths[at[0]]);
            let before = match length {
                Some(length) if !self.past => length.saturating_sub(sizes.queries as i64),
                _ => sizes.past as i64,
            };
            let is_later = key as i64 > before.saturating_add(query as i64);
            let hidden = self.visible == VisibleKeys::Causal && is_later
                || length.is_some_and(|length| key as i64 >= length);
            match &mask {
                _ if hidden => f64::NEG_INFINITY,
                Some(mask) => mask.at(&at),
                None => 0.0,
            }
        };
        Ok((0..shape.iter().product()).map(bias).collect())
    }
}

/// A mask, and the shape without the last dimension that it broadcasts to.
struct Mask<'a> {
    tensor: &'a Tensor,
    rows: [usize; 3],
}

impl<'a> Mask<'a> {
    fn new(tensor: &'a Tensor, shape: [usize; 4]) -> Result<Self, String> {
        let fail = || format!("mask {tensor:?} does not broadcast to {shape:?}");
        let [rows @ .., width] = tensor.shape() else { return Err(fail()) };
        let target = [shape[0], shape[1], shape[2]];
        let broadcast = super::elementwise::broadcast_sizes(rows, &target).map_err(|_| fail())?;
        if broadcast != target || *width > shape[3] {
            return Err(fail());
        }
        match tensor.dtype() {
            DType::F32 | DType::Bool => Ok(Self { tensor, rows: target }),
            other => Err(format!("expected a mask of f32 or bool, found {other}")),
        }
    }

    fn at(&self, at: &[usize]) -> f64 {
        let [rows @ .., width] = self.tensor.shape() else { return 0.0 };
        if at[3] >= *width {
            return f64::NEG_INFINITY;
        }
        let row = super::position::flat(&at[..3], &self.rows);
        let index = broadcast_index(row, &self.rows, rows) * width + at[3];
        match (self.tensor.elements::<f32>(), self.tensor.elements::<bool>()) {
            (Ok(added), _) => f64::from(added[index]),
            (_, Ok(kept)) if kept[index] => 0.0,
            _ => f64::NEG_INFINITY,
        }
    }
}

/// Row `key` of the past or the new part of a cache for one head.
fn cached<'a>(
    parts: (Option<&'a [f32]>, &'a [f32]),
    head: usize,
    key: usize,
    sizes: &Sizes,
    width: usize,
) -> &'a [f32] {
    let new = sizes.keys - sizes.past;
    let (part, row) = match parts.0 {
        Some(past) if key < sizes.past => (past, head * sizes.past + key),
        _ => (parts.1, head * new + key - sizes.past),
    };
    &part[row * width..][..width]
}

/// The softmax, 0 where every product is masked out.
fn weights(masked: &[f64]) -> Vec<f64> {
    if masked.iter().all(|&x| x == f64::NEG_INFINITY) {
        return vec![0.0; masked.len()];
    }
    let max = masked.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = masked.iter().map(|x| (x - max).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    exponentials.iter().map(|x| x / sum).collect()
}

impl Operator for Attention {
    fn onnx_type(&self) -> &'static str {
        "Attention"
    }

    fn onnx(&self) -> OnnxForm {
        let mode = match self.part {
            AttentionPart::Output | AttentionPart::Products => 0,
            AttentionPart::Capped => 1,
            AttentionPart::Masked => 2,
            AttentionPart::Weights => 3,
        };
        let causal = i64::from(self.visible == VisibleKeys::Causal);
        let mut form = OnnxForm::default()
            .attribute("is_causal", OnnxAttribute::Int(causal))
            .attribute("softcap", OnnxAttribute::Float(self.softcap))
            .attribute("qk_matmul_output_mode", OnnxAttribute::Int(mode))
            .since(if self.lengths { 24 } else { 23 });
        if let Some(scale) = self.scale {
            form = form.attribute("scale", OnnxAttribute::Float(scale));
        }
        let places = [(true, 0..3), (self.mask, 3..4), (self.past, 4..6), (self.lengths, 6..7)];
        let places = places.into_iter().filter(|(there, _)| *there).flat_map(|(_, places)| places);
        form = form.places(places.collect());
        if self.part == AttentionPart::Output { form } else { form.output(3).of_outputs(1) }
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let inputs = self.inputs(inputs)?;
        for input in
            [inputs.q, inputs.k, inputs.v].into_iter().chain(inputs.past.iter().flatten().copied())
        {
            input.expect(DType::F32)?;
            if input.shape.len() != 4 {
                return Err(format!("expected 4 dimensions, found {input}"));
            }
        }
        if let Some(mask) = inputs.mask
            && !matches!(mask.dtype, DType::F32 | DType::Bool)
        {
            return Err(format!("expected a mask of f32 or bool, found {mask}"));
        }
        if let Some(lengths) = inputs.lengths {
            lengths.expect(DType::I64)?;
        }
        let (q, k, v) = (&inputs.q.shape, &inputs.k.shape, &inputs.v.shape);
        if !q[3].may_equal(&k[3]) || !k[1].may_equal(&v[1]) || !k[2].may_equal(&v[2]) {
            return Err(format!("{}, {} and {} do not go together", inputs.q, inputs.k, inputs.v));
        }
        let keys = match inputs.past {
            None => k[2].clone(),
            Some([past, _]) => match (past.shape[2].fixed(), k[2].fixed()) {
                (Some(past), Some(new)) => {
                    Dim::Fixed(past.checked_add(new).ok_or("too many keys")?)
                }
                _ => Dim::Unknown,
            },
        };
        let last = if self.part == AttentionPart::Output { v[3].clone() } else { keys };
        Ok(ValueType {
            dtype: DType::F32,
            shape: vec![q[0].clone(), q[1].clone(), q[2].clone(), last],
        })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let inputs = self.inputs(inputs)?;
        let sizes = self.sizes(&inputs)?;
        affordable(&[sizes.batch, sizes.heads, sizes.queries, sizes.keys])?;
        let bias = self.bias(&inputs, &sizes)?;
        let q = floats(inputs.q)?;
        let past = inputs.past.map(|[key, value]| Ok::<_, String>((floats(key)?, floats(value)?)));
        let past = past.transpose()?;
        let k = (past.map(|past| past.0), floats(inputs.k)?);
        let v = (past.map(|past| past.1), floats(inputs.v)?);
        let scale = self.scale.map_or(1.0 / (sizes.size as f64).sqrt(), f64::from);
        let softcap = f64::from(self.softcap);
        let per_key_head = sizes.heads / sizes.key_heads;
        let mut output = Vec::new();
        for row in 0..sizes.batch * sizes.heads * sizes.queries {
            let head = row / sizes.queries / per_key_head;
            let query = &q[row * sizes.size..][..sizes.size];
            let product = |key| {
                let key = cached(k, head, key, &sizes, sizes.size).iter();
                let product = query.iter().zip(key).map(|(&q, &k)| f64::from(q) * f64::from(k));
                scale * product.sum::<f64>()
            };
            let products: Vec<f64> = (0..sizes.keys).map(product).collect();
            let capped = products.iter().map(|&product| {
                if softcap > 0.0 { softcap * (product / softcap).tanh() } else { product }
            });
            let capped: Vec<f64> = capped.collect();
            let bias = &bias[row * sizes.keys..][..sizes.keys];
            let masked: Vec<f64> = capped.iter().zip(bias).map(|(x, bias)| x + bias).collect();
            let weights = weights(&masked);
            match self.part {
                AttentionPart::Products => output.extend(products),
                AttentionPart::Capped => output.extend(capped),
                AttentionPart::Masked => output.extend(masked),
                AttentionPart::Weights => output.extend(weights),
                AttentionPart::Output => output.extend((0..sizes.value_size).map(|column| {
                    let value =
                        |key| f64::from(cached(v, head, key, &sizes, sizes.value_size)[column]);
                    weights.iter().enumerate().map(|(key, weight)| weight * value(key)).sum::<f64>()
                })),
            }
        }
        let last = if self.part == AttentionPart::Output { sizes.value_size } else { sizes.keys };
        let output = output.into_iter().map(|value| value as f32).collect();
        Tensor::new(&[sizes.batch, sizes.heads, sizes.queries, last], output)
            .map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], output: &[usize]) -> u64 {
        let (q, k) = (&inputs[0], &inputs[1]);
        let past = usize::from(self.mask) + 3;
        let past = if self.past { inputs[past][2] } else { 0 };
        let products = 2 * elements(q) * (k[2] + past) as u64;
        match self.part {
            AttentionPart::Output => products + 2 * elements(output) * (k[2] + past) as u64,
            _ => products,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attention() -> Attention {
        Attention {
            scale: Some(1.0),
            softcap: 0.0,
            visible: VisibleKeys::All,
            mask: false,
            past: false,
            lengths: false,
            part: AttentionPart::Output,
        }
    }

    /// Every value is its key's number, every key is equally near.
    fn caches(keys: usize) -> (Tensor, Tensor) {
        let zeros = Tensor::zeros(DType::F32, &[1, 1, keys, 2]);
        (zeros, Tensor::from_fn(&[1, 1, keys, 1], |index| index as f32))
    }

    fn evaluate(op: Attention, inputs: &[&Tensor]) -> Vec<f32> {
        let y = op.evaluate(inputs, &Bindings::default()).unwrap();
        y.elements::<f32>().unwrap().to_vec()
    }

    #[test]
    fn a_query_sees_the_past_and_itself() {
        let (k, v) = caches(2);
        let q = Tensor::zeros(DType::F32, &[1, 1, 2, 2]);
        let past_v = Tensor::new(&[1, 1, 2, 1], vec![10f32, 20.0]).unwrap();
        let past_k = Tensor::zeros(DType::F32, &[1, 1, 2, 2]);
        let op = Attention { visible: VisibleKeys::Causal, past: true, ..attention() };
        assert_eq!(evaluate(op, &[&q, &k, &v, &past_k, &past_v]), [10.0, 31.0 / 4.0]);
    }

    #[test]
    fn lengths_and_short_masks_hide_the_last_keys() {
        let (k, v) = caches(4);
        let q = Tensor::zeros(DType::F32, &[1, 2, 1, 2]);
        let lengths = Tensor::new(&[1], vec![3i64]).unwrap();
        let op = Attention { lengths: true, ..attention() };
        assert_eq!(evaluate(op, &[&q, &k, &v, &lengths]), [1.0, 1.0]);
        let mask = Tensor::new(&[2, 1, 2], vec![true, true, false, true]).unwrap();
        let op = Attention { mask: true, ..attention() };
        assert_eq!(evaluate(op, &[&q, &k, &v, &mask]), [0.5, 1.0]);
    }

    #[test]
    fn causal_queries_are_the_last_of_the_lengths() {
        let (k, v) = caches(4);
        let q = Tensor::zeros(DType::F32, &[1, 1, 3, 2]);
        let op = Attention { visible: VisibleKeys::Causal, lengths: true, ..attention() };
        let lengths = |length: i64| Tensor::new(&[1], vec![length]).unwrap();
        assert_eq!(evaluate(op, &[&q, &k, &v, &lengths(4)]), [0.5, 1.0, 1.5]);
        assert_eq!(evaluate(op, &[&q, &k, &v, &lengths(2)]), [0.0, 0.0, 0.5]);
        assert_eq!(evaluate(op, &[&q, &k, &v, &lengths(i64::MIN)]), [0.0; 3]);
    }

    #[test]
    fn what_sees_no_key_weighs_nothing() {
        let (k, v) = caches(2);
        let q = Tensor::zeros(DType::F32, &[1, 1, 2, 2]);
        let mask = Tensor::new(&[2, 2], vec![false, false, true, true]).unwrap();
        let op = Attention { mask: true, ..attention() };
        assert_eq!(evaluate(op, &[&q, &k, &v, &mask]), [0.0, 0.5]);
        let op = Attention { part: AttentionPart::Weights, ..op };
        assert_eq!(evaluate(op, &[&q, &k, &v, &mask]), [0.0, 0.0, 0.5, 0.5]);
        let unclear = Tensor::from_fn(&[1, 1, 2, 2], |_| f32::NAN);
        assert!(evaluate(op, &[&unclear, &k, &v, &mask])[2].is_nan());
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let (k, v) = caches(4);
        let q = Tensor::zeros(DType::F32, &[1, 1, 1, 3]);
        assert!(attention().evaluate(&[&q, &k, &v], &Bindings::default()).is_err());
        assert!(attention().evaluate(&[&k, &v], &Bindings::default()).is_err());
        let mask = Tensor::zeros(DType::Bool, &[5]);
        let op = Attention { mask: true, ..attention() };
        assert!(op.evaluate(&[&k, &k, &v, &mask], &Bindings::default()).is_err());
    }
}
