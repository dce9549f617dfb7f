//! Attention and rotary embedding.

use super::super::models::{int, with};
use super::{NodeMessage, assert_near, contrib, float, floats, list, refusal, run, wave};
use crate::Tensor;

/// Queries, keys and values by head: `[batch, heads, sequence, size]`.
pub(super) struct Heads<'a> {
    pub(super) query: &'a [f64],
    pub(super) key: &'a [f64],
    pub(super) value: &'a [f64],
    pub(super) batch: usize,
    /// Of queries, and of keys.
    pub(super) heads: [usize; 2],
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) size: usize,
}

impl Heads<'_> {
    /// `[batch, queries, heads · size]`; `change` makes of a product for a sequence, head, query and
    /// key what goes into the softmax.
    pub(super) fn attend(&self, change: impl Fn(f64, [usize; 4]) -> f64) -> Vec<f64> {
        let &Self { batch, heads: [heads, key_heads], queries, keys, size, .. } = self;
        let mut output = vec![0.0; batch * queries * heads * size];
        for row in 0..batch * heads * queries {
            let (b, h, q) = (row / queries / heads, row / queries % heads, row % queries);
            let first = (b * key_heads + h * key_heads / heads) * keys;
            let score = |k: usize| {
                let at = |x: &[f64], row: usize| x[row * size..][..size].to_vec();
                let pairs = at(self.query, row).into_iter().zip(at(self.key, first + k));
                change(pairs.map(|(q, k)| q * k).sum(), [b, h, q, k]).exp()
            };
            let scores: Vec<f64> = (0..keys).map(score).collect();
            let sum: f64 = scores.iter().sum();
            for column in 0..size {
                let value = |k: usize| self.value[(first + k) * size + column] * scores[k] / sum;
                let place = ((b * queries + q) * heads + h) * size + column;
                output[place] = (0..keys).map(value).sum();
            }
        }
        output
    }
}

/// `[batch, sequence, heads · size]` by head.
pub(super) fn by_head(x: &[f64], batch: usize, heads: usize, size: usize) -> Vec<f64> {
    let sequence = x.len() / batch / heads / size;
    let element = |index: usize| {
        let (row, column) = (index / size, index % size);
        let (b, h, s) = (row / sequence / heads, row / sequence % heads, row % sequence);
        x[((b * sequence + s) * heads + h) * size + column]
    };
    (0..x.len()).map(element).collect()
}

/// `past` and then `new` of each head.
pub(super) fn joined(past: &[f64], new: &[f64], heads: usize) -> Vec<f64> {
    let parts = past.chunks(past.len() / heads).zip(new.chunks(new.len() / heads));
    parts.flat_map(|(past, new)| [past, new].concat()).collect()
}

const BATCH: usize = 2;
const LENGTH: usize = 3;
const HEADS: usize = 2;
const SIZE: usize = 2;
const WIDTH: usize = HEADS * SIZE;

fn heads(
    query: &[f64],
    key: &[f64],
    value: &[f64],
    change: impl Fn(f64, [usize; 4]) -> f64,
) -> Vec<f64> {
    let keys = key.len() / BATCH / WIDTH;
    let (queries, heads) = (query.len() / BATCH / WIDTH, [HEADS; 2]);
    Heads { query, key, value, batch: BATCH, heads, queries, keys, size: SIZE }.attend(change)
}

fn root(product: f64) -> f64 {
    product / (SIZE as f64).sqrt()
}

fn ints(shape: &[usize], values: &[i32]) -> Tensor {
    Tensor::new(shape, values.to_vec()).unwrap()
}

/// Queries, keys and values of `x · weight + bias`, by head.
fn projections(x: &[f64], weight: &[f64], bias: &[f64]) -> [Vec<f64>; 3] {
    let total = 3 * WIDTH;
    [0, 1, 2].map(|part| {
        let element = |index: usize| {
            let (row, column) = (index / WIDTH, part * WIDTH + index % WIDTH);
            let terms = (0..WIDTH).map(|k| x[row * WIDTH + k] * weight[k * total + column]);
            terms.sum::<f64>() + bias[column]
        };
        let rows: Vec<f64> = (0..x.len()).map(element).collect();
        by_head(&rows, BATCH, HEADS, SIZE)
    })
}

