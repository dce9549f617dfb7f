//! The loop of a scheduler: looks at the clock, starts runs, waits for them.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use jiff::Timestamp;
use tokio::process::Command;
use tokio::task::JoinSet;

use super::charge::Charge;
use super::notice::Notice;
use super::{ProcessIdentity, SchedulerEvent};
use crate::error::Error;
use crate::executor::Signals;
use crate::history::{Conclusion, Ticks, Trigger};
use crate::stage::StageTable;
use crate::store::Store;

/// Longest sleep between two looks at the clock, which may jump, and at the manifests.
const LOOK: Duration = Duration::from_secs(30);
/// The same while a slot waits for a run of another scheduler.
const LOOK_BUSY: Duration = Duration::from_secs(5);

/// A scheduler and what it looks after.
#[derive(Debug, Clone)]
pub struct Scheduler {
    /// Manifests to look after; each has to have a `[schedule]`.
    pub manifests: Vec<PathBuf>,
    /// Folder whose manifests with a `[schedule]` are looked after too, also those to come.
    pub folder: Option<PathBuf>,
    /// State folder; [`state_folder`] of each manifest unless given.
    pub home: Option<PathBuf>,
    /// Stage kinds.
    pub table: StageTable,
    /// Program that runs a manifest, and its arguments before the verb and the manifest's path.
    pub program: (PathBuf, Vec<OsString>),
    /// When it ends.
    pub ending: Ending,
}

/// When a scheduler ends by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Never.
    Never,
    /// When what was due at this time has run.
    Once(Timestamp),
    /// At this time, or when the runs that go on then have ended.
    Until(Timestamp),
}

/// A run that came to its end.
struct Ended {
    charge: Charge,
    slot: Timestamp,
    told: String,
}

type Observer<'o> = &'o mut dyn FnMut(&SchedulerEvent);

impl Scheduler {
    /// Looks after the manifests until told to stop or until its ending; `true` when a
    /// regression ended it. Blocks; must not be called in an async task.
    ///
    /// # Errors
    /// When a manifest or a state folder is wrong from the start, or nothing is to be looked
    /// after; later such troubles are told and tried again.
    pub fn run(&self, observer: Observer<'_>) -> Result<bool, Error> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|source| Error::System { action: "start the scheduler", source })?;
        runtime.block_on(async {
            let work = Work {
                scheduler: self,
                observer,
                runs: JoinSet::new(),
                processes: BTreeMap::new(),
                told: BTreeMap::new(),
                stopping: false,
                regressed: false,
            };
            work.run().await
        })
    }
}

async fn conclude(ended: &Ended) -> Result<Option<Conclusion>, Error> {
    let Ended { charge, slot, told } = ended;
    let mut ticks = Ticks::open(&Store::create(&charge.home)?).await?;
    let conclusion = ticks.conclude(&charge.file, *slot, charge.watch(), Some(told)).await?;
    ticks.close().await?;
    Ok(conclusion)
}

struct Work<'w> {
    scheduler: &'w Scheduler,
    observer: Observer<'w>,
    runs: JoinSet<Ended>,
    processes: BTreeMap<(PathBuf, Timestamp), ProcessIdentity>,
    /// What was last said about each manifest, so that nothing is said twice.
    told: BTreeMap<PathBuf, String>,
    stopping: bool,
    regressed: bool,
}

