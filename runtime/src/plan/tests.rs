//! Plans against a checker of its own: a run with labels in the place of numbers.

use graph::bert::{self, BertConfig, BertLayer};
use graph::op::{Reshape, Slice};
use graph::rewrite::quantize::{QuantizeOptions, fold, insert};
use graph::{DType, Dim, Graph, Op, Tensor};
use proptest::prelude::*;

use super::*;
use crate::compile::Level;
use crate::kernel::choose;
use crate::pass;

/// Runs a plan with labels: every node checks that each byte of its inputs still has the label of
/// the value it belongs to, then labels its output and scratch. Knows nothing of buffers, requests
/// or lifetimes.
fn check(module: &Module, steps: &[Prepared], buffers: &Buffers, plan: &Plan) {
    const SCRATCH: usize = usize::MAX;
    let mut owner = vec![None; plan.bytes];
    let mut labels: Vec<usize> = (0..module.values.len()).collect();
    let holds = |owner: &[Option<usize>], labels: &[usize], id: Id, reader: &str| {
        if let Place::Arena(range) = &plan.places[id.0] {
            let intact = owner[range.clone()].iter().all(|found| *found == Some(labels[id.0]));
            assert!(intact, "`{reader}` finds `{}` written over", module.value(id).name);
        }
    };
    for (index, (node, step)) in module.nodes.iter().zip(steps).enumerate() {
        for &input in &node.inputs {
            holds(&owner, &labels, input, &node.name);
        }
        let output = node.output.0;
        if matches!(step, Prepared::View { .. }) {
            labels[output] = labels[node.inputs[0].0];
            continue;
        }
        let Place::Arena(written) = plan.places[output].clone() else { panic!("no place") };
        let scratch = plan.scratch[index].clone();
        let overlap = |a: &Range<usize>, b: &Range<usize>| a.start < b.end && b.start < a.end;
        assert!(!overlap(&written, &scratch), "`{}` shares its scratch", node.name);
        assert_eq!(written.start % ALIGNMENT, 0);
        for (position, input) in node.inputs.iter().enumerate() {
            let Place::Arena(read) = &plan.places[input.0] else { continue };
            assert!(!overlap(read, &scratch), "`{}` shares its scratch", node.name);
            let over = buffers.in_place[index] == Some(position);
            let apart = if over { *read == written } else { !overlap(read, &written) };
            assert!(apart, "`{}` is written over while it is read", module.value(*input).name);
        }
        owner[scratch].fill(Some(SCRATCH));
        owner[written].fill(Some(output));
    }
    for &output in &module.outputs {
        holds(&owner, &labels, output, "the caller");
    }
}

/// A model as it would run at this level.
fn prepared(graph: &Graph, level: Level) -> (Module, Vec<Prepared>, Buffers) {
    let cpu = kernels::Cpu::best();
    let mut module = Module::new(graph, &crate::CompileOptions::default(), cpu);
    pass::run(&mut module, level, &[]).unwrap();
    let choose = |node| choose(&module, node, cpu).prepared;
    let steps: Vec<Prepared> = module.nodes.iter().map(choose).collect();
    let buffers = Buffers::new(&module, &steps).unwrap();
    (module, steps, buffers)
}

fn encoder(layers: usize, hidden: usize, intermediate: usize) -> Graph {
    let layer = BertLayer { heads: 2, intermediate };
    let config = BertConfig::uniform(30, hidden, layers, layer);
    bert::build(&config, &mut bert::initial_weights(1)).unwrap()
}

fn quantized(mut graph: Graph) -> Graph {
    insert(&mut graph, &QuantizeOptions { float: Vec::new(), embeddings: true }).unwrap();
    fold(&mut graph).unwrap();
    graph
}

fn sizes_of(batch: usize, sequence: usize) -> Bindings {
    Bindings::new([("batch", batch), ("sequence", sequence)])
}

