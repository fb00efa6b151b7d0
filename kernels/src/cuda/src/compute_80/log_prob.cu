// The LM head fused with log-softmax: per row the largest logit, its first index, the sum of e^(logit - largest), and the
// logit of a target. Logits never reach memory: 128 of them leave as one record of 12 bytes, and a second kernel merges the
// records of a row in ascending order.
//
// Floor: bytes of the head where rows are few, 2·rows·K·vocabulary operations where they are many.
// Tiles: those of `gemm.cu`, but at least 128 columns wide; every one of them takes the records from the same 128 columns in
// the same order, so a row has the same bits in all.
//
// budget log_prob_wide_*: registers 248, shared 98304
// budget log_prob_some_*: registers 168, shared 73728
// budget log_prob_few_*: registers 128, shared 73728
// budget log_prob_merge: registers 40, shared 0
// sass log_prob_wide_*: LDGSTS LDSM HMMA.16816
// sass log_prob_some_*: LDGSTS LDSM HMMA.16816
// sass log_prob_few_*: LDGSTS LDSM HMMA.16816
#include "gemm.cuh"

using Wide = Tile<128, 256, 32, 4, 2, 4>;
using Some = Tile<64, 128, 64, 3, 1, 4>;
using Few = Tile<16, 128, 64, 4, 1, 4>;

// Columns of one record: four a lane.
constexpr u32 GROUP = 128;
constexpr float LOG2_E = 1.44269504088896341f;

// What is known of some logits of a row.
struct Stats {
    float max, sum;
    u32 argmax;
};

// `b` holds later columns than `a`, or equal maxima are told apart by their index.
__device__ __forceinline__ Stats merged(const Stats &a, const Stats &b) {
    const bool second = b.max > a.max || (b.max == a.max && b.argmax < a.argmax);
    const float max = second ? b.max : a.max;
    // All logits may be minus infinity: then nothing is added up, and no difference of infinities is taken.
    const float shift = max == -infinity() ? 0.0f : max;
    return {max, a.sum * exp2_approx((a.max - shift) * LOG2_E) + b.sum * exp2_approx((b.max - shift) * LOG2_E),
            second ? b.argmax : a.argmax};
}

// The record of 128 columns, four in each lane, from `col` on; every lane gets it.
__device__ __forceinline__ Stats record(const float (&v)[4], u32 col, u32 cols) {
    float max = -infinity();
    u32 argmax = 0xffffffffu;
#pragma unroll
    for (u32 e = 0; e < 4; e++) {
        if (col + e < cols && (v[e] > max || argmax == 0xffffffffu)) max = v[e], argmax = col + e;
    }
#pragma unroll
    for (u32 lanes = 1; lanes < WARP; lanes *= 2) {
        const float other = __shfl_xor_sync(ALL_LANES, max, lanes);
        const u32 index = __shfl_xor_sync(ALL_LANES, argmax, lanes);
        if (other > max || (other == max && index < argmax)) max = other, argmax = index;
    }
    const float shift = max == -infinity() ? 0.0f : max;
    float sum = 0.0f;
#pragma unroll
    for (u32 e = 0; e < 4; e++) {
        if (col + e < cols) sum += exp2_approx((v[e] - shift) * LOG2_E);
    }
    return {max, warp_sum(sum), argmax};
}

