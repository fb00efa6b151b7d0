//! The entry points of NVIDIA's driver that we call, found at run time.
//!
//! `cudarc` finds the library and names its types. Its own wrappers are not used: they panic where an entry point is
//! missing, and read status codes as an `enum`, which a code of a newer driver would make undefined behaviour.

use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

use cudarc::driver::sys::{
    self, CUcontext, CUdevice, CUdeviceptr, CUevent, CUfunction, CUgraph, CUgraphExec, CUmemAccessDesc, CUmemoryPool,
    CUmodule, CUstream,
};

/// A status that is not success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Status(pub c_int);

impl Status {
    pub const OUT_OF_MEMORY: Self = Self(2);
    pub const STUB_LIBRARY: Self = Self(34);
    pub const DEVICE_UNAVAILABLE: Self = Self(46);
    pub const NO_DEVICE: Self = Self(100);
    pub const NO_BINARY_FOR_GPU: Self = Self(209);
    pub const ECC_UNCORRECTABLE: Self = Self(214);
    pub const INVALID_PTX: Self = Self(218);
    pub const UNSUPPORTED_PTX_VERSION: Self = Self(222);
    pub const NOT_FOUND: Self = Self(500);
    pub const ILLEGAL_ADDRESS: Self = Self(700);
    pub const LAUNCH_TIMEOUT: Self = Self(702);
    /// Device-side assertion, and what follows it up to [`Status::LAUNCH_FAILED`]: faults of a kernel.
    pub const ASSERT: Self = Self(710);
    pub const LAUNCH_FAILED: Self = Self(719);
    pub const SYSTEM_NOT_READY: Self = Self(802);
    pub const SYSTEM_DRIVER_MISMATCH: Self = Self(803);

    /// Whether a kernel did what it must not, after which the context is lost.
    pub fn is_fault(self) -> bool {
        self == Self::ILLEGAL_ADDRESS || (Self::ASSERT.0..=Self::LAUNCH_FAILED.0).contains(&self.0)
    }

    /// What can be done about it, where something can.
    pub fn hint(self) -> Option<&'static str> {
        Some(match self {
            Self::STUB_LIBRARY => {
                "the libcuda.so found is the CUDA toolkit's stub for linking: take its folder out of LD_LIBRARY_PATH"
            }
            Self::NO_DEVICE => {
                "`nvidia-smi` should list a GPU; look at CUDA_VISIBLE_DEVICES, and in a container at `--gpus all`"
            }
            Self::DEVICE_UNAVAILABLE => "another process has the GPU for itself; `nvidia-smi` shows which",
            Self::INVALID_PTX | Self::UNSUPPORTED_PTX_VERSION | Self::NO_BINARY_FOR_GPU => {
                "the kernels are PTX 8.0, for drivers from R525 on and GPUs from Ampere on: update the driver"
            }
            Self::ECC_UNCORRECTABLE => "the GPU's memory is damaged or was hit by radiation: reset it",
            Self::LAUNCH_TIMEOUT => "the GPU also drives a display, which stops long kernels: use another GPU",
            Self::SYSTEM_NOT_READY => "on this machine GPUs need the fabric manager: start nvidia-fabricmanager",
            Self::SYSTEM_DRIVER_MISMATCH => "the driver was updated without its kernel module: reboot",
            status if status.is_fault() => {
                "this is a bug of ours: the kernel left its buffers or met an impossible state; \
                 `compute-sanitizer` before the command line shows where"
            }
            _ => return None,
        })
    }
}

