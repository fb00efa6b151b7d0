//! What the CUDA backend needs of a device: memory, copies, kernels, order. The driver and the emulator both give it.
//!
//! Device memory is addressed by plain numbers, as in the driver's API. Nothing a safe caller does with them reaches
//! memory of the host: a kernel that leaves its buffers is a fault of the device, which the next call reports.

use std::{ffi::c_void, sync::Arc};

use crate::Result;

/// An address in device memory; 0 is no address.
pub type DevicePtr = u64;

/// What a device can do.
#[derive(Clone, Debug, PartialEq)]
pub struct DeviceCaps {
    /// E.g. `NVIDIA H100 80GB HBM3`, or `emulator (compute 8.0)`.
    pub name: String,
    /// Compute capability, e.g. `(9, 0)`.
    pub compute: (u32, u32),
    /// Streaming multiprocessors.
    pub num_sms: u32,
    /// Most dynamic shared memory of a block, in bytes, after opting in.
    pub max_shared_bytes: u32,
    /// Memory of the device, in bytes.
    pub total_bytes: u64,
    /// Memory not in use when the device was opened, in bytes.
    pub free_bytes: u64,
}

/// The text of one compiled kernel file: what [`Device::launch`] loads, once, when it first needs it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub struct Module {
    /// File name without its ending, e.g. `rms_norm`.
    pub name: &'static str,
    /// PTX text.
    pub ptx: &'static str,
}

/// One kernel parameter, in the order of the kernel's signature.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arg {
    /// A pointer into device memory.
    Ptr(DevicePtr),
    /// `unsigned`
    U32(u32),
    /// `int`
    I32(i32),
    /// `unsigned long long`
    U64(u64),
    /// `float`
    F32(f32),
}

/// One launch: `grid` blocks of `block` threads run `kernel` of `module`.
#[derive(Clone, Debug)]
pub struct Launch<'a> {
    /// Where the kernel is.
    pub module: &'static Module,
    /// Name of the `.entry`.
    pub kernel: &'a str,
    /// Blocks, `x, y, z`.
    pub grid: [u32; 3],
    /// Threads of a block, `x, y, z`.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, in bytes.
    pub shared_bytes: u32,
    /// Parameters.
    pub args: &'a [Arg],
}

/// A stream of work on one device: everything is done in the order in which it was asked for.
pub trait Device: Send + Sync {
    /// What the device can do.
    fn caps(&self) -> &DeviceCaps;

