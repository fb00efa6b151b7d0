//! Kernels that were loaded: each file is compiled by the driver once, when it is first needed.

use std::{
    collections::{HashMap, hash_map::Entry},
    ffi::{CString, c_int, c_void},
    ptr::null_mut,
};

use cudarc::driver::sys::{CUfunction, CUmodule};

use super::api::{Api, Status};
use crate::cuda::device::{Arg, Module};

const JIT_ERROR_LOG: c_int = 5;
const JIT_ERROR_LOG_BYTES: c_int = 6;
const LOG_BYTES: usize = 8192;
/// `CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES`
const STATIC_SHARED: c_int = 1;
/// `CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES`
const MOST_DYNAMIC_SHARED: c_int = 8;
/// What a block may have without asking.
const DEFAULT_SHARED: u32 = 48 << 10;

/// Loaded files by the address of their [`Module`], which is one per file.
#[derive(Default)]
pub(super) struct Modules(HashMap<usize, Loaded>);

struct Loaded {
    handle: CUmodule,
    kernels: HashMap<String, Kernel>,
}

/// A kernel that can be launched.
pub(super) struct Kernel {
    pub handle: CUfunction,
    /// Bytes of each parameter.
    params: Vec<usize>,
    static_shared: u32,
    /// Dynamic shared memory that it may have so far.
    allowed: u32,
}

/// What went wrong.
pub(super) enum Failure {
    /// The driver said so: to what, and with which words of its compiler.
    Driver(String, Status),
    /// Found here.
    Ours(String),
}

impl Modules {
    /// The kernel `name` of `module`, compiled and allowed `shared_bytes` of dynamic shared memory, of which with the
    /// static a block has at most `most`. The context is current.
    pub fn kernel(
        &mut self,
        api: &Api,
        module: &'static Module,
        name: &str,
        shared_bytes: u32,
        most: u32,
    ) -> Result<&Kernel, Failure> {
        let key = std::ptr::from_ref(module) as usize;
        let loaded = match self.0.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(entry) => entry.insert(Loaded { handle: load(api, module)?, kernels: HashMap::new() }),
        };
        if !loaded.kernels.contains_key(name) {
            let kernel = find(api, loaded.handle, module, name)?;
            loaded.kernels.insert(name.to_owned(), kernel);
        }
        let Some(kernel) = loaded.kernels.get_mut(name) else { unreachable!("inserted above") };
        if shared_bytes > kernel.allowed {
            let static_shared = kernel.static_shared;
            if shared_bytes.saturating_add(static_shared) > most {
                return Err(Failure::Ours(format!(
                    "kernel {name} needs {shared_bytes} + {static_shared} bytes of shared memory a block; this GPU \
                     has {most}"
                )));
            }
            // SAFETY: the function belongs to a loaded module of the current context.
            unsafe { api.function_set_attribute(kernel.handle, MOST_DYNAMIC_SHARED, shared_bytes as c_int) }
                .map_err(|status| Failure::Driver(format!("more shared memory for kernel {name}"), status))?;
            kernel.allowed = shared_bytes;
        }
        Ok(kernel)
    }

    /// Unloads all; the stream must be idle and the context current.
    pub fn free(&mut self, api: &Api) {
        for (_, loaded) in self.0.drain() {
            // SAFETY: loaded by us, and forgotten here. Nothing can be done about an error.
            unsafe { api.module_unload(loaded.handle) }.ok();
        }
    }
}

impl Kernel {
    /// Refuses arguments that are not what the kernel's signature has: the driver would read past them.
    pub fn check(&self, name: &str, args: &[Arg]) -> Result<(), Failure> {
        let found: Vec<usize> = args.iter().map(arg_bytes).collect();
        if found == self.params {
            return Ok(());
        }
        let params = &self.params;
        Err(Failure::Ours(format!("kernel {name} takes parameters of {params:?} bytes, and was given {found:?}")))
    }
}

fn arg_bytes(arg: &Arg) -> usize {
    match arg {
        Arg::Ptr(_) | Arg::U64(_) => 8,
        Arg::U32(_) | Arg::I32(_) | Arg::F32(_) => 4,
    }
}

/// An argument as the driver reads it: its bytes come first.
pub(super) fn arg_word(arg: &Arg) -> [u8; 8] {
    let mut word = [0; 8];
    match arg {
        Arg::Ptr(value) | Arg::U64(value) => word = value.to_ne_bytes(),
        Arg::U32(value) => word[..4].copy_from_slice(&value.to_ne_bytes()),
        Arg::I32(value) => word[..4].copy_from_slice(&value.to_ne_bytes()),
        Arg::F32(value) => word[..4].copy_from_slice(&value.to_ne_bytes()),
    }
    word
}

