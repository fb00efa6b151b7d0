//! What this machine can do at most, measured: the numbers that benchmarks are stated against.
//!
//! Every loop keeps enough independent accumulators in registers that only the execution units limit it, uses the
//! instructions that the kernels of the level use for their products, and runs on all threads of the backend at once.

use std::{hint::black_box, time::Instant};

use super::{CpuBackend, SimdLevel};
use crate::ops::Peaks;

/// Repetitions of each loop; the best counts, for a peak is what the machine can do undisturbed.
const REPEATS: usize = 16;
/// Rounds of an arithmetic loop: a few milliseconds.
const ROUNDS: usize = 1 << 20;
/// Memory read by the bandwidth loop, beyond any last-level cache share.
const READ_BYTES: usize = 256 << 20;
/// What a thread reads over and over from its second-level cache, and how often.
const CACHED_BYTES: usize = 512 << 10;
const CACHED_ROUNDS: usize = 256;

/// Reads all of the data.
type Read = unsafe fn(&[u64]) -> u64;

/// A loop and how many operations one call of it does.
type Arithmetic = (unsafe fn(), usize);

impl CpuBackend {
    /// Measures the peaks of this machine on this backend's threads and at its dispatch level; takes about a second.
    ///
    /// A level without instructions for bf16 products runs them as `f32` products, so there the two peaks are one.
    pub fn measure_peaks(&self) -> Peaks {
        let loops = loops(self.level);
        let f32_gflops = self.rate(loops.f32);
        Peaks {
            f32_gflops,
            bf16_gflops: loops.bf16.map_or(f32_gflops, |bf16| self.rate(bf16)),
            int8_gops: self.rate(loops.int8),
            read_gbps: self.read_rate(loops.read),
            cache_gbps: self.cache_rate(loops.read),
        }
    }

    /// 10^9 operations a second on all threads together.
    fn rate(&self, (body, ops): Arithmetic) -> f64 {
        let once = || {
            let mut seconds = vec![0.0; self.threads()];
            self.threads.for_each_part(&mut seconds, 1, |_, own| {
                let start = Instant::now();
                // SAFETY: `loops` chose the body by the level, whose support `CpuBackend::new` checked.
                unsafe { body() };
                own.fill(start.elapsed().as_secs_f64());
            });
            seconds.into_iter().map(|s| ops as f64 / s).sum::<f64>() / 1e9
        };
        (0..REPEATS).map(|_| once()).fold(0.0, f64::max)
    }

    /// 10^9 bytes a second that all threads together read from the one memory.
    fn read_rate(&self, read: Read) -> f64 {
        let threads = self.threads();
        let part = (READ_BYTES / 8 / threads).next_multiple_of(1 << 10);
        let data = vec![1_u64; part * threads];
        let once = || {
            let start = Instant::now();
            self.threads.run(&|thread| {
                let own = &data[thread * part..][..part];
                // SAFETY: as in `rate`.
                black_box(unsafe { read(own) });
            });
            (data.len() * 8) as f64 / start.elapsed().as_secs_f64() / 1e9
        };
        (0..REPEATS).map(|_| once()).fold(0.0, f64::max)
    }

    /// The sum of 10^9 bytes a second that each thread reads from its own cache.
    fn cache_rate(&self, read: Read) -> f64 {
        let once = || {
            let mut seconds = vec![0.0; self.threads()];
            self.threads.for_each_part(&mut seconds, 1, |_, own| {
                let data = vec![1_u64; CACHED_BYTES / 8];
                let start = Instant::now();
                for _ in 0..CACHED_ROUNDS {
                    // SAFETY: as in `rate`.
                    black_box(unsafe { read(black_box(&data)) });
                }
                own.fill(start.elapsed().as_secs_f64());
            });
            seconds.into_iter().map(|s| (CACHED_BYTES * CACHED_ROUNDS) as f64 / s).sum::<f64>() / 1e9
        };
        (0..REPEATS).map(|_| once()).fold(0.0, f64::max)
    }
}

/// The loops of one dispatch level.
struct Loops {
    f32: Arithmetic,
    bf16: Option<Arithmetic>,
    int8: Arithmetic,
    read: Read,
}

fn loops(level: SimdLevel) -> Loops {
    match level {
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx2 => x86::AVX2,
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512 => x86::AVX512,
        #[cfg(target_arch = "x86_64")]
        SimdLevel::Avx512Bf16 => x86::AVX512_BF16,
        _ => {
            let (f32, int8) = ((portable::f32 as unsafe fn(), 2 * 64 * ROUNDS), (portable::int8 as _, 2 * 64 * ROUNDS));
            Loops { f32, bf16: None, int8, read: portable::read }
        }
    }
}

mod portable {
    use std::hint::black_box;

    use super::ROUNDS;

    pub(super) fn f32() {
        let (a, b) = (black_box([0.999_f32; 64]), black_box([0.001_f32; 64]));
        let mut acc = [1.0_f32; 64];
        for _ in 0..ROUNDS {
            for i in 0..64 {
                acc[i] = acc[i] * a[i] + b[i];
            }
        }
        black_box(acc);
    }

