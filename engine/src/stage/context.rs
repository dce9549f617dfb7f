//! What a running stage sees of the engine.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};

use crate::manifest::DatasetSpec;
use crate::protocol::{Metric, Milestone, Progress, SeriesPoint, Task, Unavailable, WorkerEvent};
use crate::store::write_atomically;

/// Shortest time between two progress events.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);
/// Longest time a series point waits for its batch.
const SERIES_INTERVAL: Duration = Duration::from_millis(500);
/// Points of a series that go out in one event.
const SERIES_BATCH: usize = 256;

/// The error a stage gives back once it has left a checkpoint because it was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted; what was done so far is in the checkpoint")]
pub struct Interrupted;

/// The error a stage gives back once it has left a checkpoint because it came to
/// [`StageContext::pause_after`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("paused; what was done so far is in the checkpoint")]
pub struct Paused;

/// The error a stage gives back (anywhere in its chain) when its data, checkpoint or package is
/// wrong, not its work: trying again is pointless, and the command ends with exit code 2.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadInput(pub String);

/// A data file and how to read it.
#[derive(Debug, Clone, PartialEq)]
pub struct DatasetInput {
    /// The file.
    pub path: PathBuf,
    /// Its columns, labels and splits, as the manifest gives them.
    pub spec: DatasetSpec,
}

/// What a running stage sees of the engine; shared freely between threads.
pub struct StageContext {
    task: Task,
    sink: Box<dyn Fn(WorkerEvent) + Send + Sync>,
    interrupted: AtomicBool,
    reported: Mutex<Reported>,
}

/// Everything that has been reported, and what waits to go out.
#[derive(Debug, Default)]
struct Reported {
    metrics: Vec<Metric>,
    unavailable: Vec<Unavailable>,
    series: Vec<SeriesPoint>,
    /// Newest value of each series.
    newest: BTreeMap<String, f64>,
    milestones: Vec<Milestone>,
    series_since: Option<Instant>,
    last_progress: Option<(Instant, String)>,
}

impl StageContext {
    /// A context for `task` that hands its events to `sink`.
    ///
    /// The worker makes it; a test of a stage makes its own and looks at the events.
    pub fn new(task: Task, sink: impl Fn(WorkerEvent) + Send + Sync + 'static) -> Self {
        Self {
            task,
            sink: Box::new(sink),
            interrupted: AtomicBool::new(false),
            reported: Mutex::default(),
        }
    }

    /// Name of the stage in the manifest.
    pub fn name(&self) -> &str {
        &self.task.stage
    }

    /// File or folder connected to an input port.
    ///
    /// # Errors
    /// When nothing is connected to the port.
    pub fn input(&self, port: &str) -> Result<&Path> {
        self.optional_input(port).ok_or_else(|| {
            let connected: Vec<_> = self.task.inputs.keys().map(String::as_str).collect();
            anyhow!(
                "stage `{}` has nothing connected to input `{port}` (connected: {}); add it to `inputs`",
                self.task.stage,
                if connected.is_empty() { "none".to_owned() } else { connected.join(", ") },
            )
        })
    }

    /// File or folder connected to an input port, if any.
    pub fn optional_input(&self, port: &str) -> Option<&Path> {
        self.task.inputs.get(port).map(|input| input.path.as_path())
    }

    /// Data file connected to an input port of kind `dataset`.
    ///
    /// # Errors
    /// When nothing is connected to the port, or something that is no dataset.
    pub fn dataset(&self, port: &str) -> Result<DatasetInput> {
        let path = self.input(port)?.to_owned();
        let spec = self.task.inputs[port].dataset.clone().with_context(|| {
            format!(
                "input `{port}` of stage `{}` is no dataset; connect `data.NAME`",
                self.task.stage
            )
        })?;
        Ok(DatasetInput { path, spec })
    }

    /// Path at which the stage creates the file or folder of an output port.
    ///
    /// It lies in a private folder; the engine takes it over once the stage is done.
    pub fn output(&self, port: &str) -> PathBuf {
        self.task.outputs.join(port)
    }

    /// Seed of everything random in the stage.
    pub fn seed(&self) -> u64 {
        self.task.seed
    }

    /// CPU threads the stage may use, ≥ 1.
    pub fn threads(&self) -> usize {
        self.task.threads
    }

    /// `cpu`, `cuda` or `cuda:N`.
    pub fn device(&self) -> &str {
        &self.task.device
    }

