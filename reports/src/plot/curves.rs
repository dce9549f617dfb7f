//! Values over steps: losses, rates, temperatures.

use super::scale::Scale;
use super::{Axis, Frame, Key, Plot, Shape, Strip, Style, Unit, path_through};

const WIDTH: f64 = 360.0;
const HEIGHT: f64 = 236.0;
const FRAME: Frame = Frame { left: 50.0, top: 24.0, right: 350.0, bottom: 196.0 };
/// Points drawn of a line; a longer one is averaged, more would not be seen. The page says so.
const MAX_POINTS: usize = 120;
/// Parts of the frame that can be hovered.
const MAX_STRIPS: usize = 60;

/// A line of a plot.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Curve<'run> {
    /// What the legend calls it.
    pub(crate) name: String,
    /// Steps and values; a value that was not finite is `None`.
    pub(crate) points: &'run [(u64, Option<f64>)],
}

/// What is drawn of a point or of several neighbours.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    step: f64,
    /// Mean, smallest and largest value; `None` when none was finite.
    values: Option<(f64, f64, f64)>,
}

/// A plot of `lines`, which show `quantity`, over their steps; `None` when there is no finite
/// value.
pub(crate) fn curves(title: &str, quantity: &str, unit: Unit, lines: &[Curve<'_>]) -> Option<Plot> {
    let drawn: Vec<Vec<Bucket>> = lines.iter().map(|line| buckets(line.points)).collect();
    let means = || drawn.iter().flatten().filter_map(|bucket| bucket.values).map(|value| value.0);
    means().next()?;
    let steps = drawn.iter().flatten().map(|bucket| bucket.step);
    let x = Scale::steps(steps, FRAME.left, FRAME.right);
    let y = Scale::linear(means(), FRAME.bottom, FRAME.top, unit);

    let mut plot = Plot {
        title: title.to_owned(),
        summary: summary(title, unit, lines),
        note: note(lines),
        width: WIDTH,
        height: HEIGHT,
        frame: FRAME,
        x: Axis { title: "step".to_owned(), ticks: x.ticks(5) },
        y: Axis { title: format!("{quantity}{}", unit.suffix()), ticks: y.ticks(6) },
        ..Plot::default()
    };
    for (index, (line, points)) in lines.iter().zip(&drawn).enumerate() {
        let style = Style::nth(index);
        if line.points.len() > MAX_POINTS {
            plot.bands.push(Shape { path: band_path(points, x, y), style });
        }
        let mean =
            |bucket: &Bucket| bucket.values.map(|(mean, ..)| (x.at(bucket.step), y.at(mean)));
        plot.lines.push(Shape { path: line_path(points.iter().map(mean)), style });
        if lines.len() > 1 {
            plot.legend.push(Key { style, mark: "", text: line.name.clone() });
        }
    }
    plot.strips = strips(lines, &drawn, x, unit);
    Some(plot)
}

fn buckets(points: &[(u64, Option<f64>)]) -> Vec<Bucket> {
    let size = points.len().div_ceil(MAX_POINTS).max(1);
    points
        .chunks(size)
        .map(|chunk| {
            let finite =
                || chunk.iter().filter_map(|point| point.1).filter(|value| value.is_finite());
            let count = finite().count() as f64;
            let step = chunk.iter().map(|point| point.0 as f64).sum::<f64>() / chunk.len() as f64;
            let values = (count > 0.0).then(|| {
                (
                    finite().sum::<f64>() / count,
                    finite().fold(f64::INFINITY, f64::min),
                    finite().fold(f64::NEG_INFINITY, f64::max),
                )
            });
            Bucket { step, values }
        })
        .collect()
}

/// A line; a point without neighbours becomes a short dash, which a path alone would not show.
fn line_path(points: impl Iterator<Item = Option<(f64, f64)>>) -> String {
    let points: Vec<_> = points.collect();
    let mut path = path_through(points.iter().copied());
    for (index, point) in points.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|before| points[before]);
        let after = points.get(index + 1).copied().flatten();
        if let (Some((x, y)), None, None) = (point, before, after) {
            path.push_str(&format!("M{} {y}h6", super::round(x - 3.0)));
        }
    }
    path
}

fn band_path(points: &[Bucket], x: Scale, y: Scale) -> String {
    let mut path = String::new();
    for part in points.split(|bucket| bucket.values.is_none()).filter(|part| part.len() > 1) {
        let edge = |bucket: &Bucket, of: fn((f64, f64, f64)) -> f64| {
            bucket.values.map(|value| (x.at(bucket.step), y.at(of(value))))
        };
        let upper = part.iter().map(|bucket| edge(bucket, |value| value.2));
        let lower = part.iter().rev().map(|bucket| edge(bucket, |value| value.1));
        path.push_str(&path_through(upper.chain(lower)));
        path.push('Z');
    }
    path
}

fn strips(lines: &[Curve<'_>], drawn: &[Vec<Bucket>], x: Scale, unit: Unit) -> Vec<Strip> {
    let mut steps: Vec<f64> = drawn.iter().flatten().map(|bucket| bucket.step).collect();
    steps.sort_by(f64::total_cmp);
    steps.dedup();
    let stride = steps.len().div_ceil(MAX_STRIPS).max(1);
    let steps: Vec<f64> = steps.into_iter().step_by(stride).collect();
    let middle = |left: f64, right: f64| f64::midpoint(x.at(left), x.at(right));
    (0..steps.len())
        .map(|index| {
            let step = steps[index];
            let left = if index == 0 { FRAME.left } else { middle(steps[index - 1], step) };
            let right = steps.get(index + 1).map_or(FRAME.right, |next| middle(step, *next));
            let mut hover = format!("step {}", step.round());
            for (line, points) in lines.iter().zip(drawn) {
                if let Some(value) = nearest(points, step, x, (right - left).max(8.0)) {
                    hover.push_str(&format!("\n{}: {}", line.name, unit.text(value)));
                }
            }
            Strip { x: super::round(left), width: super::round(right - left), hover }
        })
        .collect()
}

/// Value of the point nearest to `step`, if it lies within `reach` pixels.
fn nearest(points: &[Bucket], step: f64, x: Scale, reach: f64) -> Option<f64> {
    let distance = |bucket: &Bucket| (bucket.step - step).abs();
    let closest = points.iter().min_by(|a, b| distance(a).total_cmp(&distance(b)))?;
    let is_near = (x.at(closest.step) - x.at(step)).abs() <= reach;
    closest.values.filter(|_| is_near).map(|(mean, ..)| mean)
}

fn summary(title: &str, unit: Unit, lines: &[Curve<'_>]) -> String {
    let ends = |line: &Curve<'_>| {
        let finite = || line.points.iter().filter_map(|point| point.1);
        let (first, last) = (finite().next()?, finite().next_back()?);
        Some(format!("{} from {} to {}", line.name, unit.text(first), unit.text(last)))
    };
    let parts: Vec<String> = lines.iter().filter_map(ends).collect();
    format!("{title} over steps: {}", parts.join("; "))
}

fn note(lines: &[Curve<'_>]) -> String {
    let is_lost = |point: &&(u64, Option<f64>)| point.1.is_none_or(|value| !value.is_finite());
    match lines.iter().flat_map(|line| line.points).filter(is_lost).count() {
        0 => String::new(),
        1 => "One value was not finite and is left out.".to_owned(),
        lost => format!("{lost} values were not finite and are left out."),
    }
}
