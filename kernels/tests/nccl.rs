//! Exchanges between GPUs against test doubles of NVIDIA's driver and of NCCL (`fake_driver`, `fake_nccl`).

mod doubles;

use std::{
    ffi::{CStr, CString, c_char, c_int},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
};

use libloading::Library;
use oc_kernels::{
    Backend, Dtype, Error, Result,
    cuda::{CudaBackend, CudaTensor, device::Device, driver, nccl},
};

/// Both doubles, in the state that a test starts from; one test at a time has them.
struct Fakes {
    cuda: &'static Library,
    nccl: &'static Library,
    _guard: MutexGuard<'static, ()>,
}

impl Fakes {
    fn get() -> Option<Self> {
        static LIBRARIES: OnceLock<Option<[Library; 2]>> = OnceLock::new();
        static LOCK: Mutex<()> = Mutex::new(());
        let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let load = doubles::load;
        let both =
            || Some([load("fake_driver/libcuda.c", "libcuda.so")?, load("fake_nccl/libnccl.c", "libnccl.so.2")?]);
        let [cuda, nccl] = LIBRARIES.get_or_init(both).as_ref()?;
        let fakes = Self { cuda, nccl, _guard: guard };
        Self::call(fakes.cuda, "fake_reset");
        Self::call(fakes.nccl, "fake_reset");
        Some(fakes)
    }

    fn call(library: &Library, name: &str) -> i32 {
        // SAFETY: these take nothing and return an `int` or nothing.
        unsafe { library.get::<unsafe extern "C" fn() -> c_int>(name).unwrap()() }
    }

    /// Lets one call of NCCL's `name` fail, after `after` that do not.
    fn fail(&self, name: &str, code: i32, after: i32) {
        let name = CString::new(name).unwrap();
        // SAFETY: the type is that of its definition.
        unsafe {
            let fail = self.nccl.get::<unsafe extern "C" fn(*const c_char, c_int, c_int)>("fake_fail").unwrap();
            fail(name.as_ptr(), code, after);
        }
    }

    /// Communicators that were neither destroyed nor aborted, and those that were aborted.
    fn communicators(&self) -> (i32, i32) {
        (Self::call(self.nccl, "fake_live"), Self::call(self.nccl, "fake_aborted"))
    }

    /// The double's two GPUs as a group.
    fn backends(&self) -> Result<Vec<CudaBackend>> {
        let devices = (0..2).map(driver::open).collect::<Result<Vec<Arc<dyn Device>>>>()?;
        let group = nccl::group(&devices, 0)?;
        let backend = |(device, rank)| Ok(CudaBackend::new(device, Dtype::Bf16)?.in_group(Box::new(rank)));
        devices.into_iter().zip(group).map(backend).collect()
    }
}

