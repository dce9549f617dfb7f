//! Which GPU there is, and its memory. The one file of the crate that names a vendor.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use cubecl::Device;
use cubecl::prelude::*;
use cubecl_environment::stream::StreamId;

use super::Buffer;
use super::staging::staged;

/// Held for writing while launches are recorded: copies and allocations of other threads would
/// spoil the recording.
static RECORDING: RwLock<()> = RwLock::new(());

fn not_recording() -> RwLockReadGuard<'static, ()> {
    RECORDING.read().unwrap_or_else(PoisonError::into_inner)
}

/// What went wrong on a device, or why there is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct GpuError(String);

impl GpuError {
    /// The first line says what happened; the others are where in CubeCL.
    pub(super) fn new(error: &impl ToString) -> Self {
        let text = error.to_string();
        let lines = text.lines().take_while(|line| !line.starts_with("Backtrace"));
        Self(lines.map(str::trim).collect::<Vec<_>>().join(" "))
    }
}

/// A device that runs kernels. Cloning gives the same one.
#[derive(Clone)]
pub struct Gpu {
    name: String,
    pub(super) client: Client,
    /// Most units of a cube.
    most_units: u32,
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Gpu").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Gpu {
    /// The GPU of this number, from 0. Asks the driver first, so that a machine without one gets
    /// an answer and not a panic.
    ///
    /// # Errors
    /// When there is no such GPU, or this build has no runtime for it.
    pub fn open(index: usize) -> Result<Self, GpuError> {
        if !cfg!(feature = "cuda") {
            return Err(GpuError(
                "this program was built without GPU support; build it with `--features cuda`, or \
                 set the device to `cpu`"
                    .to_owned(),
            ));
        }
        let available = |index| Device::cuda(index);
        let device = available(index).map_err(|_| {
            match available(0) {
            Ok(_) => GpuError(format!("this machine has no GPU number {index}")),
            Err(_) => GpuError(
                "no NVIDIA GPU answers on this machine; check the driver with `nvidia-smi`, or set \
                 the device to `cpu`"
                    .to_owned(),
            ),
        }
        })?;
        Ok(Self::new(format!("cuda:{index}"), device.client()))
    }

    /// CubeCL's CPU runtime: slow, and there without a GPU.
    #[cfg(feature = "gpu-emulated")]
    pub fn emulated() -> Self {
        let device = Device::cpu().expect("the feature links the CPU runtime");
        Self::new("emulated".to_owned(), device.client())
    }

    /// The device that kernels are tested on: a GPU in builds for one, else what stands in for one.
    #[cfg(test)]
    pub(super) fn under_test() -> Result<Self, GpuError> {
        #[cfg(all(feature = "gpu-emulated", not(feature = "cuda")))]
        return Ok(Self::emulated());
        #[cfg(not(all(feature = "gpu-emulated", not(feature = "cuda"))))]
        Self::open(0)
    }

    /// The same device with cubes of at most so many units.
    #[cfg(test)]
    pub(super) fn with_units(self, most_units: u32) -> Self {
        Self { most_units, ..self }
    }

    fn new(name: String, client: Client) -> Self {
        let most_units = client.properties().hardware.max_units_per_cube.max(1);
        Self { name, client, most_units }
    }

    /// The same device with a queue of its own: what is launched through it, from whatever thread,
    /// runs in order. What is launched through others waits only where it takes the same buffers.
    #[must_use]
    pub fn with_own_queue(&self) -> Self {
        /// Far from the numbers that CubeCL gives to threads.
        static NEXT: AtomicU64 = AtomicU64::new(1 << 32);
        let mut own = self.clone();
        let value = NEXT.fetch_add(1, Ordering::Relaxed);
        // SAFETY: a stream is a name; buffers that two of them share are ordered by CubeCL.
        unsafe { own.client.set_stream(StreamId { value }) };
        own
    }

    /// What it is called in manifests and reports, such as `cuda:0`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A new buffer with these bytes.
    pub fn upload(&self, bytes: &[u8]) -> Buffer {
        // Nothing can be allocated for nothing; what reads it reads no element.
        let padded: &[u8] = if bytes.is_empty() { &[0; 8] } else { bytes };
        let _guard = not_recording();
        Buffer::new(self.client.create_from_slice(padded), padded.len()).slice(0..bytes.len())
    }

