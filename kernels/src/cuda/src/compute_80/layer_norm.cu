// LayerNorm (arXiv 1607.06450), with or without a bias.
//
// Floor: bytes. A row of `f32` is read once and one of 16 bits written once, 6 bytes an element. About 10 operations an element
// are far below what 6 bytes cost.
// Shape: one block of 256 threads a row, eight elements a thread and step; the row is read again from L1 for the variance and for
// the output. The variance is the mean square of differences from the mean: the difference of mean squares would cancel.
// Sums are taken in an order that depends on the row's length only: thread t sums its own chunks, then a fixed tree.
//
// budget: registers 48, shared 64
// sass: LDG.E.128 STG.E.128
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// `out = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias`; no bias where `bias` is null. Rows are `stride` elements apart,
// a multiple of 8.
template <class T>
__device__ __forceinline__ void layer_norm(const float *x, const u16 *weight, const u16 *bias, u16 *out, u32 cols,
                                           u32 stride, float eps) {
    __shared__ float scratch[2][THREADS / WARP];
    const u64 row = u64(blockIdx.x) * stride;
    float v[CHUNK];
    float sum = 0.0f;
    for (u32 col = threadIdx.x * CHUNK; col < cols; col += THREADS * CHUNK) {
        load_chunk(x + row + col, cols - col, cols - col >= CHUNK, v);
        // By halves, so that a long row's sum does not grow one element at a time.
        sum += ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    }
    const float mean = block_sum<THREADS>(sum, scratch[0]) / float(cols);
    float squares = 0.0f;
    for (u32 col = threadIdx.x * CHUNK; col < cols; col += THREADS * CHUNK) {
        load_chunk(x + row + col, cols - col, cols - col >= CHUNK, v);
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++) {
            const float d = v[i] - mean;
            if (i < cols - col) squares = fmaf(d, d, squares);
        }
    }
    const float variance = block_sum<THREADS>(squares, scratch[1]) / float(cols);
    const float scale = 1.0f / sqrtf(variance + eps);
    for (u32 col = threadIdx.x * CHUNK; col < cols; col += THREADS * CHUNK) {
        const u32 count = cols - col;
        const bool whole = count >= CHUNK;
        float w[CHUNK];
        load_chunk(x + row + col, count, whole, v);
        load_chunk<T>(weight + col, count, whole, w);
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++) v[i] = (v[i] - mean) * scale * w[i];
        if (bias != nullptr) {
            load_chunk<T>(bias + col, count, whole, w);
#pragma unroll
            for (u32 i = 0; i < CHUNK; i++) v[i] += w[i];
        }
        store_chunk<T>(out + row + col, count, whole, v);
    }
}

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) layer_norm_##NAME(                                           \
        const float *x, const u16 *weight, const u16 *bias, u16 *out, u32 cols, u32 stride, float eps) {               \
        layer_norm<T>(x, weight, bias, out, cols, stride, eps);                                                        \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
