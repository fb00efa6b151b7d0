//! The dense product of a panel with rows of activations, and the same product fused with dequantisation.
//!
//! Everything advances in steps: one step is 64 columns times `f32` weights of one `k`, or times bf16 pairs of two
//! `k`. Either way a step is 256 bytes of weights and 4 bytes of each row, so one kernel serves both. Each output
//! element has one accumulator that takes the steps in order: its bits cannot depend on the tile it is computed in.

use std::marker::PhantomData;

use super::lanes::Lanes;
use super::scheme::PANEL;
use super::source::{Sink, Source};

/// Bytes of weights per step.
pub(super) const STEP_BYTES: usize = 256;

/// One kind of product.
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Kernel {
    /// The lanes it runs on.
    type L: Lanes;
    /// Sixteen columns of weights of one step.
    type W: Copy;
    /// Whether a step covers two `k` (bf16 pairs) or one.
    const PAIRS: bool;
    /// Rows of a tile.
    const TILE_ROWS: usize;
    /// Whether a tile spans all 64 columns or 16 of them.
    const WIDE: bool;

    /// Reads 64 bytes.
    unsafe fn load(p: *const u8) -> Self::W;
    /// Writes 64 bytes.
    unsafe fn store(p: *mut u8, w: Self::W);
    /// `acc + w * x`, where `x` holds the bits of this step's activations.
    unsafe fn mac(acc: <Self::L as Lanes>::F, w: Self::W, x: u32) -> <Self::L as Lanes>::F;
    /// Turns the `n` activations of a row at `x` into words, one per step, and pads them with zeros to `2 * ceil(n / 2)`
    /// activations.
    unsafe fn convert(x: *const f32, n: usize, words: *mut u32);
}

/// A product whose weights may be computed on the fly.
///
/// # Safety
/// As for [`Lanes`].
pub(super) trait Computed: Kernel {
    /// Weights as they are multiplied.
    unsafe fn weights(exact: <Self::L as Lanes>::F) -> Self::W;
}

/// `f32` products; `BF16` rounds the weights to bf16 first (the activations arrive rounded).
pub(super) struct Single<L, const BF16: bool>(PhantomData<L>);

/// Tile shapes of the `f32` product: as many accumulators as the registers hold.
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
    const ROWS: usize = 6;
    const WIDE: bool = false;
}
#[cfg(target_arch = "x86_64")]
impl Tile for super::lanes::Avx512 {
    const ROWS: usize = 6;
    const WIDE: bool = true;
}

impl<L: Lanes + Tile, const BF16: bool> Kernel for Single<L, BF16> {
    type L = L;
    type W = L::F;
    const PAIRS: bool = false;
    const TILE_ROWS: usize = L::ROWS;
    const WIDE: bool = L::WIDE;

    #[inline(always)]
    unsafe fn load(p: *const u8) -> Self::W {
        // SAFETY: forwarded.
        unsafe { L::load(p.cast()) }
    }
    #[inline(always)]
    unsafe fn store(p: *mut u8, w: Self::W) {
        // SAFETY: forwarded.
        unsafe { L::store(p.cast(), w) }
    }
    #[inline(always)]
    unsafe fn mac(acc: L::F, w: Self::W, x: u32) -> L::F {
        // SAFETY: forwarded.
        unsafe { L::fma(L::splat(f32::from_bits(x)), w, acc) }
    }
    #[inline(always)]
    unsafe fn convert(x: *const f32, n: usize, words: *mut u32) {
        // SAFETY: `n` activations and `n` words, one more if `n` is odd, as the caller promises.
        unsafe {
            let words: *mut f32 = words.cast();
            let mut k = 0;
            while k + 16 <= n {
                let v = L::load(x.add(k));
                L::store(words.add(k), if BF16 { L::round_bf16(v) } else { v });
                k += 16;
            }
            while k < n {
                let v = *x.add(k);
                *words.add(k) = if BF16 { half::bf16::from_f32(v).to_f32() } else { v };
                k += 1;
            }
            if n % 2 == 1 {
                *words.add(n) = 0.0;
            }
        }
    }
}

impl<L: Lanes + Tile, const BF16: bool> Computed for Single<L, BF16> {
    #[inline(always)]
    unsafe fn weights(exact: L::F) -> L::F {
        // SAFETY: forwarded.
        unsafe { if BF16 { L::round_bf16(exact) } else { exact } }
    }
}

#[cfg(target_arch = "x86_64")]
pub(super) use pairs::Pairs;

#[cfg(target_arch = "x86_64")]
mod pairs {
    use std::arch::x86_64::*;

    use half::bf16;

    use super::super::lanes::Avx512;
    use super::Kernel;

    /// Pairs of bf16 with `vdpbf16ps`.
    pub(in crate::cpu::linear) struct Pairs;

    // SAFETY of every block below: `Kernel` demands AVX-512-BF16 beside the features of `Avx512`, and valid pointers.
    impl Kernel for Pairs {
        type L = Avx512;
        type W = __m512bh;
        const PAIRS: bool = true;
        const TILE_ROWS: usize = 6;
        const WIDE: bool = true;

