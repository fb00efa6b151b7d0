//! Products on the CUDA backend: exactness in f32, every epilogue, the same bits in every tile, NaN and infinity, counts.

mod device;

use std::sync::Arc;

use device::backend;
use half::{bf16, f16};
use oc_kernels::{
    Backend, Dtype, Epilogue, Error, Sampling, Storage, WeightFormat, WeightView,
    cuda::{CudaBackend, CudaTensor, CudaWeight},
    emulator::{Emulator, EmulatorOptions},
    ops::Rng,
};

const DTYPES: [Dtype; 2] = [Dtype::Bf16, Dtype::F16];

/// A weight in the backend's own type, and its values.
fn weight(backend: &CudaBackend, rng: &mut Rng, rows: usize, cols: usize) -> (CudaWeight, Vec<f32>) {
    let values = rng.stored(backend, rows * cols, 1.0);
    (upload_weight(backend, &values, rows, cols), values)
}

fn bytes_of(backend: &CudaBackend, values: &[f32]) -> (Vec<u8>, WeightFormat) {
    match backend.info().storage {
        Storage::Bf16 => (values.iter().flat_map(|w| bf16::from_f32(*w).to_le_bytes()).collect(), WeightFormat::Bf16),
        _ => (values.iter().flat_map(|w| f16::from_f32(*w).to_le_bytes()).collect(), WeightFormat::F16),
    }
}

fn upload_weight(backend: &CudaBackend, values: &[f32], rows: usize, cols: usize) -> CudaWeight {
    let (bytes, format) = bytes_of(backend, values);
    backend.weight(&[WeightView::new(&bytes, format, rows, cols).unwrap()]).unwrap()
}

/// `x · wᵀ` in f64, and the sums of magnitudes.
fn product(x: &[f32], w: &[f32], inner: usize) -> (Vec<f64>, Vec<f64>) {
    let pairs = x.chunks_exact(inner).flat_map(|x| w.chunks_exact(inner).map(move |w| (x, w)));
    pairs
        .map(|(x, w)| {
            let terms = x.iter().zip(w).map(|(x, w)| f64::from(*x) * f64::from(*w));
            terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + term.abs()))
        })
        .unzip()
}

/// All rows of `x · wᵀ` in f32, written over NaN.
fn logits(backend: &CudaBackend, x: &CudaTensor, rows: usize, w: &CudaWeight, cols: usize) -> Vec<f32> {
    let mut out = backend.logits(rows, cols).unwrap();
    backend.launch_logits(x, 0, rows, w, &mut out).unwrap();
    backend.download(&out).unwrap()
}

/// (rows, inner, cols): edges of tiles, of mma steps and of 16-byte chunks; tall, wide and tiny.
const SHAPES: [(usize, usize, usize); 22] = [
    (1, 1, 1),
    (1, 7, 3),
    (1, 64, 33),
    (2, 65, 31),
    (7, 8, 129),
    (15, 15, 64),
    (16, 16, 128),
    (17, 17, 127),
    (31, 129, 65),
    (33, 63, 255),
    (63, 31, 257),
    (64, 32, 96),
    (65, 33, 130),
    (127, 127, 17),
    (128, 96, 256),
    (129, 48, 128),
    (130, 200, 7),
    (257, 72, 140),
    (100, 40, 2100),
    (129, 20, 3333),
    (257, 24, 3700),
    (3, 1000, 40),
];

