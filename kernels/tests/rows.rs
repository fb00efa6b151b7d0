//! What the row-wise operations promise beside their results, on every backend: a row's bits do not depend on the other rows,
//! NaN and infinities stay in their row and reach its output. And of the CUDA kernels that they read and write no more than
//! they need.

mod device;

use std::{ops::Range, sync::Arc};

use device::backend;
use oc_kernels::{
    Activation, Backend, Dtype, Error, Heads, KvLayout, NO_SLOT, PAGE_SIZE, PagedBatch, RotarySegment,
    cpu::{CpuBackend, CpuOptions, SimdLevel},
    cuda::CudaBackend,
    emulator::{Emulator, EmulatorOptions},
    ops::Rng,
    reference,
};

const DTYPES: [Dtype; 2] = [Dtype::Bf16, Dtype::F16];
const EPS: f32 = 1e-5;

/// From the inputs to the output rows, one after the other; `cols` of each.
type Run<B> = fn(&B, x: &<B as Backend>::Tensor, cols: usize) -> Result<Vec<f32>, Error>;

/// From `[rows, cols]` numbers to a matrix of the backend.
type Upload<B> = fn(&B, &[f32], usize, usize) -> Result<<B as Backend>::Tensor, Error>;

/// A function of the rows of a matrix.
struct RowOp<B: Backend> {
    name: &'static str,
    /// What its input is: [`Backend::upload`] or [`Backend::upload_residual`].
    upload: Upload<B>,
    /// Columns of an input row, for this many of an output row.
    inputs: fn(usize) -> usize,
    run: Run<B>,
    /// What becomes of one row, where it can be said in `f64`.
    reference: fn(&[f32], cols: usize) -> Vec<f64>,
}

/// A matrix `[rows, cols]` without contents, so that what is behind its rows was never written.
fn unwritten<B: Backend>(backend: &B, rows: usize, cols: usize) -> Result<B::Tensor, Error> {
    let mut out = backend.tensor(rows, cols)?;
    backend.set_rows(&mut out, rows)?;
    Ok(out)
}

/// As [`unwritten`], of a residual stream.
fn unwritten_residual<B: Backend>(backend: &B, rows: usize, cols: usize) -> Result<B::Tensor, Error> {
    let mut out = backend.residual(rows, cols)?;
    backend.set_rows(&mut out, rows)?;
    Ok(out)
}

fn rows_of<B: Backend>(x: &B::Tensor, backend: &B, cols: usize) -> Result<usize, Error> {
    Ok(backend.download(x)?.len() / cols)
}

/// Parameters of a layer, the same whatever the rows.
fn vector(cols: usize, seed: u64) -> Vec<f32> {
    Rng(seed).vec(cols, 2.0).iter().map(|x| half::bf16::from_f32(*x).to_f32()).collect()
}

const WEIGHT: u64 = 11;
const BIAS: u64 = 12;

