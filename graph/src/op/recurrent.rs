//! Recurrent layers: LSTM, GRU and RNN, with ONNX's equations.

mod activation;

use serde::{Deserialize, Serialize};

pub use activation::{Activation, ActivationKind};

use super::movement::whole_numbers;
use super::position::affordable;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// One output of a recurrent layer over `(x, w, r, …optional inputs)`.
///
/// # Shapes
///
/// - `x`: `[time, batch, input]`, or `[batch, time, input]` batch first
/// - `w`: `[directions, gates · hidden, input]`, `r`: `[directions, gates · hidden, hidden]`
/// - all states: `[time, directions, batch, hidden]`, or `[batch, time, directions, hidden]`
/// - last state and cell: `[directions, batch, hidden]`, or `[batch, directions, hidden]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Recurrent {
    /// The equations.
    pub cell: Cell,
    /// Which way each direction goes, one or two.
    pub directions: Vec<Direction>,
    /// Size of the state.
    pub hidden: usize,
    /// Functions of the gates, as many a direction as the cell has.
    pub activations: Vec<Activation>,
    /// What the functions' arguments are cut to, from both sides.
    pub clip: Option<f32>,
    /// Whether the batch is the first dimension.
    pub batch_first: bool,
    /// The optional inputs that are there, in ONNX's order.
    pub optional: Vec<RecurrentInput>,
    /// Which output this is.
    pub output: RecurrentOutput,
}

/// Equations of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", rename_all_fields = "kebab-case")]
pub enum Cell {
    /// Elman's network: one function.
    Rnn,
    /// Gated recurrent unit (Cho et al. 2014, arXiv:1406.1078).
    Gru {
        /// Whether the reset gate comes after the product with `r`.
        linear_before_reset: bool,
    },
    /// Long short-term memory with peepholes (Gers & Schmidhuber 2000).
    Lstm {
        /// Whether the forget gate is what the input gate leaves.
        input_forget: bool,
    },
}

impl Cell {
    /// Rows of `w` for each entry of the state.
    pub fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru { .. } => 3,
            Self::Lstm { .. } => 4,
        }
    }

    /// Functions a direction.
    pub fn functions(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru { .. } => 2,
            Self::Lstm { .. } => 3,
        }
    }
}

/// Which way a sequence is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Direction {
    /// From its first entry.
    Forward,
    /// From its last entry.
    Reverse,
}

/// An optional input of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecurrentInput {
    /// `[directions, 2 · gates · hidden]`
    Bias,
    /// `[batch]`
    Lengths,
    /// `[directions, batch, hidden]`
    InitialState,
    /// `[directions, batch, hidden]`
    InitialCell,
    /// `[directions, 3 · hidden]`
    Peepholes,
}

/// An output of a recurrent layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RecurrentOutput {
    /// Every state.
    States,
    /// The last state of each sequence.
    LastState,
    /// The last cell of each sequence.
    LastCell,
}

/// The weights of one direction.
struct Direct<'a> {
    w: &'a [f32],
    r: &'a [f32],
    bias: Option<&'a [f32]>,
    peepholes: Option<&'a [f32]>,
    functions: &'a [Activation],
    clip: f64,
}

