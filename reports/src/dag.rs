//! The stages of a run as a layered drawing, upstream on top (Sugiyama, Tagawa and Toda 1981:
//! layers, order by barycentre, coordinates).

use std::collections::BTreeMap;

use engine::history::{RunRecord, StageRecord, StageState};
use serde::Serialize;

use crate::plot::round;
use crate::quantity::seconds;

const NODE_WIDTH: f64 = 200.0;
const NODE_HEIGHT: f64 = 64.0;
/// Height of the line that names data and pretrained models.
const SOURCES_HEIGHT: f64 = 16.0;
/// Room for an edge that passes a layer.
const BEND_WIDTH: f64 = 14.0;
const GAP_X: f64 = 18.0;
const GAP_Y: f64 = 38.0;
const MARGIN: f64 = 8.0;
/// Rounds of ordering and of straightening; more change nothing on graphs of this size.
const SWEEPS: usize = 24;
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

/// What stands in a layer: a stage, or the place where the edges of a stage pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Item {
    Stage(usize),
    /// Edges of one stage share their way, so that a teacher with six readers is one line.
    Bend(usize, usize),
}

struct Layout {
    layer_of: Vec<usize>,
    layers: Vec<Vec<Item>>,
    /// Items joined to an item in the layer above and below.
    above: BTreeMap<Item, Vec<Item>>,
    below: BTreeMap<Item, Vec<Item>>,
    centre: BTreeMap<Item, f64>,
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
    fn new(n_stages: usize, edges: impl Iterator<Item = (usize, usize)>) -> Self {
        let edges: Vec<_> = edges.collect();
        let mut layer_of = vec![0; n_stages];
        // Sources lie before targets, so one pass in target order settles every layer.
        for target in 0..n_stages {
            let deepest = edges.iter().filter(|edge| edge.1 == target).map(|edge| layer_of[edge.0]);
            layer_of[target] = deepest.max().map_or(0, |layer| layer + 1);
        }
        let depth = layer_of.iter().max().map_or(0, |layer| layer + 1);
        let mut layout = Self {
            layers: vec![Vec::new(); depth],
            above: BTreeMap::new(),
            below: BTreeMap::new(),
            centre: BTreeMap::new(),
            layer_of,
        };
        for stage in 0..n_stages {
            layout.layers[layout.layer_of[stage]].push(Item::Stage(stage));
        }
        for (source, target) in edges {
            let way = layout.way(source, target);
            for pair in way.windows(2) {
                layout.join(pair[0], pair[1]);
            }
        }
        layout
    }

    /// Items an edge goes through, both ends included.
    fn way(&self, source: usize, target: usize) -> Vec<Item> {
        let between = self.layer_of[source] + 1..self.layer_of[target];
        let bends = between.map(|layer| Item::Bend(source, layer));
        std::iter::once(Item::Stage(source)).chain(bends).chain([Item::Stage(target)]).collect()
    }

    fn join(&mut self, upper: Item, lower: Item) {
        for item in [upper, lower] {
            if let Item::Bend(_, layer) = item
                && !self.layers[layer].contains(&item)
            {
                self.layers[layer].push(item);
            }
        }
        let below = self.below.entry(upper).or_default();
        if !below.contains(&lower) {
            below.push(lower);
            self.above.entry(lower).or_default().push(upper);
        }
    }

    /// Orders each layer by the mean place of what it is joined to, from both sides in turn.
    fn order(&mut self) {
        for sweep in 0..SWEEPS {
            let place: BTreeMap<Item, f64> = self
                .layers
                .iter()
                .flat_map(|layer| {
                    let middle = (layer.len() as f64 - 1.0) / 2.0;
                    layer.iter().enumerate().map(move |(i, item)| (*item, i as f64 - middle))
                })
                .collect();
            let joined = if sweep % 2 == 0 { &self.above } else { &self.below };
            for layer in &mut self.layers {
                layer.sort_by(|a, b| {
                    let mean = |item| mean_of(joined.get(item), &place).unwrap_or(place[item]);
                    mean(a).total_cmp(&mean(b))
                });
            }
        }
    }

    /// Gives each item a centre: near those it is joined to, apart from its neighbours.
    fn place(&mut self) {
        for layer in &self.layers {
            let width: f64 = layer.iter().map(|item| width(*item) + GAP_X).sum();
            let mut left = -width / 2.0;
            for item in layer {
                self.centre.insert(*item, left + (width_with_gap(*item)) / 2.0);
                left += width_with_gap(*item);
            }
        }
        for _ in 0..SWEEPS {
            for layer in &self.layers {
                let wanted: Vec<f64> = layer.iter().map(|item| self.wanted(*item)).collect();
                for (item, centre) in layer.iter().zip(apart(layer, &wanted)) {
                    self.centre.insert(*item, centre);
                }
            }
        }
    }

