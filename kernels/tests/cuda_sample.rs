//! Sampling on the CUDA backend: draws against the distribution in `f64` and against the CPU's, the first maximum, NaN.

mod device;

use std::sync::Arc;

use device::backend;
use oc_kernels::{
    Backend, Dtype, Error, Sampled, Sampling, WeightFormat, WeightView,
    cpu::{CpuBackend, CpuOptions},
    cuda::CudaBackend,
    emulator::{Emulator, EmulatorOptions},
    ops::Rng,
    reference::{log_prob::log_softmax, sample::distribution},
};

const VOCABS: [usize; 8] = [1, 2, 31, 32, 100, 1000, 1025, 5003];

/// Logits of a few units; every third row in steps of a half, so that many are equal, and some impossible.
fn logits(rng: &mut Rng, row: usize, vocab: usize) -> Vec<f32> {
    let one = |i: usize, x: f32| match row % 3 {
        0 if i % 7 == 3 => f32::NEG_INFINITY,
        0 => (2.0 * x).round() / 2.0,
        _ => x,
    };
    rng.vec(vocab, 6.0).into_iter().enumerate().map(|(i, x)| one(i, x)).collect()
}

fn how(rng: &mut Rng, counter: u64) -> Sampling {
    Sampling {
        temperature: rng.pick(&[0.3, 1.0, 1.0, 2.0, 1e-30]),
        top_k: rng.pick(&[0, 0, 1, 3, 50, 1 << 20]),
        top_p: rng.pick(&[1.0, 1.0, 0.9, 0.5, 0.05, 0.0]),
        seed: rng.bits(),
        counter,
    }
}

