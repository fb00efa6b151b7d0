//! NVIDIA GPUs, through the driver alone: no CUDA toolkit, no library but `libcuda`.
//!
//! One stream per device: copies, kernels, allocations and frees happen on it in the order in which they were asked
//! for, and nothing but downloads, timing and [`Device::synchronize`] waits for the GPU.

mod api;
mod graph;
mod landing;
mod modules;
mod peers;
mod staging;
mod survey;

use std::{
    ffi::{CStr, c_int, c_void},
    ptr::null_mut,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::ThreadId,
};

use cudarc::driver::sys::{CUcontext, CUdevice, CUevent, CUmemoryPool, CUstream};

pub use self::survey::{Survey, survey};

use self::{
    api::{Api, Library, Status},
    landing::Landing,
    modules::{Failure, Modules},
    staging::Staging,
};
use super::device::{Device, DeviceCaps, DevicePtr, Download, Graph, Launch};
use crate::{Error, Result};

/// CUDA 12.0, whose drivers are the first that compile PTX 8.0.
const OLDEST_DRIVER: c_int = 12_000;
/// `CU_STREAM_NON_BLOCKING`
const NON_BLOCKING: u32 = 1;
/// `CU_MEMPOOL_ATTR_RELEASE_THRESHOLD`
const RELEASE_THRESHOLD: c_int = 4;
/// What `cuDeviceGetAttribute` calls what we ask for.
const NUM_SMS: c_int = 16;
const COMPUTE_MAJOR: c_int = 75;
const COMPUTE_MINOR: c_int = 76;
const SHARED_OPT_IN: c_int = 97;
const HAS_POOLS: c_int = 115;

/// Opens GPU number `ordinal`, as `nvidia-smi` counts those that `CUDA_VISIBLE_DEVICES` leaves.
///
/// # Errors
/// [`Error::Device`] when there is no driver, no GPU, no GPU of that number, when the driver is too old for our PTX, or
/// the GPU has no memory left for a context: each says what was found and what to do.
pub fn open(ordinal: usize) -> Result<Arc<dyn Device>> {
    Ok(Arc::new(CudaDevice::open(ordinal)?))
}

/// Whether NVIDIA's driver is installed, for a choice that must not fail. A GPU that works is another matter.
pub fn is_driver_present() -> bool {
    Library::find().is_some()
}

/// A GPU that was opened.
pub struct CudaDevice(Arc<Inner>);

struct Inner {
    api: Api,
    caps: DeviceCaps,
    device: CUdevice,
    context: CUcontext,
    stream: CUstream,
    /// Where allocations come from, in the order of the stream; without one they wait for it.
    pool: Option<CUmemoryPool>,
    state: Mutex<State>,
}

// SAFETY: the handles are the driver's, which takes them from any thread; what changes is behind a lock.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

#[derive(Default)]
struct State {
    /// The thread that records a graph.
    recorder: Option<ThreadId>,
    /// What was freed while a graph was recorded, which would have recorded that too.
    freed: Vec<DevicePtr>,
    staging: Option<Staging>,
    /// Where nothing is under way to.
    landings: Vec<Landing>,
    modules: Modules,
    /// The kernel that was launched last: the one to suspect when a fault comes to light.
    last_kernel: String,
}

impl CudaDevice {
    /// As [`open`].
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(ordinal: usize) -> Result<Self> {
        let api = load_driver()?;
        let device = find_device(&api, ordinal)?;
        let name = device_name(&api, device);
        let failed = |what: &str, status| driver_error(&api, &name, what, status, "");
        let mut context = null_mut();
        // SAFETY: the device exists, and `context` may be written.
        unsafe { api.context_retain(&raw mut context, device) }.map_err(|status| {
            if status != Status::OUT_OF_MEMORY {
                return failed("opening it", status);
            }
            let message = format!(
                "GPU {ordinal} has too little free memory even to be opened\n\nhint: other processes hold it: \
                 `nvidia-smi` lists them; --device cpu needs no GPU"
            );
            Error::Device { device: name.clone(), message }
        })?;
        let caps = DeviceCaps {
            name: name.clone(),
            compute: (0, 0),
            num_sms: 0,
            max_shared_bytes: 0,
            total_bytes: 0,
            free_bytes: 0,
        };
        let state = Mutex::new(State::default());
        // From here on whatever was taken is given back when `inner` is dropped.
        let mut inner = Inner { api, caps, device, context, stream: null_mut(), pool: None, state };
        inner.prepare().map_err(|(what, status)| driver_error(&inner.api, &name, what, status, ""))?;
        Ok(Self(Arc::new(inner)))
    }
}