        #[inline(always)]
        unsafe fn load(p: *const u8) -> __m512bh {
            // SAFETY: see above; both types are 64 plain bytes.
            unsafe { std::mem::transmute(_mm512_loadu_si512(p.cast())) }
        }
        #[inline(always)]
        unsafe fn store(p: *mut u8, w: __m512bh) {
            // SAFETY: see above; both types are 64 plain bytes.
            unsafe { _mm512_storeu_si512(p.cast(), std::mem::transmute::<__m512bh, __m512i>(w)) }
        }
        #[inline(always)]
        unsafe fn mac(acc: __m512, w: __m512bh, x: u32) -> __m512 {
            // SAFETY: see above; both types are 64 plain bytes.
            unsafe {
                let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(x as i32));
                _mm512_dpbf16_ps(acc, w, x)
            }
        }
        #[inline(always)]
        unsafe fn convert(x: *const f32, n: usize, words: *mut u32) {
            // SAFETY: see above; `n` activations and `ceil(n / 2)` words.
            unsafe {
                let mut k = 0;
                while k + 32 <= n {
                    let pair = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(x.add(k + 16)), _mm512_loadu_ps(x.add(k)));
                    Self::store(words.add(k / 2).cast(), pair);
                    k += 32;
                }
                while k < n {
                    let bits = |k: usize| if k < n { u32::from(bf16::from_f32(*x.add(k)).to_bits()) } else { 0 };
                    *words.add(k / 2) = bits(k) | bits(k + 1) << 16;
                    k += 2;
                }
            }
        }
    }
}

/// Converted rows of activations.
#[derive(Clone, Copy)]
pub(super) struct Rows {
    /// Words of the first row from the first `k` on.
    pub words: *const u32,
    /// Words on the side of the first row, from the first unit on; see `blocks.rs`.
    pub sides: *const u32,
    /// Words from row to row.
    pub stride: usize,
}

impl Rows {
    /// The same from row `row` on.
    #[inline(always)]
    pub fn at_row(self, row: usize) -> Self {
        let at = row * self.stride;
        Self { words: self.words.wrapping_add(at), sides: self.sides.wrapping_add(at), ..self }
    }
}

/// Where the results of a panel go.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// Sums of the earlier steps, `[rows, 64]`; read unless `first`, written unless `last`.
    pub partial: *mut f32,
    /// Whether these are the first steps: the sums start at zero.
    pub first: bool,
    /// Whether these are the last steps: the result goes to `out`.
    pub last: bool,
    /// `[rows, 64]` with stride `out_stride`.
    pub out: *mut f32,
    /// Elements between rows of `out`.
    pub out_stride: usize,
    /// 64 values, or null for none.
    pub bias: *const f32,
    /// Whether to add to what `out` holds.
    pub accumulate: bool,
}

impl Target {
    /// The same for the rows from `row` on.
    #[inline(always)]
    pub fn at_row(self, row: usize) -> Self {
        Self {
            partial: self.partial.wrapping_add(row * PANEL),
            out: self.out.wrapping_add(row * self.out_stride),
            ..self
        }
    }

    /// Stores the sum of sixteen columns from `col` on of row `row`.
    #[inline(always)]
    pub unsafe fn finish<L: Lanes>(&self, row: usize, col: usize, mut sum: L::F) {
        // SAFETY: the caller of the kernel promises room for these rows and 64 columns in each operand.
        unsafe {
            if !self.last {
                return L::store(self.partial.add(row * PANEL + col), sum);
            }
            if !self.bias.is_null() {
                sum = L::add(sum, L::load(self.bias.add(col)));
            }
            let out = self.out.add(row * self.out_stride + col);
            if self.accumulate {
                sum = L::add(L::load(out), sum);
            }
            L::store(out, sum);
        }
    }
}

/// `ROWS` rows times `16 * VECTORS` columns from `col` on.
#[inline(always)]
unsafe fn tile<K: Kernel, const ROWS: usize, const VECTORS: usize>(
    w: *const u8,
    x: *const u32,
    x_stride: usize,
    steps: usize,
    col: usize,
    target: &Target,
) {
    // SAFETY: as for `dense`.
    unsafe {
        let mut acc = [[K::L::splat(0.0); VECTORS]; ROWS];
        if !target.first {
            for (r, acc) in acc.iter_mut().enumerate() {
                for (v, acc) in acc.iter_mut().enumerate() {
                    *acc = K::L::load(target.partial.add(r * PANEL + col + 16 * v));
                }
            }
        }
        let w = w.add(4 * col);
        for step in 0..steps {
            let w = w.add(STEP_BYTES * step);
            let mut columns = [K::load(w); VECTORS];
            for (v, columns) in columns.iter_mut().enumerate() {
                *columns = K::load(w.add(64 * v));
            }
            for (r, acc) in acc.iter_mut().enumerate() {
                let x = *x.add(r * x_stride + step);
                for (acc, &w) in acc.iter_mut().zip(&columns) {
                    *acc = K::mac(*acc, w, x);
                }
            }
        }
        // A copy, so that the accumulators themselves need no address and stay in registers.
        let sums = acc;
        for (r, sums) in sums.iter().enumerate() {
            for (v, &sum) in sums.iter().enumerate() {
                target.finish::<K::L>(r, col + 16 * v, sum);
            }
        }
    }
}

