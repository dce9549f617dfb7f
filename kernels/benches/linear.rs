//! Times of the linear layer, f32 beside int8, in one run: least times, which other load
//! disturbs least, rates and their ratio.
//!
//! `cargo bench -p kernels`; `PIPELINE_KERNELS` forces a tier, `RAYON_NUM_THREADS` the threads.
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::int8::{self, Input, Layer, Output, PackedWeights, Quantization};
use kernels::{
    Activation, Attention, Cpu, Heads, LayerNorm, Matrix, NoKeys, Products, Write, float, gemm,
};

fn main() {
    let cpu = Cpu::from_environment().expect("PIPELINE_KERNELS names a tier of this CPU");
    println!("tier {}, {} threads, least times", cpu.tier(), rayon::current_num_threads());
    for (m, k, n) in [
        (1, 384, 1536),
        (32, 384, 384),
        (32, 384, 1536),
        (32, 1536, 384),
        (128, 384, 1536),
        (128, 1536, 384),
        (256, 384, 1536),
        (256, 384, 384),
        (1024, 384, 1536),
    ] {
        linear_layers(cpu, m, k, n);
    }
    products(cpu, 2048, 384, 1536);
    rows(cpu, 128, 384);
    heads(cpu, 8, 12, 128, 32);
}

/// The least of at least 30 runs and a fifth of a second.
fn least(mut run: impl FnMut()) -> Duration {
    run();
    let start = Instant::now();
    let mut times = Vec::new();
    while times.len() < 30 || start.elapsed() < Duration::from_millis(200) {
        let begin = Instant::now();
        run();
        times.push(begin.elapsed());
    }
    times.into_iter().min().expect("there were 30 runs")
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
}

fn linear_layers(cpu: Cpu, m: usize, k: usize, n: usize) {
    let (x, w, bias) = (values(m * k), values(k * n), values(n));
    let mut y = vec![0.0; m * n];
    let (xm, wm) = (Matrix::row_major(&x, m, k), Matrix::row_major(&w, k, n));
    let packed = float::PackedWeights::new(&w, [k, n], [n, 1]);
    let layer = float::Layer { weights: &packed, bias: Some(&bias), activation: Activation::Gelu };
    let float = least(|| float::linear(cpu, &x, m, &layer, black_box(&mut y)));

    let product = least(|| gemm(cpu, xm, wm, black_box(&mut y), Write::Overwrite));

    let to = Quantization::symmetric(0.01);
    let (mut xq, mut wq, mut yq) = (vec![0; m * k], vec![0; k * n], vec![0; m * n]);
    int8::quantize(cpu, &x, to, &mut xq);
    int8::quantize(cpu, &w, to, &mut wq);
    let weights = PackedWeights::new(&wq, [k, n], [n, 1]);
    let scales = vec![1e-4; n];
    let activation = Activation::Gelu;
    let bias = Some(&bias[..]);
    let layer = Layer { weights: &weights, scales: &scales, bias, activation, coarse: false };
    let integer = least(|| {
        let x = Input::Int8 { x: &xq, zero_point: 0 };
        int8::linear(cpu, x, m, &layer, Output::Int8(black_box(&mut yq), to));
    });
    let rate = |time: Duration| 2.0 * (m * k * n) as f64 / time.as_secs_f64() / 1e9;
    println!(
        "linear+bias+gelu {m:>4}×{k}×{n}: f32 product alone {product:>9.1?}, f32 {float:>9.1?} ({:.0} Gop/s), int8 {integer:>9.1?} ({:.0} Gop/s), ×{:.2}",
        rate(float),
        rate(integer),
        float.as_secs_f64() / integer.as_secs_f64()
    );
}

/// The three products of a linear layer in training: y = x·w, dx = dy·wᵀ, dw = xᵀ·dy.
fn products(cpu: Cpu, m: usize, k: usize, n: usize) {
    let (x, w, dy) = (values(m * k), values(k * n), values(m * n));
    let (mut y, mut dx, mut dw) = (vec![0.0; m * n], vec![0.0; m * k], vec![0.0; k * n]);
    let (x, w) = (Matrix::row_major(&x, m, k), Matrix::row_major(&w, k, n));
    let dy = Matrix::row_major(&dy, m, n);
    let rate = |time: Duration| 2.0 * (m * k * n) as f64 / time.as_secs_f64() / 1e9;
    let forward = least(|| gemm(cpu, x, w, black_box(&mut y), Write::Overwrite));
    let input = least(|| gemm(cpu, dy, w.transposed(), black_box(&mut dx), Write::Overwrite));
    let weight = least(|| gemm(cpu, x.transposed(), dy, black_box(&mut dw), Write::Accumulate));
    println!(
        "training {m}×{k}×{n}: y {forward:.1?} ({:.0} Gop/s), dx {input:.1?} ({:.0}), dw {weight:.1?} ({:.0})",
        rate(forward),
        rate(input),
        rate(weight)
    );
}

fn rows(cpu: Cpu, rows: usize, cols: usize) {
    let (x, gamma) = (values(rows * cols), values(cols));
    let mut y = vec![0.0; rows * cols];
    let norm = LayerNorm { gamma: &gamma, beta: &gamma, epsilon: 1e-12 };
    let time = least(|| kernels::residual_layer_norm(cpu, &x, &x, &norm, black_box(&mut y)));
    println!("residual+layer norm {rows}×{cols}: {time:.1?}");
    let time = least(|| kernels::gelu_forward(cpu, &x, black_box(&mut y)));
    println!("gelu {rows}×{cols}: {time:.1?}");
    let time = least(|| kernels::softmax_forward(cpu, &x, cols, black_box(&mut y)));
    println!("softmax {rows}×{cols}: {time:.1?}");
}

fn heads(cpu: Cpu, batch: usize, heads: usize, tokens: usize, head_size: usize) {
    let width = heads * head_size;
    let x = values(batch * tokens * width);
    let mut y = vec![0.0; x.len()];
    let sizes = Attention {
        batch,
        heads,
        queries: tokens,
        keys: tokens,
        head_size,
        scale: 0.2,
        no_keys: NoKeys::NotANumber,
        products: Products::F32,
    };
    let part = Heads::in_rows(kernels::HeadData::F32(&x), tokens, head_size, width);
    let time = least(|| kernels::attention(cpu, &sizes, [part; 3], None, black_box(&mut y)));
    println!("attention batch {batch}, {heads} heads of {head_size}, {tokens} tokens: {time:.1?}");
}
