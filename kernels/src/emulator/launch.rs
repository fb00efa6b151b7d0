//! Loading a module, checking a launch, and spreading its blocks over threads.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    thread,
};

use super::{
    EmulatorOptions, State,
    counters::Counters,
    exec::{Grid, Worker},
    fault::{Fault, FaultKind},
    isa::{self, Code, Param},
    memory::{Global, MAX_WRITERS},
    ptx::{self, PtxError, Space, Ty},
};
use crate::cuda::device::{Arg, Launch, Module};

type Result<T> = std::result::Result<T, Box<Fault>>;

/// Most threads of a block.
const MAX_THREADS: u64 = 1024;

/// A module whose kernels are decoded and whose variables have their memory.
pub(super) struct Loaded {
    kernels: Vec<Code>,
}

/// The text of a line, shortened.
fn line_of(module: &Module, line: u32) -> String {
    let text = module.ptx.lines().nth((line as usize).saturating_sub(1)).unwrap_or("");
    let text: String = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if line == 0 { String::new() } else { text.chars().take(160).collect() }
}

fn module_fault(module: &Module, kernel: &str, kind: FaultKind, line: u32, detail: String) -> Box<Fault> {
    Box::new(Fault {
        kind,
        module: module.name.to_string(),
        kernel: kernel.to_string(),
        line,
        instruction: line_of(module, line),
        block: None,
        thread: None,
        address: None,
        detail,
    })
}

impl State {
    pub(super) fn load(&mut self, module: &'static Module) -> Result<Arc<Loaded>> {
        let key = (module.ptx.as_ptr() as usize, module.ptx.len());
        if let Some(loaded) = self.modules.get(&key) {
            return Ok(loaded.clone());
        }
        let fail = |kernel: &str, kind: FaultKind| {
            let kernel = kernel.to_string();
            move |e: PtxError| module_fault(module, &kernel, kind, e.line, e.message)
        };
        let parsed = ptx::parse(module.ptx).map_err(fail("", FaultKind::Malformed))?;
        let mut addresses = HashMap::new();
        for var in parsed.vars.iter().filter(|v| matches!(v.space, Space::Global | Space::Const)) {
            // Variables that are only declared have no address: whoever uses one is told.
            let Some(bytes) = var.bytes else { continue };
            let address = self.memory.alloc("a variable of the module", bytes as u64);
            let mut init = var.init.clone();
            // What has no initial value is zero.
            init.resize(bytes, 0);
            self.memory
                .upload(&init, address)
                .map_err(|(kind, detail)| module_fault(module, "", kind, var.line, detail))?;
            addresses.insert(var.name.clone(), address);
        }
        let mut kernels = Vec::new();
        for function in parsed.functions.iter().filter(|f| f.entry) {
            let code = isa::lower(&parsed, function, &addresses).map_err(fail(&function.name, FaultKind::Unknown))?;
            kernels.push(code);
        }
        let loaded = Arc::new(Loaded { kernels });
        self.modules.insert(key, loaded.clone());
        Ok(loaded)
    }

    /// Numbers for the blocks of a launch.
    fn writers(&mut self, blocks: u64) -> u32 {
        let wanted = u32::try_from(blocks).unwrap_or(u32::MAX).min(MAX_WRITERS - 1);
        if self.writers > MAX_WRITERS - wanted {
            self.memory.forget_writers();
            self.writers = 1;
        }
        let first = self.writers;
        self.writers += wanted;
        first
    }
}

/// Checks and runs one launch.
pub(super) fn run(state: &mut State, options: &EmulatorOptions, launch: &Launch<'_>) -> Result<()> {
    let loaded = state.load(launch.module)?;
    let Some(code) = loaded.kernels.iter().find(|code| code.name == launch.kernel) else {
        let names: Vec<&str> = loaded.kernels.iter().map(|code| code.name.as_str()).collect();
        let text = format!("the module has no such kernel; it has {}", names.join(", "));
        return Err(module_fault(launch.module, launch.kernel, FaultKind::BadLaunch, 0, text));
    };
    let bad = |detail| module_fault(launch.module, launch.kernel, FaultKind::BadLaunch, 0, detail);
    check_shape(options, code, launch).map_err(bad)?;
    let params = parameters(code, launch.args).map_err(bad)?;
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    state.launches += 1;
    let first_writer = state.writers(blocks);
    let global = Global::new(&state.memory);
    let grid = Grid {
        code,
        global: &global,
        params: &params,
        grid: launch.grid,
        block: launch.block,
        dynamic_shared: launch.shared_bytes,
        num_sms: options.num_sms,
        launch: state.launches,
        max_steps: options.max_steps,
        first_writer,
    };
    let mut threads = match options.threads {
        0 => thread::available_parallelism().map_or(1, usize::from),
        threads => threads,
    };
    if code.ordered {
        threads = 1;
    }
    let (mut counters, fault) = spread(&grid, blocks, threads.min(usize::try_from(blocks).unwrap_or(usize::MAX)));
    counters.launches = 1;
    state.counters.entry(code.name.clone()).or_default().add(&counters);
    match fault {
        None => Ok(()),
        Some(mut fault) => {
            fault.module = launch.module.name.to_string();
            fault.instruction = line_of(launch.module, fault.line);
            Err(fault)
        }
    }
}

