use burn::tensor::{Device, TensorData};

use super::*;

/// `f32` against `f64`.
const TOLERANCE: f64 = 1e-4;

const STUDENT: [[f64; 3]; 3] = [[2.0, -1.0, 0.5], [0.1, 0.2, 0.3], [-3.0, 1.0, 1.0]];
const TEACHER: [[f64; 3]; 3] = [[2.5, -1.0, 0.0], [-1.0, 0.5, 2.0], [3.0, -1.0, 0.0]];

fn logits(rows: [[f64; 3]; 3]) -> Tensor<2> {
    let values: Vec<f32> = rows.as_flattened().iter().map(|&value| value as f32).collect();
    Tensor::from_data(TensorData::new(values, [3, 3]), &Device::flex().autodiff())
}

fn at(temperature: &Temperature, progress: f64) -> Vec<f64> {
    let found = temperature.of_batch(progress, &logits(STUDENT), &logits(TEACHER), None);
    found.into_data().try_to_vec::<f32>().unwrap().into_iter().map(f64::from).collect()
}

fn check(temperature: &Temperature, progress: f64, expected: &[f64]) {
    let found = at(temperature, progress);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        assert!(
            (found - expected).abs() < TOLERANCE,
            "{temperature:?}: expected {expected}, found {found}"
        );
    }
}

#[test]
fn constant_and_schedules() {
    check(&Temperature::Constant { value: 2.0 }, 0.3, &[2.0]);
    let linear = Temperature::Schedule { from: 8.0, to: 1.0, shape: Shape::Linear };
    for (progress, expected) in [(0.0, 8.0), (0.5, 4.5), (1.0, 1.0), (2.0, 1.0)] {
        check(&linear, progress, &[expected]);
    }
    let cosine = Temperature::Schedule { from: 8.0, to: 1.0, shape: Shape::Cosine };
    let quarter = 1.0 + 7.0 * (1.0 + (std::f64::consts::PI / 4.0).cos()) / 2.0;
    for (progress, expected) in [(0.0, 8.0), (0.25, quarter), (0.5, 4.5), (1.0, 1.0)] {
        check(&cosine, progress, &[expected]);
    }
}

fn around_mean(weights: [f64; 3], base: f64, beta: f64) -> Vec<f64> {
    let mean = weights.iter().sum::<f64>() / 3.0;
    weights.iter().map(|weight| (base + beta * (mean - weight)).max(LOWEST)).collect()
}

#[test]
fn focal_weights_look_at_disagreement() {
    let dot = |a: [f64; 3], b: [f64; 3]| a.iter().zip(&b).map(|(a, b)| a * b).sum::<f64>();
    let norm = |a: [f64; 3]| dot(a, a).sqrt() + 1e-4;
    for (beta, gamma) in [(1.0, 1.0), (2.0, 1.5), (50.0, 2.0)] {
        let weight = |row: usize| {
            let (s, t) = (STUDENT[row], TEACHER[row]);
            (1.0 - dot(s, t) / (norm(s) * norm(t))).powf(gamma)
        };
        let expected = around_mean([0, 1, 2].map(weight), 4.0, beta);
        check(
            &Temperature::PerSample { method: Weighting::Flsw, base: 4.0, beta, gamma },
            0.0,
            &expected,
        );
    }
    let found = at(
        &Temperature::PerSample { method: Weighting::Flsw, base: 4.0, beta: 1.0, gamma: 1.0 },
        0.0,
    );
    assert!(
        found[0] > found[1] && found[1] > found[2],
        "agreement raises the temperature: {found:?}"
    );
}

#[test]
fn equal_logits_have_no_disagreement_whatever_the_exponent() {
    let method =
        Temperature::PerSample { method: Weighting::Flsw, base: 3.0, beta: 1.0, gamma: 0.5 };
    let found = method.of_batch(0.0, &logits(STUDENT), &logits(STUDENT), None);
    let found = found.into_data().try_to_vec::<f32>().unwrap();
    assert!(found.iter().all(|temperature| (temperature - 3.0).abs() < 0.05), "{found:?}");
}

#[test]
fn confidence_weights_look_at_the_student() {
    let weight = |row: usize| {
        let powers = STUDENT[row].map(f64::exp);
        let largest = powers.iter().copied().fold(0.0, f64::max);
        1.0 / (largest / powers.iter().sum::<f64>() + 1e-3)
    };
    let expected = around_mean([0, 1, 2].map(weight), 2.0, 0.5);
    check(
        &Temperature::PerSample { method: Weighting::Cwsm, base: 2.0, beta: 0.5, gamma: 1.0 },
        0.0,
        &expected,
    );
}

