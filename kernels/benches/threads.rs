//! What sharing work costs, and from which size on it pays.
//!
//! `cargo bench -p kernels --bench threads`; two threads, medians. Halves of a layer's rows
//! run one after the other, and on two threads.
#![allow(clippy::print_stdout, reason = "a bench prints")]

use std::hint::black_box;
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use kernels::float::{Layer, PackedWeights, linear};
use kernels::{Activation, Cpu, Team};
use rayon::prelude::*;

/// Inputs and outputs of the layer.
const WIDTH: usize = 64;

fn main() {
    let cpu = Cpu::from_environment().expect("PIPELINE_KERNELS names a tier of this CPU");
    let threads = NonZeroUsize::new(2).expect("two is not zero");
    let team = Team::new(threads).expect("threads start");
    let pool = rayon::ThreadPoolBuilder::new().num_threads(2).build().expect("threads start");
    let nothing = |piece: usize| {
        black_box(piece);
    };
    let of_team = median(Duration::ZERO, || team.for_each(8, nothing));
    let of_rayon =
        pool.install(|| median(Duration::ZERO, || (0..8).into_par_iter().for_each(nothing)));
    let idle = Duration::from_millis(2);
    let woken = median(idle, || team.for_each(8, nothing));
    println!("tier {}; eight empty pieces: team {of_team:.1?}, rayon {of_rayon:.1?}", cpu.tier());
    println!("after 2 ms of sleep: {woken:.1?} until the caller goes on");
    println!("| rows of {WIDTH}→{WIDTH} | multiply-adds | one thread | two | gain |");
    println!("|---|---|---|---|---|");
    for rows in [4, 8, 16, 32, 64, 128, 256, 512] {
        layer(cpu, &team, rows);
    }
}

/// The median time of many runs, each after a pause.
fn median(pause: Duration, mut run: impl FnMut()) -> Duration {
    let begin = Instant::now();
    let mut times = Vec::new();
    while begin.elapsed() < Duration::from_millis(500) {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let start = Instant::now();
        run();
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

fn layer(cpu: Cpu, team: &Team, rows: usize) {
    let values = |len: usize| -> Vec<f32> { (0..len).map(|i| (i % 13) as f32 / 13.0).collect() };
    let weights = PackedWeights::new(&values(WIDTH * WIDTH), [WIDTH; 2], [WIDTH, 1]);
    let layer = Layer { weights: &weights, bias: None, activation: Activation::Identity };
    let half = rows / 2 * WIDTH;
    let x = values(2 * half);
    let y = [(); 2].map(|()| std::sync::Mutex::new(vec![0.0; half]));
    let piece = |index: usize| {
        let mut y = y[index].lock().expect("nothing panics");
        linear(cpu, &x[index * half..][..half], rows / 2, &layer, black_box(&mut y));
    };
    let one = median(Duration::ZERO, || (0..2).for_each(piece));
    let two = median(Duration::ZERO, || team.for_each(2, piece));
    let gain = one.as_secs_f64() / two.as_secs_f64();
    println!("| {rows} | {} | {one:.1?} | {two:.1?} | {gain:.2} |", rows * WIDTH * WIDTH);
}
