// Activation functions of one `f32`, each to about 1e-6 relative, NaN and infinities as in torch.
#pragma once

#include "ptx.cuh"

constexpr float LOG2_E = 1.44269504f;

// `x / (1 + e^-x)`
__device__ __forceinline__ float silu(float x) { return x * rcp_approx(1.0f + exp2_approx(-LOG2_E * x)); }

// `x * erfc(-x / sqrt(2)) / 2`, which is `x * (1 + erf(x / sqrt(2))) / 2` without the cancellation at negative x.
//
// erfc(z) = t * P(t) * e^(-z^2) with t = 1 / (1 + 0.38 z); P is a Chebyshev fit on t in [0.15, 1], to 3.4e-8 relative. The
// same function as in the CPU backend (cpu/activate.rs).
__device__ __forceinline__ float gelu(float x) {
    // Beyond 20 the tail is 0 in every type.
    const float a = fminf(fabsf(x), 20.0f);
    const float t = rcp_approx(fmaf(0.38f * 0.707106781f, a, 1.0f));
    float p = 5.829473390e-2f;
    p = fmaf(p, t, -2.591508597e-1f);
    p = fmaf(p, t, 3.577166352e-1f);
    p = fmaf(p, t, -1.548489546e-1f);
    p = fmaf(p, t, 2.257856650e-1f);
    p = fmaf(p, t, 1.402997669e-1f);
    p = fmaf(p, t, 2.035288453e-1f);
    p = fmaf(p, t, 2.139655032e-1f);
    p = fmaf(p, t, 2.144086791e-1f);
    // The square with what its rounding left over: the exponent would magnify it.
    const float square = a * a, rest = fmaf(a, a, -square);
    const float e = exp2_approx(-0.5f * LOG2_E * square);
    const float tail = 0.5f * t * p * fmaf(-0.5f * rest, e, e);
    return x * (x < 0.0f ? tail : 1.0f - tail);
}

// Not `fmaxf`, which loses a NaN.
__device__ __forceinline__ float relu(float x) { return x < 0.0f ? 0.0f : x; }
