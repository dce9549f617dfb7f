//! Attentions, in groups of threads and on matrix units.

use super::*;

/// Sizes of an attention: batch, heads, queries, keys and elements of a head.
type AttentionCase = ([usize; 5], NoKeys);

/// An attention beside its twin, with several masks.
fn check_attention(gpu: &Gpu, (sizes, no_keys): AttentionCase, products: Products) {
    let [batch, heads, queries, keys, head_size] = sizes;
    let width = heads * head_size;
    let scale = 1.0 / (head_size as f32).sqrt();
    let sizes =
        crate::Attention { batch, heads, queries, keys, head_size, scale, no_keys, products };
    // Query, key and value in one matrix where they have as many tokens.
    let row_stride = 3 * width;
    let [q, k] = [(queries, 1), (keys, 2)].map(|(n, s)| numbers(batch * n * row_stride, s));
    let [on_q, on_k] = [&q, &k].map(|values| upload(gpu, values));
    let part = |data, start| Heads { data: Floats::F32(data), start, row_stride };
    let on_qkv = [part(&on_q, 0), part(&on_k, width), part(&on_k, 2 * width)];
    // Weights are rounded by up to 2⁻⁹, values reach 1.
    let (rounded, tolerance): (fn(f32) -> f32, f32) = match products {
        Products::F32 | Products::Split => (|x| x, 1e-5),
        Products::Bf16 => (|x| bf16::from_f32(x).to_f32(), 2e-3),
    };
    let [q, k] = [q, k].map(|all| all.into_iter().map(rounded).collect::<Vec<f32>>());
    let behind = |start: usize| &k[start.min(k.len())..];
    let qkv = [&q[..], behind(width), behind(2 * width)];
    let qkv = [0, 1, 2].map(|part| {
        let tokens = if part == 0 { queries } else { keys };
        crate::Heads::in_rows(crate::HeadData::F32(qkv[part]), tokens, head_size, row_stride)
    });
    // The last keys of each sequence count for nothing; of the last sequence, none is left.
    let masked = |i: usize| match (i % keys > keys / 2, i / keys + 1 == batch) {
        (_, true) => f32::NEG_INFINITY,
        (true, _) => -1e9,
        _ => 0.0,
    };
    let own = [heads * queries * keys, queries * keys, keys];
    let masks = [
        (Vec::new(), [0; 3]),
        (vec![f32::MIN; keys], [0; 3]),
        ((0..batch * keys).map(masked).collect(), [keys, 0, 0]),
        (numbers(batch * own[0], 3), own),
    ];
    for (mask, strides) in masks {
        let on_mask = upload(gpu, &mask);
        let given = !mask.is_empty();
        let cpu_mask = given.then_some(crate::Mask { data: &mask, strides });
        let gpu_mask = given.then_some(Mask { data: &on_mask, strides });
        let elements = batch * queries * width;
        let mut expected = vec![0.0; elements];
        crate::attention(Cpu::best(), &sizes, qkv, cpu_mask, &mut expected);
        let y = empty::<f32>(gpu, elements);
        attention(gpu, &sizes, on_qkv, gpu_mask, Output::Floats(Floats::F32(&y)));
        assert_close(&read(gpu, &y), &expected, tolerance);

        let to = Quantization::symmetric(0.01);
        let expected_floats = expected;
        let mut expected = vec![0; elements];
        let into = int8::Output::Int8(&mut expected, to);
        crate::attention_into(Cpu::best(), &sizes, qkv, cpu_mask, into);
        let y = empty::<i8>(gpu, elements);
        attention(gpu, &sizes, on_qkv, gpu_mask, Output::Int8(&y, to));
        let found = read::<i8>(gpu, &y);
        match products {
            Products::F32 | Products::Split => assert_steps(&found, &expected),
            Products::Bf16 => {
                let [on_q, on_k] = [&q, &k].map(|values| upload(gpu, &in_bf16(values)));
                let on_qkv = [(&on_q, 0), (&on_k, width), (&on_k, 2 * width)];
                let on_qkv = on_qkv.map(|(data, start)| Heads {
                    data: Floats::Bf16(data),
                    start,
                    row_stride,
                });
                let y = empty::<bf16>(gpu, elements);
                let output = Output::Floats(Floats::Bf16(&y));
                attention(gpu, &sizes, on_qkv, gpu_mask, output);
                assert_close(&in_f32(&read(gpu, &y)), &expected_floats, 2.0 * tolerance);
                let close = |(a, b): (&i8, &i8)| a.abs_diff(*b) <= 1;
                assert!(found.iter().zip(&expected).all(close), "{found:?}, {expected:?}");
            }
        }
    }
}

#[test]
fn attentions_match() {
    for gpu in gpus() {
        for case in [
            ([1, 1, 1, 1, 1], NoKeys::NotANumber),
            ([2, 3, 5, 5, 8], NoKeys::Zero),
            ([2, 2, 3, 37, 6], NoKeys::NotANumber),
            ([1, 2, 3, 0, 4], NoKeys::NotANumber),
            ([1, 2, 0, 3, 4], NoKeys::Zero),
            ([1, 1, 33, 16, 32], NoKeys::Zero),
        ] {
            check_attention(&gpu, case, Products::Split);
        }
    }
}

#[test]
fn attentions_on_matrix_units_match() {
    let Some(gpu) = gpu() else { return };
    if !matrix_attention::multiplies_heads(&gpu, 32) {
        return println!("skipped: no matrix units");
    }
    for case in [
        ([1, 1, 1, 1, 16], NoKeys::NotANumber),
        ([2, 3, 5, 5, 32], NoKeys::Zero),
        ([2, 2, 70, 130, 32], NoKeys::NotANumber),
        ([1, 2, 3, 0, 64], NoKeys::NotANumber),
        ([3, 12, 32, 32, 64], NoKeys::Zero),
        ([1, 1, 200, 64, 96], NoKeys::Zero),
        ([1, 2, 17, 129, 128], NoKeys::Zero),
    ] {
        check_attention(&gpu, case, Products::Bf16);
    }
}
