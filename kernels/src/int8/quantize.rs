#![allow(unsafe_code, reason = "the tiered macro calls code for detected instruction sets")]
//! Between `f32` and int8, with the meaning of ONNX `QuantizeLinear` and `DequantizeLinear`.

#[cfg(target_arch = "x86_64")]
use super::Finish;
use crate::activation::Activation;
use crate::math;
use crate::parallel::{self, CHUNK, LINE, check_len, rows_per_chunk};
#[cfg(target_arch = "x86_64")]
use crate::requantize::RequantizedSum;
use crate::tier::{Cpu, Tier, tiered};

/// How numbers of a tensor are written as int8: `x ≈ (q − zero_point)·scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantization {
    /// Size of one step, > 0.
    pub scale: f32,
    /// The integer that stands for 0.
    pub zero_point: i8,
    /// The smallest integer used: −128, or −127 where the range is symmetric.
    pub min: i8,
    /// The largest integer used.
    pub max: i8,
}

impl Quantization {
    /// Zero point 0 and the range of ONNX, −128..=127.
    #[must_use]
    pub const fn symmetric(scale: f32) -> Self {
        Self { scale, zero_point: 0, min: i8::MIN, max: i8::MAX }
    }

    /// What writes numbers that are kept between `low` and `high` first: rounding keeps their order.
    /// `None` where a limit is no number.
    #[must_use]
    pub fn limited(self, [low, high]: [f32; 2]) -> Option<Self> {
        let step = |x: f32| integer(x, math::clamp(x / self.scale, -MOST_STEPS, MOST_STEPS), self);
        (!low.is_nan() && !high.is_nan()).then(|| Self { min: step(low), max: step(high), ..self })
    }
}

/// Rounds `x` to int8, see [`quantize()`].
pub(crate) fn quantize_piece(cpu: Cpu, x: &[f32], to: Quantization, y: &mut [i8]) {
    if cpu.tier() > Tier::Portable && has_exact_reciprocal(to.scale) {
        quantize_multiplying(cpu, x, to, y);
    } else {
        quantize_dividing(cpu, x, to, y);
    }
}

/// Whether [`quotient`] divides by this scale: nothing on the way overflows or becomes subnormal
/// where it matters, and it is not the one kind of number that the theorem leaves out.
pub(crate) fn has_exact_reciprocal(scale: f32) -> bool {
    const MANTISSA: u32 = (1 << (f32::MANTISSA_DIGITS - 1)) - 1;
    (1e-30..1e30).contains(&scale) && scale.to_bits() & MANTISSA != MANTISSA
}

/// `x / scale` to the bit, for `inverse` the rounded reciprocal of the scale: what is left of x
/// corrects the first quotient (Markstein 1990, theorem 8.3). A division takes several times as
/// long as three products.
#[allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
#[inline(always)]
fn quotient(x: f32, scale: f32, inverse: f32) -> f32 {
    let first = x * inverse;
    let left = (-first).mul_add(scale, x);
    left.mul_add(inverse, first)
}

/// Limits of the steps from zero. No i8 lies further from its zero point than 255, so they change
/// no result; they keep the rounding trick in its range.
const MOST_STEPS: f32 = 1024.0;

#[allow(clippy::inline_always, reason = "compiled inside each tier's copy of the kernel")]
#[inline(always)]
#[allow(clippy::cast_possible_truncation, reason = "limited to the range of i8 just before")]
fn integer(x: f32, steps: f32, to: Quantization) -> i8 {
    let rounded = math::round_even_to_int(steps) + i32::from(to.zero_point);
    let limited = rounded.max(i32::from(to.min)).min(i32::from(to.max));
    if x.is_nan() { 0 } else { limited as i8 }
}

tiered! {
    fn quantize_dividing(x: &[f32], to: Quantization, y: &mut [i8]) {
        for (y, &x) in y.iter_mut().zip(x) {
            *y = integer(x, math::clamp(x / to.scale, -MOST_STEPS, MOST_STEPS), to);
        }
    }
}

