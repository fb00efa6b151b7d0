//! The benchmark itself: which problems it times, and what it says of them.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use oc_kernels::{
    Backend, Dtype, Error, Heads, Result, WeightFormat,
    bench::{self, BenchOptions, BenchRow, Measured, Meter, Outcome, reduced},
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    cuda::{
        CudaBackend,
        device::{Device, DeviceCaps, DevicePtr, Graph, Launch},
    },
    emulator::Emulator,
    ops::{Bound, Peaks, Shape},
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
        shapes: Vec::new(),
        formats: vec![WeightFormat::Q8_0, WeightFormat::Q4K],
        rows: vec![2],
        time: Duration::from_millis(1),
    }
}

fn rows<B: Backend>(backend: &B, meter: &Meter<'_>, options: &BenchOptions) -> Vec<BenchRow> {
    let mut rows = Vec::new();
    let problems = options.problems(matches!(meter, Meter::Counts(_))).unwrap();
    let mut keep = |row| {
        rows.push(row);
        Ok::<(), Error>(())
    };
    bench::run(backend, meter, &problems, options.time, &mut keep).unwrap();
    rows
}

fn shapes(rows: &[BenchRow]) -> Vec<String> {
    rows.iter().map(|row| format!("{} {}", row.op, row.shape)).collect()
}

#[test]
fn rows_are_right_and_consistent() {
    let rows = rows(&cpu(None), &Meter::Host(PEAKS), &options(&["linear", "rms_norm", "silu_mul"]));
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
    assert_eq!(shapes(&rows), wanted);
    for row in rows {
        assert!(row.is_right() && row.model == "SmolLM2-135M", "{row:?}");
        let timing = row.timing().unwrap();
        let (bytes, flops) = (timing.gbps * timing.micros * 1e3, timing.gflops * timing.micros * 1e3);
        assert!((bytes / row.cost.bytes - 1.0).abs() < 1e-6 && (flops / row.cost.flops - 1.0).abs() < 1e-6, "{row:?}");
        let (peak, gbps, bound) = match row.op {
            "linear" => (PEAKS.bf16_gflops, PEAKS.read_gbps, Bound::Memory),
            _ => (PEAKS.f32_gflops, PEAKS.cache_gbps, Bound::Cache),
        };
        let floor = (bytes / gbps).max(flops / peak) * 1e-3;
        assert!(timing.micros > 0.0 && (timing.share_of_floor * timing.micros / floor - 1.0).abs() < 1e-6, "{row:?}");
        assert_eq!(timing.bound, bound);
    }
}

#[test]
fn shapes_are_chosen_by_what_is_printed() {
    let chosen = BenchOptions { shapes: vec!["×576×".into(), "1536 ".into()], ..options(&["linear", "silu_mul"]) };
    let chosen = rows(&cpu(None), &Meter::Host(PEAKS), &chosen);
    assert_eq!(shapes(&chosen), ["linear 2×576×960 Q8_0", "linear 2×576×576 Q8_0", "linear 2×576×3072 Q8_0"]);
}

#[test]
fn unknown_names_are_refused() {
    let refused = |options: BenchOptions| match options.problems::<CpuBackend>(false) {
        Err(Error::Unsupported(message)) => message,
        Err(other) => panic!("{other:?}"),
        Ok(problems) => panic!("{} problems", problems.len()),
    };
    let message = refused(options(&["linear", "softmax"]));
    assert!(message.contains("\"softmax\"") && message.contains("silu_mul"), "{message}");
    let message = refused(BenchOptions { models: vec!["GPT-5".into()], ..options(&[]) });
    assert!(message.contains("\"GPT-5\"") && message.contains("Qwen2-0.5B"), "{message}");
    let message = refused(BenchOptions { shapes: vec!["7×7".into()], ..options(&[]) });
    assert!(message.contains("`7×7`"), "{message}");
    refused(BenchOptions { rows: vec![], ..options(&[]) });
    refused(BenchOptions { rows: vec![0], ..options(&[]) });
    refused(BenchOptions { formats: vec![], ..options(&[]) });
}

#[test]
fn the_emulator_counts_instead_of_timing() {
    let emulator = Emulator::default();
    let backend = CudaBackend::new(Arc::new(emulator.clone()), Dtype::Bf16).unwrap();
    let options = BenchOptions { rows: vec![1, 300], models: vec!["InternLM2-7B".into()], ..options(&["rms_norm"]) };
    let rows = rows(&backend, &Meter::Counts(&emulator), &options);
    assert_eq!(shapes(&rows), ["rms_norm 1×4096", "rms_norm 4×4096"]);
    for (row, blocks) in rows.iter().zip([1, 4]) {
        assert!(row.is_right() && row.timing().is_none());
        // `f32` is read and bf16 written: 6 bytes an element.
        assert_eq!(row.cost.bytes, 6.0 * 4096.0 * blocks as f64);
        let Outcome::Done { measured: Measured::Counts(counters), .. } = &row.outcome else { panic!("{row:?}") };
        let counters = &counters["rms_norm_bf16"];
        assert_eq!((counters.launches, counters.blocks, counters.bank_conflicts), (1, blocks, 0));
        assert_eq!(counters.global_written_bytes, 2 * 4096 * blocks);
        assert!(counters.global_read_bytes >= 4 * 4096 * blocks && counters.total() > 0);
    }
}

