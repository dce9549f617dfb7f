//! `train-teacher`: fine-tunes a checkpoint, or trains an encoder from scratch.

use std::num::NonZeroUsize;

use anyhow::{Context as _, Result, bail};
use engine::{BadInput, Port, Stage, StageContext};
use graph::{ModelFolder, bert, huggingface, model_folder::ModelInfo};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use training::Device;
use training::data::{Dataset, Row};
use training::evaluate;
use training::objectives::Supervised;
use training::tokenizer::Tokenizer;
use training::wordpiece::WordPiece;
use training::{Network, NetworkOptions};

use crate::architecture::{Architecture, TextVector};
use crate::range::Share;
use crate::recipe::{Learn, Training};
use crate::score::{self, Split};
use crate::watch::{Rows, fit};
use crate::{teacher_logits, texts};

/// The stage kind.
pub(crate) struct TrainTeacher;

/// Parameters of `train-teacher`.
#[derive(Debug, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct Params {
    /// Passes over the training rows.
    epochs: NonZeroUsize,
    /// Most word pieces of a text, special ones included; longer texts are cut.
    #[serde(default = "default_length")]
    max_length: NonZeroUsize,
    /// How token vectors become one text vector.
    #[serde(default)]
    pooling: TextVector,
    /// Architecture of a model that is trained from scratch; needed without a `checkpoint`, not
    /// allowed with one.
    #[serde(default)]
    architecture: Option<Architecture>,
    /// Word pieces of the vocabulary that is trained on the training texts; without a `checkpoint`.
    #[serde(default = "default_vocabulary")]
    vocabulary_size: NonZeroUsize,
    /// Share of each label that is spread over all classes (Szegedy et al. 2016).
    #[serde(default = "no_smoothing")]
    label_smoothing: Share,
    /// Whether rare classes weigh more, in inverse proportion to their rows.
    #[serde(default)]
    balance_classes: bool,
    /// Optimizer and batches.
    #[serde(default)]
    training: Training<Learn>,
}

fn default_length() -> NonZeroUsize {
    NonZeroUsize::new(128).unwrap_or(NonZeroUsize::MIN)
}

fn default_vocabulary() -> NonZeroUsize {
    NonZeroUsize::new(8_000).unwrap_or(NonZeroUsize::MIN)
}

fn no_smoothing() -> Share {
    Share::new(0.0)
}

impl Stage for TrainTeacher {
    type Params = Params;
    const KIND: &'static str = "train-teacher";
    const VERSION: u32 = 1;
    const ABOUT: &'static str = "fine-tunes a pretrained encoder, or trains one from scratch";
    const EPOCHS: Option<&'static str> = Some("epochs");
    const INPUTS: &'static [Port] = &[
        Port { name: "data", kind: "dataset", required: true, about: "labelled texts" },
        Port {
            name: "checkpoint",
            kind: "checkpoint",
            required: false,
            about: "pretrained encoder; without it `architecture` is trained from scratch",
        },
    ];
    const OUTPUTS: &'static [Port] = &[
        Port { name: "model", kind: "model", required: true, about: "the trained classifier" },
        Port {
            name: "logits",
            kind: "logits",
            required: true,
            about: "its logits for every training row",
        },
    ];
    const METRICS: &'static [&'static str] = &score::METRICS;

    fn check(params: &Params) -> Result<(), String> {
        if params.max_length.get() < 3 {
            return Err("`max-length` is below 3: [CLS], one word piece and [SEP]".to_owned());
        }
        params.architecture.as_ref().map_or(Ok(()), Architecture::check)
    }

    fn run(&self, params: Params, context: &StageContext) -> Result<()> {
        let dataset = texts::load(context)?;
        let counts = dataset.counts();
        context.log(format!(
            "rows by class {:?}: train {:?}, validation {:?}, test {:?}",
            counts.labels, counts.train, counts.validation, counts.test
        ));
        let start = initial_model(&params, &dataset, context)?;
        let tokenizer = Tokenizer::from_bytes(&start.tokenizer_json, start.info.max_length)?;
        let train = texts::encode(&tokenizer, &dataset.train)?;
        let validation = texts::encode(&tokenizer, &dataset.validation)?;
        let device = Device::from_name(context.device())?;
        let mut network = Network::new(&start.graph, &device, &NetworkOptions::default())?;
        let balanced = params.balance_classes.then_some(train.labels.as_slice());
        let mut objective =
            Supervised::new(dataset.labels.len(), params.label_smoothing.get(), balanced);
        let recipe = params.training.recipe(params.epochs.get(), context.seed());
        let rows = Rows { train: &train, validation: Some(&validation) };
        fit(context, "fine-tune", &mut network, rows, &mut objective, &recipe)?;

        let answers = evaluate(&network, &validation, recipe.batch_size)?;
        score::report(context, "", Split::Validation, &answers.logits, &validation)?;
        context.log("computing the logits of the training rows");
        let logits = evaluate(&network, &train, recipe.batch_size)?.logits;
        teacher_logits::write(&context.output("logits"), &dataset.train, &logits)?;
        let model = ModelFolder { graph: network.graph(), ..start };
        score::report_size(context, &model.graph);
        Ok(model.write(&context.output("model"))?)
    }
}

/// The classifier before training: from the checkpoint, or of the architecture asked for.
fn initial_model(
    params: &Params,
    dataset: &Dataset,
    context: &StageContext,
) -> Result<ModelFolder> {
    let n_labels = dataset.labels.len();
    let max_length = params.max_length.get();
    let info = ModelInfo { labels: dataset.labels.clone(), max_length };
    match (context.optional_input("checkpoint"), &params.architecture) {
        (Some(_), Some(_)) => bail!(BadInput(
            "both a `checkpoint` and an `architecture` are given; a checkpoint has an architecture of its own, remove one of them".to_owned()
        )),
        (None, None) => bail!(BadInput(
            "neither a `checkpoint` nor an `architecture` is given; add one of them".to_owned()
        )),
        (Some(folder), None) => {
            let checkpoint = huggingface::load(folder, n_labels, params.pooling.into(), context.seed())
                .map_err(|error| BadInput(error.to_string()))?;
            let positions = checkpoint.config.positions;
            if max_length > positions {
                bail!(BadInput(format!("`max-length` = {max_length} is more than the checkpoint's {positions} positions")));
            }
            Ok(ModelFolder { graph: checkpoint.graph, tokenizer_json: checkpoint.tokenizer_json, info })
        }
        (None, Some(architecture)) => {
            let tokenizer_json = train_vocabulary(params, &dataset.train)?;
            let tokenizer = Tokenizer::from_bytes(&tokenizer_json, max_length)?;
            let pooling = params.pooling.into();
            let config = architecture.config(tokenizer.n_ids(), max_length, n_labels, pooling);
            let graph = bert::build(&config, &mut bert::initial_weights(context.seed()))?;
            Ok(ModelFolder { graph, tokenizer_json, info })
        }
    }
}

fn train_vocabulary(params: &Params, rows: &[Row]) -> Result<Vec<u8>> {
    let texts: Vec<&str> = rows.iter().map(|row| row.text.as_str()).collect();
    let trainer =
        WordPiece { vocabulary_size: params.vocabulary_size.get(), ..WordPiece::default() };
    trainer.train(&texts).context("training the vocabulary")
}
