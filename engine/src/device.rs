//! What [`Device::Auto`] means on the machine at hand.

use crate::Device;
use oc_kernels::{
    Dtype,
    cuda::{CudaBackend, device::Device as CudaDevice, driver},
    self_check,
};
use std::sync::Arc;

/// The device that is taken where none is named, and why.
///
/// A GPU is taken when it can compute in the dtype asked for and every kernel gives the right result on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceChoice {
    /// [`Device::Cpu`] or [`Device::Cuda`].
    pub device: Device,
    /// Half a sentence for people.
    pub reason: String,
    /// Whether there is a GPU, or its driver, that cannot be used: worth a warning.
    pub is_degraded: bool,
}

impl DeviceChoice {
    /// Looks at this machine, for computing in `dtype` if one is asked for. Takes a few seconds where there is a GPU.
    pub fn auto(dtype: Option<Dtype>) -> Self {
        auto(dtype).0
    }
}

/// As [`DeviceChoice::auto`], with the device where it is a GPU.
pub(crate) fn auto(dtype: Option<Dtype>) -> (DeviceChoice, Option<Arc<dyn CudaDevice>>) {
    let cpu = |reason: String, is_degraded| (DeviceChoice { device: Device::Cpu, reason, is_degraded }, None);
    if let Some(dtype @ (Dtype::F32 | Dtype::Int8)) = dtype {
        return cpu(format!("{} was asked for, in which GPUs do not compute here", dtype.name()), false);
    }
    if !driver::is_driver_present() {
        return cpu("NVIDIA's driver is not installed".into(), false);
    }
    let found = driver::open(0).and_then(|device| {
        let backend = CudaBackend::new(device.clone(), dtype.unwrap_or(Dtype::Bf16))?;
        let checked = self_check(&backend)?;
        Ok((device, checked))
    });
    match found {
        Ok((device, checked)) => {
            let reason = format!("{} is right in all of {checked} operations", device.caps().name);
            (DeviceChoice { device: Device::Cuda, reason, is_degraded: false }, Some(device))
        }
        Err(error) => {
            let error = error.to_string();
            cpu(error.split("\n\n").next().unwrap_or_default().to_owned(), true)
        }
    }
}
