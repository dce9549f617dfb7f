#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! A dimension of another size, each entry made of some of the old ones.

use crate::parallel::{check_shape, for_each_row, rows_per_chunk};
use crate::tier::{Cpu, tiered};

/// How one entry is made.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    /// The sum of entries, each times its weight.
    Weighted(Vec<(usize, f32)>),
    /// A number that no entry changes.
    Fill(f32),
}

tiered! {
    fn scaled(x: &[f32], weight: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = weight * x;
        }
    }
}

tiered! {
    fn add_scaled(x: &[f32], weight: f32, y: &mut [f32]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y += weight * x;
        }
    }
}

/// Makes the entries of a row, each in the order of its weights.
fn one_by_one(x: &[f32], samples: &[Sample], y: &mut [f32]) {
    for (y, sample) in y.iter_mut().zip(samples) {
        *y = match sample {
            Sample::Fill(value) => *value,
            Sample::Weighted(weights) => match weights.as_slice() {
                [] => 0.0,
                &[(index, 1.0)] => x[index],
                &[(index, weight), ref rest @ ..] => {
                    let first = weight * x[index];
                    rest.iter().fold(first, |sum, &(index, weight)| sum + weight * x[index])
                }
            },
        };
    }
}

/// Makes each entry of a dimension.
///
/// # Shapes
/// `x`: `[outer, input, inner]`; `y`: `[outer, samples, inner]`.
///
/// # Panics
/// When a length differs, or a sample names an entry that is not there.
pub fn resample(
    cpu: Cpu,
    x: &[f32],
    [outer, input, inner]: [usize; 3],
    samples: &[Sample],
    y: &mut [f32],
) {
    check_shape("resample: x", x.len(), &[outer, input, inner]);
    check_shape("resample: y", y.len(), &[outer, samples.len(), inner]);
    if y.is_empty() {
        return;
    }
    if inner == 1 {
        let count = samples.len();
        for_each_row(y, count, rows_per_chunk(count), |row, y| {
            one_by_one(&x[row * input..][..input], samples, y);
        });
        return;
    }
    for_each_row(y, inner, rows_per_chunk(inner), |row, y| {
        let x = &x[row / samples.len() * input * inner..][..input * inner];
        let entry = |entry: usize| &x[entry * inner..][..inner];
        match &samples[row % samples.len()] {
            Sample::Fill(value) => y.fill(*value),
            Sample::Weighted(weights) => match weights.as_slice() {
                [] => y.fill(0.0),
                // Of one entry nothing is left but the entry.
                &[(index, 1.0)] => y.copy_from_slice(entry(index)),
                &[(index, weight), ref rest @ ..] => {
                    scaled(cpu, entry(index), weight, y);
                    for &(index, weight) in rest {
                        add_scaled(cpu, entry(index), weight, y);
                    }
                }
            },
        }
    });
}
