//! Kernels and memory of the models that a stage looked into.

use std::collections::BTreeMap;

use engine::history::RunRecord;
use serde::Serialize;

use crate::inspection::{Block, Inspected, Inspections};
use crate::plot::{Scale, Tick, round};
use crate::quantity::quantity;

const WIDTH: f64 = 400.0;
const HEIGHT: f64 = 280.0;
const LEFT: f64 = 58.0;
const TOP: f64 = 26.0;
const RIGHT: f64 = 388.0;
const BOTTOM: f64 = 238.0;
/// Colours of blocks; neighbours take turns.
const N_COLOURS: usize = 5;
/// Nodes that a page lists; the others are in the artifact.
const MAX_NODES: usize = 400;

/// What a run's inspections say.
#[derive(Debug, Default, Serialize)]
pub(crate) struct InspectedViews {
    pub(crate) models: Vec<InspectedView>,
    /// Stage and why its inspection cannot be shown.
    pub(crate) unavailable: Vec<(String, String)>,
}

/// A compiled model.
#[derive(Debug, Serialize)]
pub(crate) struct InspectedView {
    pub(crate) name: String,
    pub(crate) about: String,
    /// Operation, kernel and how many nodes, most first.
    pub(crate) kernels: Vec<(String, String, usize)>,
    /// Name, operation, kernel, output and how many nodes of the graph it stands for.
    pub(crate) nodes: Vec<[String; 5]>,
    /// How many nodes are not listed.
    pub(crate) n_hidden: usize,
    pub(crate) map: Option<MemoryMap>,
}

/// The arena: bytes upwards, nodes across.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct MemoryMap {
    pub(crate) summary: String,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) right: f64,
    pub(crate) bottom: f64,
    pub(crate) x_ticks: Vec<Tick>,
    pub(crate) y_ticks: Vec<Tick>,
    pub(crate) y_title: String,
    pub(crate) blocks: Vec<BlockView>,
    pub(crate) largest: String,
}

/// A block of the arena.
#[derive(Debug, PartialEq, Serialize)]
pub(crate) struct BlockView {
    pub(crate) x: f64,
    pub(crate) y: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) colour: usize,
    pub(crate) scratch: bool,
    pub(crate) hover: String,
}

/// Reads the inspections of `run`.
pub(super) fn read(run: &RunRecord, inspections: &Inspections) -> InspectedViews {
    let mut read = InspectedViews::default();
    for (stage, document) in inspections.of(run) {
        match document {
            Ok(document) => {
                read.models.extend(document.models.iter().map(|(port, model)| view(port, model)));
            }
            Err(reason) => read.unavailable.push((stage, reason)),
        }
    }
    read
}

fn view(port: &str, model: &Inspected) -> InspectedView {
    let mut counts: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for node in &model.nodes {
        *counts.entry((&node.operation, &node.kernel)).or_default() += 1;
    }
    let mut kernels: Vec<(String, String, usize)> = counts
        .into_iter()
        .map(|((operation, kernel), n)| (operation.to_owned(), kernel.to_owned(), n))
        .collect();
    kernels.sort_by_key(|kernel| std::cmp::Reverse(kernel.2));
    let bytes = |bytes: u64| quantity(bytes as f64, "bytes");
    let node = |node: &crate::inspection::Node| {
        [&node.name, &node.operation, &node.kernel, &node.output, &node.stands_for.to_string()]
            .map(Clone::clone)
    };
    InspectedView {
        name: port.to_owned(),
        about: format!(
            "{} nodes, kernels for {}, {} threads; {} of constants, {} of packed weights, {} of \
             arena for one text of {} word pieces",
            model.nodes.len(),
            model.tier,
            model.threads,
            bytes(model.constant_bytes),
            bytes(model.packed_bytes),
            bytes(model.arena_bytes),
            model.sequence
        ),
        kernels,
        nodes: model.nodes.iter().take(MAX_NODES).map(node).collect(),
        n_hidden: model.nodes.len().saturating_sub(MAX_NODES),
        map: map(port, model),
    }
}

fn map(port: &str, model: &Inspected) -> Option<MemoryMap> {
    if model.blocks.is_empty() || model.arena_bytes == 0 {
        return None;
    }
    let (factor, unit) = match model.arena_bytes {
        bytes if bytes >= 2_000_000 => (1e6, "MB"),
        bytes if bytes >= 2_000 => (1e3, "kB"),
        _ => (1.0, "bytes"),
    };
    let n_steps = model.nodes.len().max(1) as f64;
    let x = Scale::steps([0.0, n_steps], LEFT, RIGHT);
    let y = Scale::steps([0.0, model.arena_bytes as f64 / factor], BOTTOM, TOP);
    let block = |(index, block): (usize, &Block)| {
        // A block is there from before its first step until after its last.
        let end = block.last.saturating_add(1).min(model.nodes.len() as u64);
        let (left, right) = (x.at(block.first as f64), x.at(end as f64));
        let high = block.offset.saturating_add(block.size_bytes) as f64;
        let (bottom, top) = (y.at(block.offset as f64 / factor), y.at(high / factor));
        let until = model.nodes.get(usize::try_from(block.last).unwrap_or(usize::MAX));
        BlockView {
            x: left,
            y: top,
            width: round((right - left).max(0.6)),
            height: round((bottom - top).max(0.6)),
            colour: index % N_COLOURS,
            scratch: block.scratch,
            hover: format!(
                "{}{}: {} at {}\nuntil {}",
                block.name,
                if block.scratch { " (scratch)" } else { "" },
                quantity(block.size_bytes as f64, "bytes"),
                block.offset,
                until.map_or("the end: an output", |node| node.name.as_str())
            ),
        }
    };
    let largest = model.blocks.iter().max_by_key(|block| block.size_bytes)?;
    Some(MemoryMap {
        summary: format!(
            "{port}: arena of {} in {} blocks",
            quantity(model.arena_bytes as f64, "bytes"),
            model.blocks.len()
        ),
        width: WIDTH,
        height: HEIGHT,
        left: LEFT,
        top: TOP,
        right: RIGHT,
        bottom: BOTTOM,
        x_ticks: x.ticks(5),
        y_ticks: y.ticks(5),
        y_title: format!("arena ({unit})"),
        blocks: model.blocks.iter().enumerate().map(block).collect(),
        largest: format!(
            "The largest block is {} with {}.",
            largest.name,
            quantity(largest.size_bytes as f64, "bytes")
        ),
    })
}
