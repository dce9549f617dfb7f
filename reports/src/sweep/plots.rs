//! Which drawings a sweep gets.

use engine::history::{SweepRecord, TrialRecord, TrialState};

use super::trials::{estimate, hover, keeps};
use super::{ParameterNames, objective_name, parameter, unit};
use crate::plot::{
    self, Climb, Coordinate, Dimension, Measure, Parallel, Plot, Point, Standing, Trial, Unit,
};

/// Trials whose objectives are all known.
fn measured(sweep: &SweepRecord) -> impl Iterator<Item = (&TrialRecord, Vec<f64>)> {
    sweep.trials.iter().filter(|trial| trial.state == TrialState::Done).filter_map(|trial| {
        let values: Option<Vec<f64>> = trial.objectives.iter().copied().collect();
        let values = values.filter(|values| values.iter().all(|value| value.is_finite()))?;
        (values.len() == sweep.objectives.len()).then_some((trial, values))
    })
}

fn measure(sweep: &SweepRecord, index: usize) -> Measure {
    Measure {
        name: objective_name(sweep, index),
        unit: Unit::of_metric(unit(&sweep.objectives[index])),
        maximize: sweep.objectives[index].maximize,
    }
}

fn standing(trial: &TrialRecord) -> Standing {
    match (keeps(trial), trial.best) {
        (false, _) => Standing::Outside,
        (true, true) => Standing::Best,
        (true, false) => Standing::Behind,
    }
}

/// A plot an objective: trials in the order drawn, and the best so far.
pub(super) fn history(sweep: &SweepRecord, names: &ParameterNames) -> Vec<Plot> {
    let of = |index: usize| {
        let point = |(trial, values): (&TrialRecord, Vec<f64>)| Point {
            x: trial.number as f64,
            y: values[index],
            ends: estimate(trial, index).and_then(|estimate| estimate.interval()),
            standing: standing(trial),
            hover: hover(sweep, names, trial),
        };
        plot::history(&measure(sweep, index), &measured(sweep).map(point).collect::<Vec<_>>())
    };
    (0..sweep.objectives.len()).filter_map(of).collect()
}

/// The first objective against each of the others.
pub(super) fn fronts(sweep: &SweepRecord, names: &ParameterNames) -> Vec<Plot> {
    let against = |index: usize| {
        let point = |(trial, values): (&TrialRecord, Vec<f64>)| Point {
            x: values[index],
            y: values[0],
            ends: None,
            standing: standing(trial),
            hover: hover(sweep, names, trial),
        };
        let points: Vec<Point> = measured(sweep).map(point).collect();
        plot::front(&measure(sweep, index), &measure(sweep, 0), &points)
    };
    (1..sweep.objectives.len()).filter_map(against).collect()
}

/// All parameters and objectives side by side.
pub(super) fn parallel(sweep: &SweepRecord, names: &ParameterNames) -> Option<Parallel> {
    let parameters = sweep.varied().map(|one| Dimension {
        name: names.short(&one.name).to_owned(),
        unit: Unit::Plain,
        log: one.log,
    });
    let objectives = (0..sweep.objectives.len()).map(|index| {
        let Measure { name, unit, .. } = measure(sweep, index);
        Dimension { name, unit, log: false }
    });
    let dimensions: Vec<Dimension> = parameters.chain(objectives).collect();
    let measured: Vec<(&TrialRecord, Vec<f64>)> = measured(sweep).collect();
    let line = |(trial, values): &(&TrialRecord, Vec<f64>)| {
        let parameters = sweep.varied().map(|one| match trial.params.get(&one.name) {
            None => Coordinate::Absent,
            Some(value) => match value.as_f64() {
                Some(number) => Coordinate::Number(number),
                None => Coordinate::Word(parameter(value)),
            },
        });
        let is_worse = |(_, other): &&(&TrialRecord, Vec<f64>)| {
            (other[0] < values[0]) == sweep.objectives[0].maximize && other[0] != values[0]
        };
        let n_worse = measured.iter().filter(is_worse).count();
        Trial {
            coordinates: parameters.chain(values.iter().map(|v| Coordinate::Number(*v))).collect(),
            rank: n_worse as f64 / measured.len().saturating_sub(1).max(1) as f64,
            is_best: trial.best,
            is_inside: keeps(trial),
            hover: hover(sweep, names, trial),
        }
    };
    sweep.objectives.first()?;
    plot::parallel(&dimensions, &measured.iter().map(line).collect::<Vec<_>>())
}

/// What early stopping watches, as the sweep's table says: `{ maximize = "validation/accuracy" }`.
fn watched_measure(sweep: &SweepRecord, index: usize) -> Measure {
    let stopping = &sweep.spec["early-stopping"];
    let watch = stopping["watch"][index].as_object().and_then(|watch| watch.iter().next());
    let name = watch.and_then(|(_, name)| name.as_str());
    Measure {
        name: match (stopping["stage"].as_str(), name) {
            (Some(stage), Some(name)) => format!("{stage}: {name}"),
            (_, name) => name.map_or_else(|| format!("watched value {index}"), str::to_owned),
        },
        unit: name.map_or(Unit::Plain, Unit::of_series),
        maximize: watch.is_none_or(|(direction, _)| direction != "minimize"),
    }
}

/// What early stopping saw, a plot a watched value.
pub(super) fn rungs(sweep: &SweepRecord, names: &ParameterNames) -> Vec<Plot> {
    let watched = sweep.trials.iter().flat_map(|trial| &trial.rungs).map(|rung| rung.values.len());
    let of = |index: usize| {
        let climb = |trial: &TrialRecord| Climb {
            points: trial
                .rungs
                .iter()
                .filter_map(|rung| Some((rung.epochs as f64, *rung.values.get(index)?)))
                .filter(|point| point.1.is_finite())
                .collect(),
            finished: trial.state == TrialState::Done,
            hover: hover(sweep, names, trial),
        };
        plot::rungs(
            &watched_measure(sweep, index),
            &sweep.trials.iter().map(climb).collect::<Vec<_>>(),
        )
    };
    (0..watched.max().unwrap_or(0)).filter_map(of).collect()
}
