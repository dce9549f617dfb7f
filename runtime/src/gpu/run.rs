//! One run on a GPU.

use kernels::gpu::{Buffer, Gpu, GpuError, MOST_ELEMENTS, Recording};

use super::{Call, GpuKernel, GpuModel, Kept, Operand};
use crate::RuntimeError;
use crate::kernel::Prepared;
use crate::module::{Id, Node};
use crate::plan::Place;
use crate::session::{Run, Watch};

/// Sizes whose launches a session keeps recorded at the same time.
const MOST_RECORDINGS: usize = 64;

/// What a session keeps on the device.
pub(crate) struct Memory {
    gpu: Gpu,
    arena: Option<Arena>,
    /// By sizes of the inputs, oldest first.
    known: Vec<Known>,
    /// Why launches are not recorded, once that failed.
    refused: Option<GpuError>,
}

/// Where values lie.
#[derive(Clone)]
struct Arena {
    whole: Buffer,
    /// Half as long: what is kept in bf16 beside f32 lies at half its place, so that what does not meet
    /// in one does not meet in the other.
    rounded: Buffer,
}

/// What a session keeps for one set of sizes.
struct Known {
    shapes: Vec<Vec<usize>>,
    /// For each input of the model what the newest run gave it.
    inputs: Vec<Buffer>,
    /// All launches of a run, with these inputs and the session's arena.
    recording: Option<Recording>,
}

impl Memory {
    pub(crate) fn new(model: &GpuModel) -> Self {
        Self { gpu: model.gpu.clone(), arena: None, known: Vec::new(), refused: None }
    }

    /// Why launches are not recorded, where the device refused.
    pub(crate) fn refused(&self) -> Option<String> {
        self.refused.as_ref().map(GpuError::to_string)
    }

    /// The arena, grown to this many bytes.
    fn arena(&mut self, bytes: usize, keeps_both: bool) -> Arena {
        match &self.arena {
            Some(arena) if arena.whole.len() >= bytes => arena.clone(),
            _ => {
                // Recordings hold on to the old one.
                self.known.clear();
                self.arena = None;
                let rounded = self.gpu.empty(if keeps_both { bytes / 2 } else { 0 });
                let whole = self.gpu.empty(bytes);
                self.arena.insert(Arena { whole, rounded }).clone()
            }
        }
    }

    /// Writes the inputs, and says where what belongs to their sizes is and whether it is new.
    fn inputs(&mut self, run: &Run<'_>) -> (usize, bool) {
        let gpu = &self.gpu;
        let alike = |known: &Known| {
            run.inputs().map(|(shape, _)| shape).eq(known.shapes.iter().map(Vec::as_slice))
        };
        if let Some(index) = self.known.iter().position(alike) {
            for ((_, bytes), buffer) in run.inputs().zip(&self.known[index].inputs) {
                gpu.write(buffer, bytes);
            }
            return (index, false);
        }
        if self.known.len() == MOST_RECORDINGS {
            self.known.remove(0);
        }
        let shapes = run.inputs().map(|(shape, _)| shape.to_vec()).collect();
        let inputs = run.inputs().map(|(_, bytes)| gpu.upload(bytes)).collect();
        self.known.push(Known { shapes, inputs, recording: None });
        (self.known.len() - 1, true)
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
    gpu: &'r Gpu,
    arena: Arena,
    inputs: &'r [Buffer],
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
    check_indices(run, steps)?;
    let arena = memory.arena(run.plan.bytes, model.keeps_both());
    let (index, new) = memory.inputs(run);
    let Memory { gpu, known, .. } = memory;
    let Known { inputs, recording, .. } = &mut known[index];
    let newest = vec![Newest::Nowhere; run.module.values.len()];
    let mut on_gpu = OnGpu { run, model, gpu, arena, inputs, newest };
    let on_cpu = |step: &Prepared| matches!(step, Prepared::Run(_));
    if watch.is_some() || steps.iter().any(on_cpu) {
        return on_gpu.steps(steps, host, watch);
    }
    if recording.is_none() && !new && memory.refused.is_none() {
        match on_gpu.record(steps) {
            Ok(recorded) => *recording = Some(recorded),
            Err(reason) => {
                memory.refused = Some(reason);
                // What could not be recorded left no good memory behind.
                memory.known.clear();
                memory.arena = None;
                return self::run(run, model, steps, memory, host, watch);
            }
        }
    }
    match recording {
        Some(recording) => on_gpu.replay(recording, steps, host),
        None => on_gpu.steps(steps, host, watch),
    }
}

/// Fails on a value of more elements than a GPU counts.
fn counted<'a>(mut shapes: impl Iterator<Item = &'a [usize]>) -> Result<(), String> {
    let is_large = |shape: &&[usize]| shape.iter().product::<usize>() > MOST_ELEMENTS;
    shapes.find(is_large).map_or(Ok(()), |shape| {
        Err(format!("takes at most {MOST_ELEMENTS} elements on a GPU, found {shape:?}"))
    })
}

