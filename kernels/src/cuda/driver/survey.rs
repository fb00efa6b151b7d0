//! What NVIDIA software and hardware a machine has, for those who ask before they use it.

use std::ffi::c_int;

use super::{CudaDevice, api::Library, load_driver};
use crate::{
    Result,
    cuda::device::{Device, DeviceCaps},
};

/// What was found.
#[derive(Debug)]
pub struct Survey {
    /// CUDA version up to which the driver goes, e.g. `(12, 4)`.
    pub cuda: (u32, u32),
    /// The GPUs in their order, each with what it can do or why it cannot be opened.
    pub gpus: Vec<Result<DeviceCaps>>,
}

impl Survey {
    /// Newest PTX version that the driver compiles (release notes of the PTX ISA); `None` for a driver newer than this list.
    pub fn ptx(&self) -> Option<(u32, u32)> {
        Some(match self.cuda {
            (12, minor @ 0..=5) => (8, minor),
            (12, 6) => (8, 5),
            (12, minor @ 7..=9) => (8, minor - 1),
            (13, minor @ 0..=1) => (9, minor),
            _ => return None,
        })
    }
}

/// Looks at the driver and opens each GPU once.
///
/// # Errors
/// [`crate::Error::Device`] when there is no driver, or one that is too old or does not start.
pub fn survey() -> Result<Survey> {
    let api = load_driver()?;
    let version = Library::find().and_then(|library| library.version()).unwrap_or(0);
    let cuda = (version / 1000, version % 1000 / 10);
    let mut count: c_int = 0;
    // SAFETY: the driver is initialised, `count` may be written. A refusal counts as no GPU.
    let _ = unsafe { api.device_count(&raw mut count) };
    let gpus = (0..usize::try_from(count).unwrap_or(0)).map(|i| CudaDevice::open(i).map(|gpu| gpu.caps().clone()));
    Ok(Survey { cuda: (cuda.0.unsigned_abs(), cuda.1.unsigned_abs()), gpus: gpus.collect() })
}
