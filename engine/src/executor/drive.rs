//! One stage from ready to done: key, cache, lock, slot, attempts, store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{OnceCell, mpsc, watch};

use super::inputs::{self, Content};
use super::slots::{Contender, Slots};
use super::{Host, Pause, Stop};
use crate::history::{LastStage, SourceRecord};
use crate::key;
use crate::manifest::{Manifest, Reference, StageSpec};
use crate::protocol::{Milestone, WorkerEvent};
use crate::source::FetchProgress;
use crate::store::{Action, Digest, Holder, Lock, LockAttempt, Store, StoreError};

/// Time between two looks at a lock that another process holds.
pub(super) const LOCK_POLL: Duration = Duration::from_millis(100);

/// What all stages of a run share.
pub(super) struct Shared {
    pub(super) store: Store,
    pub(super) host: Host,
    pub(super) manifest: Manifest,
    pub(super) run: i64,
    pub(super) device: String,
    pub(super) pause: Option<Pause>,
    pub(super) slots: Arc<Slots>,
    pub(super) messages: mpsc::Sender<Message>,
    pub(super) stop: watch::Receiver<Stop>,
    pub(super) cancelled: Arc<AtomicBool>,
    /// Newest earlier run of each stage, to say what changed.
    pub(super) last: BTreeMap<String, LastStage>,
    /// Datasets and checkpoints, each looked at once.
    pub(super) sources: BTreeMap<Reference, OnceCell<Content>>,
}

/// A stage that is ready.
pub(super) struct Job {
    pub(super) index: usize,
    pub(super) upstream: BTreeMap<String, Content>,
    /// Whether a cached result may not be used although there is one.
    pub(super) force: bool,
    /// Whether only a cached result may be used.
    pub(super) cached_only: bool,
    /// Counts it among those that share the threads.
    pub(super) _contender: Contender,
}

/// What a stage's task tells the run.
#[derive(Debug)]
pub(super) enum Message {
    Fetching {
        model: String,
        progress: FetchProgress,
    },
    Source(SourceRecord),
    Waiting {
        index: usize,
        holder: Option<Holder>,
    },
    /// For a worker that an earlier attempt left.
    WaitingForWorker {
        index: usize,
    },
    Started(Box<Started>),
    AttemptStarted {
        index: usize,
        number: u32,
    },
    Worker {
        index: usize,
        event: WorkerEvent,
    },
    AttemptEnded {
        index: usize,
        number: u32,
        duration: Duration,
        outcome: &'static str,
        error: Option<String>,
    },
    Retrying {
        index: usize,
        number: u32,
        delay: Duration,
        error: String,
    },
}

/// A stage that is no hit and has its slot.
#[derive(Debug)]
pub(super) struct Started {
    pub(super) index: usize,
    pub(super) identity: Identity,
    pub(super) reason: String,
    pub(super) threads: usize,
    pub(super) log: PathBuf,
}

/// What a stage is in this run.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) key: Digest,
    pub(super) document: Value,
    pub(super) digests: BTreeMap<String, Digest>,
}

/// What came of a stage.
#[derive(Debug)]
pub(super) enum StageOutcome {
    Hit {
        identity: Identity,
        action: Box<Action>,
    },
    Ran(Box<Action>),
    /// It left a checkpoint where the run wants it paused.
    Paused(Vec<Milestone>),
    Failed {
        identity: Option<Identity>,
        fault: Fault,
    },
    Interrupted,
    /// It never started.
    Skipped {
        identity: Option<Identity>,
        reason: String,
    },
}

/// What went wrong, and whether what the stage was given is to blame.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) error: String,
    pub(super) bad_input: bool,
}

impl From<String> for Fault {
    fn from(error: String) -> Self {
        Self { error, bad_input: false }
    }
}

/// Why a step did not lead on: an error, or a request to stop.
pub(super) enum Halted {
    Failed(Fault),
    Stopped,
}

impl Halted {
    pub(super) fn failed(error: String) -> Self {
        Self::Failed(error.into())
    }
}

impl From<StoreError> for Halted {
    fn from(error: StoreError) -> Self {
        Self::Failed(error.to_string().into())
    }
}

pub(super) async fn drive(shared: Arc<Shared>, job: Job) -> StageOutcome {
    let spec = &shared.manifest.stages[job.index];
    let driver = Driver { shared: &shared, spec, index: job.index };
    let stopped = || {
        let why = if *shared.stop.borrow() >= Stop::Checkpoint {
            "the run was stopped"
        } else {
            "another stage failed"
        };
        why.to_owned()
    };
    let contents = match driver.contents(&job.upstream).await {
        Ok(contents) => contents,
        Err(Halted::Failed(fault)) => return StageOutcome::Failed { identity: None, fault },
        Err(Halted::Stopped) => return StageOutcome::Skipped { identity: None, reason: stopped() },
    };
    let identity = driver.identity(&contents);
    match driver.resolve(&job, &identity, &contents).await {
        Ok(outcome) => outcome,
        Err(Halted::Failed(fault)) => StageOutcome::Failed { identity: Some(identity), fault },
        Err(Halted::Stopped) => {
            StageOutcome::Skipped { identity: Some(identity), reason: stopped() }
        }
    }
}

/// A stage and the run it belongs to.
pub(super) struct Driver<'a> {
    pub(super) shared: &'a Arc<Shared>,
    pub(super) spec: &'a StageSpec,
    pub(super) index: usize,
}

