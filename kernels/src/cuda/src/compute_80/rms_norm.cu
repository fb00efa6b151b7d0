// RMSNorm (arXiv 1910.07467), alone and fused with the addition to the residual stream.
//
// Floor: bytes. Alone a row is read once and written once, 4 bytes an element; fused, two rows are read and two written,
// 8 bytes an element. About 6 operations an element are far below what 4 bytes cost.
// Shape: one block of 256 threads a row, 16 bytes a thread and step, so that a warp reads 512 bytes at once; the row is
// read again from L1 for the second pass instead of being kept in registers, whose number would depend on its length.
// A row's sum is taken in an order that depends on its length only: thread t sums its own chunks, then a fixed tree.
//
// budget: registers 40, shared 64
// sass: LDG.E.128 STG.E.128
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// `out = norm(x)`, or with ADD `residual += x; out = norm(residual)`. Rows are `stride` elements apart, a multiple of 8,
// and unspecified behind `cols`.
template <class T, bool ADD>
__device__ __forceinline__ void rms_norm(const u16 *x, u16 *residual, const u16 *weight, u16 *out, u32 cols, u32 stride,
                                         float eps) {
    __shared__ float scratch[THREADS / WARP];
    const u64 row = u64(blockIdx.x) * stride;
    const u16 *const normed = ADD ? residual : x;
    float v[CHUNK], w[CHUNK];
    float sum = 0.0f;
    for (u32 col = threadIdx.x * CHUNK; col < cols; col += THREADS * CHUNK) {
        const u32 count = cols - col;
        const bool whole = count >= CHUNK;
        load_chunk<T>(x + row + col, count, whole, v);
        if (ADD) {
            load_chunk<T>(residual + row + col, count, whole, w);
            // Normalised is what is stored, rounded.
#pragma unroll
            for (u32 i = 0; i < CHUNK; i++) v[i] = T::to_f32(T::from_f32(v[i] + w[i]));
            store_chunk<T>(residual + row + col, count, whole, v);
        }
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++) sum = fmaf(v[i], v[i], sum);
    }
    const float mean = block_sum<THREADS>(sum, scratch) / float(cols);
    const float scale = 1.0f / sqrtf(mean + eps);
    // Every thread reads what it wrote itself: no barrier is needed between the passes.
    for (u32 col = threadIdx.x * CHUNK; col < cols; col += THREADS * CHUNK) {
        const u32 count = cols - col;
        const bool whole = count >= CHUNK;
        load_chunk<T>(normed + row + col, count, whole, v);
        load_chunk<T>(weight + col, count, whole, w);
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++) v[i] = v[i] * scale * w[i];
        store_chunk<T>(out + row + col, count, whole, v);
    }
}

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        rms_norm_##NAME(const u16 *x, const u16 *weight, u16 *out, u32 cols, u32 stride, float eps) {                  \
        rms_norm<T, false>(x, nullptr, weight, out, cols, stride, eps);                                                \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        add_rms_norm_##NAME(const u16 *x, u16 *residual, const u16 *weight, u16 *out, u32 cols, u32 stride,            \
                            float eps) {                                                                               \
        rms_norm<T, true>(x, residual, weight, out, cols, stride, eps);                                                \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