fn row_ops<B: Backend>() -> [RowOp<B>; 11] {
    [
        RowOp {
            name: "gather_rows",
            upload: B::upload,
            inputs: |cols| cols,
            run: |backend, x, cols| {
                let rows = rows_of(x, backend, cols)?;
                let mut out = unwritten(backend, rows, cols)?;
                backend.gather_rows(x, &(0..rows as u32).collect::<Vec<_>>(), &mut out)?;
                backend.download(&out)
            },
            reference: |row, _| row.iter().map(|x| f64::from(*x)).collect(),
        },
        RowOp {
            name: "gather_rows of a residual stream",
            upload: B::upload_residual,
            inputs: |cols| cols,
            run: |backend, x, cols| {
                let rows = rows_of(x, backend, cols)?;
                let mut out = unwritten_residual(backend, rows, cols)?;
                backend.gather_rows(x, &(0..rows as u32).collect::<Vec<_>>(), &mut out)?;
                backend.download(&out)
            },
            reference: |row, _| row.iter().map(|x| f64::from(*x)).collect(),
        },
        RowOp {
            name: "convert to a residual stream",
            upload: B::upload,
            inputs: |cols| cols,
            run: |backend, x, cols| {
                let mut out = unwritten_residual(backend, rows_of(x, backend, cols)?, cols)?;
                backend.convert(x, &mut out)?;
                backend.download(&out)
            },
            reference: |row, _| row.iter().map(|x| f64::from(*x)).collect(),
        },
        RowOp {
            name: "convert from a residual stream",
            upload: B::upload_residual,
            inputs: |cols| cols,
            run: |backend, x, cols| {
                let mut out = unwritten(backend, rows_of(x, backend, cols)?, cols)?;
                backend.convert(x, &mut out)?;
                backend.download(&out)
            },
            reference: |row, _| row.iter().map(|x| f64::from(*x)).collect(),
        },
        RowOp {
            name: "rms_norm",
            upload: B::upload_residual,
            inputs: |cols| cols,
            run: |backend, x, cols| {
                let weight = backend.upload(&vector(cols, WEIGHT), 1, cols)?;
                let mut out = unwritten(backend, rows_of(x, backend, cols)?, cols)?;
                backend.rms_norm(x, &weight, EPS, &mut out)?;
                backend.download(&out)
            },
            reference: |row, cols| reference::rms_norm::rms_norm(row, &vector(cols, WEIGHT), EPS),
        },
        RowOp {
            name: "add_rms_norm",
            upload: B::upload,
            inputs: |cols| cols,
            run: |backend, x, cols| {
                let weight = backend.upload(&vector(cols, WEIGHT), 1, cols)?;
                let rows = rows_of(x, backend, cols)?;
                // The residual is the row itself: doubling is exact.
                let mut residual = unwritten_residual(backend, rows, cols)?;
                backend.convert(x, &mut residual)?;
                let mut out = unwritten(backend, rows, cols)?;
                backend.add_rms_norm(x, &mut residual, &weight, EPS, &mut out)?;
                backend.download(&out)
            },
            reference: |row, cols| {
                let doubled: Vec<f32> = row.iter().map(|x| 2.0 * x).collect();
                reference::rms_norm::rms_norm(&doubled, &vector(cols, WEIGHT), EPS)
            },
        },
        RowOp {
            name: "layer_norm",
            upload: B::upload_residual,
            inputs: |cols| cols,
            run: |backend, x, cols| {
                let weight = backend.upload(&vector(cols, WEIGHT), 1, cols)?;
                let bias = backend.upload(&vector(cols, BIAS), 1, cols)?;
                let mut out = unwritten(backend, rows_of(x, backend, cols)?, cols)?;
                backend.layer_norm(x, &weight, Some(&bias), EPS, &mut out)?;
                backend.download(&out)
            },
            reference: |row, cols| {
                reference::layer_norm::layer_norm(row, &vector(cols, WEIGHT), Some(&vector(cols, BIAS)), EPS).0
            },
        },
        RowOp {
            name: "add",
            upload: B::upload,
            inputs: |cols| cols,
            run: |backend, x, cols| {
                let rows = rows_of(x, backend, cols)?;
                let mut sum = backend.upload_residual(&vector(cols, WEIGHT).repeat(rows), rows, cols)?;
                backend.add(x, &mut sum)?;
                backend.download(&sum)
            },
            reference: |row, cols| {
                row.iter().zip(vector(cols, WEIGHT)).map(|(x, y)| f64::from(*x) + f64::from(y)).collect()
            },
        },
        RowOp {
            name: "silu_mul",
            upload: B::upload,
            inputs: |cols| 2 * cols,
            run: |backend, x, cols| {
                let mut out = unwritten(backend, rows_of(x, backend, 2 * cols)?, cols)?;
                backend.silu_mul(x, &mut out)?;
                backend.download(&out)
            },
            reference: |row, _| reference::silu_mul::silu_mul(row),
        },
        RowOp {
            name: "gelu",
            upload: B::upload,
            inputs: |cols| cols,
            run: |backend, x, cols| run_activation(Activation::Gelu, backend, x, cols),
            reference: |row, _| {
                row.iter().map(|x| reference::activate::activate(Activation::Gelu, f64::from(*x))).collect()
            },
        },
        RowOp {
            name: "relu",
            upload: B::upload,
            inputs: |cols| cols,
            run: |backend, x, cols| run_activation(Activation::Relu, backend, x, cols),
            reference: |row, _| {
                row.iter().map(|x| reference::activate::activate(Activation::Relu, f64::from(*x))).collect()
            },
        },
    ]
}

