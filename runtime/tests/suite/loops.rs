//! Loops, whose bodies are compiled, against the graph's definition round by round.

use graph::op::{
    Binary, Cast, Compress, Concat, Dequantize, Gather, If, Loop, Quantize, Reduce, ReduceKind,
    ReduceSum, ShapeOf, Softmax, Subgraph, SubgraphNode, Transpose, Unary, Unsqueeze,
};
use graph::{Bindings, DType, Dim, Graph, Op, Shape, Tensor, ValueId, reference};
use kernels::Tier;
use runtime::{CompileOptions, Level, Precision, RuntimeError, compile};

use crate::{assert_close, check, fired, numbers, options, run};

pub(crate) type Nodes<'a> = &'a [(&'a str, Op, &'a [&'a str])];

/// A subgraph of named nodes.
pub(crate) fn body(inputs: &[&str], nodes: Nodes<'_>, outputs: &[&str]) -> Subgraph {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let node = |(name, op, inputs): &(&str, Op, &[&str])| SubgraphNode {
        name: (*name).to_owned(),
        op: op.clone(),
        inputs: owned(inputs),
    };
    let nodes = nodes.iter().map(node).collect();
    Subgraph { inputs: owned(inputs), nodes, outputs: owned(outputs) }
}

fn repeat(body: Subgraph, carried: usize, output: usize) -> Op {
    Op::Loop(Loop { body, carried, output })
}

/// A graph under construction, with what every loop takes.
struct Sketch {
    graph: Graph,
    rounds: ValueId,
    going: ValueId,
}

impl Sketch {
    /// Rounds and the condition are inputs.
    fn new() -> Self {
        let mut graph = Graph::new("loops");
        let rounds = graph.add_input("rounds", DType::I64, Shape::new()).unwrap();
        let going = graph.add_input("going", DType::Bool, Shape::new()).unwrap();
        Self { graph, rounds, going }
    }

    /// As many rounds as `x` has rows.
    fn over_rows(x: Shape) -> (Self, ValueId) {
        let mut graph = Graph::new("loops");
        let x = graph.add_input("x", DType::F32, x).unwrap();
        let sizes =
            graph.add_node("sizes", Op::ShapeOf(ShapeOf { start: 0, end: 1 }), &[x]).unwrap();
        let first = graph.add_weight("first", Tensor::scalar(0i64)).unwrap();
        let rounds = graph.add_node("rounds", Op::Gather(Gather { axis: 0 }), &[sizes, first]);
        let going = graph.add_weight("going", Tensor::scalar(true)).unwrap();
        (Self { graph, rounds: rounds.unwrap(), going }, x)
    }

    fn input(&mut self, name: &str, shape: Shape) -> ValueId {
        self.graph.add_input(name, DType::F32, shape).unwrap()
    }

    fn weight(&mut self, name: &str, tensor: Tensor) -> ValueId {
        self.graph.add_weight(name, tensor).unwrap()
    }

    fn repeat(&mut self, name: &str, op: Op, rest: &[ValueId]) -> ValueId {
        let inputs = [&[self.rounds, self.going], rest].concat();
        self.graph.add_node(name, op, &inputs).unwrap()
    }

    fn finish(mut self, outputs: &[ValueId]) -> Graph {
        self.graph.set_outputs(outputs);
        self.graph
    }
}

fn given(
    rounds: i64,
    going: bool,
    others: Vec<(&'static str, Tensor)>,
) -> Vec<(&'static str, Tensor)> {
    let own = [("rounds", Tensor::scalar(rounds)), ("going", Tensor::scalar(going))];
    own.into_iter().chain(others).collect()
}

/// `h ← tanh(x[t]·w + h·r + b)`: the states, and the last.
fn recurrent(time: Dim, batch: Dim) -> Graph {
    let (mut sketch, x) = Sketch::over_rows(vec![time, batch.clone(), 8.into()]);
    let h = sketch.input("h", vec![batch, 16.into()]);
    let w = sketch.weight("w", numbers(&[8, 16], 1, 0.5));
    let r = sketch.weight("r", numbers(&[16, 16], 2, 0.3));
    let b = sketch.weight("b", numbers(&[16], 3, 0.5));
    let nodes: Nodes<'_> = &[
        ("entry", Op::Gather(Gather { axis: 0 }), &["x", "t"]),
        ("own", Op::MatMul, &["entry", "w"]),
        ("past", Op::MatMul, &["h", "r"]),
        ("sum", Op::Add, &["own", "past"]),
        ("biased", Op::Add, &["sum", "b"]),
        ("next", Op::Tanh, &["biased"]),
    ];
    let inputs = ["t", "going", "h", "x", "w", "r", "b"];
    let op = |output| repeat(body(&inputs, nodes, &["going", "next", "next"]), 1, output);
    let rest = [h, x, w, r, b];
    let last = sketch.repeat("last", op(0), &rest);
    let states = sketch.repeat("states", op(1), &rest);
    sketch.finish(&[last, states])
}

fn sequence(time: usize, batch: usize) -> [(&'static str, Tensor); 2] {
    [("x", numbers(&[time, batch, 8], 5, 1.0)), ("h", numbers(&[batch, 16], 6, 1.0))]
}

#[test]
fn recurrences_are_planned_and_fused() {
    let named = recurrent(Dim::symbol("time"), Dim::symbol("batch"));
    for (time, batch) in [(7, 3), (1, 1), (5, 2), (0, 2)] {
        let model = check(&named, &sequence(time, batch), 1e-5);
        assert!(!model.explain().dynamic);
        assert_eq!(fired(&model, "several-outputs"), 1);
        let fixed = recurrent(time.into(), batch.into());
        check(&fixed, &sequence(time, batch), 1e-5);
    }
    let model = compile(&named, &options(Level::O3)).unwrap();
    let last = model.explain().nodes.iter().find(|node| node.name == "last").unwrap();
    assert_eq!((last.kernel.as_str(), last.operation.as_str()), ("loop", "Loop"));
    let weights = 4 * (16 * 8 + 16 * 16 + 16);
    assert!(model.explain().packed_bytes >= weights, "{:?}", model.explain());
    assert!(model.explain().constant_bytes < 100, "packed weights are let go of");
}

#[test]
fn every_tier_and_precision_runs_bodies() {
    let graph = recurrent(Dim::symbol("time"), Dim::symbol("batch"));
    let inputs = sequence(9, 4);
    let expected = reference::evaluate(&graph, &inputs).unwrap();
    for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
        for (precision, tolerance) in [(Precision::F32, 1e-5), (Precision::Bf16, 0.05)] {
            let options = CompileOptions { tier: Some(tier), precision, ..options(Level::O3) };
            assert_close(&run(&compile(&graph, &options).unwrap(), &inputs), &expected, tolerance);
        }
    }
}

#[test]
fn memory_counts_the_rounds() {
    let graph = recurrent(Dim::symbol("time"), Dim::symbol("batch"));
    for level in [Level::O0, Level::O3] {
        let model = compile(&graph, &options(level)).unwrap();
        for (time, batch) in [(1, 1), (6, 40)] {
            let sizes = Bindings::new([("time", time), ("batch", batch)]);
            let memory = model.memory(&sizes).unwrap();
            assert_eq!(model.peak_formula().evaluate(&sizes), Ok(memory.lower_bound_bytes));
            // Two states beside the list of them.
            let least = 4 * 16 * batch * (time + 2);
            assert!(memory.planned_bytes >= least, "{memory:?} of {least}");
        }
    }
    let options = CompileOptions { memory_budget: Some(16 << 10), ..options(Level::O3) };
    let model = compile(&graph, &options).unwrap();
    let inputs = sequence(2, 500);
    let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
    let error = model.session().run(&borrowed).unwrap_err();
    assert!(matches!(error, RuntimeError::Memory { .. }), "{error}");
}

/// Doubles `x` until its sum passes 100: the last state, and each.
fn conditional() -> Graph {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![4.into()]);
    let limit = sketch.weight("limit", Tensor::scalar(100f32));
    let (kind, axes) = (ReduceKind::Sum, Some(vec![0]));
    let sum = Op::Reduce(Reduce { kind, axes, keep_dims: false, empty_means_none: false });
    let nodes: Nodes<'_> = &[
        ("next", Op::Add, &["x", "x"]),
        ("sum", sum, &["next"]),
        ("goes", Op::Binary(Binary::Less), &["sum", "limit"]),
    ];
    let inputs = ["t", "going", "x", "limit"];
    let op = |output| repeat(body(&inputs, nodes, &["goes", "next", "next"]), 1, output);
    let last = sketch.repeat("last", op(0), &[x, limit]);
    let all = sketch.repeat("all", op(1), &[x, limit]);
    sketch.finish(&[last, all])
}

