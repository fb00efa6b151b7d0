//! Walking along `k` through a packed panel whose weights have to be computed before they can be multiplied.

use std::marker::PhantomData;

use super::kernel::Computed;
use super::lanes::Lanes;
use super::scheme::Scheme;
use crate::WeightFormat;

/// The expression for the eight vectors of a chunk, `$j` being the constants 0 to 7.
macro_rules! eight {
    ($j:ident => $e:expr) => {
        [
            eight!(@ $j 0 $e), eight!(@ $j 1 $e), eight!(@ $j 2 $e), eight!(@ $j 3 $e),
            eight!(@ $j 4 $e), eight!(@ $j 5 $e), eight!(@ $j 6 $e), eight!(@ $j 7 $e),
        ]
    };
    (@ $j:ident $value:literal $e:expr) => {{
        const $j: usize = $value;
        $e
    }};
}

/// What is done with the weights of a chunk: two consecutive `k` of the 64 columns, four vectors each.
pub(super) trait Sink<K: Computed> {
    /// # Safety
    /// As for [`Lanes`]; `k` is even and lies within the range that was passed to [`Source::walk`].
    unsafe fn chunk(&mut self, k: usize, weights: [<K::L as Lanes>::F; 8]);
}

/// A storage whose weights are computed on the fly.
pub(super) trait Source {
    /// Hands the weights `from..to` of all 64 columns to `sink`, in the order of `k`.
    ///
    /// # Safety
    /// As for [`Lanes`]; `panel` holds a whole panel of this storage with at least `to` weights per column, packed
    /// with the interleave of `K`; `from` and `to` are even, and multiples of the format's block.
    unsafe fn walk<K: Computed>(panel: *const u8, from: usize, to: usize, sink: &mut impl Sink<K>);
}

/// 16-bit floats, widened.
pub(super) struct Halves<const BF16: bool>;

impl<const BF16: bool> Source for Halves<BF16> {
    #[inline(always)]
    unsafe fn walk<K: Computed>(panel: *const u8, from: usize, to: usize, sink: &mut impl Sink<K>) {
        let mut k = from;
        while k < to {
            // SAFETY: weight `k` of the 64 columns starts `128 * k` bytes into the panel and the chunk has 256.
            unsafe {
                let p = panel.add(128 * k);
                prefetch::<K::L>(p, 256);
                let weights = eight!(J => {
                    let p = p.add(32 * J);
                    if BF16 { K::L::from_bf16(p) } else { K::L::from_f16(p) }
                });
                sink.chunk(k, weights);
            }
            k += 2;
        }
    }
}

/// How far ahead of the reads the stream is requested, in bytes.
pub(super) const PREFETCH_AHEAD: usize = 2048;

/// Requests the `bytes` that follow `p` at the prefetch distance.
#[inline(always)]
unsafe fn prefetch<L: Lanes>(p: *const u8, bytes: usize) {
    let mut at = 0;
    while at < bytes {
        // SAFETY: a prefetch may name any address.
        unsafe { L::prefetch(p.wrapping_add(PREFETCH_AHEAD + at)) };
        at += 64;
    }
}

/// Names a quantised format in the type system.
pub(super) trait Format {
    /// Its scheme.
    const SCHEME: Scheme;
}

macro_rules! formats {
    ($($name:ident),*) => {
        $(
            pub(super) struct $name;
            impl Format for $name {
                const SCHEME: Scheme = Scheme::of(WeightFormat::$name).expect("a quantised format");
            }
        )*
    };
}
formats!(Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4K, Q5K, Q6K);

/// Quantised weights of format `T`.
pub(super) struct Quantized<T>(PhantomData<T>);

/// Scale and additive term of each of the 64 columns.
struct Scales<L: Lanes> {
    scale: [L::F; 4],
    min: [L::F; 4],
}

