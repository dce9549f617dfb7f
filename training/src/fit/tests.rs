use std::path::{Path, PathBuf};
use std::time::Duration;

use graph::bert::{self, BertConfig, BertLayer, WeightSlice};
use graph::rewrite::quantize::{QuantizeOptions, insert};
use graph::{Graph, Tensor as HostTensor, reference};

use super::*;
use crate::device::Device;
use crate::examples::Batch;
use crate::network::{Mode, NetworkOptions};
use crate::objective::{Loss, Silent};
use crate::objectives::Supervised;
use crate::random::Stream;
use crate::recipe::Keep;
use crate::scales::Quantization;

fn graph() -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 12 };
    let config = BertConfig { positions: 8, ..BertConfig::uniform(20, 8, 2, layer) };
    let mut initial = bert::initial_weights(4);
    let mut weight = |name: &str, shape: &[usize]| match shape {
        [_, _] => Ok(bert::normal(4, name, shape, 0.3)),
        _ => initial(name, shape),
    };
    bert::build(&config, &mut weight).unwrap()
}

/// Texts whose class is whether they hold the token 7.
fn texts(count: usize, seed: u64) -> Examples {
    let mut stream = Stream::new(seed);
    let mut ids = Vec::new();
    for row in 0..count {
        let mut text: Vec<u32> =
            (0..2 + stream.below(5)).map(|_| 8 + stream.below(12) as u32).collect();
        if row % 2 == 0 {
            let place = stream.below(text.len());
            text[place] = 7;
        }
        ids.push(text);
    }
    let labels = ids.iter().map(|text| usize::from(text.contains(&7))).collect();
    Examples { ids, labels }
}

fn recipe() -> Recipe {
    Recipe {
        epochs: 4,
        batch_size: 8,
        learning_rate: 1e-2,
        accumulation: 2,
        seed: 11,
        ..Recipe::default()
    }
}

fn network(graph: &Graph, quantization: Quantization) -> Network {
    let options = NetworkOptions { quantization, ..NetworkOptions::default() };
    Network::new(graph, &Device::cpu(), &options).unwrap()
}

fn supervised() -> Supervised {
    Supervised::new(2, 0.0, None)
}

/// Interrupts after so many steps.
struct Interrupting {
    folder: PathBuf,
    steps: std::cell::Cell<u64>,
}

impl Monitor for Interrupting {
    fn progress(&mut self, _: &Progress) {}
    fn series(&mut self, _: &str, _: u64, _: f64) {}
    fn log(&mut self, _: &str) {}
    fn interrupted(&self) -> bool {
        self.steps.set(self.steps.get().saturating_sub(1));
        self.steps.get() == 0
    }
    fn checkpoint_every(&self) -> Duration {
        Duration::from_secs(3600)
    }
    fn checkpoint_dir(&self) -> Option<&Path> {
        Some(&self.folder)
    }
}

#[test]
fn learns_and_reports() {
    let (train, validation) = (texts(96, 1), texts(40, 2));
    let mut network = network(&graph(), Quantization::default());
    let recipe = Recipe { epochs: 12, accumulation: 1, ..recipe() };
    let report =
        fit(&mut network, &train, Some(&validation), &mut supervised(), &recipe, &mut Silent)
            .unwrap();
    assert_eq!((report.history.len(), report.steps), (12, 144));
    let found = evaluate(&network, &validation, 8).unwrap();
    let best = report.history[report.best_epoch].validation.unwrap();
    assert_eq!((best.accuracy, best.loss), (found.accuracy, found.loss));
    assert!(found.accuracy > 0.9, "{report:?}");
    // Without a choice by validation, the last epoch's weights stay.
    let recipe = Recipe { keep: Keep::Last, epochs: 3, ..recipe };
    let report =
        fit(&mut network, &train, Some(&validation), &mut supervised(), &recipe, &mut Silent)
            .unwrap();
    let found = evaluate(&network, &validation, 8).unwrap();
    assert_eq!(report.best_epoch, 2);
    assert_eq!(report.history[2].validation.unwrap().loss, found.loss);
    // The trained weights leave as a graph that gives the same answers.
    let batch = validation.batch(&[0]);
    let inputs = batch.inputs();
    let inputs: Vec<(&str, HostTensor)> =
        inputs.0.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let logits = reference::evaluate(&network.graph(), &inputs).unwrap();
    let logits = logits[0].elements::<f32>().unwrap();
    for (found, expected) in found.logits[0].iter().zip(logits) {
        assert!((found - expected).abs() < 1e-4, "{found} {expected}");
    }
}