#[test]
fn conditions_and_limits_end_loops() {
    let graph = conditional();
    let x = || vec![("x", Tensor::from_fn(&[4], |i| i as f32 + 1.0))];
    for (rounds, going) in [(1000, true), (2, true), (0, true), (-3, true), (5, false)] {
        let model = check(&graph, &given(rounds, going, x()), 1e-6);
        assert!(model.explain().dynamic);
        assert!(
            model
                .explain()
                .nodes
                .iter()
                .all(|node| ["loop", "part"].contains(&node.kernel.as_str()))
        );
        assert_eq!(fired(&model, "several-outputs"), 1);
    }
}

/// A row more each round, and what it attends to: sizes follow from the rounds.
fn growing() -> Graph {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![1.into(), 8.into()]);
    let w = sketch.weight("w", numbers(&[8, 8], 1, 0.5));
    let softmax = Op::Softmax(Softmax {});
    let transpose = Op::Transpose(graph::op::Transpose { permutation: vec![1, 0] });
    let nodes: Nodes<'_> = &[
        ("key", Op::MatMul, &["x", "w"]),
        ("grown", Op::Concat(Concat { axis: 0 }), &["keys", "key"]),
        ("columns", transpose, &["grown"]),
        ("scores", Op::MatMul, &["x", "columns"]),
        ("shares", softmax, &["scores"]),
        ("next", Op::MatMul, &["shares", "grown"]),
    ];
    let inputs = ["t", "going", "x", "keys", "w"];
    let op = |output| repeat(body(&inputs, nodes, &["going", "next", "grown", "key"]), 2, output);
    let rest = [x, x, w];
    let outputs: Vec<ValueId> = (0..3)
        .map(|output| {
            let mut op = op(output);
            if let (Op::Loop(op), true) = (&mut op, output < 2) {
                op.body.outputs.truncate(3);
            }
            sketch.repeat(&format!("output{output}"), op, &rest)
        })
        .collect();
    sketch.finish(&outputs)
}

