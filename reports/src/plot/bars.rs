//! Bars beside names: what each layer gains or loses.

use serde::Serialize;

use super::scale::{Scale, Tick};
use super::{Unit, round};
use crate::quantity::quantity;

const WIDTH: f64 = 400.0;
const LEFT: f64 = 12.0;
const RIGHT: f64 = 388.0;
const TOP: f64 = 10.0;
const ROW: f64 = 32.0;
/// Height left for ticks and title of the axis.
const AXIS: f64 = 40.0;
/// Characters of a name that fit above its bar.
const MAX_NAME: usize = 46;

/// A value and its name.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Bar {
    pub(crate) name: String,
    pub(crate) value: f64,
}

/// Horizontal bars, largest first.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Bars {
    pub(crate) title: String,
    pub(crate) summary: String,
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// Where the axis is drawn.
    pub(crate) bottom: f64,
    pub(crate) top: f64,
    /// Coordinate of zero.
    pub(crate) zero: f64,
    pub(crate) axis_title: String,
    pub(crate) ticks: Vec<Tick>,
    pub(crate) rows: Vec<Row>,
}

/// A bar with its place.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Row {
    pub(crate) y: f64,
    pub(crate) x: f64,
    pub(crate) width: f64,
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) hover: String,
    pub(crate) is_negative: bool,
}

impl Bars {
    /// Bars of `values` in `unit`; `axis` says what their length means. `None` without values.
    pub(crate) fn new(title: &str, axis: &str, unit: &str, mut values: Vec<Bar>) -> Option<Self> {
        values.retain(|bar| bar.value.is_finite());
        // Equal values keep the order of the record.
        values.sort_by(|a, b| b.value.total_cmp(&a.value));
        let largest = values.first()?;
        let axis_unit = Unit::of_metric(unit);
        let with_zero = values.iter().map(|bar| bar.value).chain([0.0]);
        let scale = Scale::linear(with_zero, LEFT, RIGHT, axis_unit);
        let zero = scale.at(0.0);
        let summary = format!(
            "{title}: {} bars, the largest is {} with {}",
            values.len(),
            largest.name,
            quantity(largest.value, unit)
        );
        let factor = axis_unit.factor();
        let size = values.iter().map(|bar| (bar.value * factor).abs()).fold(0.0, f64::max);
        let row = |(index, bar): (usize, &Bar)| {
            let end = scale.at(bar.value);
            Row {
                y: TOP + ROW * index as f64,
                x: zero.min(end),
                width: round((end - zero).abs()),
                name: shorten(&bar.name),
                hover: format!("{}: {}", bar.name, quantity(bar.value, unit)),
                value: beside(bar.value * factor, size),
                is_negative: bar.value < 0.0,
            }
        };
        let bottom = TOP + ROW * values.len() as f64;
        Some(Self {
            title: title.to_owned(),
            summary,
            width: WIDTH,
            height: bottom + AXIS,
            bottom,
            top: TOP,
            zero,
            axis_title: format!("{axis}{}", axis_suffix(axis_unit, unit)),
            ticks: scale.ticks(5),
            rows: values.iter().enumerate().map(row).collect(),
        })
    }
}

fn axis_suffix(axis: Unit, unit: &str) -> String {
    match axis {
        // Gains of a percentage.
        Unit::Percent => " (percentage points)".to_owned(),
        Unit::Plain if !unit.is_empty() => format!(" ({unit})"),
        _ => axis.suffix().to_owned(),
    }
}

/// A value with as many decimals as give the largest, `size`, three digits.
fn beside(value: f64, size: f64) -> String {
    let decimals = if size > 0.0 { (2.0 - size.log10().floor()).clamp(0.0, 9.0) } else { 0.0 };
    format!("{value:.0$}", decimals as usize).replacen('-', "−", 1)
}

/// Cuts out the middle of a long name: both ends tell layers apart.
fn shorten(name: &str) -> String {
    let length = name.chars().count();
    if length <= MAX_NAME {
        return name.to_owned();
    }
    let half = MAX_NAME / 2 - 1;
    let head: String = name.chars().take(half).collect();
    let tail: String = name.chars().skip(length - half).collect();
    format!("{head}…{tail}")
}
