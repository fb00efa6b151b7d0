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
// `u32 [ROWS]`, then for each warp the fewest, the most, and where a gap of how many keys begins; then the table and its end.
template <class Rows> struct PromptVisible {
    u32 address;

    __device__ __forceinline__ u32 row(u32 row) const { return load_shared_u32(address + row * 4); }
    __device__ __forceinline__ u32 warp() const { return address + Rows::ROWS * 4 + Rows::warp() * 16; }
    __device__ __forceinline__ u32 block() const { return address + Rows::ROWS * 4 + WARPS * 16; }
    __device__ __forceinline__ u32 table() const { return load_shared_u32(block()); }
    __device__ __forceinline__ u32 end() const { return load_shared_u32(block() + 4); }
    __device__ __forceinline__ u32 fewest() const { return load_shared_u32(warp()); }
    __device__ __forceinline__ bool any(u32 key) const {
        return key < load_shared_u32(warp() + 4) && key - load_shared_u32(warp() + 8) >= load_shared_u32(warp() + 12);
    }
};

// What a warp computes: some of the `rows()` rows (tokens × heads of the group) that its sequence has in the tile.
struct Part {
    u32 token;     // of the first of those rows
    u32 position;  // of that token in the tile's table
    u32 packed;    // first row of the warp | rows << 16
    u32 gap;       // keys behind the common ones that are other sequences', a multiple of 64

    __device__ __forceinline__ u32 first() const { return packed & 0xffff; }
    __device__ __forceinline__ u32 rows() const { return packed >> 16; }
    // Keys up to that of a row.
    __device__ __forceinline__ u32 visible(u32 row, u32 group) const { return position + 1 + min(row, rows() - 1) / group; }
};

// The work of a block.
struct Tile {
    u32 table;   // place in the table of pages
    u32 end;     // keys to walk
    u32 common;  // the first so many are those of all its sequences, a multiple of 64
    u32 unused;
    Part parts[WARPS];
};

// `tiles: [gridDim.y]`. `qkv`: [tokens, qkv_stride], of which a row is [q: num_heads · D | k | v]; `out`: [tokens, out_stride].
template <class T, u32 D, u32 TILES>
__device__ __forceinline__ void attention_prompt(const u16 *qkv, u16 *out, Pool pool, const Tile *tiles, u32 num_kv_heads,
                                                 u32 group, u32 qkv_stride, u32 out_stride, float scale_log2) {
    using Rows = Attention<T, D, TILES, false>;
    extern __shared__ __align__(128) uint4 shared[];
    const u32 queries = shared_address(shared);
    const PromptVisible<Rows> visible{queries + Rows::SHARED_BYTES};
    const u32 kv_head = blockIdx.x, first_row = Rows::first_row();
    // Read again rather than kept: the walk needs the registers.
    const auto tile = [&]() -> const Tile & { return tiles[opaque(blockIdx.y)]; };
    Rows::load_queries(queries, qkv, [&](u32 row) {
        const Part part = tile().parts[row / Rows::WARP_ROWS];
        const u32 at = part.first() + row % Rows::WARP_ROWS;
        return at < part.rows() ? qkv + u64(part.token + at / group) * qkv_stride + (kv_head * group + at % group) * D : nullptr;
    });
    for (u32 row = threadIdx.x; row < Rows::ROWS; row += THREADS) {
        const Part part = tile().parts[row / Rows::WARP_ROWS];
        store_shared(visible.address + row * 4, part.visible(part.first() + row % Rows::WARP_ROWS, group));
    }
    if (Rows::lane() == 0) {
        const Part part = tile().parts[Rows::warp()];
        const u32 first = part.first();
        store_shared(visible.warp(), part.visible(first, group));
        store_shared(visible.warp() + 4, first < part.rows() ? part.visible(first + Rows::WARP_ROWS - 1, group) : 0);
        store_shared(visible.warp() + 8, tile().common);
        store_shared(visible.warp() + 12, part.gap);
    }
    if (threadIdx.x == 0) {
        store_shared(visible.block(), tile().table);
        store_shared(visible.block() + 4, tile().end);
    }
    __syncthreads();
    Rows a;
    a.walk(queries, pool, num_kv_heads, kv_head, 0, visible, scale_log2);

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
    const Part part = tile().parts[Rows::warp()];
    for (u32 i = lane; i < Rows::WARP_ROWS * Rows::CHUNKS; i += WARP) {
        const u32 row = i / Rows::CHUNKS, chunk = i % Rows::CHUNKS, at = part.first() + row;
        if (at >= part.rows()) break;
        u16 *const to = out + u64(part.token + at / group) * out_stride + (kv_head * group + at % group) * D + chunk * CHUNK;
        *reinterpret_cast<uint4 *>(to) = load_shared(queries + Rows::place(first_row + row, chunk));
    }
}