fn with_heads(node: NodeMessage) -> NodeMessage {
    with(node, int("num_heads", HEADS as i64))
}

#[test]
fn padding_is_hidden_however_it_is_given() {
    let x = wave(&[BATCH, LENGTH, WIDTH], 1);
    let (weight, bias) = (wave(&[WIDTH, 3 * WIDTH], 2), wave(&[3 * WIDTH], 3));
    let constants = [("w", weight.clone()), ("b", bias.clone())];
    let [q, k, v] = projections(&floats(&x), &floats(&weight), &floats(&bias));
    let marks = [1, 1, 0, 0, 1, 1];
    let square: Vec<i32> = (0..18).map(|i| i32::from(i % 4 != 1)).collect();
    type Kept = fn(&[i32], [usize; 4]) -> bool;
    let masks: [(Tensor, Kept); 4] = [
        (ints(&[2, 3], &marks), |mask, [b, _, _, k]| mask[b * 3 + k] != 0),
        (ints(&[2, 3, 3], &square), |mask, [b, _, q, k]| mask[(b * 3 + q) * 3 + k] != 0),
        (ints(&[2], &[2, 3]), |ends, [b, _, _, k]| (k as i32) < ends[b]),
        (ints(&[4], &[2, 3, 0, 1]), |bounds, [b, _, _, k]| {
            (bounds[2 + b]..bounds[b]).contains(&(k as i32))
        }),
    ];
    for (mask, kept) in masks {
        for causal in [false, true] {
            let node = contrib("Attention", &["x", "w", "b", "m"], &["y"]);
            let node = with(with_heads(node), int("unidirectional", causal.into()));
            let node = with(node, float("mask_filter_value", -4.0));
            let y = run(node, &[("x", x.clone()), ("m", mask.clone())], &constants);
            let numbers = mask.elements::<i32>().unwrap();
            let expected = heads(&q, &k, &v, |product, at| {
                let padding = if kept(numbers, at) { 0.0 } else { -4.0 };
                let later = if causal && at[3] > at[2] { f64::NEG_INFINITY } else { 0.0 };
                root(product) + padding + later
            });
            assert_near(&y[0], &expected);
        }
    }
    let node = with_heads(contrib("Attention", &["x", "w", "b", "m"], &["y"]));
    let seven = [("x", x), ("m", ints(&[7], &[0; 7]))];
    let error = refusal(node, &seven, &constants);
    assert!(error.contains("a mask of 7 numbers for 2 sequences is not supported"), "{error}");
}

#[test]
fn a_past_comes_before_what_is_new() {
    let x = wave(&[BATCH, LENGTH, WIDTH], 1);
    let (weight, bias) = (wave(&[WIDTH, 3 * WIDTH], 2), wave(&[3 * WIDTH], 3));
    let past = wave(&[2, BATCH, HEADS, 2, SIZE], 4);
    let added = wave(&[1, HEADS, LENGTH, LENGTH + 2], 5);
    let constants = [("w", weight.clone()), ("b", bias.clone())];
    let inputs = ["x", "w", "b", "", "past", "added"];
    let node =
        with(with_heads(contrib("Attention", &inputs, &["y", "present"])), float("scale", 0.5));
    let node = with(node, int("unidirectional", 1));
    let given = [("x", x.clone()), ("past", past.clone()), ("added", added.clone())];
    let found = run(node, &given, &constants);
    let [q, k, v] = projections(&floats(&x), &floats(&weight), &floats(&bias));
    let (past, added) = (floats(&past), floats(&added));
    let (before_k, before_v) = past.split_at(past.len() / 2);
    let k = joined(before_k, &k, BATCH * HEADS);
    let v = joined(before_v, &v, BATCH * HEADS);
    let expected = heads(&q, &k, &v, |product, [_, h, q, k]| {
        let later = if k > q + 2 { f64::NEG_INFINITY } else { 0.0 };
        product * 0.5 + added[(h * LENGTH + q) * 5 + k] + later
    });
    assert_near(&found[0], &expected);
    assert_near(&found[1], &[k, v].concat());
}

