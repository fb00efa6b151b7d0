//! Real kernels, as the compiler emits them, on the emulator.

use half::bf16;
use oc_kernels::{
    cuda::device::{Arg, Device, Launch, Module},
    emulator::{Class, Emulator, FaultKind},
};

static GEMM: Module = Module { name: "gemm", ptx: include_str!("emulator/gemm.ptx") };
static MATH: Module = Module { name: "math", ptx: include_str!("emulator/math.ptx") };

fn random(seed: &mut u64) -> f32 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 40) as f32 / (1 << 23) as f32 - 1.0
}

fn upload<T: bytemuck::NoUninit>(device: &Emulator, what: &'static str, data: &[T]) -> u64 {
    let bytes: &[u8] = bytemuck::cast_slice(data);
    let ptr = device.alloc(what, bytes.len()).unwrap();
    device.upload(bytes, ptr).unwrap();
    ptr
}

#[test]
fn gemm_is_right() {
    let device = Emulator::default();
    let (m, n, k) = (130_usize, 256, 256);
    let mut seed = 1;
    let a: Vec<bf16> = (0..m * k).map(|_| bf16::from_f32(random(&mut seed))).collect();
    let b: Vec<bf16> = (0..n * k).map(|_| bf16::from_f32(random(&mut seed))).collect();
    let (pa, pb) = (upload(&device, "a", &a), upload(&device, "b", &b));
    let pc = device.alloc("c", m * n * 2).unwrap();
    device
        .launch(&Launch {
            module: &GEMM,
            kernel: "gemm",
            grid: [2, 2, 1],
            block: [256, 1, 1],
            shared_bytes: 3 * 128 * 32 * 2 * 2,
            args: &[
                Arg::Ptr(pa),
                Arg::Ptr(pb),
                Arg::Ptr(pc),
                Arg::I32(m as i32),
                Arg::I32(n as i32),
                Arg::I32(k as i32),
            ],
        })
        .unwrap();
    let counters = &device.counters()["gemm"];
    assert_eq!(counters.of(Class::Mma), 4 * 8 * 2 * 8 * 16);
    let mut out = vec![0_u8; m * n * 2];
    device.download(pc, &mut out).unwrap();
    let out: &[bf16] = bytemuck::cast_slice(&out);
    for i in 0..m {
        for j in 0..n {
            let wanted: f64 = (0..k).map(|x| a[i * k + x].to_f64() * b[j * k + x].to_f64()).sum();
            let found = out[i * n + j].to_f64();
            assert!((found - wanted).abs() <= 4e-3 * wanted.abs() + 1e-5, "{i} {j}: {found} {wanted}");
        }
    }
}

#[test]
fn norm_is_right() {
    let device = Emulator::default();
    let (rows, n) = (3_usize, 512);
    let mut seed = 2;
    let x: Vec<bf16> = (0..rows * n).map(|_| bf16::from_f32(random(&mut seed))).collect();
    let w: Vec<bf16> = (0..n).map(|_| bf16::from_f32(random(&mut seed))).collect();
    let (px, pw) = (upload(&device, "x", &x), upload(&device, "w", &w));
    let py = device.alloc("y", rows * n * 2).unwrap();
    device
        .launch(&Launch {
            module: &MATH,
            kernel: "rms",
            grid: [rows as u32, 1, 1],
            block: [64, 1, 1],
            shared_bytes: n as u32 * 2,
            args: &[Arg::Ptr(px), Arg::Ptr(pw), Arg::Ptr(py), Arg::I32(n as i32), Arg::F32(1e-5)],
        })
        .unwrap();
    let counters = &device.counters()["rms"];
    assert_eq!((counters.launches, counters.blocks), (1, rows as u64));
    // The row once in pieces of 16 bytes, and the weights once.
    assert_eq!(counters.global_read_bytes, (rows * n * 2 * 2) as u64);
    assert_eq!(counters.global_written_bytes, (rows * n * 2) as u64);
    let mut out = vec![0_u8; rows * n * 2];
    device.download(py, &mut out).unwrap();
    let out: &[bf16] = bytemuck::cast_slice(&out);
    for r in 0..rows {
        let row = &x[r * n..][..n];
        let mean = row.iter().map(|x| x.to_f64().powi(2)).sum::<f64>() / n as f64;
        for i in 0..n {
            let wanted = row[i].to_f64() / (mean + 1e-5).sqrt() * w[i].to_f64() * (i % 4 + 1) as f64;
            let found = out[r * n + i].to_f64();
            assert!((found - wanted).abs() <= 4e-3 * wanted.abs(), "{r} {i}: {found} {wanted}");
        }
    }
}

/// Runs a kernel of `text` as the tests above do, on data without meaning.
fn fault(text: String, kernel: &str) -> Option<FaultKind> {
    let module: &'static Module =
        Box::leak(Box::new(Module { name: "changed", ptx: Box::leak(text.into_boxed_str()) }));
    let device = Emulator::default();
    let data = vec![bf16::ONE; 128 * 512];
    let (a, b) = (upload(&device, "a", &data), upload(&device, "b", &data));
    let out = device.alloc("out", 128 * 512 * 2).unwrap();
    let (args, block, shared_bytes) = if kernel == "gemm" {
        (vec![Arg::Ptr(a), Arg::Ptr(b), Arg::Ptr(out), Arg::I32(128), Arg::I32(128), Arg::I32(256)], 256, 49_152)
    } else {
        (vec![Arg::Ptr(a), Arg::Ptr(b), Arg::Ptr(out), Arg::I32(512), Arg::F32(1e-5)], 64, 1024)
    };
    let launch = Launch { module, kernel, grid: [1; 3], block: [block, 1, 1], shared_bytes, args: &args };
    device.run(&launch).err().map(|fault| fault.kind)
}

/// A right kernel with one of its synchronising instructions taken away is found out, whichever it was.
#[test]
fn every_barrier_and_wait_is_needed() {
    let mut removed = 0;
    for (module, kernel) in [(&GEMM, "gemm"), (&MATH, "rms")] {
        assert_eq!(fault(module.ptx.to_string(), kernel), None);
        let lines: Vec<&str> = module.ptx.lines().collect();
        let end = lines.iter().position(|line| line.starts_with('}')).unwrap();
        for (i, line) in lines[..end].iter().enumerate() {
            if line.contains("bar.sync") || line.contains("cp.async.wait_group") {
                let text = [&lines[..i], &lines[i + 1..]].concat().join("\n");
                let kind = fault(text, kernel);
                let expected = [FaultKind::SharedRace, FaultKind::AsyncTooEarly, FaultKind::UninitialisedMemory];
                assert!(kind.is_some_and(|kind| expected.contains(&kind)), "{kernel} without line {}: {kind:?}", i + 1);
                removed += 1;
            }
        }
    }
    assert_eq!(removed, 4);
    // A wait that lets one group too many be.
    let early = GEMM.ptx.replace("cp.async.wait_group 1;", "cp.async.wait_group 2;");
    assert_eq!(fault(early, "gemm"), Some(FaultKind::AsyncTooEarly));
}
