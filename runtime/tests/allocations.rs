//! Heap allocations of a run in the steady state, counted over all threads.
#![allow(clippy::unwrap_used, reason = "a test's own steps do not fail")]

use std::alloc::System;
use std::num::NonZeroUsize;

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::rewrite::quantize::{QuantizeOptions, fold, insert};
use graph::{Graph, Tensor};
use runtime::{CompileOptions, Level, Session, compile};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// More than what rayon's queue for work from outside a pool keeps in one block.
const RUNS: usize = 100;

/// Jobs in such a block (crossbeam-deque, `BLOCK_CAP`).
const JOBS_PER_BLOCK: usize = 63;

fn encoder() -> Graph {
    let layer = BertLayer { heads: 4, intermediate: 256 };
    build(&BertConfig::uniform(100, 128, 2, layer), &mut initial_weights(1)).unwrap()
}

fn quantized(mut graph: Graph) -> Graph {
    insert(&mut graph, &QuantizeOptions { float: Vec::new(), embeddings: true }).unwrap();
    fold(&mut graph).unwrap();
    graph
}

/// Sizes below and above what the kernels cut for threads.
fn texts() -> Vec<[Tensor; 2]> {
    let text = |[batch, sequence]: [usize; 2]| {
        let ids = Tensor::from_fn(&[batch, sequence], |i| i as i64 % 100);
        [ids, Tensor::from_fn(&[batch, sequence], |_| 1i64)]
    };
    [[1, 7], [1, 32], [8, 64]].map(text).to_vec()
}

fn run(session: &mut Session, texts: &[[Tensor; 2]]) {
    for [ids, mask] in texts {
        let inputs = [("input_ids", ids), ("attention_mask", mask)];
        assert_eq!(session.run_borrowed(&inputs).unwrap().iter().len(), 1);
    }
}

/// Allocations of `work`, done [`RUNS`] times after it was done as often.
fn steady(mut work: impl FnMut()) -> usize {
    (0..RUNS).for_each(|_| work());
    let region = Region::new(HEAP);
    (0..RUNS).for_each(|_| work());
    let change = region.change();
    change.allocations + change.reallocations
}

/// One test only: another at the same time would be counted too.
#[test]
fn runs_allocate_nothing_in_the_steady_state() {
    let texts = texts();
    for (name, graph) in [("f32", encoder()), ("int8", quantized(encoder()))] {
        for level in [Level::O2, Level::O3] {
            let threads = NonZeroUsize::new(2);
            let options = CompileOptions { level, threads, ..CompileOptions::default() };
            let model = compile(&graph, &options).unwrap();
            let mut session = model.session();
            let inside = model.install(|| steady(|| run(&mut session, &texts)));
            assert_eq!(inside, 0, "{name} {level:?}");
            let outside = steady(|| run(&mut session, &texts));
            let blocks = (RUNS * texts.len()).div_ceil(JOBS_PER_BLOCK);
            assert!(outside <= blocks, "{name} {level:?}: {outside}, the queue needs {blocks}");
        }
    }
}
