//! Transposed convolution of images whose channels are last: each unit gathers what one output gets.

use cubecl::prelude::*;

use super::images::upload_bias;
use super::windows::{Windows, WindowsLaunch, area};
use super::{Buffer, Gpu};
use crate::Conv2d;

/// Which of `windows` windows, `stride` entries apart, has a place `reach` entries from its start;
/// `windows` where none has.
#[cube]
fn meeting(place: usize, reach: usize, stride: usize, windows: usize) -> usize {
    let from = (place - reach) / stride;
    let meets = place >= reach && from * stride == place - reach && from < windows;
    select(meets, from, windows)
}

/// The windows are those of the convolution that this is the transpose of: from y to x.
#[cube(launch_unchecked)]
fn transposed_kernel(
    x: &[f32],
    w: &[f32],
    bias: &[f32],
    y: &mut [f32],
    windows: Windows,
    channels: usize,
    outputs: usize,
) {
    let stride = CUBE_COUNT * CUBE_DIM as usize;
    let mut index = ABSOLUTE_POS;
    while index < y.len() {
        let (pixel, output) = (index / outputs, index % outputs);
        let (line, column) = (pixel / windows.input.x, pixel % windows.input.x);
        let (image, row) = (line / windows.input.y, line % windows.input.y);
        let mut sum = f32::new(0.0);
        for down in 0..windows.kernel.y {
            let (place, reach) = (row + windows.before.y, down * windows.dilation.y);
            let from_y = meeting(place, reach, windows.stride.y, windows.output.y);
            if from_y < windows.output.y {
                for across in 0..windows.kernel.x {
                    let (place, reach) = (column + windows.before.x, across * windows.dilation.x);
                    let from_x = meeting(place, reach, windows.stride.x, windows.output.x);
                    if from_x < windows.output.x {
                        let from = (image * windows.output.y + from_y) * windows.output.x + from_x;
                        let tap = down * windows.kernel.x + across;
                        for channel in 0..channels {
                            let weight = w[(tap * channels + channel) * outputs + output];
                            sum = fma(x[from * channels + channel], weight, sum);
                        }
                    }
                }
            }
        }
        y[index] = sum + bias[output];
        index += stride;
    }
}

/// The filters of [`conv_transpose2d`] on a device.
#[derive(Clone, Debug)]
pub struct TransposedFilters {
    /// f32 `[taps, channels, outputs]`
    weight: Buffer,
    bias: Buffer,
}

impl TransposedFilters {
    /// Filters, with zeros for a bias that is not there.
    ///
    /// # Shapes
    /// `filters`: `[channels, outputs, taps]`; `bias`: `[outputs]`.
    ///
    /// # Panics
    /// When a length differs.
    pub fn new(
        gpu: &Gpu,
        filters: &[f32],
        [channels, outputs, taps]: [usize; 3],
        bias: Option<&[f32]>,
    ) -> Self {
        assert_eq!(filters.len(), channels * outputs * taps, "filters");
        let rows = channels * outputs;
        let weights = (0..filters.len()).map(|at| filters[at % rows * taps + at / rows]);
        Self { weight: gpu.upload_floats(weights), bias: upload_bias(gpu, bias, outputs) }
    }

    /// Bytes on the device.
    pub fn bytes(&self) -> usize {
        self.weight.len() + self.bias.len()
    }
}

/// `y = x ∗ᵀ filters + bias`, see [`crate::channels_last::conv_transpose2d`], of one group.
///
/// # Shapes
/// - f32; `x`: `[batch, windows[0].output, windows[1].output, conv.outputs]`
/// - `y`: `[batch, windows[0].input, windows[1].input, conv.channels]`
///
/// # Panics
/// When a length differs.
pub fn conv_transpose2d(
    gpu: &Gpu,
    conv: &Conv2d,
    x: &Buffer,
    filters: &TransposedFilters,
    y: &Buffer,
) {
    let windows = &conv.windows;
    let (channels, outputs) = (conv.outputs, conv.channels);
    let taps = area(windows, |slide| slide.kernel);
    let elements = conv.batch * area(windows, |slide| slide.input) * outputs;
    let input = conv.batch * area(windows, |slide| slide.output) * channels;
    let x = x.argument::<f32>("conv_transpose2d: x", input);
    let y = y.argument::<f32>("conv_transpose2d: y", elements);
    let weights = taps * channels * outputs;
    let weight = filters.weight.argument::<f32>("conv_transpose2d: weight", weights);
    let bias = filters.bias.argument::<f32>("conv_transpose2d: bias", outputs);
    if elements == 0 {
        return;
    }
    let (cubes, units) = gpu.spread(elements);
    // SAFETY: the kernel stays below the length of y; what it reads lies below the sizes that the other
    // lengths were checked against.
    unsafe {
        transposed_kernel::launch_unchecked(
            &gpu.client,
            cubes,
            units,
            x,
            weight,
            bias,
            y,
            WindowsLaunch::of(windows, outputs),
            channels,
            outputs,
        );
    };
}
