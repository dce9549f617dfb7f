//! The loop of a sweep: draws, measures, records, decides.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::Scope;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::board::Board;
use super::event::{SweepEvent, SweepReport};
use super::measure::{Found, Item, Work, measure, overrides};
use super::plan::{SweepPlan, plan};
use super::sampler::{Ask, Sampler};
use super::space::{Dimension, Domain, Params, Space};
use super::stopping::Ladder;
use crate::error::Error;
use crate::executor::{RunEvent, Slots, dataset, lock_name};
use crate::history::{
    Measured, NewTrial, Reached, Standing, SweepRecorder, SweepStart, SweepState, TrialState,
    Trigger,
};
use crate::key;
use crate::manifest::{Diagnostic, Manifest, ManifestError, OnTrialFailure, SweepSpec};
use crate::project::Project;
use crate::store::{Holder, Lock, LockAttempt, Store};

/// Time between two looks at the lock of another run.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Points of the space whose neighbours at its edges are tried on the manifest before anything runs.
const PROBES: u64 = 8;

/// A sweep of a manifest that has been checked.
pub(crate) struct Sweep<'p> {
    project: &'p Project,
    set: Vec<String>,
    manifest: Manifest,
    board: Board,
    identity: String,
    /// Number of the sweep and seconds it was at work, if it has begun.
    begun: Option<(i64, f64)>,
    parallel: usize,
}

/// What a thread that measures a trial tells the loop.
enum Message {
    Run { number: u64, seed: u64, event: RunEvent },
    Seed { number: u64, seed: u64, run: i64, found: Found },
    End { number: u64, result: Result<(), Error> },
}

impl<'p> Sweep<'p> {
    /// Checks the manifest's sweep.
    pub(crate) fn prepare(project: &'p Project, set: &[String]) -> Result<Self, Error> {
        let manifest = project.check(set)?;
        let Some(spec) = manifest.sweep.clone() else {
            let help = "add a `[sweep]` table; docs/manifest.md says what goes into it".to_owned();
            return Err(Error::command("the manifest has no `[sweep]`", Some(help)));
        };
        let space = spec.space().expect("the manifest was checked");
        let seeds = if spec.seeds.is_empty() { vec![manifest.seed] } else { spec.seeds.clone() };
        let parallel = spec.parallel.get();
        let ladder = spec.early_stopping.as_ref().map(|stopping| Ladder {
            method: stopping.method,
            min_epochs: stopping.min_epochs,
            reduction: stopping.reduction,
            max_epochs: most_epochs(&manifest, &space, &stopping.stage),
        });
        probe(project, set, &manifest)?;
        let identity = identity(&manifest, &spec)?;
        let board = Board::new(spec, space, manifest.seed, seeds, ladder)?;
        let set = set.to_vec();
        Ok(Self { project, set, manifest, board, identity, begun: None, parallel })
    }

    /// Takes over what earlier sessions measured.
    fn recall(&mut self, retry_failed: bool) -> Result<(), Error> {
        let history = self.project.history()?;
        let Some(number) = history.sweep_of(&self.identity)? else { return Ok(()) };
        let record = history.sweep(number)?;
        let Sweep { project, board, set, .. } = &mut *self;
        let stage = board.spec.early_stopping.as_ref().map(|stopping| stopping.stage.clone());
        board.recall(&record, retry_failed, |params| {
            epochs_of(project, set, stage.as_deref(), params)
        })?;
        self.begun = Some((number, record.summary.duration_s));
        Ok(())
    }

    /// What it would cost.
    pub(crate) fn plan(&mut self, retry_failed: bool) -> Result<SweepPlan, Error> {
        self.recall(retry_failed)?;
        plan(self.project, &self.set, &self.board, self.begun.map(|(number, _)| number))
    }

