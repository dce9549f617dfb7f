//! Each loss against a slow scalar twin in `f64`, its gradient against the twin's finite
//! differences.

use burn::tensor::{Device, TensorData};

use super::features::{composed_attention, composed_hidden, composed_relations};
use super::*;
use crate::random::Stream;

/// `f32` on the device against `f64` here, over sums of tens of terms.
const TOLERANCE: f64 = 2e-5;

fn device() -> Device {
    Device::flex().autodiff()
}

fn tensor<const D: usize>(values: &[f64], shape: [usize; D]) -> Tensor<D> {
    let values: Vec<f32> = values.iter().map(|&value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, shape), &device())
}

fn labels(ids: &[i64]) -> Tensor<1, Int> {
    Tensor::from_data(TensorData::new(ids.to_vec(), [ids.len()]), &device())
}

fn random(seed: u64, count: usize, scale: f64) -> Vec<f64> {
    let mut stream = Stream::new(seed);
    // Rounded to `f32` first, so that both twins start from the same numbers.
    (0..count).map(|_| f64::from(((stream.uniform() * 2.0 - 1.0) * scale) as f32)).collect()
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f64> {
    tensor
        .into_data()
        .convert::<f32>()
        .try_to_vec::<f32>()
        .unwrap()
        .into_iter()
        .map(f64::from)
        .collect()
}

fn assert_close(what: &str, found: &[f64], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let allowed = TOLERANCE * (1.0 + expected.abs());
        assert!(
            (found - expected).abs() <= allowed,
            "{what} {index}: expected {expected}, found {found}"
        );
    }
}

/// Checks `loss` at `input` and its gradient there against `twin`.
fn check<const D: usize>(
    input: &[f64],
    shape: [usize; D],
    loss: impl Fn(Tensor<D>) -> Tensor<1>,
    twin: impl Fn(&[f64]) -> f64,
) {
    let variable = tensor(input, shape).require_grad();
    let found = loss(variable.clone());
    assert_close("loss", &values(found.clone()), &[twin(input)]);
    let gradients = found.backward();
    let gradient = variable.grad(&gradients).expect("the loss depends on its input");
    let step = 1e-5;
    let expected: Vec<f64> = (0..input.len())
        .map(|index| {
            let at = |change: f64| {
                let mut moved = input.to_vec();
                moved[index] += change;
                twin(&moved)
            };
            (at(step) - at(-step)) / (2.0 * step)
        })
        .collect();
    assert_close("gradient", &values(gradient), &expected);
}

fn softmax_twin(logits: &[f64], temperature: f64) -> Vec<f64> {
    let largest = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let powers: Vec<f64> =
        logits.iter().map(|logit| ((logit - largest) / temperature).exp()).collect();
    let sum: f64 = powers.iter().sum();
    powers.iter().map(|power| power / sum).collect()
}

fn divergence_twin(teacher: &[f64], student: &[f64], temperature: f64) -> f64 {
    let (teacher, student) =
        (softmax_twin(teacher, temperature), softmax_twin(student, temperature));
    teacher.iter().zip(&student).filter(|(t, _)| **t > 0.0).map(|(t, s)| t * (t / s).ln()).sum()
}

fn cross_entropy_twin(logits: &[f64], labels: &[i64], weights: &[f64], smoothing: f64) -> f64 {
    let n_classes = weights.len();
    let (mut total, mut sum) = (0.0, 0.0);
    for (row, &label) in labels.iter().enumerate() {
        let probabilities = softmax_twin(&logits[row * n_classes..][..n_classes], 1.0);
        let weight = weights[label as usize];
        for (class, probability) in probabilities.iter().enumerate() {
            let target = smoothing / n_classes as f64
                + if class as i64 == label { 1.0 - smoothing } else { 0.0 };
            total -= weight * target * probability.ln();
        }
        sum += weight;
    }
    total / sum
}

const LABELS: [i64; 5] = [0, 2, 1, 2, 2];

