//! The product of 8-bit activations with the integer codes of the weights.
//!
//! Everything advances in units of 32 `k`. A row of activations has one scale per unit (the largest magnitude over
//! 127) and signed bytes; the weights keep their codes, unsigned, and the scales and minima of their sub-blocks (32 or
//! 16 `k`). The sums over a sub-block are exact integers, then
//!
//! ```text
//! sum += (codes · x - offset * sum of x) * (scale of the weights * scale of x)      in f32, in the order of k,
//! sum += min of the weights * (scale of x * sum of x)                               if the format has minima.
//! ```
//!
//! The scale of a unit depends on the row alone and each output element has one accumulator that takes the sub-blocks
//! in order: its bits cannot depend on the tile it is computed in.
//!
//! A unit of a row is twelve words: `[scale: f32] [scale * sum: f32] [sums of the two halves: i32 x 2] [codes: i8 x 32]`.
//! A decoded sub-block of weights is `[scale: f32 x 64] [min: f32 x 64, if the format has minima] [codes: u8,
//! [k / 4][64][4]]`.

use super::kernel::Target;
use super::lanes::{Lanes, Quads};
use super::scheme::{PANEL, Scheme};
use super::source::{Format, PREFETCH_AHEAD, column_scales};

/// Consecutive `k` that share a scale of the activations.
pub(super) const UNIT: usize = 32;
/// Words of a unit of activations.
pub(super) const UNIT_WORDS: usize = 12;
/// Bytes of four `k` of the codes of a panel, and of one `f32` per column.
const ROW: usize = 4 * PANEL;
/// Units whose magnitudes are all below this are zero: the reciprocal of their scale would overflow.
const TINY: f32 = 1e-35;

/// Bytes of a decoded sub-block.
const fn sub_bytes(s: Scheme) -> usize {
    ROW * (1 + s.has_min as usize) + PANEL * s.sub
}

/// Bytes of a decoded unit.
pub(super) const fn unit_bytes(s: Scheme) -> usize {
    UNIT / s.sub * sub_bytes(s)
}

/// What the codes exceed the weights' integers by; signed bytes are stored with their top bit flipped.
const fn offset(s: Scheme) -> i32 {
    if s.bits == 8 { 128 } else { s.offset as i32 }
}

/// Scale of a unit whose largest magnitude is `largest`, and the factor that turns activations into codes. A unit with
/// a NaN or an infinity gets the scale NaN.
#[inline(always)]
pub(super) fn unit_scale(largest: f32) -> (f32, f32) {
    if !largest.is_finite() {
        (f32::NAN, 0.0)
    } else if largest < TINY {
        (0.0, 0.0)
    } else {
        (largest / 127.0, 127.0 / largest)
    }
}

/// Quantises the `n` activations of a row, padded with zeros to whole units.
///
/// # Safety
/// `x` has `n` activations and `words` room for `UNIT_WORDS` words per unit.
#[inline(always)]
pub(super) unsafe fn convert<Q: Quads>(x: *const f32, n: usize, words: *mut u32) {
    let mut k = 0;
    while k < n {
        // SAFETY: activations `k..n` of the row and its unit `k / UNIT`, as the caller promises.
        unsafe {
            let words = words.add(k / UNIT * UNIT_WORDS);
            let mut last = [0.0; UNIT];
            let mut x = x.add(k);
            if n - k < UNIT {
                last[..n - k].copy_from_slice(std::slice::from_raw_parts(x, n - k));
                x = last.as_ptr();
            }
            let unit = [Q::L::load(x), Q::L::load(x.add(16))];
            let (scale, factor) = unit_scale(Q::largest(unit));
            let codes: *mut i8 = words.add(4).cast();
            let (low, high) = (Q::quantize(unit[0], factor, codes), Q::quantize(unit[1], factor, codes.add(16)));
            *words = scale.to_bits();
            *words.add(1) = (scale * low.wrapping_add(high) as f32).to_bits();
            *words.add(2) = low as u32;
            *words.add(3) = high as u32;
            if cfg!(target_endian = "big") {
                for i in 4..UNIT_WORDS {
                    *words.add(i) = (*words.add(i)).swap_bytes();
                }
            }
        }
        k += UNIT;
    }
}