#[test]
fn per_sample_temperatures_are_constants_to_the_gradient() {
    let student = logits(STUDENT).require_grad();
    let method =
        Temperature::PerSample { method: Weighting::Flsw, base: 4.0, beta: 1.0, gamma: 1.0 };
    let temperatures = method.of_batch(0.0, &student, &logits(TEACHER), None);
    let loss = student.clone().sum() + temperatures.sum();
    let gradient = student.grad(&loss.backward()).unwrap().into_data().try_to_vec::<f32>().unwrap();
    assert_eq!(gradient, [1.0; 9]);
}

fn learned() -> Temperature {
    toml("learned = {}")
}

#[test]
fn a_learned_temperature_starts_where_its_authors_start_it() {
    let sigmoid = 1.0 / (1.0 + (-1f64).exp());
    check(&learned(), 0.0, &[1.0 + 20.0 * sigmoid]);
    assert_eq!(learned().initial_parameter(), Some(1.0));
    assert_eq!(Temperature::Constant { value: 2.0 }.initial_parameter(), None);
}

#[test]
fn the_gradient_of_a_learned_temperature_is_reversed_little_by_little() {
    let expected = [(0.0, 0.0), (0.5, -0.5), (1.0, -1.0)];
    for (progress, expected) in expected {
        let rate = learned().descent_rate(progress).unwrap();
        assert!((rate - expected * RATE).abs() < 1e-9);
    }
    assert_eq!(Temperature::Constant { value: 2.0 }.descent_rate(0.7), None);
    let parameter = Tensor::<1>::from_floats([1.0], &Device::flex().autodiff()).require_grad();
    let temperature =
        learned().of_batch(0.0, &logits(STUDENT), &logits(TEACHER), Some(parameter.clone()));
    let gradient =
        parameter.grad(&temperature.backward()).unwrap().into_data().try_to_vec::<f32>().unwrap();
    let sigmoid = 1.0 / (1.0 + (-1f64).exp());
    assert!((f64::from(gradient[0]) - 20.0 * sigmoid * (1.0 - sigmoid)).abs() < TOLERANCE);
}

fn parse(text: &str) -> Result<Temperature, String> {
    #[derive(Deserialize)]
    struct Params {
        temperature: Temperature,
    }
    let text = format!("temperature.{text}");
    toml::from_str::<Params>(&text)
        .map(|params| params.temperature)
        .map_err(|error| error.to_string())
}

fn toml(text: &str) -> Temperature {
    parse(text).unwrap()
}

#[test]
fn manifests_name_a_variant_and_its_fields() {
    assert_eq!(toml("constant.value = 4"), Temperature::Constant { value: 4.0 });
    assert_eq!(
        toml("schedule = { from = 8, to = 1 }"),
        Temperature::Schedule { from: 8.0, to: 1.0, shape: Shape::Linear }
    );
    assert_eq!(
        toml("per-sample = { method = 'cwsm', base = 3.5 }"),
        Temperature::PerSample { method: Weighting::Cwsm, base: 3.5, beta: 1.0, gamma: 1.0 }
    );
    assert_eq!(toml("learned = { max-lambda = 0.5 }").descent_rate(1.0), Some(-0.5 * RATE));
    let written = serde_json::to_string(&learned()).unwrap();
    assert_eq!(serde_json::from_str::<Temperature>(&written).unwrap(), learned());
}

#[test]
fn values_out_of_range_keep_their_place_in_the_file() {
    let check = |text: &str, expected: &str| {
        let error = parse(text).unwrap_err();
        assert!(error.contains(expected) && error.contains("line 1"), "{error}");
    };
    check("constant.value = 0", "expected a number from 0.01 to 1000, found 0");
    check("constant.value = nan", "expected a number from 0.01 to 1000, found NaN");
    check(
        "per-sample = { method = 'flsw', beta = -1 }",
        "expected a number from 0 to 1000, found -1",
    );
    check("learned.initial = inf", "expected a finite number, found inf");
    check("constant.valeu = 2", "valeu");
    check("schedule = { from = 2, to = 1, shape = 'step' }", "unknown variant `step`");
}
