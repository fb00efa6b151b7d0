//! Every operation of the registry on the CUDA backend, against its `f64` reference: random shapes, bf16 and f16.

mod device;

use std::time::Instant;

use device::backend;
use oc_kernels::{
    Dtype,
    cuda::CudaBackend,
    ops::{self, Op, Rng},
};

const DTYPES: [Dtype; 2] = [Dtype::Bf16, Dtype::F16];
/// Random problems of each operation and dtype.
const CASES: u64 = 24;

/// The error of one random problem, and what it may be at most.
fn try_one(op: &Op<CudaBackend>, backend: &CudaBackend, seed: u64) -> Result<(), String> {
    let shape = (op.random_shape)(&mut Rng(seed));
    let on = format!("{} in {}, {shape}, seed {seed}", op.name, backend_dtype(backend));
    let error = (op.trial)(backend, &shape, seed, 1).and_then(|mut trial| trial.error());
    let error = error.map_err(|e| format!("{on}: {e}"))?;
    let tolerance = op.tolerance_on(backend, &shape);
    // Not `error > tolerance`: NaN is wrong too.
    if error <= tolerance { Ok(()) } else { Err(format!("{on}: error {error:e} above {tolerance:e}")) }
}

fn backend_dtype(backend: &CudaBackend) -> &'static str {
    oc_kernels::Backend::info(backend).dtype.name()
}

#[test]
fn every_operation_agrees_with_its_reference() {
    let mut failures = Vec::new();
    for op in &ops::all() {
        let start = Instant::now();
        for dtype in DTYPES {
            let backend = backend(dtype);
            failures.extend((1..=CASES).find_map(|seed| try_one(op, &backend, seed).err()));
        }
        eprintln!("{}: {:?}", op.name, start.elapsed());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