/// The driver's entry points, ready to be called.
fn load_driver() -> Result<Api> {
    let failed = |message: String, hint: &str| Error::Device {
        device: "cuda".into(),
        message: format!("{message}\n\nhint: {hint}; --device cpu needs no GPU"),
    };
    let library = Library::find().ok_or_else(|| {
        let message = "NVIDIA's driver is not installed here: libcuda.so.1 was not found";
        failed(message.into(), "install driver R525 or later (in a container: start it with `--gpus all`)")
    })?;
    let update = "update the driver to R525 or later, which can compile our PTX 8.0";
    let version = library.version().unwrap_or(0);
    if version < OLDEST_DRIVER {
        let (major, minor) = (version / 1000, version % 1000 / 10);
        let found = format!("NVIDIA's driver is too old: it supports CUDA up to {major}.{minor}, and 12.0 is needed");
        return Err(failed(found, update));
    }
    let missing = |symbol| failed(format!("NVIDIA's driver has no entry point {symbol}"), update);
    let api = Api::load(&library).map_err(missing)?;
    // SAFETY: may be called at any time, any number of times.
    unsafe { api.init(0) }.map_err(|status| driver_error(&api, "cuda", "starting NVIDIA's driver", status, ""))?;
    Ok(api)
}

fn find_device(api: &Api, ordinal: usize) -> Result<CUdevice> {
    let failed = |what: &str, status| driver_error(api, "cuda", what, status, "");
    let mut count = 0;
    // SAFETY: the driver is initialised, `count` may be written.
    unsafe { api.device_count(&raw mut count) }.map_err(|status| failed("counting GPUs", status))?;
    if count == 0 {
        return Err(failed("counting GPUs", Status::NO_DEVICE));
    }
    let get = |ordinal: c_int| {
        let mut device = 0;
        // SAFETY: the driver is initialised, `device` may be written; a wrong ordinal is an error.
        unsafe { api.device_get(&raw mut device, ordinal) }.map(|()| device)
    };
    match c_int::try_from(ordinal).ok().filter(|ordinal| *ordinal < count) {
        Some(ordinal) => get(ordinal).map_err(|status| failed("finding the GPU", status)),
        None => {
            let names =
                (0..count).filter_map(|i| get(i).ok().map(|device| format!("{i}: {}", device_name(api, device))));
            let names = names.collect::<Vec<_>>().join(", ");
            let message = format!("there is no GPU {ordinal}; there are {names}\n\nhint: numbers start at 0");
            Err(Error::Device { device: "cuda".into(), message })
        }
    }
}

fn device_name(api: &Api, device: CUdevice) -> String {
    let mut name = [0; 256];
    // SAFETY: the device exists, and the name has the room that is said.
    if unsafe { api.device_name(name.as_mut_ptr(), name.len() as c_int - 1, device) }.is_err() {
        return "an NVIDIA GPU".into();
    }
    // SAFETY: the last byte is NUL whatever the driver wrote before it.
    unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned()
}

/// An error in the driver's words, and ours.
fn driver_error(api: &Api, device: &str, what: &str, status: Status, last_kernel: &str) -> Error {
    let mut message = format!("{what}: {}", api.describe(status));
    if status.is_fault() && !last_kernel.is_empty() {
        message += &format!("; a kernel did what it must not, {last_kernel} or one before it; the device is lost");
    }
    if let Some(hint) = status.hint() {
        message += &format!("\n\nhint: {hint}");
    }
    Error::Device { device: device.into(), message }
}

