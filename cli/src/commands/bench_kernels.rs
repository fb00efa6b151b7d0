//! `oc-cli bench-kernels`: what each operation costs here, as a share of what this machine can do.

use super::{Outcome, bench_report as report};
use crate::{
    args::{BenchDeviceArg, BenchKernelsArgs},
    diagnostics::{Error, Result, Stdout},
};
use oc_kernels::{
    Backend, Dtype, WeightFormat,
    bench::{self, BenchOptions, Meter, Problem},
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    cuda::{CudaBackend, driver},
    emulator::{Emulator, EmulatorOptions},
};
use std::{sync::Arc, time::Duration};

/// Tokens of a step on a GPU: decode steps of one sequence and of sixteen, a chunk, a long prompt.
const GPU_ROWS: [usize; 4] = [1, 16, 512, 4096];

/// Runs the command.
///
/// # Errors
/// Bad input, and whatever the backend refuses.
pub fn run(args: &BenchKernelsArgs) -> Result<Outcome> {
    let baseline = args.baseline.as_deref().map(report::Baseline::read).transpose()?;
    let bench = Bench { args, baseline, time: Duration::from_millis(args.time) };
    match args.device {
        BenchDeviceArg::Cpu => bench.cpu(),
        BenchDeviceArg::Cuda => bench.cuda(),
        BenchDeviceArg::Emulator => bench.emulator(),
    }
}

struct Bench<'a> {
    args: &'a BenchKernelsArgs,
    baseline: Option<report::Baseline>,
    time: Duration,
}

impl Bench<'_> {
    fn options(&self, default: BenchOptions) -> BenchOptions {
        let args = self.args;
        // The sign of tables is not on everybody's keyboard.
        let shapes = args.shapes.iter().map(|text| text.replace(['x', '*'], "×")).collect();
        let or = |given: &Vec<usize>, default| if given.is_empty() { default } else { given.clone() };
        BenchOptions {
            ops: args.ops.clone(),
            models: if args.models.is_empty() { default.models } else { args.models.clone() },
            shapes,
            rows: or(&args.rows, default.rows),
            time: self.time,
            formats: default.formats,
        }
    }

    fn cpu(&self) -> Result<Outcome> {
        let best = if SimdLevel::detect() == SimdLevel::Avx512Bf16 { Dtype::Bf16 } else { Dtype::F32 };
        let dtype = self.args.dtype.dtype().unwrap_or(best);
        let backend = CpuBackend::new(CpuOptions { threads: self.args.threads.unwrap_or(0), dtype, level: None })?;
        let problems = self.options(BenchOptions::default()).problems(false)?;
        tracing::info!("measuring the peaks of {}", backend.info().name);
        self.run(&backend, &Meter::Host(backend.measure_peaks()), &problems)
    }

    fn cuda(&self) -> Result<Outcome> {
        let device = driver::open(self.args.gpu)?;
        let dtype = self.gpu_dtype()?;
        let backend = CudaBackend::new(device.clone(), dtype)?;
        let default = BenchOptions { models: vec!["all".into()], rows: GPU_ROWS.into(), ..gpu_options(dtype) };
        let problems = self.options(default).problems(false)?;
        tracing::info!("measuring the peaks of {}", backend.info().name);
        self.run(&backend, &Meter::Device(&*device, backend.measure_peaks()?), &problems)
    }

    fn emulator(&self) -> Result<Outcome> {
        if self.baseline.is_some() {
            let message = "the emulator has no times to compare with --baseline";
            return Err(Error::input(message, "use --device cpu or cuda, or leave --baseline out"));
        }
        let threads = self.args.threads.unwrap_or(0);
        let emulator = Emulator::new(EmulatorOptions { threads, ..EmulatorOptions::default() });
        let dtype = self.gpu_dtype()?;
        let backend = CudaBackend::new(Arc::new(emulator.clone()), dtype)?;
        let problems = self.options(gpu_options(dtype)).problems(true)?;
        self.run(&backend, &Meter::Counts(&emulator), &problems)
    }

    /// bf16 unless something else is asked for.
    fn gpu_dtype(&self) -> Result<Dtype> {
        match self.args.dtype.dtype().unwrap_or(Dtype::Bf16) {
            dtype @ (Dtype::Bf16 | Dtype::F16) => Ok(dtype),
            other => {
                let message = format!("GPUs compute in bf16 or f16, not in {}", other.name());
                Err(Error::input(message, "use --dtype bf16, or --device cpu"))
            }
        }
    }

    fn run<B: Backend>(&self, backend: &B, meter: &Meter<'_>, problems: &[Problem<B>]) -> Result<Outcome> {
        let info = backend.info();
        let mut report = report::Report::new(&info, meter, self.baseline.as_ref(), self.args.json);
        let mut out = Stdout::lock();
        out.print(report.heading())?;
        bench::run(backend, meter, problems, self.time, &mut |row| out.print(report.row(row)))?;
        out.print(report.ending())?;
        let failed = report.failed();
        if failed > 0 {
            tracing::error!("{failed} of {} problems have no right result", problems.len());
            return Ok(Outcome::WithFailures);
        }
        Ok(Outcome::Complete)
    }
}

/// Weights in the one type that a GPU keeps them in.
fn gpu_options(dtype: Dtype) -> BenchOptions {
    let format = if dtype == Dtype::F16 { WeightFormat::F16 } else { WeightFormat::Bf16 };
    BenchOptions { formats: vec![format], ..BenchOptions::default() }
}
