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
#include "ptx.cuh"

constexpr u32 THREADS = 256;
// Elements in 16 bytes.
constexpr u32 CHUNK = 8;

// Adds the squares of the eight elements of `v`, two sums that are joined at the end.
template <class T> __device__ __forceinline__ float squares(uint4 v, float sum) {
    const u32 pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (u32 i = 0; i < 4; i++) {
        const float low = T::low(pairs[i]), high = T::high(pairs[i]);
        sum = fmaf(low, low, sum);
        sum = fmaf(high, high, sum);
    }
    return sum;
}

template <class T> __device__ __forceinline__ uint4 scaled(uint4 x, uint4 weight, float scale) {
    const u32 a[4] = {x.x, x.y, x.z, x.w}, w[4] = {weight.x, weight.y, weight.z, weight.w};
    u32 y[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) y[i] = T::pack(T::low(a[i]) * scale * T::low(w[i]), T::high(a[i]) * scale * T::high(w[i]));
    return make_uint4(y[0], y[1], y[2], y[3]);
}

template <class T> __device__ __forceinline__ uint4 added(uint4 x, uint4 y) {
    const u32 a[4] = {x.x, x.y, x.z, x.w}, b[4] = {y.x, y.y, y.z, y.w};
    u32 c[4];
#pragma unroll
    for (u32 i = 0; i < 4; i++) c[i] = T::pack(T::low(a[i]) + T::low(b[i]), T::high(a[i]) + T::high(b[i]));
    return make_uint4(c[0], c[1], c[2], c[3]);
}

// `out = norm(x)`, or with ADD `residual += x; out = norm(residual)`. Rows are `stride` elements apart, a multiple of 8,
// and zero or unspecified behind `cols`.
template <class T, bool ADD>
__device__ __forceinline__ void rms_norm(const u16 *x, u16 *residual, const u16 *weight, u16 *out, u32 cols, u32 stride,
                                         float eps) {
    __shared__ float scratch[THREADS / WARP];
    const u64 row = u64(blockIdx.x) * stride;
    const u16 *const normed = ADD ? residual : x;
    const u32 whole = cols / CHUNK * CHUNK;
    float sum = 0.0f;
    for (u32 col = threadIdx.x * CHUNK; col < whole; col += THREADS * CHUNK) {
        uint4 v = *reinterpret_cast<const uint4 *>(x + row + col);
        if (ADD) {
            uint4 *const place = reinterpret_cast<uint4 *>(residual + row + col);
            v = added<T>(*place, v);
            *place = v;
        }
        sum = squares<T>(v, sum);
    }
    const u32 rest = whole + threadIdx.x;
    if (rest < cols) {
        float v = T::to_f32(x[row + rest]);
        if (ADD) {
            const u16 stored = T::from_f32(T::to_f32(residual[row + rest]) + v);
            residual[row + rest] = stored;
            v = T::to_f32(stored);
        }
        sum = fmaf(v, v, sum);
    }
    const float mean = block_sum<THREADS>(sum, scratch) / float(cols);
    const float scale = 1.0f / sqrtf(mean + eps);
    // Every thread reads what it wrote itself: no barrier is needed between the passes.
    for (u32 col = threadIdx.x * CHUNK; col < whole; col += THREADS * CHUNK) {
        const uint4 v = *reinterpret_cast<const uint4 *>(normed + row + col);
        const uint4 w = *reinterpret_cast<const uint4 *>(weight + col);
        *reinterpret_cast<uint4 *>(out + row + col) = scaled<T>(v, w, scale);
    }
    if (rest < cols) out[row + rest] = T::from_f32(T::to_f32(normed[row + rest]) * scale * T::to_f32(weight[rest]));
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
