#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! The bytes of columns, rows interleaved.

use std::arch::x86_64::*;
use std::array::from_fn;

use super::pack::Line;
use super::{Block, REGISTERS, ROWS, Run, first_bytes};

impl Block<'_> {
    /// Writes `x + 128` of the columns of a run, four rows interleaved; in padding x is the zero point.
    ///
    /// # Safety
    /// [`Row::fill`] checked the sizes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    pub(super) unsafe fn interleave<const PARTS: usize>(&self, run: Run, to: &mut [Line]) {
        let [rows, columns] = self.row.windows;
        let groups = self.groups();
        assert!(to.len() >= self.lines_for(run.windows), "depthwise: columns");
        let (windows, entries) = if self.shares {
            (1, self.columns(run.windows))
        } else {
            (run.windows, columns.kernel)
        };
        // Windows behind the last read what the last one does, or padding, and are not written.
        let mut starts = [0; PARTS];
        for (part, start) in starts.iter_mut().enumerate() {
            let window = (run.first + part * run.windows).min(columns.output - 1);
            *start = (window * columns.stride).wrapping_sub(columns.before);
        }
        for group in 0..groups {
            let lines: [Option<*const i8>; ROWS] = from_fn(|row| {
                let down = group * ROWS + row;
                let line = rows.place(self.row.row, down).filter(|_| down < rows.kernel)?;
                let place = line * columns.input * self.channels + self.first;
                Some(self.row.x.as_ptr().wrapping_add(place))
            });
            for window in 0..windows {
                for entry in 0..entries {
                    let shift = window * columns.stride + entry * columns.dilation;
                    let pixels = Pixels::<PARTS>::new(self, &starts, shift);
                    // SAFETY: the caller's promise; `place` gives lines of the image, and the pixels lie
                    // in them.
                    let fours = unsafe {
                        interleaved(
                            pixels.bytes(lines[0]),
                            pixels.bytes(lines[1]),
                            pixels.bytes(lines[2]),
                            pixels.bytes(lines[3]),
                        )
                    };
                    let column = window * entries + entry;
                    let to = &mut to[(column * groups + group) * REGISTERS..][..REGISTERS];
                    for (to, four) in to.iter_mut().zip(fours) {
                        // SAFETY: a line has the 64 bytes that are written, and their alignment.
                        unsafe { _mm512_store_si512(to.0.as_mut_ptr().cast(), four) };
                    }
                }
            }
        }
    }
}

/// Some channels of pixels of a line, one pixel in each part of a register.
struct Pixels<const PARTS: usize> {
    /// Bytes from where the line starts.
    places: [usize; PARTS],
    /// Which bytes are read; none in padding.
    masks: [u64; PARTS],
    padding: __m512i,
}

impl<const PARTS: usize> Pixels<PARTS> {
    /// The pixels so far behind the starts.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn new(block: &Block<'_>, starts: &[usize; PARTS], shift: usize) -> Self {
        let mask = first_bytes(block.count);
        let (mut places, mut masks) = ([0; PARTS], [0; PARTS]);
        for part in 0..PARTS {
            let pixel = starts[part].wrapping_add(shift);
            let is_inside = pixel < block.row.windows[1].input;
            places[part] = pixel.wrapping_mul(block.channels);
            masks[part] = if is_inside { mask } else { 0 };
        }
        Self { places, masks, padding: _mm512_set1_epi8(block.row.zero_point) }
    }

    /// `x + 128` in a line, or in padding.
    ///
    /// # Safety
    /// The bytes of the masks can be read there; parts have room for them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
    unsafe fn bytes(&self, line: Option<*const i8>) -> __m512i {
        let unsigned = _mm512_set1_epi8(i8::MIN);
        let Some(line) = line else { return _mm512_xor_si512(self.padding, unsigned) };
        // SAFETY: the caller's promise.
        let x = unsafe {
            match PARTS {
                4 => {
                    let x = _mm512_castsi128_si512(self.quarter(line, 0));
                    let x = _mm512_inserti32x4::<1>(x, self.quarter(line, 1));
                    let x = _mm512_inserti32x4::<2>(x, self.quarter(line, 2));
                    _mm512_inserti32x4::<3>(x, self.quarter(line, 3))
                }
                2 => {
                    let x = _mm512_castsi256_si512(self.half(line, 0));
                    _mm512_inserti64x4::<1>(x, self.half(line, 1))
                }
                _ => {
                    let place = line.wrapping_add(self.places[0]);
                    _mm512_mask_loadu_epi8(self.padding, self.masks[0], place)
                }
            }
        };
        _mm512_xor_si512(x, unsigned)
    }

    /// # Safety
    /// As for [`Self::bytes`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn half(&self, line: *const i8, part: usize) -> __m256i {
        let padding = _mm512_castsi512_si256(self.padding);
        let place = line.wrapping_add(self.places[part]);
        // SAFETY: the caller's promise.
        unsafe { _mm256_mask_loadu_epi8(padding, self.masks[part] as u32, place) }
    }

    /// # Safety
    /// As for [`Self::bytes`].
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn quarter(&self, line: *const i8, part: usize) -> __m128i {
        let padding = _mm512_castsi512_si128(self.padding);
        let place = line.wrapping_add(self.places[part]);
        // SAFETY: the caller's promise.
        unsafe { _mm_mask_loadu_epi8(padding, self.masks[part] as u16, place) }
    }
}

/// Four bytes of each lane, one of each row; [`place_of`] says which.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn interleaved(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; REGISTERS] {
    let low = [_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d)];
    let high = [_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d)];
    [
        _mm512_unpacklo_epi16(low[0], low[1]),
        _mm512_unpackhi_epi16(low[0], low[1]),
        _mm512_unpacklo_epi16(high[0], high[1]),
        _mm512_unpackhi_epi16(high[0], high[1]),
    ]
}
