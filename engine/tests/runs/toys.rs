//! Stage kinds small enough to see through. Each run of one leaves a line in `executions`.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use engine::{
    BadInput, Interrupted, Metric, Paused, Port, Progress, Stage, StageContext, StageTable,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(crate) const TOYS: StageTable =
    &[&Number, &Add, &Rows, &Steps, &Learn, &Trouble, &Publish, &Pretrained, &Measure];

const fn port(name: &'static str, kind: &'static str, required: bool) -> Port {
    Port { name, kind, required, about: "a toy" }
}

fn note(context: &StageContext) -> Result<()> {
    note_as(context, context.name())
}

fn note_as(context: &StageContext, line: &str) -> Result<()> {
    let path = context.external_root().join("executions");
    let mut file = fs::File::options().create(true).append(true).open(path)?;
    // In one piece: other stages write at the same time.
    file.write_all(format!("{line}\n").as_bytes())?;
    Ok(())
}

fn read_number(path: &Path) -> Result<i64> {
    let text = fs::read_to_string(path)?;
    text.trim().parse().with_context(|| format!("`{text}` is no number"))
}

fn count(name: &str, value: f64) -> Metric {
    Metric { name: name.to_owned(), value, unit: "count".to_owned(), ..Metric::default() }
}

pub(crate) struct Number;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NumberParams {
    /// The number.
    value: i64,
    /// Only its last digit counts.
    #[serde(default)]
    last_digit: bool,
}

impl Stage for Number {
    type Params = NumberParams;
    const KIND: &'static str = "number";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Writes a number.";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("value", "number", true)];

    fn check(params: &NumberParams) -> Result<(), String> {
        if params.value == 13 {
            Err("13 is bad luck; take another number".to_owned())
        } else {
            Ok(())
        }
    }

    fn run(&self, params: NumberParams, context: &StageContext) -> Result<()> {
        note(context)?;
        let value = if params.last_digit { params.value % 10 } else { params.value };
        fs::write(context.output("value"), value.to_string())?;
        Ok(())
    }
}

pub(crate) struct Add;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct AddParams {
    #[serde(default)]
    offset: i64,
}

impl Stage for Add {
    type Params = AddParams;
    const KIND: &'static str = "add";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Adds numbers.";
    const INPUTS: &'static [Port] = &[port("left", "number", true), port("right", "number", false)];
    const OUTPUTS: &'static [Port] = &[port("sum", "number", true), port("proof", "proof", true)];

    fn run(&self, params: AddParams, context: &StageContext) -> Result<()> {
        note(context)?;
        let left = read_number(context.input("left")?)?;
        let right = context.optional_input("right").map(read_number).transpose()?.unwrap_or(0);
        let sum = left + right + params.offset;
        fs::write(context.output("sum"), sum.to_string())?;
        let proof = context.output("proof");
        fs::create_dir_all(proof.join("parts"))?;
        fs::write(proof.join("parts/left"), left.to_string())?;
        fs::write(proof.join("right"), right.to_string())?;
        let split = Some("test".to_owned());
        context.metric(Metric { split, ..count("test/sum", sum as f64) });
        context.metric(count("validation/score", sum as f64));
        context.unavailable("test/joules", "toys have no meter");
        Ok(())
    }
}

pub(crate) struct Rows;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct NoParams {}

impl Stage for Rows {
    type Params = NoParams;
    const KIND: &'static str = "rows";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Counts the rows of a dataset.";
    const INPUTS: &'static [Port] = &[port("data", "dataset", true)];
    const OUTPUTS: &'static [Port] = &[port("value", "number", true)];

    fn run(&self, _params: NoParams, context: &StageContext) -> Result<()> {
        note(context)?;
        let data = context.dataset("data")?;
        let rows = fs::read_to_string(&data.path)?.lines().count() - 1;
        fs::write(context.output("value"), rows.to_string())?;
        Ok(())
    }
}

