//! Densities from points: a mixture of one product of kernels a point, and of one that covers the
//! whole domain. Bergstra et al. 2011, §4.2; bandwidths and weights as Optuna 5.0 has them
//! (`consider_endpoints` off, magic clip on, prior weight 1).

use super::normal::{ln_between, ln_density, quantile_between};
use crate::sweep::sampler::draw::Draws;
use crate::sweep::space::{Domain, Numeric};

/// Points that all count the same; older ones count less.
const N_RECENT: usize = 25;

/// A density over some dimensions.
#[derive(Debug)]
pub(super) struct Parzen {
    /// Of the kernels, together 1: one a point, and the one that covers all.
    weights: Vec<f64>,
    ln_weights: Vec<f64>,
    marginals: Vec<Marginal>,
}

/// Kernels along one dimension.
#[derive(Debug)]
enum Marginal {
    Numeric {
        scale: Numeric,
        kernels: Vec<Normal>,
    },
    /// Probability of each choice, by kernel.
    Choice(Vec<Vec<f64>>),
}

/// A normal distribution on the scale that values are drawn from, cut off at its ends.
#[derive(Debug)]
struct Normal {
    center: f64,
    deviation: f64,
    /// Logarithm of what lies within the ends.
    ln_mass: f64,
    ln_deviation: f64,
}

/// How much points count, oldest first (Bergstra et al. 2013, "Making a Science of Model Search",
/// §4.2): the older ones of many fade out.
pub(super) fn fading_weights(n_points: usize) -> Vec<f64> {
    let n_old = n_points.saturating_sub(N_RECENT);
    let oldest = 1.0 / n_points as f64;
    let slope = (1.0 - oldest) / n_old.saturating_sub(1).max(1) as f64;
    let old = (0..n_old).map(|index| oldest + index as f64 * slope);
    old.chain(std::iter::repeat_n(1.0, n_points - n_old)).collect()
}

impl Parzen {
    /// The density of `points`, oldest first, that count `weights`.
    pub(super) fn new(domains: &[&Domain], points: &[Vec<f64>], weights: &[f64]) -> Self {
        let total = weights.iter().sum::<f64>() + 1.0;
        let marginals = domains
            .iter()
            .enumerate()
            .map(|(place, domain)| {
                let values: Vec<f64> = points.iter().map(|point| point[place]).collect();
                match domain.numeric() {
                    None => Marginal::Choice(choice_kernels(domain, &values)),
                    Some(scale) => {
                        Marginal::Numeric { scale, kernels: numeric_kernels(&scale, &values) }
                    }
                }
            })
            .collect();
        let weights: Vec<f64> = weights.iter().chain(&[1.0]).map(|weight| weight / total).collect();
        let ln_weights = weights.iter().map(|weight: &f64| libm::log(*weight)).collect();
        Self { weights, ln_weights, marginals }
    }

    /// Draws a point.
    pub(super) fn sample(&self, draws: &mut Draws) -> Vec<f64> {
        let kernel = pick(&self.weights, draws.unit());
        self.marginals
            .iter()
            .map(|marginal| match marginal {
                Marginal::Choice(kernels) => pick(&kernels[kernel], draws.unit()) as f64,
                Marginal::Numeric { scale, kernels } => {
                    let Normal { center, deviation, .. } = kernels[kernel];
                    let (low, high) = scale.ends();
                    let (low, high) = ((low - center) / deviation, (high - center) / deviation);
                    let place = quantile_between(low, high, draws.unit());
                    scale.value_at(place * deviation + center)
                }
            })
            .collect()
    }