#[test]
fn carried_values_grow() {
    let graph = growing();
    let types: Vec<String> = ["output0", "output1", "output2"]
        .map(|name| graph::dim::display(&graph.value_type(graph.find(name).unwrap()).shape))
        .to_vec();
    assert_eq!(types, ["[1, 8]", "[?, 8]", "[?, 1, 8]"]);
    for rounds in [6, 1, 0] {
        check(&graph, &given(rounds, true, vec![("x", numbers(&[1, 8], 4, 1.0))]), 1e-5);
    }
    let options = CompileOptions { memory_budget: Some(32 << 10), ..options(Level::O3) };
    let model = compile(&graph, &options).unwrap();
    let inputs = given(50_000, true, vec![("x", numbers(&[1, 8], 4, 1.0))]);
    let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
    let error = model.session().run(&borrowed).unwrap_err().to_string();
    assert!(error.contains("memory budget is 32768"), "{error}");
}

/// A body whose sizes depend on values, in a model whose sizes do not.
#[test]
fn bodies_may_be_dynamic_alone() {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![6.into()]);
    let (kind, axes) = (ReduceKind::Sum, Some(vec![0]));
    let sum = Op::Reduce(Reduce { kind, axes, keep_dims: true, empty_means_none: false });
    let scale = sketch.weight("scale", Tensor::scalar(0.25f32));
    let nodes: Nodes<'_> = &[
        ("kept", Op::Cast(Cast { to: DType::Bool }), &["x"]),
        ("picked", Op::Compress(Compress { axis: Some(0) }), &["x", "kept"]),
        ("sum", sum, &["picked"]),
        ("small", Op::Mul, &["sum", "scale"]),
        ("next", Op::Sub, &["x", "small"]),
    ];
    let op = repeat(body(&["t", "going", "x", "scale"], nodes, &["going", "next"]), 1, 0);
    let y = sketch.repeat("y", op, &[x, scale]);
    let graph = sketch.finish(&[y]);
    for rounds in [0, 3] {
        let x = Tensor::new(&[6], vec![0.5f32, 0.0, -0.25, 1.0, 0.0, 2.0]).unwrap();
        let model = check(&graph, &given(rounds, true, vec![("x", x)]), 1e-5);
        assert!(!model.explain().dynamic);
    }
}

