//! Einsum against its sums, and what it is written with.

use std::collections::BTreeMap;

use super::models::{import, model, node, typed, with};
use crate::onnx::proto::{Attribute, DimensionValue, Model};
use crate::op::Op;
use crate::{Dim, Graph, Tensor, reference};

fn einsum(equation: &str, shapes: &[&[i64]], elem_type: i32) -> Model {
    let names: Vec<String> = (0..shapes.len()).map(|index| format!("x{index}")).collect();
    let inputs = names.iter().zip(shapes).map(|(name, shape)| typed(name, elem_type, shape));
    let s = Some(equation.as_bytes().to_vec());
    let equation = Attribute { name: Some("equation".to_owned()), s, ..Default::default() };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    model(inputs.collect(), vec![with(node("Einsum", &names, &["y"]), equation)], &["y"])
}

/// Names the dimensions of every input.
fn named(model: &mut Model, names: &[&[&str]]) {
    for (input, names) in model.graph.as_mut().unwrap().input.iter_mut().zip(names) {
        let kind = input.r#type.as_mut().unwrap().tensor_type.as_mut().unwrap();
        for (dim, name) in kind.shape.as_mut().unwrap().dim.iter_mut().zip(*names) {
            if name.parse::<i64>().is_err() {
                dim.value = Some(DimensionValue::Symbol((*name).to_owned()));
            }
        }
    }
}

fn values(shapes: &[&[i64]]) -> Vec<Vec<f32>> {
    let value = |index: usize, seed: usize| ((index * 37 + seed * 11) % 23) as f32 - 9.0;
    let count = |shape: &&[i64]| shape.iter().product::<i64>() as usize;
    let seeds = shapes.iter().enumerate();
    seeds.map(|(seed, shape)| (0..count(shape)).map(|i| value(i, seed)).collect()).collect()
}

/// The sum over all indices, for an equation of letters alone.
fn expected(equation: &str, shapes: &[&[i64]], values: &[Vec<f32>]) -> (Vec<usize>, Vec<f32>) {
    let (left, output) = equation.split_once("->").unwrap();
    let terms: Vec<Vec<char>> = left.split(',').map(|term| term.chars().collect()).collect();
    let mut sizes: BTreeMap<char, usize> = BTreeMap::new();
    for (term, shape) in terms.iter().zip(shapes) {
        for (&letter, &size) in term.iter().zip(*shape) {
            let known = sizes.entry(letter).or_insert(1);
            *known = (*known).max(size as usize);
        }
    }
    let output: Vec<char> = output.chars().collect();
    let shape: Vec<usize> = output.iter().map(|letter| sizes[letter]).collect();
    let mut sums = vec![0f64; shape.iter().product()];
    for mut rest in 0..sizes.values().product::<usize>() {
        let mut at: BTreeMap<char, usize> = BTreeMap::new();
        for (&letter, &size) in &sizes {
            at.insert(letter, rest % size);
            rest /= size;
        }
        let mut product = 1.0;
        for ((term, shape), values) in terms.iter().zip(shapes).zip(values) {
            let place = term.iter().zip(*shape).fold(0, |place, (letter, &size)| {
                place * size as usize + at[letter].min(size as usize - 1)
            });
            product *= f64::from(values[place]);
        }
        let place = output.iter().fold(0, |place, letter| place * sizes[letter] + at[letter]);
        sums[place] += product;
    }
    (shape, sums.into_iter().map(|sum| sum as f32).collect())
}

fn answer(graph: &Graph, shapes: &[&[i64]], values: &[Vec<f32>]) -> Tensor {
    let names: Vec<String> = (0..shapes.len()).map(|index| format!("x{index}")).collect();
    let sizes = |shape: &[i64]| shape.iter().map(|&size| size as usize).collect::<Vec<_>>();
    let tensors = names.iter().zip(shapes).zip(values).map(|((name, shape), values)| {
        (name.as_str(), Tensor::new(&sizes(shape), values.clone()).unwrap())
    });
    reference::evaluate(graph, &tensors.collect::<Vec<_>>()).unwrap().remove(0)
}

/// Numbers of products of matrices, and of others.
fn products(graph: &Graph) -> [usize; 2] {
    let count = |op: &Op| graph.nodes().filter(|(_, node)| node.op == *op).count();
    [count(&Op::MatMul), count(&Op::Mul)]
}

