//! Pruning while training: at a few steps the least important parts are masked, more each time.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use graph::structure::{self, EncoderLayer, Linear};
use graph::{Graph, Tensor};
use serde::{Deserialize, Serialize};
use training::Batch;
use training::Network;
use training::{Loss, Objective, Step};

use super::choose::{UNIT_MULTIPLE, cubic, kept};
use super::{Structured, structured};
use crate::importance::{Importance, Probe, Scores, l1, taylor};

/// What is kept of each part, a list a layer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
pub(super) struct Kept {
    /// Heads by layer; empty when heads are not pruned.
    pub(super) heads: Vec<Vec<usize>>,
    /// Units by layer; empty when units are not pruned.
    pub(super) units: Vec<Vec<usize>>,
}

/// Scores all parts of the network now and keeps the share that is due after `progress`.
pub(super) fn choose(
    heads: Option<&Structured>,
    units: Option<&Structured>,
    progress: f64,
    network: &Network,
    probe: &Probe<'_>,
) -> Result<Kept> {
    let uses = |settings: Option<&Structured>, method| {
        settings.is_some_and(|settings| settings.importance == method)
    };
    let wanted = |method| uses(heads, method) || uses(units, method);
    let l1 = if wanted(Importance::L1) { l1(&network.graph())? } else { Scores::default() };
    let taylor =
        if wanted(Importance::Taylor) { taylor(network, probe)? } else { Scores::default() };
    let part = |settings: Option<&Structured>, multiple, of: fn(&Scores) -> &Vec<Vec<f64>>| {
        settings.map_or_else(Vec::new, |settings| {
            let keep = 1.0 - cubic(1.0 - settings.keep.get(), progress);
            let scores = match settings.importance {
                Importance::L1 => &l1,
                Importance::Taylor => &taylor,
            };
            kept(of(scores), keep, settings.scope, multiple)
        })
    };
    Ok(Kept {
        heads: part(heads, 1, |scores| &scores.heads),
        units: part(units, UNIT_MULTIPLE, |scores| &scores.units),
    })
}

/// Masks that switch off all that is not kept, by weight.
fn masks(graph: &Graph, kept: &Kept) -> Result<BTreeMap<String, Tensor>> {
    let mut masks = BTreeMap::new();
    for (index, layer) in structure::encoder_layers(graph)?.iter().enumerate() {
        let EncoderLayer { attention, feed_forward, .. } = layer;
        if let Some(heads) = kept.heads.get(index) {
            let on = switches(heads, attention.heads, attention.head_size);
            for linear in [&attention.query, &attention.key, &attention.value] {
                mask_outputs(graph, linear, &on, &mut masks);
            }
            mask_inputs(graph, &attention.output, &on, &mut masks);
        }
        if let Some(units) = kept.units.get(index) {
            let on = switches(units, feed_forward.units, 1);
            mask_outputs(graph, &feed_forward.up, &on, &mut masks);
            mask_inputs(graph, &feed_forward.down, &on, &mut masks);
        }
    }
    Ok(masks)
}

/// 1 for each of `width` columns of a kept part, 0 for the others.
fn switches(kept: &[usize], parts: usize, width: usize) -> Vec<f32> {
    let mut on = vec![0.0; parts * width];
    for &part in kept {
        on[part * width..(part + 1) * width].fill(1.0);
    }
    on
}

fn mask_outputs(graph: &Graph, linear: &Linear, on: &[f32], masks: &mut BTreeMap<String, Tensor>) {
    let columns = on.len();
    let matrix = Tensor::from_fn(&[linear.inputs, columns], |index| on[index % columns]);
    masks.insert(graph.value_name(linear.weight).to_owned(), matrix);
    if let Some(bias) = linear.bias {
        masks.insert(
            graph.value_name(bias).to_owned(),
            Tensor::from_fn(&[columns], |index| on[index]),
        );
    }
}

fn mask_inputs(graph: &Graph, linear: &Linear, on: &[f32], masks: &mut BTreeMap<String, Tensor>) {
    let columns = linear.outputs;
    let matrix = Tensor::from_fn(&[on.len(), columns], |index| on[index / columns]);
    masks.insert(graph.value_name(linear.weight).to_owned(), matrix);
}