#[test]
fn cross_entropy_with_and_without_weights_and_smoothing() {
    let logits = random(1, 15, 3.0);
    for class_weights in [None, Some(vec![0.5, 2.0, 1.25])] {
        for label_smoothing in [0.0, 0.1] {
            let hard = CrossEntropy { class_weights: class_weights.clone(), label_smoothing };
            let weights: Vec<f64> =
                class_weights.as_ref().map_or(vec![1.0; 3], |weights: &Vec<f32>| {
                    weights.iter().map(|&w| f64::from(w)).collect()
                });
            check(
                &logits,
                [5, 3],
                |logits| hard.loss(logits, labels(&LABELS)).unwrap(),
                |logits| cross_entropy_twin(logits, &LABELS, &weights, f64::from(label_smoothing)),
            );
        }
    }
}

#[test]
fn distillation_with_a_temperature_a_row() {
    let (student, teacher) = (random(2, 15, 3.0), random(3, 15, 3.0));
    let temperatures = [1.0, 2.0, 4.0, 0.5, 3.0];
    let twin = |student: &[f64], temperatures: &[f64]| {
        let soft: f64 = (0..5)
            .map(|row| {
                let (at, t) = (row * 3, temperatures[row]);
                t * t * divergence_twin(&teacher[at..at + 3], &student[at..at + 3], t)
            })
            .sum::<f64>()
            / 5.0;
        0.7 * soft + 0.3 * cross_entropy_twin(student, &LABELS, &[1.0; 3], 0.0)
    };
    let distillation = Distillation { alpha: 0.7, hard: CrossEntropy::default() };
    let loss = |student, temperatures| {
        let loss = distillation
            .loss(student, tensor(&teacher, [5, 3]), labels(&LABELS), temperatures)
            .unwrap();
        loss.total
    };
    check(
        &student,
        [5, 3],
        |student| loss(student, tensor(&temperatures, [5])),
        |student| twin(student, &temperatures),
    );
    check(
        &temperatures,
        [5],
        |temperatures| loss(tensor(&student, [5, 3]), temperatures),
        |temperatures| twin(&student, temperatures),
    );
    // One temperature for all rows is the same as that temperature in every row.
    check(
        &[2.0],
        [1],
        |one| loss(tensor(&student, [5, 3]), one),
        |one| twin(&student, &[one[0]; 5]),
    );
}

#[test]
fn parts_add_up_and_a_perfect_student_has_no_soft_loss() {
    let logits = random(4, 15, 3.0);
    let distillation = Distillation { alpha: 0.9, hard: CrossEntropy::default() };
    let found = distillation
        .loss(
            tensor(&logits, [5, 3]),
            tensor(&logits, [5, 3]),
            labels(&LABELS),
            tensor(&[4.0], [1]),
        )
        .unwrap();
    let (total, soft, hard) =
        (values(found.total)[0], values(found.soft)[0], values(found.hard)[0]);
    assert!(soft.abs() < 1e-6, "{soft}");
    assert!((total - 0.1 * hard).abs() < 1e-6);
}

#[test]
fn the_gradient_scale_is_about_constant_in_the_temperature() {
    let (student, teacher) = (random(5, 64, 2.0), random(6, 64, 2.0));
    let norm = |temperature: f64| {
        let student = tensor(&student, [16, 4]).require_grad();
        let loss = softened_divergence(
            student.clone(),
            tensor(&teacher, [16, 4]),
            tensor(&[temperature], [1]),
        )
        .unwrap();
        let gradient = values(student.grad(&loss.backward()).unwrap());
        gradient.iter().map(|value| value * value).sum::<f64>().sqrt()
    };
    // At high temperatures the gradient is (z_s − z_t)/classes, whatever T; without T² it would
    // fall 64-fold from 2 to 16.
    let reference = norm(16.0);
    for temperature in [2.0, 4.0, 8.0, 32.0, 64.0] {
        let ratio = norm(temperature) / reference;
        assert!((0.8..1.6).contains(&ratio), "T = {temperature}: {ratio}");
    }
}

const MASK: [f64; 8] = [1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 0.0];
const LENGTH: usize = 4;

/// Positions of tokens: (row, place).
fn tokens() -> impl Iterator<Item = (usize, usize)> {
    (0..2)
        .flat_map(|row| (0..LENGTH).map(move |place| (row, place)))
        .filter(|&(row, place)| real(row, place))
}

