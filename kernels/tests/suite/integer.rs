//! int8 kernels: exact, so every tier gives the twin's bits.

use kernels::int8::{self, Input, Layer, Output, PackedWeights, Quantization};
use kernels::{Activation, Cpu, TableScales, gather_rows, gather_rows_int8};
use proptest::prelude::*;

use super::{integers, numbers, on_every_tier};

/// A layer in plain loops.
struct Twin {
    sizes: [usize; 3],
    x: Vec<i8>,
    w: Vec<i8>,
    scales: Vec<f32>,
    bias: Vec<f32>,
    zero_point: i8,
}

impl Twin {
    fn new(sizes: [usize; 3], zero_point: i8, seed: u64) -> Self {
        let [m, k, n] = sizes;
        let scales = numbers(n, seed ^ 3).iter().map(|x| x.abs() * 1e-3 + 1e-4).collect();
        let (x, w) = (integers(m * k, seed), integers(k * n, seed ^ 1));
        Self { sizes, x, w, scales, bias: numbers(n, seed ^ 2), zero_point }
    }

    fn expected(&self) -> Vec<f32> {
        let [m, k, n] = self.sizes;
        let element = |i: usize| {
            let (row, col) = (i / n, i % n);
            let products = (0..k).map(|j| {
                let x = i32::from(self.x[row * k + j]) - i32::from(self.zero_point);
                x * i32::from(self.w[j * n + col])
            });
            let sum: i32 = products.sum();
            (sum as f32 * self.scales[col] + self.bias[col]).max(0.0)
        };
        (0..m * n).map(element).collect()
    }

    fn run(&self, cpu: Cpu, weights: &PackedWeights, y: Output<'_>) {
        self.run_with(cpu, weights, Activation::Relu, y);
    }

    fn run_with(&self, cpu: Cpu, weights: &PackedWeights, activation: Activation, y: Output<'_>) {
        let bias = Some(&self.bias[..]);
        let layer = Layer { weights, scales: &self.scales, bias, activation, coarse: false };
        let x = Input::Int8 { x: &self.x, zero_point: self.zero_point };
        int8::linear(cpu, x, self.sizes[0], &layer, y);
    }

    fn check(&self) {
        let [m, k, n] = self.sizes;
        let weights = PackedWeights::new(&self.w, [k, n], [n, 1]);
        let y = on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; m * n];
            self.run(cpu, &weights, Output::F32(&mut y));
            y
        });
        assert_eq!(y, self.expected());
        let to = Quantization { scale: 0.013, zero_point: -3, min: -127, max: 127 };
        for cpu in Cpu::every() {
            let mut rounded = vec![99; m * n];
            self.run(cpu, &weights, Output::Int8(&mut rounded, to));
            assert_eq!(rounded, round(&y, to), "{}", cpu.tier());
            for activation in [Activation::Identity, Activation::Relu] {
                let mut y = vec![f32::NAN; m * n];
                self.run_with(cpu, &weights, activation, Output::F32(&mut y));
                let mut rounded = vec![u16::MAX; m * n];
                self.run_with(cpu, &weights, activation, Output::Bf16(&mut rounded));
                let expected: Vec<u16> = y.iter().map(super::bf16::rounded).collect();
                assert_eq!(rounded, expected, "{}", cpu.tier());
            }
        }
    }
}

/// `QuantizeLinear` as ONNX says it.
fn round(x: &[f32], to: Quantization) -> Vec<i8> {
    x.iter()
        .map(|x| {
            let q = (x / to.scale).round_ties_even() + f32::from(to.zero_point);
            q.clamp(f32::from(to.min), f32::from(to.max)) as i8
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn linear_is_exact_on_every_tier(m in 0usize..40, k in 0usize..150, n in 0usize..90, zero_point: i8, seed: u64) {
        Twin::new([m, k, n], zero_point, seed).check();
    }

    #[test]
    fn numbers_are_rounded_on_the_way_in(m in 0usize..60, k in 0usize..600, n in 0usize..40, zero_point: i8, seed: u64) {
        let twin = Twin::new([m, k, n], zero_point, seed);
        let weights = PackedWeights::new(&twin.w, [k, n], [n, 1]);
        let layer = Layer { weights: &weights, scales: &twin.scales, bias: None, activation: Activation::Identity, coarse: false };
        let x = numbers(m * k, seed);
        let to = Quantization { scale: 0.017, zero_point, min: -127, max: 127 };
        let rounded = round(&x, to);
        let run = |x: Input<'_>| on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; m * n];
            int8::linear(cpu, x, m, &layer, Output::F32(&mut y));
            y
        });
        let expected = run(Input::Int8 { x: &rounded, zero_point });
        prop_assert_eq!(run(Input::F32 { x: &x, to }), expected);
    }

    #[test]
    fn quantize_is_onnx_on_every_tier(len in 0usize..100, scale in 1e-4f32..2.0, zero_point: i8, symmetric: bool, seed: u64) {
        let x: Vec<_> = numbers(len, seed).iter().map(|x| x * 20.0).collect();
        let min = if symmetric { -127 } else { -128 };
        let to = Quantization { scale, zero_point, min, max: 127 };
        for cpu in Cpu::every() {
            let mut y = vec![0; len];
            int8::quantize(cpu, &x, to, &mut y);
            prop_assert_eq!(&y, &round(&x, to));
            let mut back = vec![0.0; len];
            int8::dequantize(cpu, &y, to, &mut back);
            let expected: Vec<_> = y.iter().map(|&q| (i32::from(q) - i32::from(zero_point)) as f32 * scale).collect();
            prop_assert_eq!(back, expected);
        }
    }
}

