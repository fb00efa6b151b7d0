// The gated activation of LLaMA's feed-forward layer (arXiv 2002.05202): `silu(gate) * up`.
//
// Floor: bytes. Gate and up are read, the product is written: 6 bytes an element of the output. One `ex2` and one `rcp` an
// element, 16 a clock and SM each, are half of what 6 bytes cost on an H100.
// Shape: one thread per 16 bytes of the output, row after row: two loads and one store of 16 bytes. A row is `[gate | up]`;
// where `cols` is no multiple of 8, `up` is not aligned and its row goes element by element.
//
// budget: registers 40
// sass: LDG.E.128 STG.E.128 MUFU.EX2 MUFU.RCP
#include "activations.cuh"
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// `gate_up: [rows, 2 * cols]`, rows `in_stride` apart; `out: [rows, cols]`, rows `out_stride` apart, multiples of 8.
template <class T>
__device__ __forceinline__ void silu_mul(const u16 *gate_up, u16 *out, u32 rows, u32 cols, u32 in_stride, u32 out_stride) {
    const Piece at = piece(rows, cols);
    if (!at.inside) return;
    const u16 *const row = gate_up + u64(at.row) * in_stride + at.col;
    float gate[CHUNK], up[CHUNK];
    load_chunk<T>(row, at.count, at.whole, gate);
    load_chunk<T>(row + cols, at.count, at.whole && cols % CHUNK == 0, up);
#pragma unroll
    for (u32 i = 0; i < CHUNK; i++) gate[i] = silu(gate[i]) * up[i];
    store_chunk<T>(out + u64(at.row) * out_stride + at.col, at.count, at.whole, gate);
}

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) silu_mul_##NAME(                                             \
        const u16 *gate_up, u16 *out, u32 rows, u32 cols, u32 in_stride, u32 out_stride) {                             \
        silu_mul<T>(gate_up, out, rows, cols, in_stride, out_stride);                                                  \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
