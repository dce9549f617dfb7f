//! Accuracy against latency or size: what each model pays for its answers.

use super::scale::Scale;
use super::{Axis, Frame, Key, Label, MARKS, Mark, Plot, Shape, Style, Unit, path_through, round};
use engine::Metric;

use crate::quantity::{interval, quantity};

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 320.0;
const FRAME: Frame = Frame { left: 50.0, top: 26.0, right: 388.0, bottom: 274.0 };
/// Marks of candidates: small, there may be hundreds.
const ON_FRONT: &str = "M-4 0a4 4 0 1 0 8 0a4 4 0 1 0-8 0z";
const BEHIND: &str = "M-2.5-2.5h5v5h-5z";
/// Marks of one model that lie this near are one to the eye.
const NEAR: f64 = 13.0;

/// A model with both its numbers.
#[derive(Debug, Clone)]
pub(crate) struct Measured<'run> {
    /// Name of the model.
    pub(crate) name: &'run str,
    /// Its accuracy.
    pub(crate) accuracy: &'run Metric,
    /// What it costs: its latency, or its size.
    pub(crate) cost: &'run Metric,
}

/// An architecture that a search looked at.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Candidate {
    /// Number the search gave it.
    pub(crate) index: u64,
    /// Fraction.
    pub(crate) accuracy: f64,
    /// Milliseconds, predicted.
    pub(crate) latency_ms: f64,
    /// Whether the search put it on its front.
    pub(crate) on_front: bool,
}

