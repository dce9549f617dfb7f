//! GELU written out, as exporters do it, → one operator: `0.5·x·(1 + erf(x/√2))` and
//! `0.5·x·(1 + tanh(√(2/π)·(x + 0.044715·x³)))`, factors in any order.

use graph::Op;
use graph::op::{Binary, Gelu, Unary};

use super::factors::{Factors, close};
use super::repeat;
use crate::module::{Id, Module, Operation};

pub(super) fn run(module: &mut Module) -> usize {
    let fired = repeat(module, rewrite);
    module.sweep();
    fired
}

fn rewrite(module: &mut Module, index: usize) -> bool {
    let Some((x, gelu, absorbed)) = find(module, index) else { return false };
    module.fuse(index, &absorbed, Operation::Graph(Op::Gelu(gelu)), vec![x]);
    true
}

/// The input, the kind of GELU, and the nodes that make it up.
fn find(module: &Module, index: usize) -> Option<(Id, Gelu, Vec<usize>)> {
    let product = Factors::of(module, index)?;
    let [a, b] = product.values.as_slice() else { return None };
    let gate = |x: Id, gate: Id| {
        let (gelu, scale, inner) = gate_of(module, gate, x)?;
        let nodes = [product.nodes.as_slice(), &inner].concat();
        close(product.constant * scale, 0.5).then_some((x, gelu, nodes))
    };
    gate(*a, *b).or_else(|| gate(*b, *a))
}

/// `1 + erf(…)` or `1 + tanh(…)` of `x`, times a constant, and its nodes.
fn gate_of(module: &Module, gate: Id, x: Id) -> Option<(Gelu, f32, Vec<usize>)> {
    let (sum, Op::Add) = module.produced(gate)? else { return None };
    if module.uses(gate) != 1 {
        return None;
    }
    let [a, b] = module.nodes[sum].inputs[..] else { return None };
    let inner = if module.scalar(a) == Some(1.0) { b } else { a };
    if module.scalar(a) != Some(1.0) && module.scalar(b) != Some(1.0) {
        return None;
    }
    let (curve, op) = module.produced(inner)?;
    if module.uses(inner) != 1 {
        return None;
    }
    let argument = module.nodes[curve].inputs[0];
    let (gelu, nodes) = match op {
        Op::Unary(Unary::Erf) => (Gelu::Erf, erf_argument(module, argument, x)?),
        Op::Tanh => (Gelu::Tanh, tanh_argument(module, argument, x)?),
        _ => return None,
    };
    Some((gelu, 1.0, [vec![sum, curve], nodes].concat()))
}

/// The nodes of `x/√2`.
fn erf_argument(module: &Module, argument: Id, x: Id) -> Option<Vec<usize>> {
    let product = Factors::of(module, module.producer(argument)?)?;
    let fits = product.values == [x] && close(product.constant, std::f32::consts::FRAC_1_SQRT_2);
    (fits && module.uses(argument) == 1).then_some(product.nodes)
}

/// The nodes of `√(2/π)·(x + 0.044715·x³)`.
fn tanh_argument(module: &Module, argument: Id, x: Id) -> Option<Vec<usize>> {
    let outer = Factors::of(module, module.producer(argument)?)?;
    let &[sum] = outer.values.as_slice() else { return None };
    let root = (2.0 / std::f32::consts::PI).sqrt();
    let (add, Op::Add) = module.produced(sum)? else { return None };
    let [a, b] = module.nodes[add].inputs[..] else { return None };
    let cubic = if a == x { b } else { a };
    let single = [argument, sum, cubic].iter().all(|&id| module.uses(id) == 1);
    if !single || !close(outer.constant, root) || (a != x && b != x) {
        return None;
    }
    let inner = Factors::of(module, module.producer(cubic)?)?;
    let mut nodes = [outer.nodes.as_slice(), &[add], &inner.nodes].concat();
    let power = match inner.values.as_slice() {
        [a, b, c] if [a, b, c].iter().all(|id| **id == x) => Vec::new(),
        &[cube] => vec![cube_of(module, cube, x)?],
        _ => return None,
    };
    nodes.extend(power);
    close(inner.constant, 0.044_715).then_some(nodes)
}

/// The node of `x³`.
fn cube_of(module: &Module, cube: Id, x: Id) -> Option<usize> {
    let (power, Op::Binary(Binary::Pow)) = module.produced(cube)? else { return None };
    let [base, exponent] = module.nodes[power].inputs[..] else { return None };
    let fits = base == x && module.scalar(exponent) == Some(3.0) && module.uses(cube) == 1;
    fits.then_some(power)
}
