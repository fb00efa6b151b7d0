// The kernels of one head size: `attention_prompt_<type>`, `attention_narrow_<type>`, `attention_wide_<type>`.
#pragma once
#include "attention_decode.cuh"
#include "attention_prompt.cuh"

// `TILES`: 16-row tiles a warp owns where each has rows of its own. `BLOCKS`: blocks an SM that registers must allow.
#define ATTENTION_OF(NAME, T, D, TILES, BLOCKS)                                                                        \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_prompt_##NAME(                             \
        const u16 *qkv, u16 *out, const u16 *keys, const u16 *values, const u32 *tables, const Tile *tiles,            \
        u32 num_kv_heads, u32 group, u32 qkv_stride, u32 out_stride, float scale_log2) {                               \
        attention_prompt<T, D, TILES>(qkv, out, {keys, values, tables}, tiles, num_kv_heads, group, qkv_stride,        \
                                      out_stride, scale_log2);                                                         \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, 3) attention_narrow_##NAME(                                  \
        const u16 *qkv, float *partial_out, float2 *partial_stats, const u16 *keys, const u16 *values,                 \
        const u32 *tables, const uint4 *items, const Member *members, u32 num_kv_heads, u32 group, u32 qkv_stride,     \
        float scale_log2) {                                                                                            \
        attention_decode<T, D, 1, true>(qkv, partial_out, partial_stats, {keys, values, tables}, items, members,       \
                                        num_kv_heads, group, qkv_stride, scale_log2);                                  \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) attention_wide_##NAME(                               \
        const u16 *qkv, float *partial_out, float2 *partial_stats, const u16 *keys, const u16 *values,                 \
        const u32 *tables, const uint4 *items, const Member *members, u32 num_kv_heads, u32 group, u32 qkv_stride,     \
        float scale_log2) {                                                                                            \
        attention_decode<T, D, TILES, false>(qkv, partial_out, partial_stats, {keys, values, tables}, items, members,  \
                                             num_kv_heads, group, qkv_stride, scale_log2);                             \
    }
#define ATTENTION(D, TILES, BLOCKS) ATTENTION_OF(bf16, Bf16, D, TILES, BLOCKS) ATTENTION_OF(f16, F16, D, TILES, BLOCKS)
