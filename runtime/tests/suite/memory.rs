//! How much memory a run takes, known and limited before it runs.

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::op::Expand;
use graph::{Bindings, DType, Graph, Op, Tensor};
use runtime::{CompileOptions, CompiledModel, Level, RuntimeError, compile, memory_fraction};

use crate::options;

const POSITIONS: usize = 64;

fn encoder() -> Graph {
    let layer = BertLayer { heads: 2, intermediate: 48 };
    let config = BertConfig { positions: POSITIONS, ..BertConfig::uniform(20, 16, 2, layer) };
    build(&config, &mut initial_weights(1)).unwrap()
}

fn model(level: Level) -> CompiledModel {
    compile(&encoder(), &options(level)).unwrap()
}

fn limited(memory_budget: usize) -> Result<CompiledModel, RuntimeError> {
    let memory_budget = Some(memory_budget);
    compile(&encoder(), &CompileOptions { memory_budget, ..options(Level::O3) })
}

fn sizes(batch: usize, sequence: usize) -> Bindings {
    Bindings::new([("batch", batch), ("sequence", sequence)])
}

fn text(batch: usize, sequence: usize) -> [Tensor; 2] {
    let ids = Tensor::from_fn(&[batch, sequence], |i| i as i64 % 20);
    [ids, Tensor::from_fn(&[batch, sequence], |_| 1i64)]
}

#[test]
fn plan_bound_and_formula_agree() {
    for level in [Level::O0, Level::O3] {
        let model = model(level);
        for (batch, sequence) in [(0, 5), (1, 1), (1, 64), (3, 7), (8, 33), (32, 64)] {
            let sizes = sizes(batch, sequence);
            let memory = model.memory(&sizes).unwrap();
            assert_eq!(model.peak_formula().evaluate(&sizes), Ok(memory.lower_bound_bytes));
            assert_eq!(model.peak_bytes(&sizes), Ok(memory.planned_bytes));
            assert!(memory.lower_bound_bytes <= memory.planned_bytes);
            assert!(memory.planned_bytes <= memory.without_reuse_bytes);
            assert!(memory.planned_bytes as f64 <= 1.05 * memory.lower_bound_bytes as f64);
        }
    }
    let fixed = Bindings::new([("batch", 1)]);
    let error = model(Level::O3).peak_formula().evaluate(&fixed).unwrap_err();
    assert_eq!(error, "dimension `sequence` is not bound");
}

#[test]
fn the_largest_batch_is_the_largest() {
    for level in [Level::O0, Level::O3] {
        let model = model(level);
        let total = |batch, sequence| model.memory(&sizes(batch, sequence)).unwrap().total_bytes();
        for sequence in [1, 7, 64] {
            for batch in [1, 2, 5, 17] {
                for budget in [total(batch, sequence), total(batch + 1, sequence) - 1] {
                    let largest = model.largest_batch(budget, sequence).unwrap().unwrap();
                    let fits = (1..40).filter(|&batch| total(batch, sequence) <= budget).max();
                    assert_eq!(Some(largest), fits, "{level:?} {batch}×{sequence}");
                }
            }
            assert_eq!(model.largest_batch(total(1, sequence) - 1, sequence), Ok(None));
        }
    }
}

#[test]
fn other_sizes_are_searched_too() {
    let model = model(Level::O3);
    let batch = Bindings::new([("batch", 3)]);
    let budget = model.memory(&sizes(3, 20)).unwrap().total_bytes();
    assert_eq!(model.largest("sequence", &batch, budget), Ok(Some(20)));
    // The model has no more positions, whatever the memory.
    assert_eq!(model.largest("sequence", &batch, 1 << 40), Ok(Some(POSITIONS)));
    assert!(matches!(
        model.largest("sequence", &Bindings::default(), budget),
        Err(RuntimeError::Sizes { .. })
    ));
}

#[test]
fn a_run_beyond_the_budget_is_refused_before_it_allocates() {
    let budget = model(Level::O3).memory(&sizes(8, 32)).unwrap().total_bytes();
    let mut session = limited(budget).unwrap().session();
    let mut run = |batch, sequence| {
        let [ids, mask] = text(batch, sequence);
        let inputs = [("input_ids", &ids), ("attention_mask", &mask)];
        let result = session.run(&inputs).map(|outputs| outputs[0].shape().to_vec());
        (result, format!("{session:?}"))
    };
    for (batch, sequence) in [(9, 32), (8, 33), (64, 64)] {
        let (result, session) = run(batch, sequence);
        let Err(RuntimeError::Memory { asked, needed_bytes, budget_bytes, advice }) = result else {
            panic!("{batch}×{sequence}: {result:?}")
        };
        assert_eq!(asked, format!("batch = {batch}, sequence = {sequence}"));
        assert!(needed_bytes > budget && budget_bytes == budget);
        let fits = |size: &str| advice.contains(size);
        assert!(batch != 9 || fits("batch = 8 or sequence = "), "{advice}");
        assert!(sequence != 33 || fits(" or sequence = 32 fits"), "{advice}");
        assert!(session.contains("arena_bytes: 0"), "{session}");
    }
    assert_eq!(run(8, 32).0, Ok(vec![8, 2]));
    assert!(run(9, 32).0.is_err());
    assert_eq!(run(1, 64).0, Ok(vec![1, 2]));
}

