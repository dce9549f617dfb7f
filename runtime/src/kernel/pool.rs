//! Pooling over windows and over whole images, f32.

use graph::Op;
use graph::op::{AveragePadding, GlobalPool, Pool, PoolKind};
use kernels::{Cpu, Pooling, pool2d, row_maxima, row_means};

use super::conv::{one_or_two_dimensions, slides};
use super::{Call, Kernel, KernelEntry, Prepared, elements_mut, floats, run};
use crate::module::{Module, Node, Operation};

const fn windows(name: &'static str, operation: &'static str) -> KernelEntry {
    let (accepts, prepare) = (accepts_windows, prepare_windows);
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare }
}

const fn images(name: &'static str, operation: &'static str) -> KernelEntry {
    let (accepts, prepare) = (floats, prepare_images);
    KernelEntry { name, operation, tier: None, cost: 1, accepts, prepare }
}

pub(super) const KERNELS: &[KernelEntry] = &[
    windows("max-pool.f32", "MaxPool"),
    windows("average-pool.f32", "AveragePool"),
    images("global-max-pool.f32", "GlobalMaxPool"),
    images("global-average-pool.f32", "GlobalAveragePool"),
];

fn pool(node: &Node) -> &Pool {
    match &node.operation {
        Operation::Graph(Op::Pool(op)) => op,
        _ => unreachable!("the table pairs this kernel with pools"),
    }
}

pub(crate) fn pooling(kind: PoolKind) -> Result<Pooling, String> {
    match kind {
        PoolKind::Max => Ok(Pooling::Max),
        PoolKind::Average { padding: AveragePadding::Excluded } => Ok(Pooling::Average),
        PoolKind::Average { padding: AveragePadding::Zeros } => Ok(Pooling::AverageWithPadding),
        other => Err(format!("takes maxima and means, found {other:?}")),
    }
}

fn accepts_windows(module: &Module, node: &Node) -> Result<(), String> {
    floats(module, node)?;
    pooling(pool(node).kind)?;
    one_or_two_dimensions(&module.value(node.inputs[0]).shape)
}

struct Windows {
    cpu: Cpu,
    op: Pool,
    pooling: Pooling,
}

fn prepare_windows(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let op = pool(node).clone();
    let pooling = pooling(op.kind).expect("other kinds were not accepted");
    run(Windows { cpu, op, pooling })
}

impl Kernel for Windows {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [batch, channels, spatial @ ..] = call.inputs[0].shape else {
            return Err("expected a batch of images".to_owned());
        };
        let slides = slides(&self.op.window, self.op.rounding, spatial)?;
        let (x, y) = (call.f32(0), elements_mut(call.output));
        pool2d(self.cpu, self.pooling, batch * channels, &slides, x, y);
        Ok(())
    }
}

struct Images {
    cpu: Cpu,
    reduce: fn(Cpu, &[f32], usize, &mut [f32]),
}

fn prepare_images(_: &Module, node: &Node, cpu: Cpu) -> Prepared {
    let reduce = match &node.operation {
        Operation::Graph(Op::GlobalPool(GlobalPool::Max)) => row_maxima,
        _ => row_means,
    };
    run(Images { cpu, reduce })
}

impl Kernel for Images {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let image = call.inputs[0].shape.iter().skip(2).product();
        (self.reduce)(self.cpu, call.f32(0), image, elements_mut(call.output));
        Ok(())
    }
}
