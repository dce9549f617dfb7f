//! What the environment asks for.

use std::env;
use std::ffi::OsString;
use std::fmt::Debug;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;

use crate::Cell;
use crate::models::{MODELS, Model};

pub(crate) struct Settings {
    pub(crate) models: Vec<&'static Model>,
    /// `None` for the cells of each model.
    pub(crate) cells: Option<Vec<Cell>>,
    /// Parts of the names of the peers that run; empty for all.
    pub(crate) peers: Vec<String>,
    pub(crate) rounds: usize,
    /// Least seconds of a turn.
    pub(crate) seconds: f64,
    /// Keeps the model files.
    pub(crate) files: Option<PathBuf>,
    /// An interpreter that has the peers' packages.
    pub(crate) python: Option<OsString>,
}

impl Settings {
    pub(crate) fn from_environment() -> anyhow::Result<Self> {
        let models = match list("ENCODER_MODELS") {
            names if names.is_empty() => MODELS.iter().collect(),
            names => names.iter().map(|name| model(name)).collect::<Result<_, _>>()?,
        };
        let cells = match list("ENCODER_CELLS") {
            cells if cells.is_empty() => None,
            cells => Some(cells.iter().map(|text| cell(text)).collect::<Result<_, _>>()?),
        };
        Ok(Self {
            models,
            cells,
            peers: list("ENCODER_PEERS"),
            rounds: number("ENCODER_ROUNDS", 5)?,
            seconds: number("ENCODER_SECONDS", 0.3)?,
            files: env::var_os("ENCODER_FILES").map(PathBuf::from),
            python: env::var_os("PYTHON"),
        })
    }
}

/// The parts of a variable between commas; none when it is not set.
fn list(variable: &str) -> Vec<String> {
    let text = env::var(variable).unwrap_or_default();
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

fn number<N: FromStr<Err: Debug>>(variable: &str, default: N) -> anyhow::Result<N> {
    match env::var(variable) {
        Err(_) => Ok(default),
        Ok(text) => text.parse().map_err(|error| {
            anyhow::anyhow!("{variable}: expected a number, found `{text}`: {error:?}")
        }),
    }
}

fn model(name: &str) -> anyhow::Result<&'static Model> {
    MODELS.iter().find(|model| model.name == name).with_context(|| {
        let names: Vec<&str> = MODELS.iter().map(|model| model.name).collect();
        format!("expected one of {}, found `{name}`", names.join(", "))
    })
}

fn cell(text: &str) -> anyhow::Result<Cell> {
    let parse = || {
        let (batch, sequence) = text.split_once('x')?;
        Some((batch.parse().ok()?, sequence.parse().ok()?))
    };
    parse().with_context(|| format!("expected batch and sequence as in `8x128`, found `{text}`"))
}