/// What the body reads may be of sizes that only the run knows, and stay so in every round.
#[test]
fn sizes_from_outside_are_known_when_the_loop_begins() {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![Dim::symbol("n")]);
    let cast = Op::Cast(Cast { to: DType::Bool });
    let kept = sketch.graph.add_node("kept", cast, &[x]).unwrap();
    let picked = sketch
        .graph
        .add_node("picked", Op::Compress(Compress { axis: Some(0) }), &[x, kept])
        .unwrap();
    let nodes: Nodes<'_> = &[("sum", Op::Add, &["state", "picked"]), ("next", Op::Tanh, &["sum"])];
    let inputs = ["t", "going", "state", "picked"];
    let op = |output| repeat(body(&inputs, nodes, &["going", "next", "sum"]), 1, output);
    let outputs = [0, 1]
        .map(|output| sketch.repeat(&format!("output{output}"), op(output), &[picked, picked]));
    let graph = sketch.finish(&outputs);
    let x = Tensor::new(&[5], vec![0.5f32, 0.0, -0.25, 1.0, 0.0]).unwrap();
    let model = check(&graph, &given(4, true, vec![("x", x)]), 1e-6);
    let nodes = &model.explain().nodes;
    let reason = &nodes.iter().find(|node| node.kernel == "loop").unwrap().reason;
    assert!(reason.ends_with("2 nodes in the body, 0 by definition"), "{reason}");
}

/// A loop in a loop, with a choice in the inner one, all in a branch of a choice.
fn nested() -> Graph {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![Dim::symbol("batch"), 8.into()]);
    let w = sketch.weight("w", numbers(&[8, 8], 1, 0.4));
    let two = sketch.weight("two", Tensor::scalar(2i64));
    let one = sketch.weight("one", Tensor::scalar(1i64));
    let choice = Op::If(If {
        then_branch: body(&["x", "w"], &[("product", Op::MatMul, &["x", "w"])], &["product"]),
        else_branch: body(&["x"], &[("less", Op::Unary(Unary::Neg), &["x"])], &["less"]),
    });
    let inner_nodes: Nodes<'_> = &[
        ("is-first", Op::Binary(Binary::Less), &["t", "one"]),
        ("chosen", choice, &["is-first", "y", "w", "y"]),
        ("next", Op::Tanh, &["chosen"]),
    ];
    let inner =
        repeat(body(&["t", "going", "y", "w", "one"], inner_nodes, &["going", "next"]), 1, 0);
    let outer_nodes: Nodes<'_> =
        &[("inner", inner, &["two", "going", "x", "w", "one"]), ("next", Op::Add, &["inner", "x"])];
    let inputs = ["t", "going", "x", "w", "two", "one"];
    let outer = repeat(body(&inputs, outer_nodes, &["going", "next"]), 1, 0);
    let then_branch = body(
        &["rounds", "going", "x", "w", "two", "one"],
        &[("outer", outer, &["rounds", "going", "x", "w", "two", "one"])],
        &["outer"],
    );
    let choice = Op::If(If { then_branch, else_branch: body(&["x"], &[], &["x"]) });
    let inputs = [sketch.going, sketch.rounds, sketch.going, x, w, two, one, x];
    let y = sketch.graph.add_node("y", choice, &inputs).unwrap();
    sketch.finish(&[y])
}

