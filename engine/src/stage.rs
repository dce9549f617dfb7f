//! What a stage kind declares ([`Stage`]) and what its code sees while it runs ([`StageContext`]).

mod context;
mod erased;

use std::path::Path;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use context::{BadInput, DatasetInput, Interrupted, Paused, StageContext};
pub use erased::{AnyStage, ParamsError, StageTable};

/// A named input or output of a stage kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Port {
    /// Name in `inputs = { NAME = … }`, or after the dot in `stage.NAME`; kebab-case.
    pub name: &'static str,
    /// What flows through it, for instance `dataset`, `checkpoint`, `model`; an edge joins two
    /// ports of one kind.
    pub kind: &'static str,
    /// Whether a manifest has to connect it. Outputs are always written, whatever this says.
    pub required: bool,
    /// One line for `pipeline stages KIND` and the manifest reference.
    pub about: &'static str,
}

/// A stage kind: what a manifest may ask for with `kind = "…"`.
///
/// The type is usually a unit struct, listed once in a [`StageTable`].
pub trait Stage: Send + Sync + 'static {
    /// The `params` table. Derive `Deserialize` with `deny_unknown_fields`: its errors then
    /// keep their line and caret.
    type Params: DeserializeOwned + Serialize + JsonSchema;

    /// Name in the manifest, kebab-case.
    const KIND: &'static str;
    /// Version of the implementation, part of the cache key: raise it whenever the same
    /// parameters and inputs may give another output.
    const VERSION: u32;
    /// One line about what the stage does.
    const ABOUT: &'static str;
    /// Inputs it takes.
    const INPUTS: &'static [Port];
    /// Outputs it writes, each of them in every successful run.
    const OUTPUTS: &'static [Port];
    /// Whether it changes something outside the store, such as a live deployment. A cached
    /// result of such a stage counts only while [`Stage::is_current`] says so.
    const EXTERNAL: bool = false;
    /// Whether it needs the machine for itself, because it measures time or memory.
    const EXCLUSIVE: bool = false;
    /// Full names of the metrics that it may report, `*` standing for any part, for instance
    /// `bench/*/latency-p50`. What a manifest demands of them or chooses by them is checked against
    /// these before anything runs. Any name, unless a kind says which.
    const METRICS: &'static [&'static str] = &["*"];
    /// The parameter that says how many epochs it trains, for kinds that report each epoch with
    /// [`StageContext::milestone`] and obey [`StageContext::pause_after`]: those can be stopped
    /// early by a sweep and go on later. Paths are dotted, as in `recovery.epochs`.
    const EPOCHS: Option<&'static str> = None;

    /// Checks that span several fields, made before anything runs.
    ///
    /// # Errors
    /// A sentence that says what is wrong and what to write instead.
    fn check(_params: &Self::Params) -> Result<(), String> {
        Ok(())
    }

    /// Does the work: reads [`StageContext::input`], writes [`StageContext::output`].
    ///
    /// # Errors
    /// Anything that went wrong; [`Interrupted`] after a checkpoint when
    /// [`StageContext::interrupted`] turned true.
    fn run(&self, params: Self::Params, context: &StageContext) -> anyhow::Result<()>;

    /// Whether the outside still shows the effect of an earlier run. Asked of external stages
    /// only, before a cached result counts; a wrong `false` costs one more run.
    ///
    /// `previous_output` is the first output of that run, `root` the project root.
    fn is_current(&self, _params: &Self::Params, _previous_output: &Path, _root: &Path) -> bool {
        true
    }
}
