//! Attention with a cache.

use super::super::models::{int, with};
use super::attention::{Heads, by_head, joined, rotated};
use super::{NodeMessage, assert_near, contrib, float, floats, refusal, run, wave};
use crate::Tensor;

const HEADS: usize = 4;
const KEY_HEADS: usize = 2;
const SIZE: usize = 2;

/// A call with caches of `past` tokens, of which `counts` are there before the `new` ones.
struct Call {
    past: usize,
    new: usize,
    counts: Vec<usize>,
    window: Option<usize>,
    softcap: f32,
    rotates: bool,
}

impl Call {
    fn total(&self) -> usize {
        self.counts.iter().max().unwrap() + self.new
    }

    fn values(&self) -> Vec<(&'static str, Tensor)> {
        let (batch, total) = (self.counts.len(), self.total());
        let ends = self.counts.iter().map(|count| (count + self.new - 1) as i32).collect();
        let cache = |seed| wave(&[batch, KEY_HEADS, self.past, SIZE], seed);
        vec![
            ("q", wave(&[batch, self.new, HEADS * SIZE], 1)),
            ("k", wave(&[batch, self.new, KEY_HEADS * SIZE], 2)),
            ("v", wave(&[batch, self.new, KEY_HEADS * SIZE], 3)),
            ("pk", cache(4)),
            ("pv", cache(5)),
            ("ends", Tensor::new(&[batch], ends).unwrap()),
            ("total", Tensor::scalar(total as i32)),
            ("cos", wave(&[20, 1], 6)),
            ("sin", wave(&[20, 1], 7)),
        ]
    }

    fn node(&self) -> NodeMessage {
        let inputs = ["q", "k", "v", "pk", "pv", "ends", "total", "cos", "sin"];
        let node = contrib("GroupQueryAttention", &inputs, &["y", "key", "value"]);
        let node = with(node, int("num_heads", HEADS as i64));
        let node = with(node, int("kv_num_heads", KEY_HEADS as i64));
        let node = with(node, int("do_rotary", self.rotates.into()));
        let node = with(node, float("softcap", self.softcap));
        let window = self.window.map_or(-1, |window| window as i64);
        with(node, int("local_window_size", window))
    }

    /// Attention of each sequence by itself, with what its cache holds.
    fn expected(&self) -> (Vec<f64>, Vec<f64>) {
        let values = self.values();
        let of = |name: &str| floats(&values.iter().find(|(other, _)| *other == name).unwrap().1);
        let (mut output, mut keys) = (Vec::new(), Vec::new());
        let batch = self.counts.len();
        for (index, &count) in self.counts.iter().enumerate() {
            let part = |x: Vec<f64>| x[x.len() / batch * index..][..x.len() / batch].to_vec();
            let rotate = |x: Vec<f64>| {
                let (cos, sin) = (of("cos"), of("sin"));
                let place = |row: usize| count + row % self.new;
                rotated(&x, SIZE, 1, false, place, |place, _| (cos[place], sin[place]))
            };
            let rotate = |x| if self.rotates { rotate(x) } else { x };
            let query = rotate(by_head(&part(of("q")), 1, HEADS, SIZE));
            let key = rotate(by_head(&part(of("k")), 1, KEY_HEADS, SIZE));
            let value = by_head(&part(of("v")), 1, KEY_HEADS, SIZE);
            let cached = |name: &str, new: &[f64]| {
                if count == 0 {
                    return new.to_vec();
                }
                let heads = part(of(name));
                let heads =
                    heads.chunks(self.past * SIZE).map(|head| head[..count * SIZE].to_vec());
                joined(&heads.flatten().collect::<Vec<_>>(), new, KEY_HEADS)
            };
            let (key, value) = (cached("pk", &key), cached("pv", &value));
            let heads = Heads {
                query: &query,
                key: &key,
                value: &value,
                batch: 1,
                heads: [HEADS, KEY_HEADS],
                queries: self.new,
                keys: count + self.new,
                size: SIZE,
            };
            output.extend(heads.attend(|product, [_, _, q, k]| {
                let scaled = product / (SIZE as f64).sqrt();
                let softcap = f64::from(self.softcap);
                let capped =
                    if softcap > 0.0 { softcap * (scaled / softcap).tanh() } else { scaled };
                let place = count + q;
                let hidden = k > place || self.window.is_some_and(|window| k + window <= place);
                if hidden { f64::NEG_INFINITY } else { capped }
            }));
            keys.push(key);
        }
        (output, keys.concat())
    }
}

