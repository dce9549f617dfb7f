//! What is known about a sweep's trials, and what to do next.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::measure::Item;
use super::sampler::{Ask, Observation, Outcome, Proposal};
use super::space::{Params, Space};
use super::stopping::{Climber, Ladder, Target};
use crate::error::Error;
use crate::history::{SweepRecord, TrialState, means};
use crate::key;
use crate::manifest::{Bound, Gate, SweepSpec};

/// Draws before a space counts as exhausted because everything drawn is known already.
const DRAWS: u64 = 64;

/// What is known about the trials of a sweep.
#[derive(Debug)]
pub(super) struct Board {
    pub(super) spec: SweepSpec,
    pub(super) space: Space,
    /// Seed of the sampler.
    pub(super) seed: u64,
    /// Seeds of every trial.
    pub(super) seeds: Vec<u64>,
    /// Trials there are to be.
    pub(super) asked: u64,
    pub(super) ladder: Option<Ladder>,
    pub(super) trials: Vec<Trial>,
    in_flight: BTreeSet<u64>,
    exhausted: bool,
}

/// One trial.
#[derive(Debug, Clone)]
pub(super) struct Trial {
    pub(super) identity: String,
    pub(super) params: Params,
    pub(super) state: TrialState,
    /// Rung it is at work for, or held at; `None` for its end.
    pub(super) target: Target,
    /// Epochs its parameters ask for, of the stage that early stopping holds; 0 without.
    pub(super) epochs: u64,
    /// Objectives and constraints by seed.
    measured: BTreeMap<u64, (Vec<f64>, Vec<f64>)>,
    /// Watched values by rung and seed, in their own directions.
    reached: BTreeMap<usize, BTreeMap<u64, Vec<f64>>>,
    retried: bool,
}

/// A trial that is about to exist.
#[derive(Debug)]
pub(super) struct Drawn {
    pub(super) identity: String,
    pub(super) params: Params,
    /// What it was drawn from.
    pub(super) sampler: Value,
}

/// How a trial stands after all its seeds.
#[derive(Debug)]
pub(super) struct Conclusion {
    pub(super) state: TrialState,
    /// Means over the seeds: of the objectives when done, of what is watched when held.
    pub(super) values: Vec<f64>,
    pub(super) violation: Option<f64>,
}

impl Board {
    pub(super) fn new(
        spec: SweepSpec,
        space: Space,
        seed: u64,
        seeds: Vec<u64>,
        ladder: Option<Ladder>,
    ) -> Result<Self, Error> {
        let total =
            spec.sampler.total(&space).map_err(|error| Error::command(error.to_string(), None))?;
        let asked = match (spec.trials, total) {
            (Some(trials), Some(total)) => total.min(trials.get()),
            (Some(trials), None) => trials.get(),
            (None, total) => total.expect("a checked manifest says how many trials to draw"),
        };
        Ok(Self {
            spec,
            space,
            seed,
            seeds,
            asked,
            ladder,
            trials: Vec::new(),
            in_flight: BTreeSet::new(),
            exhausted: false,
        })
    }

    /// Takes over what an earlier session of the sweep measured. `epochs` says how many epochs
    /// parameters ask for.
    pub(super) fn recall(
        &mut self,
        record: &SweepRecord,
        retry_failed: bool,
        epochs: impl Fn(&Params) -> Result<u64, Error>,
    ) -> Result<(), Error> {
        for trial in &record.trials {
            let done = trial.runs.iter().filter(|run| run.done);
            let mut recalled = Trial {
                identity: trial.identity.clone(),
                params: trial.params.clone(),
                state: match trial.state {
                    TrialState::Interrupted => TrialState::Running,
                    TrialState::Failed if retry_failed => TrialState::Running,
                    state => state,
                },
                target: trial.rung,
                epochs: epochs(&trial.params)?,
                measured: done
                    .map(|run| (run.seed, (run.objectives.clone(), run.constraints.clone())))
                    .collect(),
                reached: BTreeMap::new(),
                retried: false,
            };
            for rung in &trial.rungs {
                let values = self.seeds.iter().map(|seed| (*seed, rung.values.clone())).collect();
                recalled.reached.insert(rung.rung, values);
            }
            // A seed that was added since has not been measured.
            if recalled.state == TrialState::Done && !self.is_measured(&recalled) {
                recalled.state = TrialState::Running;
                recalled.target = None;
            }
            self.trials.push(recalled);
        }
        Ok(())
    }

    fn is_measured(&self, trial: &Trial) -> bool {
        self.seeds.iter().all(|seed| trial.measured.contains_key(seed))
    }

    fn is_complete(&self) -> bool {
        self.exhausted || self.trials.len() as u64 >= self.asked
    }

