//! Where the labels of marks go: beside them where there is room, else further away on a line.

use super::{Frame, Plot, Shape, Style, round};

/// Width of a character of a label, on average.
const CHARACTER: f64 = 6.4;
const LINE: f64 = 13.0;
/// Distances of labels that do not fit beside their marks.
const DISTANCES: [f64; 6] = [26.0, 38.0, 52.0, 68.0, 86.0, 106.0];
/// Directions in which such a label may lie.
const N_DIRECTIONS: usize = 16;
/// Colour of the lines to them.
const LEADER: Style = Style { colour: 5, dash: 0 };

impl Plot {
    /// Moves each label, which lies on its mark, to where it covers no mark and no earlier label.
    /// One that has no room anywhere is left out: the hover text and the table have it.
    pub(super) fn place_labels(&mut self, frame: Frame) {
        let mut taken: Vec<Area> =
            self.marks.iter().map(|mark| Area::around(mark.x, mark.y, 16.0, 16.0)).collect();
        let mut placed = Vec::new();
        for mut label in std::mem::take(&mut self.labels) {
            let (x, y) = (label.x, label.y);
            let width = label.text.chars().count() as f64 * CHARACTER;
            let beside = [
                ("start", x + 9.0, y - 9.0),
                ("end", x - 9.0, y - 9.0),
                ("start", x + 9.0, y + 18.0),
                ("end", x - 9.0, y + 18.0),
                ("start", x + 12.0, y + 4.0),
                ("end", x - 12.0, y + 4.0),
            ];
            let area = |(anchor, x, y): (&str, f64, f64)| {
                let left = if anchor == "end" { x - width } else { x };
                Area { left, right: left + width, top: y - LINE + 3.0, bottom: y + 3.0 }
            };
            let is_free = |place: &(&'static str, f64, f64)| {
                let area = area(*place);
                area.is_inside(frame) && !taken.iter().any(|other| other.overlaps(area))
            };
            let further = || {
                DISTANCES.iter().flat_map(move |distance| {
                    (0..N_DIRECTIONS).map(move |index| {
                        let turn = std::f64::consts::TAU * index as f64 / N_DIRECTIONS as f64;
                        let anchor = if turn.cos() < -0.01 { "end" } else { "start" };
                        (anchor, x + distance * turn.cos(), y - distance * turn.sin() + 4.0)
                    })
                })
            };
            let (place, is_beside) = match beside.into_iter().find(is_free) {
                Some(place) => (place, true),
                None => match further().find(is_free) {
                    Some(place) => (place, false),
                    None => continue,
                },
            };
            if !is_beside {
                let gap = if place.0 == "end" { 3.0 } else { -3.0 };
                let (to_x, to_y) = (round(place.1 + gap), round(place.2 - 4.0));
                self.whiskers
                    .push(Shape { path: format!("M{x} {y}L{to_x} {to_y}"), style: LEADER });
            }
            taken.push(area(place));
            (label.anchor, label.x, label.y) = (place.0, round(place.1), round(place.2));
            placed.push(label);
        }
        self.labels = placed;
    }
}

#[derive(Debug, Clone, Copy)]
struct Area {
    left: f64,
    right: f64,
    top: f64,
    bottom: f64,
}

impl Area {
    fn around(x: f64, y: f64, width: f64, height: f64) -> Self {
        let (w, h) = (width / 2.0, height / 2.0);
        Self { left: x - w, right: x + w, top: y - h, bottom: y + h }
    }

    fn overlaps(self, other: Self) -> bool {
        self.left < other.right
            && other.left < self.right
            && self.top < other.bottom
            && other.top < self.bottom
    }

    fn is_inside(self, frame: Frame) -> bool {
        self.left >= frame.left
            && self.right <= frame.right
            && self.top >= frame.top
            && self.bottom <= frame.bottom
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Label, MARKS, Mark};
    use super::*;

    #[test]
    fn labels_of_near_equal_models_do_not_overlap() {
        let frame = Frame { left: 0.0, top: 0.0, right: 400.0, bottom: 300.0 };
        let mut plot = Plot::default();
        for index in 0..7 {
            let (x, y) = (200.0 + f64::from(index), 150.0 - f64::from(index));
            let (style, hover) = (Style { colour: 0, dash: 0 }, String::new());
            plot.marks.push(Mark { x, y, path: MARKS[0], style, on_front: false, hover });
            let text = format!("model {index}");
            plot.labels.push(Label { x, y, anchor: "start", text });
        }
        plot.place_labels(frame);
        assert_eq!(plot.labels.len(), 7);
        assert!(!plot.whiskers.is_empty(), "those further away have a line");
        let areas: Vec<Area> = plot
            .labels
            .iter()
            .map(|label| {
                let left = if label.anchor == "end" { label.x - 44.8 } else { label.x };
                Area { left, right: left + 44.8, top: label.y - 10.0, bottom: label.y + 3.0 }
            })
            .collect();
        for (index, area) in areas.iter().enumerate() {
            assert!(area.is_inside(frame));
            assert!(!areas[..index].iter().any(|other| other.overlaps(*area)), "label {index}");
        }
    }
}
