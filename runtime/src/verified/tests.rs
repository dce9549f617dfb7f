//! What happens when the kernels of a tier answer wrongly.

use std::collections::BTreeMap;

use graph::op::{ArgExtreme, Cast, Gather};
use graph::package::Golden;
use graph::{DType, Dim, Graph, ModelFolder, ModelInfo, Op};

use super::*;

/// `x·w` with every weight `factor`.
fn product(factor: f32) -> Graph {
    let mut graph = Graph::new("product");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch"), 3.into()]).unwrap();
    let w = graph.add_weight("w", Tensor::from_fn(&[3, 4], |_| factor)).unwrap();
    let y = graph.add_node("y", Op::MatMul, &[x, w]).unwrap();
    graph.set_outputs(&[y]);
    graph
}

fn package() -> Package {
    let graph = product(1.0);
    let x = Tensor::from_fn(&[2, 3], |index| index as f32);
    let golden = Golden::evaluate(&graph, vec![vec![("x".to_owned(), x)]]).unwrap();
    let info = ModelInfo { labels: Vec::new(), max_length: 0 };
    let model = ModelFolder { graph, tokenizer_json: Vec::new(), info };
    let (name, provenance) = ("product".to_owned(), BTreeMap::new());
    Package { name, model, golden, tolerance: None, provenance, slo: None }
}

/// Loads the package on a machine where the kernels of tiers that `fails` names multiply wrongly.
fn load_where(
    options: &CompileOptions,
    fails: impl Fn(Tier) -> bool,
) -> Result<VerifiedModel, RuntimeError> {
    load_with(&package(), options, |options| {
        let tier = options.tier.expect("each attempt names its tier");
        compile(&product(if fails(tier) { 1.5 } else { 1.0 }), options)
    })
}

/// The tiers of this CPU, fastest first.
fn tiers() -> Vec<Tier> {
    let mut tiers: Vec<Tier> = Cpu::every().map(Cpu::tier).collect();
    tiers.reverse();
    tiers
}

#[test]
fn the_next_tier_takes_over_and_the_failure_is_told() {
    let tiers = tiers();
    for count in 0..tiers.len() {
        let (failing, good) = tiers.split_at(count);
        let found = load_where(&CompileOptions::default(), |tier| failing.contains(&tier)).unwrap();
        assert_eq!(found.model.explain().tier, good[0].name());
        let failed: Vec<Tier> = found.failed.iter().map(|failed| failed.tier).collect();
        assert_eq!(failed, failing, "fastest first");
        // The golden answer of the first row is 0 + 1 + 2; half as much again is 4.5.
        let says = |failed: &FailedTier| failed.reason.contains("expected 3 ± ");
        assert!(found.failed.iter().all(says), "{found:?}");
        assert!(found.failed.iter().all(|failed| failed.reason.ends_with("found 4.5")));
        assert_eq!(found.worst_difference, 0.0);
    }
}