    /// Runs trials until there are as many as asked for. Blocks; must not be called in an async
    /// task.
    pub(crate) fn run(
        mut self,
        retry_failed: bool,
        trigger: &Trigger,
        observer: &mut dyn FnMut(&SweepEvent),
    ) -> Result<SweepReport, Error> {
        let begun = Instant::now();
        let store = Store::create(self.project.home())?;
        let interrupted = watch_signals()?;
        let mut lock = self.lock(&store, &interrupted, observer)?;
        lock.name_holder(&Holder::here(None));
        // Not before: whoever held the lock may have measured more.
        self.recall(retry_failed)?;
        let spec = serde_json::to_value(&self.board.spec).expect("a sweep is plain JSON");
        let mut recorder = SweepRecorder::start(
            &store,
            &SweepStart {
                identity: &self.identity,
                manifest: &self.manifest,
                manifest_file: self.project.manifest_file(),
                spec: &spec,
                seed: self.board.seed,
                seeds: &self.board.seeds,
                asked: self.board.asked,
                trigger,
            },
        )?;
        let sweep = recorder.sweep();
        observer(&SweepEvent::SweepStarted {
            sweep,
            manifest: self.manifest.name.clone(),
            asked: self.board.asked,
            known: self.board.trials.len() as u64,
            seeds: self.board.seeds.clone(),
        });
        let spent = self.begun.map_or(0.0, |(_, spent_s)| spent_s);
        let deadline = self.board.spec.budget().map(|budget| {
            let left = budget.as_secs_f64() - spent;
            begun + Duration::from_secs_f64(left.max(0.0))
        });
        let mut session = Session {
            sweep: &mut self,
            number: sweep,
            recorder: &mut recorder,
            observer,
            interrupted: Arc::clone(&interrupted),
            deadline,
            failed: false,
            error: None,
        };
        session.work()?;
        let (failed, error) = (session.failed, session.error.take());
        let state = if interrupted.load(Ordering::Relaxed) {
            SweepState::Interrupted
        } else if failed || error.is_some() {
            SweepState::Failed
        } else {
            SweepState::Done
        };
        let duration_s = begun.elapsed().as_secs_f64();
        recorder.sweep_stands(state, duration_s)?;
        recorder.close()?;
        drop(lock);
        observer(&SweepEvent::SweepFinished { sweep, state, duration_s });
        match error {
            Some(error) => Err(error),
            None => Ok(SweepReport { sweep: self.project.history()?.sweep(sweep)?, duration_s }),
        }
    }

    /// Waits until no other run or sweep of the manifest is at work.
    fn lock(
        &self,
        store: &Store,
        interrupted: &AtomicBool,
        observer: &mut dyn FnMut(&SweepEvent),
    ) -> Result<Lock, Error> {
        let name = lock_name(self.project.manifest_file());
        let mut told = None;
        loop {
            match store.try_lock(&name)? {
                LockAttempt::Taken(lock) => return Ok(lock),
                LockAttempt::Held(holder) if told.as_ref() != Some(&holder) => {
                    observer(&SweepEvent::WaitingForRun { holder: holder.clone() });
                    told = Some(holder);
                }
                LockAttempt::Held(_) => {}
            }
            if interrupted.load(Ordering::Relaxed) {
                return Err(Error::Interrupted);
            }
            std::thread::sleep(LOCK_POLL);
        }
    }
}

/// One session of a sweep, from its lock to its end.
struct Session<'s, 'p> {
    sweep: &'s mut Sweep<'p>,
    number: i64,
    recorder: &'s mut SweepRecorder,
    observer: &'s mut dyn FnMut(&SweepEvent),
    interrupted: Arc<AtomicBool>,
    /// When its time is up.
    deadline: Option<Instant>,
    /// Whether a trial failed that ends the sweep.
    failed: bool,
    /// What ends the sweep although no trial failed.
    error: Option<Error>,
}

