//! Images read at places that are given as values.

use graph::Op;
use graph::op::{GridMode, GridOutside, GridSample};
use kernels::{GridSampling, Interpolation, Outside, grid_sample};

use super::{Call, Kernel, KernelEntry, elements_mut, floats, run};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "grid-sample.f32",
    operation: "GridSample",
    tier: None,
    cost: 1,
    accepts: |module, node| sampling(module, node).map(|_| ()),
    prepare: |module, node, _| {
        run(Sample(sampling(module, node).expect("`accepts` saw that it is one")))
    },
}];

/// How images of two dimensions are read.
fn sampling(module: &Module, node: &Node) -> Result<GridSampling, String> {
    let Operation::Graph(Op::GridSample(GridSample { mode, outside, align_corners })) =
        node.operation
    else {
        unreachable!("the table pairs this kernel with grids")
    };
    floats(module, node)?;
    let interpolation = match mode {
        GridMode::Linear => Interpolation::Linear,
        GridMode::Nearest => Interpolation::Nearest,
        GridMode::Cubic => return Err("takes no cubics".to_owned()),
    };
    let outside = match outside {
        GridOutside::Zeros => Outside::Zeros,
        GridOutside::Border => Outside::Border,
        GridOutside::Reflection => Outside::Reflection,
    };
    match module.value(node.inputs[0]).shape.len() {
        4 => Ok(GridSampling { interpolation, outside, align_corners }),
        rank => Err(format!("takes images of 2 dimensions, found {rank} dimensions in all")),
    }
}

struct Sample(GridSampling);

impl Kernel for Sample {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [x, grid] = [0, 1].map(|input| call.inputs[input].shape);
        let (&[images, channels, height, width], &[same, _, _, 2]) = (x, grid) else {
            return Err(format!("a grid {grid:?} does not go with images {x:?}"));
        };
        if images != same {
            return Err(format!("a grid {grid:?} does not go with images {x:?}"));
        }
        if height * width == 0 && !call.output.is_empty() {
            return Err(format!("expected elements to read, found {x:?}"));
        }
        let sizes = [images, channels, height, width];
        grid_sample(&self.0, call.f32(0), sizes, call.f32(1), elements_mut(call.output));
        Ok(())
    }
}
