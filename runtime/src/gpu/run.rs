//! One run on a GPU.

use graph::Tensor;
use kernels::gpu::{Buffer, Gpu};

use super::{Call, GpuKernel, GpuModel, Operand};
use crate::RuntimeError;
use crate::kernel::Prepared;
use crate::module::{Id, Node};
use crate::plan::Place;
use crate::session::{Run, Watch};

/// What a session keeps on the device.
#[derive(Default)]
pub(crate) struct Memory {
    arena: Option<Buffer>,
    /// For each input of the model what the last run gave it.
    inputs: Vec<Option<Buffer>>,
}

impl Memory {
    /// The arena, grown to this many bytes.
    fn arena(&mut self, gpu: &Gpu, bytes: usize) -> Buffer {
        let old = self.arena.take().filter(|arena| arena.len() >= bytes);
        let arena = old.unwrap_or_else(|| gpu.empty(bytes));
        self.arena = Some(arena.clone());
        arena
    }

    /// An input of the model, in the buffer it had where that fits.
    fn input(&mut self, gpu: &Gpu, index: usize, tensor: &Tensor) {
        let place = &mut self.inputs[index];
        match place.as_ref().filter(|old| old.len() == tensor.bytes().len()) {
            Some(old) => gpu.write(old, tensor.bytes()),
            None => *place = Some(gpu.upload(tensor.bytes())),
        }
    }
}

/// Where the newest content of a value of the arena is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Newest {
    Nowhere,
    Host,
    Device,
    Both,
}

/// A run of a model's steps, some of which may stay on the CPU.
struct OnGpu<'r, 'a> {
    run: &'r Run<'a>,
    model: &'r GpuModel,
    arena: Buffer,
    inputs: &'r [Option<Buffer>],
    /// By the value that others are views of.
    newest: Vec<Newest>,
}

/// Runs all steps; the outputs are in `host`, the session's arena, when it returns. Who watches is
/// told of every node once it has run.
///
/// # Errors
/// When a node fails on its values, or the device does.
pub(crate) fn run(
    run: &Run<'_>,
    model: &GpuModel,
    steps: &[Prepared],
    memory: &mut Memory,
    host: &mut [u8],
    watch: Option<Watch<'_>>,
) -> Result<(), RuntimeError> {
    let done = launch_all(run, model, steps, memory, host, watch);
    if done.is_err() {
        // The next run may come from another thread, which the device does not order behind this.
        let _failed_anyway = model.gpu.sync();
    }
    done
}

fn launch_all(
    run: &Run<'_>,
    model: &GpuModel,
    steps: &[Prepared],
    memory: &mut Memory,
    host: &mut [u8],
    mut watch: Option<Watch<'_>>,
) -> Result<(), RuntimeError> {
    let module = run.module;
    let arena = memory.arena(&model.gpu, run.plan.bytes);
    memory.inputs.resize(module.inputs.len(), None);
    for (index, &id) in module.inputs.iter().enumerate() {
        memory.input(&model.gpu, index, run.input(id));
    }
    let newest = vec![Newest::Nowhere; module.values.len()];
    let mut on_gpu = OnGpu { run, model, arena, inputs: &memory.inputs, newest };
    for (index, (node, step)) in module.nodes.iter().zip(steps).enumerate() {
        match step {
            Prepared::View { .. } => {}
            Prepared::OnGpu(kernel) => on_gpu.launch(node, &**kernel, host)?,
            Prepared::Run(kernel) => {
                on_gpu.fetch(&node.inputs, host)?;
                run.step(index, node, &**kernel, host)?;
                on_gpu.newest[node.output.0] = Newest::Host;
            }
        }
        if let Some(watch) = &mut watch {
            model.gpu.sync().map_err(|error| model.failed(&error))?;
            watch(index);
        }
    }
    on_gpu.fetch(&module.outputs, host)
}

impl OnGpu<'_, '_> {
    fn launch(
        &mut self,
        node: &Node,
        kernel: &dyn GpuKernel,
        host: &[u8],
    ) -> Result<(), RuntimeError> {
        for &input in &node.inputs {
            self.send(input, host);
        }
        let operands: Vec<Operand<'_>> = node.inputs.iter().map(|&id| self.operand(id)).collect();
        let call = Call {
            inputs: &operands,
            shape: &self.run.plan.shapes[node.output.0],
            output: self.buffer(node.output),
        };
        kernel.launch(&self.model.gpu, &call).map_err(|reason| RuntimeError::Node {
            node: node.name.clone(),
            operation: node.operation.kind(),
            reason,
        })?;
        drop(operands);
        self.newest[node.output.0] = Newest::Device;
        Ok(())
    }

    fn operand(&self, id: Id) -> Operand<'_> {
        let host = match self.run.plan.places[id.0] {
            Place::Input(..) | Place::Constant(..) => Some(self.run.bytes(id, |_| &[])),
            Place::Arena(_) | Place::Nowhere => None,
        };
        let shape = &self.run.plan.shapes[id.0];
        Operand { dtype: self.run.module.value(id).dtype, shape, buffer: self.buffer(id), host }
    }

    fn buffer(&self, id: Id) -> Buffer {
        let none = || self.arena.slice(0..0);
        match &self.run.plan.places[id.0] {
            Place::Arena(range) => self.arena.slice(range.clone()),
            Place::Constant(base, range) => {
                let whole = self.model.constants[base.0].as_ref();
                whole.map_or_else(none, |whole| whole.slice(range.clone()))
            }
            Place::Input(index, range) => {
                let whole = self.inputs[*index].as_ref();
                whole.map_or_else(none, |whole| whole.slice(range.clone()))
            }
            Place::Nowhere => none(),
        }
    }

    /// Writes a value that only the host has to the device.
    fn send(&mut self, id: Id, host: &[u8]) {
        let base = self.model.bases[id.0];
        let Place::Arena(range) = &self.run.plan.places[base.0] else { return };
        if self.newest[base.0] == Newest::Host {
            self.model.gpu.write(&self.arena.slice(range.clone()), &host[range.clone()]);
            self.newest[base.0] = Newest::Both;
        }
    }

    /// Reads values that only the device has into their places, all at once.
    fn fetch(&mut self, ids: &[Id], host: &mut [u8]) -> Result<(), RuntimeError> {
        let mut wanted = Vec::new();
        for id in ids {
            let base = self.model.bases[id.0];
            let Place::Arena(range) = &self.run.plan.places[base.0] else { continue };
            if self.newest[base.0] == Newest::Device {
                self.newest[base.0] = Newest::Both;
                wanted.push((range.clone(), self.arena.slice(range.clone())));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let buffers: Vec<&Buffer> = wanted.iter().map(|(_, buffer)| buffer).collect();
        let model = self.model;
        let found = model.gpu.read(&buffers).map_err(|error| model.failed(&error))?;
        for ((range, _), bytes) in wanted.iter().zip(found) {
            host[range.clone()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}
