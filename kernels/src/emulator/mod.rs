//! A device without a GPU: runs the kernels' PTX text on the processor, thread by thread, and checks every access.
//!
//! It implements [`Device`], so the whole CUDA backend runs on it. What it finds (see [`FaultKind`]): accesses out of
//! bounds, misaligned, of freed or never written memory; registers never written; races in shared memory, and between
//! blocks in global memory; use of `cp.async` data before its wait; barriers and warp-wide instructions that not all
//! their threads reach. An instruction or a modifier that it does not know is an error, never a guess. What a launch
//! does wrong is reported by that launch, with kernel, line of the PTX, block, thread and address.
//!
//! Results are the same in every run and for every number of host threads. They agree with the hardware's wherever the
//! ISA fixes the bits; approximate functions are correctly rounded here, and `mma` sums in `f64` (see `exec/matrix.rs`).
//!
//! It does not check: races in global memory within one block, or where a block reads first and another writes later;
//! proxies, caches and timing; that other blocks run at the same time (each runs to its end, so waiting for a later one
//! never ends).

mod counters;
mod exec;
mod fault;
mod isa;
mod launch;
mod memory;
mod ptx;
mod shared;
mod warp;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

pub use counters::{Class, Counters};
pub use fault::{Fault, FaultKind};

use crate::{
    Error, Result,
    cuda::device::{Arg, Device, DeviceCaps, DevicePtr, Graph, Launch, Module},
};
use memory::Memory;

/// What the emulated device is like.
#[derive(Clone, Debug, PartialEq)]
pub struct EmulatorOptions {
    /// Multiprocessors to report; they change nothing else.
    pub num_sms: u32,
    /// Most shared memory of a block, static and dynamic.
    pub max_shared_bytes: u32,
    /// Memory of the device.
    pub total_bytes: u64,
    /// Host threads that run blocks; 0: as many as there are processors.
    pub threads: usize,
    /// Instructions a warp may execute before the launch counts as one that never ends.
    pub max_steps: u64,
}

impl Default for EmulatorOptions {
    /// An sm_80 of 108 multiprocessors with 4 GiB; memory costs nothing until it is used.
    fn default() -> Self {
        Self { num_sms: 108, max_shared_bytes: 163 << 10, total_bytes: 4 << 30, threads: 0, max_steps: 1 << 30 }
    }
}

/// What the host asked of the device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Allocations.
    pub allocations: u64,
    /// Copies to the device.
    pub uploads: u64,
    /// Copies to the host, each of which waits for all work queued before.
    pub downloads: u64,
    /// Waits without a copy.
    pub waits: u64,
    /// Kernels launched one by one.
    pub launches: u64,
    /// Recorded graphs launched.
    pub graphs: u64,
}

/// The device.
#[derive(Clone)]
pub struct Emulator {
    inner: Arc<Inner>,
}

struct Inner {
    caps: DeviceCaps,
    options: EmulatorOptions,
    state: Mutex<State>,
}

struct State {
    memory: Memory,
    /// By address and length of the text, which lives forever.
    modules: HashMap<(usize, usize), Arc<launch::Loaded>>,
    counters: BTreeMap<String, Counters>,
    /// The launches of a capture that is going on.
    recording: Option<Vec<Recorded>>,
    /// Numbers of writers that were given to blocks so far.
    writers: u32,
    launches: u64,
    traffic: Traffic,
    last_fault: Option<Fault>,
}

/// A launch that is kept.
struct Recorded {
    module: &'static Module,
    kernel: String,
    grid: [u32; 3],
    block: [u32; 3],
    shared_bytes: u32,
    args: Vec<Arg>,
}

impl Recorded {
    fn launch(&self) -> Launch<'_> {
        let Self { module, kernel, grid, block, shared_bytes, args } = self;
        Launch { module, kernel, grid: *grid, block: *block, shared_bytes: *shared_bytes, args }
    }
}

impl Default for Emulator {
    fn default() -> Self {
        Self::new(EmulatorOptions::default())
    }
}

impl Emulator {
    /// A device with empty memory.
    pub fn new(options: EmulatorOptions) -> Self {
        let caps = DeviceCaps {
            name: "emulator (compute 8.0)".into(),
            compute: (8, 0),
            num_sms: options.num_sms,
            max_shared_bytes: options.max_shared_bytes,
            total_bytes: options.total_bytes,
            free_bytes: options.total_bytes,
        };
        let state = State {
            memory: Memory::new(),
            modules: HashMap::new(),
            counters: BTreeMap::new(),
            recording: None,
            writers: 1,
            launches: 0,
            traffic: Traffic::default(),
            last_fault: None,
        };
        Self { inner: Arc::new(Inner { caps, options, state: Mutex::new(state) }) }
    }

    /// What the kernels did since the last [`Emulator::reset_counters`], by kernel name.
    pub fn counters(&self) -> BTreeMap<String, Counters> {
        self.inner.lock().counters.clone()
    }

    /// Starts counting anew.
    pub fn reset_counters(&self) {
        self.inner.lock().counters.clear();
    }

