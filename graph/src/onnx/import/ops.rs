//! The operators that can be read: one file a family, one table.

mod arithmetic;
mod attention;
mod binary;
mod contrib;
mod control;
mod detection;
mod einsum;
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
    ["Identity", "Loop"].contains(&name)
        || sequences::OPERATORS.iter().any(|entry| entry.name == name)
}

/// The operators of one domain, by family.
pub(super) struct Domain {
    /// Empty for ONNX's own.
    pub(super) name: &'static str,
    families: &'static [&'static [OperatorEntry]],
}

/// Every operator.
pub(super) const OPERATORS: &[Domain] = &[
    Domain {
        name: "",
        families: &[
            arithmetic::OPERATORS,
            shape::OPERATORS,
            unary::PLAIN,
            unary::WITH_ATTRIBUTES,
            binary::PLAIN,
            binary::OTHERS,
            reduce::OPERATORS,
            einsum::OPERATORS,
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
        ],
    },
    Domain { name: "com.microsoft", families: contrib::FAMILIES },
];

impl Domain {
    /// Every operator of the domain.
    pub(super) fn entries(&self) -> impl Iterator<Item = &'static OperatorEntry> {
        self.families.iter().flat_map(|family| family.iter())
    }
}

/// The operator of this name in a domain.
pub(super) fn find(domain: &str, name: &str) -> Option<&'static OperatorEntry> {
    let mut entries =
        OPERATORS.iter().filter(|known| known.name == domain).flat_map(Domain::entries);
    entries.find(|entry| entry.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_operator_is_there_once() {
        for domain in OPERATORS {
            let all: Vec<&str> = domain.entries().map(|entry| entry.name).collect();
            for (index, name) in all.iter().enumerate() {
                assert!(!all[..index].contains(name), "{name} twice");
            }
        }
    }
}
