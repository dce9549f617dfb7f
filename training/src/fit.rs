//! The training loop.

use std::time::Instant;

use burn::tensor::Tensor;
use serde::{Deserialize, Serialize};

use crate::checkpoint::{self, Snapshot};
use crate::error::{Error, Result};
use crate::evaluate::evaluate;
use crate::examples::Examples;
use crate::network::{Network, Parameter};
use crate::objective::{Monitor, Objective, Progress, Step};
use crate::optimizer::{Optimizer, Settings};
use crate::recipe::{Keep, Recipe};
use crate::walk::floats::Floats;
use crate::walk::fused;

/// Steps whose losses are read from the device together.
const READ_EVERY: usize = 10;

/// How good a network is on validation rows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Part of the rows that are classified rightly.
    pub accuracy: f64,
    /// Mean cross-entropy, in nats.
    pub loss: f64,
}

impl Score {
    /// Higher accuracy is better; at equal accuracy, lower loss.
    fn is_better_than(&self, other: &Self) -> bool {
        (self.accuracy, -self.loss) > (other.accuracy, -other.loss)
    }
}

/// One epoch of a run.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochRecord {
    /// Number of the epoch, from 0.
    pub epoch: usize,
    /// Mean loss over its batches.
    pub train_loss: f64,
    /// Score after it, where there are validation rows.
    pub validation: Option<Score>,
}

/// What a run did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FitReport {
    /// Every epoch that was run.
    pub history: Vec<EpochRecord>,
    /// The epoch whose weights the network has now, as [`Recipe::keep`] says.
    pub best_epoch: usize,
    /// Optimizer steps done.
    pub steps: u64,
}

/// Trains `network` on `train` and leaves the weights in it that [`Recipe::keep`] asks for.
///
/// With a folder for checkpoints, the run's state is written there from time to time, when it is
/// interrupted and when it is done; the same call then goes on from there. On the CPU the result is
/// the same to the bit, however often it was interrupted.
///
/// # Errors
///
/// When a setting is out of its range, there are no examples, the objective fails, the loss is not
/// finite, a checkpoint cannot be written, or the monitor interrupts ([`Error::Interrupted`]) or
/// asks for a pause ([`Error::Paused`]).
pub fn fit(
    network: &mut Network,
    train: &Examples,
    validation: Option<&Examples>,
    objective: &mut dyn Objective,
    recipe: &Recipe,
    monitor: &mut dyn Monitor,
) -> Result<FitReport> {
    recipe.check()?;
    if train.is_empty() {
        let (name, found) = ("examples", "0".to_owned());
        return Err(Error::Setting { name, found, expected: "at least one to train on" });
    }
    for (name, tensor) in objective.extra() {
        network.add_extra(&name, &tensor)?;
    }
    let mut run = Run::new(network, train, validation, recipe);
    run.resume(network, objective, monitor)?;
    while !run.state.finished {
        let epochs = run.state.epoch;
        if monitor.pause_after().is_some_and(|pause| epochs >= pause) {
            run.save(network, objective, monitor)?;
            return Err(Error::Paused { epochs });
        }
        run.epoch(network, objective, monitor)?;
        run.close_epoch(network, monitor)?;
        if run.state.finished {
            run.save(network, objective, monitor)?;
        }
    }
    run.restore_best(network);
    Ok(run.report())
}

/// What a checkpoint keeps besides tensors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct State {
    /// Epoch that is running.
    pub(crate) epoch: usize,
    /// Batches of it that are done.
    pub(crate) cursor: usize,
    /// Optimizer steps done.
    pub(crate) step: u64,
    /// Sum and number of the epoch's losses.
    loss: (f64, usize),
    history: Vec<EpochRecord>,
    best: Option<(usize, Score)>,
    /// Epochs since the best one.
    stale: usize,
    finished: bool,
}

/// Losses that are still on the device.
#[derive(Default)]
struct Window {
    /// First step, rate of each step, batches of each step.
    totals: Vec<(Step, Tensor<1>)>,
    parts: Vec<(String, Vec<Tensor<1>>)>,
    examples: usize,
    started: Option<Instant>,
}

struct Run<'a> {
    train: &'a Examples,
    validation: Option<&'a Examples>,
    recipe: &'a Recipe,
    optimizer: Optimizer,
    state: State,
    total: u64,
    best: Option<Snapshot>,
    /// Names of the last linear layer's weights.
    classifier: Vec<String>,
    fingerprint: String,
    saved: Instant,
    window: Window,
}

impl<'a> Run<'a> {
    fn new(
        network: &Network,
        train: &'a Examples,
        validation: Option<&'a Examples>,
        recipe: &'a Recipe,
    ) -> Self {
        let batches = train.len().div_ceil(recipe.batch_size);
        let steps = batches.div_ceil(recipe.accumulation) * recipe.epochs;
        Self {
            train,
            validation,
            recipe,
            optimizer: Optimizer::new(network),
            state: State::default(),
            total: steps as u64,
            best: None,
            classifier: classifier(network),
            fingerprint: checkpoint::fingerprint(network, train, validation, recipe),
            saved: Instant::now(),
            window: Window::default(),
        }
    }

