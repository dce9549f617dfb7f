//! What a manifest may say about `benchmark`.

use std::num::NonZeroUsize;

use anyhow::Result;
use engine::StageContext;
use runtime::Device;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Parameters of `benchmark`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct Params {
    /// Word pieces of the text whose latency is measured alone (batch 1); as many as a model takes,
    /// where it takes fewer.
    pub(super) sequence: NonZeroUsize,
    /// Most counted runs of that text; p99 needs 1,000.
    pub(super) runs: NonZeroUsize,
    /// Longest time spent on them a model, in seconds.
    pub(super) seconds: NonZeroUsize,
    /// Batch sizes of the throughput table.
    pub(super) batches: Vec<NonZeroUsize>,
    /// Sequence lengths of the throughput table.
    pub(super) sequences: Vec<NonZeroUsize>,
    /// Whether to score the test rows; without, nothing is learned that a choice must not rest on.
    pub(super) accuracy: bool,
    /// Where models are measured. Memory is that of the CPU either way.
    pub(super) device: MeasuredOn,
}

/// Where models are measured.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum MeasuredOn {
    /// On the CPU, whatever device the run has.
    #[default]
    Cpu,
    /// On the device of the run.
    Run,
}

impl MeasuredOn {
    /// # Errors
    /// When the run has a device that the runtime does not know.
    pub(super) fn device(self, context: &StageContext) -> Result<Device> {
        match self {
            Self::Cpu => Ok(Device::Cpu),
            Self::Run => context.device().parse().map_err(anyhow::Error::msg),
        }
    }
}

impl Default for Params {
    fn default() -> Self {
        let number = |value| NonZeroUsize::new(value).unwrap_or(NonZeroUsize::MIN);
        Self {
            sequence: number(64),
            runs: number(1_000),
            seconds: number(20),
            batches: vec![number(1), number(8), number(32)],
            sequences: vec![number(32), number(128)],
            accuracy: true,
            device: MeasuredOn::Cpu,
        }
    }
}