#[test]
fn weights_beyond_the_budget_are_refused() {
    let error = limited(1000).unwrap_err();
    assert!(matches!(error, RuntimeError::Memory { budget_bytes: 1000, .. }), "{error}");
    let message = error.to_string();
    assert!(message.starts_with("the model without any input needs "), "{message}");
    if let Ok(half) = memory_fraction(0.5) {
        assert!(limited(half).is_ok());
    }
}

#[test]
fn a_run_without_sizes_to_choose_is_refused_too() {
    let mut graph = Graph::new("fixed");
    let x = graph.add_input("x", DType::F32, vec![512.into()]).unwrap();
    let y = graph.add_node("y", Op::Relu, &[x]).unwrap();
    graph.set_outputs(&[y]);
    let options = CompileOptions { memory_budget: Some(1000), ..options(Level::O3) };
    let x = Tensor::from_fn(&[512], |i| i as f32);
    let error = compile(&graph, &options).unwrap().session().run(&[("x", &x)]).unwrap_err();
    let expected = "bytes, the memory budget is 1000: raise the budget";
    let message = error.to_string();
    assert!(message.starts_with("a run needs ") && message.ends_with(expected), "{message}");
}

#[test]
fn a_run_whose_sizes_depend_on_values_stops_at_the_budget() {
    let mut graph = Graph::new("repeated");
    let x = graph.add_input("x", DType::F32, vec![1.into()]).unwrap();
    let sizes = graph.add_input("sizes", DType::I64, vec![2.into()]).unwrap();
    let wide = graph.add_node("wide", Op::Expand(Expand {}), &[x, sizes]).unwrap();
    // Lets go of the one before.
    let narrow = graph.add_node("narrow", Op::Relu, &[wide]).unwrap();
    let y = graph.add_node("y", Op::Tanh, &[narrow]).unwrap();
    graph.set_outputs(&[y]);
    // Two of the values that a run of 10 × 100 writes.
    let options = CompileOptions { memory_budget: Some(2 * 4000 + 64), ..options(Level::O3) };
    let model = compile(&graph, &options).unwrap();
    let x = Tensor::from_fn(&[1], |_| 1f32);
    let run = |rows: i64| {
        let sizes = Tensor::new(&[2], vec![rows, 100]).unwrap();
        model.session().run(&[("x", &x), ("sizes", &sizes)]).map(|y| y[0].shape().to_vec())
    };
    assert_eq!(run(10), Ok(vec![10, 100]));
    let message = run(11).unwrap_err().to_string();
    assert!(message.starts_with("a run up to node `narrow`, whose sizes depend on"), "{message}");
    // The system would have no such memory.
    let message = run(1 << 40).unwrap_err().to_string();
    assert!(message.starts_with("a run up to node `wide`, whose sizes depend on"), "{message}");
}

#[test]
fn a_few_numbers_do_not_fold_into_a_large_constant() {
    for (size, folded) in [(1 << 20, true), (1 << 23, false)] {
        let mut graph = Graph::new("filled");
        let x = graph.add_input("x", DType::F32, vec![1.into()]).unwrap();
        let one = graph.add_weight("one", Tensor::from_fn(&[1], |_| 1f32)).unwrap();
        let sizes =
            graph.add_weight("sizes", Tensor::new(&[1], vec![size as i64]).unwrap()).unwrap();
        let ones = graph.add_node("ones", Op::Expand(Expand {}), &[one, sizes]).unwrap();
        let y = graph.add_node("y", Op::Add, &[x, ones]).unwrap();
        graph.set_outputs(&[y]);
        let model = compile(&graph, &options(Level::O3)).unwrap();
        assert_eq!(model.explain().constant_bytes > 1 << 20, folded);
    }
}

#[test]
fn compile_times_are_reported() {
    let times = model(Level::O3).explain().times;
    let all = [times.passes_ms, times.packing_ms, times.memory_ms, times.threads_ms];
    assert!(all.iter().all(|time| time.is_finite() && *time >= 0.0), "{times:?}");
    assert!(all.iter().sum::<f64>() > 0.0);
    let json = serde_json::to_value(times).unwrap();
    assert!(json["packing_ms"].is_number());
}