/// Fails on an index that names no row, wherever a kernel trusts one.
fn check_indices(run: &Run<'_>, steps: &[Prepared]) -> Result<(), RuntimeError> {
    for (node, step) in run.module.nodes.iter().zip(steps) {
        let Prepared::OnGpu(kernel) = step else { continue };
        let Some(input) = kernel.indices() else { continue };
        let bytes = run.bytes(node.inputs[input], |_| &[]);
        let indices: &[i64] = if bytes.is_empty() { &[] } else { bytemuck::cast_slice(bytes) };
        let rows = run.plan.shapes[node.inputs[0].0].first().copied().unwrap_or(0);
        let known = |index: i64| {
            let end = i64::try_from(rows).unwrap_or(i64::MAX);
            (-end..end).contains(&index)
        };
        if let Some(position) = indices.iter().position(|&index| !known(index)) {
            let index = indices[position];
            return Err(RuntimeError::Node {
                node: node.name.clone(),
                operation: node.operation.kind(),
                reason: kernels::IndexError { position, index, rows }.to_string(),
            });
        }
    }
    Ok(())
}

impl OnGpu<'_, '_> {
    /// Runs step after step.
    fn steps(
        &mut self,
        steps: &[Prepared],
        host: &mut [u8],
        mut watch: Option<Watch<'_>>,
    ) -> Result<(), RuntimeError> {
        let run = self.run;
        for (index, (node, step)) in run.module.nodes.iter().zip(steps).enumerate() {
            match step {
                Prepared::View { .. } | Prepared::Part { .. } => {}
                Prepared::OnGpu(kernel) => {
                    node.inputs.iter().for_each(|&input| self.send(input, host));
                    self.launch(node, &**kernel)?;
                }
                Prepared::Run(kernel) => {
                    self.fetch(&node.inputs, host)?;
                    run.step(index, node, &**kernel, host)?;
                    self.newest[node.output.0] = Newest::Host;
                }
            }
            if let Some(watch) = &mut watch {
                self.gpu.sync().map_err(|error| self.model.failed(&error))?;
                watch(index);
            }
        }
        self.fetch(&run.module.outputs, host)
    }

    /// Records the launches of all steps.
    fn record(&mut self, steps: &[Prepared]) -> Result<Recording, GpuError> {
        let gpu = self.gpu;
        let mut failed = None;
        let recorded = gpu.record(|| {
            for (node, step) in self.run.module.nodes.iter().zip(steps) {
                if let Prepared::OnGpu(kernel) = step {
                    // The run before launched the same, so this does not fail.
                    failed = failed.take().or(self.launch(node, &**kernel).err());
                }
            }
        });
        debug_assert!(failed.is_none(), "{failed:?}");
        recorded
    }

