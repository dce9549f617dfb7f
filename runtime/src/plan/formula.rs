//! Memory as a formula in the symbols of a model.

use std::collections::BTreeSet;
use std::fmt;

use graph::{Bindings, Dim, ValueType};
use serde::Serialize;

use super::layout::ALIGNMENT;

/// The bytes of a buffer: a number times the sizes of symbols.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct SizeTerm {
    /// Symbols whose sizes are multiplied, in alphabetical order, as often as they occur.
    pub symbols: Vec<String>,
    /// The factor before them, in bytes.
    pub bytes: usize,
}

impl SizeTerm {
    /// The bytes of a tensor; `None` when its fixed dimensions alone do not fit a number.
    pub(crate) fn new(element_bytes: usize, shape: &[Dim]) -> Option<Self> {
        let mut term = Self { symbols: Vec::new(), bytes: element_bytes };
        for dim in shape {
            match dim {
                Dim::Fixed(size) => term.bytes = term.bytes.checked_mul(*size)?,
                Dim::Symbol(name) => term.symbols.push(name.to_string()),
                // Such a model's memory is not planned.
                Dim::Unknown => return None,
            }
        }
        term.symbols.sort_unstable();
        Some(term)
    }

    /// The same for a value of this type.
    pub(crate) fn of_type(value_type: &ValueType) -> Option<Self> {
        Self::new(value_type.dtype.size_bytes(), &value_type.shape)
    }

    /// Bytes for these sizes; says which symbol is not bound, or that the result does not fit.
    pub(crate) fn evaluate(&self, bindings: &Bindings) -> Result<usize, String> {
        let mut bytes = self.bytes;
        for symbol in &self.symbols {
            let size = bindings
                .size(&Dim::symbol(symbol))
                .ok_or_else(|| format!("dimension `{symbol}` is not bound"))?;
            bytes = bytes.checked_mul(size).ok_or_else(|| format!("{self} does not fit memory"))?;
        }
        // Part of the address space is left for sums.
        let fits = bytes < usize::MAX >> 8;
        fits.then_some(bytes).ok_or_else(|| format!("{self} does not fit memory"))
    }
}

impl fmt::Display for SizeTerm {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.bytes)?;
        self.symbols.iter().try_for_each(|symbol| write!(formatter, "·{symbol}"))
    }
}

/// The bytes of what lies side by side, each but the last rounded up to 64.
pub(crate) fn sum(terms: &[SizeTerm], bindings: &Bindings) -> Result<usize, String> {
    terms.iter().try_fold(0usize, |bytes, term| {
        let bytes = bytes.next_multiple_of(ALIGNMENT).checked_add(term.evaluate(bindings)?);
        bytes.ok_or_else(|| "what lies side by side does not fit memory".to_owned())
    })
}

/// The live lower bound of a model's arena as a formula: the maximum, over the steps of a run, of
/// the bytes that live at the step, each buffer rounded up to 64.
///
/// It gives the bound for any sizes exactly, as [`crate::MemoryUse::lower_bound_bytes`] does. How
/// much the planner needs for given sizes is [`crate::MemoryUse::planned_bytes`], which is never
/// less, and the same wherever the planner finds a layout without a gap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PeakFormula {
    /// What lives together: each a sum. Steps that need no more than another for any sizes are
    /// left out.
    pub steps: Vec<Vec<SizeTerm>>,
}

impl PeakFormula {
    /// Of what lives at each step.
    pub(crate) fn new(steps: impl IntoIterator<Item = Vec<SizeTerm>>) -> Self {
        let sorted = |mut terms: Vec<SizeTerm>| {
            terms.retain(|term| term.bytes > 0);
            terms.sort_unstable_by(|a, b| b.cmp(a));
            terms
        };
        let all: BTreeSet<Vec<SizeTerm>> = steps.into_iter().map(sorted).collect();
        let covered =
            |terms: &Vec<SizeTerm>| all.iter().any(|other| other != terms && covers(other, terms));
        Self { steps: all.iter().filter(|terms| !covered(terms)).cloned().collect() }
    }

    /// The bound in bytes for these sizes.
    ///
    /// # Errors
    /// When a symbol is not bound, or the sizes do not fit memory.
    pub fn evaluate(&self, bindings: &Bindings) -> Result<usize, String> {
        let mut most = 0;
        for terms in &self.steps {
            let mut live = 0usize;
            for term in terms {
                live = live
                    .checked_add(term.evaluate(bindings)?.next_multiple_of(ALIGNMENT))
                    .ok_or("what lives at one step does not fit memory")?;
            }
            most = most.max(live);
        }
        Ok(most)
    }
}

impl fmt::Display for PeakFormula {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum = |terms: &Vec<SizeTerm>| {
            let terms: Vec<String> = terms.iter().map(SizeTerm::to_string).collect();
            terms.join(" + ")
        };
        let sums: Vec<String> = self.steps.iter().map(sum).collect();
        match sums.as_slice() {
            [] => formatter.write_str("0"),
            [sum] => formatter.write_str(sum),
            sums => write!(formatter, "max({})", sums.join(", ")),
        }
    }
}

/// Whether `terms` need no more than `other` for any sizes: each has a larger partner of its own
/// there, with the same symbols. Both are sorted, larger first.
fn covers(other: &[SizeTerm], terms: &[SizeTerm]) -> bool {
    let mut partners = other.iter();
    let fits = |term: &SizeTerm| {
        partners.any(|partner| partner.symbols == term.symbols && partner.bytes >= term.bytes)
    };
    terms.iter().all(fits)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn term(bytes: usize, symbols: &[&str]) -> SizeTerm {
        SizeTerm { symbols: symbols.iter().map(ToString::to_string).collect(), bytes }
    }

    #[test]
    fn a_tensor_is_a_product() {
        let shape = [Dim::symbol("sequence"), 12.into(), Dim::symbol("batch")];
        let found = SizeTerm::new(4, &shape).unwrap();
        assert_eq!(found, term(48, &["batch", "sequence"]));
        assert_eq!(found.to_string(), "48·batch·sequence");
        let sizes = Bindings::new([("batch", 2), ("sequence", 5)]);
        assert_eq!(found.evaluate(&sizes), Ok(480));
        let error = found.evaluate(&Bindings::new([("batch", 2)])).unwrap_err();
        assert_eq!(error, "dimension `sequence` is not bound");
        let huge = Bindings::new([("batch", usize::MAX / 3), ("sequence", 5)]);
        assert_eq!(found.evaluate(&huge).unwrap_err(), "48·batch·sequence does not fit memory");
        assert_eq!(SizeTerm::new(8, &[usize::MAX.into()]), None);
    }

    #[test]
    fn covered_steps_are_left_out() {
        let (small, large, other) = (term(4, &["n"]), term(64, &["n"]), term(8, &["m"]));
        let formula = PeakFormula::new([
            vec![small.clone(), other.clone()],
            vec![other.clone(), large.clone()],
            vec![other.clone()],
            vec![large.clone(), small.clone()],
            vec![small.clone(), large.clone()],
            vec![],
        ]);
        assert_eq!(formula.to_string(), "max(64·n + 8·m, 64·n + 4·n)");
    }

    #[test]
    fn every_buffer_is_rounded_up() {
        let formula = PeakFormula::new([vec![term(4, &["n"]), term(4, &["n"])]]);
        for (n, expected) in [(0, 0), (1, 128), (16, 128), (17, 256)] {
            assert_eq!(formula.evaluate(&Bindings::new([("n", n)])), Ok(expected));
        }
    }
}