/// Scale and additive term of each column, sixteen at a time; the latter is 0 if the format has no minima.
///
/// # Safety
/// As for [`Lanes`]; `head` and `scales` point at the heads of a block and of a sub-block.
#[inline(always)]
pub(super) unsafe fn column_scales<L: Lanes, T: Format>(head: *const u8, scales: *const u8) -> ([L::F; 4], [L::F; 4]) {
    let s = T::SCHEME;
    // SAFETY: the head has 64 `f16` per field and the sub-block's head 64 bytes per field.
    unsafe {
        let mut d = [L::splat(0.0); 4];
        let mut m = d;
        let mut i = 0;
        while i < 4 {
            d[i] = L::from_f16(head.add(32 * i));
            if s.has_sub_scales() {
                let p = scales.add(16 * i);
                d[i] = L::mul(d[i], if s.has_min { L::from_u8(p) } else { L::from_i8(p) });
            }
            if s.has_min {
                m[i] = L::from_f16(head.add(128 + 32 * i));
                if s.has_sub_scales() {
                    let min = L::mul(m[i], L::from_u8(scales.add(64 + 16 * i)));
                    m[i] = L::mul(min, L::splat(-1.0));
                }
            }
            i += 1;
        }
        (d, m)
    }
}

impl<T: Format> Quantized<T> {
    /// # Safety
    /// `low` and `high` point at a chunk of the code planes.
    #[inline(always)]
    unsafe fn chunk<K: Computed>(
        low: *const u8,
        high: *const u8,
        table: <K::L as Lanes>::Table,
        s: &Scales<K::L>,
    ) -> [<K::L as Lanes>::F; 8] {
        let bits = T::SCHEME.bits;
        // SAFETY: a chunk has 128 codes: 64 or 128 bytes in the low plane, 0, 16 or 32 in the high plane.
        unsafe {
            if bits == 8 {
                return eight!(J => K::L::mul(K::L::from_i8(low.add(16 * J)), s.scale[J % 4]));
            }
            let nibbles = K::L::load_u32(low);
            let upper = if bits == 6 { K::L::load_u16(high) } else { nibbles };
            eight!(J => {
                let mut code = K::L::nibble::<{ 4 * J as u32 }>(nibbles, table);
                if bits == 5 {
                    let set = u16::from_le(high.add(2 * J).cast::<u16>().read_unaligned());
                    code = K::L::add_fifth_bit(code, set);
                }
                if bits == 6 {
                    code = K::L::add(code, K::L::two_high_bits::<{ 2 * J as u32 }>(upper));
                }
                if T::SCHEME.has_min {
                    K::L::fma(code, s.scale[J % 4], s.min[J % 4])
                } else {
                    K::L::mul(code, s.scale[J % 4])
                }
            })
        }
    }
}

impl<T: Format> Source for Quantized<T> {
    #[inline(always)]
    unsafe fn walk<K: Computed>(panel: *const u8, from: usize, to: usize, sink: &mut impl Sink<K>) {
        let s = T::SCHEME;
        // SAFETY: blocks, sub-blocks and chunks follow one another as `scheme.rs` lays them out, and the panel has
        // all of them up to `to`.
        unsafe {
            let table = K::L::table(f32::from(s.offset));
            let mut k = from;
            let mut head = panel.add(from / s.block * s.block_bytes());
            while k < to {
                let mut sub = head.add(s.head_bytes());
                let block_end = k + s.block;
                while k < block_end {
                    let (scale, min) = column_scales::<K::L, T>(head, sub);
                    let scales = Scales { scale, min };
                    let low = sub.add(s.scale_bytes());
                    let high = low.add(s.low_bytes());
                    let mut c = 0;
                    while c < s.sub / 2 {
                        let chunk = low.add(16 * s.low_bits() * c);
                        prefetch::<K::L>(chunk, 16 * s.bits);
                        let high = high.add(16 * (s.bits - s.low_bits()) * c);
                        sink.chunk(k + 2 * c, Self::chunk::<K>(chunk, high, table, &scales));
                        c += 1;
                    }
                    sub = sub.add(s.sub_bytes());
                    k += s.sub;
                }
                head = sub;
            }
        }
    }
}
