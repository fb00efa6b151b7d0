//! The driver layer against a test double of NVIDIA's driver (`fake_driver/libcuda.c`), which does the queued work as late
//! as it may, checks every handle and address, and fails where it is told to.

mod doubles;

use std::{
    ffi::{CStr, CString, c_char, c_int},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use libloading::Library;
use oc_kernels::{
    Backend, Dtype, Error, Result,
    cuda::{
        CudaBackend,
        device::{Arg, Device, DeviceBuffer, DevicePtr, Launch, Module},
        driver,
    },
};

/// `fill(u32 *out, u32 value, u32 n)` and `scale(float *x, float factor, u32 n)`; the double knows what they do.
static KERNELS: Module = Module {
    name: "test",
    ptx: ".version 8.0\n.visible .entry fill(\n\t.param .u64 a,\n\t.param .u32 b,\n\t.param .u32 c\n)\n{}\n\
          .visible .entry scale(\n\t.param .u64 a,\n\t.param .f32 b,\n\t.param .u32 c\n)\n{}\n\
          .visible .entry fault(\n\t.param .u64 a,\n\t.param .u32 b,\n\t.param .u32 c\n)\n{}\n",
};
static BROKEN: Module = Module { name: "broken", ptx: ".version 8.0\nBROKEN" };

/// The double, in the state that a test starts from; one test at a time has it.
struct Fake(&'static Library, #[expect(dead_code, reason = "held, not read")] MutexGuard<'static, ()>);

impl Fake {
    /// `None` where there is no C compiler.
    fn get() -> Option<Self> {
        static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
        static LOCK: Mutex<()> = Mutex::new(());
        let guard = LOCK.lock().unwrap_or_else(PoisonError::into_inner);
        let library = LIBRARY.get_or_init(|| doubles::load("fake_driver/libcuda.c", "libcuda.so"));
        let fake = Self(library.as_ref()?, guard);
        fake.call("fake_reset");
        Some(fake)
    }

    fn call(&self, name: &str) -> i32 {
        // SAFETY: these take nothing and return an `int` or nothing.
        unsafe { self.0.get::<unsafe extern "C" fn() -> c_int>(name).unwrap()() }
    }

    fn set(&self, key: &str, value: i32) {
        let key = CString::new(key).unwrap();
        // SAFETY: the type is that of its definition.
        unsafe { self.0.get::<unsafe extern "C" fn(*const c_char, c_int)>("fake_set").unwrap()(key.as_ptr(), value) }
    }

    /// Lets one call of `name` fail, after `after` that do not.
    fn fail(&self, name: &str, code: i32, after: i32) {
        let name = CString::new(name).unwrap();
        // SAFETY: the type is that of its definition.
        unsafe {
            let fail = self.0.get::<unsafe extern "C" fn(*const c_char, c_int, c_int)>("fake_fail").unwrap();
            fail(name.as_ptr(), code, after);
        }
    }

    /// What was called since the last time.
    fn log(&self) -> Vec<String> {
        // SAFETY: the text ends with NUL, and is copied before the next call.
        let text =
            unsafe { CStr::from_ptr(self.0.get::<unsafe extern "C" fn() -> *const c_char>("fake_log").unwrap()()) };
        let lines = text.to_str().unwrap().lines().map(str::to_owned).collect();
        self.call("fake_clear_log");
        lines
    }

    fn leaks(&self) -> i32 {
        self.call("fake_leaks")
    }
}

fn device_error<T>(result: Result<T>) -> String {
    match result {
        Err(Error::Device { device, message }) => format!("{device}: {message}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("no error"),
    }
}

fn launch(device: &Arc<dyn Device>, kernel: &str, ptr: DevicePtr, value: Arg, n: u32, shared_bytes: u32) -> Result<()> {
    let args = [Arg::Ptr(ptr), value, Arg::U32(n)];
    device.launch(&Launch { module: &KERNELS, kernel, grid: [2, 1, 1], block: [32, 1, 1], shared_bytes, args: &args })
}

#[test]
fn opening_says_what_is_wrong() {
    let Some(fake) = Fake::get() else { return };
    let opened = |ordinal| driver::open(ordinal).map(|_| ());
    fake.set("version", 11080);
    let text = device_error(opened(0));
    assert!(text.contains("CUDA up to 11.8") && text.contains("R525") && text.contains("--device cpu"), "{text}");

    fake.call("fake_reset");
    fake.set("devices", 0);
    let text = device_error(opened(0));
    assert!(text.contains("CUDA_ERROR_NO_DEVICE") && text.contains("nvidia-smi"), "{text}");

    fake.call("fake_reset");
    let text = device_error(opened(5));
    assert!(text.contains("no GPU 5; there are 0: Fake GPU 0, 1: Fake GPU 1"), "{text}");
    device_error(opened(usize::MAX));

    fake.fail("cuInit", 803, 0);
    let text = device_error(opened(0));
    assert!(text.contains("CUDA_ERROR_SYSTEM_DRIVER_MISMATCH") && text.contains("reboot"), "{text}");

    fake.fail("cuDevicePrimaryCtxRetain", 2, 0);
    let text = device_error(opened(1));
    assert!(text.contains("Fake GPU 1: GPU 1 has too little free memory"), "{text}");

    // A status that this version of the driver has just invented.
    fake.fail("cuStreamCreate", 12345, 0);
    assert_eq!(device_error(opened(0)), "Fake GPU 0: making a stream: CUDA error 12345");
    assert_eq!(fake.leaks(), 0);
}

#[test]
fn opening_gives_back_what_it_took_wherever_it_fails() {
    let Some(fake) = Fake::get() else { return };
    let steps = [
        "cuInit",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDevicePrimaryCtxRetain",
        "cuCtxSetCurrent",
        "cuStreamCreate",
        "cuDeviceGetAttribute",
        "cuMemGetInfo_v2",
        "cuDeviceTotalMem_v2",
        "cuDeviceGetDefaultMemPool",
        "cuMemPoolSetAttribute",
    ];
    for step in steps {
        fake.call("fake_reset");
        fake.fail(step, 999, 0);
        let text = device_error(driver::open(0).map(|_| ()));
        assert!(text.contains("CUDA error 999"), "{step}: {text}");
        assert_eq!(fake.leaks(), 0, "{step}");
    }
}

#[test]
fn capabilities_are_those_of_the_device() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(1).unwrap();
    let caps = device.caps().clone();
    assert_eq!((caps.name.as_str(), caps.compute, caps.num_sms), ("Fake GPU 1", (8, 1), 108));
    assert_eq!((caps.max_shared_bytes, caps.total_bytes, caps.free_bytes), (166_912, 64 << 20, 64 << 20));
    assert_eq!(fake.log(), ["stream, flags 1", "pool attribute 4 = ffffffffffffffff"]);
    // Now, and not when it was opened.
    let backend = CudaBackend::new(device.clone(), Dtype::Bf16).unwrap();
    assert_eq!(backend.device_bytes_used(), None);
    let ptr = device.alloc("a test", 3 << 20).unwrap();
    assert_eq!((device.free_bytes().unwrap(), backend.device_bytes_used()), (61 << 20, Some(3 << 20)));
    device.free(ptr);
    drop((backend, device));
    assert_eq!(fake.leaks(), 0);
}

#[test]
fn uploads_leave_the_callers_memory_alone() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    // More than both halves of the staging memory, and not a whole number of anything.
    let n = (21 << 20) + 123;
    let wanted: Vec<u8> = (0..n).map(|i| (i * 7 + (i >> 11)) as u8).collect();
    let buffer = DeviceBuffer::new(&device, "bytes", n).unwrap();
    let small = DeviceBuffer::new(&device, "small", 1000).unwrap();
    let mut host = wanted.clone();
    device.upload(&host, buffer.ptr()).unwrap();
    host.fill(0);
    // Many small ones, which share the memory that is left.
    for i in 0..1000 {
        device.upload(&[(i % 251) as u8], small.ptr() + i).unwrap();
    }
    device.upload(&[], small.ptr()).unwrap();
    assert_eq!(fake.log().iter().filter(|line| *line == "synchronize").count(), 0);
    assert!(buffer.to_vec::<u8>(n).unwrap() == wanted);
    let bytes = small.to_vec::<u8>(1000).unwrap();
    assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == (i % 251) as u8));
    let text = device_error(device.upload(&[1; 64], buffer.ptr() + n as u64));
    assert!(text.contains("64 bytes to the GPU: CUDA_ERROR_INVALID_VALUE"), "{text}");
    drop((buffer, small, device));
    assert_eq!(fake.leaks(), 0);
}

