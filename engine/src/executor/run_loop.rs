//! The loop of a run: starts what is ready, hears what happens, records it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use serde_json::Value;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::drive::{Identity, Job, Message, Shared, StageOutcome, Started, drive};
use super::inputs::Content;
use super::progress_file::ProgressFile;
use super::run::{Observer, Signals};
use super::{RunEvent, RunReport, StageReport, Stop};
use crate::error::Error;
use crate::gate::judge;
use crate::history::{Recorder, RunState, StageEnd, StageStart, StageState};
use crate::manifest::{Reference, StageSpec};
use crate::plan::Part;
use crate::protocol::{Milestone, WorkerEvent};
use crate::store::Action;

/// Where a stage of the run stands.
pub(super) struct StageProgress {
    part: Part,
    phase: Phase,
    /// Its row in the database, once it has one.
    row: Option<i64>,
    reason: String,
    log: Option<PathBuf>,
    begun: Option<Instant>,
    outputs: BTreeMap<String, Content>,
    report: Option<StageReport>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Waiting,
    Driven,
    /// Its outputs may be used.
    Good,
    /// They may not.
    Bad,
}

impl StageProgress {
    pub(super) fn new(part: Part) -> Self {
        Self {
            part,
            phase: Phase::Waiting,
            row: None,
            reason: String::new(),
            log: None,
            begun: None,
            outputs: BTreeMap::new(),
            report: None,
        }
    }
}

/// The end of a stage, ready to be recorded.
struct End {
    state: StageState,
    error: Option<String>,
    action: Option<Box<Action>>,
    gates: Vec<crate::history::GateRecord>,
    bad_input: bool,
    milestones: Vec<Milestone>,
}

impl End {
    fn plain(state: StageState, error: Option<String>) -> Self {
        Self {
            state,
            error,
            action: None,
            gates: Vec::new(),
            bad_input: false,
            milestones: Vec::new(),
        }
    }
}

/// The state of a run.
pub(super) struct RunLoop<'o> {
    pub(super) shared: Arc<Shared>,
    pub(super) recorder: Recorder,
    pub(super) progress: ProgressFile,
    pub(super) observer: Observer<'o>,
    pub(super) stages: Vec<StageProgress>,
    pub(super) stop: watch::Sender<Stop>,
    pub(super) tasks: JoinSet<(usize, StageOutcome)>,
    pub(super) force: bool,
    pub(super) keep_going: bool,
    pub(super) expected_s: BTreeMap<String, f64>,
    pub(super) begun: Instant,
    /// When to stop as if someone had asked for it.
    pub(super) deadline: Option<Instant>,
}

/// Waits for a moment; for ever without one.
async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => tokio::time::sleep_until(moment.into()).await,
        None => std::future::pending().await,
    }
}