#[test]
fn loops_nest_and_choose() {
    let graph = nested();
    for (rounds, going) in [(3, true), (0, true), (3, false)] {
        let x = numbers(&[2, 8], 4, 1.0);
        let model = check(&graph, &given(rounds, going, vec![("x", x)]), 1e-5);
        let nodes = &model.explain().nodes;
        let outer = nodes.iter().find(|node| node.kernel == "loop").unwrap();
        assert!(outer.reason.contains("2 nodes in the body, 0 by definition"), "{outer:?}");
    }
}

/// Two values that change places, one that stays, and one that is never read.
#[test]
fn carried_values_change_places() {
    let mut sketch = Sketch::new();
    let [a, b, c] = ["a", "b", "c"].map(|name| sketch.input(name, vec![3.into()]));
    let inputs = ["t", "going", "p", "q", "r"];
    let op = |output| repeat(body(&inputs, &[], &["going", "q", "p", "r", "p"]), 3, output);
    let outputs: Vec<ValueId> = (0..4)
        .map(|output| sketch.repeat(&format!("output{output}"), op(output), &[a, b, c]))
        .collect();
    let graph = sketch.finish(&outputs);
    for rounds in [0, 1, 2, 5] {
        let values = ["a", "b", "c"].iter().zip(1..);
        let values = values.map(|(&name, seed)| (name, numbers(&[3], seed, 1.0))).collect();
        let model = check(&graph, &given(rounds, true, values), 0.0);
        assert_eq!(fired(&model, "several-outputs"), 3);
    }
}

/// What is carried changes its size, though no node of the body writes what does.
#[test]
fn sizes_may_change_without_nodes() {
    let mut sketch = Sketch::new();
    let (a, b) = (sketch.input("a", vec![3.into()]), sketch.input("b", vec![5.into()]));
    let inputs = ["t", "going", "p", "q"];
    let (kind, axes) = (ReduceKind::Sum, Some(vec![0]));
    let sum = Op::Reduce(Reduce { kind, axes, keep_dims: false, empty_means_none: false });
    let nodes: Nodes<'_> = &[("sum", sum, &["p"])];
    let op = |output| repeat(body(&inputs, nodes, &["going", "q", "p", "sum"]), 2, output);
    let outputs = [0, 1, 2].map(|output| {
        let name = format!("output{output}");
        sketch.repeat(&name, op(output), &[a, b])
    });
    let graph = sketch.finish(&outputs);
    for rounds in [0, 1, 2, 5] {
        let values = vec![("a", numbers(&[3], 1, 1.0)), ("b", numbers(&[5], 2, 1.0))];
        check(&graph, &given(rounds, true, values), 1e-6);
    }
}

/// Two sizes that only a run tells have to be equal in the body.
#[test]
fn sizes_from_outside_may_meet_in_the_body() {
    let mut sketch = Sketch::new();
    let (x, h) = (sketch.input("x", vec![6.into()]), sketch.input("h", vec![1.into(), 1.into()]));
    let zero = sketch.weight("zero", Tensor::scalar(0f32));
    let graph = &mut sketch.graph;
    let mut some = |name: &str| {
        let is_more =
            graph.add_node(&format!("{name}/is"), Op::Binary(Binary::Greater), &[x, zero]);
        let op = Op::Compress(Compress { axis: Some(0) });
        graph.add_node(name, op, &[x, is_more.unwrap()]).unwrap()
    };
    let (u, v) = (some("u"), some("v"));
    let mut unsqueezed = |name: &str, id, axis| {
        graph.add_node(name, Op::Unsqueeze(Unsqueeze { axes: vec![axis] }), &[id]).unwrap()
    };
    let (row, column) = (unsqueezed("row", u, 0), unsqueezed("column", v, 1));
    let nodes: Nodes<'_> =
        &[("product", Op::MatMul, &["u", "w"]), ("next", Op::Add, &["product", "h"])];
    let inputs = ["t", "going", "h", "u", "w"];
    let op = repeat(body(&inputs, nodes, &["going", "next"]), 1, 0);
    let y = sketch.repeat("y", op, &[h, row, column]);
    let graph = sketch.finish(&[y]);
    for rounds in [0, 1, 3] {
        let values = vec![("x", numbers(&[6], 1, 1.0)), ("h", numbers(&[1, 1], 2, 1.0))];
        check(&graph, &given(rounds, true, values), 1e-5);
    }
}

