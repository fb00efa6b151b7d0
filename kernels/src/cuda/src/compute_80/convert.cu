// Activations to the residual stream, which is `f32`, and back: `out = x`, rounded where `out` has 16 bits.
//
// Floor: bytes. One is read and the other written: 6 bytes an element.
// Shape: one thread per four elements, row after row: 16 bytes of one, 8 of the other.
//
// budget: registers 32
// sass widen_*: LDG.E.64 STG.E.128
// sass narrow_*: LDG.E.128 STG.E.64
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// Rows of `cols` elements that are `stride` apart, a multiple of 8.
#define KERNELS(NAME, T)                                                                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        widen_##NAME(const u16 *x, float *out, u32 rows, u32 cols, u32 stride) {                                       \
        const Piece at = piece<QUAD>(rows, cols);                                                                      \
        if (!at.inside) return;                                                                                        \
        const u64 offset = u64(at.row) * stride + at.col;                                                              \
        float v[QUAD];                                                                                                 \
        load_chunk<T>(x + offset, at.count, at.whole, v);                                                              \
        store_chunk(out + offset, at.count, at.whole, v);                                                              \
    }                                                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        narrow_##NAME(const float *x, u16 *out, u32 rows, u32 cols, u32 stride) {                                      \
        const Piece at = piece<QUAD>(rows, cols);                                                                      \
        if (!at.inside) return;                                                                                        \
        const u64 offset = u64(at.row) * stride + at.col;                                                              \
        float v[QUAD];                                                                                                 \
        load_chunk(x + offset, at.count, at.whole, v);                                                                 \
        store_chunk<T>(out + offset, at.count, at.whole, v);                                                           \
    }
KERNELS(bf16, Bf16)
KERNELS(f16, F16)
