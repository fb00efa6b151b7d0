// A block's passes over one row of `f32` logits. Logits are compared as integers and probabilities are summed as integers:
// both are exact, so that no result depends on an order.
#pragma once

#include "activations.cuh"
#include "ptx.cuh"

constexpr u32 THREADS = 1024, WARPS = THREADS / WARP;

// Integers in the order of the floats; -0 counts as +0, and any NaN is above everything.
constexpr u32 KEY_MINUS_INFINITY = 0x007fffffu, KEY_INFINITY = 0xff800000u;
__device__ __forceinline__ u32 key_of(float x) {
    const u32 bits = __float_as_uint(x + 0.0f);
    const u32 key = bits ^ (u32(int(bits) >> 31) | 0x80000000u);
    return x != x ? 0xffffffffu : key;
}
__device__ __forceinline__ float logit_of(u32 key) {
    return __uint_as_float(key & 0x80000000u ? key ^ 0x80000000u : ~key);
}

// `e^(logit - max)` to the power 1 / temperature in units of 2^-44, where `scale` is log2(e) / temperature; the most likely
// token weighs 2^44, so that 2^19 tokens fit 64 bits.
__device__ __forceinline__ u64 weight_of(float logit, float max, float scale) {
    return u64(exp2_approx((logit - max) * scale) * 17592186044416.0f);
}

// Calls `f(logit, id)` for the whole row, 16 bytes a thread and step. Rows start on 16 bytes.
template <class F> __device__ __forceinline__ void each_logit(const float *logits, u32 vocab, F f) {
    const u32 whole = vocab / 4 * 4;
    // Several loads on their way at once: the row comes from L2.
#pragma unroll 4
    for (u32 id = threadIdx.x * 4; id < whole; id += THREADS * 4) {
        const float4 v = *reinterpret_cast<const float4 *>(logits + id);
        f(v.x, id), f(v.y, id + 1), f(v.z, id + 2), f(v.w, id + 3);
    }
    const u32 rest = whole + threadIdx.x;
    if (rest < vocab) f(logits[rest], rest);
}

struct Max {
    static __device__ __forceinline__ u64 join(u64 a, u64 b) { return a > b ? a : b; }
};
struct Sum {
    static __device__ __forceinline__ u64 join(u64 a, u64 b) { return a + b; }
};

template <class Join> __device__ __forceinline__ u64 warp_reduce(u64 x) {
#pragma unroll
    for (u32 lanes = WARP / 2; lanes > 0; lanes /= 2) x = Join::join(x, __shfl_xor_sync(ALL_LANES, x, lanes));
    return x;
}

// Most values that a block joins at once.
constexpr u32 JOINED = 3;
using Scratch = u64[JOINED][WARPS];

// `N` values over the block, in every thread. `scratch` may be used again at once.
template <class Join, u32 N> __device__ __forceinline__ void block_reduce(u64 (&x)[N], Scratch &scratch) {
    static_assert(N <= JOINED, "no room");
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        x[i] = warp_reduce<Join>(x[i]);
        if (threadIdx.x % WARP == 0) scratch[i][threadIdx.x / WARP] = x[i];
    }
    __syncthreads();
#pragma unroll
    for (u32 i = 0; i < N; i++) x[i] = warp_reduce<Join>(scratch[i][threadIdx.x % WARP]);
    __syncthreads();
}

// What the host needs of a row: the token, its logit less the largest, and the sum of all `weight_of` at temperature 1.
struct Chosen {
    u32 token, is_finite;
    float below_max;
    u32 unused;
    u64 sum;
};

// The first maximum: its key above the complement of its id.
__device__ __forceinline__ u64 first_maximum(const float *logits, u32 vocab, Scratch &scratch) {
    u64 best[1] = {0};
    each_logit(logits, vocab, [&](float logit, u32 id) {
        best[0] = Max::join(best[0], u64(key_of(logit)) << 32 | u32(~id));
    });
    block_reduce<Max>(best, scratch);
    return best[0];
}

// Whether the largest of a row is a number that others can be compared with.
__device__ __forceinline__ bool is_finite(u32 key) { return key > KEY_MINUS_INFINITY && key < KEY_INFINITY; }

// The sum of `weight_of` over the row at temperature 1.
__device__ __forceinline__ u64 sum_of_weights(const float *logits, u32 vocab, float max, Scratch &scratch) {
    u64 sum[1] = {0};
    each_logit(logits, vocab, [&](float logit, u32) { sum[0] += weight_of(logit, max, LOG2_E); });
    block_reduce<Sum>(sum, scratch);
    return sum[0];
}
