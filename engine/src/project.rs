//! The face of the engine: a manifest, its state folder, and what can be done with them.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::executor::{Host, Pause, Prepared, RunEvent, RunReport, Slots, execute};
use crate::history::{ArtifactRecord, History, Trigger, environment};
use crate::key;
use crate::manifest::{Manifest, did_you_mean, params_schema, project_root};
use crate::plan::{Explanation, Forecast, Outlook, Plan, Selection, parts, resolve_device};
use crate::stage::{Port, StageTable};
use crate::store::{Action, Digest, Store};
use crate::sweep::{Sweep, SweepEvent, SweepPlan, SweepReport, probe};

/// A manifest and its state folder.
#[derive(Debug)]
pub struct Project {
    manifest: PathBuf,
    manifest_file: PathBuf,
    home: PathBuf,
    table: StageTable,
    host: Host,
}

/// What a run is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// Which stages.
    pub selection: Selection,
    /// Run the stages asked for although they are cached.
    pub force: bool,
    /// After a failure go on with what does not depend on it.
    pub keep_going: bool,
    /// Stages at once; `None` leaves it to the engine.
    pub jobs: Option<usize>,
    /// `--set` overrides, `KEY.KEY=VALUE`.
    pub set: Vec<String>,
    /// Why it runs.
    pub trigger: Trigger,
    /// Stage to hold at a checkpoint.
    pub pause: Option<Pause>,
    /// When to stop as if someone had asked for it.
    pub deadline: Option<Instant>,
}

/// What a sweep is asked to do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct SweepOptions {
    /// `--set` overrides, `KEY.KEY=VALUE`.
    pub set: Vec<String>,
    /// Measure trials again that failed in an earlier session.
    pub retry_failed: bool,
    /// What started it.
    pub trigger: Trigger,
}

/// One stage kind, for `pipeline stages`.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct KindDescription {
    /// Name in manifests.
    pub kind: &'static str,
    /// Implementation version.
    pub version: u32,
    /// One line.
    pub about: &'static str,
    /// Inputs it takes.
    pub inputs: &'static [Port],
    /// Outputs it writes.
    pub outputs: &'static [Port],
    /// Metrics it may report, `*` standing for any part.
    pub metrics: &'static [&'static str],
    /// JSON Schema of its parameters.
    pub params: Value,
}

/// Describes every stage kind of a table.
pub fn kinds(table: StageTable) -> Vec<KindDescription> {
    table
        .iter()
        .map(|stage| KindDescription {
            kind: stage.kind(),
            version: stage.version(),
            about: stage.about(),
            inputs: stage.inputs(),
            outputs: stage.outputs(),
            metrics: stage.metrics(),
            params: params_schema(*stage),
        })
        .collect()
}

/// The root of the project that a folder belongs to.
pub fn project_folder(folder: &Path) -> PathBuf {
    project_root(&folder.join("manifest.toml"))
}

/// The state folder for something in `folder`: `PIPELINE_HOME`, else `.pipeline` in the project root.
pub fn state_folder(folder: &Path) -> PathBuf {
    match std::env::var_os("PIPELINE_HOME").filter(|home| !home.is_empty()) {
        Some(home) => std::path::absolute(&home).unwrap_or_else(|_| PathBuf::from(home)),
        None => project_folder(folder).join(".pipeline"),
    }
}

impl Project {
    /// A project over the manifest file; nothing is read or written yet. `home` is the state
    /// folder, [`state_folder`] unless given.
    pub fn open(manifest: &Path, table: StageTable, host: Host, home: Option<&Path>) -> Self {
        let absolute = std::path::absolute(manifest).unwrap_or_else(|_| manifest.to_owned());
        // One file is one manifest, whatever links lead to it.
        let manifest_file = absolute.canonicalize().unwrap_or_else(|_| absolute.clone());
        let folder = absolute.parent().unwrap_or(Path::new("/"));
        let home = home.map_or_else(|| state_folder(folder), Path::to_owned);
        Self { manifest: manifest.to_owned(), manifest_file, home, table, host }
    }

    /// The state folder.
    pub fn home(&self) -> &Path {
        &self.home
    }

    /// The manifest file, absolute.
    pub(crate) fn manifest_file(&self) -> &Path {
        &self.manifest_file
    }

    /// What the manifest's sweep would do. Nothing is written.
    ///
    /// # Errors
    /// When the manifest has no sweep or is wrong, or the state folder cannot be read.
    pub fn plan_sweep(&self, options: &SweepOptions) -> Result<SweepPlan, Error> {
        Sweep::prepare(self, &options.set)?.plan(options.retry_failed)
    }

