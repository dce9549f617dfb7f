//! The stages of a run as a layered drawing, upstream on top (Sugiyama, Tagawa and Toda 1981:
//! layers, order by barycentre, coordinates).

mod layout;

use std::collections::BTreeMap;

use engine::history::{RunRecord, StageRecord, StageState};
use serde::Serialize;

use layout::{Item, Layout, width};

use crate::plot::round;
use crate::quantity::seconds;

const NODE_WIDTH: f64 = 200.0;
const NODE_HEIGHT: f64 = 64.0;
/// Height of the line that names data and pretrained models.
const SOURCES_HEIGHT: f64 = 16.0;
const GAP_Y: f64 = 38.0;
const MARGIN: f64 = 8.0;
/// Characters that fit into a node.
const MAX_NAME: usize = 20;
const MAX_SOURCES: usize = 28;

/// The drawing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Dag {
    pub(crate) summary: String,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) nodes: Vec<Node>,
    pub(crate) edges: Vec<Edge>,
}

/// A stage.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Node {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) state: StageState,
    /// State and duration.
    pub(crate) status: String,
    /// Data and pretrained models it reads.
    pub(crate) sources: String,
    pub(crate) hover: String,
}

/// What flows between two stages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Edge {
    pub(crate) path: String,
    pub(crate) hover: String,
}

/// Draws the stages of `run`; `None` when it has none.
pub(crate) fn draw(run: &RunRecord) -> Option<Dag> {
    if run.stages.is_empty() {
        return None;
    }
    let edges = edges(run);
    let mut layout = Layout::new(run.stages.len(), edges.keys().copied());
    layout.order();
    layout.place();
    Some(layout.draw(run, &edges))
}

/// Stages joined by edges, as indices, with the ports they are joined by.
fn edges(run: &RunRecord) -> BTreeMap<(usize, usize), Vec<String>> {
    let mut edges: BTreeMap<(usize, usize), Vec<String>> = BTreeMap::new();
    for (target, stage) in run.stages.iter().enumerate() {
        for edge in &stage.inputs {
            // Records list stages upstream first, so a source that is not above is no stage.
            if let Some(source) = source_stage(run, target, &edge.from) {
                let text = format!("{} → {}.{}", edge.from, stage.name, edge.port);
                edges.entry((source, target)).or_default().push(text);
            }
        }
    }
    edges
}

fn source_stage(run: &RunRecord, target: usize, from: &str) -> Option<usize> {
    let (name, _) = from.split_once('.')?;
    run.stages[..target].iter().position(|stage| stage.name == name)
}

impl Layout {
    fn draw(&self, run: &RunRecord, edges: &BTreeMap<(usize, usize), Vec<String>>) -> Dag {
        let left = |item: &Item| self.centre[item] - width(*item) / 2.0;
        let items = || self.layers.iter().flatten();
        let shift = MARGIN - items().map(left).fold(f64::INFINITY, f64::min);
        let right = items().map(|item| left(item) + width(*item)).fold(f64::NEG_INFINITY, f64::max);
        let heights: Vec<f64> = self.layers.iter().map(|layer| layer_height(layer, run)).collect();
        let tops: Vec<f64> = heights
            .iter()
            .scan(MARGIN, |top, height| {
                let this = *top;
                *top += height + GAP_Y;
                Some(this)
            })
            .collect();
        let node = |(index, stage): (usize, &StageRecord)| {
            let (x, y) = (left(&Item::Stage(index)) + shift, tops[self.layer_of[index]]);
            node(run, index, stage, round(x), round(y))
        };
        let bottom = |item: &Item| match item {
            Item::Stage(stage) => tops[self.layer_of[*stage]] + node_height(&run.stages[*stage]),
            Item::Bend(_, layer) => tops[*layer] + heights[*layer],
        };
        let top = |item: &Item| match item {
            Item::Stage(stage) => tops[self.layer_of[*stage]],
            Item::Bend(_, layer) => tops[*layer],
        };
        let edge = |(&(source, target), ports): (&(usize, usize), &Vec<String>)| {
            let way = self.way(source, target);
            let mut path = String::new();
            for pair in way.windows(2) {
                let x = |item: &Item| round(self.centre[item] + shift);
                let (from, to) = ((x(&pair[0]), bottom(&pair[0])), (x(&pair[1]), top(&pair[1])));
                path.push_str(&link(from, to));
                if matches!(pair[1], Item::Bend(..)) {
                    path.push_str(&format!("V{}", round(bottom(&pair[1]))));
                }
            }
            // The arrow head; the last link ends at the top of the target.
            path.push_str("m-4 -7l4 7l4 -7");
            Edge { path, hover: ports.join("\n") }
        };
        let lowest = tops.last().zip(heights.last()).map_or(0.0, |(top, height)| top + height);
        Dag {
            summary: summary(run),
            width: (right + shift + MARGIN).ceil(),
            height: (lowest + MARGIN).ceil(),
            nodes: run.stages.iter().enumerate().map(node).collect(),
            edges: edges.iter().map(edge).collect(),
        }
    }
}

