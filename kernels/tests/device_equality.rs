//! Two devices, the same numbers: a GPU (`OC_TEST_DEVICE=cuda`) and the emulator are both as close to `f64` as is asked of
//! them, and what they round to 16 bits agrees within one unit of the last place. Without a GPU an emulator with one thread
//! and one with several agree to the bit.

mod device;

use std::sync::{Arc, Mutex};

use half::{bf16, f16};
use oc_kernels::{
    Dtype, Result, WeightFormat,
    bench::reduced,
    cuda::{
        CudaBackend,
        device::{Device, DeviceCaps, DevicePtr, Graph, Launch},
    },
    emulator::{Emulator, EmulatorOptions},
    ops::{self, MODELS, Op, Workload},
};

/// A device that keeps what was downloaded from it: the outputs of the operations that a trial checks.
struct Kept(Arc<dyn Device>, Mutex<Vec<Vec<u8>>>);

impl Device for Kept {
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
        self.0.download(from, to)?;
        self.1.lock().unwrap().push(to.to_vec());
        Ok(())
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
        self.0.time(work)
    }
}

/// What `op` makes of a problem on `device`.
fn outputs(device: &Arc<dyn Device>, dtype: Dtype, op: &Op<CudaBackend>, shape: &ops::Shape) -> Vec<Vec<u8>> {
    let kept = Arc::new(Kept(device.clone(), Mutex::new(Vec::new())));
    let backend = CudaBackend::new(kept.clone(), dtype).unwrap();
    let mut trial = (op.trial)(&backend, shape, 1, 1).unwrap_or_else(|e| panic!("{} {shape}: {e}", op.name));
    let error = trial.error().unwrap_or_else(|e| panic!("{} {shape}: {e}", op.name));
    let tolerance = op.tolerance_on(&backend, shape);
    assert!(error <= tolerance, "{} {shape}: error {error:e} above {tolerance:e}", op.name);
    std::mem::take(&mut kept.1.lock().unwrap())
}

/// The first element in which two outputs of 16-bit floats differ by more than one unit of the last place, or else by more
/// than `slack` of the largest: what sums in another order leave where large terms cancel.
fn differs(a: &[u8], b: &[u8], dtype: Dtype, slack: f32) -> Option<String> {
    let bits = |bytes: &[u8]| bytes.chunks_exact(2).map(|x| u16::from_le_bytes([x[0], x[1]])).collect::<Vec<_>>();
    let value = |bits| if dtype == Dtype::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() };
    // Numbers in the order of their values.
    let ordered = |bits: u16| if bits >> 15 == 1 { -i32::from(bits & 0x7fff) } else { i32::from(bits) };
    let (a, b) = (bits(a), bits(b));
    let largest = b.iter().map(|x| value(*x).abs()).filter(|x| x.is_finite()).fold(0.0, f32::max);
    let is_close = |a: u16, b: u16| {
        let (x, y) = (value(a), value(b));
        (ordered(a) - ordered(b)).abs() <= 1 || (x.is_nan() && y.is_nan()) || (x - y).abs() <= slack * largest
    };
    let at = a.iter().zip(&b).position(|(a, b)| !is_close(*a, *b))?;
    Some(format!("element {at}: {} and {}", value(a[at]), value(b[at])))
}

/// The `slack` of an operation. Products are exact and both devices' sums within 2e-6 of the sum of the terms' magnitudes, which
/// is some `sqrt(inner) / 5` of the largest among sums of random terms. Attention also rounds probabilities to 16 bits, and
/// they may fall to either side.
fn slack(op: &str, shape: &ops::Shape) -> f32 {
    match shape {
        ops::Shape::Matrix { inner, .. } => 4e-6_f32.max(8e-7 * (*inner as f32).sqrt()),
        _ if op == "attention" => 1.6e-3,
        _ => 4e-6,
    }
}

/// Whether an output of `bytes` has 16-bit floats, or `f32` whose bits are the same on all devices. Of the sums in `f32`, the
/// longer outputs of `linear` and the records of `log_prob` and `sample`, it is enough that both devices are close to `f64`.
fn is_rounded(op: &str, bytes: usize, outputs: &[Vec<u8>]) -> bool {
    match op {
        "log_prob" | "sample" => false,
        "linear" => outputs.iter().any(|other| other.len() > bytes),
        _ => true,
    }
}

#[test]
fn every_operation_gives_the_same_numbers_on_both_devices() {
    let is_gpu = std::env::var("OC_TEST_DEVICE").is_ok_and(|name| name == "cuda");
    let emulator = EmulatorOptions { threads: if is_gpu { 0 } else { 1 }, ..EmulatorOptions::default() };
    let (first, second): (_, Arc<dyn Device>) = (device::device(), Arc::new(Emulator::new(emulator)));
    let (models, rows): (&[usize], &[usize]) = if is_gpu { (&[0, 1, 2], &[1, 17, 300]) } else { (&[0], &[1, 17]) };
    for dtype in [Dtype::Bf16, Dtype::F16] {
        let format = if dtype == Dtype::F16 { WeightFormat::F16 } else { WeightFormat::Bf16 };
        for op in ops::all::<CudaBackend>() {
            let mut seen = Vec::new();
            for (model, rows) in models.iter().flat_map(|model| rows.iter().map(move |rows| (*model, *rows))) {
                for shape in (op.model_shapes)(&Workload { model: &MODELS[model], rows, formats: &[format] }) {
                    let shape = reduced(&shape);
                    if seen.contains(&shape) {
                        continue;
                    }
                    let (a, b) = (outputs(&first, dtype, &op, &shape), outputs(&second, dtype, &op, &shape));
                    let on = format!("{} {shape} in {}", op.name, dtype.name());
                    assert!(!a.is_empty() && a.len() == b.len(), "{on}: {} and {} outputs", a.len(), b.len());
                    let all = a;
                    for (a, b) in all.iter().zip(&b) {
                        assert_eq!(a.len(), b.len(), "{on}");
                        if !is_gpu {
                            assert!(a == b, "{on}: the number of threads changes bits");
                        }
                        if is_rounded(op.name, a.len(), &all) {
                            let difference = differs(a, b, dtype, slack(op.name, &shape));
                            assert!(difference.is_none(), "{on}: {}", difference.unwrap_or_default());
                        }
                    }
                    seen.push(shape);
                }
            }
        }
    }
}

#[test]
fn differences_are_seen() {
    let half = |x: f32| f16::from_f32(x).to_le_bytes().to_vec();
    let pair = |x: f32, y: f32| [half(x), half(y)].concat();
    let differs = |a: Vec<u8>, b: Vec<u8>| differs(&a, &b, Dtype::F16, 4e-6);
    assert_eq!(differs(pair(1.0, 0.0), pair(1.0, -0.0)), None);
    assert_eq!(differs(pair(1.0, 2.0), pair(1.000_976_6, 2.0)), None);
    assert!(differs(pair(1.0, 2.0), pair(1.001_953_1, 2.0)).unwrap().contains("element 0"));
    assert!(differs(pair(1.0, f32::NAN), pair(1.0, 2.0)).unwrap().contains("element 1"));
    assert_eq!(differs(pair(1.0, f32::NAN), pair(1.0, f32::NAN)), None);
    let outputs = [vec![0; 8], vec![0; 4]];
    assert_eq!(outputs.each_ref().map(|output| is_rounded("linear", output.len(), &outputs)), [false, true]);
}
