//! Which trials are good: the best few of those that ran to their end within the constraints,
//! then of those that were stopped early, then of those that break constraints (Optuna 5.0;
//! Ozaki et al. 2022, "Multiobjective Tree-Structured Parzen Estimator", §4.1, for several
//! objectives).

use std::cmp::Ordering;

use super::super::{Observation, Outcome, are_numbers};
use crate::sweep::pareto::{Point, hypervolume, non_dominated_sort};

/// Most good trials of a single objective.
const MOST_GOOD: usize = 25;

/// Trials by what is to be made of them; indices into the history, ascending.
#[derive(Debug, PartialEq)]
pub(super) struct Split {
    pub(super) good: Vec<usize>,
    pub(super) bad: Vec<usize>,
}

/// How many of `n_ended` trials are good (Bergstra et al. 2013, §4.2, with the share of 0.1).
fn n_good(n_ended: usize, n_objectives: usize) -> usize {
    let share = n_ended.div_ceil(10);
    if n_objectives > 1 { share } else { share.min(MOST_GOOD) }
}

/// Trials that tell something about their parameters.
pub(super) fn ended(history: &[Observation]) -> impl Iterator<Item = usize> {
    let tells = |observation: &Observation| match &observation.outcome {
        Outcome::Paused { objectives, .. } => are_numbers(objectives),
        outcome => outcome.done().is_some(),
    };
    (0..history.len()).filter(move |index| tells(&history[*index]))
}

/// How many objectives there are.
pub(super) fn n_objectives(history: &[Observation]) -> usize {
    history.iter().find_map(|observation| observation.outcome.done()).map_or(1, |done| done.0.len())
}

/// Parts the trials; those that still run are bad where `pending_is_bad`.
pub(super) fn split(history: &[Observation], pending_is_bad: bool) -> Split {
    let (mut complete, mut paused, mut broken) = (Vec::new(), Vec::new(), Vec::new());
    for index in ended(history) {
        match &history[index].outcome {
            Outcome::Done { violation, .. } if *violation > 0.0 => broken.push((index, *violation)),
            Outcome::Done { objectives, .. } => complete.push((index, objectives.as_slice())),
            Outcome::Paused { rung, objectives } => {
                paused.push((index, *rung, objectives.as_slice()));
            }
            Outcome::Pending | Outcome::Failed => {}
        }
    }
    let n_ended = complete.len() + paused.len() + broken.len();
    let n_good = n_good(n_ended, n_objectives(history));
    paused.sort_by(|one, other| other.1.cmp(&one.1).then_with(|| lexicographic(one.2, other.2)));
    broken.sort_by(|one, other| one.1.total_cmp(&other.1));

    let ranked = best(&complete, n_good).into_iter();
    let ranked = ranked.chain(paused.iter().map(|trial| trial.0));
    let ranked = ranked.chain(broken.iter().map(|trial| trial.0));
    let (mut good, mut bad) = (Vec::new(), Vec::new());
    for (rank, index) in ranked.enumerate() {
        if rank < n_good { good.push(index) } else { bad.push(index) }
    }
    if pending_is_bad {
        let pending = |index: &usize| history[*index].outcome == Outcome::Pending;
        bad.extend((0..history.len()).filter(pending));
    }
    good.sort_unstable();
    bad.sort_unstable();
    Split { good, bad }
}

/// The trials with the best `n_good` of them in front.
fn best(trials: &[(usize, &[f64])], n_good: usize) -> Vec<usize> {
    if trials.iter().all(|(_, objectives)| objectives.len() == 1) {
        let mut sorted = trials.to_vec();
        sorted.sort_by(|one, other| lexicographic(one.1, other.1));
        return sorted.iter().map(|trial| trial.0).collect();
    }
    let point = |trial: &(usize, &'_ [f64])| trial.1.to_vec();
    let values: Vec<Vec<f64>> = trials.iter().map(point).collect();
    let points: Vec<Point<'_>> =
        values.iter().map(|objectives| Point { objectives, violation: 0.0 }).collect();
    let mut ranked: Vec<usize> = Vec::new();
    for mut front in non_dominated_sort(&points) {
        let room = n_good.saturating_sub(ranked.len());
        if (1..front.len()).contains(&room) {
            front = largest_volume_first(&values, front, room);
        }
        ranked.extend(front);
    }
    ranked.into_iter().map(|place| trials[place].0).collect()
}

/// A front with `room` points in front that together dominate much: one after the other, whichever
/// adds most (Guerreiro et al. 2016, "Greedy Hypervolume Subset Selection in Low Dimensions", §2).
fn largest_volume_first(values: &[Vec<f64>], mut front: Vec<usize>, room: usize) -> Vec<usize> {
    front.sort_by(|one, other| lexicographic(&values[*one], &values[*other]));
    let reference = reference_point(values, &front);
    if !reference.iter().all(|value| value.is_finite()) {
        return front;
    }
    let mut chosen: Vec<usize> = Vec::new();
    while chosen.len() < room {
        let volume = |place: usize| {
            let with: Vec<&[f64]> = chosen
                .iter()
                .chain([&front[place]])
                .map(|index| values[*index].as_slice())
                .collect();
            hypervolume(&with, &reference)
        };
        let volumes: Vec<f64> = (0..front.len()).map(volume).collect();
        let largest = (0..front.len())
            .reduce(|best, place| if volumes[place] > volumes[best] { place } else { best })
            .expect("there is room for fewer points than the front has");
        chosen.push(front.remove(largest));
    }
    chosen.extend(front);
    chosen
}

/// A tenth behind the worst of a front.
fn reference_point(values: &[Vec<f64>], front: &[usize]) -> Vec<f64> {
    (0..values[front[0]].len())
        .map(|objective| {
            let all = front.iter().map(|index| values[*index][objective]);
            let worst = all.fold(f64::NEG_INFINITY, f64::max);
            let behind = (1.1 * worst).max(0.9 * worst);
            if behind == 0.0 { 1e-12 } else { behind }
        })
        .collect()
}

fn lexicographic(one: &[f64], other: &[f64]) -> Ordering {
    let differ = one.iter().zip(other).map(|(one, other)| one.total_cmp(other));
    differ.fold(Ordering::Equal, Ordering::then)
}
