//! Images of another size, f32, where the sizes are known.

use graph::op::{self, Coordinates, Resize};
use graph::{DType, Dim, Op, Tensor};
use kernels::{Cpu, Sample, resample};

use super::{Call, Kernel, KernelEntry, Prepared, Scratch, elements_mut, expect_type, run};
use crate::module::{Id, Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "resize.f32",
    operation: "Resize",
    tier: None,
    cost: 1,
    accepts: |module, node| steps(module, node).map(|_| ()),
    prepare: |module, node, cpu| {
        let steps = steps(module, node).expect("other nodes were not accepted");
        let shape = &module.value(node.inputs[0]).shape;
        prepare(steps, |step| growth(step, shape), cpu)
    },
}];

/// What is done to one dimension.
pub(crate) struct Step {
    pub(crate) axis: usize,
    pub(crate) samples: Vec<Sample>,
}

/// The dimensions that change, at most three, and how.
pub(crate) fn steps(module: &Module, node: &Node) -> Result<Vec<Step>, String> {
    let Operation::Graph(Op::Resize(op)) = &node.operation else {
        unreachable!("the table pairs this kernel with resizing")
    };
    expect_type(module, node, 0, DType::F32)?;
    let steps = known_steps(module, node, op)?;
    match steps.len() {
        0..=3 => Ok(steps),
        found => Err(format!("takes 3 dimensions at most that change, found {found}")),
    }
}

fn known_steps(module: &Module, node: &Node, op: &Resize) -> Result<Vec<Step>, String> {
    let constant = |id: &Id| module.constant(*id).ok_or("takes constant sizes only".to_owned());
    let inputs = node.inputs[1..].iter().map(constant).collect::<Result<Vec<&Tensor>, _>>()?;
    let (roi, scales, sizes) = match inputs.as_slice() {
        [roi, scales] => (roi, scales, None),
        [roi, scales, sizes] => (roi, scales, Some(sizes)),
        _ => return Err("takes a region and scales or sizes".to_owned()),
    };
    let floats = |tensor: &Tensor| tensor.elements::<f32>().map(<[f32]>::to_vec);
    let wrong = |error: graph::TensorError| error.to_string();
    let (roi, scales) = (floats(roi).map_err(wrong)?, floats(scales).map_err(wrong)?);
    let sizes = sizes.map(|sizes| sizes.elements::<i64>()).transpose().map_err(wrong)?;
    // Of dimensions without a number, those are left that stay as they are.
    let x = &module.value(node.inputs[0]).shape;
    let y = &module.value(node.output).shape;
    let crops = matches!(op.coordinates, Coordinates::TfCropAndResize { .. });
    let keeps_size = |axis: usize| !crops && x[axis] == y[axis] && x[axis] != Dim::Unknown;
    if !op.axes.iter().all(|&axis| x[axis].fixed().is_some() || keeps_size(axis)) {
        return Err("takes images of a known size".to_owned());
    }
    let input: Vec<usize> = x.iter().map(|dim| dim.fixed().unwrap_or(1)).collect();
    let samples = op.samples(&input, &roi, &scales, sizes)?;
    let step = |(&axis, samples): (&usize, &Vec<op::Sample>)| {
        let samples: Vec<Sample> = samples.iter().map(sample).collect();
        // A size without a number is only kept at a scale of 1, and one entry is made of itself.
        let is_one = samples.len() == 1 || x[axis].fixed().is_none();
        let is_same =
            |(index, sample): (usize, &Sample)| *sample == Sample::Weighted(vec![(index, 1.0)]);
        let stays = keeps_size(axis) && (is_one || samples.iter().enumerate().all(is_same));
        (!stays).then_some(Step { axis, samples })
    };
    Ok(op.axes.iter().zip(&samples).filter_map(step).collect())
}

fn sample(sample: &op::Sample) -> Sample {
    match sample {
        op::Sample::Fill(value) => Sample::Fill(*value as f32),
        op::Sample::Weighted(weights) => Sample::Weighted(
            weights.iter().map(|&(entry, weight)| (entry, weight as f32)).collect(),
        ),
    }
}

/// Entries after a step for each before it. Of equal ones the last dimension comes first: its entries are
/// made one by one, those of the others in rows.
fn growth(step: &Step, shape: &[Dim]) -> f64 {
    let size = shape[step.axis].fixed().unwrap_or(step.samples.len());
    let is_last = step.axis + 1 == shape.len();
    step.samples.len() as f64 / size.max(1) as f64 * if is_last { 0.999 } else { 1.0 }
}

struct Resizing {
    cpu: Cpu,
    steps: Vec<Step>,
}

fn prepare(mut steps: Vec<Step>, growth: impl Fn(&Step) -> f64, cpu: Cpu) -> Prepared {
    // Steps that make fewer entries leave less to do to the others.
    steps.sort_by(|a, b| growth(a).total_cmp(&growth(b)));
    match steps.is_empty() {
        true => Prepared::View { start: 0 },
        false => run(Resizing { cpu, steps }),
    }
}

impl Kernel for Resizing {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let (last, others) = self.steps.split_last().ok_or("expected a dimension that changes")?;
        let (shape, mut source) = (call.inputs[0].shape, call.f32(0));
        let y = elements_mut(call.output);
        let mut between: &mut [f32] = elements_mut(call.scratch);
        for (index, step) in others.iter().enumerate() {
            let sizes @ [outer, _, inner] = self.sizes(index, shape);
            let made = outer * step.samples.len() * inner;
            let (part, rest) = between.split_at_mut(made);
            resample(self.cpu, source, sizes, &step.samples, part);
            (source, between) = (part, rest);
        }
        resample(self.cpu, source, self.sizes(others.len(), shape), &last.samples, y);
        Ok(())
    }

    /// What lies between steps: of the dimensions that do not change all, of the others what the
    /// steps before have made of them.
    fn scratch(&self, inputs: &[&[Dim]], _: &[Dim]) -> Option<Scratch> {
        let (_, others) = self.steps.split_last().filter(|(_, others)| !others.is_empty())?;
        let x = inputs.first()?;
        let changes = |axis: &usize| self.steps.iter().any(|step| step.axis == *axis);
        let stays = (0..x.len()).filter(|axis| !changes(axis)).map(|axis| x[axis].clone());
        let mut sizes: Vec<usize> =
            self.steps.iter().map(|step| x[step.axis].fixed()).collect::<Option<_>>()?;
        let mut between = 0;
        for (index, step) in others.iter().enumerate() {
            sizes[index] = step.samples.len();
            between += sizes.iter().product::<usize>();
        }
        let shape = stays.chain([Dim::Fixed(between)]).collect();
        Some(Scratch { element_bytes: DType::F32.size_bytes(), shape })
    }
}

impl Resizing {
    /// What lies outside the dimension of a step, its size, and what lies inside: dimensions that the
    /// steps before changed have their new sizes.
    fn sizes(&self, step: usize, shape: &[usize]) -> [usize; 3] {
        let size = |axis: usize| match self.steps[..step].iter().find(|done| done.axis == axis) {
            Some(done) => done.samples.len(),
            None => shape[axis],
        };
        let (axis, rank) = (self.steps[step].axis, shape.len());
        [(0..axis).map(size).product(), size(axis), (axis + 1..rank).map(size).product()]
    }
}