/// Quantized values go through bodies bit for bit.
#[test]
fn quantized_bodies_run_in_integers() {
    let (mut sketch, x) = Sketch::over_rows(vec![5.into(), 2.into(), 64.into()]);
    let h = sketch.input("h", vec![2.into(), 64.into()]);
    let weight = Tensor::from_fn(&[64, 64], |i| ((i * 37 + 5) % 255) as u8 as i8);
    let w = sketch.weight("w", weight);
    let scales = sketch.weight("scales", Tensor::from_fn(&[64], |_| 2f32.powi(-9)));
    let zeros = sketch.weight("zeros", Tensor::from_fn(&[64], |_| 0i8));
    let scale = sketch.weight("scale", Tensor::scalar(2f32.powi(-6)));
    let zero = sketch.weight("zero", Tensor::scalar(0i8));
    let (quantize, dequantize) =
        (Op::Quantize(Quantize::default()), Op::Dequantize(Dequantize::default()));
    let columns = Op::Dequantize(Dequantize { axis: Some(1) });
    let nodes: Nodes<'_> = &[
        ("entry", Op::Gather(Gather { axis: 0 }), &["x", "t"]),
        ("sum", Op::Add, &["entry", "h"]),
        ("q", quantize, &["sum", "scale", "zero"]),
        ("dq", dequantize, &["q", "scale", "zero"]),
        ("weight", columns, &["w", "scales", "zeros"]),
        ("next", Op::MatMul, &["dq", "weight"]),
    ];
    let inputs = ["t", "going", "h", "x", "w", "scales", "zeros", "scale", "zero"];
    let op = |output| repeat(body(&inputs, nodes, &["going", "next", "next"]), 1, output);
    let rest = [h, x, w, scales, zeros, scale, zero];
    let states = sketch.repeat("states", op(1), &rest);
    let graph = sketch.finish(&[states]);
    let exact = |shape: &[usize]| Tensor::from_fn(shape, |i| (i % 23) as f32 / 8.0 - 1.0);
    let inputs = [("x", exact(&[5, 2, 64])), ("h", exact(&[2, 64]))];
    let model = check(&graph, &inputs, 0.0);
    let packed = model.explain().packed_bytes;
    assert!(packed < 4 * 64 * 64, "{packed} bytes are not of integers");
}

/// Loops that begin alike and are not: a name means something else, or what one reads comes later.
#[test]
fn loops_of_other_bodies_stay_apart() {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![3.into()]);
    let inputs = ["t", "going", "sum", "x"];
    let op = |op: Op, output| {
        repeat(body(&inputs, &[("next", op, &["sum", "x"])], &["going", "next", "next"]), 1, output)
    };
    let sum = sketch.repeat("sum", op(Op::Add, 0), &[x, x]);
    let product = sketch.repeat("product", op(Op::Mul, 1), &[x, x]);
    let late = sketch.graph.add_node("late", Op::Tanh, &[product]).unwrap();
    let first = sketch.weight("first", Tensor::scalar(0i64));
    let late = sketch.graph.add_node("row", Op::Gather(Gather { axis: 0 }), &[late, first]);
    let inputs = ["t", "going", "sum", "y"];
    let nodes: Nodes<'_> = &[("other", Op::Sub, &["sum", "y"])];
    let op = repeat(body(&inputs, nodes, &["going", "other"]), 1, 0);
    let difference = sketch.repeat("difference", op, &[x, late.unwrap()]);
    let graph = sketch.finish(&[sum, product, difference]);
    let inputs = given(3, true, vec![("x", numbers(&[3], 1, 1.0))]);
    assert_eq!(fired(&check(&graph, &inputs, 1e-6), "several-outputs"), 0);
}

