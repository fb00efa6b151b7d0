// Linear layers: `y = x · wᵀ + bias` and what follows it in the same pass over y.
//
// Floor: bytes of w (16 bits a weight) where M is small, 2·M·N·K operations where it is large.
// Tiles: `wide` 128×256 by eight warps of 64×64, four stages of 32: 128 accumulators a thread, 64 operations per byte that a
// warp reads from shared memory; 96 KiB of shared memory fit every GPU from sm_80 on. `square` 128×128 and `medium` 128×64
// for weights so narrow that wider ones would leave processors idle. The skinny path, `few` (M ≤ 16) and `some` (M ≤ 64), takes
// 32 columns a block, so that the columns spread evenly, and keeps 20 to 48 KiB on their way per block, so that memory never
// waits. Which it is, is only a matter of speed: a row has the same bits in all of them.
//
// budget gemm_wide_*: registers 248, shared 98304
// budget gemm_square_*: registers 248, shared 65536
// budget gemm_medium_*: registers 168, shared 61440
// budget gemm_some_*: registers 128, shared 61440
// budget gemm_few_*: registers 96, shared 36864
// sass gemm_wide_*: LDGSTS LDSM HMMA.16816 STG.E.64
// sass gemm_square_*: LDGSTS LDSM HMMA.16816 STG.E.64
// sass gemm_medium_*: LDGSTS LDSM HMMA.16816 STG.E.64
// sass gemm_some_*: LDGSTS LDSM HMMA.16816
// sass gemm_few_*: LDGSTS LDSM HMMA.16816
#include "activations.cuh"
#include "gemm.cuh"

using Wide = Tile<128, 256, 32, 4, 2, 4>;
using Square = Tile<128, 128, 32, 4, 2, 2>;
using Medium = Tile<128, 64, 32, 5, 2, 2>;
using Some = Tile<64, 32, 64, 5, 2, 2>;
using Few = Tile<16, 32, 64, 6, 1, 2>;

// What is done with y; the numbers are the launcher's.
enum Epilogue : u32 { STORE = 0, ACCUMULATE = 1, RELU = 2, GELU = 3, SILU_MUL = 4, FLOAT = 5 };

struct Output {
    // 16-bit elements, or f32 with FLOAT and ACCUMULATE. `stride` elements from row to row.
    void *data;
    u32 stride;
    // 16 bits each, or null.
    const u16 *bias;
    u32 epilogue;
};

__device__ __forceinline__ float activated(float x, u32 epilogue) {
    if (epilogue == RELU) return relu(x);
    return epilogue == GELU ? gelu(x) : x;
}

// Writes the `count` (at most 4) elements `y` of row `row` from `col` on; `col` is a multiple of 4.
template <class T>
__device__ __forceinline__ void store_elements(const Output &out, u32 row, u32 col, u32 count, float (&y)[4]) {
    const u64 start = u64(row) * out.stride;
    u16 *const elements = reinterpret_cast<u16 *>(out.data) + start + (out.epilogue == SILU_MUL ? col / 2 : col);
    if (count == 4) {
        if (out.bias) {
            const uint2 bias = *reinterpret_cast<const uint2 *>(out.bias + col);
            y[0] += T::low(bias.x), y[1] += T::high(bias.x), y[2] += T::low(bias.y), y[3] += T::high(bias.y);
        }
        if (out.epilogue == SILU_MUL) {
            *reinterpret_cast<u32 *>(elements) = T::pack(silu(y[0]) * y[1], silu(y[2]) * y[3]);
            return;
        }
        if (out.epilogue == FLOAT || out.epilogue == ACCUMULATE) {
            float4 *const to = reinterpret_cast<float4 *>(reinterpret_cast<float *>(out.data) + start + col);
            float4 sum = out.epilogue == ACCUMULATE ? *to : make_float4(0.0f, 0.0f, 0.0f, 0.0f);
            sum.x += y[0], sum.y += y[1], sum.z += y[2], sum.w += y[3];
            *to = sum;
            return;
        }
#pragma unroll
        for (u32 e = 0; e < 4; e++) y[e] = activated(y[e], out.epilogue);
        store_global(elements, make_uint2(T::pack(y[0], y[1]), T::pack(y[2], y[3])));
        return;
    }
#pragma unroll
    for (u32 e = 0; e < 4; e++) {
        if (e >= count) break;
        if (out.bias) y[e] += T::to_f32(out.bias[col + e]);
        if (out.epilogue == SILU_MUL) {
            if (e % 2 == 1) elements[e / 2] = T::from_f32(silu(y[e - 1]) * y[e]);
            continue;
        }
        if (out.epilogue == FLOAT || out.epilogue == ACCUMULATE) {
            float *const to = reinterpret_cast<float *>(out.data) + start + col + e;
            *to = out.epilogue == ACCUMULATE ? *to + y[e] : y[e];
            continue;
        }
        elements[e] = T::from_f32(activated(y[e], out.epilogue));
    }
}