// `records: [rows][groups]` as (max, sum, argmax); `target_logits: [rows]`, where `targets` are given.
template <class T, class L>
__device__ __forceinline__ void log_prob(const Matrix &x, const Matrix &w, const u32 *targets, float *target_logits,
                                         float *records, u32 groups) {
    extern __shared__ __align__(128) char shared[];
    const u32 tiles_m = (x.rows + L::BM - 1) / L::BM, tiles_n = (w.rows + L::BN - 1) / L::BN;
    const Place at = place(blockIdx.x, tiles_m, tiles_n);
    float acc[L::TILES_M][L::TILES_N][4];
    multiply<T, L>(acc, shared_address(shared), x, w, at.m * L::BM, at.n * L::BN);

    constexpr u32 ROWS = L::WM < 32 ? L::WM : 32;
    constexpr u32 PITCH = L::BN + 8;
    static_assert(L::WARPS_M * ROWS * PITCH * 4 <= L::SHARED_BYTES, "the stages hold the logits");
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 warp_m = warp % L::WARPS_M, warp_n = warp / L::WARPS_M;
    float *const logits = reinterpret_cast<float *>(shared);
#pragma unroll
    for (u32 pass = 0; pass < L::WM / ROWS; pass++) {
#pragma unroll
        for (u32 i = 0; i < ROWS / MMA_M; i++) {
#pragma unroll
            for (u32 j = 0; j < L::TILES_N; j++) {
                const float *const a = acc[pass * (ROWS / MMA_M) + i][j];
                float *const to = logits + (warp_m * ROWS + i * MMA_M + lane / 4) * PITCH + warp_n * L::WN +
                                  j * MMA_N + lane % 4 * 2;
                *reinterpret_cast<float2 *>(to) = make_float2(a[0], a[1]);
                *reinterpret_cast<float2 *>(to + 8 * PITCH) = make_float2(a[2], a[3]);
            }
        }
        __syncthreads();
#pragma unroll 1
        for (u32 item = warp; item < L::WARPS_M * ROWS * (L::BN / GROUP); item += L::THREADS / WARP) {
            const u32 r = item / (L::BN / GROUP), group = item % (L::BN / GROUP);
            const u32 row = at.m * L::BM + r / ROWS * L::WM + pass * ROWS + r % ROWS;
            const u32 first = at.n * L::BN + group * GROUP, col = first + lane * 4;
            if (row >= x.rows || first >= w.rows) continue;
            const float4 four = *reinterpret_cast<const float4 *>(logits + r * PITCH + group * GROUP + lane * 4);
            const float v[4] = {four.x, four.y, four.z, four.w};
            const Stats stats = record(v, col, w.rows);
            if (targets) {
                const u32 target = targets[row];
#pragma unroll
                for (u32 e = 0; e < 4; e++)
                    if (col + e == target) target_logits[row] = v[e];
            }
            if (lane == 0) {
                float *const to = records + (u64(row) * groups + first / GROUP) * 3;
                to[0] = stats.max, to[1] = stats.sum, to[2] = __uint_as_float(stats.argmax);
            }
        }
        __syncthreads();
    }
}

// One warp a row: lane `l` merges the records l, l + 32, … in order, then the lanes in a tree. `out: [rows]` as (max, sum,
// argmax).
extern "C" __global__ void __launch_bounds__(WARP) log_prob_merge(const float *records, float *out, u32 groups) {
    const float *const row = records + u64(blockIdx.x) * groups * 3;
    Stats stats = {-infinity(), 0.0f, 0xffffffffu};
    for (u32 group = threadIdx.x; group < groups; group += WARP) {
        stats = merged(stats, {row[group * 3], row[group * 3 + 1], __float_as_uint(row[group * 3 + 2])});
    }
#pragma unroll
    for (u32 lanes = 1; lanes < WARP; lanes *= 2) {
        const Stats other = {__shfl_xor_sync(ALL_LANES, stats.max, lanes), __shfl_xor_sync(ALL_LANES, stats.sum, lanes),
                             __shfl_xor_sync(ALL_LANES, stats.argmax, lanes)};
        // The lower lane comes first in both lanes of a pair, so that all end with the same bits.
        stats = threadIdx.x & lanes ? merged(other, stats) : merged(stats, other);
    }
    if (threadIdx.x == 0) {
        float *const to = out + u64(blockIdx.x) * 3;
        to[0] = stats.max, to[1] = stats.sum, to[2] = __uint_as_float(stats.argmax);
    }
}

#define KERNEL(TILE, LAYOUT, NAME, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(LAYOUT::THREADS, 1)                                                   \
        log_prob_##TILE##_##NAME(const u16 *x, const u16 *w, const u32 *targets, float *target_logits, float *records, \
                                 u32 m, u32 n, u32 k, u32 x_stride, u32 w_stride, u32 groups) {                        \
        log_prob<T, LAYOUT>({x, m, k, x_stride}, {w, n, k, w_stride}, targets, target_logits, records, groups);        \
    }
#define KERNELS(NAME, T)                                                                                               \
    KERNEL(wide, Wide, NAME, T)                                                                                        \
    KERNEL(some, Some, NAME, T)                                                                                        \
    KERNEL(few, Few, NAME, T)
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
