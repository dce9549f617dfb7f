//! Transposed convolution: every pixel adds its filters to the output (Dumoulin & Visin 2016,
//! arXiv:1603.07285, chapter 4).

use crate::activation::Activation;
use crate::conv::Conv2d;
use crate::float::{Layer, PackedWeights, linear};
use crate::parallel::{check_len, check_shape, for_each_row, rows_per_chunk};
use crate::tier::Cpu;
use crate::window::Slide;

/// Packs the filters of [`conv_transpose2d`].
///
/// # Shapes
/// `weight`: `[channels, outputs, taps]`.
///
/// # Panics
/// When the length differs.
#[must_use]
pub fn pack_transposed(weight: &[f32], [channels, outputs, taps]: [usize; 3]) -> PackedWeights {
    check_len("filters: weight", weight.len(), channels * outputs * taps);
    let mut turned = vec![0.0; weight.len()];
    for (filters, turned) in
        weight.chunks((outputs * taps).max(1)).zip(turned.chunks_mut((outputs * taps).max(1)))
    {
        for (output, filter) in filters.chunks(taps.max(1)).enumerate() {
            for (tap, &weight) in filter.iter().enumerate() {
                turned[tap * outputs + output] = weight;
            }
        }
    }
    PackedWeights::new(&turned, [channels, taps * outputs], [taps * outputs, 1])
}

/// Elements of scratch that [`conv_transpose2d`] needs: what each pixel adds at each place, for one image.
#[must_use]
pub fn transposed_scratch_len(conv: &Conv2d) -> usize {
    conv.positions().saturating_mul(conv.taps()).saturating_mul(conv.channels)
}

/// `y = x ∗ᵀ weight + bias`, the transpose of the convolution `conv`, which takes y for x and gives x
/// for y: its channels are the outputs here, and its outputs the channels.
///
/// # Shapes
/// - `x`: `[batch, windows[0].output, windows[1].output, conv.outputs]`
/// - `y`: `[batch, windows[0].input, windows[1].input, conv.channels]`
/// - `scratch`: [`transposed_scratch_len`], of which any content is left
///
/// # Panics
/// When a size differs, or the convolution has several groups.
pub fn conv_transpose2d(
    cpu: Cpu,
    conv: &Conv2d,
    x: &[f32],
    weights: &PackedWeights,
    bias: Option<&[f32]>,
    y: &mut [f32],
    scratch: &mut [f32],
) {
    conv.windows.iter().for_each(Slide::check);
    let [rows, columns] = &conv.windows;
    let (outputs, taps) = (conv.channels, conv.taps());
    assert!(conv.groups == 1, "expected one group, found {}", conv.groups);
    check_shape("conv_transpose2d: x", x.len(), &[conv.batch, conv.positions(), conv.outputs]);
    check_shape("conv_transpose2d: y", y.len(), &[conv.batch, conv.image(), outputs]);
    check_len("conv_transpose2d: channels", weights.inputs(), conv.outputs);
    check_len("conv_transpose2d: filters", weights.outputs(), taps * outputs);
    check_len("conv_transpose2d: scratch", scratch.len(), transposed_scratch_len(conv));
    if let Some(bias) = bias {
        check_len("conv_transpose2d: bias", bias.len(), outputs);
    }
    if y.is_empty() {
        return;
    }
    let (pixels, image_len) = (conv.positions(), conv.image() * outputs);
    let layer = Layer { weights, bias: None, activation: Activation::Identity };
    for (index, y) in y.chunks_exact_mut(image_len).enumerate() {
        let x = &x[index * pixels * conv.outputs..][..pixels * conv.outputs];
        linear(cpu, x, pixels, &layer, scratch);
        let row_len = columns.input * outputs;
        for_each_row(y, row_len, rows_per_chunk(row_len * rows.kernel), |row, y| {
            match bias {
                Some(bias) => y.chunks_exact_mut(outputs).for_each(|y| y.copy_from_slice(bias)),
                None => y.fill(0.0),
            }
            for down in 0..rows.kernel {
                if let Some(from) = window_of(rows, row, down) {
                    for across in 0..columns.kernel {
                        let tap = (down * columns.kernel + across) * outputs;
                        add_row(columns, from, across, &scratch[tap..], taps * outputs, outputs, y);
                    }
                }
            }
        });
    }
}

/// The window whose entry `entry` lies at `place`.
fn window_of(slide: &Slide, place: usize, entry: usize) -> Option<usize> {
    let start = (place + slide.before).checked_sub(entry * slide.dilation)?;
    let window = start / slide.stride;
    (start % slide.stride == 0 && window < slide.output).then_some(window)
}

/// Adds what the windows of row `from` have at one place across to a row of the output.
fn add_row(
    columns: &Slide,
    from: usize,
    across: usize,
    scratch: &[f32],
    step: usize,
    outputs: usize,
    y: &mut [f32],
) {
    for window in columns.windows(across) {
        let place = window * columns.stride + across * columns.dilation - columns.before;
        let added = &scratch[(from * columns.output + window) * step..][..outputs];
        let y = &mut y[place * outputs..][..outputs];
        y.iter_mut().zip(added).for_each(|(y, added)| *y += added);
    }
}
