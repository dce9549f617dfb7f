//! Windows, and Fourier transforms as products with the matrix of the transform: right for any length,
//! and as fast as matrix products are, which for frames of some hundreds of samples is fast enough.

use std::f64::consts::TAU;

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{Conv, Op, Padding, Reshape, Transpose, Window};
use crate::{DType, Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "BlackmanWindow", import: |node| window(node, &[0.42, -0.5, 0.08]) },
    OperatorEntry { name: "DFT", import: dft },
    OperatorEntry { name: "HammingWindow", import: |node| window(node, &HAMMING) },
    OperatorEntry { name: "HannWindow", import: |node| window(node, &[0.5, -0.5]) },
    OperatorEntry { name: "MelWeightMatrix", import: mel_weights },
    OperatorEntry { name: "STFT", import: stft },
];

const HAMMING: [f64; 2] = [25.0 / 46.0, -21.0 / 46.0];

/// Most elements of a transform's matrix: beyond, products are the wrong way.
const MOST_ELEMENTS: usize = 1 << 25;

/// A number that the model has to have as a constant.
fn length(node: &NodeContext<'_, '_>, id: ValueId, what: &str) -> Result<usize, ImportError> {
    let known = node.known_integers(id).and_then(|list| usize::try_from(*list.first()?).ok());
    match known {
        Some(length) if length > 0 => Ok(length),
        _ => Err(node.unsupported(format!("{what} that is not a constant above 0"))),
    }
}

/// A sum of cosines: those of 0, 1, 2… periods, with these factors.
fn window(node: &mut NodeContext<'_, '_>, factors: &[f64]) -> Result<(), ImportError> {
    let size = length(node, node.input(0)?, "a size of a window")?;
    refuse_large(node, size, 1)?;
    if node.element_type("output_datatype")?.is_some_and(|dtype| dtype != DType::F32) {
        return Err(node.unsupported("a window of other elements than f32"));
    }
    let period = if node.flag("periodic", true) { size } else { (size - 1).max(1) };
    let element = |place: usize| {
        let angle = TAU * place as f64 / period as f64;
        let terms = factors.iter().enumerate();
        terms.map(|(periods, factor)| factor * (angle * periods as f64).cos()).sum::<f64>() as f32
    };
    let weight = node.weight(Tensor::from_fn(&[size], element))?;
    node.output(0, Op::Identity, &[weight])
}

/// Triangles over the frequencies of a transform, evenly spaced on the mel scale (O'Shaughnessy 1987):
/// `2595 · log₁₀(1 + f / 700)`.
fn mel_weights(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let number = |node: &NodeContext<'_, '_>, index: usize, what: &str| {
        length(node, node.input(index)?, what)
    };
    let bands = number(node, 0, "a number of bands")?;
    let (size, rate) = (number(node, 1, "a length")?, number(node, 2, "a rate")?);
    let edge = |node: &NodeContext<'_, '_>, index: usize| {
        let known = node.known_floats(node.input(index)?).and_then(|list| list.first().copied());
        known.map(f64::from).ok_or_else(|| node.unsupported("an edge that is not a constant"))
    };
    let edges = [edge(node, 3)?, edge(node, 4)?];
    if node.element_type("output_datatype")?.is_some_and(|dtype| dtype != DType::F32) {
        return Err(node.unsupported("weights of other elements than f32"));
    }
    let rows = size / 2 + 1;
    refuse_large(node, rows, bands)?;
    let mel = |frequency: f64| 2595.0 * (frequency / 700.0).ln_1p() / std::f64::consts::LN_10;
    let [low, high] = edges.map(mel);
    let step = (high - low) / (bands as f64 + 2.0);
    let bin = |index: usize| {
        let frequency = ((index as f64 * step + low) / 2595.0 * std::f64::consts::LN_10).exp_m1();
        ((size as f64 + 1.0) * 700.0 * frequency / rate as f64).floor()
    };
    let bins: Vec<f64> = (0..bands + 2).map(bin).collect();
    if !bins.iter().all(|&bin| bin >= 0.0 && bin <= rows as f64) || edges[0] > edges[1] {
        return Err(
            node.invalid(format!("expected edges inside {rows} frequencies, found {edges:?}"))
        );
    }
    let element = |place: usize| {
        let (row, band) = ((place / bands) as f64, place % bands);
        let [left, middle, right] = [bins[band], bins[band + 1], bins[band + 2]];
        let falls = row >= middle && row < right;
        match row {
            _ if falls => (right - row) / (right - middle),
            _ if row == middle => 1.0,
            _ if row >= left && row < middle => (row - left) / (middle - left),
            _ => 0.0,
        }
    };
    let matrix = Tensor::from_fn(&[rows, bands], |place| element(place) as f32);
    let weight = node.weight(matrix)?;
    node.output(0, Op::Identity, &[weight])
}

