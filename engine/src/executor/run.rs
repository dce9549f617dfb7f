//! A run from its lock to its loop.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{OnceCell, mpsc, watch};
use tokio::task::JoinSet;

use super::drive::Shared;
use super::progress_file::ProgressFile;
use super::run_loop::{RunLoop, StageProgress};
use super::slots::Slots;
use super::{Host, Pause, RunEvent, RunReport, Stop};
use crate::error::Error;
use crate::history::{
    Environment, LastStage, Recorder, RunStart, Trigger, logs_folder, progress_path,
};
use crate::manifest::{Manifest, Reference};
use crate::plan::Part;
use crate::store::{Holder, Lock, LockAttempt, Store, StoreError};

/// Time between two looks at the lock of another run.
const LOCK_POLL: Duration = Duration::from_millis(100);

/// Everything a run needs to know before it starts.
pub(crate) struct Prepared {
    pub(crate) manifest: Manifest,
    pub(crate) manifest_file: PathBuf,
    pub(crate) store: Store,
    pub(crate) host: Host,
    pub(crate) device: String,
    pub(crate) fallback: Option<String>,
    /// Part that each stage of the manifest plays, by position.
    pub(crate) parts: Vec<Part>,
    pub(crate) force: bool,
    pub(crate) keep_going: bool,
    pub(crate) jobs: usize,
    pub(crate) last: BTreeMap<String, LastStage>,
    pub(crate) expected_s: BTreeMap<String, f64>,
    pub(crate) environment: Environment,
    pub(crate) trigger: Trigger,
    pub(crate) pause: Option<Pause>,
    pub(crate) deadline: Option<Instant>,
    /// Slots shared with other runs of whoever holds the lock of the manifest already.
    pub(crate) within: Option<Arc<Slots>>,
}

/// Whoever watches a run.
pub(super) type Observer<'o> = &'o mut dyn FnMut(&RunEvent);

/// Runs the stages and gives back what came of them.
pub(crate) async fn execute(
    prepared: Prepared,
    observer: Observer<'_>,
) -> Result<RunReport, Error> {
    let mut signals = Signals::listen()?;
    let collected =
        |holder: &Option<Holder>| RunEvent::WaitingForCollection { holder: holder.clone() };
    let in_use = || prepared.store.try_lock_in_use();
    let _in_use = wait(in_use, &mut signals, |holder| observer(&collected(holder))).await?;
    let name = lock_name(&prepared.manifest_file);
    let at_work = |holder: &Option<Holder>| RunEvent::WaitingForRun { holder: holder.clone() };
    let try_alone = || prepared.store.try_lock(&name);
    let mut alone = match &prepared.within {
        Some(_) => None,
        None => Some(wait(try_alone, &mut signals, |holder| observer(&at_work(holder))).await?),
    };
    let mut recorder = Recorder::open(&prepared.store).await?;
    let start = RunStart {
        manifest: &prepared.manifest,
        manifest_file: &prepared.manifest_file,
        device: &prepared.device,
        environment: &prepared.environment,
        trigger: &prepared.trigger,
    };
    let run = recorder.start_run(&start).await?;
    if let Some(lock) = &mut alone {
        lock.name_holder(&Holder::here(Some(run)));
    }
    let logs = logs_folder(&prepared.store, run);
    std::fs::create_dir_all(&logs)
        .map_err(|source| Error::System { action: "create the folder of the logs", source })?;
    let (messages, inbox) = mpsc::channel(1024);
    let (stop, stop_seen) = watch::channel(Stop::Go);
    let names = |index: &usize| prepared.manifest.stages[*index].name.clone();
    let included: Vec<usize> =
        (0..prepared.parts.len()).filter(|index| prepared.parts[*index] != Part::Left).collect();
    observer(&RunEvent::RunStarted {
        run,
        manifest: prepared.manifest.name.clone(),
        device: prepared.device.clone(),
        fallback: prepared.fallback.clone(),
        stages: included.iter().map(names).collect(),
    });
    let sources = prepared
        .manifest
        .stages
        .iter()
        .flat_map(|stage| stage.inputs.values())
        .filter(|reference| !matches!(reference, Reference::Stage { .. }))
        .map(|reference| (reference.clone(), OnceCell::new()))
        .collect();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let shared = Arc::new(Shared {
        store: prepared.store,
        host: prepared.host,
        run,
        device: prepared.device,
        pause: prepared.pause,
        slots: prepared.within.unwrap_or_else(|| Arc::new(Slots::new(prepared.jobs, threads))),
        messages,
        stop: stop_seen,
        cancelled: Arc::new(AtomicBool::new(false)),
        last: prepared.last,
        sources,
        manifest: prepared.manifest,
    });
    let stages = prepared.parts.iter().map(|part| StageProgress::new(*part)).collect();
    let run_loop = RunLoop {
        recorder,
        progress: ProgressFile::new(progress_path(&shared.store, run)),
        shared,
        observer,
        stages,
        stop,
        tasks: JoinSet::new(),
        force: prepared.force,
        keep_going: prepared.keep_going,
        expected_s: prepared.expected_s,
        begun: Instant::now(),
        deadline: prepared.deadline,
    };
    run_loop.run(inbox, &mut signals).await
}

/// Name of the lock that whoever runs a manifest holds.
pub(crate) fn lock_name(manifest_file: &Path) -> String {
    format!("run-{}", blake3::hash(manifest_file.as_os_str().as_encoded_bytes()).to_hex())
}

/// Tries again until a lock is taken, and tells whom it waits for.
async fn wait(
    attempt: impl Fn() -> Result<LockAttempt, StoreError>,
    signals: &mut Signals,
    mut tell: impl FnMut(&Option<Holder>),
) -> Result<Lock, Error> {
    let mut told = None;
    loop {
        match attempt()? {
            LockAttempt::Taken(lock) => return Ok(lock),
            LockAttempt::Held(holder) => {
                // The holder writes its run's number a moment after it took the lock.
                if told.as_ref() != Some(&holder) {
                    tell(&holder);
                    told = Some(holder);
                }
            }
        }
        tokio::select! {
            () = signals.next() => return Err(Error::Interrupted),
            () = tokio::time::sleep(LOCK_POLL) => {}
        }
    }
}

/// Requests to stop from the terminal or the system.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn listen() -> Result<Self, Error> {
        let failed = |source| Error::System { action: "listen for signals", source };
        Ok(Self {
            interrupt: signal(SignalKind::interrupt()).map_err(failed)?,
            terminate: signal(SignalKind::terminate()).map_err(failed)?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
