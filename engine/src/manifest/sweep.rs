//! `[sweep]`: what a manifest wants tried out.

use std::collections::BTreeMap;
use std::num::{NonZeroU64, NonZeroUsize};
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::sections::parse_duration;
use super::spec::Gate;
use crate::sweep::sampler::{Sampler, TpeOptions};
use crate::sweep::space::{Condition, Dimension, Domain, Space};

/// `[sweep]`: which values to try, and what makes one trial better than another.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct SweepSpec {
    /// What varies: paths such as `stages.student.params.alpha`, each with its domain.
    pub space: BTreeMap<String, DimensionSpec>,
    /// What is looked for, most important first.
    pub objectives: Vec<Objective>,
    /// What trials have to keep to: `STAGE.METRIC-max` or `STAGE.METRIC-min` and the bound.
    #[serde(default)]
    pub constraints: BTreeMap<String, f64>,
    /// How values are drawn.
    #[serde(default = "tpe")]
    pub sampler: Sampler,
    /// Trials; `grid` and `zip` have as many as there are combinations unless fewer are asked for.
    #[serde(default)]
    pub trials: Option<NonZeroU64>,
    /// Trials to begin with: values of dimensions by their paths. What one leaves out is drawn.
    #[serde(default)]
    pub first: Vec<BTreeMap<String, Value>>,
    /// Longest time at work, all sessions together, for instance `90m` or `2h`; a trial that is at
    /// work then leaves a checkpoint.
    #[serde(default)]
    pub budget: Option<String>,
    /// Seeds that every trial is measured with; the manifest's own when empty.
    #[serde(default)]
    pub seeds: Vec<u64>,
    /// Trials at work at once; they share the processor's threads.
    #[serde(default = "one")]
    pub parallel: NonZeroUsize,
    /// What a trial that fails does to the sweep.
    #[serde(default)]
    pub on_trial_failure: OnTrialFailure,
    /// Holds bad trials at a checkpoint before they cost their full time.
    #[serde(default)]
    pub early_stopping: Option<EarlyStopping>,
}

fn tpe() -> Sampler {
    Sampler::Tpe(TpeOptions::default())
}

fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

/// What a parameter may be. Exactly one of `choice`, `uniform`, `log-uniform`, `int` and `log-int`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct DimensionSpec {
    /// One of these values.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub choice: Option<Vec<Value>>,
    /// A number between these two, both included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uniform: Option<[f64; 2]>,
    /// A number between these two positive ones, evenly in its logarithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_uniform: Option<[f64; 2]>,
    /// A whole number between these two, both included.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub int: Option<[i64; 2]>,
    /// A whole number between these two positive ones, evenly in its logarithm.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_int: Option<[i64; 2]>,
    /// Distance between neighbouring values of `uniform` and `int`; `grid` needs it for `uniform`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub step: Option<f64>,
    /// Varies only where another dimension, which has a `choice`, is one of these values.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub when: BTreeMap<String, Vec<Value>>,
}

/// A metric and where it should go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Objective {
    /// `STAGE.METRIC` that should be large, for instance `student.validation/accuracy`.
    Maximize(String),
    /// `STAGE.METRIC` that should be small.
    Minimize(String),
}

/// A series and where it should go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Watch {
    /// A series that should be large, for instance `validation/accuracy`.
    Maximize(String),
    /// A series that should be small.
    Minimize(String),
}

/// What a trial that fails does to the sweep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum OnTrialFailure {
    /// It counts as worse than every other; the next trials run.
    #[default]
    Continue,
    /// No other trial starts.
    Stop,
    /// It is tried once more; then it counts as failed.
    Retry,
}

/// Holds trials at rungs of growing numbers of epochs, and lets only the best go on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct EarlyStopping {
    /// Who goes on, and when that is decided.
    pub method: StoppingMethod,
    /// Stage that is held; its kind trains for epochs.
    pub stage: String,
    /// Series of that stage that decide, most important first.
    pub watch: Vec<Watch>,
    /// Epochs of the lowest rung.
    #[serde(default = "one_epoch")]
    pub min_epochs: NonZeroU64,
    /// One trial in so many goes on from each rung, ≥ 2; rungs grow by it as well.
    #[serde(default = "three")]
    #[schemars(range(min = 2))]
    pub reduction: NonZeroU64,
}

