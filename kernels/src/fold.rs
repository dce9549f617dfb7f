//! Images from the windows that were cut out of them.

use crate::parallel::{check_shape, for_each_row, rows_per_chunk};
use crate::window::Slide;

/// Adds up windows where they lie in an image.
///
/// # Shapes
/// `x`: `[planes, entries of a window, windows]`; `y`: `[planes, height, width]`
///
/// # Panics
/// When a length differs.
pub fn fold2d(planes: usize, slides: &[Slide; 2], x: &[f32], y: &mut [f32]) {
    slides.iter().for_each(Slide::check);
    let [rows, columns] = slides;
    let (entries, windows) = (rows.kernel * columns.kernel, rows.output * columns.output);
    check_shape("fold2d: x", x.len(), &[planes, entries, windows]);
    check_shape("fold2d: y", y.len(), &[planes, rows.input, columns.input]);
    if y.is_empty() {
        return;
    }
    let image = rows.input * columns.input;
    for_each_row(y, image, rows_per_chunk(entries * windows), |plane, y| {
        y.fill(0.0);
        let x = &x[plane * entries * windows..][..entries * windows];
        for entry in 0..entries {
            let x = &x[entry * windows..][..windows];
            let (down, across) = (entry / columns.kernel, entry % columns.kernel);
            let inside = columns.windows(across);
            for row in rows.windows(down) {
                let place = row * rows.stride + down * rows.dilation - rows.before;
                let y = &mut y[place * columns.input..][..columns.input];
                let x = &x[row * columns.output..][..columns.output][inside.clone()];
                if inside.is_empty() {
                    continue;
                }
                let first =
                    inside.start * columns.stride + across * columns.dilation - columns.before;
                if columns.stride == 1 {
                    y[first..].iter_mut().zip(x).for_each(|(y, x)| *y += x);
                } else {
                    let places = y[first..].iter_mut().step_by(columns.stride);
                    places.zip(x).for_each(|(y, x)| *y += x);
                }
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_add_up_where_they_lie() {
        for (input, kernel, stride, dilation, padding) in [
            (5, 3, 1, 1, [0, 0]),
            (5, 3, 1, 1, [2, 1]),
            (7, 2, 3, 2, [1, 2]),
            (1, 1, 1, 1, [0, 0]),
            (2, 3, 2, 1, [1, 3]),
        ] {
            let slide = Slide::fitting(input, kernel, stride, dilation, padding);
            let slides = [slide, Slide { input: 3, output: 3, ..Slide::ONE }];
            let windows = slide.output * 3;
            let x: Vec<f32> = (0..2 * kernel * windows).map(|at| at as f32).collect();
            let mut expected = vec![0.0; 2 * input * 3];
            for (at, &x) in x.iter().enumerate() {
                let (plane, entry) = (at / windows / kernel, at / windows % kernel);
                let (window, column) = (at % windows / 3, at % 3);
                let place = (window * stride + entry * dilation).wrapping_sub(padding[0]);
                if place < input {
                    expected[(plane * input + place) * 3 + column] += x;
                }
            }
            let mut y = vec![f32::NAN; expected.len()];
            fold2d(2, &slides, &x, &mut y);
            assert_eq!(y, expected);
        }
        let none = Slide { input: 0, output: 0, ..Slide::ONE };
        fold2d(2, &[none, Slide::ONE], &[], &mut []);
    }
}