#[test]
fn a_queued_download_is_of_its_moment_and_waits_for_nothing_later() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    let n = 32;
    let buffer = DeviceBuffer::new(&device, "words", 4 * n).unwrap();
    let fill = |value| launch(&device, "fill", buffer.ptr(), Arg::U32(value), n as u32, 0).unwrap();
    let words = |value: u32| vec![value; n].iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    let queue = || device.queue_download(buffer.ptr(), 4 * n);
    // The memory of a download is used again, but not before the copy into it is done: also if nobody wanted it.
    for round in 0..3 {
        fill(10 * round + 1);
        let first = queue().unwrap();
        fill(10 * round + 2);
        let second = queue().unwrap();
        drop(queue().unwrap());
        fill(10 * round + 3);
        fake.log();
        assert!(first.wait().unwrap() == words(10 * round + 1));
        assert!(second.wait().unwrap() == words(10 * round + 2));
        let log = fake.log();
        assert!(log.iter().all(|line| line == "wait for event"), "{log:?}");
        assert!(buffer.to_vec::<u8>(4 * n).unwrap() == words(10 * round + 3));
    }
    fake.log();
    assert!(queue().unwrap().wait().is_ok());
    assert!(fake.log().iter().all(|line| !line.contains("cuMemHostAlloc")), "page-locked memory is kept");
    for (call, after) in [("cuMemcpyDtoHAsync_v2", 0), ("cuEventRecord", 0), ("cuEventSynchronize", 0)] {
        fake.fail(call, 700, after);
        let text = device_error(queue().and_then(oc_kernels::cuda::device::Download::wait));
        assert!(text.contains("copying 128 bytes from the GPU: CUDA_ERROR_ILLEGAL_ADDRESS"), "{text}");
    }
    for call in ["cuMemHostAlloc", "cuEventCreate"] {
        let device = driver::open(0).unwrap();
        let buffer = DeviceBuffer::new(&device, "words", 4).unwrap();
        fake.fail(call, 2, 0);
        let text = device_error(device.queue_download(buffer.ptr(), 4));
        assert!(text.contains("page-locked memory for copies: CUDA_ERROR_OUT_OF_MEMORY"), "{text}");
    }
    let text = device_error(device.queue_download(buffer.ptr(), 1 << 20).and_then(|download| download.wait()));
    assert!(text.contains("1048576 bytes from the GPU: CUDA_ERROR_INVALID_VALUE"), "{text}");
    drop((buffer, device));
    assert_eq!(fake.leaks(), 0);
}