/// Declares [`Api`]: a field and a method for each entry point.
macro_rules! api {
    ($($method:ident = $symbol:literal ($($arg:ident: $type:ty),*);)*) => {
        /// The entry points.
        pub(super) struct Api {
            $($method: unsafe extern "C" fn($($type),*) -> c_int,)*
        }

        impl Api {
            /// Looks them all up.
            ///
            /// # Errors
            /// The name of the first that the library has not.
            pub fn load(library: &Library) -> Result<Self, &'static str> {
                Ok(Self { $($method: library.get($symbol)?,)* })
            }

            $(
                #[doc = concat!("`", $symbol, "`")]
                ///
                /// # Safety
                /// As the driver's manual says of it.
                #[allow(clippy::too_many_arguments)]
                pub unsafe fn $method(&self, $($arg: $type),*) -> Result<(), Status> {
                    // SAFETY: the caller keeps the conditions of this entry point.
                    match unsafe { (self.$method)($($arg),*) } {
                        0 => Ok(()),
                        code => Err(Status(code)),
                    }
                }
            )*
        }
    };
}

api! {
    init = "cuInit"(flags: c_uint);
    error_name = "cuGetErrorName"(code: c_int, text: *mut *const c_char);
    error_string = "cuGetErrorString"(code: c_int, text: *mut *const c_char);
    device_count = "cuDeviceGetCount"(count: *mut c_int);
    device_get = "cuDeviceGet"(device: *mut CUdevice, ordinal: c_int);
    device_name = "cuDeviceGetName"(name: *mut c_char, len: c_int, device: CUdevice);
    device_attribute = "cuDeviceGetAttribute"(value: *mut c_int, attribute: c_int, device: CUdevice);
    device_total_mem = "cuDeviceTotalMem_v2"(bytes: *mut usize, device: CUdevice);
    device_default_pool = "cuDeviceGetDefaultMemPool"(pool: *mut CUmemoryPool, device: CUdevice);
    can_access_peer = "cuDeviceCanAccessPeer"(answer: *mut c_int, device: CUdevice, peer: CUdevice);
    context_retain = "cuDevicePrimaryCtxRetain"(context: *mut CUcontext, device: CUdevice);
    context_release = "cuDevicePrimaryCtxRelease_v2"(device: CUdevice);
    context_set_current = "cuCtxSetCurrent"(context: CUcontext);
    pool_set_attribute = "cuMemPoolSetAttribute"(pool: CUmemoryPool, attribute: c_int, value: *mut c_void);
    pool_set_access = "cuMemPoolSetAccess"(pool: CUmemoryPool, access: *const CUmemAccessDesc, count: usize);
    pool_trim = "cuMemPoolTrimTo"(pool: CUmemoryPool, keep: usize);
    mem_info = "cuMemGetInfo_v2"(free: *mut usize, total: *mut usize);
    mem_alloc = "cuMemAlloc_v2"(ptr: *mut CUdeviceptr, bytes: usize);
    mem_free = "cuMemFree_v2"(ptr: CUdeviceptr);
    mem_alloc_async = "cuMemAllocAsync"(ptr: *mut CUdeviceptr, bytes: usize, stream: CUstream);
    mem_free_async = "cuMemFreeAsync"(ptr: CUdeviceptr, stream: CUstream);
    host_alloc = "cuMemHostAlloc"(ptr: *mut *mut c_void, bytes: usize, flags: c_uint);
    host_free = "cuMemFreeHost"(ptr: *mut c_void);
    copy_to_device = "cuMemcpyHtoDAsync_v2"(to: CUdeviceptr, from: *const c_void, bytes: usize, stream: CUstream);
    copy_to_host = "cuMemcpyDtoHAsync_v2"(to: *mut c_void, from: CUdeviceptr, bytes: usize, stream: CUstream);
    copy = "cuMemcpyDtoDAsync_v2"(to: CUdeviceptr, from: CUdeviceptr, bytes: usize, stream: CUstream);
    stream_create = "cuStreamCreate"(stream: *mut CUstream, flags: c_uint);
    stream_destroy = "cuStreamDestroy_v2"(stream: CUstream);
    stream_synchronize = "cuStreamSynchronize"(stream: CUstream);
    stream_begin_capture = "cuStreamBeginCapture_v2"(stream: CUstream, mode: c_int);
    stream_end_capture = "cuStreamEndCapture"(stream: CUstream, graph: *mut CUgraph);
    graph_instantiate = "cuGraphInstantiateWithFlags"(exec: *mut CUgraphExec, graph: CUgraph, flags: c_ulonglong);
    graph_launch = "cuGraphLaunch"(exec: CUgraphExec, stream: CUstream);
    graph_destroy = "cuGraphDestroy"(graph: CUgraph);
    graph_exec_destroy = "cuGraphExecDestroy"(exec: CUgraphExec);
    event_create = "cuEventCreate"(event: *mut CUevent, flags: c_uint);
    event_destroy = "cuEventDestroy_v2"(event: CUevent);
    event_record = "cuEventRecord"(event: CUevent, stream: CUstream);
    event_synchronize = "cuEventSynchronize"(event: CUevent);
    event_elapsed = "cuEventElapsedTime"(milliseconds: *mut f32, start: CUevent, end: CUevent);
    module_load = "cuModuleLoadDataEx"(
        module: *mut CUmodule, image: *const c_void, count: c_uint, options: *mut c_int, values: *mut *mut c_void
    );
    module_unload = "cuModuleUnload"(module: CUmodule);
    module_function = "cuModuleGetFunction"(function: *mut CUfunction, module: CUmodule, name: *const c_char);
    function_attribute = "cuFuncGetAttribute"(value: *mut c_int, attribute: c_int, function: CUfunction);
    function_set_attribute = "cuFuncSetAttribute"(function: CUfunction, attribute: c_int, value: c_int);
    launch_kernel = "cuLaunchKernel"(
        function: CUfunction, grid_x: c_uint, grid_y: c_uint, grid_z: c_uint, block_x: c_uint, block_y: c_uint,
        block_z: c_uint, shared_bytes: c_uint, stream: CUstream, params: *mut *mut c_void, extra: *mut *mut c_void
    );
}

