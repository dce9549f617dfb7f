//! One suite over every tier: each kernel against a slow obvious twin, and tiers against each
//! other bit for bit.

mod float {
    mod attention;
    mod functions;
    mod rows;
    mod training;
}
mod bf16;
mod bf16_images;
mod depthwise;
mod images;
mod integer;
mod permute;
mod products;

use kernels::Cpu;

/// Numbers in about ±2, the same on every machine.
fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x1234_5678_9abc_def1;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 4.0
        })
        .collect()
}

fn integers(len: usize, seed: u64) -> Vec<i8> {
    numbers(len, seed).iter().map(|x| (x * 64.0).clamp(-128.0, 127.0) as i8).collect()
}

/// Fails unless every pair is within `tolerance·max(1, |expected|)`.
#[track_caller]
fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    for (index, (&found, &expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(found) - expected).abs();
        assert!(
            error <= tolerance * expected.abs().max(1.0),
            "{what}: element {index}: expected {expected}, found {found}"
        );
    }
}

/// Runs a kernel on every tier, checks that all agree bit for bit, and returns the result.
#[track_caller]
fn on_every_tier(run: impl Fn(Cpu) -> Vec<f32>) -> Vec<f32> {
    let mut results = Cpu::every().map(|cpu| (cpu.tier(), run(cpu)));
    let (_, portable) = results.next().expect("portable is a tier of every CPU");
    for (tier, result) in results {
        let same = portable.iter().zip(&result).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(same && portable.len() == result.len(), "{tier} differs from portable");
    }
    portable
}

/// Runs with one and with three threads and checks that both results are the same bits.
#[track_caller]
fn on_any_threads(run: impl Fn() -> Vec<f32> + Sync + Send) -> Vec<f32> {
    let with = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("a small pool starts");
        pool.install(&run)
    };
    let one = with(1);
    let three = with(3);
    assert!(one.iter().zip(&three).all(|(a, b)| a.to_bits() == b.to_bits()));
    one
}

/// Tiers that a CPU lacks are not tested on it, but a run that asks for one fails without it.
#[test]
fn the_tier_that_the_environment_asks_for_is_there() {
    let cpu = Cpu::from_environment().expect("PIPELINE_KERNELS names a tier of this CPU");
    assert!(Cpu::every().any(|other| other == cpu));
}