tiered! {
    fn quantize_multiplying(x: &[f32], to: Quantization, y: &mut [i8]) {
        let (inverse, limit) = (1.0 / to.scale, MOST_STEPS * to.scale);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = integer(x, quotient(math::clamp(x, -limit, limit), to.scale, inverse), to);
        }
    }
}

tiered! {
    fn dequantize_piece(x: &[i8], from: Quantization, y: &mut [f32]) {
        let zero_point = i32::from(from.zero_point);
        for (y, &x) in y.iter_mut().zip(x) {
            *y = (i32::from(x) - zero_point) as f32 * from.scale;
        }
    }
}

tiered! {
    fn add_to(sums: &mut [f32], others: &[f32]) {
        for (sum, &other) in sums.iter_mut().zip(others) {
            *sum += other;
        }
    }
}

tiered! {
    fn dequantize_row(x: &[i8], scales: &[f32], y: &mut [f32]) {
        for ((y, &x), &scale) in y.iter_mut().zip(x).zip(scales) {
            *y = f32::from(x) * scale;
        }
    }
}

/// `y = limit(round(x / scale) + zero_point)`, halves to even; NaN becomes 0.
///
/// # Shapes
/// `x` and `y` have the same length.
pub fn quantize(cpu: Cpu, x: &[f32], to: Quantization, y: &mut [i8]) {
    check_len("quantize: y", y.len(), x.len());
    parallel::map(x, y, LINE, |x, y| quantize_piece(cpu, x, to, y));
}

tiered! {
    /// The least and the greatest, and 0; NaN is passed over.
    fn range_of(x: &[f32]) -> [f32; 2] {
        const LANES: usize = 32;
        let (mut low, mut high) = ([0f32; LANES], [0f32; LANES]);
        let (blocks, rest) = x.as_chunks::<LANES>();
        for block in blocks {
            for lane in 0..LANES {
                let x = block[lane];
                low[lane] = if x < low[lane] { x } else { low[lane] };
                high[lane] = if x > high[lane] { x } else { high[lane] };
            }
        }
        let (low, high) = (low.iter().chain(rest), high.iter().chain(rest));
        [low.fold(0.0, |a: f32, &b| a.min(b)), high.fold(0.0, |a: f32, &b| a.max(b))]
    }
}

/// How numbers are written as int8 so that their range and 0 are met, as ONNX's `DynamicQuantizeLinear`
/// does it, 128 lower.
pub fn range_quantization(cpu: Cpu, x: &[f32]) -> Quantization {
    const PIECES: usize = 16;
    let mut ranges = [[0f32; 2]; PIECES];
    let piece = x.len().div_ceil(PIECES).max(CHUNK / PIECES);
    let pieces = x.len().div_ceil(piece);
    let at_once = if x.len() <= CHUNK { PIECES } else { 1 };
    parallel::for_each_row(&mut ranges[..pieces], 1, at_once, |index, range| {
        range[0] = range_of(cpu, &x[index * piece..x.len().min((index + 1) * piece)]);
    });
    let low = ranges.iter().fold(0f32, |low, range| low.min(range[0]));
    let high = ranges.iter().fold(0f32, |high, range| high.max(range[1]));
    let scale = if low == high { 1.0 } else { high - low } / 255.0;
    let zero_point = (-low / scale).clamp(0.0, 255.0).round_ties_even() as u8;
    Quantization {
        scale,
        zero_point: (zero_point ^ 0x80).cast_signed(),
        min: i8::MIN,
        max: i8::MAX,
    }
}

/// `y = (x − zero_point)·scale`.
///
/// # Shapes
/// `x` and `y` have the same length.
pub fn dequantize(cpu: Cpu, x: &[i8], from: Quantization, y: &mut [f32]) {
    check_len("dequantize: y", y.len(), x.len());
    parallel::map(x, y, LINE, |x, y| dequantize_piece(cpu, x, from, y));
}

