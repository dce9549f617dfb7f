#![allow(unsafe_code, reason = "intrinsics; only called where a `Cpu` proves AVX-512")]
//! What kernels do with a row of 16 numbers in a register, to the bit what `math` and
//! `int8::quantize` do with one after another.

use std::arch::x86_64::*;
use std::array::from_fn;

use crate::bf16::Input;
use crate::element::lanes::Lanes;
use crate::int8::{Quantization, has_exact_reciprocal};
use crate::math::{
    ERF_DENOMINATOR, ERF_NUMERATOR, EXP, EXP_INFINITE, EXP_LEAST, EXP_LIMITS, EXP_ZERO, LN_2, PHI,
    ROUNDER,
};

/// Rows that are activated together, step by step: each waits for its own last step, and a CPU looks
/// only so far ahead.
pub(crate) const AT_ONCE: usize = 3;

/// `a / b` to the bit, for normal numbers whose quotient is one: the reciprocal in two of Newton's
/// steps from an estimate of 14 bits, and what is left of a (Markstein 1990). A division of 16
/// numbers takes as long as 32 products.
#[target_feature(enable = "avx512f")]
fn quotients<const N: usize>(a: [__m512; N], b: [__m512; N]) -> [__m512; N] {
    let one = _mm512_set1_ps(1.0);
    let mut inverse = b.map(|b| _mm512_rcp14_ps(b));
    for _ in 0..2 {
        let left: [__m512; N] = from_fn(|i| _mm512_fnmadd_ps(b[i], inverse[i], one));
        inverse = from_fn(|i| _mm512_fmadd_ps(left[i], inverse[i], inverse[i]));
    }
    let first: [__m512; N] = from_fn(|i| _mm512_mul_ps(a[i], inverse[i]));
    let left: [__m512; N] = from_fn(|i| _mm512_fnmadd_ps(first[i], b[i], a[i]));
    from_fn(|i| _mm512_fmadd_ps(left[i], inverse[i], first[i]))
}

/// [`math::clamp`](crate::math::clamp) of each number.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn clamp(x: __m512, low: f32, high: f32) -> __m512 {
    // Where x is not a number, and of equal ones, the second operand is taken.
    _mm512_min_ps(_mm512_set1_ps(high), _mm512_max_ps(_mm512_set1_ps(low), x))
}

/// [`math::gelu`](crate::math::gelu) of several rows, step by step.
#[target_feature(enable = "avx512f")]
pub(crate) fn gelu<const N: usize>(x: [__m512; N]) -> [__m512; N] {
    let (low, high) = (_mm512_set1_ps(-4.0), _mm512_set1_ps(4.0));
    let half = x.map(|x| _mm512_mul_ps(x, _mm512_set1_ps(0.5)));
    let x = x.map(|x| _mm512_mul_ps(x, _mm512_set1_ps(std::f32::consts::FRAC_1_SQRT_2)));
    // Where x is not a number, the second operand is taken.
    let x = x.map(|x| _mm512_min_ps(high, _mm512_max_ps(low, x)));
    let square = x.map(|x| _mm512_mul_ps(x, x));
    let numerator = polynomials(&ERF_NUMERATOR, square);
    let numerator = from_fn(|i| _mm512_mul_ps(x[i], numerator[i]));
    let erf = quotients(numerator, polynomials(&ERF_DENOMINATOR, square));
    from_fn(|i| _mm512_fmadd_ps(half[i], erf[i], half[i]))
}

/// [`math::coarse_gelu`](crate::math::coarse_gelu) of several rows, step by step.
#[target_feature(enable = "avx512f")]
pub(crate) fn coarse_gelu<const N: usize>(x: [__m512; N]) -> [__m512; N] {
    let (low, high) = (_mm512_set1_ps(-4.0), _mm512_set1_ps(4.0));
    // Where x is not a number, the second operand is taken.
    let near = x.map(|x| _mm512_min_ps(high, _mm512_max_ps(low, x)));
    let sums = polynomials(&PHI, near.map(|near| _mm512_mul_ps(near, near)));
    let half = _mm512_set1_ps(0.5);
    from_fn(|i| _mm512_mul_ps(x[i], _mm512_fmadd_ps(near[i], sums[i], half)))
}

