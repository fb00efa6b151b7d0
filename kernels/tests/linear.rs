//! The linear layer against the `f64` reference, on every instruction set of this machine, and its invariances.

use half::{bf16, f16};
use oc_kernels::cpu::linear::{PackedWeight, linear};
use oc_kernels::cpu::{SimdLevel, Threads};
use oc_kernels::reference::{dequant::dequantize, gemm, int8};
use oc_kernels::{Dtype, Error, WeightFormat, WeightView};
use proptest::prelude::*;

const DTYPES: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::Int8];

/// SplitMix64: reproducible test data.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Uniform in -1..1.
    fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    fn floats(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.signed()).collect()
    }

    /// The bytes of a random `[rows, cols]` matrix: random codes, scales of both signs and moderate size.
    fn weights(&mut self, format: WeightFormat, rows: usize, cols: usize) -> Vec<u8> {
        let (len, size) = (format.block_len(), format.block_bytes());
        let mut data = Vec::new();
        for _ in 0..rows * cols / len {
            let value = self.signed();
            let mut block: Vec<u8> = (0..size).map(|_| self.next() as u8).collect();
            match format {
                WeightFormat::F32 => block.copy_from_slice(&value.to_le_bytes()),
                WeightFormat::F16 => block.copy_from_slice(&f16::from_f32(value).to_le_bytes()),
                WeightFormat::Bf16 => block.copy_from_slice(&bf16::from_f32(value).to_le_bytes()),
                WeightFormat::Q6K => block[208..].copy_from_slice(&f16::from_f32(value * 1e-3).to_le_bytes()),
                _ => {
                    block[..2].copy_from_slice(&f16::from_f32(value * 0.02).to_le_bytes());
                    let has_min = !matches!(format, WeightFormat::Q4_0 | WeightFormat::Q5_0 | WeightFormat::Q8_0);
                    if has_min {
                        block[2..4].copy_from_slice(&f16::from_f32(self.signed() * 0.02).to_le_bytes());
                    }
                }
            }
            data.extend(block);
        }
        data
    }
}

fn levels() -> impl Iterator<Item = SimdLevel> {
    SimdLevel::ALL.into_iter().filter(|level| level.is_supported())
}

fn threads(count: usize) -> Threads {
    Threads::new(count).unwrap()
}

/// Whether products round the weights to bf16: the kernels with bf16 instructions multiply codes and never do.
fn rounds_weights(format: WeightFormat, dtype: Dtype, level: SimdLevel) -> bool {
    dtype == Dtype::Bf16 && !(format.is_quantized() && level == SimdLevel::Avx512Bf16)
}

fn round(v: f32) -> f32 {
    bf16::from_f32(v).to_f32()
}

/// Whole product, no bias.
fn product(x: &[f32], m: usize, w: &PackedWeight, threads: &Threads) -> Vec<f32> {
    let mut out = vec![f32::NAN; m * w.rows()];
    linear(x, m, w, 0..w.rows(), None, false, &mut out, w.rows(), threads).unwrap();
    out
}

/// Fixture blocks and their values by the `gguf` package; see `fixtures/make_dequant.py`.
fn fixture() -> Vec<(WeightFormat, &'static [u8], Vec<f32>)> {
    let mut rest: &'static [u8] = include_bytes!("fixtures/dequant.bin");
    let quantized = WeightFormat::ALL.into_iter().filter(|f| f.is_quantized());
    let parts: Vec<_> = quantized
        .map(|format| {
            let (blocks, after) = rest.split_at(2 * format.row_bytes(256).unwrap());
            let (values, after) = after.split_at(512 * 4);
            rest = after;
            let values = values.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            (format, blocks, values)
        })
        .collect();
    assert!(parts.len() == 8 && rest.is_empty());
    parts
}

#[test]
fn reference_dequantises_as_the_gguf_package_does() {
    for (format, blocks, values) in fixture() {
        let view = WeightView::new(blocks, format, 2, 256).unwrap();
        assert_eq!(dequantize(&view), values, "{}", format.name());
    }
}

#[test]
fn packed_rows_are_exact() {
    for level in levels() {
        for dtype in DTYPES {
            for (format, blocks, values) in fixture() {
                let view = WeightView::new(blocks, format, 2, 256).unwrap();
                let w = PackedWeight::pack(&[view], dtype, level, &threads(1)).unwrap();
                for r in 0..2 {
                    let mut row = vec![0.0; 256];
                    w.row_f32(r, &mut row);
                    assert_eq!(row, values[r * 256..(r + 1) * 256], "{} {dtype:?} {level:?}", format.name());
                }
            }
        }
    }
}

