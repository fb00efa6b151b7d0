// One warp's share of attention (FlashAttention-2, arXiv 2307.08691): rows of queries in tiles of 16 against blocks of keys
// and values that the whole block of four warps brings from their pages.
//
// What a row computes is the same wherever the row stands. Key blocks begin at multiples of `BLOCK`, a function of the
// head size alone, and are walked upwards; rows of an mma tile are independent; a row's maximum, sum and output see only its
// own scores. A block all of whose keys are masked changes no bit: its scores are -inf, so the maximum stays, the factor is
// ex2(0) = 1 and the probabilities are +0. Whether such a block is walked, skipped or cut off is therefore free.
//
// Softmax is taken in base 2, `scale · log2(e)` folded into one fma per score. Probabilities are rounded to 16 bits for
// their product with the values; the row sum adds them before that rounding, in f32: each of four lanes sums its own
// columns, block after block, and the four are added at the end.
//
// Keys behind the context are not read (their slots may never have been written): the table says how many of a page there
// are, and cp.async fills in zeros, for values too, since 0 · NaN would not vanish. For the same reason a NaN or an infinity
// among the values of a later token of the same sequence reaches those earlier rows that walk a block with it: such a sequence
// is damaged as a whole.
#pragma once
#include "ptx.cuh"

constexpr u32 PAGE = 16;
constexpr u32 WARPS = 4;
constexpr u32 THREADS = WARPS * WARP;
// 16-bit elements in the 16 bytes that cp.async and a row of ldmatrix move.
constexpr u32 CHUNK = 8;

// Where attention of one layer reads and writes.
struct Pool {
    const u16 *keys;    // [pages][num_kv_heads][PAGE][D]
    const u16 *values;  // the same
    const u32 *tables;  // pages of sequences, padded to a multiple of 4: id | keys in it << 27
};
constexpr u32 PAGE_ID_BITS = 27;