    /// A new buffer with these numbers.
    pub(super) fn upload_floats(&self, values: impl Iterator<Item = f32>) -> Buffer {
        self.upload(&values.flat_map(f32::to_ne_bytes).collect::<Vec<u8>>())
    }

    /// A new buffer with any content.
    pub fn empty(&self, bytes: usize) -> Buffer {
        let padded = bytes.max(8);
        let _guard = not_recording();
        Buffer::new(self.client.empty(padded), padded).slice(0..bytes)
    }

    /// Writes bytes over those of a buffer.
    ///
    /// # Panics
    /// When the lengths differ.
    pub fn write(&self, buffer: &Buffer, bytes: &[u8]) {
        assert_eq!(bytes.len(), buffer.len(), "write: expected as many bytes as the buffer has");
        if !bytes.is_empty() {
            let _guard = not_recording();
            self.client.write(&buffer.handle(), staged(&self.client, bytes));
        }
    }

    /// The bytes of some buffers, once everything launched before has run.
    ///
    /// # Errors
    /// When a launch that should have written them failed.
    pub fn read(&self, buffers: &[&Buffer]) -> Result<Vec<Vec<u8>>, GpuError> {
        let handles = buffers.iter().map(|buffer| buffer.allocated());
        let _guard = not_recording();
        let found = self.client.read(handles.collect()).map_err(|error| GpuError::new(&error))?;
        Ok(found.iter().zip(buffers).map(|(all, buffer)| all[..buffer.len()].to_vec()).collect())
    }

    /// Waits until everything launched has run.
    ///
    /// # Errors
    /// When the device failed.
    pub fn sync(&self) -> Result<(), GpuError> {
        let _guard = not_recording();
        self.wait()
    }

    fn wait(&self) -> Result<(), GpuError> {
        cubecl::future::block_on(self.client.sync()).map_err(|error| GpuError::new(&error))
    }

    /// Records what `launch` launches, to launch it again at the price of one launch. `launch` is
    /// called twice, and must only launch: the first time kernels run, so that all are compiled.
    ///
    /// Its own queue should be the only user of the buffers that it writes.
    ///
    /// # Errors
    /// When the device records nothing, or something could not be recorded. Buffers that `launch`
    /// writes are of no use then.
    pub fn record(&self, mut launch: impl FnMut()) -> Result<Recording, GpuError> {
        let fail = |error| GpuError::new(&error);
        let _guard = RECORDING.write().unwrap_or_else(PoisonError::into_inner);
        self.client.graph_prepare().map_err(fail)?;
        launch();
        let opened = self.wait().and_then(|()| self.client.start_capture().map_err(fail));
        if opened.is_ok() {
            launch();
        }
        // Also ends what was only prepared.
        let closed = self.client.stop_capture().map_err(fail);
        opened?;
        closed.map(Recording)
    }

    /// Units of one cube, a power of two: at most `most`, fewer where the device has fewer.
    pub(super) fn units(&self, most: u32) -> u32 {
        1 << most.min(self.most_units).ilog2()
    }

    /// Cubes that the busiest multiprocessor gets of so many.
    pub(super) fn rounds(&self, cubes: usize) -> usize {
        let processors = self.client.properties().hardware.num_streaming_multiprocessors;
        cubes.div_ceil(processors.unwrap_or(1) as usize)
    }

    /// A grid for a kernel that walks over `elements` with a step of all its units.
    pub(super) fn spread(&self, elements: usize) -> (CubeCount, CubeDim) {
        /// Cubes beyond which more only cost.
        const MOST_CUBES: usize = 1 << 14;
        let units = self.units(256);
        let cubes = elements.div_ceil(units as usize).clamp(1, MOST_CUBES);
        (CubeCount::new_1d(cubes as u32), CubeDim::new_1d(units))
    }
}

/// Launches that were recorded, see [`Gpu::record`].
#[derive(Debug)]
pub struct Recording(cubecl::client::Graph);

impl Recording {
    /// Launches them all again, with the same buffers.
    ///
    /// # Errors
    /// When the device refuses.
    pub fn replay(&self) -> Result<(), GpuError> {
        // SAFETY: the graph guards the memory of every buffer that was launched with until it is
        // dropped, and runs in the queue that it was recorded in.
        unsafe { self.0.replay() }.map_err(|error| GpuError::new(&error))
    }
}
