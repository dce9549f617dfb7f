//! Losses between the insides of two models as one node each on the tape: what `features` composes
//! of Burn's operations for other devices.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use kernels::{Cpu, Matrix, Write};
use rayon::prelude::*;

use crate::walk::fused::{self, Operation};

/// `Σ row[r] · column[b, c] · (student − teacher)²` over rows of the last dimension.
///
/// # Shapes
/// `student` and `teacher`: `[b, …, width]` → `[1]`.
#[derive(Clone, Debug)]
pub(super) struct SquaredError {
    /// One a row.
    pub(super) rows: Arc<Vec<f32>>,
    /// `[b, width]`; absent for ones.
    pub(super) columns: Option<Arc<Vec<f32>>>,
    /// Elements at or below this count as 0, and have no gradient.
    pub(super) floor: f32,
}

impl SquaredError {
    /// The weights of the columns in `row`.
    fn weights(&self, row: usize, width: usize) -> Option<&[f32]> {
        let columns = self.columns.as_ref()?;
        let rows_an_item = self.rows.len() * width / columns.len();
        let start = row / rows_an_item * width;
        Some(&columns[start..start + width])
    }

    /// `student − teacher`, what is at the floor counted as 0.
    fn difference(&self, student: f32, teacher: f32) -> f32 {
        let counted = |x: f32| if x <= self.floor { 0.0 } else { x };
        counted(student) - counted(teacher)
    }
}

impl Operation<2> for SquaredError {
    type Saved = [FlexTensor; 2];

    fn forward(&self, [student, teacher]: &[FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        let (s, t) = (fused::elements(student), fused::elements(teacher));
        let width = s.len() / self.rows.len().max(1);
        let pairs = s.par_chunks(width.max(1)).zip(t.par_chunks(width.max(1))).enumerate();
        let sums: Vec<f32> = pairs
            .map(|(row, (s, t))| {
                let squares = s.iter().zip(t).map(|(&s, &t)| self.difference(s, t).powi(2));
                let sum: f32 = match self.weights(row, width) {
                    Some(weights) => {
                        squares.zip(weights).map(|(square, weight)| square * weight).sum()
                    }
                    None => squares.sum(),
                };
                sum * self.rows[row]
            })
            .collect();
        let loss = fused::tensor(&[1], vec![sums.iter().sum()]);
        (loss, [student.clone(), teacher.clone()])
    }

    fn backward(
        &self,
        [student, teacher]: Self::Saved,
        gradient: &FlexTensor,
        [wanted, _]: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let dstudent = wanted.then(|| {
            let (s, t) = (fused::elements(&student), fused::elements(&teacher));
            let factor = 2.0 * fused::elements(gradient)[0];
            let width = s.len() / self.rows.len().max(1);
            let mut ds = vec![0f32; s.len()];
            let rows = ds.par_chunks_mut(width.max(1)).enumerate();
            rows.for_each(|(row, ds)| {
                let place = row * width..(row + 1) * width;
                let factor = factor * self.rows[row];
                let pairs = s[place.clone()].iter().zip(&t[place]);
                ds.iter_mut().zip(pairs).for_each(|(ds, (&s, &t))| {
                    *ds = if s <= self.floor { 0.0 } else { factor * self.difference(s, t) };
                });
                if let Some(weights) = self.weights(row, width) {
                    ds.iter_mut().zip(weights).for_each(|(ds, weight)| *ds *= weight);
                }
            });
            fused::tensor(&fused::shape(&student), ds)
        });
        // The teacher learns nothing.
        [dstudent, None]
    }
}

/// `Σ rows[b, i] · KL(softmax(T·Tᵀ/√d)ᵢ ‖ softmax(S·Sᵀ/√d)ᵢ)` over the relation heads that both
/// models' vectors are cut into.
///
/// # Shapes
/// `student`: `[b, length, heads · d]`; `teacher`: the same with a `d` of its own → `[1]`.
#[derive(Clone, Debug)]
pub(super) struct Relations {
    pub(super) heads: usize,
    pub(super) length: usize,
    /// `[b, length]`: the weight of a token's row of relations.
    pub(super) rows: Arc<Vec<f32>>,
    /// `[b, length]`: 0 for tokens that no relation counts.
    pub(super) mask: Arc<Vec<f32>>,
}

/// Far below any score, yet finite: softmax gives 0 and its gradient no NaN.
pub(super) const EXCLUDED: f32 = -1e9;

/// Scores between the tokens of one head, and their softmax by rows: `[length, length]` each.
struct Relation {
    scores: Vec<f32>,
    parts: Vec<f32>,
}

impl Relations {
    /// The vectors of one head of one text, `[length, d]`; `head` counts over all texts.
    fn vectors<'a>(&self, all: &'a [f32], head: usize) -> Matrix<'a> {
        let (item, head) = (head / self.heads, head % self.heads);
        let hidden = all.len() / self.rows.len();
        let size = hidden / self.heads;
        let start = item * self.length * hidden + head * size;
        Matrix::strided(&all[start..], [self.length, size], [hidden, 1])
    }

    /// `of` one row for each token of a head's text.
    fn item<'a>(&self, of: &'a [f32], head: usize) -> &'a [f32] {
        let start = head / self.heads * self.length;
        &of[start..start + self.length]
    }

    fn relation(&self, all: &[f32], head: usize) -> Relation {
        let x = self.vectors(all, head);
        let scale = 1.0 / (x.cols() as f32).sqrt();
        let mut scores = kernels::product(Cpu::best(), x, x.transposed());
        for row in scores.chunks_exact_mut(self.length) {
            row.iter_mut().zip(self.item(&self.mask, head)).for_each(|(score, &mask)| {
                *score = if mask == 0.0 { EXCLUDED } else { *score * scale };
            });
        }
        let mut parts = vec![0f32; scores.len()];
        kernels::softmax_forward(Cpu::best(), &scores, self.length, &mut parts);
        Relation { scores, parts }
    }

    /// One head's part of the loss; `slope` becomes its derivative by the student's scores before
    /// they are divided by √d.
    fn head(&self, student: &[f32], teacher: &[f32], head: usize, slope: &mut [f32]) -> f32 {
        let scale = 1.0 / (self.vectors(student, head).cols() as f32).sqrt();
        let (student, teacher) = (self.relation(student, head), self.relation(teacher, head));
        let mut loss = 0.0;
        for (row, &weight) in self.item(&self.rows, head).iter().enumerate() {
            let place = row * self.length..(row + 1) * self.length;
            let (s, t) = (&student.parts[place.clone()], &teacher.parts[place.clone()]);
            let slope = &mut slope[place.clone()];
            for ((slope, s), t) in slope.iter_mut().zip(s).zip(t) {
                *slope = weight * scale * (s - t);
            }
            let (s_scores, t_scores) = (&student.scores[place.clone()], &teacher.scores[place]);
            let shift = log_sum(t_scores, t) - log_sum(s_scores, s);
            let terms = t.iter().zip(t_scores.iter().zip(s_scores));
            let sum: f32 = terms.map(|(part, (t, s))| part * (t - s - shift)).sum();
            loss += weight * sum;
        }
        loss
    }
}

