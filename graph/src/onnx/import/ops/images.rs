//! Images of another size, and pixels as channels.

use super::super::{ImportError, NodeContext, OperatorEntry};
use crate::op::{
    AspectRatio, Coordinates, DepthOrder, DepthToSpace, Interpolation, Nearest, Op, Outside,
    Resize, SpaceToDepth,
};
use crate::{DType, Tensor, ValueId};

pub(super) const OPERATORS: &[OperatorEntry] = &[
    OperatorEntry { name: "DepthToSpace", import: depth_to_space },
    OperatorEntry { name: "Resize", import: resize },
    OperatorEntry { name: "SpaceToDepth", import: space_to_depth },
    OperatorEntry { name: "Upsample", import: upsample },
];

fn resize(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    if node.opset() < 11 {
        let scales = node.input(1)?;
        return scaled(node, scales);
    }
    let x = node.input(0)?;
    let rank = node.rank(x);
    let axes = match node.ints("axes") {
        Some(axes) => {
            axes.iter().map(|&axis| node.axis_of(axis, rank)).collect::<Result<_, _>>()?
        }
        None => (0..rank).collect(),
    };
    let op = Resize {
        interpolation: interpolation(node, &node.text_or("nearest_mode", "round_prefer_floor"))?,
        coordinates: coordinates(node)?,
        outside: match node.flag("exclude_outside", false) {
            true => Outside::Excluded,
            false => Outside::Edge,
        },
        antialias: node.flag("antialias", false),
        aspect: match node.text_or("keep_aspect_ratio_policy", "stretch").as_str() {
            "stretch" => AspectRatio::Stretch,
            "not_larger" => AspectRatio::NotLarger,
            "not_smaller" => AspectRatio::NotSmaller,
            other => {
                return Err(node.unsupported(format!("keep_aspect_ratio_policy = `{other}`")));
            }
        },
        axes,
    };
    let roi = given(node, 1)?;
    let scales = given(node, 2)?;
    let mut inputs = vec![x, roi, scales];
    inputs.extend(node.optional(3));
    node.output(0, Op::Resize(op), &inputs)
}

/// The f32 input at `index`, or an empty list.
fn given(node: &mut NodeContext<'_, '_>, index: usize) -> Result<ValueId, ImportError> {
    match node.optional(index) {
        Some(id) => Ok(id),
        None => node.weight(Tensor::zeros(DType::F32, &[0])),
    }
}

fn interpolation(node: &NodeContext<'_, '_>, nearest: &str) -> Result<Interpolation, ImportError> {
    Ok(match node.text_or("mode", "nearest").as_str() {
        "nearest" => Interpolation::Nearest(match nearest {
            "round_prefer_floor" => Nearest::RoundPreferFloor,
            "round_prefer_ceil" => Nearest::RoundPreferCeil,
            "floor" => Nearest::Floor,
            "ceil" => Nearest::Ceil,
            other => return Err(node.unsupported(format!("nearest_mode = `{other}`"))),
        }),
        // The two names of opset 7's Upsample and of all versions since.
        "linear" | "bilinear" => Interpolation::Linear,
        "cubic" => Interpolation::Cubic { a: node.float_or("cubic_coeff_a", -0.75) },
        other => return Err(node.unsupported(format!("mode = `{other}`"))),
    })
}

fn coordinates(node: &NodeContext<'_, '_>) -> Result<Coordinates, ImportError> {
    Ok(match node.text_or("coordinate_transformation_mode", "half_pixel").as_str() {
        "half_pixel" => Coordinates::HalfPixel,
        "half_pixel_symmetric" => Coordinates::HalfPixelSymmetric,
        "pytorch_half_pixel" => Coordinates::PytorchHalfPixel,
        "align_corners" => Coordinates::AlignCorners,
        "asymmetric" => Coordinates::Asymmetric,
        "tf_half_pixel_for_nn" => Coordinates::TfHalfPixelForNearest,
        "tf_crop_and_resize" => Coordinates::TfCropAndResize {
            extrapolation: node.float_or("extrapolation_value", 0.0),
        },
        other => {
            return Err(node.unsupported(format!("coordinate_transformation_mode = `{other}`")));
        }
    })
}

/// The older form, which has no choice of coordinates.
fn scaled(node: &mut NodeContext<'_, '_>, scales: ValueId) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let op = Resize {
        interpolation: interpolation(node, "floor")?,
        coordinates: Coordinates::Asymmetric,
        outside: Outside::Edge,
        antialias: false,
        aspect: AspectRatio::Stretch,
        axes: (0..node.rank(x)).collect(),
    };
    let roi = node.weight(Tensor::zeros(DType::F32, &[0]))?;
    node.output(0, Op::Resize(op), &[x, roi, scales])
}

/// Scales were an attribute before opset 9, and two attributes before 7.
fn upsample(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    if node.opset() < 7 {
        return Err(node.unsupported("the form of before opset 7"));
    }
    let scales = match node.floats("scales") {
        Some(scales) => node.weight(Tensor::from_fn(&[scales.len()], |index| scales[index]))?,
        None => node.input(1)?,
    };
    scaled(node, scales)
}

fn block(node: &NodeContext<'_, '_>) -> Result<usize, ImportError> {
    let size = node.int_or("blocksize", 0);
    usize::try_from(size).map_err(|_| node.invalid(format!("blocksize = {size}")))
}

fn depth_to_space(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let order = match node.text_or("mode", "DCR").as_str() {
        "DCR" => DepthOrder::DepthColumnRow,
        "CRD" => DepthOrder::ColumnRowDepth,
        other => return Err(node.unsupported(format!("mode = `{other}`"))),
    };
    let block = block(node)?;
    node.output(0, Op::DepthToSpace(DepthToSpace { block, order }), &[x])
}

fn space_to_depth(node: &mut NodeContext<'_, '_>) -> Result<(), ImportError> {
    let x = node.input(0)?;
    let block = block(node)?;
    node.output(0, Op::SpaceToDepth(SpaceToDepth { block }), &[x])
}
