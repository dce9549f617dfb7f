//! Weights of few bits, with a scale a block, as f32.

use super::super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{DequantizeBlocks, Gather, Op};
use crate::weights::checked_elements;
use crate::{Dim, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "GatherBlockQuantized", import: gather },
    OperatorEntry { name: "MatMulNBits", import: matmul },
];

/// Sizes of packed weights of `columns` rows of `inner` numbers.
struct Packing {
    inner: usize,
    columns: usize,
    bits: usize,
    block: usize,
    /// Blocks of a row.
    blocks: usize,
}

impl Packing {
    fn of(node: &NodeContext<'_, '_>) -> Result<Self, ImportError> {
        let size = |name: &str, default| -> Result<usize, ImportError> {
            let found = node.int_or(name, default);
            let size = usize::try_from(found).ok().filter(|&size| size > 0);
            size.ok_or_else(|| node.invalid(format!("expected {name} above 0, found {found}")))
        };
        let (inner, columns) = (size("K", 0)?, size("N", 0)?);
        let (bits, block) = (size("bits", 4)?, size("block_size", 0)?);
        if !matches!(bits, 2 | 4 | 8) {
            return Err(node.unsupported(format!("bits = {bits}")));
        }
        if !block.is_power_of_two() || !(16..=1 << 20).contains(&block) {
            return Err(node.unsupported(format!("block_size = {block}")));
        }
        Ok(Self { inner, columns, bits, block, blocks: inner.div_ceil(block) })
    }

    /// The zero point of every block.
    fn zeros(&self, node: &NodeContext<'_, '_>, id: ValueId) -> Result<Vec<f32>, ImportError> {
        let tensor = known(node, id, "zero points")?;
        if let Ok(zeros) = tensor.elements::<f32>() {
            let expected = self.columns * self.blocks;
            return Ok(sized(node, zeros, expected, "zero points")?.to_vec());
        }
        let bytes = tensor.elements::<u8>().map_err(|error| node.invalid(error.to_string()))?;
        let row = (self.blocks * self.bits).div_ceil(8);
        let bytes = sized(node, bytes, self.columns * row, "bytes of zero points")?;
        let of_row = |bytes: &[u8]| -> Vec<f32> {
            (0..self.blocks).map(|block| unpacked(bytes, self.bits, block).into()).collect()
        };
        Ok(bytes.chunks(row).flat_map(of_row).collect())
    }

    /// The weights as `[inner, columns]`.
    fn weights(&self, node: &NodeContext<'_, '_>) -> Result<Tensor, ImportError> {
        let blob = self.block * self.bits / 8;
        let sizes = [self.columns, self.blocks, self.block];
        let fits = checked_elements(&sizes).is_some_and(|elements| elements <= 1 << 40);
        let packed = known(node, node.input(1)?, "weights")?;
        let packed = packed.elements::<u8>().map_err(|error| node.invalid(error.to_string()))?;
        if !fits {
            return Err(node.invalid(format!("too many weights: {sizes:?}")));
        }
        let row = self.blocks * blob;
        let packed = sized(node, packed, self.columns * row, "bytes of weights")?;
        let scales = known(node, node.input(2)?, "scales")?;
        let scales = scales.elements::<f32>().map_err(|error| node.invalid(error.to_string()))?;
        let scales = sized(node, scales, self.columns * self.blocks, "scales")?;
        let middle = f32::from(1u8 << (self.bits - 1));
        let zeros = node.optional(3).map(|id| self.zeros(node, id)).transpose()?;
        Ok(Tensor::from_fn(&[self.inner, self.columns], |index| {
            let (k, column) = (index / self.columns, index % self.columns);
            let block = column * self.blocks + k / self.block;
            let zero = zeros.as_ref().map_or(middle, |zeros| zeros[block]);
            let row = &packed[column * row..][..row];
            (f32::from(unpacked(row, self.bits, k)) - zero) * scales[block]
        }))
    }
}

/// Number `index` of those that `bytes` hold, each of `bits`: 2, 4 or 8.
fn unpacked(bytes: &[u8], bits: usize, index: usize) -> u8 {
    let each = 8 / bits;
    let shifted = bytes[index / each] >> (index % each * bits);
    (u16::from(shifted) & ((1 << bits) - 1)) as u8
}

/// The content of a constant input.
fn known<'a>(
    node: &'a NodeContext<'_, '_>,
    id: ValueId,
    what: &str,
) -> Result<&'a Tensor, ImportError> {
    node.constant(id).ok_or_else(|| node.unsupported(format!("{what} that are no constant")))
}

