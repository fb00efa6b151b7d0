//! The check that a device passes before it is chosen by itself.

mod device;

use std::sync::Arc;

use oc_kernels::{
    Dtype, Result,
    cpu::{CpuBackend, CpuOptions},
    cuda::{
        CudaBackend,
        device::{Device, DeviceCaps, DevicePtr, Graph, Launch},
    },
    ops, self_check,
};

/// A device that forgets to run one kernel.
struct Lazy {
    device: Arc<dyn Device>,
    kernel: &'static str,
}

impl Device for Lazy {
    fn caps(&self) -> &DeviceCaps {
        self.device.caps()
    }

    /// Zeros, so that whatever is left out has a result.
    fn alloc(&self, what: &'static str, bytes: usize) -> Result<DevicePtr> {
        let ptr = self.device.alloc(what, bytes)?;
        self.device.upload(&vec![0; bytes], ptr)?;
        Ok(ptr)
    }

    fn free(&self, ptr: DevicePtr) {
        self.device.free(ptr);
    }

    fn upload(&self, from: &[u8], to: DevicePtr) -> Result<()> {
        self.device.upload(from, to)
    }

    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.device.download(from, to)
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.device.copy(from, to, bytes)
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        if launch.kernel.starts_with(self.kernel) { Ok(()) } else { self.device.launch(launch) }
    }

    fn synchronize(&self) -> Result<()> {
        self.device.synchronize()
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Graph>> {
        self.device.capture(work)
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        self.device.time(work)
    }
}

#[test]
fn backends_that_work_pass() {
    let all = ops::all::<CpuBackend>().len();
    for dtype in [Dtype::F32, Dtype::Bf16] {
        let backend = CpuBackend::new(CpuOptions { threads: 1, dtype, level: None }).unwrap();
        assert_eq!(self_check(&backend).unwrap(), all);
    }
    assert_eq!(self_check(&device::backend(Dtype::Bf16)).unwrap(), all);
}

#[test]
fn a_kernel_that_does_nothing_is_found_and_named() {
    for (kernel, operation) in
        [("rms_norm", "rms_norm of"), ("gemm", "linear of"), ("attention", "attention of"), ("rotary", "rotary")]
    {
        let lazy = Lazy { device: device::device(), kernel };
        let backend = CudaBackend::new(Arc::new(lazy), Dtype::Bf16).unwrap();
        let error = self_check(&backend).unwrap_err().to_string();
        assert!(error.contains(operation) && error.contains("is not right"), "{kernel}: {error}");
    }
}