/// What an entry of a signal contributes to an entry of its transform of `length`: the factor, real and
/// imaginary.
fn factor(length: usize, entry: usize, frequency: usize) -> [f64; 2] {
    let angle = TAU * ((entry * frequency) % length) as f64 / length as f64;
    [angle.cos(), -angle.sin()]
}

/// Frequencies of the output.
fn frequencies(length: usize, onesided: bool) -> usize {
    if onesided { length / 2 + 1 } else { length }
}

fn refuse_large(
    node: &NodeContext<'_, '_>,
    entries: usize,
    frequencies: usize,
) -> Result<(), ImportError> {
    match entries.checked_mul(frequencies).and_then(|elements| elements.checked_mul(4)) {
        Some(elements) if elements <= MOST_ELEMENTS => Ok(()),
        _ => Err(node.unsupported(format!("a transform of {entries} entries"))),
    }
}

/// A convolution whose filters are the frequencies of a frame, real parts before imaginary ones.
fn stft(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (signal, step) = (node.input(0)?, node.input(1)?);
    let step = length(node, step, "a step of frames")?;
    let given = node.optional(2).map(|window| {
        node.known_floats(window).ok_or_else(|| node.unsupported("a window that is no constant"))
    });
    let window = given.transpose()?;
    let length = match (node.optional(3), &window) {
        (Some(id), _) => length(node, id, "a length of frames")?,
        (None, Some(window)) => window.len(),
        (None, None) => return Err(node.invalid("expected a window or a length of frames")),
    };
    let count = frequencies(length, node.flag("onesided", true));
    refuse_large(node, length, count)?;
    let window = window.unwrap_or_else(|| vec![1.0; length]);
    if window.len() != length {
        let found = window.len();
        return Err(node.invalid(format!("expected a window of {length}, found {found}")));
    }
    let shape = node.shape(signal);
    if !matches!(shape.as_slice(), [_, _] | [_, _, Dim::Fixed(1)]) {
        return Err(node.unsupported("a complex signal, or one without a batch"));
    }
    let element = |place: usize| {
        let (part, row, entry) = (place / (count * length), place / length % count, place % length);
        (factor(length, entry, row)[part] * f64::from(window[entry])) as f32
    };
    let filters = node.weight(Tensor::from_fn(&[2 * count, 1, length], element))?;
    let op = Op::Reshape(Reshape { shape: vec![0, 1, -1] });
    let x = node.add(op, &[signal])?;
    let padding = Padding::Explicit { before: vec![0], after: vec![0] };
    let window = Window { kernel: vec![length], strides: vec![step], dilations: vec![1], padding };
    let y = node.add(Op::Conv(Conv { window, groups: 1 }), &[x, filters])?;
    let shape = vec![0, 2, count as i64, -1];
    let y = node.add(Op::Reshape(Reshape { shape }), &[y])?;
    node.output(0, Op::Transpose(Transpose { permutation: vec![0, 3, 2, 1] }), &[y])
}

/// A transform of numbers that have one part or two.
struct Form {
    inverse: bool,
    onesided: bool,
    length: usize,
    parts: usize,
}

