#![allow(unsafe_code, reason = "calls loops made of instructions that were detected")]
//! What this machine can do at most: the rates of single instructions with all operands in
//! registers, and of reads from buffers of several sizes. A kernel's rate is stated as a share of
//! these, measured in the same process.
//!
//! A rate is work over the time of the slowest thread, the best of several runs; other work on the
//! machine lowers it, and nothing raises it. Rates are known for x86-64 with AVX2 only.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::{Barrier, OnceLock};
use std::time::{Duration, Instant};

use crate::{Cpu, Tier};

/// What is multiplied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Numbers {
    /// 32-bit floats.
    F32,
    /// Pairs of bfloat16, summed as 32-bit floats.
    Bf16,
    /// 8-bit integers, summed as 32-bit integers.
    Int8,
}

impl Numbers {
    /// Its name: `f32`, `bf16` or `int8`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
        }
    }
}

/// How long is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effort {
    /// Runs of which the best counts: many and short, so that some fall between other work.
    pub runs: usize,
    /// Least time of one run: long against the clock's resolution and a barrier.
    pub run_time: Duration,
}

impl Effort {
    /// For figures that are kept: 40 runs of 4 ms.
    pub const THOROUGH: Self = Self { runs: 40, run_time: Duration::from_millis(4) };
    /// For orientation: 8 runs of 1 ms.
    pub const QUICK: Self = Self { runs: 8, run_time: Duration::from_millis(1) };
}

/// A loop of one instruction.
#[derive(Debug)]
pub struct Loop {
    /// The instruction and its width.
    pub name: &'static str,
    /// What it multiplies.
    pub numbers: Numbers,
    /// The tier that it belongs to.
    pub tier: Tier,
    /// Operations, a multiply-add being two, of one turn of the loop.
    operations: f64,
    /// Whether kernels use the instruction on a CPU of the tier.
    used: fn(Cpu) -> bool,
    /// Runs the loop.
    ///
    /// # Safety
    /// The CPU has the tier, and `used` says so.
    run: unsafe fn(u64),
}

impl Loop {
    /// 10⁹ operations a second that `threads` do together; `None` when this CPU has not the tier, or
    /// no kernel uses the instruction on it.
    #[must_use]
    pub fn rate(&self, threads: usize, effort: Effort) -> Option<f64> {
        Cpu::with_tier(self.tier).ok().filter(|cpu| (self.used)(*cpu))?;
        // SAFETY: just checked.
        let run = |turns| unsafe { (self.run)(turns) };
        best_rate(threads, effort, || Some(run), self.operations)
    }
}

/// Every loop, whether this CPU can run it or not.
#[cfg(target_arch = "x86_64")]
pub const LOOPS: &[Loop] = x86::LOOPS;
/// None is known for this architecture.
#[cfg(not(target_arch = "x86_64"))]
pub const LOOPS: &[Loop] = &[];

/// 10⁹ bytes a second that `threads` read together, each from `size_bytes` (a multiple of 512) of
/// its own again and again; `None` where no loop is known.
///
/// # Panics
/// When `size_bytes` is no multiple of 512.
#[must_use]
pub fn read_rate(size_bytes: usize, threads: usize, effort: Effort) -> Option<f64> {
    #[cfg(target_arch = "x86_64")]
    return best_rate(threads, effort, || x86::reader(size_bytes), size_bytes as f64);
    #[cfg(not(target_arch = "x86_64"))]
    return None;
}

/// Buffers that reads are measured from: the first and second caches of a core, the last cache,
/// memory. Of the last, all threads together have about [`MOST_READ`] at most.
const READ_SIZES: [usize; 4] = [16 << 10, 256 << 10, 4 << 20, 128 << 20];

/// More than the last cache of a CPU, and little of the memory of a machine of many threads.
const MOST_READ: usize = 512 << 20;

/// The measured rate of a loop.
#[derive(Clone, Debug, PartialEq)]
pub struct OperationPeak {
    /// The instruction and its width.
    pub name: &'static str,
    /// What it multiplies.
    pub numbers: Numbers,
    /// The tier that it belongs to.
    pub tier: Tier,
    /// 10⁹ operations a second of all threads together.
    pub rate: f64,
}

/// The measured rates of a number of threads.
#[derive(Clone, Debug, PartialEq)]
pub struct Peaks {
    /// How many threads worked together.
    pub threads: usize,
    /// Every loop that this CPU runs.
    pub operations: Vec<OperationPeak>,
    /// Bytes that each thread reads again and again, ascending, and 10⁹ bytes a second of all
    /// together.
    pub reads: Vec<(usize, f64)>,
}

impl Peaks {
    /// Measures; `None` where no loop is known.
    #[must_use]
    pub fn measure(threads: usize, effort: Effort) -> Option<Self> {
        let peak = |candidate: &Loop| {
            let Loop { name, numbers, tier, .. } = *candidate;
            Some(OperationPeak { name, numbers, tier, rate: candidate.rate(threads, effort)? })
        };
        let operations: Vec<OperationPeak> = LOOPS.iter().filter_map(peak).collect();
        let most = (MOST_READ / threads.max(1)).max(2 * READ_SIZES[2]) / 512 * 512;
        let rate = |size_bytes: usize| {
            let size_bytes = size_bytes.min(most);
            Some((size_bytes, read_rate(size_bytes, threads, effort)?))
        };
        let reads: Vec<(usize, f64)> = READ_SIZES.into_iter().filter_map(rate).collect();
        let known = !operations.is_empty() && !reads.is_empty();
        known.then_some(Self { threads, operations, reads })
    }

