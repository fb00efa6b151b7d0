//! `cargo xtask ptx`: compiles every kernel, and holds what comes out to what its source declares.

use crate::{
    Error, Result,
    assemble::{self, Assembled, Target, Usage},
    claims::{Budget, Claims, is_instance},
    io_error,
    nvrtc::Nvrtc,
    tools::Tools,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
};

/// Sources, one folder per architecture, and what they share.
const SOURCES: &str = "kernels/src/cuda/src";
/// The committed PTX.
const COMMITTED: &str = "kernels/ptx";
/// The last run: PTX, cubins, disassembly.
const SCRATCH: &str = "target/ptx";
/// The newest that `ptxas` 12.0, and so a driver of the 525 series, accepts.
const PTX_VERSION: &str = "8.0";

/// How to run.
#[derive(Debug, Default)]
pub struct Options {
    /// Compare instead of writing.
    pub check: bool,
    /// Only the file of this name.
    pub only: Option<String>,
}

/// One `.cu`.
struct Source {
    arch: String,
    name: String,
    /// From the root of the repository.
    path: String,
    text: String,
    claims: Claims,
}

impl Source {
    /// Its PTX, as in `kernels/ptx/compute_80/rms_norm.ptx`.
    fn ptx(&self, folder: &str) -> PathBuf {
        Path::new(folder).join(&self.arch).join(format!("{}.ptx", self.name))
    }
}

/// Runs the task from the root of the repository.
///
/// # Errors
/// [`Error::Failed`] when anything is stale, does not compile or breaks what it declares, after all of it was printed;
/// [`Error::NoTools`]; [`Error::Usage`].
pub fn run(options: &Options) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is a folder of the repository");
    std::env::set_current_dir(root).map_err(io_error("enter", root))?;
    let mut problems = Vec::new();
    let sources = sources(options.only.as_deref(), &mut problems)?;
    if sources.is_empty() && problems.is_empty() {
        println!("no kernels in {SOURCES}/<arch>");
        return Ok(());
    }
    let tools = Tools::find_or_fetch(root)?;
    let compiled = compile(&tools, &sources, &mut problems)?;
    if options.check {
        compare(&compiled, &mut problems)?;
    } else {
        write(&compiled)?;
    }
    if options.only.is_none() {
        strays(&sources, options.check, &mut problems)?;
    }
    verify(&tools, &compiled, &mut problems)?;
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    match problems.len() {
        0 => {
            let done = if options.check { "fresh and within" } else { "up to date and within" };
            println!("files of PTX: {}, {done} their budgets", compiled.len());
            Ok(())
        }
        1 => Err(Error::Failed("1 problem".into())),
        n => Err(Error::Failed(format!("{n} problems"))),
    }
}

/// Every source, by architecture and name; what is wrong with their declarations goes to `problems`.
fn sources(only: Option<&str>, problems: &mut Vec<String>) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for folder in entries(Path::new(SOURCES))?.into_iter().filter(|path| path.is_dir()) {
        let arch = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for path in entries(&folder)?.into_iter().filter(|path| path.extension().is_some_and(|ext| ext == "cu")) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if only.is_some_and(|only| only != name) {
                continue;
            }
            if assemble::targets(&arch).is_none() {
                return Err(Error::Usage(format!(
                    "{}: `{arch}` is no architecture that we compile for; add it to targets() in xtask/src/assemble.rs",
                    path.display()
                )));
            }
            let text = fs::read_to_string(&path).map_err(io_error("read", &path))?;
            let (arch, path) = (arch.clone(), path.display().to_string());
            let claims = Claims::parse(&text, &arch).unwrap_or_else(|e| {
                problems.push(format!("{path}: {e}"));
                Claims::default()
            });
            sources.push(Source { arch, name, path, text, claims });
        }
    }
    match only {
        Some(only) if sources.is_empty() => Err(Error::Usage(format!("there is no {SOURCES}/<arch>/{only}.cu"))),
        _ => Ok(sources),
    }
}

/// What a folder holds, sorted; nothing where there is no folder.
fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let listing = match fs::read_dir(folder) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing.map_err(io_error("read", folder))?,
    };
    let paths = listing.map(|entry| entry.map(|entry| entry.path())).collect::<std::io::Result<Vec<_>>>();
    let mut paths = paths.map_err(io_error("read", folder))?;
    paths.sort();
    Ok(paths)
}