impl Inner {
    /// Makes the stream and asks what the device can do.
    fn prepare(&mut self) -> Result<(), (&'static str, Status)> {
        // SAFETY: the context was retained.
        unsafe { self.api.context_set_current(self.context) }.map_err(|e| ("entering its context", e))?;
        // SAFETY: a context is current, and the stream may be written.
        unsafe { self.api.stream_create(&raw mut self.stream, NON_BLOCKING) }.map_err(|e| ("making a stream", e))?;
        let attribute = |which| {
            let mut value: c_int = 0;
            // SAFETY: the device exists, and `value` may be written.
            let result = unsafe { self.api.device_attribute(&raw mut value, which, self.device) };
            result.map(|()| u32::try_from(value).unwrap_or(0)).map_err(|e| ("asking what it can do", e))
        };
        let compute = (attribute(COMPUTE_MAJOR)?, attribute(COMPUTE_MINOR)?);
        let (num_sms, max_shared_bytes) = (attribute(NUM_SMS)?, attribute(SHARED_OPT_IN)?);
        let has_pools = attribute(HAS_POOLS)? != 0;
        let (mut free, mut total, mut of_device) = (0, 0, 0);
        // SAFETY: a context is current, and the numbers may be written.
        unsafe { self.api.mem_info(&raw mut free, &raw mut total) }.map_err(|e| ("asking for its memory", e))?;
        // SAFETY: the device exists, and the number may be written.
        unsafe { self.api.device_total_mem(&raw mut of_device, self.device) }
            .map_err(|e| ("asking for its memory", e))?;
        self.caps = DeviceCaps {
            name: std::mem::take(&mut self.caps.name),
            compute,
            num_sms,
            max_shared_bytes,
            total_bytes: of_device as u64,
            free_bytes: free as u64,
        };
        if has_pools {
            let mut pool = null_mut();
            // SAFETY: the device exists and has pools; `pool` may be written.
            unsafe { self.api.device_default_pool(&raw mut pool, self.device) }
                .map_err(|e| ("finding its memory pool", e))?;
            // What was freed is kept for the next allocation.
            let mut threshold = u64::MAX;
            // SAFETY: this attribute is a 64-bit number.
            unsafe { self.api.pool_set_attribute(pool, RELEASE_THRESHOLD, (&raw mut threshold).cast()) }
                .map_err(|e| ("setting up its memory pool", e))?;
            self.pool = Some(pool);
        }
        Ok(())
    }

    /// Makes the context this thread's and the state ours. `what` may be done while a graph is recorded only by the
    /// thread that records it, and only if it `is_recordable`.
    fn enter(&self, what: &str, is_recordable: bool) -> Result<MutexGuard<'_, State>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the context is retained until the device is dropped.
        unsafe { self.api.context_set_current(self.context) }.map_err(|status| self.error(&state, what, status))?;
        match state.recorder {
            Some(thread) if !is_recordable || thread != std::thread::current().id() => {
                Err(self.refusal(format!("{what}: not while a graph is being recorded")))
            }
            _ => Ok(state),
        }
    }

    fn error(&self, state: &State, what: &str, status: Status) -> Error {
        driver_error(&self.api, &self.caps.name, what, status, &state.last_kernel)
    }

    fn refusal(&self, message: String) -> Error {
        Error::Device { device: self.caps.name.clone(), message }
    }

    /// The error of `what`, outside the lock.
    fn late_error(&self, what: &str, status: Status) -> Error {
        self.error(&self.state.lock().unwrap_or_else(PoisonError::into_inner), what, status)
    }

    /// Allocates; on a device with a pool after the work queued before, and without waiting for it.
    fn try_alloc(&self, bytes: usize) -> Result<DevicePtr, Status> {
        let mut ptr = 0;
        match self.pool {
            // SAFETY: the context is current, the stream alive, and `ptr` may be written.
            Some(_) => unsafe { self.api.mem_alloc_async(&raw mut ptr, bytes, self.stream) },
            // SAFETY: as above.
            None => unsafe { self.api.mem_alloc(&raw mut ptr, bytes) },
        }
        .map(|()| ptr)
    }

    fn release(&self, ptr: DevicePtr) {
        // An error is that of earlier work, which the next call reports.
        match self.pool {
            // SAFETY: the context is current, and `ptr` one of our allocations; any other number is an error.
            Some(_) => unsafe { self.api.mem_free_async(ptr, self.stream) },
            // SAFETY: as above; this form waits for the device by itself.
            None => unsafe { self.api.mem_free(ptr) },
        }
        .ok();
    }

    /// Waits for the stream, without keeping other threads from queueing.
    fn wait(&self, what: &str) -> Result<()> {
        // SAFETY: the context is current and the stream alive.
        unsafe { self.api.stream_synchronize(self.stream) }.map_err(|status| self.late_error(what, status))
    }

    fn event(&self, what: &str) -> Result<Event<'_>> {
        let mut event = Event { inner: self, handle: null_mut() };
        // SAFETY: the context is current, and the event may be written.
        unsafe { self.api.event_create(&raw mut event.handle, 0) }.map_err(|e| self.late_error(what, e))?;
        Ok(event)
    }
}