#[test]
fn shapes_for_the_emulator_are_small_and_alike() {
    let heads = Heads { num_heads: 32, num_kv_heads: 8, head_dim: 128 };
    let group = Heads { num_heads: 4, num_kv_heads: 1, head_dim: 128 };
    let matrix = |rows, inner, cols| Shape::Matrix { rows, inner, cols, format: WeightFormat::Bf16 };
    let attention = |heads, sequences, shared| Shape::Attention { heads, sequences, shared };
    for (shape, wanted) in [
        (Shape::Rows { rows: 1, cols: 576 }, Shape::Rows { rows: 1, cols: 576 }),
        (Shape::Rows { rows: 4096, cols: 5120 }, Shape::Rows { rows: 4, cols: 5120 }),
        (matrix(1, 4096, 6144), matrix(1, 4096, 6144)),
        (matrix(4096, 4096, 28672), matrix(96, 2560, 256)),
        (matrix(4096, 14336, 4096), matrix(96, 2560, 256)),
        (matrix(512, 576, 960), matrix(96, 576, 960)),
        (attention(heads, vec![(1, 1200); 64], 1104), attention(group, vec![(1, 320); 2], 192)),
        (attention(heads, vec![(512, 2048)], 0), attention(group, vec![(64, 320)], 0)),
        (attention(heads, vec![(3, 20)], 16), attention(group, vec![(3, 20)], 16)),
    ] {
        assert_eq!(reduced(&shape), wanted, "{shape}");
    }
}

/// An emulator that looks at the host's clock: a device with times, for the loop that takes their median.
struct Timed(Emulator);

impl Device for Timed {
    fn caps(&self) -> &DeviceCaps {
        self.0.caps()
    }
    fn alloc(&self, what: &'static str, bytes: usize) -> Result<DevicePtr> {
        self.0.alloc(what, bytes)
    }
    fn free(&self, ptr: DevicePtr) {
        self.0.free(ptr);
    }
    fn upload(&self, from: &[u8], to: DevicePtr) -> Result<()> {
        self.0.upload(from, to)
    }
    fn download(&self, from: DevicePtr, to: &mut [u8]) -> Result<()> {
        self.0.download(from, to)
    }
    fn copy(&self, from: DevicePtr, to: DevicePtr, bytes: usize) -> Result<()> {
        self.0.copy(from, to, bytes)
    }
    fn launch(&self, launch: &Launch<'_>) -> Result<()> {
        self.0.launch(launch)
    }
    fn synchronize(&self) -> Result<()> {
        self.0.synchronize()
    }
    fn capture(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Graph>> {
        self.0.capture(work)
    }
    fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Option<f64>> {
        let start = Instant::now();
        work()?;
        Ok(Some(start.elapsed().as_secs_f64()))
    }
}

#[test]
fn a_device_is_timed_by_its_own_clock_over_rotated_buffers() {
    let emulator = Emulator::default();
    let device = Timed(emulator.clone());
    let backend = CudaBackend::new(Arc::new(Timed(emulator.clone())), Dtype::F16).unwrap();
    let rows = rows(&backend, &Meter::Device(&device, PEAKS), &options(&["rms_norm"]));
    assert_eq!(shapes(&rows), ["rms_norm 2×576"]);
    let timing = rows[0].timing().unwrap();
    assert!(rows[0].is_right() && timing.micros > 0.0, "{rows:?}");
    // Bytes come from memory, however few they are.
    let floor = 2.0 * 576.0 * 6.0 / PEAKS.read_gbps * 1e-3;
    assert_eq!(timing.bound, Bound::Memory);
    assert!((timing.share_of_floor * timing.micros / floor - 1.0).abs() < 1e-6, "{timing:?}");
    // A first run of each of 256 sets, the check, then at least 20 graphs of all of them.
    let launches = emulator.counters()["rms_norm_f16"].launches;
    assert!((launches - 257).is_multiple_of(256) && launches >= 257 + 20 * 256, "{launches}");
}

#[test]
fn a_device_without_a_clock_is_no_device_to_time() {
    let emulator = Emulator::default();
    let backend = CudaBackend::new(Arc::new(emulator.clone()), Dtype::Bf16).unwrap();
    let rows = rows(&backend, &Meter::Device(&emulator, PEAKS), &options(&["rms_norm"]));
    let Outcome::Refused(message) = &rows[0].outcome else { panic!("{rows:?}") };
    assert!(message.contains("no clock") && !rows[0].is_right(), "{message}");
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
