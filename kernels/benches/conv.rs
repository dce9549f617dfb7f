//! Times and rates of f32 convolutions of vision models, with bias and ReLU: the fastest
//! of many runs, which other work on the machine disturbs least.
//!
//! `cargo bench -p kernels --bench conv`; `PIPELINE_KERNELS` forces a tier, `RAYON_NUM_THREADS`
//! the threads.
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use kernels::channels_last::{self, PackedFilters};
use kernels::{Activation, Conv2d, Cpu, Filters, Slide, conv2d};

fn main() {
    let cpu = Cpu::from_environment().expect("PIPELINE_KERNELS names a tier of this CPU");
    println!("tier {}, {} threads, fastest runs", cpu.tier(), rayon::current_num_threads());
    for (name, channels, outputs, groups, size, kernel, stride) in [
        ("resnet stem", 3, 64, 1, 224, 7, 2),
        ("resnet 3×3", 64, 64, 1, 56, 3, 1),
        ("resnet 3×3", 128, 128, 1, 28, 3, 1),
        ("resnet 3×3", 256, 256, 1, 14, 3, 1),
        ("resnet 3×3", 512, 512, 1, 7, 3, 1),
        ("resnet 1×1", 256, 64, 1, 56, 1, 1),
        ("resnet 1×1", 512, 2048, 1, 7, 1, 1),
        ("mobilenet depthwise", 144, 144, 144, 56, 3, 1),
        ("mobilenet depthwise", 144, 144, 144, 56, 3, 2),
        ("mobilenet depthwise", 576, 576, 576, 14, 3, 1),
    ] {
        let before = kernel / 2;
        let output = (size + 2 * before - kernel) / stride + 1;
        let slide =
            Slide { input: size, kernel, stride, before, after: before, output, ..Slide::ONE };
        let conv = Conv2d { batch: 1, channels, outputs, groups, windows: [slide; 2] };
        convolution(cpu, name, &conv);
    }
}

/// The fastest of at least 30 runs and a fifth of a second.
fn fastest(mut run: impl FnMut()) -> Duration {
    run();
    let start = Instant::now();
    let (mut runs, mut best) = (0, Duration::MAX);
    while runs < 30 || start.elapsed() < Duration::from_millis(200) {
        let begin = Instant::now();
        run();
        best = best.min(begin.elapsed());
        runs += 1;
    }
    best
}

fn values(len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 37 + 11) % 101) as f32 / 50.0 - 1.0).collect()
}

fn convolution(cpu: Cpu, name: &str, conv: &Conv2d) {
    let slide = &conv.windows[0];
    let (image, positions) = (slide.input.pow(2), slide.output.pow(2));
    let depth = conv.channels / conv.groups * slide.kernel.pow(2);
    let (x, weight) = (values(conv.channels * image), values(conv.outputs * depth));
    let (bias, mut y) = (values(conv.outputs), vec![0.0; conv.outputs * positions]);
    let mut scratch = vec![0.0; conv.scratch_len()];
    let filters = Filters { weight: &weight, bias: Some(&bias), activation: Activation::Relu };
    let time = fastest(|| conv2d(cpu, conv, &x, &filters, black_box(&mut y), &mut scratch));
    let rate =
        |time: Duration| 2.0 * (conv.outputs * positions * depth) as f64 / time.as_secs_f64() / 1e9;
    print!(
        "{name} {}→{} ({} groups) {}×{} /{}: {time:.1?} ({:.0} Gop/s), {} KiB of scratch",
        conv.channels,
        conv.outputs,
        conv.groups,
        slide.input,
        slide.input,
        slide.stride,
        rate(time),
        scratch.len() * size_of::<f32>() / 1024
    );
    let sizes = [conv.outputs, conv.channels / conv.groups, slide.kernel.pow(2)];
    let weight = PackedFilters::new(&weight, sizes, conv.groups);
    let mut scratch = vec![0.0; channels_last::scratch_len(conv)];
    let Filters { bias, activation, .. } = filters;
    let filters = channels_last::Filters { weight: &weight, bias, addend: None, activation };
    let y = black_box(&mut y);
    let time = fastest(|| channels_last::conv2d(cpu, conv, &x, &filters, y, &mut scratch));
    println!("; channels last {time:.1?} ({:.0} Gop/s)", rate(time));
}
