#!/usr/bin/env python3
"""Times PyTorch's kernels on the problems of our benchmark, on the same GPU: cuBLAS for products, SDPA for attention.

    torch_kernels.py BENCH_JSON      # what `oc-cli bench-kernels --device cuda --json` wrote, minutes ago

Times are medians of CUDA graphs over inputs and outputs that together fill 256 MB, as ours are. SDPA has no paged cache
and no shared prefix: it gets contiguous keys and values, already expanded to whole sequences; its fastest backend counts.
"""

import json
import re
import statistics
import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

COLD_BYTES = 256e6
LAPS = 20


def median_micros(make, run, num_bytes):
    """Median microseconds of `run(make())` over as many inputs as are needed to leave the caches."""
    copies = min(256, int(COLD_BYTES // max(num_bytes, 1)) + 1)
    inputs = [make() for _ in range(copies)]
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for item in inputs:
            run(item)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        outputs = [run(item) for item in inputs]
    laps = []
    for _ in range(LAPS + 1):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        torch.cuda.synchronize()
        laps.append(start.elapsed_time(end) * 1e3 / copies)
    del outputs
    return statistics.median(laps[1:])


def linear(shape, dtype):
    """`1×4096×6144 BF16`: `residual + x W^T + b`, which ours does in one kernel; here the product alone."""
    match = re.match(r"(\d+)×(\d+)×(\d+) ", shape)
    if match is None:
        return None
    rows, inner, cols = map(int, match.groups())

    def make():
        x = torch.randn(rows, inner, device="cuda", dtype=dtype)
        return x, torch.randn(cols, inner, device="cuda", dtype=dtype)

    micros = median_micros(make, lambda item: F.linear(*item), 2 * (inner * cols + rows * (inner + cols)))
    return micros, "cuBLAS, without bias and residual"


def attention(shape, dtype):
    """`32/8×128 64×1@1200`: 64 sequences, 1 new token each, in contexts of 1200."""
    match = re.match(r"(\d+)/(\d+)×(\d+) (\d+)×(\d+)@(\d+)", shape)
    if match is None:
        return None
    heads, kv_heads, dim, seqs, new, context = map(int, match.groups())

    def make():
        def random(num_heads, length):
            return torch.randn(seqs, num_heads, length, dim, device="cuda", dtype=dtype)

        return random(heads, new), random(kv_heads, context), random(kv_heads, context)

    # The new tokens are the last of the context. SDPA's own `is_causal` means that only where the two are equal.
    is_causal, mask = new == context and new > 1, None
    if 1 < new < context:
        mask = torch.ones(new, context, dtype=torch.bool, device="cuda").tril(context - new)

    def run(item):
        return F.scaled_dot_product_attention(*item, attn_mask=mask, is_causal=is_causal, enable_gqa=heads != kv_heads)

    num_bytes = 2 * seqs * dim * (2 * kv_heads * context + 2 * heads * new)
    best = None
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION, SDPBackend.EFFICIENT_ATTENTION):
        try:
            with sdpa_kernel(backend):
                micros = median_micros(make, run, num_bytes)
        except RuntimeError:  # this backend does not take this problem
            torch.cuda.synchronize()
            continue
        if best is None or micros < best[0]:
            best = (micros, backend.name)
    return best


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with open(sys.argv[1], encoding="utf-8") as file:
        ours = json.load(file)
    name = torch.cuda.get_device_name()
    print(f"{name}, PyTorch {torch.__version__}, CUDA {torch.version.cuda}, {ours['dtype']}")
    if name != ours["device"]:
        print(f"warning: {sys.argv[1]} is of another GPU: {ours['device']}", file=sys.stderr)
    dtype = {"bf16": torch.bfloat16, "f16": torch.float16}[ours["dtype"]]
    print(f"{'operation':<10} {'shape':<32} {'oc µs':>10} {'torch µs':>10}  {'torch/oc':>8}  torch's kernel")
    for row in ours["rows"]:
        time_peer = {"linear": linear, "attention": attention}.get(row["op"])
        if time_peer is None or "micros" not in row:
            continue
        found = time_peer(row["shape"], dtype)
        torch.cuda.empty_cache()
        if found is None:
            continue
        micros, kernel = found
        print(
            f"{row['op']:<10} {row['shape']:<32} {row['micros']:>10.1f} {micros:>10.1f}  "
            f"{micros / row['micros']:>8.2f}  {kernel}"
        )


if __name__ == "__main__":
    main()
