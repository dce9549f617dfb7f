#![allow(
    unsafe_code,
    reason = "instructions are measured as they are, not as a compiler likes them"
)]
//! The loops of x86-64.

use std::arch::asm;

use super::{Loop, Numbers};
use crate::{Cpu, Tier};

pub(super) const LOOPS: &[Loop] = &[
    float("f32 fma, 256 bit", Tier::Avx2, 192.0, fma256),
    float("f32 fma, 512 bit", Tier::Avx512, 384.0, fma512),
    int8("int8 as i16 madd + add, 256 bit", Tier::Avx2, 384.0, madd256),
    int8("int8 as i16 madd + add, 512 bit", Tier::Avx512, 768.0, madd512),
    int8("int8 vpdpbusd, 512 bit", Tier::Vnni, 1536.0, dot512),
    tiles(int8("int8 tdpbssd", Tier::Amx, 131_072.0, tiles_int8)),
    Loop {
        used: Cpu::has_fast_bf16_dot,
        ..bf16("bf16 vdpbf16ps, 512 bit", Tier::Vnni, 768.0, dot_bf16)
    },
    tiles(bf16("bf16 tdpbf16ps", Tier::Amx, 65_536.0, tiles_bf16)),
];

const fn float(name: &'static str, tier: Tier, operations: f64, run: unsafe fn(u64)) -> Loop {
    Loop { name, numbers: Numbers::F32, tier, operations, used: |_| true, run }
}

const fn int8(name: &'static str, tier: Tier, operations: f64, run: unsafe fn(u64)) -> Loop {
    Loop { numbers: Numbers::Int8, ..float(name, tier, operations, run) }
}

const fn bf16(name: &'static str, tier: Tier, operations: f64, run: unsafe fn(u64)) -> Loop {
    Loop { numbers: Numbers::Bf16, ..float(name, tier, operations, run) }
}

/// A loop of tile instructions, which are not there where they are emulated.
const fn tiles(tiles: Loop) -> Loop {
    Loop { used: |_| !cfg!(feature = "amx-emulated"), ..tiles }
}

/// Reads a buffer of its own, `size_bytes` (a multiple of 512) long, as often as told; `None` where
/// the CPU has no vectors that are worth it.
pub(super) fn reader(size_bytes: usize) -> Option<impl Fn(u64)> {
    assert!(size_bytes.is_multiple_of(512), "expected a multiple of 512 bytes, found {size_bytes}");
    if !Tier::Avx2.is_available() {
        return None;
    }
    let wide = Tier::Avx512.is_available();
    let buffer = vec![1u8; size_bytes + 64];
    Some(move |turns| {
        let start = buffer.as_ptr().wrapping_add(buffer.as_ptr().align_offset(64));
        for _ in 0..turns {
            // SAFETY: size_bytes from the first aligned of 64 spare bytes on lie in the buffer;
            // AVX2, and AVX-512 where it is used, were found above.
            unsafe {
                if wide {
                    read512(start, size_bytes / 512)
                } else {
                    read256(start, size_bytes / 512)
                }
            }
        }
    })
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
vector_loop!(dot_bf16, twelve!("vdpbf16ps zmm", ", zmm14, zmm15"));

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