#[test]
fn interrupted_and_resumed_is_uninterrupted_to_the_bit() {
    let (train, validation) = (texts(60, 1), texts(20, 2));
    let mut quantized = graph();
    insert(&mut quantized, &QuantizeOptions::default()).unwrap();
    for (graph, observing) in [(graph(), false), (quantized, true)] {
        let quantization = Quantization { calibrated: false, ..Quantization::default() };
        let start = || {
            let mut network = network(&graph, quantization);
            network.set_observing(observing);
            network
        };
        let mut whole = start();
        let run = |network: &mut Network, monitor: &mut dyn Monitor| {
            fit(network, &train, Some(&validation), &mut supervised(), &recipe(), monitor)
        };
        let expected = run(&mut whole, &mut Silent).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut interruptions = 0;
        let (found, network) = loop {
            let mut network = start();
            let steps = std::cell::Cell::new(4);
            let mut monitor = Interrupting { folder: folder.path().to_owned(), steps };
            match run(&mut network, &mut monitor) {
                Ok(report) => break (report, network),
                Err(Error::Interrupted { .. }) => interruptions += 1,
                Err(error) => panic!("{error}"),
            }
        };
        assert!(interruptions >= 3, "{interruptions}");
        assert_eq!(found, expected);
        assert_eq!(network.graph(), whole.graph());
    }
}

#[test]
fn a_checkpoint_of_another_run_is_not_used() {
    let folder = tempfile::tempdir().unwrap();
    let steps = std::cell::Cell::new(4);
    let mut monitor = Interrupting { folder: folder.path().to_owned(), steps };
    let train = texts(40, 1);
    let mut first = network(&graph(), Quantization::default());
    let error = fit(&mut first, &train, None, &mut supervised(), &recipe(), &mut monitor);
    assert!(matches!(error, Err(Error::Interrupted { step: 4 })), "{error:?}");
    let recipe = Recipe { seed: 12, ..recipe() };
    let fresh = |monitor: &mut dyn Monitor| {
        let mut network = network(&graph(), Quantization::default());
        fit(&mut network, &train, None, &mut supervised(), &recipe, monitor).unwrap();
        network.graph()
    };
    monitor.steps.set(u64::MAX);
    assert_eq!(fresh(&mut monitor), fresh(&mut Silent));
}

#[test]
fn masked_weights_stay_zero() {
    let mut network = network(&graph(), Quantization::default());
    let name = "encoder.layer.0.intermediate.dense.weight";
    let mask = HostTensor::from_fn(&[8, 12], |index| (index % 2) as f32);
    network.set_mask(name, &mask).unwrap();
    fit(&mut network, &texts(24, 1), None, &mut supervised(), &recipe(), &mut Silent).unwrap();
    let weight = network.tensor(name).unwrap();
    for (index, weight) in weight.elements::<f32>().unwrap().iter().enumerate() {
        assert_eq!(*weight == 0.0, index % 2 == 0);
    }
}

#[test]
fn a_loss_that_is_not_finite_names_the_step() {
    struct Exploding;
    impl Objective for Exploding {
        fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> anyhow::Result<Loss> {
            let loss = supervised().loss(network, batch, step)?;
            let factor = if step.index == 3 { f32::NAN } else { 1.0 };
            Ok(Loss::new(loss.total * factor))
        }
    }
    let mut network = network(&graph(), Quantization::default());
    let error = fit(&mut network, &texts(80, 1), None, &mut Exploding, &recipe(), &mut Silent);
    let error = error.unwrap_err().to_string();
    assert!(
        error.contains("the loss is NaN at step 3 (epoch 0); lower the learning rate"),
        "{error}"
    );
}

#[test]
fn extras_are_trained_by_the_optimizer_or_follow_their_plain_gradient() {
    struct Pulled(Option<f64>);
    impl Objective for Pulled {
        fn extra(&self) -> Vec<(String, HostTensor)> {
            vec![("theta".to_owned(), HostTensor::scalar(1f32))]
        }
        fn loss(&mut self, network: &Network, batch: &Batch, step: &Step) -> anyhow::Result<Loss> {
            let theta = network.parameter::<1>("theta")?;
            Ok(Loss::new(supervised().loss(network, batch, step)?.total + theta))
        }
        fn descent_rate(&self, _: &str, _: &Step) -> Option<f64> {
            self.0
        }
    }
    let moved = |rate, clip_norm| {
        let (mut network, mut pulled) = (network(&graph(), Quantization::default()), Pulled(rate));
        let recipe = Recipe { clip_norm, ..recipe() };
        let report = fit(&mut network, &texts(24, 1), None, &mut pulled, &recipe, &mut Silent);
        assert_eq!(network.graph().find("theta"), None);
        let theta = network.tensor("theta").unwrap().elements::<f32>().unwrap()[0];
        let weight = network.tensor("encoder.layer.0.output.dense.weight").unwrap();
        (f64::from(theta) - 1.0, report.unwrap().steps as f64, weight)
    };
    assert!(moved(None, 1.0).0 < -1e-3);
    // Its gradient is 1 at every step, whatever the others' norm.
    for rate in [0.1, -0.1, -0.4] {
        let (distance, steps, _) = moved(Some(rate), 0.01);
        assert!((distance + rate * steps).abs() < 1e-5, "{rate}: {distance} in {steps} steps");
    }
    assert_eq!(moved(Some(0.1), 0.01).2, moved(Some(0.0), 0.01).2, "it counts in no other norm");
}

