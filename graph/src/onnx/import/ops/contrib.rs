//! Operators of the domain `com.microsoft`, as onnxruntime's optimizers and quantizers write them.

mod activation;
mod attention;
mod cached;
mod elementary;
mod few_bits;
mod layout;
mod normalization;
mod product;
mod quantized;
mod rotary;

use super::super::OperatorEntry;

/// Every operator, by family.
pub(super) const FAMILIES: &[&[OperatorEntry]] = &[
    activation::OPERATORS,
    product::OPERATORS,
    normalization::OPERATORS,
    attention::OPERATORS,
    rotary::OPERATORS,
    cached::OPERATORS,
    few_bits::OPERATORS,
    quantized::OPERATORS,
    elementary::OPERATORS,
];
