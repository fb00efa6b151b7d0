// One token for each row of logits: temperature, then top-k, then top-p, then a draw, as in HF transformers.
//
// Floor: bytes. 4 an element, read once from memory. Every further pass over a row of up to 600 KB reads L2: 4 passes where
// nothing is cut off, 17 more to find the cut of top-k and as many for top-p.
// Shape: one block of 1024 threads a row, 16 bytes a thread and step. A cut is found two bits a pass: the largest key from
// which on enough tokens, or enough probability, lie above. For the draw each warp sums a run of the vocabulary; then one
// warp walks through the run in which the draw falls. One block an SM is enough (there are few rows), and said, so that the
// assembler does not spill for a second one.
//
// budget: registers 64, shared 1152
// sass: LDG.E.128
#include "vocab.cuh"

// How to choose in one row.
struct How {
    // log2(e) / temperature
    float scale;
    // Most tokens to keep; 0 keeps all.
    u32 top_k;
    // Probability to keep in units of 2^-64; 0 keeps all.
    u64 top_p;
    // The random number in [0, 1) in units of 2^-64.
    u64 draw;
};

// The tokens that may be drawn: all with a key above `key`, and the first `ties` ids with that key itself.
struct Cut {
    u32 key, ties;
};

// The largest key for which the sum of `measure(logit)` over the logits from that key on is at least `enough`.
template <class F>
__device__ __forceinline__ u32 largest_key(const float *row, u32 vocab, u64 enough, Scratch &scratch, F measure) {
    u32 key = 0;
    for (int shift = 30; shift >= 0; shift -= 2) {
        u64 sums[3] = {0, 0, 0};
        each_logit(row, vocab, [&](float logit, u32) {
            const u32 own = key_of(logit);
            const u64 weight = measure(logit);
#pragma unroll
            for (u32 i = 0; i < 3; i++) sums[i] += own >= (key | (i + 1) << shift) ? weight : 0;
        });
        block_reduce<Sum>(sums, scratch);
        // They fall as keys rise.
        key |= u32((sums[0] >= enough) + (sums[1] >= enough) + (sums[2] >= enough)) << shift;
    }
    return key;
}

// The sum of `measure(logit)` over the logits above `key`.
template <class F>
__device__ __forceinline__ u64 sum_above(const float *row, u32 vocab, u32 key, Scratch &scratch, F measure) {
    u64 sum[1] = {0};
    each_logit(row, vocab, [&](float logit, u32) { sum[0] += key_of(logit) > key ? measure(logit) : 0; });
    block_reduce<Sum>(sum, scratch);
    return sum[0];
}

// `logits: [gridDim.x, vocab]`, rows `stride` apart, a multiple of 4; `how`, `out: [gridDim.x]`.
extern "C" __global__ void __launch_bounds__(THREADS, 1)
    sample(const float *logits, const How *how, Chosen *out, u32 vocab, u32 stride) {
    __shared__ Scratch scratch;
    __shared__ u64 run_sum[WARPS];
    __shared__ u32 run_ties[WARPS];
    const float *const row = logits + u64(blockIdx.x) * stride;
    const float scale = how[blockIdx.x].scale;
    const u32 best = u32(first_maximum(row, vocab, scratch) >> 32);
    if (!is_finite(best)) {
        if (threadIdx.x == 0) out[blockIdx.x] = {0, 0, 0.0f, 0, 0};
        return;
    }
    const float max = logit_of(best);
    const u64 sum = sum_of_weights(row, vocab, max, scratch);
    const auto one = [](float) { return u64(1); };
    const auto weight = [&](float logit) { return weight_of(logit, max, scale); };

    // No logit has the key 0.
    Cut cut = {0, 0};
    const u32 top_k = how[blockIdx.x].top_k;
    if (top_k > 0 && top_k < vocab) {
        cut.key = largest_key(row, vocab, top_k, scratch, one);
        cut.ties = top_k - u32(sum_above(row, vocab, cut.key, scratch, one));
    }
    u64 above = sum_above(row, vocab, cut.key, scratch, weight);
    u64 tie = cut.ties > 0 ? weight(logit_of(cut.key)) : 0;
    const u64 top_p = how[blockIdx.x].top_p;
    if (top_p > 0) {
        const u64 total = above + cut.ties * tie;
        // Rounded up; at least one token stays. A key whose tokens weigh nothing is never enough.
        const u64 enough = Max::join(__umul64hi(total, top_p) + (total * top_p != 0), 1);
        cut.key = largest_key(row, vocab, enough, scratch, weight);
        above = sum_above(row, vocab, cut.key, scratch, weight);
        tie = weight(logit_of(cut.key));
        cut.ties = u32((enough - above + tie - 1) / tie);
    }
    const u64 total = above + cut.ties * tie;

    const u32 warp = threadIdx.x / WARP, lane = threadIdx.x % WARP;
    const u32 run = (vocab + THREADS - 1) / THREADS * WARP;
    u64 own_above = 0;
    u32 own_ties = 0;
    for (u32 id = warp * run + lane; id < vocab && id < (warp + 1) * run; id += WARP) {
        const u32 key = key_of(row[id]);
        if (key > cut.key) own_above += weight(row[id]);
        own_ties += key == cut.key;
    }
    own_above = warp_reduce<Sum>(own_above);
    own_ties = u32(warp_reduce<Sum>(own_ties));
    if (lane == 0) {
        run_sum[warp] = own_above;
        run_ties[warp] = own_ties;
    }
    __syncthreads();
    // Which run the draw falls in, what of it is left there, and how many ties may still be drawn.
    u64 rest = __umul64hi(how[blockIdx.x].draw, total);
    u32 ties_left = cut.ties, chosen = 0;
    for (; chosen < WARPS - 1; chosen++) {
        const u32 own = run_ties[chosen] < ties_left ? run_ties[chosen] : ties_left;
        const u64 here = run_sum[chosen] + own * tie;
        if (rest < here) break;
        rest -= here;
        ties_left -= own;
    }
    if (warp != chosen) return;
    for (u32 first = warp * run; first < vocab; first += WARP) {
        const u32 id = first + lane;
        const float logit = id < vocab ? row[id] : 0.0f;
        const u32 key = id < vocab ? key_of(logit) : 0;
        const bool is_tie = id < vocab && key == cut.key;
        const u32 tied = __ballot_sync(ALL_LANES, is_tie);
        const bool may = id < vocab && (key > cut.key || (is_tie && __popc(tied & ((1u << lane) - 1)) < ties_left));
        // The weights up to this lane.
        u64 upto = may ? weight(logit) : 0;
#pragma unroll
        for (u32 lanes = 1; lanes < WARP; lanes *= 2) {
            const u64 before = __shfl_up_sync(ALL_LANES, upto, lanes);
            if (lane >= lanes) upto += before;
        }
        const u32 reached = __ballot_sync(ALL_LANES, rest < upto);
        if (reached != 0) {
            if (lane == __ffs(reached) - 1) out[blockIdx.x] = {id, 1, logit - max, 0, sum};
            return;
        }
        rest -= __shfl_sync(ALL_LANES, upto, WARP - 1);
        const u32 own = __popc(tied);
        ties_left -= own < ties_left ? own : ties_left;
    }
}