    fn report(&self) -> FitReport {
        let last = self.state.history.len().saturating_sub(1);
        FitReport {
            history: self.state.history.clone(),
            best_epoch: match (self.recipe.keep, self.state.best) {
                (Keep::Best, Some((epoch, _))) => epoch,
                _ => last,
            },
            steps: self.state.step,
        }
    }

    /// The rest of the running epoch.
    fn epoch(
        &mut self,
        network: &mut Network,
        objective: &mut dyn Objective,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let Recipe { batch_size, accumulation, seed, .. } = *self.recipe;
        let batches = self.train.epoch(batch_size, self.recipe.bucket(), seed, self.state.epoch);
        while self.state.cursor < batches.len() {
            let end = (self.state.cursor + accumulation).min(batches.len());
            self.step(network, objective, &batches[self.state.cursor..end])?;
            self.state.cursor = end;
            if self.window.totals.len() >= READ_EVERY {
                self.read_losses(monitor)?;
            }
            if monitor.interrupted() {
                self.read_losses(monitor)?;
                self.save(network, objective, monitor)?;
                return Err(Error::Interrupted { step: self.state.step });
            }
            if self.saved.elapsed() >= monitor.checkpoint_every() {
                self.read_losses(monitor)?;
                self.save(network, objective, monitor)?;
            }
        }
        self.read_losses(monitor)
    }

    /// One optimizer step over `batches`, whose gradients are averaged.
    fn step(
        &mut self,
        network: &mut Network,
        objective: &mut dyn Objective,
        batches: &[Vec<usize>],
    ) -> Result<()> {
        self.window.started.get_or_insert_with(Instant::now);
        let mut step = self.step_at(0);
        let index = step.index;
        let failed = |source| Error::Objective { step: index, source };
        objective.before_step(network, &step).map_err(failed)?;
        for (part, rows) in batches.iter().enumerate() {
            step.part = part;
            let batch = self.train.batch(rows);
            let loss = objective.loss(network, &batch, &step).map_err(failed)?;
            let gradients = fused::backward(&loss.total);
            self.window.totals.push((step, loss.total.inner()));
            for (name, value) in loss.parts {
                self.window.add_part(name, plain(value));
            }
            self.window.examples += rows.len();
            self.optimizer.accumulate(network, gradients);
        }
        let rate = self.recipe.learning_rate(step.index, self.total);
        let classifier_factor =
            self.recipe.classifier_learning_rate.map_or(1.0, |own| own / self.recipe.learning_rate);
        let learning_rate = |parameter: &Parameter| {
            let own = self.classifier.contains(&parameter.name);
            if own { rate * classifier_factor } else { rate }
        };
        let settings = Settings {
            learning_rate: &learning_rate,
            descent_rate: &|name| objective.descent_rate(name, &step),
            weight_decay: self.recipe.weight_decay,
            clip_norm: self.recipe.clip_norm,
            parts: batches.len(),
        };
        self.optimizer.step(network, &settings);
        self.state.step += 1;
        objective.after_step(network, &step).map_err(failed)
    }

    fn step_at(&self, part: usize) -> Step {
        Step {
            index: self.state.step,
            total: self.total,
            part,
            epoch: self.state.epoch,
            epochs: self.recipe.epochs,
            dropout: self.recipe.dropout,
            seed: self.recipe.seed,
        }
    }

    /// Fetches the losses of the last steps, checks and reports them.
    fn read_losses(&mut self, monitor: &mut dyn Monitor) -> Result<()> {
        let window = std::mem::take(&mut self.window);
        if window.totals.is_empty() {
            return Ok(());
        }
        let (steps, totals): (Vec<Step>, Vec<Tensor<1>>) = window.totals.into_iter().unzip();
        let losses = read(totals);
        for (step, &loss) in steps.iter().zip(&losses) {
            if !loss.is_finite() {
                return Err(Error::NotFinite {
                    loss,
                    step: step.index,
                    epoch: step.epoch,
                    learning_rate: self.recipe.learning_rate(step.index, self.total),
                });
            }
        }
        self.state.loss.0 += losses.iter().sum::<f64>();
        self.state.loss.1 += losses.len();
        let mean = losses.iter().sum::<f64>() / losses.len() as f64;
        monitor.series("train/loss", self.state.step, mean);
        let rate = self.recipe.learning_rate(self.state.step.saturating_sub(1), self.total);
        monitor.series("train/learning-rate", self.state.step, rate);
        for (name, values) in window.parts {
            let values = read(values);
            let mean = values.iter().sum::<f64>() / values.len() as f64;
            monitor.series(&format!("train/{name}"), self.state.step, mean);
        }
        let seconds = window.started.map_or(0.0, |started| started.elapsed().as_secs_f64());
        monitor.progress(&Progress {
            done: self.state.step,
            total: self.total,
            loss: mean,
            examples_per_second: window.examples as f64 / seconds.max(1e-9),
        });
        Ok(())
    }