/// Compiles all; those with errors are left out, and say so in `problems`.
fn compile<'a>(tools: &Tools, sources: &'a [Source], problems: &mut Vec<String>) -> Result<Vec<(&'a Source, String)>> {
    let nvrtc = Nvrtc::load(tools)?;
    let results = parallel(sources, |source| {
        let folder = Path::new(SOURCES);
        nvrtc.compile(&source.path, &source.text, &source.arch, &[&folder.join(&source.arch), folder])
    });
    let mut compiled = Vec::new();
    for (source, result) in sources.iter().zip(results) {
        let result = result?;
        if !result.log.is_empty() {
            eprintln!("{}\n", result.log);
            let what = if result.ptx.is_some() { "has warnings, shown above" } else { "does not compile, see above" };
            problems.push(format!("{} {what}", source.path));
        }
        if let Some(ptx) = result.ptx {
            let ptx = finish(&ptx, &source.path).map_err(|e| Error::Usage(format!("{}: {e}", source.path)))?;
            compiled.push((source, ptx));
        }
    }
    Ok(compiled)
}

/// The text that is committed: our heading instead of the compiler's, and the version lowered.
///
/// The version only says which instructions may occur. Whether the text keeps to [`PTX_VERSION`], the assembler of that
/// version decides.
fn finish(ptx: &str, source: &str) -> Result<String, &'static str> {
    let (_, body) = ptx.split_once("\n.version ").ok_or("the compiler's output has no .version")?;
    let (_, body) = body.split_once('\n').ok_or("the compiler's output ends at .version")?;
    Ok(format!(
        "// Generated by `cargo xtask ptx` from {source}; not to be edited.\n.version {PTX_VERSION}\n{}\n",
        body.trim_end()
    ))
}

