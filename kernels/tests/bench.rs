//! The benchmark itself: which problems it times, and what it says of them.

use std::time::Duration;

use oc_kernels::{
    Dtype, Error, WeightFormat,
    bench::{self, BenchOptions, BenchRow},
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    ops::{Bound, Peaks},
};

const PEAKS: Peaks =
    Peaks { f32_gflops: 100.0, bf16_gflops: 200.0, int8_gops: 400.0, read_gbps: 10.0, cache_gbps: 30.0 };

fn cpu(level: Option<SimdLevel>) -> CpuBackend {
    CpuBackend::new(CpuOptions { threads: 2, dtype: Dtype::Bf16, level }).unwrap()
}

fn options(ops: &[&str]) -> BenchOptions {
    BenchOptions {
        ops: ops.iter().map(ToString::to_string).collect(),
        models: vec!["SmolLM2-135M".into()],
        formats: vec![WeightFormat::Q8_0, WeightFormat::Q4K],
        rows: vec![2],
        time: Duration::from_millis(1),
    }
}

fn rows(options: &BenchOptions) -> Vec<BenchRow> {
    let mut rows = Vec::new();
    bench::run(&cpu(None), &PEAKS, options, &mut |row| rows.push(row)).unwrap();
    rows
}

#[test]
fn rows_are_right_and_consistent() {
    let rows = rows(&options(&["linear", "rms_norm", "silu_mul"]));
    let shapes: Vec<_> = rows.iter().map(|r| format!("{} {}", r.op, r.shape)).collect();
    // Rows of 576 weights are no whole number of K-quant blocks; 1536 are.
    let wanted = [
        "rms_norm 2×576",
        "linear 2×576×960 Q8_0",
        "linear 2×576×576 Q8_0",
        "linear 2×576×3072 Q8_0",
        "linear 2×1536×576 Q8_0",
        "linear 2×1536×576 Q4_K",
        "silu_mul 2×1536",
    ];
    assert_eq!(shapes, wanted);
    for row in rows {
        assert!(row.ok && row.error <= row.tolerance && row.micros > 0.0, "{row:?}");
        let (bytes, flops) = (row.gbps * row.micros * 1e3, row.gflops * row.micros * 1e3);
        let (peak, gbps, bound) = match row.op {
            "linear" => (PEAKS.bf16_gflops, PEAKS.read_gbps, Bound::Memory),
            _ => (PEAKS.f32_gflops, PEAKS.cache_gbps, Bound::Cache),
        };
        let floor = (bytes / gbps).max(flops / peak) * 1e-3;
        assert!((row.share_of_floor * row.micros / floor - 1.0).abs() < 1e-6, "{row:?}");
        assert_eq!((row.model, row.bound), ("SmolLM2-135M", bound));
    }
}

#[test]
fn unknown_names_are_refused() {
    let refused = |options: BenchOptions| {
        let result = bench::run(&cpu(None), &PEAKS, &options, &mut |row| panic!("{row:?}"));
        let Err(Error::Unsupported(message)) = result else { panic!("{result:?}") };
        message
    };
    let message = refused(options(&["linear", "softmax"]));
    assert!(message.contains("\"softmax\"") && message.contains("silu_mul"), "{message}");
    let message = refused(BenchOptions { models: vec!["GPT-5".into()], ..options(&[]) });
    assert!(message.contains("\"GPT-5\"") && message.contains("Qwen2-0.5B"), "{message}");
    refused(BenchOptions { rows: vec![], ..options(&[]) });
    refused(BenchOptions { rows: vec![0], ..options(&[]) });
    refused(BenchOptions { formats: vec![], ..options(&[]) });
}

#[test]
fn peaks_are_measured_at_every_level() {
    for level in SimdLevel::ALL.into_iter().filter(|level| level.is_supported()) {
        let Peaks { f32_gflops, bf16_gflops, int8_gops, read_gbps, cache_gbps } = cpu(Some(level)).measure_peaks();
        let all = [f32_gflops, bf16_gflops, int8_gops, read_gbps, cache_gbps];
        assert!(all.iter().all(|peak| peak.is_finite() && *peak > 0.1), "{}: {all:?}", level.name());
        // More than any two cores do: a loop that the compiler has emptied.
        assert!(f32_gflops < 2e3 && int8_gops < 1e4 && cache_gbps < 1e4, "{}: {all:?}", level.name());
    }
}
