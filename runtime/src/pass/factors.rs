//! What a tree of products multiplies, for passes that recognise formulas.

use graph::Op;

use crate::module::{Id, Module};

/// The factors of a product, whatever the order in which it is written.
#[derive(Debug)]
pub(super) struct Factors {
    /// The constant ones, multiplied; divisors count as reciprocals.
    pub(super) constant: f32,
    /// The others.
    pub(super) values: Vec<Id>,
    /// The products and quotients.
    pub(super) nodes: Vec<usize>,
}

impl Factors {
    /// The factors of what node `index` computes; `None` when it is no product.
    pub(super) fn of(module: &Module, index: usize) -> Option<Self> {
        let mut factors = Self { constant: 1.0, values: Vec::new(), nodes: Vec::new() };
        factors.add(module, index).then_some(factors)
    }

    fn add(&mut self, module: &Module, index: usize) -> bool {
        let node = &module.nodes[index];
        let crate::module::Operation::Graph(op) = &node.operation else { return false };
        let &[a, b] = node.inputs.as_slice() else { return false };
        match op {
            Op::Mul => {
                self.nodes.push(index);
                self.factor(module, a);
                self.factor(module, b);
                true
            }
            Op::Div => {
                let Some(divisor) = module.scalar(b) else { return false };
                self.nodes.push(index);
                self.constant /= divisor;
                self.factor(module, a);
                true
            }
            _ => false,
        }
    }

    /// Takes a factor: apart, when it is a product that nothing else reads.
    fn factor(&mut self, module: &Module, id: Id) {
        if let Some(constant) = module.scalar(id) {
            self.constant *= constant;
            return;
        }
        let product = module.producer(id).filter(|_| module.uses(id) == 1);
        if !product.is_some_and(|index| self.add(module, index)) {
            self.values.push(id);
        }
    }
}

/// Whether a constant of a formula is what it should be: exporters write four digits or more.
pub(super) fn close(found: f32, expected: f32) -> bool {
    (found - expected).abs() <= 1e-4 * expected.abs()
}
