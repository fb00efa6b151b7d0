//! Products of 8-bit activations: four `k` to a word, exact sums in `i32` over a sub-block.
//!
//! A unit of 32 activations is `scale * code`, where the scale is the largest magnitude over 127 and depends on the row
//! alone. Its words on the side are `[scale: f32] [scale * sum: f32] [sums of the two halves: i32 x 2]`.

use std::marker::PhantomData;

use super::blocks::{Product, UNIT};
use super::lanes::{Lanes, Quads};
use super::scheme::Scheme;
use super::source::Format;

/// Units whose magnitudes are all below this are zero: the reciprocal of their scale would overflow.
const TINY: f32 = 1e-35;

/// Eight-bit activations on the instructions of `Q`.
pub(super) struct Eight<Q>(PhantomData<Q>);

/// Tile shapes: as many sums and accumulators as the registers hold.
pub(super) trait Tile {
    const ROWS: usize;
    const WIDE: bool;
}
impl Tile for super::lanes::Portable {
    const ROWS: usize = 2;
    const WIDE: bool = false;
}
#[cfg(target_arch = "x86_64")]
impl Tile for super::lanes::Avx2 {
    const ROWS: usize = 3;
    const WIDE: bool = false;
}
#[cfg(target_arch = "x86_64")]
impl Tile for super::lanes::Avx512 {
    const ROWS: usize = 3;
    const WIDE: bool = true;
}
#[cfg(target_arch = "x86_64")]
impl Tile for super::lanes::Avx512Vnni {
    const ROWS: usize = 3;
    const WIDE: bool = true;
}

/// What the codes exceed the weights' integers by; signed bytes are stored with their top bit flipped.
const fn offset(s: Scheme) -> i32 {
    if s.bits == 8 { 128 } else { s.offset as i32 }
}

/// Scale of a unit whose largest magnitude is `largest`, and the factor that turns activations into codes. A unit with
/// a NaN or an infinity gets the scale NaN.
#[inline(always)]
fn unit_scale(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < TINY {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}

// SAFETY of every block below: `Product` demands the instruction set of `Q`, and pointers that are valid for what is
// read and written.
impl<Q: Quads + Tile> Product for Eight<Q> {
    type L = Q::L;
    type S = Q::I;
    type B = Q::B;
    type Table = ();
    const STEP: usize = 4;
    const SIDE: usize = 4;
    const ROWS: usize = Q::ROWS;
    const IN_MEMORY: bool = false;
    const WIDE: bool = Q::WIDE;

    #[inline(always)]
    unsafe fn convert(x: *const f32, n: usize, words: *mut u32) {
        let mut k = 0;
        while k < n {
            // SAFETY: activations `k..n` of the row, its words from `k` on, and its words on the side from unit
            // `k / UNIT` on.
            unsafe {
                let side = words.add(n.next_multiple_of(UNIT) / Self::STEP + k / UNIT * Self::SIDE);
                let mut last = [0.0; UNIT];
                let mut x = x.add(k);
                if n - k < UNIT {
                    last[..n - k].copy_from_slice(std::slice::from_raw_parts(x, n - k));
                    x = last.as_ptr();
                }
                let unit = [Q::L::load(x), Q::L::load(x.add(16))];
                let (scale, factor) = unit_scale(Q::largest(unit));
                let words = words.add(k / Self::STEP);
                let codes: *mut i8 = words.cast();
                let (low, high) = (Q::quantize(unit[0], factor, codes), Q::quantize(unit[1], factor, codes.add(16)));
                *side = scale.to_bits();
                *side.add(1) = (scale * low.wrapping_add(high) as f32).to_bits();
                *side.add(2) = low as u32;
                *side.add(3) = high as u32;
                if cfg!(target_endian = "big") {
                    for i in 0..UNIT / Self::STEP {
                        *words.add(i) = (*words.add(i)).swap_bytes();
                    }
                }
            }
            k += UNIT;
        }
    }

    #[inline(always)]
    unsafe fn load(p: *const u8) -> Q::B {
        // SAFETY: forwarded.
        unsafe { Q::load(p) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, codes: Q::B) {
        // SAFETY: forwarded.
        unsafe { Q::store(p, codes) }
    }
    #[inline(always)]
    unsafe fn table<T: Format>() {}

    #[inline(always)]
    unsafe fn codes<T: Format>(low: *const u8, high: *const u8, (): ()) -> [Q::B; 4] {
        let bits = T::SCHEME.bits;
        // SAFETY: a step has 256 codes: 128 or 256 bytes in the low plane, 0, 32 or 64 in the high plane.
        unsafe {
            if bits == 8 {
                return [Q::load(low), Q::load(low.add(64)), Q::load(low.add(128)), Q::load(low.add(192))];
            }
            let (a, b) = (Q::load(low), Q::load(low.add(64)));
            let mut codes =
                [Q::nibbles::<false>(a), Q::nibbles::<true>(a), Q::nibbles::<false>(b), Q::nibbles::<true>(b)];
            if bits == 5 {
                for (v, code) in codes.iter_mut().enumerate() {
                    *code = Q::or_fifth_bit(*code, u64::from_le(high.add(8 * v).cast::<u64>().read_unaligned()));
                }
            }
            if bits == 6 {
                let high = Q::load(high);
                codes[0] = Q::or_two_bits::<0>(codes[0], high);
                codes[1] = Q::or_two_bits::<1>(codes[1], high);
                codes[2] = Q::or_two_bits::<2>(codes[2], high);
                codes[3] = Q::or_two_bits::<3>(codes[3], high);
            }
            codes
        }
    }

    #[inline(always)]
    unsafe fn start<T: Format>(side: *const u32, index: usize) -> Q::I {
        // SAFETY: a unit has four words on the side.
        unsafe {
            let sum =
                if T::SCHEME.sub == UNIT { (*side.add(2)).wrapping_add(*side.add(3)) } else { *side.add(2 + index) };
            Q::splat((sum as i32).wrapping_mul(-offset(T::SCHEME)))
        }
    }
    #[inline(always)]
    unsafe fn mac(sum: Q::I, codes: Q::B, x: u32) -> Q::I {
        // SAFETY: forwarded.
        unsafe { Q::dot(sum, codes, x) }
    }
    #[inline(always)]
    unsafe fn finish<T: Format>(
        acc: <Q::L as Lanes>::F,
        sum: Q::I,
        scale: <Q::L as Lanes>::F,
        min: <Q::L as Lanes>::F,
        side: *const u32,
        _: usize,
    ) -> <Q::L as Lanes>::F {
        // SAFETY: a unit has four words on the side.
        unsafe {
            let scale = Q::L::mul(scale, Q::L::splat(f32::from_bits(*side)));
            let mut acc = Q::L::fma(Q::to_f32(sum), scale, acc);
            if T::SCHEME.has_min {
                acc = Q::L::fma(min, Q::L::splat(f32::from_bits(*side.add(1))), acc);
            }
            acc
        }
    }
}
