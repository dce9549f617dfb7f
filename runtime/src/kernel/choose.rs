//! One of two values, of any element type.

use super::{Call, Kernel, KernelEntry, any, run};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "choose.copy",
    operation: "Choose",
    tier: None,
    cost: 1,
    accepts: any,
    prepare: |_, _, _| run(Choose),
}];

struct Choose;

impl Kernel for Choose {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        let [condition, sides @ ..] = call.inputs else { return Err("expected inputs".to_owned()) };
        let &[holds] = condition.elements::<bool>() else {
            let found = condition.bytes.len();
            return Err(format!("expected one truth value, found {found}"));
        };
        let chosen = &sides[usize::from(!holds)];
        if chosen.shape != call.shape {
            return Err(format!("expected sizes {:?}, found {:?}", call.shape, chosen.shape));
        }
        call.output.copy_from_slice(chosen.bytes);
        Ok(())
    }
}