#[test]
fn queries_see_what_their_cache_holds() {
    let call = |past: usize, new: usize, counts: &[usize]| Call {
        past,
        new,
        counts: counts.to_vec(),
        window: None,
        softcap: 0.0,
        rotates: true,
    };
    let calls = [
        call(0, 4, &[0, 0]),
        call(3, 1, &[3]),
        call(3, 2, &[3]),
        call(3, 1, &[3, 3]),
        // Shorter than others of the batch.
        call(3, 1, &[1, 3]),
        // In a buffer that is longer than what it holds.
        call(6, 1, &[2, 3]),
        call(6, 3, &[0, 0]),
        Call { window: Some(2), ..call(3, 2, &[3]) },
        Call { window: Some(2), rotates: false, ..call(0, 4, &[0]) },
        Call { softcap: 0.5, ..call(3, 1, &[3]) },
    ];
    for call in calls {
        let (expected, keys) = call.expected();
        let values = call.values();
        // The sizes are known before a run, or only then.
        for known in [false, true] {
            let (constants, inputs): (Vec<_>, Vec<_>) =
                values.iter().cloned().partition(|(name, _)| known && *name == "total");
            let found = run(call.node(), &inputs, &constants);
            assert_near(&found[0], &expected);
            assert_eq!(found[1].shape()[2], call.past.max(call.total()));
            let even = call.counts.iter().all(|count| count + call.new == found[1].shape()[2]);
            if even {
                assert_near(&found[1], &keys);
            }
        }
    }
}

#[test]
fn positions_may_be_given() {
    let call = Call { past: 2, new: 1, counts: vec![2], window: None, softcap: 0.0, rotates: true };
    let mut node = call.node();
    node.input.push("places".to_owned());
    let run_at = |place: i64| {
        let mut values = call.values();
        values.push(("places", Tensor::new(&[1, 1], vec![place]).unwrap()));
        floats(&run(node.clone(), &values, &[])[0])
    };
    assert_near(&run(call.node(), &call.values(), &[])[0], &run_at(2));
    assert_ne!(run_at(2), run_at(7));
}

#[test]
fn rows_may_hold_queries_keys_and_values() {
    let call = Call { past: 2, new: 1, counts: vec![2], window: None, softcap: 0.0, rotates: true };
    let mut values = call.values();
    let rows: Vec<f32> =
        values[..3].iter().flat_map(|(_, x)| x.elements::<f32>().unwrap().to_vec()).collect();
    values[0].1 = Tensor::new(&[1, 1, rows.len()], rows).unwrap();
    values.drain(1..3);
    let mut node = call.node();
    node.input[1].clear();
    node.input[2].clear();
    assert_near(&run(node, &values, &[])[0], &call.expected().0);
}

#[test]
fn what_the_cache_lacks_is_named() {
    let call =
        Call { past: 2, new: 1, counts: vec![2], window: None, softcap: 0.0, rotates: false };
    let check = |node: NodeMessage, expected: &str| {
        let error = refusal(node, &call.values(), &[]);
        assert!(error.ends_with(expected), "{error}");
    };
    check(with(call.node(), int("smooth_softmax", 1)), "smooth_softmax = 1 is not supported");
    check(with(call.node(), int("causal", 0)), "causal = 0 is not supported");
    let mut sink = call.node();
    sink.input.extend(["", "", "cos"].map(str::to_owned));
    check(sink, "the input head_sink is not supported");
    let mut node = call.node();
    node.attribute.retain(|attribute| attribute.name() != "kv_num_heads");
    check(with(node, int("kv_num_heads", 3)), "4 heads do not share 3 of keys evenly");
    let mut node = call.node();
    node.input[4].clear();
    check(node, "expected both past_key and past_value, or neither");
    let mut node = call.node();
    node.attribute.retain(|attribute| attribute.name() != "local_window_size");
    check(with(node, int("local_window_size", 0)), "local_window_size = 0 is not supported");
}