impl Drop for Inner {
    /// Waits and gives everything back; what fails here cannot be told to anybody.
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the context was retained, and nobody else has this device any more: handles below are used for the
        // last time. A null stream was never made, and synchronising it would wait for another one.
        unsafe {
            if self.api.context_set_current(self.context).is_ok() && !self.stream.is_null() {
                self.api.stream_synchronize(self.stream).ok();
                if let Some(staging) = &mut state.staging {
                    staging.free(&self.api);
                }
                state.landings.iter_mut().for_each(|landing| landing.free(&self.api));
                state.modules.free(&self.api);
                self.api.stream_destroy(self.stream).ok();
            }
            self.api.context_release(self.device).ok();
        }
    }
}

/// A mark on the stream.
struct Event<'a> {
    inner: &'a Inner,
    handle: CUevent,
}

impl Event<'_> {
    fn record(&self) -> Result<()> {
        // SAFETY: the event and the stream are alive, in the current context.
        let result = unsafe { self.inner.api.event_record(self.handle, self.inner.stream) };
        result.map_err(|status| self.inner.late_error("marking a time", status))
    }

    /// Waits for this event, which is behind `start`; seconds between the two.
    fn seconds_since(&self, start: &Self) -> Result<f64> {
        let api = &self.inner.api;
        let mut milliseconds = 0.0;
        // SAFETY: both events were recorded and have their clocks; the number may be written.
        let result = unsafe {
            api.event_synchronize(self.handle)
                .and_then(|()| api.event_elapsed(&raw mut milliseconds, start.handle, self.handle))
        };
        result.map_err(|status| self.inner.late_error("timing", status))?;
        Ok(f64::from(milliseconds) * 1e-3)
    }
}

impl Drop for Event<'_> {
    fn drop(&mut self) {
        if !self.handle.is_null() {
            // SAFETY: made by `Inner::event`, and not used any more.
            unsafe { self.inner.api.event_destroy(self.handle) }.ok();
        }
    }
}

impl Device for CudaDevice {
    fn caps(&self) -> &DeviceCaps {
        &self.0.caps
    }

    fn alloc(&self, what: &'static str, bytes: usize) -> Result<DevicePtr> {
        let inner = &*self.0;
        let state = inner.enter("allocating", false)?;
        if bytes == 0 {
            return Ok(0);
        }
        let mut result = Err(Status::OUT_OF_MEMORY);
        if bytes as u64 <= inner.caps.total_bytes {
            result = inner.try_alloc(bytes);
        }
        if let (Err(Status::OUT_OF_MEMORY), Some(pool)) = (result, inner.pool) {
            // What was freed may be in pieces, or be waited for.
            // SAFETY: the context is current, stream and pool are alive.
            let trimmed =
                unsafe { inner.api.stream_synchronize(inner.stream).and_then(|()| inner.api.pool_trim(pool, 0)) };
            if trimmed.is_ok() && bytes as u64 <= inner.caps.total_bytes {
                result = inner.try_alloc(bytes);
            }
        }
        result.map_err(|status| {
            if status != Status::OUT_OF_MEMORY {
                return inner.error(&state, &format!("allocating {bytes} bytes for {what}"), status);
            }
            let (mut free, mut total) = (0, 0);
            // SAFETY: the context is current, and the numbers may be written.
            unsafe { inner.api.mem_info(&raw mut free, &raw mut total) }.ok();
            let device = format!("{} ({} of {} MiB are free)", inner.caps.name, free >> 20, total >> 20);
            Error::OutOfMemory { what, bytes, device }
        })
    }

    fn free(&self, ptr: DevicePtr) {
        if ptr == 0 {
            return;
        }
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.recorder.is_some() {
            state.freed.push(ptr);
            return;
        }
        // SAFETY: the context is retained until the device is dropped.
        if unsafe { self.0.api.context_set_current(self.0.context) }.is_ok() {
            self.0.release(ptr);
        }
    }

