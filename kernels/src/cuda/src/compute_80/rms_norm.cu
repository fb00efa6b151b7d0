// RMSNorm (arXiv 1910.07467), alone and fused with the addition to the residual stream.
//
// Floor: bytes. Alone a row of `f32` is read once and one of 16 bits written once, 6 bytes an element; fused, two rows are read
// and two written, 12 bytes an element. About 6 operations an element are far below what 6 bytes cost.
// Shape: one block of 256 threads a row, eight elements a thread and step (four where sums are written); the row is
// read again from L1 for the second pass instead of being kept in registers, whose number would depend on its length.
// A row's sum is taken in an order that depends on its length only: thread t sums its own chunks, then a fixed tree.
//
// budget: registers 40, shared 64
// sass rms_norm_*: LDG.E.128 STG.E.128
// sass add_rms_norm_*: LDG.E.128 STG.E.128 LDG.E.64 STG.E.64
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// `out = norm(residual)`, with ADD after `residual += x`. Rows are `stride` elements apart, a multiple of 8, and unspecified
// behind `cols`.
template <class T, bool ADD>
__device__ __forceinline__ void rms_norm(const u16 *x, float *residual, const u16 *weight, u16 *out, u32 cols, u32 stride,
                                         float eps) {
    __shared__ float scratch[THREADS / WARP];
    const u64 row = u64(blockIdx.x) * stride;
    // What is written as `f32` goes by quads.
    constexpr u32 N = ADD ? QUAD : CHUNK;
    float v[N], w[N];
    float sum = 0.0f;
    for (u32 col = threadIdx.x * N; col < cols; col += THREADS * N) {
        const u32 count = cols - col;
        const bool whole = count >= N;
        load_chunk(residual + row + col, count, whole, v);
        if constexpr (ADD) {
            load_chunk<T>(x + row + col, count, whole, w);
#pragma unroll
            for (u32 i = 0; i < N; i++) v[i] += w[i];
            store_chunk(residual + row + col, count, whole, v);
        }
#pragma unroll
        for (u32 i = 0; i < N; i++) sum = fmaf(v[i], v[i], sum);
    }
    const float mean = block_sum<THREADS>(sum, scratch) / float(cols);
    const float scale = 1.0f / sqrtf(mean + eps);
    // Every thread reads what it wrote itself: no barrier is needed between the passes.
    for (u32 col = threadIdx.x * N; col < cols; col += THREADS * N) {
        const u32 count = cols - col;
        const bool whole = count >= N;
        load_chunk(residual + row + col, count, whole, v);
        load_chunk<T>(weight + col, count, whole, w);
#pragma unroll
        for (u32 i = 0; i < N; i++) v[i] = v[i] * scale * w[i];
        store_chunk<T>(out + row + col, count, whole, v);
    }
}

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        rms_norm_##NAME(float *residual, const u16 *weight, u16 *out, u32 cols, u32 stride, float eps) {               \
        rms_norm<T, false>(nullptr, residual, weight, out, cols, stride, eps);                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        add_rms_norm_##NAME(const u16 *x, float *residual, const u16 *weight, u16 *out, u32 cols, u32 stride,          \
                            float eps) {                                                                               \
        rms_norm<T, true>(x, residual, weight, out, cols, stride, eps);                                                \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