impl Form {
    /// Entries of the output, and parts of each.
    fn output(&self) -> (usize, usize) {
        match (self.inverse, self.onesided) {
            (true, true) => (self.length, 1),
            (_, onesided) => (frequencies(self.length, onesided), 2),
        }
    }

    /// What one part of an entry, which stand one after another, contributes to one of the output.
    fn element(&self, row: usize, column: usize) -> f64 {
        let (_, parts_after) = self.output();
        let (entry, from_imaginary) = (row / self.parts, row % self.parts == 1);
        let (place, to_imaginary) = (column / parts_after, column % parts_after == 1);
        let given = if self.inverse && self.onesided { self.length / 2 + 1 } else { self.length };
        if entry >= given {
            return 0.0;
        }
        let [re, im] = factor(self.length, entry, place);
        let im = if self.inverse { -im } else { im };
        let product = match (from_imaginary, to_imaginary) {
            (false, false) | (true, true) => re,
            (false, true) => im,
            (true, false) => -im,
        };
        let mirrored = self.onesided && entry > 0 && 2 * entry != self.length;
        match self.inverse {
            true => product * if mirrored { 2.0 } else { 1.0 } / self.length as f64,
            false => product,
        }
    }
}

fn dft(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let shape = node.shape(x);
    let rank = shape.len();
    let axis = match (node.opset() >= 20, node.optional(2)) {
        (false, _) => node.int_or("axis", 1),
        (true, None) => -2,
        (true, Some(_)) => {
            let known = node.integers(2)?;
            *known.first().ok_or_else(|| node.invalid("expected an axis"))?
        }
    };
    let axis = node.axis_of(axis, rank)?;
    let (inverse, onesided) = (node.flag("inverse", false), node.flag("onesided", false));
    let (&[.., Dim::Fixed(parts @ (1 | 2))], Some(&Dim::Fixed(entries))) =
        (shape.as_slice(), shape.get(axis))
    else {
        return Err(node.unsupported("a signal whose length, or number of parts, is not known"));
    };
    // Half of a transform stands for that of real numbers, which its inverse gives.
    let halves_fit = !onesided || inverse == (parts == 2);
    if axis + 1 >= rank || !halves_fit {
        return Err(
            node.unsupported("this axis, or half of a transform that is not of real numbers")
        );
    }
    let usual = if inverse && onesided { 2 * entries.max(2) - 2 } else { entries };
    let length = match node.optional(1) {
        Some(id) => length(node, id, "a length")?,
        None => usual,
    };
    let form = Form { inverse, onesided, length, parts };
    let (count, parts_after) = form.output();
    refuse_large(node, entries.max(1), count)?;
    let columns = count * parts_after;
    let element = |place: usize| form.element(place / columns, place % columns) as f32;
    let matrix = node.weight(Tensor::from_fn(&[entries * parts, columns], element))?;
    // The axis beside the parts.
    let mut order: Vec<usize> = (0..rank).filter(|&other| other != axis).collect();
    order.insert(rank - 2, axis);
    let moves = axis != rank - 2;
    let mut y = x;
    if moves {
        y = node.add(Op::Transpose(Transpose { permutation: order.clone() }), &[y])?;
    }
    let kept = vec![0; rank - 2];
    let rows = Reshape { shape: [kept.clone(), vec![-1]].concat() };
    y = node.add(Op::Reshape(rows), &[y])?;
    y = node.add(Op::MatMul, &[y, matrix])?;
    let pairs =
        Op::Reshape(Reshape { shape: [kept, vec![count as i64, parts_after as i64]].concat() });
    if !moves {
        return node.output(0, pairs, &[y]);
    }
    y = node.add(pairs, &[y])?;
    let back = (0..rank).map(|place| order.iter().position(|&from| from == place));
    let permutation = back.collect::<Option<_>>().ok_or_else(|| node.invalid("a permutation"))?;
    node.output(0, Op::Transpose(Transpose { permutation }), &[y])
}
