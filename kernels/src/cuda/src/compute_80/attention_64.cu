// Attention with heads of 64 elements. Floors, shapes and reasons: attention_prompt.cuh, attention_decode.cuh.
//
// budget: registers 255, shared 49736
// budget attention_narrow_*: registers 128, shared 34816
// sass: LDSM LDGSTS.E.BYPASS.128 HMMA.16816
#include "attention_kernels.cuh"

ATTENTION(64, 2, 2)
