//! What a run would do: which stages, hit or miss and why, how long.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use crate::error::Error;
use crate::executor::dataset;
use crate::gate::judge;
use crate::history::{History, LastStage, StageState};
use crate::key::{self, Change, KeyInput};
use crate::manifest::{DatasetSpec, DeviceChoice, Manifest, Reference, StageSpec, did_you_mean};
use crate::source;
use crate::store::{Action, Damage, Digest, Store};

/// Which stages of a manifest are asked for; nothing set means all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selection {
    /// This stage and everything downstream of it.
    pub from: Option<String>,
    /// This stage and everything upstream of it.
    pub until: Vec<String>,
    /// These stages alone.
    pub only: Vec<String>,
}

/// The part a stage plays in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// It is asked for.
    Asked,
    /// Something asked for needs its cached result.
    Support,
    /// It has nothing to do with what is asked for.
    Left,
}

/// The part of every stage, by position.
pub(crate) fn parts(manifest: &Manifest, selection: &Selection) -> Result<Vec<Part>, Error> {
    let position = |name: &String| {
        manifest.stages.iter().position(|stage| stage.name == *name).ok_or_else(|| {
            let names = manifest.stages.iter().map(|stage| stage.name.as_str());
            Error::command(format!("the manifest has no stage `{name}`"), did_you_mean(name, names))
        })
    };
    let upstream: Vec<BTreeSet<usize>> = manifest
        .stages
        .iter()
        .map(|stage| {
            let names = stage.inputs.values().filter_map(|reference| match reference {
                Reference::Stage { stage, .. } => Some(stage),
                Reference::Data(_) | Reference::Model(_) => None,
            });
            names
                .filter_map(|name| manifest.stages.iter().position(|other| other.name == *name))
                .collect()
        })
        .collect();
    let mut asked: BTreeSet<usize> = (0..manifest.stages.len()).collect();
    if let Some(from) = &selection.from {
        let mut downstream = BTreeSet::from([position(from)?]);
        // Stages are ordered upstream first, so one pass reaches everything.
        for (index, needed) in upstream.iter().enumerate() {
            if needed.iter().any(|needed| downstream.contains(needed)) {
                downstream.insert(index);
            }
        }
        asked.retain(|index| downstream.contains(index));
    }
    if !selection.until.is_empty() {
        let ends = selection.until.iter().map(position).collect::<Result<BTreeSet<_>, _>>()?;
        let needed = closure(&upstream, ends);
        asked.retain(|index| needed.contains(index));
    }
    if !selection.only.is_empty() {
        let only = selection.only.iter().map(position).collect::<Result<BTreeSet<_>, _>>()?;
        asked.retain(|index| only.contains(index));
    }
    if asked.is_empty() {
        let help = Some("`--from`, `--until` and `--only` together leave nothing".to_owned());
        return Err(Error::command("no stage is asked for", help));
    }
    let needed = closure(&upstream, asked.clone());
    Ok((0..manifest.stages.len())
        .map(|index| match (asked.contains(&index), needed.contains(&index)) {
            (true, _) => Part::Asked,
            (false, true) => Part::Support,
            (false, false) => Part::Left,
        })
        .collect())
}

/// Stages and everything upstream of them.
fn closure(upstream: &[BTreeSet<usize>], mut stages: BTreeSet<usize>) -> BTreeSet<usize> {
    for index in (0..upstream.len()).rev() {
        if stages.contains(&index) {
            stages.extend(&upstream[index]);
        }
    }
    stages
}

/// The device of a run, and why `auto` did not give a GPU where it did not.
pub(crate) fn resolve_device(
    choice: DeviceChoice,
    cuda: bool,
) -> Result<(String, Option<String>), Error> {
    let gpu = Path::new("/dev/nvidiactl").exists() || Path::new("/dev/dxg").exists();
    match choice {
        DeviceChoice::Cpu => Ok(("cpu".to_owned(), None)),
        DeviceChoice::Cuda(_) if !cuda => Err(Error::command(
            "the manifest asks for CUDA, but this program was built without it",
            Some("build it with `--features cuda`, or run with `--set device=cpu`".to_owned()),
        )),
        DeviceChoice::Cuda(_) if !gpu => Err(Error::command(
            "the manifest asks for CUDA, but this machine has no NVIDIA GPU with a loaded driver",
            Some("run with `--set device=cpu`, or on a machine that has one".to_owned()),
        )),
        DeviceChoice::Cuda(None) => Ok(("cuda".to_owned(), None)),
        DeviceChoice::Cuda(Some(index)) => Ok((format!("cuda:{index}"), None)),
        DeviceChoice::Auto if cuda && gpu => Ok(("cuda".to_owned(), None)),
        DeviceChoice::Auto => {
            let why = if cuda {
                "this machine has no NVIDIA GPU"
            } else {
                "this program was built without CUDA"
            };
            Ok(("cpu".to_owned(), Some(format!("running on the CPU: {why}"))))
        }
    }
}

