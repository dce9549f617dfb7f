#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Boxes picked by score and overlap.

use crate::parallel::{check_shape, for_each_chunk};
use crate::tier::{Cpu, tiered};

/// What four numbers say of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoxForm {
    /// `[y, x, y, x]` of two opposite corners, in either order.
    Corners,
    /// `[x, y, width, height]`, with the place of the middle.
    Middle,
}

/// Which boxes [`suppress_boxes`] keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Suppression {
    /// What boxes are written as.
    pub form: BoxForm,
    /// How many of a class are kept at most.
    pub most: usize,
    /// Intersection over union above which the worse of two is dropped.
    pub overlap: f32,
    /// The score that has to be exceeded; −∞ for any.
    pub score: f32,
}

/// The low and the high sides of boxes, and their areas.
const NUMBERS: usize = 5;

/// Boxes that are compared at once.
const LANES: usize = 16;

type Lanes = [[f32; LANES]; NUMBERS];

/// Boxes by [`LANES`]; those that the last lanes lack are no boxes, which share nothing with any.
#[derive(Default)]
struct Kept {
    lanes: Vec<Lanes>,
    count: usize,
}

impl Kept {
    fn push(&mut self, numbers: [f32; NUMBERS]) {
        let lane = self.count % LANES;
        if lane == 0 {
            self.lanes.push([[0.0; LANES]; NUMBERS]);
        }
        if let Some(last) = self.lanes.last_mut() {
            last.iter_mut().zip(numbers).for_each(|(lanes, number)| lanes[lane] = number);
        }
        self.count += 1;
    }
}

fn sides(form: BoxForm, &[a, b, c, d]: &[f32; 4]) -> [f32; NUMBERS] {
    let [low, high] = match form {
        BoxForm::Corners => [[a.min(c), b.min(d)], [a.max(c), b.max(d)]],
        BoxForm::Middle => [[a - c / 2.0, b - d / 2.0], [a + c / 2.0, b + d / 2.0]],
    };
    let area = (high[0] - low[0]) * (high[1] - low[1]);
    [low[0], low[1], high[0], high[1], area]
}

tiered! {
    /// Whether the intersection over union of a box and one of the kept is not within the bound.
    fn overlaps(kept: &[Lanes], numbers: [f32; NUMBERS], bound: f32) -> bool {
        let [low_0, low_1, high_0, high_1, area] = numbers;
        kept.iter().any(|[lows_0, lows_1, highs_0, highs_1, areas]| {
            let mut all = true;
            for lane in 0..LANES {
                let sides = [
                    highs_0[lane].min(high_0) - lows_0[lane].max(low_0),
                    highs_1[lane].min(high_1) - lows_1[lane].max(low_1),
                ];
                let shared = sides[0] * sides[1];
                let union = areas[lane] + area - shared;
                // By `|`, so that all lanes take the same steps.
                let is_empty = (sides[0] <= 0.0)
                    | (sides[1] <= 0.0)
                    | (areas[lane] <= 0.0)
                    | (area <= 0.0)
                    | (union <= 0.0);
                let overlap = if is_empty { 0.0 } else { shared / union };
                all &= overlap <= bound;
            }
            !all
        })
    }
}

/// A score's rank among all bit patterns, the higher the lower, and then its place.
fn key(score: f32, place: usize) -> u64 {
    const SIGN: u32 = 1 << 31;
    // Adding 0 makes both zeros one.
    let bits = (score + 0.0).to_bits();
    let rank = if bits & SIGN == 0 { bits | SIGN } else { !bits };
    u64::from(!rank) << 32 | place as u64
}

/// The best boxes of each class that do not overlap better ones: `[image, class, box]`, ordered by
/// image, class, and falling score.
///
/// # Shapes
/// `boxes`: `[images, count]`; `scores`: `[images, classes, count]`, fewer than 2³² boxes
///
/// # Panics
/// When a length differs.
#[must_use]
pub fn suppress_boxes(
    cpu: Cpu,
    how: &Suppression,
    boxes: &[[f32; 4]],
    scores: &[f32],
    [images, classes, count]: [usize; 3],
) -> Vec<[i64; 3]> {
    check_shape("suppress_boxes: boxes", boxes.len(), &[images, count]);
    check_shape("suppress_boxes: scores", scores.len(), &[images, classes, count]);
    assert!(u32::try_from(count).is_ok(), "suppress_boxes: {count} boxes");
    if scores.is_empty() {
        return Vec::new();
    }
    let boxes: Vec<[f32; NUMBERS]> = boxes.iter().map(|numbers| sides(how.form, numbers)).collect();
    let mut found: Vec<Vec<[i64; 3]>> = vec![Vec::new(); images * classes];
    for_each_chunk(&mut found, 1, |index, found| {
        let (image, class) = (index / classes, index % classes);
        let scores = &scores[index * count..][..count];
        let boxes = &boxes[image * count..][..count];
        let passes = |score: f32| score > how.score || how.score == f32::NEG_INFINITY;
        let candidates = scores.iter().enumerate().filter(|(_, score)| passes(**score));
        let mut order: Vec<u64> = candidates.map(|(place, &score)| key(score, place)).collect();
        order.sort_unstable();
        let mut kept = Kept::default();
        for key in order {
            if kept.count >= how.most {
                break;
            }
            let place = key as u32 as usize;
            if !overlaps(cpu, &kept.lanes, boxes[place], how.overlap) {
                kept.push(boxes[place]);
                found[0].push([image as i64, class as i64, place as i64]);
            }
        }
    });
    found.concat()
}