/// Runs the blocks, in their order as threads become free. Those below a faulty one were all begun before it and end,
/// so the lowest fault is the same in every run.
fn spread(grid: &Grid<'_>, blocks: u64, threads: usize) -> (Counters, Option<Box<Fault>>) {
    let next = AtomicU64::new(0);
    let fault: Mutex<Option<(u64, Box<Fault>)>> = Mutex::new(None);
    let total = Mutex::new(Counters::default());
    let work = || {
        let mut worker = Worker::new(grid);
        loop {
            let index = next.fetch_add(1, Relaxed);
            if index >= blocks {
                break;
            }
            if let Err(found) = worker.run(index) {
                // Nobody begins another block.
                next.fetch_max(blocks, Relaxed);
                let mut fault = fault.lock().unwrap_or_else(PoisonError::into_inner);
                if fault.as_ref().is_none_or(|(lowest, _)| index < *lowest) {
                    *fault = Some((index, found));
                }
                break;
            }
        }
        total.lock().unwrap_or_else(PoisonError::into_inner).add(worker.counters());
    };
    thread::scope(|scope| {
        for _ in 1..threads {
            scope.spawn(work);
        }
        work();
    });
    let fault = fault.into_inner().unwrap_or_else(PoisonError::into_inner);
    (total.into_inner().unwrap_or_else(PoisonError::into_inner), fault.map(|(_, fault)| fault))
}

fn check_shape(options: &EmulatorOptions, code: &Code, launch: &Launch<'_>) -> std::result::Result<(), String> {
    let [gx, gy, gz] = launch.grid;
    let [bx, by, bz] = launch.block;
    if gx == 0 || gy == 0 || gz == 0 || gx > i32::MAX as u32 || gy > 65_535 || gz > 65_535 {
        return Err(format!("a grid of {gx} x {gy} x {gz}; wanted 1..=2147483647 x 1..=65535 x 1..=65535"));
    }
    let threads = [bx, by, bz].iter().fold(1, |n: u64, &size| n.saturating_mul(size.into()));
    if threads == 0 || threads > MAX_THREADS || bz > 64 {
        return Err(format!("blocks of {bx} x {by} x {bz} threads; at most {MAX_THREADS} (64 in z) are possible"));
    }
    if let Some(max) = code.max_threads
        && threads > u64::from(max)
    {
        return Err(format!("blocks of {threads} threads; the kernel was compiled for at most {max} (.maxntid)"));
    }
    if let Some(required) = code.required_block
        && required != launch.block
    {
        return Err(format!("blocks of {bx} x {by} x {bz} threads; the kernel wants {required:?} (.reqntid)"));
    }
    let shared = u64::from(code.shared_bytes) + u64::from(launch.shared_bytes);
    if shared > u64::from(options.max_shared_bytes) {
        return Err(format!(
            "{} bytes of static and {} of dynamic shared memory; a block has at most {}",
            code.shared_bytes, launch.shared_bytes, options.max_shared_bytes
        ));
    }
    Ok(())
}

/// The bytes of the parameters.
fn parameters(code: &Code, args: &[Arg]) -> std::result::Result<Vec<u8>, String> {
    if args.len() != code.params.len() {
        return Err(format!("{} arguments; the kernel has {} parameters", args.len(), code.params.len()));
    }
    let mut bytes = vec![0; code.param_bytes as usize];
    for (i, (arg, param)) in args.iter().zip(&code.params).enumerate() {
        let data = argument(*arg, param)
            .ok_or_else(|| format!("argument {i} (`{}`): found {arg:?}, wanted {}", param.name, describe(param)))?;
        let from = param.offset as usize;
        bytes[from..from + data.len()].copy_from_slice(&data);
    }
    Ok(bytes)
}

fn argument(arg: Arg, param: &Param) -> Option<Vec<u8>> {
    let ty = param.ty?;
    match (arg, ty) {
        (Arg::Ptr(x) | Arg::U64(x), Ty::U64 | Ty::B64 | Ty::S64) => Some(x.to_le_bytes().to_vec()),
        (Arg::U32(x), Ty::U32 | Ty::B32 | Ty::S32) => Some(x.to_le_bytes().to_vec()),
        (Arg::I32(x), Ty::U32 | Ty::B32 | Ty::S32) => Some(x.to_le_bytes().to_vec()),
        (Arg::F32(x), Ty::F32 | Ty::B32) => Some(x.to_le_bytes().to_vec()),
        _ => None,
    }
}

fn describe(param: &Param) -> String {
    match param.ty {
        Some(ty) => format!("a {ty:?}"),
        None => format!("a struct of {} bytes", param.bytes),
    }
}
