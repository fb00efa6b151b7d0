// Pages of the KV cache to other pages, over all layers, keys and values.
//
// Floor: bytes. An element is read once and written once, 4 bytes.
// Shape: one thread per 16 bytes of a page, blocks over (piece of the page, layer and keys or values, pair of pages). A page
// of a layer is one run of `num_kv_heads * 16 * head_dim` elements, a multiple of 16 bytes.
//
// budget: registers 32
// sass: LDG.E.128 STG.E.128
#include "ptx.cuh"

constexpr u32 THREADS = 256;

// Copies page `pairs[2i]` to page `pairs[2i + 1]` in each of `gridDim.y` planes of `plane_chunks` pieces of 16 bytes.
extern "C" __global__ void __launch_bounds__(THREADS)
    copy_pages(uint4 *pool, const u32 *pairs, u32 page_chunks, u64 plane_chunks) {
    const u32 chunk = blockIdx.x * THREADS + threadIdx.x;
    if (chunk >= page_chunks) return;
    uint4 *const plane = pool + blockIdx.y * plane_chunks + chunk;
    const u64 from = pairs[2 * blockIdx.z], to = pairs[2 * blockIdx.z + 1];
    plane[to * page_chunks] = plane[from * page_chunks];
}