/// Has the driver compile a file.
fn load(api: &Api, module: &Module) -> Result<CUmodule, Failure> {
    let what = || format!("kernel file {}", module.name);
    let text = CString::new(module.ptx).map_err(|_| Failure::Ours(format!("{} has a NUL byte", what())))?;
    let mut log = vec![0_u8; LOG_BYTES];
    let mut options = [JIT_ERROR_LOG, JIT_ERROR_LOG_BYTES];
    // An option's value is a pointer, or a number in the place of one.
    let mut values: [*mut c_void; 2] = [log.as_mut_ptr().cast(), LOG_BYTES as *mut c_void];
    let mut handle: CUmodule = null_mut();
    // SAFETY: the text ends with NUL; two options with their values; the log has the room that is said. The context is
    // current.
    let status =
        unsafe { api.module_load(&raw mut handle, text.as_ptr().cast(), 2, options.as_mut_ptr(), values.as_mut_ptr()) };
    status.map(|()| handle).map_err(|status| {
        log.truncate(log.iter().position(|byte| *byte == 0).unwrap_or(LOG_BYTES));
        let log = String::from_utf8_lossy(&log).trim().replace('\n', "\n  ");
        let log = if log.is_empty() { String::new() } else { format!(" (its compiler says: {log})") };
        Failure::Driver(format!("loading {}{log}", what()), status)
    })
}

fn find(api: &Api, handle: CUmodule, module: &Module, name: &str) -> Result<Kernel, Failure> {
    let failed = |status| {
        let what = format!("kernel {name} of kernel file {}", module.name);
        if status == Status::NOT_FOUND {
            return Failure::Ours(format!("there is no {what}"));
        }
        Failure::Driver(what, status)
    };
    let odd = || Failure::Ours(format!("kernel {name} of kernel file {} has parameters of no known form", module.name));
    let symbol = CString::new(name).map_err(|_| failed(Status::NOT_FOUND))?;
    let mut function: CUfunction = null_mut();
    // SAFETY: the module is loaded, the name ends with NUL, `function` may be written.
    unsafe { api.module_function(&raw mut function, handle, symbol.as_ptr()) }.map_err(failed)?;
    let mut static_shared = 0;
    // SAFETY: the function was just found; the number may be written.
    unsafe { api.function_attribute(&raw mut static_shared, STATIC_SHARED, function) }.map_err(failed)?;
    let static_shared = u32::try_from(static_shared).unwrap_or(0);
    let params = param_bytes(module.ptx, name).ok_or_else(odd)?;
    Ok(Kernel { handle: function, params, static_shared, allowed: DEFAULT_SHARED.saturating_sub(static_shared) })
}

/// Bytes of each parameter of the kernel `name`, from its declaration `.entry name(.param .u64 a, .param .u32 b)`.
fn param_bytes(ptx: &str, name: &str) -> Option<Vec<usize>> {
    let mut entries = ptx.split(".entry ").skip(1);
    let list = entries.find_map(|text| text.strip_prefix(name)?.trim_start().strip_prefix('('))?;
    let list = list.split_once(')')?.0.trim();
    if list.is_empty() {
        return Some(Vec::new());
    }
    let bytes = |param: &str| match param.trim().strip_prefix(".param")?.trim_start().get(..4)? {
        ".u64" | ".b64" | ".s64" => Some(8),
        ".u32" | ".b32" | ".s32" | ".f32" => Some(4),
        _ => None,
    };
    list.split(',').map(bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_read_from_the_declaration() {
        let ptx = ".visible .entry norm_wide(\n\t.param .u64 a\n)\n{}\n.visible .entry norm(\n\t.param .u64 norm_param_0,\n\t\
                   .param .u32 norm_param_1,\n\t.param .f32 norm_param_2\n)\n.maxntid 256, 1, 1\n{}\n.entry none()\n{}";
        assert_eq!(param_bytes(ptx, "norm"), Some(vec![8, 4, 4]));
        assert_eq!(param_bytes(ptx, "norm_wide"), Some(vec![8]));
        assert_eq!(param_bytes(ptx, "none"), Some(vec![]));
        assert_eq!(param_bytes(ptx, "other"), None);
        assert_eq!(param_bytes(".entry s(.param .align 8 .b8 s_param_0[16])", "s"), None);
    }

    #[test]
    fn every_kernel_that_we_ship_has_parameters_that_we_can_pass() {
        for module in crate::cuda::modules::ALL {
            for entry in module.ptx.split(".entry ").skip(1) {
                let name = entry.split('(').next().unwrap_or(entry);
                assert!(param_bytes(module.ptx, name).is_some(), "{}: {name}", module.name);
            }
        }
    }

    #[test]
    fn arguments_begin_with_their_bytes() {
        assert_eq!(arg_word(&Arg::U64(0x0102_0304_0506_0708)), 0x0102_0304_0506_0708_u64.to_ne_bytes());
        assert_eq!(arg_word(&Arg::I32(-2))[..4], (-2_i32).to_ne_bytes());
        assert_eq!(arg_word(&Arg::F32(1.5))[..4], 1.5_f32.to_ne_bytes());
    }
}