/// [`gelu`] of each element.
#[target_feature(enable = "avx512f")]
pub(crate) fn gelu_in_place(x: &mut [f32]) {
    in_place(x, |rows| gelu(rows), |[row]| gelu([row]));
}

/// x / (1 + e^(−alpha · x)) of each element.
#[target_feature(enable = "avx512f")]
pub(crate) fn swish_in_place(x: &mut [f32], alpha: f32) {
    in_place(x, |rows| swish(rows, alpha), |row| swish(row, alpha));
}

/// What is made of several rows at once, or of one, in place of them.
#[inline]
#[target_feature(enable = "avx512f")]
fn in_place(
    x: &mut [f32],
    of_several: impl Fn([__m512; AT_ONCE]) -> [__m512; AT_ONCE],
    of_one: impl Fn([__m512; 1]) -> [__m512; 1],
) {
    let (rows, rest) = x.as_chunks_mut::<16>();
    let (several, others) = rows.as_chunks_mut::<AT_ONCE>();
    for rows in several {
        // SAFETY: a row has the 64 bytes that are read and written.
        unsafe {
            let values = of_several(rows.each_ref().map(|row| _mm512_loadu_ps(row.as_ptr())));
            for (row, values) in rows.iter_mut().zip(values) {
                _mm512_storeu_ps(row.as_mut_ptr(), values);
            }
        }
    }
    let others = others.iter_mut().map(|row| &mut row[..]).chain([rest]);
    for x in others.filter(|x| !x.is_empty()) {
        let lanes = ((1u32 << x.len()) - 1) as u16;
        // SAFETY: no more elements are read and written than there are.
        unsafe {
            let [values] = of_one([_mm512_maskz_loadu_ps(lanes, x.as_ptr())]);
            _mm512_mask_storeu_ps(x.as_mut_ptr(), lanes, values);
        }
    }
}

/// [`Function::Swish`](crate::Function::Swish) of several rows, step by step.
#[inline]
#[target_feature(enable = "avx512f")]
fn swish<const N: usize>(x: [__m512; N], alpha: f32) -> [__m512; N] {
    let (alpha, one) = (_mm512_set1_ps(-alpha), _mm512_set1_ps(1.0));
    let gates = exp(x.map(|x| _mm512_mul_ps(alpha, x)));
    from_fn(|i| _mm512_div_ps(x[i], _mm512_add_ps(one, gates[i])))
}

/// [`math::exp`](crate::math::exp) of several rows, step by step.
#[inline]
#[target_feature(enable = "avx512f")]
fn exp<const N: usize>(x: [__m512; N]) -> [__m512; N] {
    let set = |value: f32| _mm512_set1_ps(value);
    let (rounder, one) = (set(ROUNDER), set(1.0));
    let clamped = x.map(|x| clamp(x, EXP_LIMITS[0], EXP_LIMITS[1]));
    let n: [__m512; N] = from_fn(|i| {
        let n = _mm512_mul_ps(clamped[i], set(std::f32::consts::LOG2_E));
        _mm512_sub_ps(_mm512_add_ps(n, rounder), rounder)
    });
    let [high, low] = LN_2.map(set);
    let rest: [__m512; N] = from_fn(|i| _mm512_fnmadd_ps(n[i], high, clamped[i]));
    let rest: [__m512; N] = from_fn(|i| _mm512_fnmadd_ps(n[i], low, rest[i]));
    let sums = polynomials(&EXP, rest);
    from_fn(|i| {
        let y = _mm512_fmadd_ps(sums[i], _mm512_mul_ps(rest[i], rest[i]), rest[i]);
        let y = _mm512_scalef_ps(_mm512_add_ps(y, one), n[i]);
        let counts = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x[i], set(EXP_ZERO));
        let is_infinite = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(x[i], set(EXP_INFINITE));
        _mm512_mask_mov_ps(_mm512_maskz_mov_ps(counts, y), is_infinite, set(f32::INFINITY))
    })
}