    /// Mean of the centres joined to `item`, weighted so that chains of stages and long edges
    /// come out straight.
    fn wanted(&self, item: Item) -> f64 {
        let joined = [&self.above, &self.below];
        let others = joined.into_iter().filter_map(|side| side.get(&item)).flatten();
        let (sum, weights) = others.fold((0.0, 0.0), |(sum, weights), other| {
            let weight = straightness(item, *other);
            (sum + weight * self.centre[other], weights + weight)
        });
        if weights > 0.0 { sum / weights } else { self.centre[&item] }
    }

    fn draw(&self, run: &RunRecord, edges: &BTreeMap<(usize, usize), Vec<String>>) -> Dag {
        let left = |item: &Item| self.centre[item] - width(*item) / 2.0;
        let items = || self.layers.iter().flatten();
        let shift = MARGIN - items().map(left).fold(f64::INFINITY, f64::min);
        let right = items().map(|item| left(item) + width(*item)).fold(0.0, f64::max);
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

/// How much it matters that the link between two items is straight (Gansner et al. 1993, "A
/// technique for drawing directed graphs", section 4: bends cost most between bends).
fn straightness(one: Item, other: Item) -> f64 {
    match (one, other) {
        (Item::Stage(_), Item::Stage(_)) => 1.0,
        (Item::Bend(..), Item::Bend(..)) => 2.0,
        _ => 0.1,
    }
}

fn mean_of(items: Option<&Vec<Item>>, place: &BTreeMap<Item, f64>) -> Option<f64> {
    let items = items.filter(|items| !items.is_empty())?;
    Some(items.iter().map(|item| place[item]).sum::<f64>() / items.len() as f64)
}

/// Centres near `wanted` that keep the order and do not overlap: the mean of packing from the
/// left and from the right, which both keep the distances.
fn apart(layer: &[Item], wanted: &[f64]) -> Vec<f64> {
    let distance = |index: usize| {
        f64::midpoint(width_with_gap(layer[index]), width_with_gap(layer[index + 1]))
    };
    let mut from_left = wanted.to_vec();
    for index in 1..from_left.len() {
        from_left[index] = from_left[index].max(from_left[index - 1] + distance(index - 1));
    }
    let mut from_right = wanted.to_vec();
    for index in (1..from_right.len()).rev() {
        from_right[index - 1] = from_right[index - 1].min(from_right[index] - distance(index - 1));
    }
    from_left.iter().zip(&from_right).map(|(a, b)| f64::midpoint(*a, *b)).collect()
}

fn width(item: Item) -> f64 {
    match item {
        Item::Stage(_) => NODE_WIDTH,
        Item::Bend(..) => BEND_WIDTH,
    }
}

fn width_with_gap(item: Item) -> f64 {
    width(item) + GAP_X
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
    }
}

fn summary(run: &RunRecord) -> String {
    let one = |stage: &StageRecord| format!("{} {}", stage.name, status(stage));
    let stages: Vec<String> = run.stages.iter().map(one).collect();
    format!("Stages from first to last: {}", stages.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Graphs as stage counts and edges; sources come before targets, as in records.
    const GRAPHS: [(usize, &[(usize, usize)]); 4] = [
        (1, &[]),
        (3, &[]),
        (4, &[(0, 1), (0, 2), (1, 3), (2, 3)]),
        (
            7,
            &[
                (0, 1),
                (0, 2),
                (1, 2),
                (0, 3),
                (2, 3),
                (3, 4),
                (4, 5),
                (0, 6),
                (2, 6),
                (3, 6),
                (4, 6),
            ],
        ),
    ];

    fn layout((n_stages, edges): (usize, &[(usize, usize)])) -> Layout {
        let mut layout = Layout::new(n_stages, edges.iter().copied());
        layout.order();
        layout.place();
        layout
    }

    #[test]
    fn nothing_in_a_layer_overlaps() {
        for graph in GRAPHS {
            let layout = layout(graph);
            for layer in &layout.layers {
                for pair in layer.windows(2) {
                    let room = (width(pair[0]) + width(pair[1])) / 2.0;
                    let distance = layout.centre[&pair[1]] - layout.centre[&pair[0]];
                    assert!(distance >= room, "{pair:?} of {graph:?} are {distance} apart");
                }
            }
        }
    }

    #[test]
    fn edges_go_down_one_layer_at_a_time() {
        for graph in GRAPHS {
            let layout = layout(graph);
            let layer_of =
                |item: &Item| layout.layers.iter().position(|layer| layer.contains(item));
            for (source, target) in graph.1 {
                let way = layout.way(*source, *target);
                let layers: Vec<usize> = way.iter().filter_map(layer_of).collect();
                assert_eq!(layers.len(), way.len());
                assert!(layers.windows(2).all(|pair| pair[1] == pair[0] + 1));
            }
        }
    }

    #[test]
    fn a_chain_is_straight() {
        let layout = layout((4, &[(0, 1), (1, 2), (2, 3)]));
        let first = layout.centre[&Item::Stage(0)];
        assert!(layout.centre.values().all(|centre| (centre - first).abs() < 1e-9));
    }
}