#[test]
fn passes_may_be_disabled_in_bodies() {
    let graph = recurrent(Dim::symbol("time"), Dim::symbol("batch"));
    let inputs = sequence(5, 2);
    let expected = reference::evaluate(&graph, &inputs).unwrap();
    for (pass, loops) in [("activation", 1), ("linear", 1), ("several-outputs", 2)] {
        let disabled_passes = vec![pass.to_owned()];
        let options = CompileOptions { disabled_passes, ..options(Level::O3) };
        let model = compile(&graph, &options).unwrap();
        assert_close(&run(&model, &inputs), &expected, 1e-5);
        let nodes = &model.explain().nodes;
        assert_eq!(nodes.iter().filter(|node| node.kernel == "loop").count(), loops, "{pass}");
    }
}

#[test]
fn failures_name_the_node() {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![3.into()]);
    let nodes: Nodes<'_> = &[
        ("entry", Op::Gather(Gather { axis: 0 }), &["x", "t"]),
        ("row", Op::Unsqueeze(Unsqueeze { axes: vec![0] }), &["entry"]),
        ("next", Op::Add, &["sum", "row"]),
    ];
    let op = repeat(body(&["t", "going", "sum", "x"], nodes, &["going", "next"]), 1, 0);
    let y = sketch.repeat("y", op, &[x, x]);
    let graph = sketch.finish(&[y]);
    let inputs = |rounds| given(rounds, true, vec![("x", numbers(&[3], 1, 1.0))]);
    check(&graph, &inputs(3), 1e-6);
    for level in [Level::O0, Level::O3] {
        let model = compile(&graph, &options(level)).unwrap();
        let inputs = inputs(4);
        let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
        let error = model.session().run(&borrowed).unwrap_err().to_string();
        assert!(error.starts_with("node `y` (Loop): node `entry` (Gather): "), "{error}");
    }
}

/// A loop without end is refused, in planned memory and without.
#[test]
fn endless_loops_end() {
    for graph in [conditional(), growing()] {
        let mut inputs = given(i64::MAX, true, Vec::new());
        let is_conditional = graph.find("last").is_some();
        let shape: &[usize] = if is_conditional { &[4] } else { &[1, 8] };
        inputs.push(("x", Tensor::zeros(DType::F32, shape)));
        let memory_budget = if is_conditional { None } else { Some(1 << 20) };
        let options = CompileOptions { memory_budget, ..options(Level::O3) };
        let model = compile(&graph, &options).unwrap();
        let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
        let error = model.session().run(&borrowed).unwrap_err().to_string();
        let expected = if is_conditional { "at most 100000 rounds" } else { "memory budget" };
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn carried_types_stay() {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![3.into()]);
    let nodes: Nodes<'_> = &[("next", Op::Cast(Cast { to: DType::I64 }), &["x"])];
    let op = repeat(body(&["t", "going", "x"], nodes, &["going", "next"]), 1, 0);
    let error = sketch.graph.add_node("y", op, &[sketch.rounds, sketch.going, x]).unwrap_err();
    assert!(error.to_string().contains("expected one type and rank"), "{error}");
}

/// `h ← softmax(tanh(x·w + h)·v)·x`: of what a round takes, the product with x is the same in each.
fn attentive(carried_first: bool) -> Graph {
    let mut sketch = Sketch::new();
    let x = sketch.input("x", vec![Dim::symbol("words"), 8.into()]);
    let h = sketch.input("h", vec![8.into()]);
    let w = sketch.weight("w", numbers(&[8, 8], 1, 0.5));
    let v = sketch.weight("v", numbers(&[8, 1], 2, 0.5));
    let swap = Op::Transpose(Transpose { permutation: vec![1, 0] });
    let nodes: Nodes<'_> = &[
        ("turned", swap.clone(), &["x"]),
        ("again", swap.clone(), &["turned"]),
        ("weight", swap.clone(), &["w"]),
        ("own", Op::MatMul, &["again", "weight"]),
        ("sum", Op::Add, &["own", "h"]),
        ("bent", Op::Tanh, &["sum"]),
        ("scores", Op::MatMul, &["bent", "v"]),
        ("lying", swap, &["scores"]),
        ("shares", Op::Softmax(Softmax {}), &["lying"]),
        ("mean", Op::MatMul, &["shares", "again"]),
        ("next", Op::ReduceSum(ReduceSum { axis: 0 }), &["mean"]),
    ];
    let inputs = ["t", "going", "h", "x", "w", "v"];
    let op = |output| repeat(body(&inputs, nodes, &["going", "next", "next", "own"]), 1, output);
    let outputs = if carried_first { [0, 2] } else { [1, 0] };
    let outputs =
        outputs.map(|output| sketch.repeat(&format!("output{output}"), op(output), &[h, x, w, v]));
    sketch.finish(&outputs)
}

