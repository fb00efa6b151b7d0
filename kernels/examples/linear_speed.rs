//! Speed of the linear layer on this machine, as a share of peaks measured in the same run.
//!
//! `cargo run --release -p oc-kernels --example linear_speed -- [--threads N] [--model NAME] [--format NAME]...`

use std::hint::black_box;
use std::time::Instant;

use oc_kernels::cpu::SimdLevel;
use oc_kernels::cpu::linear::{PackedWeight, linear};
use oc_kernels::{Dtype, WeightFormat, WeightView};

/// `(model, name, cols = K, rows = N)` of the linear layers.
const SHAPES: [(&str, &str, usize, usize); 8] = [
    ("qwen", "qkv", 896, 1152),
    ("qwen", "o", 896, 896),
    ("qwen", "gate_up", 896, 9728),
    ("qwen", "down", 4864, 896),
    ("smollm", "qkv", 576, 960),
    ("smollm", "o", 576, 576),
    ("smollm", "gate_up", 576, 3072),
    ("smollm", "down", 1536, 576),
];

/// Best of several timings of `f`, in seconds; at least `total` seconds are spent.
fn best(total: f64, mut f: impl FnMut()) -> f64 {
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    f();
    while start.elapsed().as_secs_f64() < total {
        let t = Instant::now();
        f();
        best = best.min(t.elapsed().as_secs_f64());
    }
    best
}

/// Peak operations per second of one instruction with all registers busy, times `threads`.
fn peak(pool: &rayon::ThreadPool, body: fn() -> f64) -> f64 {
    (0..3).map(|_| pool.broadcast(|_| body()).into_iter().sum()).fold(0.0, f64::max)
}

#[cfg(target_arch = "x86_64")]
mod peaks {
    use std::arch::x86_64::*;
    use std::hint::black_box;
    use std::time::Instant;

    const ROUNDS: usize = 2_000_000;

    macro_rules! peak {
        ($name:ident, $feature:literal, $vector:ty, $zero:expr, $ops:literal, |$acc:ident, $x:ident| $step:expr) => {
            pub fn $name() -> f64 {
                #[target_feature(enable = $feature)]
                fn run() -> f64 {
                    let $x = black_box($zero);
                    let mut accumulators = [$zero; 16];
                    let start = Instant::now();
                    for _ in 0..ROUNDS {
                        for $acc in &mut accumulators {
                            *$acc = $step;
                        }
                    }
                    let seconds = start.elapsed().as_secs_f64();
                    black_box(accumulators);
                    (ROUNDS * 16 * $ops) as f64 / seconds
                }
                // SAFETY: `main` has checked that the CPU supports AVX-512, BF16 and VNNI.
                unsafe { run() }
            }
        };
    }
    peak!(f32, "avx512f", __m512, _mm512_setzero_ps(), 32, |acc, x| _mm512_fmadd_ps(x, x, *acc));
    peak!(bf16, "avx512f,avx512bf16", __m512, _mm512_setzero_ps(), 64, |acc, x| {
        // SAFETY: both types are 64 plain bytes.
        let pair: __m512bh = unsafe { std::mem::transmute(x) };
        _mm512_dpbf16_ps(*acc, pair, pair)
    });
    peak!(int8, "avx512f,avx512vnni", __m512i, _mm512_setzero_si512(), 128, |acc, x| _mm512_dpbusd_epi32(*acc, x, x));
}