impl Direct<'_> {
    /// `w·x + bias` of one row.
    fn of_input(&self, row: usize, x: &[f32]) -> f64 {
        dot(&self.w[row * x.len()..][..x.len()], x.iter().map(|&x| f64::from(x)))
            + self.bias.map_or(0.0, |bias| f64::from(bias[row]))
    }

    /// `r·h` of one row.
    fn of_state(&self, row: usize, h: &[f64]) -> f64 {
        dot(&self.r[row * h.len()..][..h.len()], h.iter().copied())
    }

    /// The bias of `r` of one row.
    fn state_bias(&self, row: usize) -> f64 {
        self.bias.map_or(0.0, |bias| f64::from(bias[bias.len() / 2 + row]))
    }

    fn all(&self, row: usize, x: &[f32], h: &[f64]) -> f64 {
        self.of_input(row, x) + self.of_state(row, h) + self.state_bias(row)
    }

    fn function(&self, index: usize, x: f64) -> f64 {
        self.functions[index].apply(x.clamp(-self.clip, self.clip))
    }

    /// The next state, in the notation of ONNX's documentation.
    fn step(&self, cell: Cell, x: &[f32], h: &[f64], c: &mut [f64]) -> Vec<f64> {
        let hidden = h.len();
        match cell {
            Cell::Rnn => (0..hidden).map(|j| self.function(0, self.all(j, x, h))).collect(),
            Cell::Gru { linear_before_reset } => {
                let gate = |first: usize| -> Vec<f64> {
                    (first..first + hidden).map(|j| self.function(0, self.all(j, x, h))).collect()
                };
                let (z, r) = (gate(0), gate(hidden));
                let reset: Vec<f64> = r.iter().zip(h).map(|(r, h)| r * h).collect();
                let next = |j: usize| {
                    let row = 2 * hidden + j;
                    let of_state = if linear_before_reset {
                        r[j] * (self.of_state(row, h) + self.state_bias(row))
                    } else {
                        self.of_state(row, &reset) + self.state_bias(row)
                    };
                    let new = self.function(1, self.of_input(row, x) + of_state);
                    (1.0 - z[j]) * new + z[j] * h[j]
                };
                (0..hidden).map(next).collect()
            }
            Cell::Lstm { input_forget } => {
                let next = |j: usize| {
                    // Gates stand in the order input, output, forget, cell.
                    let gate = |index: usize| self.all(index * hidden + j, x, h);
                    let peephole = |index: usize, c: f64| {
                        self.peepholes.map_or(0.0, |p| f64::from(p[index * hidden + j]) * c)
                    };
                    let i = self.function(0, gate(0) + peephole(0, c[j]));
                    let f = if input_forget {
                        1.0 - i
                    } else {
                        self.function(0, gate(2) + peephole(2, c[j]))
                    };
                    c[j] = f * c[j] + i * self.function(1, gate(3));
                    let o = self.function(0, gate(1) + peephole(1, c[j]));
                    o * self.functions[2].apply(c[j])
                };
                (0..hidden).map(next).collect()
            }
        }
    }
}

fn dot(a: &[f32], b: impl Iterator<Item = f64>) -> f64 {
    a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum()
}

impl Recurrent {
    fn optional<'a, T>(&self, inputs: &'a [T], which: RecurrentInput) -> Option<&'a T> {
        let index = self.optional.iter().position(|&known| known == which)?;
        inputs.get(3 + index)
    }

    /// Time and batch of `x`'s shape.
    fn time_and_batch<'a, T>(&self, x: &'a [T]) -> (&'a T, &'a T) {
        if self.batch_first { (&x[1], &x[0]) } else { (&x[0], &x[1]) }
    }

    /// Shape of the output.
    fn shape<T: Clone>(&self, time: &T, batch: &T, size: impl Fn(usize) -> T) -> Vec<T> {
        let (directions, hidden) = (size(self.directions.len()), size(self.hidden));
        let (time, batch) = (time.clone(), batch.clone());
        match (self.output, self.batch_first) {
            (RecurrentOutput::States, false) => vec![time, directions, batch, hidden],
            (RecurrentOutput::States, true) => vec![batch, time, directions, hidden],
            (_, false) => vec![directions, batch, hidden],
            (_, true) => vec![batch, directions, hidden],
        }
    }

    /// Shape of an optional input.
    fn optional_shape<T: Clone>(
        &self,
        which: RecurrentInput,
        batch: &T,
        size: impl Fn(usize) -> T,
    ) -> Vec<T> {
        let directions = size(self.directions.len());
        match which {
            RecurrentInput::Bias => vec![directions, size(2 * self.cell.gates() * self.hidden)],
            RecurrentInput::Lengths => vec![batch.clone()],
            RecurrentInput::Peepholes => vec![directions, size(3 * self.hidden)],
            RecurrentInput::InitialState | RecurrentInput::InitialCell if self.batch_first => {
                vec![batch.clone(), directions, size(self.hidden)]
            }
            RecurrentInput::InitialState | RecurrentInput::InitialCell => {
                vec![directions, batch.clone(), size(self.hidden)]
            }
        }
    }

    fn check_fields(&self, inputs: usize) -> Result<(), String> {
        let directions = self.directions.len();
        let ascending = self.optional.is_sorted_by(|a, b| a < b);
        let is_lstm = matches!(self.cell, Cell::Lstm { .. });
        let cell_only = [RecurrentInput::InitialCell, RecurrentInput::Peepholes];
        let fits = (1..=2).contains(&directions)
            && self.activations.len() == directions * self.cell.functions()
            && (1..=usize::from(u16::MAX)).contains(&self.hidden)
            && inputs == 3 + self.optional.len()
            && self.clip.is_none_or(|clip| clip >= 0.0)
            && (is_lstm || !self.optional.iter().any(|input| cell_only.contains(input)))
            && (is_lstm || self.output != RecurrentOutput::LastCell);
        if fits && ascending { Ok(()) } else { Err(format!("its fields contradict: {self:?}")) }
    }

    /// Where the state of `direction` and `batch` begins in states of one time.
    fn place(&self, direction: usize, item: usize, batch: usize) -> usize {
        let row = if self.batch_first {
            item * self.directions.len() + direction
        } else {
            direction * batch + item
        };
        row * self.hidden
    }

    fn initial(&self, states: Option<&[f32]>, place: usize) -> Vec<f64> {
        match states {
            Some(states) => states[place..][..self.hidden].iter().map(|&x| f64::from(x)).collect(),
            None => vec![0.0; self.hidden],
        }
    }
}

