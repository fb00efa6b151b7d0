// The first maximum of each row of logits, and its log-probability.
//
// Floor: bytes. 4 an element; the second pass reads the row from L2.
// Shape: one block of 1024 threads a row, 16 bytes a thread and step; keys carry their ids, so that one reduction finds the
// first of several maxima.
//
// budget: registers 64, shared 768
// sass: LDG.E.128
#include "vocab.cuh"

// `logits: [gridDim.x, vocab]`, rows `stride` apart, a multiple of 4; `out: [gridDim.x]`.
extern "C" __global__ void __launch_bounds__(THREADS) argmax(const float *logits, Chosen *out, u32 vocab, u32 stride) {
    __shared__ Scratch scratch;
    const float *const row = logits + u64(blockIdx.x) * stride;
    const u64 best = first_maximum(row, vocab, scratch);
    const u32 key = u32(best >> 32);
    const u64 sum = is_finite(key) ? sum_of_weights(row, vocab, logit_of(key), scratch) : 0;
    if (threadIdx.x == 0) out[blockIdx.x] = {~u32(best), u32(is_finite(key)), 0.0f, 0, sum};
}