/// The codes of four `k` of a panel, in stored order.
#[inline(always)]
unsafe fn chunk<Q: Quads, T: Format>(low: *const u8, high: *const u8) -> [Q::B; 4] {
    let bits = T::SCHEME.bits;
    // SAFETY: a chunk has 256 codes: 128 or 256 bytes in the low plane, 0, 32 or 64 in the high plane.
    unsafe {
        if bits == 8 {
            return [Q::load(low), Q::load(low.add(64)), Q::load(low.add(128)), Q::load(low.add(192))];
        }
        let (a, b) = (Q::load(low), Q::load(low.add(64)));
        let mut codes = [Q::nibbles::<false>(a), Q::nibbles::<true>(a), Q::nibbles::<false>(b), Q::nibbles::<true>(b)];
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

/// A sub-block of a packed panel.
struct Sub<L: Lanes> {
    scale: [L::F; 4],
    min: [L::F; 4],
    low: *const u8,
    high: *const u8,
}

/// What is done with the sub-blocks of a panel.
trait Visit<Q: Quads> {
    /// # Safety
    /// As for [`Lanes`]; `k` is the first of the sub-block, and lies within the range that was passed to [`walk`].
    unsafe fn sub(&mut self, k: usize, sub: Sub<Q::L>);
}

/// Shows the sub-blocks of the weights `from..to` to `visit`, in the order of `k`.
///
/// # Safety
/// As for [`Lanes`]; `panel` holds a whole panel with at least `to` weights per column, packed for quads; `from` and
/// `to` are multiples of the format's block.
#[inline(always)]
unsafe fn walk<Q: Quads, T: Format>(panel: *const u8, from: usize, to: usize, visit: &mut impl Visit<Q>) {
    let s = T::SCHEME;
    // SAFETY: blocks and sub-blocks follow one another as `scheme.rs` lays them out, and the panel has all of them up
    // to `to`.
    unsafe {
        let mut k = from;
        let mut head = panel.add(from / s.block * s.block_bytes());
        while k < to {
            let mut sub = head.add(s.head_bytes());
            let block_end = k + s.block;
            while k < block_end {
                let (scale, min) = column_scales::<Q::L, T>(head, sub);
                let mut at = 0;
                while at < s.sub_bytes() {
                    Q::L::prefetch(sub.wrapping_add(PREFETCH_AHEAD + at));
                    at += 64;
                }
                let low = sub.add(s.scale_bytes());
                visit.sub(k, Sub { scale, min, low, high: low.add(s.low_bytes()) });
                sub = sub.add(s.sub_bytes());
                k += s.sub;
            }
            head = sub;
        }
    }
}

/// Writes decoded sub-blocks.
struct Store<T> {
    dst: *mut u8,
    format: std::marker::PhantomData<T>,
}

impl<Q: Quads, T: Format> Visit<Q> for Store<T> {
    #[inline(always)]
    unsafe fn sub(&mut self, _: usize, sub: Sub<Q::L>) {
        let s = T::SCHEME;
        // SAFETY: `decode` demands room for every sub-block.
        unsafe {
            let mut dst = self.dst;
            for (v, &scale) in sub.scale.iter().enumerate() {
                Q::L::store(dst.add(64 * v).cast(), scale);
            }
            dst = dst.add(ROW);
            if s.has_min {
                for (v, &min) in sub.min.iter().enumerate() {
                    Q::L::store(dst.add(64 * v).cast(), min);
                }
                dst = dst.add(ROW);
            }
            for c in 0..s.sub / 4 {
                let codes =
                    chunk::<Q, T>(sub.low.add(32 * s.low_bits() * c), sub.high.add(32 * (s.bits - s.low_bits()) * c));
                for (v, &code) in codes.iter().enumerate() {
                    Q::store(dst.add(64 * v), code);
                }
                dst = dst.add(ROW);
            }
            self.dst = dst;
        }
    }
}

/// Takes the weights `from..to` of a panel apart into decoded sub-blocks.
///
/// # Safety
/// As for [`walk`], and `dst` has room for [`unit_bytes`] per unit.
#[inline(always)]
pub(super) unsafe fn decode<Q: Quads, T: Format>(panel: *const u8, from: usize, to: usize, dst: *mut u8) {
    // SAFETY: forwarded.
    unsafe { walk::<Q, T>(panel, from, to, &mut Store::<T> { dst, format: std::marker::PhantomData }) }
}

/// What the integer sums of sub-block `sub` of the unit at `x` start from.
#[inline(always)]
unsafe fn start<T: Format>(x: *const u32, sub: usize) -> i32 {
    // SAFETY: a unit has twelve words.
    unsafe {
        let sum =
            if T::SCHEME.sub == UNIT { (*x.add(2)).wrapping_add(*x.add(3)) as i32 } else { *x.add(2 + sub) as i32 };
        sum.wrapping_mul(-offset(T::SCHEME))
    }
}

/// Multiplies sub-blocks with one row.
struct Dot<F, T> {
    x: *const u32,
    acc: [F; 4],
    format: std::marker::PhantomData<T>,
}

impl<Q: Quads, T: Format> Visit<Q> for Dot<<Q::L as Lanes>::F, T> {
    #[inline(always)]
    unsafe fn sub(&mut self, k: usize, sub: Sub<Q::L>) {
        let s = T::SCHEME;
        // SAFETY: `dot` demands that `x` has a unit for every 32 weights.
        unsafe {
            let x = self.x.add(k / UNIT * UNIT_WORDS);
            let index = k % UNIT / s.sub;
            let codes = x.add(4 + index * (s.sub / 4));
            let mut sums = [Q::splat(start::<T>(x, index)); 4];
            for c in 0..s.sub / 4 {
                let w =
                    chunk::<Q, T>(sub.low.add(32 * s.low_bits() * c), sub.high.add(32 * (s.bits - s.low_bits()) * c));
                for (sum, &w) in sums.iter_mut().zip(&w) {
                    *sum = Q::dot(*sum, w, *codes.add(c));
                }
            }
            for (v, acc) in self.acc.iter_mut().enumerate() {
                *acc = finish::<Q, T>(*acc, sums[v], sub.scale[v], sub.min[v], x);
            }
        }
    }
}

/// The accumulator with the integer sum of a sub-block of the unit at `x` added.
#[inline(always)]
unsafe fn finish<Q: Quads, T: Format>(
    acc: <Q::L as Lanes>::F,
    sum: Q::I,
    scale: <Q::L as Lanes>::F,
    min: <Q::L as Lanes>::F,
    x: *const u32,
) -> <Q::L as Lanes>::F {
    // SAFETY: a unit has twelve words; the instruction set is there.
    unsafe {
        let scale = Q::L::mul(scale, Q::L::splat(f32::from_bits(*x)));
        let mut acc = Q::L::fma(Q::to_f32(sum), scale, acc);
        if T::SCHEME.has_min {
            acc = Q::L::fma(min, Q::L::splat(f32::from_bits(*x.add(1))), acc);
        }
        acc
    }
}

/// One row times a whole panel: the weights go through registers only.
///
/// # Safety
/// As for [`walk`] from 0 to `k`; `x` has a unit for every 32 weights; `target` has room for one row.
#[inline(always)]
pub(super) unsafe fn dot<Q: Quads, T: Format>(panel: *const u8, k: usize, x: *const u32, target: Target) {
    // SAFETY: forwarded.
    unsafe {
        let acc = [Q::L::splat(0.0); 4];
        let mut visit = Dot::<_, T> { x, acc, format: std::marker::PhantomData };
        walk::<Q, T>(panel, 0, k, &mut visit);
        for (v, &acc) in visit.acc.iter().enumerate() {
            target.finish::<Q::L>(0, 16 * v, acc);
        }
    }
}

/// Tile shapes: as many sums as the registers hold.
pub(super) trait Tile {
    const ROWS: usize;
    /// Whether a tile spans all 64 columns or 16 of them.
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

/// `ROWS` rows times `16 * VECTORS` columns from `col` on.
#[inline(always)]
unsafe fn tile<Q: Quads, T: Format, const ROWS: usize, const VECTORS: usize>(
    w: *const u8,
    x: *const u32,
    x_stride: usize,
    units: usize,
    col: usize,
    target: &Target,
) {
    let s = T::SCHEME;
    // SAFETY: as for `dense`.
    unsafe {
        let mut acc = [[Q::L::splat(0.0); VECTORS]; ROWS];
        if !target.first {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = Q::L::load(target.partial.add(r * PANEL + col + 16 * v));
                }
            }
        }
        let mut w = w.add(4 * col);
        for unit in 0..units {
            let x = x.add(unit * UNIT_WORDS);
            for index in 0..UNIT / s.sub {
                let codes = w.add(ROW * (1 + usize::from(s.has_min)));
                let mut sums = [[Q::splat(0); VECTORS]; ROWS];
                for (r, sums) in sums.iter_mut().enumerate() {
                    *sums = [Q::splat(start::<T>(x.add(r * x_stride), index)); VECTORS];
                }
                for step in 0..s.sub / 4 {
                    let mut columns = [Q::load(codes); VECTORS];
                    for (v, columns) in columns.iter_mut().enumerate() {
                        *columns = Q::load(codes.add(ROW * step + 64 * v));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = *x.add(r * x_stride + 4 + index * (s.sub / 4) + step);
                        for (sum, &w) in sums.iter_mut().zip(&columns) {
                            *sum = Q::dot(*sum, w, x);
                        }
                    }
                }
                for v in 0..VECTORS {
                    let scale = Q::L::load(w.add(64 * v).cast());
                    let min = if s.has_min { Q::L::load(w.add(ROW + 64 * v).cast()) } else { scale };
                    for (r, acc) in acc.iter_mut().enumerate() {
                        acc[v] = finish::<Q, T>(acc[v], sums[r][v], scale, min, x.add(r * x_stride));
                    }
                }
                w = w.add(sub_bytes(s));
            }
        }
        for (r, acc) in acc.iter().enumerate() {
            for (v, &acc) in acc.iter().enumerate() {
                target.finish::<Q::L>(r, col + 16 * v, acc);
            }
        }
    }
}

/// Rows in tiles of at most `ROWS`, as even as possible.
#[inline(always)]
unsafe fn tiles<Q: Quads + Tile, T: Format, const VECTORS: usize>(
    w: *const u8,
    x: *const u32,
    x_stride: usize,
    units: usize,
    rows: usize,
    col: usize,
    target: Target,
) {
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        let n = left.div_ceil(left.div_ceil(Q::ROWS));
        let t = target.at_row(row);
        // SAFETY: as for `dense`, for the rows `row..row + n`.
        unsafe {
            let x = x.add(row * x_stride);
            match n {
                1 => tile::<Q, T, 1, VECTORS>(w, x, x_stride, units, col, &t),
                2 => tile::<Q, T, 2, VECTORS>(w, x, x_stride, units, col, &t),
                3 => tile::<Q, T, 3, VECTORS>(w, x, x_stride, units, col, &t),
                4 => tile::<Q, T, 4, VECTORS>(w, x, x_stride, units, col, &t),
                5 => tile::<Q, T, 5, VECTORS>(w, x, x_stride, units, col, &t),
                _ => tile::<Q, T, 6, VECTORS>(w, x, x_stride, units, col, &t),
            }
        }
        row += n;
    }
}

/// `rows` rows of activations times the `units` decoded units of weights at `w`.
///
/// # Safety
/// The instruction set is there; `w` holds `units` decoded units; row `r` of `x` has `units` readable units from
/// `r * x_stride` words on; `target` has room for `rows` rows.
#[inline(always)]
pub(super) unsafe fn dense<Q: Quads + Tile, T: Format>(
    w: *const u8,
    x: *const u32,
    x_stride: usize,
    units: usize,
    rows: usize,
    target: Target,
) {
    // SAFETY: forwarded.
    unsafe {
        if Q::WIDE {
            tiles::<Q, T, 4>(w, x, x_stride, units, rows, 0, target);
        } else {
            for col in [0, 16, 32, 48] {
                tiles::<Q, T, 1>(w, x, x_stride, units, rows, col, target);
            }
        }
    }
}
