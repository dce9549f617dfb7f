//! Where a model runs. The one file of the crate that names a vendor.

use std::fmt;
use std::str::FromStr;

use kernels::Cpu;

use crate::RuntimeError;
use crate::kernel::{Choice, choose};
use crate::module::{Module, Node};

/// A device, as it is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Device {
    /// This machine's CPU. Always there.
    #[default]
    Cpu,
    /// The GPU of this number, from 0.
    Gpu(usize),
    /// The first GPU where one can be used, and the CPU elsewhere; [`crate::Explanation`] says
    /// which, and why.
    Auto,
    /// CubeCL's CPU runtime in the place of a GPU: slow, for tests.
    #[cfg(feature = "gpu-emulated")]
    Emulated,
}

impl Device {
    /// The names that [`Device::from_str`] takes, for messages.
    pub const NAMES: &str = "`cpu`, `cuda`, `cuda:N` or `auto`";

    /// Whether steps will run on a GPU, unless sizes depend on values.
    pub(crate) fn is_gpu(self) -> bool {
        match self {
            Self::Cpu => false,
            Self::Auto => open_gpu(0).is_ok(),
            Self::Gpu(_) => true,
            #[cfg(feature = "gpu-emulated")]
            Self::Emulated => true,
        }
    }

    /// Finds the device.
    ///
    /// # Errors
    /// When a GPU was asked for and none can be used. Only [`Device::Auto`] may choose the CPU.
    pub(crate) fn open(self, dynamic: bool) -> Result<Opened, RuntimeError> {
        let fail = |reason: String| RuntimeError::Device { name: self.to_string(), reason };
        let opened = match self {
            Self::Cpu => return Ok(Opened::cpu(None)),
            Self::Gpu(_) | Self::Auto if dynamic => Err(DYNAMIC.to_owned()),
            Self::Gpu(index) => open_gpu(index),
            Self::Auto => open_gpu(0),
            #[cfg(feature = "gpu-emulated")]
            Self::Emulated if dynamic => Err(DYNAMIC.to_owned()),
            #[cfg(feature = "gpu-emulated")]
            Self::Emulated => Ok(Opened::gpu(kernels::gpu::Gpu::emulated())),
        };
        match opened {
            Err(reason) if self == Self::Auto => Ok(Opened::cpu(Some(reason))),
            opened => opened.map_err(fail),
        }
    }
}

/// Why a model whose sizes depend on values stays on the CPU.
const DYNAMIC: &str = "sizes of the model depend on values, so that a GPU would wait for each of \
                       them; set the device to `cpu`";

impl FromStr for Device {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        match name {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(Self::Auto),
            "cuda" | "gpu" => Ok(Self::Gpu(0)),
            #[cfg(feature = "gpu-emulated")]
            "emulated" => Ok(Self::Emulated),
            _ => {
                let index = name.strip_prefix("cuda:").or_else(|| name.strip_prefix("gpu:"));
                let index = index.and_then(|index| index.parse().ok());
                let expected = Self::NAMES;
                index.map(Self::Gpu).ok_or_else(|| format!("expected {expected}, found `{name}`"))
            }
        }
    }
}

impl fmt::Display for Device {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cpu => formatter.write_str("cpu"),
            Self::Gpu(index) => write!(formatter, "cuda:{index}"),
            Self::Auto => formatter.write_str("auto"),
            #[cfg(feature = "gpu-emulated")]
            Self::Emulated => formatter.write_str("emulated"),
        }
    }
}

/// A device that is there.
pub(crate) struct Opened {
    /// What it is called in explanations.
    pub(crate) name: String,
    /// Why it is no GPU although one was welcome.
    pub(crate) reason: Option<String>,
    #[cfg(feature = "gpu")]
    pub(crate) gpu: Option<kernels::gpu::Gpu>,
}

impl Opened {
    fn cpu(reason: Option<String>) -> Self {
        Self {
            name: Device::Cpu.to_string(),
            reason,
            #[cfg(feature = "gpu")]
            gpu: None,
        }
    }

    /// A model's weights and its runs share one queue: launches that wait for others' cannot be
    /// recorded.
    #[cfg(feature = "gpu")]
    fn gpu(gpu: kernels::gpu::Gpu) -> Self {
        let gpu = gpu.with_own_queue();
        Self { name: gpu.name().to_owned(), reason: None, gpu: Some(gpu) }
    }

    /// The kernel for a node: one of the GPU where it has one, or else of the CPU, with the reason.
    pub(crate) fn choose(&self, module: &Module, node: &Node, cpu: Cpu) -> Choice {
        #[cfg(feature = "gpu")]
        if let Some(gpu) = &self.gpu {
            return crate::gpu::choose(gpu, module, node, cpu);
        }
        choose(module, node, cpu)
    }
}

#[cfg(feature = "gpu")]
fn open_gpu(index: usize) -> Result<Opened, String> {
    kernels::gpu::Gpu::open(index).map(Opened::gpu).map_err(|error| error.to_string())
}

#[cfg(not(feature = "gpu"))]
fn open_gpu(_: usize) -> Result<Opened, String> {
    Err("this program was built without GPU support; build it with `--features cuda`, or set the \
         device to `cpu`"
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for (name, device) in
            [("cpu", Device::Cpu), ("cuda", Device::Gpu(0)), ("gpu:2", Device::Gpu(2))]
        {
            assert_eq!(name.parse(), Ok(device));
        }
        assert_eq!("cuda:1".parse::<Device>().map(|device| device.to_string()).unwrap(), "cuda:1");
        let error = "tpu".parse::<Device>().unwrap_err();
        assert_eq!(error, "expected `cpu`, `cuda`, `cuda:N` or `auto`, found `tpu`");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_gpu_support_says_what_to_do() {
        let Err(error) = Device::Gpu(0).open(false) else { panic!("there is no GPU support") };
        let error = error.to_string();
        assert!(error.contains("device `cuda:0`: this program was built without"), "{error}");
        assert!(error.contains("--features cuda"), "{error}");
        let opened = Device::Auto.open(false).unwrap();
        assert_eq!(opened.name, "cpu");
        assert!(opened.reason.unwrap().contains("built without GPU support"));
    }
}
