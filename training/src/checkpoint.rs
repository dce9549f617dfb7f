//! The state of a training run on disk: complete or not there.
//!
//! One safetensors file. It is written under another name, flushed to the disk and renamed, so a
//! crash at any moment leaves the old one or the new one.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView, serialize_to_file};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::examples::Examples;
use crate::fit::State;
use crate::network::Network;
use crate::optimizer::{Moments, Optimizer};
use crate::recipe::Recipe;
use crate::walk::floats::Floats;

const FILE: &str = "checkpoint.safetensors";
const TEMPORARY: &str = "checkpoint.writing";
/// Key of the header in the file's metadata.
const HEADER: &str = "training";

/// What belongs to a checkpoint besides tensors.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Header {
    /// Digest of the run, see [`fingerprint`].
    pub(crate) fingerprint: String,
    pub(crate) state: State,
    /// Steps of the optimizer.
    optimizer_steps: u32,
    /// What the objective keeps.
    pub(crate) objective: serde_json::Value,
}

impl Header {
    pub(crate) fn new(
        fingerprint: &str,
        state: &State,
        optimizer: &Optimizer,
        objective: serde_json::Value,
    ) -> Self {
        let (fingerprint, state) = (fingerprint.to_owned(), state.clone());
        Self { fingerprint, state, optimizer_steps: optimizer.steps, objective }
    }
}

/// Values of a network's tensors at one moment. Taking one copies nothing until training goes on.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    parameters: Vec<(String, Floats)>,
    observed: Vec<(String, Floats, bool)>,
}

impl Snapshot {
    pub(crate) fn of(network: &Network) -> Self {
        let trained = network.parameters().iter().filter(|parameter| parameter.trained);
        Self {
            parameters: trained
                .map(|parameter| (parameter.name.clone(), parameter.value.clone().inner()))
                .collect(),
            observed: network.observed(),
        }
    }

    pub(crate) fn apply(&self, network: &mut Network) {
        for (name, value) in &self.parameters {
            let mut parameters = network.parameters_mut().iter_mut();
            if let Some(parameter) = parameters.find(|parameter| parameter.name == *name) {
                parameter.set(value.clone());
            }
        }
        for (name, value, seen) in &self.observed {
            network.scales_mut().set_observed(name, value.clone(), *seen);
        }
    }

    /// The tensors under names that start with `prefix`.
    fn named(&self, prefix: &str) -> Vec<(String, Floats)> {
        let parameters = self
            .parameters
            .iter()
            .map(|(name, value)| (format!("{prefix}/parameter/{name}"), value.clone()));
        let observed = self.observed.iter().map(|(name, value, seen)| {
            let kind = if *seen { "observed" } else { "unseen" };
            (format!("{prefix}/{kind}/{name}"), value.clone())
        });
        parameters.chain(observed).collect()
    }

    /// The inverse of [`Self::named`]; `None` when there is nothing under the prefix.
    fn from_named(tensors: &BTreeMap<String, Floats>, prefix: &str) -> Option<Self> {
        let mut snapshot = Self { parameters: Vec::new(), observed: Vec::new() };
        for (name, value) in tensors {
            let Some(name) = name.strip_prefix(prefix) else { continue };
            if let Some(name) = name.strip_prefix("/parameter/") {
                snapshot.parameters.push((name.to_owned(), value.clone()));
            } else if let Some(name) = name.strip_prefix("/observed/") {
                snapshot.observed.push((name.to_owned(), value.clone(), true));
            } else if let Some(name) = name.strip_prefix("/unseen/") {
                snapshot.observed.push((name.to_owned(), value.clone(), false));
            }
        }
        (!snapshot.parameters.is_empty()).then_some(snapshot)
    }
}

/// A checkpoint that was read.
pub(crate) struct Loaded {
    pub(crate) header: Header,
    path: PathBuf,
    bytes: Vec<u8>,
}

