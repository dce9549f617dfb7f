//! What each layer shape costs in time on the runtime that will serve, measured here.

use std::collections::BTreeMap;

use anyhow::Result;
use graph::bert::{self, BertConfig, BertLayer};
use graph::rewrite::quantize::{self, QuantizeOptions};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::space::{Candidate, Layer};
use crate::predict;

/// Layers of the two graphs whose difference is the cost of [`SPAN`] layers.
const SHALLOW: usize = 1;
const SPAN: usize = 2;

/// Rows of the word table of measured graphs.
const WORDS: usize = 1_000;

/// Arithmetic that latency is measured with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arithmetic {
    /// 32-bit floats.
    Float,
    /// 8-bit integers, as `qat` and `quantize` make them.
    #[default]
    Int8,
}

/// Latency of whole architectures as a sum of measured parts, in milliseconds at batch 1.
#[derive(Debug)]
pub(super) struct LatencyTable {
    /// Sizes that candidates share: vocabulary, positions, head width, labels.
    base: BertConfig,
    sequence: usize,
    threads: usize,
    arithmetic: Arithmetic,
    layers: BTreeMap<(usize, Layer), f64>,
    /// Embedding, pooling and classifier, by hidden width.
    rest: BTreeMap<usize, f64>,
}

impl LatencyTable {
    /// An empty table; entries are measured when they are first asked for.
    pub(super) fn new(
        supernet: &BertConfig,
        sequence: usize,
        threads: usize,
        arithmetic: Arithmetic,
    ) -> Self {
        // A lookup costs the same in a small table, which is built faster.
        let base =
            BertConfig { vocabulary_size: WORDS.min(supernet.vocabulary_size), ..supernet.clone() };
        let (layers, rest) = (BTreeMap::new(), BTreeMap::new());
        Self { base, sequence, threads, arithmetic, layers, rest }
    }

    /// The predicted latency of `candidate`, in milliseconds.
    pub(super) fn predict(&mut self, candidate: &Candidate) -> Result<f64> {
        let mut total = 0.0;
        for &layer in &candidate.layers {
            total += self.layer(candidate.hidden, layer)?;
        }
        Ok(total + self.rest[&candidate.hidden])
    }

    /// The latency of the whole of `candidate`, measured end to end, in milliseconds.
    pub(super) fn measure(&self, candidate: &Candidate) -> Result<f64> {
        let layers = candidate.layers.iter().map(|&layer| layer.into()).collect();
        self.time(candidate.hidden, layers)
    }

    /// Number of layer shapes in the table.
    pub(super) fn len(&self) -> usize {
        self.layers.len()
    }

    fn layer(&mut self, hidden: usize, layer: Layer) -> Result<f64> {
        if let Some(&known) = self.layers.get(&(hidden, layer)) {
            return Ok(known);
        }
        let shallow = self.time(hidden, vec![layer.into(); SHALLOW])?;
        let deep = self.time(hidden, vec![layer.into(); SHALLOW + SPAN])?;
        let one = ((deep - shallow) / SPAN as f64).max(0.0);
        self.layers.insert((hidden, layer), one);
        // The widest layer tells the rest apart from the layers worst, so the first one decides.
        self.rest.entry(hidden).or_insert((shallow - one * SHALLOW as f64).max(0.0));
        Ok(one)
    }

    fn time(&self, hidden: usize, layers: Vec<BertLayer>) -> Result<f64> {
        let config = BertConfig { hidden, layers, ..self.base.clone() };
        // Speed does not depend on the weights' values.
        let mut graph = bert::build(&config, &mut bert::initial_weights(0))?;
        if self.arithmetic == Arithmetic::Int8 {
            quantize::insert(&mut graph, &QuantizeOptions { float: Vec::new(), embeddings: true })?;
            quantize::fold(&mut graph)?;
        }
        predict::median_latency_ms(&graph, self.sequence, self.threads)
    }
}