#[test]
fn projections_may_be_of_different_widths() {
    let x = wave(&[1, 2, 3], 1);
    let weight = wave(&[3, 6], 2);
    let node = contrib("Attention", &["x", "w"], &["y"]);
    let node = with(with(node, int("num_heads", 1)), list("qkv_hidden_sizes", &[1, 1, 4]));
    let y = run(node, &[("x", x.clone())], &[("w", weight.clone())]);
    let (x, w) = (floats(&x), floats(&weight));
    let layer = |row: usize, column: usize| -> f64 {
        (0..3).map(|k| x[row * 3 + k] * w[k * 6 + column]).sum()
    };
    let expected = (0..8).map(|index| {
        let (query, column) = (index / 4, 2 + index % 4);
        let weight = |key| (layer(query, 0) * layer(key, 1)).exp();
        let values: f64 = (0..2).map(|key| weight(key) * layer(key, column)).sum();
        values / (0..2).map(weight).sum::<f64>()
    });
    assert_near(&y[0], &expected.collect::<Vec<_>>());
    let node = contrib("Attention", &["x", "w"], &["y"]);
    let node = with(with(node, int("num_heads", 1)), list("qkv_hidden_sizes", &[1, 2, 4]));
    let error = refusal(node, &[("x", wave(&[1, 2, 3], 1))], &[("w", weight)]);
    assert!(error.contains("expected three parts of 6 columns"), "{error}");
}

#[test]
fn integers_are_projected() {
    let x = Tensor::from_fn(&[BATCH, LENGTH, WIDTH], |i| (i * 53 % 256) as u8);
    let weight = Tensor::from_fn(&[WIDTH, 3 * WIDTH], |i| (i * 67 % 255) as u8 as i8);
    let steps = Tensor::from_fn(&[3 * WIDTH], |i| 0.01 + i as f32 * 0.001);
    let zeros = Tensor::from_fn(&[3 * WIDTH], |i| i as i8 - 5);
    let bias = wave(&[3 * WIDTH], 3);
    let constants = [
        ("w", weight.clone()),
        ("b", bias.clone()),
        ("xs", Tensor::scalar(0.01f32)),
        ("ws", steps.clone()),
        ("xz", Tensor::scalar(128u8)),
        ("wz", zeros.clone()),
    ];
    let inputs = ["x", "w", "b", "xs", "ws", "m", "xz", "wz"];
    let mask = ints(&[2, 3], &[1, 1, 0, 0, 1, 1]);
    let node = with_heads(contrib("QAttention", &inputs, &["y"]));
    let y = run(node, &[("x", x.clone()), ("m", mask)], &constants);
    let step = f64::from(0.01f32);
    let x: Vec<f64> =
        x.elements::<u8>().unwrap().iter().map(|&x| (f64::from(x) - 128.0) * step).collect();
    let (steps, zeros) = (floats(&steps), zeros.elements::<i8>().unwrap());
    let numbers = weight.elements::<i8>().unwrap();
    let weight = numbers.iter().enumerate().map(|(index, &w)| {
        let column = index % (3 * WIDTH);
        (f64::from(w) - f64::from(zeros[column])) * steps[column]
    });
    let [q, k, v] = projections(&x, &weight.collect::<Vec<_>>(), &floats(&bias));
    let marks = [1, 1, 0, 0, 1, 1];
    let expected = heads(&q, &k, &v, |product, [b, _, _, k]| {
        root(product) + if marks[b * 3 + k] == 0 { -10000.0 } else { 0.0 }
    });
    assert_near(&y[0], &expected);
}

