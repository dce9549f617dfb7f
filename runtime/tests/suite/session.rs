//! Sessions: sizes that change, bad inputs, lent outputs, memory.

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::op::{Reshape, Slice};
use graph::{Bindings, DType, Dim, Graph, Op, Tensor, reference};
use runtime::{CompileOptions, CompiledModel, Level, RuntimeError, compile};

use crate::{Sketch, assert_close, check, numbers, options, run};

fn encoder() -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 32 };
    let config = BertConfig { positions: 16, ..BertConfig::uniform(20, 16, 2, layer) };
    build(&config, &mut initial_weights(1)).unwrap()
}

fn model() -> CompiledModel {
    compile(&encoder(), &options(Level::O3)).unwrap()
}

fn text(batch: usize, sequence: usize) -> [Tensor; 2] {
    let ids = Tensor::from_fn(&[batch, sequence], |i| i as i64 % 20);
    [ids, Tensor::from_fn(&[batch, sequence], |_| 1i64)]
}

#[test]
fn one_session_serves_all_sizes_in_any_order() {
    let graph = encoder();
    let mut session = model().session();
    for (batch, sequence) in [(2, 5), (1, 16), (4, 3), (2, 5), (1, 1), (4, 16), (2, 5)] {
        let [ids, mask] = text(batch, sequence);
        let found = session.run(&[("attention_mask", &mask), ("input_ids", &ids)]).unwrap();
        let inputs = [("input_ids", ids), ("attention_mask", mask)];
        assert_close(&found, &reference::evaluate(&graph, &inputs).unwrap(), 1e-4);
    }
}

#[test]
fn outputs_can_be_borrowed() {
    let mut session = model().session();
    let [ids, mask] = text(2, 4);
    let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
    let owned = session.run(&inputs).unwrap();
    let outputs = session.run_borrowed(&inputs).unwrap();
    let logits = outputs.get("logits").unwrap();
    assert_eq!(
        (logits.name(), logits.shape(), logits.dtype()),
        ("logits", &[2, 2][..], DType::F32)
    );
    assert_eq!(logits.elements::<f32>().unwrap(), owned[0].elements::<f32>().unwrap());
    assert!(matches!(logits.elements::<i64>(), Err(RuntimeError::Output { .. })));
    assert!(outputs.get("other").is_none());
    assert_eq!(outputs.iter().len(), 1);
}

#[test]
fn bad_inputs_are_errors_and_do_no_harm() {
    let mut session = model().session();
    let [ids, mask] = text(2, 4);
    let good = [("input_ids", &ids), ("attention_mask", &mask)];
    let expected = session.run(&good).unwrap();
    let [_, short] = text(2, 3);
    let floats = numbers(&[2, 4], 1, 1.0);
    let outside = Tensor::from_fn(&[2, 4], |i| i as i64 * 5);
    let negative = Tensor::from_fn(&[2, 4], |_| -21i64);
    let [long, long_mask] = text(1, 17);
    let flat = Tensor::from_fn(&[8], |_| 1i64);
    for (inputs, message) in [
        (vec![good[0]], "input `attention_mask`: expected a tensor, none was given"),
        (vec![good[0], good[1], ("extra", &mask)], "input `extra`: the model has no such input"),
        (
            vec![("input_ids", &floats), good[1]],
            "input `input_ids`: expected i64[batch, sequence], found Tensor(f32[2, 4])",
        ),
        (
            vec![good[0], ("attention_mask", &short)],
            "input `attention_mask`: expected [batch, sequence] with sequence = 4, found [2, 3]",
        ),
        (
            vec![("input_ids", &flat), good[1]],
            "input `input_ids`: expected [batch, sequence], found [8]",
        ),
        (
            vec![("input_ids", &outside), good[1]],
            "node `embeddings.words` (Gather): index 20 at position 4 is not in a table of 20 rows",
        ),
        (
            vec![("input_ids", &negative), good[1]],
            "node `embeddings.words` (Gather): index -21 at position 0 is not in a table of 20 rows",
        ),
        (
            vec![("input_ids", &long), ("attention_mask", &long_mask)],
            "value `embeddings.positions`: [17, 16] from index 0 reaches out of [16, 16]",
        ),
    ] {
        assert_eq!(session.run(&inputs).unwrap_err().to_string(), message);
        assert_eq!(session.run(&good).unwrap(), expected);
    }
}

#[test]
fn empty_batches_and_sequences_are_answered() {
    for (batch, sequence) in [(0, 4), (0, 0), (2, 0)] {
        let [ids, mask] = text(batch, sequence);
        let inputs = [("input_ids", ids), ("attention_mask", mask)];
        assert_eq!(run(&model(), &inputs)[0].shape(), [batch, 2]);
    }
}

