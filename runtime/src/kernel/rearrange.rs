//! Elements of any type that go elsewhere by their place: squares of pixels as channels and back,
//! copies one after another, triangles of matrices.

use bytemuck::{Pod, cast_slice};
use graph::op::DepthOrder;
use graph::{DType, Op};
use kernels::broadcast::{BROADCAST_RANK, Broadcast, expand};
use kernels::{Cpu, permute, permute_any};

use super::{
    Call, Kernel, KernelEntry, MOST_DIMENSIONS, Prepared, any, elements_mut, few_dimensions, run,
};
use crate::module::{Module, Node, Operation};

const fn squares(name: &'static str, operation: &'static str) -> KernelEntry {
    KernelEntry { name, operation, tier: None, cost: 1, accepts: any, prepare: prepare_squares }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    squares("depth-to-space.copy", "DepthToSpace"),
    squares("space-to-depth.copy", "SpaceToDepth"),
    KernelEntry {
        name: "tile.copy",
        operation: "Tile",
        tier: None,
        cost: 1,
        accepts: |module, node| few_dimensions(module, node.output, MOST_DIMENSIONS),
        prepare: |_, _, _| run(Copies),
    },
    KernelEntry {
        name: "triangle.copy",
        operation: "Trilu",
        tier: None,
        cost: 1,
        accepts: any,
        prepare: |_, node, _| match &node.operation {
            Operation::Graph(Op::Triangle(op)) => run(Triangle { upper: op.upper }),
            _ => unreachable!("the table pairs this kernel with triangles"),
        },
    },
];

/// The elements of an operand as bits of their size.
fn bits<T: Pod>(bytes: &[u8]) -> &[T] {
    // No bytes may start anywhere.
    if bytes.is_empty() { &[] } else { cast_slice(bytes) }
}

/// Which of channels, rows and columns of the input have the squares in them, and in which order.
#[derive(Clone, Copy)]
enum Squares {
    /// Channels, their squares outermost.
    InChannels,
    /// Channels, their squares innermost.
    InnermostInChannels,
    /// Rows and columns.
    InPixels,
}

struct Turn {
    cpu: Cpu,
    squares: Squares,
    block: usize,
}

fn prepare_squares(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let (squares, block) = match &node.operation {
        Operation::Graph(Op::DepthToSpace(op)) => match op.order {
            DepthOrder::DepthColumnRow => (Squares::InChannels, op.block),
            DepthOrder::ColumnRowDepth => (Squares::InnermostInChannels, op.block),
        },
        Operation::Graph(Op::SpaceToDepth(op)) => (Squares::InPixels, op.block),
        _ => unreachable!("the table pairs this kernel with squares of pixels"),
    };
    run(Turn { cpu, squares, block })
}

impl Kernel for Turn {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, b) = (&call.inputs[0], self.block);
        let &[batch, channels, height, width] = x.shape else {
            return Err("expected a batch of images".to_owned());
        };
        let (shape, permutation) = match self.squares {
            Squares::InChannels => {
                ([batch, b, b, channels / (b * b), height, width], [0, 3, 4, 1, 5, 2])
            }
            Squares::InnermostInChannels => {
                ([batch, channels / (b * b), b, b, height, width], [0, 1, 4, 2, 5, 3])
            }
            Squares::InPixels => {
                ([batch, channels, height / b, b, width / b, b], [0, 3, 5, 1, 2, 4])
            }
        };
        if shape.iter().product::<usize>() * x.dtype.size_bytes() != x.bytes.len() {
            return Err(format!("images {:?} do not fall into squares of {b}", x.shape));
        }
        match x.dtype {
            DType::F32 => {
                permute(self.cpu, x.elements(), &shape, &permutation, elements_mut(call.output));
            }
            other => match other.size_bytes() {
                1 => permute_any::<u8>(x.bytes, &shape, &permutation, call.output),
                4 => {
                    let y = elements_mut::<u32>(call.output);
                    permute_any(bits(x.bytes), &shape, &permutation, y);
                }
                _ => {
                    let y = elements_mut::<u64>(call.output);
                    permute_any(bits(x.bytes), &shape, &permutation, y);
                }
            },
        }
        Ok(())
    }
}

struct Copies;

impl Kernel for Copies {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, rank) = (&call.inputs[0], call.shape.len());
        // Each dimension is two: the copies, over which x repeats, and its entries.
        let (mut to, mut from) = ([1; BROADCAST_RANK], [1; BROADCAST_RANK]);
        for (axis, (&size, &all)) in x.shape.iter().zip(call.shape).enumerate() {
            if all.checked_rem(size).unwrap_or(all) != 0 {
                return Err(format!("{:?} is no repetition of {:?}", call.shape, x.shape));
            }
            to[2 * axis] = all.checked_div(size).unwrap_or(1);
            to[2 * axis + 1] = size;
            from[2 * axis + 1] = size;
        }
        let broadcast = Broadcast::new(&to[..2 * rank], [&from[..2 * rank]]);
        match x.dtype.size_bytes() {
            1 => expand::<u8>(&broadcast, x.bytes, call.output),
            4 => expand::<u32>(&broadcast, bits(x.bytes), elements_mut(call.output)),
            8 => expand::<u64>(&broadcast, bits(x.bytes), elements_mut(call.output)),
            bytes => return Err(format!("does not know elements of {bytes} bytes")),
        }
        Ok(())
    }
}

struct Triangle {
    upper: bool,
}

impl Kernel for Triangle {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let &[.., rows, columns] = call.shape else {
            return Err("expected matrices".to_owned());
        };
        let diagonal = match call.inputs.get(1) {
            None => 0,
            Some(k) => *k.elements::<i64>().first().ok_or("expected a diagonal")?,
        };
        let (bytes, x) = (call.inputs[0].dtype.size_bytes(), call.inputs[0].bytes);
        let keep = |row: usize, y: &mut [u8], x: Option<&[u8]>| {
            // The first column on or above the diagonal, or behind it.
            let beyond = i64::from(!self.upper);
            let edge = (row as i64 % rows as i64).saturating_add(diagonal).saturating_add(beyond);
            let edge = edge.clamp(0, columns as i64) as usize * bytes;
            let (kept, rest) =
                if self.upper { (edge..y.len(), 0..edge) } else { (0..edge, edge..y.len()) };
            if let Some(x) = x {
                y[kept.clone()].copy_from_slice(&x[kept]);
            }
            y[rest].fill(0);
        };
        let row_bytes = columns * bytes;
        let in_place = call.in_place.is_some();
        kernels::for_each_row(call.output, row_bytes, |row, y| {
            let x = (!in_place).then(|| &x[row * row_bytes..][..row_bytes]);
            keep(row, y, x);
        });
        Ok(())
    }

    fn in_place(&self) -> &'static [usize] {
        &[0]
    }
}