fn run_activation<B: Backend>(
    activation: Activation,
    backend: &B,
    x: &B::Tensor,
    cols: usize,
) -> Result<Vec<f32>, Error> {
    let mut out = unwritten(backend, rows_of(x, backend, cols)?, cols)?;
    backend.activate(activation, x, &mut out)?;
    backend.download(&out)
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|x| x.to_bits()).collect()
}

fn cpu(level: SimdLevel) -> CpuBackend {
    CpuBackend::new(CpuOptions { threads: 2, dtype: Dtype::F32, level: Some(level) }).unwrap()
}

fn cpu_levels() -> impl Iterator<Item = SimdLevel> {
    SimdLevel::ALL.into_iter().filter(|level| level.is_supported())
}

fn check_company<B: Backend>(backend: &B) {
    let info = backend.info();
    for op in &row_ops::<B>() {
        for cols in [1, 7, 8, 37, 64, 300, 576, 2056] {
            let inputs = (op.inputs)(cols);
            let host = Rng(cols as u64).stored(backend, 300 * inputs, 3.0);
            let run = |rows: Range<usize>| {
                let part = &host[rows.start * inputs..rows.end * inputs];
                let x = (op.upload)(backend, part, rows.len(), inputs).unwrap();
                (op.run)(backend, &x, cols).unwrap()
            };
            let among_300 = run(0..300);
            for rows in [100..117, 108..109, 0..1, 299..300] {
                let got = run(rows.clone());
                let same = bits(&got) == bits(&among_300[rows.start * cols..rows.end * cols]);
                assert!(same, "{} on {} in {}, {cols} columns, rows {rows:?}", op.name, info.kind, info.dtype.name());
            }
        }
    }
}

#[test]
fn a_row_has_the_same_bits_alone_among_17_and_among_300() {
    DTYPES.into_iter().for_each(|dtype| check_company(&backend(dtype)));
    cpu_levels().for_each(|level| check_company(&cpu(level)));
}

#[test]
fn a_grid_takes_more_than_65535_rows() {
    let backend = backend(Dtype::Bf16);
    const ROWS: usize = 70_000;
    let host = Rng(4).stored(&backend, ROWS, 3.0);
    let x = backend.upload_residual(&host, ROWS, 1).unwrap();
    let poisoned = || backend.upload(&vec![f32::NAN; ROWS], ROWS, 1).unwrap();
    let mut out = poisoned();
    backend.rms_norm(&x, &backend.upload(&[0.5], 1, 1).unwrap(), 0.0, &mut out).unwrap();
    // Of one element only the sign is left.
    let wrong = backend.download(&out).unwrap().iter().zip(&host).position(|(y, x)| *y != 0.5_f32.copysign(*x));
    assert_eq!(wrong, None);
    let (x, mut out) = (backend.upload(&host, ROWS, 1).unwrap(), poisoned());
    backend.activate(Activation::Relu, &x, &mut out).unwrap();
    let wrong = backend.download(&out).unwrap().iter().zip(&host).position(|(y, x)| *y != x.max(0.0));
    assert_eq!(wrong, None);
}