// `D`: elements of a head. `TILES`: 16-row tiles a warp owns. `SHARED_ROWS`: the four warps hold the same rows, one tile, and
// share out the columns of the output; otherwise each has rows of its own and all columns.
template <class T, u32 D, u32 TILES, bool SHARED_ROWS> struct Attention {
    // Keys of a step: two stages of keys and values beside the queries stay within the 99 KiB of compute capability 8.6.
    static constexpr u32 BLOCK = D <= 128 ? 64 : 32;
    static constexpr u32 PAGES = BLOCK / PAGE;
    static constexpr u32 CHUNKS = D / CHUNK;
    static constexpr u32 ROW_BYTES = D * 2;
    static constexpr u32 WARP_ROWS = TILES * 16;
    static constexpr u32 ROWS = SHARED_ROWS ? WARP_ROWS : WARPS * WARP_ROWS;
    static constexpr u32 QUERY_BYTES = ROWS * ROW_BYTES;
    static constexpr u32 BLOCK_BYTES = BLOCK * ROW_BYTES;
    // Pairs of 8 output columns, which one ldmatrix brings, and those that a warp owns.
    static constexpr u32 PAIRS = D / 16;
    static constexpr u32 WARP_PAIRS = SHARED_ROWS ? (PAIRS + WARPS - 1) / WARPS : PAIRS;
    // Largest power of two up to 8 that divides CHUNKS.
    static constexpr u32 GROUP = CHUNKS % 8 == 0 ? 8 : CHUNKS % 4 == 0 ? 4 : 2;

    static_assert(D % 16 == 0 && BLOCK % PAGE == 0 && WARPS % PAGES == 0, "a warp loads one page or a part of it");
    static_assert(!SHARED_ROWS || TILES == 1, "shared rows are one tile");

    float out[TILES][2 * WARP_PAIRS][4];
    // Of rows `lane / 4` and `lane / 4 + 8` of each tile; sums are this lane's part.
    float max[TILES][2], sum[TILES][2];

    static __device__ __forceinline__ u32 lane() { return threadIdx.x % WARP; }
    static __device__ __forceinline__ u32 warp() { return threadIdx.x / WARP; }
    // First row of this warp in the block's tile.
    static __device__ __forceinline__ u32 first_row() { return SHARED_ROWS ? 0 : warp() * WARP_ROWS; }

    // Byte of a 16-byte chunk in a matrix of rows of D elements. Eight rows of one chunk fall into eight different groups of
    // banks, so ldmatrix has no conflict, and so do eight neighbouring chunks, so neither has cp.async.
    static __device__ __forceinline__ u32 place(u32 row, u32 chunk) {
        return row * ROW_BYTES + (chunk ^ (row % 8 / (8 / GROUP))) * 16;
    }

    // `place(row, chunk + 2 · pairs)` from `at = place(row, chunk)`, where `chunk` is 0 or 1 or `pairs` a multiple of 4: one
    // instruction, or none. The low bits of the matrix's address and of its rows are zeros.
    static __device__ __forceinline__ u32 along(u32 at, u32 pairs) {
        return (at ^ (2 * pairs % GROUP * 16)) + 2 * pairs / GROUP * (GROUP * 16);
    }

    // Brings the queries of this block. `source(row)` is the address of a row's head, or null for a row that is not there,
    // which becomes zeros.
    template <class Source> static __device__ __forceinline__ void load_queries(u32 queries, const u16 *any, Source source) {
        for (u32 i = threadIdx.x; i < ROWS * CHUNKS; i += THREADS) {
            const u32 row = i / CHUNKS, chunk = i % CHUNKS;
            const u16 *const from = source(row);
            cp_async(queries + place(row, chunk), from ? from + chunk * CHUNK : any, from ? 16 : 0);
        }
    }

    // Brings one block of keys and values. A warp loads a page, one run of memory, or a part of it: `entry` of the table.
    static __device__ __forceinline__ void load_block(u32 stage, const Pool &pool, u32 entry, u32 num_kv_heads, u32 kv_head) {
        constexpr u32 PART = PAGE * PAGES / WARPS;  // keys a warp loads
        const u32 thread = opaque(threadIdx.x), lane = thread % WARP;
        const u32 first = thread / WARP * PART, page = entry & ((1u << PAGE_ID_BITS) - 1), count = entry >> PAGE_ID_BITS;
        const u64 from = ((u64(page) * num_kv_heads + kv_head) * PAGE + first % PAGE) * D + lane * CHUNK;
        const u16 *const keys = pool.keys + from, *const values = pool.values + from;
        // Of this lane's chunks, how many are of keys that are there.
        const int left = int(count - first % PAGE) * int(CHUNKS) - int(lane);
#pragma unroll
        for (u32 i = 0; i < PART * CHUNKS / WARP; i++) {
            const u32 at = lane + i * WARP, key = first + at / CHUNKS;
            const u32 to = stage + place(key, at % CHUNKS), bytes = int(i * WARP) < left ? 16 : 0;
            cp_async(to, keys + i * WARP * CHUNK, bytes);
            cp_async(to + BLOCK_BYTES, values + i * WARP * CHUNK, bytes);
        }
    }

    __device__ __forceinline__ void clear() {
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
#pragma unroll
            for (u32 n = 0; n < 2 * WARP_PAIRS; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) out[t][n][i] = 0.0f;
#pragma unroll
            for (u32 h = 0; h < 2; h++) max[t][h] = -infinity(), sum[t][h] = 0.0f;
        }
    }

    // One block of keys: `queries` and `stage` are where this block's rows and the keys lie in shared memory.
    template <class Visible>
    __device__ __forceinline__ void step(u32 queries, u32 stage, u32 first_key, Visible visible, float scale_log2) {
        float scores[TILES][BLOCK / 8][4];
        multiply_keys(queries, stage, scores);
        if (first_key + BLOCK > visible.fewest()) mask(first_key, visible, scores);
        soften(scale_log2, scores);
        multiply_values(stage + BLOCK_BYTES, scores);
    }

    // scores = queries · keysᵀ, sums over the head in ascending order.
    __device__ __forceinline__ void multiply_keys(u32 queries, u32 keys, float (&scores)[TILES][BLOCK / 8][4]) {
        const u32 lane = Attention::lane(), r = lane % 8, matrix = lane / 8;
        queries += place(first_row() + matrix % 2 * 8 + r, matrix / 2);
        keys += place(matrix / 2 * 8 + r, matrix % 2);
#pragma unroll
        for (u32 t = 0; t < TILES; t++)
#pragma unroll
            for (u32 n = 0; n < BLOCK / 8; n++)
#pragma unroll
                for (u32 i = 0; i < 4; i++) scores[t][n][i] = 0.0f;
#pragma unroll
        for (u32 k = 0; k < D / 16; k++) {
            u32 a[TILES][4];
#pragma unroll
            for (u32 t = 0; t < TILES; t++) ldmatrix(a[t], along(queries, k) + t * 16 * ROW_BYTES);
#pragma unroll
            for (u32 n = 0; n < BLOCK / 16; n++) {
                u32 b[4];
                ldmatrix(b, along(keys, k) + n * 16 * ROW_BYTES);
                const u32 left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
                for (u32 t = 0; t < TILES; t++) {
                    T::mma(scores[t][2 * n], a[t], left);
                    T::mma(scores[t][2 * n + 1], a[t], right);
                }
            }
        }
    }

    // Scores of keys that a row does not see become -inf, whatever they are.
    template <class Visible>
    __device__ __forceinline__ void mask(u32 first_key, Visible visible, float (&scores)[TILES][BLOCK / 8][4]) {
        const u32 lane = opaque(Attention::lane());
#pragma unroll
        for (u32 t = 0; t < TILES; t++)
#pragma unroll
            for (u32 h = 0; h < 2; h++) {
                // Of the first column of this lane in the block, how many more keys are seen.
                const int left = int(visible.row(first_row() + t * 16 + h * 8 + lane / 4) - first_key - lane % 4 * 2);
#pragma unroll
                for (u32 n = 0; n < BLOCK / 8; n++)
#pragma unroll
                    for (u32 i = 0; i < 2; i++) {
                        float &score = scores[t][n][2 * h + i];
                        score = int(n * 8 + i) < left ? score : -infinity();
                    }
            }
    }

    // Scores become probabilities relative to the rows' new maxima, to which sums and outputs are brought down.
    __device__ __forceinline__ void soften(float scale_log2, float (&scores)[TILES][BLOCK / 8][4]) {
#pragma unroll
        for (u32 t = 0; t < TILES; t++) {
            float factor[2];
#pragma unroll
            for (u32 h = 0; h < 2; h++) {
                float top = max[t][h];
#pragma unroll
                for (u32 n = 0; n < BLOCK / 8; n++) top = fmaxf(top, fmaxf(scores[t][n][2 * h], scores[t][n][2 * h + 1]));
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 1));
                top = fmaxf(top, __shfl_xor_sync(ALL_LANES, top, 2));
                // While a row has seen only -inf there is nothing to subtract: -inf - -inf would be NaN.
                const float base = top == -infinity() ? 0.0f : top;
                factor[h] = exp2_approx((max[t][h] - base) * scale_log2);
                max[t][h] = top;
                const float offset = -base * scale_log2;
                float part = 0.0f;
#pragma unroll
                for (u32 n = 0; n < BLOCK / 8; n++)
#pragma unroll
                    for (u32 i = 2 * h; i < 2 * h + 2; i++) {
                        scores[t][n][i] = exp2_approx(fmaf(scores[t][n][i], scale_log2, offset));
                        part += scores[t][n][i];
                    }
                sum[t][h] = fmaf(sum[t][h], factor[h], part);
            }
            // Maxima rarely move after the first blocks, and times 1 is no change.
            if (!__all_sync(ALL_LANES, factor[0] == 1.0f && factor[1] == 1.0f)) {
#pragma unroll
                for (u32 n = 0; n < 2 * WARP_PAIRS; n++)
#pragma unroll
                    for (u32 i = 0; i < 4; i++) out[t][n][i] *= factor[i / 2];
            }
        }
    }

    // out += probabilities · values, sums over the keys in ascending order.
    __device__ __forceinline__ void multiply_values(u32 values, const float (&p)[TILES][BLOCK / 8][4]) {
        // A warp that shares its rows has the pairs `warp`, `warp + 4`, …
        constexpr u32 STEP = SHARED_ROWS ? WARPS : 1;
        const u32 lane = opaque(Attention::lane()), first = SHARED_ROWS ? warp() : 0;
        values += place(lane % 16, lane / 16 + 2 * first);
#pragma unroll
        for (u32 k = 0; k < BLOCK / 16; k++) {
            // The accumulators of two 8-column tiles of scores are the fragment of a 16×16 left operand.
            u32 a[TILES][4];
#pragma unroll
            for (u32 t = 0; t < TILES; t++)
#pragma unroll
                for (u32 i = 0; i < 4; i++)
                    a[t][i] = T::pack(p[t][2 * k + i / 2][i % 2 * 2], p[t][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
            for (u32 n = 0; n < WARP_PAIRS; n++) {
                if (first + n * STEP >= PAIRS) break;
                u32 b[4];
                ldmatrix_trans(b, along(values, n * STEP) + k * 16 * ROW_BYTES);
                const u32 left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
#pragma unroll
                for (u32 t = 0; t < TILES; t++) {
                    T::mma(out[t][2 * n], a[t], left);
                    T::mma(out[t][2 * n + 1], a[t], right);
                }
            }
        }
    }

    // Walks the keys `first_key..visible.end()`, `first_key` a multiple of BLOCK, of the pages at `visible.table()`. The
    // queries must be on their way, in no committed group. `visible.row(r)` keys are seen by row `r` of this block, at least
    // `visible.fewest()` by every row of this warp, and of the block of keys at `k` some if `visible.any(k)`. Afterwards the
    // stages, and the queries of this warp, are free.
    template <class Visible>
    __device__ __forceinline__ void walk(u32 queries, const Pool &pool, u32 num_kv_heads, u32 kv_head, u32 first_key,
                                         Visible visible, float scale_log2) {
        clear();
        const u32 stages = queries + QUERY_BYTES;
        const auto entry = [&](u32 key) { return pool.tables[visible.table() + key / PAGE + warp() * PAGES / WARPS]; };
        u32 stage = stages;
        load_block(stage, pool, entry(first_key), num_kv_heads, kv_head);
        cp_async_commit();
        for (u32 key = first_key; key < visible.end(); key += BLOCK) {
            const bool more = key + BLOCK < visible.end();
            const u32 next = more ? entry(key + BLOCK) : 0;
            // This block has arrived, and all warps are done with the one before, whose place the next one takes.
            cp_async_wait<0>();
            __syncthreads();
            const u32 other = 2 * stages + 2 * BLOCK_BYTES - stage;
            if (more) {
                load_block(other, pool, next, num_kv_heads, kv_head);
                cp_async_commit();
            }
            if (visible.any(key)) step(queries, stage, key, visible, scale_log2);
            stage = other;
        }
#pragma unroll
        for (u32 t = 0; t < TILES; t++)
#pragma unroll
            for (u32 h = 0; h < 2; h++) {
                sum[t][h] += __shfl_xor_sync(ALL_LANES, sum[t][h], 1);
                sum[t][h] += __shfl_xor_sync(ALL_LANES, sum[t][h], 2);
            }
        __syncwarp();
    }

    static constexpr u32 SHARED_BYTES = QUERY_BYTES + 4 * BLOCK_BYTES;
    static_assert(SHARED_BYTES <= 99 * 1024, "more than compute capability 8.6 has");
};