/// Bytes per second that all threads read together from memory.
fn bandwidth(pool: &rayon::ThreadPool, data: &[u64]) -> f64 {
    let threads = pool.current_num_threads();
    let read = || {
        pool.broadcast(|ctx| {
            let part = &data[ctx.index() * (data.len() / threads)..][..data.len() / threads];
            let mut sums = [0u64; 32];
            for line in part.chunks_exact(32) {
                sums.iter_mut().zip(line).for_each(|(s, v)| *s ^= v);
            }
            black_box(sums);
        });
    };
    (data.len() * 8) as f64 / best(1.0, read)
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let values =
        |name: &str| -> Vec<&str> { arguments.windows(2).filter(|w| w[0] == name).map(|w| w[1].as_str()).collect() };
    let threads = values("--threads").first().map_or(0, |v| v.parse().expect("--threads takes a number"));
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a thread pool");
    let level = SimdLevel::detect();
    println!("{}, {} threads", level.name(), pool.current_num_threads());
    let data = vec![1u64; 64 << 20];
    let bytes_peak = bandwidth(&pool, &data);
    #[cfg(target_arch = "x86_64")]
    let (f32_peak, bf16_peak, int8_peak) = if level == SimdLevel::Avx512Bf16 {
        (peak(&pool, peaks::f32), peak(&pool, peaks::bf16), peak(&pool, peaks::int8))
    } else {
        (f64::NAN, f64::NAN, f64::NAN)
    };
    println!(
        "peaks: f32 {:.0}, bf16 {:.0}, int8 {:.0} Gop/s; read {:.1} GB/s",
        f32_peak / 1e9,
        bf16_peak / 1e9,
        int8_peak / 1e9,
        bytes_peak / 1e9
    );
    println!("| layer | K | N | format | dtype | M | us | Gop/s | of peak | GB/s | of read |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |");

    let formats = values("--format");
    let dtypes = values("--dtype");
    let models = values("--model");
    let ms: Vec<usize> = values("--m").iter().map(|v| v.parse().expect("--m takes numbers")).collect();
    let ms = if ms.is_empty() { vec![1, 4, 16, 64, 256, 512] } else { ms };
    for format in WeightFormat::ALL {
        if !formats.is_empty() && !formats.contains(&format.name()) {
            continue;
        }
        for dtype in [Dtype::F32, Dtype::Bf16, Dtype::Int8] {
            if !dtypes.is_empty() && !dtypes.contains(&dtype.name()) {
                continue;
            }
            let top = match dtype {
                Dtype::F32 => f32_peak,
                Dtype::Int8 => int8_peak,
                Dtype::Bf16 => bf16_peak,
            };
            for (model, name, cols, rows) in SHAPES {
                let row_bytes = format.row_bytes(cols);
                let Some(row_bytes) = row_bytes.filter(|_| models.is_empty() || models.contains(&model)) else {
                    continue;
                };
                // Enough layers that no cache holds them all, as in a model.
                let file: Vec<u8> = (0..row_bytes * rows).map(|i| (i * 7 % 61) as u8).collect();
                let view = WeightView::new(&file, format, rows, cols).expect("a valid matrix");
                let copies = (160 << 20) / file.len() + 1;
                let layers: Vec<PackedWeight> =
                    (0..copies).map(|_| PackedWeight::pack(&[view], dtype, level).expect("packs")).collect();
                for &m in &ms {
                    let x: Vec<f32> = (0..m * cols).map(|i| (i % 17) as f32 * 0.1 - 0.8).collect();
                    let mut out = vec![0.0; m * rows];
                    let mut next = 0;
                    let calls = if m <= 8 { copies } else { 1 };
                    let seconds = pool.install(|| {
                        best(0.4, || {
                            for _ in 0..calls {
                                linear(&x, m, &layers[next % copies], 0..rows, None, false, &mut out, rows, &pool)
                                    .expect("valid shapes");
                                next += 1;
                            }
                        })
                    }) / calls as f64;
                    black_box(&out);
                    let (ops, bytes) = ((2 * m * rows * cols) as f64, layers[0].bytes() as f64);
                    println!(
                        "| {model} {name} | {cols} | {rows} | {} | {} | {m} | {:.1} | {:.0} | {:.0} % | {:.1} | {:.0} % |",
                        format.name(),
                        dtype.name(),
                        seconds * 1e6,
                        ops / seconds / 1e9,
                        100.0 * ops / seconds / top,
                        bytes / seconds / 1e9,
                        100.0 * bytes / seconds / bytes_peak
                    );
                }
            }
        }
    }
}