fn check_specials<B: Backend>(backend: &B) {
    const ROWS: usize = 4;
    let info = backend.info();
    for op in &row_ops::<B>() {
        for (cols, special) in [5, 64, 300]
            .into_iter()
            .flat_map(|cols| [f32::NAN, f32::INFINITY, f32::NEG_INFINITY].map(move |special| (cols, special)))
        {
            let inputs = (op.inputs)(cols);
            let mut host = Rng(7).stored(backend, ROWS * inputs, 3.0);
            let run =
                |host: &[f32]| (op.run)(backend, &(op.upload)(backend, host, ROWS, inputs).unwrap(), cols).unwrap();
            let before = run(&host);
            let at = cols / 2;
            host[2 * inputs + at] = special;
            let after = run(&host);
            let on =
                format!("{} on {} in {}, {cols} columns, {special} at {at}", op.name, info.kind, info.dtype.name());
            for row in [0, 1, 3] {
                let row = row * cols..(row + 1) * cols;
                assert_eq!(bits(&after[row.clone()]), bits(&before[row]), "{on}: another row");
            }
            let want = (op.reference)(&host[2 * inputs..3 * inputs], cols);
            let got = &after[2 * cols..3 * cols];
            for (i, (got, want)) in got.iter().zip(&want).enumerate() {
                let got = f64::from(*got);
                let close =
                    (got - want).abs() <= 4e-3 * want.abs().max(1.0) + 2.0 * info.storage.half_ulp() * want.abs();
                let same = got.is_nan() && want.is_nan() || got == *want || close;
                assert!(same, "{on}: element {i} is {got}, wanted {want}");
            }
            assert!(special.is_infinite() || got.iter().any(|x| x.is_nan()), "{on}: the NaN is lost");
        }
    }
}

#[test]
fn nan_and_infinities_stay_in_their_row_and_reach_its_output() {
    DTYPES.into_iter().for_each(|dtype| check_specials(&backend(dtype)));
    cpu_levels().for_each(|level| check_specials(&cpu(level)));
}

#[test]
fn rows_turn_alike_alone_and_in_company() {
    for dtype in DTYPES {
        let backend = backend(dtype);
        for head_dim in [16, 64, 80, 96, 128, 256, 20] {
            let heads = Heads { num_heads: 3, num_kv_heads: 1, head_dim };
            let cols = heads.qkv_cols();
            let host = Rng(head_dim as u64).stored(&backend, 300 * cols, 3.0);
            let inv_freq: Vec<f32> = (0..head_dim / 2).map(|i| 0.7_f32.powi(i as i32)).collect();
            let table = [RotarySegment { inv_freq: &inv_freq, factor: 1.0, positions: 0..64 }];
            let table = backend.rotary_table(&table).unwrap();
            // Row r: a sequence of its own, whose last token stands at a position around the edges of pages.
            let position = |row: usize| [0, 15, 16, 17, 31, 32, 63][row % 7];
            let run = |rows: Range<usize>| {
                let layout = KvLayout { num_layers: 2, num_kv_heads: 1, head_dim, num_pages: 300 };
                let mut kv = backend.kv_cache(layout).unwrap();
                let slot = |row: usize| match row % 5 {
                    4 => NO_SLOT,
                    _ => (row * PAGE_SIZE) as u32 + position(row) % PAGE_SIZE as u32,
                };
                let batch = PagedBatch {
                    positions: rows.clone().map(position).collect(),
                    slot_mapping: rows.clone().map(slot).collect(),
                    cu_seqlens_q: (0..=rows.len() as u32).collect(),
                    seq_lens: rows.clone().map(|row| position(row) + 1).collect(),
                    block_table: rows.clone().flat_map(|row| [row as u32; 4]).collect(),
                    block_table_stride: 4,
                    ..PagedBatch::default()
                };
                let batch = backend.batch(&batch, heads, &kv).unwrap();
                let part = &host[rows.start * cols..rows.end * cols];
                let mut qkv = backend.upload(part, rows.len(), cols).unwrap();
                backend.rotary_store_kv(&mut qkv, &table, &batch, 1, &mut kv).unwrap();
                backend.download(&qkv).unwrap()
            };
            let among_300 = run(0..300);
            for rows in [100..117, 108..109, 104..105] {
                let want = &among_300[rows.start * cols..rows.end * cols];
                assert_eq!(bits(&run(rows.clone())), bits(want), "{}, {head_dim}, rows {rows:?}", dtype.name());
            }
        }
    }
}