/// The equation, the same with letters alone, the shapes, and how many products it takes.
type Case = (&'static str, &'static str, &'static [&'static [i64]], [usize; 2]);
const CASES: &[Case] = &[
    ("ij,jk", "ij,jk->ik", &[&[2, 3], &[3, 4]], [1, 0]),
    ("ij , jk -> ki", "ij,jk->ki", &[&[2, 3], &[3, 4]], [1, 0]),
    ("bhqd,bhkd->bhqk", "bhqd,bhkd->bhqk", &[&[2, 3, 4, 5], &[2, 3, 6, 5]], [1, 0]),
    ("bqhd,bkhd->bhqk", "bqhd,bkhd->bhqk", &[&[2, 4, 3, 5], &[2, 6, 3, 5]], [1, 0]),
    ("bsd,dhe->bshe", "bsd,dhe->bshe", &[&[2, 3, 4], &[4, 2, 5]], [1, 0]),
    ("bshe,hed->bsd", "bshe,hed->bsd", &[&[2, 3, 2, 5], &[2, 5, 4]], [1, 0]),
    ("ij,bj->bi", "ij,bj->bi", &[&[3, 4], &[2, 4]], [1, 0]),
    ("bhwc,hkc->bhwk", "bhwc,hkc->bhwk", &[&[2, 3, 4, 5], &[3, 6, 5]], [1, 0]),
    ("bi,bi->b", "bi,bi->b", &[&[2, 3], &[2, 3]], [1, 0]),
    ("bi,i", "bi,i->b", &[&[2, 3], &[3]], [1, 0]),
    ("i,i->", "i,i->", &[&[4], &[4]], [1, 0]),
    ("abij,cbji->ac", "abij,cbji->ac", &[&[2, 3, 4, 2], &[3, 3, 2, 4]], [1, 0]),
    ("axb,cxd->badc", "axb,cxd->badc", &[&[2, 5, 3], &[4, 5, 2]], [1, 0]),
    ("bi,beio->beo", "bi,beio->beo", &[&[2, 3], &[2, 4, 3, 5]], [1, 0]),
    ("beopi,bep->obei", "beopi,bep->obei", &[&[2, 3, 2, 4, 5], &[2, 3, 4]], [1, 0]),
    ("i,ioc->co", "i,ioc->co", &[&[3], &[3, 2, 4]], [1, 0]),
    ("i,j->ji", "i,j->ji", &[&[3], &[2]], [0, 1]),
    ("ij,ij->ij", "ij,ij->ij", &[&[2, 3], &[2, 3]], [0, 1]),
    ("ijk->ki", "ijk->ki", &[&[2, 3, 4]], [0, 0]),
    ("bA,Ba", "bA,Ba->ABab", &[&[2, 3], &[4, 2]], [0, 1]),
    ("ii->i", "ii->i", &[&[3, 3]], [0, 0]),
    ("ii", "ii->", &[&[3, 3]], [0, 0]),
    ("bici->cb", "bici->cb", &[&[2, 3, 4, 3]], [0, 0]),
    ("iii,i->i", "iii,i->i", &[&[3, 3, 3], &[3]], [0, 1]),
    ("ij,kl->il", "ij,kl->il", &[&[2, 3], &[4, 2]], [0, 1]),
    ("ij,jk,kl->il", "ij,jk,kl->il", &[&[2, 3], &[3, 4], &[4, 2]], [2, 0]),
    ("bi,ij,bj->b", "bi,ij,bj->b", &[&[2, 3], &[3, 4], &[2, 4]], [2, 0]),
    ("...ij,...jk->...ik", "abij,bjk->abik", &[&[2, 3, 4, 2], &[3, 2, 5]], [1, 0]),
    ("i...,i...->...", "iab,ib->ab", &[&[4, 2, 3], &[4, 3]], [1, 0]),
    ("...i,ij", "abi,ij->abj", &[&[2, 3, 4], &[4, 5]], [1, 0]),
    ("ij,jk->ik", "ij,jk->ik", &[&[2, 3], &[1, 4]], [0, 1]),
    ("ij,jk->ik", "ij,jk->ik", &[&[2, 1], &[3, 4]], [0, 1]),
    ("bij,bjk->bik", "bij,bjk->bik", &[&[1, 2, 3], &[5, 3, 4]], [1, 0]),
    ("...ij,...jk->...ik", "abij,abjk->abik", &[&[2, 1, 4, 2], &[1, 3, 2, 5]], [1, 0]),
];

/// Compares the answer with the sums that the letters ask for.
#[track_caller]
fn check_sums(graph: &Graph, letters: &str, shapes: &[&[i64]]) {
    let values = values(shapes);
    let (shape, sums) = expected(letters, shapes, &values);
    let y = answer(graph, shapes, &values);
    assert_eq!(y.shape(), shape, "{letters}");
    assert_eq!(y.elements::<f32>().unwrap(), sums, "{letters}");
}

#[test]
fn sums_are_what_the_equation_says() {
    for &(equation, letters, shapes, count) in CASES {
        let graph = import(&einsum(equation, shapes, 1)).unwrap();
        assert_eq!(products(&graph), count, "{equation}");
        check_sums(&graph, letters, shapes);
    }
}