/// [`math::exp_of_negative`](crate::math::exp_of_negative) of several rows, step by step.
#[inline]
#[target_feature(enable = "avx512f")]
pub(crate) fn exp_of_negative<const N: usize>(x: [__m512; N]) -> [__m512; N] {
    let set = |value: f32| _mm512_set1_ps(value);
    let (least, rounder) = (set(EXP_LEAST), set(ROUNDER));
    // Where x is not a number, it stays one: of those that arithmetic makes the low bits are 0.
    let counts = x.map(|x| _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, least));
    let x = x.map(|x| _mm512_max_ps(least, x));
    let shifted = x.map(|x| _mm512_fmadd_ps(x, set(std::f32::consts::LOG2_E), rounder));
    let n = shifted.map(|shifted| _mm512_sub_ps(shifted, rounder));
    let [high, low] = LN_2.map(set);
    let rest: [__m512; N] = from_fn(|i| _mm512_fnmadd_ps(n[i], high, x[i]));
    let rest: [__m512; N] = from_fn(|i| _mm512_fnmadd_ps(n[i], low, rest[i]));
    let sums = polynomials(&EXP, rest);
    let one = set(1.0);
    let y: [__m512; N] = from_fn(|i| {
        _mm512_add_ps(_mm512_fmadd_ps(sums[i], _mm512_mul_ps(rest[i], rest[i]), rest[i]), one)
    });
    from_fn(|i| {
        let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted[i]));
        let y = _mm512_add_epi32(_mm512_castps_si512(y[i]), n);
        _mm512_castsi512_ps(_mm512_maskz_mov_epi32(counts[i], y))
    })
}

/// 16 rows as columns.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub(crate) fn transposed(rows: [__m512; 16]) -> [__m512; 16] {
    let zero = _mm512_setzero_ps();
    // Within 128 bits: pairs of rows, then fours.
    let mut pairs = [zero; 16];
    for i in 0..16 / 2 {
        pairs[2 * i] = _mm512_unpacklo_ps(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_ps(rows[2 * i], rows[2 * i + 1]);
    }
    let mut fours = [zero; 16];
    for i in 0..16 / 4 {
        for j in 0..2 {
            let [a, b] = [pairs[4 * i + j], pairs[4 * i + j + 2]].map(|row| _mm512_castps_pd(row));
            fours[4 * i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, b));
            fours[4 * i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, b));
        }
    }
    // Between the quarters of a register: `fours[4·i + j]` has columns j, 4 + j, 8 + j, 12 + j of
    // rows 4·i to 4·i + 3.
    let mut columns = [zero; 16];
    for j in 0..4 {
        let [a, b, c, d] = [0, 1, 2, 3].map(|i| fours[4 * i + j]);
        let low = [_mm512_shuffle_f32x4::<0x88>(a, b), _mm512_shuffle_f32x4::<0x88>(c, d)];
        let high = [_mm512_shuffle_f32x4::<0xdd>(a, b), _mm512_shuffle_f32x4::<0xdd>(c, d)];
        columns[j] = _mm512_shuffle_f32x4::<0x88>(low[0], low[1]);
        columns[8 + j] = _mm512_shuffle_f32x4::<0xdd>(low[0], low[1]);
        columns[4 + j] = _mm512_shuffle_f32x4::<0x88>(high[0], high[1]);
        columns[12 + j] = _mm512_shuffle_f32x4::<0xdd>(high[0], high[1]);
    }
    columns
}

/// The coefficient of the highest power first.
#[target_feature(enable = "avx512f")]
fn polynomials<const N: usize>(coefficients: &[f32], x: [__m512; N]) -> [__m512; N] {
    let mut coefficients = coefficients.iter().map(|&coefficient| _mm512_set1_ps(coefficient));
    let first = [coefficients.next().unwrap_or(_mm512_setzero_ps()); N];
    coefficients
        .fold(first, |sums, coefficient| from_fn(|i| _mm512_fmadd_ps(sums[i], x[i], coefficient)))
}

/// What becomes of sums before they are written: of the first `columns` of each row.
#[derive(Clone, Copy)]
pub(crate) struct Finish<'a> {
    lanes: __mmask16,
    bias: Option<&'a [f32]>,
    addend: Option<Addend>,
    limits: Option<[f32; 2]>,
}

impl<'a> Finish<'a> {
    /// Whether it is of all 16 columns.
    pub(crate) const fn is_whole(&self) -> bool {
        self.lanes == !0
    }

    /// Nothing, in so many columns, at most 16.
    pub(crate) const fn nothing(columns: usize) -> Self {
        assert!(columns <= 16);
        let lanes = !(0xffff_u32 << columns) as __mmask16;
        Self { lanes, bias: None, addend: None, limits: None }
    }