    /// What the host asked of the device since it was made.
    pub fn traffic(&self) -> Traffic {
        self.inner.lock().traffic
    }

    /// The last fault of a launch or a copy, which [`Device::launch`] has reported as text.
    pub fn last_fault(&self) -> Option<Fault> {
        self.inner.lock().last_fault.clone()
    }

    /// As [`Device::launch`], with the fault as it is.
    ///
    /// # Errors
    /// The fault of the lowest block that has one.
    pub fn run(&self, launch: &Launch<'_>) -> Result<(), Box<Fault>> {
        self.inner.run(launch)
    }

    /// Whether `module` holds only what is known: parses and decodes all its kernels.
    ///
    /// # Errors
    /// The first thing that is not known, with its line.
    pub fn check(&self, module: &'static Module) -> Result<(), Box<Fault>> {
        self.inner.lock().load(module).map(drop)
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, message: impl ToString) -> Error {
        Error::Device { device: self.caps.name.clone(), message: message.to_string() }
    }

    fn run(&self, launch: &Launch<'_>) -> Result<(), Box<Fault>> {
        let mut state = self.lock();
        if let Some(recording) = &mut state.recording {
            recording.push(Recorded {
                module: launch.module,
                kernel: launch.kernel.to_string(),
                grid: launch.grid,
                block: launch.block,
                shared_bytes: launch.shared_bytes,
                args: launch.args.to_vec(),
            });
            return Ok(());
        }
        state.traffic.launches += 1;
        self.execute(state, launch)
    }

    fn execute(&self, mut state: MutexGuard<'_, State>, launch: &Launch<'_>) -> Result<(), Box<Fault>> {
        let result = launch::run(&mut state, &self.options, launch);
        if let Err(fault) = &result {
            state.last_fault = Some((**fault).clone());
        }
        result
    }

    /// Memory between the host and the device.
    fn copy(&self, what: &str, f: impl FnOnce(&Memory) -> Result<(), (FaultKind, String)>) -> Result<()> {
        let mut state = self.lock();
        if state.recording.is_some() {
            return Err(self.error(format!("{what} during a capture, which records launches only")));
        }
        f(&state.memory).map_err(|(kind, detail)| {
            let fault = Fault {
                kind,
                module: String::new(),
                kernel: String::new(),
                line: 0,
                instruction: String::new(),
                block: None,
                thread: None,
                address: None,
                detail: detail.clone(),
            };
            state.last_fault = Some(fault);
            self.error(format!("{what}: {kind}: {detail}"))
        })
    }
}

impl Device for Emulator {
    fn caps(&self) -> &DeviceCaps {
        &self.inner.caps
    }

    fn alloc(&self, what: &'static str, bytes: usize) -> Result<DevicePtr> {
        let mut state = self.inner.lock();
        if state.recording.is_some() {
            return Err(self.inner.error("an allocation during a capture, which records launches only"));
        }
        state.traffic.allocations += 1;
        let free = self.inner.options.total_bytes.saturating_sub(state.memory.used);
        if bytes as u64 > free {
            return Err(Error::OutOfMemory { what, bytes, device: self.inner.caps.name.clone() });
        }
        Ok(state.memory.alloc(what, bytes as u64))
    }

    fn free(&self, ptr: DevicePtr) {
        self.inner.lock().memory.free(ptr);
    }

    fn upload(&self, from: &[u8], to: DevicePtr) -> Result<()> {
        self.inner.lock().traffic.uploads += 1;
        self.inner.copy("upload", |memory| memory.upload(from, to))
    }

    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.inner.lock().traffic.downloads += 1;
        self.inner.copy("download", |memory| memory.download(from, to))
    }

    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.inner.copy("copy", |memory| memory.copy(from, to, bytes as u64))
    }

    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.inner.run(launch).map_err(|fault| self.inner.error(fault))
    }

    fn synchronize(&self) -> Result<()> {
        let mut state = self.inner.lock();
        state.traffic.waits += 1;
        if state.recording.is_some() {
            return Err(self.inner.error("synchronize during a capture, which records launches only"));
        }
        Ok(())
    }

    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Graph>> {
        if self.inner.lock().recording.replace(Vec::new()).is_some() {
            return Err(self.inner.error("a capture within a capture"));
        }
        let result = work();
        let launches = self.inner.lock().recording.take().unwrap_or_default();
        result?;
        Ok(Box::new(RecordedGraph { inner: self.inner.clone(), launches }))
    }

    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        work()?;
        Ok(None)
    }
}

struct RecordedGraph {
    inner: Arc<Inner>,
    launches: Vec<Recorded>,
}

impl Graph for RecordedGraph {
    fn launch(&self) -> Result<()> {
        let mut state = self.inner.lock();
        if state.recording.is_some() {
            return Err(self.inner.error("a graph launched during a capture, which records launches of kernels only"));
        }
        state.traffic.graphs += 1;
        drop(state);
        for recorded in &self.launches {
            let state = self.inner.lock();
            self.inner.execute(state, &recorded.launch()).map_err(|fault| self.inner.error(fault))?;
        }
        Ok(())
    }
}
