//! Windows that slide over the spatial dimensions of `[batch, channels, d1, d2, …]`: what
//! convolution and pooling share.

use serde::{Deserialize, Serialize};

use super::position::{flat, position};
use super::{OnnxAttribute, OnnxForm};
use crate::{Dim, Shape};

/// A window over the spatial dimensions; every list has one entry a dimension.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Window {
    /// Entries of the window.
    pub kernel: Vec<usize>,
    /// Distance of two windows, > 0.
    pub strides: Vec<usize>,
    /// Distance of two entries of a window, > 0.
    pub dilations: Vec<usize>,
    /// What is added around the input.
    pub padding: Padding,
}

/// What is added around the input before a window slides over it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Padding {
    /// So much before and after each dimension.
    Explicit {
        /// Entries before the first.
        before: Vec<usize>,
        /// Entries after the last.
        after: Vec<usize>,
    },
    /// What makes the output `⌈input / stride⌉`; of an odd number the greater half comes after.
    SameUpper,
    /// What makes the output `⌈input / stride⌉`; of an odd number the greater half comes before.
    SameLower,
}

/// How many windows fit along one dimension when the last would reach beyond its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Rounding {
    /// The last one is left out.
    #[default]
    Floor,
    /// It is taken, when it begins inside the input or the padding before it.
    Ceil,
}

/// One dimension of a window over an input of known size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowAxis {
    /// Entries of the input.
    pub input: usize,
    /// Entries of the window.
    pub kernel: usize,
    /// Distance of two windows.
    pub stride: usize,
    /// Distance of two entries of a window.
    pub dilation: usize,
    /// Padding before the first entry of the input.
    pub before: usize,
    /// Padding after the last entry of the input.
    pub after: usize,
    /// Number of windows.
    pub output: usize,
}

impl WindowAxis {
    /// Places in the input of the entries of the window at `index`; `None` for those in the
    /// padding. Entries beyond the padding, which rounding up can reach, are left out.
    fn places(&self, index: usize) -> impl Iterator<Item = (usize, Option<usize>)> + use<> {
        let Self { input, kernel, stride, dilation, before, after, .. } = *self;
        let start = index * stride;
        (0..kernel)
            .map(move |entry| (entry, start + entry * dilation))
            .take_while(move |&(_, padded)| padded < before + input + after)
            .map(move |(entry, padded)| {
                (entry, padded.checked_sub(before).filter(|&place| place < input))
            })
    }
}

/// Largest kernel, stride, dilation or padding: products of two stay far from overflow.
pub(super) const SIZE_LIMIT: usize = 1 << 24;

impl Window {
    /// Checks the lists for an input of `spatial` spatial dimensions.
    ///
    /// # Errors
    ///
    /// When a list has another length, or a number is out of range.
    pub(super) fn check(&self, spatial: usize) -> Result<(), String> {
        let (mut positive, mut any) =
            (vec![&self.kernel, &self.strides, &self.dilations], Vec::new());
        if let Padding::Explicit { before, after } = &self.padding {
            any.extend([before, after]);
        }
        if positive.iter().chain(&any).any(|list| list.len() != spatial) {
            return Err(format!("expected one number a spatial dimension ({spatial}): {self:?}"));
        }
        if positive.drain(..).any(|list| list.contains(&0)) {
            return Err(format!("expected sizes, strides and dilations above 0: {self:?}"));
        }
        let lists = [&self.kernel, &self.strides, &self.dilations].into_iter().chain(any);
        if lists.flatten().any(|&number| number > SIZE_LIMIT) {
            return Err(format!("expected numbers up to {SIZE_LIMIT}: {self:?}"));
        }
        Ok(())
    }

    /// Entries that a window spans along dimension `axis`.
    pub(super) fn span(&self, axis: usize) -> usize {
        (self.kernel[axis] - 1) * self.dilations[axis] + 1
    }

    /// The window along dimension `axis` of `input` entries.
    ///
    /// # Errors
    ///
    /// When no window fits.
    pub fn axis(
        &self,
        axis: usize,
        input: usize,
        rounding: Rounding,
    ) -> Result<WindowAxis, String> {
        let (kernel, stride, dilation) =
            (self.kernel[axis], self.strides[axis], self.dilations[axis]);
        let span = self.span(axis);
        let (before, after, output) = match &self.padding {
            Padding::Explicit { before, after } => {
                let (before, after) = (before[axis], after[axis]);
                let room = (input.saturating_add(before + after)).checked_sub(span);
                let room = room.ok_or_else(|| {
                    format!("a window of {span} does not fit {input} + {before} + {after} entries")
                })?;
                let output = match rounding {
                    Rounding::Floor => room / stride + 1,
                    Rounding::Ceil => {
                        let output = room.div_ceil(stride) + 1;
                        output - usize::from((output - 1) * stride >= input + before)
                    }
                };
                (before, after, output)
            }
            same => {
                let output = input.div_ceil(stride);
                let reach = output.saturating_sub(1) * stride + span;
                let total = if output == 0 { 0 } else { reach.saturating_sub(input) };
                let less = total / 2;
                match same {
                    Padding::SameLower => (total - less, less, output),
                    _ => (less, total - less, output),
                }
            }
        };
        Ok(WindowAxis { input, kernel, stride, dilation, before, after, output })
    }