    /// Adds a bias to so many columns, at most 16, then the addend, and keeps them between limits as
    /// [`clamp`] does.
    ///
    /// # Panics
    /// When the bias has not so many elements.
    pub(crate) fn new(
        columns: usize,
        bias: Option<&'a [f32]>,
        addend: Option<Addend>,
        limits: Option<[f32; 2]>,
    ) -> Self {
        let bias = bias.map(|bias| &bias[..columns]);
        Self { bias, addend, limits, ..Self::nothing(columns) }
    }

    /// What becomes of a row of sums, but for limits.
    ///
    /// # Safety
    /// The CPU has what [`Lanes::load`] asks for, and an addend has the row.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn added(&self, row: usize, mut sums: __m512, lanes: __mmask16) -> __m512 {
        // SAFETY: the bias has an element for each lane (`Finish::new`); the rest is the caller's promise.
        unsafe {
            if let Some(bias) = self.bias {
                sums = _mm512_add_ps(sums, _mm512_maskz_loadu_ps(lanes, bias.as_ptr()));
            }
            if let Some(addend) = &self.addend {
                sums = _mm512_add_ps(sums, addend.row(row, lanes));
            }
        }
        sums
    }

    /// Writes what becomes of a row of sums. `WHOLE`: of all 16 columns, which takes less.
    ///
    /// # Safety
    /// The CPU has what [`Lanes::store`] asks for, an addend has the row, and its columns can be written.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) unsafe fn write<const WHOLE: bool, T: Lanes>(
        &self,
        row: usize,
        sums: __m512,
        y: *mut T,
    ) {
        let lanes = if WHOLE { !0 } else { self.lanes };
        debug_assert_eq!(lanes, self.lanes);
        // SAFETY: the caller's promise.
        unsafe {
            let mut sums = self.added(row, sums, lanes);
            if let Some([low, high]) = self.limits {
                sums = clamp(sums, low, high);
            }
            T::store(y, lanes, sums);
        }
    }
}

/// Rows of numbers, some elements apart.
#[derive(Clone, Copy)]
pub(crate) struct Addend {
    at: Numbers,
    stride: usize,
}

#[derive(Clone, Copy)]
enum Numbers {
    F32(*const f32),
    Bf16(*const u16),
}

impl Addend {
    /// Rows from element `start` on.
    pub(crate) fn new(numbers: Input<'_>, start: usize, stride: usize) -> Self {
        let at = match numbers {
            Input::F32(numbers) => Numbers::F32(numbers[start..].as_ptr()),
            Input::Bf16(numbers) => Numbers::Bf16(numbers[start..].as_ptr()),
        };
        Self { at, stride }
    }

    /// # Safety
    /// The CPU has what [`Lanes::load`] asks for, and the row has an element for each lane.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    unsafe fn row(&self, row: usize, lanes: __mmask16) -> __m512 {
        // SAFETY: the caller's promise.
        unsafe {
            match self.at {
                Numbers::F32(at) => Lanes::load_some(lanes, at.add(row * self.stride)),
                Numbers::Bf16(at) if lanes == !0 => Lanes::load(at.add(row * self.stride)),
                Numbers::Bf16(at) => Lanes::load_some(lanes, at.add(row * self.stride)),
            }
        }
    }
}

/// `y[r·stride + c] = limits(sums[r, c] + bias[c] + addend[r, c])`. Plain loops over short rows become
/// gathers here.
///
/// # Safety
/// For each row r of the sums, what [`Finish::write`] asks for holds of `y + r·stride`.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn write_rows<T: Lanes>(
    sums: &[[f32; 16]],
    finish: &Finish<'_>,
    y: *mut T,
    stride: usize,
) {
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: a row of sums has the 64 bytes that are read; the rest is the caller's promise.
        unsafe {
            let (sums, y) = (_mm512_loadu_ps(sums.as_ptr()), y.add(row * stride));
            match finish.is_whole() {
                true => finish.write::<true, T>(row, sums, y),
                false => finish.write::<false, T>(row, sums, y),
            }
        }
    }
}

