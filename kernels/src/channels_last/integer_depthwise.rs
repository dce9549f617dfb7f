#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Convolution in integers where every output sees one channel of its own.

#[cfg(target_arch = "x86_64")]
use super::interleaved::{self, Blocks, Results};
use crate::conv::Conv2d;
use crate::int8::{Finish, Layer, Output};
use crate::parallel::{CHUNK, check_len, check_shape, for_each_row};
#[cfg(target_arch = "x86_64")]
use crate::tier::Tier;
use crate::tier::{Cpu, tiered};
use crate::window::Slide;

/// Channels whose sums are made and finished at once.
pub(super) const BLOCK: usize = 64;

/// Elements of the result that a thread takes at once, as far as these are whole rows: about half a µs.
pub const DEPTHWISE_PIECE: usize = CHUNK / 4;

/// Filters that see one channel each, laid out for [`integer_depthwise`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PackedDepthwise {
    channels: usize,
    kernel: [usize; 2],
    /// `[rows, columns, channels]`
    weights: Vec<i8>,
    #[cfg(target_arch = "x86_64")]
    blocks: Blocks,
}

impl PackedDepthwise {
    /// Packs filters.
    ///
    /// # Shapes
    /// `weight`: `[channels, kernel[0], kernel[1]]`, zero point 0.
    ///
    /// # Panics
    /// When the length differs.
    #[must_use]
    pub fn new(weight: &[i8], channels: usize, kernel: [usize; 2]) -> Self {
        check_shape("filters: weight", weight.len(), &[channels, kernel[0], kernel[1]]);
        let taps = weight.len() / channels.max(1);
        let tap_of = |place: usize| weight[place % channels * taps + place / channels];
        let weights: Vec<i8> = (0..weight.len()).map(tap_of).collect();
        Self {
            channels,
            kernel,
            #[cfg(target_arch = "x86_64")]
            blocks: Blocks::new(&weights, channels, kernel),
            weights,
        }
    }

    /// Bytes held.
    #[must_use]
    pub fn size_bytes(&self) -> usize {
        let plain = size_of_val(self.weights.as_slice());
        #[cfg(target_arch = "x86_64")]
        let plain = plain + self.blocks.size_bytes();
        plain
    }
}

/// `y = activation((x − zero_point) ∗ weights · scales + bias)`, channel by channel, summed in `i32` without
/// error; what lies outside of an image is 0. To the bit what [`integer_conv2d`](super::integer_conv2d())
/// makes of filters that are 0 in all other channels.
///
/// # Shapes
/// - `x`: `[batch, height, width, channels]`
/// - `layer`: scales and bias of each channel
/// - `y`: `[batch, windows[0].output, windows[1].output, channels]`
///
/// # Panics
/// When a size differs, or groups and outputs are not as many as channels.
pub fn integer_depthwise(
    cpu: Cpu,
    conv: &Conv2d,
    (x, zero_point): (&[i8], i8),
    layer: &Layer<'_, PackedDepthwise>,
    y: Output<'_>,
) {
    let Conv2d { batch, channels, outputs, groups, windows: [rows, columns] } = conv;
    conv.windows.iter().for_each(Slide::check);
    assert_eq!(
        [groups, outputs, &layer.weights.channels],
        [channels; 3],
        "integer_depthwise: expected as many groups, outputs and filters as channels"
    );
    let kernel = [rows.kernel, columns.kernel];
    assert_eq!(layer.weights.kernel, kernel, "integer_depthwise: weights");
    check_shape("integer_depthwise: x", x.len(), &[*batch, rows.input, columns.input, *channels]);
    check_len("integer_depthwise: scales", layer.scales.len(), *channels);
    if let Some(bias) = layer.bias {
        check_len("integer_depthwise: bias", bias.len(), *channels);
    }
    let integers = Integers { cpu, conv, x, zero_point, layer };
    match y {
        Output::F32(y) => integers.rows(y, |y| Output::F32(y)),
        Output::Int8(y, to) => integers.rows(y, |y| Output::Int8(y, to)),
        Output::Bf16(y) => integers.rows(y, |y| Output::Bf16(y)),
    }
}

