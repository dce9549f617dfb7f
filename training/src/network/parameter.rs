//! The tensors of a network.

use crate::device::Device;
use crate::error::{Error, Result};
use crate::walk::Value;
use crate::walk::floats::Floats;
use crate::walk::fused;

/// What a tensor of the network is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// A weight of the graph.
    Weight,
    /// A learned quantization scale.
    Scale,
    /// A tensor that an objective brought along.
    Extra,
}

/// A tensor of the network.
#[derive(Clone, Debug)]
pub(crate) struct Parameter {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Sizes, empty for a scalar, which is held as one element.
    pub(crate) shape: Vec<usize>,
    pub(crate) trained: bool,
    /// On the tape when trained.
    pub(crate) value: Floats,
    /// What the value is multiplied by after each step.
    pub(crate) mask: Option<Floats>,
}

impl Parameter {
    pub(crate) fn new(
        device: &Device,
        role: Role,
        name: &str,
        tensor: &graph::Tensor,
        trained: bool,
    ) -> Result<Self> {
        let shape = tensor.shape().to_vec();
        let value = Value::Host(tensor.clone()).floats(device).map_err(|reason| {
            Error::Graph(graph::GraphError::Weight { name: name.to_owned(), reason })
        })?;
        let value = if trained { value.leaf() } else { value };
        Ok(Self { name: name.to_owned(), role, shape, trained, value, mask: None })
    }

    /// The current value, on the host.
    pub(crate) fn tensor(&self) -> graph::Tensor {
        let elements = self.value.clone().inner().to_vec();
        graph::Tensor::new(&self.shape, elements).expect("a parameter keeps its shape")
    }

    /// Takes a new value.
    pub(crate) fn set(&mut self, value: Floats) {
        self.value = if self.trained { value.leaf() } else { value.inner() };
    }

    /// Multiplies the value by its mask.
    pub(crate) fn apply_mask(&mut self) {
        if let Some(mask) = &self.mask {
            let value = self.value.clone().inner();
            let on_cpu = fused::on_cpu(&value.0).zip(fused::on_cpu(&mask.0));
            self.set(match on_cpu {
                Some((value, mask)) => Floats(fused::plain(fused::mul(&value, &mask))),
                None => value.mul(mask.clone()),
            });
        }
    }
}
