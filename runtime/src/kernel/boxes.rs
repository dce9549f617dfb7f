//! Boxes picked by score, and places of what is not 0: how many there are, only the values say.

use bytemuck::Pod;
use graph::op::NonMaxSuppression;
use graph::{DType, Element, Op, Tensor};
use kernels::{BoxForm, Cpu, Suppression, suppress_boxes};

use super::{Call, Free, Kernel, KernelEntry, MOST_DIMENSIONS, Operand, few_dimensions, run};
use crate::dynamic::operand;
use crate::module::Operation;

pub(super) const KERNELS: &[KernelEntry] = &[
    KernelEntry {
        name: "non-max-suppression",
        operation: "NonMaxSuppression",
        tier: None,
        cost: 1,
        accepts: super::any,
        prepare: |_, node, cpu| match node.operation {
            Operation::Graph(Op::NonMaxSuppression(op)) => run(Suppress { cpu, op }),
            _ => unreachable!("the table pairs this kernel with boxes"),
        },
    },
    KernelEntry {
        name: "non-zero",
        operation: "NonZero",
        tier: None,
        cost: 1,
        accepts: |module, node| few_dimensions(module, node.inputs[0], MOST_DIMENSIONS),
        prepare: |_, _, _| run(NonZero),
    },
];

fn operands<'a>(free: &Free<'a>) -> Vec<Operand<'a>> {
    free.inputs.iter().map(|tensor| operand(tensor)).collect()
}

/// Writes an output whose sizes the graph happens to say.
fn write(found: Result<Tensor, String>, call: Call<'_>) -> Result<(), String> {
    let found = found?;
    if found.shape() != call.shape {
        return Err(format!("expected sizes {:?}, found {:?}", call.shape, found.shape()));
    }
    call.output.copy_from_slice(found.bytes());
    Ok(())
}

struct Suppress {
    cpu: Cpu,
    op: NonMaxSuppression,
}

fn only<T: Element>(operand: &Operand<'_>) -> Result<T, String> {
    match operand.elements::<T>() {
        [number] => Ok(*number),
        other => Err(format!("expected one number, found {}", other.len())),
    }
}

impl Suppress {
    fn find(&self, inputs: &[Operand<'_>]) -> Result<Tensor, String> {
        let [boxes, scores, most, overlap, score] = inputs else {
            return Err(format!("expected 5 inputs, found {}", inputs.len()));
        };
        let (&[images, count, 4], &[same_images, classes, same_count]) =
            (boxes.shape, scores.shape)
        else {
            return Err(format!(
                "scores {:?} do not go with boxes {:?}",
                scores.shape, boxes.shape
            ));
        };
        if images != same_images || count != same_count || u32::try_from(count).is_err() {
            return Err(format!(
                "scores {:?} do not go with boxes {:?}",
                scores.shape, boxes.shape
            ));
        }
        let how = Suppression {
            form: match self.op.form {
                graph::op::BoxForm::Corners => BoxForm::Corners,
                graph::op::BoxForm::Middle => BoxForm::Middle,
            },
            most: usize::try_from(only::<i64>(most)?).unwrap_or(0),
            overlap: only(overlap)?,
            score: only(score)?,
        };
        let (numbers, _) = boxes.elements::<f32>().as_chunks::<4>();
        let sizes = [images, classes, count];
        let found = suppress_boxes(self.cpu, &how, numbers, scores.elements(), sizes);
        Tensor::new(&[found.len(), 3], found.into_flattened()).map_err(|error| error.to_string())
    }
}

impl Kernel for Suppress {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        write(self.find(call.inputs), call)
    }

    fn compute(&self, free: Free<'_>) -> Option<Result<Vec<Tensor>, String>> {
        Some(self.find(&operands(&free)).map(|found| vec![found]))
    }
}

struct NonZero;

impl NonZero {
    fn find(inputs: &[Operand<'_>]) -> Result<Tensor, String> {
        let [x] = inputs else { return Err(format!("expected an input, found {}", inputs.len())) };
        match x.dtype {
            // 0 and −0 are one.
            DType::F32 => places::<f32>(x, |x| x != 0.0),
            DType::I64 => places::<i64>(x, |x| x != 0),
            DType::I32 => places::<i32>(x, |x| x != 0),
            DType::I8 | DType::U8 | DType::Bool => places::<u8>(x, |x| x != 0),
        }
    }
}

/// Elements that are looked at at once: most may be 0.
const AT_ONCE: usize = 64;

fn places<T: Pod>(x: &Operand<'_>, holds: impl Fn(T) -> bool) -> Result<Tensor, String> {
    let elements: &[T] = if x.bytes.is_empty() { &[] } else { bytemuck::cast_slice(x.bytes) };
    let mut found = Vec::new();
    for (piece, elements) in elements.chunks(AT_ONCE).enumerate() {
        if elements.iter().fold(false, |any, &element| any | holds(element)) {
            let at = (piece * AT_ONCE..).zip(elements).filter(|(_, element)| holds(**element));
            found.extend(at.map(|(at, _)| at));
        }
    }
    let (rank, count) = (x.shape.len(), found.len());
    let mut places = vec![0i64; rank * count];
    if count > 0 {
        // From the last dimension on, each takes its part of what is left.
        for (places, &size) in places.chunks_exact_mut(count).zip(x.shape).rev() {
            for (place, rest) in places.iter_mut().zip(&mut found) {
                *place = (*rest % size) as i64;
                *rest /= size;
            }
        }
    }
    Tensor::new(&[rank, count], places).map_err(|error| error.to_string())
}

impl Kernel for NonZero {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        write(Self::find(call.inputs), call)
    }

    fn compute(&self, free: Free<'_>) -> Option<Result<Vec<Tensor>, String>> {
        Some(Self::find(&operands(&free)).map(|found| vec![found]))
    }
}
