//! Products with the codes of quantised weights: integers times activations first, then the scales of the weights.
//!
//! A row of activations is a run of words, each with the activations of `STEP` consecutive `k` (two in bf16, or four in
//! 8 bits), and after them, for every unit of 32 `k`, some words on the side: sums, and the scale of 8-bit activations.
//! The weights keep their codes and the scales and minima of their sub-blocks (32 or 16 `k`). A sub-block contributes
//!
//! ```text
//! sum of (code - offset) * x   times the scale of the sub-block, and
//! sum of x                     times its minimum, if the format has minima
//! ```
//!
//! to the one accumulator of an output element, which takes the sub-blocks in the order of `k`: its bits cannot depend
//! on the tile it is computed in. Weights are never rounded: their codes are exact in bf16 and in 8 bits.
//!
//! A decoded sub-block of weights is `[scale: f32 x 64] [min: f32 x 64, if the format has minima]` and then steps of 256
//! bytes: the codes of `STEP` `k` of each of the 64 columns.

use std::hint::black_box;
use std::marker::PhantomData;

use super::kernel::{Rows, Target};
use super::lanes::Lanes;
use super::scheme::{PANEL, Scheme};
use super::source::{Format, PREFETCH_AHEAD, column_scales};

/// `k` of a unit.
pub(super) const UNIT: usize = 32;
/// Bytes of a step, and of one `f32` per column.
const STEP_BYTES: usize = 4 * PANEL;

/// One kind of product.
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Product {
    /// The lanes it runs on.
    type L: Lanes;
    /// Sums over a sub-block, sixteen columns.
    type S: Copy;
    /// Codes of one step, sixteen columns: 64 bytes.
    type B: Copy;
    /// What [`Product::codes`] looks codes up in.
    type Table: Copy;
    /// Consecutive `k` per word of activations.
    const STEP: usize;
    /// Words on the side per unit of activations.
    const SIDE: usize;
    /// Rows of a tile, at most 6.
    const ROWS: usize;
    /// Whether the accumulators of a tile are kept in memory, which leaves the registers to the sums of a sub-block.
    const IN_MEMORY: bool;
    /// Whether a tile spans all 64 columns or 16 of them.
    const WIDE: bool;
    /// For how many rows, at most 4, decoding and product are fused.
    const FUSED: usize = if Self::WIDE { 4 } else { 1 };

    /// Turns the `n` activations of a row into words, padded with zeros, and the words on the side that follow them.
    unsafe fn convert(x: *const f32, n: usize, words: *mut u32);
    /// Reads 64 bytes.
    unsafe fn load(p: *const u8) -> Self::B;
    /// Writes 64 bytes.
    unsafe fn store(p: *mut u8, codes: Self::B);
    unsafe fn table<T: Format>() -> Self::Table;
    /// The codes of a step of a panel, in stored order.
    unsafe fn codes<T: Format>(low: *const u8, high: *const u8, table: Self::Table) -> [Self::B; 4];
    /// What the sums of sub-block `index` of a unit start from, which has the words `side` on the side.
    unsafe fn start<T: Format>(side: *const u32, index: usize) -> Self::S;
    /// `sum` plus the products with a word of activations.
    unsafe fn mac(sum: Self::S, codes: Self::B, x: u32) -> Self::S;
    /// The accumulator with a sub-block added, of which the sums, the scales and the minima are given.
    unsafe fn finish<T: Format>(
        acc: <Self::L as Lanes>::F,
        sum: Self::S,
        scale: <Self::L as Lanes>::F,
        min: <Self::L as Lanes>::F,
        side: *const u32,
        index: usize,
    ) -> <Self::L as Lanes>::F;
}

/// Bytes of a decoded sub-block.
const fn sub_bytes<P: Product>(s: Scheme) -> usize {
    STEP_BYTES * (1 + s.has_min as usize + s.sub / P::STEP)
}

/// Bytes of decoded weights per `k`.
pub(super) const fn bytes_per_k<P: Product>(s: Scheme) -> usize {
    sub_bytes::<P>(s) / s.sub
}

/// A sub-block of a packed panel.
struct Sub<L: Lanes> {
    scale: [L::F; 4],
    min: [L::F; 4],
    low: *const u8,
    high: *const u8,
}