/// An objective that prunes on the way, at `events` evenly spaced steps.
pub(super) struct Gradual<'a, O> {
    inner: O,
    params: &'a super::Params,
    events: u64,
    probe: Probe<'a>,
    /// What has been kept so far; masks follow from it.
    kept: Option<Kept>,
    /// Whether the network has the masks of `kept`; not after a resume.
    applied: bool,
    report: Box<dyn Fn(u64, f64) + 'a>,
}

impl<'a, O: Objective> Gradual<'a, O> {
    /// Wraps `inner`; `report` is told the step and the share of units that are gone.
    pub(super) fn new(
        inner: O,
        params: &'a super::Params,
        events: u64,
        probe: Probe<'a>,
        report: impl Fn(u64, f64) + 'a,
    ) -> Self {
        Self { inner, params, events, probe, kept: None, applied: true, report: Box::new(report) }
    }

    /// Puts the masks on the network, where that is due.
    fn apply(&mut self, network: &mut Network) -> Result<()> {
        if let Some(kept) = self.kept.as_ref().filter(|_| !self.applied) {
            for (name, mask) in masks(network.source(), kept)? {
                network.set_mask(&name, &mask)?;
            }
            self.applied = true;
        }
        Ok(())
    }

    /// What was kept in the end.
    pub(super) fn into_kept(self) -> Option<Kept> {
        self.kept
    }
}

impl<O: Objective> Objective for Gradual<'_, O> {
    fn extra(&self) -> Vec<(String, Tensor)> {
        self.inner.extra()
    }

    fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> Result<Loss> {
        self.inner.loss(network, batch, step)
    }

    fn before_step(&mut self, network: &mut Network, step: &Step) -> Result<()> {
        self.inner.before_step(network, step)?;
        self.apply(network)
    }

    fn after_step(&mut self, network: &mut Network, step: &Step) -> Result<()> {
        self.inner.after_step(network, step)?;
        // Events end at the last step, so that the masks are final when training ends.
        let event = |index: u64| index * self.events / step.total.max(1);
        let due = event(step.index + 1);
        if due > event(step.index) {
            let progress = due as f64 / self.events as f64;
            let (heads, units) = (self.params.heads.as_ref(), self.params.units.as_ref());
            let kept = choose(heads, units, progress, network, &self.probe)?;
            (self.report)(step.index, structured::share_gone(network.source(), &kept)?);
            self.kept = Some(kept);
            self.applied = false;
        }
        self.apply(network)
    }

    fn descent_rate(&self, extra: &str, step: &Step) -> Option<f64> {
        self.inner.descent_rate(extra, step)
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!({ "inner": self.inner.state(), "kept": self.kept })
    }

    fn restore(&mut self, state: &serde_json::Value) -> Result<()> {
        self.inner.restore(&state["inner"])?;
        let kept = serde_json::from_value(state["kept"].clone());
        self.kept = kept.context("the checkpoint is of another stage")?;
        self.applied = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use graph::bert::{self, BertConfig, BertLayer};
    use training::{Device, Examples, NetworkOptions};

    use super::*;
    use crate::prune::choose::Scope;
    use crate::range::Fraction;

    #[test]
    fn as_many_heads_stay_as_asked_for_and_units_in_multiples_of_eight() {
        let layer = BertLayer { heads: 12, intermediate: 48 };
        let config = BertConfig { positions: 8, ..BertConfig::uniform(20, 24, 1, layer) };
        let graph = bert::build(&config, &mut bert::initial_weights(1)).unwrap();
        let network = Network::new(&graph, &Device::cpu(), &NetworkOptions::frozen()).unwrap();
        let rows = Examples { ids: Vec::new(), labels: Vec::new() };
        let probe = Probe { examples: &rows, batches: Vec::new() };
        for (keep, heads, units) in [(0.99, 12, 48), (0.9, 11, 40), (0.75, 9, 40), (0.5, 6, 24)] {
            let settings = Structured {
                keep: Fraction::new(keep),
                importance: Importance::L1,
                scope: Scope::Layer,
            };
            let (parts, all) = (Some(&settings), 1.0);
            let kept = choose(parts, parts, all, &network, &probe).unwrap();
            assert_eq!((kept.heads[0].len(), kept.units[0].len()), (heads, units), "{keep}");
        }
    }
}