/// `y[r·stride + c] = swish(sums[r, c] + bias[c] + addend[r, c])`, several rows at once.
///
/// # Safety
/// As for [`write_rows`].
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
pub(crate) unsafe fn write_swish_rows<T: Lanes>(
    sums: &[[f32; 16]],
    finish: &Finish<'_>,
    alpha: f32,
    y: *mut T,
    stride: usize,
) {
    let (several, _) = sums.as_chunks::<AT_ONCE>();
    let rest = several.len() * AT_ONCE;
    // SAFETY: each row is one of the sums; the rest is the caller's promise.
    unsafe {
        for index in 0..several.len() {
            write_swish::<AT_ONCE, T>(sums, index * AT_ONCE, finish, alpha, (y, stride));
        }
        for row in rest..sums.len() {
            write_swish::<1, T>(sums, row, finish, alpha, (y, stride));
        }
    }
}

/// `N` of the rows of [`write_swish_rows`], from `first` on.
///
/// # Safety
/// As for [`write_rows`], and the sums have the rows.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
unsafe fn write_swish<const N: usize, T: Lanes>(
    sums: &[[f32; 16]],
    first: usize,
    finish: &Finish<'_>,
    alpha: f32,
    (y, stride): (*mut T, usize),
) {
    // SAFETY: a row of sums has the 64 bytes that are read; the rest is the caller's promise.
    let values: [__m512; N] = from_fn(|i| unsafe {
        finish.added(first + i, _mm512_loadu_ps(sums[first + i].as_ptr()), finish.lanes)
    });
    for (i, values) in swish(values, alpha).into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe { T::store(y.add((first + i) * stride), finish.lanes, values) };
    }
}

/// Rounding to int8, as [`quantize`](crate::int8::quantize()) does.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rounding {
    to: Quantization,
    inverse: f32,
}

impl Rounding {
    /// `None` for the few scales that have to be divided by.
    pub(crate) fn new(to: Quantization) -> Option<Self> {
        has_exact_reciprocal(to.scale).then(|| Self { to, inverse: 1.0 / to.scale })
    }

    pub(crate) const fn to(&self) -> Quantization {
        self.to
    }

    /// The rounded reciprocal of the scale.
    pub(crate) const fn inverse(&self) -> f32 {
        self.inverse
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl")]
    pub(crate) fn round(&self, x: __m512) -> __m128i {
        let rounder = self.rounder();
        // What is no number has as many steps as 0 is from the zero point.
        _mm512_cvtepi32_epi8(_mm512_add_epi32(rounder.steps(x), rounder.zero))
    }

    /// The same in registers.
    #[inline]
    #[target_feature(enable = "avx512f")]
    pub(crate) fn rounder(&self) -> Rounder {
        let Self { to, inverse } = *self;
        let zero = i32::from(to.zero_point);
        // Limits of x are those of the result: a product of a scale and an integer, rounded, is so
        // close to it that the quotient rounds to that integer.
        let limit = |end: i8| _mm512_set1_ps((i32::from(end) - zero) as f32 * to.scale);
        Rounder {
            low: limit(to.min),
            high: limit(to.max),
            scale: _mm512_set1_ps(to.scale),
            inverse: _mm512_set1_ps(inverse),
            zero: _mm512_set1_epi32(zero),
            none: _mm512_set1_epi32(-zero),
        }
    }
}

/// A [`Rounding`] in registers.
#[derive(Clone, Copy)]
pub(crate) struct Rounder {
    low: __m512,
    high: __m512,
    scale: __m512,
    inverse: __m512,
    zero: __m512i,
    /// Steps from the zero point to 0, which is what becomes of what is no number.
    none: __m512i,
}

impl Rounder {
    /// The steps from the zero point to the result.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn steps(&self, x: __m512) -> __m512i {
        let Self { low, high, scale, inverse, none, .. } = *self;
        let is_number = _mm512_cmp_ps_mask::<_CMP_ORD_Q>(x, x);
        let x = _mm512_max_ps(low, _mm512_min_ps(high, x));
        let first = _mm512_mul_ps(x, inverse);
        let steps = _mm512_fmadd_ps(_mm512_fnmadd_ps(first, scale, x), inverse, first);
        _mm512_mask_cvt_roundps_epi32::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(
            none, is_number, steps,
        )
    }