/// The logarithm of the sum of the exponentials of `scores`, whose softmax is `parts`.
fn log_sum(scores: &[f32], parts: &[f32]) -> f32 {
    // The part of the greatest score is one over the sum of what the others are relative to it.
    let greatest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    greatest - parts.iter().copied().fold(0.0, f32::max).ln()
}

impl Operation<2> for Relations {
    /// The student's vectors and the derivatives by its scores, `[b · heads, length, length]`.
    type Saved = (FlexTensor, Arc<Vec<f32>>);

    fn forward(&self, [student, teacher]: &[FlexTensor; 2]) -> (FlexTensor, Self::Saved) {
        let (s, t) = (fused::elements(student), fused::elements(teacher));
        let pairs = self.length * self.length;
        let mut slopes = vec![0f32; self.rows.len() / self.length.max(1) * self.heads * pairs];
        let heads = slopes.par_chunks_mut(pairs.max(1)).enumerate();
        let losses: Vec<f32> = heads.map(|(head, slope)| self.head(&s, &t, head, slope)).collect();
        let loss = fused::tensor(&[1], vec![losses.iter().sum()]);
        (loss, (student.clone(), Arc::new(slopes)))
    }

    fn backward(
        &self,
        (student, slopes): Self::Saved,
        gradient: &FlexTensor,
        [wanted, _]: [bool; 2],
    ) -> [Option<FlexTensor>; 2] {
        let dstudent = wanted.then(|| {
            let s = fused::elements(&student);
            let factor = fused::elements(gradient)[0];
            let hidden = s.len() / self.rows.len().max(1);
            let text = self.length * hidden;
            let mut ds = vec![0f32; s.len()];
            ds.par_chunks_mut(text.max(1)).enumerate().for_each(|(item, ds)| {
                for head in item * self.heads..(item + 1) * self.heads {
                    let pairs = self.length * self.length;
                    let slope = &slopes[head * pairs..(head + 1) * pairs];
                    let slope = Matrix::row_major(slope, self.length, self.length);
                    let x = self.vectors(&s, head);
                    // X stands on both sides of its product.
                    let mut dx = kernels::product(Cpu::best(), slope, x);
                    kernels::gemm(Cpu::best(), slope.transposed(), x, &mut dx, Write::Accumulate);
                    let column = head % self.heads * x.cols();
                    for (ds, dx) in ds.chunks_exact_mut(hidden).zip(dx.chunks_exact(x.cols())) {
                        let ds = &mut ds[column..column + dx.len()];
                        ds.iter_mut().zip(dx).for_each(|(ds, dx)| *ds = factor * dx);
                    }
                }
            });
            fused::tensor(&fused::shape(&student), ds)
        });
        // The teacher learns nothing.
        [dstudent, None]
    }
}
