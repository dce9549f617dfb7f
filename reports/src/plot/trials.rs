//! Trials of a sweep: what they reached, one after another, against each other, rung by rung.

use super::scale::Scale;
use super::{Axis, Frame, Key, Mark, Plot, Shape, Style, Unit, path_through};

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 280.0;
const FRAME: Frame = Frame { left: 54.0, top: 26.0, right: 388.0, bottom: 234.0 };
/// Marks: small, there may be hundreds.
const DISC: &str = "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z";
const CROSS: &str = "M-5-3.2l1.8-1.8 3.2 3.2 3.2-3.2 1.8 1.8-3.2 3.2 3.2 3.2-1.8 1.8-3.2-3.2-3.2 3.2-1.8-1.8 3.2-3.2z";
const DIAMOND: &str = "M0-6.2l6.2 6.2-6.2 6.2-6.2-6.2z";

/// What a trial is to the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It does not keep the constraints.
    Outside,
    /// Another one is better.
    Behind,
    /// No other is better in every objective.
    Best,
}

impl Standing {
    fn key(self) -> Key {
        let (mark, colour, text) = match self {
            Self::Outside => (CROSS, 5, "misses a constraint"),
            Self::Behind => (DISC, 0, "measured"),
            Self::Best => (DIAMOND, 1, "best"),
        };
        Key { style: Style { colour, dash: 0 }, mark, text: text.to_owned() }
    }
}

/// A measured trial.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Point {
    pub(crate) x: f64,
    pub(crate) y: f64,
    /// Interval of `y`.
    pub(crate) ends: Option<(f64, f64)>,
    pub(crate) standing: Standing,
    pub(crate) hover: String,
}

/// An axis to be.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measure {
    pub(crate) name: String,
    pub(crate) unit: Unit,
    pub(crate) maximize: bool,
}

/// Trials in the order they were drawn and the best so far; `None` without any.
pub(crate) fn history(measure: &Measure, points: &[Point]) -> Option<Plot> {
    points.first()?;
    let x = Scale::steps(points.iter().map(|point| point.x), FRAME.left, FRAME.right);
    let y = Scale::linear(reach(points), FRAME.bottom, FRAME.top, measure.unit);
    let mut plot = frame(&measure.name, x.ticks(5), "trial", measure, &y);
    let mut best: Option<f64> = None;
    let mut steps = Vec::new();
    for point in points.iter().filter(|point| point.standing != Standing::Outside) {
        let is_better = best.is_none_or(|best| (point.y > best) == measure.maximize);
        if is_better && best != Some(point.y) {
            if let Some(before) = best {
                steps.push(Some((x.at(point.x), y.at(before))));
            }
            steps.push(Some((x.at(point.x), y.at(point.y))));
            best = Some(point.y);
        }
    }
    if let Some(best) = best {
        steps.push(Some((FRAME.right, y.at(best))));
    }
    let style = Style { colour: 1, dash: 0 };
    plot.lines.push(Shape { path: path_through(steps), style });
    plot.add(points, &x, &y);
    plot.legend.push(Key { style, mark: "", text: "best so far".to_owned() });
    plot.note = "Whiskers are 95 % intervals over the seeds.".to_owned();
    plot.summary = format!(
        "{} of {} trials, in the order drawn; the best is {}",
        measure.name,
        points.len(),
        best.map_or_else(|| "none".to_owned(), |best| measure.unit.text(best))
    );
    Some(plot)
}

/// One objective against another; `None` without trials.
pub(crate) fn front(across: &Measure, up: &Measure, points: &[Point]) -> Option<Plot> {
    points.first()?;
    let xs: Vec<f64> = points.iter().map(|point| point.x).collect();
    let x = Scale::spread_out(&xs, FRAME.left, FRAME.right, across.unit);
    let y = Scale::linear(reach(points), FRAME.bottom, FRAME.top, up.unit);
    let title = format!("{} against {}", up.name, across.name);
    let mut plot = frame(&title, x.ticks(5), "", up, &y);
    let logarithmic = if x.is_logarithmic() { ", logarithmic" } else { "" };
    plot.x.title = format!("{}{}{logarithmic}", across.name, across.unit.suffix());
    let is_best = |point: &&Point| point.standing == Standing::Best;
    let mut best: Vec<&Point> = points.iter().filter(is_best).collect();
    best.sort_by(|a, b| a.x.total_cmp(&b.x));
    let line = best.iter().map(|point| Some((x.at(point.x), y.at(point.y))));
    plot.lines.push(Shape { path: path_through(line), style: Style { colour: 1, dash: 1 } });
    plot.add(points, &x, &y);
    plot.summary = format!("{title}: {} trials, {} on the front", points.len(), best.len());
    Some(plot)
}

