//! A stage kind that writes a package at once, or as slowly as a test wants.

use std::fs;
use std::time::Duration;

use engine::{Metric, Port, Progress, Stage, StageContext, StageTable};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) const TOYS: StageTable = &[&Pack, &Serve, &Learn, &Measure];

/// A text that would break a page that trusts it.
pub(crate) const SCRIPT: &str = "</pre></title><script>alert('x')</script>\"&";

const fn port(name: &'static str, kind: &'static str, required: bool) -> Port {
    Port { name, kind, required, about: "a toy" }
}

fn metric(name: &str, value: f64, unit: &str) -> Metric {
    Metric { name: name.to_owned(), value, unit: unit.to_owned(), ..Metric::default() }
}

pub(crate) struct Pack;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct PackParams {
    content: String,
    /// What it ends with instead of a package.
    #[serde(default)]
    error: Option<String>,
    /// Whether it waits while the file `hold` exists.
    #[serde(default)]
    holds: bool,
}

impl Stage for Pack {
    type Params = PackParams;
    const KIND: &'static str = "pack";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Writes a package.";
    const INPUTS: &'static [Port] = &[port("model", "model", false)];
    const OUTPUTS: &'static [Port] = &[port("package", "package", true)];

    fn run(&self, params: PackParams, context: &StageContext) -> anyhow::Result<()> {
        context.log(format!("packs {SCRIPT}"));
        for step in 1..=3 {
            context.series("train/loss", step, 1.0 / step as f64);
        }
        let root = context.external_root();
        let mut step = 0;
        while params.holds && root.join("hold").exists() {
            step += 1;
            let phase = "waiting <i>here</i>".to_owned();
            let loss = Some(0.5);
            context.progress(Progress { step, total: 100_000, loss, phase, ..Progress::default() });
            if step == 20 {
                fs::write(root.join("reached"), "")?;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        if let Some(error) = params.error {
            anyhow::bail!("{error}");
        }
        let folder = context.output("package");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("package.toml"), params.content)?;
        context.metric(metric("test/accuracy", 0.5, "fraction"));
        Ok(())
    }
}

/// Takes a package under a name.
pub(crate) struct Serve;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct ServeParams {
    name: String,
}

impl Stage for Serve {
    type Params = ServeParams;
    const KIND: &'static str = "serve";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Serves a package.";
    const INPUTS: &'static [Port] = &[port("package", "package", true)];
    const OUTPUTS: &'static [Port] = &[];

    fn run(&self, _params: ServeParams, _context: &StageContext) -> anyhow::Result<()> {
        Ok(())
    }
}

/// Does as if it trained a model.
pub(crate) struct Learn;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LearnParams {
    epochs: u64,
    weights: f64,
}

impl Stage for Learn {
    type Params = LearnParams;
    const KIND: &'static str = "learn";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Draws a curve.";
    const INPUTS: &'static [Port] = &[port("teacher", "model", false)];
    const OUTPUTS: &'static [Port] = &[port("model", "model", true)];

    fn run(&self, params: LearnParams, context: &StageContext) -> anyhow::Result<()> {
        let total = params.epochs * 20;
        for step in 1..=total {
            if context.interrupted() {
                anyhow::bail!(engine::Interrupted);
            }
            let loss = 2.0 / (1.0 + step as f64 / 10.0);
            context.series("train/loss", step, loss);
            let phase = format!("epoch {}", step / 20 + 1);
            let (loss, rate, rate_unit) = (Some(loss), Some(240.0), "examples".to_owned());
            context.progress(Progress { step, total, loss, rate, rate_unit, phase });
            if step % 20 == 0 {
                context.log(format!("epoch {} of {}", step / 20, params.epochs));
                context.series("validation/accuracy", step, 0.9 - 0.3 / step as f64);
            }
            if params.epochs > 100 {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        fs::write(context.output("model"), params.weights.to_string())?;
        context.metric(metric("model/weights", params.weights, "count"));
        context.metric(metric("validation/accuracy", 0.85, "fraction"));
        Ok(())
    }
}

/// Does as if it measured two models.
pub(crate) struct Measure;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct MeasureParams {}

impl Stage for Measure {
    type Params = MeasureParams;
    const KIND: &'static str = "measure";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Reads a size.";
    const INPUTS: &'static [Port] = &[port("teacher", "model", true), port("small", "model", true)];
    const OUTPUTS: &'static [Port] = &[];

    fn run(&self, _params: MeasureParams, context: &StageContext) -> anyhow::Result<()> {
        for model in ["teacher", "small"] {
            let weights: f64 = fs::read_to_string(context.input(model)?)?.parse()?;
            let name = |name: &str| format!("bench/{model}/{name}");
            let interval = |low, high| (Some(low), Some(high), Some(1000));
            for (what, value, unit, (low, high, samples)) in [
                ("size", weights * 4.0, "bytes", (None, None, None)),
                ("test/accuracy", 0.85, "fraction", interval(0.82, 0.88)),
                ("latency-p50", weights / 1e6, "ms", interval(weights / 1.1e6, weights / 0.9e6)),
                ("latency-p90", weights / 0.8e6, "ms", (None, None, Some(1000))),
                ("throughput", 1e9 / weights, "examples/s", (None, None, None)),
            ] {
                context.metric(Metric { low, high, samples, ..metric(&name(what), value, unit) });
            }
            context.unavailable(&name("energy"), "no counter is readable on this machine");
        }
        Ok(())
    }
}