fn one_epoch() -> NonZeroU64 {
    NonZeroU64::MIN
}

fn three() -> NonZeroU64 {
    NonZeroU64::MIN.saturating_add(2)
}

/// How early stopping decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StoppingMethod {
    /// A rung decides once all trials have reached it (Jamieson and Talwalkar, arXiv:1502.07943).
    SuccessiveHalving,
    /// A rung lets the best go on as soon as it knows enough trials (Li et al., arXiv:1810.05934).
    Asha,
    /// Brackets of successive halving that start at different rungs (Li et al., arXiv:1603.06560).
    Hyperband,
}

impl Objective {
    /// Stage and metric.
    pub fn target(&self) -> Option<(&str, &str)> {
        let (Self::Maximize(text) | Self::Minimize(text)) = self;
        text.split_once('.').filter(|(stage, metric)| !stage.is_empty() && !metric.is_empty())
    }

    /// Whether more is better.
    pub fn maximize(&self) -> bool {
        matches!(self, Self::Maximize(_))
    }

    /// `STAGE.METRIC` as written.
    pub(super) fn text(&self) -> &str {
        let (Self::Maximize(text) | Self::Minimize(text)) = self;
        text
    }
}

impl Watch {
    /// Name of the series.
    pub fn series(&self) -> &str {
        let (Self::Maximize(name) | Self::Minimize(name)) = self;
        name
    }

    /// Whether more is better.
    pub fn maximize(&self) -> bool {
        matches!(self, Self::Maximize(_))
    }
}

impl DimensionSpec {
    fn domain(&self) -> Result<Domain, String> {
        let whole_step = || match self.step {
            None => Ok(None),
            Some(step) if step.fract() == 0.0 => Ok(Some(step as i64)),
            Some(step) => Err(format!("`step` of a whole number is whole, not {step}")),
        };
        let no_step = |domain| match self.step {
            None => Ok(domain),
            Some(_) => Err("`step` goes with `uniform` and `int` only".to_owned()),
        };
        match (&self.choice, self.uniform, self.log_uniform, self.int, self.log_int) {
            (Some(values), None, None, None, None) => no_step(Domain::Choice(values.clone())),
            (None, Some([low, high]), None, None, None) => {
                Ok(Domain::Uniform { low, high, step: self.step })
            }
            (None, None, Some([low, high]), None, None) => {
                no_step(Domain::LogUniform { low, high })
            }
            (None, None, None, Some([low, high]), None) => {
                Ok(Domain::Int { low, high, log: false, step: whole_step()? })
            }
            (None, None, None, None, Some([low, high])) => {
                no_step(Domain::Int { low, high, log: true, step: None })
            }
            _ => Err(
                "expected exactly one of `choice`, `uniform`, `log-uniform`, `int` and `log-int`"
                    .to_owned(),
            ),
        }
    }
}

impl SweepSpec {
    /// The space to draw from.
    ///
    /// # Errors
    /// The dimension at fault, and what is wrong with it.
    pub fn space(&self) -> Result<Space, (String, String)> {
        let mut dimensions = Vec::new();
        for (name, spec) in &self.space {
            let domain = spec.domain().map_err(|message| (name.clone(), message))?;
            let mut conditions = spec.when.iter();
            let condition = conditions.next().map(|(dimension, any_of)| Condition {
                dimension: dimension.clone(),
                any_of: any_of.clone(),
            });
            if conditions.next().is_some() {
                let message = "`when` names one other dimension, not several".to_owned();
                return Err((name.clone(), message));
            }
            dimensions.push(Dimension { name: name.clone(), domain, condition });
        }
        Ok(Space { dimensions })
    }

    /// Longest time at work, all sessions together; the manifest was checked.
    pub fn budget(&self) -> Option<Duration> {
        self.budget.as_deref().and_then(parse_duration)
    }

    /// Constraints as stage, gate and bound; the manifest was checked.
    pub fn gates(&self) -> impl Iterator<Item = (&str, Gate)> {
        self.constraints.iter().filter_map(|(key, bound)| {
            let (stage, gate) = key.split_once('.')?;
            Some((stage, Gate::parse(gate, *bound)?))
        })
    }
}