/// What a trial had reached at each rung.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Climb {
    /// Epochs and value, lowest rung first.
    pub(crate) points: Vec<(f64, f64)>,
    /// Whether it went on to the end.
    pub(crate) finished: bool,
    pub(crate) hover: String,
}

/// A line a trial over its epochs; `None` when no trial reached a rung.
pub(crate) fn rungs(measure: &Measure, climbs: &[Climb]) -> Option<Plot> {
    let all = || climbs.iter().flat_map(|climb| climb.points.iter().copied());
    all().next()?;
    let x = Scale::linear(all().map(|point| point.0), FRAME.left, FRAME.right, Unit::Plain);
    let y = Scale::linear(all().map(|point| point.1), FRAME.bottom, FRAME.top, measure.unit);
    let mut plot = frame(&measure.name, x.ticks(5), "epochs", measure, &y);
    let (stopped, through) = (Style { colour: 5, dash: 0 }, Style { colour: 0, dash: 0 });
    // Those that went through are drawn last, above the others.
    for is_through in [false, true] {
        for climb in climbs.iter().filter(|climb| climb.finished == is_through) {
            let style = if is_through { through } else { stopped };
            let at = |point: &(f64, f64)| (x.at(point.0), y.at(point.1));
            let path = path_through(climb.points.iter().map(|point| Some(at(point))));
            plot.lines.push(Shape { path, style });
            for (index, point) in climb.points.iter().enumerate() {
                let is_end = index + 1 == climb.points.len() && !is_through;
                let (x, y) = at(point);
                let path = if is_end { CROSS } else { DISC };
                let hover = climb.hover.clone();
                plot.marks.push(Mark { x, y, path, style, on_front: false, hover });
            }
        }
    }
    let key = |style, text: &str| Key { style, mark: "", text: text.to_owned() };
    plot.legend = vec![key(through, "went on to the end"), key(stopped, "stopped at a rung")];
    let n_stopped = climbs.iter().filter(|climb| !climb.finished).count();
    plot.summary = format!("{}: {} trials, {n_stopped} stopped early", measure.name, climbs.len());
    Some(plot)
}

fn reach(points: &[Point]) -> impl Iterator<Item = f64> {
    points.iter().flat_map(|point| {
        let ends = point.ends.map(|(low, high)| [low, high]);
        std::iter::once(point.y).chain(ends.into_iter().flatten())
    })
}

fn frame(
    title: &str,
    ticks: Vec<super::Tick>,
    x_title: &str,
    measure: &Measure,
    y: &Scale,
) -> Plot {
    Plot {
        title: title.to_owned(),
        width: WIDTH,
        height: HEIGHT,
        frame: FRAME,
        x: Axis { title: x_title.to_owned(), ticks },
        y: Axis { title: format!("{}{}", measure.name, measure.unit.suffix()), ticks: y.ticks(5) },
        ..Plot::default()
    }
}

impl Plot {
    fn add(&mut self, points: &[Point], x: &Scale, y: &Scale) {
        let mut order: Vec<&Point> = points.iter().collect();
        // The best are drawn last, above the cloud.
        order.sort_by_key(|point| point.standing);
        for point in &order {
            let Key { style, mark, .. } = point.standing.key();
            let (at_x, at_y) = (x.at(point.x), y.at(point.y));
            if let Some((low, high)) = point.ends {
                let path = format!("M{at_x} {}V{}", y.at(high), y.at(low));
                self.whiskers.push(Shape { path, style });
            }
            let hover = point.hover.clone();
            self.marks.push(Mark { x: at_x, y: at_y, path: mark, style, on_front: false, hover });
        }
        let mut standings: Vec<Standing> = order.iter().map(|point| point.standing).collect();
        standings.dedup();
        self.legend.extend(standings.into_iter().rev().map(Standing::key));
    }
}
