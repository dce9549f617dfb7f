//! `f32` products.

use kernels::float::{Layer, PackedWeights, linear};
use kernels::{Activation, Batch, Cpu, Matrix, Write, batched_gemm, gemm, product};
use proptest::prelude::*;

use super::{assert_close, numbers, on_any_threads, on_every_tier};

/// `[m, k]·[k, n]` of row-major operands, in f64.
fn twin(a: &[f32], b: &[f32], [m, k, n]: [usize; 3]) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for row in 0..m {
        for col in 0..n {
            c[row * n + col] =
                (0..k).map(|i| f64::from(a[row * k + i]) * f64::from(b[i * n + col])).sum();
        }
    }
    c
}

fn transpose(x: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect()
}

proptest! {
    #[test]
    fn gemm_takes_any_strides(m in 0usize..40, k in 0usize..40, n in 0usize..40, seed: u64) {
        let (a, b) = (numbers(m * k, seed), numbers(k * n, seed ^ 1));
        let expected = twin(&a, &b, [m, k, n]);
        let (at, bt) = (transpose(&a, m, k), transpose(&b, k, n));
        let a_views = [Matrix::row_major(&a, m, k), Matrix::row_major(&at, k, m).transposed()];
        let b_views = [Matrix::row_major(&b, k, n), Matrix::row_major(&bt, n, k).transposed()];
        for a in a_views {
            for b in b_views {
                let c = on_every_tier(|cpu| {
                    let mut c = vec![f32::NAN; m * n];
                    gemm(cpu, a, b, &mut c, Write::Overwrite);
                    assert_eq!(product(cpu, a, b), c);
                    c
                });
                assert_close("gemm", &c, &expected, 1e-4);
                let doubled: Vec<_> = expected.iter().map(|x| 2.0 * x).collect();
                let c = on_every_tier(|cpu| {
                    let mut c = c.clone();
                    gemm(cpu, a, b, &mut c, Write::Accumulate);
                    c
                });
                assert_close("accumulate", &c, &doubled, 1e-4);
            }
        }
    }

    #[test]
    fn one_row_and_one_column(k in 0usize..40, n in 0usize..200, seed: u64) {
        let (x, w) = (numbers(k, seed), numbers(k * n, seed ^ 1));
        let (row, column) = (Matrix::row_major(&x, 1, k), Matrix::row_major(&x, k, 1));
        let matrix = Matrix::row_major(&w, k, n);
        let expected = twin(&x, &w, [1, k, n]);
        let c = on_every_tier(|cpu| {
            let mut c = vec![f32::NAN; n];
            gemm(cpu, row, matrix, &mut c, Write::Overwrite);
            let mut turned = vec![f32::NAN; n];
            gemm(cpu, matrix.transposed(), column, &mut turned, Write::Overwrite);
            assert_eq!(turned, c);
            c
        });
        assert_close("row", &c, &expected, 1e-4);
        let c = on_every_tier(|cpu| {
            let mut c = c.clone();
            gemm(cpu, row, matrix, &mut c, Write::Accumulate);
            c
        });
        let doubled: Vec<_> = expected.iter().map(|x| 2.0 * x).collect();
        assert_close("accumulated", &c, &doubled, 1e-4);
    }

    #[test]
    fn linear_adds_the_bias_and_activates(m in 0usize..150, k in 0usize..40, n in 0usize..150, seed: u64) {
        let (x, w, bias) = (numbers(m * k, seed), numbers(k * n, seed ^ 1), numbers(n, seed ^ 2));
        let expected: Vec<_> = twin(&x, &w, [m, k, n]).iter().enumerate()
            .map(|(i, y)| (y + f64::from(bias[i % n])).max(0.0)).collect();
        let weights = PackedWeights::new(&w, [k, n], [n, 1]);
        let layer = Layer { weights: &weights, bias: Some(&bias), activation: Activation::Relu };
        let y = on_every_tier(|cpu| {
            let mut y = vec![f32::NAN; m * n];
            linear(cpu, &x, m, &layer, &mut y);
            y
        });
        assert_close("linear", &y, &expected, 1e-4);
    }

    #[test]
    fn batches_repeat_and_transpose(products in 1usize..6, m in 1usize..12, k in 1usize..12, n in 1usize..12, seed: u64) {
        let (a, b) = (numbers(products * m * k, seed), numbers(k * n, seed ^ 1));
        let a_offsets: Vec<_> = (0..products).map(|i| i * m * k).collect();
        let b_offsets = vec![0; products];
        let mut c = vec![f32::NAN; products * m * n];
        let bt = transpose(&b, k, n);
        let a_batch = Batch { data: &a, shape: [m, k], strides: [k, 1], offsets: &a_offsets };
        let b_batch = Batch { data: &bt, shape: [k, n], strides: [1, k], offsets: &b_offsets };
        batched_gemm(Cpu::best(), &a_batch, &b_batch, &mut c, Write::Overwrite);
        let expected = twin(&a, &b, [products * m, k, n]);
        assert_close("batched", &c, &expected, 1e-4);
    }
}

