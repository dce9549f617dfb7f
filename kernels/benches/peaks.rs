//! What this machine can do at most: the rates of single instructions with all operands in
//! registers, and of reads from buffers of several sizes. A kernel's rate is stated as a share of
//! these, measured in the same run.
//!
//! `cargo bench -p kernels --bench peaks`; `RAYON_NUM_THREADS` sets the threads of the last column.
//! A rate is work over the time of the slowest thread, the best of several runs; other work on the
//! machine lowers it, and nothing raises it.
#![allow(clippy::print_stdout, reason = "a bench prints")]
#![allow(
    unsafe_code,
    reason = "instructions are measured as they are, not as a compiler likes them"
)]

fn main() {
    #[cfg(target_arch = "x86_64")]
    x86::print();
    #[cfg(not(target_arch = "x86_64"))]
    println!("peaks are known for x86-64 only");
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::sync::Barrier;
    use std::time::{Duration, Instant};

    use kernels::{Cpu, Tier};

    /// Runs of which the best counts: many and short, so that some fall between other work.
    const RUNS: usize = 40;

    /// Long against the clock's resolution and a barrier.
    const LONG_ENOUGH: Duration = Duration::from_millis(4);

    /// A loop of one instruction.
    struct Peak {
        name: &'static str,
        tier: Tier,
        /// Operations, a multiply-add being two, of one turn of the loop.
        operations: f64,
        /// Runs the loop.
        ///
        /// # Safety
        /// The CPU has the tier.
        run: unsafe fn(u64),
    }

    const PEAKS: &[Peak] = &[
        Peak { name: "f32 fma, 256 bit", tier: Tier::Avx2, operations: 192.0, run: fma256 },
        Peak { name: "f32 fma, 512 bit", tier: Tier::Avx512, operations: 384.0, run: fma512 },
        Peak {
            name: "int8 as i16 madd + add, 256 bit",
            tier: Tier::Avx2,
            operations: 384.0,
            run: madd256,
        },
        Peak {
            name: "int8 as i16 madd + add, 512 bit",
            tier: Tier::Avx512,
            operations: 768.0,
            run: madd512,
        },
        Peak { name: "int8 vpdpbusd, 512 bit", tier: Tier::Vnni, operations: 1536.0, run: dot512 },
        Peak { name: "int8 tdpbssd", tier: Tier::Amx, operations: 131_072.0, run: tiles_int8 },
        Peak { name: "bf16 tdpbf16ps", tier: Tier::Amx, operations: 65_536.0, run: tiles_bf16 },
    ];

    pub(crate) fn print() {
        let threads = rayon::current_num_threads();
        println!("{:<34} {:>12} {:>9} threads", "G operations / s", "1 thread", threads);
        for peak in PEAKS {
            if !peak.tier.is_available() {
                println!("{:<34} needs tier {}", peak.name, peak.tier);
                continue;
            }
            // SAFETY: the tier is there (just checked).
            let run = |turns| unsafe { (peak.run)(turns) };
            let rate = |threads| best_rate(threads, || run, peak.operations);
            println!("{:<34} {:>12.1} {:>9.1}", peak.name, rate(1), rate(threads));
        }
        if !Tier::Avx2.is_available() {
            return;
        }
        println!("{:<34} {:>12} {:>9} threads", "GB read / s", "1 thread", threads);
        for kib in [16, 256, 1024, 8 << 10, 32 << 10, 128 << 10, 512 << 10] {
            let rate = |threads| best_rate(threads, || reader(kib << 10), (kib << 10) as f64);
            let name = format!("{kib} KiB a thread");
            println!("{name:<34} {:>12.1} {:>9.1}", rate(1), rate(threads));
        }
    }

    /// 10⁹ units a second that `threads` do together, each with a loop of its own.
    fn best_rate<L: Fn(u64)>(threads: usize, make: impl Fn() -> L + Sync, units: f64) -> f64 {
        let turns = {
            let run = make();
            let mut turns = 1;
            while time(|| run(turns)) < LONG_ENOUGH {
                turns *= 2;
            }
            turns
        };
        let barrier = Barrier::new(threads);
        let times: Vec<Vec<Duration>> = std::thread::scope(|scope| {
            let thread = || {
                let run = make();
                let once = || {
                    barrier.wait();
                    time(|| run(turns))
                };
                (0..RUNS).map(|_| once()).collect::<Vec<_>>()
            };
            let handles: Vec<_> = (0..threads).map(|_| scope.spawn(thread)).collect();
            handles.into_iter().map(|handle| handle.join().expect("a loop ends")).collect()
        });
        let slowest = |run: usize| times.iter().map(|times| times[run]).max().unwrap_or_default();
        let best = (0..RUNS).map(slowest).min().unwrap_or_default();
        units * turns as f64 * threads as f64 / best.as_secs_f64() / 1e9
    }

    fn time(run: impl FnOnce()) -> Duration {
        let start = Instant::now();
        run();
        start.elapsed()
    }

    /// Reads a buffer of its own, `size_bytes` (a multiple of 512) long, as often as told.
    fn reader(size_bytes: usize) -> impl Fn(u64) {
        let buffer = vec![1u8; size_bytes + 64];
        let wide = Cpu::best().tier() >= Tier::Avx512;
        move |turns| {
            let start = buffer.as_ptr().wrapping_add(buffer.as_ptr().align_offset(64));
            for _ in 0..turns {
                // SAFETY: size_bytes from the first aligned of 64 spare bytes on lie in the
                // buffer; AVX2 was checked by `print`, AVX-512 is what the tier says.
                unsafe {
                    if wide {
                        read512(start, size_bytes / 512)
                    } else {
                        read256(start, size_bytes / 512)
                    }
                }
            }
        }
    }

    /// Twelve times an instruction, each with another destination: more than latency × rate on
    /// any CPU, and few enough to stay in registers.
    macro_rules! twelve {
        ($before:literal, $after:literal) => {
            twelve!(@lines $before, $after, 0 1 2 3 4 5 6 7 8 9 10 11)
        };
        (@lines $before:literal, $after:literal, $($n:literal)*) => {
            concat!($($before, $n, $after, "\n"),*)
        };
    }

    /// The same for a product that is added by a second instruction.
    macro_rules! twelve_pairs {
        ($r:literal, $add:literal) => {
            twelve_pairs!(@lines $r, $add, 0 1 2 3 4 5 6 7 8 9 10 11)
        };
        (@lines $r:literal, $add:literal, $($n:literal)*) => {
            concat!($(
                "vpmaddwd ", $r, "13, ", $r, "14, ", $r, "15\n",
                $add, " ", $r, $n, ", ", $r, $n, ", ", $r, "13\n"
            ),*)
        };
    }

    /// A loop over vector registers. They start as zeros: subnormal operands would be slow.
    macro_rules! vector_loop {
        ($name:ident, $body:expr) => {
            unsafe fn $name(turns: u64) {
                // SAFETY: the caller has the instructions; only registers are touched.
                unsafe {
                    asm!(
                        "vzeroall",
                        "2:",
                        $body,
                        "dec {turns}",
                        "jnz 2b",
                        turns = inout(reg) turns => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                        out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                        out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
                        out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
                        options(nomem, nostack),
                    );
                }
            }
        };
    }

    vector_loop!(fma256, twelve!("vfmadd231ps ymm", ", ymm14, ymm15"));
    vector_loop!(fma512, twelve!("vfmadd231ps zmm", ", zmm14, zmm15"));
    vector_loop!(madd256, twelve_pairs!("ymm", "vpaddd"));
    vector_loop!(madd512, twelve_pairs!("zmm", "vpaddd"));
    vector_loop!(dot512, twelve!("vpdpbusd zmm", ", zmm14, zmm15"));

    /// A loop of four products of tiles of 16 rows of 64 bytes, a chain for each tile of sums.
    macro_rules! tile_loop {
        ($name:ident, $multiply:literal) => {
            unsafe fn $name(turns: u64) {
                let mut configuration = [0u64; 8];
                configuration[0] = 1;
                configuration[2..4].fill(0x0040_0040_0040_0040);
                configuration[6] = 0x1010_1010_1010_1010;
                // SAFETY: the caller has the instructions; 64 bytes of configuration are read.
                unsafe {
                    asm!(
                        "ldtilecfg [{configuration}]",
                        "tilezero tmm0", "tilezero tmm1", "tilezero tmm2", "tilezero tmm3",
                        "tilezero tmm4", "tilezero tmm5", "tilezero tmm6", "tilezero tmm7",
                        "2:",
                        concat!($multiply, " tmm0, tmm4, tmm6"),
                        concat!($multiply, " tmm1, tmm4, tmm7"),
                        concat!($multiply, " tmm2, tmm5, tmm6"),
                        concat!($multiply, " tmm3, tmm5, tmm7"),
                        "dec {turns}",
                        "jnz 2b",
                        "tilerelease",
                        configuration = in(reg) configuration.as_ptr(),
                        turns = inout(reg) turns => _,
                        options(nostack),
                    );
                }
            }
        };
    }

    tile_loop!(tiles_int8, "tdpbssd");
    tile_loop!(tiles_bf16, "tdpbf16ps");

    /// A loop that reads 512 bytes a turn.
    macro_rules! read_loop {
        ($name:ident, $($load:literal),*) => {
            unsafe fn $name(start: *const u8, turns: usize) {
                // SAFETY: the caller has the instructions, and 512·turns bytes from `start` on.
                unsafe {
                    asm!(
                        "2:",
                        $($load),*,
                        "add {start}, 512",
                        "dec {turns}",
                        "jnz 2b",
                        start = inout(reg) start => _,
                        turns = inout(reg) turns => _,
                        out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
                        out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
                        options(readonly, nostack),
                    );
                }
            }
        };
    }

    read_loop!(
        read256,
        "vmovdqa ymm0, [{start}]",
        "vmovdqa ymm1, [{start} + 32]",
        "vmovdqa ymm2, [{start} + 64]",
        "vmovdqa ymm3, [{start} + 96]",
        "vmovdqa ymm4, [{start} + 128]",
        "vmovdqa ymm5, [{start} + 160]",
        "vmovdqa ymm6, [{start} + 192]",
        "vmovdqa ymm7, [{start} + 224]",
        "vmovdqa ymm0, [{start} + 256]",
        "vmovdqa ymm1, [{start} + 288]",
        "vmovdqa ymm2, [{start} + 320]",
        "vmovdqa ymm3, [{start} + 352]",
        "vmovdqa ymm4, [{start} + 384]",
        "vmovdqa ymm5, [{start} + 416]",
        "vmovdqa ymm6, [{start} + 448]",
        "vmovdqa ymm7, [{start} + 480]"
    );
    read_loop!(
        read512,
        "vmovdqa64 zmm0, [{start}]",
        "vmovdqa64 zmm1, [{start} + 64]",
        "vmovdqa64 zmm2, [{start} + 128]",
        "vmovdqa64 zmm3, [{start} + 192]",
        "vmovdqa64 zmm4, [{start} + 256]",
        "vmovdqa64 zmm5, [{start} + 320]",
        "vmovdqa64 zmm6, [{start} + 384]",
        "vmovdqa64 zmm7, [{start} + 448]"
    );
}
