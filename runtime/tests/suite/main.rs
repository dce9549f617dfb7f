//! Compiled models against `graph::reference`, the definition of every operator.
#![allow(clippy::unwrap_used, reason = "a test's own steps do not fail")]

mod attention;
mod bert;
mod calibration;
mod choices;
mod dynamic;
mod dynamic_quantization;
mod exported;
mod functions;
#[cfg(any(feature = "gpu-emulated", feature = "cuda"))]
mod gpu;
mod heads;
mod hostile;
mod images;
mod loops;
mod masks;
mod memory;
mod opsets;
mod passes;
mod places;
mod profile;
mod quantized_images;
mod recurrent;
mod session;
mod slices;
mod volumes;

use std::num::NonZeroUsize;

use graph::op::{Dequantize, Quantize};
use graph::{DType, Dim, Graph, Op, Tensor, ValueId, bert as builder, reference};
use runtime::{CompileOptions, CompiledModel, Level, compile};

/// Numbers around ±`magnitude`, by seed and position.
fn numbers(shape: &[usize], seed: u64, magnitude: f64) -> Tensor {
    builder::normal(seed, "numbers", shape, magnitude)
}

/// A graph under construction: names are made up.
struct Sketch {
    graph: Graph,
}

impl Sketch {
    /// With an input `x`, `f32[batch, columns]`.
    fn new(columns: usize) -> (Self, ValueId) {
        Self::shaped(vec![Dim::symbol("batch"), columns.into()])
    }

    fn shaped(shape: Vec<Dim>) -> (Self, ValueId) {
        let mut graph = Graph::new("sketch");
        let x = graph.add_input("x", DType::F32, shape).unwrap();
        (Self { graph }, x)
    }

    fn weight(&mut self, tensor: Tensor) -> ValueId {
        let name = format!("weight{}", self.graph.weights().count());
        self.graph.add_weight(&name, tensor).unwrap()
    }

    fn node(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        let name = format!("node{}", self.graph.nodes().count());
        self.graph.add_node(&name, op, inputs).unwrap()
    }

    fn quantize(&mut self, x: ValueId, scale: f32) -> ValueId {
        let parameters = [self.weight(Tensor::scalar(scale)), self.weight(Tensor::scalar(0i8))];
        self.node(Op::Quantize(Quantize::default()), &[x, parameters[0], parameters[1]])
    }

    fn dequantize(&mut self, x: ValueId, scale: f32) -> ValueId {
        let parameters = [self.weight(Tensor::scalar(scale)), self.weight(Tensor::scalar(0i8))];
        self.node(Op::Dequantize(Dequantize::default()), &[x, parameters[0], parameters[1]])
    }

    /// A dequantized int8 matrix with powers of two as scales of its columns.
    fn int8_weight(&mut self, shape: [usize; 2]) -> ValueId {
        let integers = Tensor::from_fn(&shape, |i| ((i * 37 + 5) % 255) as u8 as i8);
        let scales = Tensor::from_fn(&[shape[1]], |i| 2f32.powi(-6 - (i % 3) as i32));
        let zeros = Tensor::from_fn(&[shape[1]], |_| 0i8);
        let inputs = [integers, scales, zeros].map(|tensor| self.weight(tensor));
        self.node(Op::Dequantize(Dequantize { axis: Some(1) }), &inputs)
    }

    fn finish(mut self, outputs: &[ValueId]) -> Graph {
        self.graph.set_outputs(outputs);
        self.graph
    }
}

fn options(level: Level) -> CompileOptions {
    CompileOptions { level, threads: NonZeroUsize::new(2), ..CompileOptions::default() }
}

fn run(model: &CompiledModel, inputs: &[(&str, Tensor)]) -> Vec<Tensor> {
    let borrowed: Vec<(&str, &Tensor)> =
        inputs.iter().map(|(name, tensor)| (*name, tensor)).collect();
    model.session().run(&borrowed).unwrap()
}

/// How often a pass fired.
fn fired(model: &CompiledModel, pass: &str) -> usize {
    model.passes().iter().find(|report| report.name == pass).unwrap().fired
}

fn floats(tensor: &Tensor) -> &[f32] {
    tensor.elements().unwrap()
}

/// Fails unless all outputs are within `tolerance·max(1, |expected|)`; integers within 1 step.
#[track_caller]
fn assert_close(found: &[Tensor], expected: &[Tensor], tolerance: f32) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert_eq!((found.dtype(), found.shape()), (expected.dtype(), expected.shape()));
        if found.dtype() != DType::F32 {
            assert_eq!(found, expected);
            continue;
        }
        for (index, (a, b)) in floats(found).iter().zip(floats(expected)).enumerate() {
            let close = (a - b).abs() <= tolerance * b.abs().max(1.0);
            assert!(close, "element {index}: expected {b}, found {a}");
        }
    }
}

/// Compiles at every level and compares with the reference; returns the model of the highest.
#[track_caller]
fn check(graph: &Graph, inputs: &[(&str, Tensor)], tolerance: f32) -> CompiledModel {
    let expected = reference::evaluate(graph, inputs).unwrap();
    for level in [Level::O0, Level::O1, Level::O2] {
        let model = compile(graph, &options(level)).unwrap();
        assert_close(&run(&model, inputs), &expected, tolerance);
    }
    let model = compile(graph, &options(Level::O3)).unwrap();
    assert_close(&run(&model, inputs), &expected, tolerance);
    model
}