    /// The window along every dimension of `input`.
    pub(super) fn axes(
        &self,
        input: &[usize],
        rounding: Rounding,
    ) -> Result<Vec<WindowAxis>, String> {
        self.check(input.len())?;
        input.iter().enumerate().map(|(axis, &size)| self.axis(axis, size, rounding)).collect()
    }

    /// The spatial dimensions of the output. A symbol is kept where the number of windows is that
    /// of the input's entries.
    pub(super) fn infer(&self, input: &[Dim], rounding: Rounding) -> Result<Shape, String> {
        self.check(input.len())?;
        let dim = |(axis, dim): (usize, &Dim)| {
            Ok(match dim {
                Dim::Fixed(size) => Dim::Fixed(self.axis(axis, *size, rounding)?.output),
                symbol if self.keeps_size(axis) => symbol.clone(),
                _ => Dim::Unknown,
            })
        };
        input.iter().enumerate().map(dim).collect()
    }

    fn keeps_size(&self, axis: usize) -> bool {
        let same = match &self.padding {
            Padding::Explicit { before, after } => {
                before[axis] + after[axis] + 1 == self.span(axis)
            }
            Padding::SameUpper | Padding::SameLower => true,
        };
        same && self.strides[axis] == 1
    }

    /// Attributes of the ONNX node.
    pub(super) fn form(&self) -> OnnxForm {
        let list = |numbers: &[usize]| {
            OnnxAttribute::Ints(numbers.iter().map(|&number| number as i64).collect())
        };
        let form = OnnxForm::default()
            .attribute("kernel_shape", list(&self.kernel))
            .attribute("strides", list(&self.strides))
            .attribute("dilations", list(&self.dilations));
        match &self.padding {
            Padding::Explicit { before, after } => {
                form.attribute("pads", list(&[before.as_slice(), after].concat()))
            }
            Padding::SameUpper => form.attribute("auto_pad", OnnxAttribute::Text("SAME_UPPER")),
            Padding::SameLower => form.attribute("auto_pad", OnnxAttribute::Text("SAME_LOWER")),
        }
    }
}

/// Number of windows along each dimension.
pub(super) fn outputs(axes: &[WindowAxis]) -> Vec<usize> {
    axes.iter().map(|axis| axis.output).collect()
}

/// An entry of a window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// Flat index in the window.
    pub(super) kernel: usize,
    /// Flat index in the input; `None` in the padding.
    pub(super) input: Option<usize>,
}

/// The entries of the window at flat `index` of the output's spatial dimensions.
pub(super) fn entries(axes: &[WindowAxis], index: usize) -> Vec<Entry> {
    let at = position(index, &outputs(axes));
    let kernel: Vec<usize> = axes.iter().map(|axis| axis.kernel).collect();
    let sizes: Vec<usize> = axes.iter().map(|axis| axis.input).collect();
    let mut found: Vec<(Vec<usize>, Option<Vec<usize>>)> = vec![(Vec::new(), Some(Vec::new()))];
    for (axis, &index) in axes.iter().zip(&at) {
        let longer = found.iter().flat_map(|(entry, place)| {
            axis.places(index).map(move |(next_entry, next_place)| {
                let place = place.as_ref().zip(next_place);
                let place = place.map(|(place, next)| [place.as_slice(), &[next]].concat());
                ([entry.as_slice(), &[next_entry]].concat(), place)
            })
        });
        found = longer.collect();
    }
    let entry = |(entry, place): (Vec<usize>, Option<Vec<usize>>)| Entry {
        kernel: flat(&entry, &kernel),
        input: place.map(|place| flat(&place, &sizes)),
    };
    found.into_iter().map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(kernel: usize, stride: usize, padding: Padding) -> Window {
        Window { kernel: vec![kernel], strides: vec![stride], dilations: vec![1], padding }
    }

    #[test]
    fn symbols_stay_where_sizes_do() {
        let check = |window: &Window, expected: Dim| {
            assert_eq!(window.infer(&[Dim::symbol("w")], Rounding::Floor).unwrap(), [expected]);
        };
        let explicit =
            |before, after| Padding::Explicit { before: vec![before], after: vec![after] };
        check(&window(3, 1, explicit(1, 1)), Dim::symbol("w"));
        check(&window(3, 1, explicit(0, 1)), Dim::Unknown);
        check(&window(3, 1, Padding::SameLower), Dim::symbol("w"));
        check(&window(3, 2, Padding::SameLower), Dim::Unknown);
    }

    #[test]
    fn hostile_windows_are_refused() {
        let none = Padding::Explicit { before: vec![0], after: vec![0] };
        for bad in [
            window(0, 1, none.clone()),
            window(1, 0, none.clone()),
            window(usize::MAX, 1, none.clone()),
        ] {
            assert!(bad.axes(&[4], Rounding::Floor).is_err());
        }
        assert!(window(5, 1, none.clone()).axes(&[4], Rounding::Floor).is_err());
        assert!(window(1, 1, none).axes(&[4, 4], Rounding::Floor).is_err());
    }

    #[test]
    fn a_window_that_would_begin_in_the_padding_after_is_left_out() {
        let padding = Padding::Explicit { before: vec![0], after: vec![1] };
        let axis = window(1, 2, padding).axis(0, 2, Rounding::Ceil).unwrap();
        assert_eq!(axis.output, 1);
    }
}
