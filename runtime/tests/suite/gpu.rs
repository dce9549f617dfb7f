//! Whole models on the GPU back end: on a GPU in builds for one, else on CubeCL's CPU runtime.

use graph::bert::Pooling;
use graph::op::{
    Cast, Clip, Concat, Conv, Dequantize, Gather, Gelu, GlobalPool, LayerNorm, Padding, Pool,
    PoolKind, Quantize, ReduceSum, Reshape, Rounding, Slice, Softmax, Transpose, Unary, Window,
};
use graph::{DType, Dim, Graph, Op, Tensor, ValueId, reference};
use runtime::{
    CompileOptions, CompiledModel, Device, Level, MachinePeaks, Precision, compile, profile,
};

use crate::bert::{float, quantized, text};
use crate::images::{growing, images, kernels, mixed, network, window};
use crate::quantized_images::{
    int8_filters, multiplies_single_channels, quantized as quantized_images,
};
use crate::{Sketch, assert_close, numbers, options, run};

#[cfg(feature = "cuda")]
const DEVICE: Device = Device::Gpu(0);
#[cfg(not(feature = "cuda"))]
const DEVICE: Device = Device::Emulated;

fn on_gpu() -> CompileOptions {
    CompileOptions { device: DEVICE, ..options(Level::O3) }
}

/// Whether the device under test is missing; says why.
#[allow(clippy::print_stdout, reason = "says what is not tested")]
fn skipped() -> bool {
    let (mut sketch, x) = Sketch::new(1);
    let y = sketch.node(Op::Relu, &[x]);
    let opened = compile(&sketch.finish(&[y]), &on_gpu());
    opened.map_err(|reason| println!("skipped: {reason}")).is_err()
}

/// Nodes that run on the CPU, and why.
fn fallbacks(model: &CompiledModel) -> Vec<String> {
    let all = model.explain().fallbacks();
    all.map(|(node, reason)| format!("{}: {reason}", node.operation)).collect()
}

#[test]
fn encoders_match_the_reference_and_stay_on_the_gpu() {
    if skipped() {
        return;
    }
    for (graph, tolerance) in [
        (float(Pooling::Cls), 1e-3),
        (float(Pooling::Mean), 1e-3),
        (quantized(Pooling::Mean), 5e-2),
    ] {
        let model = compile(&graph, &on_gpu()).unwrap();
        let device = if DEVICE == Device::Gpu(0) { "cuda:0" } else { "emulated" };
        assert_eq!(model.explain().device, device);
        assert_eq!(fallbacks(&model), Vec::<String>::new());
        let prologue = model.passes().iter().find(|pass| pass.name == "quantize-prologue");
        assert!(!prologue.unwrap().ran, "layers on a GPU do not round as they read");
        for (batch, sequence) in [(1, 7), (2, 18)] {
            let inputs = text(batch, sequence);
            let expected = reference::evaluate(&graph, &inputs).unwrap();
            assert_close(&run(&model, &inputs), &expected, tolerance);
        }
    }
}

/// Compiles a graph without rewriting it, checks that the kernel of its last node is this one, and
/// compares with the reference.
#[track_caller]
fn check_kernel(sketch: Sketch, y: ValueId, inputs: &[(&str, Tensor)], kernel: &str) {
    let graph = sketch.finish(&[y]);
    let model = compile(&graph, &CompileOptions { level: Level::O0, ..on_gpu() }).unwrap();
    assert_eq!(model.explain().nodes.last().unwrap().kernel, kernel);
    let expected = reference::evaluate(&graph, inputs).unwrap();
    assert_close(&run(&model, inputs), &expected, 4e-6);
}