#[test]
fn packed_float_rows_are_exact_or_rounded_once() {
    let mut random = Random(3);
    for format in [WeightFormat::F32, WeightFormat::F16, WeightFormat::Bf16] {
        let data = random.weights(format, 67, 13);
        let view = WeightView::new(&data, format, 67, 13).unwrap();
        let values = dequantize(&view);
        for level in levels() {
            for dtype in DTYPES {
                let w = PackedWeight::pack(&[view], dtype, level, &threads(1)).unwrap();
                let want: Vec<f32> = match dtype {
                    Dtype::F32 => values.clone(),
                    Dtype::Bf16 => values.iter().copied().map(round).collect(),
                    Dtype::Int8 => int8::weights(&view),
                    Dtype::F16 => unreachable!("not among DTYPES"),
                };
                let mut row = vec![0.0; 13];
                for r in 0..67 {
                    w.row_f32(r, &mut row);
                    assert_eq!(row, want[r * 13..(r + 1) * 13], "{} {dtype:?} {level:?}", format.name());
                }
            }
        }
    }
}

/// An identity matrix as input reads the weights out of the product: what is multiplied is exactly the
/// dequantised value (rounded to bf16 where the kernels do so).
#[test]
fn products_use_the_exact_weights() {
    let threads = threads(2);
    for level in levels() {
        for dtype in [Dtype::F32, Dtype::Bf16] {
            for (format, blocks, values) in fixture() {
                let view = WeightView::new(blocks, format, 2, 256).unwrap();
                let w = PackedWeight::pack(&[view], dtype, level, &threads).unwrap();
                let mut x = vec![0.0; 256 * 256];
                (0..256).for_each(|i| x[i * 257] = 1.0);
                let many = product(&x, 256, &w, &threads);
                for i in 0..256 {
                    let one = product(&x[i * 256..(i + 1) * 256], 1, &w, &threads);
                    for r in 0..2 {
                        let value = values[r * 256 + i];
                        let want = if rounds_weights(format, dtype, level) { round(value) } else { value };
                        assert_eq!(many[i * 2 + r], want, "{} {dtype:?} {level:?}", format.name());
                        assert_eq!(one[r], want, "{} {dtype:?} {level:?} one row", format.name());
                    }
                }
            }
        }
    }
}

/// Largest relative error of a row in the norm of what was summed: `|got - want| / (|x| |w|)` per element.
fn error(x: &[f32], m: usize, weights: &[f32], rows: usize, cols: usize, got: &[f32]) -> f64 {
    let norm = |v: &[f32]| v.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt();
    let want = gemm::linear(x, m, weights, rows, cols, None);
    let mut worst = 0.0f64;
    for r in 0..m {
        for c in 0..rows {
            let scale = norm(&x[r * cols..(r + 1) * cols]) * norm(&weights[c * cols..(c + 1) * cols]);
            let difference = (f64::from(got[r * rows + c]) - want[r * rows + c]).abs();
            assert!(difference.is_finite(), "row {r} column {c} is {}", got[r * rows + c]);
            worst = worst.max(difference / scale.max(f64::MIN_POSITIVE));
        }
    }
    worst
}

/// How far each element of an 8-bit product may be from the product of the unquantised inputs: no activation is off by
/// more than half the scale of its block, nor a weight by more than it is seen to be; a little for `f32`. `[m, rows]`
fn int8_error_bound(x: &[f32], m: usize, exact: &[f32], weights: &[f32], rows: usize, cols: usize) -> Vec<f64> {
    let mut bound = Vec::new();
    for r in 0..m {
        let x = &x[r * cols..(r + 1) * cols];
        let half_scale = x.chunks(int8::BLOCK).flat_map(|block| {
            let half = block.iter().fold(0.0, |a: f32, x| a.max(x.abs())) / 254.0;
            vec![f64::from(half); block.len()]
        });
        let half_scale: Vec<f64> = half_scale.collect();
        for c in 0..rows {
            let row = c * cols..(c + 1) * cols;
            let terms = x.iter().zip(&half_scale).zip(exact[row.clone()].iter().zip(&weights[row]));
            bound.push(terms.fold(0.0, |sum, ((&x, half), (&exact, &w))| {
                let (x, exact, w) = (f64::from(x).abs(), f64::from(exact), f64::from(w));
                sum + half * w.abs() + x * (exact - w).abs() + 1e-5 * x * exact.abs().max(w.abs())
            }));
        }
    }
    bound
}

