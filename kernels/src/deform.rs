#![allow(unsafe_code, reason = "threads fill disjoint ranges of one slice")]
//! Windows of images whose entries lie where numbers say (Zhu et al. 2018, arXiv:1811.11168).

use crate::grid_sample::{Corners, NONE};
use crate::parallel::{self, Shared, check_shape};
use crate::window::Slide;

/// How the entries of the windows of an image are moved.
#[derive(Clone, Copy, Debug)]
pub struct Deformation<'a> {
    /// How windows slide along height and width.
    pub slides: [Slide; 2],
    /// Into how many parts, each with offsets of its own, the channels fall; > 0.
    pub groups: usize,
    /// `[groups, entries of a window, 2, windows]`: in pixels, down and across.
    pub offset: &'a [f32],
    /// `[groups, entries of a window, windows]`: a factor for each entry, where there is one.
    pub mask: Option<&'a [f32]>,
}

/// Windows whose entries are found at once.
const AT_ONCE: usize = 128;

/// The two pixels of an axis around a place, with their weights.
fn around(place: f32, size: usize) -> [(usize, f32); 2] {
    let low = place.floor();
    [(low, 1.0 - (place - low)), (low + 1.0, place - low)].map(|(at, weight)| {
        let is_there = (0.0..size as f32).contains(&at);
        (if is_there { at as usize } else { NONE }, weight)
    })
}

impl Deformation<'_> {
    /// The pixels around entry `entry` of window `window`, of part `group` of the channels.
    fn corners(&self, group: usize, entry: usize, window: usize) -> Corners {
        let [rows, columns] = &self.slides;
        let (entries, windows) = (rows.kernel * columns.kernel, rows.output * columns.output);
        let at = (group * entries + entry) * windows;
        let place = |slide: &Slide, index: usize, entry: usize, side: usize| {
            let regular = (index * slide.stride + entry * slide.dilation) as f32;
            let offset = self.offset[2 * at + side * windows + window];
            around(regular - slide.before as f32 + offset, slide.input)
        };
        let down = place(rows, window / columns.output, entry / columns.kernel, 0);
        let across = place(columns, window % columns.output, entry % columns.kernel, 1);
        let factor = self.mask.map_or(1.0, |mask| mask[at + window]);
        Corners::new(down.map(|(row, weight)| (row, weight * factor)), across, columns.input)
    }
}

/// The windows of an image, each entry interpolated linearly; outside are zeros.
///
/// # Shapes
/// `x`: `[channels, height, width]`; `y`: `[channels, entries of a window, windows]`
///
/// # Panics
/// When a length differs, or the channels do not fall into the groups.
pub fn deformed_windows(how: &Deformation<'_>, channels: usize, x: &[f32], y: &mut [f32]) {
    how.slides.iter().for_each(Slide::check);
    let [rows, columns] = &how.slides;
    let (entries, windows) = (rows.kernel * columns.kernel, rows.output * columns.output);
    check_shape("deformed_windows: x", x.len(), &[channels, rows.input, columns.input]);
    check_shape("deformed_windows: y", y.len(), &[channels, entries, windows]);
    check_shape("deformed_windows: offset", how.offset.len(), &[how.groups, entries, 2, windows]);
    if let Some(mask) = how.mask {
        check_shape("deformed_windows: mask", mask.len(), &[how.groups, entries, windows]);
    }
    assert!(channels.is_multiple_of(how.groups), "{channels} channels in {} groups", how.groups);
    if y.is_empty() {
        return;
    }
    let (image, in_group) = (rows.input * columns.input, channels / how.groups);
    let (pieces, result) = (windows.div_ceil(AT_ONCE), Shared::new(y));
    parallel::for_each(how.groups * entries * pieces, |job| {
        let (part, start) = (job / pieces, job % pieces * AT_ONCE);
        let (group, entry) = (part / entries, part % entries);
        let count = AT_ONCE.min(windows - start);
        let mut corners = [Corners::OUTSIDE; AT_ONCE];
        let corners = &mut corners[..count];
        for (corners, window) in corners.iter_mut().zip(start..) {
            *corners = how.corners(group, entry, window);
        }
        for channel in group * in_group..(group + 1) * in_group {
            let x = &x[channel * image..][..image];
            let first = (channel * entries + entry) * windows + start;
            // SAFETY: the range lies in the row of its channel and entry, whose length was checked
            // above, and every piece of a row belongs to one job.
            let y = unsafe { result.range(first, count) };
            y.iter_mut().zip(&*corners).for_each(|(y, corners)| *y = corners.read(x));
        }
    });
}
