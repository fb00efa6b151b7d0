//! `cargo xtask`: development tasks. Users of `oc` need none of them.

mod assemble;
mod claims;
mod nvrtc;
mod ptx;
mod tools;

use std::{fmt, path::Path, process::ExitCode};

const HELP: &str = "\
Development tasks.

Usage: cargo xtask ptx [--check] [--only NAME]

  ptx          compile kernels/src/cuda/src/<arch>/*.cu to kernels/ptx/<arch>/*.ptx, assemble the result for every
               GPU generation, print what each kernel uses, and hold it to what its source declares
  --check      write nothing; the committed PTX must be what its source compiles to, byte for byte
  --only NAME  only the file of this name, e.g. rms_norm

A kernel declares what it may use, and which instructions it must come to, in comment lines at the top of its .cu:

  // budget: registers 128, shared 98304          every kernel of the file; limits of registers a thread, and
  // budget gemm_*: registers 168, shared 65536   bytes of shared memory a block, dynamic included; also
  // sass gemm_*: LDG.E.128 LDSM HMMA.16816 !LDL  `local N`: bytes of stack a thread (0 where not given)

A pattern is a kernel's name; * stands for anything. The last budget line that fits a kernel holds. `sass` lists
instructions that must (with !, must not) occur, by leading name and any of the following parts in order.

Tools are fetched once by pip into target/cuda-tools, or OC_CUDA_TOOLS names a folder for them that may have them
already. Cubins and disassembly (.sass) of the last run are in target/ptx.

Exit status: 0 all is well; 1 something is stale, does not compile or breaks its budget; 2 bad usage;
3 the tools are not there and cannot be fetched.";

/// What ended a task.
#[derive(Debug)]
pub enum Error {
    /// Bad usage or a file that cannot be read or written.
    Usage(String),
    /// The kernels are not as they should be; everything has been said.
    Failed(String),
    /// A tool is missing and cannot be had.
    NoTools {
        /// What is missing.
        message: String,
        /// What to do.
        hint: String,
    },
}

/// Shorthand used throughout the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(message) | Self::Failed(message) => write!(f, "error: {message}"),
            Self::NoTools { message, hint } => write!(f, "error: {message}\n\nhint: {hint}"),
        }
    }
}

/// An error of the file system, with the path.
fn io_error(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let text = format!("cannot {what} {}", path.display());
    move |e| Error::Usage(format!("{text}: {e}"))
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        [] | ["-h" | "--help" | "help", ..] | [_, "-h" | "--help", ..] => {
            println!("{HELP}");
            Ok(())
        }
        ["ptx", rest @ ..] => options(rest).and_then(|options| ptx::run(&options)),
        [other, ..] => Err(Error::Usage(format!("there is no task `{other}`; `cargo xtask --help` lists them"))),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("{error}");
    ExitCode::from(match error {
        Error::Failed(_) => 1,
        Error::Usage(_) => 2,
        Error::NoTools { .. } => 3,
    })
}

fn options(args: &[&str]) -> Result<ptx::Options> {
    let mut options = ptx::Options::default();
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match *arg {
            "--check" => options.check = true,
            "--only" => match args.next() {
                Some(name) => options.only = Some(name.trim_end_matches(".cu").to_owned()),
                None => return Err(Error::Usage("--only: the name of a kernel file is missing".into())),
            },
            other => return Err(Error::Usage(format!("ptx: unknown argument `{other}`; see `cargo xtask --help`"))),
        }
    }
    Ok(options)
}
