//! Images whose channels are last: `[batch, height, width, channels]`.
//!
//! The channels of a pixel lie together there, and so do those of neighbours, so that a window is a
//! few segments of the image, or of a copy with its padding around it: it is multiplied where it lies, by
//! the kernels of [`crate::float`], or as a row that is rounded or laid out for those of [`crate::bf16`] and
//! [`crate::int8`], and what works channel by channel has registers full of them whatever the size of an
//! image. The twins for channels first are [`crate::conv2d`] and [`crate::pool2d`].

#[cfg(target_arch = "x86_64")]
mod avx512;
mod bf16;
mod conv;
mod conv_transpose;
mod depthwise;
mod few;
mod fold;
mod integer;
mod integer_depthwise;
#[cfg(target_arch = "x86_64")]
mod interleaved;
mod maximum;
mod pool;
mod scale;

pub use crate::element::Element;
pub use bf16::{Bf16Conv, Bf16Filters, bf16_conv2d, bf16_scratch_len};
pub use conv::{Filters, PackedFilters, conv2d, scratch_len};
pub use conv_transpose::{conv_transpose2d, pack_transposed, transposed_scratch_len};
pub use integer::{integer_conv2d, integer_scratch_len, pack_integer_filters};
pub use integer_depthwise::{DEPTHWISE_PIECE, PackedDepthwise, integer_depthwise};
pub use maximum::greatest2d;
pub use pool::{global_pool, pool2d};
pub use scale::{scale_images, scale_shift};