#[test]
fn learned_scales_start_from_magnitudes_and_move() {
    let mut quantized = graph();
    insert(&mut quantized, &QuantizeOptions::default()).unwrap();
    let mut network =
        network(&quantized, Quantization { learned: true, ..Quantization::default() });
    let train = texts(48, 1);
    network.initialize_scales(&[train.batch(&[0, 1, 2, 3]).inputs()]).unwrap();
    let scale = |network: &Network, name: &str| {
        network.tensor(name).unwrap().elements::<f32>().unwrap().to_vec()
    };
    let names = [
        "encoder.layer.0.intermediate.dense.weight.scale",
        "encoder.layer.0.intermediate.dense.input.scale",
    ];
    let before = names.map(|name| scale(&network, name));
    let weight = network.tensor("encoder.layer.0.intermediate.dense.weight").unwrap();
    let column = weight.elements::<f32>().unwrap().chunks(12).map(|row| row[0].abs()).sum::<f32>();
    assert!((before[0][0] - 2.0 * column / 8.0 / 127f32.sqrt()).abs() < 1e-6);
    assert!(before[1][0] != 1.0);
    fit(&mut network, &train, None, &mut supervised(), &recipe(), &mut Silent).unwrap();
    for (name, before) in names.iter().zip(before) {
        assert_ne!(scale(&network, name), before, "{name}");
        let graph = network.graph();
        let tensor = graph.weight(graph.find(name).unwrap()).unwrap().clone();
        assert_eq!(tensor.elements::<f32>().unwrap(), scale(&network, name), "{name}");
    }
}

#[test]
fn quantized_training_agrees_with_the_reference_of_its_graph() {
    let mut quantized = graph();
    insert(&mut quantized, &QuantizeOptions::default()).unwrap();
    let mut network =
        network(&quantized, Quantization { calibrated: false, ..Quantization::default() });
    let train = texts(48, 1);
    network.set_observing(true);
    fit(&mut network, &train, None, &mut supervised(), &recipe(), &mut Silent).unwrap();
    network.set_observing(false);
    let batch = train.batch(&[0, 1, 2, 3, 4, 5]);
    let logits = network.forward(&batch.inputs(), &["logits"], Mode::Evaluate).unwrap();
    let logits = logits.tensor("logits").unwrap();
    let inputs = batch.inputs();
    let inputs: Vec<(&str, HostTensor)> =
        inputs.0.iter().map(|(name, tensor)| (name.as_str(), tensor.clone())).collect();
    let expected = reference::evaluate(&network.graph(), &inputs).unwrap();
    let expected = expected[0].elements::<f32>().unwrap();
    // A value between two steps may fall to the other side in another summation order, so a few
    // logits may differ by about a quantization step of the last layer, not more.
    for (found, expected) in logits.elements::<f32>().unwrap().iter().zip(expected) {
        assert!((found - expected).abs() < 0.1, "{found} {expected}");
    }
}

#[test]
fn a_subnetwork_shares_weights_and_sends_gradients_into_them() {
    let layer = BertLayer { heads: 2, intermediate: 12 };
    let config = BertConfig { positions: 8, ..BertConfig::uniform(20, 8, 2, layer) };
    let supernet = graph();
    let smaller =
        BertConfig { layers: vec![BertLayer { heads: 1, intermediate: 5 }], ..config.clone() };
    let part = bert::subnetwork(&supernet, &config, &smaller, &[1]).unwrap();
    let slices: Vec<WeightSlice> = bert::weight_slices(&part, &[1]);
    let shared = network(&supernet, Quantization::default());
    let own = network(&part, Quantization::default());
    let inputs = texts(4, 1).batch(&[0, 1, 2, 3]).inputs();
    let mode = Mode::Train { dropout: 0.0, seed: 0 };
    let found = shared.forward_subnetwork(&part, &slices, &inputs, &["logits"], mode).unwrap();
    let expected = own.forward(&inputs, &["logits"], mode).unwrap();
    assert_eq!(found.tensor("logits").unwrap(), expected.tensor("logits").unwrap());
    let loss = |values: &crate::network::Values| {
        let logits = values.get::<2>("logits").unwrap();
        (logits.clone() * logits).sum()
    };
    let gradients = shared.gradients(&loss(&found));
    let own_gradients = own.gradients(&loss(&expected));
    for slice in &slices {
        let Some(part) = own_gradients.get(&slice.name) else { continue };
        let whole = &gradients[&slice.source];
        let (part, source) = (part.elements::<f32>().unwrap(), whole.elements::<f32>().unwrap());
        let width = slice.sizes[slice.sizes.len() - 1];
        let source_width = whole.shape()[whole.shape().len() - 1];
        for (index, gradient) in part.iter().enumerate() {
            let at = index / width * source_width + index % width;
            assert!((source[at] - gradient).abs() < 1e-5, "{}", slice.name);
        }
        let sums = [part, source].map(|all| all.iter().map(|x| x.abs()).sum::<f32>());
        assert!((sums[0] - sums[1]).abs() < 1e-3 * sums[0].max(1.0), "{}", slice.name);
    }
}