/// `y[r, c] = x[r, c]·scales[c]`: zero point 0, a scale for each column.
///
/// # Shapes
/// `x`, `y`: `[rows, cols]`; `scales`: `[cols]`.
pub fn dequantize_columns(cpu: Cpu, x: &[i8], scales: &[f32], y: &mut [f32]) {
    let cols = scales.len();
    check_len("dequantize_columns: y", y.len(), x.len());
    if x.is_empty() {
        return;
    }
    check_len("dequantize_columns: x", x.len(), x.len() / cols.max(1) * cols);
    parallel::for_each_row(y, cols, rows_per_chunk(cols), |row, y| {
        dequantize_row(cpu, &x[row * cols..][..cols], scales, y);
    });
}

/// An int8 value and how it is written.
pub type Quantized<'a> = (&'a [i8], Quantization);

/// `y = quantize(activation(dequantize(a) + dequantize(b)))`, rounded at each step as these do.
///
/// # Shapes
/// All have the same length.
pub fn quantized_sum(
    cpu: Cpu,
    [(a, of_a), (b, of_b)]: [Quantized<'_>; 2],
    activation: Activation,
    y: &mut [i8],
    to: Quantization,
) {
    /// Elements whose numbers stay in the first cache.
    const PIECE: usize = 512;
    check_len("quantized_sum: a", a.len(), y.len());
    check_len("quantized_sum: b", b.len(), y.len());
    #[cfg(target_arch = "x86_64")]
    let rounding = Finish { cpu, activation, coarse: false }
        .rounding(to)
        .filter(|_| cpu.tier() >= Tier::Avx512);
    parallel::for_each_piece(y, LINE, |first, y| {
        #[cfg(target_arch = "x86_64")]
        let (first, y) = match &rounding {
            Some(rounding) => {
                let addends = [a, b].map(|x| &x[first..first + y.len()]);
                // SAFETY: a `Cpu` of these tiers exists only where `Tier::is_available` found AVX-512.
                let done = unsafe { RequantizedSum::new([of_a, of_b], rounding).write(addends, y) };
                (first + done, &mut y[done..])
            }
            None => (first, y),
        };
        for (piece, y) in y.chunks_mut(PIECE).enumerate() {
            let start = first + piece * PIECE;
            let (mut sums, mut others) = ([0.0; PIECE], [0.0; PIECE]);
            let (sums, others) = (&mut sums[..y.len()], &mut others[..y.len()]);
            dequantize_piece(cpu, &a[start..start + y.len()], of_a, sums);
            dequantize_piece(cpu, &b[start..start + y.len()], of_b, others);
            add_to(cpu, sums, others);
            activation.apply(cpu, sums);
            quantize_piece(cpu, sums, to, y);
        }
    });
}

/// One row of [`dequantize`] or, with several scales, of [`dequantize_columns`].
pub(crate) fn dequantize_one(cpu: Cpu, x: &[i8], scales: &[f32], y: &mut [f32]) {
    match scales {
        [scale] => dequantize_piece(cpu, x, Quantization::symmetric(*scale), y),
        _ => dequantize_row(cpu, x, scales, y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_product_with_the_reciprocal_is_the_quotient() {
        let mut state = 1u64;
        let mut random = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as u32
        };
        for _ in 0..200_000 {
            // Mantissas at random, and quotients near halves, where rounding decides.
            let scale = f32::from_bits(random() | 0x3a00_0000);
            let near = (random() % 512) as f32 * 0.5 * scale;
            let nudged = f32::from_bits(near.to_bits().wrapping_add(random() % 5).wrapping_sub(2));
            for x in [f32::from_bits(random() | 0x3c00_0000), near, nudged, -nudged] {
                if has_exact_reciprocal(scale) && x.is_finite() {
                    let (found, expected) = (quotient(x, scale, 1.0 / scale), x / scale);
                    assert_eq!(found, expected, "{x:e} / {scale:e}");
                }
            }
        }
    }
}
