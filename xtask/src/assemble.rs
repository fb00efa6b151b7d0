//! PTX → machine code, and what the assembler and the disassembler say of it.

use crate::{Error, Result, tools::Tools};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
};

/// A GPU generation that PTX is assembled for.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// E.g. `sm_80`.
    pub name: &'static str,
    /// Whether it needs the newer assembler.
    pub is_new: bool,
    /// Whether the instructions are checked there.
    pub has_sass: bool,
}

const SM_90A: Target = Target { name: "sm_90a", is_new: false, has_sass: true };
const PORTABLE: [Target; 6] = [
    Target { name: "sm_80", is_new: false, has_sass: true },
    Target { name: "sm_86", is_new: false, has_sass: false },
    Target { name: "sm_89", is_new: false, has_sass: false },
    SM_90A,
    Target { name: "sm_100", is_new: true, has_sass: false },
    Target { name: "sm_120", is_new: true, has_sass: false },
];

/// The generations that run PTX of `arch`, or `None` for an architecture that nobody has thought about.
pub fn targets(arch: &str) -> Option<&'static [Target]> {
    match arch {
        "compute_80" => Some(&PORTABLE),
        "compute_90a" => Some(&[SM_90A]),
        _ => None,
    }
}

/// What one kernel uses on one generation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Registers of a thread.
    pub registers: u32,
    /// Static shared memory of a block, in bytes.
    pub shared: u32,
    /// Stack of a thread, in bytes: local memory.
    pub stack: u32,
    /// Bytes of registers that are written to and read from the stack because there were too few.
    pub spills: u32,
}

/// One file, assembled for one generation.
#[derive(Debug)]
pub struct Assembled {
    /// By kernel name.
    pub usage: BTreeMap<String, Usage>,
    /// Opcodes by kernel name, where they are checked.
    pub sass: Option<BTreeMap<String, Vec<String>>>,
}

/// Assembles `ptx` (a file) for `target`; the cubin and its disassembly go into `folder`. `Ok(Err(_))` is what the
/// assembler has against the file.
///
/// # Errors
/// A tool that does not start or says what we do not understand.
pub fn assemble(tools: &Tools, ptx: &Path, target: Target, folder: &Path) -> Result<Result<Assembled, String>> {
    let stem = ptx.file_stem().unwrap_or_default().to_string_lossy();
    let cubin = folder.join(format!("{stem}.{}.cubin", target.name));
    let ptxas = if target.is_new { &tools.ptxas_new } else { &tools.ptxas };
    let mut command = Command::new(ptxas);
    command.arg("-v").arg(format!("-arch={}", target.name)).arg("-o").arg(&cubin).arg(ptx);
    let (is_ok, stdout, stderr) = output(&mut command)?;
    if !is_ok {
        return Ok(Err(format!("{stdout}{stderr}").trim().to_owned()));
    }
    let usage = parse_usage(&format!("{stdout}{stderr}"))
        .map_err(|line| Error::Usage(format!("{} of {stem}: not understood: {line}", ptxas.display())))?;
    let sass = if target.has_sass { Some(disassemble(tools, &cubin)?) } else { None };
    Ok(Ok(Assembled { usage, sass }))
}

fn disassemble(tools: &Tools, cubin: &PathBuf) -> Result<BTreeMap<String, Vec<String>>> {
    let (is_ok, text, stderr) = output(Command::new(&tools.nvdisasm).arg("-c").arg(cubin))?;
    if !is_ok {
        return Err(Error::Usage(format!("nvdisasm of {}: {}", cubin.display(), stderr.trim())));
    }
    let sass = cubin.with_extension("sass");
    std::fs::write(&sass, &text).map_err(crate::io_error("write", &sass))?;
    Ok(parse_sass(&text))
}

/// Whether it succeeded, and both of its streams.
fn output(command: &mut Command) -> Result<(bool, String, String)> {
    let output = command.output().map_err(|e| Error::NoTools {
        message: format!("{} does not start: {e}", command.get_program().display()),
        hint: "delete target/cuda-tools to fetch it again".into(),
    })?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok((output.status.success(), text(&output.stdout), text(&output.stderr)))
}

