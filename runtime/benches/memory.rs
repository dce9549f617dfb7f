//! Memory of BERT-shaped encoders: the arena as planned, the least that any plan needs, and what it
//! would be without reuse.
//!
//! `cargo bench -p runtime --bench memory`
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::time::Instant;

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::rewrite::quantize::{QuantizeOptions, fold, insert};
use graph::{Bindings, Graph};
use runtime::{CompileOptions, Level, compile};

const CELLS: [(usize, usize); 5] = [(1, 32), (1, 128), (8, 32), (8, 128), (32, 128)];

fn main() {
    let mut worst = 1f64;
    for (name, layers, hidden, heads) in
        [("L6 H384", 6, 384, 12), ("L12 H768", 12, 768, 12), ("L4 H312", 4, 312, 12)]
    {
        let layer = BertLayer { heads, intermediate: 4 * hidden };
        let config = BertConfig::uniform(2000, hidden, layers, layer);
        let float = build(&config, &mut initial_weights(1)).expect("the sizes fit");
        let integer = quantized(float.clone());
        for (kind, graph) in [("f32", &float), ("int8", &integer)] {
            for level in [Level::O0, Level::O3] {
                worst = worst.max(print(&format!("{name} {kind} {level:?}"), graph, level));
            }
        }
    }
    println!("worst ratio of planned to bound: {worst:.4}");
}

fn quantized(mut graph: Graph) -> Graph {
    let options = QuantizeOptions { float: Vec::new(), embeddings: true };
    insert(&mut graph, &options).expect("an encoder has linear layers");
    fold(&mut graph).expect("weights are constants");
    graph
}

/// Returns the worst ratio of planned to bound.
fn print(name: &str, graph: &Graph, level: Level) -> f64 {
    let options = CompileOptions { level, ..CompileOptions::default() };
    let model = compile(graph, &options).expect("the encoder compiles");
    println!("{name}: {:?}", model.explain().times);
    println!("  bound = {}", model.peak_formula());
    let mut worst = 1f64;
    for (batch, sequence) in CELLS {
        let sizes = Bindings::new([("batch", batch), ("sequence", sequence)]);
        let begin = Instant::now();
        let memory = model.memory(&sizes).expect("sizes are bound");
        let time = begin.elapsed();
        let ratio = memory.planned_bytes as f64 / memory.lower_bound_bytes as f64;
        println!(
            "  {batch}×{sequence}: planned {}, bound {}, ratio {ratio:.4}, no reuse {}, in {time:.2?}",
            memory.planned_bytes, memory.lower_bound_bytes, memory.without_reuse_bytes
        );
        worst = worst.max(ratio);
    }
    worst
}
