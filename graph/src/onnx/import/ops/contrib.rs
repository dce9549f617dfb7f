//! Operators of the domain `com.microsoft`.

use super::super::OperatorEntry;

/// Every operator, by family.
pub(super) const FAMILIES: &[&[OperatorEntry]] = &[];
