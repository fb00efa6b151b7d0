// Rows by index: of activations (`gather_rows`), and of the token table (`embedding`). Elements are moved as they are, so
// one kernel serves every 16-bit type, and `f32` as two elements.
//
// Floor: bytes. An element is read once and written once, 4 bytes, 8 of `f32`; nothing is computed.
// Shape: one thread per 16 bytes of the output, row after row, so that no thread idles whatever the row's length; a warp
// moves 512 bytes at once. The index of the row is one word that the threads of a row share.
//
// budget: registers 32
// sass: LDG.E.128 STG.E.128
#include "chunk.cuh"

constexpr u32 THREADS = 256;

// `to[r] = from[ids[r]]`, rows of `cols` elements that are `stride` apart, a multiple of 8.
extern "C" __global__ void __launch_bounds__(THREADS)
    gather_rows(const u16 *from, const u32 *ids, u16 *to, u32 rows, u32 cols, u32 stride) {
    const Piece at = piece(rows, cols);
    if (!at.inside) return;
    const u16 *const source = from + u64(ids[at.row]) * stride + at.col;
    u16 *const target = to + u64(at.row) * stride + at.col;
    if (at.whole) {
        *reinterpret_cast<uint4 *>(target) = *reinterpret_cast<const uint4 *>(source);
    } else {
        for (u32 i = 0; i < at.count; i++) target[i] = source[i];
    }
}
