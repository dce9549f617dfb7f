#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! Elements of images: `f32`, or bf16 as the bits of a `u16`.

#[cfg(target_arch = "x86_64")]
use std::arch::{asm, x86_64::*};
use std::cell::Cell;

use crate::bf16::{round_piece, widened};
use crate::scratch::lend;
use crate::tier::{Cpu, Tier};

thread_local! {
    static NUMBERS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// An element of an image as it lies in memory.
pub trait Element: lanes::Lanes + Copy + Default + Send + Sync + 'static {
    /// The number it is.
    fn widen(self) -> f32;

    /// Whether the tier writes such from registers.
    fn is_stored(cpu: Cpu) -> bool;

    /// Has `y` written as numbers, which become the nearest elements, halves to even. What `write` finds
    /// is unspecified.
    fn written(cpu: Cpu, y: &mut [Self], write: impl FnOnce(&mut [f32]));
}

impl Element for f32 {
    #[inline]
    fn widen(self) -> f32 {
        self
    }

    fn is_stored(cpu: Cpu) -> bool {
        cpu.tier() >= Tier::Avx512
    }

    #[inline]
    fn written(_: Cpu, y: &mut [Self], write: impl FnOnce(&mut [f32])) {
        write(y);
    }
}

impl Element for u16 {
    #[inline]
    fn widen(self) -> f32 {
        widened(self)
    }

    fn is_stored(cpu: Cpu) -> bool {
        cpu.rounds_to_bf16()
    }

    fn written(cpu: Cpu, y: &mut [Self], write: impl FnOnce(&mut [f32])) {
        lend(&NUMBERS, y.len(), |numbers| {
            write(numbers);
            round_piece(cpu, numbers, y);
        });
    }
}

pub(crate) mod lanes {
    #[cfg(target_arch = "x86_64")]
    use super::*;

    /// Sixteen elements as numbers in a register. Of 16 bits each, some are read and written more slowly
    /// than all.
    pub trait Lanes: Sized {
        /// All of them.
        ///
        /// # Safety
        /// The CPU has AVX-512 F, BW and VL, and the elements can be read.
        #[cfg(target_arch = "x86_64")]
        unsafe fn load(from: *const Self) -> __m512;

        /// Those of the mask; 0 for the others.
        ///
        /// # Safety
        /// As for `load`; only the elements of the mask are read.
        #[cfg(target_arch = "x86_64")]
        unsafe fn load_some(mask: __mmask16, from: *const Self) -> __m512;

        /// Writes those of the mask, each the nearest element.
        ///
        /// # Safety
        /// The CPU has AVX-512 F, BW and VL, and for bf16 BF16, and the elements of the mask can be
        /// written.
        #[cfg(target_arch = "x86_64")]
        unsafe fn store(to: *mut Self, mask: __mmask16, numbers: __m512);
    }

    impl Lanes for f32 {
        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn load(from: *const Self) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_loadu_ps(from) }
        }

        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn load_some(mask: __mmask16, from: *const Self) -> __m512 {
            // SAFETY: the caller's promise.
            unsafe { _mm512_maskz_loadu_ps(mask, from) }
        }

        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn store(to: *mut Self, mask: __mmask16, numbers: __m512) {
            // SAFETY: the caller's promise.
            unsafe { _mm512_mask_storeu_ps(to, mask, numbers) };
        }
    }

    impl Lanes for u16 {
        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn load(from: *const Self) -> __m512 {
            // SAFETY: the caller's promise.
            widened(unsafe { _mm256_loadu_si256(from.cast()) })
        }

        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn load_some(mask: __mmask16, from: *const Self) -> __m512 {
            // SAFETY: the caller's promise.
            widened(unsafe { _mm256_maskz_loadu_epi16(mask, from.cast()) })
        }

        #[cfg(target_arch = "x86_64")]
        #[inline]
        #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
        unsafe fn store(to: *mut Self, mask: __mmask16, numbers: __m512) {
            // SAFETY: the caller's promise.
            unsafe {
                let elements = rounded(numbers);
                match mask {
                    0xffff => _mm256_storeu_si256(to.cast(), elements),
                    0xff => _mm_storeu_si128(to.cast(), _mm256_castsi256_si128(elements)),
                    _ => _mm256_mask_storeu_epi16(to.cast(), mask, elements),
                }
            }
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn widened(elements: __m256i) -> __m512 {
        _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(elements)))
    }

    /// What [`round_piece`] makes of each number, but that subnormal ones may become 0.
    ///
    /// # Safety
    /// The CPU has AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    #[inline]
    #[target_feature(enable = "avx512f")]
    unsafe fn rounded(numbers: __m512) -> __m256i {
        let rounded;
        // As an intrinsic it would be called, from functions that do without it for `f32`.
        // SAFETY: the caller's promise; it only writes a register.
        unsafe {
            asm!(
                "vcvtneps2bf16 {}, {}",
                out(ymm_reg) rounded,
                in(zmm_reg) numbers,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        rounded
    }
}
