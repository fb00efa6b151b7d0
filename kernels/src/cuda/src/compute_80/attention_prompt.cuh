// Attention of prompt chunks: every row of a tile walks its sequence's keys from the first to its own position.
//
// Floor: arithmetic. 4 · D operations a row, query head and visible key; keys and values are read once from memory and
// again per tile from L2: 4 · D bytes a key and tile of 128 rows, 128 operations a byte.
// Shape: a block of four warps has 64 (D = 256: M = 1) or 128 rows (M = 2), which are neighbouring tokens × the query heads of
// one key/value head: keys serve all heads of a group, and the diagonal of a group of four is 32 tokens wide. A warp owns
// M tiles of 16 rows with all their columns, so softmax needs no other warp, and each ldmatrix of keys or values feeds 2M
// mma: at M = 1 reading shared memory would cost as much as multiplying. Keys and values are double-buffered in blocks of 64 (D = 256: 32) keys,
// one barrier a block; queries stay in shared memory, since the output (64 · M · D / 128 registers) and the scores fill
// the register file. Two blocks fit an SM of 228 KiB at D = 128. The launcher puts the longest walks first.
#pragma once
#include "attention.cuh"

// Keys that each row sees, and each warp: in shared memory, since the walk has no registers for them.
// `u32 [ROWS]`, then for each warp the fewest and the most.
template <class Rows> struct PromptVisible {
    u32 address;
    static constexpr u32 BYTES = Rows::ROWS * 4 + WARPS * 8;

    __device__ __forceinline__ u32 row(u32 row) const { return load_shared_u32(address + row * 4); }
    __device__ __forceinline__ u32 warp() const { return address + Rows::ROWS * 4 + Rows::warp() * 8; }
    __device__ __forceinline__ u32 fewest() const { return load_shared_u32(warp()); }
    __device__ __forceinline__ u32 most() const { return load_shared_u32(warp() + 4); }
};

// `tiles`: {place in the table of pages, first token, its position, tokens}. `qkv`: [tokens, qkv_stride], of which a row is
// [q: num_heads · D | k | v]; `out`: [tokens, out_stride].
template <class T, u32 D, u32 TILES>
__device__ __forceinline__ void attention_prompt(const u16 *qkv, u16 *out, Pool pool, const uint4 *tiles, u32 num_kv_heads,
                                                 u32 group, u32 qkv_stride, u32 out_stride, float scale_log2) {
    using Rows = Attention<T, D, TILES, false>;
    extern __shared__ __align__(128) uint4 shared[];
    const u32 queries = shared_address(shared);
    const PromptVisible<Rows> visible{queries + Rows::SHARED_BYTES};
    const u32 kv_head = blockIdx.x, first_row = Rows::first_row();
    const uint4 tile = tiles[blockIdx.y];
    const u32 position = tile.z, rows = tile.w * group;
    Rows::load_queries(queries, qkv, [&](u32 row) {
        return row < rows ? qkv + u64(tile.y + row / group) * qkv_stride + (kv_head * group + row % group) * D : nullptr;
    });
    for (u32 row = threadIdx.x; row < Rows::ROWS; row += THREADS)
        store_shared(visible.address + row * 4, position + 1 + min(row, rows - 1) / group);
    const u32 last_row = min(first_row + Rows::WARP_ROWS, rows) - 1;
    if (Rows::lane() == 0) {
        store_shared(visible.warp(), position + 1 + first_row / group);
        store_shared(visible.warp() + 4, first_row < rows ? position + 1 + last_row / group : 0);
    }
    Rows a;
    a.walk(queries, pool, tile.x, num_kv_heads, kv_head, 0, position + tile.w, visible, scale_log2);

    // Through shared memory, so that rows are written 16 bytes a lane. A warp's rows are its own.
    const u32 lane = Rows::lane();
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            const float scale = 1.0f / a.sum[t][h];
#pragma unroll
            for (u32 n = 0; n < D / 8; n++) {
                // Plus 0: masked keys, whose products are zeros of either sign, leave no trace.
                const u32 pair = T::pack(a.out[t][n][2 * h] * scale + 0.0f, a.out[t][n][2 * h + 1] * scale + 0.0f);
                store_shared(queries + Rows::place(first_row + t * 16 + h * 8 + lane / 4, n) + lane % 4 * 4, pair);
            }
        }
    __syncwarp();
    // Read again rather than kept: the walk needs the registers.
    const uint4 done = tiles[blockIdx.y];
    for (u32 at = lane; at < Rows::WARP_ROWS * Rows::CHUNKS; at += WARP) {
        const u32 row = first_row + at / Rows::CHUNKS, chunk = at % Rows::CHUNKS;
        if (row >= done.w * group) break;
        u16 *const to = out + u64(done.y + row / group) * out_stride + (kv_head * group + row % group) * D + chunk * CHUNK;
        *reinterpret_cast<uint4 *>(to) = load_shared(queries + Rows::place(row, chunk));
    }
}
