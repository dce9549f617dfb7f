//! Attention without a softmax, which keeps a matrix in place of the keys and values it has seen.

use serde::{Deserialize, Serialize};

use super::position::affordable;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// What a new key and value do to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateRule {
    /// Their product is added (Katharopoulos et al. 2020, arXiv:2006.16236).
    Linear,
    /// As `Linear`, after the state has decayed (Yang et al. 2023, arXiv:2312.06635).
    Gated,
    /// What the state gave for the key is moved towards the value (Yang et al. 2024,
    /// arXiv:2406.06484).
    Delta,
    /// As `Delta`, after the state has decayed (Yang et al. 2024, arXiv:2412.06464).
    GatedDelta,
}

impl UpdateRule {
    fn decays(self) -> bool {
        matches!(self, Self::Gated | Self::GatedDelta)
    }

    fn corrects(self) -> bool {
        matches!(self, Self::Delta | Self::GatedDelta)
    }
}

/// Which output of the ONNX node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LinearAttentionPart {
    /// What the queries read.
    Output,
    /// The state after the last entry.
    State,
}

/// Linear attention, as ONNX's LinearAttention: `(query, key, value)`, then the state before, the
/// decay and the rate, where there are.
///
/// # Shapes
///
/// - query: `[batch, time, query heads · k]`
/// - key, value: `[batch, time, heads · k]`, `[batch, time, heads · v]`
/// - state: `[batch, heads, k, v]`
/// - decay, the logarithm of what stays: `[batch, time, heads]` or `[batch, time, heads · k]`
/// - rate of a correction: `[batch, time, heads]` or `[batch, time, 1]`
/// - output: `[batch, time, query heads · v]`, or the state
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LinearAttention {
    /// What a key and value do.
    pub rule: UpdateRule,
    /// Heads of the queries, a multiple of the others.
    pub query_heads: usize,
    /// Heads of keys and values; > 0.
    pub heads: usize,
    /// Factor of the output; `None` for `1/√k`.
    pub scale: Option<f32>,
    /// Whether there is a state before.
    pub past: bool,
    /// What the output is.
    pub part: LinearAttentionPart,
}

/// The inputs by name.
struct Inputs<'a, T> {
    query: &'a T,
    key: &'a T,
    value: &'a T,
    past: Option<&'a T>,
    decay: Option<&'a T>,
    rate: Option<&'a T>,
}

impl LinearAttention {
    fn named<'a, T>(&self, inputs: &'a [T]) -> Result<Inputs<'a, T>, String> {
        let [query, key, value, rest @ ..] = inputs else {
            return Err(format!("expected query, key and value, found {} inputs", inputs.len()));
        };
        let mut rest = rest.iter();
        let mut next = |there: bool| if there { rest.next() } else { None };
        let (past, decay) = (next(self.past), next(self.rule.decays()));
        let rate = next(self.rule.corrects());
        let found = [past, decay, rate].iter().flatten().count();
        let expected = [self.past, self.rule.decays(), self.rule.corrects()];
        let expected = expected.iter().filter(|&&there| there).count();
        if found != expected || inputs.len() != 3 + expected {
            return Err(format!("expected {} inputs, found {}", 3 + expected, inputs.len()));
        }
        Ok(Inputs { query, key, value, past, decay, rate })
    }

    /// Sizes of a head's key and value, of rows of these widths.
    fn head_sizes(&self, query: usize, key: usize, value: usize) -> Result<[usize; 2], String> {
        let heads_fit = self.heads > 0 && self.query_heads.is_multiple_of(self.heads);
        let widths_fit = heads_fit
            && self.query_heads > 0
            && key.is_multiple_of(self.heads)
            && value.is_multiple_of(self.heads)
            && (key / self.heads).checked_mul(self.query_heads) == Some(query);
        if !widths_fit {
            let (a, b) = (self.query_heads, self.heads);
            return Err(format!("{query}, {key} and {value} columns are no {a} and {b} heads"));
        }
        Ok([key / self.heads, value / self.heads])
    }
}

/// The state of one head while it goes through the time steps.
struct State<'a> {
    /// `[k, v]`
    matrix: &'a mut [f64],
    columns: usize,
}

impl State<'_> {
    /// What the state gives for a key or query.
    fn read(&self, key: &[f32]) -> Vec<f64> {
        let mut sum = vec![0f64; self.columns];
        for (row, &factor) in self.matrix.chunks(self.columns.max(1)).zip(key) {
            sum.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(factor) * x);
        }
        sum
    }

    fn decay(&mut self, logarithms: &[f32]) {
        for (index, row) in self.matrix.chunks_mut(self.columns.max(1)).enumerate() {
            let logarithm = logarithms[if logarithms.len() == 1 { 0 } else { index }];
            let factor = f64::from(logarithm).exp();
            row.iter_mut().for_each(|x| *x *= factor);
        }
    }

    fn add(&mut self, key: &[f32], value: &[f64]) {
        for (row, &factor) in self.matrix.chunks_mut(self.columns.max(1)).zip(key) {
            row.iter_mut().zip(value).for_each(|(x, &value)| *x += f64::from(factor) * value);
        }
    }
}