/// What `ptxas -v` says of each kernel.
///
/// # Errors
/// A line that has a form of its own.
fn parse_usage(text: &str) -> Result<BTreeMap<String, Usage>, String> {
    let mut all: BTreeMap<String, Usage> = BTreeMap::new();
    let mut kernel: Option<String> = None;
    for line in text.lines() {
        let odd = || line.to_owned();
        let info = line.strip_prefix("ptxas info").and_then(|rest| rest.split_once(':')).map(|(_, info)| info.trim());
        if let Some(rest) = info.and_then(|info| info.strip_prefix("Compiling entry function '")) {
            let name = rest.split('\'').next().ok_or_else(odd)?.to_owned();
            all.insert(name.clone(), Usage::default());
            kernel = Some(name);
        } else if info.is_some_and(|info| info.starts_with("Used ")) || line.contains("bytes stack frame") {
            let Some(usage) = kernel.as_ref().and_then(|name| all.get_mut(name)) else {
                // A function that is called: what it needs is in the number of its kernel.
                continue;
            };
            for item in info.unwrap_or(line).split(',').map(str::trim) {
                let item = item.strip_prefix("Used ").or(item.strip_prefix("used ")).unwrap_or(item);
                let (number, what) = item.split_once(' ').ok_or_else(odd)?;
                let number: u32 = number.parse().map_err(|_| odd())?;
                match what {
                    "registers" => usage.registers = number,
                    "bytes smem" => usage.shared = number,
                    "bytes stack frame" | "bytes cumulative stack size" => usage.stack = usage.stack.max(number),
                    "bytes spill stores" | "bytes spill loads" => usage.spills += number,
                    _ if what.contains("cmem") || what.contains("barriers") => {}
                    _ => return Err(odd()),
                }
            }
        }
    }
    Ok(all)
}

/// The opcodes of each kernel in the output of `nvdisasm -c`.
fn parse_sass(text: &str) -> BTreeMap<String, Vec<String>> {
    let mut all: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut kernel: Option<String> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix(".text.").and_then(|rest| rest.strip_suffix(':')) {
            all.insert(name.to_owned(), Vec::new());
            kernel = Some(name.to_owned());
        } else if let Some(opcodes) = kernel.as_ref().and_then(|name| all.get_mut(name))
            && let Some((_, code)) = line.strip_prefix("/*").and_then(|rest| rest.split_once("*/"))
        {
            // `@!P0 LDG.E.128 R4, [R2.64] ;`
            let mut words = code.split_whitespace().filter(|word| !word.starts_with('@') && *word != "{");
            if let Some(opcode) = words.next().map(|word| word.trim_end_matches(';')).filter(|word| !word.is_empty()) {
                opcodes.push(opcode.to_owned());
            }
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_assemblers_are_understood() {
        let old = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'plain' for 'sm_80'
ptxas info    : Function properties for plain
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 8 registers, 360 bytes cmem[0]
ptxas info    : Compiling entry function 'rms' for 'sm_80'
ptxas info    : Function properties for rms
    16 bytes stack frame, 24 bytes spill stores, 40 bytes spill loads
ptxas info    : Used 14 registers, 1024 bytes smem, 372 bytes cmem[0], 8 bytes cmem[2]
";
        let usage = parse_usage(old).unwrap();
        assert_eq!(usage["plain"], Usage { registers: 8, ..Usage::default() });
        assert_eq!(usage["rms"], Usage { registers: 14, shared: 1024, stack: 16, spills: 64 });
        let new = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'rms' for 'sm_120'
ptxas info    : Function properties for rms
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 14 registers, used 1 barriers, 16 bytes cumulative stack size, 1024 bytes smem
ptxas info    : Compile time = 2.422 ms
";
        assert_eq!(parse_usage(new).unwrap()["rms"], Usage { registers: 14, shared: 1024, stack: 16, spills: 0 });
    }

    #[test]
    fn new_words_of_the_assembler_are_not_passed_over() {
        let text = "ptxas info    : Compiling entry function 'k' for 'sm_80'\nptxas info    : Used 8 registers, 3 bytes tmem\n";
        assert!(parse_usage(text).unwrap_err().contains("tmem"));
    }

    #[test]
    fn opcodes_are_found_behind_predicates() {
        let text = "\
//--------------------- .text.plain               --------------------------
plain:
.text.plain:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/              @!P0 LDG.E.128.CONSTANT R4, [R2.64] ;
.L_x_2:
        /*0070*/                   EXIT ;
        /*0090*/                   NOP;
.text.other:
        /*0000*/                   UTMALDG.2D [UR8], [UR4] ;
";
        let sass = parse_sass(text);
        assert_eq!(sass["plain"], ["MOV", "LDG.E.128.CONSTANT", "EXIT", "NOP"]);
        assert_eq!(sass["other"], ["UTMALDG.2D"]);
    }
}
