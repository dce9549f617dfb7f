//! Boxes picked by score and overlap.

use serde::{Deserialize, Serialize};

use super::movement::whole_numbers;
use super::{Argument, OnnxAttribute, OnnxForm, Operator, exactly, floats};
use crate::{Bindings, DType, Dim, Tensor, ValueType};

/// What four numbers say of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BoxForm {
    /// `[y, x, y, x]` of two opposite corners, in either order.
    Corners,
    /// `[x, y, width, height]`, with the place of the middle.
    Middle,
}

/// The best boxes of each class that do not overlap better ones, as ONNX's NonMaxSuppression:
/// `(boxes, scores, most, overlap, score)`.
///
/// # Shapes
///
/// Boxes `[batch, boxes, 4]`, scores `[batch, classes, boxes]`; one number each: how many boxes of a
/// class are kept at most (`i64`), the intersection over union above which the worse of two is
/// dropped, and the score that has to be exceeded (−∞ for any). The output is `[kept, 3]` of `i64`:
/// image, class and box, ordered by image, class, and falling score.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NonMaxSuppression {
    /// How boxes are written.
    pub form: BoxForm,
}

/// Sides of a box.
#[derive(Clone, Copy, Debug)]
struct Sides {
    low: [f32; 2],
    high: [f32; 2],
}

impl Sides {
    fn new(form: BoxForm, numbers: &[f32; 4]) -> Self {
        let [a, b, c, d] = *numbers;
        match form {
            BoxForm::Corners => Self { low: [a.min(c), b.min(d)], high: [a.max(c), b.max(d)] },
            BoxForm::Middle => {
                Self { low: [a - c / 2.0, b - d / 2.0], high: [a + c / 2.0, b + d / 2.0] }
            }
        }
    }

    fn area(&self) -> f32 {
        (self.high[0] - self.low[0]) * (self.high[1] - self.low[1])
    }

    /// Intersection over union; 0 where nothing is shared.
    fn overlap(&self, other: &Self) -> f32 {
        let side = |axis: usize| {
            self.high[axis].min(other.high[axis]) - self.low[axis].max(other.low[axis])
        };
        let sides = [side(0), side(1)];
        let shared = sides[0] * sides[1];
        let union = self.area() + other.area() - shared;
        let is_empty = sides.iter().any(|&side| side <= 0.0);
        if is_empty || self.area() <= 0.0 || other.area() <= 0.0 || union <= 0.0 {
            return 0.0;
        }
        shared / union
    }
}

/// The only number of an input.
fn only<T: Copy>(numbers: &[T]) -> Result<T, String> {
    match numbers {
        [number] => Ok(*number),
        other => Err(format!("expected one number, found {}", other.len())),
    }
}

