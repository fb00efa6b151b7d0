//! NVIDIA's library for collectives between GPUs, found at run time.

use std::ffi::c_int;

/// Names to look for, as the dynamic linker looks.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];

/// Version of the library, e.g. `(2, 21, 5)`; `None` where there is none.
pub fn version() -> Option<(u32, u32, u32)> {
    // SAFETY: the library's initialisers are NVIDIA's; nothing but loading is asked of them.
    let library = NAMES.into_iter().find_map(|name| unsafe { libloading::Library::new(name) }.ok())?;
    // SAFETY: the signature is that of `nccl.h`: `ncclResult_t ncclGetVersion(int *version)`.
    let get = unsafe { library.get::<unsafe extern "C" fn(*mut c_int) -> c_int>(b"ncclGetVersion\0") }.ok()?;
    let mut version: c_int = 0;
    // SAFETY: `version` may be written.
    if unsafe { get(&raw mut version) } != 0 {
        return None;
    }
    let version = u32::try_from(version).ok()?;
    // 10000 a major version since 2.9, 1000 before.
    let major = if version >= 10_000 { 10_000 } else { 1000 };
    Some((version / major, version % major / 100, version % 100))
}
