//! Freed memory is poisoned, and reading it shows.

use graph::bert::{BertConfig, BertLayer, build, initial_weights};
use graph::{DType, Dim, Graph, Op};

use super::*;
use crate::{CompileOptions, compile};

const POISONED: bool = cfg!(debug_assertions);

fn encoder_session() -> (Session, [Tensor; 2]) {
    let layer = BertLayer { heads: 2, intermediate: 32 };
    let graph = build(&BertConfig::uniform(20, 16, 2, layer), &mut initial_weights(1)).unwrap();
    let session = compile(&graph, &CompileOptions::default()).unwrap().session();
    let ids = Tensor::from_fn(&[2, 5], |i| i as i64 % 20);
    (session, [ids, Tensor::from_fn(&[2, 5], |_| 1i64)])
}

/// Ranges of the arena that are free when the run ends, and that nothing was written to since.
fn free_at_end(session: &Session) -> Vec<Range<usize>> {
    let plan = &session.plans[0].plan;
    let nodes = || session.model.program.module.nodes.iter().enumerate();
    let written_later = |step: usize, freed: &Range<usize>| {
        nodes().skip(step + 1).any(|(index, node)| {
            let Place::Arena(output) = plan.places[node.output.0].clone() else { return false };
            [output, plan.scratch[index].clone()]
                .iter()
                .any(|written| written.start < freed.end && freed.start < written.end)
        })
    };
    let ended = plan.freed.iter().filter(|(step, _)| *step < nodes().len());
    ended
        .filter(|(step, range)| !written_later(*step, range))
        .map(|(_, range)| range.clone())
        .collect()
}

#[test]
fn freed_memory_is_poisoned() {
    let (mut session, [ids, mask]) = encoder_session();
    session.run(&[("input_ids", &ids), ("attention_mask", &mask)]).unwrap();
    let free = free_at_end(&session);
    assert_eq!(!free.is_empty(), POISONED);
    let start = session.arena.as_ptr().align_offset(ALIGNMENT);
    let poisoned = |range: Range<usize>| session.arena[start..][range].iter().all(|&b| b == POISON);
    assert!(free.into_iter().all(poisoned));
}

#[test]
fn reading_freed_memory_shows_in_the_answer() {
    let mut graph = Graph::new("chain");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("batch")]).unwrap();
    let a = graph.add_node("a", Op::Relu, &[x]).unwrap();
    let b = graph.add_node("b", Op::Tanh, &[a]).unwrap();
    let c = graph.add_node("c", Op::Mul, &[a, b]).unwrap();
    graph.set_outputs(&[c]);
    let mut session = compile(&graph, &CompileOptions::default()).unwrap().session();
    let x = Tensor::from_fn(&[40], |i| i as f32);
    let sum = |session: &mut Session| {
        session.run(&[("x", &x)]).unwrap()[0].elements::<f32>().unwrap().iter().sum::<f32>()
    };
    assert!(sum(&mut session).is_finite());
    let Place::Arena(read_last) = session.plans[0].plan.places[1].clone() else {
        panic!("no place")
    };
    session.plans[0].plan.freed.insert(0, (1, read_last));
    assert_eq!(sum(&mut session).is_nan(), POISONED);
}
