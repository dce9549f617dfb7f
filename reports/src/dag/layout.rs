//! Layers of items, their order and their centres.

use std::collections::BTreeMap;

use super::NODE_WIDTH;

/// Room for an edge that passes a layer.
const BEND_WIDTH: f64 = 14.0;
const GAP_X: f64 = 18.0;
/// Rounds of ordering; more change nothing on graphs of this size.
const ORDER_SWEEPS: usize = 24;
/// Rounds of straightening: news travel a layer a round.
const PLACE_SWEEPS: usize = 60;

/// What stands in a layer: a stage, or the place where the edges of a stage pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Item {
    Stage(usize),
    /// Edges of one stage share their way, so that a teacher with six readers is one line.
    Bend(usize, usize),
}

/// Where everything stands.
pub(super) struct Layout {
    /// Layer of every stage.
    pub(super) layer_of: Vec<usize>,
    /// Items of every layer, from left to right.
    pub(super) layers: Vec<Vec<Item>>,
    /// Items joined to an item in the layer above and below.
    above: BTreeMap<Item, Vec<Item>>,
    below: BTreeMap<Item, Vec<Item>>,
    /// Horizontal centre of every item; may be negative.
    pub(super) centre: BTreeMap<Item, f64>,
}

impl Layout {
    pub(super) fn new(n_stages: usize, edges: impl Iterator<Item = (usize, usize)>) -> Self {
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
    pub(super) fn way(&self, source: usize, target: usize) -> Vec<Item> {
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
    pub(super) fn order(&mut self) {
        for sweep in 0..ORDER_SWEEPS {
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
    pub(super) fn place(&mut self) {
        for layer in &self.layers {
            let width: f64 = layer.iter().map(|item| width(*item) + GAP_X).sum();
            let mut left = -width / 2.0;
            for item in layer {
                self.centre.insert(*item, left + (width_with_gap(*item)) / 2.0);
                left += width_with_gap(*item);
            }
        }
        for _ in 0..PLACE_SWEEPS {
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

/// Centres near `wanted` that keep the order and do not overlap. Stages choose first, bends go
/// where there is room: a long edge must not push a chain of stages aside.
fn apart(layer: &[Item], wanted: &[f64]) -> Vec<f64> {
    // Without the room that the items before it take, a centre only has to be no smaller than
    // the one before.
    let mut room = 0.0;
    let offsets: Vec<f64> = layer
        .iter()
        .map(|item| {
            let half = width_with_gap(*item) / 2.0;
            room += 2.0 * half;
            room - half
        })
        .collect();
    let mut free: Vec<f64> =
        wanted.iter().zip(&offsets).map(|(want, offset)| want - offset).collect();

    let is_stage = |index: &usize| matches!(layer[*index], Item::Stage(_));
    let stages: Vec<usize> = (0..layer.len()).filter(is_stage).collect();
    // The mean of packing from the left and from the right; both keep the order.
    let mut from_left: Vec<f64> = stages.iter().map(|stage| free[*stage]).collect();
    let mut from_right = from_left.clone();
    for index in 1..stages.len() {
        from_left[index] = from_left[index].max(from_left[index - 1]);
    }
    for index in (1..stages.len()).rev() {
        from_right[index - 1] = from_right[index - 1].min(from_right[index]);
    }
    for (index, stage) in stages.iter().enumerate() {
        free[*stage] = f64::midpoint(from_left[index], from_right[index]);
    }
    let mut low = f64::NEG_INFINITY;
    for index in 0..layer.len() {
        if !is_stage(&index) {
            let next = stages.iter().find(|stage| **stage > index);
            let high = next.map_or(f64::INFINITY, |stage| free[*stage]);
            free[index] = free[index].clamp(low, high);
        }
        low = free[index];
    }
    free.iter().zip(&offsets).map(|(free, offset)| free + offset).collect()
}

pub(super) fn width(item: Item) -> f64 {
    match item {
        Item::Stage(_) => NODE_WIDTH,
        Item::Bend(..) => BEND_WIDTH,
    }
}

fn width_with_gap(item: Item) -> f64 {
    width(item) + GAP_X
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
