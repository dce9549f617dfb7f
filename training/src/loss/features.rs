//! Losses that compare the insides of two models.

use std::sync::Arc;

use burn::tensor::Tensor;

use super::fused::{EXCLUDED, Relations, SquaredError};
use super::{LossError, divergence, expect};
use crate::walk::floats::Floats;
use crate::walk::fused::{self, Operation};

/// Scores at or below this are a mask's doing and count as 0 (TinyBERT's reference code).
const MASKED_SCORE: f32 = -1e2;

/// Mean squared error between hidden states, the student's through a learned projection (TinyBERT,
/// arXiv:1909.10351, eq. 9); padding does not count.
///
/// # Shapes
///
/// student `[batch, sequence, student hidden]`, teacher `[batch, sequence, teacher hidden]`,
/// projection `[student hidden, teacher hidden]` (absent when both sizes are equal), mask
/// `[batch, sequence]` → `[1]`
///
/// # Errors
///
/// [`LossError`] when the shapes do not fit.
pub fn hidden(
    student: Tensor<3>,
    teacher: Tensor<3>,
    projection: Option<Tensor<2>>,
    mask: Tensor<2>,
) -> Result<Tensor<1>, LossError> {
    let [n_rows, length, student_hidden] = student.dims();
    let teacher_hidden = teacher.dims()[2];
    expect("mask", &[n_rows, length], &mask.dims())?;
    expect("teacher hidden states", &[n_rows, length, teacher_hidden], &teacher.dims())?;
    let student = match projection {
        Some(projection) => {
            expect("projection", &[student_hidden, teacher_hidden], &projection.dims())?;
            let flat = student.reshape([n_rows * length, student_hidden]).matmul(projection);
            flat.reshape([n_rows, length, teacher_hidden])
        }
        None => {
            expect("teacher hidden states", &student.dims(), &teacher.dims())?;
            student
        }
    };
    let Some(counted) = on_host(&mask) else {
        return Ok(composed_hidden(student, teacher, mask));
    };
    let tokens: f32 = counted.iter().sum();
    let rows = counted.iter().map(|counted| counted / (teacher_hidden as f32 * tokens)).collect();
    let operation = SquaredError { rows: Arc::new(rows), columns: None, floor: f32::NEG_INFINITY };
    Ok(apply(&operation, student, teacher))
}

/// [`hidden`] in Burn's operations.
pub(super) fn composed_hidden(
    student: Tensor<3>,
    teacher: Tensor<3>,
    mask: Tensor<2>,
) -> Tensor<1> {
    let difference = student - teacher.detach();
    let squares = (difference.clone() * difference).mean_dim(2).squeeze_dim::<2>(2);
    (squares * mask.clone()).sum() / mask.sum()
}

/// Mean squared error between pre-softmax attention scores (TinyBERT, arXiv:1909.10351, eq. 7 and
/// its reference code); pairs with padding do not count.
///
/// # Shapes
///
/// student and teacher `[batch, heads, sequence, sequence]`, mask `[batch, sequence]` → `[1]`
///
/// # Errors
///
/// [`LossError`] when the shapes do not fit; both need the same number of heads.
pub fn attention(
    student: Tensor<4>,
    teacher: Tensor<4>,
    mask: Tensor<2>,
) -> Result<Tensor<1>, LossError> {
    let [n_rows, n_heads, length, _] = student.dims();
    expect("student attention", &[n_rows, n_heads, length, length], &student.dims())?;
    expect("teacher attention", &student.dims(), &teacher.dims())?;
    expect("mask", &[n_rows, length], &mask.dims())?;
    let Some(counted) = on_host(&mask) else {
        return Ok(composed_attention(student, teacher, mask));
    };
    let texts = counted.chunks_exact(length.max(1));
    let pairs: f32 = texts.clone().map(|text| text.iter().sum::<f32>().powi(2)).sum();
    let rows = texts.flat_map(|text| text.repeat(n_heads));
    let rows = rows.map(|counted| counted / (n_heads as f32 * pairs)).collect();
    let operation = SquaredError {
        rows: Arc::new(rows),
        columns: Some(Arc::new(counted)),
        floor: MASKED_SCORE,
    };
    Ok(apply(&operation, student, teacher))
}