/// Rows in tiles of at most `ROWS`, as even as possible.
#[inline(always)]
unsafe fn tiles<K: Kernel, const VECTORS: usize>(
    w: *const u8,
    x: *const u32,
    x_stride: usize,
    steps: usize,
    rows: usize,
    col: usize,
    target: Target,
) {
    let mut row = 0;
    while row < rows {
        let left = rows - row;
        let n = left.div_ceil(left.div_ceil(K::TILE_ROWS));
        let t = target.at_row(row);
        // SAFETY: as for `dense`, for the rows `row..row + n`.
        unsafe {
            let x = x.add(row * x_stride);
            match n {
                1 => tile::<K, 1, VECTORS>(w, x, x_stride, steps, col, &t),
                2 => tile::<K, 2, VECTORS>(w, x, x_stride, steps, col, &t),
                3 => tile::<K, 3, VECTORS>(w, x, x_stride, steps, col, &t),
                4 => tile::<K, 4, VECTORS>(w, x, x_stride, steps, col, &t),
                5 => tile::<K, 5, VECTORS>(w, x, x_stride, steps, col, &t),
                _ => tile::<K, 6, VECTORS>(w, x, x_stride, steps, col, &t),
            }
        }
        row += n;
    }
}

/// `rows` rows of activations times the steps of `k` weights of each column at `w`.
///
/// # Safety
/// The instruction set is there; `w` holds a step of 256 bytes for every word of activations; every row of `x` has words
/// for `k` activations; `target` has room for `rows` rows.
#[inline(always)]
pub(super) unsafe fn dense<K: Kernel>(w: *const u8, x: Rows, k: usize, rows: usize, target: Target) {
    let (x, x_stride, steps) = (x.words, x.stride, if K::PAIRS { k / 2 } else { k });
    // SAFETY: forwarded.
    unsafe {
        if K::WIDE {
            tiles::<K, 4>(w, x, x_stride, steps, rows, 0, target);
        } else {
            for col in [0, 16, 32, 48] {
                tiles::<K, 1>(w, x, x_stride, steps, rows, col, target);
            }
        }
    }
}

/// Writes the weights as steps, for [`dense`].
struct Store {
    dst: *mut u8,
    from: usize,
}

impl<K: Computed> Sink<K> for Store {
    #[inline(always)]
    unsafe fn chunk(&mut self, k: usize, weights: [<K::L as Lanes>::F; 8]) {
        // SAFETY: `decode` demands room for every step from `from` on.
        unsafe {
            let dst = self.dst.add(STEP_BYTES * (k - self.from));
            for (v, &w) in weights.iter().enumerate() {
                K::store(dst.add(64 * v), K::weights(w));
            }
        }
    }
}

/// Computes the weights `from..to` of a panel as steps.
///
/// # Safety
/// As for [`Source::walk`], and `dst` has room for the steps of `to - from` weights.
#[inline(always)]
pub(super) unsafe fn decode<K: Computed, S: Source>(panel: *const u8, from: usize, to: usize, dst: *mut u8) {
    // SAFETY: forwarded.
    unsafe { S::walk::<K>(panel, from, to, &mut Store { dst, from }) }
}

/// Multiplies the weights with one row as they are computed.
struct Dot<F> {
    x: *const u32,
    acc: [F; 4],
}

impl<K: Computed> Sink<K> for Dot<<K::L as Lanes>::F> {
    #[inline(always)]
    unsafe fn chunk(&mut self, k: usize, weights: [<K::L as Lanes>::F; 8]) {
        // SAFETY: `dot` demands that `x` has a word for every step.
        unsafe {
            let x = self.x.add(k);
            for (v, &w) in weights.iter().enumerate() {
                self.acc[v % 4] = K::mac(self.acc[v % 4], K::weights(w), *x.add(v / 4));
            }
        }
    }
}

/// One row times a whole panel: the weights go through registers only.
///
/// # Safety
/// As for [`Source::walk`] from 0 to `k`; `x` has a word for every step; `target` has room for one row.
#[inline(always)]
pub(super) unsafe fn dot<K: Computed, S: Source>(panel: *const u8, k: usize, x: Rows, target: Target) {
    // SAFETY: forwarded.
    unsafe {
        let mut sink = Dot { x: x.words, acc: [K::L::splat(0.0); 4] };
        S::walk::<K>(panel, 0, k, &mut sink);
        for (v, &acc) in sink.acc.iter().enumerate() {
            target.finish::<K::L>(0, 16 * v, acc);
        }
    }
}
