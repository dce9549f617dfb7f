//! Geometry of plots: values become coordinates, ticks, legends and hover texts. The templates
//! turn it into SVG.

mod bars;
mod curves;
mod labels;
mod parallel;
mod pareto;
mod rates;
mod scale;
mod trials;

use serde::Serialize;

pub(crate) use bars::{Bar, Bars};
pub(crate) use curves::{Curve, curves};
pub(crate) use parallel::{Coordinate, Dimension, Parallel, Trial, parallel};
pub(crate) use pareto::{Candidate, Measured, candidates, chains};
pub(crate) use rates::{Rated, rates};
pub(crate) use scale::{Scale, Tick, Unit, round};
pub(crate) use trials::{Climb, Measure, Point, Standing, front, history, rungs};

/// Colours there are; the style sheet has a class for each.
const N_COLOURS: usize = 6;

/// A plot with two axes.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Plot {
    /// Heading.
    pub(crate) title: String,
    /// What the plot shows, for those who cannot see it.
    pub(crate) summary: String,
    /// How to read it; empty when it needs no word.
    pub(crate) note: String,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) frame: Frame,
    pub(crate) x: Axis,
    pub(crate) y: Axis,
    pub(crate) bands: Vec<Shape>,
    pub(crate) lines: Vec<Shape>,
    pub(crate) whiskers: Vec<Shape>,
    pub(crate) marks: Vec<Mark>,
    pub(crate) labels: Vec<Label>,
    pub(crate) strips: Vec<Strip>,
    pub(crate) legend: Vec<Key>,
}

/// The rectangle between the axes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(crate) struct Frame {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) right: f64,
    pub(crate) bottom: f64,
}

/// Title and ticks of an axis.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(crate) struct Axis {
    pub(crate) title: String,
    pub(crate) ticks: Vec<Tick>,
}

/// An SVG path, made of numbers only.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Shape {
    pub(crate) path: String,
    pub(crate) style: Style,
}

/// A point that can be hovered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Mark {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Path around the origin.
    pub(crate) path: &'static str,
    pub(crate) style: Style,
    /// Whether it gets a ring: no other point is better in both directions.
    pub(crate) on_front: bool,
    pub(crate) hover: String,
}

/// A text inside the frame.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Label {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// `start`, `middle` or `end`.
    pub(crate) anchor: &'static str,
    pub(crate) text: String,
}

/// A part of the frame that tells the values in it when hovered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Strip {
    pub(crate) x: f64,
    pub(crate) width: f64,
    pub(crate) hover: String,
}

/// An entry of the legend.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Key {
    pub(crate) style: Style,
    /// Path of the mark around the origin; empty for a line.
    pub(crate) mark: &'static str,
    pub(crate) text: String,
}

/// Colour and dash of a line, or colour of a mark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Style {
    /// Number of the colour, below [`N_COLOURS`].
    pub(crate) colour: usize,
    /// 0 for a solid line.
    pub(crate) dash: usize,
}

impl Style {
    /// Style of the `index`-th line: colours first, then dashes.
    fn nth(index: usize) -> Self {
        Self { colour: index % N_COLOURS, dash: index / N_COLOURS % 3 }
    }
}

/// Marks tell models apart for those who do not see the colours.
const MARKS: [&str; N_COLOURS] = [
    "M-5 0a5 5 0 1 0 10 0a5 5 0 1 0-10 0z",
    "M-4.5-4.5h9v9h-9z",
    "M0-6.2l6.2 6.2-6.2 6.2-6.2-6.2z",
    "M0-5.8l5.8 10h-11.6z",
    "M0 5.8l5.8-10h-11.6z",
    "M-5.5-2h3.5v-3.5h4v3.5h3.5v4h-3.5v3.5h-4v-3.5h-3.5z",
];

/// A path through points; `None` breaks it.
fn path_through(points: impl IntoIterator<Item = Option<(f64, f64)>>) -> String {
    use std::fmt::Write as _;

    let mut path = String::new();
    let mut pen_is_down = false;
    for point in points {
        match point {
            Some((x, y)) => {
                let command = if pen_is_down { 'L' } else { 'M' };
                write!(path, "{command}{x} {y}").expect("writing to a string cannot fail");
                pen_is_down = true;
            }
            None => pen_is_down = false,
        }
    }
    path
}
