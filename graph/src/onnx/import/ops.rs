//! The operators that can be read: one file a family, one table.

mod arithmetic;
mod control;
mod exported;
mod picking;
mod recurrent;
mod shape;
mod slicing;

use super::OperatorEntry;

/// Every operator, by family.
pub(super) const OPERATORS: &[&[OperatorEntry]] = &[
    arithmetic::OPERATORS,
    shape::OPERATORS,
    slicing::OPERATORS,
    picking::OPERATORS,
    control::OPERATORS,
    recurrent::OPERATORS,
    exported::OPERATORS,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_there_once() {
        let all: Vec<&str> =
            OPERATORS.iter().flat_map(|family| family.iter()).map(|entry| entry.name).collect();
        for (index, name) in all.iter().enumerate() {
            assert!(!all[..index].contains(name), "{name} twice");
        }
    }
}