fn same(found: &[Dim], expected: &[Dim]) -> bool {
    found.len() == expected.len() && found.iter().zip(expected).all(|(a, b)| a.may_equal(b))
}

impl Operator for Recurrent {
    fn onnx_type(&self) -> &'static str {
        match self.cell {
            Cell::Rnn => "RNN",
            Cell::Gru { .. } => "GRU",
            Cell::Lstm { .. } => "LSTM",
        }
    }

    fn onnx(&self) -> OnnxForm {
        let direction = match self.directions.as_slice() {
            [Direction::Forward] => "forward",
            [Direction::Reverse] => "reverse",
            _ => "bidirectional",
        };
        let of = |parameter: fn(&Activation) -> f32, has: fn(ActivationKind) -> bool| {
            let with = self.activations.iter().filter(|function| has(function.kind));
            OnnxAttribute::Floats(with.map(parameter).collect())
        };
        let names = self.activations.iter().map(|function| function.kind.name()).collect();
        let mut form = OnnxForm::default()
            .attribute("direction", OnnxAttribute::Text(direction))
            .attribute("hidden_size", OnnxAttribute::Int(self.hidden as i64))
            .attribute("layout", OnnxAttribute::Int(self.batch_first.into()))
            .attribute("activations", OnnxAttribute::Texts(names))
            .attribute("activation_alpha", of(|f| f.alpha, |kind| kind.defaults().0.is_some()))
            .attribute("activation_beta", of(|f| f.beta, |kind| kind.defaults().1.is_some()));
        if let Some(clip) = self.clip {
            form = form.attribute("clip", OnnxAttribute::Float(clip));
        }
        form = match self.cell {
            Cell::Rnn => form,
            Cell::Gru { linear_before_reset: flag } => {
                form.attribute("linear_before_reset", OnnxAttribute::Int(flag.into()))
            }
            Cell::Lstm { input_forget: flag } => {
                form.attribute("input_forget", OnnxAttribute::Int(flag.into()))
            }
        };
        let optional = self.optional.iter().map(|&input| 3 + input as usize);
        form.output(self.output as usize).places([0, 1, 2].into_iter().chain(optional).collect())
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        self.check_fields(inputs.len())?;
        for (index, input) in inputs.iter().enumerate() {
            let lengths = index >= 3 && self.optional[index - 3] == RecurrentInput::Lengths;
            input.expect(if lengths { DType::I32 } else { DType::F32 })?;
        }
        let (x, w, r) = (&inputs[0].shape, &inputs[1].shape, &inputs[2].shape);
        if x.len() != 3 {
            return Err(format!("expected an input of rank 3, found {}", inputs[0]));
        }
        let (time, batch) = self.time_and_batch(x);
        let rows = Dim::Fixed(self.cell.gates() * self.hidden);
        let directions = Dim::Fixed(self.directions.len());
        if !same(w, &[directions.clone(), rows.clone(), x[2].clone()])
            || !same(r, &[directions, rows, Dim::Fixed(self.hidden)])
        {
            return Err(format!(
                "weights {} and {} do not fit {}",
                inputs[1], inputs[2], inputs[0]
            ));
        }
        for (&which, input) in self.optional.iter().zip(&inputs[3..]) {
            if !same(&input.shape, &self.optional_shape(which, batch, Dim::Fixed)) {
                return Err(format!("{which:?} {input} does not fit {}", inputs[0]));
            }
        }
        Ok(ValueType { dtype: DType::F32, shape: self.shape(time, batch, Dim::Fixed) })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [x, w, r, ..] = inputs else { return Err("expected x, w and r".to_owned()) };
        let (&time, &batch) = self.time_and_batch(x.shape());
        for (&which, input) in self.optional.iter().zip(&inputs[3..]) {
            if input.shape() != self.optional_shape(which, &batch, |size| size) {
                return Err(format!("{which:?} {input:?} does not fit {x:?}"));
            }
        }
        let optional =
            |which| self.optional(inputs, which).map(|&tensor| floats(tensor)).transpose();
        let (bias, peepholes) =
            (optional(RecurrentInput::Bias)?, optional(RecurrentInput::Peepholes)?);
        let first =
            (optional(RecurrentInput::InitialState)?, optional(RecurrentInput::InitialCell)?);
        let lengths = match self.optional(inputs, RecurrentInput::Lengths) {
            Some(lengths) => whole_numbers(lengths)?,
            None => vec![time as i64; batch],
        };
        let (x_elements, width) = (floats(x)?, x.shape()[2]);
        let (w, r) = (floats(w)?, floats(r)?);
        let shape = self.shape(&time, &batch, |size| size);
        affordable(&shape)?;
        let mut y = vec![0f32; shape.iter().product()];
        let count = self.directions.len();
        for (index, &direction) in self.directions.iter().enumerate() {
            let part = |list: &'_ [f32]| {
                let length = list.len() / count;
                index * length..(index + 1) * length
            };
            let functions = self.cell.functions();
            let direct = Direct {
                w: &w[part(w)],
                r: &r[part(r)],
                bias: bias.map(|bias| &bias[part(bias)]),
                peepholes: peepholes.map(|peepholes| &peepholes[part(peepholes)]),
                functions: &self.activations[index * functions..(index + 1) * functions],
                clip: self.clip.map_or(f64::INFINITY, f64::from),
            };
            for (item, &length) in lengths.iter().enumerate() {
                let known = usize::try_from(length).ok().filter(|&length| length <= time);
                let length = known
                    .ok_or_else(|| format!("expected lengths of 0 to {time}, found {length}"))?;
                let place = self.place(index, item, batch);
                let (mut h, mut c) = (self.initial(first.0, place), self.initial(first.1, place));
                for step in 0..length {
                    let at = match direction {
                        Direction::Forward => step,
                        Direction::Reverse => length - 1 - step,
                    };
                    let row = if self.batch_first { item * time + at } else { at * batch + item };
                    h = direct.step(self.cell, &x_elements[row * width..][..width], &h, &mut c);
                    if self.output == RecurrentOutput::States {
                        let start = if self.batch_first {
                            ((item * time + at) * count + index) * self.hidden
                        } else {
                            ((at * count + index) * batch + item) * self.hidden
                        };
                        write(&mut y[start..], &h);
                    }
                }
                match self.output {
                    RecurrentOutput::States => {}
                    RecurrentOutput::LastState => write(&mut y[place..], &h),
                    RecurrentOutput::LastCell => write(&mut y[place..], &c),
                }
            }
        }
        Tensor::new(&shape, y).map_err(|error| error.to_string())
    }

    fn flops(&self, inputs: &[Vec<usize>], _: &[usize]) -> u64 {
        let (&time, &batch) = self.time_and_batch(&inputs[0]);
        let rows = self.directions.len() * self.cell.gates() * self.hidden;
        let products = (time * batch * rows) as u64;
        2 * products * (inputs[0][2] + self.hidden) as u64
    }
}