impl Api {
    /// `CUDA_ERROR_X: what it means`, in the driver's words.
    pub fn describe(&self, status: Status) -> String {
        let text = |read: &dyn Fn(*mut *const c_char) -> Result<(), Status>| {
            let mut text = std::ptr::null();
            let known = read(&raw mut text).is_ok() && !text.is_null();
            // SAFETY: on success it points to a constant of the driver that ends with NUL.
            known.then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
        };
        // SAFETY: the driver takes any code, and the pointer that it writes to is ours.
        let name = text(&|text| unsafe { self.error_name(status.0, text) });
        // SAFETY: as above.
        let string = text(&|text| unsafe { self.error_string(status.0, text) });
        match (name, string) {
            (Some(name), Some(text)) => format!("{name}: {text}"),
            (Some(name), None) => name,
            _ => format!("CUDA error {}", status.0),
        }
    }
}

/// The driver's library.
pub(super) struct Library(());

impl Library {
    /// Loads it, where there is one.
    pub fn find() -> Option<Self> {
        // SAFETY: loading NVIDIA's driver runs its initialisers, which have no preconditions.
        unsafe { sys::is_culib_present() }.then_some(Self(()))
    }

    /// The CUDA version that the driver was made for, e.g. 12040, or `None` where it does not say.
    pub fn version(&self) -> Option<c_int> {
        let get: unsafe extern "C" fn(*mut c_int) -> c_int = self.get("cuDriverGetVersion").ok()?;
        let mut version = 0;
        // SAFETY: may be called before anything else; `version` may be written.
        (unsafe { get(&raw mut version) } == 0).then_some(version)
    }

    /// The function called `symbol`, which must have type `F`: one of those in [`Api`], from `cuda.h`.
    fn get<F: Copy>(&self, symbol: &'static str) -> Result<F, &'static str> {
        // SAFETY: present, or else there would be no `self`; the library stays loaded until the process ends.
        let library = unsafe { sys::culib() };
        // SAFETY: the types of the table are those of `cuda.h`, whose versioned symbols never change.
        unsafe { library.get::<F>(symbol.as_bytes()) }.map(|symbol| *symbol).map_err(|_| symbol)
    }
}
