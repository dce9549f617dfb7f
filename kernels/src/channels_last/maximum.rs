#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! The greatest of windows of int8.

use super::pool::for_each_row_of_windows;
use crate::tier::{Cpu, tiered};
use crate::window::Slide;

tiered! {
    fn greatest_row(windows: &[Slide; 2], channels: usize, x: &[i8], row: usize, y: &mut [i8]) {
        let [rows, columns] = windows;
        y.fill(i8::MIN);
        for vertical in rows.inside(row) {
            let Some(line) = rows.place(row, vertical) else { continue };
            let line = &x[line * columns.input * channels..][..columns.input * channels];
            for horizontal in 0..columns.kernel {
                let inside = columns.windows(horizontal);
                for (window, y) in inside.clone().zip(y[inside.start * channels..].chunks_exact_mut(channels)) {
                    let Some(pixel) = columns.place(window, horizontal) else { continue };
                    let pixel = &line[pixel * channels..][..channels];
                    y.iter_mut().zip(pixel).for_each(|(y, x)| *y = (*y).max(*x));
                }
            }
        }
    }
}

/// The greatest integer of each window, in every channel alike; −128 where all of a window is padding.
///
/// # Shapes
/// `sizes`: batch and channels; `x`: `[batch, windows[0].input, windows[1].input, channels]`;
/// `y`: `[batch, windows[0].output, windows[1].output, channels]`.
///
/// # Panics
/// When a length differs, or a kernel, stride or dilation is 0.
pub fn greatest2d(cpu: Cpu, sizes: [usize; 2], windows: &[Slide; 2], x: &[i8], y: &mut [i8]) {
    for_each_row_of_windows(sizes, windows, x, y, |x, row, y| {
        greatest_row(cpu, windows, sizes[1], x, row, y);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::channels_last::pool2d;
    use crate::pool::Pooling;

    /// The same as the greatest of floats, padding and dilation included.
    #[test]
    fn integers_pool_as_floats() {
        for (channels, slides) in [
            (1, [Slide::fitting(7, 3, 2, 1, [1, 1]), Slide::fitting(6, 2, 1, 1, [0, 1])]),
            (67, [Slide::fitting(5, 2, 2, 1, [0, 0]), Slide::fitting(9, 3, 2, 2, [2, 1])]),
            (8, [Slide::ONE, Slide::fitting(4, 1, 1, 1, [1, 0])]),
            (0, [Slide::fitting(3, 3, 1, 1, [0, 0]); 2]),
        ] {
            let [rows, columns] = &slides;
            let x: Vec<i8> = (0..2 * rows.input * columns.input * channels)
                .map(|i| (i * 89 % 251) as u8 as i8)
                .collect();
            let floats: Vec<f32> = x.iter().map(|&x| f32::from(x)).collect();
            let len = 2 * rows.output * columns.output * channels;
            for cpu in Cpu::every() {
                let (mut y, mut expected) = (vec![7i8; len], vec![0f32; len]);
                greatest2d(cpu, [2, channels], &slides, &x, &mut y);
                pool2d::<f32, f32>(
                    cpu,
                    Pooling::Max,
                    [2, channels],
                    &slides,
                    &floats,
                    &mut expected,
                );
                let expected: Vec<i8> = expected.iter().map(|&x| x as i8).collect();
                assert_eq!(y, expected, "{cpu:?}");
            }
        }
    }
}