fn device_error<T>(result: Result<T>) -> String {
    match result {
        Err(Error::Device { device, message }) => format!("{device}: {message}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("no error"),
    }
}

/// Three rows of a width that is padded, and room for those of both.
fn tensors(backend: &CudaBackend, first: f32) -> (CudaTensor, CudaTensor) {
    let numbers: Vec<f32> = (0..15).map(|i| first + i as f32).collect();
    let mut out = backend.tensor(6, 5).unwrap();
    backend.set_rows(&mut out, 6).unwrap();
    (backend.upload(&numbers, 3, 5).unwrap(), out)
}

#[test]
fn every_gpu_gets_the_rows_of_all_in_their_order() {
    let Some(fakes) = Fakes::get() else { return };
    let backends = fakes.backends().unwrap();
    assert!(backends[0].info().kind.ends_with("/tp2"), "{}", backends[0].info().kind);
    assert_eq!(Fakes::call(fakes.nccl, "fake_last_ordinal"), 1);
    assert_eq!(nccl::version(), Some((2, 21, 5)));
    for round in [0.0, 100.0] {
        let mut sets: Vec<_> = backends.iter().zip([round, round + 50.0]).map(|(b, first)| tensors(b, first)).collect();
        // Each member in a thread of its own, as they wait for each other.
        thread::scope(|scope| {
            for (backend, (x, out)) in backends.iter().zip(&mut sets) {
                scope.spawn(|| backend.all_gather(x, out).unwrap());
            }
        });
        let wanted: Vec<f32> = [round, round + 50.0].iter().flat_map(|f| (0..15).map(move |i| f + i as f32)).collect();
        for (backend, (_, out)) in backends.iter().zip(&sets) {
            assert_eq!(backend.download(out).unwrap(), wanted);
        }
        let (x, mut short) = (&sets[0].0, backends[0].tensor(6, 5).unwrap());
        assert!(matches!(backends[0].all_gather(x, &mut short), Err(Error::Shape { .. })));
    }
    drop(backends);
    assert_eq!(fakes.communicators(), (0, 0));
    assert_eq!(Fakes::call(fakes.cuda, "fake_leaks"), 0);
}

#[test]
fn what_goes_wrong_is_said_in_the_librarys_words_and_nothing_is_left() {
    let Some(fakes) = Fakes::get() else { return };
    for (name, after) in [("ncclCommInitAll", 0), ("ncclGroupStart", 0), ("ncclAllGather", 1), ("ncclGroupEnd", 0)] {
        fakes.fail(name, 5, after);
        let text = device_error(fakes.backends());
        assert!(text.starts_with("nccl: ") && text.contains("invalid usage") && text.contains("NCCL_DEBUG"), "{text}");
        assert_eq!(fakes.communicators().0, 0, "{name}");
    }
    assert_eq!(Fakes::call(fakes.cuda, "fake_leaks"), 0);
}

#[test]
fn a_group_that_ends_ends_for_all() {
    let Some(fakes) = Fakes::get() else { return };
    let backends = fakes.backends().unwrap();
    let sets: Vec<_> = backends.iter().map(|backend| tensors(backend, 0.0)).collect();
    fakes.fail("ncclAllGather", 5, 0);
    let results: Vec<_> = thread::scope(|scope| {
        let exchange = |(backend, (x, mut out)): (&CudaBackend, (CudaTensor, CudaTensor))| {
            let result = backend.all_gather(&x, &mut out);
            // As a member does that has failed: the other waits for it.
            if matches!(result, Err(Error::Device { .. })) {
                backend.end_group();
            }
            result
        };
        let members: Vec<_> = backends.iter().zip(sets).map(|member| scope.spawn(move || exchange(member))).collect();
        members.into_iter().map(|member| member.join().unwrap()).collect()
    });
    // Whichever came first.
    let (ended, failed): (Vec<_>, Vec<_>) = results.into_iter().partition(|r| matches!(r, Err(Error::GroupEnded)));
    let text = device_error(failed.into_iter().next().unwrap());
    assert!(text.contains("exchanging activations with other GPUs: invalid usage") && ended.len() == 1, "{text}");
    assert_eq!(fakes.communicators(), (0, 2));
    for backend in &backends {
        let (x, mut out) = tensors(backend, 0.0);
        assert!(matches!(backend.all_gather(&x, &mut out), Err(Error::GroupEnded)));
        backend.end_group();
    }
    drop(backends);
    assert_eq!(fakes.communicators(), (0, 2));
}

#[test]
fn memory_is_open_to_those_that_reach_it() {
    let Some(fakes) = Fakes::get() else { return };
    let log = || {
        // SAFETY: takes nothing, returns text that ends with NUL and lives as long as the library.
        unsafe {
            let log = fakes.cuda.get::<unsafe extern "C" fn() -> *const c_char>("fake_log").unwrap();
            CStr::from_ptr(log()).to_string_lossy().into_owned()
        }
    };
    drop(fakes.backends().unwrap());
    let shared = ["pool of GPU 0: access by GPU 1", "pool of GPU 1: access by GPU 0"];
    assert!(shared.iter().all(|line| log().contains(line)) && log().matches("access by").count() == 2, "{}", log());
    // NCCL goes through the host where GPUs do not reach each other, and pools are not what it asks of.
    for key in [c"peers", c"pools"] {
        Fakes::call(fakes.cuda, "fake_reset");
        // SAFETY: the type is that of its definition.
        unsafe {
            fakes.cuda.get::<unsafe extern "C" fn(*const c_char, c_int)>("fake_set").unwrap()(key.as_ptr(), 0);
        }
        drop(fakes.backends().unwrap());
        assert!(!log().contains("access by"), "{}", log());
    }
}
