//! Images from the windows that were cut out of them.

use graph::Op;
use graph::op::{Col2Im, Rounding, Window};
use kernels::fold2d;

use super::conv::slides;
use super::{Call, Kernel, KernelEntry, elements_mut, expect_type, run};
use crate::module::{Module, Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "fold.f32",
    operation: "Col2Im",
    tier: None,
    cost: 1,
    accepts: |module, node| {
        expect_type(module, node, 0, graph::DType::F32)?;
        window(module, node).map(|_| ())
    },
    prepare: |module, node, _| {
        run(Fold(window(module, node).expect("`accepts` saw that it is known")))
    },
}];

/// What slid over the images.
fn window(module: &Module, node: &Node) -> Result<Window, String> {
    let Operation::Graph(Op::Col2Im(Col2Im { strides, dilations, padding })) = &node.operation
    else {
        unreachable!("the table pairs this kernel with windows")
    };
    if !matches!(strides.len(), 1 | 2) {
        return Err(format!("takes images of 1 or 2 dimensions, found {}", strides.len()));
    }
    let block = module.constant(node.inputs[2]).and_then(|block| block.elements::<i64>().ok());
    let block = block.ok_or("takes windows of a known size")?;
    let kernel = block.iter().map(|&size| usize::try_from(size).ok().filter(|&size| size > 0));
    let kernel = kernel.collect::<Option<Vec<_>>>();
    let kernel = kernel.ok_or_else(|| format!("expected a window, found {block:?}"))?;
    let (strides, dilations, padding) = (strides.clone(), dilations.clone(), padding.clone());
    Ok(Window { kernel, strides, dilations, padding })
}

struct Fold(Window);

impl Kernel for Fold {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [batch, channels, image @ ..] = call.shape else {
            return Err(format!("expected sizes of images, found {:?}", call.shape));
        };
        let sizes: &[i64] = call.inputs[1].elements();
        if !sizes.iter().map(|&size| usize::try_from(size).ok()).eq(image.iter().copied().map(Some))
        {
            return Err(format!("expected an image of {image:?}, found {sizes:?}"));
        }
        let slides = slides(&self.0, Rounding::Floor, image)?;
        let entries = slides[0].kernel.checked_mul(slides[1].kernel);
        let windows = slides[0].output.checked_mul(slides[1].output);
        let expected = [Some(*batch), entries.and_then(|all| all.checked_mul(*channels)), windows];
        if !call.inputs[0].shape.iter().copied().map(Some).eq(expected) {
            let found = call.inputs[0].shape;
            return Err(format!("windows {:?} of {image:?} do not go with {found:?}", self.0));
        }
        fold2d(batch * channels, &slides, call.f32(0), elements_mut(call.output));
        Ok(())
    }
}
