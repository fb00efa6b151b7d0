//! Criterion benchmark of every operation in the registry, on the shapes of a small model: a decode step and a prompt.
//!
//! `cargo bench -p oc-benches --bench kernels -- [filter]`; environment variable `OC_BENCH_DTYPE` takes `f32`, `bf16`
//! (default) or `int8`. An "element" of a product is one operation. Shares of the machine's peaks: `oc-cli bench-kernels`.

use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use oc_kernels::{
    Backend, Dtype, WeightFormat,
    bench::cold_copies,
    cpu::{CpuBackend, CpuOptions},
    ops::{self, MODELS, Workload},
};

const FORMATS: [WeightFormat; 3] = [WeightFormat::Bf16, WeightFormat::Q8_0, WeightFormat::Q4K];

fn kernels(criterion: &mut Criterion) {
    let named = std::env::var("OC_BENCH_DTYPE").unwrap_or_else(|_| Dtype::Bf16.name().into());
    let dtype = [Dtype::F32, Dtype::Bf16, Dtype::Int8].into_iter().find(|dtype| dtype.name() == named);
    let dtype = dtype.unwrap_or_else(|| panic!("OC_BENCH_DTYPE is {named:?}; it can be f32, bf16 or int8"));
    let cpu = CpuBackend::new(CpuOptions { threads: 0, dtype, level: None }).expect("the CPU's own level");
    eprintln!("{}, {}", cpu.info().name, dtype.name());
    for op in ops::all::<CpuBackend>() {
        let mut group = criterion.benchmark_group(op.name);
        group.sample_size(10).warm_up_time(Duration::from_millis(200)).measurement_time(Duration::from_millis(500));
        for rows in [1, 512] {
            for shape in (op.model_shapes)(&Workload { model: &MODELS[0], rows, formats: &FORMATS }) {
                let cost = op.cost_on(&cpu, &shape);
                group.throughput(match cost.flops / cost.bytes {
                    ..20.0 => Throughput::Bytes(cost.bytes as u64),
                    _ => Throughput::Elements(cost.flops as u64),
                });
                // One prompt stays in the caches as it would in a model; weights of a decode step do not.
                let copies = if rows == 1 { cold_copies(&cost) } else { 1 };
                // The inputs are made only if the filter lets this problem through.
                let mut trial = None;
                let mut next = 0;
                group.bench_function(BenchmarkId::from_parameter(&shape), |bencher| {
                    let trial = trial
                        .get_or_insert_with(|| (op.trial)(&cpu, &shape, 1, copies).expect("the registry's shapes"));
                    bencher.iter(|| {
                        trial.run(next % copies).expect("the registry's shapes");
                        next += 1;
                    });
                });
            }
        }
        group.finish();
    }
}

criterion_group!(benches, kernels);
criterion_main!(benches);
