// Rows in pieces of eight or four elements, as so many `f32`: 16 bytes of 16-bit elements, or of the residual stream, which is
// `f32`. A piece that is not aligned, or that the end of the row cuts off, is moved element by element; what is behind the row is
// neither read nor written.
#pragma once

#include "ptx.cuh"

// 16-bit elements in 16 bytes, and `f32` ones.
constexpr u32 CHUNK = 8, QUAD = 4;

template <class T> __device__ __forceinline__ void unpack(uint4 v, float (&x)[CHUNK]) {
    const u32 pairs[CHUNK / 2] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (u32 i = 0; i < CHUNK / 2; i++) {
        x[2 * i] = T::low(pairs[i]);
        x[2 * i + 1] = T::high(pairs[i]);
    }
}

template <class T> __device__ __forceinline__ uint4 pack(const float (&x)[CHUNK]) {
    u32 pairs[CHUNK / 2];
#pragma unroll
    for (u32 i = 0; i < CHUNK / 2; i++) pairs[i] = T::pack(x[2 * i], x[2 * i + 1]);
    return make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
}

// The first `count` elements from `p` on, zeros behind them; `whole`: all of them, aligned.
template <class T> __device__ __forceinline__ void load_chunk(const u16 *p, u32 count, bool whole, float (&x)[CHUNK]) {
    if (whole) {
        unpack<T>(*reinterpret_cast<const uint4 *>(p), x);
    } else {
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++) x[i] = i < count ? T::to_f32(p[i]) : 0.0f;
    }
}

template <class T> __device__ __forceinline__ void store_chunk(u16 *p, u32 count, bool whole, const float (&x)[CHUNK]) {
    if (whole) {
        *reinterpret_cast<uint4 *>(p) = pack<T>(x);
    } else {
#pragma unroll
        for (u32 i = 0; i < CHUNK; i++)
            if (i < count) p[i] = T::from_f32(x[i]);
    }
}

template <class T> __device__ __forceinline__ void load_chunk(const u16 *p, u32 count, bool whole, float (&x)[QUAD]) {
    if (whole) {
        const uint2 v = *reinterpret_cast<const uint2 *>(p);
        x[0] = T::low(v.x), x[1] = T::high(v.x), x[2] = T::low(v.y), x[3] = T::high(v.y);
    } else {
#pragma unroll
        for (u32 i = 0; i < QUAD; i++) x[i] = i < count ? T::to_f32(p[i]) : 0.0f;
    }
}

template <class T> __device__ __forceinline__ void store_chunk(u16 *p, u32 count, bool whole, const float (&x)[QUAD]) {
    if (whole) {
        *reinterpret_cast<uint2 *>(p) = make_uint2(T::pack(x[0], x[1]), T::pack(x[2], x[3]));
    } else {
#pragma unroll
        for (u32 i = 0; i < QUAD; i++)
            if (i < count) p[i] = T::from_f32(x[i]);
    }
}

template <u32 N> __device__ __forceinline__ void load_chunk(const float *p, u32 count, bool whole, float (&x)[N]) {
    if (whole) {
#pragma unroll
        for (u32 i = 0; i < N; i += QUAD) {
            const float4 v = *reinterpret_cast<const float4 *>(p + i);
            x[i] = v.x, x[i + 1] = v.y, x[i + 2] = v.z, x[i + 3] = v.w;
        }
    } else {
#pragma unroll
        for (u32 i = 0; i < N; i++) x[i] = i < count ? p[i] : 0.0f;
    }
}

// By quads only: of two stores a lane, each would fill half of every sector.
__device__ __forceinline__ void store_chunk(float *p, u32 count, bool whole, const float (&x)[QUAD]) {
    if (whole) {
        *reinterpret_cast<float4 *>(p) = make_float4(x[0], x[1], x[2], x[3]);
    } else {
#pragma unroll
        for (u32 i = 0; i < QUAD; i++)
            if (i < count) p[i] = x[i];
    }
}

// ---- one thread per piece of a matrix, row after row ----------------------------------------------------------------

// Where this thread works.
struct Piece {
    u32 row, col, count;
    bool inside, whole;
};

// The piece of N elements of this thread in a matrix of `rows` rows of `cols` elements, in blocks of one dimension.
template <u32 N = CHUNK> __device__ __forceinline__ Piece piece(u32 rows, u32 cols) {
    const u32 per_row = (cols + N - 1) / N;
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    Piece at;
    at.row = index / per_row;
    at.col = (index - at.row * per_row) * N;
    at.count = cols - at.col;
    at.inside = at.row < rows;
    at.whole = at.count >= N;
    return at;
}
