//! Whole models on the GPU back end, which CubeCL's CPU runtime stands in for.

use graph::op::Slice;
use graph::{DType, Dim, Op, Tensor, reference};
use runtime::{CompileOptions, CompiledModel, Device, Level, Precision, compile};

use crate::bert::{float, quantized, text};
use crate::{Sketch, assert_close, numbers, options, run};

use graph::bert::Pooling;

fn on_gpu() -> CompileOptions {
    CompileOptions { device: Device::Emulated, ..options(Level::O3) }
}

/// Nodes that run on the CPU, and why.
fn fallbacks(model: &CompiledModel) -> Vec<String> {
    let all = model.explain().fallbacks();
    all.map(|(node, reason)| format!("{}: {reason}", node.operation)).collect()
}

#[test]
fn encoders_match_the_reference_and_stay_on_the_gpu() {
    for (graph, tolerance) in [
        (float(Pooling::Cls), 1e-3),
        (float(Pooling::Mean), 1e-3),
        (quantized(Pooling::Mean), 5e-2),
    ] {
        let model = compile(&graph, &on_gpu()).unwrap();
        assert_eq!(model.explain().device, "emulated");
        assert_eq!(fallbacks(&model), Vec::<String>::new());
        for (batch, sequence) in [(1, 7), (2, 18)] {
            let inputs = text(batch, sequence);
            let expected = reference::evaluate(&graph, &inputs).unwrap();
            assert_close(&run(&model, &inputs), &expected, tolerance);
        }
    }
}

#[test]
fn integers_match_the_cpu() {
    let graph = quantized(Pooling::Mean);
    let inputs = text(2, 9);
    let expected = run(&compile(&graph, &options(Level::O3)).unwrap(), &inputs);
    assert_close(&run(&compile(&graph, &on_gpu()).unwrap(), &inputs), &expected, 2e-2);
}

#[test]
fn bf16_rounds_what_it_multiplies() {
    let graph = float(Pooling::Mean);
    let inputs = text(1, 9);
    let of = |device| {
        let options = CompileOptions { precision: Precision::Bf16, device, ..options(Level::O3) };
        run(&compile(&graph, &options).unwrap(), &inputs)
    };
    assert_close(&of(Device::Emulated), &of(Device::Cpu), 2e-2);
}

#[test]
fn a_session_runs_again_with_other_sizes_and_values() {
    let graph = float(Pooling::Cls);
    let model = compile(&graph, &on_gpu()).unwrap();
    let mut session = model.session();
    for (batch, sequence) in [(2, 5), (1, 3), (2, 5)] {
        let inputs = text(batch, sequence);
        let expected = reference::evaluate(&graph, &inputs).unwrap();
        let borrowed: Vec<(&str, &Tensor)> =
            inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
        assert_close(&session.run(&borrowed).unwrap(), &expected, 1e-3);
    }
}

#[test]
fn what_has_no_kernel_runs_on_the_cpu_and_says_why() {
    let (mut sketch, x) = Sketch::new(6);
    let weight = sketch.weight(numbers(&[6, 6], 1, 1.0));
    let hidden = sketch.node(Op::MatMul, &[x, weight]);
    let hidden = sketch.node(Op::Tanh, &[hidden]);
    // Not linear: neither operand is constant.
    let part = sketch.node(Op::Slice(Slice { axis: 1, start: 0, end: Dim::Fixed(6) }), &[hidden]);
    let shape = graph::op::Transpose { permutation: vec![1, 0] };
    let turned = sketch.node(Op::Transpose(shape), &[part]);
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
    let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("n")]);
    let places = sketch.node(Op::NonZero, &[x]);
    let graph = sketch.finish(&[places]);
    assert_eq!(graph.value_type(places).dtype, DType::I64);
    let error = compile(&graph, &on_gpu()).unwrap_err().to_string();
    assert!(error.contains("depend on values"), "{error}");
}
