// Rotary position embedding (arXiv 2104.09864, half-split pairs as in GPT-NeoX) on packed QKV, and in the same pass the write
// of keys and values into the paged cache.
//
// Floor: bytes. Queries and keys are read and written in place, values read, keys and values written to the cache:
// 4 bytes an element of q, 6 of k, 4 of v, and 4 * head_dim of the table a row, which its heads share in the caches.
// Shape: one thread per 8 pairs, that is 16 bytes of the first half of a head and 16 of the second, row after row and head
// after head, so that a warp reads two runs of up to 512 bytes; values are moved in the same pieces. Where half a head is no
// multiple of 8, pairs go one by one.
//
// budget: registers 56
// sass: LDG.E.128 STG.E.128
#include "chunk.cuh"

constexpr u32 THREADS = 256;
// Tokens of a page, and the slot that is not written (PAGE_SIZE and NO_SLOT in backend.rs).
constexpr u32 PAGE = 16;
constexpr u32 NO_SLOT = 0xffffffffu;

__device__ __forceinline__ void load_angles(const float *p, u32 count, bool whole, float (&x)[CHUNK]) {
    if (whole) {
        const float4 a = reinterpret_cast<const float4 *>(p)[0], b = reinterpret_cast<const float4 *>(p)[1];
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
        x[4] = b.x, x[5] = b.y, x[6] = b.z, x[7] = b.w;
    } else {
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++) x[i] = i < count ? p[i] : 0.0f;
    }
}

// `qkv: [rows, (num_heads + 2 * num_kv_heads) * 2 * half]`, rows `stride` apart, a multiple of 8; `table`: rows
// `[cos: half | sin: half]`, `table_stride` apart, a multiple of 4; `keys`, `values`: `[page][kv head][PAGE][2 * half]`.
template <class T>
__device__ __forceinline__ void rotary_store_kv(u16 *qkv, const float *table, const u32 *rotary_rows,
                                                const u32 *slot_mapping, u16 *keys, u16 *values, u32 rows, u32 num_heads,
                                                u32 num_kv_heads, u32 half, u32 stride, u32 table_stride) {
    const u32 per_head = (half + CHUNK - 1) / CHUNK, heads = num_heads + 2 * num_kv_heads;
    const u32 index = blockIdx.x * THREADS + threadIdx.x;
    const u32 row = index / (heads * per_head);
    if (row >= rows) return;
    const u32 unit = index - row * heads * per_head;
    const u32 head = unit / per_head;
    const u32 col = (unit - head * per_head) * CHUNK;
    const u32 count = half - col;
    const bool whole = half % CHUNK == 0;
    u16 *const first = qkv + u64(row) * stride + head * 2 * half + col;
    float a[CHUNK], b[CHUNK];
    load_chunk<T>(first, count, whole, a);
    load_chunk<T>(first + half, count, whole, b);
    const bool is_value = head >= num_heads + num_kv_heads;
    if (!is_value) {
        const float *const angles = table + u64(rotary_rows[row]) * table_stride + col;
        float cos[CHUNK], sin[CHUNK];
        load_angles(angles, count, whole, cos);
        load_angles(angles + half, count, whole, sin);
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++) {
            const float x = a[i], y = b[i];
            a[i] = x * cos[i] - y * sin[i];
            b[i] = y * cos[i] + x * sin[i];
        }
        store_chunk<T>(first, count, whole, a);
        store_chunk<T>(first + half, count, whole, b);
    }
    if (head < num_heads) return;
    const u32 slot = slot_mapping[row];
    if (slot == NO_SLOT) return;
    const u32 kv_head = is_value ? head - num_heads - num_kv_heads : head - num_heads;
    const u64 token = (u64(slot / PAGE) * num_kv_heads + kv_head) * PAGE + slot % PAGE;
    u16 *const place = (is_value ? values : keys) + token * 2 * half + col;
    store_chunk<T>(place, count, whole, a);
    store_chunk<T>(place + half, count, whole, b);
}

#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS) rotary_store_kv_##NAME(                                      \
        u16 *qkv, const float *table, const u32 *rotary_rows, const u32 *slot_mapping, u16 *keys, u16 *values,         \
        u32 rows, u32 num_heads, u32 num_kv_heads, u32 half, u32 stride, u32 table_stride) {                           \
        rotary_store_kv<T>(qkv, table, rotary_rows, slot_mapping, keys, values, rows, num_heads, num_kv_heads, half,   \
                           stride, table_stride);                                                                      \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
