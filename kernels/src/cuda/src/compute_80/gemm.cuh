// The main loop of every matrix product, `acc = x · wᵀ` with x `[M, K]` and w `[N, K]`, both K-contiguous, f32 sums.
//
// x is the 16-row operand of mma.m16n8k16 and w the 8-column one, whatever M is, and an element's sum takes k in steps of
// 16 in ascending order into one accumulator: a row has the same bits in every tile, alone and among others.
// Shared memory holds STAGES tiles that cp.async fills ahead of their use. Rows of a tile are BK elements; their 16-byte
// chunks are permuted so that the eight rows of an ldmatrix lie in different banks. Behind M, N and K the tiles hold zeros,
// which add nothing; what lies behind a row's K elements in memory is never read.
#pragma once
#include "ptx.cuh"

// Elements in 16 bytes.
constexpr u32 CHUNK = 8;
constexpr u32 MMA_M = 16, MMA_N = 8, MMA_K = 16;

// A matrix of 16-bit elements whose rows are `stride` elements apart, a multiple of CHUNK.
struct Matrix {
    const u16 *data;
    u32 rows, cols, stride;
};

// BM × BN elements of the output per block, by WARPS_M × WARPS_N warps.
template <u32 BM_, u32 BN_, u32 BK_, u32 STAGES_, u32 WARPS_M_, u32 WARPS_N_> struct Tile {
    static constexpr u32 BM = BM_, BN = BN_, BK = BK_, STAGES = STAGES_, WARPS_M = WARPS_M_, WARPS_N = WARPS_N_;
    static constexpr u32 THREADS = WARPS_M * WARPS_N * WARP;
    // What one warp computes, in elements and in mma tiles.
    static constexpr u32 WM = BM / WARPS_M, WN = BN / WARPS_N;
    static constexpr u32 TILES_M = WM / MMA_M, TILES_N = WN / MMA_N;
    static constexpr u32 STAGE_BYTES = (BM + BN) * BK * 2;
    static constexpr u32 SHARED_BYTES = STAGES * STAGE_BYTES;
    static constexpr u32 STEPS = BK / MMA_K;
    static_assert(WM % MMA_M == 0 && WN % (2 * MMA_N) == 0 && (BK == 32 || BK == 64), "whole ldmatrix loads");
};

// Byte offset of 16-byte chunk `chunk` of row `row` in a tile of rows of BK elements.
template <u32 BK> __device__ __forceinline__ u32 swizzled(u32 row, u32 chunk) {
    // Two rows of 64 bytes, or one of 128, fill all banks.
    const u32 key = BK == 32 ? row >> 1 & 3 : row & 7;
    return (row * (BK / CHUNK) + (chunk ^ key)) * 16;
}

// One thread's share of the copies of ROWS rows, tile after tile: its column of chunks, every THREADS / CHUNKS rows.
// Addresses advance by additions: the loop of a narrow tile has little time for more.
template <u32 ROWS, u32 BK, u32 THREADS> struct Copies {
    static constexpr u32 CHUNKS = BK / CHUNK, STEP = THREADS / CHUNKS, COUNT = (ROWS + STEP - 1) / STEP;
    static_assert(THREADS % CHUNKS == 0 && STEP % 8 == 0, "a thread keeps its column and its place in the swizzle");
    // The matrix, where what is not there points; this thread's chunk of the next tile.
    const u16 *data, *next;
    // Elements from one of its rows to the next, rows from its first on, bytes of its row from `next` on, its place in a tile.
    u32 step, rows, left, shared;
    __device__ __forceinline__ Copies(const Matrix &m, u32 first) {
        const u32 row = threadIdx.x / CHUNKS, chunk = threadIdx.x % CHUNKS;
        const bool any = first + row < m.rows;
        rows = any ? m.rows - first - row : 0;
        next = m.data + (any ? u64(first + row) * m.stride : 0) + chunk * CHUNK;
        step = STEP * m.stride;
        left = m.cols > chunk * CHUNK ? (m.cols - chunk * CHUNK) * 2 : 0;
        shared = swizzled<BK>(row, chunk);
        data = m.data;
    }
    // Starts the copies of the next tile.
    __device__ __forceinline__ void start(u32 stage) {
        const u32 whole = min(left, 16);
#pragma unroll
        for (u32 i = 0; i < COUNT; i++) {
            if (ROWS % STEP != 0 && threadIdx.x / CHUNKS + i * STEP >= ROWS) break;
            const u32 bytes = i * STEP < rows ? whole : 0;
            cp_async(stage + shared + i * STEP * BK * 2, bytes ? next + u64(i) * step : data, bytes);
        }
        next += BK;
        left -= min(left, BK * 2);
    }
};

