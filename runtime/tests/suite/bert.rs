//! Whole encoders, float and quantized.

use graph::bert::{BertConfig, BertLayer, Pooling, build, normal};
use graph::op::Gelu;
use graph::rewrite::quantize::{PointKind, QuantizeOptions, insert, points, set_activation_scale};
use graph::{Graph, Tensor, reference};
use kernels::Cpu;
use runtime::{CompileOptions, Level, Precision, Tier, compile};

use crate::{assert_close, check, fired, floats, options, run};

fn config(pooling: Pooling) -> BertConfig {
    let layer = BertLayer { heads: 3, intermediate: 40 };
    let layers = vec![layer, BertLayer { heads: 2, intermediate: 17 }];
    BertConfig {
        layers,
        positions: 64,
        pooling,
        labels: 3,
        ..BertConfig::uniform(50, 24, 2, layer)
    }
}

pub(crate) fn float(pooling: Pooling) -> Graph {
    build(&config(pooling), &mut |name, shape| {
        let deviation = if name.ends_with("LayerNorm.weight") { 1.0 } else { 0.3 };
        Ok(normal(3, name, shape, deviation))
    })
    .unwrap()
}

pub(crate) fn text(batch: usize, sequence: usize) -> Vec<(&'static str, Tensor)> {
    let shape = [batch, sequence];
    let ids = Tensor::from_fn(&shape, |i| (i as i64 * 29 + 3) % 50);
    let counts = |i: usize| sequence - (i / sequence * 3) % sequence.div_ceil(2);
    let mask = Tensor::from_fn(&shape, |i| i64::from(i % sequence < counts(i)));
    vec![("input_ids", ids), ("attention_mask", mask)]
}

/// Quantized everywhere, activations scaled by what a text reaches.
pub(crate) fn quantized(pooling: Pooling) -> Graph {
    quantize(float(pooling))
}

fn quantize(mut graph: Graph) -> Graph {
    insert(&mut graph, &QuantizeOptions { float: Vec::new(), embeddings: true }).unwrap();
    let trace = reference::trace(&graph, &text(4, 20)).unwrap();
    let points = points(&graph);
    let scales: Vec<(String, f32)> = points
        .iter()
        .filter(|point| point.kind == PointKind::Activation)
        .map(|point| {
            let greatest = floats(&trace[&point.input]).iter().fold(0f32, |m, x| m.max(x.abs()));
            (graph.value_name(point.scale).to_owned(), greatest / 127.0)
        })
        .collect();
    for (name, scale) in scales {
        set_activation_scale(&mut graph, &name, scale).unwrap();
    }
    graph
}

#[test]
fn float_encoders_match_the_reference() {
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let graph = float(pooling);
        for (batch, sequence) in [(1, 1), (1, 7), (3, 33), (2, 64)] {
            check(&graph, &text(batch, sequence), 1e-3);
        }
    }
}

#[test]
fn the_tanh_gelu_is_its_own_function() {
    let config = BertConfig { activation: Gelu::Tanh, ..config(Pooling::Mean) };
    let graph = build(&config, &mut |name, shape| Ok(normal(3, name, shape, 0.3))).unwrap();
    check(&graph, &text(2, 9), 1e-3);
}

#[test]
fn an_encoder_is_fused_as_expected() {
    let model = compile(&float(Pooling::Mean), &options(Level::O3)).unwrap();
    for (pass, expected) in [
        ("linear", 13),
        ("bias", 13),
        ("activation", 2),
        ("attention", 2),
        ("merge-qkv", 2),
        ("residual-layer-norm", 5),
    ] {
        assert_eq!(fired(&model, pass), expected, "{pass}");
    }
    assert!(model.explain().nodes.iter().all(|node| node.kernel != "reference"));
}

#[test]
fn quantized_encoders_run_in_integers() {
    let model = compile(&quantized(Pooling::Mean), &options(Level::O3)).unwrap();
    let explanation = model.explain();
    assert_eq!(fired(&model, "integer-linear"), 13);
    assert_eq!(fired(&model, "integer-gather"), 1);
    assert_eq!(fired(&model, "merge-qkv"), 2);
    assert_eq!(fired(&model, "quantize-epilogue"), 4);
    assert!(explanation.nodes.iter().all(|node| node.operation != "QuantizeLinear"));
    assert_eq!(fired(&model, "linear"), 0);
    assert!(explanation.nodes.iter().all(|node| node.kernel != "reference"));
    assert!(explanation.packed_bytes > 0);
}

/// They are rounded once instead of wherever they are read; only GELU is coarser for it.
#[test]
fn values_kept_in_bf16_change_no_answer() {
    // Query, key and value of each of two layers; in the float model also what lies behind GELU, and
    // the pooled text.
    for (graph, expected, tolerance) in
        [(float(Pooling::Cls), 5, 1e-2), (quantized(Pooling::Mean), 2, 0.0)]
    {
        for cpu in Cpu::every() {
            let options = CompileOptions {
                precision: Precision::Bf16,
                tier: Some(cpu.tier()),
                ..options(Level::O3)
            };
            let model = compile(&graph, &options).unwrap();
            let expected = if cpu.multiplies_bf16() { expected } else { 0 };
            assert_eq!(fired(&model, "narrow"), expected, "{}", cpu.tier());
            let kept = model.explain().nodes.iter().filter(|node| node.output.starts_with("bf16["));
            assert_eq!(kept.count(), expected);
            let disabled_passes = vec!["narrow".to_owned()];
            let without = compile(&graph, &CompileOptions { disabled_passes, ..options }).unwrap();
            let inputs = text(3, 17);
            assert_close(&run(&model, &inputs), &run(&without, &inputs), tolerance);
        }
    }
}

