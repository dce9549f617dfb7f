//! Parallel coordinates (Inselberg 1985, "The plane with parallel coordinates"): an axis a
//! parameter and an objective, a line a trial.

use serde::Serialize;

use super::scale::{Scale, Tick};
use super::{Unit, path_through, round};

const GAP: f64 = 118.0;
const SIDE: f64 = 82.0;
const TOP: f64 = 56.0;
const BOTTOM: f64 = 262.0;
/// Where lines pass below an axis whose parameter does not apply.
const ABSENT_AT: f64 = 284.0;
const HEIGHT: f64 = 298.0;
/// Shades there are; the style sheet has a class for each.
const N_SHADES: usize = 5;
/// Characters of a title or a word that fit beside their neighbours.
const MAX_TITLE: usize = 26;
const MAX_WORD: usize = 14;

/// A value of a trial on an axis.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Coordinate {
    /// A number.
    Number(f64),
    /// One of the words of the axis.
    Word(String),
    /// The parameter does not apply.
    Absent,
}

/// An axis to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dimension {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) log: bool,
}

/// A line to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Trial {
    /// One a dimension.
    pub(crate) coordinates: Vec<Coordinate>,
    /// 0 for the worst, 1 for the best.
    pub(crate) rank: f64,
    pub(crate) is_best: bool,
    /// Whether it keeps the constraints.
    pub(crate) is_inside: bool,
    pub(crate) hover: String,
}

/// The drawing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Parallel {
    pub(crate) summary: String,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
    pub(crate) axes: Vec<ParallelAxis>,
    pub(crate) lines: Vec<ParallelLine>,
}

/// An axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ParallelAxis {
    pub(crate) x: f64,
    pub(crate) title: String,
    /// Neighbours take turns, so that long titles do not meet.
    pub(crate) title_y: f64,
    pub(crate) ticks: Vec<Tick>,
    /// Where it says that a parameter does not apply; absent when it always does.
    pub(crate) absent_y: Option<f64>,
}

/// A trial.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct ParallelLine {
    pub(crate) path: String,
    /// Class of the style sheet.
    pub(crate) class: String,
    pub(crate) hover: String,
}

/// Draws `trials`; `None` without trials or with fewer than two axes.
pub(crate) fn parallel(dimensions: &[Dimension], trials: &[Trial]) -> Option<Parallel> {
    if trials.is_empty() || dimensions.len() < 2 {
        return None;
    }
    let placed: Vec<Placed> = dimensions
        .iter()
        .enumerate()
        .map(|(index, dimension)| {
            let values: Vec<&Coordinate> =
                trials.iter().map(|trial| &trial.coordinates[index]).collect();
            Placed::new(dimension, &values)
        })
        .collect();
    let x = |index: usize| SIDE + GAP * index as f64;
    let axis = |(index, (placed, dimension)): (usize, (&Placed, &Dimension))| ParallelAxis {
        x: x(index),
        title: cut(&format!("{}{}", dimension.name, dimension.unit.suffix()), MAX_TITLE),
        title_y: if index % 2 == 0 { 36.0 } else { 16.0 },
        ticks: placed.ticks(),
        absent_y: placed.has_absent.then_some(ABSENT_AT),
    };
    let line = |trial: &Trial| {
        let points = trial.coordinates.iter().zip(&placed).enumerate();
        let path =
            path_through(points.map(|(index, (value, axis))| Some((x(index), axis.at(value)))));
        let shade = ((trial.rank * N_SHADES as f64) as usize).min(N_SHADES - 1);
        let class = match (trial.is_inside, trial.is_best) {
            (false, _) => "outside".to_owned(),
            (true, true) => "best".to_owned(),
            (true, false) => format!("s{shade}"),
        };
        ParallelLine { path, class, hover: trial.hover.clone() }
    };
    // The best are drawn last, above the others.
    let mut order: Vec<&Trial> = trials.iter().collect();
    order.sort_by(|a, b| {
        (a.is_inside, a.is_best).cmp(&(b.is_inside, b.is_best)).then(a.rank.total_cmp(&b.rank))
    });
    Some(Parallel {
        summary: format!("{} trials over {} axes", trials.len(), dimensions.len()),
        width: round(2.0 * SIDE + GAP * (dimensions.len() - 1) as f64),
        height: HEIGHT,
        top: TOP,
        bottom: BOTTOM,
        axes: placed.iter().zip(dimensions).enumerate().map(axis).collect(),
        lines: order.into_iter().map(line).collect(),
    })
}

/// An axis with its values laid out.
struct Placed {
    scale: Scale,
    /// Words from the bottom up; empty for numbers.
    words: Vec<String>,
    has_absent: bool,
}

impl Placed {
    fn new(dimension: &Dimension, values: &[&Coordinate]) -> Self {
        let mut words: Vec<String> = values
            .iter()
            .filter_map(|value| match value {
                Coordinate::Word(word) => Some(word.clone()),
                _ => None,
            })
            .collect();
        words.sort();
        words.dedup();
        let numbers: Vec<f64> = values
            .iter()
            .filter_map(|value| match value {
                Coordinate::Number(number) => Some(*number),
                _ => None,
            })
            .collect();
        let scale = if dimension.log {
            Scale::logarithmic(&numbers, BOTTOM, TOP, dimension.unit)
        } else {
            Scale::linear(numbers, BOTTOM, TOP, dimension.unit)
        };
        Self { scale, words, has_absent: values.contains(&&Coordinate::Absent) }
    }

    fn at(&self, value: &Coordinate) -> f64 {
        match value {
            Coordinate::Number(number) => self.scale.at(*number),
            Coordinate::Word(word) => {
                let place = self.words.iter().position(|known| known == word).unwrap_or(0);
                self.word_at(place)
            }
            Coordinate::Absent => ABSENT_AT,
        }
    }

    fn word_at(&self, place: usize) -> f64 {
        let share = (place as f64 + 0.5) / self.words.len() as f64;
        round(BOTTOM + (TOP - BOTTOM) * share)
    }

    fn ticks(&self) -> Vec<Tick> {
        if self.words.is_empty() {
            return self.scale.ticks(4);
        }
        let tick = |(place, word): (usize, &String)| Tick {
            at: self.word_at(place),
            text: cut(word, MAX_WORD),
        };
        self.words.iter().enumerate().map(tick).collect()
    }
}

fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let head: String = text.chars().take(length - 1).collect();
    format!("{head}…")
}