template <class T, class L>
__device__ __forceinline__ void gemm(const Matrix &x, const Matrix &w, const Output &out) {
    extern __shared__ __align__(128) char shared[];
    const u32 tiles_m = (x.rows + L::BM - 1) / L::BM, tiles_n = (w.rows + L::BN - 1) / L::BN;
    const Place at = place(blockIdx.x, tiles_m, tiles_n);
    float acc[L::TILES_M][L::TILES_N][4];
    multiply<T, L>(acc, shared_address(shared), x, w, at.m * L::BM, at.n * L::BN);

    // Fragments go through shared memory, a warp's own part of it, so that lanes write neighbouring elements.
    constexpr u32 ROWS = L::WM < 32 ? L::WM : 32;
    // Eight rows of a fragment fall into different banks.
    constexpr u32 PITCH = L::WN + 8;
    static_assert(L::THREADS / WARP * ROWS * PITCH * 4 <= L::SHARED_BYTES, "the stages hold the fragments");
    constexpr u32 QUADS = L::WN / 4;
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    float *const part = reinterpret_cast<float *>(shared) + warp * ROWS * PITCH;
    const u32 first_row = at.m * L::BM + warp % L::WARPS_M * L::WM;
    const u32 first_col = at.n * L::BN + warp / L::WARPS_M * L::WN;
#pragma unroll
    for (u32 pass = 0; pass < L::WM / ROWS; pass++) {
#pragma unroll
        for (u32 i = 0; i < ROWS / MMA_M; i++) {
#pragma unroll
            for (u32 j = 0; j < L::TILES_N; j++) {
                const float *const a = acc[pass * (ROWS / MMA_M) + i][j];
                float *const to = part + (i * MMA_M + lane / 4) * PITCH + j * MMA_N + lane % 4 * 2;
                *reinterpret_cast<float2 *>(to) = make_float2(a[0], a[1]);
                *reinterpret_cast<float2 *>(to + 8 * PITCH) = make_float2(a[2], a[3]);
            }
        }
        __syncwarp();
#pragma unroll 1
        for (u32 index = lane; index < ROWS * QUADS; index += WARP) {
            const u32 r = index / QUADS, c = index % QUADS * 4;
            const u32 row = first_row + pass * ROWS + r, col = first_col + c;
            if (row >= x.rows || col >= w.rows) continue;
            const float4 v = *reinterpret_cast<const float4 *>(part + r * PITCH + c);
            float y[4] = {v.x, v.y, v.z, v.w};
            store_elements<T>(out, row, col, min(w.rows - col, 4), y);
        }
        __syncwarp();
    }
}

#define KERNEL(TILE, LAYOUT, NAME, T)                                                                                  \
    extern "C" __global__ void __launch_bounds__(LAYOUT::THREADS, 1)                                                   \
        gemm_##TILE##_##NAME(const u16 *x, const u16 *w, const u16 *bias, void *out, u32 m, u32 n, u32 k,              \
                             u32 x_stride, u32 w_stride, u32 out_stride, u32 epilogue) {                               \
        gemm<T, LAYOUT>({x, m, k, x_stride}, {w, n, k, w_stride}, {out, out_stride, bias, epilogue});                  \
    }
#define KERNELS(NAME, T)                                                                                               \
    KERNEL(wide, Wide, NAME, T)                                                                                        \
    KERNEL(square, Square, NAME, T)                                                                                    \
    KERNEL(medium, Medium, NAME, T)                                                                                    \
    KERNEL(some, Some, NAME, T)                                                                                        \
    KERNEL(few, Few, NAME, T)
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
