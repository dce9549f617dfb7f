//! Training with a teacher: its logits, and what its layers compute on the way to them.

use burn::tensor::Tensor;
use graph::bert::normal;

use crate::device::Device;
use crate::examples::Batch;
use crate::loss::{self, Distillation};
use crate::network::{Mode, Network, Values};
use crate::objective::{Loss, Objective, Step};
use crate::temperature::Temperature;

/// Name of the learned temperature among a network's extra tensors.
const TEMPERATURE: &str = "distill.temperature";

/// What a teacher gives to a student.
#[derive(Debug)]
pub struct Teacher {
    /// One row of logits a training row, in the order of the examples.
    pub logits: Vec<Vec<f32>>,
    /// The teacher itself, frozen; needed where layers are matched.
    pub network: Option<Network>,
}

/// A pair of values that are to become alike, by their names in the student and the teacher.
#[derive(Clone, Debug, PartialEq)]
pub enum Match {
    /// Hidden states `[batch, sequence, width]`: mean squared error, through a learned projection
    /// where the widths differ (TinyBERT, arXiv:1909.10351).
    Hidden {
        /// The student's value.
        student: String,
        /// The teacher's value.
        teacher: String,
        /// Factor in the loss.
        weight: f64,
    },
    /// Attention scores before softmax `[batch, heads, sequence, sequence]`: mean squared error.
    Attention {
        /// The student's value.
        student: String,
        /// The teacher's value.
        teacher: String,
        /// Factor in the loss.
        weight: f64,
    },
    /// Relations among queries, keys or values `[batch, sequence, width]`: KL divergence
    /// (MiniLMv2, arXiv:2012.15828).
    Relations {
        /// The student's value.
        student: String,
        /// The teacher's value.
        teacher: String,
        /// Heads that both are cut into; divides both widths.
        heads: usize,
        /// Factor in the loss.
        weight: f64,
    },
}

impl Match {
    fn names(&self) -> (&str, &str) {
        match self {
            Self::Hidden { student, teacher, .. }
            | Self::Attention { student, teacher, .. }
            | Self::Relations { student, teacher, .. } => (student, teacher),
        }
    }

    /// Name of the learned projection.
    fn projection(&self) -> String {
        format!("distill.projection.{}", self.names().0)
    }

    fn loss(
        &self,
        network: &Network,
        student: &Values,
        teacher: &Values,
        mask: Tensor<2>,
    ) -> anyhow::Result<Tensor<1>> {
        let (s, t) = self.names();
        let (loss, weight) = match self {
            Self::Hidden { weight, .. } => {
                let projection = network.parameter::<2>(&self.projection()).ok();
                (loss::hidden(student.get(s)?, teacher.get(t)?, projection, mask)?, weight)
            }
            Self::Attention { weight, .. } => {
                (loss::attention(student.get(s)?, teacher.get(t)?, mask)?, weight)
            }
            Self::Relations { heads, weight, .. } => {
                (loss::relations(student.get(s)?, teacher.get(t)?, *heads, mask)?, weight)
            }
        };
        Ok(loss * *weight)
    }
}

/// α·T²·KL + (1 − α)·CE + Σ weight·match.
#[derive(Debug)]
pub struct Distill {
    distillation: Distillation,
    temperature: Temperature,
    teacher: Teacher,
    matches: Vec<Match>,
    extra: Vec<(String, graph::Tensor)>,
}

impl Distill {
    /// The objective of a student with these `matches`. Projections start as `seed` says.
    ///
    /// # Errors
    ///
    /// When a matched value is missing in either graph, or layers are matched without a teacher
    /// network.
    pub fn new(
        distillation: Distillation,
        temperature: Temperature,
        teacher: Teacher,
        student: &graph::Graph,
        matches: Vec<Match>,
        seed: u64,
    ) -> anyhow::Result<Self> {
        let mut extra = Vec::new();
        if let Some(parameter) = temperature.initial_parameter() {
            extra.push((TEMPERATURE.to_owned(), graph::Tensor::from_fn(&[1], |_| parameter)));
        }
        for pair in &matches {
            let network = teacher.network.as_ref().ok_or_else(|| {
                anyhow::anyhow!(
                    "layers are matched, so the teacher itself is needed, not only its logits"
                )
            })?;
            let (s, t) = pair.names();
            let (from, to) = (width(student, s)?, width(network.source(), t)?);
            if matches!(pair, Match::Hidden { .. }) && from != to {
                let deviation = 1.0 / (from as f64).sqrt();
                let name = pair.projection();
                let projection = normal(seed, &name, &[from, to], deviation);
                extra.push((name, projection));
            }
        }
        Ok(Self { distillation, temperature, teacher, matches, extra })
    }

    fn student_taps<'a>(&'a self, logits: &'a str) -> Vec<&'a str> {
        std::iter::once(logits).chain(self.matches.iter().map(|pair| pair.names().0)).collect()
    }

    /// The teacher's matched values for a batch; `None` where nothing is matched.
    fn teacher_values(&self, batch: &Batch) -> anyhow::Result<Option<Values>> {
        let Some(network) = self.teacher.network.as_ref().filter(|_| !self.matches.is_empty())
        else {
            return Ok(None);
        };
        let taps: Vec<&str> = self.matches.iter().map(|pair| pair.names().1).collect();
        Ok(Some(network.forward(&batch.inputs(), &taps, Mode::Evaluate)?))
    }
}

/// The last dimension of a value.
fn width(graph: &graph::Graph, name: &str) -> anyhow::Result<usize> {
    let id = graph.find(name);
    let id =
        id.ok_or_else(|| anyhow::anyhow!("graph `{}` has no value `{name}` to match", graph.name))?;
    Ok(graph.value_type(id).shape.last().and_then(graph::Dim::fixed).unwrap_or(0))
}

impl Objective for Distill {
    fn extra(&self) -> Vec<(String, graph::Tensor)> {
        self.extra.clone()
    }

    fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> anyhow::Result<Loss> {
        let device: &Device = network.device();
        let name = super::logits_name(network);
        let student = network.forward(&batch.inputs(), &self.student_taps(name), step.mode())?;
        let logits = student.get::<2>(name)?;
        let target = super::rows_of(&self.teacher.logits, batch, device)?;
        let parameter = network.parameter::<1>(TEMPERATURE).ok();
        let temperature = self.temperature.of_batch(step.progress(), &logits, &target, parameter);
        let labels = super::labels(batch, device);
        let distilled = self.distillation.loss(logits, target, labels, temperature.clone())?;
        let mut loss = Loss::new(distilled.total)
            .with("soft-loss", distilled.soft)
            .with("hard-loss", distilled.hard)
            .with("temperature", temperature.mean());
        if let Some(teacher) = self.teacher_values(batch)? {
            let mask = super::mask(batch, device);
            let mut sum = Tensor::zeros([1], device.burn());
            for pair in &self.matches {
                sum = sum + pair.loss(network, &student, &teacher, mask.clone())?;
            }
            loss.total = loss.total + sum.clone();
            loss = loss.with("match-loss", sum);
        }
        Ok(loss)
    }

    fn gradient_scale(&self, extra: &str, step: &Step) -> f32 {
        if extra == TEMPERATURE { self.temperature.gradient_scale(step.progress()) } else { 1.0 }
    }
}