fn real(row: usize, place: usize) -> bool {
    MASK[row * LENGTH + place] == 1.0
}

fn hidden_twin(student: &[f64], teacher: &[f64], projection: &[f64], sizes: [usize; 2]) -> f64 {
    let [small, large] = sizes;
    let mut total = 0.0;
    for (row, place) in tokens() {
        let token = row * LENGTH + place;
        for column in 0..large {
            let projected: f64 = (0..small)
                .map(|inner| student[token * small + inner] * projection[inner * large + column])
                .sum();
            total += (projected - teacher[token * large + column]).powi(2);
        }
    }
    total / (tokens().count() * large) as f64
}

#[test]
fn hidden_states_through_a_projection() {
    let (student, teacher, projection) =
        (random(7, 24, 1.0), random(8, 40, 1.0), random(9, 15, 1.0));
    let loss = |student, projection| {
        hidden(
            student,
            tensor(&teacher, [2, LENGTH, 5]),
            Some(projection),
            tensor(&MASK, [2, LENGTH]),
        )
        .unwrap()
    };
    check(
        &student,
        [2, LENGTH, 3],
        |student| loss(student, tensor(&projection, [3, 5])),
        |student| hidden_twin(student, &teacher, &projection, [3, 5]),
    );
    check(
        &projection,
        [3, 5],
        |projection| loss(tensor(&student, [2, LENGTH, 3]), projection),
        |projection| hidden_twin(&student, &teacher, projection, [3, 5]),
    );
    let identity: Vec<f64> = (0..9).map(|index| if index % 4 == 0 { 1.0 } else { 0.0 }).collect();
    let equal = random(10, 24, 1.0);
    check(
        &student,
        [2, LENGTH, 3],
        |student| {
            hidden(student, tensor(&equal, [2, LENGTH, 3]), None, tensor(&MASK, [2, LENGTH]))
                .unwrap()
        },
        |student| hidden_twin(student, &equal, &identity, [3, 3]),
    );
    check(
        &student,
        [2, LENGTH, 3],
        |student| {
            composed_hidden(student, tensor(&equal, [2, LENGTH, 3]), tensor(&MASK, [2, LENGTH]))
        },
        |student| hidden_twin(student, &equal, &identity, [3, 3]),
    );
}

#[test]
fn attention_scores_without_what_a_mask_did() {
    let n_heads = 2;
    let (mut student, mut teacher) = (random(11, 64, 4.0), random(12, 64, 4.0));
    // As a model with an additive mask produces them, also where both sides are tokens.
    (student[0], teacher[1], teacher[63], student[63]) = (-1e4, -1e4, -1e4, -1e4);
    let clean = |score: f64| if score <= -1e2 { 0.0 } else { score };
    let twin = |student: &[f64]| {
        let (mut total, mut count) = (0.0, 0.0);
        for row in 0..2 {
            for head in 0..n_heads {
                for query in (0..LENGTH).filter(|&query| real(row, query)) {
                    for key in (0..LENGTH).filter(|&key| real(row, key)) {
                        let at = ((row * n_heads + head) * LENGTH + query) * LENGTH + key;
                        total += (clean(student[at]) - clean(teacher[at])).powi(2);
                        count += 1.0;
                    }
                }
            }
        }
        total / count
    };
    let shape = [2, n_heads, LENGTH, LENGTH];
    check(
        &student,
        shape,
        |student| attention(student, tensor(&teacher, shape), tensor(&MASK, [2, LENGTH])).unwrap(),
        twin,
    );
    check(
        &student,
        shape,
        |student| composed_attention(student, tensor(&teacher, shape), tensor(&MASK, [2, LENGTH])),
        twin,
    );
}