    /// [`Rounding::round`] of four rows, of which each 128 bits of the result have four neighbours from each.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    pub(crate) fn round_four(&self, x: [__m512; 4]) -> __m512i {
        let [a, b, c, d] = x;
        let [a, b] = [self.steps(a), self.steps(b)];
        let [c, d] = [self.steps(c), self.steps(d)];
        // Steps and the zero point are so small that no pack limits them.
        let zero = _mm512_packs_epi32(self.zero, self.zero);
        let low = _mm512_add_epi16(_mm512_packs_epi32(a, b), zero);
        let high = _mm512_add_epi16(_mm512_packs_epi32(c, d), zero);
        _mm512_packs_epi16(low, high)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use super::*;
    use crate::math;
    use crate::tier::{Cpu, Tier};

    #[target_feature(enable = "avx512f")]
    fn on_row(function: Function, x: &[f32; 16]) -> [f32; 16] {
        let mut y = [0.0; 16];
        // SAFETY: both arrays have 64 bytes.
        unsafe { _mm512_storeu_ps(y.as_mut_ptr(), function(_mm512_loadu_ps(x.as_ptr()))) };
        y
    }

    type Function = unsafe fn(__m512) -> __m512;

    #[target_feature(enable = "avx512f")]
    fn one_gelu(x: __m512) -> __m512 {
        gelu([x])[0]
    }

    #[target_feature(enable = "avx512f")]
    fn one_coarse_gelu(x: __m512) -> __m512 {
        coarse_gelu([x])[0]
    }

    #[target_feature(enable = "avx512f")]
    fn one_exp_of_negative(x: __m512) -> __m512 {
        exp_of_negative([x])[0]
    }

    /// Compares one in so many of the numbers whose bits lie in a range, and their opposites where
    /// these are asked for.
    fn check_bits(bits: Range<u32>, both: bool, function: Function, scalar: fn(f32) -> f32) {
        const STRIDE: usize = 101;
        let mut numbers = bits.clone().step_by(STRIDE).map(f32::from_bits);
        while let Some(first) = numbers.next() {
            let x = [(); 16].map(|()| numbers.next().unwrap_or(first));
            for x in [x, x.map(|x| -x)].into_iter().take(1 + usize::from(both)) {
                // SAFETY: the caller found the tier.
                let found = unsafe { on_row(function, &x) };
                assert_eq!(found.map(f32::to_bits), x.map(scalar).map(f32::to_bits), "{x:?}");
            }
        }
    }

    fn has_registers() -> bool {
        let found = Cpu::with_tier(Tier::Avx512).is_ok();
        if !found {
            eprintln!("skipped: this CPU has no AVX-512");
        }
        found
    }

    #[test]
    fn gelu_has_the_bits_of_the_scalar_one() {
        if has_registers() {
            let range = 2f32.powi(-27).to_bits()..6f32.to_bits();
            check_bits(range.clone(), true, one_gelu, math::gelu);
            check_bits(range, true, one_coarse_gelu, math::coarse_gelu);
        }
    }

    #[target_feature(enable = "avx512f")]
    fn one_exp(x: __m512) -> __m512 {
        exp([x])[0]
    }

    #[test]
    fn exp_has_the_bits_of_the_scalar_one() {
        if has_registers() {
            let range = 2f32.powi(-27).to_bits()..95f32.to_bits();
            check_bits(range, true, one_exp, math::exp);
            for x in [0.0, -0.0, 1e9, f32::MAX, f32::INFINITY, -1e9, f32::MIN, f32::NEG_INFINITY] {
                let range = f32::to_bits(x)..f32::to_bits(x) + 1;
                check_bits(range, false, one_exp, math::exp);
            }
            // SAFETY: the tier was found.
            let of_nan = unsafe { on_row(one_exp, &[f32::NAN; 16]) };
            assert!(of_nan.iter().all(|y| y.is_nan()));
        }
    }

    #[test]
    fn exp_of_negative_has_the_bits_of_the_scalar_one() {
        if has_registers() {
            let range = (-2f32.powi(-27)).to_bits()..(-90f32).to_bits();
            check_bits(range, false, one_exp_of_negative, math::exp_of_negative);
            for x in [0.0, -0.0, -1e9, f32::MIN, f32::NEG_INFINITY] {
                let range = f32::to_bits(x)..f32::to_bits(x) + 1;
                check_bits(range, false, one_exp_of_negative, math::exp_of_negative);
            }
            // SAFETY: the tier was found.
            let of_nan = unsafe { on_row(one_exp_of_negative, &[f32::NAN; 16]) };
            assert!(of_nan.iter().all(|y| y.is_nan()));
        }
    }
}
