#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Recurrent layers: the products with the inputs of all times in one, those with states one after
//! another, and the gates in vectors.

use crate::activation::Activation;
use crate::float::{Layer, PackedWeights, linear};
use crate::math;
use crate::parallel::check_len;
use crate::tier::{Cpu, tiered};

/// Equations of a recurrent layer, in ONNX's order of gates. Gates are sigmoids, and what they let
/// through is a hyperbolic tangent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Elman's network: a hyperbolic tangent alone.
    Rnn,
    /// Gated recurrent unit (Cho et al. 2014), whose reset gate comes after the product with the state,
    /// bias included.
    Gru,
    /// Long short-term memory (Hochreiter & Schmidhuber 1997) with forget gates, without peepholes.
    Lstm,
}

impl Cell {
    /// Outputs of the products for each entry of the state.
    const fn gates(self) -> usize {
        match self {
            Self::Rnn => 1,
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }
}

/// The weights of one direction.
#[derive(Clone, Debug)]
pub struct Recurrence {
    cell: Cell,
    hidden: usize,
    of_input: PackedWeights,
    of_state: PackedWeights,
    /// Added to the products with the input.
    bias: Vec<f32>,
    /// Added to those with the state, where that matters.
    state_bias: Option<Vec<f32>>,
}

impl Recurrence {
    /// Packs weights.
    ///
    /// # Shapes
    /// - `w`: `[gates·hidden, inputs]`; `r`: `[gates·hidden, hidden]`
    /// - `bias`: `[2·gates·hidden]`, that of `w` and that of `r`
    ///
    /// # Panics
    /// When a length differs.
    #[must_use]
    pub fn new(
        cell: Cell,
        [inputs, hidden]: [usize; 2],
        [w, r]: [&[f32]; 2],
        bias: Option<&[f32]>,
    ) -> Self {
        let rows = cell.gates() * hidden;
        check_len("recurrent: w", w.len(), rows * inputs);
        check_len("recurrent: r", r.len(), rows * hidden);
        let pack = |w, k| PackedWeights::new(w, [k, rows], [1, k]);
        let (mut first, mut second) = (vec![0.0; rows], vec![0.0; rows]);
        if let Some(bias) = bias {
            check_len("recurrent: bias", bias.len(), 2 * rows);
            first.copy_from_slice(&bias[..rows]);
            second.copy_from_slice(&bias[rows..]);
        }
        // Only what a reset gate is applied to has to be apart.
        let together = if cell == Cell::Gru { 2 * hidden } else { rows };
        for (first, second) in first[..together].iter_mut().zip(&mut second) {
            *first += std::mem::take(second);
        }
        let state_bias = (cell == Cell::Gru).then_some(second);
        let (of_input, of_state) = (pack(w, inputs), pack(r, hidden));
        Self { cell, hidden, of_input, of_state, bias: first, state_bias }
    }

    /// Bytes held.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let biases = self.bias.len() + self.state_bias.as_ref().map_or(0, Vec::len);
        self.of_input.size_bytes() + self.of_state.size_bytes() + biases * size_of::<f32>()
    }

    /// Elements of scratch that [`recurrent`] needs for each time and item of a batch.
    #[must_use]
    pub const fn scratch_len(&self) -> usize {
        2 * self.cell.gates() * self.hidden
    }
}

/// A hidden state and, of an LSTM, a cell, `[batch, hidden]` each.
#[derive(Debug)]
pub struct State<'a> {
    /// What the layer gives.
    pub hidden: &'a mut [f32],
    /// What an LSTM keeps to itself; empty for others.
    pub cell: &'a mut [f32],
}