impl Operator for NonMaxSuppression {
    fn onnx_type(&self) -> &'static str {
        "NonMaxSuppression"
    }

    fn onnx(&self) -> OnnxForm {
        let middle = self.form == BoxForm::Middle;
        OnnxForm::default().attribute("center_point_box", OnnxAttribute::Int(middle.into()))
    }

    fn infer(&self, inputs: &[Argument<'_>]) -> Result<ValueType, String> {
        let [boxes, scores, most, overlap, score] = exactly(inputs)?;
        for float in [boxes, scores, overlap, score] {
            float.expect(DType::F32)?;
        }
        most.expect(DType::I64)?;
        let fits = match (boxes.shape.as_slice(), scores.shape.as_slice()) {
            ([images, boxes, four], [same_images, _, same_boxes]) => {
                four.may_equal(&Dim::Fixed(4))
                    && images.may_equal(same_images)
                    && boxes.may_equal(same_boxes)
            }
            _ => false,
        };
        if !fits {
            return Err(format!("scores {scores} do not go with boxes {boxes}"));
        }
        if [most, overlap, score].iter().any(|number| number.shape.len() > 1) {
            return Err("expected single numbers as bounds".to_owned());
        }
        Ok(ValueType { dtype: DType::I64, shape: vec![Dim::Unknown, Dim::Fixed(3)] })
    }

    fn evaluate(&self, inputs: &[&Tensor], _: &Bindings) -> Result<Tensor, String> {
        let [boxes, scores, most, overlap, score] = exactly(inputs)?;
        let most = usize::try_from(only(&whole_numbers(most)?)?).unwrap_or(0);
        let (overlap, least) = (only(floats(overlap)?)?, only(floats(score)?)?);
        let (&[images, count, 4], &[same_images, classes, same_count]) =
            (boxes.shape(), scores.shape())
        else {
            return Err(format!("scores {scores:?} do not go with boxes {boxes:?}"));
        };
        if images != same_images || count != same_count {
            return Err(format!("scores {scores:?} do not go with boxes {boxes:?}"));
        }
        if boxes.is_empty() || scores.is_empty() {
            return Ok(Tensor::zeros(DType::I64, &[0, 3]));
        }
        let (numbers, _) = floats(boxes)?.as_chunks::<4>();
        let sides: Vec<Sides> =
            numbers.iter().map(|numbers| Sides::new(self.form, numbers)).collect();
        let scores = floats(scores)?;
        let mut found: Vec<i64> = Vec::new();
        for (image, class) in (0..images).flat_map(|i| (0..classes).map(move |class| (i, class))) {
            let scores = &scores[(image * classes + class) * count..][..count];
            let sides = &sides[image * count..][..count];
            let passes = |score: f32| score > least || least == f32::NEG_INFINITY;
            let mut order: Vec<usize> = (0..count).filter(|&place| passes(scores[place])).collect();
            // 0 and −0 are one score.
            let key = |place: usize| scores[place] + 0.0;
            order.sort_by(|&a, &b| key(b).total_cmp(&key(a)).then(a.cmp(&b)));
            let mut kept: Vec<usize> = Vec::new();
            for place in order {
                if kept.len() >= most {
                    break;
                }
                if kept.iter().all(|&better| sides[better].overlap(&sides[place]) <= overlap) {
                    kept.push(place);
                }
            }
            found.extend(kept.into_iter().flat_map(|p| [image as i64, class as i64, p as i64]));
        }
        Tensor::new(&[found.len() / 3, 3], found).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Boxes of the operator's documentation: two groups of which each shares most of its places.
    const CORNERS: [f32; 24] = [
        0.0, 0.0, 1.0, 1.0, 0.0, 0.1, 1.0, 1.1, 0.0, -0.1, 1.0, 0.9, 0.0, 10.0, 1.0, 11.0, 0.0,
        10.1, 1.0, 11.1, 0.0, 100.0, 1.0, 101.0,
    ];
    const SCORES: [f32; 6] = [0.9, 0.75, 0.6, 0.95, 0.5, 0.3];

    fn kept(form: BoxForm, boxes: &[f32], most: i64, overlap: f32, score: f32) -> Vec<i64> {
        let boxes = Tensor::new(&[1, 6, 4], boxes.to_vec()).unwrap();
        let scores = Tensor::new(&[1, 1, 6], SCORES.to_vec()).unwrap();
        let bounds = (Tensor::scalar(most), Tensor::scalar(overlap), Tensor::scalar(score));
        let inputs = [&boxes, &scores, &bounds.0, &bounds.1, &bounds.2];
        let y = NonMaxSuppression { form }.evaluate(&inputs, &Bindings::default()).unwrap();
        assert_eq!(y.shape()[1], 3);
        y.elements::<i64>().unwrap().chunks(3).map(|row| row[2]).collect()
    }

    #[test]
    fn the_best_of_overlapping_boxes_stay() {
        let corners = |most, overlap, score| kept(BoxForm::Corners, &CORNERS, most, overlap, score);
        assert_eq!(corners(3, 0.5, f32::NEG_INFINITY), [3, 0, 5]);
        assert_eq!(corners(3, 0.5, 0.4), [3, 0]);
        assert_eq!(corners(2, 0.5, 0.0), [3, 0]);
        assert_eq!(corners(9, 0.95, 0.0), [3, 0, 1, 2, 4, 5]);
        assert!(corners(0, 0.5, 0.0).is_empty());
        assert!(corners(-1, 0.5, 0.0).is_empty());
    }

    #[test]
    fn corners_may_be_flipped_and_middles_given() {
        let flipped: Vec<f32> = CORNERS.chunks(4).flat_map(|b| [b[2], b[3], b[0], b[1]]).collect();
        assert_eq!(kept(BoxForm::Corners, &flipped, 3, 0.5, 0.0), [3, 0, 5]);
        let middles: Vec<f32> = CORNERS
            .chunks(4)
            .flat_map(|b| [(b[1] + b[3]) / 2.0, (b[0] + b[2]) / 2.0, b[3] - b[1], b[2] - b[0]])
            .collect();
        assert_eq!(kept(BoxForm::Middle, &middles, 3, 0.5, 0.0), [3, 0, 5]);
    }

    #[test]
    fn equal_scores_stay_in_order_and_no_number_is_no_panic() {
        let boxes =
            Tensor::from_fn(&[1, 40, 4], |index| (index / 4 * 3) as f32 + (index % 4) as f32);
        let one = |score: fn(usize) -> f32| {
            let scores = Tensor::from_fn(&[1, 1, 40], score);
            let bounds = (Tensor::scalar(40i64), Tensor::scalar(0.5f32), Tensor::scalar(0f32));
            let inputs = [&boxes, &scores, &bounds.0, &bounds.1, &bounds.2];
            let op = NonMaxSuppression { form: BoxForm::Corners };
            op.evaluate(&inputs, &Bindings::default()).unwrap().elements::<i64>().unwrap().to_vec()
        };
        assert_eq!(one(|_| 0.5)[..9], [0, 0, 0, 0, 0, 1, 0, 0, 2]);
        assert!(one(|_| f32::NAN).is_empty());
        assert_eq!(one(|index| if index % 2 == 0 { f32::NAN } else { 1.0 }).len(), 60);
    }
}
