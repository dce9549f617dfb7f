//! Against Optuna: see `engine/tests/data/agree_with_optuna.py`.

use serde::Deserialize;
use serde_json::Value;

use super::parzen::{Parzen, fading_weights};
use super::split::{Split, split};
use crate::sweep::sampler::Observation;
use crate::sweep::sampler::draw::Draws;
use crate::sweep::space::Domain;

#[derive(Deserialize)]
struct Fixture {
    densities: Vec<Density>,
    splits: Vec<Parted>,
}

#[derive(Deserialize)]
struct Density {
    domains: Vec<Domain>,
    observations: Vec<Vec<f64>>,
    points: Vec<Vec<f64>>,
    ln_densities: Vec<f64>,
}

#[derive(Deserialize)]
struct Parted {
    history: Vec<Observation>,
    good: Vec<usize>,
    bad: Vec<usize>,
}

fn fixture() -> Fixture {
    let text = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/optuna.json"));
    serde_json::from_str(text).unwrap()
}

fn estimator(domains: &[Domain], observations: &[Vec<f64>]) -> Parzen {
    let domains: Vec<&Domain> = domains.iter().collect();
    Parzen::new(&domains, observations, &fading_weights(observations.len()))
}

/// Sums of some hundred terms with 12 good digits each.
const TOLERANCE: f64 = 1e-10;

#[test]
fn densities_are_those_of_optuna() {
    for Density { domains, observations, points, ln_densities } in fixture().densities {
        let estimator = estimator(&domains, &observations);
        for (point, expected) in points.iter().zip(ln_densities) {
            let found = estimator.ln_density(point);
            let n = observations.len();
            assert!(
                (found - expected).abs() <= TOLERANCE * expected.abs().max(1.0),
                "{n} observations of {domains:?} at {point:?}: {found} is not {expected}"
            );
        }
    }
}

#[test]
fn good_and_bad_trials_are_those_of_optuna() {
    for (index, Parted { history, good, bad }) in fixture().splits.into_iter().enumerate() {
        assert_eq!(split(&history, true), Split { good, bad }, "history {index}");
    }
}

#[test]
fn without_the_liar_running_trials_tell_nothing() {
    for Parted { history, good, .. } in fixture().splits {
        let found = split(&history, false);
        assert_eq!(found.good, good);
        assert!(
            found.bad.iter().all(|trial| {
                history[*trial].outcome != crate::sweep::sampler::Outcome::Pending
            })
        );
    }
}

/// What is drawn has the density that is computed: by intervals, within four standard errors.
#[test]
fn samples_follow_the_density() {
    const N_DRAWS: usize = 20_000;
    let cases: [(Value, &[f64]); 5] = [
        (serde_json::json!({"uniform": {"low": 0.0, "high": 1.0}}), &[0.2, 0.25, 0.9]),
        (serde_json::json!({"log-uniform": {"low": 1e-4, "high": 1.0}}), &[1e-3, 2e-3]),
        (serde_json::json!({"int": {"low": 0, "high": 9}}), &[0.0, 1.0, 9.0]),
        (serde_json::json!({"int": {"low": 1, "high": 64, "log": true}}), &[1.0, 8.0]),
        (serde_json::json!({"choice": ["a", "b", "c"]}), &[2.0, 2.0, 0.0]),
    ];
    for (domain, observed) in cases {
        let domain: Domain = serde_json::from_value(domain).unwrap();
        let observations: Vec<Vec<f64>> = observed.iter().map(|value| vec![*value]).collect();
        let estimator = estimator(std::slice::from_ref(&domain), &observations);
        let mut draws = Draws::new(1, 2);
        let drawn: Vec<f64> = (0..N_DRAWS).map(|_| estimator.sample(&mut draws)[0]).collect();
        for (low, high, share) in shares(&domain, &estimator) {
            let inside = drawn.iter().filter(|value| (low..high).contains(*value)).count();
            let found = inside as f64 / N_DRAWS as f64;
            let error = (share * (1.0 - share) / N_DRAWS as f64).sqrt();
            assert!((found - share).abs() <= 4.0 * error, "{domain:?} {low} {found} {share}");
        }
    }
}

/// Intervals of values, and what the density puts there: sums for what can be counted, trapezoids
/// for the rest.
fn shares(domain: &Domain, estimator: &Parzen) -> Vec<(f64, f64, f64)> {
    let density = |value: f64| estimator.ln_density(&[value]).exp();
    if let Some(size) = domain.size() {
        let first = domain.number(&domain.nth(0)).unwrap();
        let value = |index: u64| first + index as f64;
        return (0..size)
            .map(|index| (value(index), value(index) + 0.5, density(value(index))))
            .collect();
    }
    const N_INTERVALS: usize = 8;
    const N_STEPS: usize = 2_000;
    let scale = domain.numeric().unwrap();
    let (low, high) = scale.ends();
    let at = |share: f64| low + share * (high - low);
    let interval = |index: usize| {
        let (from, to) =
            (at(index as f64 / N_INTERVALS as f64), at((index + 1) as f64 / N_INTERVALS as f64));
        let step = (to - from) / N_STEPS as f64;
        let height = |step_index: usize| density(scale.value_at(from + step_index as f64 * step));
        let ends = 0.5 * (height(0) + height(N_STEPS));
        let share = step * (ends + (1..N_STEPS).map(height).sum::<f64>());
        (scale.value_at(from), scale.value_at(to), share)
    };
    (0..N_INTERVALS).map(interval).collect()
}
