//! The encoders, with random weights, and our ways to run them: speed does not depend on values.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;

use graph::bert::{BertConfig, BertLayer, Pooling, build, initial_weights};
use graph::rewrite::observer::{Method, Observer};
use graph::rewrite::quantize::{
    PointKind, QuantizeOptions, fold, insert, points, set_activation_scale,
};
use graph::{Bindings, Graph, Tensor, counts, onnx};
use runtime::{CompileOptions, CompiledModel, Level, Session, compile};

use crate::Cell;
use crate::table::{Contender, Precision};

const VOCABULARY: usize = 30_522;
/// Ids below are special tokens and unused ones.
const FIRST_TOKEN: usize = 1000;
const SEED: u64 = 1;

pub(crate) struct Model {
    pub(crate) name: &'static str,
    layers: usize,
    hidden: usize,
    intermediate: usize,
    pub(crate) cells: &'static [Cell],
}

pub(crate) const MODELS: [Model; 3] = [
    Model {
        name: "minilm",
        layers: 6,
        hidden: 384,
        intermediate: 1536,
        cells: &[(1, 32), (1, 128), (8, 32), (8, 128), (32, 128)],
    },
    Model {
        name: "base",
        layers: 12,
        hidden: 768,
        intermediate: 3072,
        cells: &[(1, 32), (1, 128), (8, 32), (8, 128)],
    },
    Model {
        name: "tiny",
        layers: 4,
        hidden: 312,
        intermediate: 1200,
        cells: &[(1, 32), (1, 128), (8, 128)],
    },
];

/// One model as we run it.
pub(crate) struct Variants {
    pub(crate) model: &'static Model,
    float: Graph,
    integer: Graph,
    /// f32 at O0, int8 at O1, f32, int8, int8 with the rest in bf16, bf16.
    compiled: [CompiledModel; 6],
}

impl Variants {
    pub(crate) fn new(model: &'static Model, threads: usize) -> anyhow::Result<Self> {
        let layer = BertLayer { heads: 12, intermediate: model.intermediate };
        let config = BertConfig::uniform(VOCABULARY, model.hidden, model.layers, layer);
        let config = BertConfig { pooling: Pooling::Cls, ..config };
        let float = build(&config, &mut initial_weights(SEED))?;
        let integer = quantized(&float)?;
        let options = CompileOptions {
            threads: NonZeroUsize::new(threads),
            level: Level::O3,
            ..CompileOptions::default()
        };
        let unfused = CompileOptions { level: Level::O0, ..options.clone() };
        // Without anything, it would dequantize all weights in every run.
        let folded = CompileOptions { level: Level::O1, ..options.clone() };
        let bf16 = CompileOptions { precision: runtime::Precision::Bf16, ..options.clone() };
        let compiled = [
            compile(&float, &unfused)?,
            compile(&integer, &folded)?,
            compile(&float, &options)?,
            compile(&integer, &options)?,
            compile(&integer, &bf16)?,
            compile(&float, &bf16)?,
        ];
        Ok(Self { model, float, integer, compiled })
    }

    /// Each way with a session to run it.
    pub(crate) fn contenders(&self) -> [(Contender, Session); 6] {
        let names = [
            ("ours-unfused", Precision::F32),
            ("ours-int8-unfused", Precision::Int8),
            ("ours-f32", Precision::F32),
            ("ours-int8", Precision::Int8),
            ("ours-int8-bf16", Precision::Int8Bf16),
            ("ours-bf16", Precision::Bf16),
        ];
        let mut names = names.into_iter();
        self.compiled.each_ref().map(|compiled| {
            let (name, precision) = names.next().expect("a name for each");
            (Contender::new(name, precision), compiled.session())
        })
    }

    /// Writes what the peers read.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        for (suffix, graph) in [("onnx", &self.float), ("qdq.onnx", &self.integer)] {
            let path = folder.join(format!("{}.{suffix}", self.model.name));
            fs::write(path, onnx::export(graph)?)?;
        }
        Ok(())
    }

    /// Operations of the matrix products.
    pub(crate) fn flops(&self, (batch, sequence): Cell) -> anyhow::Result<f64> {
        let bindings = Bindings::new([("batch", batch), ("sequence", sequence)]);
        let nodes = counts::count(&self.float, &bindings)?.nodes;
        let products = nodes.iter().filter(|node| node.op == "MatMul");
        Ok(products.map(|node| node.flops as f64).sum())
    }
}

/// Token ids without padding and their mask; `peers.py` makes the same.
pub(crate) fn inputs((batch, sequence): Cell) -> (Tensor, Tensor) {
    let id = |index: usize| (FIRST_TOKEN + index * 7919 % (VOCABULARY - FIRST_TOKEN)) as i64;
    let shape = [batch, sequence];
    (Tensor::from_fn(&shape, id), Tensor::from_fn(&shape, |_| 1i64))
}

/// The graph in 8-bit integers, its scales from one text.
fn quantized(float: &Graph) -> anyhow::Result<Graph> {
    let mut graph = float.clone();
    insert(&mut graph, &QuantizeOptions { float: Vec::new(), embeddings: true })?;
    let points = points(&graph);
    let activations = points.iter().filter(|point| point.kind == PointKind::Activation);
    let (values, scales): (Vec<_>, Vec<_>) = activations
        .map(|point| (graph.value_name(point.input), graph.value_name(point.scale).to_owned()))
        .unzip();
    for (scale, observed) in scales.iter().zip(observe(float, &values)?) {
        set_activation_scale(&mut graph, scale, observed)?;
    }
    fold(&mut graph)?;
    Ok(graph)
}

/// The scale that each of these values needs.
fn observe(graph: &Graph, names: &[&str]) -> anyhow::Result<Vec<f32>> {
    let mut graph = graph.clone();
    let values: Vec<_> = names.iter().filter_map(|name| graph.find(name)).collect();
    graph.set_outputs(&values);
    let options = CompileOptions { level: Level::O0, ..CompileOptions::default() };
    let (ids, mask) = inputs((1, 128));
    let mut session = compile(&graph, &options)?.session();
    let outputs = session.run(&[("input_ids", &ids), ("attention_mask", &mask)])?;
    let scale = |output: &Tensor| {
        let mut observer = Observer::new(Method::MinMax)?;
        observer.observe(output.elements()?)?;
        anyhow::Ok(observer.scale()?)
    };
    outputs.iter().map(scale).collect()
}