/// [`attention`] in Burn's operations.
pub(super) fn composed_attention(
    student: Tensor<4>,
    teacher: Tensor<4>,
    mask: Tensor<2>,
) -> Tensor<1> {
    let unmasked = |scores: Tensor<4>| {
        let masked = scores.clone().lower_equal_elem(MASKED_SCORE);
        scores.mask_fill(masked, 0.0)
    };
    let difference = unmasked(student) - unmasked(teacher.detach());
    let pairs: Tensor<4> =
        mask.clone().unsqueeze_dims::<4>(&[1, 3]) * mask.unsqueeze_dims::<4>(&[1, 2]);
    let squares = (difference.clone() * difference).mean_dim(1) * pairs.clone();
    squares.sum() / pairs.sum()
}

/// KL divergence between the self-relations softmax(X·Xᵀ/√d) of two models' queries, keys or values
/// (MiniLMv2, arXiv:2012.15828, eq. 6–8), averaged over relation heads and tokens.
///
/// The published loss is the mean of this over queries, keys and values. Both hidden sizes are cut
/// into the same number of relation heads, so neither head counts nor hidden sizes have to agree.
///
/// # Shapes
///
/// student `[batch, sequence, student hidden]`, teacher `[batch, sequence, teacher hidden]`, mask
/// `[batch, sequence]` → `[1]`
///
/// # Errors
///
/// [`LossError`] when the shapes do not fit or `relation_heads` does not divide a hidden size.
pub fn relations(
    student: Tensor<3>,
    teacher: Tensor<3>,
    relation_heads: usize,
    mask: Tensor<2>,
) -> Result<Tensor<1>, LossError> {
    let [n_rows, length, student_hidden] = student.dims();
    let teacher_hidden = teacher.dims()[2];
    expect("mask", &[n_rows, length], &mask.dims())?;
    expect("teacher vectors", &[n_rows, length, teacher_hidden], &teacher.dims())?;
    for hidden_size in [teacher_hidden, student_hidden] {
        if relation_heads == 0 || !hidden_size.is_multiple_of(relation_heads) {
            return Err(LossError::RelationHeads { relation_heads, hidden_size });
        }
    }
    let Some(counted) = on_host(&mask) else {
        return Ok(composed_relations(student, teacher, relation_heads, mask));
    };
    let tokens: f32 = counted.iter().sum();
    let rows = counted.iter().map(|mask| mask / (relation_heads as f32 * tokens)).collect();
    let operation =
        Relations { heads: relation_heads, length, rows: Arc::new(rows), mask: Arc::new(counted) };
    Ok(apply(&operation, student, teacher))
}

/// [`relations`] in Burn's operations.
pub(super) fn composed_relations(
    student: Tensor<3>,
    teacher: Tensor<3>,
    relation_heads: usize,
    mask: Tensor<2>,
) -> Tensor<1> {
    let [n_rows, length, _] = student.dims();
    let padding: Tensor<4, burn::tensor::Bool> = mask
        .clone()
        .equal_elem(0.0)
        .unsqueeze_dims::<4>(&[1, 2])
        .expand([n_rows, relation_heads, length, length]);
    let teacher =
        relation_scores(teacher.detach(), relation_heads).mask_fill(padding.clone(), EXCLUDED);
    let student = relation_scores(student, relation_heads).mask_fill(padding, EXCLUDED);
    let tokens = divergence(teacher, student).mean_dim(1).reshape([n_rows, length]);
    (tokens * mask.clone()).sum() / mask.sum()
}

/// `[batch, sequence, hidden]` → scores `[batch, relation heads, sequence, sequence]`
fn relation_scores(vectors: Tensor<3>, relation_heads: usize) -> Tensor<4> {
    let [n_rows, length, hidden_size] = vectors.dims();
    let head_size = hidden_size / relation_heads;
    let heads = vectors.reshape([n_rows, length, relation_heads, head_size]).swap_dims(1, 2);
    let scores = heads.clone().matmul(heads.swap_dims(2, 3));
    scores / (head_size as f64).sqrt()
}

/// The elements of `mask` where the losses are one node each: on the CPU.
fn on_host(mask: &Tensor<2>) -> Option<Vec<f32>> {
    let mask = Floats(mask.clone().into_dispatch()).inner();
    fused::on_cpu(&mask.0).map(|mask| fused::elements(&mask).into_owned())
}

fn apply<const D: usize>(
    operation: &impl Operation<2>,
    student: Tensor<D>,
    teacher: Tensor<D>,
) -> Tensor<1> {
    let inputs = [student.into_dispatch(), teacher.detach().into_dispatch()];
    Tensor::from_dispatch(fused::apply(operation, inputs))
}