/// What kernel `name`, which `run` launches on the emulator, did.
fn counted(name: &str, run: impl FnOnce(&CudaBackend)) -> oc_kernels::emulator::Counters {
    let emulator = Arc::new(Emulator::new(EmulatorOptions::default()));
    let backend = CudaBackend::new(emulator.clone(), Dtype::Bf16).unwrap();
    run(&backend);
    let counters = emulator.counters();
    counters.get(name).unwrap_or_else(|| panic!("{name} did not run, but {:?}", counters.keys())).clone()
}

#[test]
fn kernels_move_no_more_than_their_floor_in_whole_sectors() {
    // Rows of SmolLM2-135M and InternLM2-7B.
    for cols in [576, 4096] {
        const ROWS: usize = 5;
        // Elements of 16 bits of a row that are read, from memory or again from the caches, and written; of the residual stream an
        // element counts twice.
        let expect = |name: &str, moved: [usize; 2], run: &dyn Fn(&CudaBackend)| {
            let counters = counted(name, run);
            let [read, written] = moved.map(|elements| (2 * ROWS * elements) as u64);
            assert_eq!(counters.global_read_bytes, read, "{name}, {cols} columns: bytes read");
            assert_eq!(counters.global_written_bytes, written, "{name}, {cols} columns: bytes written");
            // Every sector that a warp touches is used whole.
            assert_eq!(counters.global_written_sectors, written / 32, "{name}, {cols} columns: sectors written");
            assert_eq!((counters.bank_conflicts, counters.local_bytes), (0, 0), "{name}, {cols} columns");
        };
        let matrix = |backend: &CudaBackend, cols: usize| backend.upload(&vec![1.0; ROWS * cols], ROWS, cols).unwrap();
        let stream = |backend: &CudaBackend| backend.upload_residual(&vec![1.0; ROWS * cols], ROWS, cols).unwrap();
        let vector = |backend: &CudaBackend| backend.upload(&vec![1.0; cols], 1, cols).unwrap();
        // The row twice (the second time from L1) and the weight.
        expect("rms_norm_bf16", [5 * cols, cols], &|backend| {
            let (x, weight, mut out) = (stream(backend), vector(backend), matrix(backend, cols));
            backend.rms_norm(&x, &weight, EPS, &mut out).unwrap();
        });
        expect("add_rms_norm_bf16", [6 * cols, 3 * cols], &|backend| {
            let (x, weight, mut out) = (matrix(backend, cols), vector(backend), matrix(backend, cols));
            let mut residual = stream(backend);
            backend.add_rms_norm(&x, &mut residual, &weight, EPS, &mut out).unwrap();
        });
        // The row three times, the weight and the bias.
        expect("layer_norm_bf16", [8 * cols, cols], &|backend| {
            let (x, weight, mut out) = (stream(backend), vector(backend), matrix(backend, cols));
            backend.layer_norm(&x, &weight, Some(&weight), EPS, &mut out).unwrap();
        });
        expect("add_bf16", [3 * cols, 2 * cols], &|backend| {
            let (x, mut residual) = (matrix(backend, cols), stream(backend));
            backend.add(&x, &mut residual).unwrap();
        });
        expect("silu_mul_bf16", [2 * cols, cols], &|backend| {
            let (x, mut out) = (matrix(backend, 2 * cols), matrix(backend, cols));
            backend.silu_mul(&x, &mut out).unwrap();
        });
        for activation in [Activation::Gelu, Activation::Relu] {
            expect(&format!("{}_bf16", activation.name()), [cols, cols], &|backend| {
                let (x, mut out) = (matrix(backend, cols), matrix(backend, cols));
                backend.activate(activation, &x, &mut out).unwrap();
            });
        }
        expect("widen_bf16", [cols, 2 * cols], &|backend| {
            backend.convert(&matrix(backend, cols), &mut stream(backend)).unwrap();
        });
        expect("narrow_bf16", [2 * cols, cols], &|backend| {
            backend.convert(&stream(backend), &mut matrix(backend, cols)).unwrap();
        });
        // Each thread also reads the number of its row, 4 bytes beside 16.
        expect("gather_rows", [cols + cols / 4, cols], &|backend| {
            let (x, mut out) = (matrix(backend, cols), matrix(backend, cols));
            backend.gather_rows(&x, &[4, 0, 0, 3, 1], &mut out).unwrap();
        });
        expect("gather_rows", [2 * (cols + cols / 4), 2 * cols], &|backend| {
            backend.gather_rows(&stream(backend), &[4, 0, 0, 3, 1], &mut stream(backend)).unwrap();
        });
    }
}

