//! `f32` linear algebra with a packed right side.
//!
//! Every element of a product is one chain of fused multiply-adds over the inner dimension, in its
//! order, whatever the vector width. A chain has the same bits on every CPU that fuses; the plain
//! twin, for those that cannot, rounds after each product too.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod left;
mod linear;
mod pack;
mod portable;
mod product;
mod rectangle;
mod row;
mod tile;
mod transpose;

pub(crate) use left::{Grid, Left};
pub(crate) use linear::for_each_block;
pub use linear::{Layer, PARALLEL_WORK, linear};
pub use pack::PackedWeights;
pub(crate) use pack::{DEPTH, Line, PANEL, Panels};
pub(crate) use product::product;
pub(crate) use rectangle::Rectangle;
pub(crate) use tile::{Rows, Start, multiply_add, tile_rows};
pub(crate) use transpose::{transpose, transpose_rows};