    /// Folder that outlives kills and retries of the same cache key; removed on success.
    pub fn checkpoint_dir(&self) -> &Path {
        &self.task.checkpoint
    }

    /// Project root, for stages that write outside the store.
    pub fn external_root(&self) -> &Path {
        &self.task.root
    }

    /// Reports a summary metric; one that is not finite counts as not measured.
    pub fn metric(&self, metric: Metric) {
        if !metric.value.is_finite() {
            let reason = format!("the stage computed {}, which is no number", metric.value);
            return self.unavailable(&metric.name, &reason);
        }
        let finite = |end: Option<f64>| end.filter(|end| end.is_finite());
        let metric = Metric { low: finite(metric.low), high: finite(metric.high), ..metric };
        self.reported().metrics.push(metric.clone());
        (self.sink)(WorkerEvent::Metric(metric));
    }

    /// Adds a point to a series such as `train/loss`; points go out in batches.
    pub fn series(&self, name: &str, step: u64, value: f64) {
        let point =
            SeriesPoint { name: name.to_owned(), step, value: value.is_finite().then_some(value) };
        let batch = {
            let mut reported = self.reported();
            if value.is_finite() {
                reported.newest.insert(name.to_owned(), value);
            } else {
                reported.newest.remove(name);
            }
            reported.series.push(point);
            let since = *reported.series_since.get_or_insert_with(Instant::now);
            if reported.series.len() < SERIES_BATCH && since.elapsed() < SERIES_INTERVAL {
                return;
            }
            reported.series_since = None;
            std::mem::take(&mut reported.series)
        };
        (self.sink)(WorkerEvent::Series(batch));
    }

    /// Says that as many epochs are done and scored: the newest value of every series is kept as
    /// what was reached by then.
    pub fn milestone(&self, epochs: u64) {
        let mut reported = self.reported();
        let values = reported.newest.clone();
        reported.milestones.retain(|milestone| milestone.epochs < epochs);
        reported.milestones.push(Milestone { epochs, values });
        let text = serde_json::to_vec(&reported.milestones).expect("milestones are plain JSON");
        let path = self.milestones_path();
        let folder = path.parent().unwrap_or(Path::new("."));
        if let Err(error) = write_atomically(folder, &path, &text) {
            let line = format!("cannot note what was reached after {epochs} epochs: {error}");
            (self.sink)(WorkerEvent::Log(line));
        }
    }

    /// Epochs after which to leave a checkpoint and give back [`Paused`], although more are to come.
    pub fn pause_after(&self) -> Option<u64> {
        self.task.pause_after
    }

    /// Beside the checkpoint: what a resumed stage does not report again.
    fn milestones_path(&self) -> PathBuf {
        self.task.checkpoint.with_file_name("milestones.json")
    }

    /// Takes over what earlier attempts of the same cache key reached.
    pub(crate) fn recall_milestones(&self) {
        let earlier = std::fs::read(self.milestones_path()).ok();
        let earlier = earlier.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        self.reported().milestones = earlier.unwrap_or_default();
    }

    /// Reports that a metric could not be measured, and why.
    pub fn unavailable(&self, name: &str, reason: &str) {
        let unavailable = Unavailable { name: name.to_owned(), reason: reason.to_owned() };
        self.reported().unavailable.push(unavailable.clone());
        (self.sink)(WorkerEvent::Unavailable(unavailable));
    }

    /// Says where the stage stands; at most about five times a second gets through, and
    /// always a new phase and the last step.
    pub fn progress(&self, progress: Progress) {
        {
            let mut reported = self.reported();
            let last_step = progress.total > 0 && progress.step >= progress.total;
            let quiet = reported.last_progress.as_ref().is_some_and(|(at, phase)| {
                at.elapsed() < PROGRESS_INTERVAL && *phase == progress.phase
            });
            if quiet && !last_step {
                return;
            }
            reported.last_progress = Some((Instant::now(), progress.phase.clone()));
        }
        (self.sink)(WorkerEvent::Progress(progress));
    }

    /// Writes a line to the stage's log.
    pub fn log(&self, message: impl fmt::Display) {
        (self.sink)(WorkerEvent::Log(message.to_string()));
    }

    /// Whether the stage was asked to stop: leave a checkpoint and return [`Interrupted`].
    pub fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Asks the stage to stop at its next look at [`StageContext::interrupted`].
    pub fn interrupt(&self) {
        self.interrupted.store(true, Ordering::Relaxed);
    }