/// Row `time` of `item`, and the part of it that is `head` of `heads`.
fn part(x: &Tensor, item: usize, time: usize, head: usize, heads: usize) -> Result<&[f32], String> {
    let &[_, times, width] = x.shape() else {
        return Err(format!("expected rows of heads, found {x:?}"));
    };
    let row = &floats(x)?[(item * times + time) * width..][..width];
    Ok(&row[head * (width / heads)..][..width / heads])
}

impl Operator for LinearAttention {
    fn onnx_type(&self) -> &'static str {
        "LinearAttention"
    }

    fn onnx(&self) -> OnnxForm {
        let rule = match self.rule {
            UpdateRule::Linear => "linear",
            UpdateRule::Gated => "gated",
            UpdateRule::Delta => "delta",
            UpdateRule::GatedDelta => "gated_delta",
        };
        let past = self.past.then_some(3);
        let decay = self.rule.decays().then_some(4);
        let rate = self.rule.corrects().then_some(5);
        let places = [0, 1, 2].into_iter().chain(past).chain(decay).chain(rate).collect();
        OnnxForm::default()
            .attribute("update_rule", OnnxAttribute::Text(rule))
            .attribute("q_num_heads", OnnxAttribute::Int(self.query_heads as i64))
            .attribute("kv_num_heads", OnnxAttribute::Int(self.heads as i64))
            .attribute("scale", OnnxAttribute::Float(self.scale.unwrap_or(0.0)))
            .places(places)
            .output(self.part as usize)
            .of_outputs(2)
            .since(27)
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let Inputs { query, key, value, .. } = self.named(inputs)?;
        for input in inputs {
            input.expect(DType::F32)?;
        }
        let ([batch, time, query], [_, _, key], [_, _, value]) =
            (query.shape.as_slice(), key.shape.as_slice(), value.shape.as_slice())
        else {
            return Err(format!("expected rows of heads, found {query}, {key} and {value}"));
        };
        let widths = [query, key, value].map(Dim::fixed);
        let [Some(query), Some(key), Some(value)] = widths else {
            return Err("expected heads of known sizes".to_owned());
        };
        let [k, v] = self.head_sizes(query, key, value)?;
        let width = self.query_heads.checked_mul(v).ok_or("the sizes are too large")?;
        let shape = match self.part {
            LinearAttentionPart::Output => vec![batch.clone(), time.clone(), Dim::Fixed(width)],
            LinearAttentionPart::State => {
                vec![batch.clone(), Dim::Fixed(self.heads), Dim::Fixed(k), Dim::Fixed(v)]
            }
        };
        Ok(ValueType { dtype: DType::F32, shape })
    }

    /// The state is kept in `f64`.
    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let Inputs { query, key, value, past, decay, rate } = self.named(inputs)?;
        let (&[batch, times, width], &[_, _, keys], &[_, _, values]) =
            (query.shape(), key.shape(), value.shape())
        else {
            return Err(format!("expected rows of heads, found {query:?}, {key:?} and {value:?}"));
        };
        let [k, v] = self.head_sizes(width, keys, values)?;
        let columns = |x: &Tensor, widths: [usize; 2]| {
            x.shape()[..] == [batch, times, widths[0]] || x.shape()[..] == [batch, times, widths[1]]
        };
        let shape = [batch, self.heads, k, v];
        let fits = columns(key, [keys; 2])
            && columns(value, [values; 2])
            && past.is_none_or(|past| past.shape() == shape)
            && decay.is_none_or(|decay| columns(decay, [self.heads, keys]))
            && rate.is_none_or(|rate| columns(rate, [self.heads, 1]));
        if !fits {
            return Err(format!("the inputs do not go with queries {query:?}"));
        }
        let mut states = vec![0f64; affordable(&shape)?];
        if let Some(past) = past {
            states.iter_mut().zip(floats(past)?).for_each(|(state, &x)| *state = x.into());
        }
        let row = self.query_heads * v;
        let mut output = vec![0f32; affordable(&[batch, times, row])?];
        if query.is_empty() || key.is_empty() || value.is_empty() {
            // No entry is read, and none added to the state.
            let states = states.iter().map(|&x| x as f32).collect();
            let of_state = || Tensor::new(&shape, states);
            let of_output = || Tensor::zeros(DType::F32, &[batch, times, row]);
            return match self.part {
                LinearAttentionPart::Output => Ok(of_output()),
                LinearAttentionPart::State if decay.is_none() => {
                    of_state().map_err(|error| error.to_string())
                }
                LinearAttentionPart::State => {
                    Err("expected entries to decay, found none".to_owned())
                }
            };
        }
        let scale = self.scale.map_or_else(|| 1.0 / (k as f64).sqrt(), f64::from);
        let group = self.query_heads / self.heads;
        for index in 0..batch * self.heads {
            let (item, head) = (index / self.heads, index % self.heads);
            let matrix = &mut states[index * k * v..(index + 1) * k * v];
            let mut state = State { matrix, columns: v };
            for time in 0..times {
                let of = |x| part(x, item, time, head, self.heads);
                if let Some(decay) = decay {
                    state.decay(of(decay)?);
                }
                let key = of(key)?;
                let mut new: Vec<f64> = of(value)?.iter().map(|&x| f64::from(x)).collect();
                if let Some(rate) = rate {
                    let heads = rate.shape()[2];
                    let own = if heads == 1 { 0 } else { head };
                    let rate = f64::from(part(rate, item, time, own, heads)?[0]);
                    let old = state.read(key);
                    new.iter_mut().zip(old).for_each(|(new, old)| *new = rate * (*new - old));
                }
                state.add(key, &new);
                for reader in head * group..(head + 1) * group {
                    let read = state.read(part(query, item, time, reader, self.query_heads)?);
                    let start = (item * times + time) * row + reader * v;
                    let places = output[start..start + v].iter_mut();
                    places.zip(read).for_each(|(y, x)| *y = (scale * x) as f32);
                }
            }
        }
        let tensor = match self.part {
            LinearAttentionPart::Output => Tensor::new(&[batch, times, row], output),
            LinearAttentionPart::State => {
                Tensor::new(&shape, states.into_iter().map(|x| x as f32).collect())
            }
        };
        tensor.map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OP: LinearAttention = LinearAttention {
        rule: UpdateRule::Linear,
        query_heads: 2,
        heads: 1,
        scale: Some(1.0),
        past: false,
        part: LinearAttentionPart::Output,
    };

    fn tensor(shape: &[usize], values: &[f32]) -> Tensor {
        Tensor::new(shape, values.to_vec()).unwrap()
    }

    fn run(op: LinearAttention, extra: &[&Tensor]) -> Result<Vec<f32>, String> {
        // Two time steps, keys of two numbers, values of one.
        let query = tensor(&[1, 2, 4], &[1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 1.0]);
        let key = tensor(&[1, 2, 2], &[1.0, 2.0, 0.0, 1.0]);
        let value = tensor(&[1, 2, 1], &[3.0, 10.0]);
        let inputs = [&[&query, &key, &value], extra].concat();
        Ok(op.evaluate(&inputs, &Bindings::default())?.elements::<f32>().unwrap().to_vec())
    }

    #[test]
    fn states_are_added_to_decay_and_are_corrected() {
        let state = LinearAttention { part: LinearAttentionPart::State, ..OP };
        assert_eq!(run(OP, &[]).unwrap(), [3.0, 6.0, 3.0, 16.0]);
        assert_eq!(run(state, &[]).unwrap(), [3.0, 16.0]);
        let past = tensor(&[1, 1, 2, 1], &[1.0, 1.0]);
        assert_eq!(run(LinearAttention { past: true, ..state }, &[&past]).unwrap(), [4.0, 17.0]);
        let half = tensor(&[1, 2, 1], &[0.5f32.ln(); 2]);
        let gated = LinearAttention { rule: UpdateRule::Gated, ..state };
        assert_eq!(run(gated, &[&half]).unwrap(), [1.5, 13.0]);
        // 3, then 10 less what the state gives for the key (6), half of which is taken.
        let rate = tensor(&[1, 2, 1], &[1.0, 0.5]);
        let delta = LinearAttention { rule: UpdateRule::Delta, ..state };
        assert_eq!(run(delta, &[&rate]).unwrap(), [3.0, 8.0]);
        let both = LinearAttention { rule: UpdateRule::GatedDelta, ..state };
        assert_eq!(run(both, &[&half, &rate]).unwrap(), [1.5, 6.5]);
    }

    #[test]
    fn inputs_that_do_not_fit_are_refused() {
        assert!(run(LinearAttention { past: true, ..OP }, &[]).is_err());
        assert!(run(OP, &[&tensor(&[1, 2, 1], &[0.0; 2])]).is_err());
        assert!(run(LinearAttention { heads: 0, ..OP }, &[]).is_err());
        assert!(run(LinearAttention { query_heads: 3, ..OP }, &[]).is_err());
        let gated = LinearAttention { rule: UpdateRule::Gated, ..OP };
        assert!(run(gated, &[&tensor(&[1, 2, 3], &[0.0; 6])]).is_err());
    }
}