/// Accuracy against cost of one or several chains of models, each joined by a line.
///
/// `None` when no model has both numbers, or their units differ.
pub(crate) fn chains(
    accuracy_name: &str,
    cost_name: &str,
    chains: &[(String, Vec<Measured<'_>>)],
) -> Option<Plot> {
    let all: Vec<&Measured<'_>> = chains.iter().flat_map(|(_, models)| models).collect();
    let first = all.first()?;
    let (cost_unit, accuracy_unit) = (&first.cost.unit, &first.accuracy.unit);
    let comparable = |model: &&Measured<'_>| {
        model.cost.unit == *cost_unit && model.accuracy.unit == *accuracy_unit
    };
    if !all.iter().all(comparable) {
        return None;
    }
    let costs: Vec<f64> = all.iter().map(|model| model.cost.value).collect();
    let x_unit = Unit::of_metric(cost_unit);
    let x = Scale::spread_out(&costs, FRAME.left, FRAME.right, x_unit);
    let accuracies = all.iter().flat_map(|model| {
        let metric = model.accuracy;
        [Some(metric.value), metric.low, metric.high].into_iter().flatten()
    });
    let y_unit = Unit::of_metric(accuracy_unit);
    let y = Scale::linear(accuracies, FRAME.bottom, FRAME.top, y_unit);

    let title = format!("{accuracy_name} against {cost_name}");
    let mut plot = empty(&title, (cost_name, x, x_unit), (accuracy_name, y, y_unit));
    plot.note = "Up and to the left is better. A ring marks models that no other model beats in \
                 both; whiskers are 95 % intervals."
        .to_owned();
    let several = chains.len() > 1;
    let nothing = String::new();
    for (chain_index, (chain, models)) in chains.iter().enumerate() {
        let at = |model: &Measured<'_>| (x.at(model.cost.value), y.at(model.accuracy.value));
        let line = Style { colour: if several { chain_index % 6 } else { 5 }, dash: 1 };
        plot.lines
            .push(Shape { path: path_through(models.iter().map(|m| Some(at(m)))), style: line });
        for (index, model) in models.iter().enumerate() {
            let style_index = if several { chain_index } else { index };
            let names = (if several { chain } else { &nothing }, cost_name);
            plot.add_model(model, at(model), style_index, names, &all, y);
        }
        if several {
            plot.legend.push(key(chain_index, chain));
        }
    }
    plot.place_labels(FRAME);
    Some(plot)
}

/// Accuracy against latency of the candidates of a search; `None` without candidates.
pub(crate) fn candidates(title: &str, candidates: &[Candidate]) -> Option<Plot> {
    candidates.first()?;
    let latencies: Vec<f64> = candidates.iter().map(|one| one.latency_ms).collect();
    let x = Scale::spread_out(&latencies, FRAME.left, FRAME.right, Unit::Milliseconds);
    let accuracies = candidates.iter().map(|one| one.accuracy);
    let y = Scale::linear(accuracies, FRAME.bottom, FRAME.top, Unit::Percent);
    let mut plot = empty(title, ("latency", x, Unit::Milliseconds), ("accuracy", y, Unit::Percent));
    // Searches add up a table of layer latencies; only the chosen model is measured as a whole.
    plot.x.title = format!("predicted {}", plot.x.title);
    let mut front: Vec<(f64, f64)> = Vec::new();
    // The front is drawn last, above the cloud.
    let (on_front, others): (Vec<Candidate>, Vec<Candidate>) =
        candidates.iter().copied().partition(|one| one.on_front);
    for one in others.iter().chain(&on_front) {
        let at = (x.at(one.latency_ms), y.at(one.accuracy));
        plot.marks.push(Mark {
            x: at.0,
            y: at.1,
            path: if one.on_front { ON_FRONT } else { BEHIND },
            style: Style { colour: if one.on_front { 0 } else { 5 }, dash: 0 },
            // The line through them says it.
            on_front: false,
            hover: format!(
                "candidate {}\naccuracy: {}\npredicted latency: {}",
                one.index,
                quantity(one.accuracy, "fraction"),
                quantity(one.latency_ms, "ms")
            ),
        });
        if one.on_front {
            front.push(at);
        }
    }
    front.sort_by(|a, b| a.0.total_cmp(&b.0).then(b.1.total_cmp(&a.1)));
    plot.lines.push(Shape {
        path: path_through(front.into_iter().map(Some)),
        style: Style { colour: 0, dash: 1 },
    });
    let keys = [(ON_FRONT, 0, "on the Pareto front"), (BEHIND, 5, "not on it")];
    plot.legend = keys
        .map(|(mark, colour, text)| Key {
            style: Style { colour, dash: 0 },
            mark,
            text: text.to_owned(),
        })
        .to_vec();
    plot.summary = format!(
        "{title}: {} candidates, {} of them on the Pareto front",
        candidates.len(),
        on_front.len()
    );
    Some(plot)
}

/// A plot of a cost across and an accuracy upwards: names, scales and units.
fn empty(
    title: &str,
    (cost, x, x_unit): (&str, Scale, Unit),
    (accuracy, y, y_unit): (&str, Scale, Unit),
) -> Plot {
    let logarithmic = if x.is_logarithmic() { "logarithmic" } else { "" };
    let unit = x_unit.suffix().trim_matches([' ', '(', ')']);
    let about: Vec<&str> =
        [unit, logarithmic].into_iter().filter(|word| !word.is_empty()).collect();
    let x_title = match about.as_slice() {
        [] => cost.to_owned(),
        about => format!("{cost} ({})", about.join(", ")),
    };
    Plot {
        title: title.to_owned(),
        width: WIDTH,
        height: HEIGHT,
        frame: FRAME,
        x: Axis { title: x_title, ticks: x.ticks(5) },
        y: Axis { title: format!("{accuracy}{}", y_unit.suffix()), ticks: y.ticks(5) },
        ..Plot::default()
    }
}

fn key(index: usize, text: &str) -> Key {
    let index = index % MARKS.len();
    Key { style: Style { colour: index, dash: 0 }, mark: MARKS[index], text: text.to_owned() }
}

impl Plot {
    fn add_model(
        &mut self,
        model: &Measured<'_>,
        (x, y): (f64, f64),
        style_index: usize,
        (chain, cost_name): (&String, &str),
        all: &[&Measured<'_>],
        scale: Scale,
    ) {
        let Key { style, mark, .. } = key(style_index, "");
        let accuracy = model.accuracy;
        let mut hover = if chain.is_empty() { String::new() } else { format!("{chain} · ") };
        hover.push_str(&format!(
            "{}\naccuracy: {}",
            model.name,
            quantity(accuracy.value, &accuracy.unit)
        ));
        if let Some((low, high)) = accuracy.low.zip(accuracy.high) {
            let (top, bottom) = (scale.at(high), scale.at(low));
            let (left, cap) = (round(x - 4.0), "h8");
            let path = format!("M{x} {top}V{bottom}M{left} {top}{cap}M{left} {bottom}{cap}");
            self.whiskers.push(Shape { path, style });
            hover.push_str(&format!(" [{}]", interval(low, high, &accuracy.unit)));
        }
        let cost = quantity(model.cost.value, &model.cost.unit);
        hover.push_str(&format!("\n{cost_name}: {cost}"));
        if !self.summary.is_empty() {
            self.summary.push_str("; ");
        }
        self.summary.push_str(&hover.replace('\n', ", "));
        let on_front = !all.iter().any(|other| dominates(other, model));
        self.marks.push(Mark { x, y, path: mark, style, on_front, hover });
        let text = model.name.to_owned();
        // The same model in two runs lies in one place and needs one label.
        let is_labelled = self.labels.iter().any(|label| {
            label.text == text && (label.x - x).abs() < NEAR && (label.y - y).abs() < NEAR
        });
        if !is_labelled {
            self.labels.push(Label { x, y, anchor: "start", text });
        }
    }
}

/// Whether `other` is at least as good in both and better in one.
fn dominates(other: &Measured<'_>, model: &Measured<'_>) -> bool {
    let (cheaper, dearer) = (other.cost.value, model.cost.value);
    let (better, worse) = (other.accuracy.value, model.accuracy.value);
    cheaper <= dearer && better >= worse && (cheaper < dearer || better > worse)
}