/// Device as the cache key sees it: GPUs of one kind are alike.
pub(crate) fn device_class(device: &str) -> &str {
    device.split(':').next().unwrap_or(device)
}

/// Why there is no usable cached result.
#[derive(Debug)]
pub(crate) enum Miss {
    Absent,
    Damaged(Damage),
    /// The effect of an external stage is gone.
    Outside,
}

/// The cached result of a key, read back and found whole.
pub(crate) fn look_up(
    store: &Store,
    spec: &StageSpec,
    key: &Digest,
    root: &Path,
) -> Result<Action, Miss> {
    let action = store.verified_action(key).map_err(Miss::Damaged)?.ok_or(Miss::Absent)?;
    let complete = spec.stage.outputs().iter().all(|port| action.outputs.contains_key(port.name));
    if !complete {
        return Err(Miss::Absent);
    }
    if spec.stage.external() {
        let first = spec.stage.outputs().first().map(|port| store.path(&action.outputs[port.name]));
        let previous = first.unwrap_or_default();
        if !spec.stage.is_current(&spec.params, &previous, root) {
            return Err(Miss::Outside);
        }
    }
    Ok(action)
}

/// Why a stage has to run, for people.
pub(crate) fn reason(
    miss: &Miss,
    key: &Digest,
    document: &Value,
    last: Option<&LastStage>,
) -> String {
    match (miss, last) {
        (Miss::Damaged(damage), _) => format!("its stored result is damaged: {damage}"),
        (Miss::Outside, _) => "its effect outside is gone".to_owned(),
        (Miss::Absent, None) => "it never ran".to_owned(),
        (Miss::Absent, Some(last)) if last.key.as_deref() == Some(key.as_str()) => match last.state
        {
            StageState::Hit | StageState::Ran => "its result is no longer in the store".to_owned(),
            _ => format!("it did not finish in run {}", last.run),
        },
        (Miss::Absent, Some(last)) => {
            let changes = key::changes(&last.key_document, document);
            let shown: Vec<_> = changes.iter().take(3).map(ToString::to_string).collect();
            let more = changes.len().saturating_sub(shown.len());
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            format!("changed since run {}: {}{more}", last.run, shown.join(", "))
        }
    }
}

/// What a stage would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Forecast {
    /// Its cached result would be used.
    Hit,
    /// It would run.
    Run,
    /// It depends on what upstream stages will write, or a checkpoint that is not fetched yet.
    Depends,
    /// Its cached result would be used, and does not keep to its gates.
    Fail,
    /// It would not run, because something upstream fails.
    Skip,
}

/// One stage of a [`Plan`].
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct PlannedStage {
    /// Name in the manifest.
    pub name: String,
    /// Stage kind.
    pub kind: String,
    /// What it would do.
    pub forecast: Forecast,
    /// Why.
    pub reason: String,
    /// Cache key where every input is known.
    pub key: Option<String>,
    /// Seconds it would take if it runs, from history.
    pub expected_s: Option<f64>,
}

/// What a run would do.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Plan {
    /// Device, after `auto` was resolved.
    pub device: String,
    /// Why `auto` did not give a GPU, where it did not.
    pub fallback: Option<String>,
    /// Its stages, upstream first.
    pub stages: Vec<PlannedStage>,
    /// Seconds of all stages that would or may run, where history knows them all.
    pub expected_s: Option<f64>,
}

/// The fields of a stage's cache key that changed since its last run.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Explanation {
    /// The stage and what it would do now.
    pub stage: PlannedStage,
    /// Run it is compared with; `None` when it never ran.
    pub previous_run: Option<i64>,
    /// Fields that changed since; inputs that are not known yet count as changed.
    pub changes: Vec<Change>,
    /// The key document as far as it is known.
    pub document: Value,
}

/// Looks ahead without running or fetching anything.
pub(crate) struct Outlook<'a> {
    pub(crate) manifest: &'a Manifest,
    pub(crate) manifest_file: &'a Path,
    pub(crate) store: &'a Store,
    pub(crate) history: &'a History,
    pub(crate) device: &'a str,
    pub(crate) force: bool,
}

/// What is known about an input's content before the run.
type Known = BTreeMap<String, Digest>;

