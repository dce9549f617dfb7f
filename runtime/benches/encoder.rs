//! Times of a MiniLM-shaped encoder (6 layers, width 384, 12 heads), f32 beside int8, and with
//! fusion off: medians in one run.
//!
//! `cargo bench -p runtime`; `PIPELINE_KERNELS` forces a tier.
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::rewrite::quantize::{
    PointKind, QuantizeOptions, fold, insert, points, set_activation_scale,
};
use graph::{Bindings, Graph, Tensor};
use runtime::{CompileOptions, CompiledModel, Level, compile};

const THREADS: usize = 2;

fn main() {
    let float = encoder();
    let integer = quantized(float.clone());
    let model = |graph: &Graph, level| {
        let threads = NonZeroUsize::new(THREADS);
        let options = CompileOptions { level, threads, ..CompileOptions::default() };
        compile(graph, &options).expect("the encoder compiles")
    };
    let plain = model(&float, Level::O0);
    let (float, integer) = (model(&float, Level::O3), model(&integer, Level::O3));
    println!("tier {}, {THREADS} threads, medians", integer.explain().tier);
    for (batch, sequence) in [(1, 32), (1, 128), (8, 32), (8, 128)] {
        let [plain, float, quantized] =
            [&plain, &float, &integer].map(|model| median(model, batch, sequence));
        let bindings = Bindings::new([("batch", batch), ("sequence", sequence)]);
        let peak = integer.peak_bytes(&bindings).expect("sizes are bound");
        println!(
            "{batch}×{sequence}: f32 unfused {plain:.2?}, f32 {float:.2?}, int8 {quantized:.2?} \
             (×{:.2} of f32), int8 arena {} KiB",
            float.as_secs_f64() / quantized.as_secs_f64(),
            peak / 1024
        );
    }
}

fn encoder() -> Graph {
    let layer = BertLayer { heads: 12, intermediate: 1536 };
    let config = BertConfig::uniform(2000, 384, 6, layer);
    build(&config, &mut initial_weights(1)).expect("the sizes fit")
}

fn quantized(mut graph: Graph) -> Graph {
    let options = QuantizeOptions { float: Vec::new(), embeddings: true };
    insert(&mut graph, &options).expect("an encoder has linear layers");
    let scales: Vec<String> = points(&graph)
        .iter()
        .filter(|point| point.kind == PointKind::Activation)
        .map(|point| graph.value_name(point.scale).to_owned())
        .collect();
    for scale in scales {
        set_activation_scale(&mut graph, &scale, 0.03).expect("the scale was just listed");
    }
    fold(&mut graph).expect("weights are constants");
    graph
}

/// Median of at least 20 runs and a second.
fn median(model: &CompiledModel, batch: usize, sequence: usize) -> Duration {
    let ids = Tensor::from_fn(&[batch, sequence], |i| (i as i64 * 31) % 2000);
    let mask = Tensor::from_fn(&[batch, sequence], |_| 1i64);
    let mut session = model.session();
    let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
    let mut times = Vec::new();
    let start = Instant::now();
    while times.len() < 20 || start.elapsed() < Duration::from_secs(1) {
        let begin = Instant::now();
        session.run_borrowed(&inputs).expect("inputs fit");
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}
