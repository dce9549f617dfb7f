//! Large batches in slices: the same answers, and only where a model lets itself be cut.

use std::num::NonZeroUsize;

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::op::{Concat, Gather, ReduceSum, Reshape, Softmax, Transpose, Unsqueeze};
use graph::rewrite::quantize::{QuantizeOptions, fold, insert};
use graph::{Bindings, Dim, Graph, Op, Tensor, ValueId};
use runtime::{CompileOptions, CompiledModel, Level, Precision, RuntimeError, compile};

use crate::{Sketch, fired, numbers, options, run};

const PASS: &str = "slice-batch";
/// Long enough for an element to be a slice.
const TOKENS: usize = 420;

fn encoder() -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 256 };
    let config = BertConfig { positions: TOKENS, ..BertConfig::uniform(20, 64, 2, layer) };
    build(&config, &mut initial_weights(1)).unwrap()
}

fn quantized() -> Graph {
    let mut graph = encoder();
    insert(&mut graph, &QuantizeOptions { float: Vec::new(), embeddings: true }).unwrap();
    fold(&mut graph).unwrap();
    graph
}

/// The last tokens of each text are hidden, of each another number.
fn texts(batch: usize) -> [(&'static str, Tensor); 2] {
    let ids = Tensor::from_fn(&[batch, TOKENS], |i| (i * 7 + i / TOKENS) as i64 % 20);
    let mask = Tensor::from_fn(&[batch, TOKENS], |i| {
        i64::from(i % TOKENS < TOKENS - 10 * (i / TOKENS % 7))
    });
    [("input_ids", ids), ("attention_mask", mask)]
}

fn with_threads(graph: &Graph, threads: usize, options: CompileOptions) -> CompiledModel {
    let threads = NonZeroUsize::new(threads);
    compile(graph, &CompileOptions { threads, ..options }).unwrap()
}

fn sizes(batch: usize) -> Bindings {
    Bindings::new([("batch", batch), ("sequence", TOKENS)])
}

fn slices(model: &CompiledModel, batch: usize) -> Option<usize> {
    model.memory(&sizes(batch)).unwrap().sliced.map(|sliced| sliced.count)
}

#[test]
fn slices_give_the_answers_of_the_whole() {
    for (graph, precision) in [
        (encoder(), Precision::F32),
        (encoder(), Precision::Bf16),
        (quantized(), Precision::F32),
        (quantized(), Precision::Bf16),
    ] {
        for threads in [1, 2, 3] {
            let options = CompileOptions { precision, ..options(Level::O3) };
            let cut = with_threads(&graph, threads, options.clone());
            assert_eq!(fired(&cut, PASS), 1);
            let disabled = CompileOptions { disabled_passes: vec![PASS.to_owned()], ..options };
            let whole = with_threads(&graph, threads, disabled);
            let mut session = cut.session();
            // Up and down, with whole runs between.
            for batch in [7, 1, 3, 23, 4, 7] {
                assert_eq!(slices(&whole, batch), None);
                // One thread has no use for slices until they do not fit its cache.
                if threads > 1 || [1, 23].contains(&batch) {
                    let worth_it = batch >= threads.max(2);
                    assert_eq!(slices(&cut, batch).is_some(), worth_it, "{threads}, {batch}");
                }
                let inputs = texts(batch);
                let borrowed = inputs.each_ref().map(|(name, tensor)| (*name, tensor));
                let found = session.run(&borrowed).unwrap();
                assert_eq!(found, run(&whole, &inputs), "{threads} threads, batch {batch}");
            }
        }
    }
}

#[test]
fn slices_may_take_more_memory_than_the_whole_but_not_than_the_budget() {
    let graph = encoder();
    let model = with_threads(&graph, 2, options(Level::O3));
    let memory = model.memory(&sizes(64)).unwrap();
    let sliced = memory.sliced.unwrap();
    assert!(sliced.bytes < memory.planned_bytes, "{memory:?}");
    let memory = model.memory(&sizes(2)).unwrap();
    let sliced = memory.sliced.unwrap();
    assert!(sliced.bytes > memory.planned_bytes, "{memory:?}");
    let memory_budget = Some(memory.total_bytes());
    let limited = with_threads(&graph, 2, CompileOptions { memory_budget, ..options(Level::O3) });
    assert_eq!(limited.memory(&sizes(2)).unwrap().sliced, None);
    assert_eq!(run(&limited, &texts(2)), run(&model, &texts(2)));
}

#[test]
fn a_failure_in_a_slice_is_the_runs() {
    let model = with_threads(&encoder(), 2, options(Level::O3));
    let [(_, _), mask] = texts(8);
    let ids = Tensor::from_fn(&[8, TOKENS], |i| if i / TOKENS == 5 { 20i64 } else { 1 });
    let mut session = model.session();
    let inputs = [("input_ids", &ids), ("attention_mask", &mask.1)];
    for _ in 0..3 {
        let error = session.run(&inputs).unwrap_err();
        assert!(matches!(&error, RuntimeError::Node { .. }));
        let message = error.to_string();
        assert!(message.contains("index 20 at position"), "{message}");
        assert!(message.ends_with("of the batch on)"), "{message}");
    }
    let good = texts(8).map(|(name, tensor)| (name, tensor));
    let good = good.each_ref().map(|(name, tensor)| (*name, tensor));
    assert_eq!(session.run(&good).unwrap()[0].shape(), [8, 2]);
}

fn gather(axis: usize) -> Op {
    Op::Gather(Gather { axis })
}

/// How often the pass fires for a model of `x`, `f32[batch, 4]`, or `[batch, 4, 4]`.
fn fires(shape: &[usize], build: impl Fn(&mut Sketch, ValueId) -> ValueId) -> usize {
    let mut dims = vec![Dim::symbol("batch")];
    dims.extend(shape.iter().map(|&size| Dim::Fixed(size)));
    let (mut sketch, x) = Sketch::shaped(dims);
    let y = build(&mut sketch, x);
    fired(&compile(&sketch.finish(&[y]), &options(Level::O3)).unwrap(), PASS)
}

/// The other sizes of x, and what is computed of it.
type Case<'a> = (&'a [usize], &'a dyn Fn(&mut Sketch, ValueId) -> ValueId);

#[test]
fn models_are_cut_where_no_element_reads_another() {
    let softmax = || Op::Softmax(Softmax {});
    let concat = |axis| Op::Concat(Concat { axis });
    let apart: [Case<'_>; 9] = [
        (&[4], &|sketch, x| sketch.node(Op::Relu, &[x])),
        (&[4], &|sketch, x| sketch.node(softmax(), &[x])),
        (&[4], &|sketch, x| {
            let w = sketch.weight(numbers(&[4, 3], 1, 1.0));
            sketch.node(Op::MatMul, &[x, w])
        }),
        (&[4], &|sketch, x| sketch.node(concat(1), &[x, x])),
        (&[4], &|sketch, x| {
            let indices = sketch.weight(Tensor::from_fn(&[2], |i| i as i64));
            sketch.node(gather(1), &[x, indices])
        }),
        (&[4], &|sketch, x| sketch.node(Op::ReduceSum(ReduceSum { axis: 1 }), &[x])),
        (&[4], &|sketch, x| sketch.node(Op::Reshape(Reshape { shape: vec![0, 2, 2] }), &[x])),
        (&[4, 4], &|sketch, x| sketch.node(Op::MatMul, &[x, x])),
        (&[4, 4], &|sketch, x| {
            let w = sketch.weight(numbers(&[4, 4], 1, 1.0));
            let product = sketch.node(Op::MatMul, &[w, x]);
            sketch.node(Op::Transpose(Transpose { permutation: vec![0, 2, 1] }), &[product])
        }),
    ];
    for (index, (shape, build)) in apart.iter().enumerate() {
        assert_eq!(fires(shape, build), 1, "model {index}");
    }
    let mixed: [Case<'_>; 7] = [
        // Over all elements of the batch.
        (&[], &|sketch, x| sketch.node(softmax(), &[x])),
        (&[4], &|sketch, x| sketch.node(Op::ReduceSum(ReduceSum { axis: 0 }), &[x])),
        (&[4], &|sketch, x| {
            let sum = sketch.node(Op::ReduceSum(ReduceSum { axis: 0 }), &[x]);
            sketch.node(Op::Add, &[x, sum])
        }),
        (&[4], &|sketch, x| {
            let turned = sketch.node(Op::Transpose(Transpose { permutation: vec![1, 0] }), &[x]);
            sketch.node(Op::MatMul, &[x, turned])
        }),
        // Each element with the first, or with the one at its own number.
        (&[4], &|sketch, x| {
            let indices = sketch.weight(Tensor::from_fn(&[1], |_| 0i64));
            let first = sketch.node(gather(0), &[x, indices]);
            sketch.node(Op::Sub, &[x, first])
        }),
        (&[], &|sketch, x| {
            let pairs = sketch.node(Op::Unsqueeze(Unsqueeze { axes: vec![1] }), &[x]);
            sketch.node(Op::Add, &[pairs, x])
        }),
        // Two batches, one after the other.
        (&[4], &|sketch, x| sketch.node(concat(0), &[x, x])),
    ];
    for (index, (shape, build)) in mixed.iter().enumerate() {
        assert_eq!(fires(shape, build), 0, "model {index}");
    }
}
