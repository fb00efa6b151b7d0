//! Every operation of the registry on the CUDA backend, against its `f64` reference: random shapes, bf16 and f16.

mod device;

use std::time::Instant;

use device::backend;
use oc_kernels::{
    Dtype, Heads, PAGE_SIZE, WeightFormat,
    cuda::CudaBackend,
    ops::{self, MODELS, Op, Rng, Shape, Workload},
};

const DTYPES: [Dtype; 2] = [Dtype::Bf16, Dtype::F16];
/// Random problems of each operation and dtype.
const CASES: u64 = 24;

/// Why the operation is wrong on one problem.
fn try_one(op: &Op<CudaBackend>, backend: &CudaBackend, shape: &Shape, seed: u64) -> Result<(), String> {
    let on = format!("{} in {}, {shape}, seed {seed}", op.name, backend_dtype(backend));
    let error = (op.trial)(backend, shape, seed, 1).and_then(|mut trial| trial.error());
    let error = error.map_err(|e| format!("{on}: {e}"))?;
    let tolerance = op.tolerance_on(backend, shape);
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
            let random = |seed| try_one(op, &backend, &(op.random_shape)(&mut Rng(seed)), seed).err();
            failures.extend((1..=CASES).find_map(random));
        }
        eprintln!("{}: {:?}", op.name, start.elapsed());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Problems of the kind of `shape` at the edges: nothing, one, around multiples of a page, a vector and a warp.
fn edges(shape: &Shape) -> Vec<Shape> {
    match shape {
        Shape::Rows { .. } => {
            let sizes = [(0, 8), (1, 1), (1, 7), (3, 8), (2, 9), (17, 255), (17, 256), (1, 257), (2, 2047), (2, 2049)];
            sizes.map(|(rows, cols)| Shape::Rows { rows, cols }).to_vec()
        }
        Shape::Matrix { .. } => {
            let sizes = [(0, 8, 8), (1, 1, 1), (1, 7, 9), (17, 31, 33), (63, 64, 65), (65, 17, 15)];
            let shape = |(rows, inner, cols)| Shape::Matrix { rows, inner, cols, format: WeightFormat::Bf16 };
            sizes.map(shape).to_vec()
        }
        Shape::Attention { .. } => {
            let heads = Heads { num_heads: 4, num_kv_heads: 2, head_dim: 64 };
            let (below, above) = (PAGE_SIZE - 1, PAGE_SIZE + 1);
            let lengths = [1, below, PAGE_SIZE, above, 2 * PAGE_SIZE - 1, 4 * PAGE_SIZE + 1];
            let mut all = vec![vec![], lengths.map(|len| (len, len)).to_vec(), lengths.map(|len| (1, len)).to_vec()];
            all.extend(lengths.map(|len| vec![(len, len)]));
            all.into_iter().map(|sequences| Shape::Attention { heads, sequences, shared: 0 }).collect()
        }
    }
}

#[test]
fn every_operation_agrees_at_the_edges() {
    let mut failures = Vec::new();
    for op in &ops::all() {
        for dtype in DTYPES {
            let backend = backend(dtype);
            let edges = edges(&(op.random_shape)(&mut Rng(1)));
            failures.extend(edges.iter().filter_map(|shape| try_one(op, &backend, shape, 1).err()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn rows_of_every_model_agree() {
    let backend = backend(Dtype::Bf16);
    let mut failures = Vec::new();
    for model in &MODELS {
        let workload = Workload { model, rows: 3, formats: &[WeightFormat::Bf16] };
        for op in &ops::all() {
            let shapes = (op.model_shapes)(&workload);
            let small =
                shapes.iter().filter(|shape| matches!(shape, Shape::Rows { .. }) || op.name == "rotary_store_kv");
            failures.extend(small.filter_map(|shape| try_one(op, &backend, shape, 1).err()));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