#[test]
fn kernels_are_loaded_once_and_get_their_arguments() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    let x = DeviceBuffer::from_slice(&device, "x", &[1.0_f32; 100]).unwrap();
    let y = DeviceBuffer::new(&device, "y", 400).unwrap();
    fake.log();
    launch(&device, "scale", x.ptr(), Arg::F32(3.0), 100, 0).unwrap();
    device.copy(x.ptr(), y.ptr(), 400).unwrap();
    launch(&device, "fill", x.ptr(), Arg::U32(7), 99, 16).unwrap();
    launch(&device, "scale", y.ptr(), Arg::F32(0.5), 50, 0).unwrap();
    let wanted = [
        format!("load {} bytes", KERNELS.ptx.len()).as_str(),
        "function scale",
        "launch scale <2 1 1> <32 1 1> 0 40400000 100",
        "on device 400",
        "function fill",
        "launch fill <2 1 1> <32 1 1> 16 7 99",
        "launch scale <2 1 1> <32 1 1> 0 3f000000 50",
    ]
    .map(str::to_owned);
    assert_eq!(fake.log(), wanted);
    let (x, y) = (x.to_vec::<u32>(100).unwrap(), y.to_vec::<f32>(100).unwrap());
    assert!(x[..99].iter().all(|x| *x == 7) && x[99] == 3.0_f32.to_bits());
    assert!(y.iter().enumerate().all(|(i, y)| *y == if i < 50 { 1.5 } else { 3.0 }));
    drop(device);
}

#[test]
fn shared_memory_is_asked_for_where_it_is_needed() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    let x = DeviceBuffer::from_slice(&device, "x", &[1.0_f32; 4]).unwrap();
    let run = |kernel, value, shared| launch(&device, kernel, x.ptr(), value, 4, shared);
    fake.log();
    // `scale` has 1024 bytes of static shared memory: less is left without asking.
    run("scale", Arg::F32(1.0), 48 << 10).unwrap();
    run("fill", Arg::U32(1), 48 << 10).unwrap();
    run("fill", Arg::U32(1), 98_304).unwrap();
    run("fill", Arg::U32(1), 65_536).unwrap();
    run("scale", Arg::F32(1.0), 166_912 - 1024).unwrap();
    let asked: Vec<String> = fake.log().into_iter().filter(|line| line.starts_with("allow")).collect();
    assert_eq!(asked, ["allow scale 49152", "allow fill 98304", "allow scale 165888"]);
    let text = device_error(run("scale", Arg::F32(1.0), 166_912));
    assert!(text.contains("scale needs 166912 + 1024 bytes") && text.contains("has 166912"), "{text}");
}