#[test]
fn separate_queries_keys_and_values() {
    let (query, key) = (wave(&[BATCH, LENGTH, WIDTH], 1), wave(&[BATCH, 4, WIDTH], 2));
    let (value, bias) = (wave(&[BATCH, 4, WIDTH], 3), wave(&[3 * WIDTH], 4));
    let (past_key, past_value) =
        (wave(&[BATCH, HEADS, 1, SIZE], 5), wave(&[BATCH, HEADS, 1, SIZE], 6));
    let (q, k, v, b) = (floats(&query), floats(&key), floats(&value), floats(&bias));
    let given = [
        ("q", query),
        ("k", key),
        ("v", value),
        ("pk", past_key.clone()),
        ("pv", past_value.clone()),
        ("m", ints(&[2, 5], &[1, 1, 0, 1, 1, 0, 1, 1, 1, 0])),
    ];
    let plus = |x: &[f64], part: usize| -> Vec<f64> {
        let rows = x.iter().enumerate();
        let biased: Vec<f64> = rows.map(|(i, x)| x + b[part * WIDTH + i % WIDTH]).collect();
        by_head(&biased, BATCH, HEADS, SIZE)
    };
    let inputs = ["q", "k", "v", "b", "m", "", "pk", "pv"];
    let node = with_heads(contrib("MultiHeadAttention", &inputs, &["y", "key", "value"]));
    let found = run(node, &given, &[("b", bias.clone())]);
    let k_all = joined(&floats(&past_key), &plus(&k, 1), BATCH * HEADS);
    let v_all = joined(&floats(&past_value), &plus(&v, 2), BATCH * HEADS);
    let marks = [1, 1, 0, 1, 1, 0, 1, 1, 1, 0];
    let expected = heads(&plus(&q, 0), &k_all, &v_all, |product, [b, _, _, k]| {
        root(product) + if marks[b * 5 + k] == 0 { -10000.0 } else { 0.0 }
    });
    assert_near(&found[0], &expected);
    assert_near(&found[1], &k_all);
    assert_near(&found[2], &v_all);
    // Keys and values that are by head already, as decoders get them from encoders.
    let inputs = ["q", "pk", "pv", "b"];
    let node = with_heads(contrib("MultiHeadAttention", &inputs, &["y"]));
    let given = [given[0].clone(), given[3].clone(), given[4].clone()];
    let found = run(node, &given, &[("b", bias)]);
    let (key, value) = (floats(&past_key), floats(&past_value));
    assert_near(&found[0], &heads(&plus(&q, 0), &key, &value, |product, _| root(product)));
}

#[test]
fn packed_queries_keys_and_values() {
    let all = wave(&[BATCH, LENGTH, HEADS, 3, SIZE], 1);
    let x = floats(&all);
    let part = |x: &[f64], parts: usize, part: usize| -> Vec<f64> {
        let rows: Vec<f64> =
            x.chunks(parts * SIZE).flat_map(|row| row[part * SIZE..][..SIZE].to_vec()).collect();
        by_head(&rows, BATCH, HEADS, SIZE)
    };
    let [q, k, v] = [0, 1, 2].map(|index| part(&x, 3, index));
    let y = run(with_heads(contrib("MultiHeadAttention", &["q"], &["y"])), &[("q", all)], &[]);
    assert_near(&y[0], &heads(&q, &k, &v, |product, _| root(product)));
    let (query, both) =
        (wave(&[BATCH, LENGTH, WIDTH], 2), wave(&[BATCH, LENGTH, HEADS, 2, SIZE], 3));
    let given = [("q", query.clone()), ("k", both.clone())];
    let y = run(with_heads(contrib("MultiHeadAttention", &["q", "k"], &["y"])), &given, &[]);
    let q = by_head(&floats(&query), BATCH, HEADS, SIZE);
    let [k, v] = [0, 1].map(|index| part(&floats(&both), 2, index));
    assert_near(&y[0], &heads(&q, &k, &v, |product, _| root(product)));
}

/// Rotates the first `2 · angles` entries of each row of `[batch, heads, sequence, size]`.
pub(super) fn rotated(
    x: &[f64],
    size: usize,
    angles: usize,
    interleaved: bool,
    position: impl Fn(usize) -> usize,
    angle: impl Fn(usize, usize) -> (f64, f64),
) -> Vec<f64> {
    let mut output = x.to_vec();
    for (row, entries) in output.chunks_mut(size).enumerate() {
        for pair in 0..angles {
            let (first, second) =
                if interleaved { (2 * pair, 2 * pair + 1) } else { (pair, pair + angles) };
            let (cos, sin) = angle(position(row), pair);
            let (a, b) = (entries[first], entries[second]);
            (entries[first], entries[second]) = (cos * a - sin * b, sin * a + cos * b);
        }
    }
    output
}

