// Addition of one matrix to another: `residual += x`.
//
// Floor: bytes. Both are read and the sum is written: 6 bytes an element.
// Shape: one thread per 16 bytes, row after row: two loads and one store of 16 bytes.
//
// budget: registers 40
// sass: LDG.E.128 STG.E.128
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// Rows of `cols` elements that are `stride` apart, a multiple of 8.
template <class T>
__device__ __forceinline__ void add(const u16 *x, u16 *residual, u32 rows, u32 cols, u32 stride) {
    const Piece at = piece(rows, cols);
    if (!at.inside) return;
    const u64 offset = u64(at.row) * stride + at.col;
    float sum[CHUNK], v[CHUNK];
    load_chunk<T>(residual + offset, at.count, at.whole, sum);
    load_chunk<T>(x + offset, at.count, at.whole, v);
#pragma unroll
    for (u32 i = 0; i < CHUNK; i++) sum[i] += v[i];
    store_chunk<T>(residual + offset, at.count, at.whole, sum);
}

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        add_##NAME(const u16 *x, u16 *residual, u32 rows, u32 cols, u32 stride) {                                      \
        add<T>(x, residual, rows, cols, stride);                                                                       \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
