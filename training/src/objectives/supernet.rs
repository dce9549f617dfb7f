//! Training many networks at once that share their weights (slimmable networks' sandwich rule, Yu &
//! Huang 2019, arXiv:1903.05134, §3.1): each step trains the largest, the smallest and a few random
//! ones, all towards the teacher.

use burn::tensor::Tensor;
use graph::Graph;
use graph::bert::WeightSlice;

use crate::examples::Batch;
use crate::loss::Distillation;
use crate::network::Network;
use crate::objective::{Loss, Objective, Step};

/// A network inside the supernet.
#[derive(Clone, Debug)]
pub struct Subnetwork {
    /// Its graph; only names and shapes count, the weights are the supernet's.
    pub graph: Graph,
    /// Which parts of the supernet's weights it uses.
    pub slices: Vec<WeightSlice>,
}

/// Chooses the subnetworks of a step; the same step has to give the same ones.
pub type Choose = Box<dyn FnMut(&Step) -> anyhow::Result<Vec<Subnetwork>> + Send>;

/// The mean distillation loss of the whole supernet and the step's subnetworks.
pub struct Supernet {
    distillation: Distillation,
    temperature: f64,
    logits: Vec<Vec<f32>>,
    choose: Choose,
}

impl Supernet {
    /// `logits` are the teacher's, one row a training row; `temperature` > 0 softens both sides.
    pub fn new(
        distillation: Distillation,
        temperature: f64,
        logits: Vec<Vec<f32>>,
        choose: Choose,
    ) -> Self {
        Self { distillation, temperature, logits, choose }
    }
}

impl std::fmt::Debug for Supernet {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Supernet")
            .field("distillation", &self.distillation)
            .finish_non_exhaustive()
    }
}

impl Objective for Supernet {
    fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> anyhow::Result<Loss> {
        let device = network.device();
        let name = super::logits_name(network);
        let (inputs, labels) = (batch.inputs(), super::labels(batch, device));
        let target = super::rows_of(&self.logits, batch, device)?;
        let temperature = device.tensor([1], vec![self.temperature as f32]);
        let loss = |logits: Tensor<2>| {
            self.distillation.loss(logits, target.clone(), labels.clone(), temperature.clone())
        };
        let largest = loss(network.forward(&inputs, &[name], step.mode())?.get(name)?)?.total;
        let subnetworks = (self.choose)(step)?;
        let mut sum = largest.clone();
        for subnetwork in &subnetworks {
            let Subnetwork { graph, slices } = subnetwork;
            let values =
                network.forward_subnetwork(graph, slices, &inputs, &[name], step.mode())?;
            sum = sum + loss(values.get(name)?)?.total;
        }
        let total = sum / (1.0 + subnetworks.len() as f64);
        Ok(Loss::new(total).with("largest-loss", largest))
    }
}