/// What is done with the sub-blocks of a panel.
trait Visit<P: Product> {
    /// # Safety
    /// As for [`Lanes`]; `k` is the first of the sub-block, and lies within the range that was passed to [`walk`].
    unsafe fn sub(&mut self, k: usize, sub: Sub<P::L>);
}

/// Shows the sub-blocks of the weights `from..to` to `visit`, in the order of `k`.
///
/// # Safety
/// As for [`Lanes`]; `panel` holds a whole panel with at least `to` weights per column, packed with the interleave of `P`; `from` and
/// `to` are multiples of the format's block.
#[inline(always)]
unsafe fn walk<P: Product, T: Format>(panel: *const u8, from: usize, to: usize, visit: &mut impl Visit<P>) {
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
                let (scale, min) = column_scales::<P::L, T>(head, sub);
                let mut at = 0;
                while at < s.sub_bytes() {
                    P::L::prefetch(sub.wrapping_add(PREFETCH_AHEAD + at));
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

/// Bytes of a step in the low and in the high plane.
const fn plane_bytes<P: Product>(s: Scheme) -> (usize, usize) {
    let codes = PANEL * P::STEP;
    (codes * s.low_bits() / 8, codes * (s.bits - s.low_bits()) / 8)
}

/// Writes decoded sub-blocks.
struct Store<P: Product, T> {
    dst: *mut u8,
    table: P::Table,
    format: PhantomData<T>,
}

impl<P: Product, T: Format> Visit<P> for Store<P, T> {
    #[inline(always)]
    unsafe fn sub(&mut self, _: usize, sub: Sub<P::L>) {
        let s = T::SCHEME;
        // SAFETY: `decode` demands room for every sub-block.
        unsafe {
            let mut dst = self.dst;
            for (v, &scale) in sub.scale.iter().enumerate() {
                P::L::store(dst.add(64 * v).cast(), scale);
            }
            dst = dst.add(STEP_BYTES);
            if s.has_min {
                for (v, &min) in sub.min.iter().enumerate() {
                    P::L::store(dst.add(64 * v).cast(), min);
                }
                dst = dst.add(STEP_BYTES);
            }
            let (low, high) = plane_bytes::<P>(s);
            for step in 0..s.sub / P::STEP {
                let codes = P::codes::<T>(sub.low.add(low * step), sub.high.add(high * step), self.table);
                for (v, &codes) in codes.iter().enumerate() {
                    P::store(dst.add(64 * v), codes);
                }
                dst = dst.add(STEP_BYTES);
            }
            self.dst = dst;
        }
    }
}

/// Takes the weights `from..to` of a panel apart into decoded sub-blocks.
///
/// # Safety
/// As for [`walk`], and `dst` has room for [`bytes_per_k`] times `to - from`.
#[inline(always)]
pub(super) unsafe fn decode<P: Product, T: Format>(panel: *const u8, from: usize, to: usize, dst: *mut u8) {
    // SAFETY: forwarded.
    unsafe {
        let mut visit = Store::<P, T> { dst, table: P::table::<T>(), format: PhantomData };
        walk::<P, T>(panel, from, to, &mut visit);
    }
}

/// The statement for each of the numbers that is below `$n`, as constant `$i`. A loop would be unrolled too late for the
/// arrays that it indexes to be kept in registers.
macro_rules! unrolled {
    ($i:ident < $n:expr, [$($number:literal)*] => $body:expr) => {
        {
            $({
                const $i: usize = $number;
                if $i < $n {
                    $body
                }
            })*
        }
    };
}

/// Multiplies sub-blocks with a few rows.
struct Dot<P: Product, T, const ROWS: usize> {
    x: Rows,
    table: P::Table,
    acc: [[<P::L as Lanes>::F; 4]; ROWS],
    format: PhantomData<T>,
}

impl<P: Product, T: Format, const ROWS: usize> Visit<P> for Dot<P, T, ROWS> {
    #[inline(always)]
    unsafe fn sub(&mut self, k: usize, sub: Sub<P::L>) {
        let s = T::SCHEME;
        // SAFETY: `dot` demands that every row has words for every weight.
        unsafe {
            let x = self.x.words.add(k / P::STEP);
            let (side, index) = (self.x.sides.add(k / UNIT * P::SIDE), k % UNIT / s.sub);
            let mut sums = [[P::start::<T>(side, index); 4]; ROWS];
            unrolled!(R < ROWS, [1 2 3] => sums[R] = [P::start::<T>(side.add(R * self.x.stride), index); 4]);
            let (low, high) = plane_bytes::<P>(s);
            for step in 0..s.sub / P::STEP {
                let codes = P::codes::<T>(sub.low.add(low * step), sub.high.add(high * step), self.table);
                unrolled!(R < ROWS, [0 1 2 3] => {
                    let x = *x.add(R * self.x.stride + step);
                    unrolled!(V < 4, [0 1 2 3] => sums[R][V] = P::mac(sums[R][V], codes[V], x));
                });
            }
            unrolled!(R < ROWS, [0 1 2 3] => {
                let side = side.add(R * self.x.stride);
                unrolled!(V < 4, [0 1 2 3] => {
                    let acc = self.acc[R][V];
                    self.acc[R][V] = P::finish::<T>(acc, sums[R][V], sub.scale[V], sub.min[V], side, index);
                });
            });
        }
    }
}

/// `ROWS` rows times a whole panel: the weights go through registers only.
///
/// # Safety
/// As for [`dot`].
#[inline(always)]
unsafe fn few<P: Product, T: Format, const ROWS: usize>(panel: *const u8, k: usize, x: Rows, target: Target) {
    // SAFETY: forwarded.
    unsafe {
        let acc = [[P::L::splat(0.0); 4]; ROWS];
        let mut visit = Dot::<P, T, ROWS> { x, table: P::table::<T>(), acc, format: PhantomData };
        walk::<P, T>(panel, 0, k, &mut visit);
        let done = visit.acc;
        for (r, done) in done.iter().enumerate() {
            for (v, &done) in done.iter().enumerate() {
                target.finish::<P::L>(r, 16 * v, done);
            }
        }
    }
}

/// `rows` rows, at most [`Product::FUSED`], times a whole panel.
///
/// # Safety
/// As for [`walk`] from 0 to `k`; every row of `x` has words for `k` activations; `target` has room for `rows` rows.
#[inline(always)]
pub(super) unsafe fn dot<P: Product, T: Format>(panel: *const u8, k: usize, x: Rows, rows: usize, target: Target) {
    debug_assert!((1..=P::FUSED).contains(&rows));
    // SAFETY: forwarded.
    unsafe {
        match rows {
            4 if P::FUSED >= 4 => few::<P, T, 4>(panel, k, x, target),
            3 if P::FUSED >= 3 => few::<P, T, 3>(panel, k, x, target),
            2 if P::FUSED >= 2 => few::<P, T, 2>(panel, k, x, target),
            _ => few::<P, T, 1>(panel, k, x, target),
        }
    }
}

/// `ROWS` rows times `16 * VECTORS` columns from `col` on.
#[inline(always)]
unsafe fn tile<P: Product, T: Format, const ROWS: usize, const VECTORS: usize>(
    w: *const u8,
    x: Rows,
    k: usize,
    col: usize,
    target: &Target,
) {
    let s = T::SCHEME;
    // SAFETY: as for `dense`.
    unsafe {
        let mut acc = [[P::L::splat(0.0); VECTORS]; ROWS];
        let at = target.partial.wrapping_add(col);
        if !target.first && !P::IN_MEMORY {
            unrolled!(R < ROWS, [0 1 2 3 4 5] => unrolled!(V < VECTORS, [0 1 2 3] => {
                acc[R][V] = P::L::load(at.add(R * PANEL + 16 * V));
            }));
        }
        if target.first && P::IN_MEMORY {
            for r in 0..ROWS {
                for v in 0..VECTORS {
                    P::L::store(at.add(r * PANEL + 16 * v), P::L::splat(0.0));
                }
            }
        }
        let mut w = w.add(4 * col);
        let (mut words, mut side) = (x.words, x.sides);
        for _ in 0..k / UNIT {
            for index in 0..UNIT / s.sub {
                let codes = w.add(STEP_BYTES * (1 + usize::from(s.has_min)));
                let mut sums = [[P::start::<T>(side, index); VECTORS]; ROWS];
                for (r, sums) in sums.iter_mut().enumerate().skip(1) {
                    *sums = [P::start::<T>(side.add(r * x.stride), index); VECTORS];
                }
                for step in 0..s.sub / P::STEP {
                    let mut columns = [P::load(codes.add(STEP_BYTES * step)); VECTORS];
                    for (v, columns) in columns.iter_mut().enumerate().skip(1) {
                        *columns = P::load(codes.add(STEP_BYTES * step + 64 * v));
                    }
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = *words.add(r * x.stride + step);
                        for (sum, &codes) in sums.iter_mut().zip(&columns) {
                            *sum = P::mac(*sum, codes, x);
                        }
                    }
                }
                // Hidden from the compiler, or it would keep copies of what is in memory beside the sums, and spill them.
                let at = if P::IN_MEMORY { black_box(at) } else { at };
                unrolled!(V < VECTORS, [0 1 2 3] => {
                    let scale = P::L::load(w.add(64 * V).cast());
                    let min = if s.has_min { P::L::load(w.add(STEP_BYTES + 64 * V).cast()) } else { scale };
                    unrolled!(R < ROWS, [0 1 2 3 4 5] => {
                        let side = side.add(R * x.stride);
                        if P::IN_MEMORY {
                            let at = at.add(R * PANEL + 16 * V);
                            P::L::store(at, P::finish::<T>(P::L::load(at), sums[R][V], scale, min, side, index));
                        } else {
                            acc[R][V] = P::finish::<T>(acc[R][V], sums[R][V], scale, min, side, index);
                        }
                    });
                });
                words = words.add(s.sub / P::STEP);
                w = w.add(sub_bytes::<P>(s));
            }
            side = side.add(P::SIDE);
        }
        if P::IN_MEMORY && !target.last {
            return;
        }
        // A copy, so that the accumulators themselves need no address and stay in registers.
        let done = acc;
        for (r, done) in done.iter().enumerate() {
            for (v, &done) in done.iter().enumerate() {
                let sum = if P::IN_MEMORY { P::L::load(at.add(r * PANEL + 16 * v)) } else { done };
                target.finish::<P::L>(r, col + 16 * v, sum);
            }
        }
    }
}

/// Rows in tiles of at most `ROWS`, as even as possible.
#[inline(always)]
unsafe fn tiles<P: Product, T: Format, const VECTORS: usize>(
    w: *const u8,
    x: Rows,
    k: usize,
    rows: usize,
    col: usize,
    target: Target,
) {
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        let n = left.div_ceil(left.div_ceil(P::ROWS));
        let t = target.at_row(row);
        // SAFETY: as for `dense`, for the rows `row..row + n`.
        unsafe {
            let x = x.at_row(row);
            match n {
                1 => tile::<P, T, 1, VECTORS>(w, x, k, col, &t),
                2 => tile::<P, T, 2, VECTORS>(w, x, k, col, &t),
                3 => tile::<P, T, 3, VECTORS>(w, x, k, col, &t),
                4 => tile::<P, T, 4, VECTORS>(w, x, k, col, &t),
                5 => tile::<P, T, 5, VECTORS>(w, x, k, col, &t),
                _ => tile::<P, T, 6, VECTORS>(w, x, k, col, &t),
            }
        }
        row += n;
    }
}

/// `rows` rows of activations times `k` decoded weights of each column at `w`.
///
/// # Safety
/// The instruction set is there; `w` holds `k` decoded weights per column, `k` is a multiple of [`UNIT`]; every row of
/// `x` has words for `k` activations; `target` has room for `rows` rows.
#[inline(always)]
pub(super) unsafe fn dense<P: Product, T: Format>(w: *const u8, x: Rows, k: usize, rows: usize, target: Target) {
    const { assert!(P::ROWS <= 6) };
    // SAFETY: forwarded.
    unsafe {
        if P::WIDE {
            tiles::<P, T, 4>(w, x, k, rows, 0, target);
        } else {
            for col in [0, 16, 32, 48] {
                tiles::<P, T, 1>(w, x, k, rows, col, target);
            }
        }
    }
}
