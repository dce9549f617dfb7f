//! Convolution in integers: the linear layer of [`crate::int8`] on windows.

use std::cell::Cell;

use super::conv::{
    for_each_image, is_every_pixel, needs_copy, pad, padded_len, places, segments, turned,
};
use crate::conv::Conv2d;
use crate::float::{Grid, Left};
use crate::int8::{Input, Layer, Output, PARALLEL_WORK, PackedWeights, linear, linear_of_windows};
use crate::parallel::{check_len, check_shape};
use crate::tier::{Cpu, Tier};
use crate::window::Slide;

/// Bytes of windows that are multiplied at a time on tile registers, which read a copy of them.
const MOST_BYTES: usize = 1 << 22;

/// Bytes that a window takes in that copy are a multiple of this.
const COPIED_BYTES: usize = 64;

thread_local! {
    static PADDED: Cell<Vec<i8>> = const { Cell::new(Vec::new()) };
}

/// Packs the filters of [`integer_conv2d`].
///
/// # Shapes
/// `weight`: `[outputs, channels, taps]`, zero point 0.
///
/// # Panics
/// When the length differs.
#[must_use]
pub fn pack_integer_filters(weight: &[i8], [outputs, channels, taps]: [usize; 3]) -> PackedWeights {
    let k = channels * taps;
    check_len("filters: weight", weight.len(), outputs * k);
    PackedWeights::new(&turned(weight, channels, taps), [k, outputs], [1, k])
}

/// Elements of scratch that [`integer_conv2d`] needs: an image with the padding around it, where there
/// is some. Does not depend on the batch.
#[must_use]
pub fn integer_scratch_len(conv: &Conv2d) -> usize {
    if needs_copy(conv) { padded_len(conv) } else { 0 }
}

/// `y = activation((x − zero_point) ∗ weights · scales + bias)`, summed in `i32` without error; what lies
/// outside of an image is 0.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels]`
/// - `layer`: weights of [`pack_integer_filters`]
/// - `y`: `[batch, windows[0].output, windows[1].output, outputs]`
/// - `scratch`: [`integer_scratch_len`], of which any content is left
///
/// # Panics
/// When a size differs, or there are several groups.
pub fn integer_conv2d(
    cpu: Cpu,
    conv: &Conv2d,
    (x, zero_point): (&[i8], i8),
    layer: &Layer<'_>,
    y: Output<'_>,
    scratch: &mut [i8],
) {
    conv.windows.iter().for_each(Slide::check);
    assert_eq!(conv.groups, 1, "integer_conv2d: expected one group");
    let k = conv.channels * conv.taps();
    let sizes = [layer.weights.inputs(), layer.weights.outputs()];
    assert_eq!(sizes, [k, conv.outputs], "integer_conv2d: weights");
    let [rows, columns] = &conv.windows;
    check_shape(
        "integer_conv2d: x",
        x.len(),
        &[conv.batch, rows.input, columns.input, conv.channels],
    );
    check_len("integer_conv2d: scratch", scratch.len(), integer_scratch_len(conv));
    let integers = Integers { cpu, conv, x, zero_point, layer };
    match y {
        Output::F32(y) => integers.images(y, |y| Output::F32(y), scratch),
        Output::Int8(y, to) => integers.images(y, |y| Output::Int8(y, to), scratch),
        Output::Bf16(y) => integers.images(y, |y| Output::Bf16(y), scratch),
    }
}

/// A convolution with its operands, whose sizes were checked.
struct Integers<'a> {
    cpu: Cpu,
    conv: &'a Conv2d,
    x: &'a [i8],
    zero_point: i8,
    layer: &'a Layer<'a>,
}