impl Session<'_, '_> {
    fn work(&mut self) -> Result<(), Error> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let parallel = self.sweep.parallel;
        let slots = Arc::new(Slots::new(parallel.max(threads.min(4)), threads));
        let (sender, inbox) = channel();
        let project = self.sweep.project;
        let (set, spec) = (self.sweep.set.clone(), self.sweep.board.spec.clone());
        std::thread::scope(|scope| {
            let (sweep, deadline) = (self.number, self.deadline);
            let work = Work { project, set: &set, spec: &spec, sweep, slots, deadline };
            self.turn(scope, &work, &sender, &inbox)
        })
    }

    fn turn<'scope>(
        &mut self,
        scope: &'scope Scope<'scope, '_>,
        work: &Work<'scope>,
        sender: &Sender<Message>,
        inbox: &Receiver<Message>,
    ) -> Result<(), Error> {
        let mut at_work = 0;
        loop {
            while at_work < self.sweep.parallel && !self.stopping() {
                let Some(item) = self.next()? else { break };
                let epochs = item.epochs;
                let (trial, params) = (item.number, item.params.clone());
                (self.observer)(&SweepEvent::TrialStarted { trial, params, epochs });
                let (work, sender) = (work.clone(), sender.clone());
                let interrupted = Arc::clone(&self.interrupted);
                scope.spawn(move || measure_all(&work, &item, &interrupted, &sender));
                at_work += 1;
            }
            if at_work == 0 {
                return Ok(());
            }
            let message = inbox.recv().expect("the loop holds a sender itself");
            if let Message::End { number, result } = message {
                at_work -= 1;
                self.ended(number, result)?;
            } else {
                self.hear(message)?;
            }
        }
    }

    /// Whether its time is up.
    fn is_late(&self) -> bool {
        self.deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn stopping(&self) -> bool {
        self.is_late()
            || self.failed
            || self.error.is_some()
            || self.interrupted.load(Ordering::Relaxed)
    }

    /// The next trial to measure: one that has begun, one that may go on, or a new one.
    fn next(&mut self) -> Result<Option<Item>, Error> {
        if let Some(item) = self.sweep.board.take() {
            return Ok(Some(item));
        }
        let Some(drawn) = self.sweep.board.draw()? else {
            // That nothing is left to draw may let someone go on.
            return Ok(self.sweep.board.take());
        };
        let Sweep { project, set, board, .. } = &mut *self.sweep;
        let stage = board.spec.early_stopping.as_ref().map(|stopping| stopping.stage.as_str());
        let epochs = epochs_of(project, set, stage, &drawn.params)?;
        let target = board.start(epochs);
        self.recorder.add_trial(&NewTrial {
            number: board.trials.len() as u64,
            identity: &drawn.identity,
            params: &drawn.params,
            sampler: &drawn.sampler,
            rung: target,
        })?;
        board.add(drawn, target, epochs);
        Ok(board.take())
    }

    fn hear(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Run { number, seed, event } => {
                (self.observer)(&SweepEvent::TrialRun { trial: number, seed, run: event });
            }
            Message::Seed { number, seed, run, found } => self.found(number, seed, run, &found)?,
            Message::End { .. } => {}
        }
        Ok(())
    }

    fn found(&mut self, number: u64, seed: u64, run: i64, found: &Found) -> Result<(), Error> {
        let board = &mut self.sweep.board;
        let (mut objectives, mut constraints) = (&[][..], &[][..]);
        match found {
            Found::Done { objectives: found, constraints: values } => {
                (objectives, constraints) = (found, values);
                board.measured(number, seed, found, values);
            }
            Found::Reached { epochs, values } => {
                let rung = board.trials[number as usize].target;
                let rung = rung.expect("only a trial that is headed for a rung reaches one");
                board.reached(number, seed, rung, values);
                let epochs = *epochs;
                self.recorder.reached(&Reached { number, seed, rung, epochs, values })?;
            }
            Found::Failed(error) => self.trial_failed(number, seed, error)?,
            // Its time being up is no interruption: the sweep is done with what it has.
            Found::Interrupted if self.is_late() => {}
            Found::Interrupted => self.interrupted.store(true, Ordering::Relaxed),
        }
        let done = matches!(found, Found::Done { .. });
        self.recorder.measured(&Measured { number, seed, run, done, objectives, constraints })?;
        Ok(())
    }

    fn trial_failed(&mut self, number: u64, seed: u64, error: &str) -> Result<(), Error> {
        let policy = self.sweep.board.spec.on_trial_failure;
        let again = self.sweep.board.fail(number, policy == OnTrialFailure::Retry);
        self.failed |= policy == OnTrialFailure::Stop;
        let trial = &self.sweep.board.trials[number as usize];
        let (state, rung) = (trial.state, trial.target);
        let error = format!("seed {seed}: {error}");
        self.recorder.stands(&Standing {
            number,
            state,
            rung,
            objectives: None,
            violation: None,
            error: Some(&error),
        })?;
        if !again {
            (self.observer)(&SweepEvent::TrialStands {
                trial: number,
                state,
                rung,
                values: Vec::new(),
                violation: None,
                error: Some(error),
            });
        }
        Ok(())
    }

    /// A thread is through with a trial.
    fn ended(&mut self, number: u64, result: Result<(), Error>) -> Result<(), Error> {
        if let Err(error) = result {
            self.sweep.board.put_back(number);
            match error {
                Error::Interrupted => self.interrupted.store(true, Ordering::Relaxed),
                error => self.error = self.error.take().or(Some(error)),
            }
            return Ok(());
        }
        if !self.sweep.board.is_at_work(number) {
            return Ok(());
        }
        if !self.sweep.board.is_through(number) {
            self.sweep.board.put_back(number);
            return Ok(());
        }
        let conclusion = self.sweep.board.conclude(number);
        let rung = self.sweep.board.trials[number as usize].target;
        let done = conclusion.state == TrialState::Done;
        self.recorder.stands(&Standing {
            number,
            state: conclusion.state,
            rung,
            objectives: done.then_some(&conclusion.values),
            violation: conclusion.violation,
            error: None,
        })?;
        (self.observer)(&SweepEvent::TrialStands {
            trial: number,
            state: conclusion.state,
            rung,
            values: conclusion.values,
            violation: conclusion.violation,
            error: None,
        });
        Ok(())
    }
}