/// The random number of a row: output `counter` of the SplitMix64 stream whose key is the first of `seed`'s.
fn uniform(how: &Sampling) -> f64 {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let key = Rng(how.seed).bits();
    let bits = Rng(key.wrapping_add(how.counter.wrapping_mul(STEP))).bits();
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// Whether `how`'s random number falls on `token`, with what rounding leaves open at its edges.
fn falls_on(logits: &[f64], how: &Sampling, token: usize) -> bool {
    let distribution = distribution(logits, how);
    let before: f64 = distribution[..token].iter().sum();
    let (u, edge) = (uniform(how), 1e-5);
    distribution[token] > 0.0 && before - edge <= u && u <= before + distribution[token] + edge
}

#[test]
fn draws_fall_where_the_distribution_says() {
    let backend = backend(Dtype::Bf16);
    let mut rng = Rng(3);
    for vocab in VOCABS {
        const ROWS: usize = 40;
        let rows: Vec<Vec<f32>> = (0..ROWS).map(|row| logits(&mut rng, row, vocab)).collect();
        let how: Vec<Sampling> = (0..ROWS as u64).map(|counter| how(&mut rng, counter)).collect();
        let on_device = backend.upload_logits(&rows.concat(), ROWS, vocab).unwrap();
        let got = backend.sample_logits(&on_device, &how).unwrap();
        for (row, (Sampled { token, logprob }, how)) in got.into_iter().zip(&how).enumerate() {
            let logits: Vec<f64> = rows[row].iter().map(|x| f64::from(*x)).collect();
            let on = format!("row {row} of {vocab} tokens, {how:?}: {token}");
            assert!((token as usize) < vocab, "{on}");
            // Where the cut of top-p falls between two sums, rounding may move it.
            let nearby = [1.0, 1.0 - 1e-6, 1.0 + 1e-6].map(|by| (f64::from(how.top_p) * by).min(1.0) as f32);
            let fits =
                nearby.iter().any(|top_p| falls_on(&logits, &Sampling { top_p: *top_p, ..*how }, token as usize));
            assert!(fits, "{on}");
            let want = log_softmax(&logits)[token as usize];
            assert!((f64::from(logprob) - want).abs() <= 1e-5 * (1.0 + want.abs()), "{on}: {logprob}, wanted {want}");
        }
    }
}

/// A backend's choice from logits that are the columns of a head of one feature.
fn on_cpu(logits: &[f32], how: &[Sampling]) -> Vec<Sampled> {
    let cpu = CpuBackend::new(CpuOptions { threads: 1, dtype: Dtype::F32, level: None }).unwrap();
    let bytes: Vec<u8> = logits.iter().flat_map(|x| x.to_le_bytes()).collect();
    let head = cpu.weight(&[WeightView::new(&bytes, WeightFormat::F32, logits.len(), 1).unwrap()]).unwrap();
    let hidden = cpu.upload(&vec![1.0; how.len()], how.len(), 1).unwrap();
    cpu.sample(&hidden, &head, how).unwrap()
}

#[test]
fn tokens_are_those_of_the_cpu() {
    let backend = backend(Dtype::F16);
    let mut rng = Rng(17);
    for vocab in VOCABS {
        const ROWS: usize = 60;
        let logits: Vec<f32> = rng.vec(vocab, 6.0);
        let mut how: Vec<Sampling> = (0..ROWS as u64).map(|counter| how(&mut rng, counter)).collect();
        // Greedy rows among the others.
        how.iter_mut().skip(5).step_by(9).for_each(|how| *how = Sampling::GREEDY);
        let on_device = backend.upload_logits(&logits.repeat(ROWS), ROWS, vocab).unwrap();
        let got = backend.sample_logits(&on_device, &how).unwrap();
        let want = on_cpu(&logits, &how);
        for ((got, want), how) in got.iter().zip(&want).zip(&how) {
            assert_eq!(got.token, want.token, "{vocab} tokens, {how:?}");
            assert!((got.logprob - want.logprob).abs() <= 1e-5 * (1.0 + want.logprob.abs()), "{got:?}, {want:?}");
        }
    }
}

#[test]
fn frequencies_follow_the_distribution() {
    let backend = backend(Dtype::Bf16);
    const DRAWS: usize = 300;
    let logits = [0.5, -1.0, 2.0, 1.5, f32::NEG_INFINITY, 0.0, 1.5, -3.0];
    let how = |counter| Sampling { temperature: 0.8, top_k: 6, top_p: 0.95, seed: 42, counter };
    let hows: Vec<Sampling> = (0..DRAWS as u64).map(how).collect();
    let on_device = backend.upload_logits(&logits.repeat(DRAWS), DRAWS, logits.len()).unwrap();
    let mut counts = [0_usize; 8];
    for sampled in backend.sample_logits(&on_device, &hows).unwrap() {
        counts[sampled.token as usize] += 1;
    }
    let want = distribution(&logits.map(f64::from), &how(0));
    let chi_square: f64 = counts.iter().zip(&want).filter(|(_, p)| **p > 0.0).fold(0.0, |sum, (count, p)| {
        let expected = p * DRAWS as f64;
        sum + (*count as f64 - expected).powi(2) / expected
    });
    assert!(counts.iter().zip(&want).all(|(count, p)| *p > 0.0 || *count == 0), "{counts:?}, {want:?}");
    // At most five degrees of freedom: above 20 once in 800 seeds.
    assert!(chi_square < 20.0, "{chi_square}: {counts:?}, {want:?}");
}

#[test]
fn the_first_of_several_maxima_wins() {
    let backend = backend(Dtype::Bf16);
    for vocab in [1, 5, 1024, 4099] {
        for first in [0, vocab / 3, vocab - 1] {
            let mut row = vec![-0.0; vocab];
            row[..first].fill(-1.0);
            // Zeros of either sign are equal.
            row[vocab - 1] = if first == vocab - 1 { -0.0 } else { 0.0 };
            let on_device = backend.upload_logits(&row, 1, vocab).unwrap();
            let got = backend.sample_logits(&on_device, &[Sampling::GREEDY]).unwrap();
            let want = log_softmax(&row.iter().map(|x| f64::from(*x)).collect::<Vec<_>>())[first];
            assert_eq!(got[0].token as usize, first, "{vocab} tokens");
            assert!((f64::from(got[0].logprob) - want).abs() < 1e-5 * (1.0 + want.abs()), "{got:?}, {want}");
        }
    }
}

#[test]
fn a_row_is_chosen_alike_alone_and_in_company() {
    let backend = backend(Dtype::Bf16);
    let (mut rng, vocab) = (Rng(23), 1500);
    let rows: Vec<Vec<f32>> = (0..17).map(|row| logits(&mut rng, row, vocab)).collect();
    let mut how: Vec<Sampling> = (0..17).map(|counter| how(&mut rng, counter)).collect();
    how[3] = Sampling::GREEDY;
    let choose = |rows: &[Vec<f32>], how: &[Sampling]| {
        let on_device = backend.upload_logits(&rows.concat(), rows.len(), vocab).unwrap();
        backend.sample_logits(&on_device, how).unwrap()
    };
    let together = choose(&rows, &how);
    for row in 0..rows.len() {
        assert_eq!(choose(&rows[row..=row], &how[row..=row]), together[row..=row], "row {row}");
    }
}

#[test]
fn the_first_maximum_reads_a_row_twice_without_bank_conflicts() {
    let emulator = Arc::new(Emulator::new(EmulatorOptions::default()));
    let backend = CudaBackend::new(emulator.clone(), Dtype::Bf16).unwrap();
    let (rows, vocab) = (3, 5000);
    let on_device = backend.upload_logits(&Rng(1).vec(rows * vocab, 3.0), rows, vocab).unwrap();
    let random = Sampling { temperature: 0.7, top_k: 40, top_p: 0.9, ..Sampling::GREEDY };
    backend.sample_logits(&on_device, &[Sampling::GREEDY, Sampling::GREEDY, random]).unwrap();
    let counters = emulator.counters();
    // Greedy rows: for the maximum and for the sum, the second time from L2.
    assert_eq!(counters["argmax"].global_read_bytes, (2 * 2 * vocab * 4) as u64);
    assert_eq!(counters["argmax"].global_read_sectors, (2 * 2 * vocab * 4 / 32) as u64);
    // 2 + 17 for top-k + 1 + 17 for top-p passes, one for the draw, and the parameters.
    let passes = counters["sample"].global_read_bytes / (vocab * 4) as u64;
    assert!((38..=40).contains(&passes), "{passes}");
    for name in ["argmax", "sample"] {
        assert_eq!((counters[name].bank_conflicts, counters[name].local_bytes), (0, 0), "{name}");
    }
}

fn refused(backend: &CudaBackend, row: &[f32], how: Sampling) -> Error {
    // The second of three rows.
    let good = vec![0.0; row.len()];
    let on_device = backend.upload_logits(&[&good, row, &good].concat(), 3, row.len()).unwrap();
    backend.sample_logits(&on_device, &[how; 3]).expect_err("no error")
}

#[test]
fn logits_and_parameters_without_a_meaning_are_refused() {
    let backend = backend(Dtype::Bf16);
    let random = Sampling { temperature: 1.0, ..Sampling::GREEDY };
    for how in [Sampling::GREEDY, random] {
        for special in [f32::NAN, -f32::NAN, f32::INFINITY] {
            for at in [0, 7, 99] {
                let mut row = vec![1.0; 100];
                row[at] = special;
                let error = refused(&backend, &row, how);
                assert!(matches!(error, Error::NotFinite { what: "sample", row: 1 }), "{special} at {at}: {error}");
            }
        }
        let error = refused(&backend, &[f32::NEG_INFINITY; 40], how);
        assert!(matches!(error, Error::NotFinite { what: "sample", row: 1 }), "{error}");
    }
    for (how, name) in [
        (Sampling { temperature: f32::NAN, ..random }, "temperature"),
        (Sampling { temperature: -1.0, ..random }, "temperature"),
        (Sampling { top_p: 1.5, ..random }, "top_p"),
        (Sampling { top_p: f32::NAN, ..random }, "top_p"),
    ] {
        let error = refused(&backend, &[0.0; 4], how).to_string();
        assert!(error.contains(name), "{error}");
    }
    let activations = backend.upload(&[0.0; 4], 1, 4).unwrap();
    let error = backend.sample_logits(&activations, &[Sampling::GREEDY]).expect_err("16-bit logits");
    assert!(error.to_string().contains("4 bytes"), "{error}");
}