impl RunLoop<'_> {
    pub(super) async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Message>,
        signals: &mut Signals,
    ) -> Result<RunReport, Error> {
        self.start_ready().await?;
        while !self.tasks.is_empty() {
            // Messages first: a task's last ones are in the queue before the task ends.
            tokio::select! {
                biased;
                () = signals.next() => self.stop_requested(),
                () = at(self.deadline) => {
                    self.deadline = None;
                    self.stop_requested();
                }
                Some(message) = inbox.recv() => self.hear(message).await?,
                Some(ended) = self.tasks.join_next() => {
                    let (index, outcome) = match ended {
                        Ok(ended) => ended,
                        Err(error) => std::panic::resume_unwind(error.into_panic()),
                    };
                    self.ended(index, outcome).await?;
                    self.start_ready().await?;
                }
            }
        }
        self.finish().await
    }

    fn spec(&self, index: usize) -> &StageSpec {
        &self.shared.manifest.stages[index]
    }

    /// Drives every stage whose upstream is good; gives up those that cannot run any more.
    async fn start_ready(&mut self) -> Result<(), Error> {
        loop {
            let stopped = *self.stop.borrow() >= Stop::Halt;
            let mut given_up = None;
            let mut ready = Vec::new();
            for index in 0..self.stages.len() {
                let stage = &self.stages[index];
                if stage.phase != Phase::Waiting || stage.part == Part::Left {
                    continue;
                }
                match self.blocker(index) {
                    Some(reason) => given_up = Some((index, reason)),
                    None if stopped => given_up = Some((index, self.stop_reason())),
                    None => ready.extend(self.upstream_good(index).then_some(index)),
                }
                if given_up.is_some() {
                    break;
                }
            }
            if let Some((index, reason)) = given_up {
                self.skip(index, None, reason).await?;
                continue;
            }
            // Counted before any starts, so that the first does not take all the threads.
            let contenders: Vec<_> = ready.iter().map(|_| self.shared.slots.contend()).collect();
            for (index, contender) in ready.into_iter().zip(contenders) {
                let job = Job {
                    index,
                    upstream: self.upstream(index),
                    force: self.force && self.stages[index].part == Part::Asked,
                    cached_only: self.stages[index].part == Part::Support,
                    _contender: contender,
                };
                self.stages[index].phase = Phase::Driven;
                let shared = Arc::clone(&self.shared);
                self.tasks.spawn(async move { (index, drive(shared, job).await) });
            }
            return Ok(());
        }
    }

    fn stop_reason(&self) -> String {
        match *self.stop.borrow() {
            Stop::Go | Stop::Halt => "another stage failed".to_owned(),
            Stop::Checkpoint | Stop::Kill => "the run was stopped".to_owned(),
        }
    }

    fn upstream_indices(&self, index: usize) -> impl Iterator<Item = usize> + '_ {
        self.spec(index).inputs.values().filter_map(|reference| match reference {
            Reference::Stage { stage, .. } => {
                self.shared.manifest.stages.iter().position(|other| other.name == *stage)
            }
            Reference::Data(_) | Reference::Model(_) => None,
        })
    }

    fn blocker(&self, index: usize) -> Option<String> {
        let bad = self
            .upstream_indices(index)
            .find(|upstream| self.stages[*upstream].phase == Phase::Bad)?;
        let state = self.stages[bad].report.as_ref().map(|report| report.state);
        let what = match state {
            Some(StageState::Interrupted) => "was interrupted",
            Some(StageState::Paused) => "is paused",
            Some(StageState::Skipped) => "did not run",
            _ => "failed",
        };
        Some(format!("`{}` {what}", self.spec(bad).name))
    }

    fn upstream_good(&self, index: usize) -> bool {
        self.upstream_indices(index).all(|upstream| self.stages[upstream].phase == Phase::Good)
    }

    fn upstream(&self, index: usize) -> BTreeMap<String, Content> {
        let mut contents = BTreeMap::new();
        for (port, reference) in &self.spec(index).inputs {
            if let Reference::Stage { stage, port: output } = reference {
                let upstream =
                    self.shared.manifest.stages.iter().position(|other| other.name == *stage);
                let upstream = upstream.expect("a checked manifest names its stages");
                contents.insert(port.clone(), self.stages[upstream].outputs[output].clone());
            }
        }
        contents
    }

    fn stop_requested(&mut self) {
        let kill = *self.stop.borrow() >= Stop::Checkpoint;
        self.shared.cancelled.store(true, Ordering::Relaxed);
        self.stop.send_replace(if kill { Stop::Kill } else { Stop::Checkpoint });
        (self.observer)(&RunEvent::Stopping { kill });
    }

    async fn hear(&mut self, message: Message) -> Result<(), Error> {
        match message {
            Message::Fetching { model, progress } => {
                (self.observer)(&RunEvent::Fetching { model, progress });
            }
            Message::Source(record) => {
                self.recorder.source(self.shared.run, &record).await?;
                let crate::history::SourceRecord { name, origin, digest, .. } = record;
                (self.observer)(&RunEvent::SourceReady { name, origin, digest });
            }
            Message::Waiting { index, holder } => {
                let stage = self.spec(index).name.clone();
                (self.observer)(&RunEvent::WaitingForStage { stage, holder });
            }
            Message::WaitingForWorker { index } => {
                let stage = self.spec(index).name.clone();
                (self.observer)(&RunEvent::WaitingForWorker { stage });
            }
            Message::Started(started) => self.started(*started).await?,
            Message::AttemptStarted { index, number } => {
                self.recorder.start_attempt(self.row(index), number).await?;
            }
            Message::AttemptEnded { index, number, duration, outcome, error } => {
                let (row, seconds) = (self.row(index), duration.as_secs_f64());
                self.recorder
                    .finish_attempt(row, number, seconds, outcome, error.as_deref())
                    .await?;
            }
            Message::Retrying { index, number, delay, error } => {
                let stage = self.spec(index).name.clone();
                let delay_s = delay.as_secs_f64();
                (self.observer)(&RunEvent::StageRetrying {
                    stage,
                    attempt: number,
                    delay_s,
                    error,
                });
            }
            Message::Worker { index, event } => self.worker_said(index, event).await?,
        }
        Ok(())
    }

    fn row(&self, index: usize) -> i64 {
        self.stages[index].row.expect("attempts come after the start of their stage")
    }

    async fn worker_said(&mut self, index: usize, event: WorkerEvent) -> Result<(), Error> {
        let stage = self.spec(index).name.clone();
        let event = match event {
            WorkerEvent::Metric(metric) => RunEvent::StageMetric { stage, metric },
            WorkerEvent::Unavailable(metric) => {
                RunEvent::StageUnavailable { stage, name: metric.name, reason: metric.reason }
            }
            WorkerEvent::Progress(progress) => {
                self.progress.hear(&stage, &progress, Instant::now()).await;
                RunEvent::StageProgress { stage, progress }
            }
            WorkerEvent::Log(line) => RunEvent::StageLog { stage, line },
            WorkerEvent::Series(points) => {
                self.recorder.series(self.row(index), &points).await?;
                return Ok(());
            }
        };
        (self.observer)(&event);
        Ok(())
    }

    async fn started(&mut self, started: Started) -> Result<(), Error> {
        let Started { index, identity, reason, threads, log } = started;
        let row = self
            .add_row(index, StageState::Running, &reason, Some(&identity), Some((&log, threads)))
            .await?;
        let stage = &mut self.stages[index];
        stage.row = Some(row);
        stage.begun = Some(Instant::now());
        stage.reason = reason.clone();
        stage.log = Some(log);
        let spec = &self.shared.manifest.stages[index];
        (self.observer)(&RunEvent::StageStarted {
            stage: spec.name.clone(),
            kind: spec.stage.kind().to_owned(),
            key: identity.key.to_string(),
            reason,
            threads,
            expected_s: self.expected_s.get(&spec.name).copied(),
        });
        Ok(())
    }

    async fn add_row(
        &mut self,
        index: usize,
        state: StageState,
        reason: &str,
        identity: Option<&Identity>,
        work: Option<(&Path, usize)>,
    ) -> Result<i64, Error> {
        let spec = &self.shared.manifest.stages[index];
        let inputs: Vec<_> = spec
            .inputs
            .iter()
            .map(|(port, reference)| {
                let digest = identity
                    .and_then(|identity| identity.digests.get(port))
                    .map(ToString::to_string);
                (port.clone(), reference.to_string(), digest)
            })
            .collect();
        let start = StageStart {
            run: self.shared.run,
            position: index,
            name: &spec.name,
            kind: spec.stage.kind(),
            state,
            reason,
            key: identity.map(|identity| identity.key.as_str()),
            key_document: identity.map(|identity| -> &Value { &identity.document }),
            params: &spec.params,
            inputs: &inputs,
            log_path: work.map(|(log, _)| log),
            threads: work.map(|(_, threads)| threads),
        };
        Ok(self.recorder.start_stage(&start).await?)
    }

    async fn ended(&mut self, index: usize, outcome: StageOutcome) -> Result<(), Error> {
        match outcome {
            StageOutcome::Hit { identity, action } => {
                let reason = format!("done by run {}", action.run);
                let row =
                    self.add_row(index, StageState::Hit, &reason, Some(&identity), None).await?;
                self.stages[index].row = Some(row);
                self.stages[index].reason = reason;
                self.shared.store.touch(&action.key);
                let stage = self.spec(index).name.clone();
                (self.observer)(&RunEvent::StageHit {
                    stage,
                    key: action.key.to_string(),
                    work_s: action.work_s,
                    origin_run: action.run,
                });
                self.succeeded(index, StageState::Hit, action).await
            }
            StageOutcome::Ran(action) => self.succeeded(index, StageState::Ran, action).await,
            StageOutcome::Paused(milestones) => {
                let end = End::plain(StageState::Paused, None);
                self.conclude(index, End { milestones, ..end }).await
            }
            StageOutcome::Interrupted => {
                self.conclude(index, End::plain(StageState::Interrupted, None)).await
            }
            StageOutcome::Failed { identity, fault } => {
                if self.stages[index].row.is_none() {
                    let reason = "it could not start";
                    let row = self
                        .add_row(index, StageState::Failed, reason, identity.as_ref(), None)
                        .await?;
                    self.stages[index].row = Some(row);
                    self.stages[index].reason = reason.to_owned();
                }
                let end = End::plain(StageState::Failed, Some(fault.error));
                self.conclude(index, End { bad_input: fault.bad_input, ..end }).await
            }
            StageOutcome::Skipped { identity, reason } => {
                self.skip(index, identity.as_ref(), reason).await
            }
        }
    }

    /// Judges the gates of a stage whose result is there.
    async fn succeeded(
        &mut self,
        index: usize,
        state: StageState,
        action: Box<Action>,
    ) -> Result<(), Error> {
        let judgements = judge(&self.spec(index).gates, &action.metrics, &action.unavailable);
        let complaints: Vec<_> =
            judgements.iter().filter_map(|judgement| judgement.complaint.clone()).collect();
        let gates = judgements.into_iter().map(|judgement| judgement.record).collect();
        let (state, error) = if complaints.is_empty() {
            (state, None)
        } else {
            (StageState::Failed, Some(complaints.join("; ")))
        };
        self.conclude(index, End { action: Some(action), gates, ..End::plain(state, error) }).await
    }

    async fn skip(
        &mut self,
        index: usize,
        identity: Option<&Identity>,
        reason: String,
    ) -> Result<(), Error> {
        let row = self.add_row(index, StageState::Skipped, &reason, identity, None).await?;
        self.stages[index].row = Some(row);
        self.stages[index].reason = reason;
        self.conclude(index, End::plain(StageState::Skipped, None)).await
    }

    /// Records the end of a stage, tells it and lets it take effect.
    async fn conclude(&mut self, index: usize, end: End) -> Result<(), Error> {
        let spec = &self.shared.manifest.stages[index];
        let duration_s =
            self.stages[index].begun.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
        let artifacts: Vec<_> = end
            .action
            .iter()
            .flat_map(|action| &action.outputs)
            .map(|(port, artifact)| {
                let kind = spec.stage.outputs().iter().find(|output| output.name == port);
                (port.clone(), kind.map_or("", |port| port.kind).to_owned(), artifact.clone())
            })
            .collect();
        let action = end.action.as_deref();
        let record = StageEnd {
            state: end.state,
            duration_s,
            work_s: action.map(|action| action.work_s),
            origin_run: action.map(|action| action.run).filter(|origin| *origin != self.shared.run),
            error: end.error.as_deref(),
            metrics: action.map_or(&[], |action| &action.metrics),
            unavailable: action.map_or(&[], |action| &action.unavailable),
            artifacts: &artifacts,
            gates: &end.gates,
        };
        let row = self.row(index);
        self.recorder.finish_stage(row, &record).await?;
        let (metrics, unavailable) = (record.metrics.to_vec(), record.unavailable.to_vec());
        self.progress.end(&spec.name).await;
        let good = matches!(end.state, StageState::Hit | StageState::Ran);
        let outputs = artifacts
            .into_iter()
            .map(|(port, _, artifact)| {
                let path = self.shared.store.path(&artifact);
                (port, Content { digest: artifact.digest, path, dataset: None })
            })
            .collect();
        let stage = &mut self.stages[index];
        stage.phase = if good { Phase::Good } else { Phase::Bad };
        stage.outputs = outputs;
        stage.report = Some(StageReport {
            name: spec.name.clone(),
            state: end.state,
            reason: stage.reason.clone(),
            duration_s,
            error: end.error.clone(),
            bad_input: end.bad_input,
            metrics,
            unavailable,
            milestones: action.map_or(&end.milestones, |action| &action.milestones).clone(),
        });
        self.tell_end(index, end, duration_s);
        Ok(())
    }

    fn tell_end(&mut self, index: usize, end: End, duration_s: f64) {
        let stage = self.spec(index).name.clone();
        let event = match end.state {
            StageState::Ran => RunEvent::StageFinished { stage, duration_s, gates: end.gates },
            StageState::Failed => {
                if !self.keep_going {
                    self.stop.send_if_modified(|stop| {
                        let earlier = *stop;
                        *stop = earlier.max(Stop::Halt);
                        *stop != earlier
                    });
                }
                let error = end.error.unwrap_or_default();
                RunEvent::StageFailed { stage, error, log_path: self.stages[index].log.clone() }
            }
            StageState::Skipped => {
                RunEvent::StageSkipped { stage, reason: self.stages[index].reason.clone() }
            }
            StageState::Interrupted => RunEvent::StageInterrupted { stage },
            StageState::Paused => {
                let epochs = end.milestones.last().map_or(0, |milestone| milestone.epochs);
                RunEvent::StagePaused { stage, epochs }
            }
            StageState::Hit | StageState::Running => return,
        };
        (self.observer)(&event);
    }

    async fn finish(mut self) -> Result<RunReport, Error> {
        let stages: Vec<_> =
            self.stages.iter_mut().filter_map(|stage| stage.report.take()).collect();
        let any = |state| stages.iter().any(|stage: &StageReport| stage.state == state);
        let state = if any(StageState::Failed) {
            RunState::Failed
        } else if any(StageState::Interrupted) {
            RunState::Interrupted
        } else if any(StageState::Paused) {
            RunState::Paused
        } else if any(StageState::Skipped) {
            RunState::Interrupted
        } else {
            RunState::Done
        };
        let duration_s = self.begun.elapsed().as_secs_f64();
        self.recorder.finish_run(self.shared.run, state, duration_s).await?;
        self.recorder.close().await?;
        let report = RunReport { run: self.shared.run, state, duration_s, stages };
        (self.observer)(&RunEvent::RunFinished { report: report.clone() });
        Ok(report)
    }
}