#[test]
fn large_products_do_not_depend_on_threads() {
    let (m, k, n) = (257, 130, 390);
    let (x, w, bias) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3));
    let (xm, wm) = (Matrix::row_major(&x, m, k), Matrix::row_major(&w, k, n));
    let expected = twin(&x, &w, [m, k, n]);
    let y = on_any_threads(|| {
        let mut y = vec![0.0; m * n];
        gemm(Cpu::best(), xm, wm, &mut y, Write::Overwrite);
        y
    });
    assert_close("gemm", &y, &expected, 1e-4);
    assert_eq!(product(Cpu::best(), xm, wm), y);
    let weights = PackedWeights::new(&w, [k, n], [n, 1]);
    let layer = Layer { weights: &weights, bias: Some(&bias), activation: Activation::Relu };
    let y = on_any_threads(|| {
        let mut y = vec![0.0; m * n];
        linear(Cpu::best(), &x, m, &layer, &mut y);
        y
    });
    let activate = |(i, y): (usize, &f64)| (y + f64::from(bias[i % n])).max(0.0);
    assert_close(
        "linear",
        &y,
        &expected.iter().enumerate().map(activate).collect::<Vec<_>>(),
        1e-4,
    );
}

/// Sums go on from part to part as one chain does, whichever side has to be laid out anew.
#[test]
fn a_product_in_parts_has_the_bits_of_a_layer() {
    let (m, k, n) = (103, 1301, 2100);
    let (x, w) = (numbers(m * k, 1), numbers(k * n, 2));
    let (xt, wt) = (transpose(&x, m, k), transpose(&w, k, n));
    let weights = PackedWeights::new(&w, [k, n], [n, 1]);
    let layer = Layer { weights: &weights, bias: None, activation: Activation::Identity };
    let mut y = vec![0.0; m * n];
    linear(Cpu::best(), &x, m, &layer, &mut y);
    for x in [Matrix::row_major(&x, m, k), Matrix::row_major(&xt, k, m).transposed()] {
        for w in [Matrix::row_major(&w, k, n), Matrix::row_major(&wt, n, k).transposed()] {
            assert!(product(Cpu::best(), x, w) == y);
        }
    }
    // Neither rows nor columns are dense.
    let apart: Vec<f32> = w.iter().flat_map(|&w| [w, f32::NAN]).collect();
    let w = Matrix::strided(&apart, [k, n], [2 * n, 2]);
    assert!(product(Cpu::best(), Matrix::row_major(&x, m, k), w) == y);
}

/// Many inputs are multiplied part after part; sums go on as one chain that starts with the bias.
#[test]
fn a_layer_in_parts_has_the_bits_of_one_chain() {
    let (m, k, n) = (29, 3101, 37);
    let (x, w, bias) = (numbers(m * k, 1), numbers(k * n, 2), numbers(n, 3));
    let chain = |i: usize| {
        let (row, col) = (i / n, i % n);
        (0..k).fold(bias[col], |sum, i| x[row * k + i].mul_add(w[i * n + col], sum)).max(0.0)
    };
    let expected: Vec<f32> = (0..m * n).map(chain).collect();
    let weights = PackedWeights::new(&w, [k, n], [n, 1]);
    let layer = Layer { weights: &weights, bias: Some(&bias), activation: Activation::Relu };
    let run = |cpu| {
        let mut y = vec![f32::NAN; m * n];
        linear(cpu, &x, m, &layer, &mut y);
        y
    };
    let y = on_every_tier(run);
    assert_close("linear", &y, &expected.iter().map(|&y| y.into()).collect::<Vec<_>>(), 1e-4);
    if kernels::Tier::Avx2.is_available() {
        assert_eq!(y, expected);
    }
    assert_eq!(on_any_threads(|| run(Cpu::best())), y);
}

#[test]
fn packed_weights_are_the_same_from_either_layout() {
    let (k, n) = (3070, 21);
    let w = numbers(k * n, 3);
    let packed = PackedWeights::new(&w, [k, n], [n, 1]);
    assert_eq!(packed, PackedWeights::new(&transpose(&w, k, n), [k, n], [1, k]));
    assert_eq!((packed.inputs(), packed.outputs()), (k, n));
}

#[test]
#[should_panic(expected = "does not fit into 5 elements")]
fn a_matrix_out_of_its_slice_is_refused() {
    let _ = Matrix::strided(&[0.0; 5], [2, 3], [3, 1]);
}

#[test]
#[should_panic(expected = "gemm: c: expected 4 elements, found 3")]
fn a_short_result_is_refused() {
    let x = [0.0; 4];
    let x = Matrix::row_major(&x, 2, 2);
    gemm(Cpu::best(), x, x, &mut [0.0; 3], Write::Overwrite);
}

#[test]
fn a_long_row_does_not_depend_on_threads() {
    let (k, n) = (700, 1601);
    let (x, w) = (numbers(k, 1), numbers(k * n, 2));
    let (a, b) = (Matrix::row_major(&x, 1, k), Matrix::row_major(&w, k, n));
    let c = on_any_threads(|| product(Cpu::best(), a, b));
    assert_close("row", &c, &twin(&x, &w, [1, k, n]), 1e-3);
}