/// Measures the missing seeds of a trial, one after the other.
fn measure_all(work: &Work<'_>, item: &Item, interrupted: &AtomicBool, sender: &Sender<Message>) {
    let number = item.number;
    // The loop hears every message before it ends.
    let send = |message| drop(sender.send(message));
    let mut result = Ok(());
    for &seed in &item.seeds {
        if interrupted.load(Ordering::Relaxed) {
            break;
        }
        let mut hear = |event: &RunEvent| {
            send(Message::Run { number, seed, event: event.clone() });
        };
        match measure(work, item, seed, &mut hear) {
            Ok((run, found)) => {
                let go_on = matches!(found, Found::Done { .. } | Found::Reached { .. });
                send(Message::Seed { number, seed, run, found });
                if !go_on {
                    break;
                }
            }
            Err(error) => {
                result = Err(error);
                break;
            }
        }
    }
    send(Message::End { number, result });
}

/// What tells sweeps apart: everything that trials are made of and judged by, but not how many
/// there are to be.
fn identity(manifest: &Manifest, spec: &SweepSpec) -> Result<String, Error> {
    let mut data = serde_json::Map::new();
    for (name, spec) in &manifest.data {
        let (content, _) = dataset(manifest, name, spec)?;
        data.insert(name.clone(), json!([spec, content.digest]));
    }
    let stages: Vec<Value> = manifest
        .stages
        .iter()
        .map(|stage| {
            let inputs: Vec<_> =
                stage.inputs.iter().map(|(port, from)| json!([port, from.to_string()])).collect();
            json!([stage.name, stage.stage.kind(), stage.stage.version(), stage.params, inputs])
        })
        .collect();
    let document = json!({
        "manifest": manifest.path.file_name().map(|name| name.to_string_lossy()),
        "seed": manifest.seed,
        "data": data,
        "models": manifest.models,
        "stages": stages,
        "space": spec.space,
        "objectives": spec.objectives,
        "constraints": spec.constraints,
        "sampler": spec.sampler,
        "early-stopping": spec.early_stopping,
    });
    Ok(key::digest(&document).to_string())
}

/// Epochs that parameters ask for of the stage that early stopping holds; 0 without such a stage.
fn epochs_of(
    project: &Project,
    set: &[String],
    stage: Option<&str>,
    params: &Params,
) -> Result<u64, Error> {
    let Some(stage) = stage else { return Ok(0) };
    let manifest = project.check(&[set, &overrides(params, 0)].concat())?;
    Ok(epochs_in(&manifest, stage))
}

fn epochs_in(manifest: &Manifest, stage: &str) -> u64 {
    let found = manifest.stage(stage).and_then(|spec| {
        let path = spec.stage.epochs()?;
        path.split('.').try_fold(&spec.params, |value, key| value.get(key))?.as_u64()
    });
    found.unwrap_or(0)
}

