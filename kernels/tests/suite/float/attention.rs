//! Fused attention against its three steps.

use kernels::int8::{Output, Quantization, quantize};
use kernels::{Attention, Cpu, HeadData, Heads, Mask, NoKeys, Products, attention, attention_into};
use proptest::prelude::*;

use super::rows::softmax_twin;
use crate::{assert_close, numbers, on_any_threads, on_every_tier};

struct Case {
    sizes: Attention,
    qkv: Vec<f32>,
    mask: Vec<f32>,
    mask_strides: [usize; 3],
}

impl Case {
    /// Query, key and value as column blocks of one matrix, as a merged projection writes them.
    fn new(batch: usize, heads: usize, tokens: usize, head_size: usize, seed: u64) -> Self {
        let sizes = Attention {
            batch,
            heads,
            queries: tokens,
            keys: tokens,
            head_size,
            scale: 0.3,
            no_keys: NoKeys::NotANumber,
            products: Products::F32,
        };
        // Key 0 counts: a row of nothing but masked scores keeps three of their digits.
        let masked = numbers(batch * tokens, seed ^ 1);
        let mask = |(i, &x): (usize, &f32)| if x > 1.0 && i % tokens > 0 { -1e4 } else { 0.0 };
        Self {
            sizes,
            qkv: numbers(batch * tokens * 3 * heads * head_size, seed),
            mask: masked.iter().enumerate().map(mask).collect(),
            mask_strides: [tokens, 0, 0],
        }
    }

    fn width(&self) -> usize {
        self.sizes.heads * self.sizes.head_size
    }

    fn run(&self, cpu: Cpu) -> Vec<f32> {
        let mut y = vec![f32::NAN; self.qkv.len() / 3];
        self.run_into(cpu, Output::F32(&mut y));
        y
    }

    fn run_into(&self, cpu: Cpu, y: Output<'_>) {
        self.run_with(cpu, &self.sizes, y);
    }

    fn run_with(&self, cpu: Cpu, sizes: &Attention, y: Output<'_>) {
        let width = self.width();
        let part = |i: usize| {
            let data = HeadData::F32(&self.qkv[(i * width).min(self.qkv.len())..]);
            Heads::in_rows(data, sizes.keys, sizes.head_size, 3 * width)
        };
        let mask = Mask { data: &self.mask, strides: self.mask_strides };
        attention_into(cpu, sizes, [part(0), part(1), part(2)], Some(mask), y);
    }

    fn expected(&self) -> Vec<f64> {
        let Attention { batch, heads, queries, keys, head_size, scale, .. } = self.sizes;
        let width = self.width();
        let at = |part: usize, b: usize, t: usize, h: usize, d: usize| {
            f64::from(self.qkv[(b * keys + t) * 3 * width + part * width + h * head_size + d])
        };
        let mut y = vec![0.0; batch * queries * width];
        for (b, h, t) in (0..batch)
            .flat_map(|b| (0..heads).flat_map(move |h| (0..queries).map(move |t| (b, h, t))))
        {
            let scores: Vec<f64> = (0..keys)
                .map(|s| {
                    let dot: f64 =
                        (0..head_size).map(|d| at(0, b, t, h, d) * at(1, b, s, h, d)).sum();
                    let [mb, mh, mq] = self.mask_strides;
                    dot * f64::from(scale) + f64::from(self.mask[b * mb + h * mh + t * mq + s])
                })
                .collect();
            let weights = softmax_twin(&scores, keys);
            for d in 0..head_size {
                y[(b * queries + t) * width + h * head_size + d] =
                    (0..keys).map(|s| weights[s] * at(2, b, s, h, d)).sum();
            }
        }
        y
    }

    fn check(&self) {
        let found = on_every_tier(|cpu| self.run(cpu));
        assert_close("attention", &found, &self.expected(), 1e-4);
    }