#[test]
fn operators_on_floats_match_the_reference() {
    if skipped() {
        return;
    }
    let mut all = vec![
        (Op::Relu, "gpu.relu"),
        (Op::Tanh, "gpu.tanh"),
        (Op::Gelu(Gelu::Erf), "gpu.gelu"),
        (Op::Gelu(Gelu::Tanh), "gpu.gelu"),
        (Op::Softmax(Softmax {}), "gpu.softmax"),
        (Op::ReduceSum(ReduceSum { axis: 0 }), "gpu.reduce-sum"),
        (Op::ReduceSum(ReduceSum { axis: 1 }), "gpu.reduce-sum"),
        (Op::Transpose(Transpose { permutation: vec![1, 0] }), "gpu.transpose"),
        (Op::Slice(Slice { axis: 1, start: 2, end: Dim::Fixed(9) }), "gpu.slice"),
        (Op::Cast(Cast { to: DType::I64 }), "gpu.cast"),
    ];
    let functions = [
        (Unary::Abs, "gpu.abs"),
        (Unary::Neg, "gpu.neg"),
        (Unary::Reciprocal, "gpu.reciprocal"),
        (Unary::Floor, "gpu.floor"),
        (Unary::Ceil, "gpu.ceil"),
        (Unary::Sqrt, "gpu.sqrt"),
        (Unary::Exp, "gpu.exp"),
        (Unary::Log, "gpu.log"),
        (Unary::Erf, "gpu.erf"),
        (Unary::Sigmoid, "gpu.sigmoid"),
        (Unary::Swish { alpha: 1.5 }, "gpu.swish"),
        (Unary::HardSigmoid { alpha: 0.2, beta: 0.5 }, "gpu.hard-sigmoid"),
        (Unary::HardSwish, "gpu.hard-swish"),
        (Unary::LeakyRelu { alpha: 0.1 }, "gpu.leaky-relu"),
        (Unary::Elu { alpha: 1.5 }, "gpu.elu"),
    ];
    all.extend(functions.map(|(op, kernel)| (Op::Unary(op), kernel)));
    for (op, kernel) in all {
        // Roots and logarithms take positive numbers only.
        let positive = matches!(op, Op::Unary(Unary::Sqrt | Unary::Log | Unary::Reciprocal));
        let first = if positive { 0.1 } else { -4.0 };
        let values = Tensor::from_fn(&[3, 21], |index| first + index as f32 / 7.0);
        let (mut sketch, x) = Sketch::new(21);
        let y = sketch.node(op, &[x]);
        check_kernel(sketch, y, &[("x", values)], kernel);
    }
}

#[test]
fn operators_with_constants_match_the_reference() {
    if skipped() {
        return;
    }
    let values = || [("x", numbers(&[3, 21], 7, 1.0))];
    for (op, kernel) in
        [(Op::Add, "gpu.add"), (Op::Sub, "gpu.sub"), (Op::Mul, "gpu.mul"), (Op::Div, "gpu.div")]
    {
        let (mut sketch, x) = Sketch::new(21);
        let row = sketch.weight(numbers(&[21], 1, 1.0));
        let y = sketch.node(op, &[row, x]);
        check_kernel(sketch, y, &values(), kernel);
    }
    let (mut sketch, x) = Sketch::new(21);
    let [scale, shift] = [1, 2].map(|seed| sketch.weight(numbers(&[21], seed, 1.0)));
    let y = sketch.node(Op::LayerNorm(LayerNorm { epsilon: 1e-5 }), &[x, scale, shift]);
    check_kernel(sketch, y, &values(), "gpu.layer-norm");

    let (mut sketch, x) = Sketch::new(21);
    let y = sketch.quantize(x, 0.25);
    check_kernel(sketch, y, &values(), "gpu.quantize");
    let (mut sketch, x) = Sketch::new(21);
    let integers = sketch.quantize(x, 0.25);
    let y = sketch.dequantize(integers, 0.25);
    check_kernel(sketch, y, &values(), "gpu.dequantize");
    let (mut sketch, _) = Sketch::new(21);
    let y = sketch.int8_weight([5, 3]);
    check_kernel(sketch, y, &values(), "gpu.dequantize-columns");

    let mut sketch = Sketch { graph: graph::Graph::new("sketch") };
    let shape = vec![Dim::symbol("batch"), 2.into()];
    let x = sketch.graph.add_input("x", DType::I64, shape).unwrap();
    let table = sketch.weight(numbers(&[4, 3], 1, 1.0));
    let y = sketch.node(Op::Gather(Gather { axis: 0 }), &[table, x]);
    let indices = Tensor::new(&[2, 2], vec![3i64, -4, 0, 1]).unwrap();
    check_kernel(sketch, y, &[("x", indices)], "gpu.gather");
}

