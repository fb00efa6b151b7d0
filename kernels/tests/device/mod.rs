//! Where tests of the CUDA backend run: the emulator, or with `OC_TEST_DEVICE=cuda` the first GPU.

#![allow(dead_code, reason = "each test uses a part")]

use std::sync::Arc;

use oc_kernels::{
    Dtype,
    cuda::{CudaBackend, device::Device, driver},
    emulator::{Emulator, EmulatorOptions},
};

/// The device that `OC_TEST_DEVICE` names.
pub fn device() -> Arc<dyn Device> {
    match std::env::var("OC_TEST_DEVICE").as_deref() {
        Err(_) | Ok("" | "emulator") => Arc::new(Emulator::new(EmulatorOptions::default())),
        Ok("cuda") => driver::open(0).unwrap_or_else(|e| panic!("OC_TEST_DEVICE=cuda: {e}")),
        Ok(other) => panic!("OC_TEST_DEVICE is {other:?}; use cuda or emulator"),
    }
}

/// The backend on that device.
pub fn backend(dtype: Dtype) -> CudaBackend {
    CudaBackend::new(device(), dtype).unwrap_or_else(|e| panic!("{e}"))
}
