//! Latency against the rate of requests.

use super::scale::Scale;
use super::{Axis, Frame, Key, MARKS, Mark, Plot, Shape, Style, Unit, path_through};
use crate::quantity::significant;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 260.0;
const FRAME: Frame = Frame { left: 50.0, top: 26.0, right: 388.0, bottom: 214.0 };

/// A percentile at several rates.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Rated {
    pub(crate) name: String,
    /// Requests per second and milliseconds, by rate.
    pub(crate) points: Vec<(f64, f64)>,
}

/// A line a percentile; `None` without points.
pub(crate) fn rates(title: &str, lines: &[Rated]) -> Option<Plot> {
    let all = || lines.iter().flat_map(|line| line.points.iter().copied());
    all().next()?;
    let x = Scale::linear(all().map(|point| point.0), FRAME.left, FRAME.right, Unit::Plain);
    let latencies: Vec<f64> = all().map(|point| point.1).collect();
    let y = Scale::spread_out(&latencies, FRAME.bottom, FRAME.top, Unit::Milliseconds);
    let logarithmic = if y.is_logarithmic() { ", logarithmic" } else { "" };
    let mut plot = Plot {
        title: title.to_owned(),
        width: WIDTH,
        height: HEIGHT,
        frame: FRAME,
        x: Axis { title: "requests per second".to_owned(), ticks: x.ticks(5) },
        y: Axis { title: format!("latency (ms{logarithmic})"), ticks: y.ticks(5) },
        ..Plot::default()
    };
    let mut parts = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let (style, mark) = (Style::nth(index), MARKS[index % MARKS.len()]);
        let at = |point: &(f64, f64)| (x.at(point.0), y.at(point.1));
        let path = path_through(line.points.iter().map(|point| Some(at(point))));
        plot.lines.push(Shape { path, style });
        for point in &line.points {
            let (x, y) = at(point);
            let (rate, latency) = (significant(point.0), Unit::Milliseconds.text(point.1));
            let hover = format!("{}\n{rate} requests/s: {latency}", line.name);
            parts.push(format!("{} at {rate}/s {latency}", line.name));
            plot.marks.push(Mark { x, y, path: mark, style, on_front: false, hover });
        }
        plot.legend.push(Key { style, mark, text: line.name.clone() });
    }
    plot.summary = format!("{title}: {}", parts.join("; "));
    Some(plot)
}