/// Checks one product of every dtype and level against the reference on the same rounded inputs.
fn check(format: WeightFormat, m: usize, rows: usize, cols: usize, seed: u64) {
    let mut random = Random(seed);
    let data = random.weights(format, rows, cols);
    let view = WeightView::new(&data, format, rows, cols).unwrap();
    let (exact, x) = (dequantize(&view), random.floats(m * cols));
    let (weights16, x16): (Vec<f32>, Vec<f32>) =
        (exact.iter().copied().map(round).collect(), x.iter().copied().map(round).collect());
    // The values of the 8-bit arithmetic: a code times a scale rounds once more in `f32`.
    let weights8 = int8::weights(&view);
    let x8: Vec<f32> = x.chunks(cols).flat_map(int8::activations).map(|x| x as f32).collect();
    let threads = threads(2);
    for level in levels() {
        for dtype in DTYPES {
            let w = PackedWeight::pack(&[view], dtype, level, &threads).unwrap();
            let got = product(&x, m, &w, &threads);
            let case = format!("{} {dtype:?} {level:?} [{m}, {cols}] x [{rows}, {cols}]", format.name());
            let (error, bound) = match dtype {
                Dtype::F32 => (error(&x, m, &exact, rows, cols, &got), 1e-5),
                Dtype::Int8 => {
                    let bound = int8_error_bound(&x, m, &exact, &weights8, rows, cols);
                    let want = gemm::linear(&x, m, &exact, rows, cols, None);
                    for (i, ((got, want), bound)) in got.iter().zip(want).zip(bound).enumerate() {
                        let error = (f64::from(*got) - want).abs();
                        assert!(error <= bound, "{case}: element {i} is off by {error:e}, bound {bound:e}");
                    }
                    // Exact but for the rounding of the scales and of the sums over blocks.
                    (error(&x8, m, &weights8, rows, cols, &got), 1e-5)
                }
                _ if !rounds_weights(format, dtype, level) => (error(&x16, m, &exact, rows, cols, &got), 1e-5),
                Dtype::Bf16 => (error(&x16, m, &weights16, rows, cols, &got), 1e-5),
                Dtype::F16 => unreachable!("not among DTYPES"),
            };
            assert!(error <= bound, "{case}: relative error {error:e}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_the_reference(
        format in proptest::sample::select(WeightFormat::ALL.to_vec()),
        m in 1usize..20,
        rows in 1usize..150,
        blocks in 1usize..9,
        odd in 0usize..70,
        seed: u64,
    ) {
        let cols = if format.is_quantized() { blocks * format.block_len() } else { blocks * 30 + odd };
        check(format, m, rows, cols, seed);
    }

    #[test]
    fn a_row_has_the_bits_that_it_has_alone(
        format in proptest::sample::select(WeightFormat::ALL.to_vec()),
        m in 2usize..40,
        rows in 1usize..150,
        blocks in 1usize..9,
        odd in 0usize..70,
        seed: u64,
    ) {
        let cols = if format.is_quantized() { blocks * format.block_len() } else { blocks * 30 + odd };
        check_bits(format, m, rows, cols, seed);
    }
}

/// One row of a product has the bits that it has alone, whatever the shape, at every level.
fn check_bits(format: WeightFormat, m: usize, rows: usize, cols: usize, seed: u64) {
    let mut random = Random(seed);
    let data = random.weights(format, rows, cols);
    let view = WeightView::new(&data, format, rows, cols).unwrap();
    let x = random.floats(m * cols);
    let r = random.next() as usize % m;
    let threads = threads(2);
    for level in levels() {
        for dtype in DTYPES {
            let w = PackedWeight::pack(&[view], dtype, level, &threads).unwrap();
            let (many, one) = (product(&x, m, &w, &threads), product(&x[r * cols..(r + 1) * cols], 1, &w, &threads));
            let same = one.iter().zip(&many[r * rows..]).all(|(a, b)| a.to_bits() == b.to_bits());
            assert!(same, "{} {dtype:?} {level:?} [{m}, {cols}] x [{rows}, {cols}]: row {r}", format.name());
        }
    }
}

#[test]
fn agrees_with_the_reference_over_several_blocks_of_k() {
    for format in WeightFormat::ALL {
        check(format, 15, 66, 2304, 5);
    }
}

/// The same row has the same bits alone, among 7, 17 or 300 others, anywhere, and on 1 or 2 threads.
#[test]
fn bits_do_not_depend_on_the_batch_or_the_threads() {
    let (rows, cols) = (200, 2304);
    let both = [threads(1), threads(2)];
    let mut random = Random(11);
    let x = random.floats(301 * cols);
    for format in WeightFormat::ALL {
        let data = random.weights(format, rows, cols);
        let view = WeightView::new(&data, format, rows, cols).unwrap();
        // The lower levels share all code but the lanes with the highest and would take long here.
        for level in levels().filter(|&l| l != SimdLevel::Portable) {
            for dtype in DTYPES {
                let w = PackedWeight::pack(&[view], dtype, level, &both[0]).unwrap();
                let whole = product(&x, 301, &w, &both[1]);
                let expect = |first: usize, m: usize, got: &[f32]| {
                    let want = &whole[first * rows..(first + m) * rows];
                    let same = got.iter().zip(want).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{} {dtype:?} {level:?}: rows {first}.. of {m}", format.name());
                };
                for threads in &both {
                    for (first, m) in
                        [(0, 1), (137, 1), (300, 1), (150, 2), (40, 3), (41, 4), (3, 8), (270, 18), (1, 64), (0, 301)]
                    {
                        expect(first, m, &product(&x[first * cols..(first + m) * cols], m, &w, threads));
                    }
                }
            }
        }
    }
}

/// Column ranges, strides, bias and accumulation are applied to the same sums.
#[test]
fn column_ranges_bias_and_accumulation() {
    let threads = threads(2);
    let mut random = Random(7);
    let (cols, rows) = (256, [130, 64, 70]);
    let formats = [WeightFormat::Q5_0, WeightFormat::Q8_0, WeightFormat::Bf16];
    let data: Vec<_> = (0..3).map(|i| random.weights(formats[i], rows[i], cols)).collect();
    let parts: Vec<_> = (0..3).map(|i| WeightView::new(&data[i], formats[i], rows[i], cols).unwrap()).collect();
    let n = 264;
    let bias = random.floats(n);
    for level in levels() {
        for dtype in DTYPES {
            let w = PackedWeight::pack(&parts, dtype, level, &threads).unwrap();
            assert_eq!((w.rows(), w.cols()), (n, cols));
            for m in [1, 5, 40] {
                let x = random.floats(m * cols);
                let plain = product(&x, m, &w, &threads);
                for range in [0..n, 0..64, 64..128, 128..200, 192..n, 37..39, 100..100] {
                    let stride = range.len() + 3;
                    let old = random.floats(m * stride);
                    for accumulate in [false, true] {
                        let mut out = old.clone();

                        linear(&x, m, &w, range.clone(), Some(&bias), accumulate, &mut out, stride, &threads).unwrap();
                        for (i, (&got, &old)) in out.iter().zip(&old).enumerate() {
                            let (r, c) = (i / stride, i % stride);
                            let want = if c >= range.len() {
                                old
                            } else {
                                let c = range.start + c;
                                let sum = plain[r * n + c] + bias[c];
                                if accumulate { old + sum } else { sum }
                            };
                            assert_eq!(got.to_bits(), want.to_bits(), "{level:?} {dtype:?} {range:?} [{r}, {c}]");
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn packed_size_stays_near_the_file_size() {
    let mut random = Random(1);
    for format in WeightFormat::ALL {
        let data = random.weights(format, 128, 512);
        let view = WeightView::new(&data, format, 128, 512).unwrap();
        let int8 = PackedWeight::pack(&[view], Dtype::Int8, SimdLevel::detect(), &threads(1)).unwrap().bytes();
        if !format.is_quantized() {
            assert_eq!(int8, 128 * 512 / 32 * 34, "{}", format.name());
        }
        for dtype in DTYPES {
            let w = PackedWeight::pack(&[view], dtype, SimdLevel::detect(), &threads(1)).unwrap();
            assert!(w.bytes() * 100 <= data.len() * 103, "{} {dtype:?}: {}", format.name(), w.bytes());
        }
    }
}

#[test]
fn wrong_shapes_are_refused() {
    let threads = threads(1);
    let data = Random(1).weights(WeightFormat::F32, 4, 6);
    let view = WeightView::new(&data, WeightFormat::F32, 4, 6).unwrap();
    let w = PackedWeight::pack(&[view], Dtype::F32, SimdLevel::Portable, &threads).unwrap();
    let narrow = WeightView::new(&data, WeightFormat::F32, 6, 4).unwrap();
    let pack =
        |parts: &[WeightView<'_>]| PackedWeight::pack(parts, Dtype::F32, SimdLevel::Portable, &threads).map(|_| ());
    assert!(matches!(pack(&[]), Err(Error::Shape { .. })));
    assert!(matches!(pack(&[view, narrow]), Err(Error::Shape { .. })));
    assert!(matches!(pack(&[WeightView { rows: 5, ..view }]), Err(Error::Shape { .. })));
    let x = [0.0; 12];
    let run = |m: usize, cols, bias, len: usize, stride| {
        linear(&x[..6 * m.min(2)], m, &w, cols, bias, false, &mut vec![0.0; len], stride, &threads)
    };
    assert!(run(2, 0..4, Some(&[0.0; 4][..]), 8, 4).is_ok());
    assert!(matches!(run(3, 0..4, None, 12, 4), Err(Error::Shape { .. })));
    assert!(matches!(run(2, 0..4, Some(&[0.0; 3][..]), 8, 4), Err(Error::Shape { .. })));
    assert!(matches!(run(2, 0..4, None, 7, 4), Err(Error::Shape { .. })));
    assert!(matches!(run(2, 0..4, None, 8, 3), Err(Error::Shape { .. })));
    assert!(matches!(run(2, 0..5, None, 10, 5), Err(Error::Index { .. })));
    let huge = linear(&x, 2, &w, 0..4, None, false, &mut [0.0; 8], usize::MAX, &threads);
    assert!(matches!(huge, Err(Error::Shape { .. })));
}

/// Integers in, integers out: where every value is representable, the 8-bit product is exact, and all levels agree.
#[test]
fn eight_bit_products_are_exact_integers() {
    let (m, rows, cols) = (7, 70, 96);
    let threads = threads(2);
    let mut random = Random(23);
    // Every block of 32 has a 127, so that its scale is 1.
    let mut integers = |n: usize| -> Vec<f32> {
        (0..n).map(|i| if i % 32 == 5 { 127.0 } else { (random.next() % 255) as f32 - 127.0 }).collect()
    };
    let (x, weights) = (integers(m * cols), integers(rows * cols));
    let want = gemm::linear(&x, m, &weights, rows, cols, None);
    let floats: Vec<u8> = weights.iter().flat_map(|v| v.to_le_bytes()).collect();
    let blocks = weights.chunks(32).flat_map(|block| {
        let codes = block.iter().map(|&v| v as i8 as u8);
        f16::ONE.to_le_bytes().into_iter().chain(codes).collect::<Vec<u8>>()
    });
    let blocks: Vec<u8> = blocks.collect();
    for (format, data) in [(WeightFormat::F32, &floats), (WeightFormat::Q8_0, &blocks)] {
        let view = WeightView::new(data, format, rows, cols).unwrap();
        for level in levels() {
            let w = PackedWeight::pack(&[view], Dtype::Int8, level, &threads).unwrap();
            for m in [1, m] {
                let got = product(&x[..m * cols], m, &w, &threads);
                let same = got.iter().zip(&want).all(|(got, want)| f64::from(*got) == *want);
                assert!(same, "{} {level:?} {m} rows", format.name());
            }
        }
    }
}

/// Zeros, the smallest and the largest numbers, infinities and NaN as activations of 8-bit products.
#[test]
fn eight_bit_activations_at_the_edges() {
    let threads = threads(1);
    let cols = 64;
    let data: Vec<u8> = (0..cols).flat_map(|_| 1.0f32.to_le_bytes()).collect();
    let view = WeightView::new(&data, WeightFormat::F32, 1, cols).unwrap();
    for level in levels() {
        let w = PackedWeight::pack(&[view], Dtype::Int8, level, &threads).unwrap();
        // What 1 becomes with a scale in `f16`.
        let mut kept = vec![0.0; cols];
        w.row_f32(0, &mut kept);
        let one = |first: f32, second: f32| {
            let mut x = vec![0.0; cols];
            (x[3], x[40]) = (first, second);
            let alone = product(&x, 1, &w, &threads)[0];
            x.extend_from_within(..);
            let many = product(&x, 2, &w, &threads);
            assert!(many.iter().all(|v| v.to_bits() == alone.to_bits() || v.is_nan() && alone.is_nan()), "{level:?}");
            alone / kept[0]
        };
        assert_eq!(one(0.0, 0.0), 0.0);
        assert_eq!(one(1e-40, 0.0), 0.0);
        assert!((one(1e-30, 0.0) / 1e-30 - 1.0).abs() < 1e-6);
        assert!((one(3e38, 1.0) / 3e38 - 1.0).abs() < 1e-6);
        assert!((one(0.25, -1000.0) + 999.75).abs() < 1e-2);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert!(one(bad, 1.0).is_nan() && one(1.0, bad).is_nan(), "{level:?} {bad}");
        }
    }
}