    /// The fastest instruction on these numbers up to a tier. Where there is none, bf16 is
    /// multiplied as f32; and the tier `portable` counts as `avx2`, since nothing slower is known.
    #[must_use]
    pub fn fastest(&self, numbers: Numbers, most: Tier) -> Option<&OperationPeak> {
        let of = |wanted: Numbers| {
            let fits =
                |peak: &&OperationPeak| peak.numbers == wanted && peak.tier <= most.max(Tier::Avx2);
            self.operations.iter().filter(fits).max_by(|a, b| a.rate.total_cmp(&b.rate))
        };
        of(numbers).or_else(|| of(Numbers::F32))
    }

    /// 10⁹ bytes a second where all threads together work on `size_bytes`: the rate of the smallest
    /// measured buffer that holds a thread's part.
    #[must_use]
    pub fn byte_rate(&self, size_bytes: u64) -> f64 {
        let part = size_bytes / self.threads.max(1) as u64;
        let fits = self.reads.iter().find(|(buffer, _)| part <= *buffer as u64);
        fits.or(self.reads.last()).map_or(f64::NAN, |(_, rate)| *rate)
    }
}

/// 10⁹ units a second that `threads` do together, each with a loop of its own; `None` where there is no
/// loop, or not so many threads can be started.
fn best_rate<L: Fn(u64)>(
    threads: usize,
    effort: Effort,
    make: impl Fn() -> Option<L> + Sync,
    units: f64,
) -> Option<f64> {
    let turns = {
        let run = make()?;
        let mut turns = 1;
        while time(|| run(turns)) < effort.run_time {
            turns *= 2;
        }
        turns
    };
    let barrier = Barrier::new(threads);
    // Whether all have started: nobody waits for one that has not.
    let all_started = OnceLock::<bool>::new();
    let thread = || {
        if !*all_started.wait() {
            return Vec::new();
        }
        let run = make();
        let once = || {
            barrier.wait();
            run.as_ref().map_or(Duration::MAX, |run| time(|| run(turns)))
        };
        (0..effort.runs).map(|_| once()).collect::<Vec<_>>()
    };
    let times: Option<Vec<Vec<Duration>>> = std::thread::scope(|scope| {
        let start = |_| std::thread::Builder::new().spawn_scoped(scope, thread).ok();
        let handles: Option<Vec<_>> = (0..threads).map(start).collect();
        let _first = all_started.set(handles.is_some());
        Some(handles?.into_iter().map(|handle| handle.join().expect("a loop ends")).collect())
    });
    let times = times?;
    let slowest = |run: usize| times.iter().map(|times| times[run]).max().unwrap_or_default();
    let best = (0..effort.runs).map(slowest).min()?;
    Some(units * turns as f64 * threads as f64 / best.as_secs_f64() / 1e9)
}

fn time(run: impl FnOnce()) -> Duration {
    let start = Instant::now();
    run();
    start.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Effort = Effort { runs: 2, run_time: Duration::from_micros(200) };

    #[test]
    fn every_rate_is_positive_where_avx2_is() {
        let Some(peaks) = Peaks::measure(1, SHORT) else {
            assert!(!Tier::Avx2.is_available());
            return;
        };
        let positive = |rate: f64| rate.is_finite() && rate > 0.0;
        assert!(peaks.operations.iter().all(|peak| positive(peak.rate)), "{peaks:?}");
        assert!(peaks.reads.iter().all(|(_, rate)| positive(*rate)), "{peaks:?}");
    }

    #[test]
    fn a_rate_is_found_for_every_size_and_kind() {
        let peak = |name, numbers, tier, rate| OperationPeak { name, numbers, tier, rate };
        let peaks = Peaks {
            threads: 2,
            operations: vec![
                peak("fma", Numbers::F32, Tier::Avx2, 100.0),
                peak("madd", Numbers::Int8, Tier::Avx2, 150.0),
                peak("dot", Numbers::Int8, Tier::Vnni, 600.0),
            ],
            reads: vec![(1000, 50.0), (4000, 20.0)],
        };
        for (size, expected) in [(0, 50.0), (2000, 50.0), (2002, 20.0), (1 << 40, 20.0)] {
            assert_eq!(peaks.byte_rate(size), expected, "{size} bytes");
        }
        for (numbers, tier, expected) in [
            (Numbers::Int8, Tier::Amx, "dot"),
            (Numbers::Int8, Tier::Avx512, "madd"),
            (Numbers::Int8, Tier::Portable, "madd"),
            (Numbers::Bf16, Tier::Amx, "fma"),
        ] {
            let found = peaks.fastest(numbers, tier).map(|peak| peak.name);
            assert_eq!(found, Some(expected), "{} up to {tier}", numbers.name());
        }
    }
}
