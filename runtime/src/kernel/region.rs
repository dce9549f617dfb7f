//! Regions of images, interpolated.

use graph::Op;
use graph::op::{RegionCoordinates, RegionPooling, RoiAlign};
use kernels::{RegionParts, region_means};

use super::{Call, Kernel, KernelEntry, elements_mut, expect_type, run};
use crate::module::{Node, Operation};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "roi-align.f32",
    operation: "RoiAlign",
    tier: None,
    cost: 1,
    accepts: |module, node| {
        expect_type(module, node, 0, graph::DType::F32)?;
        match aligned(node).pooling {
            RegionPooling::Average => Ok(()),
            RegionPooling::Maximum => Err("takes means only".to_owned()),
        }
    },
    prepare: |_, node, _| run(Regions(parts(&aligned(node)))),
}];

/// Places of a region at most, as the definition has it.
const MOST_PLACES: usize = 1 << 20;

fn aligned(node: &Node) -> RoiAlign {
    match node.operation {
        Operation::Graph(Op::RoiAlign(op)) => op,
        _ => unreachable!("the table pairs this kernel with regions"),
    }
}

fn parts(op: &RoiAlign) -> RegionParts {
    let (offset, least) = match op.coordinates {
        RegionCoordinates::HalfPixel => (0.5, None),
        RegionCoordinates::OutputHalfPixel => (0.0, Some(1.0)),
    };
    let (parts, scale) = ([op.height, op.width], op.scale);
    RegionParts { parts, samples: op.samples, scale, offset, least }
}

struct Regions(RegionParts);

impl Kernel for Regions {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let &[images, channels, height, width] = call.inputs[0].shape else {
            return Err("expected a batch of images".to_owned());
        };
        let (regions, _) = call.f32(1).as_chunks::<4>();
        let of: &[i64] = call.inputs[2].elements();
        if regions.len() != of.len() {
            return Err(format!("{} regions of {} images", regions.len(), of.len()));
        }
        let is_there = |&image: &i64| usize::try_from(image).is_ok_and(|image| image < images);
        if let Some(image) = of.iter().find(|image| !is_there(image)) {
            return Err(format!("a region is of image {image}, of {images}"));
        }
        let places = regions.iter().map(|&region| self.0.places(region)).max().unwrap_or(0);
        if places > MOST_PLACES {
            return Err(format!(
                "expected at most {MOST_PLACES} places in a region, found {places}"
            ));
        }
        if height * width == 0 && !call.output.is_empty() {
            return Err("expected pixels to read".to_owned());
        }
        let (x, sizes) = (call.f32(0), [images, channels, height, width]);
        let image_of = |region: usize| of[region] as usize;
        region_means(&self.0, x, sizes, regions, image_of, elements_mut(call.output));
        Ok(())
    }
}
