//! Two devices, the same numbers: a GPU (`OC_TEST_DEVICE=cuda`) and the emulator agree within one unit of the last place.
//! Without a GPU an emulator with one thread and one with several agree to the bit.

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
/// than `f32` sums in another order can: what is left where large terms cancel.
fn differs_16(a: &[u8], b: &[u8], dtype: Dtype) -> Option<String> {
    let bits = |bytes: &[u8]| bytes.chunks_exact(2).map(|x| u16::from_le_bytes([x[0], x[1]])).collect::<Vec<_>>();
    let value = |bits| if dtype == Dtype::F16 { f16::from_bits(bits).to_f32() } else { bf16::from_bits(bits).to_f32() };
    // Numbers in the order of their values.
    let ordered = |bits: u16| if bits >> 15 == 1 { -i32::from(bits & 0x7fff) } else { i32::from(bits) };
    let (a, b) = (bits(a), bits(b));
    let largest = b.iter().map(|x| value(*x).abs()).filter(|x| x.is_finite()).fold(0.0, f32::max);
    let is_close = |a: u16, b: u16| {
        let (x, y) = (value(a), value(b));
        (ordered(a) - ordered(b)).abs() <= 1 || (x.is_nan() && y.is_nan()) || (x - y).abs() <= 4e-6 * largest
    };
    let at = a.iter().zip(&b).position(|(a, b)| !is_close(*a, *b))?;
    Some(format!("element {at}: {} and {}", value(a[at]), value(b[at])))
}

/// The same for words that are `f32`, or integers, which as floats would be next to nothing.
fn differs_32(a: &[u8], b: &[u8]) -> Option<String> {
    let words =
        |bytes: &[u8]| bytes.chunks_exact(4).map(|x| u32::from_le_bytes(x.try_into().unwrap())).collect::<Vec<_>>();
    let (a, b) = (words(a), words(b));
    let is_close = |a: u32, b: u32| {
        let (x, y) = (f32::from_bits(a), f32::from_bits(b));
        a == b || (a.min(b) >= 1 << 23 && (x - y).abs() <= 1e-5 * y.abs().max(1.0))
    };
    let at = a.iter().zip(&b).position(|(a, b)| !is_close(*a, *b))?;
    Some(format!("word {at}: {:#x} and {:#x}", a[at], b[at]))
}

#[test]
fn every_operation_gives_the_same_numbers_on_both_devices() {
    let is_gpu = std::env::var("OC_TEST_DEVICE").is_ok_and(|name| name == "cuda");
    let one_thread = Emulator::new(EmulatorOptions { threads: 1, ..EmulatorOptions::default() });
    let (first, second): (_, Arc<dyn Device>) = (device::device(), Arc::new(one_thread));
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
                    for (a, b) in a.iter().zip(&b) {
                        assert_eq!(a.len(), b.len(), "{on}");
                        if !is_gpu {
                            assert!(a == b, "{on}: the number of threads changes bits");
                        }
                        let has_words = matches!(op.name, "log_prob" | "sample");
                        let difference = if has_words { differs_32(a, b) } else { differs_16(a, b, dtype) };
                        assert!(difference.is_none(), "{on}: {}", difference.unwrap_or_default());
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
    assert_eq!(differs_16(&pair(1.0, 0.0), &pair(1.0, -0.0), Dtype::F16), None);
    assert_eq!(differs_16(&pair(1.0, 2.0), &pair(1.000_976_6, 2.0), Dtype::F16), None);
    assert!(differs_16(&pair(1.0, 2.0), &pair(1.001_953_1, 2.0), Dtype::F16).unwrap().contains("element 0"));
    assert!(differs_16(&pair(1.0, f32::NAN), &pair(1.0, 2.0), Dtype::F16).unwrap().contains("element 1"));
    assert_eq!(differs_16(&pair(1.0, f32::NAN), &pair(1.0, f32::NAN), Dtype::F16), None);
    assert_eq!(differs_32(&1.0_f32.to_le_bytes(), &1.000_001_f32.to_le_bytes()), None);
    assert!(differs_32(&1.0_f32.to_le_bytes(), &1.0001_f32.to_le_bytes()).is_some());
    assert!(differs_32(&5_u32.to_le_bytes(), &6_u32.to_le_bytes()).is_some());
    assert!(differs_32(&f32::NAN.to_le_bytes(), &1.0_f32.to_le_bytes()).is_some());
}