fn layer_height(layer: &[Item], run: &RunRecord) -> f64 {
    let heights = layer.iter().map(|item| match item {
        Item::Stage(stage) => node_height(&run.stages[*stage]),
        Item::Bend(..) => 0.0,
    });
    heights.fold(NODE_HEIGHT, f64::max)
}

fn node_height(stage: &StageRecord) -> f64 {
    if external_sources(stage).is_empty() { NODE_HEIGHT } else { NODE_HEIGHT + SOURCES_HEIGHT }
}

fn external_sources(stage: &StageRecord) -> String {
    let is_external = |from: &&str| from.starts_with("data.") || from.starts_with("models.");
    let names = stage.inputs.iter().map(|edge| edge.from.as_str()).filter(is_external);
    names.collect::<Vec<_>>().join(", ")
}

/// A curve that leaves downwards and arrives downwards.
fn link((x, y): (f64, f64), (to_x, to_y): (f64, f64)) -> String {
    let middle = round(f64::midpoint(y, to_y));
    format!("M{x} {}C{x} {middle} {to_x} {middle} {to_x} {}", round(y), round(to_y))
}

fn node(run: &RunRecord, index: usize, stage: &StageRecord, x: f64, y: f64) -> Node {
    let mut hover = format!("{} ({})\n{}", stage.name, stage.kind, status(stage));
    if !stage.reason.is_empty() {
        hover.push_str(&format!("\n{}", stage.reason));
    }
    for edge in &stage.inputs {
        let from = source_stage(run, index, &edge.from).map_or("reads", |_| "takes");
        hover.push_str(&format!("\n{from} {} as {}", edge.from, edge.port));
    }
    Node {
        x,
        y,
        width: NODE_WIDTH,
        height: node_height(stage),
        name: cut(&stage.name, MAX_NAME),
        kind: cut(&stage.kind, MAX_NAME),
        state: stage.state,
        status: status(stage),
        sources: cut(&external_sources(stage), MAX_SOURCES),
        hover,
    }
}

fn cut(text: &str, length: usize) -> String {
    if text.chars().count() <= length {
        return text.to_owned();
    }
    let head: String = text.chars().take(length - 1).collect();
    format!("{head}…")
}

/// State and duration of a stage in a few words.
pub(crate) fn status(stage: &StageRecord) -> String {
    let word = state_word(stage.state);
    match stage.state {
        StageState::Hit => match stage.work_s {
            Some(work) => format!("{word} · saved {}", seconds(work)),
            None => word.to_owned(),
        },
        _ => match stage.duration_s {
            Some(duration) => format!("{word} · {}", seconds(duration)),
            None => word.to_owned(),
        },
    }
}

/// What a state is called in a report.
pub(crate) fn state_word(state: StageState) -> &'static str {
    match state {
        StageState::Running => "running",
        StageState::Hit => "cached",
        StageState::Ran => "ran",
        StageState::Failed => "failed",
        StageState::Skipped => "skipped",
        StageState::Interrupted => "interrupted",
        StageState::Paused => "paused",
    }
}

fn summary(run: &RunRecord) -> String {
    let one = |stage: &StageRecord| format!("{} {}", stage.name, status(stage));
    let stages: Vec<String> = run.stages.iter().map(one).collect();
    format!("Stages from first to last: {}", stages.join("; "))
}