impl Driver<'_> {
    /// Everything connected to the stage, checkpoints fetched where needed.
    async fn contents(
        &self,
        upstream: &BTreeMap<String, Content>,
    ) -> Result<BTreeMap<String, Content>, Halted> {
        let mut contents = upstream.clone();
        for (port, reference) in &self.spec.inputs {
            if let Some(cell) = self.shared.sources.get(reference) {
                let content = cell.get_or_try_init(|| self.source(reference)).await?;
                contents.insert(port.clone(), content.clone());
            }
        }
        Ok(contents)
    }

    async fn source(&self, reference: &Reference) -> Result<Content, Halted> {
        let (shared, reference) = (Arc::clone(self.shared), reference.clone());
        let look = blocking(move || {
            let manifest = &shared.manifest;
            match &reference {
                Reference::Data(name) => inputs::dataset(manifest, name, &manifest.data[name])
                    .map_err(|error| Fault::from(error.to_string())),
                Reference::Model(name) => {
                    let report = |progress| {
                        let message = Message::Fetching { model: name.clone(), progress };
                        // Progress may be lost when the run has much else to hear.
                        let _full = shared.messages.try_send(message);
                    };
                    inputs::model(
                        &shared.store,
                        manifest,
                        name,
                        &manifest.models[name],
                        &shared.cancelled,
                        &report,
                    )
                    .map_err(|error| Fault {
                        bad_input: error.is_wrong_digest(),
                        error: error.to_string(),
                    })
                }
                Reference::Stage { .. } => unreachable!("stages are no sources"),
            }
        });
        // A server that says nothing must not keep the run from ending.
        let found = self.unless_stopped(Stop::Checkpoint, look).await?;
        match found {
            Ok((content, record)) => {
                self.send(Message::Source(record)).await;
                Ok(content)
            }
            Err(_) if *self.shared.stop.borrow() >= Stop::Checkpoint => Err(Halted::Stopped),
            Err(fault) => Err(Halted::Failed(fault)),
        }
    }

    fn identity(&self, contents: &BTreeMap<String, Content>) -> Identity {
        let inputs = contents
            .iter()
            .map(|(port, content)| {
                let input = key::KeyInput {
                    digest: Some(&content.digest),
                    dataset: content.dataset.as_ref(),
                };
                (port.as_str(), input)
            })
            .collect();
        let document = key::document(
            self.spec,
            &inputs,
            self.shared.manifest.seed,
            crate::plan::device_class(&self.shared.device),
        );
        let digests =
            contents.iter().map(|(port, content)| (port.clone(), content.digest.clone())).collect();
        Identity { key: key::digest(&document), document, digests }
    }

    async fn resolve(
        &self,
        job: &Job,
        identity: &Identity,
        contents: &BTreeMap<String, Content>,
    ) -> Result<StageOutcome, Halted> {
        let mut reason = match self.look_up(job, identity).await {
            Ok(action) => return Ok(StageOutcome::Hit { identity: identity.clone(), action }),
            Err(reason) => reason,
        };
        if job.cached_only {
            return Err(Halted::failed(format!(
                "`--from` and `--only` leave this stage out, but it has no cached result ({reason}); run without them once"
            )));
        }
        let (lock, waited) = self.lock(&identity.key).await?;
        if waited {
            // Whoever held the lock was at work on this very result.
            reason = match self.look_up(job, identity).await {
                Ok(action) => return Ok(StageOutcome::Hit { identity: identity.clone(), action }),
                Err(reason) => reason,
            };
        }
        let exclusive = self.spec.stage.exclusive();
        let slot = self
            .unless_stopped(Stop::Halt, self.shared.slots.acquire(&self.shared.device, exclusive))
            .await?;
        let outcome = self.work(identity, contents, reason, slot.threads).await;
        drop((slot, lock));
        outcome
    }

    /// A usable cached result, or why there is none.
    async fn look_up(&self, job: &Job, identity: &Identity) -> Result<Box<Action>, String> {
        if job.force {
            return Err("forced".to_owned());
        }
        if !self.spec.cache {
            return Err("its cache is switched off".to_owned());
        }
        let (shared, key, index) = (Arc::clone(self.shared), identity.key.clone(), self.index);
        let last = shared.last.get(&self.spec.name).cloned();
        let document = identity.document.clone();
        blocking(move || {
            let spec = &shared.manifest.stages[index];
            let lookup = crate::plan::look_up(&shared.store, spec, &key, &shared.manifest.root);
            lookup
                .map(Box::new)
                .map_err(|miss| crate::plan::reason(&miss, &key, &document, last.as_ref()))
        })
        .await
    }

    /// Takes the lock on the key, so that one result is worked on once at a time.
    async fn lock(&self, key: &Digest) -> Result<(Lock, bool), Halted> {
        let name = format!("key-{key}");
        let mut waited = false;
        loop {
            match self.shared.store.try_lock(&name)? {
                LockAttempt::Taken(mut lock) => {
                    lock.name_holder(&Holder::here(Some(self.shared.run)));
                    return Ok((lock, waited));
                }
                LockAttempt::Held(holder) => {
                    if !waited {
                        self.send(Message::Waiting { index: self.index, holder }).await;
                    }
                    waited = true;
                    self.unless_stopped(Stop::Halt, tokio::time::sleep(LOCK_POLL)).await?;
                }
            }
        }
    }

    pub(super) async fn send(&self, message: Message) {
        // The run only stops listening when it ends with an error of its own.
        let _nobody = self.shared.messages.send(message).await;
    }

    pub(super) async fn unless_stopped<T>(
        &self,
        level: Stop,
        work: impl Future<Output = T>,
    ) -> Result<T, Halted> {
        let mut stop = self.shared.stop.clone();
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop >= level) => Err(Halted::Stopped),
            done = work => Ok(done),
        }
    }
}

/// Runs blocking work off the async threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}