fn relations_twin(student: &[f64], teacher: &[f64], sizes: [usize; 2], n_heads: usize) -> f64 {
    let scores =
        |vectors: &[f64], size: usize, head: usize, row: usize, query: usize| -> Vec<f64> {
            let part = size / n_heads;
            let at = |place: usize| &vectors[(row * LENGTH + place) * size + head * part..][..part];
            let dot = |key: usize| at(query).iter().zip(at(key)).map(|(a, b)| a * b).sum::<f64>();
            (0..LENGTH)
                .filter(|&key| real(row, key))
                .map(|key| dot(key) / (part as f64).sqrt())
                .collect()
        };
    let mut total = 0.0;
    for (row, query) in tokens() {
        for head in 0..n_heads {
            let teacher = scores(teacher, sizes[1], head, row, query);
            total += divergence_twin(&teacher, &scores(student, sizes[0], head, row, query), 1.0);
        }
    }
    total / (tokens().count() * n_heads) as f64
}

#[test]
fn relations_between_models_of_different_width() {
    let (student, teacher) = (random(13, 32, 1.5), random(14, 64, 1.5));
    for n_heads in [1, 2, 4] {
        check(
            &student,
            [2, LENGTH, 4],
            |student| {
                relations(
                    student,
                    tensor(&teacher, [2, LENGTH, 8]),
                    n_heads,
                    tensor(&MASK, [2, LENGTH]),
                )
                .unwrap()
            },
            |student| relations_twin(student, &teacher, [4, 8], n_heads),
        );
        check(
            &student,
            [2, LENGTH, 4],
            |student| {
                let teacher = tensor(&teacher, [2, LENGTH, 8]);
                composed_relations(student, teacher, n_heads, tensor(&MASK, [2, LENGTH]))
            },
            |student| relations_twin(student, &teacher, [4, 8], n_heads),
        );
    }
}

#[test]
fn nothing_flows_into_the_teacher_or_from_padding() {
    let student = tensor(&random(15, 32, 1.0), [2, LENGTH, 4]).require_grad();
    let teacher = tensor(&random(16, 32, 1.0), [2, LENGTH, 4]).require_grad();
    let loss = relations(student.clone(), teacher.clone(), 2, tensor(&MASK, [2, LENGTH])).unwrap();
    let gradients = loss.backward();
    assert!(teacher.grad(&gradients).is_none());
    let gradient = values(student.grad(&gradients).unwrap());
    for (row, place) in (0..2).flat_map(|row| (0..LENGTH).map(move |place| (row, place))) {
        let token = &gradient[(row * LENGTH + place) * 4..][..4];
        assert_eq!(
            token.iter().any(|&value| value != 0.0),
            real(row, place),
            "row {row}, place {place}"
        );
    }
}

#[test]
fn shapes_that_do_not_fit_are_errors() {
    let zeros = |size: usize| vec![0.0; size];
    let mask = || tensor(&MASK, [2, LENGTH]);
    let vectors = |size: usize| tensor(&zeros(2 * LENGTH * size), [2, LENGTH, size]);
    let check = |result: Result<Tensor<1>, LossError>, expected: &str| {
        assert_eq!(result.unwrap_err().to_string(), expected);
    };
    check(
        relations(vectors(4), vectors(6), 4, mask()),
        "expected a hidden size that 4 relation heads divide, found 6; choose another `relation-heads`",
    );
    check(
        hidden(vectors(4), vectors(6), None, mask()),
        "expected teacher hidden states of shape [2, 4, 4], found [2, 4, 6]",
    );
    let scores = |n_heads: usize| tensor(&zeros(2 * n_heads * 16), [2, n_heads, LENGTH, LENGTH]);
    check(
        attention(scores(2), scores(3), mask()),
        "expected teacher attention of shape [2, 2, 4, 4], found [2, 3, 4, 4]",
    );
    check(
        CrossEntropy::default().loss(tensor(&zeros(6), [2, 3]), labels(&[0])),
        "expected cross-entropy labels of shape [2], found [1]",
    );
    let hard = CrossEntropy { class_weights: Some(vec![1.0; 2]), label_smoothing: 0.0 };
    check(
        hard.loss(tensor(&zeros(6), [2, 3]), labels(&[0, 1])),
        "expected class weights of shape [3], found [2]",
    );
}

#[test]
fn balanced_weights_by_hand() {
    assert_eq!(balanced_class_weights(&[30, 10, 0]), [40.0 / 90.0, 40.0 / 30.0, 0.0]);
}
