//! What a candidate costs, and how good it is with its share of the supernet's weights.

use std::collections::BTreeMap;
use std::num::NonZeroU64;

use anyhow::Result;
use engine::{Metric, StageContext};
use graph::{Bindings, Graph, counts};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::Examples;
use training::metrics::Classification;

use super::evolution::Judge;
use super::latency::LatencyTable;
use super::space::Candidate;
use super::supernet::Supernet;
use crate::predict;
use crate::range::Positive;

/// What a candidate must keep to.
#[derive(Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Constraints {
    /// Most weights, embeddings included.
    params_max: Option<NonZeroU64>,
    /// Most floating-point operations for one text.
    flops_max: Option<NonZeroU64>,
    /// Highest predicted latency of one text, in milliseconds.
    latency_ms_max: Option<Positive>,
}

impl Constraints {
    /// Refuses, before anything is trained, a space whose smallest candidate breaks one of these.
    pub(super) fn check(
        &self,
        smallest: &Candidate,
        supernet: &Supernet,
        table: &mut LatencyTable,
        sequence: usize,
    ) -> Result<()> {
        let graph = supernet.subnetwork(smallest)?;
        let counted = |limit: Option<NonZeroU64>| limit.map(|limit| limit.get() as f64);
        let mut found = vec![
            ("params-max", counted(self.params_max), graph.weight_count() as f64, "weights"),
            ("flops-max", counted(self.flops_max), flops(&graph, sequence)? as f64, "FLOP"),
        ];
        if let Some(limit) = &self.latency_ms_max {
            let latency_ms = table.predict(smallest)?;
            found.push(("latency-ms-max", Some(limit.get()), latency_ms, "ms on this machine"));
        }
        let broken: Vec<String> = found
            .iter()
            .filter_map(|(name, limit, value, unit)| {
                let limit = limit.filter(|limit| value > limit)?;
                // Three digits say more than a noisy measurement knows; the others are whole. Up,
                // so that it is not the limit.
                let value = (value * 1e3).ceil() / 1e3;
                Some(format!("`{name}` is {limit}, the smallest candidate has {value} {unit}"))
            })
            .collect();
        anyhow::ensure!(
            broken.is_empty(),
            "no candidate keeps to the constraints: {}; loosen them or add smaller choices to `space`",
            broken.join("; ")
        );
        Ok(())
    }
}

/// A candidate with everything known about it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) struct Evaluated {
    candidate: Candidate,
    weights: u64,
    flops: u64,
    /// Sum of the latency table's entries, in milliseconds.
    latency_ms_predicted: f64,
    /// Of the best candidates, in milliseconds.
    latency_ms_measured: Option<f64>,
    validation_accuracy: f64,
    validation_cross_entropy: f64,
    /// No other candidate is both faster and better.
    pareto: bool,
}

/// Cost of a candidate.
#[derive(Debug, Clone, Copy)]
struct Cost {
    weights: u64,
    flops: u64,
    latency_ms: f64,
}

/// Judges candidates by the validation rows, on the runtime.
pub(super) struct SubnetworkJudge<'a> {
    supernet: &'a Supernet,
    constraints: &'a Constraints,
    table: LatencyTable,
    sequence: usize,
    validation: &'a Examples,
    context: &'a StageContext,
    costs: BTreeMap<Candidate, Cost>,
    evaluated: Vec<Evaluated>,
}

impl<'a> SubnetworkJudge<'a> {
    pub(super) fn new(
        supernet: &'a Supernet,
        constraints: &'a Constraints,
        table: LatencyTable,
        sequence: usize,
        validation: &'a Examples,
        context: &'a StageContext,
    ) -> Self {
        let (costs, evaluated) = (BTreeMap::new(), Vec::new());
        Self { supernet, constraints, table, sequence, validation, context, costs, evaluated }
    }

    fn cost(&mut self, candidate: &Candidate) -> Result<Cost> {
        if let Some(&known) = self.costs.get(candidate) {
            return Ok(known);
        }
        let graph = self.supernet.subnetwork(candidate)?;
        let cost = Cost {
            weights: graph.weight_count() as u64,
            flops: flops(&graph, self.sequence)?,
            latency_ms: self.table.predict(candidate)?,
        };
        self.costs.insert(candidate.clone(), cost);
        Ok(cost)
    }

    /// Every candidate that was evaluated, in order.
    pub(super) fn evaluated(&self) -> &[Evaluated] {
        &self.evaluated
    }