#[test]
fn keys_and_values_move_once_in_whole_sectors() {
    // InternLM2-7B.
    let heads = Heads { num_heads: 32, num_kv_heads: 8, head_dim: 128 };
    let (cols, rows) = (heads.qkv_cols(), 2 * PAGE_SIZE);
    let layout = KvLayout { num_layers: 3, num_kv_heads: 8, head_dim: 128, num_pages: 4 };
    let run = |backend: &CudaBackend| {
        let mut kv = backend.kv_cache(layout).unwrap();
        let batch = PagedBatch {
            positions: (0..rows as u32).collect(),
            slot_mapping: (PAGE_SIZE as u32..3 * PAGE_SIZE as u32).collect(),
            cu_seqlens_q: vec![0, rows as u32],
            seq_lens: vec![rows as u32],
            block_table: vec![1, 2],
            block_table_stride: 2,
            ..PagedBatch::default()
        };
        let table = [RotarySegment { inv_freq: &[0.1; 64], factor: 1.0, positions: 0..rows as u32 }];
        let (table, batch) = (backend.rotary_table(&table).unwrap(), backend.batch(&batch, heads, &kv).unwrap());
        for layer in 0..3 {
            let mut qkv = backend.upload(&vec![1.0; rows * cols], rows, cols).unwrap();
            backend.rotary_store_kv(&mut qkv, &table, &batch, layer, &mut kv).unwrap();
        }
        backend.copy_pages(&[(2, 0), (1, 3)], &mut kv).unwrap();
    };
    let counters = counted("rotary_store_kv_bf16", run);
    let (q, k) = (3 * rows * heads.q_cols(), 3 * rows * 8 * 128);
    // Queries and keys in place, keys and values into the cache.
    assert_eq!(counters.global_written_bytes, (2 * (q + 3 * k)) as u64);
    assert_eq!(counters.global_written_sectors, (2 * (q + 3 * k) / 32) as u64);
    // From memory q, k and v; from the caches, for 16 elements: 16 angles in f32 and a row number; a slot for k and v.
    let angles = (q + k) / 16 * 68 + 2 * k / 16 * 4;
    assert_eq!(counters.global_read_bytes, (2 * (q + 2 * k) + angles) as u64);
    assert_eq!((counters.bank_conflicts, counters.local_bytes), (0, 0));

    let counters = counted("copy_pages", run);
    let bytes = (2 * 3 * 2 * PAGE_SIZE * 8 * 128 * 2) as u64;
    assert_eq!((counters.global_written_bytes, counters.global_written_sectors), (bytes, bytes / 32));
    // And two page numbers for each 16 bytes.
    assert_eq!(counters.global_read_bytes, bytes + bytes / 16 * 8);
}

