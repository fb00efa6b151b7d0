//! CUDA C++ → PTX by NVIDIA's compiler library, loaded from where the wheel was installed.

use crate::{Error, Result, tools::Tools};
use libloading::Library;
use std::{
    ffi::{CString, c_char, c_int, c_void},
    path::Path,
    ptr::{null, null_mut},
};

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

/// The loaded compiler.
pub struct Nvrtc {
    create: Create,
    compile: Compile,
    ptx_size: Size,
    ptx: Text,
    log_size: Size,
    log: Text,
    destroy: Destroy,
    headers: String,
    /// Keeps the functions above mapped.
    _library: Library,
}

/// What the compiler made of a file.
pub struct Compiled {
    /// The PTX, or nothing where there were errors.
    pub ptx: Option<String>,
    /// Errors and warnings, with file and line; empty where there are none.
    pub log: String,
}

impl Nvrtc {
    /// Loads the library.
    ///
    /// # Errors
    /// [`Error::NoTools`] when it does not load.
    pub fn load(tools: &Tools) -> Result<Self> {
        let failed = |e: libloading::Error| Error::NoTools {
            message: format!("the CUDA compiler library does not load: {e}"),
            hint: "it needs glibc 2.17 or later; delete target/cuda-tools to fetch it again".into(),
        };
        // SAFETY: the initialisers of NVIDIA's library have no preconditions. It finds its second half,
        // libnvrtc-builtins, beside itself.
        let library = unsafe { Library::new(&tools.nvrtc) }.map_err(failed)?;
        // SAFETY: the symbols have the types that nvrtc.h of CUDA 12.4 gives them, and the library outlives them.
        unsafe {
            Ok(Self {
                create: *library.get(b"nvrtcCreateProgram\0").map_err(failed)?,
                compile: *library.get(b"nvrtcCompileProgram\0").map_err(failed)?,
                ptx_size: *library.get(b"nvrtcGetPTXSize\0").map_err(failed)?,
                ptx: *library.get(b"nvrtcGetPTX\0").map_err(failed)?,
                log_size: *library.get(b"nvrtcGetProgramLogSize\0").map_err(failed)?,
                log: *library.get(b"nvrtcGetProgramLog\0").map_err(failed)?,
                destroy: *library.get(b"nvrtcDestroyProgram\0").map_err(failed)?,
                headers: format!("-I{}", tools.headers.display()),
                _library: library,
            })
        }
    }

    /// Compiles `source`, which messages call `name`, for `arch` (`compute_80`, …), with `#include` looking into
    /// `folders`.
    ///
    /// # Errors
    /// [`Error::Usage`] when the compiler itself fails; errors in the source are in the log.
    pub fn compile(&self, name: &str, source: &str, arch: &str, folders: &[&Path]) -> Result<Compiled> {
        let failed = |what: &str| Error::Usage(format!("{name}: the CUDA compiler failed in {what}"));
        let text = |s: String| CString::new(s).map_err(|_| Error::Usage(format!("{name}: has a NUL byte")));
        let mut options = vec![
            text(format!("--gpu-architecture={arch}"))?,
            text("-default-device".into())?,
            text("--std=c++17".into())?,
            text(self.headers.clone())?,
        ];
        for folder in folders {
            options.push(text(format!("-I{}", folder.display()))?);
        }
        let options: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        let (source, file) = (text(source.to_owned())?, text(name.to_owned())?);
        let mut program: Program = null_mut();
        // SAFETY: all strings end with NUL and outlive the calls; there are no in-memory headers.
        if unsafe { (self.create)(&raw mut program, source.as_ptr(), file.as_ptr(), 0, null(), null()) } != 0 {
            return Err(failed("nvrtcCreateProgram"));
        }
        // SAFETY: `program` was just created, and `options` are as many strings as is said.
        let status = unsafe { (self.compile)(program, options.len() as c_int, options.as_ptr()) };
        let log = self.text(program, self.log_size, self.log).ok_or_else(|| failed("nvrtcGetProgramLog"));
        let ptx = match status {
            0 => self.text(program, self.ptx_size, self.ptx).ok_or_else(|| failed("nvrtcGetPTX")).map(Some),
            // NVRTC_ERROR_COMPILATION: the log has it.
            6 => Ok(None),
            other => Err(failed(&format!("nvrtcCompileProgram (code {other})"))),
        };
        // SAFETY: created above, and not used below.
        unsafe { (self.destroy)(&raw mut program) };
        Ok(Compiled { ptx: ptx?, log: log?.trim().to_owned() })
    }

    /// One of the program's texts.
    fn text(&self, program: Program, size: Size, read: Text) -> Option<String> {
        let mut bytes = 0;
        // SAFETY: `program` is a program of this library; `bytes` may be written.
        if unsafe { size(program, &raw mut bytes) } != 0 {
            return None;
        }
        let mut text = vec![0_u8; bytes];
        // SAFETY: the library writes as many bytes as it just said, the closing NUL among them.
        if unsafe { read(program, text.as_mut_ptr().cast()) } != 0 {
            return None;
        }
        text.truncate(text.iter().position(|byte| *byte == 0).unwrap_or(bytes));
        String::from_utf8(text).ok()
    }
}
