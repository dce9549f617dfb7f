//! How much memory a run takes, and the largest run that a budget allows.

use graph::Bindings;
use serde::Serialize;

use super::Plan;
use super::layout::ALIGNMENT;
use crate::RuntimeError;
use crate::compile::Shared;

/// Sizes that are searched for: more than any memory has room for.
const LARGEST_SIZE: usize = 1 << 40;

/// The memory of a run with given sizes, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryUse {
    /// The arena, as planned.
    pub planned_bytes: usize,
    /// What lives at the step that needs most, each buffer rounded up to 64 bytes: no plan can do
    /// with less, given the order of the nodes and what the kernels do in place.
    pub lower_bound_bytes: usize,
    /// What it would be if every value that a kernel writes, and every kernel's scratch, had
    /// memory of its own. Views have none either way.
    pub without_reuse_bytes: usize,
    /// Constants that kernels read, and weights packed for them.
    pub weight_bytes: usize,
    /// What a run takes instead of the planned arena where it is cut into slices of the batch. With
    /// a memory budget it is cut only where the budget has room for that.
    pub sliced: Option<SlicedUse>,
}

/// A run in slices of the batch, each through the whole model on one thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct SlicedUse {
    /// Number of slices; fewer elements than there are threads follow them.
    pub count: usize,
    /// Bytes of the threads' arenas, and of the outputs that are gathered from them.
    pub bytes: usize,
}

impl MemoryUse {
    pub(crate) fn new(shared: &Shared, bindings: &Bindings) -> Result<Self, RuntimeError> {
        let plan = shared.unlimited_plan(bindings.clone())?;
        let mut without_reuse_bytes = 0usize;
        for term in shared.program.buffers.written() {
            let bytes = term.evaluate(bindings).map_err(sizes_error)?;
            without_reuse_bytes =
                without_reuse_bytes.saturating_add(bytes.next_multiple_of(ALIGNMENT));
        }
        Ok(Self {
            planned_bytes: plan.bytes,
            lower_bound_bytes: plan.lower_bound,
            without_reuse_bytes,
            weight_bytes: shared.weight_bytes(),
            sliced: shared.sliced_use(&plan),
        })
    }

    /// What counts against a memory budget: the weights and the arena of a whole run, which a session
    /// aligns itself. A run in slices is never cut so that it takes more than the budget; that it would
    /// take less does not let larger sizes in.
    pub fn total_bytes(&self) -> usize {
        total(self.weight_bytes, self.planned_bytes)
    }
}

/// Saturates: what does not fit a number fits no budget either.
fn total(weight_bytes: usize, arena_bytes: usize) -> usize {
    weight_bytes.saturating_add(arena_bytes).saturating_add(ALIGNMENT)
}

fn sizes_error(reason: String) -> RuntimeError {
    RuntimeError::Sizes { name: "arena".to_owned(), reason }
}

/// Whether a budget has room for the weights and an arena.
pub(crate) fn fits(shared: &Shared, arena_bytes: usize, budget_bytes: usize) -> bool {
    total(shared.weight_bytes(), arena_bytes) <= budget_bytes
}

/// Refuses a plan that the budget has no room for.
pub(crate) fn admit(shared: &Shared, plan: &Plan, budget_bytes: usize) -> Result<(), RuntimeError> {
    if fits(shared, plan.bytes, budget_bytes) {
        return Ok(());
    }
    let needed_bytes = total(shared.weight_bytes(), plan.bytes);
    let sizes: Vec<String> =
        plan.bindings.iter().map(|(name, size)| format!("{name} = {size}")).collect();
    let fits: Vec<String> = plan
        .bindings
        .iter()
        .filter_map(|(name, _)| {
            let largest = largest(shared, name, &plan.bindings, budget_bytes).ok().flatten()?;
            Some(format!("{name} = {largest}"))
        })
        .collect();
    let (asked, advice) = if sizes.is_empty() {
        ("a run".to_owned(), "raise the budget".to_owned())
    } else if fits.is_empty() {
        (sizes.join(", "), "not even size 1 fits; raise the budget".to_owned())
    } else {
        let advice = format!(
            "the rest as it is, {} fits; ask for no more, or raise the budget",
            fits.join(" or ")
        );
        (sizes.join(", "), advice)
    };
    Err(RuntimeError::Memory { asked, needed_bytes, budget_bytes, advice })
}

/// Refuses weights that alone are larger than the budget.
pub(crate) fn admit_weights(shared: &Shared) -> Result<(), RuntimeError> {
    let needed_bytes = total(shared.weight_bytes(), 0);
    match shared.memory_budget() {
        Some(budget_bytes) if needed_bytes > budget_bytes => Err(RuntimeError::Memory {
            asked: "the model without any input".to_owned(),
            needed_bytes,
            budget_bytes,
            advice: "quantize the model, or raise the budget".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// Refuses what a run whose sizes depend on values holds once `node` has run, when that is more than
/// the budget has room for.
pub(crate) fn admit_written(shared: &Shared, node: &str, bytes: usize) -> Result<(), RuntimeError> {
    match shared.memory_budget() {
        Some(budget_bytes) if !fits(shared, bytes, budget_bytes) => Err(RuntimeError::Memory {
            asked: format!("a run up to node `{node}`, whose sizes depend on values,"),
            needed_bytes: total(shared.weight_bytes(), bytes),
            budget_bytes,
            advice: "give it less, or raise the budget".to_owned(),
        }),
        _ => Ok(()),
    }
}

/// The largest size of `symbol` that fits, see [`crate::CompiledModel::largest`].
///
/// The formula grows with every size, so it tells exactly what cannot fit; plans are made only for
/// the sizes that are left, and there is one to make where the plan meets the formula.
pub(crate) fn largest(
    shared: &Shared,
    symbol: &str,
    fixed: &Bindings,
    budget_bytes: usize,
) -> Result<Option<usize>, RuntimeError> {
    let sizes = |size| fixed.clone().with(symbol, size);
    let fits = |size| -> Result<bool, RuntimeError> {
        let plan = shared.unlimited_plan(sizes(size))?;
        Ok(total(shared.weight_bytes(), plan.bytes) <= budget_bytes)
    };
    if !fits(1)? {
        return Ok(None);
    }
    let may_fit = |size| {
        let bound = shared.formula().evaluate(&sizes(size));
        bound.is_ok_and(|bound| total(shared.weight_bytes(), bound) <= budget_bytes)
    };
    let most = last_true(1, LARGEST_SIZE, may_fit);
    // A size that the model cannot run with does not fit either.
    let fits = |size| fits(size).unwrap_or(false);
    Ok(Some(if fits(most) { most } else { last_true(1, most, fits) }))
}

/// The last number of `first..=end` for which `holds`, which does for `first` and up to some
/// number.
fn last_true(first: usize, end: usize, holds: impl Fn(usize) -> bool) -> usize {
    let (mut yes, mut no) = (first, end + 1);
    while no - yes > 1 {
        let middle = yes + (no - yes) / 2;
        if holds(middle) { yes = middle } else { no = middle }
    }
    yes
}

#[cfg(test)]
mod tests {
    use super::last_true;

    #[test]
    fn the_last_number_is_found() {
        for last in 1..20 {
            assert_eq!(last_true(1, 19, |number| number <= last), last);
        }
    }
}
