// Joins the ranges that `attention_decode.cuh` attended to on their own, in ascending order: the last step of attention of
// generated tokens.
//
// Floor: bytes. A row of D elements reads 4 · (D + 2) bytes a range and writes 2 · D.
// Shape: a thread has four columns of a row (token and head) over all its ranges, so that a warp reads 512 bytes at once; the
// maxima and sums, 8 bytes a range, come from L1 for all but the first of the row's threads. No thread waits for another.
//
// budget: registers 48
// sass: LDG.E.128 STG.E.64 MUFU.EX2
#include "ptx.cuh"

constexpr u32 THREADS = 128;
// Columns of a thread.
constexpr u32 COLUMNS = 4;

// See attention_decode.cuh. The ranges of member `i` are the slots from its own to that of member `i + 1`; one without any
// stands for no sequence, and its row becomes zeros.
struct Member {
    u32 token, slot;
};

// `out: [tokens, out_stride]`, of which the rows of the members are written.
template <class T>
__device__ __forceinline__ void attention_merge(const float *partial_out, const float2 *partial_stats, u16 *out,
                                                const Member *members, u32 num_members, u32 num_heads, u32 head_dim,
                                                u32 out_stride, float scale_log2) {
    const u32 lanes = num_heads * (head_dim / COLUMNS);
    const u64 thread = u64(blockIdx.x) * THREADS + threadIdx.x;
    const u32 index = u32(thread / lanes), lane = u32(thread % lanes);
    if (index >= num_members) return;
    const Member member = members[index];
    const u32 ranges = members[index + 1].slot - member.slot;
    const u32 head = lane / (head_dim / COLUMNS), column = lane % (head_dim / COLUMNS) * COLUMNS;
    const u64 first = u64(member.slot) * num_heads + head;
    const float2 *const stats = partial_stats + first;
    const float *const part = partial_out + first * head_dim + column;

    float top = -infinity();
    for (u32 i = 0; i < ranges; i++) top = fmaxf(top, stats[u64(i) * num_heads].x);
    // Where all scores are -inf or NaN there is nothing to subtract.
    const float base = top == -infinity() ? 0.0f : top;
    float sum = 0.0f, y[COLUMNS] = {0.0f, 0.0f, 0.0f, 0.0f};
    for (u32 i = 0; i < ranges; i++) {
        const float2 range = stats[u64(i) * num_heads];
        const float4 x = *reinterpret_cast<const float4 *>(part + u64(i) * num_heads * head_dim);
        const float factor = exp2_approx((range.x - base) * scale_log2);
        sum = fmaf(range.y, factor, sum);
        y[0] = fmaf(x.x, factor, y[0]);
        y[1] = fmaf(x.y, factor, y[1]);
        y[2] = fmaf(x.z, factor, y[2]);
        y[3] = fmaf(x.w, factor, y[3]);
    }
    const float scale = ranges == 0 ? 0.0f : 1.0f / sum;
    // Plus 0: a zero has one sign whichever way it came about.
    const uint2 pairs = make_uint2(T::pack(y[0] * scale + 0.0f, y[1] * scale + 0.0f),
                                   T::pack(y[2] * scale + 0.0f, y[3] * scale + 0.0f));
    *reinterpret_cast<uint2 *>(out + u64(member.token) * out_stride + head * head_dim + column) = pairs;
}

#define KERNEL(NAME, T)                                                                                                \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        attention_merge_##NAME(const float *partial_out, const float2 *partial_stats, u16 *out, const Member *members, \
                               u32 num_members, u32 num_heads, u32 head_dim, u32 out_stride, float scale_log2) {       \
        attention_merge<T>(partial_out, partial_stats, out, members, num_members, num_heads, head_dim, out_stride,     \
                           scale_log2);                                                                                \
    }
KERNEL(bf16, Bf16)
KERNEL(f16, F16)
