//! Training with a teacher: its logits, and what its layers compute on the way to them.

use burn::tensor::Tensor;
use graph::bert::normal;

use crate::device::Device;
use crate::examples::Batch;
use crate::loss::{self, Distillation};
use crate::network::{Mode, Network, Values};
use crate::objective::{Loss, Objective, Step};
use crate::random::mix;
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
    /// where the widths differ or where it is asked for (TinyBERT, arXiv:1909.10351).
    Hidden {
        /// The student's value.
        student: String,
        /// The teacher's value.
        teacher: String,
        /// Factor in the loss.
        weight: f64,
        /// Whether dimensions of one width do not mean the same in both.
        projected: bool,
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

/// Word pieces that student and teacher do not get to see, others in each epoch: the few training
/// texts become many, and the teacher is asked about each (Tang et al. 2019, arXiv:1903.12136, §3.2).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Masking {
    /// Part of each text's word pieces, in 0..1; the first and the last always stay.
    pub share: f64,
    /// Id that takes their place.
    pub id: u32,
}

impl Masking {
    /// `batch` with other word pieces masked for each `seed`.
    pub(super) fn apply(self, batch: &Batch, seed: u64) -> Batch {
        let mut batch = batch.clone();
        let threshold = (self.share * 65_536.0).round() as u64;
        let rows = batch.ids.chunks_mut(batch.length).zip(batch.mask.chunks(batch.length));
        for (row, (ids, mask)) in rows.enumerate() {
            let length = mask.iter().filter(|&&mask| mask != 0).count();
            for (position, id) in ids.iter_mut().enumerate().take(length.saturating_sub(1)).skip(1)
            {
                let index = (row * batch.length + position) as u64;
                if mix(seed.wrapping_add(index)) & 0xffff < threshold {
                    *id = i64::from(self.id);
                }
            }
        }
        batch
    }
}

/// Purpose of the random numbers that choose what is masked.
const MASKING: u64 = 2;

/// α·T²·KL + (1 − α)·CE + Σ weight·match.
#[derive(Debug)]
pub struct Distill {
    distillation: Distillation,
    temperature: Temperature,
    teacher: Teacher,
    matches: Vec<Match>,
    masking: Option<Masking>,
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
            if matches!(pair, Match::Hidden { projected, .. } if *projected || from != to) {
                let deviation = 1.0 / (from as f64).sqrt();
                let name = pair.projection();
                let projection = normal(seed, &name, &[from, to], deviation);
                extra.push((name, projection));
            }
        }
        Ok(Self { distillation, temperature, teacher, matches, masking: None, extra })
    }

    /// Masks word pieces; the teacher's logits are then its answers to the masked texts.
    ///
    /// # Errors
    ///
    /// When there is no teacher network to answer.
    pub fn with_masking(self, masking: Masking) -> anyhow::Result<Self> {
        anyhow::ensure!(
            self.teacher.network.is_some(),
            "word pieces are masked, so the teacher itself is needed, not only its logits"
        );
        Ok(Self { masking: Some(masking), ..self })
    }

    fn student_taps<'a>(&'a self, logits: &'a str) -> Vec<&'a str> {
        std::iter::once(logits).chain(self.matches.iter().map(|pair| pair.names().0)).collect()
    }

    /// What the teacher says to a batch: its logits, and its matched values where there are any.
    fn teacher_says(
        &self,
        batch: &Batch,
        device: &Device,
    ) -> anyhow::Result<(Tensor<2>, Option<Values>)> {
        let known = || super::rows_of(&self.teacher.logits, batch, device);
        let asked = self.masking.is_some() || !self.matches.is_empty();
        let Some(network) = self.teacher.network.as_ref().filter(|_| asked) else {
            return Ok((known()?, None));
        };
        let logits = super::logits_name(network);
        let matched = self.matches.iter().map(|pair| pair.names().1);
        let taps: Vec<&str> = self.masking.iter().map(|_| logits).chain(matched).collect();
        let values = network.forward(&batch.inputs(), &taps, Mode::Evaluate)?;
        let target = match self.masking {
            Some(_) => values.get(logits)?,
            None => known()?,
        };
        Ok((target, Some(values)))
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
        let masked = self.masking.map(|masking| masking.apply(batch, step.random_seed(MASKING)));
        let batch = masked.as_ref().unwrap_or(batch);
        let device: &Device = network.device();
        let name = super::logits_name(network);
        let student = network.forward(&batch.inputs(), &self.student_taps(name), step.mode())?;
        let logits = student.get::<2>(name)?;
        let (target, teacher) = self.teacher_says(batch, device)?;
        let parameter = network.parameter::<1>(TEMPERATURE).ok();
        let temperature =
            self.temperature.of_batch(step.schedule_progress(), &logits, &target, parameter);
        let labels = super::labels(batch, device);
        let distilled = self.distillation.loss(logits, target, labels, temperature.clone())?;
        let mut loss = Loss::new(distilled.total)
            .with("soft-loss", distilled.soft)
            .with("hard-loss", distilled.hard)
            .with("temperature", temperature.mean());
        if let Some(teacher) = teacher.filter(|_| !self.matches.is_empty()) {
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

    fn descent_rate(&self, extra: &str, step: &Step) -> Option<f64> {
        let learned = extra == TEMPERATURE;
        learned.then(|| self.temperature.descent_rate(step.schedule_progress())).flatten()
    }
}