#[test]
fn nothing_comes_of_nothing() {
    if skipped() {
        return;
    }
    let (mut sketch, x) = Sketch::new(6);
    let [weight, row] = [[6, 4], [1, 4]].map(|shape| sketch.weight(numbers(&shape, 1, 1.0)));
    let hidden = sketch.node(Op::MatMul, &[x, weight]);
    let hidden = sketch.node(Op::Tanh, &[hidden]);
    let hidden = sketch.node(Op::Add, &[hidden, row]);
    let output = sketch.node(Op::Softmax(Softmax {}), &[hidden]);
    let model = compile(&sketch.finish(&[output]), &on_gpu()).unwrap();
    assert_eq!(fallbacks(&model), Vec::<String>::new());
    let found = run(&model, &[("x", Tensor::zeros(DType::F32, &[0, 6]))]);
    assert_eq!(found, [Tensor::zeros(DType::F32, &[0, 4])]);
}

#[test]
fn nodes_on_a_gpu_are_timed_but_not_predicted() {
    if skipped() {
        return;
    }
    let graph = float(Pooling::Cls);
    let inputs = text(1, 3);
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let of = |device| {
        let model = compile(&graph, &CompileOptions { device, ..on_gpu() }).unwrap();
        profile(&model, &borrowed, 0.0, &MachinePeaks::measure(2)).unwrap()
    };
    let (found, on_cpu) = (of(DEVICE), of(Device::Cpu));
    assert_eq!((found.predicted_ms, found.flops), (None, on_cpu.flops));
    let costs = || found.nodes.iter().filter_map(|node| Some((node, node.cost.as_ref()?)));
    assert!(costs().count() > 0);
    for (node, cost) in costs() {
        assert!(node.measured_ms > 0.0, "{node:?}");
        assert_eq!((cost.predicted_ms, cost.peak_share, cost.memory_share), (None, None, None));
    }
}

#[test]
fn integers_match_the_cpu() {
    if skipped() {
        return;
    }
    let graph = quantized(Pooling::Mean);
    let inputs = text(2, 9);
    let expected = run(&compile(&graph, &options(Level::O3)).unwrap(), &inputs);
    assert_close(&run(&compile(&graph, &on_gpu()).unwrap(), &inputs), &expected, 2e-2);
}

#[test]
fn bf16_rounds_what_it_multiplies() {
    if skipped() {
        return;
    }
    let graph = float(Pooling::Mean);
    let inputs = text(1, 9);
    let of = |device| {
        let options = CompileOptions { precision: Precision::Bf16, device, ..options(Level::O3) };
        run(&compile(&graph, &options).unwrap(), &inputs)
    };
    assert_close(&of(DEVICE), &of(Device::Cpu), 2e-2);
}

#[test]
fn a_session_runs_again_with_other_sizes_and_values() {
    if skipped() {
        return;
    }
    let graph = float(Pooling::Cls);
    let model = compile(&graph, &on_gpu()).unwrap();
    let mut session = model.session();
    // The second and the third time that it meets sizes, it records and replays their launches.
    let sizes = [(2, 5), (1, 3), (2, 5), (2, 5), (1, 3), (2, 7), (2, 5), (1, 3)];
    for (round, (batch, sequence)) in sizes.into_iter().enumerate() {
        let mut inputs = text(batch, sequence);
        let ids = inputs[0].1.elements::<i64>().unwrap();
        let ids = ids.iter().map(|id| (id + round as i64) % 50).collect::<Vec<_>>();
        inputs[0].1 = Tensor::new(&[batch, sequence], ids).unwrap();
        let expected = reference::evaluate(&graph, &inputs).unwrap();
        let borrowed: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        assert_close(&session.run(&borrowed).unwrap(), &expected, 1e-3);
    }
    // Only what stands in for a GPU records nothing.
    assert_eq!(session.recording_refused().is_none(), DEVICE == Device::Gpu(0));
    let mut inputs = text(1, 3);
    inputs[0].1 = Tensor::new(&[1, 3], vec![1i64, 50, 2]).unwrap();
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let error = session.run(&borrowed).unwrap_err().to_string();
    assert!(error.contains("index 50 at position 1"), "{error}");
}

