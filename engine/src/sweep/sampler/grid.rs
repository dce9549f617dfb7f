//! Spaces that can be counted: every point, or one list beside the other.

use serde_json::Value;

use crate::sweep::space::{Domain, Params, Space, SpaceError};

/// Ways to set the choices that others depend on.
const MOST_BRANCHES: usize = 1 << 20;

impl Space {
    /// How many points there are, counting those once that differ only where it does not count.
    ///
    /// # Errors
    /// A dimension is a continuum; there are more than 2⁶⁴ points.
    pub fn grid_size(&self) -> Result<u64, SpaceError> {
        let sizes = branches(self)?;
        sizes
            .iter()
            .try_fold(0u64, |sum, (_, size)| sum.checked_add(*size).ok_or(SpaceError::GridTooLarge))
    }
}

/// Point number `index` of a grid. What others depend on changes last, otherwise what comes first
/// in the manifest.
pub(super) fn grid_point(space: &Space, mut index: u64) -> Result<Params, SpaceError> {
    for (mut params, size) in branches(space)? {
        if index >= size {
            index -= size;
            continue;
        }
        for dimension in space.dimensions.iter().rev() {
            if !params.contains_key(&dimension.name) && dimension.counts(&params) {
                let size = dimension.domain.size().unwrap_or(1);
                params.insert(dimension.name.clone(), dimension.domain.nth(index % size));
                index /= size;
            }
        }
        return Ok(params);
    }
    Err(SpaceError::GridTooLarge)
}

/// Every way to set the choices that others depend on, and how many points have it.
fn branches(space: &Space) -> Result<Vec<(Params, u64)>, SpaceError> {
    for dimension in &space.dimensions {
        if dimension.domain.size().is_none() {
            let name = dimension.name.clone();
            return Err(SpaceError::Continuum { name, sampler: "grid" });
        }
    }
    let decides = |name: &str| {
        let mut conditions = space.dimensions.iter().filter_map(|other| other.condition.as_ref());
        conditions.any(|condition| condition.dimension == name)
    };
    let mut branches = vec![Params::new()];
    for index in space.order() {
        let dimension = &space.dimensions[index];
        let Domain::Choice(choices) = &dimension.domain else { continue };
        if !decides(&dimension.name) {
            continue;
        }
        let set = |params: &Params, value: &Value| {
            let mut params = params.clone();
            params.insert(dimension.name.clone(), value.clone());
            params
        };
        branches = branches
            .into_iter()
            .flat_map(|params| {
                if dimension.counts(&params) {
                    choices.iter().map(|value| set(&params, value)).collect()
                } else {
                    vec![params]
                }
            })
            .take(MOST_BRANCHES + 1)
            .collect();
        if branches.len() > MOST_BRANCHES {
            return Err(SpaceError::GridTooLarge);
        }
    }
    let size = |params: &Params| {
        let open = space
            .dimensions
            .iter()
            .filter(|dimension| !params.contains_key(&dimension.name) && dimension.counts(params));
        open.filter_map(|dimension| dimension.domain.size())
            .try_fold(1u64, u64::checked_mul)
            .ok_or(SpaceError::GridTooLarge)
    };
    branches.into_iter().map(|params| size(&params).map(|size| (params, size))).collect()
}

/// How many points a zip has: as many as each dimension has values.
pub(super) fn zip_size(space: &Space) -> Result<u64, SpaceError> {
    let mut first: Option<(&str, u64)> = None;
    for dimension in &space.dimensions {
        let name = dimension.name.clone();
        if dimension.condition.is_some() {
            return Err(SpaceError::ZipCondition { name });
        }
        let Some(found) = dimension.domain.size() else {
            return Err(SpaceError::Continuum { name, sampler: "zip" });
        };
        let (first, expected) = *first.get_or_insert((&dimension.name, found));
        if found != expected {
            return Err(SpaceError::Uneven { name, found, first: first.to_owned(), expected });
        }
    }
    Ok(first.map_or(0, |(_, size)| size))
}

/// Point number `index` of a zip.
pub(super) fn zip_point(space: &Space, index: u64) -> Params {
    space.assemble(|_, dimension| dimension.domain.nth(index))
}
