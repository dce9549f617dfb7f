//! Drops nodes that no output needs.

use crate::module::Module;

pub(super) fn run(module: &mut Module) -> usize {
    module.sweep()
}
