//! Where tensors live: named in a manifest, chosen at run time.

#[cfg(any(feature = "cuda", test))]
use std::path::PathBuf;

use burn::backend::ops::FloatTensorOps;
use burn::backend::{Dispatch, DispatchTensor};
use burn::tensor::{Tensor, TensorData};

use crate::error::{Error, Result};

/// A place that computes: this machine's CPU, or a GPU.
#[derive(Clone, Debug)]
pub struct Device {
    name: String,
    burn: burn::tensor::Device,
}

impl Device {
    /// This machine's CPU. Always there.
    pub fn cpu() -> Self {
        Self { name: "cpu".to_owned(), burn: burn::tensor::Device::flex() }
    }

    /// The device of this name: `cpu`, `cuda` (the first GPU), `cuda:1`, or `auto`, which is the
    /// first GPU where one can be used and the CPU elsewhere.
    ///
    /// # Errors
    ///
    /// When the name is unknown, this program was built without GPU support, or the GPU is not
    /// there. There is no silent fallback: only `auto` may choose the CPU, and [`Self::name`] says
    /// what it chose.
    pub fn from_name(name: &str) -> Result<Self> {
        let fail =
            |reason: &str| Error::Device { name: name.to_owned(), reason: reason.to_owned() };
        match name {
            "cpu" => Ok(Self::cpu()),
            "auto" => Ok(Self::cuda(0).unwrap_or_else(|_| Self::cpu())),
            "cuda" => Self::cuda(0).map_err(|reason| fail(&reason)),
            _ => {
                let index = name.strip_prefix("cuda:").and_then(|index| index.parse().ok());
                let index =
                    index.ok_or_else(|| fail("expected `cpu`, `cuda`, `cuda:N` or `auto`"))?;
                Self::cuda(index).map_err(|reason| fail(&reason))
            }
        }
    }

    #[cfg(feature = "cuda")]
    fn cuda(index: usize) -> std::result::Result<Self, String> {
        let found = burn::tensor::Device::enumerate(burn::tensor::DeviceType::Cuda).into_vec();
        if found.is_empty() {
            return Err("no NVIDIA GPU answers on this machine; check the driver with \
                        `nvidia-smi`, or set the device to `cpu`"
                .to_owned());
        }
        if index >= found.len() {
            return Err(format!("expected an index below {}, the number of GPUs", found.len()));
        }
        find_libdevice(std::env::var_os("CUDA_PATH").map(PathBuf::from))?;
        Ok(Self { name: format!("cuda:{index}"), burn: burn::tensor::Device::cuda(index) })
    }

    #[cfg(not(feature = "cuda"))]
    fn cuda(_: usize) -> std::result::Result<Self, String> {
        Err("this program was built without GPU support; build it with `--features cuda`, or set \
             the device to `cpu`"
            .to_owned())
    }

    /// What was chosen: `cpu` or `cuda:N`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this is the CPU, where results are the same to the bit from run to run.
    pub fn is_cpu(&self) -> bool {
        self.name == "cpu"
    }

    /// Burn's handle of it, without autodiff: what losses create their constants on.
    pub fn burn(&self) -> &burn::tensor::Device {
        &self.burn
    }

    /// A constant of `shape` from row-major `elements`, for use in losses.
    ///
    /// # Panics
    ///
    /// When the number of elements is not the product of the shape.
    pub fn tensor<const D: usize>(&self, shape: [usize; D], elements: Vec<f32>) -> Tensor<D> {
        Tensor::from_data(TensorData::new(elements, shape), &self.burn)
    }

    /// The same for any rank.
    pub(crate) fn upload(&self, shape: &[usize], elements: Vec<f32>) -> DispatchTensor {
        let data = TensorData::new(elements, shape.to_vec());
        Dispatch::float_from_data(data, self.burn.as_dispatch())
    }
}

/// Fails where Burn's kernels for NVIDIA GPUs could not be compiled: exponentials and the like come
/// from a file of the CUDA toolkit, which CubeCL looks for in these places. Without it the first
/// softmax would panic, minutes into a stage.
#[cfg(any(feature = "cuda", test))]
fn find_libdevice(toolkit: Option<PathBuf>) -> std::result::Result<(), String> {
    const FILE: &str = "nvvm/libdevice/libdevice.10.bc";
    let usual = || ["/usr/local/cuda", "/opt/cuda", "/usr/lib/cuda", "/usr"].map(PathBuf::from);
    let roots = toolkit.map_or_else(|| usual().to_vec(), |toolkit| vec![toolkit]);
    if roots.iter().any(|root| root.join(FILE).is_file()) {
        return Ok(());
    }
    let looked = roots.iter().map(|root| format!("`{}`", root.display())).collect::<Vec<_>>();
    Err(format!(
        "training on a GPU takes functions from `{FILE}` of the CUDA toolkit, and it is not in {}; \
         install the toolkit or set `CUDA_PATH` to one, or set the device to `cpu`",
        looked.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_toolkit_is_looked_for_before_anything_is_trained() {
        let toolkit = tempfile::tempdir().unwrap();
        let error = find_libdevice(Some(toolkit.path().to_owned())).unwrap_err();
        assert!(error.contains(&format!("is not in `{}`", toolkit.path().display())), "{error}");
        let folder = toolkit.path().join("nvvm/libdevice");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("libdevice.10.bc"), b"").unwrap();
        assert_eq!(find_libdevice(Some(toolkit.path().to_owned())), Ok(()));
    }

    #[test]
    fn names_are_checked() {
        assert_eq!(Device::from_name("cpu").unwrap().name(), "cpu");
        let error = Device::from_name("tpu").unwrap_err().to_string();
        assert_eq!(error, "device `tpu`: expected `cpu`, `cuda`, `cuda:N` or `auto`");
    }

    #[cfg(not(feature = "cuda"))]
    #[test]
    fn a_build_without_gpu_support_says_what_to_do() {
        let error = Device::from_name("cuda").unwrap_err().to_string();
        assert!(error.contains("--features cuda"), "{error}");
        assert_eq!(Device::from_name("auto").unwrap().name(), "cpu");
    }
}