fn write(to: &mut [f32], from: &[f64]) {
    to.iter_mut().zip(from).for_each(|(to, &from)| *to = from as f32);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn activation(kind: ActivationKind) -> Activation {
        Activation { kind, alpha: 0.0, beta: 0.0 }
    }

    /// A network that adds its inputs up.
    fn sums(directions: Vec<Direction>, output: RecurrentOutput) -> Recurrent {
        Recurrent {
            cell: Cell::Rnn,
            activations: vec![activation(ActivationKind::Relu); directions.len()],
            directions,
            hidden: 1,
            clip: None,
            batch_first: false,
            optional: vec![RecurrentInput::Lengths],
            output,
        }
    }

    #[test]
    fn sequences_end_where_their_lengths_say() {
        let x = Tensor::new(&[3, 2, 1], vec![1f32, 10.0, 2.0, 20.0, 3.0, 30.0]).unwrap();
        let one = Tensor::from_fn(&[2, 1, 1], |_| 1f32);
        let lengths = Tensor::new(&[2], vec![3i32, 2]).unwrap();
        let both = vec![Direction::Forward, Direction::Reverse];
        let run = |output| {
            let op = sums(both.clone(), output);
            let y = op.evaluate(&[&x, &one, &one, &lengths], &Bindings::default()).unwrap();
            floats(&y).unwrap().to_vec()
        };
        let expected = [1.0, 10.0, 6.0, 30.0, 3.0, 30.0, 5.0, 20.0, 6.0, 0.0, 3.0, 0.0];
        assert_eq!(run(RecurrentOutput::States), expected);
        assert_eq!(run(RecurrentOutput::LastState), [6.0, 30.0, 6.0, 30.0]);
    }
}
