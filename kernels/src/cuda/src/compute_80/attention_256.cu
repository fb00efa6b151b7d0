// Attention with heads of 256 elements. Floors, shapes and reasons: attention_prompt.cuh, attention_decode.cuh.
//
// budget: registers 255, shared 98632
// budget attention_narrow_*: registers 128, shared 73728
// sass: LDSM LDGSTS.E.BYPASS.128 HMMA.16816
#include "attention_kernels.cuh"

ATTENTION(256, 1, 2)