/// Where no size is known before a run.
#[test]
fn dimensions_may_have_names() {
    for &(equation, letters, shapes, _) in CASES {
        if equation.contains("ii") || equation.contains("ici") || shapes.concat().contains(&1) {
            continue;
        }
        let mut model = einsum(equation, shapes, 1);
        let terms = letters.split("->").next().unwrap().split(',');
        let terms: Vec<Vec<String>> =
            terms.map(|term| term.chars().map(|letter| format!("n{letter}")).collect()).collect();
        let terms: Vec<Vec<&str>> =
            terms.iter().map(|term| term.iter().map(String::as_str).collect()).collect();
        named(&mut model, &terms.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let graph = import(&model).unwrap_or_else(|error| panic!("{equation}: {error}"));
        let known = graph
            .nodes()
            .all(|(_, node)| !graph.value_type(node.output).shape.iter().any(Dim::is_unknown));
        assert!(known, "{equation}");
        check_sums(&graph, letters, shapes);
    }
}

#[test]
fn attention_of_named_sizes_is_one_product() {
    let shapes: [&[i64]; 2] = [&[2, 4, 3, 5], &[2, 6, 3, 5]];
    let mut model = einsum("bqhd,bkhd->bhqk", &shapes, 1);
    named(&mut model, &[&["batch", "queries", "3", "5"], &["batch", "keys", "3", "5"]]);
    let graph = import(&model).unwrap();
    assert_eq!(products(&graph), [1, 0]);
    let shape = &graph.value_type(graph.outputs()[0]).shape;
    assert_eq!(crate::dim::display(shape), "[batch, 3, queries, keys]");
    assert!(graph.nodes().all(|(_, node)| !matches!(node.op, Op::Reshape(_))));
}

#[test]
fn matrices_that_lie_in_order_stay_where_they_are() {
    for (equation, shapes) in [
        ("bi,beio->beo", [&[2, 3][..], &[2, 4, 3, 5]]),
        ("beo,beoi->bei", [&[2, 4, 5], &[2, 4, 5, 3]]),
        ("bio,bi->bo", [&[2, 3, 5], &[2, 3]]),
        ("boi,bi->bo", [&[2, 3, 5], &[2, 5]]),
    ] {
        let graph = import(&einsum(equation, &shapes, 1)).unwrap();
        let moves = graph.nodes().any(|(_, node)| matches!(node.op, Op::Transpose(_)));
        assert!(!moves, "{equation}");
        check_sums(&graph, equation, &shapes);
    }
}

#[test]
fn integers_are_summed_too() {
    let graph = import(&einsum("ij,jk->ik", &[&[1, 2], &[2, 1]], 7)).unwrap();
    let input = |name, shape: &[usize]| (name, Tensor::new(shape, vec![3i64, -4]).unwrap());
    let y = reference::evaluate(&graph, &[input("x0", &[1, 2]), input("x1", &[2, 1])]).unwrap();
    assert_eq!(y[0].elements::<i64>().unwrap(), [25]);
}

#[test]
fn what_does_not_fit_is_named() {
    let check = |equation: &str, shapes: &[&[i64]], expected: &str| {
        let error = import(&einsum(equation, shapes, 1)).unwrap_err().to_string();
        assert_eq!(error, format!("node `y` (Einsum): {expected}"));
    };
    check("ij,jk->ik", &[&[2, 3], &[4, 5]], "expected 3 for `j` of input 1, found 4");
    check("ij->k", &[&[2, 3]], "expected an input of `ij->k` with `k`, found none");
    check("ii->i", &[&[2, 3]], "expected 2 for `i` of input 0, found 3");
    check("ii->i", &[&[1, 3]], "expected 1 for the second `i`, found 3");
    let vast = 1 << 40;
    check("ii->i", &[&[vast, vast]], "a diagonal `i` of 1099511627776 entries is not supported");
    let mut open = einsum("ii->i", &[&[2, 2]], 1);
    named(&mut open, &[&["n", "n"]]);
    let error = import(&open).unwrap_err().to_string();
    assert!(error.contains("a diagonal `i` of unknown length is not supported"), "{error}");
    let mut open = einsum("ij,jk->ik", &[&[2, 2], &[2, 2]], 1);
    named(&mut open, &[&["n", "m"], &["o", "n"]]);
    let error = import(&open).unwrap_err().to_string();
    assert!(error.contains("expected m for `j` of input 1, found o; if"), "{error}");
    let all = [i64::MAX; 3];
    assert!(import(&einsum("abc,abc->c", &[&all, &all], 1)).is_err());
}