/// Takes steps, each one checkpointed; waits at a step for as long as the file `hold` exists.
pub(crate) struct Steps;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct StepsParams {
    steps: u64,
    /// Step before which it waits.
    #[serde(default)]
    hold_at: Option<u64>,
}

impl Stage for Steps {
    type Params = StepsParams;
    const KIND: &'static str = "steps";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Takes steps.";
    const INPUTS: &'static [Port] = &[port("left", "number", false)];
    const OUTPUTS: &'static [Port] = &[port("value", "number", true)];

    fn run(&self, params: StepsParams, context: &StageContext) -> Result<()> {
        note(context)?;
        let root = context.external_root();
        let checkpoint = context.checkpoint_dir().join("step");
        let mut step: u64 = fs::read_to_string(&checkpoint).map_or(Ok(0), |text| text.parse())?;
        context.log(format!("starts at step {step}"));
        while step < params.steps {
            if params.hold_at == Some(step) && root.join("hold").exists() {
                // A name of its own: several may get here at once.
                let pid = std::process::id().to_string();
                let next = root.join(format!("reached.{pid}"));
                fs::write(&next, pid)?;
                fs::rename(next, root.join("reached"))?;
                while root.join("hold").exists() {
                    if context.interrupted() {
                        bail!(Interrupted);
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
            }
            step += 1;
            context.series("train/loss", step, 1.0 / step as f64);
            context.progress(Progress { step, total: params.steps, ..Progress::default() });
            let next = checkpoint.with_extension("next");
            fs::write(&next, step.to_string())?;
            fs::rename(&next, &checkpoint)?;
        }
        fs::write(context.output("value"), step.to_string())?;
        Ok(())
    }
}

/// Gets better with every epoch, the more the nearer its rate is to 0.6; each epoch leaves a line
/// in `executions` and a checkpoint.
pub(crate) struct Learn;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct LearnParams {
    epochs: u64,
    rate: f64,
}

impl Stage for Learn {
    type Params = LearnParams;
    const KIND: &'static str = "learn";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Learns.";
    const INPUTS: &'static [Port] = &[port("left", "number", false)];
    const OUTPUTS: &'static [Port] = &[port("value", "number", true)];
    const EPOCHS: Option<&'static str> = Some("epochs");

    fn run(&self, params: LearnParams, context: &StageContext) -> Result<()> {
        note(context)?;
        if params.rate == 0.666 {
            bail!("the number of the beast");
        }
        let checkpoint = context.checkpoint_dir().join("epoch");
        let mut epoch: u64 = fs::read_to_string(&checkpoint).map_or(Ok(0), |text| text.parse())?;
        let score = |epoch: u64| {
            (1.0 - (params.rate - 0.6).abs())
                * (1.0 - 0.5_f64.powi(i32::try_from(epoch).unwrap_or(0)))
        };
        while epoch < params.epochs {
            if context.pause_after().is_some_and(|pause| epoch >= pause) {
                bail!(Paused);
            }
            note_as(context, "epoch")?;
            epoch += 1;
            context.series("validation/score", epoch, score(epoch));
            context.series("validation/cost", epoch, params.rate);
            context.milestone(epoch);
            let next = checkpoint.with_extension("next");
            fs::write(&next, epoch.to_string())?;
            fs::rename(&next, &checkpoint)?;
        }
        context.metric(count("validation/score", score(epoch)));
        context.metric(count("validation/cost", params.rate));
        fs::write(context.output("value"), "1")?;
        Ok(())
    }
}

/// Fails in a chosen way, for a chosen number of attempts.
pub(crate) struct Trouble;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct TroubleParams {
    how: How,
    #[serde(default = "always")]
    times: usize,
}

fn always() -> usize {
    usize::MAX >> 1
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum How {
    Error,
    Panic,
    Abort,
    Hang,
    NoOutput,
    Noise,
    BadInput,
}

impl Stage for Trouble {
    type Params = TroubleParams;
    const KIND: &'static str = "trouble";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Fails.";
    const INPUTS: &'static [Port] = &[port("left", "number", false)];
    const OUTPUTS: &'static [Port] = &[port("value", "number", true)];

    fn run(&self, params: TroubleParams, context: &StageContext) -> Result<()> {
        note(context)?;
        let marks = context.checkpoint_dir().join("attempts");
        let earlier = fs::read_to_string(&marks).unwrap_or_default();
        fs::write(&marks, format!("{earlier}x"))?;
        if earlier.len() < params.times {
            match params.how {
                How::Error => {
                    return Err(anyhow::anyhow!("the disk is made of cheese"))
                        .context("cannot bite");
                }
                How::Panic => panic!("toys panic"),
                How::Abort => std::process::abort(),
                How::NoOutput => return Ok(()),
                How::BadInput => bail!(BadInput("reviews.tsv:3: unknown label `meh`".to_owned())),
                How::Noise => writeln!(std::io::stdout(), "a library prints without asking")?,
                How::Hang => {
                    // A child of the worker has to end with it.
                    let child = std::process::Command::new("sleep").arg("1000").spawn()?;
                    fs::write(context.external_root().join("grandchild"), child.id().to_string())?;
                    loop {
                        std::thread::sleep(Duration::from_millis(50));
                    }
                }
            }
        }
        fs::write(context.output("value"), "1")?;
        Ok(())
    }
}

/// Has an effect outside the store: the file `live`.
pub(crate) struct Publish;

impl Stage for Publish {
    type Params = NoParams;
    const KIND: &'static str = "publish";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Publishes a number.";
    const INPUTS: &'static [Port] = &[port("left", "number", true)];
    const OUTPUTS: &'static [Port] = &[port("receipt", "receipt", true)];
    const EXTERNAL: bool = true;

    fn run(&self, _params: NoParams, context: &StageContext) -> Result<()> {
        note(context)?;
        let number = fs::read_to_string(context.input("left")?)?;
        fs::write(context.external_root().join("live"), &number)?;
        fs::write(context.output("receipt"), number)?;
        Ok(())
    }

    fn is_current(&self, _params: &NoParams, previous_output: &Path, root: &Path) -> bool {
        match (fs::read(previous_output), fs::read(root.join("live"))) {
            (Ok(receipt), Ok(live)) => receipt == live,
            _ => false,
        }
    }
}

/// Reports a metric with its interval.
pub(crate) struct Measure;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct MeasureParams {
    value: f64,
    spread: f64,
}

impl Stage for Measure {
    type Params = MeasureParams;
    const KIND: &'static str = "measure";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Measures.";
    const INPUTS: &'static [Port] = &[];
    const OUTPUTS: &'static [Port] = &[port("value", "number", true)];

    fn run(&self, params: MeasureParams, context: &StageContext) -> Result<()> {
        note(context)?;
        let MeasureParams { value, spread } = params;
        let (low, high) = (Some(value - spread), Some(value + spread));
        context.metric(Metric { low, high, ..count("test/score", value) });
        fs::write(context.output("value"), value.to_string())?;
        Ok(())
    }
}

/// Reads a pretrained checkpoint.
pub(crate) struct Pretrained;

impl Stage for Pretrained {
    type Params = NoParams;
    const KIND: &'static str = "pretrained";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "Reads a checkpoint.";
    const INPUTS: &'static [Port] = &[port("checkpoint", "checkpoint", true)];
    const OUTPUTS: &'static [Port] = &[port("value", "number", true)];

    fn run(&self, _params: NoParams, context: &StageContext) -> Result<()> {
        note(context)?;
        let weights = fs::read(context.input("checkpoint")?.join("model.safetensors"))?;
        fs::write(context.output("value"), weights.len().to_string())?;
        Ok(())
    }
}
