//! The compiler, the assemblers and the disassembler: where they are, or how they get there.

use crate::{Error, Result, io_error};
use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A set of wheels that share a folder: its name there, and the pins.
struct Wheels {
    folder: &'static str,
    pins: &'static str,
}

const BASE: Wheels = Wheels { folder: "base", pins: include_str!("../wheels-base.txt") };
const NEW: Wheels = Wheels { folder: "new", pins: include_str!("../wheels-new.txt") };

/// Paths of what the pipeline runs.
pub struct Tools {
    /// `libnvrtc.so.12`, CUDA 12.4.
    pub nvrtc: PathBuf,
    /// Folder of `cuda_bf16.h` and its like.
    pub headers: PathBuf,
    /// `ptxas` 12.0: accepts PTX up to 8.0, targets up to `sm_90a`.
    pub ptxas: PathBuf,
    /// `ptxas` 12.9, for what came after.
    pub ptxas_new: PathBuf,
    /// `nvdisasm`.
    pub nvdisasm: PathBuf,
}

impl Tools {
    /// Finds the tools in `OC_CUDA_TOOLS`, or else in `target/cuda-tools` under `root`, and fetches what is not there.
    ///
    /// # Errors
    /// [`Error::NoTools`].
    pub fn find_or_fetch(root: &Path) -> Result<Self> {
        if (std::env::consts::OS, std::env::consts::ARCH) != ("linux", "x86_64") {
            return Err(Error::NoTools {
                message: "the pinned CUDA wheels are for Linux on x86_64".into(),
                hint: "rebuild the PTX on such a machine; using it needs no tools anywhere".into(),
            });
        }
        let folder = match std::env::var_os("OC_CUDA_TOOLS") {
            Some(folder) if !folder.is_empty() => PathBuf::from(folder),
            _ => root.join("target/cuda-tools"),
        };
        for wheels in [&BASE, &NEW] {
            wheels.ensure(&folder)?;
        }
        let (base, new) = (folder.join(BASE.folder).join("nvidia"), folder.join(NEW.folder).join("nvidia"));
        let tools = Self {
            nvrtc: base.join("cuda_nvrtc/lib/libnvrtc.so.12"),
            headers: base.join("cuda_runtime/include"),
            ptxas: base.join("cuda_nvcc/bin/ptxas"),
            ptxas_new: new.join("cuda_nvcc/bin/ptxas"),
            nvdisasm: base.join("cu13/bin/nvdisasm"),
        };
        let all = [&tools.nvrtc, &tools.headers, &tools.ptxas, &tools.ptxas_new, &tools.nvdisasm];
        if let Some(path) = all.into_iter().find(|path| !path.exists()) {
            return Err(Error::NoTools {
                message: format!("{} is missing though its wheel is installed", path.display()),
                hint: format!("delete {} and run this again", folder.display()),
            });
        }
        Ok(tools)
    }
}

impl Wheels {
    /// Installs the pinned wheels into `cache`, unless all of them are there.
    fn ensure(&self, cache: &Path) -> Result<()> {
        let target = cache.join(self.folder);
        let missing: Vec<String> = pins(self.pins).filter(|pin| !target.join(dist_info(pin)).is_dir()).collect();
        if missing.is_empty() {
            return Ok(());
        }
        eprintln!("fetching {} into {}", missing.join(", "), target.display());
        // Into a folder of its own, then renamed: an interrupted installation leaves nothing that looks whole.
        let partial = cache.join(format!("{}.{}.part", self.folder, std::process::id()));
        let list = cache.join(format!("{}.{}.txt", self.folder, std::process::id()));
        fs::create_dir_all(cache).map_err(io_error("create", cache))?;
        fs::write(&list, self.pins).map_err(io_error("write", &list))?;
        let installed = pip_install(&list, &partial);
        fs::remove_file(&list).ok();
        if let Err(error) = installed {
            fs::remove_dir_all(&partial).ok();
            return Err(error);
        }
        if target.exists() {
            fs::remove_dir_all(&target).map_err(io_error("replace", &target))?;
        }
        fs::rename(&partial, &target).map_err(io_error("create", &target))
    }
}

fn pip_install(list: &Path, target: &Path) -> Result<()> {
    let no_tools = |message: String, hint: &str| Err(Error::NoTools { message, hint: hint.into() });
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]);
    pip.arg("--only-binary=:all:").arg("--target").arg(target).arg("-r").arg(list);
    let output = match pip.output() {
        Ok(output) => output,
        Err(e) => {
            return no_tools(
                format!("python3 does not start ({e}); its pip fetches the CUDA compiler"),
                "install Python 3 with pip, or let OC_CUDA_TOOLS name a folder that already has the tools",
            );
        }
    };
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    if stderr.contains("No module named pip") {
        return no_tools(
            "python3 has no pip, which fetches the CUDA compiler".into(),
            "install it (Debian: apt install python3-pip; elsewhere: python3 -m ensurepip --user)",
        );
    }
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(4)..].join("\n  ");
    no_tools(
        format!("pip could not fetch the CUDA compiler ({}):\n  {last}", output.status),
        "this needs the network once: PyPI, or a mirror that pip is configured for (PIP_INDEX_URL); or let \
         OC_CUDA_TOOLS name a folder that already has the tools",
    )
}

/// `name==version` of every pin.
fn pins(text: &str) -> impl Iterator<Item = String> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_whitespace().next()).map(str::to_owned)
}

/// The folder that pip leaves for `name==version`.
fn dist_info(pin: &str) -> String {
    format!("{}.dist-info", pin.replace("==", "=").replace('-', "_").replace('=', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pins_name_the_folders_that_pip_makes() {
        let folders: Vec<String> = pins(BASE.pins).map(|pin| dist_info(&pin)).collect();
        assert!(folders.contains(&"nvidia_cuda_nvrtc_cu12-12.4.127.dist-info".to_owned()), "{folders:?}");
        assert_eq!(folders.len(), 4);
    }

    #[test]
    fn every_pin_has_a_hash() {
        for line in [BASE, NEW].iter().flat_map(|wheels| wheels.pins.lines()).filter(|line| !line.starts_with('#')) {
            let (pin, hash) = line.split_once(" --hash=sha256:").expect(line);
            assert!(pin.contains("==") && hash.len() == 64, "{line}");
        }
    }
}
