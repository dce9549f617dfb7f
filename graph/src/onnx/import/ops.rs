//! The operators that can be read: one file a family, one table.

mod arithmetic;
mod attention;
mod binary;
mod control;
mod detection;
mod generate;
mod images;
mod losses;
mod memory;
mod normalization;
mod picking;
mod quantization;
mod random;
mod recurrent;
mod reduce;
mod sequences;
mod shape;
mod slicing;
mod spectra;
mod unary;
mod windows;

use super::OperatorEntry;

/// Whether an operator may read a sequence.
pub(super) fn takes_sequences(name: &str) -> bool {
    name == "Identity" || sequences::OPERATORS.iter().any(|entry| entry.name == name)
}

/// Every operator, by family.
pub(super) const OPERATORS: &[&[OperatorEntry]] = &[
    arithmetic::OPERATORS,
    shape::OPERATORS,
    unary::PLAIN,
    unary::WITH_ATTRIBUTES,
    binary::PLAIN,
    binary::OTHERS,
    reduce::OPERATORS,
    generate::OPERATORS,
    random::OPERATORS,
    sequences::OPERATORS,
    attention::OPERATORS,
    images::OPERATORS,
    detection::OPERATORS,
    normalization::OPERATORS,
    quantization::OPERATORS,
    windows::OPERATORS,
    slicing::OPERATORS,
    picking::OPERATORS,
    control::OPERATORS,
    recurrent::OPERATORS,
    memory::OPERATORS,
    losses::OPERATORS,
    spectra::OPERATORS,
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