#[test]
fn float_products_are_exact_to_a_hundred_thousandth() {
    for dtype in DTYPES {
        let backend = backend(dtype);
        for (seed, (rows, inner, cols)) in SHAPES.into_iter().enumerate() {
            let mut rng = Rng(seed as u64);
            let (w, w_values) = weight(&backend, &mut rng, cols, inner);
            let x_values = rng.stored(&backend, rows * inner, 2.0);
            let x = backend.upload(&x_values, rows, inner).unwrap();
            let found = logits(&backend, &x, rows, &w, cols);
            let (want, magnitude) = product(&x_values, &w_values, inner);
            let (mut wrong, mut norm) = (0.0, 0.0);
            for ((found, want), magnitude) in found.iter().zip(&want).zip(&magnitude) {
                let difference = (f64::from(*found) - want).abs();
                assert!(difference <= 1e-5 * magnitude, "{rows}x{inner}x{cols}: {found}, wanted {want}");
                wrong += difference * difference;
                norm += want * want;
            }
            assert!(wrong.sqrt() <= 1e-5 * norm.sqrt(), "{rows}x{inner}x{cols}: {:e}", (wrong / norm).sqrt());
        }
    }
}

/// `erf` by its series and, far out, its continued fraction: twelve digits.
fn erf(x: f64) -> f64 {
    let z = x.abs();
    let value = if z < 3.0 {
        let mut term = z;
        let mut sum = z;
        for n in 1..80 {
            term *= -z * z / f64::from(n);
            sum += term / f64::from(2 * n + 1);
        }
        sum * 2.0 / std::f64::consts::PI.sqrt()
    } else {
        let fraction = (1..60).rev().fold(0.0, |f, k| f64::from(k) / 2.0 / (z + f));
        1.0 - (-z * z).exp() / ((z + fraction) * std::f64::consts::PI.sqrt())
    };
    value.copysign(x)
}

#[test]
fn every_epilogue_agrees_with_its_definition() {
    for dtype in DTYPES {
        let backend = backend(dtype);
        let storage = backend.info().storage;
        for (seed, (rows, inner, cols)) in SHAPES.into_iter().enumerate() {
            let mut rng = Rng(100 + seed as u64);
            let (w, w_values) = weight(&backend, &mut rng, cols, inner);
            let scale = 2.0 / (inner as f32).sqrt();
            let x_values = rng.stored(&backend, rows * inner, scale);
            let x = backend.upload(&x_values, rows, inner).unwrap();
            let bias_values = rng.stored(&backend, cols, 1.0);
            let bias = backend.upload(&bias_values, 1, cols).unwrap();
            let before = rng.vec(rows * cols, 1.0);
            let (want, magnitude) = product(&x_values, &w_values, inner);
            for (epilogue, to_residual) in [
                (Epilogue::Store, false),
                (Epilogue::Store, true),
                (Epilogue::Accumulate, true),
                (Epilogue::Relu, false),
                (Epilogue::Gelu, false),
            ] {
                for with_bias in [false, true] {
                    let start =
                        if epilogue == Epilogue::Accumulate { before.clone() } else { vec![f32::NAN; rows * cols] };
                    let upload = if to_residual { CudaBackend::upload_residual } else { CudaBackend::upload };
                    let mut out = upload(&backend, &start, rows, cols).unwrap();
                    backend.linear(&x, &w, with_bias.then_some(&bias), epilogue, &mut out).unwrap();
                    for (i, found) in backend.download(&out).unwrap().into_iter().enumerate() {
                        let bias = if with_bias { f64::from(bias_values[i % cols]) } else { 0.0 };
                        let y = want[i] + bias;
                        let wanted = match epilogue {
                            Epilogue::Store => y,
                            Epilogue::Accumulate => y + f64::from(before[i]),
                            Epilogue::Relu => y.max(0.0),
                            Epilogue::Gelu => y * (1.0 + erf(y / 2_f64.sqrt())) / 2.0,
                        };
                        let size = magnitude[i] + bias.abs() + f64::from(before[i].abs());
                        let rounding = if to_residual { 0.0 } else { 1.01 * storage.half_ulp() };
                        let allowed = rounding * wanted.abs() + 3e-6 * size;
                        let what = format!("{epilogue:?} {rows}x{inner}x{cols}, element {i}");
                        assert!((f64::from(found) - wanted).abs() <= allowed, "{what}: {found}, wanted {wanted}");
                    }
                }
            }
        }
    }
}