impl Outlook<'_> {
    /// Every stage that plays a part, with its key document.
    pub(crate) fn stages(&self, parts: &[Part]) -> Result<Vec<(PlannedStage, Value)>, Error> {
        let mut known = self.sources()?;
        let mut bad: BTreeMap<&str, Forecast> = BTreeMap::new();
        let mut planned = Vec::new();
        for (spec, part) in self.manifest.stages.iter().zip(parts) {
            if *part == Part::Left {
                continue;
            }
            let (mut stage, document, action) = self.stage(spec, *part, &known)?;
            let blocker = spec.inputs.values().find_map(|from| match from {
                Reference::Stage { stage, .. } => bad.get_key_value(stage.as_str()),
                Reference::Data(_) | Reference::Model(_) => None,
            });
            if let Some((blocker, forecast)) = blocker {
                let what = if *forecast == Forecast::Skip { "would not run" } else { "fails" };
                (stage.forecast, stage.reason) = (Forecast::Skip, format!("`{blocker}` {what}"));
            }
            match stage.forecast {
                Forecast::Hit => {
                    for (port, artifact) in action.into_iter().flat_map(|action| action.outputs) {
                        known.insert(format!("{}.{port}", spec.name), artifact.digest);
                    }
                }
                Forecast::Fail | Forecast::Skip => _ = bad.insert(&spec.name, stage.forecast),
                Forecast::Run | Forecast::Depends => {}
            }
            planned.push((stage, document));
        }
        Ok(planned)
    }

    fn sources(&self) -> Result<Known, Error> {
        let mut known = Known::new();
        for (name, spec) in &self.manifest.data {
            let (content, record) = dataset(self.manifest, name, spec)?;
            known.insert(record.name, content.digest);
        }
        for (name, spec) in &self.manifest.models {
            if let Some(checkpoint) = source::cached(self.store, spec) {
                known.insert(format!("models.{name}"), checkpoint.artifact.digest);
            }
        }
        Ok(known)
    }

    fn stage(
        &self,
        spec: &StageSpec,
        part: Part,
        known: &Known,
    ) -> Result<(PlannedStage, Value, Option<Action>), Error> {
        let references: BTreeMap<&str, String> =
            spec.inputs.iter().map(|(port, from)| (port.as_str(), from.to_string())).collect();
        let inputs = spec
            .inputs
            .iter()
            .map(|(port, from)| {
                let input = KeyInput {
                    digest: known.get(&references[port.as_str()]),
                    dataset: self.dataset(from),
                };
                (port.as_str(), input)
            })
            .collect();
        let document = key::document(spec, &inputs, self.manifest.seed, device_class(self.device));
        let missing: Vec<_> = references
            .values()
            .filter(|from| !known.contains_key(*from))
            .map(|from| format!("`{from}`"))
            .collect();
        let expected_s =
            self.history.expected_s(self.manifest_file, &spec.name, spec.stage.kind())?;
        let mut planned = PlannedStage {
            name: spec.name.clone(),
            kind: spec.stage.kind().to_owned(),
            forecast: Forecast::Run,
            reason: String::new(),
            key: None,
            expected_s,
        };
        if !missing.is_empty() {
            planned.forecast = Forecast::Depends;
            planned.reason = format!("depends on {}", missing.join(", "));
            return Ok((planned, document, None));
        }
        let key = key::digest(&document);
        planned.key = Some(key.to_string());
        if self.force && part == Part::Asked {
            planned.reason = "forced".to_owned();
            return Ok((planned, document, None));
        }
        if !spec.cache {
            planned.reason = "its cache is switched off".to_owned();
            return Ok((planned, document, None));
        }
        match look_up(self.store, spec, &key, &self.manifest.root) {
            Ok(action) => {
                let judged = judge(&spec.gates, &action.metrics, &action.unavailable);
                let complaints: Vec<_> =
                    judged.into_iter().filter_map(|judgement| judgement.complaint).collect();
                (planned.forecast, planned.reason) = match complaints.is_empty() {
                    true => (Forecast::Hit, format!("done by run {}", action.run)),
                    false => (Forecast::Fail, complaints.join("; ")),
                };
                Ok((planned, document, Some(action)))
            }
            Err(miss) => {
                let last = self.history.last_stage(self.manifest_file, &spec.name, None)?;
                planned.reason = reason(&miss, &key, &document, last.as_ref());
                Ok((planned, document, None))
            }
        }
    }

    fn dataset(&self, from: &Reference) -> Option<&DatasetSpec> {
        match from {
            Reference::Data(name) => self.manifest.data.get(name),
            Reference::Model(_) | Reference::Stage { .. } => None,
        }
    }
}