    /// A trial that was at work when its session ended, or that may go on from its rung; it is in
    /// flight from now on.
    pub(super) fn take(&mut self) -> Option<Item> {
        let idle = |index: &usize| !self.in_flight.contains(&(*index as u64));
        let begun = (0..self.trials.len())
            .filter(idle)
            .find(|index| self.trials[*index].state == TrialState::Running);
        let index = match begun {
            Some(index) => index,
            None => {
                let (index, target) = self.promotion()?;
                self.trials[index].target = target;
                self.trials[index].state = TrialState::Running;
                index
            }
        };
        let number = index as u64;
        self.in_flight.insert(number);
        let trial = &self.trials[index];
        let missing = |seed: &&u64| match trial.target {
            Some(rung) => {
                !trial.reached.get(&rung).is_some_and(|reached| reached.contains_key(seed))
            }
            None => !trial.measured.contains_key(seed),
        };
        Some(Item {
            number,
            params: trial.params.clone(),
            epochs: trial.target.and_then(|rung| self.ladder.as_ref()?.epochs(rung)),
            seeds: self.seeds.iter().filter(missing).copied().collect(),
        })
    }

    fn promotion(&self) -> Option<(usize, Target)> {
        let ladder = self.ladder.as_ref()?;
        let climbers: Vec<Climber> = self.trials.iter().map(|trial| self.climber(trial)).collect();
        let complete = self.is_complete();
        ladder.promotion(&climbers, complete)
    }

    fn climber(&self, trial: &Trial) -> Climber {
        let highest = trial.reached.keys().next_back().map_or(0, |rung| rung + 1);
        let rung = |rung| {
            let reached = trial.reached.get(&rung)?;
            (reached.len() == self.seeds.len()).then(|| self.watched(reached))
        };
        Climber {
            epochs: trial.epochs,
            rungs: (0..highest).map(rung).collect(),
            held: trial.target.filter(|_| trial.state == TrialState::Paused),
            ended: matches!(trial.state, TrialState::Done | TrialState::Failed),
        }
    }

    /// Means over the seeds of what is watched, each to be minimized.
    fn watched(&self, reached: &BTreeMap<u64, Vec<f64>>) -> Vec<f64> {
        let rows: Vec<Vec<f64>> = reached.values().cloned().collect();
        let watch = self.spec.early_stopping.iter().flat_map(|stopping| &stopping.watch);
        means(&rows)
            .into_iter()
            .zip(watch)
            .map(|(value, watch)| if watch.maximize() { -value } else { value })
            .collect()
    }