#[test]
fn convolutions_stay_on_the_gpu() {
    if skipped() {
        return;
    }
    let shape = vec![Dim::symbol("batch"), 4.into(), 9.into(), 8.into()];
    let (mut sketch, x) = Sketch::shaped(shape);
    let window = |stride| Window {
        kernel: vec![3, 2],
        strides: vec![stride, 1],
        dilations: vec![1, 2],
        padding: Padding::Explicit { before: vec![1, 0], after: vec![1, 1] },
    };
    let weight = sketch.weight(numbers(&[6, 4, 3, 2], 1, 0.3));
    let bias = sketch.weight(numbers(&[6], 2, 0.3));
    let dense = Op::Conv(Conv { window: window(2), groups: 1 });
    let hidden = sketch.node(dense, &[x, weight, bias]);
    let hidden = sketch.node(Op::Relu, &[hidden]);
    let weight = sketch.weight(numbers(&[4, 3, 3, 2], 3, 0.3));
    let grouped = Op::Conv(Conv { window: window(1), groups: 2 });
    let y = sketch.node(grouped, &[hidden, weight]);
    let graph = sketch.finish(&[y]);
    let model = compile(&graph, &on_gpu()).unwrap();
    assert_eq!(fallbacks(&model), Vec::<String>::new());
    for batch in [1, 3] {
        let inputs = [("x", numbers(&[batch, 4, 9, 8], 4, 1.0))];
        let expected = reference::evaluate(&graph, &inputs).unwrap();
        assert_close(&run(&model, &inputs), &expected, 1e-4);
    }
}

#[test]
fn moves_of_many_dimensions_and_parts_of_rows_stay_on_the_gpu() {
    if skipped() {
        return;
    }
    // A shuffle of channels, of which three dimensions stay together.
    let (mut sketch, x) = Sketch::new(2 * 3 * 4 * 5 * 6);
    let split = sketch.node(Op::Reshape(Reshape { shape: vec![-1, 2, 3, 4, 30] }), &[x]);
    let shuffle = Transpose { permutation: vec![0, 1, 2, 4, 3] };
    let y = sketch.node(Op::Transpose(shuffle), &[split]);
    check_kernel(sketch, y, &[("x", numbers(&[3, 720], 7, 1.0))], "gpu.transpose");
    // Rows that begin between vectors are copied.
    let (mut sketch, x) = Sketch::new(3);
    let part = Slice { axis: 0, start: 1, end: Dim::Fixed(4) };
    let y = sketch.node(Op::Slice(part), &[x]);
    let graph = sketch.finish(&[y]);
    let model = compile(&graph, &CompileOptions { level: Level::O0, ..on_gpu() }).unwrap();
    assert_eq!(model.explain().nodes.last().unwrap().kernel, "gpu.slice");
    let inputs = [("x", numbers(&[4, 3], 7, 1.0))];
    let expected = reference::evaluate(&graph, &inputs).unwrap();
    assert_close(&run(&model, &inputs), &expected, 1e-6);
}

#[test]
fn image_networks_stay_on_the_gpu() {
    if skipped() {
        return;
    }
    for (graph, channels, size) in [(network(), 3, 12), (mixed(), 4, 9), (growing(), 4, 9)] {
        for (precision, tolerance) in [(Precision::F32, 1e-4), (Precision::Bf16, 5e-2)] {
            let model = compile(&graph, &CompileOptions { precision, ..on_gpu() }).unwrap();
            assert_eq!(fallbacks(&model), Vec::<String>::new());
            let is_last = |name: &str| name == "gpu.channels-last.conv";
            assert!(model.explain().nodes.iter().any(|node| is_last(&node.kernel)));
            for batch in [1, 3] {
                let inputs = images(batch, channels, size);
                let expected = reference::evaluate(&graph, &inputs).unwrap();
                assert_close(&run(&model, &inputs), &expected, tolerance);
            }
        }
    }
}