#[test]
fn rows_are_rotated_by_their_places() {
    let (cos, sin) = (wave(&[9, 1], 1), wave(&[9, 1], 2));
    let x = wave(&[BATCH, LENGTH, 2 * 3], 3);
    let angle = |place: usize, _| (floats(&cos)[place], floats(&sin)[place]);
    let given = |x: &Tensor, positions: Tensor| {
        [("x", x.clone()), ("p", positions), ("c", cos.clone()), ("s", sin.clone())]
    };
    let each = Tensor::new(&[2, 3], vec![4i64, 0, 8, 1, 1, 2]).unwrap();
    let places = [4, 0, 8, 1, 1, 2];
    let from_five = Tensor::new(&[1], vec![5i64]).unwrap();
    let inputs = ["x", "p", "c", "s"];
    let node = |interleaved: i64| {
        with(contrib("RotaryEmbedding", &inputs, &["y"]), int("interleaved", interleaved))
    };
    for interleaved in [false, true] {
        // By head, of three entries, of which two are rotated.
        let by_heads = by_head(&floats(&x), BATCH, 2, 3);
        let values: Vec<f32> = by_heads.iter().map(|&x| x as f32).collect();
        let four = Tensor::new(&[BATCH, 2, LENGTH, 3], values).unwrap();
        for (positions, place) in
            [(each.clone(), places.to_vec()), (from_five.clone(), vec![5, 6, 7, 5, 6, 7])]
        {
            let of_row = |row: usize| place[row / (2 * LENGTH) * LENGTH + row % LENGTH];
            let expected = rotated(&by_heads, 3, 1, interleaved, of_row, angle);
            let y = run(node(interleaved.into()), &given(&four, positions.clone()), &[]);
            assert_near(&y[0], &expected);
            // The same with the heads side by side.
            let flat = with(
                with(node(interleaved.into()), int("num_heads", 2)),
                int("rotary_embedding_dim", 2),
            );
            let y = run(flat, &given(&x, positions), &[]);
            assert_near(&y[0], &by_head(&expected, BATCH, LENGTH, 3));
        }
    }
    // As many heads as the angles say.
    let y = run(node(0), &given(&x, each), &[]);
    let by_heads = by_head(&floats(&x), BATCH, 3, 2);
    let of_row = |row: usize| places[row / (3 * LENGTH) * LENGTH + row % LENGTH];
    let expected = rotated(&by_heads, 2, 1, false, of_row, angle);
    assert_near(&y[0], &by_head(&expected, BATCH, LENGTH, 2));
}

#[test]
fn what_attention_lacks_is_named() {
    let x = wave(&[BATCH, LENGTH, WIDTH], 1);
    let check = |node: NodeMessage, expected: &str| {
        let values = [("x", x.clone()), ("w", wave(&[WIDTH, 3 * WIDTH], 2))];
        let error = refusal(with_heads(node), &values, &[]);
        assert!(error.ends_with(expected), "{error}");
    };
    let attention = || contrib("Attention", &["x", "w"], &["y"]);
    check(with(attention(), int("do_rotary", 1)), "do_rotary = 1 is not supported");
    check(
        with(attention(), int("past_present_share_buffer", 1)),
        "past_present_share_buffer = 1 is not supported",
    );
    let multi = contrib("MultiHeadAttention", &["x", "x", "x"], &["y", "", "", "qk"]);
    check(multi, "the output qk is not supported");
    let packed = contrib("PackedMultiHeadAttention", &["x"], &["y"]);
    check(packed, "this operator is not supported");
    let many =
        with(contrib("MultiHeadAttention", &["x", "x", "x"], &["y"]), int("num_heads", i64::MAX));
    check(many, "expected num_heads above 0, found 9223372036854775807");
}