#[test]
fn a_package_that_no_tier_reproduces_is_refused() {
    let error = load_where(&CompileOptions::default(), |_| true).unwrap_err().to_string();
    for expected in tiers().iter().map(|tier| tier.name()).chain(["must not be served"]) {
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

#[test]
fn a_tier_that_was_asked_for_has_no_substitute() {
    let fastest = tiers()[0];
    let options = CompileOptions { tier: Some(fastest), ..CompileOptions::default() };
    let error = load_where(&options, |tier| tier == fastest).unwrap_err();
    assert!(matches!(error, RuntimeError::SelfTest { .. }), "{error}");
}

/// Loads the package where a GPU, if one is asked for, multiplies wrongly.
#[cfg(feature = "gpu-emulated")]
fn load_with_a_wrong_gpu(device: Device) -> Result<VerifiedModel, RuntimeError> {
    let options = CompileOptions { device, ..CompileOptions::default() };
    load_with(&package(), &options, |options| {
        let (factor, device) = match options.device {
            Device::Cpu => (1.0, Device::Cpu),
            _ => (1.5, Device::Emulated),
        };
        compile(&product(factor), &CompileOptions { device, ..options.clone() })
    })
}

#[cfg(feature = "gpu-emulated")]
#[test]
fn the_cpu_takes_over_from_a_gpu_only_where_it_may() {
    let found = load_with_a_wrong_gpu(Device::Auto).unwrap();
    let explanation = found.model.explain();
    assert_eq!((explanation.device.as_str(), found.failed.len()), ("cpu", 0));
    assert_eq!(explanation.tier, tiers()[0].name());
    let reason = explanation.device_reason.as_ref().unwrap();
    assert!(reason.starts_with("emulated failed the self-test: "), "{reason}");
    let error = load_with_a_wrong_gpu(Device::Gpu(0)).unwrap_err();
    assert!(matches!(error, RuntimeError::SelfTest { .. }), "{error}");
}

/// The sign of a number that is 0 but for a last bit, and which of two equal numbers is the greatest.
#[test]
fn models_in_which_a_last_bit_decides_are_given_more() {
    let inputs = |x: Vec<f32>| vec![vec![("x".to_owned(), Tensor::new(&[2, 3], x).unwrap())]];
    let tolerance = |graph: &Graph, x: Vec<f32>| {
        let golden = Golden::evaluate(graph, inputs(x)).unwrap();
        golden_tolerance(graph, &golden, Precision::F32).unwrap()
    };
    assert_eq!(tolerance(&product(1.0), vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), None);

    let mut graph = Graph::new("greatest");
    let x = graph.add_input("x", DType::F32, vec![2.into(), 3.into()]).unwrap();
    let greatest = ArgExtreme { largest: true, axis: 1, keep_dims: true, last: false };
    let y = graph.add_node("y", Op::ArgExtreme(greatest), &[x]).unwrap();
    graph.set_outputs(&[y]);
    assert_eq!(tolerance(&graph, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), None);
    assert_eq!(tolerance(&graph, vec![1.0, 1.0, 1.0, 4.0, 5.0, 6.0]), Some(MOST_TOLERANCE));
}

/// Which of two rows of a table is the greatest, that are equal, or so in bf16.
#[test]
fn weights_differ_where_inputs_cannot() {
    let tolerance = |second: f32, precision| {
        let mut graph = Graph::new("greatest");
        let x = graph.add_input("x", DType::I64, vec![2.into()]).unwrap();
        let table =
            Tensor::from_fn(&[9, 1], |row| if row == 1 { second } else { row as f32 * 1.5 + 1.0 });
        let table = graph.add_weight("table", table).unwrap();
        let rows = graph.add_node("rows", Op::Gather(Gather { axis: 0 }), &[table, x]).unwrap();
        let greatest = ArgExtreme { largest: true, axis: 0, keep_dims: true, last: false };
        let y = graph.add_node("y", Op::ArgExtreme(greatest), &[rows]).unwrap();
        graph.set_outputs(&[y]);
        let x = vec![("x".to_owned(), Tensor::new(&[2], vec![0i64, 1]).unwrap())];
        let golden = Golden::evaluate(&graph, vec![x]).unwrap();
        golden_tolerance(&graph, &golden, precision).unwrap()
    };
    for precision in [Precision::F32, Precision::Bf16] {
        assert_eq!(tolerance(2.0, precision), None);
    }
    assert_eq!(tolerance(1.0, Precision::F32), Some(MOST_TOLERANCE));
    assert_eq!(tolerance(1.001, Precision::F32), None);
    assert_eq!(tolerance(1.001, Precision::Bf16), Some(MOST_TOLERANCE));
}

/// Places that are written as floats are no weights; nor does a run that reads past the end say anything.
#[test]
fn places_in_floats_are_left_alone() {
    for last in [8.0f32, 8.999_999] {
        let mut graph = Graph::new("places");
        let x = graph.add_input("x", DType::I64, vec![9.into()]).unwrap();
        let places = Tensor::from_fn(&[9], |i| if i == 8 { last } else { i as f32 });
        let places = graph.add_weight("places", places).unwrap();
        let places = graph.add_node("i", Op::Cast(Cast { to: DType::I64 }), &[places]).unwrap();
        let places = graph.add_node("sum", Op::Add, &[places, x]).unwrap();
        let table = graph.add_weight("table", Tensor::from_fn(&[9, 1], |row| row as f32)).unwrap();
        let y = graph.add_node("y", Op::Gather(Gather { axis: 0 }), &[table, places]).unwrap();
        graph.set_outputs(&[y]);
        let x = vec![("x".to_owned(), Tensor::from_fn(&[9], |_| 0i64))];
        let golden = Golden::evaluate(&graph, vec![x]).unwrap();
        for precision in [Precision::F32, Precision::Bf16] {
            assert_eq!(golden_tolerance(&graph, &golden, precision).unwrap(), None);
        }
    }
}