/// Sketches a network between quantizations whose zero points are not 0.
struct Quantized {
    sketch: Sketch,
    zero: Tensor,
}

impl Quantized {
    fn parameters(&mut self, scale: f32) -> [ValueId; 2] {
        [Tensor::scalar(scale), self.zero.clone()].map(|tensor| self.sketch.weight(tensor))
    }

    fn quantize(&mut self, x: ValueId, scale: f32) -> ValueId {
        let [scale, zero] = self.parameters(scale);
        self.sketch.node(Op::Quantize(Quantize::default()), &[x, scale, zero])
    }

    fn through(&mut self, x: ValueId, scale: f32) -> ValueId {
        let x = self.quantize(x, scale);
        let [scale, zero] = self.parameters(scale);
        self.sketch.node(Op::Dequantize(Dequantize::default()), &[x, scale, zero])
    }

    /// A convolution of squares with a bias.
    fn conv(&mut self, x: ValueId, shape: [usize; 4], stride: usize, groups: usize) -> ValueId {
        let weight = int8_filters(&mut self.sketch, shape);
        let bias = self.sketch.weight(numbers(&shape[..1], 3, 0.5));
        let window = window(&shape[2..], stride, shape[2] / 2);
        self.sketch.node(Op::Conv(Conv { window, groups }), &[x, weight, bias])
    }

    fn clip(&mut self, x: ValueId) -> ValueId {
        let limits = [0f32, 6.0].map(|limit| self.sketch.weight(Tensor::scalar(limit)));
        self.sketch.node(Op::Clip(Clip { low: true, high: true }), &[x, limits[0], limits[1]])
    }

    fn pool(&mut self, x: ValueId) -> ValueId {
        let window = window(&[3, 3], 2, 1);
        let pool = Pool { kind: PoolKind::Max, window, rounding: Rounding::Floor };
        self.sketch.node(Op::Pool(pool), &[x])
    }
}

/// What quantized networks of images are made of: filters of every kind, a pool, a residual sum, parts side
/// by side, a mean, which is the first output.
fn quantized_network(zero: Tensor) -> Graph {
    let (sketch, x) = crate::images::sketch(3, 20);
    let mut sketch = Quantized { sketch, zero };
    let x = sketch.through(x, 0.0237);
    let stem = sketch.conv(x, [8, 3, 3, 3], 2, 1);
    let stem = sketch.sketch.node(Op::Relu, &[stem]);
    let stem = sketch.through(stem, 0.031);
    let pooled = sketch.pool(stem);
    let pooled = sketch.through(pooled, 0.031);
    let wide = sketch.conv(pooled, [16, 8, 1, 1], 1, 1);
    let wide = sketch.clip(wide);
    let wide = sketch.through(wide, 0.027);
    let deep = sketch.conv(wide, [16, 1, 3, 3], 1, 16);
    let deep = sketch.clip(deep);
    let deep = sketch.through(deep, 0.023);
    let narrow = sketch.conv(deep, [8, 16, 1, 1], 1, 1);
    let narrow = sketch.through(narrow, 0.041);
    let sum = sketch.sketch.node(Op::Add, &[narrow, pooled]);
    let sum = sketch.sketch.node(Op::Relu, &[sum]);
    let sum = sketch.through(sum, 0.031);
    let both = sketch.sketch.node(Op::Concat(Concat { axis: 1 }), &[sum, pooled]);
    let both = sketch.through(both, 0.031);
    let last = sketch.conv(both, [20, 16, 3, 3], 1, 1);
    let is_signed = sketch.zero.dtype() == DType::I8;
    let integers = is_signed.then(|| sketch.quantize(last, 0.11));
    let last = sketch.through(last, 0.11);
    let mean = sketch.sketch.node(Op::GlobalPool(GlobalPool::Average), &[last]);
    let outputs = [mean, sum, last].into_iter().chain(integers);
    sketch.sketch.finish(&outputs.collect::<Vec<_>>())
}