/// The elements, which have to be `expected` many.
fn sized<'a, T>(
    node: &NodeContext<'_, '_>,
    elements: &'a [T],
    expected: usize,
    what: &str,
) -> Result<&'a [T], ImportError> {
    let found = elements.len();
    if found == expected {
        return Ok(elements);
    }
    Err(node.invalid(format!("expected {expected} {what}, found {found}")))
}

/// Rows of a constant of bytes with as many numbers of `bits` as a byte holds, `length` of them, as a
/// constant of a number each.
fn unpacked_rows(
    node: &mut NodeContext<'_, '_>,
    id: ValueId,
    bits: usize,
    length: usize,
) -> Result<ValueId, ImportError> {
    let tensor = known(node, id, "packed numbers")?;
    let (Some((&row, before)), Ok(bytes)) = (tensor.shape().split_last(), tensor.elements::<u8>())
    else {
        return Err(node.invalid(format!("expected rows of bytes, found {tensor:?}")));
    };
    if length.checked_mul(bits).is_none_or(|length| length.div_ceil(8) != row) {
        let reason = format!("expected rows of {length} numbers of {bits} bits, found {row} bytes");
        return Err(node.invalid(reason));
    }
    let shape = [before, &[length]].concat();
    let number =
        |index: usize| unpacked(&bytes[index / length * row..][..row], bits, index % length);
    let numbers = Tensor::from_fn(&shape, number);
    node.count_unpacked(numbers.len())?;
    node.weight(numbers)
}

/// The zero point of every block, as many as `scales`: that of 0 for integers of four bits, and the
/// middle of what bytes hold.
fn zeros(
    node: &mut NodeContext<'_, '_>,
    data: ValueId,
    scales: &[usize],
    bits: Option<usize>,
) -> Result<ValueId, ImportError> {
    match (node.optional(3), bits, scales.split_last()) {
        (Some(zeros), Some(bits @ ..8), Some((&blocks, _))) => {
            unpacked_rows(node, zeros, bits, blocks)
        }
        (Some(zeros), ..) => Ok(zeros),
        (None, Some(bits), _) => {
            let middle = 1u8 << (bits - 1);
            node.weight(Tensor::from_fn(scales, |_| middle))
        }
        (None, None, _) => {
            let zeros = Tensor::zeros(node.dtype(data), scales);
            node.weight(zeros)
        }
    }
}

/// Rows of a table with a scale a block.
fn gather(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let (mut data, indices, scales) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let block = usize::try_from(node.int_or("block_size", 128)).unwrap_or(0);
    let rank = node.rank(data);
    let gathered = node.axis_of(node.int_or("gather_axis", 0), rank)?;
    let axis = node.axis_of(node.int_or("quantize_axis", 1), rank)?;
    let sizes = known(node, scales, "scales")?.shape().to_vec();
    // Bytes may hold several numbers, where tensors of four bits are one number an element.
    let mut bits = None;
    if !node.has_four_bits(0) {
        let found = node.int_or("bits", 4);
        let width = usize::try_from(found).ok().filter(|width| matches!(width, 2 | 4 | 8));
        let width = width.ok_or_else(|| node.unsupported(format!("bits = {found}")))?;
        let row = node.shape(data).last().and_then(Dim::fixed).unwrap_or(0);
        if width < 8 {
            if axis + 1 != rank {
                return Err(node.unsupported(format!("quantize_axis = {axis} of packed bytes")));
            }
            let length = row.checked_mul(8 / width).filter(|&length| length > 0);
            let length = length.ok_or_else(|| node.invalid("expected rows of bytes"))?;
            data = unpacked_rows(node, data, width, length)?;
        }
        bits = Some(width);
    }
    let zeros = zeros(node, data, &sizes, bits)?;
    let op = Op::DequantizeBlocks(DequantizeBlocks { axis, block });
    let table = node.add(op, &[data, scales, zeros])?;
    node.output(0, Op::Gather(Gather { axis: gathered }), &[table, indices])
}

fn matmul(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let a = node.input(0)?;
    if node.optional(4).is_some() {
        return Err(node.unsupported("g_idx"));
    }
    if node.int_or("weight_prepacked", 0) != 0 {
        return Err(node.unsupported("weights in the order of a device"));
    }
    if node.rank(a) < 2 {
        return Err(node.unsupported("a vector"));
    }
    let weights = Packing::of(node)?.weights(node)?;
    node.count_unpacked(weights.len())?;
    let weights = node.weight(weights)?;
    let Some(bias) = node.optional(5) else {
        return node.output(0, Op::MatMul, &[a, weights]);
    };
    let product = node.add(Op::MatMul, &[a, weights])?;
    node.output(0, Op::Add, &[product, bias])
}