/// Runs a layer over a sequence, from the last time on where it is `reversed`, and calls `each` with
/// every time and the state after it.
///
/// # Shapes
/// - `x`: `[time, batch, inputs]`
/// - `scratch`: `time·batch·`[`Recurrence::scratch_len`], of which any content is left
///
/// # Panics
/// When a length differs.
pub fn recurrent(
    cpu: Cpu,
    layer: &Recurrence,
    (x, [time, batch]): (&[f32], [usize; 2]),
    reversed: bool,
    state: State<'_>,
    scratch: &mut [f32],
    mut each: impl FnMut(usize, &[f32]),
) {
    let (hidden, row) = (layer.hidden, layer.cell.gates() * layer.hidden);
    let State { hidden: h, cell: c } = state;
    check_len("recurrent: scratch", scratch.len(), time * batch * layer.scratch_len());
    check_len("recurrent: state", h.len(), batch * hidden);
    let cells = if layer.cell == Cell::Lstm { batch * hidden } else { 0 };
    check_len("recurrent: cell", c.len(), cells);
    if time == 0 || h.is_empty() {
        return;
    }
    let (of_inputs, rest) = scratch.split_at_mut(time * batch * row);
    let of_state = &mut rest[..batch * row];
    let product = |weights, bias| Layer { weights, bias, activation: Activation::Identity };
    let with_input = product(&layer.of_input, Some(layer.bias.as_slice()));
    linear(cpu, x, time * batch, &with_input, of_inputs);
    let with_state = product(&layer.of_state, layer.state_bias.as_deref());
    for step in 0..time {
        let at = if reversed { time - 1 - step } else { step };
        linear(cpu, h, batch, &with_state, of_state);
        let of_input = of_inputs[at * batch * row..][..batch * row].chunks_exact_mut(row);
        let items = of_input.zip(of_state.chunks_exact(row)).zip(h.chunks_exact_mut(hidden));
        match layer.cell {
            Cell::Rnn => items.for_each(|((x, r), h)| rnn(cpu, x, r, h)),
            Cell::Gru => items.for_each(|((x, r), h)| gru(cpu, x, r, h)),
            Cell::Lstm => {
                let items = items.zip(c.chunks_exact_mut(hidden));
                items.for_each(|(((x, r), h), c)| lstm(cpu, x, r, c, h));
            }
        }
        each(at, h);
    }
}

#[allow(clippy::inline_always, reason = "it must be compiled again inside each tier")]
#[inline(always)]
fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + math::exp(-x))
}

tiered! {
    fn rnn(of_input: &[f32], of_state: &[f32], h: &mut [f32]) {
        for ((h, x), r) in h.iter_mut().zip(of_input).zip(of_state) {
            *h = math::tanh(x + r);
        }
    }
}

tiered! {
    /// Gates stand in the order update, reset, new.
    fn gru(of_input: &mut [f32], of_state: &[f32], h: &mut [f32]) {
        let open = 2 * h.len();
        for (x, r) in of_input[..open].iter_mut().zip(of_state) {
            *x = sigmoid(*x + r);
        }
        let (open, new) = of_input.split_at(open);
        let (update, reset) = open.split_at(h.len());
        let of_state = &of_state[2 * h.len()..];
        let entries = h.iter_mut().zip(update).zip(reset).zip(new).zip(of_state);
        for ((((h, update), reset), new), of_state) in entries {
            let new = math::tanh(new + reset * of_state);
            *h = (1.0 - update) * new + update * *h;
        }
    }
}