#[test]
fn quantized_images_are_the_same_to_the_bit_and_stay_on_the_gpu() {
    // Without, the CPU multiplies floats.
    if skipped() || !multiplies_single_channels() {
        return;
    }
    for zero in [Tensor::scalar(-9i8), Tensor::scalar(119u8)] {
        let graph = quantized_network(zero);
        let model = compile(&graph, &on_gpu()).unwrap();
        assert_eq!(fallbacks(&model), Vec::<String>::new());
        let found = kernels(&model);
        let count = |part: &str| found.iter().filter(|kernel| kernel.contains(part)).count();
        assert_eq!(count("integer-conv"), 4, "{found:?}");
        assert_eq!(count("integer-depthwise"), 1, "{found:?}");
        assert_eq!((count("integer-sum"), count("integer-max-pool")), (1, 1), "{found:?}");
        let on_cpu = compile(&graph, &options(Level::O3)).unwrap();
        for batch in [1, 3] {
            let inputs = images(batch, 3, 20);
            let (found, expected) = (run(&model, &inputs), run(&on_cpu, &inputs));
            assert_close(&found[..1], &expected[..1], 1e-6);
            assert_eq!(found[1..], expected[1..]);
        }
    }
}

#[test]
fn quantized_images_match_the_reference() {
    if skipped() {
        return;
    }
    let graph = quantized_images();
    for precision in [Precision::F32, Precision::Bf16] {
        let model = compile(&graph, &CompileOptions { precision, ..on_gpu() }).unwrap();
        assert_eq!(fallbacks(&model), Vec::<String>::new());
        for batch in [1, 3] {
            let inputs = images(batch, 3, 12);
            let expected = reference::evaluate(&graph, &inputs).unwrap();
            assert_close(&run(&model, &inputs), &expected, 1e-6);
        }
    }
}

#[test]
fn what_has_no_kernel_runs_on_the_cpu_and_says_why() {
    if skipped() {
        return;
    }
    let (mut sketch, x) = Sketch::new(6);
    let weight = sketch.weight(numbers(&[6, 6], 1, 1.0));
    let hidden = sketch.node(Op::MatMul, &[x, weight]);
    let hidden = sketch.node(Op::Tanh, &[hidden]);
    // Not linear: neither operand is constant.
    let part = sketch.node(Op::Slice(Slice { axis: 1, start: 0, end: Dim::Fixed(6) }), &[hidden]);
    let turned = sketch.node(Op::Transpose(Transpose { permutation: vec![1, 0] }), &[part]);
    let product = sketch.node(Op::MatMul, &[hidden, turned]);
    let output = sketch.node(Op::Relu, &[product]);
    let graph = sketch.finish(&[output, hidden]);
    let model = compile(&graph, &on_gpu()).unwrap();
    assert_eq!(fallbacks(&model), ["MatMul: no kernel for MatMul on a GPU"]);
    let inputs = [("x", numbers(&[3, 6], 2, 1.0))];
    let expected = reference::evaluate(&graph, &inputs).unwrap();
    assert_close(&run(&model, &inputs), &expected, 1e-4);
}

#[test]
fn an_index_that_names_no_row_is_an_error() {
    if skipped() {
        return;
    }
    let graph = float(Pooling::Cls);
    let model = compile(&graph, &on_gpu()).unwrap();
    let mut inputs = text(1, 3);
    inputs[0].1 = Tensor::new(&[1, 3], vec![1i64, 50, 2]).unwrap();
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    let error = model.session().run(&borrowed).unwrap_err().to_string();
    assert!(error.contains("index 50 at position 1 is not in a table of 50 rows"), "{error}");
}

#[test]
fn sizes_that_depend_on_values_need_the_cpu() {
    if skipped() {
        return;
    }
    let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("n")]);
    let places = sketch.node(Op::NonZero, &[x]);
    let graph = sketch.finish(&[places]);
    assert_eq!(graph.value_type(places).dtype, DType::I64);
    let error = compile(&graph, &on_gpu()).unwrap_err().to_string();
    assert!(error.contains("depend on values"), "{error}");
}
