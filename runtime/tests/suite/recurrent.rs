//! Recurrent layers, and entries added around tensors.

use graph::op::{
    Activation, ActivationKind, Cell, Direction, Pad, PadMode, Recurrent, RecurrentInput,
    RecurrentOutput, ReshapeTo,
};
use graph::{DType, Dim, Graph, Op, Tensor, ValueId};

use crate::{Sketch, check, numbers};

const HIDDEN: usize = 9;
const INPUTS: usize = 5;

fn functions(kinds: &[ActivationKind], directions: usize) -> Vec<Activation> {
    let function = |&kind| Activation { kind, alpha: 0.0, beta: 0.0 };
    kinds.iter().map(function).cycle().take(kinds.len() * directions).collect()
}

/// Compares a layer of two directions with its definition.
#[track_caller]
fn check_layer(cell: Cell, outputs: &[RecurrentOutput], state: bool, kernel: &str) {
    use ActivationKind::{Sigmoid, Tanh};
    let directions = vec![Direction::Forward, Direction::Reverse];
    let (count, rows) = (directions.len(), cell.gates() * HIDDEN);
    let kinds = match cell {
        Cell::Rnn => &[Tanh][..],
        Cell::Gru { .. } => &[Sigmoid, Tanh],
        Cell::Lstm { .. } => &[Sigmoid, Tanh, Tanh],
    };
    let is_lstm = matches!(cell, Cell::Lstm { .. });
    let mut optional = vec![RecurrentInput::Bias];
    let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("time"), 3.into(), INPUTS.into()]);
    let mut inputs = vec![x];
    for (seed, shape) in [[count, rows, INPUTS], [count, rows, HIDDEN]].iter().enumerate() {
        inputs.push(sketch.weight(numbers(shape, seed as u64, 0.4)));
    }
    inputs.push(sketch.weight(numbers(&[count, 2 * rows], 3, 0.4)));
    if state {
        let states = [RecurrentInput::InitialState, RecurrentInput::InitialCell];
        for (seed, which) in states.into_iter().take(1 + usize::from(is_lstm)).enumerate() {
            optional.push(which);
            inputs.push(sketch.weight(numbers(&[count, 3, HIDDEN], 4 + seed as u64, 0.4)));
        }
    }
    let layer = Recurrent {
        cell,
        activations: functions(kinds, count),
        directions,
        hidden: HIDDEN,
        clip: None,
        batch_first: false,
        optional,
        output: RecurrentOutput::States,
    };
    let outputs: Vec<ValueId> = outputs
        .iter()
        .map(|&output| sketch.node(Op::Recurrent(Recurrent { output, ..layer.clone() }), &inputs))
        .collect();
    let graph = sketch.finish(&outputs);
    for time in [4, 1, 0] {
        let model = check(&graph, &[("x", numbers(&[time, 3, INPUTS], 9, 1.0))], 5e-6);
        let kernels: Vec<&str> =
            model.explain().nodes.iter().map(|node| node.kernel.as_str()).collect();
        let others = if kernel == "reference" { kernel } else { "part" };
        assert_eq!(kernels[0], kernel);
        assert!(kernels[1..].iter().all(|&other| other == others), "{kernels:?}");
    }
}

#[test]
fn recurrent_layers() {
    use RecurrentOutput::{LastCell, LastState, States};
    for output in [States, LastState] {
        for state in [false, true] {
            check_layer(Cell::Rnn, &[output], state, "rnn.f32");
            check_layer(Cell::Gru { linear_before_reset: true }, &[output], state, "gru.f32");
            check_layer(Cell::Gru { linear_before_reset: false }, &[output], state, "reference");
            check_layer(Cell::Lstm { input_forget: false }, &[output], state, "lstm.f32");
            check_layer(Cell::Lstm { input_forget: true }, &[output], state, "reference");
        }
    }
    check_layer(Cell::Lstm { input_forget: false }, &[LastCell], true, "lstm.f32");
}