impl Work<'_> {
    async fn run(mut self) -> Result<bool, Error> {
        let mut signals = Signals::listen()?;
        self.first_look()?;
        loop {
            let (mut started, mut wait) = (false, LOOK);
            if !self.is_over() {
                (started, wait) = self.look().await?;
            }
            let ends = self.is_over() || matches!(self.scheduler.ending, Ending::Once(_));
            if ends && self.runs.is_empty() && !started {
                return Ok(self.regressed);
            }
            tokio::select! {
                () = signals.next() => self.stop(),
                Some(ended) = self.runs.join_next() => {
                    let ended = ended.map_err(|error| Error::System {
                        action: "wait for a run",
                        source: std::io::Error::other(error),
                    })?;
                    self.ended(ended).await;
                }
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    fn now(&self) -> Timestamp {
        match self.scheduler.ending {
            Ending::Once(now) => now,
            Ending::Never | Ending::Until(_) => Timestamp::now(),
        }
    }

    fn is_over(&self) -> bool {
        let past = matches!(self.scheduler.ending, Ending::Until(end) if Timestamp::now() >= end);
        self.stopping || past
    }

    /// Refuses what cannot be looked after; later it would only be told.
    fn first_look(&self) -> Result<(), Error> {
        for manifest in &self.scheduler.manifests {
            if self.scheduler.charge(manifest)?.is_none() {
                let message = format!("{} has no `[schedule]`", manifest.display());
                let help = Some("add one with a `cron`, see docs/manifest.md".to_owned());
                return Err(Error::command(message, help));
            }
        }
        let found = self.scheduler.found()?;
        if found.is_empty() && self.scheduler.manifests.is_empty() {
            let help = Some("name a manifest, or a folder of some".to_owned());
            return Err(Error::command("there is nothing to look after", help));
        }
        Ok(())
    }

    /// Gives every schedule its turn; whether a run was started, and how long to sleep.
    async fn look(&mut self) -> Result<(bool, Duration), Error> {
        let (mut started, mut wait) = (false, LOOK);
        let first = self.told.is_empty();
        let named = self.scheduler.manifests.clone();
        for manifest in named.into_iter().chain(self.scheduler.found()?) {
            match self.attend(&manifest).await {
                Ok((begun, longest)) => {
                    started |= begun;
                    wait = wait.min(longest);
                }
                Err(error) if first && !matches!(error, Error::Manifest(_)) => return Err(error),
                Err(error) => {
                    let error = error.to_string();
                    if self.told.insert(manifest.clone(), error.clone()).as_ref() != Some(&error) {
                        (self.observer)(&SchedulerEvent::Trouble { manifest, error });
                    }
                }
            }
        }
        Ok((started, wait))
    }

    async fn attend(&mut self, manifest: &Path) -> Result<(bool, Duration), Error> {
        let Some(charge) = self.scheduler.charge(manifest)? else { return Ok((false, LOOK)) };
        let now = self.now();
        let identity = charge.timetable.identity();
        if self.told.insert(manifest.to_owned(), identity.clone()).as_ref() != Some(&identity) {
            let next = charge.timetable.next(now);
            (self.observer)(&SchedulerEvent::Watching { manifest: manifest.to_owned(), next });
        }
        let mut ticks = Ticks::open(&Store::create(&charge.home)?).await?;
        let turn = ticks.turn(&charge.scheduled(), &ProcessIdentity::here(), now).await?;
        for (slot, state, reason) in turn.left_out {
            let manifest = manifest.to_owned();
            (self.observer)(&SchedulerEvent::LeftOut { manifest, slot, state, reason });
        }
        if !turn.stop.is_empty() {
            (self.observer)(&SchedulerEvent::StopsRun { manifest: manifest.to_owned() });
            turn.stop.iter().for_each(ProcessIdentity::interrupt);
        }
        for slot in turn.abandoned {
            let ended = ticks.conclude(&charge.file, slot, charge.watch(), None).await?;
            self.tell(&charge, slot, ended).await;
        }
        let started = turn.start.is_some();
        let until_next = turn.wake.map(|wake| wake.duration_since(now));
        if let Some(slot) = turn.start {
            self.start(&mut ticks, charge, slot).await?;
        }
        ticks.close().await?;
        let longest = if turn.busy && !started { LOOK_BUSY } else { LOOK };
        let next = until_next.and_then(|next| Duration::try_from(next).ok()).unwrap_or(LOOK);
        Ok((started, longest.min(next)))
    }

    async fn start(
        &mut self,
        ticks: &mut Ticks,
        charge: Charge,
        slot: Timestamp,
    ) -> Result<(), Error> {
        let manifest = charge.manifest.clone();
        (self.observer)(&SchedulerEvent::Started { manifest, slot });
        let trigger = serde_json::to_string(&Trigger::Schedule { slot }).expect("plain JSON");
        let (program, arguments) = &self.scheduler.program;
        let spawned = Command::new(program)
            .args(arguments)
            .arg(charge.verb())
            .arg(std::path::absolute(&charge.manifest).unwrap_or_else(|_| charge.file.clone()))
            .arg("--home")
            .arg(&charge.home)
            .arg("--trigger")
            .arg(trigger)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // Ctrl-C is for the scheduler, which tells its runs.
            .process_group(0)
            .spawn();
        let mut child = match spawned {
            Ok(child) => child,
            Err(error) => {
                let told = format!("{} cannot be started: {error}", program.display());
                let ended = ticks.conclude(&charge.file, slot, charge.watch(), Some(&told)).await?;
                self.tell(&charge, slot, ended).await;
                return Ok(());
            }
        };
        let process = child.id().map(ProcessIdentity::of);
        let file = charge.file.clone();
        self.runs.spawn(async move {
            let told = match child.wait().await {
                Ok(status) => status.to_string(),
                Err(error) => format!("it cannot be waited for: {error}"),
            };
            Ended { charge, slot, told }
        });
        if let Some(process) = process {
            self.processes.insert((file.clone(), slot), process.clone());
            ticks.started(&file, slot, &process).await?;
        }
        Ok(())
    }

    /// Records and tells how a run ended; what cannot be recorded now is tried again.
    async fn ended(&mut self, ended: Ended) {
        self.processes.remove(&(ended.charge.file.clone(), ended.slot));
        match conclude(&ended).await {
            Ok(conclusion) => self.tell(&ended.charge, ended.slot, conclusion).await,
            Err(error) => {
                let manifest = ended.charge.manifest.clone();
                let error = error.to_string();
                (self.observer)(&SchedulerEvent::Trouble { manifest, error });
                self.runs.spawn(async move {
                    tokio::time::sleep(LOOK_BUSY).await;
                    ended
                });
            }
        }
    }

    /// Tells how a slot ended, and everyone who wants to know about a regression.
    async fn tell(&mut self, charge: &Charge, slot: Timestamp, conclusion: Option<Conclusion>) {
        let Some(Conclusion { state, reason, run, sweep, comparison }) = conclusion else { return };
        let manifest = charge.manifest.clone();
        (self.observer)(&SchedulerEvent::Ended {
            manifest: manifest.clone(),
            slot,
            state,
            run,
            sweep,
            reason,
            comparison: comparison.clone(),
        });
        let (Some(comparison), Some(watch)) = (comparison, charge.watch()) else { return };
        if !comparison.is_regression() {
            return;
        }
        let notice = Notice { manifest: manifest.clone(), slot, comparison };
        let (watch, root) = (watch.clone(), charge.root.clone());
        let exit = watch.exit;
        let sending = tokio::task::spawn_blocking(move || notice.send(&watch, &root));
        for (to, error) in sending.await.unwrap_or_default() {
            (self.observer)(&SchedulerEvent::Notice { manifest: manifest.clone(), to, error });
        }
        if exit && !self.stopping {
            self.regressed = true;
            self.stopping = true;
            (self.observer)(&SchedulerEvent::Stopping { runs: self.runs.len() });
        }
    }

    /// Passes a request to stop on to the runs.
    fn stop(&mut self) {
        self.stopping = true;
        self.processes.values().for_each(ProcessIdentity::interrupt);
        (self.observer)(&SchedulerEvent::Stopping { runs: self.runs.len() });
    }
}
