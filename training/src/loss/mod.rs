//! Training losses on Burn tensors.
//!
//! Every loss is a mean, so that its scale depends neither on the batch size nor on padding, and
//! stays on the device: nothing here waits for a result. Masks are `1` for a token and `0` for
//! padding. Teacher tensors are constants: no gradient reaches them.

mod features;
mod fused;
#[cfg(test)]
mod tests;

pub use features::{attention, hidden, relations};

use burn::tensor::activation::{log_softmax, softmax};
use burn::tensor::{Int, Tensor};

/// Cross-entropy against class ids.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CrossEntropy {
    /// Weight of the rows of each class; all 1 when absent. The loss is divided by the weights' sum
    /// over the batch, as PyTorch does.
    pub class_weights: Option<Vec<f32>>,
    /// Share of the target spread evenly over all classes, in [0, 1) (Szegedy et al. 2016, § 7).
    pub label_smoothing: f32,
}

/// Knowledge distillation, α·T²·KL(teacher ‖ student) + (1 − α)·cross-entropy (Hinton et al. 2015,
/// arXiv:1503.02531).
///
/// T² makes up for the 1/T² that softening takes from the gradient, so that α keeps its meaning
/// while T changes.
#[derive(Debug, Clone, PartialEq)]
pub struct Distillation {
    /// Weight of the teacher against the labels, in [0, 1].
    pub alpha: f32,
    /// The part that looks at the labels.
    pub hard: CrossEntropy,
}

/// A distillation loss and its parts, each a scalar on the device.
#[derive(Debug)]
pub struct Distilled {
    /// α·soft + (1 − α)·hard; what to differentiate.
    pub total: Tensor<1>,
    /// T²·KL(teacher ‖ student), nats a row.
    pub soft: Tensor<1>,
    /// Cross-entropy against the labels, nats a row.
    pub hard: Tensor<1>,
}

impl CrossEntropy {
    /// Mean loss of the batch, nats a row.
    ///
    /// # Shapes
    ///
    /// logits `[batch, classes]`, labels `[batch]` → `[1]`
    ///
    /// # Errors
    ///
    /// [`LossError`] when the shapes do not fit.
    pub fn loss(&self, logits: Tensor<2>, labels: Tensor<1, Int>) -> Result<Tensor<1>, LossError> {
        let [n_rows, n_classes] = logits.dims();
        expect("cross-entropy labels", &[n_rows], &labels.dims())?;
        let device = logits.device();
        let log_probabilities = log_softmax(logits, 1);
        let chosen = log_probabilities.clone().gather(1, labels.clone().unsqueeze_dim::<2>(1));
        let mut rows: Tensor<1> = chosen.neg().squeeze_dim::<1>(1);
        if self.label_smoothing > 0.0 {
            let even = log_probabilities.mean_dim(1).neg().squeeze_dim::<1>(1);
            rows = rows * (1.0 - self.label_smoothing) + even * self.label_smoothing;
        }
        let Some(weights) = &self.class_weights else { return Ok(rows.mean()) };
        expect("class weights", &[n_classes], &[weights.len()])?;
        let weights = Tensor::<1>::from_floats(weights.as_slice(), &device).select(0, labels);
        Ok((rows * weights.clone()).sum() / weights.sum())
    }
}

impl Distillation {
    /// Mean loss of the batch with its parts, nats a row.
    ///
    /// The gradient also reaches `temperature`, which is how a learned one is trained.
    ///
    /// # Shapes
    ///
    /// student and teacher logits `[batch, classes]`, labels `[batch]`, temperature `[batch]` (one
    /// a row) or `[1]` → scalars `[1]`
    ///
    /// # Errors
    ///
    /// [`LossError`] when the shapes do not fit.
    pub fn loss(
        &self,
        student: Tensor<2>,
        teacher: Tensor<2>,
        labels: Tensor<1, Int>,
        temperature: Tensor<1>,
    ) -> Result<Distilled, LossError> {
        let soft = softened_divergence(student.clone(), teacher, temperature)?;
        let hard = self.hard.loss(student, labels)?;
        let total = soft.clone() * self.alpha + hard.clone() * (1.0 - self.alpha);
        Ok(Distilled { total, soft, hard })
    }
}

/// Mean over rows of T²·KL(softmax(teacher / T) ‖ softmax(student / T)), nats.
///
/// # Shapes
///
/// student and teacher logits `[batch, classes]`, temperature `[batch]` or `[1]` → `[1]`
///
/// # Errors
///
/// [`LossError`] when the shapes do not fit.
pub fn softened_divergence(
    student: Tensor<2>,
    teacher: Tensor<2>,
    temperature: Tensor<1>,
) -> Result<Tensor<1>, LossError> {
    expect("teacher logits", &student.dims(), &teacher.dims())?;
    if temperature.dims() != [1] {
        expect("temperature", &student.dims()[..1], &temperature.dims())?;
    }
    let temperature = temperature.unsqueeze_dim::<2>(1);
    let teacher = teacher.detach() / temperature.clone();
    let student = student / temperature.clone();
    let rows = divergence(teacher, student);
    Ok((rows * temperature.clone() * temperature).mean())
}

/// KL(softmax(teacher) ‖ softmax(student)) along the last axis, which stays with size 1.
fn divergence<const D: usize>(teacher: Tensor<D>, student: Tensor<D>) -> Tensor<D> {
    let difference = log_softmax(teacher.clone(), D - 1) - log_softmax(student, D - 1);
    (softmax(teacher, D - 1) * difference).sum_dim(D - 1)
}

/// Weights that let every class count the same: rows / (classes · rows of the class), as
/// scikit-learn's `balanced`. A class without rows gets 0.
pub fn balanced_class_weights(rows_by_class: &[usize]) -> Vec<f32> {
    let n_rows: usize = rows_by_class.iter().sum();
    let n_classes = rows_by_class.len();
    let weight =
        |&rows: &usize| if rows == 0 { 0.0 } else { n_rows as f32 / (n_classes * rows) as f32 };
    rows_by_class.iter().map(weight).collect()
}

/// Why a loss cannot be computed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LossError {
    /// Two tensors do not fit together.
    #[error("expected {what} of shape {expected:?}, found {found:?}")]
    Shape {
        /// Which tensor.
        what: &'static str,
        /// What the other tensors ask for.
        expected: Vec<usize>,
        /// What it has.
        found: Vec<usize>,
    },
    /// A hidden size cannot be cut into relation heads.
    #[error(
        "expected a hidden size that {relation_heads} relation heads divide, found {hidden_size}; choose another `relation-heads`"
    )]
    RelationHeads {
        /// Heads asked for.
        relation_heads: usize,
        /// Hidden size of the student or the teacher.
        hidden_size: usize,
    },
}

fn expect(what: &'static str, expected: &[usize], found: &[usize]) -> Result<(), LossError> {
    if expected == found {
        return Ok(());
    }
    Err(LossError::Shape { what, expected: expected.to_vec(), found: found.to_vec() })
}
