//! The non-dominated sorting genetic algorithm (Deb et al. 2002, "A Fast and Elitist Multiobjective
//! Genetic Algorithm: NSGA-II"), with the crossovers, mutation and constants of Optuna 5.0.
//!
//! Generations are counted in trials that ran to their end, in the order of their numbers: the first
//! `population-size` of them are generation 0, and so on. Whatever fails, pauses or still runs is in
//! none, and is made up for by another child of the same parents; so nothing ever waits.

use serde_json::{Value, json};

use super::{Ask, Crossover, Draws, Nsga2Options, Observation};
use crate::sweep::pareto::{Point, crowding_distance, dominates, non_dominated_sort};
use crate::sweep::space::{Dimension, Numeric, Params};

/// Distribution index of simulated binary crossover: how near children are to their parents.
const SBX_INDEX: f64 = 20.0;
/// Probability of a number to be a child's of two parents, and not one parent's own.
const SBX_SHARE: f64 = 0.5;

/// One that has survived.
#[derive(Debug, Clone, Copy)]
struct Parent<'a> {
    trial: usize,
    params: &'a Params,
    point: Point<'a>,
    /// Room around it in its front.
    crowding: f64,
}

pub(super) fn ask(options: &Nsga2Options, ask: &Ask<'_>) -> (Params, Value) {
    let mut draws = Draws::new(ask.seed, ask.number);
    let (generation, parents) = parents(options, ask.history);
    if parents.is_empty() {
        return (draws.point(ask.space), json!({ "generation": generation }));
    }
    let first = tournament(&parents, None, &mut draws);
    let second = if draws.happens(options.crossover_probability) {
        tournament(&parents, Some(first.trial), &mut draws)
    } else {
        first
    };
    let child = cross(options, ask, [first, second], &mut draws);
    let params = mutate(options, ask, &child, &mut draws);
    let state = json!({ "generation": generation, "parents": [first.trial, second.trial] });
    (params, state)
}

/// The generation that is being made, and who may have children in it.
fn parents<'a>(options: &Nsga2Options, history: &'a [Observation]) -> (usize, Vec<Parent<'a>>) {
    let done: Vec<Parent<'a>> = history
        .iter()
        .enumerate()
        .filter_map(|(trial, Observation { params, outcome })| {
            let (objectives, violation) = outcome.done()?;
            let point = Point { objectives, violation };
            Some(Parent { trial, params, point, crowding: 0.0 })
        })
        .collect();
    let generations = done.chunks_exact(options.population_size);
    let generation = generations.len();
    let survivors = generations.fold(Vec::new(), |mut survivors, children| {
        survivors.extend_from_slice(children);
        survive(survivors, options.population_size)
    });
    (generation, survivors)
}

/// The best fronts, and of the last one the least crowded (Deb et al. 2002, §III-C).
fn survive(population: Vec<Parent<'_>>, size: usize) -> Vec<Parent<'_>> {
    let points: Vec<Point<'_>> = population.iter().map(|parent| parent.point).collect();
    let mut survivors: Vec<Parent<'_>> = Vec::new();
    for front in non_dominated_sort(&points) {
        let objectives: Vec<&[f64]> = front.iter().map(|index| points[*index].objectives).collect();
        let crowding = crowding_distance(&objectives);
        let mut front: Vec<Parent<'_>> = front
            .iter()
            .zip(crowding)
            .map(|(index, crowding)| Parent { crowding, ..population[*index] })
            .collect();
        front.sort_by(|one, other| other.crowding.total_cmp(&one.crowding));
        front.truncate(size - survivors.len());
        survivors.extend(front);
    }
    survivors
}

/// The better of two, other than `taken`: what dominates, else what is less crowded.
fn tournament<'a>(parents: &[Parent<'a>], taken: Option<usize>, draws: &mut Draws) -> Parent<'a> {
    let free: Vec<&Parent<'a>> =
        parents.iter().filter(|parent| Some(parent.trial) != taken).collect();
    let (one, other) = (free[draws.index(free.len())], free[draws.index(free.len())]);
    let better = dominates(&one.point, &other.point)
        || !dominates(&other.point, &one.point) && one.crowding > other.crowding;
    *(if better { one } else { other })
}

/// A child of two parents. What counts for one of them only comes from that one, what counts for
/// neither is drawn.
fn cross(
    options: &Nsga2Options,
    ask: &Ask<'_>,
    [first, second]: [Parent<'_>; 2],
    draws: &mut Draws,
) -> Params {
    ask.space.assemble(|_, dimension| {
        let Dimension { domain, .. } = dimension;
        let numbers = (dimension.number_in(first.params), dimension.number_in(second.params));
        let (one, other) = match numbers {
            (Some(one), Some(other)) => (one, other),
            (Some(one), None) | (None, Some(one)) => return domain.value(one),
            (None, None) => return draws.value(domain),
        };
        match (options.crossover, domain.numeric()) {
            (Crossover::Sbx, Some(scale)) if one != other => {
                domain.value(simulated_binary(&scale, [one, other], draws))
            }
            _ => {
                let swap = draws.happens(options.swapping_probability);
                domain.value(if swap { other } else { one })
            }
        }
    })
}

/// Simulated binary crossover within bounds (Deb and Agrawal 1995, §3; bounds as in Deb 2000, "An
/// Efficient Constraint Handling Method for Genetic Algorithms", §3).
fn simulated_binary(scale: &Numeric, parents: [f64; 2], draws: &mut Draws) -> f64 {
    let parents = parents.map(|parent| scale.place_of(parent));
    let take_child = draws.happens(SBX_SHARE);
    let upper = draws.happens(0.5);
    let unit = draws.unit();
    if !take_child {
        return scale.value_at(parents[usize::from(upper)]);
    }
    let (low, high) = scale.ends();
    let (small, large) = (parents[0].min(parents[1]), parents[0].max(parents[1]));
    let distance = large - small;
    let room = if upper { high - large } else { small - low };
    let beta = 1.0 + 2.0 * room / distance;
    let alpha = 2.0 - libm::pow(beta, -(SBX_INDEX + 1.0));
    let spread = if unit <= 1.0 / alpha { unit * alpha } else { 1.0 / (2.0 - unit * alpha) };
    let reach = 0.5 * libm::pow(spread, 1.0 / (SBX_INDEX + 1.0)) * distance;
    let middle = 0.5 * (small + large);
    scale.value_at(if upper { middle + reach } else { middle - reach })
}

/// Draws some values of a child anew, and those that count only now.
fn mutate(options: &Nsga2Options, ask: &Ask<'_>, child: &Params, draws: &mut Draws) -> Params {
    let probability = options.mutation_probability.unwrap_or(1.0 / child.len().max(1) as f64);
    ask.space.assemble(|_, Dimension { name, domain, .. }| {
        let kept = child.get(name).filter(|_| !draws.happens(probability));
        kept.cloned().unwrap_or_else(|| draws.value(domain))
    })
}
