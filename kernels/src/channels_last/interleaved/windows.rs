#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! The sums of windows, and what is made of them.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::pack::{Line, place_of};
use super::{BLOCK, Block, LANES, REGISTERS, Results, Run, WINDOWS, first_bytes};
use crate::wide::Rounder;

/// Sums of windows with the instructions of a tier: `$dot` adds to sums the products of four bytes of x, which
/// are unsigned, with four weights.
macro_rules! windows {
    ($windows:ident, $several:ident, $features:literal, $dot:path) => {
        impl Block<'_> {
            /// The windows of a run, whose columns were interleaved.
            ///
            /// # Safety
            /// [`Row::fill`] checked the sizes.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $windows<const PARTS: usize>(
                &self,
                run: Run,
                columns: &[Line],
                results: &mut Results<'_>,
            ) {
                let start = self.start();
                let scaling = self.scaling::<PARTS>(results);
                let step = self.step() * self.groups() * REGISTERS;
                for window in (0..run.windows).step_by(WINDOWS) {
                    let totals = self.$several(start, &columns[window * step..]);
                    for index in 0..WINDOWS.min(run.windows - window) {
                        let at = (run, window + index);
                        match (&mut *results, &scaling) {
                            (Results::Rounded { y, .. }, Some(scaling)) => {
                                let values = scaling.rounded(totals[index]);
                                // SAFETY: the caller's promise.
                                unsafe { self.write::<PARTS>(at, values, y.as_mut_ptr()) };
                            }
                            (Results::Sums(take), _) => {
                                self.give::<PARTS>(at, totals[index], *take);
                            }
                            (Results::Rounded { .. }, None) => {
                                unreachable!("what is rounded is scaled")
                            }
                        }
                    }
                }
            }

            /// The sums of the first windows of these columns.
            #[inline]
            #[target_feature(enable = $features)]
            fn $several(
                &self,
                start: [__m512i; REGISTERS],
                columns: &[Line],
            ) -> [[__m512i; REGISTERS]; WINDOWS] {
                let step = self.step() * self.groups() * REGISTERS;
                let reached = (WINDOWS - 1) * step + self.lines.len();
                assert!(reached <= columns.len(), "depthwise: columns");
                let mut totals = [start; WINDOWS];
                for (index, weights) in self.lines.chunks_exact(REGISTERS).enumerate() {
                    for (register, weights) in weights.iter().enumerate() {
                        // SAFETY: a line has the 64 bytes that are read, and their alignment.
                        let weights = unsafe { _mm512_load_si512(weights.0.as_ptr().cast()) };
                        for (window, totals) in totals.iter_mut().enumerate() {
                            let place = window * step + index * REGISTERS + register;
                            let x = columns.as_ptr().wrapping_add(place);
                            // SAFETY: a window reads as many lines as the filters of a block have, and
                            // what windows reach was compared with the columns.
                            let x = unsafe { _mm512_load_si512(x.cast()) };
                            totals[register] = $dot(totals[register], x, weights);
                        }
                    }
                }
                totals
            }
        }
    };
}

windows!(
    windows_vnni,
    several_vnni,
    "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni",
    _mm512_dpbusd_epi32
);
windows!(windows_avx512, several_avx512, "avx512f,avx512bw,avx512dq,avx512vl", products);

/// What `vpdpbusd` computes, by products of 16 bits.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn products(sums: __m512i, x: __m512i, weights: __m512i) -> __m512i {
    let even = _mm512_madd_epi16(
        _mm512_and_si512(x, _mm512_set1_epi16(0xff)),
        _mm512_srai_epi16::<8>(_mm512_slli_epi16::<8>(weights)),
    );
    let odd = _mm512_madd_epi16(_mm512_srli_epi16::<8>(x), _mm512_srai_epi16::<8>(weights));
    _mm512_add_epi32(sums, _mm512_add_epi32(even, odd))
}

/// What is made of sums before they are written, in registers.
#[derive(Clone, Copy)]
struct Scaling {
    scales: [__m512; REGISTERS],
    bias: [__m512; REGISTERS],
    rounder: Rounder,
}