/// A digest of a run's settings, data, and the names and sizes of what is trained: whether a
/// checkpoint fits. Weights before training and the objective are not in it; a folder belongs to one
/// run (a stage has one for each cache key), so they cannot differ.
pub(crate) fn fingerprint(
    network: &Network,
    train: &Examples,
    validation: Option<&Examples>,
    recipe: &Recipe,
) -> String {
    let mut hasher = blake3::Hasher::new();
    let recipe = serde_json::to_vec(recipe).expect("a recipe has only numbers and names");
    hasher.update(&recipe).update(network.device().name().as_bytes());
    for examples in [Some(train), validation].into_iter().flatten() {
        hasher.update(&(examples.len() as u64).to_le_bytes());
        for (ids, label) in examples.ids.iter().zip(&examples.labels) {
            hasher.update(&(ids.len() as u64).to_le_bytes());
            hasher.update(bytemuck::cast_slice(ids)).update(&(*label as u64).to_le_bytes());
        }
    }
    for parameter in network.parameters() {
        let line = format!("{} {:?} {}\n", parameter.name, parameter.shape, parameter.trained);
        hasher.update(line.as_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

/// Writes a checkpoint into `folder`, in place of an older one.
pub(crate) fn save(
    folder: &Path,
    network: &Network,
    optimizer: &Optimizer,
    best: Option<&Snapshot>,
    header: &Header,
) -> Result<()> {
    let mut tensors = Snapshot::of(network).named("now");
    tensors.extend(best.map(|best| best.named("best")).unwrap_or_default());
    for (parameter, moments) in network.parameters().iter().zip(&optimizer.moments) {
        let name = &parameter.name;
        if let Some(Moments { first, second }) = moments {
            tensors.push((format!("first/{name}"), first.clone()));
            tensors.push((format!("second/{name}"), second.clone()));
        }
        if let Some(mask) = &parameter.mask {
            tensors.push((format!("mask/{name}"), mask.clone()));
        }
    }
    let (path, temporary) = (folder.join(FILE), folder.join(TEMPORARY));
    let fail = |reason: String| Error::Checkpoint { path: path.clone(), reason };
    let header = serde_json::to_string(header).expect("a header has only plain values");
    write(&temporary, tensors, header).map_err(&fail)?;
    let flush = |path: &Path| File::open(path).and_then(|file| file.sync_all());
    let renamed = flush(&temporary)
        .and_then(|()| std::fs::rename(&temporary, &path))
        .and_then(|()| flush(folder));
    renamed.map_err(|error| fail(error.to_string()))
}

fn write(
    path: &Path,
    tensors: Vec<(String, Floats)>,
    header: String,
) -> std::result::Result<(), String> {
    let data: Vec<(String, Vec<usize>, Vec<f32>)> =
        tensors.into_iter().map(|(name, value)| (name, value.shape(), value.to_vec())).collect();
    let views: std::result::Result<Vec<_>, _> = data
        .iter()
        .map(|(name, shape, elements)| {
            let bytes = bytemuck::cast_slice(elements);
            TensorView::new(Dtype::F32, shape.clone(), bytes).map(|view| (name, view))
        })
        .collect();
    let views = views.map_err(|error| error.to_string())?;
    let metadata = Some([(HEADER.to_owned(), header)].into_iter().collect());
    serialize_to_file(views, metadata, path).map_err(|error| error.to_string())
}

/// The checkpoint in `folder`; `None` when there is none.
pub(crate) fn load(folder: &Path) -> Result<Option<Loaded>> {
    let path = folder.join(FILE);
    let fail = |reason: String| Error::Checkpoint { path: path.clone(), reason };
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(fail(error.to_string())),
    };
    let (_, metadata) = SafeTensors::read_metadata(&bytes)
        .map_err(|error| fail(format!("{error}; delete the file to start over")))?;
    let header = metadata.metadata().as_ref().and_then(|metadata| metadata.get(HEADER));
    let header = header.ok_or_else(|| fail("expected a header, found none".to_owned()))?;
    let header = serde_json::from_str(header).map_err(|error| fail(error.to_string()))?;
    Ok(Some(Loaded { header, path, bytes }))
}

impl Loaded {
    /// Puts everything back; returns the best weights so far.
    pub(crate) fn apply(
        &self,
        network: &mut Network,
        optimizer: &mut Optimizer,
    ) -> Result<Option<Snapshot>> {
        let fail = |reason: String| Error::Checkpoint { path: self.path.clone(), reason };
        let file =
            SafeTensors::deserialize(&self.bytes).map_err(|error| fail(error.to_string()))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.tensors() {
            let elements = bytemuck::pod_collect_to_vec::<u8, f32>(view.data());
            tensors.insert(name, Floats(network.device().upload(view.shape(), elements)));
        }
        let now = Snapshot::from_named(&tensors, "now");
        now.ok_or_else(|| fail("expected weights, found none".to_owned()))?.apply(network);
        let parameters = network.parameters_mut().iter_mut();
        for (parameter, moments) in parameters.zip(&mut optimizer.moments) {
            let mut take = |kind: &str| tensors.remove(&format!("{kind}/{}", parameter.name));
            *moments = match (take("first"), take("second")) {
                (Some(first), Some(second)) => Some(Moments { first, second }),
                _ => None,
            };
            if let Some(mask) = take("mask") {
                parameter.mask = Some(mask);
            }
        }
        optimizer.steps = self.header.optimizer_steps;
        Ok(Snapshot::from_named(&tensors, "best"))
    }
}
