//! Convolutions whose windows are bent by values.

use graph::op::{DeformConv, Rounding};
use graph::{DType, Dim, Op};
use kernels::peaks::Numbers;
use kernels::{Cpu, Deformation, GEMM_PARALLEL_WORK, Matrix, Slide, Write, deformed_windows, gemm};

use super::conv::slides;
use super::{Call, Kernel, KernelEntry, Scratch, elements_mut, floats, run};
use crate::cost::{Parallel, Rate};
use crate::module::Operation;

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "deform-conv.f32",
    operation: "DeformConv",
    tier: None,
    cost: 1,
    accepts: |module, node| {
        floats(module, node)?;
        let [x, weight] = [0, 1].map(|input| module.value(node.inputs[input]).shape.as_slice());
        let mut sizes = x.iter().skip(1).chain(weight);
        match module.is_dynamic() || sizes.all(|dim| dim.fixed().is_some()) {
            true => Ok(()),
            false => Err("takes images and filters of known sizes".to_owned()),
        }
    },
    prepare: |_, node, cpu| match &node.operation {
        Operation::Graph(Op::DeformConv(op)) => run(Deformed { cpu, op: op.clone() }),
        _ => unreachable!("the table pairs this kernel with bent windows"),
    },
}];

struct Deformed {
    cpu: Cpu,
    op: DeformConv,
}

/// What is computed for each image.
struct Sizes {
    channels: usize,
    outputs: usize,
    slides: [Slide; 2],
    entries: usize,
    windows: usize,
}

impl Deformed {
    fn sizes(&self, x: &[usize], weight: &[usize]) -> Result<Sizes, String> {
        let (&[_, channels, height, width], &[outputs, inner, rows, columns]) = (x, weight) else {
            return Err(format!("expected images and filters, found {x:?} and {weight:?}"));
        };
        let DeformConv { window, groups, offset_groups, .. } = &self.op;
        let fits = window.kernel == [rows, columns]
            && inner.checked_mul(*groups) == Some(channels)
            && outputs.is_multiple_of(*groups)
            && channels.is_multiple_of(*offset_groups);
        if !fits {
            return Err(format!("filters {weight:?} of {:?} do not go with {x:?}", self.op));
        }
        let slides = slides(window, Rounding::Floor, &[height, width])?;
        let windows = slides[0].output * slides[1].output;
        Ok(Sizes { channels, outputs, slides, entries: rows * columns, windows })
    }
}

impl Kernel for Deformed {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (x, weight) = (call.inputs[0].shape, call.inputs[1].shape);
        let Sizes { channels, outputs, slides, entries, windows } = self.sizes(x, weight)?;
        let DeformConv { groups, offset_groups, .. } = self.op;
        let (batch, moved) = (x[0], offset_groups * entries * windows);
        let bias = self.op.bias.then(|| call.f32(3));
        let mask = self.op.mask.then(|| call.f32(3 + usize::from(self.op.bias)));
        let offset = call.f32(2);
        if Some(offset.len()) != batch.checked_mul(2 * moved)
            || mask.is_some_and(|mask| mask.len() != batch * moved)
            || bias.is_some_and(|bias| bias.len() != outputs)
        {
            return Err(format!("offsets, a mask or a bias do not go with {x:?} and {weight:?}"));
        }
        let (image, depth) = (channels * x[2] * x[3], channels / groups * entries);
        let (pixels, weight) = (call.f32(0), call.f32(1));
        let columns: &mut [f32] = elements_mut(call.scratch);
        let output: &mut [f32] = elements_mut(call.output);
        for (item, y) in output.chunks_exact_mut((outputs * windows).max(1)).enumerate() {
            let deformation = Deformation {
                slides,
                groups: offset_groups,
                offset: &offset[item * 2 * moved..][..2 * moved],
                mask: mask.map(|mask| &mask[item * moved..][..moved]),
            };
            deformed_windows(&deformation, channels, &pixels[item * image..][..image], columns);
            let rows = y.chunks_exact_mut(windows).enumerate();
            rows.for_each(|(output, y)| y.fill(bias.map_or(0.0, |bias| bias[output])));
            let in_group = outputs / groups;
            for (group, y) in y.chunks_exact_mut(in_group * windows).enumerate() {
                let weight = &weight[group * in_group * depth..][..in_group * depth];
                let columns = &columns[group * depth * windows..][..depth * windows];
                let weight = Matrix::row_major(weight, in_group, depth);
                let columns = Matrix::row_major(columns, depth, windows);
                gemm(self.cpu, weight, columns, y, Write::Accumulate);
            }
        }
        Ok(())
    }

    fn rate(&self) -> Rate {
        let parallel = Parallel::MultiplyAdds(GEMM_PARALLEL_WORK);
        Rate { numbers: Numbers::F32, share: 0.3, parallel }
    }

    /// The windows of an image.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        let numbers = |shape: &[Dim]| shape.iter().map(Dim::fixed).collect::<Option<Vec<_>>>();
        let &[x, weight, ..] = inputs else { return None };
        let x = [vec![1], numbers(x.get(1..)?)?].concat();
        let sizes = self.sizes(&x, &numbers(weight)?).ok()?;
        let shape = [sizes.channels, sizes.entries, sizes.windows].map(Dim::Fixed).to_vec();
        Some(Scratch { element_bytes: DType::F32.size_bytes(), shape })
    }
}