const LEVELS: [Level; 4] = [Level::O0, Level::O1, Level::O2, Level::O3];
const CORNERS: [(usize, usize); 6] = [(0, 0), (1, 1), (3, 7), (1, 32), (4, 17), (8, 64)];

/// What the random graphs are made of.
#[derive(Clone, Copy, Debug)]
enum Piece {
    Relu,
    Add,
    Sum,
    Transpose,
    Reshape,
    Softmax,
    MatMul,
}

/// A graph with input `x`, `f32[batch, 4, 4]`, whose every node reads earlier values, picked by
/// the numbers; some are outputs.
fn random_graph(pieces: &[(Piece, usize, usize, bool)]) -> Graph {
    let mut graph = Graph::new("random");
    let shape = vec![Dim::symbol("batch"), 4.into(), 4.into()];
    let x = graph.add_input("x", DType::F32, shape).unwrap();
    let weight = graph.add_weight("w", Tensor::from_fn(&[1, 4, 4], |i| i as f32 / 30.0)).unwrap();
    let mut values = vec![x];
    let mut outputs = Vec::new();
    for (index, &(piece, a, b, is_output)) in pieces.iter().enumerate() {
        let [a, b] = [a, b].map(|pick| values[values.len() - 1 - pick % values.len().min(6)]);
        let mut node = |part: &str, op, inputs: &[_]| {
            graph.add_node(&format!("{part}{index}"), op, inputs).unwrap()
        };
        let y = match piece {
            Piece::Relu => node("relu", Op::Relu, &[a]),
            Piece::Add => node("add", Op::Add, &[a, b]),
            Piece::Sum => {
                let sum = Op::ReduceSum(graph::op::ReduceSum { axis: 1 });
                let sum = node("sum", sum, &[a]);
                let row = node("row", Op::Reshape(Reshape { shape: vec![0, 1, 4] }), &[sum]);
                node("spread", Op::Mul, &[row, b])
            }
            Piece::Transpose => {
                let permutation = vec![0, 2, 1];
                node("transpose", Op::Transpose(graph::op::Transpose { permutation }), &[a])
            }
            Piece::Reshape => {
                let wide = node("wide", Op::Reshape(Reshape { shape: vec![0, 2, 8] }), &[a]);
                let relu = node("within", Op::Relu, &[wide]);
                node("back", Op::Reshape(Reshape { shape: vec![0, 4, 4] }), &[relu])
            }
            Piece::Softmax => node("softmax", Op::Softmax(graph::op::Softmax {}), &[a]),
            Piece::MatMul => {
                let weighted = node("weighted", Op::MatMul, &[a, weight]);
                node("matmul", Op::MatMul, &[weighted, b])
            }
        };
        values.push(y);
        if is_output {
            outputs.push(y);
        }
    }
    outputs.push(*values.last().unwrap());
    outputs.sort_unstable();
    outputs.dedup();
    graph.set_outputs(&outputs);
    graph
}

fn pieces() -> impl Strategy<Value = Vec<(Piece, usize, usize, bool)>> {
    use Piece::{Add, MatMul, Relu, Softmax, Sum, Transpose};
    let piece =
        prop::sample::select(vec![Relu, Add, Add, Sum, Transpose, Piece::Reshape, Softmax, MatMul]);
    prop::collection::vec((piece, 0usize..6, 0usize..6, prop::bool::weighted(0.2)), 1..25)
}