#[test]
fn what_stays_the_same_is_computed_before_the_rounds() {
    for graph in [attentive(true), attentive(false)] {
        for (rounds, going, words) in [(3, true, 5), (1, true, 1), (0, true, 5), (4, false, 5)] {
            let values = vec![("x", numbers(&[words, 8], 3, 1.0)), ("h", numbers(&[8], 4, 1.0))];
            let model = check(&graph, &given(rounds, going, values), 1e-5);
            let nodes = &model.explain().nodes;
            let before: Vec<&str> = nodes
                .iter()
                .filter(|node| ["MatMul", "Linear"].contains(&node.operation.as_str()))
                .map(|node| node.name.as_str())
                .collect();
            assert_eq!(before.len(), 1, "{nodes:#?}");
            // Both loops hand it on, and are one after that.
            assert_eq!(fired(&model, "several-outputs"), 1);
        }
    }
}

/// What may fail fails in a round, or not at all.
#[test]
fn what_may_fail_stays_in_the_rounds() {
    let mut sketch = Sketch::new();
    let h = sketch.input("h", vec![2.into()]);
    let graph = &mut sketch.graph;
    let place = graph.add_input("place", DType::I64, Shape::new()).unwrap();
    let table = graph.add_input("table", DType::F32, vec![3.into(), 2.into()]).unwrap();
    let nodes: Nodes<'_> = &[
        ("row", Op::Gather(Gather { axis: 0 }), &["table", "place"]),
        ("twice", Op::Add, &["row", "row"]),
        ("ratio", Op::Div, &["place", "place"]),
        ("cast", Op::Cast(Cast { to: DType::F32 }), &["ratio"]),
        ("part", Op::Mul, &["twice", "cast"]),
        ("next", Op::Add, &["h", "part"]),
    ];
    let inputs = ["t", "going", "h", "table", "place"];
    let op = repeat(body(&inputs, nodes, &["going", "next"]), 1, 0);
    let y = sketch.repeat("y", op, &[h, table, place]);
    let graph = sketch.finish(&[y]);
    let values = |place: i64| {
        let (h, table) = (numbers(&[2], 1, 1.0), numbers(&[3, 2], 2, 1.0));
        vec![("h", h), ("table", table), ("place", Tensor::scalar(place))]
    };
    for (rounds, place) in [(2, 2), (0, 9), (0, 0)] {
        let model = check(&graph, &given(rounds, true, values(place)), 1e-6);
        assert_eq!(fired(&model, "loop-invariants"), 0);
    }
    let model = compile(&graph, &options(Level::O3)).unwrap();
    let inputs = given(1, true, values(9));
    let borrowed: Vec<(&str, &Tensor)> = inputs.iter().map(|(n, x)| (*n, x)).collect();
    assert!(model.session().run(&borrowed).is_err());
}