impl Integers<'_> {
    fn images<T: Send>(
        &self,
        y: &mut [T],
        output: impl for<'o> Fn(&'o mut [T]) -> Output<'o> + Sync,
        scratch: &mut [i8],
    ) {
        let Conv2d { batch, channels, outputs, .. } = *self.conv;
        let (positions, k) = (self.conv.positions(), self.layer.weights.inputs());
        check_len("integer_conv2d: y", y.len(), batch * positions * outputs);
        if y.is_empty() {
            return;
        }
        if is_every_pixel(self.conv) {
            // The pixels of all images, one after another.
            let (count, x, zero_point) = (batch * positions, self.x, self.zero_point);
            if self.copies() && !k.is_multiple_of(COPIED_BYTES) {
                let pixels = Left::new(x, Grid::line(channels), count, (Grid::line(0), k), k);
                self.rows(pixels, y, &output);
            } else {
                linear(self.cpu, Input::Int8 { x, zero_point }, count, self.layer, output(y));
            }
            return;
        }
        let of_image = positions.saturating_mul(outputs).saturating_mul(k);
        let (len, work) = (positions * outputs, [of_image, PARALLEL_WORK]);
        for_each_image(y, len, work, (scratch, &PADDED), |image, y, scratch| {
            self.image(image, y, &output, scratch);
        });
    }

    /// Whether windows are copied all at once.
    fn copies(&self) -> bool {
        self.cpu.tier() == Tier::Amx
    }

    fn image<T>(
        &self,
        index: usize,
        y: &mut [T],
        output: &impl for<'o> Fn(&'o mut [T]) -> Output<'o>,
        scratch: &mut [i8],
    ) {
        let (conv, k) = (self.conv, self.layer.weights.inputs());
        let len = conv.image() * conv.channels;
        let image = &self.x[index * len..][..len];
        let image = if needs_copy(conv) {
            pad(conv, image, self.zero_point, scratch);
            scratch
        } else {
            image
        };
        let segments = segments(conv, conv.channels);
        self.rows(Left::new(image, places(conv), conv.positions(), segments, k), y, output);
    }

    /// Windows or pixels, some at a time where they are copied.
    fn rows<T>(
        &self,
        x: Left<'_, i8>,
        y: &mut [T],
        output: &impl for<'o> Fn(&'o mut [T]) -> Output<'o>,
    ) {
        let copied = x.k().next_multiple_of(COPIED_BYTES).max(1);
        let at_once = if self.copies() { (MOST_BYTES / copied).max(1) } else { x.count() };
        for (part, y) in y.chunks_mut(at_once * self.conv.outputs).enumerate() {
            let rows = part * at_once..x.count().min((part + 1) * at_once);
            let x = (x.range(rows), self.zero_point);
            linear_of_windows(self.cpu, x, self.layer, output(y));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::Activation;
    use crate::channels_last::{Filters, PackedFilters, conv2d, scratch_len};
    use crate::int8::Quantization;
    use crate::tier::Tier;

    /// Sums of so few products are exact in f32 as well.
    #[test]
    fn every_tier_has_the_sums_of_the_windows() {
        let slide = Slide::fitting;
        for (batch, channels, outputs, windows) in [
            (2, 3, 5, [slide(7, 3, 2, 1, [1, 1]), slide(6, 3, 1, 2, [2, 0])]),
            (1, 8, 17, [Slide::ONE, slide(19, 5, 1, 1, [2, 2])]),
            (3, 16, 20, [slide(5, 1, 1, 1, [0, 0]); 2]),
            (2, 4, 33, [slide(9, 1, 2, 1, [0, 0]); 2]),
            (1, 64, 16, [slide(40, 3, 1, 1, [1, 1]), slide(38, 3, 1, 1, [1, 1])]),
            (1, 0, 4, [slide(3, 2, 1, 1, [0, 0]); 2]),
            (0, 2, 3, [slide(2, 2, 1, 1, [0, 0]); 2]),
            // Enough images for threads, each too small for them.
            (40, 8, 16, [slide(6, 3, 1, 1, [1, 1]); 2]),
            // More windows than are copied at a time.
            (1, 3, 16, [slide(300, 1, 1, 1, [0, 0]), slide(300, 1, 1, 1, [0, 0])]),
        ] {
            let conv = Conv2d { batch, channels, outputs, groups: 1, windows };
            let integers = |count: usize, seed: usize| -> Vec<i8> {
                (0..count).map(|i| ((i * 37 + seed * 11) % 255) as u8 as i8).collect()
            };
            let x = integers(batch * conv.image() * channels, 1);
            let weight = integers(outputs * channels * conv.taps(), 2);
            let zero_point = -7i8;
            let floats: Vec<f32> =
                x.iter().map(|&x| f32::from(i16::from(x) - i16::from(zero_point))).collect();
            let weights: Vec<f32> = weight.iter().map(|&w| f32::from(w)).collect();
            let cpu = Cpu::with_tier(Tier::Portable).unwrap();
            let packed = PackedFilters::new(&weights, [outputs, channels, conv.taps()], 1);
            let activation = Activation::Identity;
            let filters = Filters { weight: &packed, bias: None, addend: None, activation };
            let mut expected = vec![0.0; batch * conv.positions() * outputs];
            let mut scratch = vec![0.0; scratch_len(&conv)];
            conv2d(cpu, &conv, &floats, &filters, &mut expected, &mut scratch);

            let packed = pack_integer_filters(&weight, [outputs, channels, conv.taps()]);
            let (scales, bias) = (vec![0.25; outputs], integers(outputs, 3));
            let bias: Vec<f32> = bias.iter().map(|&bias| f32::from(bias)).collect();
            let to = Quantization { scale: 64.0, zero_point: 3, min: -128, max: 127 };
            for (value, bias) in expected.iter_mut().zip(bias.iter().cycle()) {
                *value = *value * 0.25 + bias;
            }
            let mut rounded = vec![0; expected.len()];
            crate::int8::quantize(cpu, &expected, to, &mut rounded);
            for tier in Tier::ALL.into_iter().filter(|&tier| Cpu::with_tier(tier).is_ok()) {
                let cpu = Cpu::with_tier(tier).unwrap();
                let layer = Layer {
                    weights: &packed,
                    scales: &scales,
                    bias: Some(&bias),
                    activation,
                    coarse: false,
                };
                let mut scratch = vec![0; integer_scratch_len(&conv)];
                let mut found = vec![f32::NAN; expected.len()];
                let x = (x.as_slice(), zero_point);
                integer_conv2d(cpu, &conv, x, &layer, Output::F32(&mut found), &mut scratch);
                assert_eq!(found, expected, "{tier}: {conv:?}");
                let mut found = vec![0; expected.len()];
                let y = Output::Int8(&mut found, to);
                integer_conv2d(cpu, &conv, x, &layer, y, &mut scratch);
                assert_eq!(found, rounded, "{tier}: {conv:?}");
            }
        }
    }
}
