//! Where a walk over a network, or over a part of one, finds weights and scales.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use graph::ValueId;
use graph::bert::WeightSlice;

use super::{Network, Role};
use crate::error::{Error, Result};
use crate::scales::ScaleState;
use crate::walk::Source;
use crate::walk::floats::Floats;
use crate::walk::plan::FakeQuantize;

/// The network's own weights.
pub(super) struct Own<'a> {
    pub(super) network: &'a Network,
    pub(super) taped: bool,
}

impl Source for Own<'_> {
    fn constant(&self, id: ValueId, compute: &dyn Fn() -> Result<Floats>) -> Result<Floats> {
        let constants = &self.network.constants;
        if let Some(known) = constants.lock().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(known.clone());
        }
        let value = compute()?;
        let mut constants = constants.lock().unwrap_or_else(PoisonError::into_inner);
        constants.insert(id, value.clone());
        Ok(value)
    }

    fn weight(&self, name: &str) -> Result<Floats> {
        let value = self.network.named(name)?.value.clone();
        Ok(if self.taped { value } else { value.inner() })
    }

    fn scale(&self, quantization: &FakeQuantize, x: &Floats) -> Result<Option<Floats>> {
        let learned = match self.network.by_name.get(&quantization.scale) {
            Some(&index) if self.network.parameters[index].role == Role::Scale => {
                Some(self.weight(&quantization.scale)?)
            }
            _ => None,
        };
        let weight = quantization.weight.as_ref();
        let trained = weight.is_some_and(|weight| {
            self.network.named(weight).is_ok_and(|parameter| parameter.trained)
        });
        let mut scales = self.network.scales.lock().unwrap_or_else(PoisonError::into_inner);
        let state = ScaleState { trained, learned, taped: self.taped };
        Ok(scales.scale(quantization, x, state))
    }
}

/// Leading parts of another network's weights.
pub(super) struct Shared<'a> {
    pub(super) own: Own<'a>,
    pub(super) slices: BTreeMap<&'a str, &'a WeightSlice>,
}

impl Source for Shared<'_> {
    fn constant(&self, _: ValueId, compute: &dyn Fn() -> Result<Floats>) -> Result<Floats> {
        compute()
    }

    fn weight(&self, name: &str) -> Result<Floats> {
        let slice = self.slices.get(name).ok_or_else(|| Error::Missing {
            name: name.to_owned(),
            hint: "expected a slice for each weight of the smaller graph".to_owned(),
        })?;
        let weight = self.own.weight(&slice.source)?;
        let shape = weight.shape();
        let fits = shape.len() == slice.sizes.len()
            && shape.iter().zip(&slice.sizes).all(|(whole, part)| part <= whole);
        if !fits {
            let expected = format!("at least {:?}", slice.sizes);
            return Err(Error::Shape { name: slice.source.clone(), expected, found: shape });
        }
        Ok(weight.leading(&slice.sizes))
    }

    fn scale(&self, quantization: &FakeQuantize, _: &Floats) -> Result<Option<Floats>> {
        Err(Error::Missing {
            name: quantization.scale.clone(),
            hint: "a graph that shares weights cannot be quantized".to_owned(),
        })
    }
}
