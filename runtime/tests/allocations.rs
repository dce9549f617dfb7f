//! Heap allocations of a run in the steady state, counted over all threads.
#![allow(clippy::unwrap_used, reason = "a test's own steps do not fail")]

use std::alloc::System;
use std::num::NonZeroUsize;

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::op::{
    Activation, ActivationKind, Binary, Cast, Cell, Col2Im, Conv, DeformConv, Dequantize,
    Direction, Gather, GlobalPool, InstanceNorm, Loop, Pad, PadMode, Padding, Quantize, Recurrent,
    RecurrentOutput, Reduce, ReduceKind, Reshape, RmsNorm, ShapeOf, Subgraph, SubgraphNode, Unary,
    Window,
};
use graph::rewrite::quantize::{QuantizeOptions, fold, insert};
use graph::{DType, Dim, Graph, Op, Tensor};
use runtime::{CompileOptions, Level, Precision, Session, compile};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Runs of a window.
const RUNS: usize = 100;

fn encoder() -> Graph {
    let layer = BertLayer { heads: 4, intermediate: 256 };
    build(&BertConfig::uniform(100, 128, 2, layer), &mut initial_weights(1)).unwrap()
}

fn quantized(mut graph: Graph) -> Graph {
    insert(&mut graph, &QuantizeOptions { float: Vec::new(), embeddings: true }).unwrap();
    fold(&mut graph).unwrap();
    graph
}