impl Block<'_> {
    /// What the sums start from: how much is too much in each product.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn start(&self) -> [__m512i; REGISTERS] {
        let zero = _mm512_set1_epi32(-(i32::from(self.row.zero_point) + 128));
        self.sums.each_ref().map(|sums| {
            // SAFETY: a register's sums have the 64 bytes that are read.
            let sums = unsafe { _mm512_loadu_si512(sums.as_ptr().cast()) };
            _mm512_mullo_epi32(zero, sums)
        })
    }

    /// What is made of sums that are rounded.
    #[target_feature(enable = "avx512f")]
    fn scaling<const PARTS: usize>(&self, results: &Results<'_>) -> Option<Scaling> {
        let Results::Rounded { rounding, scales, bias, .. } = results else { return None };
        let zero = _mm512_setzero_ps();
        Some(Scaling {
            scales: self.spread::<PARTS>(scales),
            bias: bias.map_or([zero; REGISTERS], |bias| self.spread::<PARTS>(bias)),
            rounder: rounding.rounder(),
        })
    }

    /// Numbers of these channels as registers have them.
    #[target_feature(enable = "avx512f")]
    fn spread<const PARTS: usize>(&self, numbers: &[f32]) -> [__m512; REGISTERS] {
        let mut all = [0.0f32; BLOCK];
        for part in all.chunks_exact_mut(BLOCK / PARTS) {
            part[..self.count].copy_from_slice(&numbers[self.first..][..self.count]);
        }
        // SAFETY: 16 elements from each sixteenth on are some of the 64.
        let [a, b, c, d] = from_fn(|i| unsafe { _mm512_loadu_ps(all.as_ptr().add(i * LANES)) });
        // Columns of a matrix of quarters.
        let low = [_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d)];
        let high = [_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d)];
        [
            _mm512_shuffle_f32x4::<0x88>(low[0], low[1]),
            _mm512_shuffle_f32x4::<0xdd>(low[0], low[1]),
            _mm512_shuffle_f32x4::<0x88>(high[0], high[1]),
            _mm512_shuffle_f32x4::<0xdd>(high[0], high[1]),
        ]
    }

    /// Writes what is made of the sums of one window in each part of a register.
    ///
    /// # Safety
    /// [`Row::fill`] checked the sizes, y among them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn write<const PARTS: usize>(
        &self,
        (run, window): (Run, usize),
        values: __m512i,
        y: *mut i8,
    ) {
        let output = self.row.windows[1].output;
        let mask = first_bytes(self.count);
        for part in 0..PARTS {
            let window = run.first + part * run.windows + window;
            if window >= output {
                return;
            }
            let y = y.wrapping_add(window * self.channels + self.first);
            // SAFETY: the caller's promise: the window is one of the output, and no bytes but its channels
            // are written, for which a part has room.
            unsafe {
                match (PARTS, part) {
                    (1, _) if self.count == BLOCK => _mm512_storeu_si512(y.cast(), values),
                    (1, _) => _mm512_mask_storeu_epi8(y, mask, values),
                    (2, 0) => store_half(y, mask, _mm512_castsi512_si256(values)),
                    (2, _) => store_half(y, mask, _mm512_extracti64x4_epi64::<1>(values)),
                    (_, 0) => store_quarter(y, mask, _mm512_castsi512_si128(values)),
                    (_, 1) => store_quarter(y, mask, _mm512_extracti32x4_epi32::<1>(values)),
                    (_, 2) => store_quarter(y, mask, _mm512_extracti32x4_epi32::<2>(values)),
                    (_, _) => store_quarter(y, mask, _mm512_extracti32x4_epi32::<3>(values)),
                }
            }
        }
    }

    /// Gives the sums of one window in each part of a register away.
    #[target_feature(enable = "avx512f")]
    fn give<const PARTS: usize>(
        &self,
        (run, window): (Run, usize),
        totals: [__m512i; REGISTERS],
        take: &mut dyn FnMut(usize, usize, &[i32]),
    ) {
        let mut sums = [0; BLOCK];
        for (register, total) in totals.into_iter().enumerate() {
            let mut lanes = [0; LANES];
            // SAFETY: the array has the 64 bytes that are written.
            unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), total) };
            for (lane, total) in lanes.into_iter().enumerate() {
                sums[place_of(register, lane)] = total;
            }
        }
        for (part, sums) in sums.chunks_exact(BLOCK / PARTS).enumerate() {
            let window = run.first + part * run.windows + window;
            if window < self.row.windows[1].output {
                take(window * self.channels + self.first, self.first, &sums[..self.count]);
            }
        }
    }
}

impl Scaling {
    /// What is written for sums.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn rounded(&self, [a, b, c, d]: [__m512i; REGISTERS]) -> __m512i {
        let Self { scales, bias, rounder } = self;
        rounder.round_four([
            scaled(a, scales[0], bias[0]),
            scaled(b, scales[1], bias[1]),
            scaled(c, scales[2], bias[2]),
            scaled(d, scales[3], bias[3]),
        ])
    }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn scaled(sums: __m512i, scales: __m512, bias: __m512) -> __m512 {
    _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(sums), scales), bias)
}

/// # Safety
/// The bytes of the mask, which are among the first 32, can be written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_half(y: *mut i8, mask: u64, values: __m256i) {
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u64::from(u32::MAX) {
            _mm256_storeu_si256(y.cast(), values);
        } else {
            _mm256_mask_storeu_epi8(y, mask as u32, values);
        }
    }
}

/// # Safety
/// The bytes of the mask, which are among the first 16, can be written.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn store_quarter(y: *mut i8, mask: u64, values: __m128i) {
    // SAFETY: the caller's promise.
    unsafe {
        if mask == u64::from(u16::MAX) {
            _mm_storeu_si128(y.cast(), values);
        } else {
            _mm_mask_storeu_epi8(y, mask as u16, values);
        }
    }
}