    /// Runs the manifest's sweep, or goes on with it. Blocks until it is over; signals work as in
    /// [`Project::run`]. Must not be called in an async task.
    ///
    /// # Errors
    /// When the sweep cannot start, what it looks for is not reported, or it cannot be recorded. A
    /// failed trial is no error but a [`SweepReport`] that says so.
    pub fn sweep(
        &self,
        options: &SweepOptions,
        observer: &mut dyn FnMut(&SweepEvent),
    ) -> Result<SweepReport, Error> {
        let sweep = Sweep::prepare(self, &options.set)?;
        sweep.run(options.retry_failed, &options.trigger, observer)
    }

    /// The manifest, read and checked.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check(&self, set: &[String]) -> Result<Manifest, Error> {
        Ok(Manifest::read(&self.manifest, self.table, set)?)
    }

    /// [`Project::check`], and whether the manifest is right at the edges of its sweep's space.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn check_all(&self, set: &[String]) -> Result<Manifest, Error> {
        let manifest = self.check(set)?;
        probe(self, set, &manifest)?;
        Ok(manifest)
    }

    /// Earlier runs in the state folder.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn history(&self) -> Result<History, Error> {
        Ok(History::open(&self.home)?)
    }

    /// What a run would do. Nothing is written, nothing fetched.
    ///
    /// # Errors
    /// When the manifest or the options are wrong, or the state folder cannot be read.
    pub fn plan(&self, options: &RunOptions) -> Result<Plan, Error> {
        let manifest = self.check(&options.set)?;
        let (device, fallback) = resolve_device(manifest.device, self.host.cuda)?;
        let planned = self.outlook(&manifest, &device, options)?;
        let stages: Vec<_> = planned.into_iter().map(|(stage, _)| stage).collect();
        let expected_s = stages
            .iter()
            .filter(|stage| matches!(stage.forecast, Forecast::Run | Forecast::Depends))
            .map(|stage| stage.expected_s)
            .sum();
        Ok(Plan { device, fallback, stages, expected_s })
    }

    /// Which fields of a stage's cache key changed since its last run.
    ///
    /// # Errors
    /// When the manifest has no such stage or is wrong, or the state folder cannot be read.
    pub fn explain(&self, stage: &str, set: &[String]) -> Result<Explanation, Error> {
        let manifest = self.check(set)?;
        let (device, _) = resolve_device(manifest.device, self.host.cuda)?;
        let selection = Selection { until: vec![stage.to_owned()], ..Selection::default() };
        let options = RunOptions { selection, ..RunOptions::default() };
        let planned = self.outlook(&manifest, &device, &options)?;
        let (stage, document) = planned
            .into_iter()
            .find(|(planned, _)| planned.name == stage)
            .expect("a stage asked for is planned");
        let last = self.history()?.last_stage(&self.manifest_file, &stage.name, None)?;
        let changes = last.as_ref().map(|last| key::changes(&last.key_document, &document));
        Ok(Explanation {
            stage,
            previous_run: last.map(|last| last.run),
            changes: changes.unwrap_or_default(),
            document,
        })
    }

    fn outlook(
        &self,
        manifest: &Manifest,
        device: &str,
        options: &RunOptions,
    ) -> Result<Vec<(crate::plan::PlannedStage, Value)>, Error> {
        let parts = parts(manifest, &options.selection)?;
        let (store, history) = (Store::at(&self.home), self.history()?);
        let outlook = Outlook {
            manifest,
            manifest_file: &self.manifest_file,
            store: &store,
            history: &history,
            device,
            force: options.force,
        };
        outlook.stages(&parts)
    }

    /// Runs the manifest. Blocks until it is over; the first SIGINT or SIGTERM lets stages
    /// leave a checkpoint and end, the second kills them. Must not be called in an async task.
    ///
    /// # Errors
    /// When the run cannot start, or cannot be recorded. A failed stage is no error but a
    /// [`RunReport`] that says so.
    pub fn run(
        &self,
        options: &RunOptions,
        observer: &mut dyn FnMut(&RunEvent),
    ) -> Result<RunReport, Error> {
        self.run_within(options, None, observer)
    }

    /// [`Project::run`] for someone who holds the manifest's lock already, and whose runs share
    /// their slots.
    pub(crate) fn run_within(
        &self,
        options: &RunOptions,
        within: Option<Arc<Slots>>,
        observer: &mut dyn FnMut(&RunEvent),
    ) -> Result<RunReport, Error> {
        let manifest = self.check(&options.set)?;
        let (device, fallback) = resolve_device(manifest.device, self.host.cuda)?;
        let parts = parts(&manifest, &options.selection)?;
        let store = Store::create(&self.home)?;
        let history = self.history()?;
        let mut last = std::collections::BTreeMap::new();
        let mut expected_s = std::collections::BTreeMap::new();
        let sweep = match options.trigger {
            Trigger::Sweep { sweep, .. } => Some(sweep),
            Trigger::Manual | Trigger::Schedule { .. } => None,
        };
        for stage in &manifest.stages {
            let name = &stage.name;
            let earlier = history.last_stage(&self.manifest_file, name, sweep)?;
            last.extend(earlier.map(|earlier| (name.clone(), earlier)));
            let seconds = history.expected_s(&self.manifest_file, name, stage.stage.kind())?;
            expected_s.extend(seconds.map(|seconds| (name.clone(), seconds)));
        }
        drop(history);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let prepared = Prepared {
            manifest_file: self.manifest_file.clone(),
            store,
            host: self.host.clone(),
            device,
            fallback,
            parts,
            force: options.force,
            keep_going: options.keep_going,
            jobs: options.jobs.unwrap_or(cores.min(4)),
            last,
            expected_s,
            environment: environment(&manifest.root),
            trigger: options.trigger.clone(),
            pause: options.pause.clone(),
            deadline: options.deadline,
            within,
            manifest,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .map_err(|source| Error::System { action: "start the executor", source })?;
        let report = runtime.block_on(execute(prepared, observer));
        // A download that was cancelled may take a moment to notice.
        runtime.shutdown_timeout(std::time::Duration::from_secs(5));
        report
    }

    /// The artifact of `STAGE.PORT` that a run with these overrides would use; where it would have
    /// to make one, that of the newest such run.
    ///
    /// # Errors
    /// When the manifest has no such stage or port, it never finished, or the artifact is damaged.
    pub fn artifact(&self, output: &str, set: &[String]) -> Result<ArtifactRecord, Error> {
        let manifest = self.check(set)?;
        let (name, port) = output.split_once('.').ok_or_else(|| {
            Error::command(format!("`{output}` is no output, expected STAGE.PORT"), None)
        })?;
        let stage = manifest.stage(name).ok_or_else(|| {
            let names = manifest.stages.iter().map(|stage| stage.name.as_str());
            Error::command(format!("the manifest has no stage `{name}`"), did_you_mean(name, names))
        })?;
        let ports = || stage.stage.outputs().iter().map(|port| port.name);
        let port =
            stage.stage.outputs().iter().find(|known| known.name == port).ok_or_else(|| {
                let listed: Vec<_> = ports().collect();
                let message =
                    format!("stage `{name}` has no output `{port}`, only {}", listed.join(", "));
                Error::command(message, did_you_mean(port, ports()))
            })?;
        let store = Store::at(&self.home);
        let artifact = match self.cached(&manifest, name)? {
            Some(action) => action.outputs[port.name].clone(),
            None => {
                let newest =
                    self.history()?.newest_artifact(&self.manifest_file, name, port.name, set)?;
                let newest = newest.ok_or_else(|| {
                    let with = if set.is_empty() { "" } else { " with these overrides" };
                    let message = format!("there is no finished artifact of `{output}`{with}");
                    Error::command(message, Some("run the manifest first".to_owned()))
                })?;
                store.verify(&newest).map_err(|damage| {
                    let message = format!("the artifact of `{output}` is damaged: {damage}");
                    Error::command(message, Some("run the manifest to make it anew".to_owned()))
                })?;
                newest
            }
        };
        Ok(ArtifactRecord {
            port: port.name.to_owned(),
            kind: port.kind.to_owned(),
            digest: artifact.digest.to_string(),
            size_bytes: artifact.size_bytes,
            path: Some(store.path(&artifact)),
        })
    }

    /// The cached result of a stage that a run would use, found whole; `None` where it would not.
    fn cached(&self, manifest: &Manifest, name: &str) -> Result<Option<Action>, Error> {
        // Whoever only fetches results need not have the GPU that made them.
        let Ok((device, _)) = resolve_device(manifest.device, self.host.cuda) else {
            return Ok(None);
        };
        let selection = Selection { until: vec![name.to_owned()], ..Selection::default() };
        let options = RunOptions { selection, ..RunOptions::default() };
        let planned = self.outlook(manifest, &device, &options)?;
        let hit = planned
            .into_iter()
            .find(|(stage, _)| stage.name == name && stage.forecast == Forecast::Hit);
        let key = hit.and_then(|(stage, _)| Digest::parse(&stage.key?));
        Ok(key.and_then(|key| Store::at(&self.home).action(&key)))
    }
}