/// All outputs of a layer come from one recurrence.
#[test]
fn several_outputs() {
    use RecurrentOutput::{LastCell, LastState, States};
    for state in [false, true] {
        check_layer(Cell::Rnn, &[LastState, States], state, "rnn.f32");
        let gru = |linear_before_reset| Cell::Gru { linear_before_reset };
        check_layer(gru(true), &[States, LastState], state, "gru.f32");
        check_layer(gru(false), &[States, LastState], state, "reference");
        for outputs in
            [&[States, LastState, LastCell][..], &[LastCell, States], &[LastCell, LastState]]
        {
            check_layer(Cell::Lstm { input_forget: false }, outputs, state, "lstm.f32");
        }
    }
}

/// Times that only a run tells, and weights that were packed.
#[test]
fn sequences_of_unknown_length() {
    let mut graph = Graph::new("unknown");
    let x = graph.add_input("x", DType::F32, vec![Dim::symbol("all")]).unwrap();
    let sizes = graph.add_input("sizes", DType::I64, vec![3.into()]).unwrap();
    let mut sketch = Sketch { graph };
    let rows = 4 * HIDDEN;
    let w = sketch.weight(numbers(&[1, rows, INPUTS], 1, 0.4));
    let r = sketch.weight(numbers(&[1, rows, HIDDEN], 2, 0.4));
    let x = sketch.node(Op::ReshapeTo(ReshapeTo { allow_zero: false }), &[x, sizes]);
    let kinds = [ActivationKind::Sigmoid, ActivationKind::Tanh, ActivationKind::Tanh];
    let op = |output| {
        Op::Recurrent(Recurrent {
            cell: Cell::Lstm { input_forget: false },
            directions: vec![Direction::Forward],
            hidden: HIDDEN,
            activations: functions(&kinds, 1),
            clip: None,
            batch_first: false,
            optional: Vec::new(),
            output,
        })
    };
    let outputs = [RecurrentOutput::LastCell, RecurrentOutput::States]
        .map(|output| sketch.node(op(output), &[x, w, r]));
    let graph = sketch.finish(&outputs);
    let sizes = Tensor::new(&[3], vec![4i64, 2, INPUTS as i64]).unwrap();
    let model =
        check(&graph, &[("x", numbers(&[8 * INPUTS], 3, 1.0)), ("sizes", sizes.clone())], 5e-6);
    assert!(model.explain().dynamic);
    let kernels: Vec<&str> =
        model.explain().nodes.iter().map(|node| node.kernel.as_str()).collect();
    assert_eq!(kernels[1..], ["lstm.f32", "part"]);
    // Inputs that do not fit the weights.
    let sizes = Tensor::new(&[3], vec![4i64, INPUTS as i64, 2]).unwrap();
    let x = numbers(&[8 * INPUTS], 3, 1.0);
    let error = model.session().run(&[("x", &x), ("sizes", &sizes)]).unwrap_err();
    assert!(error.to_string().contains("do not fit"), "{error}");
}

#[test]
fn padding() {
    use PadMode::{Constant, Edge, Reflect, Wrap};
    let all = [Constant, Edge, Reflect, Wrap];
    let cases: [(&[i64], &[i64]); 6] = [
        (&[1, 2, 2, 1], &[1, 2]),
        (&[0, 3], &[2]),
        (&[2, 2], &[1]),
        (&[-1, 1], &[-1]),
        (&[0, 0, 0, 0, -2, 0], &[0, 1, 2]),
        (&[], &[]),
    ];
    for (mode, (pads, axes)) in all.into_iter().flat_map(|mode| cases.map(|case| (mode, case))) {
        let (mut sketch, x) = Sketch::shaped(vec![Dim::symbol("batch"), 3.into(), 4.into()]);
        let list = |list: &[i64]| Tensor::new(&[list.len()], list.to_vec()).unwrap();
        let inputs = [list(pads), Tensor::scalar(0.5f32), list(axes)];
        let [pads, value, axes] = inputs.map(|tensor| sketch.weight(tensor));
        let y = sketch.node(Op::Pad(Pad { mode }), &[x, pads, value, axes]);
        let model = check(&sketch.finish(&[y]), &[("x", numbers(&[2, 3, 4], 5, 1.0))], 0.0);
        assert_eq!(model.explain().nodes.last().unwrap().kernel, "pad.copy");
    }
}
