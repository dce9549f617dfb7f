//! Boxes, regions and grids of images.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{
    AffineGrid, BoxForm, GridMode, GridOutside, GridSample, MaxRoiPool, NonMaxSuppression, Op,
    RegionCoordinates, RegionPooling, RoiAlign,
};
use crate::{Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "AffineGrid", import: affine_grid },
    OperatorEntry { name: "GridSample", import: grid_sample },
    OperatorEntry { name: "MaxRoiPool", import: max_roi_pool },
    OperatorEntry { name: "NonMaxSuppression", import: non_max_suppression },
    OperatorEntry { name: "RoiAlign", import: roi_align },
];

fn non_max_suppression(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let form = match node.int_or("center_point_box", 0) {
        0 => BoxForm::Corners,
        1 => BoxForm::Middle,
        other => return Err(node.invalid(format!("center_point_box = {other}"))),
    };
    let (boxes, scores) = (node.input(0)?, node.input(1)?);
    let most = bound(node, 2, Tensor::scalar(0i64))?;
    let overlap = bound(node, 3, Tensor::scalar(0f32))?;
    let score = bound(node, 4, Tensor::scalar(f32::NEG_INFINITY))?;
    let op = Op::NonMaxSuppression(NonMaxSuppression { form });
    node.output(0, op, &[boxes, scores, most, overlap, score])
}

/// The input at `index`, or its default.
fn bound(
    node: &mut NodeContext<'_, '_>,
    index: usize,
    default: Tensor,
) -> Result<ValueId, ImportError> {
    match node.optional(index) {
        Some(id) => Ok(id),
        None => node.weight(default),
    }
}

/// A size that an attribute gives.
fn size(node: &NodeContext<'_, '_>, name: &str, size: i64) -> Result<usize, ImportError> {
    usize::try_from(size)
        .ok()
        .filter(|&size| size > 0)
        .ok_or_else(|| node.invalid(format!("expected {name} of at least 1, found {size}")))
}

/// Before opset 16 there was no choice of coordinates.
fn roi_align(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let usual = if node.opset() < 16 { "output_half_pixel" } else { "half_pixel" };
    let samples = node.int_or("sampling_ratio", 0);
    let op = RoiAlign {
        pooling: match node.text_or("mode", "avg").as_str() {
            "avg" => RegionPooling::Average,
            "max" => RegionPooling::Maximum,
            other => return Err(node.unsupported(format!("mode = `{other}`"))),
        },
        coordinates: match node.text_or("coordinate_transformation_mode", usual).as_str() {
            "half_pixel" => RegionCoordinates::HalfPixel,
            "output_half_pixel" => RegionCoordinates::OutputHalfPixel,
            other => {
                return Err(node.unsupported(format!("coordinate_transformation_mode = `{other}`")));
            }
        },
        height: size(node, "output_height", node.int_or("output_height", 1))?,
        width: size(node, "output_width", node.int_or("output_width", 1))?,
        samples: usize::try_from(samples).ok().filter(|&samples| samples > 0),
        scale: node.float_or("spatial_scale", 1.0),
    };
    node.output(0, Op::RoiAlign(op), &inputs)
}

fn max_roi_pool(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let sizes = node.ints("pooled_shape").unwrap_or_default();
    let &[height, width] = sizes.as_slice() else {
        return Err(node.invalid(format!("expected two sizes, found {sizes:?}")));
    };
    let (height, width) = (size(node, "a height", height)?, size(node, "a width", width)?);
    let scale = node.float_or("spatial_scale", 1.0);
    node.output(0, Op::MaxRoiPool(MaxRoiPool { height, width, scale }), &inputs)
}

/// Modes had other names before opset 20.
fn grid_sample(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let op = GridSample {
        mode: match node.text_or("mode", "linear").as_str() {
            "linear" | "bilinear" => GridMode::Linear,
            "nearest" => GridMode::Nearest,
            "cubic" | "bicubic" => GridMode::Cubic,
            other => return Err(node.unsupported(format!("mode = `{other}`"))),
        },
        outside: match node.text_or("padding_mode", "zeros").as_str() {
            "zeros" => GridOutside::Zeros,
            "border" => GridOutside::Border,
            "reflection" => GridOutside::Reflection,
            other => return Err(node.unsupported(format!("padding_mode = `{other}`"))),
        },
        align_corners: node.flag("align_corners", false),
    };
    node.output(0, Op::GridSample(op), &inputs)
}

fn affine_grid(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let inputs = node.all_inputs()?;
    let align_corners = node.flag("align_corners", false);
    node.output(0, Op::AffineGrid(AffineGrid { align_corners }), &inputs)
}
