//! Elements of two values chosen by a condition, of any element type, broadcast.

use bytemuck::{Pod, cast_slice};

use super::elementwise::Side;
use super::{Call, Kernel, KernelEntry, elements_mut, run};

pub(super) const KERNELS: &[KernelEntry] = &[KernelEntry {
    name: "where.copy",
    operation: "Where",
    tier: None,
    cost: 1,
    accepts: super::any,
    prepare: |_, _, _| run(Select),
}];

struct Select;

impl Kernel for Select {
    fn run(&self, call: Call<'_>) -> Result<(), String> {
        match call.inputs[1].dtype.size_bytes() {
            1 => select::<u8>(call),
            4 => select::<u32>(call),
            8 => select::<u64>(call),
            bytes => return Err(format!("does not know elements of {bytes} bytes")),
        }
        Ok(())
    }
}

fn select<T: Pod>(call: Call<'_>) {
    let sides = [0, 1, 2].map(|input| Side { shape: call.inputs[input].shape });
    let holds = call.inputs[0].bytes;
    let [a, b] = [1, 2].map(|input| {
        let bytes = call.inputs[input].bytes;
        // No bytes may start anywhere.
        if bytes.is_empty() { &[] } else { cast_slice::<u8, T>(bytes) }
    });
    let output: &mut [T] = elements_mut(call.output);
    let columns = call.shape.last().copied().unwrap_or(1).max(1);
    let [holds_step, a_step, b_step] = sides.each_ref().map(|side| side.step(columns));
    for (row, y) in output.chunks_exact_mut(columns).enumerate() {
        let starts = sides.each_ref().map(|side| side.start(row, call.shape));
        let (holds, a, b) = (&holds[starts[0]..], &a[starts[1]..], &b[starts[2]..]);
        if holds_step == 0 {
            let (chosen, step) = if holds[0] != 0 { (a, a_step) } else { (b, b_step) };
            match step {
                0 => y.fill(chosen[0]),
                _ => y.copy_from_slice(&chosen[..columns]),
            }
            continue;
        }
        let rows = y.iter_mut().zip(holds);
        // Rows of their own, so that the compiler sees which side does not move.
        match (a_step, b_step) {
            (0, 0) => rows.for_each(|(y, &holds)| *y = if holds != 0 { a[0] } else { b[0] }),
            (0, _) => {
                rows.zip(b).for_each(|((y, &holds), &b)| *y = if holds != 0 { a[0] } else { b });
            }
            (_, 0) => {
                rows.zip(a).for_each(|((y, &holds), &a)| *y = if holds != 0 { a } else { b[0] });
            }
            _ => rows.zip(a.iter().zip(b)).for_each(|((y, &holds), (&a, &b))| {
                *y = if holds != 0 { a } else { b };
            }),
        }
    }
}
