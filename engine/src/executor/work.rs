//! The work of a stage that is no hit: attempts, then the store.

use std::collections::BTreeMap;
use std::fs::TryLockError;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Stop;
use super::attempt::{self, Attempt, AttemptEnd, BAD_INPUT};
use super::drive::{
    Driver, Fault, Halted, Identity, LOCK_POLL, Message, StageOutcome, Started, blocking,
};
use super::inputs::Content;
use crate::history::log_path;
use crate::protocol::{PROTOCOL, Task, TaskInput, TaskResult};
use crate::store::{Action, hash_file};
use crate::worker::lock_path;

/// Longest pause before a retry.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

impl Driver<'_> {
    /// Runs attempts until one is done or none is left.
    pub(super) async fn work(
        &self,
        identity: &Identity,
        contents: &BTreeMap<String, Content>,
        reason: String,
        threads: usize,
    ) -> Result<StageOutcome, Halted> {
        let work = self.shared.store.work(&identity.key);
        self.clear(&work).await?;
        let log_path = log_path(&self.shared.store, self.shared.run, &self.spec.name);
        let mut log = tokio::fs::File::create(&log_path).await.map_err(|error| {
            Halted::failed(format!("cannot create {}: {error}", log_path.display()))
        })?;
        let started = Started {
            index: self.index,
            identity: identity.clone(),
            reason,
            threads,
            log: log_path,
        };
        self.send(Message::Started(Box::new(started))).await;
        let begun = Instant::now();
        for number in 1.. {
            let attempt_folder = work.join(format!("attempt-{}-{number}", std::process::id()));
            let task = self.task(&work, &attempt_folder, contents, threads);
            self.send(Message::AttemptStarted { index: self.index, number }).await;
            let (end, duration) = self.attempt(&task, &attempt_folder, &mut log).await?;
            let (outcome, error) = match &end {
                AttemptEnd::Done(_) => ("done", None),
                AttemptEnd::Interrupted => ("interrupted", None),
                AttemptEnd::Paused(_) => ("paused", None),
                AttemptEnd::Failed { outcome, error } => (*outcome, Some(error.clone())),
            };
            self.send(Message::AttemptEnded {
                index: self.index,
                number,
                duration,
                outcome,
                error,
            })
            .await;
            match end {
                AttemptEnd::Interrupted => return Ok(StageOutcome::Interrupted),
                AttemptEnd::Paused(result) => return Ok(StageOutcome::Paused(result.milestones)),
                AttemptEnd::Done(result) => {
                    return self.finish(identity, contents, &task, result, begun.elapsed()).await;
                }
                AttemptEnd::Failed { error, outcome }
                    if number > self.spec.retries || outcome == BAD_INPUT =>
                {
                    self.clear(&work).await?;
                    let fault = Fault { error, bad_input: outcome == BAD_INPUT };
                    return Ok(StageOutcome::Failed { identity: Some(identity.clone()), fault });
                }
                AttemptEnd::Failed { error, .. } => {
                    if self.pause(number, error.clone()).await.is_err() {
                        return Ok(if *self.shared.stop.borrow() >= Stop::Checkpoint {
                            StageOutcome::Interrupted
                        } else {
                            StageOutcome::Failed {
                                identity: Some(identity.clone()),
                                fault: error.into(),
                            }
                        });
                    }
                }
            }
        }
        unreachable!("the last attempt returns")
    }

    async fn attempt(
        &self,
        task: &Task,
        folder: &Path,
        log: &mut tokio::fs::File,
    ) -> Result<(AttemptEnd, Duration), Halted> {
        let io = |error: std::io::Error| {
            Halted::failed(format!("cannot write {}: {error}", folder.display()))
        };
        tokio::fs::create_dir_all(folder).await.map_err(io)?;
        let task_path = folder.join("task.json");
        let text = serde_json::to_vec_pretty(task).expect("a task is plain JSON");
        tokio::fs::write(&task_path, text).await.map_err(io)?;
        let mut stop = self.shared.stop.clone();
        // A request to stop that came while this stage waited must not be lost.
        if *stop.borrow_and_update() >= Stop::Checkpoint {
            return Ok((AttemptEnd::Interrupted, Duration::ZERO));
        }
        let begun = Instant::now();
        let attempt = Attempt {
            host: &self.shared.host,
            task,
            task_path: &task_path,
            log,
            timeout: self.spec.timeout,
            stop,
            index: self.index,
            messages: self.shared.messages.clone(),
        };
        let end = attempt::run(attempt).await;
        Ok((end, begun.elapsed()))
    }

    async fn pause(&self, number: u32, error: String) -> Result<(), Halted> {
        let doubled = self.shared.host.backoff.saturating_mul(1 << (number - 1).min(16));
        let delay = doubled.min(BACKOFF_MAX);
        self.send(Message::Retrying { index: self.index, number, delay, error }).await;
        self.unless_stopped(Stop::Halt, tokio::time::sleep(delay)).await
    }

    fn task(
        &self,
        work: &Path,
        attempt: &Path,
        contents: &BTreeMap<String, Content>,
        threads: usize,
    ) -> Task {
        let inputs = contents
            .iter()
            .map(|(port, content)| {
                let input =
                    TaskInput { path: content.path.clone(), dataset: content.dataset.clone() };
                (port.clone(), input)
            })
            .collect();
        Task {
            protocol: PROTOCOL,
            kind: self.spec.stage.kind().to_owned(),
            version: self.spec.stage.version(),
            stage: self.spec.name.clone(),
            params: self.spec.params.clone(),
            inputs,
            outputs: attempt.join("outputs"),
            checkpoint: work.join("checkpoint"),
            root: self.shared.manifest.root.clone(),
            result: attempt.join("result.json"),
            seed: self.shared.manifest.seed,
            threads,
            device: self.shared.device.clone(),
            pause_after: self
                .shared
                .pause
                .as_ref()
                .filter(|pause| pause.stage == self.spec.name)
                .map(|pause| pause.epochs),
        }
    }

    /// Takes the outputs into the store and writes the record, in this order.
    async fn finish(
        &self,
        identity: &Identity,
        contents: &BTreeMap<String, Content>,
        task: &Task,
        result: TaskResult,
        work_time: Duration,
    ) -> Result<StageOutcome, Halted> {
        let (store, stage) = (self.shared.store.clone(), self.spec.stage);
        let outputs = task.outputs.clone();
        let mut action =
            Action::new(identity.key.clone(), identity.document.clone(), self.shared.run);
        action.metrics = result.metrics;
        action.unavailable = result.unavailable;
        action.milestones = result.milestones;
        action.work_s = work_time.as_secs_f64();
        let datasets: Vec<_> =
            contents.values().filter(|content| content.dataset.is_some()).cloned().collect();
        let work = store.work(&identity.key);
        blocking(move || {
            for content in datasets {
                if hash_file(&content.path)?.0 != content.digest {
                    let path = content.path.display();
                    return Err(Halted::failed(format!(
                        "{path} changed while the stage read it; its result is not kept, run again"
                    )));
                }
            }
            for port in stage.outputs() {
                let artifact = store.ingest(&outputs.join(port.name))?;
                action.outputs.insert(port.name.to_owned(), artifact);
            }
            store.record(&action)?;
            // The result is safe; a leftover is collected later.
            let _leftover = std::fs::remove_dir_all(&work);
            Ok(StageOutcome::Ran(Box::new(action)))
        })
        .await
    }

    /// Removes what earlier attempts left, but for the checkpoint, once no worker of theirs is
    /// alive any more.
    async fn clear(&self, work: &Path) -> Result<(), Halted> {
        let failed = |error: std::io::Error| {
            Halted::failed(format!(
                "cannot prepare the stage's work folder {}: {error}",
                work.display()
            ))
        };
        let checkpoint = work.join("checkpoint");
        std::fs::create_dir_all(&checkpoint).map_err(failed)?;
        let lock = std::fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(lock_path(&checkpoint))
            .map_err(failed)?;
        let mut told = false;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::Error(error)) => return Err(failed(error)),
                Err(TryLockError::WouldBlock) => {}
            }
            if !told {
                self.send(Message::WaitingForWorker { index: self.index }).await;
                told = true;
            }
            self.unless_stopped(Stop::Halt, tokio::time::sleep(LOCK_POLL)).await?;
        }
        let folder = work.to_owned();
        let cleared = blocking(move || -> std::io::Result<()> {
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                if entry.file_name().to_string_lossy().starts_with("attempt-") {
                    std::fs::remove_dir_all(entry.path())?;
                }
            }
            Ok(())
        });
        cleared.await.map_err(failed)
    }
}