proptest! {
    #[test]
    fn random_graphs_find_what_they_read(pieces in pieces(), batch in 0usize..5) {
        let graph = random_graph(&pieces);
        for level in [Level::O0, Level::O3] {
            let (module, steps, buffers) = prepared(&graph, level);
            let bindings = Bindings::new([("batch", batch)]);
            let plan = Plan::new(&module, &steps, &buffers, bindings.clone()).unwrap();
            check(&module, &steps, &buffers, &plan);
            prop_assert_eq!(buffers.formula().evaluate(&bindings), Ok(plan.lower_bound));
            prop_assert!(plan.bytes >= plan.lower_bound);
        }
    }

    #[test]
    fn random_graphs_give_the_reference_answer(pieces in pieces(), batch in 1usize..4) {
        let graph = random_graph(&pieces);
        let x = graph::bert::normal(1, "x", &[batch, 4, 4], 0.1);
        let expected = graph::reference::evaluate(&graph, &[("x", x.clone())]).unwrap();
        for level in [Level::O0, Level::O3] {
            let options = crate::CompileOptions { level, ..Default::default() };
            let model = crate::compile(&graph, &options).unwrap();
            let found = model.session().run(&[("x", &x)]).unwrap();
            prop_assert_eq!(found.len(), expected.len());
            for (found, expected) in found.iter().zip(&expected) {
                prop_assert_eq!(found.shape(), expected.shape());
                let expected = expected.elements::<f32>().unwrap();
                for (found, expected) in found.elements::<f32>().unwrap().iter().zip(expected) {
                    let close = (found - expected).abs() <= 1e-3 * expected.abs().max(1.0);
                    let equal = found == expected || found.is_nan() && expected.is_nan();
                    prop_assert!(equal || expected.is_finite() && close, "{found} for {expected}");
                }
            }
        }
    }
}

#[test]
fn an_encoder_never_writes_over_what_it_reads_later() {
    for graph in [encoder(3, 16, 48), quantized(encoder(2, 24, 40))] {
        for level in LEVELS {
            let (module, steps, buffers) = prepared(&graph, level);
            for (batch, sequence) in CORNERS {
                let sizes = sizes_of(batch, sequence);
                let plan = Plan::new(&module, &steps, &buffers, sizes).unwrap();
                check(&module, &steps, &buffers, &plan);
            }
        }
    }
}

#[test]
#[should_panic(expected = "written over")]
fn the_checker_sees_a_place_used_twice() {
    let (module, steps, buffers) = prepared(&encoder(1, 16, 32), Level::O0);
    let mut plan = Plan::new(&module, &steps, &buffers, sizes_of(2, 4)).unwrap();
    let late = |input: &&Id| matches!(plan.places[input.0], Place::Arena(_));
    let (step, read) = (module.nodes.iter().enumerate().rev())
        .find_map(|(step, node)| Some((step, *node.inputs.iter().find(late)?)))
        .unwrap();
    let victim = plan.places[read.0].clone();
    let between = module.nodes[..step].iter().rposition(|node| node.output != read).unwrap();
    plan.places[module.nodes[between].output.0] = victim;
    check(&module, &steps, &buffers, &plan);
}

#[test]
fn the_formula_is_the_bound_and_the_plan_meets_it_at_every_corner() {
    for graph in [encoder(3, 16, 48), quantized(encoder(3, 16, 48)), encoder(2, 24, 40)] {
        for level in LEVELS {
            let (module, steps, buffers) = prepared(&graph, level);
            let formula = buffers.formula();
            for (batch, sequence) in CORNERS {
                let sizes = sizes_of(batch, sequence);
                let plan = Plan::new(&module, &steps, &buffers, sizes.clone()).unwrap();
                assert_eq!(formula.evaluate(&sizes), Ok(plan.lower_bound));
                let excess = plan.bytes as f64 / plan.lower_bound.max(1) as f64;
                assert!(excess <= 1.05, "{level:?} {batch}×{sequence}: {excess}");
                if level >= Level::O2 {
                    assert_eq!(plan.bytes, plan.lower_bound, "{level:?} {batch}×{sequence}");
                }
            }
        }
    }
}