/// A convolution with its operands, whose sizes were checked.
struct Integers<'a> {
    cpu: Cpu,
    conv: &'a Conv2d,
    x: &'a [i8],
    zero_point: i8,
    layer: &'a Layer<'a, PackedDepthwise>,
}

impl Integers<'_> {
    fn rows<T: Send>(
        &self,
        y: &mut [T],
        output: impl for<'o> Fn(&'o mut [T]) -> Output<'o> + Sync,
    ) {
        let Conv2d { batch, channels, windows: [rows, columns], .. } = self.conv;
        let shape = [*batch, rows.output, columns.output, *channels];
        check_shape("integer_depthwise: y", y.len(), &shape);
        if y.is_empty() {
            return;
        }
        let (image, row_len) = (self.conv.image() * channels, columns.output * channels);
        for_each_row(y, row_len, (DEPTHWISE_PIECE / row_len).max(1), |row, y| {
            let x = &self.x[row / rows.output * image..][..image];
            self.row(x, row % rows.output, output(y));
        });
    }

    /// One row of the output of an image.
    fn row(&self, x: &[i8], row: usize, mut y: Output<'_>) {
        let Layer { weights, scales, bias, activation, coarse } = *self.layer;
        let Self { cpu, zero_point, .. } = *self;
        let finish = Finish { cpu, activation, coarse };
        #[cfg(target_arch = "x86_64")]
        if cpu.tier() >= Tier::Avx512 {
            let row = interleaved::Row { windows: &self.conv.windows, x, zero_point, row };
            let rounding = match &y {
                Output::Int8(_, to) => finish.rounding(*to),
                _ => None,
            };
            match (&mut y, rounding) {
                (Output::Int8(y, _), Some(rounding)) => {
                    let results = Results::Rounded { y, rounding, scales, bias };
                    row.fill(cpu, &weights.blocks, results);
                }
                _ => {
                    let results = Results::Sums(&mut |place, channel, sums| {
                        let columns = (&scales[channel..], bias.map(|bias| &bias[channel..]));
                        finish.write(sums, columns, &mut y, place);
                    });
                    row.fill(cpu, &weights.blocks, results);
                }
            }
            return;
        }
        let mut sums = [0; BLOCK];
        for column in 0..self.conv.windows[1].output {
            for channel in (0..weights.channels).step_by(BLOCK) {
                let sums = &mut sums[..BLOCK.min(weights.channels - channel)];
                let window =
                    Window { windows: &self.conv.windows, x, zero_point, at: [row, column] };
                window_sums(cpu, &window, weights, channel, sums);
                let columns = (&scales[channel..], bias.map(|bias| &bias[channel..]));
                finish.write(sums, columns, &mut y, column * weights.channels + channel);
            }
        }
    }
}

/// A window of an image.
struct Window<'a> {
    windows: &'a [Slide; 2],
    x: &'a [i8],
    zero_point: i8,
    at: [usize; 2],
}

tiered! {
    /// The sums of a window in some channels.
    fn window_sums(window: &Window<'_>, filters: &PackedDepthwise, channel: usize, sums: &mut [i32]) {
        let Window { windows: [rows, columns], x, zero_point, at: [row, column] } = *window;
        let (channels, zero_point) = (filters.channels, i16::from(zero_point));
        sums.fill(0);
        let (down, across) = (rows.inside(row), columns.inside(column));
        for (down, across) in down.flat_map(|down| across.clone().map(move |across| (down, across))) {
            let line = row * rows.stride + down * rows.dilation - rows.before;
            let pixel = column * columns.stride + across * columns.dilation - columns.before;
            let x = &x[(line * columns.input + pixel) * channels + channel..][..sums.len()];
            let entry = down * columns.kernel + across;
            let weights = &filters.weights[entry * channels + channel..][..sums.len()];
            for ((sum, &x), &weight) in sums.iter_mut().zip(x).zip(weights) {
                // At most 255·128, which fits.
                let product = (i16::from(x) - zero_point).wrapping_mul(i16::from(weight));
                *sum = sum.wrapping_add(i32::from(product));
            }
        }
    }
}