    fn upload(&self, from: &[u8], to: DevicePtr) -> Result<()> {
        let inner = &*self.0;
        let mut state = inner.enter("copying to the GPU", false)?;
        let mut staging = match state.staging.take() {
            Some(staging) => staging,
            None => Staging::new(&inner.api).map_err(|e| inner.error(&state, "page-locked memory for copies", e))?,
        };
        let result = staging.upload(&inner.api, inner.stream, from, to);
        state.staging = Some(staging);
        result.map_err(|status| inner.error(&state, &format!("copying {} bytes to the GPU", from.len()), status))
    }

    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        let inner = &*self.0;
        let state = inner.enter("copying from the GPU", false)?;
        if to.is_empty() {
            return Ok(());
        }
        let what = format!("copying {} bytes from the GPU", to.len());
        // SAFETY: `to` may be written and is borrowed until the stream was waited for, below.
        let queued = unsafe { inner.api.copy_to_host(to.as_mut_ptr().cast(), from, to.len(), inner.stream) };
        let queued = queued.map_err(|status| inner.error(&state, &what, status));
        drop(state);
        // Also after an error: nothing may write to `to` once it is the caller's again.
        let waited = inner.wait(&what);
        queued.and(waited)
    }

    fn queue_download(&self, from: DevicePtr, bytes: usize) -> Result<Box<dyn Download>> {
        self.0.queue_download(from, bytes)
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        let inner = &*self.0;
        let state = inner.enter("copying on the GPU", true)?;
        if bytes == 0 {
            return Ok(());
        }
        // SAFETY: addresses of the device, where a copy that leaves its allocations is an error of the device.
        unsafe { inner.api.copy(to, from, bytes, inner.stream) }
            .map_err(|status| inner.error(&state, &format!("copying {bytes} bytes on the GPU"), status))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        let inner = &*self.0;
        let mut state = inner.enter("launching a kernel", true)?;
        let State { modules, last_kernel, .. } = &mut *state;
        let Launch { module, kernel: name, grid, block, shared_bytes, args } = *launch;
        let kernel = modules.kernel(&inner.api, module, name, shared_bytes, inner.caps.max_shared_bytes);
        let result = kernel.and_then(|kernel| {
            kernel.check(name, args)?;
            let mut words: Vec<[u8; 8]> = args.iter().map(modules::arg_word).collect();
            let mut params: Vec<*mut c_void> = words.iter_mut().map(|word| word.as_mut_ptr().cast()).collect();
            let ([gx, gy, gz], [bx, by, bz]) = (grid, block);
            // SAFETY: the function is loaded in the current context; there are as many parameters, of the same sizes, as
            // it takes, and the driver has copied them when the call returns. What the kernel does with addresses
            // stays on the device.
            let status = unsafe {
                inner.api.launch_kernel(
                    kernel.handle,
                    gx,
                    gy,
                    gz,
                    bx,
                    by,
                    bz,
                    shared_bytes,
                    inner.stream,
                    params.as_mut_ptr(),
                    null_mut(),
                )
            };
            status.map_err(|status| {
                let shape = format!("{grid:?} blocks of {block:?} threads with {shared_bytes} bytes of shared memory");
                Failure::Driver(format!("launching {name} as {shape}"), status)
            })
        });
        match result {
            Ok(()) => {
                if last_kernel != name {
                    name.clone_into(last_kernel);
                }
                Ok(())
            }
            Err(Failure::Driver(what, status)) => Err(inner.error(&state, &what, status)),
            Err(Failure::Ours(message)) => Err(inner.refusal(message)),
        }
    }

    fn synchronize(&self) -> Result<()> {
        drop(self.0.enter("waiting for the GPU", false)?);
        self.0.wait("waiting for the GPU")
    }

    fn free_bytes(&self) -> Result<u64> {
        let what = "asking for its memory";
        let inner = &*self.0;
        let state = inner.enter(what, false)?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the context is current, and the numbers may be written.
        unsafe { inner.api.mem_info(&raw mut free, &raw mut total) }
            .map_err(|status| inner.error(&state, what, status))?;
        Ok(free as u64)
    }

    fn share_memory_with(&self, ordinals: &[usize]) -> Result<()> {
        self.0.share_memory_with(ordinals)
    }

    fn with_stream(&self, what: &str, work: &mut dyn FnMut(*mut c_void) -> Result<()>) -> Result<()> {
        // The context is this thread's, and nothing else is queued meanwhile.
        let _state = self.0.enter(what, false)?;
        work(self.0.stream.cast())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Graph>> {
        self.0.capture(work)
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        let inner = &*self.0;
        drop(inner.enter("timing", false)?);
        let (start, end) = (inner.event("timing")?, inner.event("timing")?);
        start.record()?;
        work()?;
        drop(inner.enter("timing", false)?);
        end.record()?;
        Ok(Some(end.seconds_since(&start)?))
    }
}
