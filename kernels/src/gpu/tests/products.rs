//! Products with weights, in floats and integers.

use super::*;

/// Rows, inner size and columns, and what follows.
type ProductCase = ([usize; 3], Activation);

/// The last has so many tiles that they are large.
const PRODUCTS: [ProductCase; 8] = [
    ([1, 1, 1], Activation::Identity),
    ([0, 3, 2], Activation::Relu),
    ([2, 0, 3], Activation::Identity),
    ([3, 17, 5], Activation::Gelu),
    ([9, 16, 8], Activation::Tanh),
    ([5, 33, 19], Activation::Map(Function::Clip { low: -0.5, high: 0.75 })),
    ([33, 80, 40], Activation::Relu),
    ([133, 5, 131], Activation::Map(Function::LeakyRelu { alpha: 0.1 })),
];

/// Of every size of tile, with parts of tiles, too much work without matrix units.
const MATRIX_PRODUCTS: [ProductCase; 6] = [
    ([1, 384, 2], Activation::Identity),
    ([65, 1536, 70], Activation::Gelu),
    ([160, 136, 1100], Activation::Tanh),
    ([700, 144, 761], Activation::Relu),
    ([1500, 208, 1401], Activation::Identity),
    ([200, 2064, 760], Activation::Identity),
];

/// The products that a device is asked for.
fn products(gpu: &Gpu) -> Vec<ProductCase> {
    let on_matrix_units = matrix::multiplies::<bf16, f32>(gpu, 16);
    let more: &[ProductCase] = if on_matrix_units { &MATRIX_PRODUCTS } else { &[] };
    PRODUCTS.iter().chain(more).copied().collect()
}

#[test]
fn float_products_match() {
    let cpu = Cpu::best();
    for gpu in gpus() {
        for (sizes, activation) in products(&gpu) {
            let [rows, inner, columns] = sizes;
            let [x, w, bias] =
                [(rows * inner, 1), (inner * columns, 2), (columns, 3)].map(|(n, s)| numbers(n, s));
            let [on_x, on_bias] = [&x, &bias].map(|values| upload(&gpu, values));
            let y = empty::<f32>(&gpu, rows * columns);
            let mut expected = vec![0.0; rows * columns];

            let packed = float::PackedWeights::new(&w, [inner, columns], [columns, 1]);
            let layer = float::Layer { weights: &packed, bias: Some(&bias), activation };
            float::linear(cpu, &x, rows, &layer, &mut expected);
            let on_w = Weights::f32(&gpu, &w, [inner, columns]);
            let layer = Layer { weights: &on_w, bias: &on_bias, activation };
            linear(&gpu, Floats::F32(&on_x), rows, &layer, Floats::F32(&y));
            // Sums in another order.
            let tolerance = 1e-5 * (inner as f32 / 512.0).max(1.0);
            assert_close(&read(&gpu, &y), &expected, tolerance);

            let packed = crate::bf16::PackedBf16::new(&w, [inner, columns], [columns, 1]);
            let layer = crate::bf16::Layer {
                weights: &packed,
                bias: Some(&bias),
                addend: None,
                activation,
            };
            crate::bf16::linear_bf16(
                Cpu::with_tier(crate::Tier::Portable).unwrap(),
                &x,
                rows,
                &layer,
                &mut expected,
            );
            let on_w = Weights::bf16(&gpu, &w, [inner, columns]);
            let layer = Layer { weights: &on_w, bias: &on_bias, activation };
            let y = empty::<f32>(&gpu, rows * columns);
            linear(&gpu, Floats::F32(&on_x), rows, &layer, Floats::F32(&y));
            assert_close(&read(&gpu, &y), &expected, 2.0 * tolerance);

            if on_w.reads_bf16() {
                let on_x = upload(&gpu, &in_bf16(&x));
                linear(&gpu, Floats::Bf16(&on_x), rows, &layer, Floats::F32(&y));
                assert_close(&read(&gpu, &y), &expected, 2.0 * tolerance);
                let y = empty::<bf16>(&gpu, rows * columns);
                linear(&gpu, Floats::Bf16(&on_x), rows, &layer, Floats::Bf16(&y));
                assert_close(&in_f32(&read(&gpu, &y)), &expected, 5e-3);
            }
        }
    }
}

#[test]
fn integer_products_match() {
    let cpu = Cpu::best();
    let input = Quantization { scale: 0.02, zero_point: 3, min: -128, max: 127 };
    let to = Quantization::symmetric(0.04);
    for gpu in gpus() {
        for (sizes, activation) in products(&gpu) {
            let [rows, inner, columns] = sizes;
            let x = integers(rows * inner, 1);
            let floats: Vec<f32> = numbers(rows * inner, 2).iter().map(|x| x * 3.0).collect();
            let w = integers(inner * columns, 3);
            let [mut scales, bias] = [4, 5].map(|seed| numbers(columns, seed));
            scales.iter_mut().for_each(|scale| *scale *= 1e-4);
            let sums: Vec<i32> = (0..columns)
                .map(|c| (0..inner).map(|k| i32::from(w[k * columns + c])).sum())
                .collect();
            let packed = int8::PackedWeights::new(&w, [inner, columns], [columns, 1]);
            let layer = int8::Layer {
                weights: &packed,
                scales: &scales,
                bias: Some(&bias),
                activation,
                coarse: false,
            };
            let [on_scales, on_bias] = [&scales, &bias].map(|values| upload(&gpu, values));
            let on_w = Weights::int8(&gpu, &w, [inner, columns]);
            let on_sums = upload(&gpu, &sums);
            for float_input in [false, true] {
                let on_x = if float_input { upload(&gpu, &floats) } else { upload(&gpu, &x) };
                let zero_point = input.zero_point;
                let x = if float_input {
                    int8::Input::F32 { x: &floats, to: input }
                } else {
                    int8::Input::Int8 { x: &x, zero_point }
                };
                let on_layer = IntegerLayer {
                    weights: &on_w,
                    column_sums: &on_sums,
                    scales: &on_scales,
                    bias: &on_bias,
                    input,
                    float_input,
                    activation,
                };
                let mut expected = vec![0.0; rows * columns];
                int8::linear(cpu, x, rows, &layer, int8::Output::F32(&mut expected));
                let y = empty::<f32>(&gpu, rows * columns);
                integer_linear(&gpu, &on_x, rows, &on_layer, Output::Floats(Floats::F32(&y)));
                let found = read::<f32>(&gpu, &y);
                assert_close(&found, &expected, 1e-6);
                let is_exact = EXACT.contains(&activation);
                assert!(!is_exact || found == expected, "{sizes:?} {activation:?}");

                if on_w.writes_bf16() {
                    let y = empty::<bf16>(&gpu, rows * columns);
                    let output = Output::Floats(Floats::Bf16(&y));
                    integer_linear(&gpu, &on_x, rows, &on_layer, output);
                    assert_close(&in_f32(&read(&gpu, &y)), &expected, 4e-3);
                }

                let mut expected = vec![0; rows * columns];
                int8::linear(cpu, x, rows, &layer, int8::Output::Int8(&mut expected, to));
                let y = empty::<i8>(&gpu, rows * columns);
                integer_linear(&gpu, &on_x, rows, &on_layer, Output::Int8(&y, to));
                let found = read(&gpu, &y);
                assert_steps(&found, &expected);
                assert!(!is_exact || found == expected, "{sizes:?} {activation:?}");
            }
        }
    }
}