/// Writes what differs from what is committed.
fn write(compiled: &[(&Source, String)]) -> Result<()> {
    for (source, ptx) in compiled {
        let path = source.ptx(COMMITTED);
        if fs::read_to_string(&path).is_ok_and(|old| old == *ptx) {
            continue;
        }
        write_file(&path, ptx)?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

fn write_file(path: &Path, text: &str) -> Result<()> {
    let folder = path.parent().unwrap_or(path);
    fs::create_dir_all(folder).map_err(io_error("create", folder))?;
    fs::write(path, text).map_err(io_error("write", path))
}

/// Finds what is committed and differs.
fn compare(compiled: &[(&Source, String)], problems: &mut Vec<String>) -> Result<()> {
    for (source, ptx) in compiled {
        let path = source.ptx(COMMITTED);
        let found = match fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
            found => Some(found.map_err(io_error("read", &path))?),
        };
        if let Some(what) = staleness(found.as_deref(), ptx) {
            problems.push(format!("{} {what}: run `cargo xtask ptx` and commit", path.display()));
        }
    }
    Ok(())
}

/// How `found` differs from `wanted`.
fn staleness(found: Option<&[u8]>, wanted: &str) -> Option<String> {
    let Some(found) = found else { return Some("is missing".into()) };
    let at = found.iter().zip(wanted.as_bytes()).position(|(a, b)| a != b);
    let at = at.or((found.len() != wanted.len()).then_some(found.len().min(wanted.len())))?;
    let line = 1 + wanted.bytes().take(at).filter(|byte| *byte == b'\n').count();
    Some(format!("is stale from line {line} on"))
}

/// PTX whose source is gone: a problem, or else removed.
fn strays(sources: &[Source], check: bool, problems: &mut Vec<String>) -> Result<()> {
    let known: BTreeSet<PathBuf> = sources.iter().map(|source| source.ptx(COMMITTED)).collect();
    for folder in entries(Path::new(COMMITTED))?.into_iter().filter(|path| path.is_dir()) {
        for path in entries(&folder)?.into_iter().filter(|path| !known.contains(path)) {
            if check {
                problems.push(format!("{} comes from no source: run `cargo xtask ptx` and commit", path.display()));
            } else {
                fs::remove_file(&path).map_err(io_error("remove", &path))?;
                println!("removed {}", path.display());
            }
        }
    }
    Ok(())
}

/// Assembles everything, prints what each kernel uses, and compares with what it declares.
fn verify(tools: &Tools, compiled: &[(&Source, String)], problems: &mut Vec<String>) -> Result<()> {
    let mut jobs = Vec::new();
    for (source, ptx) in compiled {
        let path = source.ptx(SCRATCH);
        write_file(&path, ptx)?;
        jobs.extend(assemble::targets(&source.arch).unwrap_or_default().iter().map(|target| (path.clone(), *target)));
    }
    let results = parallel(&jobs, |(path, target)| {
        assemble::assemble(tools, path, *target, path.parent().unwrap_or(Path::new(SCRATCH)))
    });
    let mut results = jobs.iter().map(|(_, target)| *target).zip(results);
    let mut header = "";
    for (source, _) in compiled {
        let targets = assemble::targets(&source.arch).unwrap_or_default();
        let mut assembled = Vec::new();
        for (target, result) in results.by_ref().take(targets.len()) {
            match result? {
                Ok(result) => assembled.push((target, result)),
                Err(log) => {
                    let path = source.ptx(SCRATCH);
                    eprintln!("{log}\n");
                    problems.push(format!("{} does not assemble for {}, see above", path.display(), target.name));
                }
            }
        }
        if header != source.arch {
            header = &source.arch;
            println!("{}", heading(header, targets));
        }
        for line in table(source, &assembled, targets, problems) {
            println!("{line}");
        }
    }
    println!();
    Ok(())
}

fn heading(arch: &str, targets: &[Target]) -> String {
    let names: String = targets.iter().map(|target| format!("{:>7}", target.name)).collect();
    let registers = format!("{:>width$}", "registers", width = 7 * targets.len());
    let head = format!("\n{:<44}{registers}   most    shared    most  stack  spills", "");
    format!("{head}\n{arch:<44}{names}              bytes")
}

/// One line per kernel of a file; what breaks its declarations goes to `problems`.
fn table(
    source: &Source,
    assembled: &[(Target, Assembled)],
    targets: &[Target],
    problems: &mut Vec<String>,
) -> Vec<String> {
    let kernels: BTreeSet<&str> = assembled.iter().flat_map(|(_, a)| a.usage.keys().map(String::as_str)).collect();
    let kernels: Vec<&str> = kernels.into_iter().collect();
    if assembled.len() == targets.len() {
        let idle = source.claims.idle(&kernels);
        problems.extend(idle.iter().map(|line| format!("{}: {line}", source.path)));
    }
    let mut lines = Vec::new();
    for kernel in kernels {
        let budget = source.claims.budget(kernel);
        let (mut cells, mut most) = (String::new(), Usage::default());
        // What is wrong, and where: mostly the same everywhere.
        let mut wrong: Vec<(String, Vec<&str>)> = Vec::new();
        for target in targets {
            let found = assembled.iter().find(|(t, _)| t.name == target.name);
            let Some((usage, sass)) = found.and_then(|(_, a)| Some((a.usage.get(kernel)?, &a.sass))) else {
                cells += "      -";
                continue;
            };
            cells += &format!("{:>7}", usage.registers);
            most = Usage {
                registers: most.registers.max(usage.registers),
                shared: most.shared.max(usage.shared),
                stack: most.stack.max(usage.stack),
                spills: most.spills.max(usage.spills),
            };
            let opcodes = |sass: &BTreeMap<String, Vec<String>>| sass.get(kernel).cloned().unwrap_or_default();
            let unkept = sass.iter().flat_map(|sass| unkept(source.claims.sass(kernel), &opcodes(sass)));
            for text in broken(usage, budget).into_iter().chain(unkept) {
                match wrong.iter_mut().find(|(known, _)| *known == text) {
                    Some((_, names)) => names.push(target.name),
                    None => wrong.push((text, vec![target.name])),
                }
            }
        }
        let texts = wrong.into_iter().map(|(text, names)| (text, names.join(", ")));
        problems.extend(texts.map(|(text, names)| format!("{}: {kernel} on {names}: {text}", source.path)));
        let (registers, shared) = budget
            .map_or(("none".into(), "none".into()), |budget| (budget.registers.to_string(), budget.shared.to_string()));
        if budget.is_none() {
            problems.push(format!(
                "{}: {kernel} declares no budget; what it uses now is `// budget {kernel}: registers {}, shared {}`",
                source.path, most.registers, most.shared
            ));
        }
        let name = format!("{}: {kernel}", source.name);
        let Usage { shared: used, stack, spills, .. } = most;
        lines.push(format!("{name:<44}{cells}{registers:>7}  {used:>9}{shared:>8}{stack:>7}{spills:>8}"));
    }
    lines
}

/// How `usage` breaks `budget`. Without a budget only spills count.
fn broken(usage: &Usage, budget: Option<Budget>) -> Vec<String> {
    let mut texts = Vec::new();
    if usage.spills > 0 {
        texts.push(format!("{} bytes of registers are spilled", usage.spills));
    }
    let Some(budget) = budget else { return texts };
    let pairs = [
        ("registers", usage.registers, budget.registers),
        ("bytes of static shared memory", usage.shared, budget.shared),
        ("bytes of local memory", usage.stack, budget.local),
    ];
    let over = pairs.iter().filter(|(_, used, most)| used > most);
    texts.extend(over.map(|(what, used, most)| format!("{used} {what}, and its budget is {most}")));
    texts
}

/// Which of `claims` the instructions of a kernel do not keep.
fn unkept<'a>(claims: impl Iterator<Item = &'a str>, opcodes: &[String]) -> Vec<String> {
    let occurs = |claim: &str| opcodes.iter().find(|opcode| is_instance(opcode, claim));
    let text = |claim: &str| match claim.strip_prefix('!') {
        Some(claim) => occurs(claim).map(|opcode| format!("has {opcode}, which its source says it has not")),
        None if occurs(claim).is_some() => None,
        None => Some(format!("no {claim} among its instructions, which its source claims")),
    };
    claims.filter_map(text).collect()
}

