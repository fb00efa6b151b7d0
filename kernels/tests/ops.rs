//! Every operation against its `f64` reference: random shapes, every dispatch level of this machine, every dtype.

use oc_kernels::{
    Dtype,
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    ops::{self, Op, Rng},
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngSeed, TestRunner},
};

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::Int8];

/// Tries `op` on 24 random problems at every level and dtype.
fn check(op: &Op<CpuBackend>) {
    for level in SimdLevel::ALL.into_iter().filter(|level| level.is_supported()) {
        for dtype in DTYPES {
            let backend = CpuBackend::new(CpuOptions { threads: 2, dtype, level: Some(level) }).unwrap();
            let config =
                Config { cases: 24, rng_seed: RngSeed::Fixed(1), failure_persistence: None, ..Config::default() };
            let on = format!("{} at {} in {}", op.name, level.name(), dtype.name());
            TestRunner::new(config)
                .run(&any::<u64>(), |seed| {
                    let shape = (op.random_shape)(&mut Rng(seed));
                    let error = (op.trial)(&backend, &shape, seed, 1).and_then(|mut trial| trial.error());
                    let error = error.map_err(|e| TestCaseError::fail(format!("{on}, {shape}: {e}")))?;
                    let tolerance = op.tolerance_on(&backend, &shape);
                    prop_assert!(error <= tolerance, "{on}, {shape}: error {error:e} above {tolerance:e}");
                    Ok(())
                })
                .unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

#[test]
fn every_operation_agrees_with_its_reference() {
    for op in ops::all() {
        let start = std::time::Instant::now();
        check(&op);
        eprintln!("{}: {:?}", op.name, start.elapsed());
    }
}