template <class L> struct Fragments {
    u32 x[L::TILES_M][4];
    u32 w[L::TILES_N][2];
};

template <class L> __device__ __forceinline__ void load_fragments(Fragments<L> &f, u32 stage, u32 step) {
    const u32 lane = threadIdx.x % WARP, warp = threadIdx.x / WARP;
    const u32 warp_m = warp % L::WARPS_M * L::WM, warp_n = warp / L::WARPS_M * L::WN;
    const u32 x = stage, w = stage + L::BM * L::BK * 2;
#pragma unroll
    for (u32 i = 0; i < L::TILES_M; i++) {
        // Rows 0-7 and 8-15 of the first eight elements, then of the others.
        const u32 row = warp_m + i * MMA_M + lane % 16, chunk = step * 2 + lane / 16;
        ldmatrix(f.x[i], x + swizzled<L::BK>(row, chunk));
    }
#pragma unroll
    for (u32 j = 0; j < L::TILES_N; j += 2) {
        // Two column tiles: both halves of the first, then of the second.
        const u32 row = warp_n + j * MMA_N + lane / 16 * 8 + lane % 8, chunk = step * 2 + lane / 8 % 2;
        u32 r[4];
        ldmatrix(r, w + swizzled<L::BK>(row, chunk));
        f.w[j][0] = r[0], f.w[j][1] = r[1];
        f.w[j + 1][0] = r[2], f.w[j + 1][1] = r[3];
    }
}

// The sums of one block. `acc[i][j]` is the mma tile at rows `i * 16` and columns `j * 8` of the warp's part. Shared memory is
// free again when it returns.
template <class T, class L>
__device__ __forceinline__ void multiply(float (&acc)[L::TILES_M][L::TILES_N][4], u32 shared, const Matrix &x,
                                         const Matrix &w, u32 row, u32 col) {
    const u32 tiles = (x.cols + L::BK - 1) / L::BK;
#pragma unroll
    for (u32 i = 0; i < L::TILES_M; i++)
#pragma unroll
        for (u32 j = 0; j < L::TILES_N; j++)
#pragma unroll
            for (u32 e = 0; e < 4; e++) acc[i][j][e] = 0.0f;

    Copies<L::BM, L::BK, L::THREADS> copy_x(x, row);
    Copies<L::BN, L::BK, L::THREADS> copy_w(w, col);
    const auto fill = [&](u32 tile) {
        if (tile < tiles) {
            const u32 stage = shared + tile % L::STAGES * L::STAGE_BYTES;
            copy_x.start(stage);
            copy_w.start(stage + L::BM * L::BK * 2);
        }
        cp_async_commit();
    };
#pragma unroll
    for (u32 tile = 0; tile < L::STAGES - 1; tile++) fill(tile);
    cp_async_wait<L::STAGES - 2>();
    __syncthreads();

    Fragments<L> fragments[2];
    load_fragments<L>(fragments[0], shared, 0);
    for (u32 tile = 0; tile < tiles; tile++) {
        // One tile further the slot that was read last is free: every warp has its last fragments since the barrier below.
        fill(tile + L::STAGES - 1);
#pragma unroll
        for (u32 step = 0; step < L::STEPS; step++) {
            // The next fragments are on their way while these are multiplied.
            if (step + 1 < L::STEPS) {
                load_fragments<L>(fragments[(step + 1) % 2], shared + tile % L::STAGES * L::STAGE_BYTES, step + 1);
            } else {
                cp_async_wait<L::STAGES - 2>();
                __syncthreads();
                if (tile + 1 < tiles) {
                    load_fragments<L>(fragments[0], shared + (tile + 1) % L::STAGES * L::STAGE_BYTES, 0);
                }
            }
            const Fragments<L> &f = fragments[step % 2];
#pragma unroll
            for (u32 i = 0; i < L::TILES_M; i++)
#pragma unroll
                for (u32 j = 0; j < L::TILES_N; j++) T::mma(acc[i][j], f.x[i], f.w[j]);
        }
    }
}

// Block `index` of a `tiles_m` × `tiles_n` grid: bands of eight tile rows, column by column, so that the blocks in flight
// share their tiles of x and w in L2.
struct Place {
    u32 m, n;
};
__device__ __forceinline__ Place place(u32 index, u32 tiles_m, u32 tiles_n) {
    constexpr u32 BAND = 8;
    const u32 band = index / (BAND * tiles_n), within = index % (BAND * tiles_n);
    const u32 height = min(BAND, tiles_m - band * BAND);
    return {band * BAND + within % height, within / height};
}
