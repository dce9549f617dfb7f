//! Attention and rotary embedding. Inputs of three dimensions, where the heads lie in the last, get
//! a dimension of their own for them.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::ValueId;
use crate::op::{
    Attention, AttentionPart, Concat, Op, Reshape, RotaryEmbedding, RotaryPairs, Transpose,
    VisibleKeys,
};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "Attention", import: attention },
    OperatorEntry { name: "RotaryEmbedding", import: rotary_embedding },
];

/// `[batch, sequence, heads · size]` as `[batch, heads, sequence, size]`.
fn split_heads(
    node: &mut NodeContext<'_, '_>,
    x: ValueId,
    heads: i64,
) -> Result<ValueId, ImportError> {
    if heads < 1 {
        return Err(node.invalid(format!("expected a number of heads, found {heads}")));
    }
    let x = node.add(Op::Reshape(Reshape { shape: vec![0, 0, heads, -1] }), &[x])?;
    node.add(swap(), &[x])
}

fn swap() -> Op {
    Op::Transpose(Transpose { permutation: vec![0, 2, 1, 3] })
}

/// Writes `x`, `[batch, heads, sequence, size]`, with the heads in the last dimension.
fn output_joined(
    node: &mut NodeContext<'_, '_>,
    op: Op,
    inputs: &[ValueId],
) -> Result<(), ImportError> {
    let x = node.add(op, inputs)?;
    let x = node.add(swap(), &[x])?;
    node.output(0, Op::Reshape(Reshape { shape: vec![0, 0, -1] }), &[x])
}

fn attention(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (mut q, mut k, mut v) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let split = node.rank(q) == 3;
    if split {
        let (heads, key_heads) = (node.int_or("q_num_heads", 0), node.int_or("kv_num_heads", 0));
        q = split_heads(node, q, heads)?;
        k = split_heads(node, k, key_heads)?;
        v = split_heads(node, v, key_heads)?;
    }
    let (mask, lengths) = (node.optional(3), node.optional(6));
    let past = match (node.optional(4), node.optional(5)) {
        (Some(key), Some(value)) => Some([key, value]),
        (None, None) => None,
        _ => return Err(node.invalid("expected both past_key and past_value, or neither")),
    };
    for window in ["left_window_size", "right_window_size"] {
        match node.int_or(window, -1) {
            -1 => {}
            size => return Err(node.unsupported(format!("{window} = {size}"))),
        }
    }
    let causal = node.flag("is_causal", false);
    let op = |part| {
        Op::Attention(Attention {
            scale: node.has("scale").then(|| node.float_or("scale", 1.0)),
            softcap: node.float_or("softcap", 0.0),
            visible: if causal { VisibleKeys::Causal } else { VisibleKeys::All },
            mask: mask.is_some(),
            past: past.is_some(),
            lengths: lengths.is_some(),
            part,
        })
    };
    let output = op(AttentionPart::Output);
    let products = op(match node.int_or("qk_matmul_output_mode", 0) {
        0 => AttentionPart::Products,
        1 => AttentionPart::Capped,
        2 => AttentionPart::Masked,
        3 => AttentionPart::Weights,
        other => return Err(node.unsupported(format!("qk_matmul_output_mode = {other}"))),
    });
    let optional = [mask, past.map(|past| past[0]), past.map(|past| past[1]), lengths];
    let inputs: Vec<ValueId> =
        [q, k, v].into_iter().chain(optional.into_iter().flatten()).collect();
    for (index, new) in [(1, k), (2, v)] {
        match past {
            Some(past) => {
                node.output(index, Op::Concat(Concat { axis: 2 }), &[past[index - 1], new])?;
            }
            None => node.set(index, new),
        }
    }
    node.output(3, products, &inputs)?;
    if split { output_joined(node, output, &inputs) } else { node.output(0, output, &inputs) }
}

fn rotary_embedding(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let mut inputs = vec![node.input(0)?, node.input(1)?, node.input(2)?];
    inputs.extend(node.optional(3));
    let width = usize::try_from(node.int_or("rotary_embedding_dim", 0));
    let width = width.map_err(|_| node.invalid("expected a width of at least 0"))?;
    let interleaved = node.flag("interleaved", false);
    let op = Op::RotaryEmbedding(RotaryEmbedding {
        pairs: if interleaved { RotaryPairs::Interleaved } else { RotaryPairs::Halves },
        width: (width > 0).then_some(width),
    });
    if node.rank(inputs[0]) != 3 {
        return node.output(0, op, &inputs);
    }
    let heads = node.int_or("num_heads", 0);
    inputs[0] = split_heads(node, inputs[0], heads)?;
    output_joined(node, op, &inputs)
}