/// What images meet; of a known size, they have their channels last.
fn images(size: Dim) -> Graph {
    let mut graph = Graph::new("images");
    let shape = vec![Dim::symbol("batch"), 8.into(), size.clone(), size];
    let x = graph.add_input("x", DType::F32, shape).unwrap();
    let conv = |graph: &mut Graph, x, kernel: usize, groups: usize| {
        let name = format!("{kernel}x{kernel}-{groups}");
        let weight = Tensor::from_fn(&[8, 8 / groups, kernel, kernel], |i| i as f32 / 500.0);
        let weight = graph.add_weight(&format!("{name}-weight"), weight).unwrap();
        let pad = vec![kernel / 2; 2];
        let window = Window {
            kernel: vec![kernel; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            padding: Padding::Explicit { before: pad.clone(), after: pad },
        };
        graph.add_node(&name, Op::Conv(Conv { window, groups }), &[x, weight]).unwrap()
    };
    let y = conv(&mut graph, x, 3, 8);
    let y = conv(&mut graph, y, 3, 1);
    let y = graph.add_node("relu", Op::Relu, &[y]).unwrap();
    let y = conv(&mut graph, y, 5, 8);
    let y = graph.add_node("sigmoid", Op::Unary(Unary::Sigmoid), &[y]).unwrap();
    let y = graph.add_node("mean", Op::GlobalPool(GlobalPool::Average), &[y]).unwrap();
    graph.set_outputs(&[y]);
    graph
}

/// Two convolutions in integers, of channels that are whole groups and of others, and a sum.
fn integer_images() -> Graph {
    let mut graph = Graph::new("integers");
    let shape = vec![Dim::symbol("batch"), 8.into(), 40.into(), 40.into()];
    let x = graph.add_input("x", DType::F32, shape).unwrap();
    let scale = graph.add_weight("scale", Tensor::scalar(0.25f32)).unwrap();
    let zero = graph.add_weight("zero", Tensor::scalar(3i8)).unwrap();
    let none = graph.add_weight("none", Tensor::scalar(0i8)).unwrap();
    let through = |graph: &mut Graph, x, name: &str| {
        let quantize = Op::Quantize(Quantize::default());
        let x = graph.add_node(&format!("{name}-q"), quantize, &[x, scale, zero]).unwrap();
        let dequantize = Op::Dequantize(Dequantize::default());
        graph.add_node(&format!("{name}-dq"), dequantize, &[x, scale, zero]).unwrap()
    };
    let conv = |graph: &mut Graph, x, name: &str, [channels, outputs]: [usize; 2]| {
        let weight = Tensor::from_fn(&[outputs, channels, 3, 3], |i| (i % 9) as i8);
        let weight = graph.add_weight(&format!("{name}-w"), weight).unwrap();
        let dequantize = Op::Dequantize(Dequantize::default());
        let inputs = [weight, scale, none];
        let weight = graph.add_node(&format!("{name}-dw"), dequantize, &inputs).unwrap();
        let window = Window {
            kernel: vec![3; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            padding: Padding::Explicit { before: vec![1; 2], after: vec![1; 2] },
        };
        graph.add_node(name, Op::Conv(Conv { window, groups: 1 }), &[x, weight]).unwrap()
    };
    let x = through(&mut graph, x, "x");
    let y = conv(&mut graph, x, "first", [8, 5]);
    let y = through(&mut graph, y, "y");
    let z = conv(&mut graph, y, "second", [5, 8]);
    let z = through(&mut graph, z, "z");
    let sum = graph.add_node("sum", Op::Add, &[z, x]).unwrap();
    let sum = through(&mut graph, sum, "sum");
    graph.set_outputs(&[sum]);
    graph
}

/// Kernels that networks of images and texts seldom have: norms, truth, padding, a recurrence, ranges.
fn others() -> Graph {
    let mut graph = Graph::new("others");
    let shape = vec![Dim::symbol("batch"), 8.into(), 40.into(), 40.into()];
    let x = graph.add_input("x", DType::F32, shape).unwrap();
    let mut count = 0;
    let mut weight = |graph: &mut Graph, tensor: Tensor| {
        count += 1;
        graph.add_weight(&format!("weight{count}"), tensor).unwrap()
    };
    let floats = |shape: &[usize]| Tensor::from_fn(shape, |i| (i % 13) as f32 / 50.0);
    let [scale, bias] = [1, 2].map(|_| weight(&mut graph, floats(&[8])));
    let norm = Op::InstanceNorm(InstanceNorm { epsilon: 1e-5 });
    let normal = graph.add_node("normal", norm, &[x, scale, bias]).unwrap();
    let zero = weight(&mut graph, Tensor::scalar(0f32));
    let above = graph.add_node("above", Op::Binary(Binary::Greater), &[normal, zero]).unwrap();
    let wrong = graph.add_node("wrong", Op::Unary(Unary::IsNan), &[normal]).unwrap();
    let right = graph.add_node("right", Op::Unary(Unary::Not), &[wrong]).unwrap();
    let both = graph.add_node("both", Op::Binary(Binary::And), &[above, right]).unwrap();
    let chosen = graph.add_node("chosen", Op::Where, &[both, normal, zero]).unwrap();
    let widths = weight(&mut graph, Tensor::new(&[8], vec![0i64, 0, 1, 0, 0, 0, 1, 0]).unwrap());
    let axes = weight(&mut graph, Tensor::new(&[4], vec![0i64, 1, 2, 3]).unwrap());
    let pad = Op::Pad(Pad { mode: PadMode::Constant });
    let padded = graph.add_node("padded", pad, &[chosen, widths, zero, axes]).unwrap();
    let scale = weight(&mut graph, floats(&[40]));
    let rms = Op::RmsNorm(RmsNorm { epsilon: 1e-5 });
    let rows = graph.add_node("rows", rms, &[padded, scale]).unwrap();
    let mean = |axes: &[usize]| {
        let (kind, axes) = (ReduceKind::Mean, Some(axes.to_vec()));
        Op::Reduce(Reduce { kind, axes, keep_dims: false, empty_means_none: false })
    };
    let steps = graph.add_node("steps", mean(&[3]), &[rows]).unwrap();
    let gates = [[1, 4 * 6, 42], [1, 4 * 6, 6]].map(|shape| weight(&mut graph, floats(&shape)));
    let lstm = Op::Recurrent(Recurrent {
        cell: Cell::Lstm { input_forget: false },
        activations: [ActivationKind::Sigmoid, ActivationKind::Tanh, ActivationKind::Tanh]
            .map(|kind| Activation { kind, alpha: 0.0, beta: 0.0 })
            .to_vec(),
        directions: vec![Direction::Forward],
        hidden: 6,
        clip: None,
        batch_first: false,
        optional: Vec::new(),
        output: RecurrentOutput::States,
    });
    let states = graph.add_node("states", lstm, &[steps, gates[0], gates[1]]).unwrap();
    let means = graph.add_node("means", mean(&[1, 2, 3]), &[states]).unwrap();
    let sizes = graph.add_node("sizes", Op::ShapeOf(ShapeOf { start: 0, end: 1 }), &[x]).unwrap();
    let [first, one] = [0i64, 1].map(|number| weight(&mut graph, Tensor::scalar(number)));
    let batch = graph.add_node("batch", Op::Gather(Gather { axis: 0 }), &[sizes, first]).unwrap();
    let range = graph.add_node("range", Op::Range, &[first, batch, one]).unwrap();
    let range = graph.add_node("places", Op::Cast(Cast { to: DType::F32 }), &[range]).unwrap();
    let y = graph.add_node("y", Op::Add, &[means, range]).unwrap();
    graph.set_outputs(&[y]);
    graph
}

/// Windows of volumes, bent ones, and ones that are put back where they were cut out.
fn windows() -> Graph {
    let mut graph = Graph::new("windows");
    let shape = vec![Dim::symbol("batch"), 8.into(), 40.into(), 40.into()];
    let x = graph.add_input("x", DType::F32, shape).unwrap();
    let sizes = |graph: &mut Graph, name: &str, sizes: &[i64]| {
        graph.add_weight(name, Tensor::new(&[sizes.len()], sizes.to_vec()).unwrap()).unwrap()
    };
    let reshape = |shape: &[i64]| Op::Reshape(Reshape { shape: shape.to_vec() });
    let window = |kernel: &[usize], before: &[usize], after: &[usize]| Window {
        kernel: kernel.to_vec(),
        strides: vec![1; kernel.len()],
        dilations: vec![1; kernel.len()],
        padding: Padding::Explicit { before: before.to_vec(), after: after.to_vec() },
    };
    let floats = |shape: &[usize]| Tensor::from_fn(shape, |i| (i % 13) as f32 / 50.0);
    let filters = graph.add_weight("filters", floats(&[2, 2, 3, 3, 3])).unwrap();
    let volumes = graph.add_node("volumes", reshape(&[0, 2, 4, 40, 40]), &[x]).unwrap();
    let conv = Conv { window: window(&[3; 3], &[1; 3], &[1; 3]), groups: 1 };
    let y = graph.add_node("conv", Op::Conv(conv), &[volumes, filters]).unwrap();
    let y = graph.add_node("relu", Op::Relu, &[y]).unwrap();
    let y = graph.add_node("images", reshape(&[0, 8, 40, 40]), &[y]).unwrap();
    let filters = graph.add_weight("bent-filters", floats(&[8, 8, 2, 2])).unwrap();
    let bent = Op::DeformConv(DeformConv {
        window: window(&[2; 2], &[1; 2], &[0; 2]),
        groups: 1,
        offset_groups: 1,
        bias: false,
        mask: false,
    });
    let y = graph.add_node("bent", bent, &[y, filters, x]).unwrap();
    let y = graph.add_node("atan", Op::Unary(Unary::Atan), &[y]).unwrap();
    let third = graph.add_weight("third", Tensor::scalar(0.3f32)).unwrap();
    let y = graph.add_node("rest", Op::Binary(Binary::Mod), &[y, third]).unwrap();
    let y = graph.add_node("columns", reshape(&[0, 8, 1600]), &[y]).unwrap();
    let image = sizes(&mut graph, "image", &[41, 41]);
    let block = sizes(&mut graph, "block", &[2, 2]);
    let fold = Op::Col2Im(Col2Im {
        strides: vec![1; 2],
        dilations: vec![1; 2],
        padding: Padding::Explicit { before: vec![0; 2], after: vec![0; 2] },
    });
    let y = graph.add_node("fold", fold, &[y, image, block]).unwrap();
    graph.set_outputs(&[y]);
    graph
}

/// A recurrence over rows, written as a loop whose states are collected.
fn rounds() -> Graph {
    let mut graph = Graph::new("rounds");
    let shape = vec![Dim::symbol("time"), Dim::symbol("batch"), 64.into()];
    let x = graph.add_input("x", DType::F32, shape).unwrap();
    let node = |name: &str, op: Op, inputs: &[&str]| {
        let inputs = inputs.iter().map(|&name| name.to_owned()).collect();
        SubgraphNode { name: name.to_owned(), op, inputs }
    };
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    let body = Subgraph {
        inputs: names(&["t", "going", "h", "x", "w"]),
        nodes: vec![
            node("entry", Op::Gather(Gather { axis: 0 }), &["x", "t"]),
            node("product", Op::MatMul, &["h", "w"]),
            node("sum", Op::Add, &["product", "entry"]),
            node("next", Op::Tanh, &["sum"]),
        ],
        outputs: names(&["going", "next", "next"]),
    };
    let w = Tensor::from_fn(&[64, 64], |i| (i % 13) as f32 / 100.0);
    let w = graph.add_weight("w", w).unwrap();
    let [zero, going] = [
        graph.add_weight("zero", Tensor::scalar(0i64)).unwrap(),
        graph.add_weight("going", Tensor::scalar(true)).unwrap(),
    ];
    let gather = || Op::Gather(Gather { axis: 0 });
    let first = graph.add_node("first", gather(), &[x, zero]).unwrap();
    let sizes = graph.add_node("sizes", Op::ShapeOf(ShapeOf { start: 0, end: 1 }), &[x]).unwrap();
    let time = graph.add_node("time", gather(), &[sizes, zero]).unwrap();
    let op = Op::Loop(Loop { body, carried: 1, output: 1 });
    let y = graph.add_node("y", op, &[time, going, first, x, w]).unwrap();
    graph.set_outputs(&[y]);
    graph
}

fn sequences() -> Vec<Inputs> {
    let sequence = |[time, batch]: [usize; 2]| {
        vec![("x", Tensor::from_fn(&[time, batch, 64], |i| (i % 7) as f32))]
    };
    [[3, 1], [20, 50]].map(sequence).to_vec()
}

type Inputs = Vec<(&'static str, Tensor)>;

/// Sizes below and above what the kernels cut for threads.
fn texts() -> Vec<Inputs> {
    let text = |[batch, sequence]: [usize; 2]| {
        let ids = Tensor::from_fn(&[batch, sequence], |i| i as i64 % 100);
        let mask = Tensor::from_fn(&[batch, sequence], |_| 1i64);
        vec![("input_ids", ids), ("attention_mask", mask)]
    };
    [[1, 7], [1, 32], [8, 64]].map(text).to_vec()
}

fn pictures(sizes: &[[usize; 2]]) -> Vec<Inputs> {
    let picture = |[batch, size]: [usize; 2]| {
        vec![("x", Tensor::from_fn(&[batch, 8, size, size], |i| (i % 7) as f32))]
    };
    sizes.iter().copied().map(picture).collect()
}

fn run(session: &mut Session, inputs: &[Vec<(&str, &Tensor)>]) {
    for inputs in inputs {
        assert_eq!(session.run_borrowed(inputs).unwrap().iter().len(), 1);
    }
}

/// Windows of [`RUNS`] that are watched at most.
const WINDOWS: usize = 20;

/// Fewest allocations of `work` in a window of [`RUNS`]; stops at the first without any.
///
/// Which thread takes which piece of a run is chance, and a thread's own memory grows when it first
/// meets a larger piece: on a busy machine that may come late, but not again and again. What a run
/// allocates by itself is in every window.
fn fewest(mut work: impl FnMut()) -> usize {
    let mut fewest = usize::MAX;
    for _ in 0..WINDOWS {
        let region = Region::new(HEAP);
        (0..RUNS).for_each(|_| work());
        let change = region.change();
        fewest = fewest.min(change.allocations + change.reallocations);
        if fewest == 0 {
            break;
        }
    }
    fewest
}

/// One test only: another at the same time would be counted too.
#[test]
fn runs_allocate_nothing_in_the_steady_state() {
    for (name, graph, inputs) in [
        ("f32", encoder(), texts()),
        ("int8", quantized(encoder()), texts()),
        ("images", images(Dim::symbol("size")), pictures(&[[1, 5], [2, 40]])),
        ("channels last", images(40.into()), pictures(&[[1, 40], [5, 40]])),
        ("integers", integer_images(), pictures(&[[1, 40], [5, 40]])),
        ("others", others(), pictures(&[[1, 40], [5, 40]])),
        ("windows", windows(), pictures(&[[1, 40], [5, 40]])),
        ("rounds", rounds(), sequences()),
    ] {
        let inputs: Vec<Vec<_>> = inputs
            .iter()
            .map(|inputs| inputs.iter().map(|(name, tensor)| (*name, tensor)).collect())
            .collect();
        for (level, precision) in
            [(Level::O2, Precision::F32), (Level::O3, Precision::F32), (Level::O3, Precision::Bf16)]
        {
            let threads = NonZeroUsize::new(2);
            let options = CompileOptions { level, threads, precision, ..CompileOptions::default() };
            let model = compile(&graph, &options).unwrap();
            let nodes = &model.explain().nodes;
            assert!(nodes.iter().all(|node| node.kernel != "reference"), "{name}: {nodes:#?}");
            let mut session = model.session();
            assert_eq!(fewest(|| run(&mut session, &inputs)), 0, "{name} {level:?} {precision:?}");
        }
    }
}
