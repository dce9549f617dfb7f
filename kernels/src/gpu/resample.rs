//! Two neighbouring dimensions of another size, each entry made of some of the old ones.

use cubecl::prelude::*;

use super::{Buffer, Gpu};
use crate::Sample;

/// How the entries of a dimension are made, on a device.
#[derive(Clone, Debug)]
pub struct Samples {
    count: usize,
    /// Most old entries that a new one is made of, ≥ 1.
    most: usize,
    /// One more than the greatest old entry that is read.
    reads: usize,
    /// `[count]`: how many of `most` there are, i32.
    lens: Buffer,
    /// `[count, most]`: which, i32.
    entries: Buffer,
    /// `[count, most]`: times what, f32.
    weights: Buffer,
    /// `[count]`: what is added, f32.
    fills: Buffer,
}

impl Samples {
    /// The same samples on a device.
    ///
    /// # Panics
    /// When there are 2³¹ entries.
    pub fn new(gpu: &Gpu, samples: &[Sample]) -> Self {
        let weighted = |sample: &Sample| match sample {
            Sample::Fill(_) => Vec::new(),
            Sample::Weighted(weights) => weights.clone(),
        };
        let all: Vec<Vec<(usize, f32)>> = samples.iter().map(weighted).collect();
        let most = all.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let reads = all.iter().flatten().map(|(entry, _)| entry + 1).max().unwrap_or(0);
        let number = |number: usize| i32::try_from(number).expect("fewer than 2³¹ entries");
        let rows = all.iter().map(|weights| {
            let padding = std::iter::repeat_n((0, 0.0), most - weights.len());
            weights.iter().copied().chain(padding)
        });
        let (entries, weights): (Vec<usize>, Vec<f32>) = rows.flatten().unzip();
        let fills = samples.iter().map(|sample| match sample {
            Sample::Fill(value) => *value,
            Sample::Weighted(_) => 0.0,
        });
        let integers = |numbers: &mut dyn Iterator<Item = usize>| {
            gpu.upload(&numbers.flat_map(|n| number(n).to_ne_bytes()).collect::<Vec<u8>>())
        };
        Self {
            count: samples.len(),
            most,
            reads,
            lens: integers(&mut all.iter().map(Vec::len)),
            entries: integers(&mut entries.into_iter()),
            weights: gpu.upload_floats(weights.into_iter()),
            fills: gpu.upload_floats(fills),
        }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        [&self.lens, &self.entries, &self.weights, &self.fills].iter().map(|all| all.len()).sum()
    }

    fn arguments(&self) -> [BufferArg; 4] {
        let pairs = self.count * self.most;
        [
            self.lens.argument::<i32>("samples: lens", self.count),
            self.entries.argument::<i32>("samples: entries", pairs),
            self.weights.argument::<f32>("samples: weights", pairs),
            self.fills.argument::<f32>("samples: fills", self.count),
        ]
    }
}

#[cube(launch_unchecked)]
fn resample_kernel(
    x: &[f32],
    y: &mut [f32],
    lens_a: &[i32],
    entries_a: &[i32],
    weights_a: &[f32],
    fills_a: &[f32],
    lens_b: &[i32],
    entries_b: &[i32],
    weights_b: &[f32],
    fills_b: &[f32],
    from_a: usize,
    from_b: usize,
    inner: usize,
    most_a: usize,
    most_b: usize,
) {
    let step = CUBE_COUNT * CUBE_DIM as usize;
    let (count_a, count_b) = (lens_a.len(), lens_b.len());
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let (rows, place) = (index / inner, index % inner);
        let (rows, b) = (rows / count_b, rows % count_b);
        let (outer, a) = (rows / count_a, rows % count_a);
        let mut sum = fills_b[b];
        for of_b in 0..usize::cast_from(lens_b[b]) {
            let entry_b = usize::cast_from(entries_b[b * most_b + of_b]);
            let mut part = fills_a[a];
            for of_a in 0..usize::cast_from(lens_a[a]) {
                let entry_a = usize::cast_from(entries_a[a * most_a + of_a]);
                let from = ((outer * from_a + entry_a) * from_b + entry_b) * inner + place;
                part += weights_a[a * most_a + of_a] * x[from];
            }
            sum += weights_b[b * most_b + of_b] * part;
        }
        y[index] = sum;
        index += step;
    }
}

/// Makes each entry of two neighbouring dimensions: of the first, then of the second.
///
/// # Shapes
/// f32; `x`: `[outer, a, b, inner]`, `size` says these; `y`: `[outer, first, second, inner]`.
///
/// # Panics
/// When a length differs, or a sample names an entry that is not there.
pub fn resample(
    gpu: &Gpu,
    x: &Buffer,
    size: [usize; 4],
    [first, second]: [&Samples; 2],
    y: &Buffer,
) {
    let [outer, a, b, inner] = size;
    assert!(first.reads <= a && second.reads <= b, "resample: entries reach out of {size:?}");
    let elements = outer * first.count * second.count * inner;
    let x = x.argument::<f32>("resample: x", size.iter().product());
    let y = y.argument::<f32>("resample: y", elements);
    if elements == 0 {
        return;
    }
    let (cubes, units) = gpu.spread(elements);
    let [lens_a, entries_a, weights_a, fills_a] = first.arguments();
    let [lens_b, entries_b, weights_b, fills_b] = second.arguments();
    // SAFETY: the kernel stays below the length of y; every sample's entries lie in x, as was checked.
    unsafe {
        resample_kernel::launch_unchecked(
            &gpu.client,
            cubes,
            units,
            x,
            y,
            lens_a,
            entries_a,
            weights_a,
            fills_a,
            lens_b,
            entries_b,
            weights_b,
            fills_b,
            a,
            b,
            inner,
            first.most,
            second.most,
        );
    };
}
