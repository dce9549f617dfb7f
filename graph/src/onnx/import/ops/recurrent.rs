//! Recurrent layers.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{
    Activation, ActivationKind, Cell, Direction, Op, Recurrent, RecurrentInput, RecurrentOutput,
};
use crate::{DType, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "GRU", import: gru },
    OperatorEntry { name: "LSTM", import: lstm },
    OperatorEntry { name: "RNN", import: rnn },
];

/// Functions of an LSTM where the node names none.
pub(super) const LSTM_FUNCTIONS: [ActivationKind; 3] =
    [ActivationKind::Sigmoid, ActivationKind::Tanh, ActivationKind::Tanh];

fn gru(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let linear_before_reset = node.flag("linear_before_reset", false);
    recurrent(
        node,
        Cell::Gru { linear_before_reset },
        &[ActivationKind::Sigmoid, ActivationKind::Tanh],
    )
}

fn lstm(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let input_forget = node.flag("input_forget", false);
    recurrent(node, Cell::Lstm { input_forget }, &LSTM_FUNCTIONS)
}

fn rnn(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    recurrent(node, Cell::Rnn, &[ActivationKind::Tanh])
}

fn recurrent(
    node: &mut NodeContext<'_, '_>,
    cell: Cell,
    functions: &[ActivationKind],
) -> Result<(), ImportError> {
    let weights = [node.input(1)?, node.input(2)?];
    with_weights(node, cell, functions, weights)
}

/// The outputs of a layer with weights `[w, r]`, whatever the node has in their place.
pub(super) fn with_weights(
    node: &mut NodeContext<'_, '_>,
    cell: Cell,
    functions: &[ActivationKind],
    [w, r]: [ValueId; 2],
) -> Result<(), ImportError> {
    let directions = match node.text_or("direction", "forward").as_str() {
        "forward" => vec![Direction::Forward],
        "reverse" => vec![Direction::Reverse],
        "bidirectional" => vec![Direction::Forward, Direction::Reverse],
        other => return Err(node.unsupported(format!("direction = `{other}`"))),
    };
    let x = node.input(0)?;
    let all = [
        RecurrentInput::Bias,
        RecurrentInput::Lengths,
        RecurrentInput::InitialState,
        RecurrentInput::InitialCell,
        RecurrentInput::Peepholes,
    ];
    let (mut inputs, mut optional) = (vec![x, w, r], Vec::new());
    for (index, which) in all.into_iter().enumerate() {
        if let Some(id) = node.optional(3 + index) {
            inputs.push(id);
            optional.push(which);
        }
    }
    if let Some(&id) = inputs.iter().find(|&&id| !matches!(node.dtype(id), DType::F32 | DType::I32))
    {
        return Err(node.unsupported(format!("an input of type {}", node.dtype(id))));
    }
    let hidden = node.shape(r).get(2).and_then(crate::Dim::fixed);
    let hidden = hidden.ok_or_else(|| node.unsupported("weights of a size that is not fixed"))?;
    let activations = activations(node, functions, directions.len())?;
    let clip = node.has("clip").then(|| node.float_or("clip", 0.0));
    let outputs = [RecurrentOutput::States, RecurrentOutput::LastState, RecurrentOutput::LastCell];
    for (index, output) in outputs.into_iter().enumerate() {
        let op = Recurrent {
            cell,
            directions: directions.clone(),
            hidden,
            activations: activations.clone(),
            clip,
            batch_first: node.flag("layout", false),
            optional: optional.clone(),
            output,
        };
        node.output(index, Op::Recurrent(op), &inputs)?;
    }
    Ok(())
}

/// The functions of every direction. Parameters stand in one list for those that take them.
fn activations(
    node: &NodeContext<'_, '_>,
    defaults: &[ActivationKind],
    directions: usize,
) -> Result<Vec<Activation>, ImportError> {
    let names = node.texts("activations");
    let kinds: Vec<ActivationKind> = if names.is_empty() {
        defaults.repeat(directions)
    } else {
        let kind = |name: &String| {
            ActivationKind::from_name(name)
                .ok_or_else(|| node.unsupported(format!("the function `{name}`")))
        };
        names.iter().map(kind).collect::<Result<_, _>>()?
    };
    if kinds.len() != defaults.len() * directions {
        let (expected, found) = (defaults.len() * directions, kinds.len());
        return Err(node.invalid(format!("expected {expected} functions, found {found}")));
    }
    let list = |name: &str| node.floats(name).unwrap_or_default().into_iter();
    let (mut alphas, mut betas) = (list("activation_alpha"), list("activation_beta"));
    let activation = |kind: ActivationKind| {
        let (alpha, beta) = kind.defaults();
        let alpha = alpha.map_or(0.0, |default| alphas.next().unwrap_or(default));
        let beta = beta.map_or(0.0, |default| betas.next().unwrap_or(default));
        Activation { kind, alpha, beta }
    };
    Ok(kinds.into_iter().map(activation).collect())
}
