//! The gated activation of LLaMA's feed-forward layer (arXiv 2002.05202).

use super::{
    SimdLevel,
    threads::Threads,
    vector::{Kernel, LANES, Simd, dispatch, padded},
};

/// `out = silu(gate) * up` where a row of `gate_up: [rows, 2 * cols]` is `[gate | up]`. `out: [rows, cols]`.
pub(super) fn silu_mul(level: SimdLevel, threads: &Threads, gate_up: &[f32], cols: usize, out: &mut [f32]) {
    threads.for_rows(out, cols, |first, out| {
        let gate_up = &gate_up[first * 2 * cols..][..out.len() * 2];
        dispatch(level, SiluMul { gate_up, cols, out });
    });
}

struct SiluMul<'a> {
    gate_up: &'a [f32],
    cols: usize,
    out: &'a mut [f32],
}

impl Kernel for SiluMul<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (row, out) in self.gate_up.chunks_exact(2 * self.cols).zip(self.out.chunks_exact_mut(self.cols)) {
            let (gate, up) = row.split_at(self.cols);
            let ((gate, gate_tail), (up, up_tail)) = (gate.as_chunks::<LANES>(), up.as_chunks::<LANES>());
            let (out, out_tail) = out.as_chunks_mut::<LANES>();
            for ((gate, up), out) in gate.iter().zip(up).zip(out) {
                simd.store(silu(simd, simd.load(gate), simd.load(up)), out);
            }
            let tail = silu(simd, simd.load(&padded(gate_tail)), simd.load(&padded(up_tail)));
            out_tail.copy_from_slice(&simd.to_array(tail)[..out_tail.len()]);
        }
    }
}

/// `gate / (1 + e^-gate) * up`.
#[inline(always)]
fn silu<S: Simd>(simd: S, gate: S::V, up: S::V) -> S::V {
    let denominator = simd.add(simd.splat(1.0), simd.exp(simd.sub(simd.splat(0.0), gate)));
    simd.mul(simd.div(gate, denominator), up)
}
