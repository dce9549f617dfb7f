//! The tree-structured Parzen estimator: draw from the density of good trials, take what is most
//! likely to be from it and not from the density of bad ones (Bergstra et al. 2011, "Algorithms for
//! Hyper-Parameter Optimization", §4; several dimensions at once: Falkner et al. 2018, "BOHB", §3).
//! Semantics and constants are those of Optuna 5.0's `TPESampler(multivariate=True, group=True,
//! constant_liar=True)`; <https://arxiv.org/abs/2304.11127> explains them.

mod normal;
mod parzen;
mod split;

use serde_json::{Value, json};

use super::{Ask, Draws, Observation, TpeOptions};
use crate::sweep::space::{Dimension, Domain, Params};
use parzen::{Parzen, fading_weights};
use split::{Split, split};

pub(super) fn ask(options: &TpeOptions, ask: &Ask<'_>) -> (Params, Value) {
    let mut draws = Draws::new(ask.seed, ask.number);
    let n_ended = split::ended(ask.history).count();
    if n_ended < options.n_startup_trials {
        return (draws.point(ask.space), json!({ "startup": true }));
    }
    let split = split(ask.history, options.constant_liar);
    let mut numbers = vec![None; ask.space.dimensions.len()];
    let mut ratios = Vec::new();
    for group in groups(options, ask) {
        let (point, ratio) = draw_group(options, ask, &group, &split, &mut draws);
        for (index, number) in group.into_iter().zip(point) {
            numbers[index] = Some(number);
        }
        ratios.push(ratio);
    }
    let params = ask.space.assemble(|index, Dimension { domain, .. }| {
        domain.value(numbers[index].expect("every dimension is in a group"))
    });
    let state = json!({ "good": split.good, "n_bad": split.bad.len(), "ln_ratios": ratios });
    (params, state)
}

/// Dimensions that are drawn together: those that counted in the same trials. What never counted
/// stands alone.
fn groups(options: &TpeOptions, ask: &Ask<'_>) -> Vec<Vec<usize>> {
    let mut groups: Vec<(Vec<bool>, Vec<usize>)> = Vec::new();
    for (index, dimension) in ask.space.dimensions.iter().enumerate() {
        let counted: Vec<bool> = split::ended(ask.history)
            .map(|trial| ask.history[trial].params.contains_key(&dimension.name))
            .collect();
        let same = groups.iter_mut().find(|(other, _)| {
            options.multivariate && counted.contains(&true) && *other == counted
        });
        match same {
            Some((_, group)) => group.push(index),
            None => groups.push((counted, vec![index])),
        }
    }
    groups.into_iter().map(|(_, group)| group).collect()
}

/// The best of some points of the group, and how good it is: the logarithm of the ratio of the
/// densities, which grows with the expected improvement (Bergstra et al. 2011, §4.1).
fn draw_group(
    options: &TpeOptions,
    ask: &Ask<'_>,
    group: &[usize],
    split: &Split,
    draws: &mut Draws,
) -> (Vec<f64>, f64) {
    let dimensions: Vec<&Dimension> =
        group.iter().map(|index| &ask.space.dimensions[*index]).collect();
    let domains: Vec<&Domain> = dimensions.iter().map(|dimension| &dimension.domain).collect();
    let good = points(ask.history, &split.good, &dimensions);
    let bad = points(ask.history, &split.bad, &dimensions);
    let good_weights = if split::n_objectives(ask.history) > 1 {
        vec![1.0; good.len()]
    } else {
        fading_weights(good.len())
    };
    let good = Parzen::new(&domains, &good, &good_weights);
    let bad = Parzen::new(&domains, &bad, &fading_weights(bad.len()));
    let mut candidate = || {
        let point = good.sample(draws);
        let ratio = good.ln_density(&point) - bad.ln_density(&point);
        (point, ratio)
    };
    let mut best = candidate();
    for _ in 1..options.n_ei_candidates {
        let next = candidate();
        if next.1 > best.1 {
            best = next;
        }
    }
    best
}

/// What the dimensions were in those trials in which all of them counted.
fn points(history: &[Observation], trials: &[usize], dimensions: &[&Dimension]) -> Vec<Vec<f64>> {
    let point = |trial: &usize| {
        let numbers =
            dimensions.iter().map(|dimension| dimension.number_in(&history[*trial].params));
        numbers.collect()
    };
    trials.iter().filter_map(point).collect()
}

#[cfg(test)]
mod tests;
