// Ids of tokens, some of which the step before has sampled: those are words of its answers, which the host has not seen.
//
// Floor: a launch. 12 bytes an id.
// Shape: one thread an id.
//
// budget: registers 32
#include "ptx.cuh"

constexpr u32 THREADS = 256;
// Marks an id that is the number of a word.
constexpr u32 SAMPLED = 1u << 31;

// `ids`, `out: [rows]`, `answers: [words]`. What is no token, because the logits were not finite, becomes token 0: the host
// will refuse these answers, and until then nothing may be read outside the table.
extern "C" __global__ void __launch_bounds__(THREADS)
    sampled_ids(const u32 *ids, const u32 *answers, u32 *out, u32 rows, u32 words, u32 vocab) {
    const u32 row = blockIdx.x * THREADS + threadIdx.x;
    if (row >= rows) return;
    u32 id = ids[row];
    if (id & SAMPLED) {
        const u32 word = id & ~SAMPLED;
        id = word < words ? answers[word] : vocab;
    }
    out[row] = id < vocab ? id : 0;
}