    /// Marks the Pareto front, measures the best candidates end to end, and reports all.
    pub(super) fn report(&mut self, measured: usize) -> Result<()> {
        mark_front(&mut self.evaluated);
        let mut order: Vec<usize> = (0..self.evaluated.len()).collect();
        let entropy = |index: &usize| self.evaluated[*index].validation_cross_entropy;
        order.sort_by(|a, b| entropy(a).total_cmp(&entropy(b)));
        let mut errors = Vec::new();
        for &index in order.iter().take(measured) {
            let measured = self.table.measure(&self.evaluated[index].candidate)?;
            let predicted = self.evaluated[index].latency_ms_predicted;
            errors.push((predicted - measured).abs() / measured);
            self.evaluated[index].latency_ms_measured = Some(measured);
        }
        for (index, candidate) in self.evaluated.iter().enumerate() {
            let point = |name: &str, value: f64| self.context.series(name, index as u64, value);
            point("nas/candidate-accuracy", candidate.validation_accuracy);
            point("nas/candidate-latency", candidate.latency_ms_predicted);
            point("nas/pareto", f64::from(u8::from(candidate.pareto)));
        }
        let metric = |name: &str, value: f64, unit: &str, samples: usize| {
            let (name, unit, samples) =
                (format!("nas/{name}"), unit.to_owned(), Some(samples as u64));
            self.context.metric(Metric { name, value, unit, samples, ..Metric::default() });
        };
        let mean = errors.iter().sum::<f64>() / errors.len().max(1) as f64;
        metric("latency-error", mean, "fraction of measured", errors.len());
        metric("candidates", self.evaluated.len() as f64, "count", self.evaluated.len());
        metric("layer-shapes", self.table.len() as f64, "count", self.table.len());
        Ok(())
    }
}

fn flops(graph: &Graph, sequence: usize) -> Result<u64> {
    Ok(counts::count(graph, &Bindings::new([("batch", 1), ("sequence", sequence)]))?.flops)
}

impl Judge for SubnetworkJudge<'_> {
    fn allows(&mut self, candidate: &Candidate) -> Result<bool> {
        let within =
            |limit: Option<NonZeroU64>, value: u64| limit.is_none_or(|limit| value <= limit.get());
        // Counting is cheap, latency is not: it is asked for last, and only when it matters.
        let graph = self.supernet.subnetwork(candidate)?;
        if !within(self.constraints.params_max, graph.weight_count() as u64)
            || !within(self.constraints.flops_max, flops(&graph, self.sequence)?)
        {
            return Ok(false);
        }
        match self.constraints.latency_ms_max {
            None => Ok(true),
            Some(limit) => Ok(self.cost(candidate)?.latency_ms <= limit.get()),
        }
    }

    /// Negative validation cross-entropy: smoother than accuracy on a few hundred rows.
    fn fitness(&mut self, candidate: &Candidate) -> Result<f64> {
        let cost = self.cost(candidate)?;
        let graph = self.supernet.subnetwork(candidate)?;
        let compiled = predict::compile(&graph, self.context.threads())?;
        let logits = predict::logits(&compiled, self.validation)?;
        let n_classes = logits.first().map_or(0, Vec::len);
        let scores = Classification::from_logits(&logits, &self.validation.labels, n_classes)?;
        anyhow::ensure!(!self.context.interrupted(), engine::Interrupted);
        self.evaluated.push(Evaluated {
            candidate: candidate.clone(),
            weights: cost.weights,
            flops: cost.flops,
            latency_ms_predicted: cost.latency_ms,
            latency_ms_measured: None,
            validation_accuracy: scores.accuracy,
            validation_cross_entropy: scores.cross_entropy,
            pareto: false,
        });
        self.context.progress(engine::Progress {
            step: self.evaluated.len() as u64,
            loss: Some(scores.cross_entropy),
            phase: "search".to_owned(),
            rate_unit: "candidates".to_owned(),
            ..engine::Progress::default()
        });
        Ok(-scores.cross_entropy)
    }
}

/// Marks the candidates that no other beats in both latency and accuracy.
fn mark_front(evaluated: &mut [Evaluated]) {
    let points: Vec<(f64, f64)> =
        evaluated.iter().map(|one| (one.latency_ms_predicted, one.validation_accuracy)).collect();
    for (index, one) in evaluated.iter_mut().enumerate() {
        let (latency, accuracy) = points[index];
        let beaten = points.iter().any(|&(other, better)| {
            other <= latency && better >= accuracy && (other < latency || better > accuracy)
        });
        one.pareto = !beaten;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_is_what_nothing_beats() {
        let one = |latency_ms_predicted, validation_accuracy| Evaluated {
            candidate: Candidate { hidden: 8, layers: Vec::new() },
            weights: 0,
            flops: 0,
            latency_ms_predicted,
            latency_ms_measured: None,
            validation_accuracy,
            validation_cross_entropy: 0.0,
            pareto: false,
        };
        let mut all =
            vec![one(1.0, 0.7), one(2.0, 0.8), one(3.0, 0.8), one(0.5, 0.6), one(2.0, 0.8)];
        mark_front(&mut all);
        let front: Vec<bool> = all.iter().map(|one| one.pareto).collect();
        assert_eq!(front, [true, true, false, true, true]);
    }
}
