// Rows of 16-bit elements in pieces of 16 bytes, as eight `f32`. A piece that is not aligned, or that the end of the row cuts
// off, is moved element by element; what is behind the row is neither read nor written.
#pragma once

#include "ptx.cuh"

// Elements in 16 bytes.
constexpr u32 CHUNK = 8;

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

// The first `count` elements from `p` on, zeros behind them; `whole`: all eight, aligned to 16 bytes.
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

// ---- one thread per piece of a matrix, row after row ----------------------------------------------------------------

// Where this thread works.
struct Piece {
    u32 row, col, count;
    bool inside, whole;
};

// The piece of this thread in a matrix of `rows` rows of `cols` elements, in blocks of one dimension.
__device__ __forceinline__ Piece piece(u32 rows, u32 cols) {
    const u32 per_row = (cols + CHUNK - 1) / CHUNK;
    const u32 index = blockIdx.x * blockDim.x + threadIdx.x;
    Piece at;
    at.row = index / per_row;
    at.col = (index - at.row * per_row) * CHUNK;
    at.count = cols - at.col;
    at.inside = at.row < rows;
    at.whole = at.count >= CHUNK;
    return at;
}
