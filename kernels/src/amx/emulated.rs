#![allow(unsafe_code, reason = "reads and writes what the tile instructions would")]
//! The tile instructions in plain Rust, for tests of what is around them on CPUs without AMX.

use std::cell::Cell;
use std::slice;

use super::product::{Bf16, Instruction, Int8, Operands, Product};
use super::{Configuration, TILE_BYTES, TILE_LINES, TILE_ROWS};

thread_local! {
    /// Rows of a tile of sums, 0 without a configuration.
    static ROWS: Cell<usize> = const { Cell::new(0) };
}

/// Everywhere: tiers ask for the vectors that they need besides.
pub(crate) const fn is_available() -> bool {
    true
}

/// Configures the tiles of this thread.
///
/// # Safety
/// None is needed; the real one has conditions.
pub(super) unsafe fn configure(configuration: &Configuration) {
    ROWS.set(usize::from(configuration.rows[0]));
}

/// Gives the tiles of this thread back.
///
/// # Safety
/// As for [`configure`].
pub(super) unsafe fn release() {
    ROWS.set(0);
}

/// Adds the products of a group of inputs to a sum.
trait Group: Product {
    fn add(sum: Self::Sum, x: &[Self::Element], weights: &[Self::Element]) -> Self::Sum;
}

impl Group for Int8 {
    fn add(sum: i32, x: &[i8], weights: &[i8]) -> i32 {
        let products = x.iter().zip(weights).map(|(&x, &w)| i32::from(x) * i32::from(w));
        products.fold(sum, i32::wrapping_add)
    }
}

impl Group for Bf16 {
    fn add(sum: f32, x: &[u16], weights: &[u16]) -> f32 {
        let number = |bits: u16| {
            let number = f32::from_bits(u32::from(bits) << 16);
            if number.is_subnormal() { 0.0 } else { number }
        };
        let products = x.iter().zip(weights).map(|(&x, &w)| number(x) * number(w));
        products.fold(sum, |sum, product| sum + product)
    }
}

/// Multiplies so many rows.
///
/// # Safety
/// The operands are as [`Operands`] says.
unsafe fn multiply<P: Group>(operands: Operands, rows: usize) {
    assert!((1..=2 * TILE_ROWS).contains(&rows), "the tiles are configured");
    /// Bytes of the inputs that are multiplied by one line.
    const GROUP: usize = TILE_BYTES / TILE_LINES;
    let elements = GROUP / size_of::<P::Element>();
    for (row, column) in (0..rows).flat_map(|row| (0..TILE_ROWS).map(move |column| (row, column))) {
        // SAFETY: the caller's promise: so many rows and lines can be read, and the sums be read and
        // written, which are as aligned as their type.
        unsafe {
            let place = operands.sums.cast::<P::Sum>().add(row * TILE_ROWS + column);
            let mut sum = if operands.resume { *place } else { P::Sum::default() };
            for line in 0..operands.steps * TILE_LINES {
                let x = operands.x.add(row * operands.stride + line * GROUP);
                let weights = operands.weights.add(line * TILE_BYTES + column * GROUP);
                let [x, weights] =
                    [x, weights].map(|start| slice::from_raw_parts(start.cast(), elements));
                sum = P::add(sum, x, weights);
            }
            *place = sum;
        }
    }
}

// SAFETY: `multiply` reads and writes what `Operands` says.
unsafe impl<P: Group> Instruction for P {
    unsafe fn pair(operands: Operands) {
        // SAFETY: the caller's promise.
        unsafe { multiply::<P>(operands, 2 * TILE_ROWS) };
    }

    unsafe fn single(operands: Operands) {
        // SAFETY: the caller's promise.
        unsafe { multiply::<P>(operands, ROWS.get()) };
    }
}