#[test]
fn the_cheapest_kernel_of_the_tier_runs_and_the_others_say_why_not() {
    let options = CompileOptions { tier: Some(Tier::Portable), ..options(Level::O3) };
    let model = compile(&quantized(Pooling::Mean), &options).unwrap();
    let nodes = &model.explain().nodes;
    let layer = nodes.iter().find(|node| node.operation == "IntegerLinear").unwrap();
    assert_eq!(layer.kernel, "integer-linear.portable");
    let reasons: Vec<_> =
        layer.rejected.iter().map(|other| format!("{}: {}", other.kernel, other.reason)).collect();
    assert_eq!(
        reasons,
        [
            "integer-linear.avx2: needs tier avx2, the model runs at portable",
            "integer-linear.avx512: needs tier avx512, the model runs at portable",
            "integer-linear.vnni: needs tier vnni, the model runs at portable",
            "integer-linear.amx: needs tier amx, the model runs at portable",
        ]
    );
    let padding = nodes.iter().find(|node| node.operation == "Sub").unwrap();
    assert_eq!(padding.rejected[0].reason, "cost 1000 against 4 of sub.broadcast");
}

#[test]
fn compiled_models_keep_only_what_they_read() {
    let layer = BertLayer { heads: 2, intermediate: 256 };
    let config = BertConfig { positions: 32, ..BertConfig::uniform(50, 128, 1, layer) };
    let float = build(&config, &mut |name, shape| Ok(normal(3, name, shape, 0.3))).unwrap();
    let float_bytes = float.weight_bytes();
    let model = compile(&quantize(float), &options(Level::O3)).unwrap();
    let kept = model.explain().constant_bytes + model.explain().packed_bytes;
    // Position table, normalizations, biases and scales stay float.
    assert!(3 * kept < float_bytes, "{kept} of {float_bytes}");
}

/// The worst difference of logits, in steps of the classifier's weakest column.
fn worst(found: &Tensor, expected: &Tensor) -> f32 {
    let pairs = floats(found).iter().zip(floats(expected));
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn integers_agree_with_fake_quantized_floats() {
    for pooling in [Pooling::Mean, Pooling::Cls] {
        let graph = quantized(pooling);
        for (batch, sequence) in [(1, 1), (1, 5), (3, 19), (2, 64)] {
            let inputs = text(batch, sequence);
            let expected = reference::evaluate(&graph, &inputs).unwrap();
            let integer = run(&compile(&graph, &options(Level::O3)).unwrap(), &inputs);
            let fake = run(&compile(&graph, &options(Level::O0)).unwrap(), &inputs);
            let largest = floats(&expected[0]).iter().fold(0f32, |m, x| m.max(x.abs()));
            // A value on the border of two steps may fall to either side and moves logits by
            // about a 127th of their range. Attention in two parts of bf16 puts more of them there, one
            // of which was seen to move these small logits by seven.
            let parts = if Tier::Amx.is_available() { 12.0 } else { 127.0 };
            for (found, step) in [(&integer[0], largest / parts), (&fake[0], largest / 127.0)] {
                let error = worst(found, &expected[0]);
                assert!(error <= step, "{batch}×{sequence}: {error} of {step}");
            }
        }
    }
}

#[test]
fn tiers_agree_bit_for_bit() {
    let inputs = text(2, 37);
    for graph in [float(Pooling::Mean), quantized(Pooling::Mean)] {
        let on = |tier: Tier| {
            let options = CompileOptions { tier: Some(tier), ..options(Level::O3) };
            run(&compile(&graph, &options).unwrap(), &inputs)
        };
        let portable = on(Tier::Portable);
        for tier in Tier::ALL.into_iter().filter(|tier| tier.is_available()) {
            assert_eq!(on(tier), portable, "{tier}");
        }
    }
}

#[test]
fn threads_do_not_change_a_bit() {
    let inputs = text(5, 61);
    for graph in [float(Pooling::Cls), quantized(Pooling::Cls)] {
        let with = |threads| {
            let threads = std::num::NonZeroUsize::new(threads);
            let options = CompileOptions { threads, ..options(Level::O3) };
            run(&compile(&graph, &options).unwrap(), &inputs)
        };
        assert_eq!(with(1), with(3));
    }
}

#[test]
fn a_folded_package_graph_gives_the_same_bits() {
    let graph = quantized(Pooling::Mean);
    let mut folded = graph.clone();
    graph::rewrite::quantize::fold(&mut folded).unwrap();
    let inputs = text(2, 11);
    let [a, b] = [&graph, &folded].map(|graph| {
        let model = compile(graph, &options(Level::O3)).unwrap();
        run(&model, &inputs)
    });
    assert_eq!(a, b);
    assert_close(&a, &b, 0.0);
}
