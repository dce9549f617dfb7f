//! What a forward pass gives back.

use std::collections::BTreeMap;

use burn::tensor::Tensor;

use super::typed;
use crate::device::Device;
use crate::error::{Error, Result};
use crate::walk::Value;
use crate::walk::floats::Floats;

/// The tapped values of a forward pass.
#[derive(Clone, Debug)]
pub struct Values {
    pub(super) values: BTreeMap<String, Value>,
    pub(super) device: Device,
}

impl Values {
    /// The value of this name.
    ///
    /// # Errors
    ///
    /// When it was not tapped, is not `f32`, or has another rank.
    pub fn get<const D: usize>(&self, name: &str) -> Result<Tensor<D>> {
        typed(name, &self.floats(name)?)
    }

    /// The value of this name, of any rank, on the host.
    ///
    /// # Errors
    ///
    /// When it was not tapped, or is not `f32`.
    pub fn tensor(&self, name: &str) -> Result<graph::Tensor> {
        let floats = self.floats(name)?;
        let elements = floats.clone().inner().to_vec();
        Ok(graph::Tensor::new(&floats.shape(), elements).expect("a value has its shape's elements"))
    }

    pub(crate) fn floats(&self, name: &str) -> Result<Floats> {
        let value = self.values.get(name).ok_or_else(|| Error::Missing {
            name: name.to_owned(),
            hint: format!("tapped were {:?}", self.values.keys().collect::<Vec<_>>()),
        })?;
        value.floats(&self.device).map_err(|reason| {
            Error::Graph(graph::GraphError::Input { name: name.to_owned(), reason })
        })
    }
}
