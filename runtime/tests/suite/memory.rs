//! How much memory a run takes, known and limited before it runs.

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::{Bindings, Graph, Tensor};
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
fn compile_times_are_reported() {
    let times = model(Level::O3).explain().times;
    let all = [times.passes_ms, times.packing_ms, times.memory_ms, times.threads_ms];
    assert!(all.iter().all(|time| time.is_finite() && *time >= 0.0), "{times:?}");
    assert!(all.iter().sum::<f64>() > 0.0);
    let json = serde_json::to_value(times).unwrap();
    assert!(json["packing_ms"].is_number());
}