    /// Sends the points that wait for their batch, and hands out what was reported.
    pub(crate) fn finish(&self) -> (Vec<Metric>, Vec<Unavailable>, Vec<Milestone>) {
        let (series, reported) = {
            let mut reported = self.reported();
            let series = std::mem::take(&mut reported.series);
            let (metrics, unavailable) = (reported.metrics.clone(), reported.unavailable.clone());
            (series, (metrics, unavailable, reported.milestones.clone()))
        };
        if !series.is_empty() {
            (self.sink)(WorkerEvent::Series(series));
        }
        reported
    }

    fn reported(&self) -> std::sync::MutexGuard<'_, Reported> {
        // Only pushes happen under the lock, so a panicking thread leaves it whole.
        self.reported.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for StageContext {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("StageContext").field("task", &self.task).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::protocol::{PROTOCOL, TaskInput};

    fn context() -> (StageContext, Arc<Mutex<Vec<WorkerEvent>>>) {
        let path = PathBuf::from("in");
        let task = Task {
            protocol: PROTOCOL,
            kind: "toy".to_owned(),
            version: 1,
            stage: "teacher".to_owned(),
            params: serde_json::json!({}),
            inputs: BTreeMap::from([("model".to_owned(), TaskInput { path, dataset: None })]),
            outputs: PathBuf::from("out"),
            checkpoint: PathBuf::from("checkpoint"),
            root: PathBuf::from("."),
            result: PathBuf::from("result.json"),
            seed: 7,
            threads: 1,
            device: "cpu".to_owned(),
            pause_after: None,
        };
        let events = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&events);
        (StageContext::new(task, move |event| sink.lock().unwrap().push(event)), events)
    }

    #[test]
    fn unconnected_ports_are_named() {
        let (context, _) = context();
        assert_eq!(context.input("model").unwrap(), Path::new("in"));
        assert_eq!(context.optional_input("data"), None);
        assert_eq!(
            context.dataset("data").unwrap_err().to_string(),
            "stage `teacher` has nothing connected to input `data` (connected: model); add it to `inputs`"
        );
        assert_eq!(
            context.dataset("model").unwrap_err().to_string(),
            "input `model` of stage `teacher` is no dataset; connect `data.NAME`"
        );
    }

    #[test]
    fn series_go_out_in_batches_and_never_get_lost() {
        let (context, events) = context();
        for step in 0..600 {
            context.series("train/loss", step, if step == 3 { f64::NAN } else { 1.0 });
        }
        context.finish();
        let events = events.lock().unwrap();
        assert!(events.len() < 20, "{} events", events.len());
        let points: Vec<_> = events
            .iter()
            .flat_map(|event| match event {
                WorkerEvent::Series(points) => points.clone(),
                _ => Vec::new(),
            })
            .collect();
        assert_eq!(
            points.iter().map(|point| point.step).collect::<Vec<_>>(),
            (0..600).collect::<Vec<_>>()
        );
        assert_eq!((points[3].value, points[4].value), (None, Some(1.0)));
    }

    #[test]
    fn progress_is_throttled_but_phases_and_the_end_get_through() {
        let (context, events) = context();
        for step in 0..=1000 {
            let phase = if step < 500 { "warm-up" } else { "training" };
            context.progress(Progress {
                step,
                total: 1000,
                phase: phase.to_owned(),
                ..Progress::default()
            });
        }
        let events = events.lock().unwrap();
        let step = |event: &WorkerEvent| match event {
            WorkerEvent::Progress(progress) => progress.step,
            _ => unreachable!(),
        };
        let steps: Vec<_> = events.iter().map(step).collect();
        assert!(
            steps.len() < 20 && steps.contains(&0) && steps.contains(&500) && steps.contains(&1000),
            "{steps:?}"
        );
    }

    #[test]
    fn numbers_that_are_none_count_as_not_measured() {
        let (context, _) = context();
        let metric = |value| Metric {
            name: "test/f1".to_owned(),
            value,
            low: Some(f64::NAN),
            ..Metric::default()
        };
        context.metric(metric(f64::INFINITY));
        context.metric(metric(0.5));
        let (metrics, unavailable, _) = context.finish();
        assert_eq!((metrics.len(), metrics[0].value, metrics[0].low), (1, 0.5, None));
        assert_eq!(unavailable[0].reason, "the stage computed inf, which is no number");
    }
}