    /// Scores the epoch, keeps its weights when they are the best, decides whether to go on.
    fn close_epoch(&mut self, network: &Network, monitor: &mut dyn Monitor) -> Result<()> {
        let epoch = self.state.epoch;
        let (sum, count) = std::mem::take(&mut self.state.loss);
        let train_loss = sum / count.max(1) as f64;
        let mut line = format!("epoch {}: loss {train_loss:.4}", epoch + 1);
        let mut validation = None;
        if let Some(examples) = self.validation.filter(|examples| !examples.is_empty()) {
            let found = evaluate(network, examples, self.recipe.batch_size.max(32))?;
            let score = Score { accuracy: found.accuracy, loss: found.loss };
            monitor.series("validation/accuracy", self.state.step, score.accuracy);
            monitor.series("validation/loss", self.state.step, score.loss);
            line += &format!(
                ", validation accuracy {:.4} and loss {:.4} over {} rows",
                score.accuracy,
                score.loss,
                examples.len()
            );
            validation = Some(score);
            if self.state.best.is_none_or(|(_, best)| score.is_better_than(&best)) {
                self.state.best = Some((epoch, score));
                self.state.stale = 0;
                if self.recipe.keep == Keep::Best {
                    self.best = Some(Snapshot::of(network));
                }
            } else {
                self.state.stale += 1;
            }
        }
        monitor.log(&line);
        self.state.history.push(EpochRecord { epoch, train_loss, validation });
        self.state.epoch += 1;
        self.state.cursor = 0;
        monitor.epoch_done(self.state.epoch);
        let stale = self.recipe.early_stopping.is_some_and(|limit| self.state.stale >= limit);
        if stale {
            monitor.log(&format!("no better epoch for {} epochs: stopped", self.state.stale));
        }
        self.state.finished = stale || self.state.epoch >= self.recipe.epochs;
        Ok(())
    }

    fn restore_best(&self, network: &mut Network) {
        if let Some(best) = &self.best {
            best.apply(network);
        }
    }

    fn save(
        &mut self,
        network: &Network,
        objective: &dyn Objective,
        monitor: &dyn Monitor,
    ) -> Result<()> {
        if let Some(folder) = monitor.checkpoint_dir() {
            let extra = objective.state();
            let (state, fingerprint) = (&self.state, &self.fingerprint);
            let best = self.best.as_ref();
            let header = checkpoint::Header::new(fingerprint, state, &self.optimizer, extra);
            checkpoint::save(folder, network, &self.optimizer, best, &header)?;
        }
        self.saved = Instant::now();
        Ok(())
    }

    /// Goes on from a checkpoint of this very run, where there is one.
    fn resume(
        &mut self,
        network: &mut Network,
        objective: &mut dyn Objective,
        monitor: &mut dyn Monitor,
    ) -> Result<()> {
        let Some(folder) = monitor.checkpoint_dir().map(std::path::Path::to_owned) else {
            return Ok(());
        };
        let Some(found) = checkpoint::load(&folder)? else { return Ok(()) };
        if found.header.fingerprint != self.fingerprint {
            monitor
                .log("the checkpoint is of another run (recipe, data or model differ): not used");
            return Ok(());
        }
        self.best = found.apply(network, &mut self.optimizer)?;
        self.state = found.header.state;
        let step = self.state.step;
        objective
            .restore(&found.header.objective)
            .map_err(|source| Error::Objective { step, source })?;
        monitor.log(&format!("continued from a checkpoint after step {step}"));
        Ok(())
    }
}

impl Window {
    fn add_part(&mut self, name: String, value: Tensor<1>) {
        match self.parts.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => self.parts.push((name, vec![value])),
        }
    }
}

fn plain(tensor: Tensor<1>) -> Tensor<1> {
    Floats(tensor.into_dispatch()).inner().typed()
}

/// The values of one-element tensors, fetched together.
fn read(tensors: Vec<Tensor<1>>) -> Vec<f64> {
    let all = Floats(Tensor::cat(tensors, 0).into_dispatch()).to_vec();
    all.into_iter().map(f64::from).collect()
}

/// Weights of the linear layer that gives the first output.
fn classifier(network: &Network) -> Vec<String> {
    let graph = network.source();
    let Some(last) = graph.outputs().first().and_then(|&output| graph.producer(output)) else {
        return Vec::new();
    };
    let products = last.inputs.iter().filter_map(|&input| graph.producer(input));
    let product =
        products.filter(|node| node.op == graph::Op::MatMul).flat_map(|node| &node.inputs);
    let own = last.inputs.iter().chain(product).copied();
    let through = own.map(|value| quantized_source(graph, value));
    through
        .filter(|&id| graph.weight(id).is_some())
        .map(|id| graph.value_name(id).to_owned())
        .collect()
}

/// What `value` is a quantized and dequantized form of, or itself.
fn quantized_source(graph: &graph::Graph, value: graph::ValueId) -> graph::ValueId {
    use graph::Op::{Dequantize, Quantize};
    match graph.producer(value) {
        Some(node) if matches!(node.op, Dequantize(_) | Quantize(_)) => {
            quantized_source(graph, node.inputs[0])
        }
        _ => value,
    }
}

#[cfg(test)]
mod tests;
