// Activations without a gate: `gelu` (the exact one, through erfc) and `relu`.
//
// Floor: bytes. An element is read once and written once, 4 bytes. gelu's 25 operations an element, of 128 a clock and SM,
// take 0.2 clocks, 4 bytes 0.3 on an H100.
// Shape: one thread per 16 bytes, row after row: one load and one store of 16 bytes.
//
// budget: registers 40
// sass: LDG.E.128 STG.E.128
// sass gelu_*: MUFU.EX2 MUFU.RCP
#include "activations.cuh"
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// `out = f(x)`, rows of `cols` elements that are `stride` apart, a multiple of 8.
template <class T, float (*F)(float)>
__device__ __forceinline__ void activate(const u16 *x, u16 *out, u32 rows, u32 cols, u32 stride) {
    const Piece at = piece(rows, cols);
    if (!at.inside) return;
    const u64 offset = u64(at.row) * stride + at.col;
    float v[CHUNK];
    load_chunk<T>(x + offset, at.count, at.whole, v);
#pragma unroll
    for (u32 i = 0; i < CHUNK; i++) v[i] = F(v[i]);
    store_chunk<T>(out + offset, at.count, at.whole, v);
}

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        gelu_##NAME(const u16 *x, u16 *out, u32 rows, u32 cols, u32 stride) {                                          \
        activate<T, gelu>(x, out, rows, cols, stride);                                                                 \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        relu_##NAME(const u16 *x, u16 *out, u32 rows, u32 cols, u32 stride) {                                          \
        activate<T, relu>(x, out, rows, cols, stride);                                                                 \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