#[test]
fn kernels_that_cannot_run_are_refused() {
    let Some(_fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    let run = |module, kernel, args: &[Arg], grid| {
        device_error(device.launch(&Launch { module, kernel, grid, block: [32, 1, 1], shared_bytes: 0, args }))
    };
    let text = run(&BROKEN, "k", &[], [1, 1, 1]);
    let parts = ["loading kernel file broken", "line 3; fatal : BROKEN", "CUDA_ERROR_INVALID_PTX", "R525"];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    let text = run(&KERNELS, "nothing", &[], [1, 1, 1]);
    assert!(text.contains("no kernel nothing of kernel file test"), "{text}");
    run(&KERNELS, "with\0nul", &[], [1, 1, 1]);
    let text = run(&KERNELS, "fill", &[Arg::Ptr(0), Arg::U32(1)], [1, 1, 1]);
    assert!(text.contains("[8, 4, 4] bytes, and was given [8, 4]"), "{text}");
    run(&KERNELS, "fill", &[Arg::Ptr(0), Arg::U64(1), Arg::U32(1)], [1, 1, 1]);
    let text = run(&KERNELS, "fill", &[Arg::Ptr(0), Arg::U32(1), Arg::U32(1)], [0, 1, 1]);
    assert!(text.contains("fill as [0, 1, 1] blocks") && text.contains("CUDA_ERROR_INVALID_VALUE"), "{text}");
}

#[test]
fn graphs_are_recorded_and_run_again() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    let x = DeviceBuffer::from_slice(&device, "x", &[1.0_f32; 8]).unwrap();
    let mut other = Some(DeviceBuffer::from_slice(&device, "other", &[0_u8; 8]).unwrap());
    fake.log();
    let graph = device.capture(&mut || {
        launch(&device, "scale", x.ptr(), Arg::F32(2.0), 8, 0)?;
        launch(&device, "scale", x.ptr(), Arg::F32(3.0), 4, 0)?;
        // What must not be in a graph is refused or put off, and breaks nothing.
        other = None;
        for refused in [device.upload(&[0; 4], x.ptr()), device.synchronize(), device.download(x.ptr(), &mut [0; 4])] {
            assert!(device_error(refused).contains("not while a graph is being recorded"));
        }
        assert!(device_error(device.alloc("more", 4)).contains("not while"));
        assert!(device_error(device.capture(&mut || Ok(())).map(|_| ())).contains("not while"));
        assert!(device_error(device.time(&mut || Ok(()))).contains("not while"));
        std::thread::scope(|scope| {
            let other_thread = scope.spawn(|| launch(&device, "scale", x.ptr(), Arg::F32(5.0), 8, 0));
            assert!(device_error(other_thread.join().unwrap()).contains("not while"));
        });
        Ok(())
    });
    let graph = graph.unwrap();
    let log: Vec<String> = fake.log().into_iter().filter(|line| !line.starts_with("load")).collect();
    let wanted = [
        "begin capture, mode 2",
        "function scale",
        "launch scale <2 1 1> <32 1 1> 0 40000000 8",
        "launch scale <2 1 1> <32 1 1> 0 40400000 4",
        "end capture",
        "free async",
        "instantiate 2 nodes, flags 0",
    ];
    assert_eq!(log, wanted);
    assert_eq!(x.to_vec::<f32>(8).unwrap(), [1.0; 8], "recording must not run");
    graph.launch().unwrap();
    graph.launch().unwrap();
    assert_eq!(x.to_vec::<f32>(8).unwrap(), [36.0, 36.0, 36.0, 36.0, 4.0, 4.0, 4.0, 4.0]);
    // The graph keeps the device.
    drop(device);
    graph.launch().unwrap();
    drop(x);
    drop(graph);
    assert_eq!(fake.leaks(), 0);
}