/// Most epochs that a trial of the space may ask for.
fn most_epochs(manifest: &Manifest, space: &Space, stage: &str) -> u64 {
    let path = manifest.stage(stage).and_then(|spec| spec.stage.epochs()).unwrap_or_default();
    let name = format!("stages.{stage}.params.{path}");
    let own = epochs_in(manifest, stage);
    let varied = space.dimension(&name).map(|dimension| match &dimension.domain {
        Domain::Choice(values) => values.iter().filter_map(Value::as_u64).max().unwrap_or(own),
        Domain::Int { high, .. } => u64::try_from(*high).unwrap_or(own),
        Domain::Uniform { .. } | Domain::LogUniform { .. } => own,
    });
    varied.unwrap_or(own)
}

/// Tries the edges of every dimension on the manifest, so that a space that leads nowhere is found
/// out before anything runs. Tells every mistake once, where its dimension is written.
pub(crate) fn probe(project: &Project, set: &[String], manifest: &Manifest) -> Result<(), Error> {
    let Some(spec) = &manifest.sweep else { return Ok(()) };
    let space = spec.space().expect("the manifest was checked");
    let mut points = Vec::new();
    for number in 0..PROBES {
        let ask = Ask { space: &space, seed: manifest.seed, number, history: &[] };
        let proposal = Sampler::Random.ask(&ask);
        let proposal = proposal.map_err(|error| Error::command(error.to_string(), None))?;
        points.extend(proposal.map(|proposal| proposal.params));
    }
    let mut found: Vec<Diagnostic> = Vec::new();
    for dimension in &space.dimensions {
        let active = points.iter().find(|params| params.contains_key(&dimension.name));
        for value in active.into_iter().flat_map(|_| edges(&dimension.domain)) {
            let params = beside(&space, dimension, value, active.cloned().unwrap_or_default());
            let set = [set, &overrides(&params, manifest.seed)].concat();
            match project.check(&set) {
                Err(Error::Manifest(ManifestError::Invalid(mistakes))) => {
                    for mistake in mistakes {
                        if found.iter().all(|known| known.message != mistake.message) {
                            found.push(mistake);
                        }
                    }
                }
                checked => _ = checked?,
            }
        }
    }
    if found.is_empty() {
        return Ok(());
    }
    let placed = found.into_iter().map(|mistake| {
        let names = space.dimensions.iter().map(|dimension| dimension.name.as_str());
        mistake.placed(&manifest.path, &manifest.text, names)
    });
    let mut placed: Vec<_> = placed.collect();
    placed.sort_by_key(|mistake| mistake.line);
    Err(ManifestError::Invalid(placed).into())
}

/// A point with another value of a dimension, less what does not count beside that.
fn beside(space: &Space, dimension: &Dimension, value: Value, mut params: Params) -> Params {
    let decides = |other: &Dimension| {
        other.condition.as_ref().is_some_and(|condition| {
            condition.dimension == dimension.name && !condition.any_of.contains(&value)
        })
    };
    for other in space.dimensions.iter().filter(|other| decides(other)) {
        params.remove(&other.name);
    }
    params.insert(dimension.name.clone(), value);
    params
}

/// Every choice, or both ends.
fn edges(domain: &Domain) -> Vec<Value> {
    match domain {
        Domain::Choice(values) => values.clone(),
        Domain::Uniform { low, high, .. } | Domain::LogUniform { low, high } => {
            vec![json!(low), json!(high)]
        }
        Domain::Int { low, high, .. } => vec![json!(low), json!(high)],
    }
}

/// A flag that turns true at the first request to stop. The runs hear it themselves; between two
/// of them nobody else would.
fn watch_signals() -> Result<Arc<AtomicBool>, Error> {
    use tokio::signal::unix::{SignalKind, signal};
    let failed = |source| Error::System { action: "listen for signals", source };
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (interrupt, terminate) = {
        let _guard = runtime.enter();
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    };
    let (mut interrupt, mut terminate) = (interrupt.map_err(failed)?, terminate.map_err(failed)?);
    let flag = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&flag);
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            seen.store(true, Ordering::Relaxed);
        });
    });
    Ok(flag)
}
