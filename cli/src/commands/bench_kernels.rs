//! `oc-cli bench-kernels`: what each operation costs here, as a share of what this machine can do.

use super::Outcome;
use crate::{
    args::{BenchKernelsArgs, DeviceArg},
    diagnostics::{Error, Result, Stdout},
};
use oc_kernels::{
    Backend, Dtype,
    bench::{self, BenchOptions, BenchRow},
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    ops::Peaks,
};
use serde_json::{Value, json};
use std::time::Duration;

/// Runs the command.
///
/// # Errors
/// Bad input, and whatever the backend refuses.
pub fn run(args: &BenchKernelsArgs) -> Result<Outcome> {
    if args.device == DeviceArg::Cuda {
        return Err(Error::input("this build has no CUDA backend yet", "use --device cpu, or leave it out"));
    }
    let best = if SimdLevel::detect() == SimdLevel::Avx512Bf16 { Dtype::Bf16 } else { Dtype::F32 };
    let dtype = args.dtype.dtype().unwrap_or(best);
    let backend = CpuBackend::new(CpuOptions { threads: args.threads.unwrap_or(0), dtype, level: None })?;
    let default = BenchOptions::default();
    let options = BenchOptions {
        ops: args.ops.clone(),
        models: args.models.clone(),
        rows: if args.rows.is_empty() { default.rows } else { args.rows.clone() },
        time: Duration::from_millis(args.time),
        formats: default.formats,
    };
    options.check::<CpuBackend>()?;
    let mut out = Stdout::lock();
    let name = backend.info().name;
    tracing::info!("measuring the peaks of {name}");
    let peaks = backend.measure_peaks();
    if !args.json {
        out.line(format_args!("{name}, dtype {}", dtype.name()))?;
        out.line(peaks_text(&peaks))?;
    }
    let mut rows = Vec::new();
    let mut printed = Ok(());
    bench::run(&backend, &peaks, &options, &mut |row| {
        if !args.json && printed.is_ok() {
            let header = if rows.is_empty() { format!("\n{HEADER}\n") } else { String::new() };
            printed = out.line(format_args!("{header}{}", line(&row)));
        }
        rows.push(row);
    })?;
    printed?;
    if args.json {
        let rows: Vec<Value> = rows.iter().map(json_row).collect();
        let peaks = json!({
            "f32_gflops": peaks.f32_gflops,
            "bf16_gflops": peaks.bf16_gflops,
            "int8_gops": peaks.int8_gops,
            "read_gbps": peaks.read_gbps,
            "cache_gbps": peaks.cache_gbps,
        });
        let document = json!({ "device": name, "dtype": dtype.name(), "peaks": peaks, "rows": rows });
        out.line(serde_json::to_string_pretty(&document).expect("strings and numbers"))?;
    }
    let wrong = rows.iter().filter(|row| !row.ok).count();
    if wrong > 0 {
        tracing::error!("{wrong} of {} results are wrong", rows.len());
        return Ok(Outcome::WithFailures);
    }
    Ok(Outcome::Complete)
}

fn peaks_text(peaks: &Peaks) -> String {
    let Peaks { f32_gflops, bf16_gflops, int8_gops, read_gbps, cache_gbps } = peaks;
    format!(
        "peaks measured now: f32 {f32_gflops:.0} GFLOP/s, bf16 {bf16_gflops:.0} GFLOP/s, int8 {int8_gops:.0} Gop/s, \
         read {read_gbps:.1} GB/s from memory, {cache_gbps:.0} GB/s from the caches"
    )
}

const HEADER: &str =
    "operation     model         shape                              µs     GB/s  GFLOP/s  of floor  bound by    result";

fn line(row: &BenchRow) -> String {
    let bound = row.bound.name();
    let result = if row.ok {
        "right".to_owned()
    } else {
        format!("WRONG: error {:.1e}, at most {:.1e}", row.error, row.tolerance)
    };
    format!(
        "{:<13} {:<13} {:<27} {:>9.1} {:>8.1} {:>8.1} {:>8.0}%  {bound:<10}  {result}",
        row.op,
        row.model,
        row.shape.to_string(),
        row.micros,
        row.gbps,
        row.gflops,
        100.0 * row.share_of_floor
    )
}

fn json_row(row: &BenchRow) -> Value {
    json!({
        "op": row.op,
        "model": row.model,
        "shape": row.shape.to_string(),
        "dtype": row.dtype.name(),
        "micros": row.micros,
        "gbps": row.gbps,
        "gflops": row.gflops,
        "share_of_floor": row.share_of_floor,
        "bound_by": row.bound.name(),
        "error": row.error,
        "tolerance": row.tolerance,
        "ok": row.ok,
    })
}