#[test]
fn sums_of_integers_are_those_of_their_numbers() {
    let quantization = |scale, zero_point| Quantization { scale, zero_point, min: -128, max: 127 };
    let (of_a, of_b, to) =
        (quantization(0.03, 5), quantization(0.0125, -9), quantization(0.041, 2));
    for len in [0, 1, 511, 5000, 40_001] {
        let (a, b) = (integers(len, 1), integers(len, 2));
        for cpu in Cpu::every() {
            let mut numbers = [vec![0.0; len], vec![0.0; len]];
            int8::dequantize(cpu, &a, of_a, &mut numbers[0]);
            int8::dequantize(cpu, &b, of_b, &mut numbers[1]);
            let sums: Vec<f32> =
                numbers[0].iter().zip(&numbers[1]).map(|(a, b)| (a + b).max(0.0)).collect();
            let [mut expected, mut found] = [vec![0; len], vec![0; len]];
            int8::quantize(cpu, &sums, to, &mut expected);
            let addends = [(a.as_slice(), of_a), (b.as_slice(), of_b)];
            int8::quantized_sum(cpu, addends, Activation::Relu, &mut found, to);
            assert_eq!(found, expected, "{len}");
        }
    }
}

#[test]
fn large_layers_are_cut_into_jobs_without_a_trace() {
    Twin::new([1, 700, 3001], 0, 7).check();
    Twin::new([101, 133, 300], 5, 8).check();
    Twin::new([150, 320, 200], -7, 9).check();
    // Enough blocks of rows to be cut by rows alone.
    Twin::new([900, 67, 40], -3, 9).check();
    // Weights that no core's cache holds.
    Twin::new([100, 1100, 960], 3, 10).check();
}

#[test]
fn extreme_operands_do_not_saturate() {
    for (x, w) in [(-128, -128), (127, -128), (-128, 127), (127, 127)] {
        let k = 1027;
        let twin = Twin {
            sizes: [3, k, 17],
            x: vec![x; 3 * k],
            w: vec![w; k * 17],
            scales: vec![1.0; 17],
            bias: vec![0.0; 17],
            zero_point: 0,
        };
        twin.check();
    }
}

#[test]
fn weights_pack_the_same_from_either_layout() {
    let (k, n) = (37, 21);
    let w = integers(k * n, 3);
    let transposed: Vec<_> = (0..k * n).map(|i| w[i % k * n + i / k]).collect();
    let packed = PackedWeights::new(&w, [k, n], [n, 1]);
    assert_eq!(packed, PackedWeights::new(&transposed, [k, n], [1, k]));
    assert_eq!((packed.inputs(), packed.outputs()), (k, n));
}

#[test]
fn halves_round_to_even_and_infinities_saturate() {
    let x = [0.5, 1.5, 2.5, -0.5, -1.5, 1e30, -1e30, f32::INFINITY, f32::NEG_INFINITY, f32::NAN];
    for cpu in Cpu::every() {
        let mut y = [0; 10];
        int8::quantize(cpu, &x, Quantization::symmetric(1.0), &mut y);
        assert_eq!(y, [0, 2, 2, 0, -2, 127, -128, 127, -128, 0]);
    }
}

#[test]
fn columns_have_scales_of_their_own() {
    let x = integers(30, 1);
    let scales = numbers(5, 2);
    let y = on_every_tier(|cpu| {
        let mut y = vec![0.0; 30];
        int8::dequantize_columns(cpu, &x, &scales, &mut y);
        y
    });
    let expected: Vec<_> =
        x.iter().enumerate().map(|(i, &x)| f32::from(x) * scales[i % 5]).collect();
    assert_eq!(y, expected);
}

#[test]
fn gather_picks_rows_and_refuses_others() {
    let (rows, len) = (11, 19);
    let table = numbers(rows * len, 1);
    let mut y = vec![0.0; 3 * len];
    gather_rows(&table, [rows, len], &[10, 0, 10], &mut y).unwrap();
    assert_eq!(y[..len], table[10 * len..]);
    assert_eq!(y[2 * len..], table[10 * len..]);
    gather_rows(&table, [rows, len], &[-1, -11, -1], &mut y).unwrap();
    assert_eq!(y[..len], table[10 * len..]);
    assert_eq!(y[len..2 * len], table[..len]);
    for bad in [11, -12, i64::MIN, i64::MAX] {
        let error = gather_rows(&table, [rows, len], &[0, bad, 0], &mut y).unwrap_err();
        assert_eq!((error.position, error.index, error.rows), (1, bad, rows));
    }
}

#[test]
fn int8_tables_are_scaled_as_they_are_picked() {
    let (rows, len) = (300, 67);
    let table = integers(rows * len, 1);
    let scales = numbers(rows, 2);
    let indices: Vec<i64> = (0..500).map(|i| i * 7 % 300).collect();
    let run = |scales: TableScales<'_>| {
        on_every_tier(|cpu| {
            let mut y = vec![0.0; indices.len() * len];
            gather_rows_int8(cpu, &table, [rows, len], scales, &indices, &mut y).unwrap();
            y
        })
    };
    let expected = |scale: &dyn Fn(usize, usize) -> f32| -> Vec<f32> {
        let of_row = |&row: &i64| {
            let row = row as usize;
            let table = &table;
            (0..len).map(move |col| f32::from(table[row * len + col]) * scale(row, col))
        };
        indices.iter().flat_map(of_row).collect()
    };
    assert_eq!(run(TableScales::Table(0.25)), expected(&|_, _| 0.25));
    assert_eq!(run(TableScales::Rows(&scales)), expected(&|row, _| scales[row]));
    assert_eq!(run(TableScales::Columns(&scales[..len])), expected(&|_, col| scales[col]));
}