#[test]
fn gated_products_agree_with_their_definition() {
    for dtype in DTYPES {
        let backend = backend(dtype);
        for (seed, (rows, inner, cols)) in SHAPES.into_iter().enumerate() {
            let mut rng = Rng(200 + seed as u64);
            let [gate, up] = [(); 2].map(|()| rng.stored(&backend, cols * inner, 1.0));
            let x_values = rng.stored(&backend, rows * inner, 3.0 / (inner as f32).sqrt());
            let ((gate_bytes, format), (up_bytes, _)) = (bytes_of(&backend, &gate), bytes_of(&backend, &up));
            let view = |bytes| WeightView::new(bytes, format, cols, inner).unwrap();
            let w = backend.gated_weight(&view(&gate_bytes), &view(&up_bytes)).unwrap();
            let x = backend.upload(&x_values, rows, inner).unwrap();
            let mut out = backend.upload(&vec![f32::NAN; rows * cols], rows, cols).unwrap();
            backend.linear_silu_mul(&x, &w, &mut out).unwrap();
            let ((gate, gate_size), (up, up_size)) = (product(&x_values, &gate, inner), product(&x_values, &up, inner));
            for (i, found) in backend.download(&out).unwrap().into_iter().enumerate() {
                let wanted = gate[i] / (1.0 + (-gate[i]).exp()) * up[i];
                let size = gate_size[i] * (up[i].abs() + 1.0) + up_size[i] * (gate[i].abs() + 1.0);
                let allowed = 1.01 * backend.info().storage.half_ulp() * wanted.abs() + 3e-6 * size;
                let what = format!("{rows}x{inner}x{cols}, element {i}");
                assert!((f64::from(found) - wanted).abs() <= allowed, "{what}: {found}, wanted {wanted}");
            }
        }
    }
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// A row alone, among 17, among 60 and among 300 others: every tile.
#[test]
fn a_row_has_the_same_bits_in_every_tile() {
    for dtype in DTYPES {
        let backend = backend(dtype);
        // Beyond 64 rows a medium, a square and a wide tile.
        for (inner, cols) in [(200, 300), (72, 1700), (40, 3400)] {
            let mut rng = Rng(5);
            let (w, _) = weight(&backend, &mut rng, cols, inner);
            let bias = rng.stored(&backend, cols, 1.0);
            let bias = backend.upload(&bias, 1, cols).unwrap();
            let x_values = rng.stored(&backend, 300 * inner, 1.0);
            let first = |rows: usize| backend.upload(&x_values[..rows * inner], rows, inner).unwrap();
            let (mut floats, mut rounded, mut scores): (Vec<_>, Vec<_>, Vec<_>) = Default::default();
            for rows in [1, 17, 60, 300] {
                let x = first(rows);
                floats.push(bits(&logits(&backend, &x, rows, &w, cols)[..cols]));
                let mut out = backend.tensor(rows, cols).unwrap();
                backend.set_rows(&mut out, rows).unwrap();
                backend.linear(&x, &w, Some(&bias), Epilogue::Gelu, &mut out).unwrap();
                rounded.push(bits(&backend.download(&out).unwrap()[..cols]));
                let targets: Vec<u32> = (0..rows).map(|row| (row * 7 % cols) as u32).collect();
                let score = backend.log_prob(&x, &w, &targets).unwrap()[0];
                let greedy = backend.sample(&x, &w, &vec![Sampling::GREEDY; rows]).unwrap()[0];
                let floats = bits(&[score.logprob, score.argmax_logprob, greedy.logprob]);
                scores.push((floats, score.argmax, greedy.token));
            }
            for other in 1..4 {
                assert_eq!(floats[0], floats[other], "f32, {inner}x{cols}");
                assert_eq!(rounded[0], rounded[other], "rounded, {inner}x{cols}");
                assert_eq!(scores[0], scores[other], "log_prob, {inner}x{cols}");
            }
        }
    }
}

#[test]
fn nan_and_infinity_stay_in_their_row_and_column() {
    let backend = backend(Dtype::Bf16);
    let (rows, inner, cols) = (70, 40, 50);
    let mut rng = Rng(9);
    let mut w_values = rng.stored(&backend, cols * inner, 1.0);
    let mut x_values = rng.stored(&backend, rows * inner, 1.0);
    x_values[3 * inner + 5] = f32::NAN;
    x_values[66 * inner + 39] = f32::INFINITY;
    w_values[20 * inner] = f32::NAN;
    let w = upload_weight(&backend, &w_values, cols, inner);
    let x = backend.upload(&x_values, rows, inner).unwrap();
    for (i, value) in logits(&backend, &x, rows, &w, cols).into_iter().enumerate() {
        let (row, col) = (i / cols, i % cols);
        let what = format!("row {row}, column {col}: {value}");
        match (row, col) {
            (3, _) | (_, 20) => assert!(value.is_nan(), "{what}"),
            (66, _) => assert!(value.is_infinite(), "{what}"),
            _ => assert!(value.is_finite(), "{what}"),
        }
    }
    let refused = |x: &[f32], w: &[f32]| {
        let w = upload_weight(&backend, w, cols, inner);
        let x = backend.upload(x, rows, inner).unwrap();
        backend.log_prob(&x, &w, &vec![0; rows]).map(drop)
    };
    let finite: Vec<f32> = w_values.iter().map(|w| if w.is_nan() { 0.0 } else { *w }).collect();
    assert!(matches!(refused(&x_values, &finite), Err(Error::NotFinite { what: "log_prob", row: 3 })));
    let zeros = vec![0.0; rows * inner];
    assert!(refused(&zeros, &finite).is_ok());
    assert!(matches!(refused(&zeros, &w_values), Err(Error::NotFinite { row: 0, .. })));
}

/// Of equal maxima the first wins, wherever it lies: in a lane, a record, a tile.
#[test]
fn the_first_of_equal_maxima_wins() {
    let backend = backend(Dtype::F16);
    let (inner, cols) = (8, 600);
    for (first, second) in [(0, 1), (3, 4), (5, 127), (127, 128), (130, 599), (0, 599), (255, 256)] {
        let mut w = vec![0.0; cols * inner];
        for winner in [first, second] {
            w[winner * inner] = 1.0;
        }
        let w = upload_weight(&backend, &w, cols, inner);
        for rows in [1, 20, 80] {
            let x = backend.upload(&vec![1.0; rows * inner], rows, inner).unwrap();
            for token in backend.sample(&x, &w, &vec![Sampling::GREEDY; rows]).unwrap() {
                assert_eq!(token.token as usize, first, "{first} and {second} among {rows}");
            }
        }
    }
}

#[test]
fn operands_that_do_not_fit_are_refused() {
    let backend = backend(Dtype::Bf16);
    let mut rng = Rng(1);
    let (w, _) = weight(&backend, &mut rng, 6, 8);
    let x = backend.upload(&[0.0; 24], 3, 8).unwrap();
    let narrow = backend.upload(&[0.0; 21], 3, 7).unwrap();
    let mut out = backend.upload(&[0.0; 18], 3, 6).unwrap();
    let short = backend.upload(&[0.0; 5], 1, 5).unwrap();
    let store = Epilogue::Store;
    assert!(matches!(backend.linear(&narrow, &w, None, store, &mut out), Err(Error::Shape { .. })));
    assert!(matches!(backend.linear(&x, &w, Some(&short), store, &mut out), Err(Error::Shape { .. })));
    assert!(matches!(backend.linear_silu_mul(&x, &w, &mut out), Err(Error::Shape { .. })), "not gated");
    // Sums go to a residual stream, activations do not.
    let mut residual = backend.upload_residual(&[0.0; 18], 3, 6).unwrap();
    assert!(matches!(backend.linear(&x, &w, None, Epilogue::Accumulate, &mut out), Err(Error::Shape { .. })));
    for epilogue in [Epilogue::Relu, Epilogue::Gelu] {
        assert!(matches!(backend.linear(&x, &w, None, epilogue, &mut residual), Err(Error::Shape { .. })));
    }
    assert!(matches!(backend.log_prob(&x, &w, &[0, 1, 6]), Err(Error::Index { index: 6, len: 6, .. })));
    // No rows: nothing is launched.
    let none = backend.upload(&[], 0, 8).unwrap();
    let mut empty = backend.upload(&[], 0, 6).unwrap();
    backend.linear(&none, &w, None, store, &mut empty).unwrap();
    assert!(backend.log_prob(&none, &w, &[]).unwrap().is_empty());
}

/// What the kernels move and how, on whole tiles: every number follows from the tile.
#[test]
fn counts_are_those_of_the_tiles() {
    let emulator = Emulator::new(EmulatorOptions::default());
    let backend = CudaBackend::new(Arc::new(emulator.clone()), Dtype::Bf16).unwrap();
    // (rows, columns of a block, rows of a block)
    for (kernel, rows, cols, block_cols, block_rows) in [
        ("gemm_few_bf16", 16, 128, 32, 16),
        ("gemm_some_bf16", 64, 128, 32, 64),
        ("gemm_medium_bf16", 128, 256, 64, 128),
        ("gemm_square_bf16", 256, 1792, 128, 128),
        ("gemm_wide_bf16", 256, 3584, 256, 128),
    ] {
        let counters = |inner: usize, epilogue: Epilogue| {
            let (w, _) = weight(&backend, &mut Rng(1), cols, inner);
            let x = backend.upload(&vec![1.0; rows * inner], rows, inner).unwrap();
            let mut out = match epilogue {
                Epilogue::Accumulate => backend.upload_residual(&vec![1.0; rows * cols], rows, cols).unwrap(),
                _ => backend.upload(&vec![1.0; rows * cols], rows, cols).unwrap(),
            };
            emulator.reset_counters();
            backend.linear(&x, &w, None, epilogue, &mut out).unwrap();
            emulator.counters()[kernel].clone()
        };
        let inner = 64;
        let longer = counters(2 * inner, Epilogue::Store);
        let (accumulated, counters) = (counters(inner, Epilogue::Accumulate), counters(inner, Epilogue::Store));
        let (tiles_m, tiles_n) = (rows / block_rows, cols / block_cols);
        // Every block copies its rows of both operands once.
        let copied = 2 * inner * (tiles_n * rows + tiles_m * cols);
        assert_eq!(counters.async_bytes, copied as u64, "{kernel}: bytes copied");
        // Whole sectors: nothing is read or written in pieces. The residual stream is read too, and has 4 bytes an element.
        for (counters, read, written) in [(&counters, 0, 2), (&accumulated, 4, 4)] {
            let [read, written] = [copied + read * rows * cols, written * rows * cols].map(|bytes| bytes as u64);
            assert_eq!(counters.global_read_bytes, read, "{kernel}: bytes read");
            assert_eq!(counters.global_written_bytes, written, "{kernel}: bytes written");
            assert_eq!(counters.global_read_sectors, read / 32, "{kernel}: sectors read");
            assert_eq!(counters.global_written_sectors, written / 32, "{kernel}: sectors written");
        }
        assert_eq!(counters.mma(), (rows / 16 * cols / 8 * inner / 16) as u64, "{kernel}: products");
        // A few banks are met twice on the way out, once per block; the main loop never waits for one.
        assert_eq!(counters.bank_conflicts, longer.bank_conflicts, "{kernel}: bank conflicts of the main loop");
        assert!(counters.bank_conflicts <= (rows * cols / 16) as u64, "{kernel}: {}", counters.bank_conflicts);
        assert_eq!(counters.local_bytes, 0, "{kernel}: local memory");
    }
}
