//! `oc-cli doctor`: what this machine can compute on, tried, and what `--device auto` takes.

use super::Outcome;
use crate::{
    args::DoctorArgs,
    diagnostics::{Result, Stdout},
};
use oc_engine::{Device, DeviceChoice, available_memory};
use oc_kernels::{
    Backend, Dtype,
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    cuda::{CudaBackend, device::DeviceCaps, driver, nccl},
    self_check,
};
use serde_json::{Map, Value, json};
use std::fmt::{Display, Write};

/// What to do where no GPU can be used.
const CPU_SERVES: &str = "libcuda.so.1 was not found, so the processor serves: a GPU needs driver R525 or later (in a container, \
                          start it with `--gpus all`)";

/// Runs the command.
///
/// # Errors
/// Standard output that refuses what is written.
pub fn run(args: &DoctorArgs) -> Result<Outcome> {
    let mut report = Report { sections: Map::new(), is_sound: true };
    report.examine();
    let sections = report.sections;
    let text = if args.json { format!("{:#}\n", Value::Object(sections)) } else { text(&sections) };
    Stdout::lock().print(text)?;
    Ok(if report.is_sound { Outcome::Complete } else { Outcome::WithFailures })
}

/// Sections by title, each an object: the JSON document, and what [`text`] shows.
struct Report {
    sections: Map<String, Value>,
    /// Whether all that is there can be used. A GPU that is absent or too old is no fault.
    is_sound: bool,
}

impl Report {
    fn examine(&mut self) {
        self.sections.insert("program".into(), json!({ "version": env!("CARGO_PKG_VERSION") }));
        let cpu = self.cpu();
        self.sections.insert("processor".into(), cpu);
        let driver = self.driver();
        self.sections.insert("NVIDIA driver".into(), driver);
        let nccl = match nccl::version() {
            Some((major, minor, patch)) => json!({ "version": format!("{major}.{minor}.{patch}") }),
            None => json!({ "absent": "libnccl.so.2 was not found; only several GPUs for one model need it" }),
        };
        self.sections.insert("NCCL".into(), nccl);
        let choice = DeviceChoice::auto(None);
        let device = if choice.device == Device::Cuda { "cuda" } else { "cpu" };
        self.sections.insert("--device auto".into(), json!({ "takes": device, "because": choice.reason }));
    }

    fn cpu(&mut self) -> Value {
        let level = SimdLevel::detect();
        let dtype = if level == SimdLevel::Avx512Bf16 { Dtype::Bf16 } else { Dtype::F32 };
        let backend = CpuBackend::new(CpuOptions { threads: 0, dtype, level: None });
        let levels: Map<String, Value> =
            SimdLevel::ALL.iter().map(|level| (level.name().to_owned(), json!(level.is_supported()))).collect();
        json!({
            "model": cpu_model(),
            "device": backend.as_ref().map_or_else(first_line, |backend| backend.info().name),
            "dtype": dtype.name(),
            "instructions": levels,
            "available_bytes": available_memory(),
            "operations": self.verdict(backend.and_then(|backend| self_check(&backend))),
        })
    }

    /// The driver, and a section for each GPU.
    fn driver(&mut self) -> Value {
        let survey = match driver::survey() {
            Ok(survey) => survey,
            Err(_) if !driver::is_driver_present() => return json!({ "absent": CPU_SERVES }),
            Err(error) => {
                self.is_sound = false;
                return failure(&error);
            }
        };
        for (ordinal, caps) in survey.gpus.iter().enumerate() {
            let gpu = match caps {
                Ok(caps) => self.gpu(ordinal, caps),
                Err(error) => {
                    self.is_sound = false;
                    failure(error)
                }
            };
            self.sections.insert(format!("GPU {ordinal}"), gpu);
        }
        let ptx = match survey.ptx() {
            Some((major, minor)) => format!("up to {major}.{minor}; the kernels are 8.0"),
            None => "newer than this program knows; the kernels are 8.0".into(),
        };
        let (major, minor) = survey.cuda;
        json!({ "CUDA": format!("up to {major}.{minor}"), "PTX": ptx, "GPUs": survey.gpus.len() })
    }

    fn gpu(&mut self, ordinal: usize, caps: &DeviceCaps) -> Value {
        let is_supported = caps.compute >= (8, 0);
        let operations = if is_supported {
            let backend = driver::open(ordinal).and_then(|device| CudaBackend::new(device, Dtype::Bf16));
            self.verdict(backend.and_then(|backend| self_check(&backend)))
        } else {
            "not tried: compute capability 8.0 (Ampere) is needed".into()
        };
        let (major, minor) = caps.compute;
        json!({
            "model": caps.name,
            "compute": format!("{major}.{minor}"),
            "processors": caps.num_sms,
            "memory_bytes": caps.total_bytes,
            "free_bytes": caps.free_bytes,
            "operations": operations,
        })
    }

    fn verdict(&mut self, checked: oc_kernels::Result<usize>) -> String {
        match checked {
            Ok(count) => format!("all {count} give the reference's results"),
            Err(error) => {
                self.is_sound = false;
                first_line(&error)
            }
        }
    }
}

/// The report for people: a paragraph a section, a line a field.
fn text(sections: &Map<String, Value>) -> String {
    let mut out = String::new();
    for (title, fields) in sections {
        let _ = writeln!(out, "{}{title}", if out.is_empty() { "" } else { "\n" });
        for (key, value) in fields.as_object().into_iter().flatten() {
            let (label, value) = match (key.strip_suffix("_bytes"), value) {
                (Some(label), Value::Number(n)) => {
                    (label, format!("{:.1} GiB", n.as_f64().unwrap_or(0.0) / f64::from(1 << 30)))
                }
                (Some(label), _) => (label, "unknown".into()),
                (None, Value::Object(flags)) => {
                    let flag = |(name, has): (&String, &Value)| {
                        format!("{name} {}", if *has == Value::Bool(true) { "yes" } else { "no" })
                    };
                    (key.as_str(), flags.iter().map(flag).collect::<Vec<_>>().join(", "))
                }
                (None, Value::String(text)) => (key.as_str(), text.clone()),
                (None, other) => (key.as_str(), other.to_string()),
            };
            let _ = writeln!(out, "  {label:<13} {value}");
        }
    }
    out
}

/// Name of the processor as the system gives it.
fn cpu_model() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':').map(|(_, name)| name));
    name.map_or_else(|| std::env::consts::ARCH.into(), |name| name.trim().to_owned())
}

/// An error, and what can be done about it.
fn failure(error: &oc_kernels::Error) -> Value {
    let text = error.to_string();
    match text.split_once("\n\nhint: ") {
        Some((what, hint)) => json!({ "error": what, "hint": hint }),
        None => json!({ "error": text }),
    }
}

fn first_line(error: impl Display) -> String {
    error.to_string().split("\n\n").next().unwrap_or_default().to_owned()
}
