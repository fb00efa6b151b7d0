//! `mma` and `ldmatrix`.
//!
//! `mma` adds to the accumulator, in `f64`, the exact products in ascending order of k, and rounds once to the result's
//! format: one fixed order, whatever the shape of the rest of the product. The hardware keeps fewer bits between, in an
//! order that is not documented; the two agree within an ulp or so of the accumulator.

use super::{Flow, Machine, Step, first, lanes, memory::addresses, memory::check, who};
use crate::emulator::{
    fault::{FaultKind, Trouble},
    isa::{
        Address, Mma, MmaTy, Row, Slot,
        num::{F16, Rounding, canon, round_to, widen_bf16, widen_f16},
    },
    warp::Warp,
};

/// By row.
type Tile<const N: usize> = [[f64; N]; 16];

impl Machine<'_> {
    /// `.aligned`: all lanes of a full warp, together.
    fn whole_warp(w: &mut Warp, m: u32) -> Result<bool, Box<Trouble>> {
        if m == u32::MAX {
            return Ok(true);
        }
        if w.exited != 0 || w.lanes != u32::MAX {
            let text = format!("the instruction needs all 32 lanes; here are {m:#010x}");
            return Err(Trouble::new(FaultKind::WarpDivergence, first(m), text));
        }
        w.block(m);
        Ok(false)
    }

    pub(super) fn mma(&mut self, w: &mut Warp, mma: &Mma, m: u32) -> Step {
        if !Self::whole_warp(w, m)? {
            return Ok(Flow::Regroup);
        }
        let (na, nb) = if mma.k == 16 { (4, 2) } else { (2, 1) };
        let nc = if mma.half_accumulators { 2 } else { 4 };
        for (rows, n, what) in [
            (&mma.a[..], na, "the first factor"),
            (&mma.b[..], nb, "the second factor"),
            (&mma.c[..], nc, "the accumulator"),
        ] {
            for &row in &rows[..n] {
                check(w, Slot::R(row), m, what)?;
            }
        }
        // [16, k], [k, 8], [16, 8]
        let (mut a, mut b): (Tile<16>, Tile<8>) = ([[0.0; 16]; 16], [[0.0; 8]; 16]);
        match mma.ty {
            MmaTy::F16 => factors(w, mma, &mut a, &mut b, widen_f16),
            MmaTy::Bf16 => factors(w, mma, &mut a, &mut b, widen_bf16),
        }
        let mut c: Tile<8> = [[0.0; 8]; 16];
        for i in 0..4 {
            let half = mma.half_accumulators;
            let row = &w.r[mma.c[if half { i / 2 } else { i }] as usize];
            for (lane, &bits) in row.iter().enumerate() {
                let value = if half { widen_f16(bits >> (16 * (i % 2)) & 0xffff) } else { f32::from_bits(bits) };
                c[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2] = f64::from(value);
            }
        }
        multiply(&a, &b, &mut c, usize::from(mma.k));
        if mma.half_accumulators {
            for (i, &d) in mma.d[..2].iter().enumerate() {
                let half = |x| round_to(x, F16, Rounding::Rn);
                let out: Row = std::array::from_fn(|lane| {
                    let (r, n) = (lane / 4 + 8 * i, lane % 4 * 2);
                    half(c[r][n]) | half(c[r][n + 1]) << 16
                });
                w.put(d, m, 0, &out);
            }
        } else {
            for (i, &d) in mma.d.iter().enumerate() {
                let out: Row =
                    std::array::from_fn(|lane| canon(c[lane / 4 + 8 * (i / 2)][lane % 4 * 2 + i % 2] as f32));
                w.put(d, m, 0, &out);
            }
        }
        Ok(Flow::Next)
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of one instruction")]
    pub(super) fn ldmatrix(
        &mut self,
        w: &mut Warp,
        address: Address,
        n: u8,
        transposed: bool,
        d: [u32; 4],
        m: u32,
        line: u32,
    ) -> Step {
        if !Self::whole_warp(w, m)? {
            return Ok(Flow::Regroup);
        }
        // Lanes 0..8 name the rows of the first matrix, 8..16 those of the second, and so on.
        let rows = u32::MAX >> (32 - 8 * u32::from(n));
        let addresses = addresses(w, address, rows)?;
        let mut halves = [[0_u32; 8]; 32];
        for lane in lanes(rows) {
            let mut words = [0; 4];
            let (_, at) = super::memory::resolve(crate::emulator::ptx::Space::Shared, addresses[lane]);
            self.shared.read_words(who(w, lane, line), at, 16, &mut words)?;
            for (i, half) in halves[lane].iter_mut().enumerate() {
                *half = words[i / 2] >> (16 * (i % 2)) & 0xffff;
            }
        }
        for (i, &d) in d[..usize::from(n)].iter().enumerate() {
            let matrix = &halves[8 * i..8 * i + 8];
            let out: Row = std::array::from_fn(|lane| {
                let (r, c) = (lane / 4, lane % 4 * 2);
                if transposed { matrix[c][r] | matrix[c + 1][r] << 16 } else { matrix[r][c] | matrix[r][c + 1] << 16 }
            });
            w.put(d, m, 0, &out);
        }
        self.count_shared(&addresses, rows, 16, true);
        Ok(Flow::Next)
    }
}

/// Spreads the registers of the factors out; see the fragment layouts of `mma.m16n8k16` and `.m16n8k8`.
#[inline(always)]
fn factors(w: &Warp, mma: &Mma, a: &mut Tile<16>, b: &mut Tile<8>, widen: impl Fn(u32) -> f32) {
    // First all of a row, which vectorises, then to the places.
    let halves = |row: u32| {
        let row = &w.r[row as usize];
        let (mut low, mut high) = ([0.0; 32], [0.0; 32]);
        for i in 0..32 {
            low[i] = f64::from(widen(row[i] & 0xffff));
            high[i] = f64::from(widen(row[i] >> 16));
        }
        (low, high)
    };
    for (i, &row) in mma.a[..if mma.k == 16 { 4 } else { 2 }].iter().enumerate() {
        let ((low, high), (down, right)) = (halves(row), (8 * (i % 2), 8 * (i / 2)));
        for lane in 0..32 {
            let (r, k) = (lane / 4 + down, lane % 4 * 2 + right);
            (a[r][k], a[r][k + 1]) = (low[lane], high[lane]);
        }
    }
    for (i, &row) in mma.b[..if mma.k == 16 { 2 } else { 1 }].iter().enumerate() {
        let (low, high) = halves(row);
        for lane in 0..32 {
            let (k, n) = (lane % 4 * 2 + 8 * i, lane / 4);
            (b[k][n], b[k + 1][n]) = (low[lane], high[lane]);
        }
    }
}

/// `c += a b`. Products of two small floats are exact in `f64`, so fused or not makes no difference.
fn multiply(a: &Tile<16>, b: &Tile<8>, c: &mut Tile<8>, k: usize) {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("fma") && is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has both, as was just asked.
        unsafe { multiply_avx2(a, b, c, k) };
        return;
    }
    for (a, c) in a.iter().zip(c) {
        for (a, b) in a.iter().zip(b).take(k) {
            for (c, b) in c.iter_mut().zip(b) {
                *c += a * b;
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn multiply_avx2(a: &Tile<16>, b: &Tile<8>, c: &mut Tile<8>, k: usize) {
    for (a, c) in a.iter().zip(c) {
        let mut sum = *c;
        for (a, b) in a.iter().zip(b).take(k) {
            for i in 0..8 {
                sum[i] = a.mul_add(b[i], sum[i]);
            }
        }
        *c = sum;
    }
}
