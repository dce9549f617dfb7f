//! Elements of two values chosen by a condition, of any element type, broadcast.

use bytemuck::{Pod, cast_slice};
use kernels::Cpu;
use kernels::broadcast::{BROADCAST_RANK, Bits, Broadcast, select};

use super::{Call, Kernel, KernelEntry, elements_mut, few_dimensions, run};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "where.copy",
    operation: "Where",
    tier: None,
    cost: 1,
    accepts: |module, node| few_dimensions(module, node.output, BROADCAST_RANK),
    prepare: |_, _, cpu| run(Select(cpu)),
}];

struct Select(Cpu);

impl Kernel for Select {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.inputs[1].dtype.size_bytes() {
            1 => choose::<u8>(self.0, call),
            4 => choose::<u32>(self.0, call),
            8 => choose::<u64>(self.0, call),
            bytes => return Err(format!("does not know elements of {bytes} bytes")),
        }
        Ok(())
    }
}

fn choose<T: Pod + Bits>(cpu: Cpu, call: Call<'_>) {
    let shapes = [0, 1, 2].map(|input| call.inputs[input].shape);
    let sides = [1, 2].map(|input| {
        let bytes = call.inputs[input].bytes;
        // No bytes may start anywhere.
        if bytes.is_empty() { &[] } else { cast_slice::<u8, T>(bytes) }
    });
    let broadcast = Broadcast::new(call.shape, shapes);
    select(cpu, &broadcast, call.inputs[0].bytes, sides, elements_mut(call.output));
}
