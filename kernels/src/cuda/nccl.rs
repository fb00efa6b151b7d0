//! NVIDIA's library for collectives between GPUs, found at run time: how GPUs that share a model exchange activations.
//!
//! As with the driver, `cudarc` names the types and its wrappers are not used.

use std::{
    ffi::{CStr, c_char, c_int, c_void},
    ptr::null_mut,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use cudarc::nccl::sys::{ncclComm_t, ncclDataType_t};
use libloading::Library;

use super::{
    CudaTensor, Peer,
    device::{Device, DeviceBuffer},
    rendezvous::Rendezvous,
};
use crate::{Error, Result};

/// Names to look for, as the dynamic linker looks.
const NAMES: [&str; 2] = ["libnccl.so.2", "libnccl.so"];
/// Bytes of first exchanges. NCCL chooses between ways of exchanging by size, and from 2.22 on connects each when it is first
/// taken (its release notes, and `NCCL_RUNTIME_CONNECT`).
const FIRST_EXCHANGES: [usize; 3] = [1, 64 << 10, 8 << 20];

/// Version of the library, e.g. `(2, 21, 5)`; `None` where there is none.
pub fn version() -> Option<(u32, u32, u32)> {
    let library = find()?;
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

fn find() -> Option<Library> {
    // SAFETY: the library's initialisers are NVIDIA's; nothing but loading is asked of them.
    NAMES.into_iter().find_map(|name| unsafe { Library::new(name) }.ok())
}

/// The GPUs `devices`, which the driver counts from `first` on, as a group.
///
/// # Errors
/// [`Error::Device`] where NCCL is not installed or refuses: each says what was found and what to do.
pub fn group(devices: &[Arc<dyn Device>], first: usize) -> Result<Vec<Communicator>> {
    let api = Api::load()?;
    let members: Vec<usize> = (first..first + devices.len()).collect();
    devices.iter().try_for_each(|device| device.share_memory_with(&members))?;
    let ordinals: Vec<c_int> = members.iter().map(|ordinal| *ordinal as c_int).collect();
    let mut handles: Vec<ncclComm_t> = vec![null_mut(); devices.len()];
    // SAFETY: there are as many handles and ordinals as is said, and the handles may be written.
    let made = unsafe { (api.init_all)(handles.as_mut_ptr(), ordinals.len() as c_int, ordinals.as_ptr()) };
    api.check("making a group of GPUs", made)?;
    let comms = handles.into_iter().map(|handle| Mutex::new(Some(Handle(handle)))).collect();
    let point = Rendezvous::new(devices.len());
    let group = Arc::new(Group { api, comms, devices: devices.to_vec(), point });
    FIRST_EXCHANGES.into_iter().try_for_each(|bytes| group.connect(bytes))?;
    Ok((0..devices.len()).map(|rank| Communicator { rank, group: group.clone() }).collect())
}

/// A GPU's place in a group.
pub struct Communicator {
    rank: usize,
    group: Arc<Group>,
}

/// All places of a group. They end together: a GPU that is waited for in vain would keep the others busy forever.
struct Group {
    api: Api,
    /// `None` once the group has ended.
    comms: Vec<Mutex<Option<Handle>>>,
    /// Their contexts must outlive the communicators.
    devices: Vec<Arc<dyn Device>>,
    /// Where the members' threads meet before and after each exchange is queued.
    point: Rendezvous,
}

struct Handle(ncclComm_t);

// SAFETY: a communicator may be used by any thread, one at a time: it is behind a lock.
unsafe impl Send for Handle {}

impl Group {
    /// A first exchange of `bytes` by all. Connections are made here, so that no later exchange waits for others on the host,
    /// where it could not be ended.
    fn connect(&self, bytes: usize) -> Result<()> {
        let buffer = |bytes| move |device| DeviceBuffer::new(device, "connecting GPUs", bytes);
        let parts = self.devices.iter().map(buffer(bytes)).collect::<Result<Vec<_>>>()?;
        let all = self.devices.iter().map(buffer(bytes * self.devices.len())).collect::<Result<Vec<_>>>()?;
        // SAFETY: takes nothing; calls until `group_end` are queued by it together.
        self.api.check("connecting GPUs", unsafe { (self.api.group_start)() })?;
        let queued = self.devices.iter().enumerate().try_for_each(|(rank, device)| {
            // SAFETY: the buffers have the room for the part of one and of all, and live until the streams are waited for.
            unsafe { self.queue(rank, &**device, parts[rank].ptr(), all[rank].ptr(), bytes) }
        });
        // SAFETY: after `group_start`, by the same thread.
        self.api.check("connecting GPUs", unsafe { (self.api.group_end)() }).and(queued)?;
        self.devices.iter().try_for_each(|device| device.synchronize())
    }

    /// Queues an exchange of `bytes` of the member `rank`, on its device.
    ///
    /// # Safety
    /// `from` has so many bytes, `to` as many for each member, on `device`, until the stream is done with them.
    unsafe fn queue(&self, rank: usize, device: &dyn Device, from: u64, to: u64, bytes: usize) -> Result<()> {
        let comm = self.comm(rank);
        let Some(Handle(comm)) = *comm else { return Err(Error::GroupEnded) };
        let what = "exchanging activations with other GPUs";
        device.with_stream(what, &mut |stream| {
            let (from, to) = (from as *const c_void, to as *mut c_void);
            // SAFETY: as the caller says; the communicator has not ended, and the stream is its device's.
            self.api
                .check(what, unsafe { (self.api.all_gather)(from, to, bytes, ncclDataType_t::ncclUint8, comm, stream) })
        })
    }

    fn comm(&self, rank: usize) -> MutexGuard<'_, Option<Handle>> {
        self.comms[rank].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Peer for Communicator {
    fn count(&self) -> usize {
        self.group.comms.len()
    }

    fn all_gather(&self, device: &dyn Device, x: &CudaTensor, out: &mut CudaTensor) -> Result<()> {
        let bytes = x.rows * x.stride_bytes();
        if bytes == 0 {
            return Ok(());
        }
        // A kernel that waits for its peers keeps its GPU busy until the last of them is queued. What the others do before
        // that must not wait for this GPU, as allocating, page-locking and loading kernels may: between the two meetings
        // nobody does any of it.
        self.group.point.meet()?;
        // SAFETY: the caller has checked that `out` has the rows of all; memory is reused only by work queued later.
        unsafe { self.group.queue(self.rank, device, x.ptr(), out.ptr(), bytes) }?;
        self.group.point.meet()
    }

    /// Threads and kernels that wait for others return.
    fn end(&self) {
        self.group.point.end();
        for rank in 0..self.group.comms.len() {
            if let Some(Handle(comm)) = self.group.comm(rank).take() {
                // SAFETY: nobody has the communicator any more. Its error could not be told to anybody.
                unsafe { (self.group.api.abort)(comm) };
            }
        }
    }
}

impl Drop for Group {
    /// Gives the communicators back, once their work is done; what fails here cannot be told to anybody.
    fn drop(&mut self) {
        for (comm, device) in self.comms.iter_mut().zip(&self.devices) {
            if let Some(Handle(comm)) = comm.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
                device.synchronize().ok();
                // SAFETY: nobody has the communicator any more, and its device is still open.
                unsafe { (self.api.destroy)(comm) };
            }
        }
    }
}

/// The entry points that we call. A status is a number: reading one of a newer library as an `enum` would be undefined.
struct Api {
    init_all: unsafe extern "C" fn(*mut ncclComm_t, c_int, *const c_int) -> c_int,
    all_gather:
        unsafe extern "C" fn(*const c_void, *mut c_void, usize, ncclDataType_t, ncclComm_t, *mut c_void) -> c_int,
    group_start: unsafe extern "C" fn() -> c_int,
    group_end: unsafe extern "C" fn() -> c_int,
    abort: unsafe extern "C" fn(ncclComm_t) -> c_int,
    destroy: unsafe extern "C" fn(ncclComm_t) -> c_int,
    error_string: unsafe extern "C" fn(c_int) -> *const c_char,
    /// Where they are.
    _library: Library,
}

impl Api {
    fn load() -> Result<Self> {
        let failed = |message: String, hint: &str| {
            let alone = "a model that fits one GPU needs none: --tensor-parallel-size 1";
            Err(Error::Device { device: "nccl".into(), message: format!("{message}\n\nhint: {hint}; {alone}") })
        };
        let Some(library) = find() else {
            let message =
                "a model cut over several GPUs needs NVIDIA's NCCL: neither libnccl.so.2 nor libnccl.so was found";
            let hint = "install it (the package libnccl2, or nvidia-nccl-cu12 from pip with its folder lib in LD_LIBRARY_PATH)";
            return failed(message.into(), hint);
        };
        match Self::of(library) {
            Ok(api) => Ok(api),
            Err(symbol) => failed(format!("NVIDIA's NCCL has no entry point {symbol}"), "update it to 2.18 or later"),
        }
    }

    /// The entry points of `library`, or the name of the first that it has not.
    fn of(library: Library) -> Result<Self, &'static str> {
        fn get<F: Copy>(library: &Library, symbol: &'static str) -> Result<F, &'static str> {
            // SAFETY: the fields of `Api` have the types of `nccl.h`, which does not change them.
            unsafe { library.get::<F>(symbol.as_bytes()) }.map(|found| *found).map_err(|_| symbol)
        }
        Ok(Self {
            init_all: get(&library, "ncclCommInitAll")?,
            all_gather: get(&library, "ncclAllGather")?,
            group_start: get(&library, "ncclGroupStart")?,
            group_end: get(&library, "ncclGroupEnd")?,
            abort: get(&library, "ncclCommAbort")?,
            destroy: get(&library, "ncclCommDestroy")?,
            error_string: get(&library, "ncclGetErrorString")?,
            _library: library,
        })
    }

    /// An error in the library's words, and ours.
    fn check(&self, what: &str, status: c_int) -> Result<()> {
        if status == 0 {
            return Ok(());
        }
        // SAFETY: takes any number.
        let text = unsafe { (self.error_string)(status) };
        let text = if text.is_null() {
            format!("NCCL error {status}")
        } else {
            // SAFETY: a constant of the library that ends with NUL.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        let message = format!("{what}: {text}\n\nhint: NCCL_DEBUG=INFO before the command line makes NCCL say more");
        Err(Error::Device { device: "nccl".into(), message })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_absence_is_an_error_that_says_what_to_do() {
        if find().is_some() {
            return eprintln!("skipped: NCCL is installed here");
        }
        assert_eq!(version(), None);
        let text = group(&[], 0).map(|_| ()).unwrap_err().to_string();
        assert!(text.contains("neither libnccl.so.2 nor libnccl.so was found"), "{text}");
        assert!(text.contains("libnccl2") && text.contains("--tensor-parallel-size 1"), "{text}");
    }
}