    /// Draws parameters that no trial has; `None` when there are trials enough, or no more
    /// parameters.
    pub(super) fn draw(&mut self) -> Result<Option<Drawn>, Error> {
        if self.is_complete() {
            return Ok(None);
        }
        let history: Vec<Observation> =
            self.trials.iter().map(|trial| self.observation(trial)).collect();
        for draw in 0..DRAWS {
            let ask = Ask {
                space: &self.space,
                seed: self.seed.wrapping_add(draw.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
                number: self.trials.len() as u64,
                history: &history,
            };
            let proposal = self.spec.sampler.ask(&ask);
            let proposal = proposal.map_err(|error| Error::command(error.to_string(), None))?;
            let Some(proposal) = proposal else { break };
            let (params, sampler) = self.begin_with(proposal);
            let identity = key::digest(&json!(params)).to_string();
            if self.trials.iter().all(|trial| trial.identity != identity) {
                return Ok(Some(Drawn { identity, params, sampler }));
            }
        }
        self.exhausted = true;
        Ok(None)
    }

    /// A proposal with the values laid over it that the manifest wants the trial to begin with.
    fn begin_with(&self, proposal: Proposal) -> (Params, Value) {
        let Some(first) = self.spec.first.get(self.trials.len()) else {
            return (proposal.params, proposal.state);
        };
        let params = self.space.assemble(|_, dimension| {
            let own = first.get(&dimension.name).or_else(|| proposal.params.get(&dimension.name));
            own.cloned().unwrap_or_else(|| dimension.domain.nth(0))
        });
        (params, json!({ "sampler": "first", "from": proposal.state }))
    }

    /// Where a new trial is headed.
    pub(super) fn start(&self, epochs: u64) -> Target {
        self.ladder.as_ref().and_then(|ladder| ladder.start(self.trials.len() as u64, epochs))
    }

    /// Adds a trial; the next [`Board::take`] finds it.
    pub(super) fn add(&mut self, drawn: Drawn, target: Target, epochs: u64) {
        self.trials.push(Trial {
            identity: drawn.identity,
            params: drawn.params,
            state: TrialState::Running,
            target,
            epochs,
            measured: BTreeMap::new(),
            reached: BTreeMap::new(),
            retried: false,
        });
    }

    fn observation(&self, trial: &Trial) -> Observation {
        let outcome = match trial.state {
            TrialState::Failed => Outcome::Failed,
            TrialState::Running | TrialState::Interrupted => Outcome::Pending,
            TrialState::Done => {
                let (objectives, violation) = self.result(trial);
                let minimized = objectives
                    .iter()
                    .zip(&self.spec.objectives)
                    .map(|(value, objective)| if objective.maximize() { -value } else { *value });
                Outcome::Done { objectives: minimized.collect(), violation }
            }
            TrialState::Paused => match trial.target.and_then(|rung| {
                trial.reached.get(&rung).map(|reached| (rung, self.watched(reached)))
            }) {
                Some((rung, objectives)) => Outcome::Paused { rung, objectives },
                None => Outcome::Pending,
            },
        };
        Observation { params: trial.params.clone(), outcome }
    }

    /// Notes a seed that went to its end.
    pub(super) fn measured(
        &mut self,
        number: u64,
        seed: u64,
        objectives: &[f64],
        constraints: &[f64],
    ) {
        let value = (objectives.to_vec(), constraints.to_vec());
        self.trial(number).measured.insert(seed, value);
    }

    /// Notes what a seed had reached at the rung its trial is at work for.
    pub(super) fn reached(&mut self, number: u64, seed: u64, rung: usize, values: &[f64]) {
        self.trial(number).reached.entry(rung).or_default().insert(seed, values.to_vec());
    }

    /// Whether someone is at work on a trial.
    pub(super) fn is_at_work(&self, number: u64) -> bool {
        self.in_flight.contains(&number)
    }

    /// Whether every seed of a trial has come to where the trial is headed.
    pub(super) fn is_through(&self, number: u64) -> bool {
        let trial = &self.trials[number as usize];
        match trial.target {
            Some(rung) => trial
                .reached
                .get(&rung)
                .is_some_and(|reached| self.seeds.iter().all(|seed| reached.contains_key(seed))),
            None => self.is_measured(trial),
        }
    }

    /// Ends the work on a trial: all its seeds are there.
    pub(super) fn conclude(&mut self, number: u64) -> Conclusion {
        self.in_flight.remove(&number);
        let trial = &self.trials[number as usize];
        let conclusion = match trial.target {
            None => {
                let (values, violation) = self.result(trial);
                Conclusion { state: TrialState::Done, values, violation: Some(violation) }
            }
            Some(rung) => {
                let rows: Vec<_> = trial.reached[&rung].values().cloned().collect();
                let values = means(&rows);
                Conclusion { state: TrialState::Paused, values, violation: None }
            }
        };
        self.trial(number).state = conclusion.state;
        conclusion
    }

    /// Ends the work on a trial because a seed failed; whether it is tried once more.
    pub(super) fn fail(&mut self, number: u64, retry: bool) -> bool {
        self.in_flight.remove(&number);
        let trial = self.trial(number);
        let again = retry && !std::mem::replace(&mut trial.retried, true);
        trial.state = if again { TrialState::Running } else { TrialState::Failed };
        again
    }

    /// Ends the work on a trial that was interrupted: it is still to be done.
    pub(super) fn put_back(&mut self, number: u64) {
        self.in_flight.remove(&number);
    }

    fn trial(&mut self, number: u64) -> &mut Trial {
        &mut self.trials[number as usize]
    }

    /// Means over the seeds of the objectives, and how far the constraints are broken.
    fn result(&self, trial: &Trial) -> (Vec<f64>, f64) {
        let of_seeds = || self.seeds.iter().filter_map(|seed| trial.measured.get(seed));
        let objectives: Vec<_> = of_seeds().map(|(objectives, _)| objectives.clone()).collect();
        let constraints: Vec<_> = of_seeds().map(|(_, constraints)| constraints.clone()).collect();
        let gates = self.spec.gates().map(|(_, gate)| gate);
        (means(&objectives), violation(gates, &means(&constraints)))
    }
}

/// Sum over the constraints of how far each is broken, as a share of its bound; 0 when all hold.
fn violation(gates: impl Iterator<Item = Gate>, values: &[f64]) -> f64 {
    gates
        .zip(values)
        .map(|(gate, value)| {
            let over = match gate.bound {
                Bound::Max => value - gate.limit,
                Bound::Min => gate.limit - value,
            };
            let size = if gate.limit == 0.0 { 1.0 } else { gate.limit.abs() };
            (over / size).max(0.0)
        })
        .sum()
}
