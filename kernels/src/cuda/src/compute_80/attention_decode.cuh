// Attention of generated tokens: a token's context is cut at multiples of RANGE keys, each range is attended to on its own,
// and `attention_merge.cu` joins the ranges of a row in ascending order.
//
// Floor: bytes. 4 · D of keys and values a key and key/value head, once for all rows that share them; 8 · (D + 2) bytes of
// partial results a row and range, 3 % of that for a group of four. 4 · D operations a row and key are nothing beside that up to some 100 rows.
// Shape: a block takes one range and key/value head. Rows are tokens × query heads of the group: one token's, or those of
// many tokens whose sequences have the range in the same pages. Up to 16 rows (`narrow`): the four warps hold the same tile, each
// computes all scores, which is cheaper than telling the others, and multiplies a quarter of the value columns. More (`wide`): as
// for prompts, up to 128 rows (D = 256: 64) per read of the keys. Both walk the same blocks, so a row has the same bits in either.
// Two stages of 32 KiB (D = 128) and three blocks an SM keep 100 KiB on their way.
#pragma once
#include "attention.cuh"

constexpr u32 RANGE = 256;

// A generated token: its row in the batch, and the place of its first range among the partial results.
struct Member {
    u32 token, slot;
};

// All rows of a block see the same keys.
struct DecodeVisible {
    u32 first_page, keys;
    bool any_row;

    __device__ __forceinline__ u32 table() const { return first_page; }
    __device__ __forceinline__ u32 end() const { return keys; }
    __device__ __forceinline__ u32 row(u32) const { return keys; }
    __device__ __forceinline__ u32 fewest() const { return keys; }
    __device__ __forceinline__ bool any(u32) const { return any_row; }
};

// `items`: {place in the table of pages, end of the keys, first member, members}, nothing to do for no members; all members see all keys of the range that
// holds `end - 1`, from its beginning to `end`. Writes `partial_out: [slots, num_heads, D]`, not yet divided by the sum, and
// `partial_stats: [slots, num_heads]` of {maximum of the scores, sum}.
template <class T, u32 D, u32 TILES, bool NARROW>
__device__ __forceinline__ void attention_decode(const u16 *qkv, float *partial_out, float2 *partial_stats, Pool pool,
                                                 const uint4 *items, const Member *members, u32 num_kv_heads, u32 group,
                                                 u32 qkv_stride, float scale_log2) {
    using Rows = Attention<T, D, TILES, NARROW>;
    extern __shared__ __align__(128) uint4 shared[];
    const u32 queries = shared_address(shared);
    const uint4 item = items[blockIdx.y];
    // Launches that are replayed have room for more items than there may be.
    if (item.w == 0) return;
    const u32 kv_head = blockIdx.x, first_row = Rows::first_row();
    const u32 end = item.y, range = (end - 1) / RANGE, rows = item.w * group;
    members += item.z;
    Rows::load_queries(queries, qkv, [&](u32 row) {
        return row < rows ? qkv + u64(members[row / group].token) * qkv_stride + (kv_head * group + row % group) * D : nullptr;
    });
    Rows a;
    a.walk(queries, pool, num_kv_heads, kv_head, range * RANGE, DecodeVisible{item.x, end, first_row < rows}, scale_log2);

    const u32 lane = Rows::lane();
#pragma unroll
    for (u32 t = 0; t < TILES; t++)
#pragma unroll
        for (u32 h = 0; h < 2; h++) {
            const u32 row = first_row + t * 16 + h * 8 + lane / 4;
            if (row >= rows) continue;
            const u64 slot = members[row / group].slot + range;
            const u64 at = (slot * num_kv_heads + kv_head) * group + row % group;
#pragma unroll
            for (u32 n = 0; n < 2 * Rows::WARP_PAIRS; n++) {
                const u32 column = NARROW ? (Rows::warp() + n / 2 * WARPS) * 16 + n % 2 * 8 : n * 8;
                if (column < D)
                    *reinterpret_cast<float2 *>(partial_out + at * D + column + lane % 4 * 2) =
                        make_float2(a.out[t][n][2 * h], a.out[t][n][2 * h + 1]);
            }
            if (lane % 4 == 0 && (!NARROW || Rows::warp() == 0)) partial_stats[at] = make_float2(a.max[t][h], a.sum[t][h]);
        }
}