#[test]
fn a_recording_that_fails_ends() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    let failed = device.capture(&mut || Err(Error::Unsupported("not today".into())));
    assert!(matches!(failed, Err(Error::Unsupported(_))));
    let panicked =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| device.capture(&mut || panic!("on purpose"))));
    assert!(panicked.is_err());
    fake.fail("cuStreamEndCapture", 901, 0);
    assert!(device_error(device.capture(&mut || Ok(())).map(|_| ())).contains("CUDA error 901"));
    fake.call("fake_end");
    device.synchronize().unwrap();
    drop(device);
    assert_eq!(fake.leaks(), 0);
}

#[test]
fn a_fault_is_told_with_its_kernel_and_stays() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    let x = DeviceBuffer::from_slice(&device, "x", &[1.0_f32; 8]).unwrap();
    launch(&device, "fault", x.ptr(), Arg::U32(1), 8, 0).unwrap();
    let text = device_error(device.synchronize());
    let parts = [
        "waiting for the GPU",
        "CUDA_ERROR_ILLEGAL_ADDRESS",
        "illegal memory access",
        "fault or one before it",
        "compute-sanitizer",
    ];
    assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    for later in [
        device.upload(&[0; 4], x.ptr()),
        device.download(x.ptr(), &mut [0; 4]),
        launch(&device, "fill", x.ptr(), Arg::U32(1), 8, 0),
        device.alloc("more", 4).map(|_| ()),
        device.time(&mut || Ok(())).map(|_| ()),
        device.capture(&mut || Ok(())).map(|_| ()),
    ] {
        assert!(device_error(later).contains("CUDA_ERROR_ILLEGAL_ADDRESS"));
    }
    drop((device, x));
    assert!(fake.leaks() > 0, "a lost context cannot give anything back one by one");
}

#[test]
fn memory_that_is_full_is_said_to_be() {
    let Some(fake) = Fake::get() else { return };
    for pools in [1, 0] {
        fake.call("fake_reset");
        fake.set("pools", pools);
        let device = driver::open(0).unwrap();
        let most = DeviceBuffer::new(&device, "most of it", 48 << 20).unwrap();
        let Err(Error::OutOfMemory { what, bytes, device: name }) = device.alloc("weights", 32 << 20) else { panic!() };
        assert_eq!((what, bytes, name.as_str()), ("weights", 32 << 20, "Fake GPU 0 (16 of 64 MiB are free)"));
        assert!(matches!(device.alloc("too many", usize::MAX), Err(Error::OutOfMemory { bytes: usize::MAX, .. })));
        // What was freed comes back, though the free still waits in the queue.
        drop(most);
        let again = DeviceBuffer::new(&device, "again", 60 << 20).unwrap();
        assert_eq!(again.ptr() % 256, 0);
        assert_eq!(device.alloc("nothing", 0).unwrap(), 0);
        device.free(0);
        fake.fail("cuMemAllocAsync", 999, 0);
        fake.fail("cuMemAlloc_v2", 999, 0);
        assert!(device_error(device.alloc("some", 4)).contains("4 bytes for some: CUDA error 999"));
        drop((again, device));
        assert_eq!(fake.leaks(), 0);
    }
}

#[test]
fn time_is_that_of_the_devices_events() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    let x = DeviceBuffer::from_slice(&device, "x", &[1.0_f32; 8]).unwrap();
    launch(&device, "fill", x.ptr(), Arg::U32(1), 8, 0).unwrap();
    fake.log();
    let seconds = device.time(&mut || launch(&device, "fill", x.ptr(), Arg::U32(2), 8, 0)).unwrap();
    assert_eq!(seconds, Some(0.0025));
    assert_eq!(fake.log(), ["record", "launch fill <2 1 1> <32 1 1> 0 2 8", "record", "wait for event"]);
    assert!(matches!(device.time(&mut || Err(Error::Unsupported("no".into()))), Err(Error::Unsupported(_))));
    drop((device, x));
    assert_eq!(fake.leaks(), 0);
}

#[test]
fn any_thread_may_use_the_device() {
    let Some(fake) = Fake::get() else { return };
    let device = driver::open(0).unwrap();
    std::thread::scope(|scope| {
        for value in 1..5_u32 {
            let device = &device;
            scope.spawn(move || {
                let x = DeviceBuffer::new(device, "x", 4000).unwrap();
                launch(device, "fill", x.ptr(), Arg::U32(value), 1000, 0).unwrap();
                assert_eq!(x.to_vec::<u32>(1000).unwrap(), vec![value; 1000]);
            });
        }
    });
    drop(device);
    assert_eq!(fake.leaks(), 0);
}