/// For a chain of operators on `x`: the input that each node's output lies over.
fn in_place(
    outputs: &[usize],
    build: impl Fn(&mut Graph, graph::ValueId) -> Vec<graph::ValueId>,
) -> Vec<Option<usize>> {
    let mut graph = Graph::new("chain");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch"), 8.into()]).unwrap();
    let values = build(&mut graph, x);
    let outputs: Vec<_> = outputs.iter().map(|&index| values[index]).collect();
    graph.set_outputs(&outputs);
    let (module, steps, buffers) = prepared(&graph, Level::O0);
    let plan = Plan::new(&module, &steps, &buffers, Bindings::new([("batch", 3)])).unwrap();
    check(&module, &steps, &buffers, &plan);
    buffers.in_place
}

#[test]
fn results_lie_over_inputs_that_nothing_reads_later() {
    let chain = |graph: &mut Graph, x| {
        let a = graph.add_node("a", Op::Relu, &[x]).unwrap();
        let b = graph.add_node("b", Op::Tanh, &[a]).unwrap();
        let c = graph.add_node("c", Op::Add, &[x, b]).unwrap();
        vec![a, b, c]
    };
    assert_eq!(in_place(&[2], chain), [None, Some(0), Some(1)]);
    // An output is not written over.
    assert_eq!(in_place(&[0, 2], chain), [None, None, Some(1)]);
    assert_eq!(in_place(&[1, 2], chain), [None, Some(0), None]);
}

#[test]
fn results_lie_apart_from_what_is_read_twice_or_later() {
    let later = |graph: &mut Graph, x| {
        let a = graph.add_node("a", Op::Relu, &[x]).unwrap();
        let b = graph.add_node("b", Op::Tanh, &[a]).unwrap();
        let c = graph.add_node("c", Op::Mul, &[a, b]).unwrap();
        vec![a, b, c]
    };
    assert_eq!(in_place(&[2], later), [None, None, Some(0)]);
    let twice = |graph: &mut Graph, x| {
        let a = graph.add_node("a", Op::Relu, &[x]).unwrap();
        let view = Op::Reshape(Reshape { shape: vec![0, 8] });
        let view = graph.add_node("view", view, &[a]).unwrap();
        let b = graph.add_node("b", Op::Add, &[a, view]).unwrap();
        let c = graph.add_node("c", Op::Add, &[b, b]).unwrap();
        vec![a, view, b, c]
    };
    assert_eq!(in_place(&[3], twice), [None; 4]);
}

#[test]
fn in_place_reaches_through_views_of_the_whole_only() {
    let whole = |graph: &mut Graph, x| {
        let a = graph.add_node("a", Op::Relu, &[x]).unwrap();
        let view = Op::Reshape(Reshape { shape: vec![0, 2, 4] });
        let view = graph.add_node("view", view, &[a]).unwrap();
        let b = graph.add_node("b", Op::Tanh, &[view]).unwrap();
        vec![a, view, b]
    };
    assert_eq!(in_place(&[2], whole), [None, None, Some(0)]);
    let part = |graph: &mut Graph, x| {
        let a = graph.add_node("a", Op::Relu, &[x]).unwrap();
        let rows = Op::Slice(Slice { axis: 0, start: 1, end: Dim::Fixed(2) });
        let rows = graph.add_node("rows", rows, &[a]).unwrap();
        let b = graph.add_node("b", Op::Tanh, &[rows]).unwrap();
        vec![a, rows, b]
    };
    assert_eq!(in_place(&[2], part), [None, None, None]);
}

#[test]
fn fusion_and_reuse_shrink_the_arena() {
    let graph = encoder(3, 16, 48);
    let bytes = |level| {
        let options = crate::CompileOptions { level, ..Default::default() };
        crate::compile(&graph, &options).unwrap().memory(&sizes_of(4, 64)).unwrap()
    };
    let (plain, fused) = (bytes(Level::O0), bytes(Level::O3));
    assert!(4 * plain.planned_bytes < plain.without_reuse_bytes, "{plain:?}");
    assert!(fused.planned_bytes < plain.planned_bytes, "{fused:?} {plain:?}");
}