    pub(super) fn int8() {
        let mut acc = [0_i32; 64];
        let (a, b) = (black_box([3_u8; 64]), black_box([-2_i8; 64]));
        for _ in 0..ROUNDS {
            let (a, b) = (black_box(&a), black_box(&b));
            for i in 0..64 {
                acc[i] += i32::from(a[i]) * i32::from(b[i]);
            }
        }
        black_box(acc);
    }

    pub(super) fn read(data: &[u64]) -> u64 {
        let mut sums = [0; 16];
        for line in data.as_chunks::<16>().0 {
            for i in 0..16 {
                sums[i] ^= line[i];
            }
        }
        sums.iter().fold(0, |a, b| a ^ b)
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::{arch::x86_64::*, hint::black_box};

    use super::{Loops, ROUNDS};

    /// A loop over `$chains` accumulators, as a function with the target features.
    macro_rules! arithmetic {
        ($name:ident, $features:literal, $chains:literal, $start:expr, |$acc:ident, $x:ident| $step:expr) => {
            #[target_feature(enable = $features)]
            fn $name() {
                let $x = black_box($start);
                let mut accumulators = [$start; $chains];
                for _ in 0..ROUNDS {
                    for $acc in &mut accumulators {
                        *$acc = $step;
                    }
                }
                black_box(accumulators);
            }
        };
    }

    /// Reads in four streams with prefetches, because the hardware alone stops at the ends of pages.
    macro_rules! read {
        ($name:ident, $features:literal, $vector:ty, $load:ident, $xor:ident, $zero:ident) => {
            #[target_feature(enable = $features)]
            fn $name(data: &[u64]) -> u64 {
                const LINE: usize = 64 / size_of::<$vector>();
                /// Lines between a read and its request.
                const AHEAD: usize = 32;
                let lines = data.len() / 8 / 4;
                let start = data.as_ptr().cast::<$vector>();
                let mut sums = [[$zero(); LINE]; 4];
                for line in 0..lines {
                    for stream in 0..4 {
                        for part in 0..LINE {
                            let p = start.wrapping_add((stream * lines + line) * LINE + part);
                            // SAFETY: lines of the quarters of `data`, in any alignment; a prefetch may name any address.
                            unsafe {
                                if part == 0 {
                                    _mm_prefetch::<_MM_HINT_T0>(p.wrapping_add(AHEAD * LINE).cast());
                                }
                                sums[stream][part] = $xor(sums[stream][part], $load(p.cast()));
                            }
                        }
                    }
                }
                black_box(sums);
                lines as u64
            }
        };
    }

    arithmetic!(f32_avx2, "avx2,fma", 12, _mm256_setzero_ps(), |acc, x| _mm256_fmadd_ps(x, x, *acc));
    arithmetic!(int8_avx2, "avx2", 12, _mm256_setzero_si256(), |acc, x| {
        let pairs = _mm256_maddubs_epi16(x, *acc);
        _mm256_add_epi32(*acc, _mm256_madd_epi16(pairs, x))
    });
    arithmetic!(f32_avx512, "avx512f", 16, _mm512_setzero_ps(), |acc, x| _mm512_fmadd_ps(x, x, *acc));
    arithmetic!(int8_avx512, "avx512f,avx512bw", 16, _mm512_setzero_si512(), |acc, x| {
        let pairs = _mm512_maddubs_epi16(x, *acc);
        _mm512_add_epi32(*acc, _mm512_madd_epi16(pairs, x))
    });
    arithmetic!(bf16_avx512, "avx512f,avx512bf16", 16, _mm512_setzero_ps(), |acc, x| {
        // SAFETY: both types are 64 plain bytes.
        let pair: __m512bh = unsafe { std::mem::transmute(x) };
        _mm512_dpbf16_ps(*acc, pair, pair)
    });
    arithmetic!(int8_vnni, "avx512f,avx512vnni", 16, _mm512_setzero_si512(), |acc, x| {
        _mm512_dpbusd_epi32(*acc, x, x)
    });
    read!(read_avx2, "avx2", __m256i, _mm256_loadu_si256, _mm256_xor_si256, _mm256_setzero_si256);
    read!(read_avx512, "avx512f", __m512i, _mm512_loadu_si512, _mm512_xor_si512, _mm512_setzero_si512);

    /// Twice the multiplications: `lanes` of each of the accumulators.
    const fn ops(chains: usize, lanes: usize) -> usize {
        2 * chains * lanes * ROUNDS
    }

    pub(super) const AVX2: Loops =
        Loops { f32: (f32_avx2, ops(12, 8)), bf16: None, int8: (int8_avx2, ops(12, 32)), read: read_avx2 };
    pub(super) const AVX512: Loops =
        Loops { f32: (f32_avx512, ops(16, 16)), bf16: None, int8: (int8_avx512, ops(16, 64)), read: read_avx512 };
    pub(super) const AVX512_BF16: Loops = Loops {
        f32: (f32_avx512, ops(16, 16)),
        bf16: Some((bf16_avx512, ops(16, 32))),
        int8: (int8_vnni, ops(16, 64)),
        read: read_avx512,
    };
}