    /// Logarithm of the density at `point`: of probabilities along dimensions with steps, on the
    /// logarithmic scale along those that are logarithmic.
    pub(super) fn ln_density(&self, point: &[f64]) -> f64 {
        let mut terms = self.ln_weights.clone();
        for (marginal, value) in self.marginals.iter().zip(point) {
            match marginal {
                Marginal::Choice(kernels) => {
                    for (term, kernel) in terms.iter_mut().zip(kernels) {
                        *term += libm::log(kernel[*value as usize]);
                    }
                }
                Marginal::Numeric { scale, kernels } => {
                    let half = scale.step.unwrap_or(0.0) / 2.0;
                    let (low, high) = (scale.place_of(value - half), scale.place_of(value + half));
                    for (term, kernel) in terms.iter_mut().zip(kernels) {
                        *term += kernel.ln_density(low, high);
                    }
                }
            }
        }
        let largest = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if largest == f64::NEG_INFINITY {
            return largest;
        }
        largest + libm::log(terms.iter().map(|term| libm::exp(term - largest)).sum())
    }
}

impl Normal {
    fn new(center: f64, deviation: f64, (low, high): (f64, f64)) -> Self {
        let ln_mass = ln_between((low - center) / deviation, (high - center) / deviation);
        Self { center, deviation, ln_mass, ln_deviation: libm::log(deviation) }
    }

    /// Of the mass from `low` to `high`, or of the density where they are the same.
    fn ln_density(&self, low: f64, high: f64) -> f64 {
        let from = (low - self.center) / self.deviation;
        if low == high {
            return ln_density(from) - self.ln_deviation - self.ln_mass;
        }
        ln_between(from, (high - self.center) / self.deviation) - self.ln_mass
    }
}

/// Kernels at `values` as wide as the gap to the farther neighbour, within bounds, and one over
/// everything.
fn numeric_kernels(scale: &Numeric, values: &[f64]) -> Vec<Normal> {
    let (low, high) = scale.ends();
    let centers: Vec<f64> = values.iter().map(|value| scale.place_of(*value)).collect();
    let n_values = centers.len();
    let mut sorted: Vec<usize> = (0..n_values).collect();
    sorted.sort_by(|one, other| centers[*one].total_cmp(&centers[*other]));

    let narrowest = (high - low) / (n_values as f64 + 2.0).min(100.0);
    let mut deviations = vec![0.0; n_values];
    for (rank, index) in sorted.iter().enumerate() {
        let neighbour = |rank: Option<usize>| {
            rank.and_then(|rank| sorted.get(rank)).map(|index| centers[*index])
        };
        let center = centers[*index];
        let below = neighbour(rank.checked_sub(1)).map(|below| center - below);
        let above = neighbour(Some(rank + 1)).map(|above| above - center);
        let gap = match (below, above) {
            (Some(below), Some(above)) => below.max(above),
            // The ends of the domain count as neighbours of a lone point only.
            (None, None) => (center - low).max(high - center),
            (one, other) => one.or(other).unwrap_or(high - low),
        };
        deviations[*index] = gap.clamp(narrowest, high - low);
    }
    let kernel = |(center, deviation): (f64, f64)| Normal::new(center, deviation, (low, high));
    let over_everything = (0.5 * (low + high), high - low);
    centers.into_iter().zip(deviations).chain([over_everything]).map(kernel).collect()
}

/// Kernels that mostly give their own choice, and one that gives all alike.
fn choice_kernels(domain: &Domain, values: &[f64]) -> Vec<Vec<f64>> {
    let n_choices = domain.size().unwrap_or(1) as usize;
    let elsewhere = 1.0 / (values.len() as f64 + 1.0);
    let total = 1.0 + elsewhere * n_choices as f64;
    let kernel = |value: &f64| {
        let mut kernel = vec![elsewhere / total; n_choices];
        kernel[*value as usize] += 1.0 / total;
        kernel
    };
    let all_alike = vec![1.0 / n_choices as f64; n_choices];
    values.iter().map(kernel).chain([all_alike]).collect()
}

/// Where `unit` falls among probabilities that lie end to end.
fn pick(probabilities: &[f64], unit: f64) -> usize {
    let mut end = 0.0;
    let place = probabilities.iter().position(|probability| {
        end += probability;
        unit < end
    });
    place.unwrap_or(probabilities.len() - 1)
}