/// `f` of every item, on all cores, in order.
fn parallel<T: Sync, R: Send>(items: &[T], f: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(items.len());
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            match items.get(i) {
                Some(item) => done.push((i, f(item))),
                None => return done,
            }
        }
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no job panics")).collect()
    });
    results.sort_by_key(|(i, _)| *i);
    results.into_iter().map(|(_, result)| result).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_heading_and_the_version_are_ours() {
        let theirs = "//\n// Generated by NVIDIA NVVM Compiler\n// Compiler Build ID: CL-1\n//\n\n.version 8.4\n.target sm_80\n\nx\n\n";
        let ours = finish(theirs, "a.cu").unwrap();
        assert_eq!(
            ours,
            "// Generated by `cargo xtask ptx` from a.cu; not to be edited.\n.version 8.0\n.target sm_80\n\nx\n"
        );
        assert!(finish("nothing", "a.cu").is_err());
    }

    #[test]
    fn a_difference_is_found_with_its_line() {
        assert_eq!(staleness(Some(b"a\nb\n"), "a\nb\n"), None);
        assert_eq!(staleness(None, "a\n").unwrap(), "is missing");
        assert_eq!(staleness(Some(b"a\nx\n"), "a\nb\n").unwrap(), "is stale from line 2 on");
        assert_eq!(staleness(Some(b"a\nb\nmore\n"), "a\nb\n").unwrap(), "is stale from line 3 on");
        assert_eq!(staleness(Some(b"a\n"), "a\nb\n").unwrap(), "is stale from line 2 on");
    }

    #[test]
    fn every_kind_of_overrun_is_told() {
        let budget = Some(Budget { registers: 64, shared: 1024, local: 0 });
        let within = Usage { registers: 64, shared: 1024, stack: 0, spills: 0 };
        assert!(broken(&within, budget).is_empty());
        let over = Usage { registers: 65, shared: 1025, stack: 8, spills: 4 };
        let texts = broken(&over, budget).join("\n");
        for part in ["4 bytes of registers", "65 registers", "1025 bytes of static", "8 bytes of local"] {
            assert!(texts.contains(part), "{texts}");
        }
        assert_eq!(broken(&over, None).len(), 1);
    }

    #[test]
    fn claims_about_instructions_are_held() {
        let opcodes = ["LDG.E.128.CONSTANT".to_owned(), "LDL.64".to_owned()];
        assert!(unkept(["LDG.E.128", "!STL"].into_iter(), &opcodes).is_empty());
        let texts = unkept(["HMMA.16816", "!LDL"].into_iter(), &opcodes);
        assert!(texts[0].contains("no HMMA.16816") && texts[1].contains("LDL.64"), "{texts:?}");
    }

    #[test]
    fn results_keep_their_order() {
        let items: Vec<usize> = (0..100).collect();
        assert_eq!(parallel(&items, |i| i * 2), items.iter().map(|i| i * 2).collect::<Vec<_>>());
        assert!(parallel(&[] as &[usize], |i| *i).is_empty());
    }
}
