// Addition of the parts of one matrix to the residual stream: `residual += x[0] + x[1] + ...`, in this order.
//
// Floor: bytes. All are read and the sum is written: 8 bytes an element and 2 more for each part.
// Shape: one thread per 16 bytes of the residual, row after row: a load of 8 bytes for each part, one of 16, and one store.
//
// budget: registers 40
// sass: LDG.E.128 STG.E.128
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// Rows of `cols` elements that are `stride` apart, a multiple of 8; `rows` of them in the residual and in each part.
template <class T>
__device__ __forceinline__ void add(const u16 *x, float *residual, u32 rows, u32 cols, u32 stride, u32 parts) {
    const Piece at = piece<QUAD>(rows, cols);
    if (!at.inside) return;
    const u64 offset = u64(at.row) * stride + at.col;
    float sum[QUAD], v[QUAD];
    load_chunk(residual + offset, at.count, at.whole, sum);
    for (u32 part = 0; part < parts; part++) {
        load_chunk<T>(x + u64(part) * rows * stride + offset, at.count, at.whole, v);
#pragma unroll
        for (u32 i = 0; i < QUAD; i++) sum[i] += v[i];
    }
    store_chunk(residual + offset, at.count, at.whole, sum);
}

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        add_##NAME(const u16 *x, float *residual, u32 rows, u32 cols, u32 stride, u32 parts) {                         \
        add<T>(x, residual, rows, cols, stride, parts);                                                                \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