#[test]
fn wrong_operands_are_refused_by_name() {
    let backend = backend(Dtype::Bf16);
    let matrix = |rows: usize, cols: usize| backend.upload(&vec![1.0; rows * cols], rows, cols).unwrap();
    let shape = |result: Result<(), Error>, what: &str| match result {
        Err(Error::Shape { what: found, .. }) => assert_eq!(found, what),
        other => panic!("{what}: {other:?}"),
    };
    let stream = |rows: usize, cols: usize| backend.upload_residual(&vec![1.0; rows * cols], rows, cols).unwrap();
    let (x, mut out) = (matrix(3, 8), matrix(3, 8));
    shape(backend.rms_norm(&stream(3, 8), &matrix(1, 9), EPS, &mut out), "rms_norm: weight");
    shape(backend.add_rms_norm(&x, &mut stream(2, 8), &matrix(1, 8), EPS, &mut out), "add_rms_norm: residual");
    shape(backend.layer_norm(&stream(3, 8), &matrix(1, 8), Some(&matrix(1, 7)), EPS, &mut out), "layer_norm: bias");
    shape(backend.add(&x, &mut stream(2, 8)), "add: residual");
    // Activations and residual streams are not taken for one another.
    let weight = matrix(1, 8);
    shape(backend.rms_norm(&x, &weight, EPS, &mut out), "rms_norm: input");
    shape(backend.rms_norm(&stream(3, 8), &weight, EPS, &mut stream(3, 8)), "rms_norm: output");
    shape(backend.add_rms_norm(&x, &mut matrix(3, 8), &weight, EPS, &mut out), "add_rms_norm: residual");
    shape(backend.layer_norm(&x, &weight, None, EPS, &mut out), "layer_norm: input");
    shape(backend.add(&x, &mut matrix(3, 8)), "add: residual");
    shape(backend.add(&stream(3, 8), &mut stream(3, 8)), "add: input");
    shape(backend.convert(&x, &mut out), "convert: input");
    shape(backend.convert(&stream(3, 8), &mut stream(3, 8)), "convert: input");
    shape(backend.gather_rows(&x, &[0, 1, 2], &mut stream(3, 8)), "gather_rows: output");
    shape(backend.activate(Activation::Relu, &x, &mut stream(3, 8)), "activate: output");
    shape(backend.silu_mul(&stream(3, 16), &mut out), "silu_mul: input");
    shape(backend.silu_mul(&x, &mut out), "silu_mul: input");
    shape(backend.activate(Activation::Relu, &matrix(2, 8), &mut out), "activate: output");
    match backend.gather_rows(&x, &[0, 3, 1], &mut out) {
        Err(Error::Index { what: "gather_rows: row", index: 3, len: 3 }) => {}
        other => panic!("{other:?}"),
    }
    let layout = KvLayout { num_layers: 1, num_kv_heads: 1, head_dim: 16, num_pages: 4 };
    let mut kv = backend.kv_cache(layout).unwrap();
    match backend.copy_pages(&[(0, 4)], &mut kv) {
        Err(Error::Index { what: "copy_pages: page", index: 4, len: 4 }) => {}
        other => panic!("{other:?}"),
    }
    shape(backend.copy_pages(&[(0, 1), (1, 2)], &mut kv), "copy_pages");
    shape(backend.copy_pages(&[(0, 1), (2, 1)], &mut kv), "copy_pages");
    let (a, b) = ([1.0; 8], [1.0; 7]);
    let segment = |inv_freq| RotarySegment { inv_freq, factor: 1.0, positions: 0..4 };
    shape(backend.rotary_table(&[segment(&a), segment(&b)]).map(drop), "rotary_table: segment");
    let heads = Heads { num_heads: 1, num_kv_heads: 1, head_dim: 16 };
    let batch = PagedBatch {
        positions: vec![4],
        slot_mapping: vec![4],
        cu_seqlens_q: vec![0, 1],
        seq_lens: vec![5],
        block_table: vec![0],
        block_table_stride: 1,
        ..PagedBatch::default()
    };
    let batch = backend.batch(&batch, heads, &kv).unwrap();
    let mut qkv = matrix(1, 48);
    // A matrix of activations of the right shape is no table.
    shape(backend.rotary_store_kv(&mut qkv, &matrix(5, 16), &batch, 0, &mut kv), "rotary_store_kv: table");
    let table = backend.rotary_table(&[segment(&a)]).unwrap();
    match backend.rotary_store_kv(&mut qkv, &table, &batch, 0, &mut kv) {
        Err(Error::Index { what: "rotary_store_kv: position", index: 4, len: 4 }) => {}
        other => panic!("{other:?}"),
    }
}