#[test]
fn nan_reaches_the_answer() {
    let (mut sketch, x) = Sketch::new(4);
    let w = sketch.weight(numbers(&[4, 3], 1, 1.0));
    let y = sketch.node(Op::MatMul, &[x, w]);
    let z = sketch.node(Op::Relu, &[y]);
    let model = compile(&sketch.finish(&[z]), &options(Level::O3)).unwrap();
    let x = Tensor::new(&[1, 4], vec![1.0, f32::NAN, 0.0, 1.0]).unwrap();
    let found = run(&model, &[("x", x)]);
    assert!(found[0].elements::<f32>().unwrap().iter().all(|y| y.is_nan()));
}

#[test]
fn inputs_constants_and_views_can_be_outputs() {
    let (mut sketch, x) = Sketch::new(6);
    let table = sketch.weight(numbers(&[5, 6], 1, 1.0));
    let view = sketch.node(Op::Reshape(Reshape { shape: vec![0, 2, 3] }), &[x]);
    let slice = Slice { axis: 0, start: 1, end: Dim::Fixed(3) };
    let rows = sketch.node(Op::Slice(slice), &[table]);
    let columns = sketch.node(Op::Slice(Slice { axis: 1, start: 2, end: Dim::Fixed(5) }), &[x]);
    let relu = sketch.node(Op::Relu, &[x]);
    let again = sketch.node(Op::Reshape(Reshape { shape: vec![0, 3, 2] }), &[relu]);
    let graph = sketch.finish(&[x, table, view, rows, columns, again, relu]);
    check(&graph, &[("x", numbers(&[3, 6], 2, 1.0))], 0.0);
}

#[test]
fn arithmetic_broadcasts_like_the_reference() {
    let shapes: [&[usize]; 6] = [&[], &[1], &[5], &[4, 1], &[3, 1, 5], &[1, 4, 5]];
    for op in [Op::Add, Op::Sub, Op::Mul, Op::Div] {
        for shape in shapes {
            let full = vec![Dim::symbol("batch"), 4.into(), 5.into()];
            let (mut sketch, x) = Sketch::shaped(full);
            let shape = if shape.len() == 3 { &[1, shape[1], shape[2]] } else { shape };
            let w = sketch.weight(numbers(shape, 1, 1.0));
            let outputs = [sketch.node(op.clone(), &[x, w]), sketch.node(op.clone(), &[w, x])];
            let graph = sketch.finish(&outputs);
            check(&graph, &[("x", numbers(&[3, 4, 5], 2, 1.0))], 0.0);
        }
    }
}

#[test]
fn peak_is_known_before_anything_runs() {
    let model = model();
    let bytes = |batch, sequence| {
        let sizes = Bindings::new([("batch", batch), ("sequence", sequence)]);
        model.peak_bytes(&sizes).unwrap()
    };
    assert!(bytes(1, 4) < bytes(2, 4) && bytes(2, 4) < bytes(2, 16));
    assert_eq!(bytes(0, 0), 0);
    let error = model.peak_bytes(&Bindings::new([("batch", 1)])).unwrap_err().to_string();
    assert!(error.ends_with("dimension `sequence` is not bound"), "{error}");
    let huge = Bindings::new([("batch", usize::MAX / 2), ("sequence", 16)]);
    assert!(matches!(model.peak_bytes(&huge), Err(RuntimeError::Sizes { .. })));
}

#[test]
fn sessions_of_one_model_run_at_the_same_time() {
    let model = model();
    let [ids, mask] = text(3, 7);
    let expected = model.session().run(&[("input_ids", &ids), ("attention_mask", &mask)]).unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let mut session = model.session();
                for _ in 0..20 {
                    let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
                    assert_eq!(session.run(&inputs).unwrap(), expected);
                }
            });
        }
    });
}

#[test]
fn explanations_account_for_every_node() {
    let graph = encoder();
    for level in [Level::O0, Level::O3] {
        let model = compile(&graph, &options(level)).unwrap();
        let explanation = model.explain();
        let mut names: Vec<String> = explanation
            .nodes
            .iter()
            .flat_map(|node| match node.fused_from.as_slice() {
                [] => vec![node.name.clone()],
                names => names.to_vec(),
            })
            .collect();
        names.sort();
        let mut expected: Vec<String> = graph.nodes().map(|(_, node)| node.name.clone()).collect();
        expected.sort();
        assert_eq!(names, expected);
        let json = serde_json::to_value(explanation).unwrap();
        assert_eq!(json["level"], format!("{level:?}"));
        assert!(json["nodes"][0]["kernel"].is_string());
    }
}

#[test]
fn a_tier_this_cpu_lacks_is_refused() {
    for tier in runtime::Tier::ALL {
        let options = CompileOptions { tier: Some(tier), ..CompileOptions::default() };
        assert_eq!(compile(&encoder(), &options).is_ok(), tier.is_available());
    }
}