    /// Allocates `bytes` of undefined contents, aligned to 256 bytes; 0 bytes give a pointer that is not read.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] naming `what`.
    fn alloc(&self, what: &'static str, bytes: usize) -> Result<DevicePtr>;

    /// Frees what [`Device::alloc`] gave, once the work queued before is done.
    fn free(&self, ptr: DevicePtr);

    /// Copies to the device. `from` may be reused when the call returns.
    ///
    /// # Errors
    /// [`crate::Error::Device`] for a fault, here or of earlier work.
    fn upload(&self, from: &[u8], to: DevicePtr) -> Result<()>;

    /// Copies to the host, after waiting for the work queued before.
    ///
    /// # Errors
    /// As for [`Device::upload`].
    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()>;

    /// Queues a copy of `bytes` to the host behind the work queued before. Whoever waits for it does not wait for what is
    /// queued later.
    ///
    /// # Errors
    /// As for [`Device::upload`].
    fn queue_download(&self, from: DevicePtr, bytes: usize) -> Result<Box<dyn Download>> {
        let mut arrived = vec![0; bytes];
        self.download(from, &mut arrived)?;
        Ok(Box::new(Arrived(arrived)))
    }

    /// Copies `bytes` within the device; the ranges do not overlap.
    ///
    /// # Errors
    /// As for [`Device::upload`].
    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()>;

    /// Queues a kernel.
    ///
    /// # Errors
    /// [`crate::Error::Device`] for a kernel that does not load, a launch that the device refuses, or a fault of
    /// earlier work; the emulator reports every fault of this launch here.
    fn launch(&self, launch: &Launch<'_>) -> Result<()>;

    /// Waits until everything queued is done.
    ///
    /// # Errors
    /// As for [`Device::upload`].
    fn synchronize(&self) -> Result<()>;

    /// Memory not in use now, in bytes.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn free_bytes(&self) -> Result<u64> {
        Ok(self.caps().free_bytes)
    }

    /// Lets the GPUs that the driver counts as `ordinals` use this one's memory, as far as they can reach it: for a library
    /// that has them write to each other. Devices that have no such peers do nothing, which is the default.
    ///
    /// # Errors
    /// [`crate::Error::Device`].
    fn share_memory_with(&self, ordinals: &[usize]) -> Result<()> {
        let _ = ordinals;
        Ok(())
    }

    /// Gives `work` the stream of NVIDIA's runtime, for a library that queues work of its own.
    ///
    /// # Errors
    /// Whatever `work` returns; [`crate::Error::Unsupported`] on a device that has none, which is the default.
    fn with_stream(&self, what: &str, work: &mut dyn FnMut(*mut c_void) -> Result<()>) -> Result<()> {
        let _ = work;
        Err(crate::Error::Unsupported(format!("{what}: {} has no stream of NVIDIA's", self.caps().name)))
    }

    /// Records what `work` launches, without running it, as one graph that can be run many times. `work` must not
    /// allocate, copy from or to the host, or synchronise.
    ///
    /// # Errors
    /// Whatever `work` returns; [`crate::Error::Device`].
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Graph>>;

    /// Seconds that the device spends on `work` (by its own events), or `None` on a device that has no clock.
    ///
    /// # Errors
    /// Whatever `work` returns; [`crate::Error::Device`].
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>>;
}

/// Bytes on their way to the host.
pub trait Download: Send {
    /// Waits for them.
    ///
    /// # Errors
    /// [`crate::Error::Device`] for a fault of the work before.
    fn wait(self: Box<Self>) -> Result<Vec<u8>>;
}

/// Bytes that are there.
struct Arrived(Vec<u8>);

impl Download for Arrived {
    fn wait(self: Box<Self>) -> Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// Recorded launches.
pub trait Graph: Send + Sync {
    /// Queues them all.
    ///
    /// # Errors
    /// As for [`Device::launch`].
    fn launch(&self) -> Result<()>;
}

/// Device memory that is freed when dropped.
pub struct DeviceBuffer {
    device: Arc<dyn Device>,
    ptr: DevicePtr,
    bytes: usize,
}

impl DeviceBuffer {
    /// Allocates `bytes` of undefined contents.
    ///
    /// # Errors
    /// [`crate::Error::OutOfMemory`] naming `what`.
    pub fn new(device: &Arc<dyn Device>, what: &'static str, bytes: usize) -> Result<Self> {
        Ok(Self { device: device.clone(), ptr: device.alloc(what, bytes)?, bytes })
    }

    /// Allocates and fills.
    ///
    /// # Errors
    /// As for [`Device::alloc`] and [`Device::upload`].
    pub fn from_slice<T: bytemuck::NoUninit>(device: &Arc<dyn Device>, what: &'static str, data: &[T]) -> Result<Self> {
        let bytes: &[u8] = bytemuck::cast_slice(data);
        let buffer = Self::new(device, what, bytes.len())?;
        device.upload(bytes, buffer.ptr)?;
        Ok(buffer)
    }

    /// Copies the first elements back.
    ///
    /// # Errors
    /// As for [`Device::download`].
    ///
    /// # Panics
    /// When the buffer is shorter than `len` elements: a mistake of the caller.
    pub fn to_vec<T: bytemuck::Pod>(&self, len: usize) -> Result<Vec<T>> {
        let mut out = vec![T::zeroed(); len];
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut out);
        assert!(bytes.len() <= self.bytes, "{} bytes of a buffer of {}", bytes.len(), self.bytes);
        self.device.download(self.ptr, bytes)?;
        Ok(out)
    }

    /// Its address.
    pub fn ptr(&self) -> DevicePtr {
        self.ptr
    }

    /// Its size, in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for DeviceBuffer {
    fn drop(&mut self) {
        self.device.free(self.ptr);
    }
}