    /// Runs all steps at once.
    fn replay(
        &mut self,
        recording: &Recording,
        steps: &[Prepared],
        host: &mut [u8],
    ) -> Result<(), RuntimeError> {
        recording.replay().map_err(|error| self.model.failed(&error))?;
        for (node, step) in self.run.module.nodes.iter().zip(steps) {
            if matches!(step, Prepared::OnGpu(_)) {
                self.newest[node.output.0] = Newest::Device;
            }
        }
        self.fetch(&self.run.module.outputs, host)
    }

    fn launch(&mut self, node: &Node, kernel: &dyn GpuKernel) -> Result<(), RuntimeError> {
        let inputs = node.inputs.iter().enumerate();
        let operands: Vec<Operand<'_>> =
            inputs.map(|(input, &id)| self.operand(id, kernel.reads_bf16(input))).collect();
        let call = Call {
            inputs: &operands,
            shape: &self.run.plan.shapes[node.output.0],
            output: self.buffer(node.output),
            rounded: self.rounded(node.output),
            kept: self.model.kept[node.output.0],
        };
        let shapes = operands.iter().map(|operand| operand.shape).chain([call.shape]);
        let launched = counted(shapes).and_then(|()| kernel.launch(self.gpu, &call));
        launched.map_err(|reason| RuntimeError::Node {
            node: node.name.clone(),
            operation: node.operation.kind(),
            reason,
        })?;
        drop(operands);
        self.newest[node.output.0] = Newest::Device;
        Ok(())
    }

    /// `reads_bf16`: whether who reads it rounds it.
    fn operand(&self, id: Id, reads_bf16: bool) -> Operand<'_> {
        let shape = &self.run.plan.shapes[id.0];
        let dtype = self.run.module.value(id).dtype;
        let (buffer, bf16) = match self.model.kept[id.0] {
            Kept::Both if reads_bf16 => (self.rounded(id), true),
            kept => (self.buffer(id), kept == Kept::Bf16),
        };
        Operand { dtype, shape, buffer, bf16 }
    }

    /// Where a value lies in bf16, if it is kept as both.
    fn rounded(&self, id: Id) -> Buffer {
        match (&self.run.plan.places[id.0], self.model.kept[id.0]) {
            (Place::Arena(range), Kept::Both) => {
                self.arena.rounded.slice(range.start / 2..range.end / 2)
            }
            _ => self.arena.rounded.slice(0..0),
        }
    }

    fn buffer(&self, id: Id) -> Buffer {
        let none = || self.arena.whole.slice(0..0);
        match &self.run.plan.places[id.0] {
            Place::Arena(range) => {
                let is_half = self.model.kept[id.0] == Kept::Bf16;
                let bytes = if is_half { range.len() / 2 } else { range.len() };
                self.arena.whole.slice(range.start..range.start + bytes)
            }
            Place::Constant(base, range) => {
                let whole = self.model.constants[base.0].as_ref();
                whole.map_or_else(none, |whole| whole.slice(range.clone()))
            }
            Place::Input(index, range) => self.inputs[*index].slice(range.clone()),
            Place::Nowhere => none(),
        }
    }

    /// Writes a value that only the host has to the device.
    fn send(&mut self, id: Id, host: &[u8]) {
        let base = self.model.bases[id.0];
        let Place::Arena(range) = &self.run.plan.places[base.0] else { return };
        if self.newest[base.0] == Newest::Host {
            self.gpu.write(&self.arena.whole.slice(range.clone()), &host[range.clone()]);
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
                wanted.push((range.clone(), self.arena.whole.slice(range.clone())));
            }
        }
        if wanted.is_empty() {
            return Ok(());
        }
        let buffers: Vec<&Buffer> = wanted.iter().map(|(_, buffer)| buffer).collect();
        let model = self.model;
        let found = self.gpu.read(&buffers).map_err(|error| model.failed(&error))?;
        for ((range, _), bytes) in wanted.iter().zip(found) {
            host[range.clone()].copy_from_slice(&bytes);
        }
        Ok(())
    }
}