    /// With products that need not be in f32, for which every tier has its own bits. A score is a
    /// sum of `head_size` products of up to 4, times 0.3, and its error is one of the weights'.
    fn check_less_exact(&self) {
        let expected = self.expected();
        let unit = 1.2 * self.sizes.head_size as f64 + 1.0;
        for (products, error) in
            [(Products::Split, 2f64.powi(-15)), (Products::Bf16, 2f64.powi(-8))]
        {
            let sizes = Attention { products, ..self.sizes };
            for cpu in Cpu::every() {
                let mut y = vec![f32::NAN; expected.len()];
                self.run_with(cpu, &sizes, Output::F32(&mut y));
                assert_close("attention", &y, &expected, 2.0 * (1e-5 + error * unit));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn fused_is_the_three_steps(batch in 0usize..4, heads in 1usize..4, tokens in 0usize..70, head_size in 0usize..20, seed: u64) {
        Case::new(batch, heads, tokens, head_size, seed).check();
    }

    #[test]
    fn products_in_bf16_are_as_exact_as_they_say(batch in 0usize..3, heads in 1usize..4, tokens in 0usize..150, head_size in 0usize..100, seed: u64) {
        Case::new(batch, heads, tokens, head_size, seed).check_less_exact();
    }
}

#[test]
fn heads_may_lie_in_memory_as_bf16() {
    for (batch, heads, tokens, head_size) in
        [(1, 1, 1, 1), (2, 3, 37, 20), (1, 2, 70, 32), (3, 1, 33, 80)]
    {
        let mut case = Case::new(batch, heads, tokens, head_size, 5);
        let rounded: Vec<u16> = case.qkv.iter().map(|x| (x.to_bits() >> 16) as u16).collect();
        case.qkv = rounded.iter().map(|&bits| f32::from_bits(u32::from(bits) << 16)).collect();
        let width = case.width();
        let part = |i: usize| {
            Heads::in_rows(HeadData::Bf16(&rounded[i * width..]), tokens, head_size, 3 * width)
        };
        let mask = Mask { data: &case.mask, strides: case.mask_strides };
        for products in [Products::F32, Products::Split, Products::Bf16] {
            let sizes = Attention { products, ..case.sizes };
            for cpu in Cpu::every() {
                let mut expected = vec![f32::NAN; batch * tokens * width];
                case.run_with(cpu, &sizes, Output::F32(&mut expected));
                let mut found = vec![f32::NAN; expected.len()];
                let parts = [part(0), part(1), part(2)];
                attention_into(cpu, &sizes, parts, Some(mask), Output::F32(&mut found));
                assert_eq!(found, expected, "{} {products:?}", cpu.tier());
            }
        }
    }
}

#[test]
fn tiers_with_fused_products_agree_to_the_bit() {
    for (batch, heads, tokens, head_size) in
        [(1, 1, 16, 1), (2, 3, 13, 26), (1, 2, 32, 32), (2, 1, 62, 33), (1, 2, 143, 20)]
    {
        let mut case = Case::new(batch, heads, tokens, head_size, 7);
        let each_query = numbers(batch * heads * tokens * tokens, 11);
        for of_query in [false, true] {
            if of_query {
                case.mask.clone_from(&each_query);
                case.mask_strides = [heads * tokens * tokens, tokens * tokens, tokens];
            }
            let runs: Vec<_> = Cpu::every().map(|cpu| (cpu.tier(), case.run(cpu))).collect();
            for (tier, found) in &runs {
                assert_eq!(found, &runs[0].1, "{tier} {tokens}×{head_size}");
            }
        }
    }
}

#[test]
fn masks_may_differ_for_every_head_and_query() {
    let mut case = Case::new(2, 3, 5, 4, 9);
    case.mask = numbers(2 * 3 * 5 * 5, 11);
    case.mask_strides = [75, 25, 5];
    case.check();
    case.check_less_exact();
}

#[test]
fn the_result_may_be_rounded() {
    let case = Case::new(2, 3, 37, 20, 3);
    let to = Quantization { scale: 0.02, zero_point: 3, min: -128, max: 127 };
    for cpu in Cpu::every() {
        let y = case.run(cpu);
        let mut expected = vec![0; y.len()];
        quantize(cpu, &y, to, &mut expected);
        let mut rounded = vec![0; y.len()];
        case.run_into(cpu, Output::Int8(&mut rounded, to));
        assert_eq!(rounded, expected);
    }
}

#[test]
fn queries_and_keys_may_differ_in_number() {
    // More queries than share one packing of the keys.
    let (queries, keys, head_size) = (205, 18, 8);
    let sizes = Attention {
        batch: 1,
        heads: 1,
        queries,
        keys,
        head_size,
        scale: 0.3,
        no_keys: NoKeys::NotANumber,
        products: Products::F32,
    };
    let (q, kv) = (numbers(queries * head_size, 1), numbers(keys * head_size, 2));
    let run = |range: std::ops::Range<usize>| {
        let sizes = Attention { queries: range.len(), ..sizes };
        let q = &q[range.start * head_size..range.end * head_size];
        let [q, kv] = [(q, range.len()), (&kv, keys)].map(|(data, tokens)| {
            Heads::in_rows(HeadData::F32(data), tokens, head_size, head_size)
        });
        let mut y = vec![f32::NAN; range.len() * head_size];
        attention(Cpu::best(), &sizes, [q, kv, kv], None, &mut y);
        y
    };
    let one_by_one: Vec<f32> = (0..queries).flat_map(|query| run(query..query + 1)).collect();
    assert_eq!(run(0..queries), one_by_one);
}

#[test]
fn a_query_without_keys_gets_what_was_asked_for() {
    let (keys, head_size) = (3, 4);
    let data = numbers(keys * head_size, 1);
    let heads = Heads::in_rows(HeadData::F32(&data), keys, head_size, head_size);
    let mut masked = [0.0; 9];
    masked[3..6].fill(f32::NEG_INFINITY);
    let mask = Mask { data: &masked, strides: [0, 0, keys] };
    let every = |products| Cpu::every().map(move |cpu| (cpu, products));
    for (cpu, products) in every(Products::F32).chain(every(Products::Split)) {
        let run = |no_keys| {
            let sizes = Attention {
                batch: 1,
                heads: 1,
                queries: 3,
                keys,
                head_size,
                scale: 0.3,
                no_keys,
                products,
            };
            let mut y = vec![1.0; keys * head_size];
            attention(cpu, &sizes, [heads; 3], Some(mask), &mut y);
            y
        };
        let (nan, zero) = (run(NoKeys::NotANumber), run(NoKeys::Zero));
        assert!(nan[4..8].iter().all(|y| y.is_nan()), "{nan:?}");
        assert_eq!(zero[4..8], [0.0; 4]);
        for rows in [0..4, 8..12] {
            assert_eq!(nan[rows.clone()], zero[rows]);
        }
    }
}

/// `f32::MIN` is what models add where a key is to be hidden; their scores are lost in it.
#[test]
fn keys_that_are_all_hidden_weigh_alike() {
    let (keys, head_size) = (37, 4);
    let data = numbers(keys * head_size, 1);
    let heads = Heads::in_rows(HeadData::F32(&data), keys, head_size, head_size);
    let mask = Mask { data: &vec![f32::MIN; keys], strides: [0; 3] };
    let mean = |column: usize| {
        let values = data.iter().skip(column).step_by(head_size);
        values.map(|&value| f64::from(value)).sum::<f64>() / keys as f64
    };
    let expected: Vec<f64> = (0..keys * head_size).map(|i| mean(i % head_size)).collect();
    for (products, tolerance) in
        [(Products::F32, 1e-5), (Products::Split, 1e-3), (Products::Bf16, 1e-1)]
    {
        for cpu in Cpu::every() {
            let sizes = Attention {
                batch: 1,
                heads: 1,
                queries: keys,
                keys,
                head_size,
                scale: 0.3,
                no_keys: NoKeys::NotANumber,
                products,
            };
            let mut y = vec![f32::NAN; keys * head_size];
            attention(cpu, &sizes, [heads; 3], Some(mask), &mut y);
            assert_close("attention", &y, &expected, tolerance);
        }
    }
}

#[test]
fn many_heads_do_not_depend_on_threads() {
    let case = Case::new(3, 4, 65, 16, 5);
    on_any_threads(|| case.run(Cpu::best()));
}

#[test]
#[should_panic(expected = "attention: mask needs 10 elements, found 9")]
fn a_short_mask_is_refused() {
    let mut case = Case::new(2, 1, 5, 4, 1);
    case.mask.pop();
    case.run(Cpu::best());
}

/// Heads one after another, and keys and values that several heads of the query share, give what their
/// copies in rows give.
#[test]
fn heads_lie_apart_and_are_shared() {
    for (batch, heads, sharing, tokens, head_size) in
        [(1, 2, 2, 5, 3), (2, 6, 3, 37, 20), (3, 4, 1, 33, 16), (1, 8, 4, 70, 32)]
    {
        let case = Case::new(batch, heads, tokens, head_size, 9);
        let width = case.width();
        // Heads of key and value that are the same where they are shared.
        let own = heads / sharing;
        let apart = [0, 1, 2].map(|part| {
            let own = if part == 0 { heads } else { own };
            numbers(batch * own * tokens * head_size, part as u64)
        });
        let mut in_rows = vec![0.0; batch * tokens * 3 * width];
        for (index, x) in in_rows.iter_mut().enumerate() {
            let (token, column) = (index / (3 * width), index % (3 * width));
            let (part, head, element) =
                (column / width, column % width / head_size, column % head_size);
            let (own, head) = if part == 0 { (heads, head) } else { (own, head / sharing) };
            let row = (token / tokens * own + head) * tokens + token % tokens;
            *x = apart[part][row * head_size + element];
        }
        let mask = Some(Mask { data: &case.mask, strides: case.mask_strides });
        for products in [Products::F32, Products::Split, Products::Bf16] {
            let sizes = Attention { products, ..case.sizes };
            for cpu in Cpu::every() {
                let rows = [0, 1, 2].map(|part| {
                    let data = HeadData::F32(&in_rows[part * width..]);
                    Heads::in_rows(data, tokens, head_size, 3 * width)
                });
                let split = [0, 1, 2].map(|part| {
                    let (own, sharing) = if part == 0 { (heads, 1) } else { (own, sharing) };
                    let strides = [own * tokens * head_size, tokens * head_size, head_size];
                    Heads { data: HeadData::F32(&apart[part]), strides, sharing }
                });
                let [expected, found] = [rows, split].map(|qkv| {
                    let mut y = vec![f32::NAN; batch * tokens * width];
                    attention(cpu, &sizes, qkv, mask, &mut y);
                    y
                });
                assert_eq!(found, expected, "{cpu:?} {products:?}");
            }
        }
    }
}