tiered! {
    /// Gates stand in the order input, output, forget, cell.
    fn lstm(of_input: &mut [f32], of_state: &[f32], c: &mut [f32], h: &mut [f32]) {
        let hidden = h.len();
        let open = 3 * hidden;
        for (x, r) in of_input[..open].iter_mut().zip(of_state) {
            *x = sigmoid(*x + r);
        }
        for (x, r) in of_input[open..].iter_mut().zip(&of_state[open..]) {
            *x = math::tanh(*x + r);
        }
        let (input, rest) = of_input.split_at(hidden);
        let (output, rest) = rest.split_at(hidden);
        let (forget, new) = rest.split_at(hidden);
        let entries = c.iter_mut().zip(h).zip(input).zip(output).zip(forget).zip(new);
        for (((((c, h), input), output), forget), new) in entries {
            *c = forget * *c + input * new;
            *h = output * math::tanh(*c);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tier::Tier;

    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        let number = |i: usize| ((i * 37 + seed * 101 + 13) % 97) as f32 / 97.0 - 0.5;
        (0..count).map(number).collect()
    }

    /// All states, in doubles, entry by entry.
    fn expected(
        cell: Cell,
        [time, batch, inputs, hidden]: [usize; 4],
        [x, w, r, bias, h, c]: [&[f32]; 6],
        reversed: bool,
    ) -> Vec<f64> {
        let (rows, sigmoid) = (cell.gates() * hidden, |x: f64| 1.0 / (1.0 + (-x).exp()));
        let dot =
            |a: &[f32], b: &[f64]| -> f64 { a.iter().zip(b).map(|(&a, b)| f64::from(a) * b).sum() };
        let doubles = |list: &[f32]| -> Vec<f64> { list.iter().map(|&x| f64::from(x)).collect() };
        let mut y = vec![0.0; time * batch * hidden];
        for item in 0..batch {
            let mut h = doubles(&h[item * hidden..][..hidden]);
            let mut c = doubles(c.get(item * hidden..(item + 1) * hidden).unwrap_or_default());
            for step in 0..time {
                let at = if reversed { time - 1 - step } else { step };
                let x = doubles(&x[(at * batch + item) * inputs..][..inputs]);
                let of_input =
                    |row: usize| dot(&w[row * inputs..][..inputs], &x) + f64::from(bias[row]);
                let old = h.clone();
                let of_state = |row: usize| {
                    dot(&r[row * hidden..][..hidden], &old) + f64::from(bias[rows + row])
                };
                let all = |row: usize| of_input(row) + of_state(row);
                for j in 0..hidden {
                    let row = |gate: usize| gate * hidden + j;
                    h[j] = match cell {
                        Cell::Rnn => all(j).tanh(),
                        Cell::Gru => {
                            let (z, r) = (sigmoid(all(j)), sigmoid(all(row(1))));
                            let new = (of_input(row(2)) + r * of_state(row(2))).tanh();
                            (1.0 - z) * new + z * old[j]
                        }
                        Cell::Lstm => {
                            let (i, f) = (sigmoid(all(j)), sigmoid(all(row(2))));
                            c[j] = f * c[j] + i * all(row(3)).tanh();
                            sigmoid(all(row(1))) * c[j].tanh()
                        }
                    };
                    y[(at * batch + item) * hidden + j] = h[j];
                }
            }
        }
        y
    }

    #[test]
    fn states_are_those_of_the_equations_on_every_tier() {
        let sizes = [[5, 3, 7, 19], [1, 1, 4, 1], [3, 2, 1, 33], [0, 2, 3, 4], [2, 0, 3, 4]];
        for (cell, reversed) in [Cell::Rnn, Cell::Gru, Cell::Lstm]
            .into_iter()
            .flat_map(|cell| [(cell, false), (cell, true)])
        {
            for sizes @ [time, batch, inputs, hidden] in sizes {
                let rows = cell.gates() * hidden;
                let cells = if cell == Cell::Lstm { batch * hidden } else { 0 };
                let lens = [time * batch * inputs, rows * inputs, rows * hidden, 2 * rows];
                let [x, w, r, bias] = [0, 1, 2, 3].map(|index| numbers(lens[index], index));
                let (h, c) = (numbers(batch * hidden, 4), numbers(cells, 5));
                let expected = expected(cell, sizes, [&x, &w, &r, &bias, &h, &c], reversed);
                let layer = Recurrence::new(cell, [inputs, hidden], [&w, &r], Some(&bias));
                let mut first = None;
                for tier in Tier::ALL.into_iter().filter(|&tier| Cpu::with_tier(tier).is_ok()) {
                    let cpu = Cpu::with_tier(tier).unwrap();
                    let (mut h, mut c) = (h.clone(), c.clone());
                    let mut scratch = vec![f32::NAN; time * batch * layer.scratch_len()];
                    let mut y = vec![f32::NAN; time * batch * hidden];
                    let state = State { hidden: &mut h, cell: &mut c };
                    let x = (x.as_slice(), [time, batch]);
                    recurrent(cpu, &layer, x, reversed, state, &mut scratch, |at, h| {
                        y[at * batch * hidden..][..batch * hidden].copy_from_slice(h);
                    });
                    for (y, expected) in y.iter().zip(&expected) {
                        let off = (f64::from(*y) - expected).abs();
                        assert!(off < 2e-6, "{cell:?} {tier} {sizes:?}: {y}, expected {expected}");
                    }
                    let bits: Vec<u32> = y.iter().map(|y| y.to_bits()).collect();
                    assert_eq!(*first.get_or_insert_with(|| bits.clone()), bits, "{cell:?} {tier}");
                }
            }
        }
    }
}
